"""The coordinate check: trains models of several widths, and judges how the sizes of their arrays grow."""
import dataclasses
import enum
import functools
import os
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import jax
import optax

from haiku_mup.coordinates.array_stats import JUDGED, STATS, Stat, stat_name
from haiku_mup.coordinates.batches import as_batches
from haiku_mup.coordinates.compilation import kept_programs
from haiku_mup.coordinates.measured_gradients import rounding_noise
from haiku_mup.coordinates.measurements import as_points
from haiku_mup.coordinates.model_inputs import as_widths, check_make_model, check_plan
from haiku_mup.coordinates.optimizer_diagnosis import diagnose_optimizer
from haiku_mup.coordinates.planned_models import MakePlan
from haiku_mup.coordinates.result import TOL, CoordCheck
from haiku_mup.coordinates.rounded_updates import rounded_away, warning_text
from haiku_mup.coordinates.trainer import Trainer, has_weight_decay
from haiku_mup.coordinates.training_runs import CheckSetup, Model, Parametrize, TrainingRuns, train_all
from haiku_mup.coordinates.unrecorded import unrecorded_activations
from haiku_mup.errors import MupError, MupWarning
from haiku_mup.parameters.fans import Axes
from haiku_mup.rules import Parametrization
from haiku_mup.rules.optimizers import OptimizerRule, choose
from haiku_mup.rules.tables import maximal_update


class ParametrizationName(enum.StrEnum):
    """Parametrizations that `coord_check` takes as a string."""

    MUP = "mup"
    STANDARD = "sp"


def coord_check(make_model: Callable[[int], Model], widths: Iterable[int], batch: Any,
                loss_fn: Callable[..., jax.Array], optimizer: optax.GradientTransformation, *,
                parametrization: str | Parametrization | Parametrize = "mup", adam: bool = True,
                rule: str | None = None, base_width: int | None = None,
                base_model: Model | Callable[[int], Model] | None = None, delta_model: Model | None = None,
                fans: Mapping[str, Sequence[Axes]] | None = None,
                readouts: str | Sequence[str] = (), finite: Mapping[str, Axes | str] | None = None,
                tied: str | Sequence[str] = (), steps: int = 3, seeds: int | Iterable[int] = 5,
                stats: Sequence[Stat] = ("l1",), fix_batch: bool = True, progress: bool = True,
                plan: MakePlan | None = None,
                compilation_cache: str | os.PathLike[str] | None = None) -> CoordCheck:
    """Trains models of several widths for a few steps, and judges how the sizes of their arrays grow.

    In μP, nothing that training makes may vanish or explode with the width, and everything must move. The check
    records the size of every module's output, of attention logits, of parameters, and of how far they all move.
    It estimates the slope of each size over the widths, on log-log scales, and compares it with the slope that
    the rules give. (Tensor Programs V, arXiv 2203.03466, Appendix D.1.) Step t is the forward pass after t
    updates, and the update that follows it.

    Use a learning rate as large as the smallest model tolerates, such as its best one. Most errors are in the
    updates, and show only if updates are not small beside the initial values.

    Args:
      make_model: from a width to a transformed model, whose layers are inside `apply_mup`, and which is not
        wrapped. Or from a depth or another size that grows, with `maximal_update(depth_alpha=...)` for the
        parametrization; the blocks of models of different depths are averaged.
      widths: two or more; eightfold from first to last is enough.
      batch: what `loss_fn` gets; with fix_batch=False, a sequence or an iterator of `steps` of them.
      loss_fn: ``loss_fn(apply, params, rng, batch)`` returns a scalar. In it,
        ``apply(params, rng, *inputs, **kwargs)`` returns the model's output; the model's state, if it has one,
        is kept for you. The model is initialized with the inputs of the first call. A loss may call `apply`
        several times, also inside jax.jit, jax.vmap, jax.checkpoint, a scan or a gradient of its own.
      optimizer: a plain optax optimizer, not wrapped.
      parametrization: "mup"; "sp" for the model and the optimizer as they are, which must fail; a
        `Parametrization`; or a function from (mup, model, optimizer) to a model and an optimizer. Parameters
        are judged by the table of a `Parametrization`, but activations and outputs must keep their size and
        move, as in μP: `standard()` and `neural_tangent()` fail.
      adam: whether the optimizer is like Adam, or like SGD: see `Mup.wrap_optimizer`.
      rule: another rule of the optimizer, instead: see `Mup.wrap_optimizer`.
      base_width: the width of the base; the smallest, by default.
      base_model: the base itself, instead; or a function that returns it for each width.
      delta_model: a model for `Mup.init_delta`.
      fans, readouts, finite, tied: see `Mup`.
      steps: how many steps to train.
      seeds: how many initializations, or which seeds.
      stats: the statistics to record of each array: "l1" (mean absolute value) and "l2" (root mean square),
        which are judged; "mean", "std", "max" (of absolute values) and functions from an array to a number,
        which are not.
      fix_batch: whether all steps see the same batch. Only then can the check tell how far activations move.
      progress: whether to show a progress bar, if tqdm is installed.
      plan: for models of other frameworks, from the trees of base and target to their plan, as
        ``functools.partial(haiku_mup.plan, fans=haiku_mup.equinox, readouts="out.weight")``. Then make_model
        (and base_model, delta_model) return ``(init, apply)``: ``init(key)`` returns the parameters or a
        module, and ``apply(params, rng, *inputs)`` gets them multiplied. An apply with an argument ``plan`` is
        given the plan instead, and multiplies by itself. If it has an argument ``state``, init returns
        ``(params, state)`` and apply ``(output, state)``; what a module of Flax NNX keeps beside its
        parameters, such as running averages, needs none. Outputs of modules of Flax Linen and Flax NNX are
        judged, and arrays that `probe` marks; of other frameworks parameters, updates and outputs alone, which
        the result's text says. fans and readouts are the plan's.
      compilation_cache: a folder that keeps compiled programs, so that a check of an unchanged model compiles
        nothing.

    Returns:
      A `CoordCheck`.

    Raises:
      MupError: whatever `Mup` raises; fewer than two widths, or a model that doesn't grow with them; a loss
        that is not a scalar, or not finite at the smallest width.
      OSError: the folder for compiled programs can't be made.

    Warns:
      MupWarning: parameters of low precision, such as bfloat16, whose updates are rounded away as the width
        grows.

    >>> def make_model(width):
    ...     def fn(x):
    ...         with haiku_mup.apply_mup():
    ...             return haiku_mup.Readout(1)(jax.nn.relu(hk.Linear(width)(x)))
    ...     return hk.transform(fn)
    >>> def loss_fn(apply, params, rng, batch):
    ...     x, y = batch
    ...     return jnp.mean((apply(params, rng, x) - y)**2)
    >>> batch = jax.random.normal(jax.random.PRNGKey(0), (16, 4)), jnp.ones((16, 1))
    >>> result = haiku_mup.coord_check(make_model, [16, 64], batch, loss_fn, optax.adam(0.01), progress=False)
    >>> result.ok
    True
    """
    ordered = as_widths(widths, "coord_check")
    chosen = list(range(seeds) if isinstance(seeds, int) else seeds)
    batches = as_batches(batch, steps, fix_batch)
    _check_arguments(widths=ordered, seeds=chosen, steps=steps, batches=batches, stats=stats)
    check_make_model(make_model)
    check_plan(plan, "coord_check")
    _check_optimizer(optimizer)
    optimizer_rule = choose(rule, adam)
    with kept_programs(compilation_cache):
        setup = CheckSetup(
            make_model=make_model, loss_fn=loss_fn, optimizer=optimizer, stats=tuple(stats),
            base=_base_of(make_model, base_model, ordered[0] if base_width is None else base_width),
            delta=delta_model, fans=fans, readouts=readouts, finite=finite, tied=tied,
            parametrization=_judged_by(parametrization),
            parametrize=_parametrize(parametrization, adam, rule), plan=plan,
            weight_decay=has_weight_decay(optimizer))
        trainers, runs = train_all(setup, ordered, chosen, batches, progress)
        return _judged(setup, trainers, runs, parametrization=parametrization, rule=optimizer_rule,
                       batch=batches[0], activation_changes=fix_batch)


def _judged(setup: CheckSetup, trainers: Mapping[int, Trainer], runs: TrainingRuns, *,
            parametrization: str | Parametrization | Parametrize, rule: OptimizerRule, batch: Any,
            activation_changes: bool) -> CoordCheck:
    """Returns the check of models that were trained: their points, with the causes of what is wrong.

    Warns:
      MupWarning: updates of parameters of low precision are rounded away.
    """
    widths = sorted(trainers)
    result = CoordCheck(as_points(
        trainers, runs, parametrization=_name(parametrization), stats=setup.stats, rule=rule,
        activation_changes=activation_changes, weight_decay=setup.weight_decay),
        unrecorded="" if setup.plan is None else unrecorded_activations(
            trainers[widths[0]].records.values(), trainers[widths[0]].unkept))
    if rounded := rounded_away(result.moved()):
        warnings.warn(warning_text(rounded), MupWarning, stacklevel=3)
    if parametrization == ParametrizationName.STANDARD:
        return result
    result = dataclasses.replace(result, factors=setup.forward_factors(widths, batch))
    if not any(finding.excess > TOL for finding in result.findings):
        return result
    noise = rounding_noise(trainers, runs, list(map(stat_name, setup.stats)))
    return dataclasses.replace(
        result, optimizer=diagnose_optimizer(setup.optimizer, trainers, runs, rule, noise=noise))


# --- arguments ---

def _name(parametrization: str | Parametrization | Parametrize) -> str:
    """Returns the name of a parametrization in points."""
    if isinstance(parametrization, str):
        return parametrization
    return str(getattr(parametrization, "name", getattr(parametrization, "__name__", "other")))


def _judged_by(parametrization: str | Parametrization | Parametrize) -> Parametrization | None:
    """Returns the parametrization that parameters are judged by; None for the default, μP."""
    if parametrization == ParametrizationName.STANDARD:     # judged by μP, for depths too
        return maximal_update(depth_alpha=1.0)
    return parametrization if isinstance(parametrization, Parametrization) else None


def _parametrize(parametrization: str | Parametrization | Parametrize, adam: bool,
                 rule: str | None) -> Parametrize:
    """Returns the function from (mup, model, optimizer) to the model and the optimizer that train."""
    if callable(parametrization):
        return parametrization
    if parametrization == ParametrizationName.STANDARD:
        return lambda mup, model, optimizer: (model, optimizer)
    given = parametrization if isinstance(parametrization, Parametrization) else None
    plain = given.plain if given and choose(rule, adam).entrywise else None
    if plain == "sgd" and adam:
        raise MupError(f"{_name(parametrization)}: this parametrization is for SGD: give a plain optax.sgd, "
                       "or another optimizer with adam=False")
    if plain:
        return lambda mup, model, optimizer: (mup.wrap_model(model), optimizer)
    if parametrization == ParametrizationName.MUP or given:
        return lambda mup, model, optimizer: (
            mup.wrap_model(model), mup.wrap_optimizer(optimizer, adam, rule=rule))
    raise MupError(f"parametrization={parametrization!r}: give 'mup', 'sp', a Parametrization, or a function "
                   "from (mup, model, optimizer) to a model and an optimizer")


def _base_of(make_model: Callable[[int], Any], base_model: Any, base_width: int) -> Callable[[int], Any]:
    """Returns the function from a width to its base."""
    if base_model is None:
        make_base = functools.cache(lambda: make_model(base_width))
        return lambda width: make_base()
    return base_model if callable(base_model) else lambda width: base_model


def _check_optimizer(optimizer: Any) -> None:
    """Raises for a function of the learning rate, which `training` takes, in place of an optimizer."""
    if not (hasattr(optimizer, "init") and hasattr(optimizer, "update")):
        raise MupError(f"coord_check: optimizer is a {type(optimizer).__name__}; give an optimizer with its "
                       "learning rate, such as optax.adam(2**-7)")


def _check_arguments(*, widths: Sequence[int], seeds: Sequence[int], steps: int, batches: Sequence[Any],
                     stats: Sequence[Stat]) -> None:
    """Raises for arguments that leave nothing to check."""
    if len(widths) < 2 or widths[0] < 1:
        raise MupError(f"coord_check: widths={widths}: give two or more that differ, such as [64, 128, 256, "
                       "512]")
    if not seeds or steps < 1:
        raise MupError(f"coord_check: seeds={list(seeds)}, steps={steps}: give at least one seed and one step")
    if len(batches) != steps:
        raise MupError(f"coord_check: fix_batch=False: {len(batches)} batches for {steps} steps; give a batch "
                       "for each step")
    unknown = [stat for stat in stats if not callable(stat) and stat not in STATS]
    if unknown or not set(JUDGED) & {stat for stat in stats if isinstance(stat, str)}:
        raise MupError(f"stats={tuple(map(stat_name, stats))}: give 'l1' or 'l2', which are judged; beside "
                       f"them {', '.join(STATS)} or functions")
