"""A coordinate check: does what a network computes keep its size as the network grows?"""
import concurrent.futures
import contextlib
import functools
import importlib.util
import math
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import haiku as hk
import jax
import optax

from haiku_mup.coordinates.array_stats import JUDGED, STATS, Stat, stat_name
from haiku_mup.coordinates.result import CoordCheck
from haiku_mup.errors import MupError
from haiku_mup.mup import Mup
from haiku_mup.parameters.fans import Axes
from haiku_mup.rules import optimizers as optimizer_rules
from haiku_mup.rules.parametrization import Parametrization
from haiku_mup.rules.tables import maximal_update

if TYPE_CHECKING:           # what only a check needs is imported by it
    from haiku_mup.coordinates.trainer import Program

Model: TypeAlias = hk.Transformed | hk.TransformedWithState
Parametrize: TypeAlias = Callable[[Mup, Any, Any], tuple[Any, Any]]


def coord_check(make_model: Callable[[int], Model], widths: Iterable[int], batch: Any,
                loss_fn: Callable[..., jax.Array], optimizer: optax.GradientTransformation, *,
                parametrization: str | Parametrization | Parametrize = "mup", adam: bool = True,
                rule: str | None = None, base_width: int | None = None,
                base_model: Model | Callable[[int], Model] | None = None, delta_model: Model | None = None,
                fans: Mapping[str, Sequence[Axes]] | None = None,
                readouts: str | Sequence[str] = (), steps: int = 3, seeds: int | Iterable[int] = 5,
                stats: Sequence[Stat] = ("l1",), fix_batch: bool = True, progress: bool = True) -> CoordCheck:
    """Trains models of several widths for a few steps, and judges how the sizes of what they compute grow.

    In μP nothing that training makes may vanish or explode with the width, and everything must move. This
    records every module's output, attention logits, parameters, and how far they move; takes the slope of
    their sizes over widths; and compares it with what the rules say. (Tensor Programs V, arXiv 2203.03466,
    Appendix D.1.) Step t is the forward pass after t updates, and the update that follows it.

    A learning rate as large as the smallest model bears shows most: what is wrong is in the updates, and has
    to be seen beside what was there at the start. Start from the best one of the smallest model.

    Args:
      make_model: from a width to a transformed model, its layers inside `apply_mup`, not wrapped. Or from a
        depth, or from what else is to grow: with a `maximal_update(depth_alpha=...)` for the parametrization.
        Blocks of models of different depths are averaged.
      widths: two or more; eightfold from first to last is enough.
      batch: what `loss_fn` gets; with fix_batch=False, a sequence of `steps` of them.
      loss_fn: ``loss_fn(apply, params, rng, batch)`` gives a scalar. ``apply(params, rng, *inputs, **kwargs)``
        gives the model's output: its state, if it has one, is kept behind it. The inputs of the first call are
        those that the model is initialised with. Don't call it inside a jax.jit or vmap of your own.
      optimizer: a plain optax optimizer, not wrapped.
      parametrization: "mup", or "sp" for the model and the optimizer as they are, which must fail; a
        `Parametrization`, whose parameters are judged by its own table, and whose activations and outputs must
        keep their size and move, as in μP, so that `standard()` and `neural_tangent()` fail; or a function
        from (mup, model, optimizer) to a model and an optimizer, to check one of your own.
      adam: whether the optimizer is of Adam's kind, or SGD's: see `Mup.wrap_optimizer`.
      rule: or what other kind it is of: see there, too.
      base_width: the width of the base; the smallest, by default.
      base_model: the base itself, instead; or a function that gives it for each width.
      delta_model: a model for `Mup.init_delta`.
      fans: see `Mup`.
      readouts: see `Mup`.
      steps: how many steps to train.
      seeds: how many initializations, or which.
      stats: what to record of each array: "l1" (mean of sizes), "l2" (root mean square), which are judged;
        "mean", "std", "max" (of sizes) and functions from an array to a number, which are not.
      fix_batch: whether all steps see the same batch. Only then can be told how far activations move.
      progress: whether to show a bar, if tqdm is installed.

    Returns:
      A `CoordCheck`.

    Raises:
      MupError: what `Mup` raises; fewer than two widths, or a model that doesn't grow with them; a loss that
        is no scalar, or not finite at the smallest width.

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
    from haiku_mup.coordinates.measurements import as_points
    from haiku_mup.coordinates.trainer import decays

    ordered = sorted(set(map(int, widths)))
    each = list(range(seeds) if isinstance(seeds, int) else seeds)
    batches = [batch] * steps if fix_batch else list(batch)
    _check(ordered, each, steps, batches, stats)
    optimizer_rule = optimizer_rules.choose(rule, adam)
    wrap = _wrap(parametrization, adam, rule)
    bases = _bases(make_model, base_model, ordered[0] if base_width is None else base_width)
    name = parametrization if isinstance(parametrization, str) else getattr(
        parametrization, "name", getattr(parametrization, "__name__", "other"))
    table = parametrization if isinstance(parametrization, Parametrization) else None
    if parametrization == "sp":             # beside what it should be, in depth as in width
        table = maximal_update(depth_alpha=1.0)
    decaying = decays(optimizer)
    new_mup = functools.partial(Mup, fans=fans, readouts=readouts, parametrization=table)
    parts = _Parts(make_model, bases, delta_model, loss_fn, wrap, optimizer, new_mup, tuple(stats), decaying)
    trials: dict[tuple[int, int], Any] = {}
    with _threads() as pool:
        programs = {width: parts.program(width, batches[0], pool) for width in _order(ordered)}
        for width, seed in _shown([(width, seed) for width in programs for seed in each], progress):
            trials[width, seed] = programs[width].run(seed, batches)
            _check_losses(trials, each, ordered[0])
    programs = {width: programs[width] for width in ordered}
    trials = jax.device_get({(width, seed): trials[width, seed] for width in ordered for seed in each})
    _check_moves(trials)
    _check_grows(programs)
    return CoordCheck(as_points(name, programs, trials, stats, rule=optimizer_rule,
                                moves=fix_batch, decaying=decaying))


class _Parts(NamedTuple):
    """What a check is made of, at every width: arguments of `coord_check`, and what follows from them."""

    make_model: Callable[[int], Model]
    base: Callable[[int], Model]
    delta: Model | None
    loss_fn: Callable[..., Any]
    wrap: Parametrize
    optimizer: Any
    new_mup: Callable[[], Mup]
    stats: Sequence[Stat]
    decaying: bool

    def program(self, width: int, batch: Any, pool: concurrent.futures.Executor) -> "Program":
        """What trains the model of this width, while it is being compiled."""
        from haiku_mup.coordinates.model_inputs import inputs as model_inputs
        from haiku_mup.coordinates.recorder import original
        from haiku_mup.coordinates.trainer import Program

        model, key = self.make_model(width), jax.random.key(0, impl="rbg")
        original(model)                         # raises for what is no model
        inputs = model_inputs(self.loss_fn, key, batch)
        mup = self.new_mup()
        with mup.init_base():
            inputs.shapes(self.base(width), key)
        if self.delta is not None:
            with mup.init_delta():
                inputs.shapes(self.delta, key)
        with mup.init_target():
            inputs.shapes(model, key)
        wrapped, optimizer = self.wrap(mup, model, self.optimizer)
        program = Program(wrapped, optimizer, self.loss_fn, mup, inputs, self.stats, self.decaying)
        program.compile(pool, batch)
        return program


@contextlib.contextmanager
def _threads() -> Iterator[concurrent.futures.Executor]:
    """Threads that compile; what they haven't begun as an error ends the check, they leave."""
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        try:
            yield pool
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _order(widths: Sequence[int]) -> list[int]:
    """The narrowest first, which may be diverging; then the widest, so that others are compiled as it runs."""
    return [widths[0], *reversed(widths[1:])]


def _wrap(parametrization: str | Parametrization | Parametrize, adam: bool, rule: str | None) -> Parametrize:
    if callable(parametrization):
        return parametrization
    if parametrization == "sp":
        return lambda mup, model, optimizer: (model, optimizer)
    as_it_is = optimizer_rules.choose(rule, adam).entrywise
    if isinstance(parametrization, Parametrization) and parametrization.plain == "sgd" and adam and as_it_is:
        raise MupError(f"{parametrization.name}: it is for a plain optax.sgd, or another with adam=False")
    if isinstance(parametrization, Parametrization) and parametrization.plain and as_it_is:
        return lambda mup, model, optimizer: (mup.wrap_model(model), optimizer)
    if parametrization == "mup" or isinstance(parametrization, Parametrization):
        return lambda mup, model, optimizer: (
            mup.wrap_model(model), mup.wrap_optimizer(optimizer, adam, rule=rule))
    raise MupError(f"parametrization={parametrization!r}: give 'mup', 'sp', a Parametrization, or a function "
                   "from (mup, model, optimizer) to a model and an optimizer")


def _bases(make_model, base_model, base_width: int) -> Callable[[int], Any]:
    """From a width to its base."""
    if base_model is None:
        return lambda width: make_model(base_width)
    return base_model if callable(base_model) else lambda width: base_model


def _shown(work: Sequence[Any], progress: bool) -> Iterator[Any]:
    """The items, with a bar on the way where it is wanted, and tqdm installed."""
    if not progress or importlib.util.find_spec("tqdm") is None:
        yield from work
        return
    import tqdm  # type: ignore[import-untyped]

    with tqdm.tqdm(work, desc="coordinate check", leave=False) as bar:
        for width, seed in bar:
            bar.set_postfix(width=width, seed=seed)
            yield width, seed


# --- what can't be right ---

def _check(widths: Sequence[int], seeds: Sequence[int], steps: int, batches: Sequence[Any],
           stats: Sequence[Stat]) -> None:
    if len(widths) < 2 or widths[0] < 1:
        raise MupError(f"widths={widths}: give two or more that differ, such as [64, 128, 256, 512]")
    if not seeds or steps < 1:
        raise MupError("give one seed and one step at least")
    if len(batches) != steps:
        raise MupError(f"fix_batch=False: {len(batches)} batches for {steps} steps; give a batch for each")
    unknown = [stat for stat in stats if not callable(stat) and stat not in STATS]
    if unknown or not set(JUDGED) & {stat for stat in stats if isinstance(stat, str)}:
        raise MupError(f"stats={tuple(map(stat_name, stats))}: give 'l1' or 'l2', which are judged; beside "
                       f"them {', '.join(STATS)} or functions")


def _check_losses(trials: Mapping[tuple[int, int], Any], seeds: Sequence[int], narrowest: int) -> None:
    """Raises where the narrowest width has been trained, and diverged from every seed."""
    if len(trials) != len(seeds):
        return
    losses = [[float(step.loss) for step in trial] for trial in trials.values()]
    if not any(all(map(math.isfinite, found)) for found in losses):
        step = min(i for found in losses for i, loss in enumerate(found) if not math.isfinite(loss))
        raise MupError(f"the loss is {losses[0][-1]} at width {narrowest} from step {step} on: lower the "
                       "learning rate; a check needs a finite loss at the smallest width")


def _check_moves(trials: Mapping[tuple[int, int], Any]) -> None:
    """Raises where training did nothing, so that there is nothing to see."""
    updates = [parts["update"] for trial in trials.values() for step in trial for parts in step.params.values()]
    if not any(update.any() for update in updates):
        raise MupError("no parameter moved in any step: is the learning rate 0, as in a warm-up? Give a "
                       "constant one, as large as the smallest model bears")


def _check_grows(programs: "Mapping[int, Program]") -> None:
    first, *others = (program.shapes for program in programs.values())
    if all(shapes == first for shapes in others):
        raise MupError(f"make_model gives the same shapes at widths {list(programs)}: build the model from "
                       "the width that it is given")
