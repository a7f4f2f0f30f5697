"""Compiles a trial in two parts: its draws, which depend on the seed alone, and its training."""
import functools
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from haiku_mup.coordinates.compilation import (
    FAST_OPTIONS,
    FASTEST_OPTIONS,
    compile_fast,
    is_worth_optimizing,
    user_sets_level,
)
from haiku_mup.parameters.jaxprs import is_literal

KEPT_BYTES = 32 * 2**20         # of drawn arrays, for seeds that come again with another learning rate
SEEDS = 10                      # about so many are drawn, each once


class SplitTrial:
    """The compiled trial of a program, which draws once for trials of equal seeds.

    Draws take half of the time to compile where they are optimized as training is, and run once for many steps.

    Args:
      jaxpr: the program of a trial, of a seed and hyperparameters, without effects.
      chunk: how many trials run side by side.
      args: the program's constants, seeds [chunk], and each hyperparameter's values [chunk].
      options: those of XLA, for training.

    >>> jaxpr = jax.make_jaxpr(lambda seed, lr: [lr * jax.random.normal(jax.random.key(seed))])(0, 0.5).jaxpr
    >>> args = [], np.arange(2, dtype=np.int32), np.ones(2, np.float32)
    >>> [x.shape for x in SplitTrial(jaxpr, 2, args, {})(*args)]
    [(2,)]
    """

    def __init__(self, jaxpr: Any, chunk: int, args: Sequence[Any], options: Mapping[str, Any]):
        consts, seeds, *values = args
        draws, training = split_draws(jaxpr)

        def draw(consts, seed):
            return jax.core.eval_jaxpr(draws, consts, seed)

        def train(consts, drawn, *values):
            return jax.core.eval_jaxpr(training, consts, *drawn, *values)

        lowered = jax.jit(side_by_side(draw, chunk)).lower(consts, seeds)
        self._draw = compile_fast(lowered, _options_for(draws))
        self._train = compile_fast(
            jax.jit(side_by_side(train, chunk)).lower(consts, lowered.out_info, *values), options)
        self._drawn: dict[bytes, list[Any]] = {}        # by the seeds; the latest ones, up to KEPT_BYTES
        self._bytes = 0
        self._lock = threading.Lock()                   # executors may run trials in threads

    def __call__(self, consts: Sequence[Any], seeds: np.ndarray, *values: Any) -> list[Any]:
        """Returns the program's results for each trial, [chunk, …]."""
        key = seeds.tobytes()
        drawn = self._drawn.get(key) or self._draw(consts, seeds)
        self._keep(key, drawn)
        results: list[Any] = self._train(consts, drawn, *values)
        return results

    def _keep(self, key: bytes, drawn: list[Any]) -> None:
        """Keeps what was drawn for some seeds, and drops the oldest beyond the limit."""
        with self._lock:
            if self._drawn.pop(key, None) is None:
                self._bytes += _nbytes(drawn)
            self._drawn[key] = drawn
            while self._bytes > KEPT_BYTES:
                self._bytes -= _nbytes(self._drawn.pop(next(iter(self._drawn))))


def _nbytes(arrays: Sequence[Any]) -> int:
    return sum(x.nbytes for x in arrays)


def side_by_side(function: Callable[..., Any], chunk: int) -> Callable[..., Any]:
    """Maps a function of constants and one trial's arguments over `chunk` trials, along a leading axis.

    >>> side_by_side(lambda consts, x: consts[0] * x, 2)([3.0], jnp.array([1.0, 2.0]))
    Array([3., 6.], dtype=float32)
    """
    def one(consts, *args):     # without vmap, under which a while loop selects between states at each step
        return jax.tree.map(lambda x: x[None], function(consts, *jax.tree.map(lambda x: x[0], args)))

    def many(consts, *args):
        return jax.vmap(functools.partial(function, consts))(*args)

    return many if chunk > 1 else one


def _options_for(draws: Any) -> Mapping[str, Any]:
    """Returns the options of XLA to compile draws with."""
    if user_sets_level():
        return {}
    return FAST_OPTIONS if is_worth_optimizing(draws, calls=SEEDS) else FASTEST_OPTIONS


def split_draws(jaxpr: Any) -> tuple[Any, Any]:
    """Splits the program of a trial into one for the seed and one for the hyperparameters.

    What depends on neither, such as a constant, is in both.

    Args:
      jaxpr: a program without effects, of a seed and hyperparameters.

    Returns:
      Two jaxprs: from the seed to what it alone decides, such as initial parameters and the order of batches;
      and from that, followed by the hyperparameters, to the results. Both take the constants of the whole.

    >>> def trial(seed, lr):
    ...     x = jax.random.normal(jax.random.key(seed), (3,))
    ...     return x - lr * x**2
    >>> draws, training = split_draws(jax.make_jaxpr(trial)(0, 0.5).jaxpr)
    >>> [v.aval.shape for v in draws.outvars], [v.aval.shape for v in training.invars]
    ([(3,), (3,)], [(3,), (3,), ()])
    """
    seed, *hyperparameters = jaxpr.invars
    of_seed, of_hyperparameters = {seed}, set(hyperparameters)
    draws, training = [], []
    for equation in jaxpr.eqns:
        operands = {operand for operand in equation.invars if not is_literal(operand)}
        if operands & of_hyperparameters:
            training.append(equation)
            of_hyperparameters.update(equation.outvars)
        else:
            draws.append(equation)
            if operands & of_seed:
                of_seed.update(equation.outvars)
            else:
                training.append(equation)
    read = [operand for equation in training for operand in equation.invars] + jaxpr.outvars
    passed = list(dict.fromkeys(operand for operand in read if not is_literal(operand) and operand in of_seed))
    return (jaxpr.replace(eqns=draws, invars=[seed], outvars=passed),
            jaxpr.replace(eqns=training, invars=[*passed, *hyperparameters]))
