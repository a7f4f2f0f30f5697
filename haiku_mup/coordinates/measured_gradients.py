"""Gradients of a check: how their sizes grow with the width, and which of them are only rounding errors."""
import functools
import itertools
import math
import operator
from collections.abc import Mapping, Sequence

import numpy as np

from haiku_mup.coordinates.array_stats import JUDGED
from haiku_mup.coordinates.expected_slopes import slope
from haiku_mup.coordinates.quantities import ParameterKind, RecordKind
from haiku_mup.coordinates.slope_range import Range
from haiku_mup.coordinates.trainer import Trainer
from haiku_mup.coordinates.training_runs import TrainingRuns

NOISE = 16      # gradients below so many rounding errors of one operation count as noise


def slopes_of_gradients(runs: TrainingRuns) -> dict[str, float]:
    """Returns the slope of each parameter's gradient in the first step, where none is zero, by name."""
    by_width: dict[int, list[dict[str, float]]] = {}
    for (width, _), steps in runs.items():
        by_width.setdefault(width, []).append({
            name: float(np.mean(kinds[ParameterKind.GRADIENT][..., 0]))
            for name, kinds in steps[0].parameters.items()})
    names = set.intersection(*({n for n, x in each.items() if 0 < x < math.inf}
                               for some in by_width.values() for each in some))
    return {name: slope(by_width, (2.0**float(np.mean([math.log2(each[name]) for each in some]))
                                   for some in by_width.values())) for name in names}


def slopes_of_errors(runs: TrainingRuns, trainers: Mapping[int, Trainer],
                     unit_vectors: Mapping[tuple[str, str], Range]) -> list[Range]:
    """Returns, for each step, the slopes of the gradients that the loss sends into the outputs; [] for none.

    An output that has n entries in place of one gets an n-th of the gradient in each, which μP's rates count
    on, and normalised ones get √n times that. Theirs are the slopes beside this, up to 0: a part of their
    gradient, as that along a normalised vector, moves nothing.

    Args:
      runs: the steps of each width and seed.
      trainers: the trainer of each width.
      unit_vectors: of arrays of normalised vectors, the slope of their entries, by module and entry.
    """
    growing = _slopes_of_growing_outputs(trainers, unit_vectors)
    by_width: dict[int, list[np.ndarray]] = {}
    for (width, _), steps in runs.items():
        by_width.setdefault(width, []).append(np.array([step.errors for step in steps]))    # [steps, outputs]
    with np.errstate(divide="ignore", invalid="ignore"):
        logs = {width: np.mean(np.log2(errors), axis=0) for width, errors in by_width.items()}
    found = []
    for step, output in itertools.product(*map(range, next(iter(logs.values())).shape)):
        values = {width: 2.0**float(log[step, output]) for width, log in logs.items()}
        if all(map(math.isfinite, values.values())) and all(values.values()):
            rounded = round(slope(values, values.values()), 2) + 0.0
            beside = round(rounded - growing[output], 2) if output in growing else 0.0
            found.append((step, Range(min(beside, 0.0), 0.0) if output in growing else Range(rounded, rounded)))
    by_step = [[each for at, each in found if at == step] for step in range(len(next(iter(runs.values()))))]
    return [functools.reduce(operator.or_, some) for some in by_step] if all(by_step) else []


def _slopes_of_growing_outputs(trainers: Mapping[int, Trainer],
                               unit_vectors: Mapping[tuple[str, str], Range]) -> dict[int, float]:
    """Returns the slope of a right gradient, by number, of each output whose shape follows the width."""
    by_width = {width: {key: math.prod(info.shape) for key, info in sorted(
        trainer.records.items(), key=lambda item: item[1].order) if info.kind == RecordKind.OUTPUT}
        for width, trainer in sorted(trainers.items())}
    found = {}
    for number, key in enumerate(next(iter(by_width.values()))):
        sizes = [outputs.get(key, 0) for outputs in by_width.values()]
        if min(sizes) and len(set(sizes)) > 1:
            entries = unit_vectors[key].low if key in unit_vectors else 0.0
            found[number] = -slope(by_width, sizes) - entries
    return found


def rounding_noise(trainers: Mapping[int, Trainer], runs: TrainingRuns, stats: Sequence[str]) -> set[str]:
    """Returns the parameters whose gradient is only rounding errors: a bias in front of a softmax or a norm.

    Adam makes updates of full size of such gradients, as of any, and nothing can be expected of them.
    """
    eps = max(info.eps for trainer in trainers.values() for info in trainer.records.values())
    i = next(i for i, stat in enumerate(stats) if stat in JUDGED)
    noisy: set[str] = set()
    for step in itertools.chain.from_iterable(runs.values()):
        sizes = {name: float(np.max(kinds[ParameterKind.GRADIENT][..., i]))
                 for name, kinds in step.parameters.items()}
        largest: dict[str, float] = {}                              # of each module's
        for name, size in sizes.items():
            module = name.rpartition("/")[0]
            largest[module] = max(largest.get(module, 0.0), size)
        noisy.update(name for name, size in sizes.items()
                     if size < NOISE * eps * largest[name.rpartition("/")[0]])
    return noisy
