"""Trains the models of all widths from all seeds, and raises where there is nothing to judge."""
import concurrent.futures
import contextlib
import copy
import dataclasses
import importlib.util
import itertools
import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

import haiku as hk
import jax
import numpy as np

from haiku_mup.coordinates.array_stats import Stat
from haiku_mup.coordinates.forward_factors import ForwardFactor, factors_left
from haiku_mup.coordinates.model_inputs import ModelInputs, model_inputs
from haiku_mup.coordinates.planned_models import MakePlan, PlannedModel
from haiku_mup.coordinates.quantities import ParameterKind
from haiku_mup.coordinates.recorder import transformed_function
from haiku_mup.coordinates.trainer import StepResult, Trainer
from haiku_mup.errors import MupError
from haiku_mup.mup import Mup
from haiku_mup.parameters.fans import Axes
from haiku_mup.rules import Parametrization

Model: TypeAlias = hk.Transformed | hk.TransformedWithState
Parametrize: TypeAlias = Callable[[Mup, Any, Any], tuple[Any, Any]]
TrainingRuns: TypeAlias = Mapping[tuple[int, int], Sequence[StepResult]]      # (width, seed) -> steps


@dataclasses.dataclass(frozen=True, kw_only=True)
class CheckSetup:
    """Settings that all widths share: arguments of `coord_check`, and what follows from them.

    Attributes:
      make_model, loss_fn, optimizer, stats, fans, readouts, finite, tied: as in `coord_check`.
      base: from a width to the base.
      delta: a model for `Mup.init_delta`, or None.
      parametrization: the one that parameters are judged by; None for the default, μP.
      parametrize: from (mup, model, optimizer) to what trains.
      weight_decay: whether the optimizer decays weights.
      plan: from trees of base and target to their plan, where models are pairs (init, apply); else None.
    """

    make_model: Callable[[int], Model]
    loss_fn: Callable[..., Any]
    optimizer: Any
    stats: Sequence[Stat]
    fans: Mapping[str, Sequence[Axes]] | None
    readouts: str | Sequence[str]
    finite: Mapping[str, Axes | str] | None
    tied: str | Sequence[str]
    base: Callable[[int], Any]
    delta: Model | None
    parametrization: Parametrization | None
    parametrize: Parametrize
    weight_decay: bool
    plan: MakePlan | None = None
    _captured: dict[int, tuple[Any, Mup]] = dataclasses.field(default_factory=dict)

    def forward_factors(self, widths: Sequence[int], batch: Any) -> list[ForwardFactor]:
        """Returns the factors of the width in the model's forward pass; none where they cannot be compared."""
        inputs = model_inputs(self.loss_fn, jax.random.key(0), batch)
        args, kwargs = inputs.rebuild(inputs.arrays)
        make_model: Callable[[int], Any] = self.make_model
        multipliers: dict[str, float] = {}
        base, target = widths[0], widths[-1]
        if self.plan is not None:
            planned = {width: self._planned(width) for width in (base, target)}
            make_model = lambda width: planned[width].plain_model()             # noqa: E731
            multipliers = {name: x / planned[base].attention_multipliers[name]
                           for name, x in planned[target].attention_multipliers.items()}
        try:
            return factors_left(make_model, [base, target], args, kwargs, multipliers=multipliers)
        except MupError:                # its program changes with the width, and so can't be compared
            return []

    def trainer(self, width: int, batch: Any, pool: concurrent.futures.Executor, *, seeds: int,
                steps: int) -> Trainer:
        """Returns the trainer of the model of a width, which the pool compiles for so many seeds and steps."""
        key, model = jax.random.key(0, impl="rbg"), None
        if self.plan is None:
            model = self.make_model(width)
            transformed_function(model)         # raises for anything but a model
        inputs = model_inputs(self.loss_fn, key, batch)
        mup, model = self._captured_target(width, model, inputs, key)
        wrapped, optimizer = self.parametrize(mup, model, self.optimizer)
        trainer = Trainer(model=wrapped, optimizer=optimizer, loss_fn=self.loss_fn, mup=mup, inputs=inputs,
                          stats=self.stats, weight_decay=self.weight_decay)
        trainer.start_compiling(pool, batch, seeds=seeds, steps=steps)
        return trainer

    def _planned(self, width: int) -> PlannedModel:
        """Returns the pair of a width, with its plan."""
        assert self.plan is not None, "there is no plan"
        table = {} if self.parametrization is None else {"parametrization": self.parametrization}
        return PlannedModel.of(self.base(width), self.make_model(width), self.plan, delta=self.delta, **table)

    def _captured_target(self, width: int, model: Any, inputs: ModelInputs, key: Any) -> tuple[Any, Any]:
        """Returns the Mup that has captured the model of a width, and the model, or what takes their places."""
        if self.plan is not None:
            planned = self._planned(width)
            return planned, planned.plain_model()
        mup = copy.copy(self._captured_base(self.base(width), inputs, key))
        with mup.init_target():
            inputs.shapes(model, key)
        return mup, model

    def _captured_base(self, base: Any, inputs: ModelInputs, key: Any) -> Mup:
        """Returns a Mup that has captured the base, and the delta: once for all widths that share a base."""
        if id(base) not in self._captured:
            mup = Mup(fans=self.fans, readouts=self.readouts, finite=self.finite, tied=self.tied,
                      parametrization=self.parametrization)
            with mup.init_base():
                inputs.shapes(base, key)
            if self.delta is not None:
                with mup.init_delta():
                    inputs.shapes(self.delta, key)
            self._captured[id(base)] = base, mup        # the base, too: its id must stay its own
        return self._captured[id(base)][1]


def train_all(setup: CheckSetup, widths: Sequence[int], seeds: Sequence[int], batches: Sequence[Any],
              progress: bool) -> tuple[dict[int, Trainer], TrainingRuns]:
    """Returns the trainer of each width, and what the steps of each (width, seed) computed, in their order.

    Args:
      setup: what the widths have in common.
      widths: ascending.
      seeds: the seeds.
      batches: one for each step.
      progress: whether to show a progress bar.

    Raises:
      MupError: training from every seed diverges at the narrowest width, or moves nothing; models that do not
        grow with the width.
    """
    # The narrowest runs first, to show whether training diverges. Then comes the widest: while it runs, which
    # takes long, the others are compiled.
    order = [widths[0], *reversed(widths[1:])]
    runs: dict[tuple[int, int], Any] = {}
    trainers: dict[int, Trainer] = {}
    with _compiling_threads() as pool, _progress_bar(len(widths) * len(seeds), progress) as bar:
        for width in order:
            bar.show(f"tracing width {width}")
            trainers[width] = setup.trainer(width, batches[0], pool, seeds=len(seeds), steps=len(batches))
        for width, seed in itertools.product(order, seeds):
            is_compiled = trainers[width].is_compiled
            bar.show(f"width {width}, seed {seed}" if is_compiled else f"compiling width {width}")
            runs[width, seed] = trainers[width].train(seed, batches)
            bar.advance()
            if len(runs) == 1:
                _check_records(runs[width, seed])
            _check_losses(runs, seeds, widths[0])
    trainers = {width: trainers[width] for width in widths}
    runs = jax.device_get({(width, seed): runs[width, seed] for width in widths for seed in seeds})
    _check_moves(runs)
    _check_grows(trainers)
    return trainers, runs


@contextlib.contextmanager
def _compiling_threads() -> Iterator[concurrent.futures.Executor]:
    """Yields a pool of threads; an error ends it without the work that has not begun."""
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        try:
            yield pool
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


class RunProgress(NamedTuple):
    """The progress that a check shows.

    Attributes:
      advance: called as a run ends.
      show: called with what is done now.
    """

    advance: Callable[[], Any]
    show: Callable[[str], Any]


@contextlib.contextmanager
def _progress_bar(total: int, progress: bool) -> Iterator[RunProgress]:
    """Shows a bar of the runs where it is wanted, and tqdm is installed."""
    if not progress or importlib.util.find_spec("tqdm") is None:
        yield RunProgress(lambda: None, lambda text: None)
        return
    import tqdm  # type: ignore[import-untyped]

    with tqdm.tqdm(total=total, desc="coordinate check", leave=False) as bar:
        yield RunProgress(bar.update, bar.set_postfix_str)


# --- what training did ---

def _check_losses(runs: Mapping[tuple[int, int], Any], seeds: Sequence[int], narrowest: int) -> None:
    """Raises as soon as all seeds of the narrowest width are trained, if all of them have diverged."""
    if len(runs) != len(seeds):
        return
    losses = [[float(step.loss) for step in run] for run in runs.values()]
    if not any(all(map(math.isfinite, of_seed)) for of_seed in losses):
        step = min(i for of_seed in losses for i, loss in enumerate(of_seed) if not math.isfinite(loss))
        raise MupError(f"the loss is {losses[0][-1]} at width {narrowest} from step {step} on: lower the "
                       "learning rate; a check needs a finite loss at the smallest width")


def _check_records(steps: Sequence[StepResult]) -> None:
    """Raises if nothing was recorded in the first step."""
    if not any(np.any(sums) for entries in steps[0].records.values() for sums in entries.values()):
        raise MupError("loss_fn calls apply only where a check can't record: inside gradients that don't "
                       "depend on what apply returns, or beside jax.jvp, jax.jacfwd or jax.hessian; call "
                       "apply(params, rng, *inputs) outside of all transformations, too, even if its result is "
                       "not used")


def _check_moves(runs: TrainingRuns) -> None:
    """Raises if no update moved any parameter, so that there is nothing to judge."""
    updates = [kinds[ParameterKind.UPDATE]
               for run in runs.values() for step in run for kinds in step.parameters.values()]
    if not any(update.any() for update in updates):
        raise MupError("no parameter moved in any step: the learning rate may be 0, as at the start of a "
                       "warm-up: give a constant one, as large as the smallest model tolerates")


def _check_grows(trainers: Mapping[int, Trainer]) -> None:
    """Raises if the models of all widths have the same shapes."""
    first, *others = (trainer.shapes for trainer in trainers.values())
    if all(shapes == first for shapes in others):
        raise MupError(f"make_model gives the same shapes at widths {list(trainers)}: build the model from "
                       "the width that it is given")
