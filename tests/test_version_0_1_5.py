"""Programs written for haiku-mup 0.1.5, as its README has them, run on this version."""
import functools

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from haiku_mup import Mup, Readout, SharedEmbed, SharedReadout, apply_mup, get_shapes

KEY = jax.random.PRNGKey(0)


class MyModel(hk.Module):
    def __init__(self, width, n_classes=10):
        super().__init__(name="model")
        self.width = width
        self.n_classes = n_classes

    def __call__(self, x):
        x = hk.Linear(self.width)(x)
        x = jax.nn.relu(x)
        return Readout(2)(x)


def fn(x, width=100):
    with apply_mup():
        return MyModel(width)(x)


def test_the_readmes_program():
    """Where that program says hk.init(fn, …), which Haiku never had, this one says base_model.init(…)."""
    mup = Mup()
    init_input = jnp.zeros(123)
    base_model = hk.transform(functools.partial(fn, width=1))

    with mup.init_base():
        base_model.init(KEY, init_input)

    model = hk.transform(fn)

    with mup.init_target():
        params = model.init(KEY, init_input)

    model = mup.wrap_model(model)

    optimizer = optax.adam(3e-4)
    optimizer = mup.wrap_optimizer(optimizer, adam=True)

    # --- from here on its README says: the model can be trained as normal
    def loss(params, x):
        return (model.apply(params, KEY, x)**2).sum()

    state = optimizer.init(params)
    grads = jax.grad(loss)(params, jnp.ones(123))
    updates, state = optimizer.update(grads, state, params)
    trained = optax.apply_updates(params, updates)
    assert float(loss(trained, jnp.ones(123))) < float(loss(params, jnp.ones(123)))
    assert get_shapes(params) == {"model/linear": {"w": (123, 100), "b": (100,)},
                                  "model/readout": {"w": (100, 2), "b": (2,)}}
    x = jnp.linspace(-1, 1, 123)
    hidden = jax.nn.relu(x @ params["model/linear"]["w"])
    expected = hidden / 100 @ params["model/readout"]["w"]
    np.testing.assert_allclose(model.apply(params, KEY, x), expected, rtol=1e-4)


@pytest.mark.parametrize("use_bias", [False, True])
def test_a_shared_embedding(use_bias):
    def tied(ids, width):
        with apply_mup():
            embedding_layer = SharedEmbed(7, width)
            input_embeds = embedding_layer(ids)
            bias = {"use_bias": True, "bias_init": hk.initializers.Constant(0.5)} if use_bias else {}
            return SharedReadout(**bias)(embedding_layer.get_weights(), jnp.tanh(input_embeds))

    base, target = (hk.transform(functools.partial(tied, width=width)) for width in (4, 16))
    ids, mup = jnp.arange(3), Mup()
    with mup.init_base():
        base.init(KEY, ids)
    with mup.init_target():
        params = target.init(KEY, ids)
    matrix = params["shared_embed"]["embeddings"]
    found = mup.wrap_model(target).apply(params, KEY, ids)
    bias = 0.5 if use_bias else 0.0
    np.testing.assert_allclose(found, jnp.tanh(matrix[ids]) @ matrix.T / 4 + bias, rtol=1e-5)
    assert set(params) == {"shared_embed", *(["shared_readout"] if use_bias else [])}


def test_sgds_factors():
    mup, x = Mup(), jnp.ones((2, 5))
    for context, width in ((mup.init_base, 2), (mup.init_target, 8)):
        with context():
            params = hk.transform(functools.partial(fn, width=width)).init(KEY, x)
    optimizer = mup.wrap_optimizer(optax.sgd(1.0), adam=False)
    updates, _ = optimizer.update(params, optimizer.init(params))       # 0.1.5's example gave no parameters
    for layer, factor in (("model/linear", 4), ("model/readout", 4)):
        np.testing.assert_allclose(updates[layer]["w"], -factor * params[layer]["w"], rtol=1e-6)
