"""Turns the records of all trained models into points, each with the slopes that are expected of it."""
import dataclasses
import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np

from haiku_mup.coordinates.array_stats import JUDGED, Stat, stat_name
from haiku_mup.coordinates.depth_average import DepthAverage, Layers
from haiku_mup.coordinates.expected_slopes import slope
from haiku_mup.coordinates.findings import Point
from haiku_mup.coordinates.model_expectations import ModelExpectations
from haiku_mup.coordinates.quantities import CHANGE_MARK, ParameterKind, RecordKind, title
from haiku_mup.coordinates.slope_range import FLAT, ExpectedSlopes, Range
from haiku_mup.coordinates.trainer import StepResult, Trainer
from haiku_mup.coordinates.trials import Trials
from haiku_mup.rules.optimizers import OptimizerRule

NOISE = 16      # gradients below so many rounding errors of one operation count as noise


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Measurement:
    """One number of one trial.

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


def as_points(trainers: Mapping[int, Trainer], trials: Trials, *, parametrization: str, stats: Sequence[Stat],
              rule: OptimizerRule, activation_changes: bool, weight_decay: bool) -> list[Point]:
    """Returns the points of all trials.

    Args:
      trainers: the trainer of each width, the narrowest first.
      trials: the steps of each width and seed.
      parametrization: its name.
      stats: the statistics of each array.
      rule: the optimizer's rule.
      activation_changes: whether to measure how far activations move: all steps see the same batch.
      weight_decay: whether the optimizer decays weights.
    """
    expectations = ModelExpectations(
        scalings={width: trainer.scalings for width, trainer in trainers.items()},
        branches={width: trainer.branches for width, trainer in trainers.items()},
        rule=rule, weight_decay=weight_decay)
    first = {width: steps[0] for (width, _), steps in trials.items()}
    reader = _TrialReader(
        stats=tuple(stats), expectations=expectations, activation_changes=activation_changes,
        weight_decay=weight_decay, names=DepthAverage(_stack_sizes(first[width]) for width in sorted(first)),
        noise=_rounding_noise(trainers, trials, list(map(stat_name, stats))))
    found = {trial: list(_average_blocks(itertools.chain(
        reader.forward_pass(trainers[trial[0]], steps), reader.parameters(steps))))
        for trial, steps in trials.items()}
    extra = _few_block_slopes({width: values for (width, _), values in found.items()})
    return [Point(parametrization, width, seed, m.step, m.quantity, m.stat, m.value,
                  str(_raised(m.expected, extra.get(m.quantity))) if m.expected and m.stat in JUDGED else "")
            for (width, seed), measurements in found.items() for m in measurements]


@dataclasses.dataclass(frozen=True, kw_only=True)
class _TrialReader:
    """Reads measurements from the steps of a trial.

    Attributes:
      stats: the statistics of each array.
      expectations: the slopes that are expected.
      names: the names of blocks, in models of different depths.
      noise: the parameters whose gradient is rounding noise.
      activation_changes: whether to measure how far activations move.
      weight_decay: whether the optimizer decays weights.
    """

    stats: tuple[Stat, ...]
    expectations: ModelExpectations
    names: DepthAverage
    noise: set[str]
    activation_changes: bool
    weight_decay: bool

    def forward_pass(self, trainer: Trainer, steps: Sequence[StepResult]) -> Iterator[Measurement]:
        """Yields what was recorded in the forward passes of the steps, and how far it moved since the first."""
        for (module, entry), info in sorted(trainer.records.items(), key=lambda item: item[1].order):
            name, representative = self.names.module(module)
            expected = self.expectations.of_record(representative, info)
            sums = [step.records[module][entry] for step in steps]             # [layers …, 1 + stats + SAMPLE]
            for layer in np.ndindex(sums[0].shape[:-1]):
                quantity = f"{info.kind} {title(name, info.suffix)}{self.names.layer(module, entry, layer)}"
                if info.kind == RecordKind.OUTPUT:
                    quantity = info.kind + info.suffix
                means = [_mean_over_calls(each[layer]) for each in sums]
                yield from self._recorded_array(quantity, expected, means)

    def _recorded_array(self, quantity: str, expected: ExpectedSlopes,
                        rows: Sequence[np.ndarray | None]) -> Iterator[Measurement]:
        """Yields the statistics of one recorded array at each step, and how far it moved."""
        count, initial = len(self.stats), rows[0]
        for step, row in enumerate(rows):
            if row is None or initial is None:
                continue
            for stat, value in zip(self.stats, row[1:1 + count]):
                yield Measurement(quantity=quantity, step=step, stat=stat_name(stat), value=float(value),
                                  expected=expected.after(step))
            if self.activation_changes and step:
                change = row[1 + count:] - initial[1 + count:]              # of the entries that are kept
                for stat in self.stats:
                    if stat in JUDGED:
                        yield Measurement(
                            quantity=CHANGE_MARK + quantity, step=step, stat=stat_name(stat),
                            value=_size(change, stat), expected=expected.change_after(step),
                            activation_change=True)

    def parameters(self, steps: Sequence[StepResult]) -> Iterator[Measurement]:
        """Yields the parameters, their updates, changes and decay, at each step."""
        for name, initial in steps[0].parameters.items():
            module, _, leaf = name.rpartition("/")
            common = self.names.module(module)
            layers = {layer: f"{common.title}/{leaf}{self.names.layer(module, leaf, layer)}"
                      for layer in np.ndindex(initial[ParameterKind.VALUE].shape[:-1])}
            expected = self._expected(f"{common.representative}/{leaf}", len(steps), noise=name in self.noise)
            for number, step in enumerate(steps):
                for (layer, shown), (i, stat) in itertools.product(
                        layers.items(), enumerate(map(stat_name, self.stats))):
                    values = {kind: float(x[(*layer, i)]) for kind, x in step.parameters[name].items()}
                    for kind, value in self._shown(values, number, stat):
                        yield Measurement(quantity=f"{kind} {shown}", step=number, stat=stat, value=value,
                                          expected=expected[number][kind])

    def _shown(self, values: Mapping[ParameterKind, float], step: int,
               stat: str) -> Iterator[tuple[ParameterKind, float]]:
        """Yields what to show of a parameter: kinds and values."""
        size = values[ParameterKind.VALUE]
        yield ParameterKind.VALUE, size
        yield ParameterKind.UPDATE, values[ParameterKind.UPDATE]
        if step:        # before the first update, nothing has changed
            yield ParameterKind.CHANGE, values[ParameterKind.CHANGE]
        if self.weight_decay and size and stat in JUDGED:
            yield ParameterKind.DECAY, values[ParameterKind.DECAY] / size

    def _expected(self, name: str, steps: int, *, noise: bool) -> list[dict[ParameterKind, Range | None]]:
        """Returns, for each step, the slopes that are expected of a parameter; None for what is not judged.

        Args:
          name: the parameter's name at every depth.
          steps: how many steps.
          noise: whether its gradient is rounding noise.
        """
        nothing: dict[ParameterKind, Range | None] = dict.fromkeys(ParameterKind)
        nothing[ParameterKind.DECAY] = FLAT             # relative to the parameter, whatever that does
        expected = self.expectations.of_parameter(name)
        if expected is None:
            return [nothing] * steps
        if noise:
            return [nothing | {ParameterKind.VALUE: expected.initial}, *[nothing] * (steps - 1)]
        zero = self.expectations.starts_at_zero(name)   # then the parameter is what training makes of it
        return [nothing | {
            ParameterKind.VALUE: expected.change_after(step) if step and zero else expected.after(step),
            ParameterKind.UPDATE: expected.change,
            ParameterKind.CHANGE: expected.change_after(step + 1)} for step in range(steps)]


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

def _rounding_noise(trainers: Mapping[int, Trainer], trials: Trials, stats: Sequence[str]) -> set[str]:
    """Returns the parameters whose gradient is only rounding errors: a bias in front of a softmax or a norm.

    Adam makes updates of full size of such gradients, as of any, and nothing can be expected of them.
    """
    eps = max(info.eps for trainer in trainers.values() for info in trainer.records.values())
    i, noisy = next(i for i, stat in enumerate(stats) if stat in JUDGED), set()
    for step in itertools.chain.from_iterable(trials.values()):
        sizes = {name: float(np.max(kinds[ParameterKind.GRADIENT][..., i]))
                 for name, kinds in step.parameters.items()}
        for name, size in sizes.items():
            module = name.rpartition("/")[0]
            largest = max(other for key, other in sizes.items() if key.rpartition("/")[0] == module)
            if size < NOISE * eps * largest:
                noisy.add(name)
    return noisy


def _mean_over_calls(sums: np.ndarray) -> np.ndarray | None:
    """Returns the mean over the calls that were counted, in the first entry; None where there was none."""
    return sums / sums[0] if sums[0] > 0 else None


def _size(change: np.ndarray, stat: Stat) -> float:
    """Returns the size of a change by "l1" or "l2"."""
    return float(np.abs(change).mean() if stat == "l1" else np.sqrt(np.square(change).mean()))
