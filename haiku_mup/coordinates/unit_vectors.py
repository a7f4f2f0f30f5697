"""Finds arrays of normalised vectors, such as CLIP's features, whose entries shrink as their number grows.

The vectors along an array's last axis are normalised where all have one norm: at each width, from each seed and
in each row. Norms of other activations differ from row to row, but for those of fixed tables, such as sines of
positions, which no parameter changes: these are not normalised. The n entries of a normalised vector have the
size n^-½ by construction, and a product of two such vectors, which sums n terms of size 1 / n, keeps its size.
"""
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from haiku_mup.coordinates.array_stats import NORMS, SAMPLE
from haiku_mup.coordinates.expected_slopes import slope
from haiku_mup.coordinates.quantities import RecordKind
from haiku_mup.coordinates.slope_range import ExpectedSlopes, Range
from haiku_mup.coordinates.state_records import RecordInfo
from haiku_mup.coordinates.trainer import Trainer
from haiku_mup.coordinates.training_runs import TrainingRuns

RecordKey = tuple[str, str]         # module and entry
TOLERANCE = 1e-3                    # of squared norms, relative; an ε inside the root moves them by less
_OTHERS = (RecordKind.MULTIPLIER, RecordKind.LOGITS)


def unit_vector_slopes(trainers: Mapping[int, Trainer], runs: TrainingRuns) -> dict[RecordKey, Range]:
    """Returns the slope of the entries of each array of normalised vectors that grow with the width.

    Args:
      trainers: the trainer of each width.
      runs: the steps of each width and seed; the first of them tell, and the others whether anything changes.
    """
    found: dict[RecordKey, Range] = {}
    widths = sorted(trainers)
    for key, info in trainers[widths[0]].records.items():
        sizes = [_vector_size(trainers[width].records.get(key)) for width in widths]
        grows = 0 < sizes[0] and all(narrow < wide for narrow, wide in zip(sizes, sizes[1:]))
        if info.kind in _OTHERS or not grows:
            continue
        module, entry = key
        first = [steps[0].records[module][entry] for steps in runs.values()]
        of_widest = [step.records[module][entry] for (width, _), steps in runs.items() if width == widths[-1]
                     for step in steps]
        if _have_one_norm(first, TOLERANCE + 2 * info.eps) and _change(of_widest):
            exponent = round(slope(widths, [size**-0.5 for size in sizes]), 9)
            found[key] = Range(exponent, exponent)
    return found


def of_unit_vectors(expected: ExpectedSlopes, entries: Range) -> ExpectedSlopes:
    """Returns what is expected of normalised vectors, whose entries have a slope, and move in proportion.

    >>> from haiku_mup.coordinates.slope_range import FLAT
    >>> str(of_unit_vectors(ExpectedSlopes(FLAT, FLAT), Range(-0.5, -0.5)).change)
    '-0.5'
    """
    return ExpectedSlopes(entries, expected.change.plus(entries))


def _vector_size(info: RecordInfo | None) -> int:
    """Returns how long an array's last axis is; 0 where there is no array, or a single number."""
    return info.shape[-1] if info is not None and info.shape else 0


def _change(records: Sequence[np.ndarray]) -> bool:
    """Returns whether the entries that records keep differ between seeds, or from step to step."""
    kept = [sums[..., -NORMS - SAMPLE:-NORMS] for sums in records]
    return any(not np.array_equal(entries, kept[0]) for entries in kept[1:])


def _have_one_norm(records: Iterable[np.ndarray], tolerance: float) -> bool:
    """Returns whether all vectors of all records [layers …, numbers] have the same norm but for rounding."""
    squares, spreads = [], []
    for sums in records:
        count = sums[..., :1]
        if not (count > 0).all():       # in a layer that was not called
            return False
        square, spread = np.moveaxis(sums[..., -NORMS:] / count, -1, 0)
        squares.append(square.ravel())
        spreads.append(spread.ravel())
    square, spread = np.concatenate(squares), np.concatenate(spreads)
    return bool(np.isfinite(square).all() and square.min() > 0 and (spread <= tolerance * square).all()
                and square.max() - square.min() <= tolerance * square.min())
