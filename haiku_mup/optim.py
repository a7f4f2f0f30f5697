"""Per-parameter scaling of an optax optimizer, and what kind of optimizer it is."""
import contextlib
import contextvars
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import optax

from haiku_mup.errors import MupError
from haiku_mup.initializers import scaled

Factor = Callable[[str], float]         # a parameter's name, "module/name" -> a number
_MARK = "_haiku_mup"
_inside = contextvars.ContextVar("inside a wrapped optimizer", default=False)


def scale_by_name(factor: Factor) -> optax.GradientTransformationExtraArgs:
    """Multiplies each parameter's update by a number that its name gives; no state.

    Args:
      factor: from "module/name" to a Python float.

    >>> t = scale_by_name(lambda name: 0.5 if name == "linear/w" else 1.0)
    >>> updates = {"linear": {"w": jnp.ones(2), "b": jnp.ones(2)}}
    >>> t.update(updates, t.init(updates))[0]["linear"]["w"]
    Array([0.5, 0.5], dtype=float32)
    """
    def update(updates, state, params=None, **extra):
        del params, extra
        return _map(factor, updates), state

    def init(params):
        del params
        _check_outermost()
        return optax.EmptyState()

    return optax.GradientTransformationExtraArgs(init, update)


def scale_optimizer(optimizer: Any, lr: Factor, gradient: Factor, decay: Factor,
                    check: Callable[[Any], None]) -> optax.GradientTransformationExtraArgs:
    """An optimizer, a black box, whose learning rate and decay have a factor for each parameter.

    The optimizer works on p' = p / s and its update is multiplied by s, which is p's update. What it
    takes from gradients is so multiplied by s, and what it takes from p itself, its decay, is not. Its
    state is the inner optimizer's own.

    Args:
      optimizer: any optax optimizer.
      lr: the factor of its updates, by name.
      gradient: the factor of the gradients that it sees.
      decay: s, or 1 for a decay that is multiplied along with the updates.
      check: called with the parameters as the state is made.
    """
    inner = _extra_args(optimizer)

    def init(params):
        _check_outermost()
        check(params)
        with _inner():
            return inner.init(_map(lambda name: 1 / decay(name), params))

    def update(updates, state, params=None, **extra):
        inside = None if params is None else _map(lambda name: 1 / decay(name), params)
        updates, state = inner.update(_map(gradient, updates), state, inside, **extra)
        return _map(lr, updates), state

    setattr(update, _MARK, True)
    return optax.GradientTransformationExtraArgs(init, update)


@contextlib.contextmanager
def _inner():
    """Marks that an optimizer with μP's factors calls the one inside it."""
    token = _inside.set(True)
    try:
        yield
    finally:
        _inside.reset(token)


def _check_outermost() -> None:
    if _inside.get():
        raise MupError("an optimizer with μP's factors is inside another that has them, so they would act "
                       "twice; wrap once: wrap_optimizer(optax.chain(…)), or chain(…, wrap_optimizer(…))")


def is_wrapped(optimizer: Any) -> bool:
    """Whether `scale_optimizer` made it."""
    return hasattr(getattr(optimizer, "update", None), _MARK)


def _extra_args(optimizer: Any) -> optax.GradientTransformationExtraArgs:
    if hasattr(optimizer, "gradient_transformation"):       # optax.MultiSteps
        optimizer = optimizer.gradient_transformation()
    if not isinstance(optimizer, optax.GradientTransformation):
        raise MupError(f"{type(optimizer).__name__} is not an optax optimizer: give wrap_optimizer a "
                       "GradientTransformation, such as optax.adam(1e-3)")
    return optax.with_extra_args_support(optimizer)


def named_leaves(tree: Any) -> list[tuple[str, Any]]:
    """(name, leaf) of a parameter tree, in the order of its leaves. An optax.MaskedNode is a leaf.

    Raises:
      MupError: the tree is no mapping from modules to mappings from names.
    """
    if isinstance(tree, Mapping) and not isinstance(tree, dict):
        tree = hk.data_structures.to_mutable_dict(tree)     # Haiku's own mapping has no paths
    leaves = jax.tree_util.tree_flatten_with_path(tree, is_leaf=_is_masked)[0]
    return [(_name(path, leaf), leaf) for path, leaf in leaves]


def _name(path: tuple, leaf: Any) -> str:
    if isinstance(leaf, optax.MaskedNode) and len(path) < 2:    # a whole module, or tree, is masked
        return ""
    if len(path) != 2 or not all(isinstance(k, jax.tree_util.DictKey) for k in path):
        raise MupError(f"{jax.tree_util.keystr(path)!r}: a parameter's place in the tree must be "
                       "[module][name], as in Haiku's params; give the optimizer such a tree, or a "
                       "part of it")
    return f"{path[0].key}/{path[1].key}"


def _is_masked(x: Any) -> bool:
    return isinstance(x, optax.MaskedNode)


def _map(factor: Factor, tree: Any) -> Any:
    """Each leaf times its name's factor; masked ones and those with factor 1 as they are."""
    leaves = [x if _is_masked(x) else scaled(x, factor(name)) for name, x in named_leaves(tree)]
    return jax.tree.unflatten(jax.tree.structure(tree, is_leaf=_is_masked), leaves)


# --- what an optimizer is, by trying it on two numbers ---

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
    inner = _extra_args(optimizer)
    for tree in trees:
        try:
            with _inner(), jax.ensure_compile_time_eval():
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
        return jax.tree.map(lambda x: x if _is_masked(x) else jnp.asarray(np.full(
            [min(n, 2) for n in x.shape], value, np.float32)), tree, is_leaf=_is_masked)

    params, gradients = full(0), full(size)
    state = optimizer.init(params)
    for _ in range(64 if len(jax.tree.leaves(params)) == 1 else 4):
        updates, state = optimizer.update(gradients, state, params)
        total = sum(float(np.abs(u).sum()) for u in jax.tree.leaves(updates))
        if total > 0:
            return total
    return 0.0
