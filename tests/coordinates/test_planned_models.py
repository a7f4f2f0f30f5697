"""Checks and sweeps of models that are no Haiku's: pairs (init, apply), and the plan of their parameters."""
import functools

import jax
import jax.numpy as jnp
import optax
import pytest

import haiku_mup

X = jax.random.normal(jax.random.key(0), (16, 5))
BATCH = X, jnp.argmax(X[:, :3], axis=1)


def pair(width, forget=False, scale=1.0):
    """Returns an MLP as a dict, whose second weight is stored (out, in)."""
    def init(key):
        a, b, c = jax.random.split(key, 3)
        return {"first": jax.random.normal(a, (5, width)) / 5**0.5,
                "second": [jax.random.normal(b, (width, width)) / width**0.5, jnp.zeros(width)],
                "out": jax.random.normal(c, (width, 3)) / width**0.5, "name": "mlp"}

    def hidden(params, x):
        x = jax.nn.relu(x @ params["first"])
        x = jax.nn.relu(x @ params["second"][0].T + params["second"][1][None]) * scale
        return haiku_mup.probe("hidden", x)

    def apply(params, rng, x):
        return hidden(params, x) @ params["out"]

    def own(params, rng, x, plan):
        x = hidden(params, x)
        return (x if forget else plan.readout(x, "out")) @ params["out"]

    return init, own if forget is not None else apply


PLAN = functools.partial(haiku_mup.plan, fans={"first": (0, 1), "second[0]": (1, 0), "out": (0, 1)},
                         readouts="out", stds={"first": "constant", "second[0]": "fan_in", "out": "fan_in"})


def loss_fn(apply, params, rng, batch):
    x, y = batch
    return optax.softmax_cross_entropy_with_integer_labels(apply(params, rng, x), y).mean()


def check(make_model, **more):
    return haiku_mup.coord_check(make_model, [32, 256], BATCH, loss_fn, optax.adam(2**-7), plan=PLAN, seeds=4,
                                 steps=3, progress=False, **more)


def test_a_pair_passes_in_mup_and_fails_in_standard():
    make_model = functools.partial(pair, forget=None)
    found = check(make_model)
    assert not found.failures()
    names = {point.quantity for point in found.points}
    assert {"output", "probe hidden"} <= {name.removesuffix(" ") for name in names}
    assert any("second[0]" in name for name in names)
    assert not check(make_model, parametrization="sp").ok


def test_an_apply_that_takes_the_plan_multiplies_by_itself():
    with pytest.raises(haiku_mup.MupError, match=r"'out'.*nothing has asked for its forward multiplier"):
        check(functools.partial(pair, forget=True))
    make = functools.partial(pair, forget=False)
    assert not haiku_mup.coord_check(make, [16, 32], BATCH, loss_fn, optax.adam(2**-5), plan=PLAN, seeds=1,
                                     steps=1, progress=False).failures()


def test_forward_factors_of_any_functions():
    make = functools.partial(pair, forget=None)
    assert haiku_mup.forward_factors(make, [16, 64], X) == []
    found = haiku_mup.forward_factors(lambda width: pair(width, None, width**0.5), [16, 64], X)
    assert [(each.action, each.base, each.target, round(each.power, 3)) for each in found] == [
        ("multiplied by", 4.0, 8.0, 0.5)]


def trained(width, **more):
    make_trial = haiku_mup.training(functools.partial(pair, forget=None), BATCH, loss_fn, optax.adam, steps=8,
                                    base_width=16, plan=PLAN, **more)
    return make_trial(width)(0.03, jax.random.key(0))["train_loss"]


def test_a_sweep_trains_pairs():
    losses = trained(64)
    assert losses.shape == (8,) and losses[-1] < losses[0]
    assert (trained(16) == trained(16, parametrization="sp")).all()         # at the base's width
    assert (losses != trained(64, parametrization="sp")).any()


def test_what_is_no_pair_raises():
    with pytest.raises(haiku_mup.MupError, match=r"with a plan it must return \(init, apply\)"):
        check(lambda width: 3)
    with pytest.raises(haiku_mup.MupError, match="haiku_mup.Plan"):
        haiku_mup.coord_check(functools.partial(pair, forget=None), [16, 32], BATCH, loss_fn, optax.adam(0.1),
                              plan=lambda base, target, **more: None, progress=False)
