"""`lr_sweep`: trains models of every width at every learning rate, from every seed."""
import collections
import contextlib
import itertools
import os
import shlex
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Executor
from typing import Literal, NamedTuple

from haiku_mup.errors import MupError, MupWarning
from haiku_mup.serialization import atomic_files
from haiku_mup.sweep.result import Sweep
from haiku_mup.sweep.rows import csv_text
from haiku_mup.sweep.search import SearchMethod
from haiku_mup.sweep.spec import MakeTrial, SweepSpec


class SweepProgress(NamedTuple):
    """The progress that a sweep shows.

    Attributes:
      advance: called with a parametrization, a width, and how many of their trials have ended.
      show: called with what the workers do now.
    """

    advance: Callable[[str, int, int], None]
    show: Callable[[str], None]


def lr_sweep(make_trial: MakeTrial | Mapping[str, MakeTrial], widths: Iterable[int],
             lrs: Iterable[float] | None, seeds: int | Iterable[int], *,
             hyperparameters: Mapping[str, Iterable[float]] | Iterable[Mapping[str, float]] | None = None,
             out: str | os.PathLike[str] | None = None, executor: Executor | None = None,
             search: Literal["grid", "adaptive"] = "grid", chunk: int | Literal["auto"] = "auto",
             grow: bool = False, progress: bool = True) -> Sweep:
    """Trains models of every width at every learning rate, from every seed.

    Each parametrization is compiled once for each width. Its trials run in cells, and the trials of a cell run
    side by side on each device. Where two parametrizations compute the same, as the standard one and μP do at
    base width, a trial runs once for both. A cell that raises an error, or whose worker dies, is tried three
    times while the others go on; the sweep ends with the trials that succeeded. Ctrl-C stops it within two
    seconds.

    Args:
      make_trial: a function from a width to ``trial(lr, key, **hyperparameters)``. A trial is a pure function
        that JAX can trace. It trains a model and returns its losses: an array [steps], a scalar, or a dict of
        such. `training` makes such a function of a model, data, a loss and an optimizer. To compare
        parametrizations, give ``{name: function}``.
      widths: the widths of the models.
      lrs: the learning rates; None if every setting of `hyperparameters` has its own.
      seeds: the number of seeds, or the seeds themselves. A trial's key is ``jax.random.key(seed)``.
      hyperparameters: hyperparameters other than the learning rate, which the trials get by name:
        ``{name: values}`` for all combinations of the values, or a list of settings ``{name: value}``, such as
        `draws` makes at random.
      out: a folder, to which each cell is saved as soon as it has finished. The same call continues a sweep,
        whatever ended it, and gives the results of one that was never interrupted. Several processes may share
        one folder, and the work.
      executor: runs the cells: any executor of concurrent.futures, such as
        ``distributed.Client(...).get_executor()``, an mpi4py.futures.MPIPoolExecutor, or ThreadPoolExecutor(1)
        for this very process. By default, on a CPU, these are loky's processes, if loky is installed
        (``pip install loky``): one for each core if models are small, fewer with more threads
        each if they are large. With other devices, or several, it is a thread of this process.
      search: "grid" runs all trials. "adaptive" runs a third of those of the narrowest width, and of each wider
        width fewer, down to a fifth (but at least three); a third again if the optimum moved by more than an
        octave, and of all widths if there are one or two seeds.
        First it tries a few rates with one seed: at the narrowest width rates spread over all of them, at the
        next ones rates around the optimum of the width before and some far off. Then it closes in on the lowest
        loss, and at last runs further seeds around it. With three seeds or more, and losses that have one
        valley, 95% of its best rates are within a quarter of an octave of the grid's or within the grid's
        interval (``python -m benchmarks.adaptive``). Its own intervals are wider, as wide models have fewer
        seeds. It keeps fewer workers busy.
      chunk: the number of trials that run side by side on a device; "auto" for as many as keep it busy.
      grow: whether widths, learning rates, seeds, … may be added to those that `out` was made with.
      progress: whether to show a bar, if tqdm is installed.

    Returns:
      A `Sweep`. A trial that diverged has a loss of inf.

    Raises:
      MupError: an argument is not allowed, `out` is the folder of another sweep, or every trial failed.
      OSError: `out` can't be written to, or the disk is full.
      KeyboardInterrupt: Ctrl-C was pressed. The message says where the results are and how to continue.

    Warns:
      MupWarning: trials are missing.

    >>> def make_trial(width):
    ...     return lambda lr, key: (jnp.log2(lr) + 3)**2 + 1 / width + 0.01 * jax.random.normal(key)
    >>> from concurrent.futures import ThreadPoolExecutor
    >>> with ThreadPoolExecutor(1) as here:
    ...     sweep = haiku_mup.lr_sweep({"mup": make_trial}, [64, 128], [2.0**k for k in range(-6, 0)], seeds=2,
    ...                                executor=here, progress=False)
    >>> len(sweep.rows()), f"{sweep.best()['mup'][128].log2_lr:.1f}"
    (24, '-3.0')
    """
    spec = SweepSpec.from_arguments(make_trial, widths, lrs, seeds, hyperparameters=hyperparameters,
                                    search=search, chunk=chunk)
    with _progress_bar(spec.max_trials, spec.search is SearchMethod.ADAPTIVE, progress) as bar:
        sweep = _run(spec, out=out, grow=grow, executor=executor, bar=bar)
    if sweep.missing:
        missing = _describe_missing(sweep)
        if not sweep.losses:
            raise MupError(f"lr_sweep: every trial failed: {missing}")
        total = len(sweep.losses) + len(sweep.missing)
        warnings.warn(f"lr_sweep: {len(sweep.missing)} of {total} trials are missing (see Sweep.missing): "
                      f"{missing}", MupWarning, stacklevel=2)
    return sweep


# --- the runner ---

def _run(spec: SweepSpec, *, out: str | os.PathLike[str] | None, grow: bool, executor: Executor | None,
         bar: SweepProgress) -> Sweep:
    """Runs the trials of a sweep.

    Raises:
      KeyboardInterrupt: Ctrl-C was pressed; with a message for the user.
    """
    from haiku_mup.sweep.interrupt import deferred_interrupt
    from haiku_mup.sweep.runner.schedule import Schedule

    folder, schedule = None, Schedule(spec.searches(), bar.advance)
    try:
        with deferred_interrupt() as raise_if_interrupted:      # from here on it says how to continue
            from haiku_mup.sweep.runner.dispatcher import Dispatcher
            from haiku_mup.sweep.runner.executors import choose_executor
            from haiku_mup.sweep.runner.folder import SweepFolder
            from haiku_mup.sweep.runner.tasks import TrialRunner

            if out is not None:
                folder = SweepFolder(out, spec.as_json(), grow)
            runner = TrialRunner(spec.makers, spec.hyperparameters)
            dispatcher = Dispatcher(
                runner=runner, schedule=schedule, folder=folder, executor=choose_executor(executor, runner),
                chunk=spec.chunk, raise_if_interrupted=raise_if_interrupted, show=bar.show)
            dispatcher.run(list(itertools.product(spec.makers, spec.widths)))
    except BaseException as error:
        sweep = Sweep(*schedule.results())
        if folder is not None:          # else it may be another sweep's
            with contextlib.suppress(OSError):
                _write_table(sweep, out)
        if isinstance(error, KeyboardInterrupt):
            total = f"at most {spec.max_trials}" if spec.search is SearchMethod.ADAPTIVE else spec.max_trials
            raise KeyboardInterrupt(_describe_interruption(sweep, str(total), out)) from None
        raise
    sweep = Sweep(*schedule.results())
    _write_table(sweep, out)
    return sweep


def _write_table(sweep: Sweep, out: str | os.PathLike[str] | None) -> None:
    """Writes results.csv into a sweep's folder, if there is one."""
    if out is not None:
        atomic_files.write(os.path.join(out, "results.csv"), csv_text(sweep.rows()))


# --- messages ---

@contextlib.contextmanager
def _progress_bar(total: int, at_most: bool, progress: bool) -> Iterator[SweepProgress]:
    """Shows a bar, if it is wanted and tqdm is installed.

    Args:
      total: the number of trials.
      at_most: whether fewer trials may be all, so that the bar is full when the sweep ends.
      progress: whether a bar is wanted.
    """
    try:
        import tqdm  # type: ignore[import-untyped]
    except ImportError:
        progress = False
    if not progress:
        yield SweepProgress(lambda parametrization, width, trials: None, lambda text: None)
        return
    with tqdm.tqdm(total=total, unit="trial", smoothing=0.1) as bar:
        yield SweepProgress(lambda parametrization, width, trials: bar.update(trials), bar.set_description)
        if at_most:
            bar.total = bar.n


def _describe_missing(sweep: Sweep) -> str:
    """Returns each reason why trials are missing, once, after how many of which width it holds for."""
    count = collections.Counter((m.trial.parametrization, m.trial.width, m.reason) for m in sweep.missing)
    places: dict[str, list[str]] = {}
    for (name, width, reason), number in count.items():
        places.setdefault(reason, []).append(f"{number} of {name} at width {width}")
    return "; ".join(f"{', '.join(where)}: {reason}" for reason, where in places.items())


def _describe_interruption(sweep: Sweep, total: str, out: str | os.PathLike[str] | None) -> str:
    """Returns how far a sweep came that Ctrl-C has ended, and how to continue it."""
    done = f"{len(sweep.losses)} of {total} trials have finished"
    if out is None:
        return f"{done}, and are lost, since lr_sweep was given no out="
    if hasattr(sys, "ps1") or "ipykernel" in sys.modules:       # no command to repeat
        return f"{done}, and are in {os.fspath(out)}; the same call again continues"
    command = [os.path.basename(sys.orig_argv[0]), *sys.orig_argv[1:]]
    return f"{done}, and are in {os.fspath(out)}; this continues:\n{shlex.join(command)}"
