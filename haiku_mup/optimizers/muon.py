"""Muon: which parameters it takes, as which matrices, and how it scales their updates by shape."""
import math
from collections.abc import Iterable, Mapping
from typing import Any

import jax
import numpy as np
import optax

from haiku_mup.errors import MupError
from haiku_mup.optimizers.synthetic_runs import Run, RunShape, try_runs
from haiku_mup.optimizers.trees import named_leaves, selected
from haiku_mup.optimizers.wrapper import extra_args, inside
from haiku_mup.parameters.scaling import ParameterScaling
from haiku_mup.parameters.tree_paths import is_masked
from haiku_mup.rules import HIDDEN
from haiku_mup.rules.optimizers import SHAPE_SCALINGS, Matrix, ShapeScaling

STATE = "MuonState"     # of optax.contrib.scale_by_muon
TRIED_SHAPES = Matrix(2, 2), Matrix(2, 8), Matrix(8, 2), Matrix(8, 8)


def parameters_of_muon(state: Any) -> set[str] | None:
    """Returns the names of the parameters that Muon takes, by an optimizer's state; None without Muon."""
    muons = [x for x in jax.tree.leaves(state, is_leaf=_is_muon) if _is_muon(x)]
    if not muons:
        return None
    return {name for muon in muons for name, x in named_leaves(muon.mu) if not is_masked(x)}


def _is_muon(x: Any) -> bool:
    return type(x).__name__ == STATE


def matrix_axes(scaling: ParameterScaling, rank: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Returns the axes that Muon sums over, and the axes of outputs.

    It sums over all axes that aren't outputs, a convolution's kernel, too; but not over stacks in front, and
    not over experts.

    Args:
      scaling: of the parameter.
      rank: of the stored array, with stacks of layers in front.
    """
    fans, layer_rank = scaling.row_blocks[0].fans, len(scaling.target.shape)
    experts = fans.lookup if layer_rank > 2 else ()
    sums = [a for a in range(layer_rank) if a not in (*fans.fan_out, *experts)]
    stacks = rank - layer_rank
    return tuple(a + stacks for a in sums), tuple(a + stacks for a in fans.fan_out)


def matrices(scaling: ParameterScaling) -> tuple[Matrix, Matrix]:
    """Returns a parameter's shapes at the base and at the target, as Muon sees them."""
    sums, outputs = matrix_axes(scaling, len(scaling.target.shape))
    base, target = (Matrix(math.prod(shape[a] for a in sums), math.prod(shape[a] for a in outputs))
                    for shape in (scaling.base.shape, scaling.target.shape))
    return base, target


def check_matrix(name: str, scaling: ParameterScaling) -> None:
    """Checks that a parameter which Muon takes is a matrix.

    Raises:
      MupError: its rows differ in their roles, or it is a vector in each layer of a stack.
    """
    remedy = ("leave it to Muon's Adam part: optax.contrib.muon(…, "
              "muon_weight_dimension_numbers=mup.muon_dimensions)")
    if len(scaling.row_blocks) > 1:
        raise MupError.about(name, scaling.base.shape, scaling.target.shape,
                             "its blocks of rows have different roles, and Muon takes it as one matrix; "
                             f"{remedy}")
    if not all(matrix_axes(scaling, len(scaling.target.shape))):
        raise MupError.about(name, scaling.base.shape, scaling.target.shape, "it is not a matrix in one layer, "
                             f"but for instance a stack of vectors, and Muon takes it; {remedy}")


def dimension_numbers(scalings: Mapping[str, ParameterScaling], params: Any) -> Any:
    """Returns a tree for optax.contrib.muon: the axes of hidden weights, and None for its Adam's parameters.

    Raises:
      MupError: a number in place of parameters, as `optax.inject_hyperparams` gives to each function that it
        takes for a schedule.
    """
    if getattr(params, "ndim", None) == 0:
        raise MupError("muon_dimensions: it was called with a number, not with parameters: "
                       "optax.inject_hyperparams takes a function for a schedule; write "
                       "optax.inject_hyperparams(optax.contrib.muon, "
                       "static_args=('muon_weight_dimension_numbers',))(…)")
    return jax.tree.unflatten(jax.tree.structure(params, is_leaf=is_masked), _numbers(scalings, params))


def _numbers(scalings: Mapping[str, ParameterScaling], params: Any) -> list[Any]:
    """Returns the axes of each leaf if it is a hidden weight, else None."""
    def of_leaf(name: str, x: Any) -> Any:
        scaling = scalings.get(name)
        if scaling is None or is_masked(x) or [block.role for block in scaling.row_blocks] != [HIDDEN]:
            return None
        return optax.contrib.MuonDimensionNumbers(*matrix_axes(scaling, len(x.shape)))

    return [of_leaf(name, x) for name, x in named_leaves(params)]


# --- how large its updates are ---

def find_shape_scaling(optimizer: Any, tree: Any, names: Iterable[str],
                       scalings: Mapping[str, ParameterScaling]) -> ShapeScaling:
    """Finds how an optimizer scales Muon's updates by their shape, by trying it.

    Args:
      optimizer: with Muon in it.
      tree: of parameters, or of arrays with their names and ranks.
      names: of the parameters that Muon takes.
      scalings: the parameters, by name.

    Raises:
      MupError: an optimizer that scales them in another way, or that can't be tried.
    """
    inner, names = extra_args(optimizer), set(names)
    failure: Exception | None = None
    alone = selected(tree, lambda other, _: other == min(names))
    for tried in (alone, tree):         # one parameter is quick, but a mask may need them all
        try:
            with inside(), jax.transfer_guard("allow"):
                norms = np.array([_update_norms(inner, tried, min(names), scalings, s) for s in TRIED_SHAPES])
        except Exception as error:      # it needs other parameters than these, or has a traced learning rate
            failure = error
            continue
        return _matching_scaling(norms, names, tree, scalings)
    raise _untried(failure)


def _untried(failure: Exception | None) -> MupError:
    """Returns the error for an optimizer that can't be tried."""
    why = ("give it a learning rate that is not a traced value, or use optax.inject_hyperparams"
           if isinstance(failure, jax.errors.JAXTypeError) else
           f"on small arrays it raises {type(failure).__name__}: {failure}")
    return MupError("wrap_optimizer(rule='muon'): the optimizer can't be tried here, but the rule depends on "
                    f"how it scales its updates: {why}")


def _matching_scaling(norms: np.ndarray, names: set[str], tree: Any,
                      scalings: Mapping[str, ParameterScaling]) -> ShapeScaling:
    """Returns the shape scaling by which norms grow from the first tried shape on.

    Args:
      norms: [shapes, 2]; at a gradient and at twice that.
      names: of the parameters that Muon takes.
      tree: of parameters.
      scalings: the parameters, by name.
    """
    growth = norms[:, 0] / norms[0, 0]
    if not np.allclose(norms[:, 1], norms[:, 0], rtol=0.02):
        raise MupError(f"{min(names)!r}: twice the gradient gives {norms[0, 1] / norms[0, 0]:.3g} times "
                       "Muon's update, and there is no rule for that; leave adaptive=True out, or whatever "
                       "multiplies its updates by the gradient's size")
    for shape_scaling, spectral_norm in SHAPE_SCALINGS.items():
        expected = np.array(list(map(spectral_norm, TRIED_SHAPES)))
        if np.allclose(growth, expected / expected[0], rtol=0.02):
            return shape_scaling
    hidden = {name for name, numbers in zip(dict(named_leaves(tree)), _numbers(scalings, tree)) if numbers}
    remedy = ("take out what scales its updates by their shape, or scale them by √(n_out / n_in)"
              if names == hidden else "give it muon_weight_dimension_numbers=mup.muon_dimensions")
    raise MupError(f"{min(names)!r}: Muon's updates grow like {np.round(growth, 3)} over matrices of "
                   f"{', '.join(f'{s.n_in} × {s.n_out}' for s in TRIED_SHAPES)}, for which there is no rule; "
                   f"{remedy}")


def _update_norms(optimizer: Any, tree: Any, name: str, scalings: Mapping[str, ParameterScaling],
                  shape: Matrix) -> np.ndarray:
    """Computes the norms of a parameter's first update, at a gradient of ones, and at one of twos.

    Such a gradient has one singular value.
    """
    arrays = [x if is_masked(x) else
              jax.ShapeDtypeStruct(tuple(_array_shape(scalings[name], len(x.shape), shape)), "float32")
              for name, x in named_leaves(tree)]
    shapes = jax.tree.unflatten(jax.tree.structure(tree, is_leaf=is_masked), arrays)
    runs = [Run(params=0.0, initial=1.0, gradient=size) for size in (1.0, 2.0)]
    updates = try_runs(optimizer, shapes, runs, RunShape.TRUE, 1, traced=1.0)[name].first
    return np.asarray(np.linalg.norm(updates, axis=1))


def _array_shape(scaling: ParameterScaling, rank: int, shape: Matrix) -> list[int]:
    """Returns the shape of a small array that is this matrix, in its first axis of each kind."""
    sums, outputs = matrix_axes(scaling, rank)
    sizes = [1] * rank
    for axes, size in ((sums, shape.n_in), (outputs, shape.n_out)):
        for axis in axes[:1]:
            sizes[axis] = int(size)
    return sizes
