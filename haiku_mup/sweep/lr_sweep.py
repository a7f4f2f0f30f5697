"""lr_sweep: trains models of every width at every learning rate, from every seed."""
import collections
import contextlib
import functools
import itertools
import os
import shlex
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Executor
from typing import Any, Literal

from haiku_mup.errors import MupError, MupWarning
from haiku_mup.sweep.result import Sweep
from haiku_mup.sweep.runner.interrupts import held_back
from haiku_mup.sweep.trial import Trial, grid_points, seed_list

MakeTrial = Callable[[int], Callable[..., Any]]


def lr_sweep(make_trial: MakeTrial | Mapping[str, MakeTrial], widths: Iterable[int],
             lrs: Iterable[float] | None, seeds: int | Iterable[int], *,
             hyperparameters: Mapping[str, Iterable[float]] | Iterable[Mapping[str, float]] | None = None,
             out: str | os.PathLike[str] | None = None, executor: Executor | None = None,
             search: Literal["grid", "adaptive"] = "grid", chunk: int | Literal["auto"] = "auto",
             grow: bool = False, progress: bool = True) -> Sweep:
    """Trains models of every width at every learning rate, from every seed.

    There is one compiled program a width, and its trials run in cells: some beside one another on each device.
    A cell that raises, or whose worker dies, is tried three times, while the others go on, and the sweep ends
    with what it has. Ctrl-C ends it within two seconds.

    Args:
      make_trial: from a width to ``trial(lr, key, **hyperparameters)``, a pure function that JAX can trace,
        which trains a model and gives its losses: an array [steps], a scalar, or a dict of such. `training`
        makes one of a model, data, a loss and an optimizer. To compare parametrizations, ``{name: maker}``.
      widths: of the models.
      lrs: learning rates; None where every setting of `hyperparameters` has its own.
      seeds: how many, or which: a trial's key is ``jax.random.key(seed)``.
      hyperparameters: others than the learning rate: ``{name: values}``, to try all their combinations, or a
        list of ``{name: value}``, as `draws` makes at random. The trials get them by name.
      out: a folder, in which each cell is on disk as soon as it has finished. The same call again, after
        whatever it was that ended it, continues, and its results are those of a sweep that nothing disturbed.
        Several processes may share one folder, and the work.
      executor: what runs the cells: any of concurrent.futures, as ``distributed.Client(...).get_executor()``,
        an mpi4py.futures.MPIPoolExecutor, or ThreadPoolExecutor(1) for this very process. By default, on a CPU,
        loky's processes, if it is installed (``pip install 'haiku-mup[sweep]'``): one a core for small models,
        fewer with more threads each for large ones. With other devices, or several, a thread of this process.
      search: "grid" for all trials. "adaptive" runs a third of each curve's at most (but three): first with one
        seed, at the narrowest width a few rates of all, at the next ones those around where the last ended,
        and others far off; then closer to the lowest; then with all seeds around it. With three seeds or more,
        and losses that have one valley, its best rates are the grid's to a quarter of an octave, or to what
        other seeds would move the grid's by (``python -m benchmarks.adaptive``). It keeps fewer workers busy.
      chunk: how many trials run beside one another on a device; "auto" for what keeps it busy.
      grow: whether widths, learning rates, seeds, … may be added to those that `out` was made with.
      progress: whether to show a bar, if tqdm is installed.

    Returns:
      A `Sweep`. A trial that diverged has a loss of inf.

    Raises:
      MupError: an argument that can't be; an `out` that is the folder of another sweep; every trial failed.
      OSError: `out` can't be written to; the disk is full.
      KeyboardInterrupt: Ctrl-C; it says where the results are, and how to continue.

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
    from haiku_mup.sweep.runner import jobs
    from haiku_mup.sweep.runner.conduct import Conductor
    from haiku_mup.sweep.runner.ledger import Ledger, Nothing

    makers = dict(make_trial) if isinstance(make_trial, Mapping) else {
        getattr(make_trial, "name", "trial"): make_trial}
    wide, at, each = sorted(set(map(int, widths))), grid_points(lrs, hyperparameters), seed_list(seeds)
    _check(makers, wide, search, chunk)
    total = len(makers) * len(wide) * _asked(at, len(each), search)
    ledger = Nothing() if out is None else Ledger(out, {
        "parametrizations": list(makers), "widths": wide, "points": at, "seeds": each, "search": search,
        "chunk": chunk}, grow)
    courses = _courses(makers, wide, at, each, search)
    work = jobs.Work(makers, [name for name, _ in at[0]], jobs.settings(), {}, {})
    try:
        with held_back() as pause, _shared(work) as (name, pack), _bar(total, progress) as tell:
            _conduct(Conductor(name, pack, ledger, None if chunk == "auto" else chunk, tell, pause), courses,
                     executor)
    except BaseException as error:
        with contextlib.suppress(OSError):
            ledger.summarise(_swept(courses).rows())
        if isinstance(error, KeyboardInterrupt):
            raise KeyboardInterrupt(_interrupted(out, _swept(courses), total)) from None
        raise
    ledger.summarise(_swept(courses).rows())
    return _judged(_swept(courses))


def _check(makers: Mapping[str, Any], widths: Sequence[int], search: str, chunk: Any) -> None:
    if not makers or not widths or widths[0] < 1:
        raise MupError(f"lr_sweep: widths {widths} of {list(makers)}: give at least one of each")
    if not all(map(callable, makers.values())):
        raise MupError("lr_sweep: make_trial must be a function from a width to a trial, or {name: function}")
    if search not in ("grid", "adaptive"):
        raise MupError(f"lr_sweep: search={search!r}: give 'grid' or 'adaptive'")
    if chunk != "auto" and (not isinstance(chunk, int) or chunk < 1):
        raise MupError(f"lr_sweep: chunk={chunk!r}: give how many trials run beside one another, or 'auto'")


def _asked(at: Sequence[tuple[tuple[str, float], ...]], seeds: int, search: str) -> int:
    """How many trials there are for a program, or at most.

    Raises:
      MupError: there is nothing to search.
    """
    from haiku_mup.sweep.search import allowed

    if search == "grid":
        return len(at) * seeds
    rates = collections.Counter(point[1:] for point in at)      # of each setting of the others
    if max(rates.values()) < 2:
        raise MupError("lr_sweep: search='adaptive' looks for the best of several learning rates, and there is "
                       "one for each setting of the other hyperparameters: give lrs=[...], or search='grid'")
    return sum(allowed(number * seeds) for number in rates.values())


def _courses(names: Iterable[str], widths: Sequence[int], at: Sequence[Any], seeds: Sequence[int],
             search: str) -> list[Any]:
    """One for each program; an adaptive search goes from width to width, each begun where the last ended."""
    from haiku_mup.sweep.runner.courses import Course, grid
    from haiku_mup.sweep.search import FEW, adaptive

    found: list[Course] = []
    for name, width in itertools.product(names, widths):
        trials = [Trial(name, width, point, seed) for point in at for seed in seeds]
        make = functools.partial(grid if search == "grid" else adaptive, trials)
        after = found[-1] if search != "grid" and len(seeds) >= FEW and width != widths[0] else None
        found.append(Course((name, width), make, after))
    return found


@contextlib.contextmanager
def _shared(work: Any) -> Iterator[tuple[str, Callable[[], bytes]]]:
    """The name by which workers know the work, and what gives it as bytes. This process knows it as it is."""
    from haiku_mup.sweep.runner import jobs

    packed: list[bytes] = []

    def pack() -> bytes:
        packed[:] = packed or [jobs.pack(work)]
        return packed[0]

    name = os.urandom(8).hex()
    jobs.keep(name, work)
    try:
        yield name, pack
    finally:
        jobs.forget(name)


def _conduct(conductor: Any, courses: Sequence[Any], executor: Executor | None) -> None:
    """Has the programs made, and then all cells run, on workers with as many threads as their program wants."""
    from haiku_mup.sweep.runner.workers import workers

    with workers(executor) as found, contextlib.ExitStack() as abandoned:
        abandoned.callback(conductor.abandon)
        conductor.prepare(found.pool(1), courses)
        there = [course for course in courses if course.prepared]
        wanted: dict[Any, int] = {}
        for course in there:                                # none runs before the one that it comes after
            wanted[course] = max(found.threads(course.prepared.facts.carry), wanted.get(course.after, 0))
        for threads in sorted(set(wanted.values())):
            conductor.run(found.pool(threads), [course for course in there if wanted[course] == threads])


# --- what is said of it ---

@contextlib.contextmanager
def _bar(total: int, progress: bool) -> Iterator[Callable[[Any, int], None]]:
    """What is told of trials that have come to an end: it shows a bar, if tqdm is installed."""
    try:
        import tqdm  # type: ignore[import-untyped]
    except ImportError:
        progress = False
    if not progress:
        yield lambda course, trials: None
        return
    with tqdm.tqdm(total=total, unit="trial", smoothing=0.1) as bar:
        def tell(course: Any, trials: int) -> None:
            bar.set_description(f"{course.at[0]}, width {course.at[1]}", refresh=False)
            bar.update(trials)

        yield tell


def _swept(courses: Sequence[Any]) -> Sweep:
    """What there is, in the order in which it was asked for."""
    return Sweep({trial: losses for course in courses for trial, losses in course.in_order()},
                 [missing for course in courses for missing in course.missing])


def _judged(found: Sweep) -> Sweep:
    """The sweep; says what is missing.

    Raises:
      MupError: all of it is.
    """
    if not found.missing:
        return found
    reasons = collections.Counter((m.trial.parametrization, m.trial.width, m.reason) for m in found.missing)
    text = "; ".join(f"{count} of {name} at width {width}: {why}"
                     for (name, width, why), count in reasons.items())
    if not found.losses:
        raise MupError(f"lr_sweep: every trial failed: {text}")
    total = len(found.losses) + len(found.missing)
    warnings.warn(f"lr_sweep: {len(found.missing)} of {total} trials are missing, as Sweep.missing tells: "
                  f"{text}", MupWarning, stacklevel=3)
    return found


def _interrupted(out: Any, found: Sweep, total: int) -> str:
    """What to say when Ctrl-C has ended a sweep."""
    done = f"{len(found.losses)} of {total} trials have finished"
    if out is None:
        return f"{done}, and are lost, as lr_sweep was given no out="
    if hasattr(sys, "ps1") or "ipykernel" in sys.modules:
        return f"{done}, and are in {os.fspath(out)}; the same call again continues"
    command = [os.path.basename(sys.orig_argv[0]), *sys.orig_argv[1:]]
    return f"{done}, and are in {os.fspath(out)}; this continues:\n{shlex.join(command)}"
