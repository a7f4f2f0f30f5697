"""What the steps of a coordinate check computed -> its points, each with the slope that is expected."""
import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from haiku_mup.coordinates import expected_slopes as expectation
from haiku_mup.coordinates.array_stats import JUDGED, Stat, stat_name
from haiku_mup.coordinates.depth_average import Pooled, averaged
from haiku_mup.coordinates.findings import Point
from haiku_mup.coordinates.model_expectations import Expected
from haiku_mup.coordinates.recorder import OUTPUT
from haiku_mup.coordinates.slope_range import FLAT, Range, Sizes
from haiku_mup.coordinates.trainer import CHANGE, DECAY, GRADIENT, PARAM, UPDATE, Program, Step
from haiku_mup.rules.optimizers import OptimizerRule

NOISE = 16      # rounding errors of one operation; a gradient below that many is noise


class Value(NamedTuple):
    """One number of one trial.

    Attributes:
      moved: whether it is how far an activation moved.
      blocks: how many blocks of a model it is the mean of.
    """

    quantity: str
    step: int
    stat: str
    value: float
    expected: Range | None
    moved: bool = False
    blocks: int = 1


def as_points(name: str, programs: Mapping[int, Program], trials: Mapping[tuple[int, int], list[Step]],
              stats: Sequence[Stat], *, rule: OptimizerRule, moves: bool, decaying: bool) -> list[Point]:
    """The points of all trials.

    Args:
      name: of the parametrization.
      programs: by width.
      trials: the steps by width and seed.
      stats: the statistics.
      rule: of the optimizer.
      moves: whether to tell how far activations move.
      decaying: whether the optimizer decays weights.
    """
    rules = Expected(programs, rule, decaying)
    quiet = _quiet(programs, trials, [stat_name(stat) for stat in stats])
    first = {width: steps[0] for (width, _), steps in trials.items()}
    pooled = Pooled(_layers(first[width]) for width in sorted(first))
    found = {}
    for (width, seed), steps in trials.items():
        values = itertools.chain(_activations(programs[width], rules, steps, stats, moves, pooled),
                                 _parameters(rules, steps, stats, quiet, decaying, pooled))
        found[width, seed] = list(averaged(values))
    late = _late({width: values for (width, _), values in found.items()})
    return [Point(name, width, seed, v.step, v.quantity, v.stat, v.value,
                  str(_widened(v.expected, late.get(v.quantity))) if v.expected and v.stat in JUDGED else "")
            for (width, seed), values in found.items() for v in values]


def _late(values: Mapping[int, list[Value]]) -> dict[str, float]:
    """How much faster than with the width the means of changes over blocks grow, because blocks are few.

    What training changes in the stream adds up from block to block: the input of block l of n has changed by
    l / n of what the whole stack changes, beside what was there before the first. The mean over blocks is
    (n - 1) / 2n of it: of 2 blocks a quarter, of many a half. Of 1 block it is nothing, and what was there
    before is all there is: that is taken for an eighth. By quantity, of those whose number of blocks differs.
    """
    blocks: dict[str, dict[int, int]] = {}
    for width, some in values.items():
        for value in some:
            if value.moved:
                blocks.setdefault(value.quantity, {})[width] = value.blocks
    return {quantity: max(0.0, expectation.slope(at, [1 - 1 / max(n, 4 / 3) for n in at.values()]))
            for quantity, at in blocks.items() if len(set(at.values())) > 1}


def _widened(expected: Range, late: float | None) -> Range:
    return expected if late is None else Range(expected.low, max(expected.high, round(late, 9)))


def _layers(step: Step) -> dict[str, dict[str, tuple[int, ...]]]:
    """The sizes of the stacks of what was recorded, and of the parameters."""
    found = {module: {entry: np.shape(x)[:-1] for entry, x in entries.items()}
             for module, entries in step.records.items()}
    for name, parts in step.params.items():
        module, _, leaf = name.rpartition("/")
        found.setdefault(module, {})[leaf] = np.shape(parts[PARAM])[:-1]
    return found


def _activations(program: Program, rules: Expected, steps: Sequence[Step], stats: Sequence[Stat],
                 moves: bool, pooled: Pooled) -> Iterator[Value]:
    """What was recorded in the forward passes, and how far it moved since the first."""
    for (module, entry), seen in sorted(program.seen.items(), key=lambda item: item[1].order):
        shown, known = pooled.module(module)
        sizes, first = rules.of(known, seen), steps[0].records[module][entry]
        for layer in np.ndindex(first.shape[:-1]):
            title = _title(shown, seen.rest) + pooled.layer(module, entry, layer)
            quantity = f"{seen.kind} {title}" if seen.kind != OUTPUT else seen.kind + seen.rest
            start = _mean(first[layer])
            for number, step in enumerate(steps):
                row = _mean(step.records[module][entry][layer])
                if row is None or start is None:
                    continue
                for i, stat in enumerate(stats):
                    yield Value(quantity, number, stat_name(stat), float(row[1 + i]), sizes.at(number))
                if moves and number:
                    moved = row[1 + len(stats):] - start[1 + len(stats):]
                    yield from (Value(f"Δ{quantity}", number, stat_name(stat), _size(moved, stat),
                                      sizes.moved(number), moved=True) for stat in stats if stat in JUDGED)


def _parameters(rules: Expected, steps: Sequence[Step], stats: Sequence[Stat], quiet: set[str],
                decaying: bool, pooled: Pooled) -> Iterator[Value]:
    """The parameters, and how far they moved."""
    for name, first in steps[0].params.items():
        module, _, leaf = name.rpartition("/")
        shown, known = (f"{at}/{leaf}" for at in pooled.module(module))
        sizes, zero = rules.of_parameter(known), rules.starts_at_zero(known)
        for number, step in enumerate(steps):
            expected = _expected(sizes, number, zero, name in quiet)
            for layer, (i, stat) in itertools.product(np.ndindex(first[PARAM].shape[:-1]),
                                                      enumerate(map(stat_name, stats))):
                title = _title(shown, "") + pooled.layer(module, leaf, layer)
                values = {part: float(x[(*layer, i)]) for part, x in step.params[name].items()}
                yield Value(f"param {title}", number, stat, values[PARAM], expected[PARAM])
                yield Value(f"update {title}", number, stat, values[UPDATE], expected[UPDATE])
                if number:
                    yield Value(f"Δparam {title}", number, stat, values[CHANGE], expected[CHANGE])
                if decaying and values[PARAM] and stat in JUDGED:
                    yield Value(f"decay {title}", number, stat, values[DECAY] / values[PARAM], FLAT)


def _expected(sizes: Sizes | None, step: int, zero: bool, quiet: bool) -> dict[str, Range | None]:
    """What is expected of a parameter's parts; None for what rounding errors make, or an unknown parameter."""
    if sizes is None:
        return dict.fromkeys((PARAM, UPDATE, CHANGE))
    if quiet:
        return {PARAM: None if step else sizes.at(0), UPDATE: None, CHANGE: None}
    return {PARAM: sizes.moved(step) if step and zero else sizes.at(step), UPDATE: sizes.change,
            CHANGE: sizes.moved(step + 1)}


def _quiet(programs: Mapping[int, Program], trials: Mapping[Any, list[Step]], stats: Sequence[str]) -> set[str]:
    """Parameters whose gradient is nothing but rounding errors: a bias in front of a softmax or a norm.

    Adam makes steps of full size of them, or of any other.
    """
    eps = max(seen.eps for program in programs.values() for seen in program.seen.values())
    i, found = next(i for i, stat in enumerate(stats) if stat in JUDGED), set()
    for step in itertools.chain.from_iterable(trials.values()):
        sizes = {name: float(np.max(parts[GRADIENT][..., i])) for name, parts in step.params.items()}
        for name, size in sizes.items():
            module = name.rpartition("/")[0]
            most = max(other for key, other in sizes.items() if key.rpartition("/")[0] == module)
            if size < NOISE * eps * most:
                found.add(name)
    return found


def _title(module: str, rest: str) -> str:
    return rest.removeprefix("/") if module == "~" else module + rest


def _mean(row: np.ndarray) -> np.ndarray | None:
    """Over the calls that were counted; None where there was none."""
    return row / row[0] if row[0] > 0 else None


def _size(moved: np.ndarray, stat: Stat) -> float:
    return float(np.abs(moved).mean() if stat == "l1" else np.sqrt(np.square(moved).mean()))
