"""Runs an optimizer on synthetic arrays of chosen sizes: several runs side by side."""
import contextlib
import dataclasses
import enum
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

from haiku_mup.optimizers.numpy_evaluation import numpy_function
from haiku_mup.optimizers.trees import named_leaves
from haiku_mup.parameters.jaxprs import is_literal
from haiku_mup.parameters.tree_paths import is_masked

# Runs end when each parameter has moved in MOVING_STEPS steps, or has rested for longer than PATIENCE steps
# plus twice its longest pause so far; and after STEPS steps, since warm-up and accumulation may take many.
MOVING_STEPS, PATIENCE, STEPS = 9, 64, 4096
FEW = 8                 # up to so many runs go one after another; more are vectorized
GROWTH = 10.0 ** np.arange(-4, 5)       # multipliers of growing gradients, step by step, over and over
Flat: TypeAlias = list[Any]     # the leaves of a tree


class RunShape(enum.Enum):
    """The shapes of the arrays that an optimizer is run on."""

    SMALL = enum.auto()     # 2 × 2 × …
    OBLONG = enum.auto()    # 3 × 5 × 7 × …
    TRUE = enum.auto()      # those of the parameters

    def of(self, shape: Sequence[int]) -> tuple[int, ...]:
        """Returns the shape in place of a parameter's. Axes of size 1 stay as they are.

        >>> RunShape.SMALL.of((64, 1, 8)), RunShape.OBLONG.of((64, 1, 8)), RunShape.TRUE.of((64, 1, 8))
        ((2, 1, 2), (3, 1, 7), (64, 1, 8))
        """
        if self is RunShape.TRUE:
            return tuple(shape)
        sizes = [2] * len(shape) if self is RunShape.SMALL else range(3, 3 + 2 * len(shape), 2)
        return tuple(min(n, 1) if n < 2 else size for n, size in zip(shape, sizes))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Run:
    """One run of an optimizer. Parameters stay as they are, and so do gradients, unless they grow.

    Attributes:
      params: the size of all parameters.
      gradient: the size of all gradients.
      first_entry: multipliers of the first entry of each parameter and of each gradient.
      initial: the size of the parameters that the state was made for; None for that of `params`.
      grows: whether gradients are multiplied by `GROWTH` from step to step.
    """

    params: float
    gradient: float = 0.0
    first_entry: tuple[float, float] = (1.0, 1.0)
    initial: float | None = None
    grows: bool = False


@dataclasses.dataclass(frozen=True)
class Updates:
    """The updates of all runs for one parameter.

    Attributes:
      first: [runs, n]; each run's first update that is not zero.
      last: [runs, n]; each run's latest that is not zero.
      history: [steps, runs, n]; all updates of steps that moved it in any run, for the first so many.
    """

    first: np.ndarray
    last: np.ndarray
    history: np.ndarray


def try_runs(optimizer: Any, tree: Any, runs: Sequence[Run], shapes: RunShape,
             moving_steps: int = MOVING_STEPS, *, traced: float | None = None) -> dict[str, Updates]:
    """Runs an optimizer, and returns its updates by the names of parameters.

    It takes several steps, since warm-up and accumulation begin with updates of zero, and a few optimizers turn
    to Adam later on.

    Args:
      optimizer: an optax optimizer that takes extra arguments.
      tree: of parameters' shapes.
      runs: what to try.
      shapes: the shapes of the arrays.
      moving_steps: the number of steps that move each parameter.
      traced: takes the place of the optimizer's hyperparameters whose values are traced.

    Raises:
      Exception: whatever the optimizer raises, as it needs other parameters or arguments than these.

    >>> import optax
    >>> shapes = {"linear": {"w": jax.ShapeDtypeStruct((8, 8), "float32")}}
    >>> sgd = optax.with_extra_args_support(optax.sgd(0.5))
    >>> try_runs(sgd, shapes, [Run(params=1.0, gradient=2.0)], RunShape.SMALL)["linear/w"].last
    array([[-1., -1., -1., -1.]], dtype=float32)
    """
    def arrays(size: Callable[[Run], float], which: int) -> list[np.ndarray]:
        """Returns an array [runs, *shape] for each leaf."""
        return [np.stack([_filled(shapes.of(x.shape), size(run), run.first_entry[which]) for run in runs])
                for x in jax.tree.leaves(tree)]

    names = [name for name, x in named_leaves(tree) if not is_masked(x)]
    params = arrays(lambda run: run.params, 0)
    initial = arrays(lambda run: run.params if run.initial is None else run.initial, 0)
    gradients = arrays(lambda run: run.gradient, 1)
    programs = _traced(optimizer, jax.tree.structure(tree), params, traced)
    state, logs = programs.init(initial), [_UpdateLog(len(runs), moving_steps) for _ in params]
    for step in range(STEPS):
        growth = np.array([GROWTH[step % len(GROWTH)] if run.grows else 1.0 for run in runs], np.float32)
        grown = [g * growth.reshape(-1, *[1] * (g.ndim - 1)) for g in gradients]
        old = state
        updates, state = programs.update(grown, old, params)
        for log, update in zip(logs, updates):
            log.add(update.reshape(len(runs), -1))
        if all(log.is_full or not (moves and x.size) for log, moves, x in zip(logs, programs.moves, params)):
            break
        if step % PATIENCE == PATIENCE - 1 and _same(old, state):       # all that follows is like this
            break
    return {name: log.updates(np.zeros(x.shape).reshape(len(runs), -1))
            for name, log, x in zip(names, logs, params)}


def _filled(shape: tuple[int, ...], value: float, first: float) -> np.ndarray:
    """Returns an array of one value, but for its first entry, which is multiplied."""
    array = np.full(shape, value, np.float32)
    array.flat[:1] *= first
    return array


def _same(old: Sequence[Any], new: Sequence[Any]) -> bool:
    """Returns whether two states are equal."""
    pairs = list(zip(jax.tree.leaves(old), jax.tree.leaves(new)))
    return all(isinstance(x, np.ndarray) and np.array_equal(x, y) for x, y in pairs)


class _UpdateLog:
    """Keeps the updates of one parameter, [runs, n] at each step."""

    def __init__(self, runs: int, moving_steps: int):
        self.history: list[np.ndarray] = []
        self._moving_steps = moving_steps
        self._seen = np.zeros(runs, bool)
        self._first: Any = None
        self._last: Any = None
        self._still = self._longest = 0     # steps without a move: latest ones, and those before a move

    @property
    def is_full(self) -> bool:
        """Returns whether further steps would show nothing new."""
        return len(self.history) >= self._moving_steps or (
            bool(self.history) and self._still > PATIENCE + 2 * self._longest)

    def add(self, update: np.ndarray) -> None:
        """Adds the update of one step."""
        moved = update.any(axis=1)
        if not moved.any():
            self._still += 1
            return
        self._still, self._longest = 0, max(self._still, self._longest)
        if self._first is None:
            self._first, self._last = np.zeros_like(update), np.zeros_like(update)
        new = moved & ~self._seen
        self._first[new], self._last[moved] = update[new], update[moved]
        self._seen |= moved
        if len(self.history) < self._moving_steps:
            self.history.append(update)

    def updates(self, zeros: np.ndarray) -> Updates:
        """Returns what was kept; zeros if nothing moved."""
        if self._first is None:
            return Updates(zeros, zeros, zeros[None])
        return Updates(self._first, self._last, np.stack(self.history))


# --- the optimizer's traced programs ---

@dataclasses.dataclass(frozen=True)
class _Programs:
    """An optimizer's functions for all runs, from flat arrays [runs, ...] to flat arrays.

    Attributes:
      init: from parameters to a state.
      update: from gradients, state and parameters to updates and a state.
      moves: whether each update depends on anything, rather than being a constant.
    """

    init: Callable[[Flat], list[Any]]
    update: Callable[[Flat, list[Any], Flat], tuple[Flat, list[Any]]]
    moves: list[bool]


def _traced(optimizer: Any, tree: Any, params: list[np.ndarray], traced: float | None) -> _Programs:
    """Traces an optimizer: vectorized over many runs, or for a single run if there are few, which is faster."""
    def shapes(of: Callable[[np.ndarray], tuple[int, ...]]) -> Any:
        return jax.tree.unflatten(tree, [jax.ShapeDtypeStruct(of(x), x.dtype) for x in params])

    if len(params[0]) > FEW:
        with contextlib.suppress(Exception):    # a callback, say, that has no batching rule
            batch = shapes(lambda x: x.shape)
            init, state = _trace_init(optimizer, batch, jax.vmap, traced)
            return _Programs(init, *_trace_update(optimizer, batch, state, jax.vmap, traced))
    return _one_by_one(optimizer, shapes(lambda x: x.shape[1:]), traced)


def _one_by_one(optimizer: Any, shapes: Any, traced: float | None) -> _Programs:
    """Traces an optimizer for one run."""
    try:
        one_init, state = _trace_init(optimizer, shapes, lambda f: f, traced)
    except Exception:           # an init that needs values
        def start(run: Flat) -> Any:
            with jax.ensure_compile_time_eval():
                return optimizer.init(jax.tree.unflatten(jax.tree.structure(shapes), map(jnp.asarray, run)))

        state = start([jnp.zeros(x.shape, x.dtype) for x in jax.tree.leaves(shapes)])

        def one_init(run: Flat) -> Flat:
            return jax.tree.leaves(start(run))

    one_update, moves = _trace_update(optimizer, shapes, state, lambda f: f, traced)

    def init(params: Flat) -> list[Flat]:
        return [one_init(list(run)) for run in zip(*params)]

    def update(gradients: Flat, states: list[Flat], params: Flat) -> tuple[Flat, list[Flat]]:
        updates, new = zip(*map(one_update, zip(*gradients), states, zip(*params)))
        return [np.stack(leaves) for leaves in zip(*updates)], list(new)

    return _Programs(init, update, moves)


def _trace_init(optimizer: Any, params: Any, vectorized: Callable[[Any], Any],
                  traced: float | None) -> tuple[Callable[[Flat], Flat], Any]:
    """Traces an optimizer's init; returns it, and the shapes of the state."""
    program, state = _flat_program(vectorized(optimizer.init), params)
    function = numpy_function(program, traced)
    return lambda params: function(*params), state


def _trace_update(optimizer: Any, params: Any, state: Any, vectorized: Callable[[Any], Any],
                    traced: float | None) -> tuple[Callable[..., tuple[Flat, Flat]], list[bool]]:
    """Traces an optimizer's update; returns it, and whether each of its updates depends on anything."""
    def step(gradients: Any, state: Any, params: Any) -> Any:
        return optimizer.update(gradients, state, params, value=1.0)

    program, _ = _flat_program(vectorized(step), params, state, params)
    function, n = numpy_function(program, traced), len(jax.tree.leaves(params))

    def update(gradients: Iterable[Any], state: Iterable[Any], params: Iterable[Any]) -> tuple[Flat, Flat]:
        out = function(*gradients, *state, *params)
        return out[:n], out[n:]

    return update, _depends(program.jaxpr)[:n]


def _flat_program(function: Callable[..., Any], *shapes: Any) -> tuple[Any, Any]:
    """Traces a function; returns its program, and the shapes of its result.

    Functions of jnp that are jitted would be programs inside, and take a third of the time.
    """
    with jax.disable_jit():
        return jax.make_jaxpr(function, return_shape=True)(*shapes)


def _depends(jaxpr: Any) -> list[bool]:
    """Returns whether each result of a program depends on any of its arguments."""
    found = set(jaxpr.invars)
    for equation in jaxpr.eqns:
        if any(v in found for v in equation.invars if not is_literal(v)):
            found |= set(equation.outvars)
    return [not is_literal(v) and v in found for v in jaxpr.outvars]
