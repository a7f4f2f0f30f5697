"""Constants of optimizers that can't be: errors that name them, from adamw and from RunScale."""
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from small_models import KEY, MODELS, captured, mlp

import haiku_mup

X = MODELS["mlp"][1]
SCHEDULE = optax.linear_schedule(0.1, 0.01, 3)
NAN = float("nan")
WRONG = [
    *(("clip", x, "above 0") for x in (-1.0, 0, NAN, "1", True, SCHEDULE)),
    *((name, x, "from 0 up, or a schedule") for name in ("learning_rate", "weight_decay")
      for x in ("1e-3", None, -0.1, NAN, float("inf"), np.float32(-1))),
    *((name, x, "from 0 to below 1") for name in ("b1", "b2") for x in (1, 1.5, -0.1, NAN, "0.9", None)),
    *((name, x, "from 0 up") for name in ("eps", "eps_root") for x in (-1e-8, NAN, "1e-8"))]


@pytest.mark.parametrize("name, value, text", WRONG)
def test_what_is_no_constant_is_refused_by_name(name, value, text):
    arguments = {"learning_rate": 0.1} | {name: value}
    for use in (lambda: haiku_mup.adamw(captured(mlp, X), **arguments),
                lambda: haiku_mup.RunScale(batch_ratio=2, betas="half_life").adamw(**arguments)):
        with pytest.raises(haiku_mup.MupError, match=rf"(adamw|RunScale): {name}=.*: give a number {text}"):
            use()
        if name == "clip":
            break               # which RunScale doesn't take


@pytest.mark.parametrize("arguments", [
    {"clip": 1}, {"clip": None}, {"clip": np.float32(0.5)}, {"clip": float("inf")}, {"b1": 0, "b2": 0.0},
    {"eps": 0, "eps_root": 1e-16}, {"weight_decay": 0}, {"learning_rate": 0}, {"learning_rate": SCHEDULE},
    {"learning_rate": np.float64(0.1), "weight_decay": SCHEDULE}])
def test_what_is_one_is_taken(arguments):
    assert haiku_mup.adamw(captured(mlp, X), **{"learning_rate": 0.1} | arguments)


def close(a, b):
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-9), a, b)


def test_constants_may_be_traced():
    """An array whose value is known is judged by it."""
    mup, params = captured(mlp, X), mlp(32).init(KEY, X)

    def of(lr, decay, clip):
        return haiku_mup.adamw(mup, lr, weight_decay=decay, clip=clip)

    def update(lr, decay, clip):
        optimizer = of(lr, decay, clip)
        return optimizer.update(params, optimizer.init(params), params)[0]

    close(jax.jit(update)(0.1, 0.3, 1.0), update(0.1, 0.3, 1.0))
    injected = optax.inject_hyperparams(of)(lr=0.1, decay=0.3, clip=1.0)
    state = jax.jit(injected.init)(params)
    close(jax.jit(injected.update)(params, state, params)[0], update(0.1, 0.3, 1.0))
    with pytest.raises(haiku_mup.MupError, match="adamw: clip=Array"):
        of(0.1, 0.3, jnp.array(-1.0))
