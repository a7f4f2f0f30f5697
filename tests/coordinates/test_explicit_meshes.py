"""Batches in a mesh with explicit axes, as `jax.make_mesh` makes them."""
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from small_models import MODELS

import haiku_mup
from haiku_mup.coordinates.array_stats import measure_function

make, _ = MODELS["mlp"]
X, Y = jnp.linspace(-1, 1, 96).reshape(16, 6), jnp.arange(16) % 3


@pytest.fixture
def placed():
    """Returns a function that shards an array's first axis."""
    mesh = jax.make_mesh((1,), ("data",), axis_types=(jax.sharding.AxisType.Explicit,))
    return lambda x: jax.device_put(x, jax.NamedSharding(mesh, jax.P("data")))


def loss(apply, params, rng, batch):
    x, y = batch
    return optax.softmax_cross_entropy_with_integer_labels(apply(params, rng, x), y).mean()


def test_the_check_finds_the_same(placed):
    plain, sharded = ([point.value for point in haiku_mup.coord_check(
        make, [8, 16], batch, loss, optax.adam(0.01), seeds=2, steps=2, progress=False).points]
        for batch in ((X, Y), (placed(X), placed(Y))))
    np.testing.assert_allclose(sharded, plain, rtol=1e-6)


def test_a_trial_finds_the_same(placed):
    def trained(x, y):
        trial = haiku_mup.training(make, (x, y), loss, optax.adam, steps=3, batch_size=8, base_width=8)(16)
        return trial(1e-2, jax.random.key(0))["train_loss"]

    np.testing.assert_allclose(trained(placed(X), placed(Y)), trained(X, Y), rtol=1e-6)


def test_activations_that_a_model_shards_are_measured(placed):
    measure = measure_function(("l1", "l2"))
    np.testing.assert_allclose(jax.jit(measure)(placed(X)), measure(X), rtol=1e-6)
    with pytest.raises(Exception, match="sharding"):
        placed(X).reshape(-1)[jnp.arange(4)]        # the entries that it keeps, without care
