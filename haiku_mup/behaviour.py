"""What kind an optimizer is: found by trying it on a few numbers."""
import functools
from collections.abc import Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from haiku_mup import context
from haiku_mup.errors import MupError
from haiku_mup.optim import extra_args, inside, is_masked

SGD_LIKE, ADAM_LIKE, NOT_ENTRYWISE, UNKNOWN = "SGD", "Adam", "neither", ""
SMALL = 1e-3        # size of the gradients that are tried: below what clips clip


def behaviour(optimizer: Any, trees: Iterable[Any]) -> str:
    """`SGD_LIKE` if twice the gradient gives twice the update, `ADAM_LIKE` if it gives the same.

    `NOT_ENTRYWISE` if an entry's update depends on other entries of the parameter or of its gradient.

    Args:
      optimizer: an optax optimizer.
      trees: trees of parameters' shapes, to try one after another while the answer is `UNKNOWN`: on
        small arrays of these names and ranks.

    >>> shapes = {"linear": {"w": jax.ShapeDtypeStruct((8, 8), "float32")}}
    >>> import optax
    >>> [behaviour(opt, [shapes]) for opt in (optax.sgd(0.1, momentum=0.9), optax.adamw(1e-3))]
    ['SGD', 'Adam']
    >>> behaviour(optax.lamb(1e-3), [shapes])
    'neither'
    """
    inner = extra_args(optimizer)
    for tree in trees:
        try:
            with inside(), jax.ensure_compile_time_eval():
                kind = _kind(inner, tree)
        except (MupError, Warning):     # a warning that was made an error
            raise
        except Exception:       # it wants other parameters than these, or has a traced learning rate
            continue
        if kind:
            return kind
    return UNKNOWN


def _kind(optimizer: Any, tree: Any) -> str:
    run = functools.partial(_run, optimizer, jax.jit(optimizer.update), tree)
    flat, one_other = run(1.0, SMALL), run(1.0, SMALL, first=(4.0, 2.0))
    for a, b in zip(flat, one_other):
        if not np.allclose(a[1:], b[1:], rtol=1e-2, atol=1e-3 * np.abs(a).max(initial=0.0)):
            return NOT_ENTRYWISE
    at_zero, at_one = (_growth(run, params) for params in (0.0, 1.0))
    return at_zero if at_one in (at_zero, UNKNOWN) else UNKNOWN     # a large L2, or a clip by p's norm


def _growth(run, params: float) -> str:
    """How the update answers to twice the gradient, beside what it is without any."""
    none, *more = (run(params, size) for size in (0.0, SMALL, 2 * SMALL))
    small, large = (sum(np.abs(u - v).sum() for u, v in zip(updates, none)) for updates in more)
    if small == 0 or large == 0 or 1.1 < large / small < 1.9:
        return UNKNOWN
    return ADAM_LIKE if large < 1.5 * small else SGD_LIKE


def _run(optimizer, update, tree, params, gradients, first=(1.0, 1.0)) -> list[np.ndarray]:
    """The update, leaf by leaf and flat, after some steps, at parameters and gradients of one size each.

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
    state, moved = optimizer.init(params), 0
    for _ in range(64):
        latest, state = update(gradients, state, params)
        latest = [np.asarray(u, np.float64).ravel() for u in jax.tree.leaves(latest)]
        moved += any(u.any() for u in latest)
        if moved or not updates:
            updates = [v if not u.any() else u for u, v in zip(latest, updates)] if updates else latest
        if moved > 8:
            break
    return updates


def one_matrix(shapes: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """The part of a tree that is one parameter, of the highest rank: quick to try."""
    leaves = [(len(s.shape), module, name) for module, bundle in shapes.items() for name, s in bundle.items()]
    _, module, name = max(leaves)
    return {module: {name: shapes[module][name]}}


class Check:
    """Warns of factors that don't fit what an optimizer does, as soon as that shows.

    Args:
      warned: the kinds of warning that were given already.
      optimizer: the plain optimizer.
      adam: whether it gets Adam's factors.
      both: whether it gets the pair of factors that is right for both kinds.
      instead: what to do where it is of the other kind.
    """

    def __init__(self, warned: set[str], optimizer: Any, adam: bool, both: bool = False, instead: str = ""):
        self.warned, self.optimizer, self.adam, self.both = warned, optimizer, adam, both
        self.instead = instead or (f"pass adam={not adam}, or scale_eps=True, which is right for both and for "
                                   "those between (adagrad, yogi, radam)")
        self.kind = UNKNOWN

    def __call__(self, *trees: Any) -> None:
        """Tries the optimizer on these trees, unless its kind is known."""
        if self.kind != UNKNOWN:
            return
        self.kind = kind = behaviour(self.optimizer, trees)
        call = f"wrap_optimizer(adam={self.adam}): this optimizer "
        if kind == NOT_ENTRYWISE:
            context.warn_once(self.warned, kind, call + "makes an entry's update from other entries, too (a "
                              "parameter's norm, or a whole matrix, as adafactor, lamb, lars and muon do), and "
                              "neither Adam's factors nor SGD's are right for it; use one that works entry by "
                              "entry, or put the part that doesn't outside of wrap_optimizer")
        elif kind and not self.both and (kind == ADAM_LIKE) != self.adam:
            context.warn_once(
                self.warned, f"adam={self.adam}", call + f"behaves like {kind} (tried with gradients of "
                f"{SMALL} and twice that); {self.instead}")
