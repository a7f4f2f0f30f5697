"""A loss may call the model inside its own vmap, jit, scan, remat and gradients: the check sees the same."""
import functools

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import haiku_mup
from haiku_mup.coordinates.nested_calls import records_as_gradient

X, Y = jax.random.normal(jax.random.PRNGKey(0), (16, 6)), jnp.arange(16) % 3
WIDTHS = (8, 64)


def net(x, width, factor=lambda width: 1.0, norm=False):
    with haiku_mup.apply_mup():
        x = jax.nn.gelu(hk.Linear(width)(x))
        if norm:
            x = hk.BatchNorm(True, True, 0.9)(x, True)
        return haiku_mup.Readout(3)(factor(width) * jax.nn.gelu(hk.Linear(width)(x)))


def make_model(width):
    return hk.transform(functools.partial(net, width=width))


def check(loss_fn, make_model=make_model, **changes):
    settings = {"steps": 2, "seeds": 1, "adam": False, "progress": False} | changes
    return haiku_mup.coord_check(make_model, WIDTHS, (X, Y), loss_fn, optax.sgd(0.1), **settings)


def direct(apply, params, rng, batch):
    return cross_entropy(apply(params, rng, batch[0]), batch[1])


def mapped(apply, params, rng, batch):
    return jax.vmap(lambda x, y: cross_entropy(apply(params, rng, x), y))(*batch).mean()


def jitted(apply, params, rng, batch):
    return cross_entropy(jax.jit(jax.checkpoint(lambda x: apply(params, rng, x)))(batch[0]), batch[1])


def looped(apply, params, rng, batch):
    return jax.lax.map(lambda pair: cross_entropy(apply(params, rng, pair[0]), pair[1]), batch).mean()


def of_gradients(apply, params, rng, batch):
    return jnp.square(jax.grad(lambda x: apply(params, rng, x).sum())(batch[0])).mean()


def curved(apply, params, rng, batch):
    return jnp.square(jax.vmap(jax.hessian(lambda x: apply(params, rng, x)[0]))(batch[0])).mean()


def cross_entropy(logits, y):
    return optax.softmax_cross_entropy_with_integer_labels(logits, y).mean()


def values(found):
    return {(p.quantity, p.width, p.step, p.stat): p.value for p in found.points}


@pytest.fixture(scope="module")
def expected():
    return check(direct)


@pytest.mark.parametrize("loss_fn", [mapped, jitted])
def test_the_check_sees_what_it_sees_of_a_direct_call(loss_fn, expected):
    """Float32 rounds sums over a batch and its examples differently, by some 1e-6 in two steps."""
    found = check(loss_fn)
    assert values(found).keys() == values(expected).keys()
    for key, value in values(expected).items():
        assert values(found)[key] == pytest.approx(value, rel=1e-4, abs=1e-6), key
    assert {p.rows for p in found.points} == {p.rows for p in expected.points} == {16}


def test_what_is_recorded_in_a_loop_is_the_mean_over_its_steps(expected):
    """Mean sizes are those of the whole batch; changes are of other entries of the arrays."""
    found = values(check(looped))
    assert found.keys() == values(expected).keys()
    for key, value in values(expected).items():
        if key[0].startswith(("activation", "output", "param")) and key[-1] == "l1":
            assert found[key] == pytest.approx(value, rel=1e-4, abs=1e-6), key


def test_a_mistake_is_seen_inside_a_transformation():
    def wrong(width):
        return hk.transform(functools.partial(net, width=width, factor=jnp.sqrt))

    found = check(mapped, wrong, seeds=3)
    assert found.verdict == haiku_mup.Verdict.FAILED and "test_nested_calls.py" in str(found)


@pytest.mark.slow
def test_calls_that_can_not_be_recorded_are_refused_until_there_is_one_that_can():
    def remedied(loss_fn, apply, params, rng, batch):
        apply(params, rng, batch[0])
        return loss_fn(apply, params, rng, batch)

    for loss_fn in (of_gradients, curved):
        with pytest.raises(haiku_mup.MupError, match="outside of all transformations, too"):
            check(loss_fn, steps=1)
        quantities = {p.quantity for p in check(functools.partial(remedied, loss_fn), steps=1).points}
        assert {"output", "activation readout", "update linear/w"} <= quantities


def test_a_state_is_not_kept_inside_a_transformation_of_the_loss():
    def with_state(width):
        return hk.transform_with_state(functools.partial(net, width=width, norm=True))

    with pytest.raises(haiku_mup.MupError, match="outside of any"):
        check(jitted, with_state, steps=1)
    assert check(direct, with_state, steps=1).points


def test_records_leave_as_gradients_and_change_nothing_else():
    def loss(x, zeros):
        return (records_as_gradient(jnp.sin(x), {"seen": 3 * x}, zeros) ** 2).sum()

    x = jnp.arange(4.0)
    gradient, seen = jax.grad(loss, argnums=(0, 1))(x, {"seen": jnp.zeros(4)})
    np.testing.assert_array_equal(gradient, jax.grad(lambda x: (jnp.sin(x) ** 2).sum())(x))
    np.testing.assert_array_equal(seen["seen"], 3 * x)
