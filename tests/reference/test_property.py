"""Properties of μP that hold for every model: random ones, against an oracle written independently.

`HYPOTHESIS_PROFILE=thorough python -m pytest tests/reference/test_property.py` tries 300 new models on each.
"""
import os

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from oracle import expected, multiplier, tree
from random_models import captured, inputs, model, specs
from small_models import KEY
from trees import equal

THOROUGH = os.environ.get("HYPOTHESIS_PROFILE") == "thorough"       # new models at every run
STEPS, DECAY, EPS, MOMENTUM, SGD_LR, ADAM_LR = 4, 0.3, 1e-3, 0.9, 0.02, 0.01


@pytest.fixture(autouse=True)
def _no_rank_promotion():
    """Allows what the suite forbids, for Haiku's Orthogonal multiplies a matrix by a vector."""
    yield


def examples(count):
    """Tries the same few models at every run; if thorough, 300 new ones, and finds the smallest that fails."""
    return settings(max_examples=300 if THOROUGH else count, derandomize=not THOROUGH, deadline=None,
                    database=None, suppress_health_check=list(HealthCheck),
                    phases=[Phase.generate, Phase.shrink] if THOROUGH else [Phase.generate])


def loss_and_grads(model, dtype="float32"):
    """Returns a compiled function of parameters to (outputs, gradients), as numpy's."""
    arguments = inputs(dtype)

    def loss(params):
        out = model.apply(params, *arguments)
        return jnp.mean((out - jnp.cos(jnp.arange(out.size, dtype=dtype)).reshape(out.shape))**2), out

    def outputs_first(params):
        (_, out), gradient = jax.value_and_grad(loss, has_aux=True)(params)
        return out, gradient

    compiled = jax.jit(outputs_first)
    return lambda params: jax.device_get(compiled(params))      # numpy compiles nothing


def named(tree):
    return {f"{module}/{leaf}": x for module, leaves in tree.items() for leaf, x in leaves.items()}


def rows_of(mup):
    """Returns {name: the table's rows of this parameter}."""
    rows = {}
    for row in mup.table():
        rows.setdefault(row.name.partition("[")[0], []).append(row)
    return rows


@examples(2)
@given(specs())
def test_at_base_width_it_is_the_plain_model_bit_for_bit(spec):
    spec = spec._replace(target=spec.base)
    mup, plain = captured(spec), model(spec, spec.base, plain=True)
    ours = mup.wrap_model(model(spec, spec.base))
    params = jax.jit(ours.init)(KEY, *inputs())
    assert equal(params, jax.jit(plain.init)(KEY, *inputs()))
    assert equal(*(loss_and_grads(m)(params) for m in (ours, plain)))
    assert {(row.multiplier, row.adam_lr, row.sgd_lr) for row in mup.table()} == {(1.0, 1.0, 1.0)}


@examples(12)
@given(specs(most=5))
def test_the_table_is_the_oracles(spec):
    """A record for each parameter of the tree, and only those; roles, stds and factors by the rules."""
    mup, wanted = captured(spec), expected(spec)
    made = jax.eval_shape(mup.wrap_model(model(spec, spec.target)).init, KEY, *inputs())
    rows = rows_of(mup)
    assert set(rows) == set(wanted) == set(named(made)) == set(named(mup.lr_scales()))
    for name, blocks in wanted.items():
        same = len(rows[name]) < len(blocks)            # blocks of rows that agree are one
        for block, row in zip(blocks, rows[name] * len(blocks) if same else rows[name], strict=not same):
            assert row.role == block.role, name
            found = row.base_std, row.target_std, row.sgd_lr, row.adam_lr, row.multiplier
            by_hand = block.std_base, *block.table_8(), multiplier(spec, name, block)
            np.testing.assert_allclose(found, by_hand, rtol=1e-9, err_msg=name)


@pytest.mark.slow
@examples(3)
@given(specs())
def test_draws_at_the_target_have_that_std(spec):
    """16 draws of each parameter; with n entries in all, five standard errors are 5 / √(2 n)."""
    init = captured(spec).wrap_model(model(spec, spec.target)).init
    draws = named(jax.jit(jax.vmap(lambda key: init(key, *inputs())))(jax.random.split(KEY, 16)))
    for name, blocks in expected(spec).items():
        ends = np.cumsum([block.rows for block in blocks])[:-1]
        parts = np.split(draws[name], ends, axis=1) if len(blocks) > 1 else [draws[name]]
        for part, block in zip(parts, blocks, strict=True):
            wanted = block.table_8()[0]
            np.testing.assert_allclose(np.std(part), wanted, rtol=5 / np.sqrt(2 * part.size), err_msg=name)


@pytest.mark.slow
@examples(3)
@given(specs())
def test_table_3_without_multipliers_has_the_same_trajectory(spec):
    """Table 8 by the library beside Table 3 by hand: its own draws, factors, gradients and optimizers."""
    wanted = expected(spec)
    with jax.enable_x64(True):
        mup = captured(spec, "float64")
        ours, plain = mup.wrap_model(model(spec, spec.target)), model(spec, spec.target, plain=True)
        params, draws = jax.device_get(jax.jit(lambda *x: [m.init(*x) for m in (ours, plain)])(
            KEY, *inputs("float64")))
        draws = jax.tree.map(np.multiply, draws, tree(wanted, lambda e: e.redraw()))
        sgd, adam = optax.sgd(SGD_LR, momentum=MOMENTUM), optax.adamw(ADAM_LR, eps=EPS, weight_decay=DECAY)
        grads, by_hand = loss_and_grads(ours, "float64"), loss_and_grads(plain, "float64")
        for found, hand in (
                (library_steps(grads, params, mup.wrap_optimizer(sgd, adam=False)),
                 sgd_by_hand(by_hand, draws, wanted)),
                (library_steps(grads, params, mup.wrap_optimizer(adam, scale_eps=True)),
                 adam_by_hand(by_hand, draws, wanted))):
            assert np.isfinite(hand).all() and not np.allclose(hand[0], hand[-1], rtol=1e-4)
            # rounding, 1e-16, grown by a few steps; factors are off by percents, if at all
            np.testing.assert_allclose(found, hand, rtol=1e-8, atol=1e-10)


def library_steps(grads, params, optimizer):
    """Trains with an optimizer; returns the outputs before each step."""
    @jax.jit
    def update(gradient, state, params):
        updates, state = optimizer.update(gradient, state, params)
        return optax.apply_updates(params, updates), state

    state, outputs = jax.jit(optimizer.init)(params), []
    for _ in range(STEPS):
        out, gradient = grads(params)
        params, state = update(gradient, state, params)
        outputs.append(out)
    return np.stack(outputs)


def sgd_by_hand(grads, params, wanted):
    lr = tree(wanted, lambda e: SGD_LR * e.table_3()[1])
    trace, outputs = jax.tree.map(np.zeros_like, params), []
    for _ in range(STEPS):
        out, gradient = grads(params)
        trace = jax.tree.map(lambda t, g: MOMENTUM * t + g, trace, gradient)
        params = jax.tree.map(lambda p, f, t: p - f * t, params, lr, trace)
        outputs.append(out)
    return np.stack(outputs)


def adam_by_hand(grads, params, wanted):
    """Trains with Kingma and Ba's Adam, and a decay per step that no factor touches."""
    lr, eps = tree(wanted, lambda e: ADAM_LR * e.table_3()[2]), tree(wanted, lambda e: EPS * e.table_3()[3])
    mean = square = jax.tree.map(np.zeros_like, params)
    outputs = []
    for t in range(1, STEPS + 1):
        out, gradient = grads(params)
        mean = jax.tree.map(lambda m, g: 0.9 * m + 0.1 * g, mean, gradient)
        square = jax.tree.map(lambda s, g: 0.999 * s + 0.001 * g**2, square, gradient)
        params = jax.tree.map(
            lambda p, f, e, m, s, t=t: p - f * m / (1 - 0.9**t) / (np.sqrt(s / (1 - 0.999**t)) + e)
            - ADAM_LR * DECAY * p, params, lr, eps, mean, square)
        outputs.append(out)
    return np.stack(outputs)
