"""One trajectory in every form of μP, and another in other parametrizations."""
import functools
import itertools

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from form_models import FORMS, MODELS
from small_models import KEY
from trees import equal

import haiku_mup
from haiku_mup import maximal_update, neural_tangent, standard

OPTIMIZERS = {
    "sgd": (optax.sgd(0.05), False), "momentum": (optax.sgd(0.02, momentum=0.9), False),
    "decayed sgd": (optax.chain(optax.add_decayed_weights(0.3), optax.sgd(0.05)), False),
    "adam": (optax.adam(0.01, eps=1e-3), True), "adamw": (optax.adamw(0.01, eps=1e-3, weight_decay=0.5), True),
    "lion": (optax.lion(0.003, weight_decay=0.5), True),
}


def trajectory(name, parametrization, optimizer, adam, steps=4):
    """Losses of a few steps; a plain optimizer, where the form needs no wrap."""
    fn, x, kwargs = MODELS[name]
    x = x.astype(jnp.float64) if jnp.issubdtype(x.dtype, jnp.floating) else x
    base, target = (hk.without_apply_rng(hk.transform_with_state(functools.partial(fn, width=w)))
                    for w in (8, 32))
    mup = haiku_mup.Mup(parametrization=parametrization, **kwargs)
    with mup.init_base():
        jax.eval_shape(base.init, KEY, x)
    twice = name == "rectangular"       # draws of the target and of the wrapped model, which compile for long
    with mup.init_target():
        first = jax.jit(target.init)(KEY, x) if twice else jax.eval_shape(target.init, KEY, x)
    model = mup.wrap_model(target)
    if not parametrization.plain:
        optimizer = mup.wrap_optimizer(optimizer, adam=adam, scale_eps=adam)

    @jax.jit
    def start(key, x):
        params, state = model.init(key, x)
        return params, state, optimizer.init(params)

    params, state, opt_state = start(KEY, x)
    assert not twice or equal(params, first[0])

    @jax.jit
    def step(params, state, opt_state):
        def loss(params):
            out, new = model.apply(params, state, x)
            return jnp.mean((out - jnp.broadcast_to(jnp.arange(out.shape[-1]), out.shape))**2), new

        (value, new), grads = jax.value_and_grad(loss, has_aux=True)(params)
        updates, opt_state = optimizer.update(grads, opt_state, params)
        return optax.apply_updates(params, updates), new, opt_state, value

    losses = []
    for _ in range(steps):
        params, state, opt_state, value = step(params, state, opt_state)
        losses.append(float(value))
    return losses


def gaps(name, kind, forms):
    """{form: the largest relative difference of its losses from the first form's}"""
    optimizer, adam = OPTIMIZERS[kind]
    without = {"abcd sgd"} if adam else set()           # it needs Adam's factors
    without |= {"table3"} if name == "tied" else set()  # it has no multiplier to tie with
    forms = {form: parametrization for form, parametrization in forms.items() if form not in without}
    first, *others = (trajectory(name, parametrization, optimizer, adam) for parametrization in forms.values())
    assert len(set(first)) == len(first)
    return {form: np.max(np.abs(np.divide(losses, first) - 1)) for form, losses in zip(list(forms)[1:], others)}


CASES = [(name, kind) for name, kind in itertools.product(MODELS, OPTIMIZERS)]
FEW = {("rectangular", "adamw"): FORMS, ("tied", "sgd"): FORMS, ("own", "decayed sgd"): FORMS}


@pytest.mark.parametrize("name, kind", FEW)
def test_forms_train_alike(name, kind, x64):
    found = gaps(name, kind, FEW[name, kind])
    assert max(found.values()) < 1e-9, found            # rounding, grown by training


@pytest.mark.slow
@pytest.mark.parametrize("name, kind", CASES)
def test_all_forms_train_alike(name, kind, x64):
    found = gaps(name, kind, FORMS)
    assert max(found.values()) < 1e-9, found


@pytest.mark.parametrize("parametrization", [
    neural_tangent(), *(pytest.param(other, marks=pytest.mark.slow)
                        for other in (standard(), maximal_update(spectral=True)))])
def test_other_parametrizations_train_otherwise(parametrization, x64):
    """The comparison is not blind."""
    ours, other = (trajectory("rectangular", x, optax.sgd(0.05), False)
                   for x in (maximal_update(), parametrization))
    assert not np.allclose(ours, other, rtol=1e-3)
