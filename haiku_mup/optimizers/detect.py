"""Finds out what an optimizer does, by trying it on a few numbers."""
import enum
import functools
from collections.abc import Iterable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from haiku_mup.errors import MupError
from haiku_mup.optimizers.trees import is_masked, named_leaves
from haiku_mup.optimizers.wrapper import extra_args, inside
from haiku_mup.rules.optimizers import Behaviour

SMALL_GRADIENT = 1e-3       # the size of gradients in a trial: below what clips clip
MOVING_STEPS = 8            # a trial ends after more than so many steps that moved something, …
STEPS = 64                  # … or after so many steps


class Decay(enum.StrEnum):
    """The kind of an update that an optimizer makes without a gradient."""

    LINEAR = "linear"       # it takes away a part of the parameter
    COUPLED = "coupled"     # anything else, such as an L2 term that Adam normalises


class Traits(NamedTuple):
    """The traits of an optimizer, as it treats one parameter.

    Attributes:
      behaviour: how its updates depend on gradients and on the parameter; None if that is unclear.
      decay: what it does without a gradient; None for nothing.
    """

    behaviour: Behaviour | None = None
    decay: Decay | None = None


class Updates(NamedTuple):
    """The updates of one run, a flat array [n] for each leaf.

    Attributes:
      first: the first update of the leaf that is not zero.
      last: the latest that is not zero.
    """

    first: list[np.ndarray]
    last: list[np.ndarray]


def find_traits(optimizer: Any, trees: Iterable[Any]) -> dict[str, Traits]:
    """Finds what an optimizer does with each parameter of a tree, by name; {} if it can't be tried.

    Args:
      optimizer: an optax optimizer.
      trees: trees of parameters' shapes, to be tried one after another until one works. The optimizer gets
        small arrays of these names and ranks.

    >>> shapes = {"linear": {"w": jax.ShapeDtypeStruct((8, 8), "float32")}}
    >>> import optax
    >>> [str(find_traits(optimizer, [shapes])["linear/w"].behaviour) for optimizer in (
    ...     optax.sgd(0.1, momentum=0.9), optax.adamw(1e-3), optax.lamb(1e-3), optax.contrib.muon(1e-3))]
    ['SGD', 'Adam', 'by norm', 'neither']
    """
    inner = extra_args(optimizer)
    found: dict[str, Traits] = {}
    for tree in trees:
        try:
            with inside(), jax.ensure_compile_time_eval():
                found = _try_on(inner, tree)
        except (MupError, Warning):     # a warning that was made an error
            raise
        except Exception:       # it needs other parameters than these, or has a traced learning rate
            continue
        if any(traits.behaviour for traits in found.values()):
            break
    return found


def _try_on(optimizer: Any, tree: Any) -> dict[str, Traits]:
    """Runs an optimizer at parameters and gradients of a few sizes, and compares its updates for each leaf."""
    run = functools.partial(_run, optimizer, jax.jit(optimizer.update), tree)
    names = [name for name, x in named_leaves(tree) if not is_masked(x)]
    # By the size of parameters: 0, 1 and 2.
    none = [run(params, 0.0) for params in (0.0, 1.0, 2.0)]
    small = [run(params, SMALL_GRADIENT) for params in (0.0, 1.0, 2.0)]
    large = [run(params, 2 * SMALL_GRADIENT) for params in (0.0, 1.0)]
    other = run(1.0, SMALL_GRADIENT, first_entry=(4.0, 2.0))

    def of_leaf(i: int) -> Traits:
        def sizes(runs: list[Updates], which: str = "last") -> list[float]:     # beside those without gradients
            return [np.abs(getattr(u, which)[i] - np.nan_to_num(getattr(v, which)[i])).sum()
                    for u, v in zip(runs, none)]

        behaviour = _behaviour(sizes(small), sizes(large), [np.abs(u.last[i]).sum() for u in small],
                               _mixes(small[1].last[i], other.last[i]))
        # Some begin as SGD and turn to Adam, as RAdam does: their first update tells.
        if behaviour is Behaviour.ADAM_LIKE and _answer(
                sizes(small, "first")[0], sizes(large, "first")[0]) is Behaviour.SGD_LIKE:
            behaviour = Behaviour.BETWEEN
        return Traits(behaviour, _decay(*(u.last[i] for u in none)))

    return {name: of_leaf(i) for i, name in enumerate(names)}


def _behaviour(small: list[float], large: list[float], whole: list[float], mixes: bool) -> Behaviour | None:
    """Judges the sizes of updates at parameters of 0, 1 and 2.

    Args:
      small: with small gradients, without what is done with no gradient.
      large: the same with gradients twice as large.
      whole: with small gradients, and a decay in them: a norm may be taken of both together.
      mixes: whether an entry's update depends on other entries.
    """
    # A decay doubles with the parameter, too, so the whole update tells of a norm only if entries mix.
    if any(at_one > 0 and abs(at_two / at_one - 2) < 0.02 for _, at_one, at_two in (small, whole)[:1 + mixes]):
        return Behaviour.BY_NORM
    if mixes:
        return Behaviour.NOT_ENTRYWISE
    at_zero, at_one = (_answer(a, b) for a, b in zip(small, large))
    return at_zero if at_one in (at_zero, None) else None       # a large L2 term, or a clip by p's norm


def _answer(small: float, large: float) -> Behaviour | None:
    """Judges how the size of an update answers to twice the gradient."""
    if small == 0 or large == 0 or 1.1 < large / small < 1.9:
        return None
    return Behaviour.ADAM_LIKE if large < 1.5 * small else Behaviour.SGD_LIKE


def _mixes(update: np.ndarray, other: np.ndarray) -> bool:
    """Returns whether the entries behind the first one moved, too, when the first one's gradient changed."""
    return not np.allclose(update[1:], other[1:], rtol=1e-2, atol=1e-3 * np.abs(update).max(initial=0.0))


def _decay(at_zero: np.ndarray, at_one: np.ndarray, at_two: np.ndarray) -> Decay | None:
    """Judges updates without a gradient, at parameters of 0, 1 and 2."""
    if at_zero.any() or not at_one.any():       # noise, or no numbers; or nothing
        return None
    return Decay.LINEAR if np.allclose(at_two, 2 * at_one, rtol=0.05) else Decay.COUPLED


def _run(optimizer: Any, update: Any, tree: Any, params: float, gradients: float,
         first_entry: tuple[float, float] = (1.0, 1.0)) -> Updates:
    """Runs an optimizer at parameters and gradients of one size each, which stay as they are.

    It takes several steps, since warm-up and accumulation begin with updates of zero, and a few optimizers turn
    to Adam later on.

    Args:
      optimizer: the optimizer.
      update: its update function, jitted.
      tree: of shapes.
      params, gradients: the sizes.
      first_entry: multipliers of the first entry of each parameter and of each gradient. They differ, so that
        the ratio of norms changes.
    """
    def full(value: float, first: float) -> Any:
        def leaf(x):
            array = np.full([min(n, 2) for n in x.shape], value, np.float32)
            array.flat[:1] *= first
            return jnp.asarray(array)
        return jax.tree.map(lambda x: x if is_masked(x) else leaf(x), tree, is_leaf=is_masked)

    params, gradients = (full(*of) for of in zip((params, gradients), first_entry))
    first: list[np.ndarray] = []
    last: list[np.ndarray] = []
    state, moving = optimizer.init(params), 0
    for _ in range(STEPS):
        tree_of_updates, state = update(gradients, state, params, value=1.0)
        latest = [np.asarray(u, np.float64).ravel() for u in jax.tree.leaves(tree_of_updates)]
        first = [v if v.any() else u for u, v in zip(latest, first or latest)]
        last = [u if u.any() else v for u, v in zip(latest, last or latest)]
        moving += any(u.any() for u in latest)
        if moving > MOVING_STEPS:
            break
    return Updates(first, last)
