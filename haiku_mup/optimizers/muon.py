"""Muon: which parameters it takes, as which matrices, and how large it makes their updates."""
import math
from collections.abc import Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from haiku_mup.errors import MupError
from haiku_mup.optimizers.trees import is_masked, named_leaves
from haiku_mup.optimizers.wrapper import extra_args, inside
from haiku_mup.parameters.scaling import ParameterScaling
from haiku_mup.rules.optimizers import SHAPE_SCALINGS, Matrix
from haiku_mup.rules.parametrization import HIDDEN

STATE = "MuonState"     # of optax.contrib.scale_by_muon
SIZES = Matrix(2, 2), Matrix(2, 8), Matrix(8, 2)        # that are tried
STEPS = 64              # that warm-up may last


def taken(state: Any) -> set[str] | None:
    """The parameters that Muon takes, by the optimizer's state; None where there is no Muon in it."""
    found = [x for x in jax.tree.leaves(state, is_leaf=_is_muon) if _is_muon(x)]
    if not found:
        return None
    return {name for one in found for name, x in named_leaves(one.mu) if not is_masked(x)}


def _is_muon(x: Any) -> bool:
    return type(x).__name__ == STATE


def axes(entry: ParameterScaling, rank: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The axes of a parameter that Muon sums over, and those that come out.

    All that don't come out are summed over, a convolution's kernel, too; not so stacks in front, and experts.

    Args:
      entry: the parameter.
      rank: of the stored array, with stacks of layers in front.
    """
    fans, layer = entry.row_blocks[0].fans, len(entry.target.shape)
    aside = fans.lookup if layer > 2 else ()
    sums = [a for a in range(layer) if a not in (*fans.fan_out, *aside)]
    return tuple(a + rank - layer for a in sums), tuple(a + rank - layer for a in fans.fan_out)


def matrices(entry: ParameterScaling) -> tuple[Matrix, Matrix]:
    """The shapes of a parameter at the base and at the target, as Muon takes them."""
    sums, out = axes(entry, len(entry.target.shape))
    base, target = (Matrix(*(math.prod(shape[a] for a in part) for part in (sums, out)))
                    for shape in (entry.base.shape, entry.target.shape))
    return base, target


def check(name: str, entry: ParameterScaling) -> None:
    """Raises for a parameter that is no matrix to Muon, and that it takes."""
    remedy = ("leave it to Muon's Adam part: optax.contrib.muon(…, "
              "muon_weight_dimension_numbers=mup.muon_dimensions)")
    if len(entry.row_blocks) > 1:
        raise MupError.about(name, entry.base.shape, entry.target.shape, "its blocks of rows have roles of "
                             f"their own, and Muon takes them as one matrix; {remedy}")
    if not all(axes(entry, len(entry.target.shape))):
        raise MupError.about(name, entry.base.shape, entry.target.shape, "it is no matrix in one layer, and "
                             f"Muon takes it, as it does a stack of vectors; {remedy}")


def dimensions(entries: Mapping[str, ParameterScaling], params: Any) -> Any:
    """A tree like the parameters, for optax.contrib.muon: hidden weights' axes; None for Adam's part."""
    def one(name: str, x: Any) -> Any:
        entry = entries.get(name)
        if entry is None or is_masked(x) or [part.role for part in entry.row_blocks] != [HIDDEN]:
            return None
        return optax.contrib.MuonDimensionNumbers(*axes(entry, len(x.shape)))

    leaves = [one(name, x) for name, x in named_leaves(params)]
    return jax.tree.unflatten(jax.tree.structure(params, is_leaf=is_masked), leaves)


# --- how large its updates are ---

def find_shape_scaling(optimizer: Any, tree: Any, names: Iterable[str],
                       entries: Mapping[str, ParameterScaling]) -> str:
    """How an optimizer scales Muon's updates by their shape: a key of `SHAPE_SCALINGS`, found by trying it.

    Args:
      optimizer: with Muon in it.
      tree: of parameters, or of what has their names and ranks.
      names: of those that Muon takes.
      entries: base beside target, by name.

    Raises:
      MupError: an optimizer that scales them in another way, or that can't be tried.
    """
    inner, name = extra_args(optimizer), min(names)
    for part in (_only(tree, name), tree):
        try:
            with inside(), jax.ensure_compile_time_eval():
                found = np.array([_size(inner, part, name, entries, shape) for shape in SIZES])
        except Exception:       # it wants other parameters than these, or has a traced learning rate
            continue
        for key, size in SHAPE_SCALINGS.items():
            wanted = np.array(list(map(size, SIZES)))
            if np.allclose(found / found[0], wanted / wanted[0], rtol=0.02):
                return key
        raise MupError(f"{name!r}: Muon's updates grow like {np.round(found / found[0], 3)} from a matrix of "
                       f"2 × 2 to 2 × 8 and 8 × 2, for which there is no rule; give it "
                       "muon_weight_dimension_numbers=mup.muon_dimensions")
    raise MupError("wrap_optimizer(rule='muon'): the optimizer can't be tried here, and how it scales its "
                   "updates has to be known: give it a learning rate that is no traced value, or "
                   "optax.inject_hyperparams, and its init the parameters")


def _only(tree: Any, name: str) -> dict[str, dict[str, Any]]:
    return {module: {leaf: x} for module, bundle in tree.items() if isinstance(bundle, Mapping)
            for leaf, x in bundle.items() if f"{module}/{leaf}" == name}


def _size(optimizer: Any, tree: Any, name: str, entries: Mapping[str, ParameterScaling],
          shape: Matrix) -> float:
    """The norm of an update whose gradient has one singular value, of a parameter of this shape."""
    leaves = [x if is_masked(x) else jnp.ones(_shape(entries[name], len(x.shape), shape))
              for name, x in named_leaves(tree)]
    ones = jax.tree.unflatten(jax.tree.structure(tree, is_leaf=is_masked), leaves)
    state, zeros, update = optimizer.init(ones), jax.tree.map(jnp.zeros_like, ones), jax.jit(optimizer.update)
    for _ in range(STEPS):
        updates, state = update(ones, state, zeros)
        found = float(jnp.linalg.norm(dict(named_leaves(updates))[name].ravel()))
        if found:
            break
    return found


def _shape(entry: ParameterScaling, rank: int, shape: Matrix) -> list[int]:
    """The shape of a small array that is this matrix, by its first axes of each kind."""
    sizes = [1] * rank
    for part, n in zip(axes(entry, rank), shape):
        for a in part[:1]:
            sizes[a] = int(n)
    return sizes
