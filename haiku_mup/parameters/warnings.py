"""What runs and is probably not meant, seen in a whole model: widths that come from nowhere, unused ties."""
from collections.abc import Iterable, Iterator, Mapping
from fractions import Fraction
from itertools import product

from haiku_mup import rules
from haiku_mup.errors import MupError
from haiku_mup.parameters.haiku_layers import TIED
from haiku_mup.parameters.record import Record
from haiku_mup.parameters.scaling import ParameterScaling


def doubts(entries: Mapping[str, ParameterScaling], ties_used: bool) -> Iterator[tuple[str, str]]:
    """(kind, text) of each doubt.

    Args:
      entries: the model, by name.
      ties_used: whether a SharedReadout has asked for a multiplier.
    """
    yield from _mixed(entries)
    for name, entry in entries.items():
        if entry.target.stacks and not entry.base.stacks:
            yield "depth", str(MupError.about(
                name, entry.base.shape, entry.target.shape, f"it is in stacks of {entry.target.stacks} layers, "
                "and the base is from a file of a version that didn't keep how many it has: save it again, so "
                "that a difference in depth is seen"))
        if entry.target.layer == TIED and entry.multiplier != 1 and not ties_used:
            yield "unused tie", str(MupError.about(
                name, entry.base.shape, entry.target.shape, "no SharedReadout reads this SharedEmbed; if its "
                "matrix makes logits in another way, they lack μP's multiplier: use haiku_mup.SharedReadout()"
                "(embed, x); if it makes none, use hk.Embed"))


def _mixed(entries: Mapping[str, ParameterScaling]) -> Iterator[tuple[str, str]]:
    """Fan-ins of Haiku's layers that grow by a ratio which no output has, nor a product or quotient of two."""
    growing = {_module(entry) for entry in entries.values() if _ratios(entry, out=True) != [1]}
    outputs = {ratio for entry in entries.values() for ratio in _ratios(entry, out=True)} | {Fraction(1)}
    fitting = {a * b for a, b in product(outputs, repeat=2)} | {a / b for a, b in product(outputs, repeat=2)}
    for name, entry in entries.items():
        if growing <= {_module(entry)}:          # nothing here that could make its inputs
            continue
        grows = {rules.HIDDEN, rules.OUTPUT} & {part.role for part in entry.row_blocks}
        for ratio in _ratios(entry, out=False) if grows and entry.target.fans.known else ():
            if ratio not in fitting:
                yield "mixed", str(MupError.about(
                    name, entry.base.shape, entry.target.shape, f"its fan-in grows × {float(ratio):.4g}, and "
                    "no layer's output does: a concatenation of a growing and a fixed part? Give each an "
                    "hk.Linear of its own and add them, so that each has its own factors"))


def _module(entry: ParameterScaling) -> str:
    """The name of the module that owns a parameter."""
    return entry.target.name[:-len(entry.target.leaf) - 1]


def _ratios(entry: ParameterScaling, out: bool) -> list[Fraction]:
    """By how much the fan-out grows, or the fan-in: that of each block of rows, where there are several."""
    base, target, fans = entry.base, entry.target, entry.target.fans
    if target.row_sizes and not out:
        return [Fraction(t, b) for b, t in zip(base.row_sizes, target.row_sizes) if b and t]
    return [_ratio(base, target, fans.fan_out if out else fans.fan_in)]


def _ratio(base: Record, target: Record, axes: Iterable[int]) -> Fraction:
    ratio = Fraction(1)
    for axis in axes:
        if base.shape[axis] and target.shape[axis]:
            ratio *= Fraction(target.shape[axis], base.shape[axis])
    return ratio
