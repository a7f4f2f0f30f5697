"""A piece of the atlas: one sweep, and what was expected of it."""
import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any


@dataclasses.dataclass(frozen=True, kw_only=True)
class Piece:
    """One sweep of small models, meant to end within ten minutes on two cores.

    What varies takes the place of the width in the records: `haiku_mup.lr_sweep` gives it to the maker of
    trials. So the drift is how far the best rate moves as it varies, in octaves, and the exponent is that of
    the varied size in the best rate.

    Attributes:
      title: what is measured, for the page.
      varies: what takes the place of the width, such as "batch size".
      sizes: its values.
      makers: returns {name: from a size to a trial}, as `haiku_mup.lr_sweep` takes them.
      log2_lrs: the learning rates; or {name: rates}, where makers want different ones.
      expected: what was expected before it ran.
      seeds: the number of seeds.
      losses: the names of the losses that are shown; the first of them judges.
    """

    title: str
    varies: str
    sizes: Sequence[int]
    makers: Callable[[], Mapping[str, Any]]
    log2_lrs: Sequence[float] | Mapping[str, Sequence[float]]
    expected: str
    seeds: int = 3
    losses: Sequence[str] = ("valid_loss",)

    def rates(self, name: str) -> list[float]:
        """Returns the learning rates of one maker's trials."""
        found = self.log2_lrs[name] if isinstance(self.log2_lrs, Mapping) else self.log2_lrs
        return [2.0**x for x in found]

    def groups(self) -> dict[tuple[float, ...], dict[str, Any]]:
        """Returns {rates: makers}: those of the same rates share a sweep."""
        found: dict[tuple[float, ...], dict[str, Any]] = {}
        for name, maker in self.makers().items():
            found.setdefault(tuple(self.rates(name)), {})[name] = maker
        return found


def scaled_and_plain(trials):
    """Returns the makers of a piece that scales constants, and leaves them.

    Args:
      trials: (scaled, size) -> a trial.
    """
    return lambda: {name: functools.partial(trials, name == "scaled") for name in ("scaled", "plain")}
