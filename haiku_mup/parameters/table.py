"""What μP made of a model, to be read by people: one row a parameter."""
import dataclasses
import math
from collections.abc import Iterable

from haiku_mup.parameters.haiku_layers import READOUT, TIED
from haiku_mup.parameters.scaling import ParameterScaling, RowBlock


@dataclasses.dataclass(frozen=True)
class Row:
    """One parameter of a captured model.

    Attributes:
      name: "module/name" in the parameter tree.
      base_shape: its shape at the base, in one layer (without a stack axis).
      target_shape: its shape at the target.
      role: "input", "hidden", "output" or "fixed".
      base_std: std of its initializer at the base (0 for a constant).
      target_std: std at the target, in μP.
      multiplier: what its layer's product is multiplied by, or itself; for the queries of an attention, what
        they are; for a shared embedding, what the logits are.
      adam_lr: factor of the learning rate for Adam; nan where the parametrization has none.
      sgd_lr: factor of the learning rate for SGD; the same.
      inferred: whether it grows and is drawn, and no layer of Haiku's owns it, so that its fans are a guess: a
        vector's axis is taken as out, a matrix's as (in, out). `haiku_mup.fans` or `Mup(fans=...)` settles it.
      init_mult: the multiplier of `Mup(init_mults=...)`, which is in the std at the target.
      lr_mult: that of `lr_mults`, which is in both learning rates.
      depth: by how many times there are more blocks than at the base, of those that it is one of; 1 outside.

    After the example of `Mup`:

    >>> row = mup.table()[2]
    >>> row.name, row.role, row.base_shape, row.target_shape, row.adam_lr
    ('linear_1/w', 'hidden', (64, 64), (256, 256), 0.25)
    """

    name: str
    base_shape: tuple[int, ...]
    target_shape: tuple[int, ...]
    role: str
    base_std: float
    target_std: float
    multiplier: float
    adam_lr: float
    sgd_lr: float
    inferred: bool = False
    init_mult: float = 1.0
    lr_mult: float = 1.0
    depth: float = 1.0

    @classmethod
    def of(cls, entry: ParameterScaling, lr_mult: float) -> "list[Row]":
        """The rows of one parameter: one, or one for each block of an LSTM's matrix, named as its slice."""
        first, rows = 0, []
        for part in entry.row_blocks:
            rows.append(cls._part(entry, part, first, lr_mult))
            first += part.rows
        return rows

    @classmethod
    def _part(cls, entry: ParameterScaling, part: RowBlock, first: int, lr_mult: float) -> "Row":
        base, target, name = entry.base, entry.target, entry.target.name
        shapes = base.shape, target.shape
        if len(entry.row_blocks) > 1:
            number = entry.row_blocks.index(part)
            name += f"[{first}:{first + part.rows}]"
            shapes = (base.row_sizes[number], *base.shape[1:]), (part.rows, *target.shape[1:])
        multiplier = entry.multiplier * (1.0 if target.layer in (READOUT, TIED) else part.factors.forward)
        return cls(name, *shapes, part.role.value, base.moments.std, target.moments.std * part.draw,
                   multiplier, part.factors.adam * lr_mult, part.factors.sgd * lr_mult,
                   entry.inferred, entry.init_mult, lr_mult, entry.depth)


HEADS = ("parameter", "base", "target", "role", "std base", "std target", "multiplier", "Adam lr",
         "SGD lr")
OWN = {"init_mult": "init ×", "lr_mult": "lr ×", "depth": "depth"}        # shown where there are any


def as_text(rows: Iterable[Row], width: int = 100) -> str:
    """An aligned table of at most `width` columns where that can be: long names lose their middle."""
    rows = list(rows)
    own = [field for field in OWN if any(getattr(row, field) != 1 for row in rows)]
    heads = (*HEADS, *(OWN[field] for field in own))
    cells = [tuple(map(_cell, (*dataclasses.astuple(row)[:len(HEADS)], *(getattr(row, f) for f in own))))
             for row in rows]
    cells = [(*cell[:3], cell[3] + "?" * row.inferred, *cell[4:]) for cell, row in zip(cells, rows)]
    widths = [max(map(len, column)) for column in zip(heads, *cells)]
    room = max(24, width - sum(widths[1:]) - 2 * (len(heads) - 1))
    widths[0] = min(widths[0], room)
    lines = [_line(line, widths) for line in (heads, *cells)]
    if all(row.depth == 1 for row in rows) and all(base == target for _, base, target, *_ in cells):
        lines.append("Nothing grows: base and target have the same shapes.")
    if any(row.inferred for row in rows):
        lines.append("?: no layer of Haiku's, so its fans are a guess. To declare them: Mup(fans=...)")
    return "\n".join(lines)


def _cell(value) -> str:
    if isinstance(value, tuple):
        return "×".join(map(str, value)) or "scalar"
    return value if isinstance(value, str) else "–" if math.isnan(value) else f"{value:.4g}"


def _line(cells, widths) -> str:
    first, *rest = cells
    if len(first) > widths[0]:
        half = (widths[0] - 1) // 2
        first = f"{first[:widths[0] - half - 1]}…{first[-half:]}"
    left = [f"{c:<{w}}" for c, w in zip((first, *rest[:3]), widths)]
    right = [f"{c:>{w}}" for c, w in zip(rest[3:], widths[4:])]
    return "  ".join(left + right)
