"""Finds factors of the width in a model's forward pass, and the lines of the model that have them."""
import dataclasses
import functools
import math
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import haiku as hk
import jax

from haiku_mup.coordinates.factor_scales import CLOSE, Action, Leftover, ScalingOperation, Value
from haiku_mup.coordinates.factor_walk import ProgramsDiffer, Walk
from haiku_mup.coordinates.model_inputs import check_make_model
from haiku_mup.coordinates.pairs import is_pair
from haiku_mup.coordinates.planned_models import PlannedModel
from haiku_mup.coordinates.recorder import transformed_function
from haiku_mup.errors import MupError, SourceLine
from haiku_mup.tracing.haiku_internals import is_library

_PACKAGE = os.path.dirname(os.path.dirname(__file__)) + os.sep
_JAX, _HAIKU = (os.path.dirname(str(module.__file__)) + os.sep for module in (jax, hk))
_POWERS = {1.0: "the width", 0.5: "the root of the width", 2.0: "the square of the width",
           -1.0: "one over the width", -0.5: "one over the root of the width"}


@dataclasses.dataclass(frozen=True)
class ForwardFactor:
    """A factor that depends on the width, and that nothing in the forward pass cancels.

    Attributes:
      file: of the model's line that has it.
      line: number of that line.
      function: the function that the line is in.
      action: "multiplied by", "divided by", "added to" or "a sum over".
      base: by or over how much at the base.
      target: by or over how much at the target.
      power: exponent of the ratio of the widths in what is left over.
      others: lines of the model whose factors are in it, too, such as the sum that a division should cancel.

    >>> found = haiku_mup.ForwardFactor("model.py", 42, "net", "multiplied by", 8.0, 16.0, power=0.5)
    >>> print(found)
    model.py:42: multiplied by 8 at the base and 16 at the target: the root of the width is left
    """

    file: str
    line: int
    function: str
    action: str
    base: float
    target: float
    power: float
    others: tuple["ForwardFactor", ...] = ()

    def __str__(self) -> str:
        """Returns the finding as a sentence, after the file and the line."""
        what = (f"{os.path.basename(self.file)}:{self.line}: {self.action} {self.base:.6g} at the base and "
                f"{self.target:.6g} at the target")
        more = "".join(f"; beside {other.action} {other.base:.6g} and {other.target:.6g} "
                       f"(line {other.line})" for other in self.others)
        return f"{what}{more}: {_named(self.power)} is left"


def forward_factors(make_model: Callable[[int], Any], widths: Sequence[int], *args: Any,
                    **kwargs: Any) -> list[ForwardFactor]:
    """Finds factors in a model's forward pass that depend on the width, and that μP does not have.

    It traces the plain model at two widths, runs nothing, and compares what its operations multiply by, divide
    by and sum over. Factors that cancel are no findings: a mean (a sum over features, divided by their number),
    attention logits that are divided by their key size, a norm and what it normalises. Nor are products with
    weights, which `Mup` scales. Any other factor makes the inputs of later layers depend on the width: x·√d,
    1/√d in your own attention, a sum over features where a mean is meant, an `output_mult` made of the width.
    (Tensor Programs V, arXiv 2203.03466, Appendix B: a forward pass in μP has the multipliers of Table 8 and no
    others.)

    Args:
      make_model: from a width to what hk.transform or hk.transform_with_state returns; or, for a model of any
        other framework, to ``(init, apply)`` with ``init(key)`` and ``apply(params, rng, *inputs)``.
      widths: two widths; base and target.
      ``*args``, ``**kwargs``: what apply takes after parameters, state and the key: arrays or
        jax.ShapeDtypeStructs, and whatever else, such as ``is_training=True``.

    Returns:
      A `ForwardFactor` for each line that has one, in the order of the program; none for a right model.

    Raises:
      MupError: two equal widths; a model whose program changes with the width, so that there is nothing to
        compare side by side.

    >>> def make_model(width):
    ...     def fn(x):
    ...         with haiku_mup.apply_mup():
    ...             x = jax.nn.relu(hk.Linear(width)(x)) * width**0.5
    ...             return haiku_mup.Readout(10)(x)
    ...     return hk.transform(fn)
    >>> for found in haiku_mup.forward_factors(make_model, [64, 256], jnp.ones((2, 5))):
    ...     print(found.action, found.base, found.target, found.power)
    multiplied by 8.0 16.0 0.5
    """
    check_make_model(make_model)
    return factors_left(make_model, widths, args, kwargs, multipliers={})


def factors_left(make_model: Callable[[int], Any], widths: Sequence[int], args: Sequence[Any],
                 kwargs: Mapping[str, Any], *, multipliers: Mapping[str, float]) -> list[ForwardFactor]:
    """Returns the factors that `forward_factors` finds, in a model whose parameters have multipliers.

    Args:
      make_model, widths, args, kwargs: as `forward_factors` takes them.
      multipliers: by a parameter's name, its multiplier at the target divided by that at the base, such as a
        plan's multiplier of queries.

    Raises:
      MupError: as `forward_factors` does.
    """
    if len(widths) != 2 or widths[0] == widths[1]:
        raise MupError(f"forward_factors: widths {list(widths)}: give two that differ, [base, target]")
    try:
        base, target = (_traced(make_model(width), args, kwargs) for width in widths)
        leftovers = _leftovers(base, target, multipliers)
    except ProgramsDiffer as error:
        line = _users_line([error.equation]) if error.equation is not None else None
        where = f" (from {line.file}:{line.number} on)" if line else ""
        raise MupError(f"forward_factors: the model runs other operations at width {widths[1]} than at width "
                       f"{widths[0]}{where}; give two widths at which its operations are the same") from None
    ratio = math.log(widths[1] / widths[0])
    found = [_finding(leftover, leftover.log_scale / ratio) for leftover in leftovers
             if not any(map(_is_ours, leftover.operations))]
    return list({(f.file, f.line, f.action): f for f in reversed(found)}.values())[::-1]


def _traced(model: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> tuple[Any, list[str]]:
    """Returns the program of a model's apply, and the names of the parameters, its first inputs."""
    if is_pair(model):
        model = PlannedModel.unplanned(model).plain_model()
    plain = hk.transform_with_state(transformed_function(model))
    leaves, tree = jax.tree.flatten((args, kwargs))
    arrays = {i: leaf for i, leaf in enumerate(leaves) if hasattr(leaf, "shape") and hasattr(leaf, "dtype")}

    def called(function: Callable[..., Any], arrays: Mapping[int, Any], *first: Any) -> Any:
        """Calls an init or an apply; traces arrays, and passes all else, such as flags, as it is."""
        args, kwargs = jax.tree.unflatten(tree, [arrays.get(i, leaf) for i, leaf in enumerate(leaves)])
        return function(*first, *args, **kwargs)

    key = jax.random.key(0)
    params, state = jax.eval_shape(functools.partial(called, plain.init), arrays, key)
    program = jax.make_jaxpr(lambda params, *rest: called(plain.apply, rest[-1], params, *rest[:-1]))(
        params, state, key, arrays)
    paths = [path for path, _ in jax.tree_util.tree_leaves_with_path(params)]
    return program, ["/".join(part.key for part in path) for path in paths]


def _leftovers(base: tuple[Any, list[str]], target: tuple[Any, list[str]],
               multipliers: Mapping[str, float]) -> list[Leftover]:
    (base_program, names), (target_program, names_there) = base, target
    if len(names) != len(names_there):
        raise ProgramsDiffer(None)
    pairs = list(zip(base_program.jaxpr.invars, target_program.jaxpr.invars))
    walk = Walk()
    outputs = walk.program(base_program, target_program, [
        *(Value(math.log(multipliers.get(name, 1.0)), weights=True, wide=b.aval.shape != t.aval.shape)
          for name, (b, t) in zip(names, pairs)),
        *(Value(inputs=True) for _ in pairs[len(names):])])
    shapes = [[getattr(v, "aval", v).shape for v in program.jaxpr.outvars]
              for program in (base_program, target_program)]
    walk.leave(value for value, *sizes in zip(outputs, *shapes) if not _is_unit_vector(value, *sizes))
    return walk.leftovers


def _is_unit_vector(value: Value, base: Sequence[int], target: Sequence[int]) -> bool:
    """Returns whether an output is divided by its own norm, a root of the sum of its entries' squares.

    Its n entries then have the size n^-½, which a product of two such vectors, as in a loss, cancels.
    """
    sizes = (*base[-1:], *target[-1:])
    return len(sizes) == 2 and sizes[0] != sizes[1] and bool(value.operations) and (
        all(operation.action is Action.SUMMED for operation in value.operations)
        and abs(value.log_scale + math.log(sizes[1] / sizes[0]) / 2) < CLOSE)


def _finding(leftover: Leftover, power: float) -> ForwardFactor:
    """Returns a leftover with its lines: first the last factor, or where there is none the last sum."""
    operations = leftover.operations
    first = ([each for each in operations if each.action is not Action.SUMMED] or operations)[-1]
    others = tuple(_described(each, power) for each in operations if each is not first)
    return dataclasses.replace(_described(first, power), others=others)


def _described(operation: ScalingOperation, power: float) -> ForwardFactor:
    """Returns an operation with its line."""
    return ForwardFactor(*_users_line(operation.equations), str(operation.action), operation.base,
                         operation.target, power)


def _named(power: float) -> str:
    close = [name for known, name in _POWERS.items() if math.isclose(power, known, abs_tol=0.02)]
    return close[0] if close else f"the width to the power of {power:.3g}"


# --- lines of the model ---

def _users_line(equations: Sequence[Any]) -> SourceLine:
    """Returns the innermost line of the user's model; where there is none, the innermost outside of JAX.

    Args:
      equations: an operation, after those whose sub-programs it is in. A program that JAX has in common for
        several calls of a library's function knows the line of the first call alone, so that an operation
        without a line of the user's has the line of the call.
    """
    frames = [frame for equation in reversed(equations) for frame in _frames(equation)]
    found = next((f for f in frames if not is_library(f.file_name)), None) or next(
        (f for f in frames if not f.file_name.startswith(_JAX)), frames[0])
    return SourceLine(found.file_name, found.line_num, found.function_name)


def _frames(equation: Any) -> list[Any]:
    """Returns the frames in which an operation was traced, innermost first."""
    traceback = equation.source_info.traceback
    return list(traceback.frames) if traceback else []


def _is_ours(operation: ScalingOperation) -> bool:
    """Returns whether a layer of this library makes the factor: in μP it has the one that it should."""
    layers = tuple(os.path.join(_PACKAGE, room, "") for room in ("layers", "models"))
    for frame in _frames(operation.equations[-1]):
        if frame.file_name.startswith(layers):
            return True
        if not frame.file_name.startswith((_JAX, _HAIKU)):
            return False
    return False
