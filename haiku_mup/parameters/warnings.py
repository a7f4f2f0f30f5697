"""Warnings of models that run, but probably not as meant: by one parameter, and by all together."""
import functools
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Set
from fractions import Fraction
from itertools import product
from typing import NamedTuple

from haiku_mup.errors import MupError, SourceLine
from haiku_mup.parameters.axis_uses import Use
from haiku_mup.parameters.fans import Fans
from haiku_mup.parameters.guesses import Guess
from haiku_mup.parameters.haiku_layers import TIED
from haiku_mup.parameters.scaling import ParameterScaling
from haiku_mup.rules import HIDDEN, INPUT, OUTPUT, Parametrization, rescale


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
    base, target = scaling.base, scaling.target
    if not parametrization.draws:
        return None
    if text := _given_array_text(scaling):
        return _about("given", scaling, text)
    if parametrization.attention and base.key_size != target.key_size and not target.scaled_attention:
        return _about("attention", scaling, (
            f"an attention whose key size grows from {base.key_size} to {target.key_size} "
            "divides its logits by the root of that size, but μP divides by the size; use "
            "haiku_mup.MultiHeadAttention. "
            "If its own `__call__` already divides by the size, declare that in a LayerType: "
            "attention=Attention(key_size, scales_logits=True)"))
    return None


def _given_array_text(scaling: ParameterScaling) -> str | None:
    """Returns what to say of an array that is the same for every key, and has not the std that μP wants."""
    block, was, now = scaling.row_blocks[0], scaling.base.moments, scaling.target.moments
    wanted = was.std * block.factors.init * block.factors.stored
    if was.drawn or now.drawn or not was.std > 0:
        return None
    tolerance = 1.25
    if block.role not in (HIDDEN, OUTPUT):
        noise = [1 / math.sqrt(math.prod(record.shape)) for record in (scaling.base, scaling.target)]
        if any(moments.mean > 4 * x * moments.std for moments, x in zip((was, now), noise)):
            return None         # not as if it were drawn: frequencies, positions, decays
        tolerance *= 1 + 2 * sum(noise)
    if 1 / tolerance < rescale(wanted, now.std, 1.0) < tolerance:
        return None
    kind = {HIDDEN: "a hidden weight", OUTPUT: "a readout"}.get(block.role, "an input weight")
    return (f"{kind}'s initializer gives one array whatever the key, so the array is left as it is, with std "
            f"{now.std:.3g} where μP wants {wanted:.3g}; draw with hk.next_rng_key(), or scale the array")


def model_warnings(scalings: Mapping[str, ParameterScaling], ties_used: bool, uses: Mapping[str, Set[Use]],
                   parametrization: Parametrization) -> Iterator[Message]:
    """Yields the warnings that need the whole model.

    Args:
      scalings: the model's parameters, by name.
      ties_used: whether a SharedReadout has asked for a multiplier.
      uses: how the program uses the parameters whose fans are a guess, as far as that is known, and how it uses
        a layer's weight that it also reads in another way.
      parametrization: the model's.
    """
    if not parametrization.draws:
        return
    sizes = Sizes(scalings)
    for name, scaling in scalings.items():
        odd = sizes.odd_fan_in(scaling)
        if scaling.inferred:
            guess = Guess(scaling, parametrization)
            if text := guess.warning(uses.get(name, frozenset()), odd is not None):
                yield _about("guess " + re.sub(r"\d+", "#", name), scaling, text)
        elif odd is not None:
            yield _about("mixed", scaling, _odd_fan_in_text(scaling, odd, sizes))
        if scaling.target.is_weight and scaling.row_blocks[0].role == INPUT and uses.get(name):
            yield _about("tied weight", scaling, (
                "another product reads this layer's weight, and sums over its fan-out, which grows: if that "
                "makes outputs, they lack μP's multiplier; make it a parameter of your own, named in "
                "Mup(tied=...), and the outputs by haiku_mup.SharedReadout()(w, x)"))
        if (rest := sizes.fixed_part_of_fan_out(scaling)) is not None:
            yield _about("mixed outputs", scaling, (
                f"its fan-out grows × {float(_fan_out_ratio(scaling)):.4g}, as if {rest} of its outputs stay "
                "as the others grow: if these are logits, they lack μP's multiplier; make them in a separate "
                "layer, haiku_mup.Readout"))
    yield from _other_warnings(scalings, ties_used)


def _odd_fan_in_text(scaling: ParameterScaling, ratio: Fraction, sizes: "Sizes") -> str:
    """Returns what to say of a fan-in that grows as no layer's output does."""
    finite = f"Mup(finite={{{scaling.target.name!r}: 'in'}})"
    text = f"its fan-in grows × {float(ratio):.4g}, and no layer's output does: "
    if sizes.is_sum(*_fan_in_sizes(scaling)):
        return text + ("it may be a concatenation of a growing and a fixed part: give each part its own "
                       "hk.Linear and add the results, so that each has its own factors; if it is a number of "
                       "features that just "
                       f"differs between base and target, {finite}")
    return text + ("if it is a number of features, which is not a width though it differs between base and "
                   f"target: {finite}; if parts of it grow, give each part its own layer, and add the results")


def _other_warnings(scalings: Mapping[str, ParameterScaling], ties_used: bool) -> Iterator[Message]:
    """Yields the warnings about stacks and ties."""
    for scaling in scalings.values():
        target = scaling.target
        if target.stacks and not scaling.base.stacks:
            yield _about("depth", scaling, (
                f"it is in stacks of {target.stacks} layers, and the base is from a file of a version that "
                "didn't keep how many it has; save the base again, so that a difference in depth shows"))
        if target.layer == TIED and scaling.multiplier != 1 and not ties_used:
            yield _about("unused tie", scaling, (
                "no SharedReadout reads this SharedEmbed; if its matrix makes logits in another way, they lack "
                "μP's multiplier: use haiku_mup.SharedReadout()(embed, x); if it makes none, use hk.Embed"))


def _about(kind: str, scaling: ParameterScaling, text: str) -> Message:
    target = scaling.target
    return Message(kind, str(MupError.about(target.name, scaling.base.shape, target.shape, text)), target.line)


class Sizes:
    """The sizes of fan-ins and fan-outs in a model, and what they explain.

    Args:
      scalings: the model's parameters, by name.
    """

    def __init__(self, scalings: Mapping[str, ParameterScaling]):
        self._scalings = scalings
        outputs = {name: ratio for name, scaling in scalings.items() if (ratio := _fan_out_ratio(scaling)) != 1}
        self._ratios = {*outputs.values(), Fraction(1)}
        self._outputs = {_fan_out_sizes(scalings[name]) for name in outputs}

    def odd_fan_in(self, scaling: ParameterScaling) -> Fraction | None:
        """Returns the ratio of a fan-in that grows as no layer's output does; None for others.

        The ratio of an output explains it, and so does a product or a quotient of two: reshapes move axes.
        Where nothing else grows, nothing is known of its inputs.
        """
        if not {HIDDEN, OUTPUT} & {block.role for block in scaling.row_blocks} or self._ratios == {Fraction(1)}:
            return None
        return next((ratio for ratio in _fan_in_ratios(scaling)
                     if ratio not in self._ratios and ratio not in self._of_two), None)

    @functools.cached_property
    def _of_two(self) -> set[Fraction]:
        """Returns the products and the quotients of two ratios."""
        return {x for a, b in product(self._ratios, repeat=2) for x in (a * b, a / b)}

    def is_sum(self, base: int, target: int) -> bool:
        """Returns whether a size may be a multiple of an output's and a fixed number."""
        return any(_rest((base, target), pair) for pair in self._outputs)

    def fixed_part_of_fan_out(self, scaling: ParameterScaling) -> int | None:
        """Returns the size of the fixed part of a layer's fan-out, whose other part is another layer's input.

        None if there is no such part: if some layer's fan-in grows by the ratio of the whole fan-out, or the
        fan-out of a layer beside it does, as with queries and keys.
        """
        sizes, ratio = _fan_out_sizes(scaling), _fan_out_ratio(scaling)
        if scaling.target.is_guess or not _fans(scaling).fan_in or ratio in self._fan_in_ratios or any(
                _are_siblings(scaling, other) and _fan_out_ratio(other) == ratio
                for other in self._scalings.values()):
            return None
        others = {pair for name, pair in self._fan_ins.items() if name != scaling.target.name}
        return min((rest for pair in others if (rest := _rest(sizes, pair))), default=None)

    @functools.cached_property
    def _fan_ins(self) -> dict[str, tuple[int, int]]:
        """Returns the sizes of fan-ins that grow, by name."""
        found = {name: _fan_in_sizes(scaling) for name, scaling in self._scalings.items()}
        return {name: (base, target) for name, (base, target) in found.items() if base != target}

    @functools.cached_property
    def _fan_in_ratios(self) -> set[Fraction]:
        return {Fraction(1), *(Fraction(target, base) for base, target in self._fan_ins.values() if base)}


def _rest(sizes: tuple[int, int], part: tuple[int, int]) -> int | None:
    """Returns the rest r of two sizes that are n times a growing part, plus r; None if there is none.

    >>> _rest((138, 522), (64, 256))            # 2 · 64 + 10, 2 · 256 + 10
    10
    """
    grown, by = sizes[1] - sizes[0], part[1] - part[0]
    if not by or grown % by or grown // by < 1:
        return None
    rest = sizes[0] - grown // by * part[0]
    return rest if rest > 0 else None


def _are_siblings(scaling: ParameterScaling, other: ParameterScaling) -> bool:
    """Returns whether two modules are side by side, with names that differ in more than their numbers."""
    (parent, name), (other_parent, other_name) = (
        re.sub(r"_\d+$", "", s.target.in_tree).rpartition("/")[::2] for s in (scaling, other))
    return parent == other_parent and name != other_name


def _fans(scaling: ParameterScaling) -> Fans:
    """Returns the fans of a parameter, guessed or not."""
    return scaling.row_blocks[0].fans


def _fan_in_sizes(scaling: ParameterScaling) -> tuple[int, int]:
    """Returns the sizes of the fan-in at base and target."""
    return _sizes(scaling, _fans(scaling).fan_in)


def _fan_out_sizes(scaling: ParameterScaling) -> tuple[int, int]:
    """Returns the sizes of the fan-out at base and target."""
    return _sizes(scaling, _fans(scaling).fan_out)


def _sizes(scaling: ParameterScaling, axes: Iterable[int]) -> tuple[int, int]:
    axes = [a for a in axes if a not in scaling.target.finite]
    base, target = (math.prod(record.shape[a] for a in axes) for record in (scaling.base, scaling.target))
    return base, target


def _fan_out_ratio(scaling: ParameterScaling) -> Fraction:
    """Returns the ratio of the fan-out, target / base."""
    return _ratio(scaling, _fans(scaling).fan_out)


def _fan_in_ratios(scaling: ParameterScaling) -> list[Fraction]:
    """Returns the ratio of the fan-in, target / base, of each block of rows."""
    base, target = scaling.base, scaling.target
    if target.row_sizes:
        rows = list(zip(base.row_sizes, target.row_sizes))
        return [_product(((t, b),)) for b, t in (rows[1:] if 0 in target.finite else rows) if b and t]
    return [_ratio(scaling, _fans(scaling).fan_in)]


def _ratio(scaling: ParameterScaling, axes: Iterable[int]) -> Fraction:
    """Returns the product of target / base over some axes, without those that are finite, or of size 0."""
    base, target, finite = scaling.base.shape, scaling.target.shape, scaling.target.finite
    return _product(tuple((target[a], base[a]) for a in axes if base[a] and target[a] and a not in finite))


@functools.lru_cache(maxsize=2**12)        # fractions are slow, and a model has few sizes
def _product(sizes: tuple[tuple[int, int], ...]) -> Fraction:
    return math.prod((Fraction(target, base) for target, base in sizes), start=Fraction(1))
