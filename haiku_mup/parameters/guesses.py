"""Judges guesses about fan axes: what else a parameter may be, what that changes, and how to declare it."""
import itertools
import math
from collections.abc import Iterator, Set
from typing import NamedTuple

from haiku_mup.errors import MupError
from haiku_mup.parameters.axis_uses import Use, are_ambiguous, readings
from haiku_mup.parameters.fans import Fans, as_declaration
from haiku_mup.parameters.finite_sizes import with_finite_sizes_of
from haiku_mup.parameters.haiku_layers import vector
from haiku_mup.parameters.scaling import ParameterScaling
from haiku_mup.rules import HIDDEN, OUTPUT, Parametrization, Role, role
from haiku_mup.rules.parametrization import Factors

WEIGHT, OUT, VECTOR, TABLE = "a weight", "an output", "a bias or a gain", "a table of which rows are looked up"


class Reading(NamedTuple):
    """A thing that a parameter may be.

    Attributes:
      what: in words.
      fans: its fan axes.
      role: its role.
      factors: its factors.
    """

    what: str
    fans: Fans
    role: Role
    factors: Factors

    def declared(self, name: str) -> str:
        """Returns the code that declares it, with the rates that follow.

        >>> factors = haiku_mup.maximal_update().factors("input", 1.0, 4.0)
        >>> Reading(VECTOR, Fans((), (0, 1)), Role.INPUT, factors).declared("~/b")
        "a bias or a gain, Mup(fans={'~/b': ((), (0, 1))}), Adam's rate × 1, SGD's × 4"
        """
        code = as_declaration(name, self.fans)
        if self.role == OUTPUT:
            code = f"{code[:-1]}, readouts={name!r})"
        rates = [f"{optimizer} × {x:.4g}" for optimizer, x in (
            ("Adam's rate", self.factors.adam), ("SGD's", self.factors.sgd)) if not math.isnan(x)]
        return ", ".join([self.what, code, *rates])


class Guess:
    """A parameter whose fan axes are a guess.

    Args:
      scaling: the parameter, as it was guessed.
      parametrization: the model's.
    """

    def __init__(self, scaling: ParameterScaling, parametrization: Parametrization):
        self._scaling, self._parametrization = scaling, parametrization
        self._target, self._base = scaling.target, with_finite_sizes_of(scaling.target, scaling.base, MupError)
        delta = self._base.delta or self._base.shape
        self._growing = [a for a, sizes in enumerate(zip(self._base.shape, delta, self._target.shape))
                         if len(set(sizes)) > 1]

    def warning(self, uses: Set[Use], odd: bool) -> str | None:
        """Returns what to say of a guess that matters; None if it doesn't.

        A guess matters if another reading has other factors, and something speaks for it: the way in which
        the program uses the parameter; an initial value that is the same for every key, as that of a bias or of
        a gain; a fan-in that no layer's output explains; a use of a part of an axis, which may be any.

        Args:
          uses: how the program uses the parameter, as far as that is known.
          odd: whether its fan-in grows by a ratio that no layer's output has.
        """
        name, guess = self._target.name, self._read_as(WEIGHT, self._scaling.row_blocks[0].fans)
        used = list(self._used(uses))
        others = [reading for reading in used if self._differ(guess, reading)]
        if others and {OUTPUT, guess.role} <= {reading.role for reading in used}:
            return (f"it is used in two ways: one product sums over its axis {self._growing[0]}, which grows, "
                    "and another use keeps that axis, so the product's logits lack μP's multiplier; name it in "
                    f"Mup(tied={name!r}), and make the logits by haiku_mup.SharedReadout()(table, x), with the "
                    "axis that grows last")
        more: list[Reading] = []
        if are_ambiguous(uses, self._growing):
            more += self._all()
        if guess.role == HIDDEN and (odd or not self._target.moments.drawn):
            more += self._others(odd)
        for reading in more:
            if reading.fans not in [other.fans for other in others] and self._differ(guess, reading):
                others.append(reading)
        if not others:
            return None
        how = "the program uses it as" if others[0] in used else "it may be"
        return (f"no layer of Haiku's owns it, so its axes are a guess: {guess.declared(name)}; {how} "
                + "; or ".join(reading.declared(name) for reading in others) + "; declare what it is")

    def _used(self, uses: Set[Use]) -> Iterator[Reading]:
        """Yields the readings that the program shows."""
        for summed, kept in sorted(readings(uses, self._growing), key=lambda axes: [*map(sorted, axes)]):
            rest = tuple(a for a in self._growing if a not in summed | kept)
            fans = Fans(tuple(sorted(summed)), tuple(sorted(kept)), lookup=rest)
            if summed:
                yield self._read_as(WEIGHT if kept else OUT, self._with_fixed_axes(fans))
            elif rest:
                yield self._read_as(TABLE, fans)
            else:
                yield self._read_as(VECTOR, vector(self._target.shape))

    def _all(self) -> Iterator[Reading]:
        """Yields all that a parameter may be: each axis that grows is summed over, or kept."""
        for is_summed in itertools.product([True, False], repeat=len(self._growing)):
            summed, kept = (tuple(a for a, s in zip(self._growing, is_summed) if s is which)
                            for which in (True, False))
            if summed:
                yield self._read_as(WEIGHT if kept else OUT, self._with_fixed_axes(Fans(summed, kept)))
            else:
                yield self._read_as(VECTOR, vector(self._target.shape))

    def _others(self, odd: bool) -> Iterator[Reading]:
        """Yields what a matrix may be that is no weight."""
        yield self._read_as(VECTOR, vector(self._target.shape))
        if odd:
            *rows, width = self._growing
            yield self._read_as(TABLE, Fans((), (width,), lookup=tuple(rows)))

    def _with_fixed_axes(self, fans: Fans) -> Fans:
        """Returns the fans of an output with its fixed axes as fan-out."""
        used = *fans.fan_in, *fans.fan_out, *fans.lookup
        rest = tuple(a for a in range(len(self._target.shape)) if a not in used)
        return fans if fans.fan_out else fans._replace(fan_out=rest)

    def _read_as(self, what: str, fans: Fans) -> Reading:
        """Returns a reading of the parameter."""
        base, target = self._base.shape, self._target.shape
        m_in, m_out = (math.prod(target[a] / base[a] for a in axes if a in self._growing)
                       for axes in (fans.fan_in, fans.fan_out))
        found = role(*(any(a in self._growing for a in axes) for axes in (fans.fan_in, fans.fan_out)))
        factors = self._parametrization.factors(found, m_in, m_out, self._scaling.depth,
                                                lookup=bool(fans.lookup))
        return Reading(what, fans, found, factors)

    def _differ(self, guess: Reading, other: Reading) -> bool:
        """Returns whether two readings have other factors: of the draw, too, if the parameter is drawn."""
        names = [name for name in Factors._fields if name != "init" or self._target.moments.drawn]
        pairs = [(getattr(guess.factors, name), getattr(other.factors, name)) for name in names]
        return any(not (math.isnan(a) and math.isnan(b)) and not math.isclose(a, b, rel_tol=1e-9)
                   for a, b in pairs)
