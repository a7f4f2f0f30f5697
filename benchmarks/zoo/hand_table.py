"""Tables of roles and factors, written by hand from the rules of μP; and how captured models differ from them.

A table has a line for each group of parameters:

    transformer/*/query/w    hidden  -1/2  -1/2  -1  0

A glob over "module/name", the role, and exponents of m, the ratio of widths, target / base: of the std at the
target beside that of the base, of the factor in the forward pass, of Adam's learning rate and of SGD's. A std
"-" is that of a parameter that isn't drawn. The first line that fits a parameter is its own, and each line has
to fit some.
"""
import re
from collections.abc import Iterable
from fractions import Fraction
from typing import NamedTuple

FACTORS = "std", "forward", "Adam", "SGD"
NOT_DRAWN = "-"


class HandRow(NamedTuple):
    """A line of a table.

    Attributes:
      glob: over "module/name"; a star stands for anything, and nothing else is special.
      role: "input", "hidden", "output" or "fixed".
      exponents: of m, in the order of FACTORS; None for the std of what isn't drawn.
    """

    glob: str
    role: str
    exponents: tuple[Fraction | None, ...]

    def fits(self, name: str) -> bool:
        """Returns whether this is the line of a parameter."""
        return re.fullmatch(".*".join(map(re.escape, self.glob.split("*"))), name) is not None


class Mistake(NamedTuple):
    """A role or a factor that is not the one of the table.

    Attributes:
      name: of the parameter.
      what: "role", or one of FACTORS.
      wanted, found: by hand, and of the library.
    """

    name: str
    what: str
    wanted: str
    found: str

    def __str__(self) -> str:
        """Returns the mistake as a line of the report."""
        return f"{self.name}: {self.what} {self.found}, by hand {self.wanted}"


def parse(text: str) -> list[HandRow]:
    """Returns the lines of a table; empty ones are left out.

    Raises:
      ValueError: a line with too few or too many cells, an unknown role, or a cell that is no exponent.
    """
    return [_parse_line(line) for line in text.splitlines() if line.strip()]


def _parse_line(line: str) -> HandRow:
    cells = line.split()
    if len(cells) != 2 + len(FACTORS) or cells[1] not in ("input", "hidden", "output", "fixed"):
        raise ValueError(f"{line!r}: write a glob, a role, and the exponents of {', '.join(FACTORS)}")
    glob, role, std, *others = cells
    exponents = None if std == NOT_DRAWN else Fraction(std), *map(Fraction, others)
    return HandRow(glob, role, exponents)


def mistakes(table: Iterable[HandRow], rows: Iterable, ratio: float) -> list[Mistake]:
    """Returns where a captured model differs from a table.

    Args:
      table: the lines.
      rows: what `Mup.table` returns.
      ratio: m, the ratio of the widths of target and base.

    Raises:
      ValueError: a parameter without a line, or a line without a parameter.
    """
    table, rows, used, found = list(table), list(rows), set(), []
    for row in rows:
        line = next((line for line in table if line.fits(row.name)), None)
        if line is None:
            raise ValueError(f"no line of the table fits {row.name!r}")
        used.add(line)
        found += _mistakes_of(line, row, ratio)
    if unused := [line.glob for line in table if line not in used]:
        raise ValueError(f"no parameter fits {unused}: the model has {[row.name for row in rows]}")
    return found


def _mistakes_of(line: HandRow, row, ratio: float) -> list[Mistake]:
    """Returns where a row of a captured model differs from its line."""
    found = [Mistake(row.name, "role", line.role, row.role)] if row.role != line.role else []
    std = row.target_std / row.base_std if row.base_std else None
    for what, exponent, value in zip(FACTORS, line.exponents, (std, row.multiplier, row.adam_lr, row.sgd_lr)):
        wanted = None if exponent is None else ratio**float(exponent)
        if (wanted is None) != (value is None) or wanted is not None and abs(value / wanted - 1) > 1e-4:
            found.append(Mistake(row.name, what, _number(wanted), _number(value)))
    return found


def _number(value: float | None) -> str:
    return "not drawn" if value is None else f"× {value:.4g}"
