"""What kind an optimizer is: found by trying it on a few numbers, and by its state."""
import functools
from collections.abc import Iterable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from haiku_mup.errors import MupError
from haiku_mup.optimizers.trees import is_masked, named_leaves
from haiku_mup.optimizers.wrapper import extra_args, inside

SGD_LIKE, ADAM_LIKE, BETWEEN = "SGD", "Adam", "between"
BY_NORM, NOT_ENTRYWISE, UNKNOWN = "by norm", "neither", ""
LINEAR, COUPLED, NO_DECAY = "linear", "coupled", ""
FIRST, LAST = 0, 1
SMALL = 1e-3        # size of the gradients that are tried: below what clips clip


class Traits(NamedTuple):
    """What an optimizer does with one parameter.

    Attributes:
      kind: `SGD_LIKE` if twice the gradient gives twice the update, `ADAM_LIKE` if it gives the same, `BETWEEN`
        if first the one and then the other; `BY_NORM` if twice the parameter gives twice the update;
        `NOT_ENTRYWISE` if else an entry's update depends on other entries; `UNKNOWN` if it is none of these.
      decay: what it does without a gradient: `LINEAR`, a part of the parameter is taken away; `COUPLED`,
        anything else, such as an L2 term that Adam normalises; `NO_DECAY`.
    """

    kind: str = UNKNOWN
    decay: str = NO_DECAY


def traits(optimizer: Any, trees: Iterable[Any]) -> dict[str, Traits]:
    """What an optimizer does with each parameter of a tree, by name; {} where that can't be tried.

    Args:
      optimizer: an optax optimizer.
      trees: trees of parameters' shapes, to try one after another until one can be: on small arrays of these
        names and ranks.

    >>> shapes = {"linear": {"w": jax.ShapeDtypeStruct((8, 8), "float32")}}
    >>> import optax
    >>> [traits(opt, [shapes])["linear/w"].kind for opt in (
    ...     optax.sgd(0.1, momentum=0.9), optax.adamw(1e-3), optax.lamb(1e-3), optax.contrib.muon(1e-3))]
    ['SGD', 'Adam', 'by norm', 'neither']
    """
    inner = extra_args(optimizer)
    found: dict[str, Traits] = {}
    for tree in trees:
        try:
            with inside(), jax.ensure_compile_time_eval():
                found = _traits(inner, tree)
        except (MupError, Warning):     # a warning that was made an error
            raise
        except Exception:       # it wants other parameters than these, or has a traced learning rate
            continue
        if any(trait.kind for trait in found.values()):
            break
    return found


def _traits(optimizer: Any, tree: Any) -> dict[str, Traits]:
    run = functools.partial(_run, optimizer, jax.jit(optimizer.update), tree)
    names = [name for name, x in named_leaves(tree) if not is_masked(x)]
    none, small = ([run(params, size) for params in (0.0, 1.0, 2.0)] for size in (0.0, SMALL))
    large, other = [run(params, 2 * SMALL) for params in (0.0, 1.0)], run(1.0, SMALL, first=(4.0, 2.0))

    def of(i):
        def made(runs, when=LAST):
            return [np.abs(u[when][i] - np.nan_to_num(v[when][i])).sum() for u, v in zip(runs, none)]

        whole = [np.abs(u[LAST][i]).sum() for u in small]
        kind = _kind(made(small), made(large), whole, _mixed(small[1][LAST][i], other[LAST][i]))
        if kind == ADAM_LIKE and _growth(made(small, FIRST)[0], made(large, FIRST)[0]) == SGD_LIKE:
            kind = BETWEEN
        return Traits(kind, _decay(*(u[LAST][i] for u in none)))

    return {name: of(i) for i, name in enumerate(names)}


def _kind(small: list[float], large: list[float], whole: list[float], mixed: bool) -> str:
    """Of the sizes of updates with small and large gradients, at parameters of 0, 1 and 2.

    Those are without what is done with no gradient; but a norm may have a decay in it: `whole` are with it.
    """
    if any(at_one > 0 and abs(at_two / at_one - 2) < 0.02 for _, at_one, at_two in (small, whole)[:1 + mixed]):
        return BY_NORM
    if mixed:
        return NOT_ENTRYWISE
    at_zero, at_one = (_growth(a, b) for a, b in zip(small, large))
    return at_zero if at_one in (at_zero, UNKNOWN) else UNKNOWN     # a large L2, or a clip by p's norm


def _growth(small: float, large: float) -> str:
    """How the update answers to twice the gradient, beside what it is without any."""
    if small == 0 or large == 0 or 1.1 < large / small < 1.9:
        return UNKNOWN
    return ADAM_LIKE if large < 1.5 * small else SGD_LIKE


def _mixed(a: np.ndarray, b: np.ndarray) -> bool:
    """Whether other entries of an update moved along with the first one."""
    return not np.allclose(a[1:], b[1:], rtol=1e-2, atol=1e-3 * np.abs(a).max(initial=0.0))


def _decay(at_zero: np.ndarray, at_one: np.ndarray, at_two: np.ndarray) -> str:
    """What updates without a gradient do, at parameters of 0, 1 and 2."""
    if at_zero.any() or not at_one.any():       # noise, or no numbers; or nothing
        return NO_DECAY
    return LINEAR if np.allclose(at_two, 2 * at_one, rtol=0.05) else COUPLED


def _run(optimizer, update, tree, params, gradients, first=(1.0, 1.0)) -> tuple[list[np.ndarray], ...]:
    """The first update and that after some steps, leaf by leaf, at parameters and gradients of one size each.

    `first` multiplies the first entry of every parameter and of every gradient, by different numbers: a
    ratio of their norms changes.

    Warm-up and accumulation begin with updates of zero, and a few optimizers turn to Adam later on.
    """
    def full(value, first):
        def leaf(x):
            array = np.full([min(n, 2) for n in x.shape], value, np.float32)
            array.flat[:1] *= first
            return jnp.asarray(array)
        return jax.tree.map(lambda x: x if is_masked(x) else leaf(x), tree, is_leaf=is_masked)

    params, gradients = full(params, first[0]), full(gradients, first[1])
    updates: list[np.ndarray] = []
    begin: list[np.ndarray] = []
    state, moved = optimizer.init(params), 0
    for _ in range(64):
        latest, state = update(gradients, state, params, value=1.0)
        latest = [np.asarray(u, np.float64).ravel() for u in jax.tree.leaves(latest)]
        moved += any(u.any() for u in latest)
        updates = [v if not u.any() else u for u, v in zip(latest, updates)] if updates else latest
        begin = [v if v.any() else u for u, v in zip(latest, begin)] if begin else latest
        if moved > 8:
            break
    return begin, updates
