"""The table of a captured model, for people to read: one row a parameter."""
import dataclasses
import math
from collections.abc import Iterable, Sequence
from typing import Any

from haiku_mup.parameters.haiku_layers import SCALING_INPUTS, TIED
from haiku_mup.parameters.scaling import ParameterScaling


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
      multiplier: factor of its layer's product, or of itself. It multiplies the queries of an attention, and
        the logits of a shared embedding.
      adam_lr: factor of the learning rate for Adam; nan if the parametrization has none.
      sgd_lr: factor of the learning rate for SGD; nan if the parametrization has none.
      inferred: whether its fans are a guess, since it grows and belongs to no layer of Haiku's: a vector's axis
        is taken as out, a matrix's as (in, out). `haiku_mup.fans` or `Mup(fans=...)` settles it.
      init_mult: the multiplier of `Mup(init_mults=...)`, which is included in the std at the target.
      lr_mult: the multiplier of `lr_mults`, which is included in both learning rates.
      depth: ratio of the number of blocks, target / base, if it is in blocks that repeat; 1 outside.

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
    def of(cls, scaling: ParameterScaling, lr_mult: float) -> "list[Row]":
        """Returns the rows of one parameter: one, or one for each block of its rows, named as its slice."""
        first, rows = 0, []
        for number, block in enumerate(scaling.row_blocks):
            rows.append(cls._of_block(scaling, number, first, lr_mult))
            first += block.rows
        return rows

    @classmethod
    def _of_block(cls, scaling: ParameterScaling, number: int, first: int, lr_mult: float) -> "Row":
        """Returns the row of one block of a parameter's rows, which starts at row `first`."""
        base, target, block = scaling.base, scaling.target, scaling.row_blocks[number]
        name, base_shape, target_shape = target.name, base.shape, target.shape
        if len(scaling.row_blocks) > 1:
            name += f"[{first}:{first + block.rows}]"
            base_shape = (base.row_sizes[number], *base.shape[1:])
            target_shape = (block.rows, *target.shape[1:])
        in_multiplier = target.layer in (*SCALING_INPUTS, TIED)
        forward = 1.0 if in_multiplier else block.factors.forward
        return cls(name=name, base_shape=base_shape, target_shape=target_shape, role=block.role.value,
                   base_std=base.moments.std, target_std=target.moments.std * block.draw,
                   multiplier=scaling.multiplier * forward,
                   adam_lr=block.factors.adam * lr_mult, sgd_lr=block.factors.sgd * lr_mult,
                   inferred=scaling.inferred, init_mult=scaling.init_mult, lr_mult=lr_mult,
                   depth=scaling.depth)


HEADS = ("parameter", "base", "target", "role", "std base", "std target", "multiplier", "Adam lr",
         "SGD lr")
OPTIONAL = {"init_mult": "init ×", "lr_mult": "lr ×", "depth": "depth"}       # shown if any of them is not 1


def as_text(rows: Iterable[Row], width: int = 100) -> str:
    """Returns an aligned table of at most `width` columns, if names that lose their middle still differ."""
    rows = list(rows)
    shown = [field for field in OPTIONAL if any(getattr(row, field) != 1 for row in rows)]
    heads = (*HEADS, *(OPTIONAL[field] for field in shown))
    cells = [tuple(map(_cell, (*dataclasses.astuple(row)[:len(HEADS)], *(getattr(row, f) for f in shown))))
             for row in rows]
    cells = [(*cell[:3], cell[3] + "?" * row.inferred, *cell[4:]) for cell, row in zip(cells, rows)]
    widths = [max(map(len, column)) for column in zip(heads, *cells)]
    room = max(24, width - sum(widths[1:]) - 2 * (len(heads) - 1))
    names = shortened([cell[0] for cell in cells], room)
    cells = [(name, *cell[1:]) for name, cell in zip(names, cells)]
    widths[0] = max(map(len, (heads[0], *names)))
    lines = [_line(line, widths) for line in (heads, *cells)]
    if all(row.depth == 1 for row in rows) and all(base == target for _, base, target, *_ in cells):
        lines.append("Nothing grows: base and target have the same shapes.")
    if any(row.inferred for row in rows):
        lines.append("?: not a layer of Haiku's, so its axes are a guess. Declare them: Mup(fans=...)")
    return "\n".join(lines)


def shortened(names: Sequence[str], room: int) -> list[str]:
    """Returns names of at most `room` characters, or of as many as keep them apart: without their middle.

    >>> shortened(["encoder/layer_1/linear/w", "encoder/layer_2/linear/w"], 12)
    ['enco…1/linear/w', 'enco…2/linear/w']
    """
    different = len(set(names))
    for length in range(room, max(map(len, names), default=0)):
        for tail in ((length - 1) // 2, (length - 1) * 3 // 4, (length - 1) // 4):
            cut = [name if len(name) <= length else f"{name[:length - 1 - tail]}…{name[-tail:]}"
                   for name in names]
            if len(set(cut)) == different:
                return cut
    return list(names)


def _cell(value: Any) -> str:
    if isinstance(value, tuple):
        return "×".join(map(str, value)) or "scalar"
    return value if isinstance(value, str) else "–" if math.isnan(value) else f"{value:.4g}"


def _line(cells: Sequence[str], widths: Sequence[int]) -> str:
    """Returns a line with names, shapes and roles aligned to the left, numbers to the right."""
    first, *rest = cells
    left = [f"{c:<{w}}" for c, w in zip((first, *rest[:3]), widths)]
    right = [f"{c:>{w}}" for c, w in zip(rest[3:], widths[4:])]
    return "  ".join(left + right)
