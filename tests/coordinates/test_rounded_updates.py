"""Updates that low precision rounds away: the share of entries that move, the warning, and its twins."""
import functools
import warnings

import haiku as hk
import jax
import jax.numpy as jnp
import optax
import pytest

import haiku_mup
from haiku_mup.coordinates.rounded_updates import describe, rounded_away

X = jax.random.normal(jax.random.PRNGKey(0), (16, 4))
WIDTHS = (16, 256)


def loss_fn(apply, params, rng, batch):
    return jnp.square(apply(params, rng, batch).astype(jnp.float32) - 1).mean()


def network(x, width, dtype, masters):
    """A hidden weight between a first layer and a readout; masters are cast as they are read."""
    def cast(getter, value, context):
        return getter(value).astype(dtype)

    with haiku_mup.apply_mup(), hk.custom_getter(cast, params=masters, state=False):
        x = x if masters else x.astype(dtype)
        for _ in range(2):
            x = jax.nn.relu(hk.Linear(width)(x).astype(dtype))
            x = x.astype(jnp.float32) if masters else x
        return haiku_mup.Readout(2)(x)


def check(dtype, lr, masters=False):
    return haiku_mup.coord_check(
        lambda width: hk.transform(functools.partial(network, width=width, dtype=dtype, masters=masters)),
        WIDTHS, X, loss_fn, optax.adam(lr), seeds=1, steps=2, progress=False)


def test_small_hidden_updates_in_bfloat16_are_rounded_away_and_a_warning_names_float32_masters():
    with pytest.warns(haiku_mup.MupWarning, match="'linear_1/w'.*keep float32 masters"):
        found = check(jnp.bfloat16, 2.0**-9)
    shares = found.moved()["linear_1/w"]
    assert shares[256] < 0.8 < shares[16] <= 1.0
    assert "Rounded away" in str(found) and "linear_1/w" in str(found)


@pytest.mark.parametrize("dtype, lr, masters", [
    (jnp.float32, 2.0**-9, False),          # the precision is enough
    (jnp.bfloat16, 2.0**-9, True),          # the remedy: what is cast is a copy
    (jnp.bfloat16, 2.0**-3, False)])        # updates are large beside what bfloat16 rounds
def test_nothing_is_said_where_updates_arrive(dtype, lr, masters):
    with warnings.catch_warnings():
        warnings.simplefilter("error", haiku_mup.MupWarning)
        found = check(dtype, lr, masters)
    assert bool(found.moved()) == (dtype == jnp.bfloat16 and not masters)
    assert "Rounded away" not in str(found)


def test_only_a_fall_with_the_width_counts():
    """Fewer entries move where the rate is low at every width: that is no matter of the width."""
    assert rounded_away({"a": {64: 0.3, 256: 0.3}, "b": {64: 1.0, 256: 0.92}, "c": {64: 0.2, 256: 0.9}}) == {}
    worse = {"a": {64: 0.5, 256: 0.3}, "b": {64: 0.5, 256: 0.1}}
    assert list(rounded_away(worse)) == ["b", "a"]
    assert describe(dict.fromkeys("abcdef", {64: 1.0})).endswith("and 2 more")
