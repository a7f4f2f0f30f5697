"""Finds what kind of optimizer a black box is, by running it on a few numbers."""
import enum
import functools
import math
from collections.abc import Iterable
from typing import Any, NamedTuple

import jax
import numpy as np

from haiku_mup.errors import MupError
from haiku_mup.optimizers.synthetic_runs import Run, RunShape, Updates, try_runs
from haiku_mup.optimizers.value_dependence import depends_on_value
from haiku_mup.optimizers.wrapper import extra_args, inside
from haiku_mup.rules.optimizers import Behaviour

SMALL_GRADIENT = 1e-3       # the size of synthetic gradients: too small for usual clips to act
TINY_GRADIENT = 1e-6        # a second size: a power law has the same exponent at both, unless ε interferes
LARGE_GRADIENT = 1e4        # a third: large enough for usual clips
TRACED = 1e-7, 0.1          # in place of traced values: as an ε, the one is small; both may be rates
LARGEST = 2**18             # the most entries, of all parameters together, to try in their true shapes

_SIZES = (0.0, 1.0, 2.0)    # of parameters
LOW, HIGH = 0.01, 1e4       # others: smaller than Adam's updates before their rate, and larger than any bound
_VALUES = LOW, 1.0, 10.0    # that show whether an entry's value matters
_RUNS = {
    "none": [Run(params=p) for p in _SIZES],
    "small": [Run(params=p, gradient=SMALL_GRADIENT) for p in _SIZES],
    "twice": [Run(params=p, gradient=2 * SMALL_GRADIENT) for p in _SIZES[:2]],
    "tiny": [Run(params=p, gradient=TINY_GRADIENT) for p in _SIZES[:2]],
    "twice tiny": [Run(params=p, gradient=2 * TINY_GRADIENT) for p in _SIZES[:2]],
    # First entries of parameters and of gradients differ from the others, so that ratios of norms change, too.
    "other": [Run(params=1.0, gradient=SMALL_GRADIENT, first_entry=(4.0, 2.0))],
    "growing": [Run(params=1.0, gradient=1.0, grows=True, first_entry=(first, 1.0)) for first in (1.0, 4.0)],
    "elsewhere": [Run(params=p, initial=0.0) for p in _SIZES[1:]],
    "low": [Run(params=p, gradient=g) for g in (0.0, SMALL_GRADIENT) for p in (LOW, 2 * LOW)],
    "high": [Run(params=HIGH)],
    "large": [Run(params=1.0, gradient=LARGE_GRADIENT, first_entry=(1.0, first)) for first in (1.0, 4.0)],
    "twice large": [Run(params=1.0, gradient=2 * LARGE_GRADIENT)],
    "values": [Run(params=p, gradient=g) for g in (0.0, SMALL_GRADIENT, -SMALL_GRADIENT) for p in _VALUES],
}
_FEW_RUNS = [run for pair in zip(_RUNS["none"][:2], _RUNS["small"]) for run in pair]
_ALL_RUNS = list(dict.fromkeys(run for group in _RUNS.values() for run in group))          # each once
_GROUPS = {name: [_ALL_RUNS.index(run) for run in group] for name, group in _RUNS.items()}


# Behaviours of an optimizer that works entry by entry, or of which that doesn't show.
ENTRYWISE = (None, Behaviour.BETWEEN, Behaviour.SGD_LIKE, Behaviour.ADAM_LIKE)


class Decay(enum.StrEnum):
    """The kind of an update that an optimizer makes without a gradient."""

    LINEAR = "linear"       # it takes away a part of the parameter
    COUPLED = "coupled"     # it is normalised together with gradients, as an L2 term in front of Adam is
    NONLINEAR = "nonlinear" # anything else: an L1 term, a box, a projection


class Drift(enum.StrEnum):
    """The kind of an update that an optimizer makes without a gradient at parameters of zero."""

    NOISE = "noise"         # it doesn't depend on the parameter: noise, or an accumulator that starts elsewhere
    PULL = "pull"           # it goes with a decay, towards other values than zero


class Clip(enum.StrEnum):
    """The kind of a clip that acts at large gradients."""

    BY_NORM = "by norm"     # a large gradient of one entry makes the updates of others smaller
    BY_ENTRY = "by entry"   # SGD's updates stop growing


class Traits(NamedTuple):
    """The traits of an optimizer, as it treats one parameter.

    Attributes:
      behaviour: how its updates depend on gradients and on the parameter; None if that is unclear.
      decay: what it does without a gradient; None for nothing.
      drift: what it does without a gradient at parameters of zero; None for nothing.
      shape_factor: how much larger its updates are for an oblong array than for a square one; None for equal.
      clip: how large gradients are clipped; None for not at all, or by what divides gradients by their size.
      by_value: whether an entry's own value changes the size of what gradients do to it, otherwise than as a
        norm would.
      keeps_norm: whether the norm of its updates is one number, whatever the gradient.
    """

    behaviour: Behaviour | None = None
    decay: Decay | None = None
    drift: Drift | None = None
    shape_factor: float | None = None
    clip: Clip | None = None
    by_value: bool = False
    keeps_norm: bool = False

    def is_like(self, other: "Traits") -> bool:
        """Returns whether two traits are of one kind."""
        return (self[:3] == other[:3] and (self.shape_factor is None) == (other.shape_factor is None)
                and self[4:] == other[4:])


class CannotTry(Exception):
    """Signals an optimizer that can't be tried.

    Attributes:
      is_traced: whether what it does depends on a value that is traced; otherwise it works on parameters of
        their true shapes alone, which are too large to try.
    """

    def __init__(self, is_traced: bool = False):
        super().__init__()
        self.is_traced = is_traced


def find_traits(optimizer: Any, trees: Iterable[Any]) -> dict[str, Traits]:
    """Finds what an optimizer does with each parameter of a tree, by name; {} if nothing shows.

    Values of hyperparameters that are traced, such as a learning rate under jit, are not known. So two others
    take their place; what an optimizer does with both, it does with the true ones.

    Args:
      optimizer: an optax optimizer.
      trees: trees of parameters' shapes, to be tried one after another until one works. The optimizer gets
        small arrays of these names and ranks; if it needs it, arrays of these shapes.

    Raises:
      CannotTry: it works on these shapes alone, and they are too large; what it does depends on traced values.

    >>> shapes = {"linear": {"w": jax.ShapeDtypeStruct((8, 8), "float32")}}
    >>> import optax
    >>> [str(find_traits(optimizer, [shapes])["linear/w"].behaviour) for optimizer in (
    ...     optax.sgd(0.1, momentum=0.9), optax.adamw(1e-3), optax.lamb(1e-3), optax.contrib.muon(1e-3))]
    ['SGD', 'Adam', 'by norm', 'neither']
    """
    trees = list(trees)
    try:
        return _find_traits(optimizer, trees)
    except jax.errors.JAXTypeError:
        pass
    try:
        found, other = (_find_traits(optimizer, trees, value) for value in TRACED)
    except jax.errors.JAXTypeError:             # it asks whether a value is zero, say
        raise CannotTry(is_traced=True) from None
    if not all(traits.is_like(other[name]) for name, traits in found.items()):
        raise CannotTry(is_traced=True)
    return found


def _find_traits(optimizer: Any, trees: Iterable[Any], traced: float | None = None) -> dict[str, Traits]:
    """Finds what an optimizer does, with a number in place of traced values.

    Raises:
      CannotTry: it works on these shapes alone, and they are too large.
      jax.errors.JAXTypeError: it needs the value of a hyperparameter that is traced.
    """
    inner = extra_args(optimizer)
    found: dict[str, Traits] = {}
    with inside(), jax.transfer_guard("allow"):
        for shapes in (RunShape.SMALL, RunShape.TRUE):
            for tree in trees:
                if shapes is RunShape.TRUE and not _runs_on(inner, tree):
                    continue
                try:
                    found = _try_on(inner, tree, shapes, traced)
                except (MupError, Warning, CannotTry, jax.errors.JAXTypeError):     # a warning made an error
                    raise
                except Exception:       # it needs other parameters than these
                    continue
                if any(traits.behaviour for traits in found.values()):
                    return found
            if found:
                break
    return found


def _runs_on(optimizer: Any, tree: Any) -> bool:
    """Returns whether an optimizer can be traced on a tree of shapes."""
    try:
        jax.eval_shape(lambda params: optimizer.update(params, optimizer.init(params), params, value=1.0), tree)
    except Exception:
        return False
    return True


def _try_on(optimizer: Any, tree: Any, shapes: RunShape, traced: float | None) -> dict[str, Traits]:
    """Tries an optimizer on a tree of shapes."""
    if shapes is RunShape.TRUE and sum(math.prod(x.shape) for x in jax.tree.leaves(tree)) > LARGEST:
        raise CannotTry
    square = try_runs(optimizer, tree, _ALL_RUNS, shapes, traced=traced)
    try:
        oblong = {} if shapes is not RunShape.SMALL else try_runs(
            optimizer, tree, _FEW_RUNS, RunShape.OBLONG, 1, traced=traced)
    except Exception:       # it needs arrays of just these shapes
        oblong = {}
    return {name: _traits(updates)._replace(shape_factor=_shape_factor(updates, oblong.get(name)))
            for name, updates in square.items()}


# --- what updates tell ---

def _traits(updates: Updates) -> Traits:
    """Judges the updates of one parameter in all runs."""
    last = functools.partial(_group, updates.last)
    drift, decay = _without_gradient(last("none"), updates.history[:, _GROUPS["none"]][:, 0])
    if drift is None:           # a pull back to the parameters that the state was made for comes last
        decay = _kind_of_decay(updates.last) or _decay(*last("elsewhere"))
    behaviour = _behaviour(updates, decay)
    return Traits(behaviour, decay, drift, clip=_clip(updates, behaviour),
                  by_value=_by_value(last("values"), behaviour, decay),
                  keeps_norm=behaviour is Behaviour.NOT_ENTRYWISE and _keeps_norm(updates.last))


def _behaviour(updates: Updates, decay: Decay | None) -> Behaviour | None:
    """Judges how updates depend on gradients and on the parameter."""
    last, sizes = (functools.partial(of, updates.last) for of in (_group, _sizes))
    mixes = _mixes(last("small")[1], last("other")[0])
    by_norms = _of_norms(sizes("small"), np.abs(last("small")).sum(axis=1), mixes)
    if by_norms is not None:
        return by_norms
    if _differ(*updates.history[:, _GROUPS["growing"], 1:].swapaxes(0, 1)):
        return Behaviour.CLIPPED_BY_NORM
    none, low = np.split(last("low"), 2)
    bounded = _of_norms(np.array([0.0, *np.abs(low - none).sum(axis=1)]), np.zeros(3), mixes=False)
    # The norm of a small parameter bounds its update, and it isn't zero that does.
    if bounded is not None and not np.allclose(low, [[-LOW], [-2 * LOW]]):
        return bounded
    names = ("small", "twice", "tiny", "twice tiny")
    at_zero, at_one = (_answer(*(sizes(name)[at] for name in names)) for at in (0, 1))
    found = _of_answers(at_zero, at_one, decay)
    # Some begin as SGD and turn to Adam, as RAdam does: their first update tells.
    first = [_sizes(updates.first, name)[0] for name in names]
    return Behaviour.BETWEEN if (found, _answer(*first)) == (Behaviour.ADAM_LIKE, Behaviour.SGD_LIKE) else found


def _group(updates: np.ndarray, name: str) -> np.ndarray:
    """Returns the updates [runs, n] of a group of runs."""
    return updates[_GROUPS[name]]


def _sizes(updates: np.ndarray, name: str) -> np.ndarray:
    """Returns the sizes of a group's updates, [runs], beside those without a gradient."""
    found = _group(updates, name)
    none = np.nan_to_num(_group(updates, "none"))[:len(found)]
    return np.asarray(np.abs(found - none).sum(axis=1))


def _shape_factor(square: Updates, oblong: Updates | None) -> float | None:
    """Returns how much larger updates are in an oblong array; None where they are equal, or where none is."""
    if oblong is None or not oblong.first.size:         # a stack without layers has no entries
        return None
    wide = np.nan_to_num(oblong.first)
    none, small = (np.nan_to_num(_group(square.first, name)) for name in ("none", "small"))
    for size in (1, 0):         # of parameters: where norms are those of parameters, not of a floor under them
        a, b = np.abs(small[size] - none[size]).mean(), np.abs(wide[2 * size + 1] - wide[2 * size]).mean()
        if a and b and math.isfinite(b):
            return None if math.isclose(a, b, rel_tol=0.02) else float(b / a)
    return None


def _of_norms(sizes: np.ndarray, whole: np.ndarray, mixes: bool) -> Behaviour | None:
    """Judges the sizes of updates at parameters of 0, 1 and 2; None for an entrywise optimizer.

    Args:
      sizes: with gradients, without what is done with no gradient.
      whole: with a decay in them: a norm may be taken of both together.
      mixes: whether an entry's update depends on other entries.
    """
    # A decay doubles with the parameter, too, so the whole update tells of a norm only if entries mix.
    if any(at_one > 0 and abs(at_two / at_one - 2) < 0.02 for _, at_one, at_two in (sizes, whole)[:1 + mixes]):
        return Behaviour.BY_NORM
    return Behaviour.NOT_ENTRYWISE if mixes else None


def _of_answers(at_zero: Behaviour | None, at_one: Behaviour | None, decay: Decay | None) -> Behaviour | None:
    """Judges how entrywise updates answer to gradients, at parameters of 0 and 1; None if the two differ."""
    if at_zero is None or at_one is None:
        return at_zero or at_one
    # A large L2 term, or a box, may leave nothing of a gradient's update.
    return at_zero if at_zero is at_one or decay in (Decay.COUPLED, Decay.NONLINEAR) else None


def _answer(small: float, twice: float, tiny: float = 0.0, twice_tiny: float = 0.0) -> Behaviour | None:
    """Judges with which power of the gradient an update grows, from its size at a gradient and at twice that.

    If tiny gradients show the same power, it is the optimizer's. If they show another, ε or the start of an
    accumulator is near one of the sizes; then a power close to 0 or 1 already means Adam or SGD.
    """
    if not all(0 < x < math.inf for x in (small, twice)):
        return None
    power = math.log2(twice / small)
    tolerance = 0.02
    if all(0 < x < math.inf for x in (tiny, twice_tiny)) and abs(math.log2(twice_tiny / tiny) - power) > 0.05:
        tolerance = 0.1
    if abs(power) <= tolerance:
        return Behaviour.ADAM_LIKE
    return Behaviour.SGD_LIKE if abs(power - 1) <= tolerance else Behaviour.BETWEEN


def _mixes(update: np.ndarray, other: np.ndarray) -> bool:
    """Returns whether the entries behind the first one moved, too, when the first one's gradient changed."""
    return not np.allclose(update[1:], other[1:], rtol=1e-2, atol=1e-3 * np.abs(update).max(initial=0.0))


def _clip(updates: Updates, behaviour: Behaviour | None) -> Clip | None:
    """Judges how an optimizer that works entry by entry treats large gradients."""
    if behaviour not in ENTRYWISE:
        return None
    large, other = _group(updates.last, "large")
    if _mixes(large, other):
        return Clip.BY_NORM
    size, twice = (_sizes(updates.last, name)[0] for name in ("large", "twice large"))
    return Clip.BY_ENTRY if behaviour is Behaviour.SGD_LIKE and 0 < twice < 1.5 * size else None


def _by_value(updates: np.ndarray, behaviour: Behaviour | None, decay: Decay | None) -> bool:
    """Judges whether an entry's own value changes the size of its updates, in an entrywise optimizer."""
    if behaviour not in ENTRYWISE or decay in (Decay.COUPLED, Decay.NONLINEAR):     # which do, and are told
        return False
    return depends_on_value(updates.reshape(3, len(_VALUES), -1), np.array(_VALUES))


def _keeps_norm(updates: np.ndarray) -> bool:
    """Returns whether gradients of other sizes and directions make updates of one norm."""
    groups = ("none", 1), ("small", 1), ("twice", 1), ("other", 0)
    none, *others = (_group(updates, name)[at] for name, at in groups)
    norms = [float(np.linalg.norm(update - np.nan_to_num(none))) for update in others]
    return norms[0] > 0 and np.allclose(norms, norms[0], rtol=1e-2)


def _differ(history: np.ndarray, other: np.ndarray) -> bool:
    """Returns whether the updates of two runs differ at any step."""
    return not np.allclose(history, other, rtol=1e-2, atol=0.0, equal_nan=True)


# --- without a gradient ---

def _without_gradient(updates: np.ndarray, at_zero: np.ndarray) -> tuple[Drift | None, Decay | None]:
    """Judges updates without a gradient, at parameters of 0, 1 and 2, and all those at 0, step by step."""
    zero, one, two = updates
    if not np.isfinite(updates).all():
        return None, None
    decay = _decay(one - zero, two - zero)
    if not zero.any():
        return None, decay
    directions = at_zero[at_zero.any(axis=1)].astype(float)
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    if np.all(directions @ directions[0] > 0.99):
        return (Drift.PULL if decay else Drift.NOISE), decay
    is_of_parameters = np.ptp(one - zero) < 0.05 * np.abs(one - zero).max()     # which are equal; noise isn't
    return Drift.NOISE, decay if is_of_parameters else None


def _decay(at_one: np.ndarray, at_two: np.ndarray) -> Decay | None:
    """Judges updates without a gradient at parameters of 1 and 2, beside those at 0."""
    if not at_one.any() or not np.isfinite([at_one, at_two]).all():
        return None
    return Decay.LINEAR if np.allclose(at_two, 2 * at_one, rtol=0.05) else Decay.COUPLED


def _kind_of_decay(updates: np.ndarray) -> Decay | None:
    """Judges an optimizer that rests at parameters of 0 without a gradient, by what it does at others."""
    (_, one, two), low, (high,) = (_group(updates, name) for name in ("none", "low", "high"))
    found = {1.0: one, 2.0: two, LOW: low[0], 2 * LOW: low[1]}      # by the size of parameters
    if not any(update.any() for update in found.values()):
        return Decay.NONLINEAR if high.any() else None              # a wide box
    if all(np.allclose(update, size * one, rtol=0.05) for size, update in found.items()
           if np.isfinite(update).all()):
        return Decay.LINEAR
    at_low, at_one = (np.abs(found[size]).sum() for size in (LOW, 1.0))
    beside_zero, beside_one = _sizes(updates, "small")[:2]
    # What normalises an L2 term makes much of a small one, and leaves nothing of a gradient beside a large one.
    is_normalised = at_low > 0.95 * LOW * at_one > 0 and beside_one < 0.9 * beside_zero
    return Decay.COUPLED if is_normalised else Decay.NONLINEAR
