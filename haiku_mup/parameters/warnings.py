"""Warnings of models that run, but probably not as meant: by one parameter, and by all together."""
import functools
import math
from collections.abc import Iterable, Iterator, Mapping
from fractions import Fraction
from itertools import product
from typing import NamedTuple

from haiku_mup.errors import MupError, SourceLine
from haiku_mup.parameters.haiku_layers import TIED
from haiku_mup.parameters.scaling import ParameterScaling
from haiku_mup.rules import HIDDEN, OUTPUT, Parametrization, rescale


class Message(NamedTuple):
    """The content of a warning.

    Attributes:
      kind: a Mup warns once of each kind.
      text: the parameter, both shapes and the remedy.
      line: the line of the model that made the parameter.
    """

    kind: str
    text: str
    line: SourceLine | None


def parameter_warning(scaling: ParameterScaling, parametrization: Parametrization) -> Message | None:
    """Returns the warning about a single parameter, if any."""
    base, target, factors = scaling.base, scaling.target, scaling.row_blocks[0].factors
    was, now, init = base.moments, target.moments, factors.init * factors.stored
    if not parametrization.draws:
        return None
    is_array = not (was.drawn or now.drawn) and init != 1 and was.std > 0
    if is_array and not 0.8 < rescale(was.std, now.std, init) < 1.25:
        return _about("given", scaling, (
            "a hidden weight's initializer gives one array whatever the key, so it is left as it is, "
            f"with std {now.std:.3g} where μP wants {was.std * init:.3g}; draw with hk.next_rng_key(), "
            "or scale the array"))
    if parametrization.attention and base.key_size != target.key_size and not target.scaled_attention:
        return _about("attention", scaling, (
            f"an attention whose key size grows from {base.key_size} to {target.key_size} "
            "divides its logits by the size's root, and μP by the size; use haiku_mup.MultiHeadAttention"))
    return None


def model_warnings(scalings: Mapping[str, ParameterScaling], ties_used: bool) -> Iterator[Message]:
    """Yields the warnings that need the whole model.

    Args:
      scalings: the model's parameters, by name.
      ties_used: whether a SharedReadout has asked for a multiplier.
    """
    yield from _odd_fan_ins(scalings)
    for scaling in scalings.values():
        target = scaling.target
        if target.stacks and not scaling.base.stacks:
            yield _about("depth", scaling, (
                f"it is in stacks of {target.stacks} layers, and the base is from a file of a version that "
                "didn't keep how many it has: save it again, so that a difference in depth is seen"))
        if target.layer == TIED and scaling.multiplier != 1 and not ties_used:
            yield _about("unused tie", scaling, (
                "no SharedReadout reads this SharedEmbed; if its matrix makes logits in another way, they lack "
                "μP's multiplier: use haiku_mup.SharedReadout()(embed, x); if it makes none, use hk.Embed"))


def _about(kind: str, scaling: ParameterScaling, text: str) -> Message:
    target = scaling.target
    return Message(kind, str(MupError.about(target.name, scaling.base.shape, target.shape, text)), target.line)


def _odd_fan_ins(scalings: Mapping[str, ParameterScaling]) -> Iterator[Message]:
    """Yields a warning for each fan-in that grows by a ratio which no layer's output explains.

    The ratio of an output explains it, and so does a product or a quotient of two: reshapes move axes. Fan-ins
    of unknown layers are guesses, and are left out.
    """
    outputs = {name: ratio for name, scaling in scalings.items() if (ratio := _fan_out_ratio(scaling)) != 1}
    growing = {scalings[name].target.in_tree for name in outputs}
    ratios = {*outputs.values(), Fraction(1)}

    @functools.cache            # only for a ratio that no output has by itself
    def of_two() -> set[Fraction]:
        return {x for a, b in product(ratios, repeat=2) for x in (a * b, a / b)}

    for scaling in scalings.values():
        if growing <= {scaling.target.in_tree}:          # nothing here that could make its inputs
            continue
        uses_fan_in = any(block.role in (HIDDEN, OUTPUT) for block in scaling.row_blocks)
        if not scaling.target.fans.known or not uses_fan_in:
            continue
        for ratio in _fan_in_ratios(scaling):
            if ratio not in ratios and ratio not in of_two():
                yield _about("mixed", scaling, (
                    f"its fan-in grows × {float(ratio):.4g}, and no layer's output does: a concatenation of a "
                    "growing and a fixed part? Give each an hk.Linear of its own and add them, so that each "
                    "has its own factors"))


def _fan_out_ratio(scaling: ParameterScaling) -> Fraction:
    """Returns the ratio of the fan-out, target / base."""
    return _ratio(scaling, scaling.target.fans.fan_out)


def _fan_in_ratios(scaling: ParameterScaling) -> list[Fraction]:
    """Returns the ratio of the fan-in, target / base, of each block of rows."""
    base, target = scaling.base, scaling.target
    if target.row_sizes:
        return [_product(((t, b),)) for b, t in zip(base.row_sizes, target.row_sizes) if b and t]
    return [_ratio(scaling, target.fans.fan_in)]


def _ratio(scaling: ParameterScaling, axes: Iterable[int]) -> Fraction:
    """Returns the product of target / base over some axes, without those of size 0."""
    base, target = scaling.base.shape, scaling.target.shape
    return _product(tuple((target[axis], base[axis]) for axis in axes if base[axis] and target[axis]))


@functools.lru_cache(maxsize=2**12)        # fractions are slow, and a model has few sizes
def _product(sizes: tuple[tuple[int, int], ...]) -> Fraction:
    return math.prod((Fraction(target, base) for target, base in sizes), start=Fraction(1))
