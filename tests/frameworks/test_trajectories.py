"""One model in five frameworks has one trajectory: 20 steps in float64, from Haiku's parameters in μP."""
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import haiku_mup

pytest.importorskip("equinox")
pytest.importorskip("flax")

from framework_models import FRAMEWORKS, INPUTS, KEY, haiku_model

BASE, TARGET, STEPS = 8, 20, 20
OPTIMIZERS = {
    "sgd": (optax.sgd(0.1), {"adam": False}),
    "momentum": (optax.sgd(0.03, momentum=0.9), {"adam": False}),
    "adam": (optax.adam(0.01), {}),
    "adamw": (optax.adamw(0.01, weight_decay=0.3), {}),
    "lion": (optax.lion(0.003), {}),
}


def losses(apply, params, optimizer, labels):
    """Returns the losses of 20 steps."""
    def loss(params):
        return optax.softmax_cross_entropy_with_integer_labels(apply(params), labels).mean()

    def step(carry, _):
        params, state = carry
        value, grads = jax.value_and_grad(loss)(params)
        updates, state = optimizer.update(grads, state, params)
        return (optax.apply_updates(params, updates), state), value

    def run(params):
        return jax.lax.scan(step, (params, optimizer.init(params)), None, STEPS)[1]

    with jax.numpy_rank_promotion("allow"):         # as the frameworks do
        return np.asarray(jax.jit(run)(params))


def labels_of(name):
    shape = INPUTS[name].shape[:2] if INPUTS[name].dtype.kind == "i" else INPUTS[name].shape[:1]
    return np.arange(np.prod(shape)).reshape(shape) % 3


@functools.cache
def of_haiku(name):
    """Returns a model in μP, its Mup, and its parameters, none of which is zero."""
    x, models = INPUTS[name], [haiku_model(name, width) for width in (BASE, TARGET)]
    mup = haiku_mup.Mup()
    with mup.init_base():
        jax.eval_shape(models[0].init, KEY, x)
    with mup.init_target():
        shapes, states = jax.eval_shape(models[1].init, KEY, x)
    rng = np.random.default_rng(0)
    params = jax.tree.map(lambda p: jnp.asarray(
        rng.normal(size=p.shape) * 0.5 * max(1, p.shape[-2] if p.ndim > 1 else 4)**-0.5), shapes)
    state = jax.tree.map(lambda p: jnp.zeros(p.shape, p.dtype), states)
    model = mup.wrap_model(models[1])
    return mup, params, lambda params: model.apply(params, state, None, x)[0]


@functools.cache
def haikus_losses(name, chosen):
    """Returns the losses of Haiku's model, once for all frameworks."""
    mup, params, apply = of_haiku(name)
    optimizer, options = OPTIMIZERS[chosen]
    return losses(apply, params, mup.wrap_optimizer(optimizer, **options), labels_of(name))


@functools.cache
def model_of(framework, name):
    """Returns what a plan compares at the base and at the target, and the target's model."""
    base, target = (FRAMEWORKS[framework](name, width) for width in (BASE, TARGET))
    return [model.params if model.source is None else model.source for model in (base, target)], target


def plan_of(framework, name, **more):
    sources, target = model_of(framework, name)
    return haiku_mup.plan(*sources, **{**target.plan, **more}), target


def deviation(framework, name, chosen, **more):
    """Returns how far the losses are from Haiku's."""
    (optimizer, options), expected, params = OPTIMIZERS[chosen], haikus_losses(name, chosen), of_haiku(name)[1]
    plan, model = plan_of(framework, name, **more)
    found = losses(lambda p: model.apply(p, INPUTS[name], plan), model.filled(params),
                   plan.wrap_optimizer(optimizer, **options), labels_of(name))
    assert np.isfinite(expected).all() and expected[-1] < expected[0]
    return np.abs(found - expected).max()


FAST = [("dict", "mlp", "sgd"), ("equinox", "mlp", "adamw"), ("nnx", "tied", "adamw"),
        ("linen", "transformer", "lion"), ("equinox", "cnn", "momentum")]
GRID = [(framework, name, optimizer) for framework in FRAMEWORKS for name in INPUTS for optimizer in OPTIMIZERS
        if (framework, name, optimizer) not in FAST]


@pytest.mark.parametrize("framework, name, optimizer", FAST)
def test_trajectories_are_haikus(framework, name, optimizer, x64):
    assert deviation(framework, name, optimizer) < 1e-9


@pytest.mark.slow
@pytest.mark.parametrize("framework, name, optimizer", GRID)
def test_all_trajectories_are_haikus(framework, name, optimizer, x64):
    assert deviation(framework, name, optimizer) < 1e-9


WRONG = [("dict", "mlp", {"lr_mults": {"second.b": 1.01}}),
         ("dict", "mlp", {"fans": {"first.w": (0, 1), "out.w": (0, 1), "second.w": ((), (0, 1))}})]


@pytest.mark.parametrize("framework, name, more", WRONG)
def test_one_wrong_factor_is_another_trajectory(framework, name, more, x64):
    assert deviation(framework, name, "adamw", **more) > 1e-5
