"""Optimizers around the wrapped one, and optimizers that need no wrap."""
import functools
import warnings

import haiku as hk
import jax
import jax.numpy as jnp
import mutants
import numpy as np
import optax
import pytest
from small_models import KEY, MODELS, captured, mlp
from trees import mapped

import haiku_mup
from haiku_mup import maximal_update, standard

X = MODELS["mlp"][1]
contrib = optax.contrib


@pytest.mark.slow
def test_schedule_free_around_evaluates_what_it_trains(x64):
    """Its average is the same as without μP's factors where they are undone: of the same trajectory."""
    mup = captured(mlp, X)
    params = jax.tree.map(lambda p: p.astype(jnp.float64), mlp(32).init(KEY, X))
    grads = jax.tree.map(jnp.cos, params)
    around = contrib.schedule_free(mup.wrap_optimizer(optax.sgd(0.1), adam=False), 0.1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        within = mup.wrap_optimizer(contrib.schedule_free(optax.sgd(0.1), 0.1), adam=False)
    found = []
    for opt in (around, within):
        now, state = params, opt.init(params)
        for _ in range(3):
            update, state = opt.update(grads, state, now)
            now = optax.apply_updates(now, update)
        found.append((now, contrib.schedule_free_eval_params(state, now)))
    (trained, average), (same, mixed) = found
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-12), trained, same)
    step = mapped(lambda n, p, q: float(jnp.abs(p - q).max()), average, params)
    assert max(jax.tree.leaves(step)) < 2 and not jax.tree.all(jax.tree.map(jnp.allclose, average, mixed))


def sizes(table, width, steps=3):
    """How far each step of L-BFGS has moved the outputs, from those of the start; mean over seeds."""
    model = hk.without_apply_rng(mutants.make(mutants.mlp)(width))
    mup = haiku_mup.Mup(parametrization=table)
    captured(mutants.make(mutants.mlp), mutants.IMAGES, 64, width, mup)
    wrapped, opt = mup.wrap_model(model), optax.lbfgs()
    apply = functools.partial(wrapped.apply, x=mutants.IMAGES)

    def loss(params):
        return optax.softmax_cross_entropy_with_integer_labels(apply(params), mutants.LABELS).mean()

    @jax.jit
    def step(params, state):
        value, grad = optax.value_and_grad_from_state(loss)(params, state=state)
        updates, state = opt.update(grad, state, params, value=value, grad=grad, value_fn=loss)
        return optax.apply_updates(params, updates), state

    found = []
    for seed in range(3):
        params = jax.jit(wrapped.init)(jax.random.key(seed), mutants.IMAGES)
        first, state = apply(params), opt.init(params)
        for _ in range(steps):
            params, state = step(params, state)
            found.append(float(jnp.abs(apply(params) - first).mean()))
    return np.reshape(found, (3, steps)).mean(0)


@pytest.mark.slow
def test_lbfgs_as_it_is_moves_outputs_alike_at_every_width_in_the_abcd_form():
    few, many = (sizes(maximal_update("abcd", optimizer="sgd"), width) for width in (64, 512))
    assert np.abs(np.log2(many / few) / 3).max() < 0.25, many / few     # measured: -0.2 at first, then 0.05
    few, many = (sizes(standard(), width) for width in (64, 512))
    assert np.log2(many / few)[0] / 3 > 0.4, many / few                 # measured: 0.6


def lookahead(opt):
    return optax.lookahead(opt, 2, 0.5)


@pytest.mark.parametrize("wrap", [
    pytest.param(contrib.mechanize, marks=pytest.mark.slow), lookahead,
    lambda opt: optax.apply_if_finite(opt, 2), lambda opt: optax.MultiSteps(opt, 2).gradient_transformation()])
def test_wrappers_go_around(wrap):
    opt = wrap(captured(mlp, X).wrap_optimizer(optax.adam(0.1)))
    params = mlp(32).init(KEY, X)
    grads = jax.tree.map(jnp.cos, params)
    if wrap is lookahead:
        params = optax.LookaheadParams.init_synced(params)
    updates, _ = opt.update(grads, opt.init(params), params)
    assert np.isfinite(jax.tree.leaves(updates)[0]).all()
