"""What kind an optimizer is: found by trying it on two numbers."""
from collections.abc import Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from haiku_mup import context
from haiku_mup.errors import MupError
from haiku_mup.optim import extra_args, inside, is_masked

SGD_LIKE, ADAM_LIKE, UNKNOWN = "SGD", "Adam", ""


def behaviour(optimizer: Any, trees: Iterable[Any]) -> str:
    """`SGD_LIKE` if twice the gradient gives twice the update, `ADAM_LIKE` if it gives the same.

    Args:
      optimizer: an optax optimizer.
      trees: trees of parameters' shapes, to try one after another while the answer is `UNKNOWN`: on
        small arrays of these names and ranks, at zero (so that decay does nothing), with gradients of
        1e-3 (so that a clip does nothing).

    >>> shapes = {"linear": {"w": jax.ShapeDtypeStruct((8, 8), "float32")}}
    >>> behaviour(optax.sgd(0.1, momentum=0.9), [shapes]), behaviour(optax.adamw(1e-3), [shapes])
    ('SGD', 'Adam')
    """
    inner = extra_args(optimizer)
    for tree in trees:
        try:
            with inside(), jax.ensure_compile_time_eval():
                small, large = (_first_update(inner, tree, size) for size in (1e-3, 2e-3))
        except MupError:
            raise
        except Exception:       # it wants other parameters than these, or has a traced learning rate
            continue
        if small > 0 and large > 0:
            ratio = large / small
            return ADAM_LIKE if ratio < 1.1 else SGD_LIKE if ratio > 1.9 else UNKNOWN
    return UNKNOWN


def _first_update(optimizer: Any, tree: Any, size: float) -> float:
    """Size of the first update that isn't zero: warm-up and accumulation begin with zeros."""
    def full(value):
        return jax.tree.map(lambda x: x if is_masked(x) else jnp.asarray(np.full(
            [min(n, 2) for n in x.shape], value, np.float32)), tree, is_leaf=is_masked)

    params, gradients = full(0), full(size)
    state = optimizer.init(params)
    for _ in range(64 if len(jax.tree.leaves(params)) == 1 else 4):
        updates, state = optimizer.update(gradients, state, params)
        total = sum(float(np.abs(u).sum()) for u in jax.tree.leaves(updates))
        if total > 0:
            return total
    return 0.0


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
      known: whether there is nothing to find out.
    """

    def __init__(self, warned: set, optimizer: Any, adam: bool, known: bool = False):
        self.warned, self.optimizer, self.adam, self.known = warned, optimizer, adam, known

    def __call__(self, *trees: Any) -> None:
        """Tries the optimizer on these trees."""
        kind = UNKNOWN if self.known else behaviour(self.optimizer, trees)
        self.known = self.known or kind != UNKNOWN
        if kind and (kind == ADAM_LIKE) != self.adam:
            context.warn_once(self.warned, f"adam={self.adam}", f"wrap_optimizer(adam={self.adam}): this "
                              f"optimizer behaves like {kind}; pass adam={not self.adam}, or "
                              "scale_eps=True, which is right for both")
