"""Coordinate checks of the models of test_trajectories, in each framework: right in μP, wrong in standard.

A fast relative is in tests/coordinates/test_planned_models.py: a pair passes in μP, and fails in standard.
"""
import functools

import jax
import numpy as np
import optax
import pytest

import haiku_mup

pytest.importorskip("equinox")
pytest.importorskip("flax")

import framework_models as models

WIDTHS = [16, 128]


def pair_of_dicts(name, width):
    model, plain = models.dict_model(name, width), models.haiku_model(name, width)

    def init(key):
        return model.filled(plain.init(key, models.INPUTS[name])[0])

    return (init, lambda params, rng, x, plan: model.apply(params, x, plan)), model.plan


def pair_of_nnx(name, width):
    make = models.nnx_maker(name)

    def apply(model, rng, x, plan):
        with haiku_mup.nnx_multiplied(plan, model):
            return model(x, plan)

    return (lambda key: make(width, models.nnx.Rngs(key)), apply), models.nnx_model(name, width).plan


def pair_of_linen(name, width):
    model = models.LinenModel(name, width)

    def apply(params, rng, x, plan):
        return model.apply({"params": plan.multiplied(params)}, x, plan, mutable=["batch_stats"])[0]

    return (lambda key: model.init(key, models.INPUTS[name])["params"], apply), models.linen_model(
        name, width).plan


def pair_of_equinox(name, width):
    make, plan = models.eqx_maker(name), models.eqx_model(name, width).plan
    if name == "cnn":
        def with_state(model, rng, x, state, plan):
            model = plan.multiplied(model)
            return jax.vmap(model, axis_name="batch", in_axes=(0, None), out_axes=(0, None))(x, state)

        return (lambda key: models.eqx.nn.make_with_state(make)(width, key), with_state), plan

    def apply(model, rng, x, plan):
        model = plan.multiplied(model)
        return jax.vmap(lambda x: model(x, plan))(x)

    return (functools.partial(make, width), apply), plan


PAIRS = {"dict": pair_of_dicts, "nnx": pair_of_nnx, "linen": pair_of_linen, "equinox": pair_of_equinox}


def check(framework, name, parametrization="mup"):
    x = models.INPUTS[name]
    x = x if x.dtype.kind == "i" else x.astype("float32")
    shape = x.shape[:2] if x.dtype.kind == "i" else x.shape[:1]
    batch = x, np.arange(np.prod(shape)).reshape(shape) % 3

    def loss_fn(apply, params, rng, batch):
        return optax.softmax_cross_entropy_with_integer_labels(apply(params, rng, batch[0]), batch[1]).mean()

    def plan(base, target, **more):
        given = PAIRS[framework](name, WIDTHS[0])[1] | more
        if "attention" in given:                    # of dicts, which don't know their key size
            given["attention"] = {glob: tuple(tree["attend/query"]["w"].shape[-1] // models.HEADS
                                              for tree in (base, target)) for glob in given["attention"]}
        return haiku_mup.plan(base, target, **given)

    with jax.numpy_rank_promotion("allow"):         # as the frameworks do
        return haiku_mup.coord_check(lambda width: PAIRS[framework](name, width)[0], WIDTHS, batch, loss_fn,
                                     optax.adam(2**-6), plan=plan, parametrization=parametrization, seeds=2,
                                     steps=3, progress=False)


@pytest.mark.slow
@pytest.mark.parametrize("name", models.INPUTS)
@pytest.mark.parametrize("framework", PAIRS)
def test_models_pass_in_mup_and_fail_in_standard(framework, name):
    found = check(framework, name)
    assert not found.failures() and not found.factors, str(found)
    kinds = {point.quantity.partition(" ")[0] for point in found.points}
    assert {"output", "Δparam"} <= kinds and ("activation" in kinds) == (framework in ("linen", "nnx"))
    assert ("Not seen: activations" in str(found)) == (framework in ("dict", "equinox"))
    assert check(framework, name, "sp").failures()
