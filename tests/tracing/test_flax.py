"""hk.experimental.flax.lift: layers of Flax's that don't grow are served; those that grow are refused."""
import functools
import json

import haiku as hk
import jax
import jax.numpy as jnp
import optax
import pytest
from small_models import KEY

import haiku_mup

nn = pytest.importorskip("flax.linen")
X = jnp.linspace(-1, 1, 12).reshape(2, 6)


class Encoder(nn.Module):
    size: int

    @nn.compact
    def __call__(self, x):
        return nn.Dense(self.size)(nn.LayerNorm()(x))


def net(x, width, size, module=None):
    with haiku_mup.apply_mup():
        x = hk.experimental.flax.lift(module or Encoder(size(width)), name="encoder")(x)
        return haiku_mup.Readout(3)(jax.nn.relu(hk.Linear(width)(x)))


def fixed(width):
    return 5


def captured(mup, **kwargs):
    base, target = (hk.transform(functools.partial(net, width=width, **kwargs)) for width in (8, 32))
    with mup.init_base():
        jax.eval_shape(base.init, KEY, X)
    with mup.init_target():
        return target, jax.eval_shape(target.init, KEY, X)


def test_layers_that_do_not_grow_are_fixed():
    mup = haiku_mup.Mup()
    target, params = captured(mup, size=fixed)
    rows = {row.name: (row.role, row.adam_lr, row.sgd_lr, row.inferred) for row in mup.table()}
    assert rows["encoder/Dense_0/kernel"] == rows["encoder/LayerNorm_0/scale"] == ("fixed", 1, 1, False)
    assert set(rows) == {f"{module}/{leaf}" for module, leaves in params.items() for leaf in leaves}
    model, optimizer = mup.wrap_model(target), mup.wrap_optimizer(optax.adam(0.1))
    params = jax.jit(model.init)(KEY, X)

    @jax.jit
    def step(params):
        grads = jax.grad(lambda p: model.apply(p, None, X).sum())(params)
        return optimizer.update(grads, optimizer.init(params), params)[0]

    updates = step(params)
    assert float(abs(updates["encoder/Dense_0"]["kernel"]).max()) == pytest.approx(0.1, rel=1e-3)
    again = haiku_mup.Mup.from_state_dict(json.loads(json.dumps(mup.state_dict())))
    with again.init_target():
        jax.eval_shape(target.init, KEY, X)
    assert again.table() == mup.table() or str(again.table()) == str(mup.table())       # nan is not itself


def test_a_single_layer_of_flax_has_the_name_of_the_tree():
    mup = haiku_mup.Mup()
    _, params = captured(mup, size=fixed, module=nn.Dense(5))
    assert "encoder/~/kernel" in [row.name for row in mup.table()] and "encoder/~" in params


def test_layers_that_grow_are_refused_and_the_remedy_is_right():
    with pytest.raises(haiku_mup.MupError, match="write the layers that grow in Haiku, such as hk.Linear"
                       ) as error:
        captured(haiku_mup.Mup(), size=lambda width: width)
    assert "'encoder/Dense_0/kernel': base (6, 8), target (6, 32)" in str(error.value)
    assert "hk.experimental.flax.lift(" in error.value.__notes__[0]

    def in_haiku(x, width):
        with haiku_mup.apply_mup():
            x = hk.Linear(width, name="dense")(hk.LayerNorm(-1, True, True)(x))
            return haiku_mup.Readout(3)(jax.nn.relu(hk.Linear(width)(x)))

    mup = haiku_mup.Mup()
    for context, width in ((mup.init_base, 8), (mup.init_target, 32)):
        with context():
            jax.eval_shape(hk.transform(functools.partial(in_haiku, width=width)).init, KEY, X)
    rows = {row.name: (row.role, row.adam_lr, row.sgd_lr) for row in mup.table()}
    assert rows["dense/w"] == ("input", 1, 4) and rows["linear/w"] == ("hidden", 1 / 4, 1)


def test_standard_parametrization_takes_layers_that_grow():
    mup = haiku_mup.Mup(parametrization=haiku_mup.standard())
    captured(mup, size=lambda width: width)
    assert {row.adam_lr for row in mup.table()} == {1}


def test_another_size_at_init_is_refused():
    mup = haiku_mup.Mup()
    captured(mup, size=fixed)
    other = hk.transform(functools.partial(net, width=32, size=lambda width: 7))
    with pytest.raises(haiku_mup.MupError, match="capture the model that is wrapped"):
        jax.eval_shape(mup.wrap_model(other).init, KEY, X)
