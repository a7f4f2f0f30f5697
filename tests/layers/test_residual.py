"""Branches of haiku_mup.residual that share their layers: the number of their calls is the depth."""
import functools

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import haiku_mup

KEY, X = jax.random.PRNGKey(1), jnp.linspace(-1.0, 1.0, 6).reshape(2, 3)
COMPLETE = haiku_mup.maximal_update(depth_alpha=1.0)
ROUNDED = {"rtol": 2e-6, "atol": 2e-7}      # roundings of numbers up to 1, whose sum may be near 0


def shared(x, n, first=False):
    """Calls one layer in n branches; first of all outside of them, if so."""
    with haiku_mup.apply_mup():
        layer = hk.Linear(3, with_bias=False)
        x = layer(x) if first else x
        for _ in range(n):
            x = haiku_mup.residual(x, lambda x: jnp.tanh(layer(x)))
        return x


def model(n, function=shared, **options):
    return hk.transform(functools.partial(function, n=n, **options))


def capture(base, target, parametrization, mup=None):
    mup = mup or haiku_mup.Mup(parametrization=parametrization)
    with mup.init_base():
        jax.eval_shape(base.init, KEY, X)
    with mup.init_target():
        jax.eval_shape(target.init, KEY, X)
    return mup


@pytest.mark.parametrize("first", [False, True])
def test_each_branch_is_divided_by_the_ratio_of_calls(first):
    base, target = model(2, first=first), model(6, first=first)
    mup = capture(base, target, COMPLETE)
    params = target.init(KEY, X)
    w = params["linear"]["w"]
    expected = X @ w if first else X
    for _ in range(6):
        expected = expected + jnp.tanh(expected @ w) / 3
    np.testing.assert_allclose(mup.wrap_model(target).apply(params, None, X), expected, **ROUNDED)
    assert (mup.table()[0].adam_lr, mup.table()[0].sgd_lr) == (1.0, 1.0)


def change(n):
    """Returns a function from a rate to how much a step of SGD moves the outputs; 4 calls at the base."""
    target = model(n)
    apply = capture(model(4), target, COMPLETE).wrap_model(target).apply
    params = {"linear": {"w": jnp.arange(9.0).reshape(3, 3) / 50 - 0.3 * jnp.eye(3)}}

    @jax.jit
    def moved(lr):
        def loss(params):
            out = apply(params, None, X)
            return (out**2).sum(), out

        grads, out = jax.grad(loss, has_aux=True)(params)
        return jnp.linalg.norm(apply(jax.tree.map(lambda p, g: p - lr * g, params, grads), None, X) - out)

    return moved


def test_a_step_moves_the_outputs_alike_at_every_number_of_calls():
    at_8, at_16 = change(8), change(16)
    assert at_16(1e-3) / at_8(1e-3) == pytest.approx(1, abs=0.05)
    assert at_16(2e-3) / at_8(1e-3) > 1.7           # as with SGD's factor of weights that are a block's own


@pytest.mark.parametrize("alpha, calls, text", [
    (None, (2, 4), "called 4 times in '~', at the base 2: a difference in depth"),
    (0.5, (2, 4), "take depth_alpha=1.0 in place of 0.5"),
    (1.0, (4, 2), "a base can't have more blocks than its target")])
def test_what_cannot_be_right_is_an_error_at_the_line_of_the_layer(alpha, calls, text):
    with pytest.raises(haiku_mup.MupError, match=text) as found:
        capture(*map(model, calls), haiku_mup.maximal_update(depth_alpha=alpha))
    assert str(found.value).startswith("'linear/w': ") and "jnp.tanh(layer(x))" in found.value.__notes__[0]


@pytest.mark.parametrize("alpha, calls", [(None, (2, 2)), (0.5, (2, 2)), (0.0, (2, 4)), (0.0, (4, 2))])
def test_what_is_right_is_as_it_was(alpha, calls):
    base, target = map(model, calls)
    mup, params = capture(base, target, haiku_mup.maximal_update(depth_alpha=alpha)), target.init(KEY, X)
    np.testing.assert_array_equal(mup.wrap_model(target).apply(params, None, X), target.apply(params, None, X))


def stacked(x, n):
    with haiku_mup.apply_mup():
        block = hk.remat(lambda x: haiku_mup.residual(x, hk.Linear(3)))
        return hk.layer_stack(n)(block)(x)


def numbered(x, n):
    with haiku_mup.apply_mup():
        for i in range(n):
            with hk.name_scope(f"block_{i}"):
                x = haiku_mup.residual(x, hk.Linear(3))
        return x


@pytest.mark.parametrize("function", [stacked, numbered])
def test_blocks_that_repeat_are_counted_once(function):
    base, target = model(1, function), model(4, function)
    mup = capture(base, target, COMPLETE)
    params = target.init(KEY, X)
    assert {row.depth for row in mup.table()} == {4.0}
    blocks = list(params.values()) if function is numbered else [
        jax.tree.map(lambda x, i=i: x[i], *params.values()) for i in range(4)]
    expected = np.asarray(X)
    for block in jax.tree.map(np.asarray, blocks):
        expected = expected + (expected @ block["w"] + block["b"]) / 4
    np.testing.assert_allclose(mup.wrap_model(target).apply(params, None, X), expected, **ROUNDED)


def test_a_model_that_is_initialised_twice_calls_no_more_often():
    mup, base, target = haiku_mup.Mup(parametrization=COMPLETE), model(2), model(4)
    with mup.init_base():
        for key in (KEY, jax.random.PRNGKey(2)):
            base.init(key, X)
    with mup.init_target():
        params = target.init(KEY, X)
    once = capture(base, target, COMPLETE)
    np.testing.assert_array_equal(mup.wrap_model(target).apply(params, None, X),
                                  once.wrap_model(target).apply(params, None, X))


def test_a_file_keeps_the_calls():
    base, target = model(2), model(4)
    mup = capture(base, target, COMPLETE)
    loaded, state = haiku_mup.Mup.from_state_dict(mup.state_dict()), mup.state_dict()
    with loaded.init_target():
        params = target.init(KEY, X)
    np.testing.assert_array_equal(loaded.wrap_model(target).apply(params, None, X),
                                  mup.wrap_model(target).apply(params, None, X))
    assert state["branch_calls"] == {"~": 2}
    with pytest.raises(haiku_mup.MupError, match="the head: was changed"):
        haiku_mup.Mup.from_state_dict(state | {"branch_calls": {"~": 3}})
