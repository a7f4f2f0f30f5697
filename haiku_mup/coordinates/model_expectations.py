"""The slopes that are expected of the quantities of a model."""
import math
from collections.abc import Mapping

from haiku_mup.coordinates import expected_slopes as expectation
from haiku_mup.coordinates.recorder import LOGITS, Seen
from haiku_mup.coordinates.slope_range import FLAT, Range, Sizes
from haiku_mup.coordinates.trainer import Program
from haiku_mup.parameters.haiku_layers import NAMED, READOUT, TIED
from haiku_mup.rules import FIXED, HIDDEN
from haiku_mup.rules.optimizers import Coupling, OptimizerRule

HALF = Range(-0.5, 0.0)


class Expected:
    """The slopes that are expected of the quantities of all widths.

    Args:
      programs: by width.
      rule: of the optimizer, by which updates may be as large as gradients, and so as the outputs' errors
        that these are made from.
      decaying: whether an update is part of the parameter.
    """

    def __init__(self, programs: Mapping[int, Program], rule: OptimizerRule, decaying: bool):
        self._entries = {width: program.entries for width, program in programs.items()}
        some = next(iter(self._entries.values()))
        self._readouts = {entry.target.module: self._product(name)
                          for name, entry in some.items()
                          if entry.target.layer in (READOUT, NAMED) and entry.target.fans.fan_in}
        tied = [self._product(name) for name, entry in some.items() if entry.target.layer == TIED]
        if tied:
            self._readouts[TIED] = expectation.hull(tied)
        # What hidden weights make of the start of what they are given: less, where they are drawn smaller.
        *_, widest = self._entries.values()
        hidden = [self._product(name).start.low for name, entry in widest.items()
                  if entry.row_blocks[0].role == HIDDEN and entry.target.moments.drawn
                  and all(name in at for at in self._entries.values())]
        # What branches add that know nothing of each other: r of them, each of size r^-α; less, for α above ½.
        self._thin = Range(min(0.0, _thinned(programs)), 0.0)
        self._shrinks = Range(round(sum(min(low, 0.0) for low in hidden), 9), 0.0).plus(self._thin)
        lows = [sizes.start.low for sizes in self._readouts.values()]
        # Of outputs: their start is in it. In a gradient it has come back through the branches.
        self._error = Range(min(lows, default=0.0), 0.0).plus(self._thin)
        self._gradient = self._error if rule.like_gradients else FLAT
        self._muon = rule.coupling is Coupling.MATRIX
        # A table without factors, which the standard one is, doesn't tell how gradients shrink.
        self._untold = rule.like_gradients and all(
            set(part.factors._replace(init=1.0, stored=1.0)) == {1.0}
            for entry in widest.values() for part in entry.row_blocks)
        self._decaying = decaying

    def _product(self, name: str) -> Sizes:
        """Of a weight's product: by its table, but that in none it may grow."""
        found = expectation.of_product(name, self._entries)
        return Sizes(_bounded(found.start), _bounded(found.change))

    def of(self, module: str, seen: Seen) -> Sizes:
        """What is expected of a recorded array.

        What is computed after a readout may shrink at the start as it does.
        """
        query, own = f"{module}/query/w", f"{module}/w"
        if seen.kind == LOGITS:
            known = all(query in at and at[query].base.key_size for at in self._entries.values())
            found = expectation.of_logits(query, self._entries) if known else Sizes(HALF, FLAT)
        elif seen.readout:
            found = self._readouts[seen.readout]
        elif any(own in at and at[own].multiplier != 1 for at in self._entries.values()):
            found = self._product(own)                      # queries
        else:
            found = Sizes(FLAT, FLAT)
            for name in seen.after:
                found = found._replace(start=found.start | self._readouts[name].start)
        return Sizes(found.start.plus(self._shrinks), found.change.plus(
            self._thin if self._gradient == FLAT else self._gradient))

    def starts_at_zero(self, name: str) -> bool:
        """Whether a parameter does, at every width."""
        return all(name in at for at in self._entries.values()) and expectation.is_zero(name, self._entries)

    def of_parameter(self, name: str) -> Sizes | None:
        """What is expected of a parameter; None for one that wasn't captured.

        The gradient of a fixed one, such as a readout's bias, is the mean of the outputs' errors: where that is
        near zero, what remains is what outputs were at the start, with any optimizer.
        """
        if self._untold or any(name not in at for at in self._entries.values()):
            return None
        found = expectation.of_parameter(name, self._entries, self._muon)
        fixed = all(part.role == FIXED for at in self._entries.values() for part in at[name].row_blocks)
        change = found.change.plus(self._error if fixed else self._gradient)
        return Sizes(found.start, change | found.start if self._decaying else change)


def _bounded(slopes: Range) -> Range:
    return Range(min(slopes.low, 0.0), min(slopes.high, 0.0))


def _thinned(programs: Mapping[int, Program]) -> float:
    """The slope of what independent branches add to the stream."""
    sizes = {width: min(program.branches, default=1.0) * math.sqrt(max(
        entry.depth for entry in program.entries.values())) for width, program in programs.items()}
    return round(expectation.slope(sizes, sizes.values()), 9)
