"""Turns the records of all trained models into points, each with the slopes that are expected of it."""
import dataclasses
import itertools
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from haiku_mup.coordinates.array_stats import JUDGED, SAMPLE, Stat, stat_name
from haiku_mup.coordinates.depth_average import DepthAverage, Layers
from haiku_mup.coordinates.expected_slopes import slope
from haiku_mup.coordinates.findings import Point
from haiku_mup.coordinates.measured_gradients import rounding_noise, slopes_of_errors, slopes_of_gradients
from haiku_mup.coordinates.model_expectations import ModelExpectations
from haiku_mup.coordinates.multipliers import multiplier_of
from haiku_mup.coordinates.quantities import CHANGE_MARK, ParameterKind, RecordKind, title
from haiku_mup.coordinates.slope_range import FLAT, ExpectedSlopes, Range
from haiku_mup.coordinates.state_records import RecordInfo
from haiku_mup.coordinates.trainer import StepResult, Trainer
from haiku_mup.coordinates.training_runs import TrainingRuns
from haiku_mup.coordinates.unit_vectors import of_unit_vectors, unit_vector_slopes
from haiku_mup.parameters.haiku_layers import TIED
from haiku_mup.rules.optimizers import OptimizerRule

_POWERS = {"l1": 1.0, "l2": 0.5}        # of the share of entries that move, in a statistic of all entries


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Measurement:
    """One number of one run.

    Attributes:
      quantity: its kind, and its name.
      step: how many updates there were before.
      stat: the statistic's name.
      value: the number.
      expected: the slopes that are expected; None for what is not judged.
      activation_change: whether it is how far an activation moved.
      blocks: how many blocks of the model it is the mean of.
    """

    quantity: str
    step: int
    stat: str
    value: float
    expected: Range | None
    activation_change: bool = False
    blocks: int = 1


def as_points(trainers: Mapping[int, Trainer], runs: TrainingRuns, *, parametrization: str,
              stats: Sequence[Stat], rule: OptimizerRule, activation_changes: bool,
              weight_decay: bool) -> list[Point]:
    """Returns the points of all runs.

    Args:
      trainers: the trainer of each width, the narrowest first.
      runs: the steps of each width and seed.
      parametrization: its name.
      stats: the statistics of each array.
      rule: the optimizer's rule.
      activation_changes: whether to measure how far activations move: all steps see the same batch.
      weight_decay: whether the optimizer decays weights.
    """
    unit_vectors = unit_vector_slopes(trainers, runs)
    expectations = ModelExpectations(
        scalings={width: trainer.scalings for width, trainer in trainers.items()},
        branches={width: trainer.branches for width, trainer in trainers.items()},
        rule=rule, weight_decay=weight_decay, errors=slopes_of_errors(
            runs, trainers, unit_vectors),
        gradients=slopes_of_gradients(runs) if rule.serves_entrywise else {},
        multipliers={info.readout or module for trainer in trainers.values()
                     for (module, _), info in trainer.records.items() if info.kind == RecordKind.MULTIPLIER})
    first = {width: steps[0] for (width, _), steps in runs.items()}
    reader = _RunReader(
        stats=tuple(stats), expectations=expectations, activation_changes=activation_changes,
        weight_decay=weight_decay, unit_vectors=unit_vectors,
        names=DepthAverage(_stack_sizes(first[width]) for width in sorted(first)),
        noise=rounding_noise(trainers, runs, list(map(stat_name, stats))),
        shapes=[{key: info.shape for key, info in trainer.records.items()} for trainer in trainers.values()])
    found = {run: list(_average_blocks(itertools.chain(
        reader.forward_pass(trainers[run[0]], steps), reader.parameters(steps))))
        for run, steps in runs.items()}
    extra = _few_block_slopes({width: values for (width, _), values in found.items()})
    narrowest, widest = min(trainers), max(trainers)
    rows = _most_rows(trainers[narrowest], trainers[widest], first[narrowest])
    return [Point(parametrization, width, seed, m.step, m.quantity, m.stat, m.value,
                  str(_raised(m.expected, extra.get(m.quantity))) if m.expected and m.stat in JUDGED else "",
                  rows)
            for (width, seed), measurements in found.items() for m in measurements]


@dataclasses.dataclass(frozen=True, kw_only=True)
class _RunReader:
    """Reads measurements from the steps of a run.

    Attributes:
      stats: the statistics of each array.
      expectations: the slopes that are expected.
      names: the names of blocks, in models of different depths.
      noise: the parameters whose gradient is rounding noise.
      activation_changes: whether to measure how far activations move.
      weight_decay: whether the optimizer decays weights.
      shapes: of each recorded array, by module and entry, at each width.
      unit_vectors: of arrays of normalised vectors, the slope of their entries, by module and entry.
    """

    stats: tuple[Stat, ...]
    expectations: ModelExpectations
    names: DepthAverage
    noise: set[str]
    activation_changes: bool
    weight_decay: bool
    shapes: Sequence[Mapping[tuple[str, str], tuple[int, ...]]]
    unit_vectors: Mapping[tuple[str, str], Range]
    _known: dict[Any, list[Any]] = dataclasses.field(default_factory=dict)     # expected slopes, by step

    def forward_pass(self, trainer: Trainer, steps: Sequence[StepResult]) -> Iterator[Measurement]:
        """Yields what was recorded in the forward passes of the steps, and how far it moved since the first."""
        for (module, entry), info in sorted(trainer.records.items(), key=lambda item: item[1].order):
            name, representative = self.names.module(module)
            if info.kind == RecordKind.MULTIPLIER:
                yield from self._multiplier(module, entry, info, steps)
                continue
            expected = self._known.setdefault(id(info), [])     # the same in all runs of a width
            found = [self.expectations.of_record(
                representative, info, updates=number, is_output=self._is_output(trainer, info),
                grows=self._grows((module, entry))) for number in range(len(expected), len(steps))]
            entries = self.unit_vectors.get((module, entry))
            expected += found if entries is None else [of_unit_vectors(each, entries) for each in found]
            sums = [step.records[module][entry] for step in steps]  # [layers …, 1 + stats + SAMPLE + NORMS]
            for layer in np.ndindex(sums[0].shape[:-1]):
                quantity = f"{info.kind} {title(name, info.suffix)}{self.names.layer(module, entry, layer)}"
                if info.kind == RecordKind.OUTPUT:
                    quantity = info.kind + info.suffix
                means = [_mean_over_calls(each[layer]) for each in sums]
                yield from self._recorded_array(quantity, expected, means)

    def _multiplier(self, module: str, entry: str, info: RecordInfo,
                    steps: Sequence[StepResult]) -> Iterator[Measurement]:
        """Yields the factor between a layer's weight and its product, in the first step where there is one."""
        name, representative = self.names.module(module)
        expected = self.expectations.of_multiplier(representative, tied=info.readout == TIED)
        stat = next(stat_name(stat) for stat in self.stats if stat in JUDGED)
        sums = [step.records[module][entry] for step in steps]                  # [layers …, 3]
        for layer in np.ndindex(sums[0].shape[:-1]):
            quantity = f"{info.kind} {title(name, info.suffix)}{self.names.layer(module, entry, layer)}"
            found = ((step, multiplier_of(each[layer])) for step, each in enumerate(sums))
            step, value = next(((step, value) for step, value in found if value is not None), (0, None))
            if value is not None:
                yield Measurement(quantity=quantity, step=step, stat=stat, value=value, expected=expected)

    def _grows(self, record: tuple[str, str]) -> bool:
        """Returns whether an array's shape follows the width; True if no shape differs between widths."""
        differ = {key: len({shapes.get(key) for shapes in self.shapes}) > 1 for key in self.shapes[0]}
        return differ.get(record, True) or not any(differ.values())

    @staticmethod
    def _is_output(trainer: Trainer, info: RecordInfo) -> bool:
        """Returns whether a record is of what the model returns, or of a readout that makes it."""
        readouts = {each.readout for each in trainer.records.values() if each.kind == RecordKind.OUTPUT}
        return info.kind == RecordKind.OUTPUT or (info.readout is not None and info.readout in readouts)

    def _recorded_array(self, quantity: str, expected: Sequence[ExpectedSlopes],
                        rows: Sequence[np.ndarray | None]) -> Iterator[Measurement]:
        """Yields the statistics of one recorded array at each step, and how far it moved."""
        count, initial = len(self.stats), rows[0]
        for step, row in enumerate(rows):
            if row is None or initial is None:
                continue
            for stat, value in zip(self.stats, row[1:1 + count]):
                yield Measurement(quantity=quantity, step=step, stat=stat_name(stat), value=float(value),
                                  expected=expected[step].after(step))
            if self.activation_changes and step:
                kept = slice(1 + count, 1 + count + SAMPLE)                 # entries
                change = row[kept] - initial[kept]
                for stat in self.stats:
                    if stat in JUDGED:
                        yield Measurement(
                            quantity=CHANGE_MARK + quantity, step=step, stat=stat_name(stat),
                            value=_size(change, stat), expected=expected[step].change_after(step),
                            activation_change=True)

    def parameters(self, steps: Sequence[StepResult]) -> Iterator[Measurement]:
        """Yields the parameters, their updates, changes and decay, at each step."""
        for name, initial in steps[0].parameters.items():
            module, _, leaf = name.rpartition("/")
            common = self.names.module(module)
            layers = {layer: f"{common.title}/{leaf}{self.names.layer(module, leaf, layer)}"
                      for layer in np.ndindex(initial[ParameterKind.VALUE].shape[:-1])}
            key = f"{common.representative}/{leaf}", len(steps), name in self.noise
            expected = self._known.get(key) or self._known.setdefault(key, self._expected(*key))
            for layer, shown in layers.items():
                at_layer = [{kind: x[layer] for kind, x in step.parameters[name].items()} for step in steps]
                for number, step in enumerate(self._of_moving_entries(at_layer)):
                    for i, stat in enumerate(map(stat_name, self.stats)):
                        values = {kind: float(x[i]) for kind, x in step.items()}
                        for kind, value in self._shown(values, number, stat):
                            yield Measurement(quantity=f"{kind} {shown}", step=number, stat=stat, value=value,
                                              expected=expected[number][kind])

    def _of_moving_entries(self, steps: Sequence[Mapping[ParameterKind, np.ndarray]]) -> Iterator[
            dict[ParameterKind, np.ndarray]]:
        """Yields what was measured of a parameter in each step; of its updates, over the entries that move.

        An entry without a gradient, such as that of a unit that no input makes active, says nothing about
        learning rates. How many there are may depend on the width.

        The rate is that of the first step with a gradient: later, momentum has gathered others.
        """
        share, rate = 0.0, self.expectations.rate_is_known
        for step in steps:
            gradients, found = step[ParameterKind.GRADIENT], dict(step)
            share = max(share, float(gradients[-1]))
            update = found.pop(ParameterKind.RATE, step[ParameterKind.UPDATE])      # without decay
            if ParameterKind.MOVED in found and share:
                found[ParameterKind.MOVED] = step[ParameterKind.MOVED] / share
            powers = [share**_POWERS.get(stat_name(stat), 0.0) if share else 1.0 for stat in self.stats]
            if rate and share:
                found[ParameterKind.RATE] = update / (
                    gradients[:-1] if self.expectations.is_sgd else powers)
                rate = False
            if self.expectations.rule.entrywise and not self.weight_decay:
                for kind in (ParameterKind.UPDATE, ParameterKind.CHANGE):
                    found[kind] = step[kind] / powers
            yield found

    def _shown(self, values: Mapping[ParameterKind, float], step: int,
               stat: str) -> Iterator[tuple[ParameterKind, float]]:
        """Yields what to show of a parameter: kinds and values."""
        size = values[ParameterKind.VALUE]
        yield ParameterKind.VALUE, size
        yield ParameterKind.UPDATE, values[ParameterKind.UPDATE]
        if ParameterKind.RATE in values and stat in JUDGED:
            yield ParameterKind.RATE, values[ParameterKind.RATE]
        if ParameterKind.MOVED in values and stat == stat_name(self.stats[0]):
            yield ParameterKind.MOVED, values[ParameterKind.MOVED]
        if step:        # before the first update, nothing has changed
            yield ParameterKind.CHANGE, values[ParameterKind.CHANGE]
        if self.weight_decay and size and stat in JUDGED:
            yield ParameterKind.DECAY, values[ParameterKind.DECAY] / size

    def _expected(self, name: str, steps: int, noise: bool) -> list[dict[ParameterKind, Range | None]]:
        """Returns, for each step, the slopes that are expected of a parameter; None for what is not judged.

        Args:
          name: the parameter's name at every depth.
          steps: how many steps.
          noise: whether its gradient is rounding noise.
        """
        nothing: dict[ParameterKind, Range | None] = dict.fromkeys(ParameterKind)
        nothing[ParameterKind.DECAY] = FLAT             # relative to the parameter, whatever that does
        first = self.expectations.of_parameter(name, updates=1)
        if not noise:
            nothing[ParameterKind.RATE] = self.expectations.of_rate(name)
        if first is None:
            return [nothing] * steps
        if noise:
            return [nothing | {ParameterKind.VALUE: first.initial}, *[nothing] * (steps - 1)]
        return [nothing | self._at_step(name, step) for step in range(steps)]

    def _at_step(self, name: str, step: int) -> dict[ParameterKind, Range | None]:
        """Returns the slopes that are expected of a parameter, its update and its change at a step."""
        before, after = (self.expectations.of_parameter(name, updates=n) for n in (step, step + 1))
        assert before and after, "nothing is known of the parameter"
        zero = self.expectations.starts_at_zero(name)   # then the parameter is what training makes of it
        return {ParameterKind.VALUE: before.change_after(step) if step and zero else before.after(step),
                ParameterKind.UPDATE: after.change, ParameterKind.CHANGE: after.change_after(step + 1)}


def _most_rows(narrow: Trainer, wide: Trainer, step: StepResult) -> int:
    """Returns how many vectors of the width a step of the narrow model computes; 0 where no array grows.

    An array of all calls together, and of all examples of a vmap, has as many entries as vectors × their size.
    """
    rows = [0]
    for (module, entry), info in narrow.records.items():
        other = wide.records.get((module, entry))
        if other is not None and len(other.shape) == len(info.shape) and other.shape != info.shape and \
                info.kind != RecordKind.MULTIPLIER:
            size = math.prod(n for n, w in zip(info.shape, other.shape) if n != w)
            rows.append(round(float(step.records[module][entry][..., 0].max()) / size))
    return max(rows)


# --- models of different depths ---

def _stack_sizes(step: StepResult) -> dict[str, dict[str, Layers]]:
    """Returns the sizes of the stacks of each recorded array, and of each parameter."""
    found = {module: {entry: np.shape(x)[:-1] for entry, x in entries.items()}
             for module, entries in step.records.items()}
    for name, kinds in step.parameters.items():
        module, _, leaf = name.rpartition("/")
        found.setdefault(module, {})[leaf] = np.shape(kinds[ParameterKind.VALUE])[:-1]
    return found


def _average_blocks(measurements: Iterable[Measurement]) -> Iterator[Measurement]:
    """Yields the mean of those of one quantity, step and statistic; nothing is expected where they disagree."""
    groups: dict[tuple[str, int, str], list[Measurement]] = {}
    for each in measurements:
        groups.setdefault((each.quantity, each.step, each.stat), []).append(each)
    for group in groups.values():
        if len(group) == 1:
            yield group[0]
            continue
        agree = all(each.expected == group[0].expected for each in group)
        yield dataclasses.replace(
            group[0], value=sum(each.value for each in group) / len(group), blocks=len(group),
            expected=group[0].expected if agree else None)


def _few_block_slopes(measurements: Mapping[int, Iterable[Measurement]]) -> dict[str, float]:
    """Returns the extra slope that comes from averaging changes over few blocks.

    What training changes in the stream adds up from block to block: the input of block l of n (from 0) has
    changed by l / n of what the whole stack changes, beside the change from before the first block. The mean
    over blocks is (n - 1) / 2n of the whole: a quarter for 2 blocks, half for many. For 1 block it is nothing,
    and only the change from before is left; it counts as an eighth.

    Args:
      measurements: those of one seed, by width.

    Returns:
      The slope of that mean over widths, by quantity, where the number of blocks differs between widths.
    """
    blocks: dict[str, dict[int, int]] = {}
    for width, of_width in measurements.items():
        for each in of_width:
            if each.activation_change:
                blocks.setdefault(each.quantity, {})[width] = each.blocks
    return {quantity: max(0.0, slope(counts, [1 - 1 / max(n, 4 / 3) for n in counts.values()]))
            for quantity, counts in blocks.items() if len(set(counts.values())) > 1}


def _raised(expected: Range, extra: float | None) -> Range:
    """Returns a range whose upper end includes an extra slope, if there is one."""
    return expected if extra is None else Range(expected.low, max(expected.high, round(extra, 9)))


# --- arithmetic ---

def _mean_over_calls(sums: np.ndarray) -> np.ndarray | None:
    """Returns means over the calls: sums by the first one, which counts entries; None without a call."""
    return sums / sums[0] if sums[0] > 0 else None


def _size(change: np.ndarray, stat: Stat) -> float:
    """Returns the size of a change by "l1" or "l2"."""
    return float(np.abs(change).mean() if stat == "l1" else np.sqrt(np.square(change).mean()))
