"""The arguments of `lr_sweep`, checked and in one form."""
import collections
import contextlib
import dataclasses
import importlib.metadata
import inspect
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal

from haiku_mup.coordinates.model_inputs import as_widths
from haiku_mup.errors import MupError
from haiku_mup.sweep.search import (
    WARM_START_SEEDS,
    Search,
    SearchMethod,
    adaptive_budget,
    adaptive_search,
    grid_search,
    search_width_by_width,
)
from haiku_mup.sweep.trial import Hyperparameters, Trial, grid_points, seed_list

FORMAT, VERSION = "haiku_mup sweep", 1      # of sweep.json
EXTENSIBLE = ("parametrizations", "widths", "points", "seeds")      # what a sweep in a folder may grow by
MakeTrial = Callable[[int], Callable[..., Any]]


@dataclasses.dataclass(frozen=True, kw_only=True)
class SweepSpec:
    """The trials of a sweep, and how they are searched.

    Attributes:
      makers: for each parametrization, the function from a width to a trial.
      widths: the widths, ascending.
      points: the hyperparameters of the trials, the learning rate first.
      seeds: the seeds.
      search: the search strategy.
      chunk: the number of trials side by side on a device; None to have the programs choose.

    Raises:
      MupError: an argument is not allowed.
    """

    makers: Mapping[str, MakeTrial]
    widths: Sequence[int]
    points: Sequence[Hyperparameters]
    seeds: Sequence[int]
    search: SearchMethod
    chunk: int | None

    def __post_init__(self) -> None:
        if not self.makers or not self.widths or self.widths[0] < 1:
            raise MupError(f"lr_sweep: widths={self.widths}, parametrizations {list(self.makers)}: give at "
                           "least one of each")
        for name, make_trial in self.makers.items():
            _check_make_trial(name, make_trial)
        if self.search is SearchMethod.ADAPTIVE and max(self._rates_by_setting().values()) < 2:
            raise MupError("lr_sweep: search='adaptive' looks for the best of several learning rates, but "
                           "each setting of the other hyperparameters has only one: give lrs=[...], or "
                           "search='grid'")

    @classmethod
    def from_arguments(cls, make_trial: MakeTrial | Mapping[str, MakeTrial], widths: Iterable[int],
                       lrs: Iterable[float] | None, seeds: int | Iterable[int], *,
                       hyperparameters: Mapping[str, Iterable[float]] | Iterable[Mapping[str, float]] | None,
                       search: str, chunk: int | Literal["auto"]) -> "SweepSpec":
        """Converts the arguments of `lr_sweep`.

        A single `make_trial` gets the name that it has, as a `Training` does, or "trial".

        Raises:
          MupError: an argument is not allowed.
        """
        if isinstance(make_trial, Mapping):
            makers = dict(make_trial)
        else:
            makers = {getattr(make_trial, "name", "trial"): make_trial}
        return cls(makers=makers, widths=as_widths(widths, "lr_sweep"),
                   points=grid_points(lrs, hyperparameters), seeds=seed_list(seeds),
                   search=_search_method(search), chunk=_chunk(chunk))

    @property
    def hyperparameters(self) -> list[str]:
        """Returns the names of the hyperparameters, "lr" first."""
        return [name for name, _ in self.points[0]]

    @property
    def width_by_width(self) -> bool:
        """Returns whether the search at a width starts from the optimum of the next narrower width."""
        return self.search is SearchMethod.ADAPTIVE and len(self.seeds) >= WARM_START_SEEDS

    @property
    def max_trials(self) -> int:
        """Returns the number of trials, or the most that an adaptive search may run."""
        curve_sizes = [rates * len(self.seeds) for rates in self._rates_by_setting().values()]
        if self.search is SearchMethod.ADAPTIVE:
            curve_sizes = list(map(adaptive_budget, curve_sizes))
        return len(self.makers) * len(self.widths) * sum(curve_sizes)

    def grid(self, parametrization: str, width: int) -> list[Trial]:
        """Returns all trials of one parametrization and width."""
        return [Trial(parametrization, width, point, seed) for point in self.points for seed in self.seeds]

    def searches(self) -> list[Search]:
        """Returns the searches of the sweep, which may run side by side."""
        grids = {name: [self.grid(name, width) for width in self.widths] for name in self.makers}
        if self.width_by_width:
            return [search_width_by_width(by_width) for by_width in grids.values()]
        search = grid_search if self.search is SearchMethod.GRID else adaptive_search
        return [search(trials) for by_width in grids.values() for trials in by_width]

    def as_json(self) -> dict[str, Any]:
        """Returns what is kept in a sweep's folder, as JSON values."""
        return {"parametrizations": list(self.makers), "widths": list(self.widths), "points": list(self.points),
                "seeds": list(self.seeds), "search": self.search.value,
                "chunk": "auto" if self.chunk is None else self.chunk}

    def _rates_by_setting(self) -> Mapping[Any, int]:
        """Returns the number of learning rates for each setting of the other hyperparameters."""
        return collections.Counter(point[1:] for point in self.points)


def grid_from_json(arguments: Mapping[str, Any]) -> list[Trial]:
    """Returns all trials of the sweep with the arguments that `SweepSpec.as_json` returned."""
    return [Trial(name, width, tuple(map(tuple, point)), seed) for name in arguments["parametrizations"]
            for width in arguments["widths"] for point in arguments["points"] for seed in arguments["seeds"]]


def versions() -> dict[str, str]:
    """Returns the versions of the packages that losses may depend on."""
    return {name: importlib.metadata.version(name) for name in ("jax", "jaxlib", "dm-haiku", "optax", "numpy")}


def cause_of_change(values: Mapping[str, Any]) -> str:
    """Returns why a program computes something else than when a file with these values was written."""
    now = versions()
    return ", ".join(f"{name} was {version}, and is {now.get(name)}"
                     for name, version in values.get("versions", {}).items() if now.get(name) != version
                     ) or "the model, data, loss, optimizer, steps or JAX's settings were changed"


def to_file(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the values of ``sweep.json``: arguments as JSON values, and the versions of packages."""
    return {"format": FORMAT, "version": VERSION, "arguments": dict(arguments), "versions": versions()}


def from_file(values: Mapping[str, Any], folder: str | os.PathLike[str]) -> dict[str, Any]:
    """Returns the arguments in a ``sweep.json``.

    Raises:
      MupError: it is of something else than a sweep, or of a newer version; `folder` says where.
    """
    if values.get("format") != FORMAT or values.get("version") != VERSION:
        raise MupError(f"{os.fspath(folder)}: sweep.json is of {str(values.get('format'))[:40]!r} "
                       f"{str(values.get('version'))[:20]}, not of {FORMAT!r} {VERSION}; give another out")
    return dict(values["arguments"])


def is_extension(earlier: Mapping[str, Any], arguments: Mapping[str, Any]) -> bool:
    """Returns whether arguments, as JSON values, have all that earlier ones have, and perhaps more.

    >>> is_extension({"widths": [64], "chunk": 2}, {"widths": [64, 128], "chunk": 2})
    True
    """
    return earlier.keys() == arguments.keys() and all(
        values == arguments[name] or (name in EXTENSIBLE and all(x in arguments[name] for x in values))
        for name, values in earlier.items())


def describe_changes(earlier: Mapping[str, Any], arguments: Mapping[str, Any]) -> str:
    """Returns how arguments, as JSON values, differ from earlier ones; "" if they don't.

    >>> describe_changes({"widths": [64, 128], "chunk": 2}, {"widths": [64, 256], "chunk": "auto"})
    "widths has no longer 128 and has now 256; chunk was 2, and is 'auto'"
    """
    return "; ".join(_describe_change(name, earlier.get(name), arguments.get(name))
                     for name in {**earlier, **arguments} if earlier.get(name) != arguments.get(name))


def _describe_change(name: str, earlier: Any, argument: Any) -> str:
    """Returns how an argument differs from an earlier one: what a list lost and gained, else both values."""
    label = "learning rates and hyperparameters" if name == "points" else name
    if not (isinstance(earlier, list) and isinstance(argument, list)):
        return f"{label} was {earlier!r}, and is {argument!r}"
    gone, new = [x for x in earlier if x not in argument], [x for x in argument if x not in earlier]
    parts = [f"has no longer {_join(gone)}"] * bool(gone) + [f"has now {_join(new)}"] * bool(new)
    return f"{label} {' and '.join(parts) or 'is in another order'}"


def _join(values: Sequence[Any]) -> str:
    """Returns the first five of some names, numbers or points, and how many more there are."""
    texts = [", ".join(f"{name}={x:g}" for name, x in value) if isinstance(value, list) else str(value)
             for value in values]
    return ", ".join(texts[:5]) + f" and {len(texts) - 5} more" * (len(texts) > 5)


def _search_method(search: str) -> SearchMethod:
    """Returns the search strategy of that name."""
    if search not in list(SearchMethod):
        raise MupError(f"lr_sweep: search={search!r}: give 'grid' or 'adaptive'")
    return SearchMethod(search)


def _check_make_trial(name: str, make_trial: Any) -> None:
    """Raises for anything but a function of a width, such as a trial in place of a function that makes one."""
    problem: object = f"it is a {type(make_trial).__name__}" * (not callable(make_trial))
    with contextlib.suppress(ValueError):       # a function without a signature
        try:
            inspect.signature(make_trial, follow_wrapped=False).bind(64)
        except TypeError as error:
            problem = problem or error
    if problem:
        raise MupError(f"lr_sweep: make_trial {name!r} is no function of a width alone: {problem}; give a "
                       "function from a width to a trial, as haiku_mup.training(make_model, data, loss_fn, "
                       "optimizer, …) returns, or {name: function}")


def _chunk(chunk: int | Literal["auto"]) -> int | None:
    """Returns the number of trials side by side, or None for "auto"."""
    if chunk == "auto":
        return None
    if not isinstance(chunk, int) or chunk < 1:
        raise MupError(f"lr_sweep: chunk={chunk!r}: give the number of trials to run side by side, or 'auto'")
    return chunk
