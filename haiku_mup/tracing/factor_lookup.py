"""Finds a parameter's forward factors by what a layer knows of it: its name without prefixes, and its shape."""
from collections.abc import Hashable, Iterable

from haiku_mup.errors import MupError
from haiku_mup.parameters.place import Stack
from haiku_mup.parameters.record import Record
from haiku_mup.parameters.scaling import RuntimeFactors
from haiku_mup.tracing.haiku_internals import Nesting


class FactorLookup:
    """The forward factors of parameters, by local name, shape and, where these are one, the stacks around."""

    def __init__(self) -> None:
        # Where all that look alike have the same factors, it is of no interest which of them a layer means.
        self._shared: dict[tuple[str, tuple[int, ...]], RuntimeFactors | None] = {}
        self._by_stacks: dict[tuple[str, tuple[int, ...]], dict[tuple[Stack, ...], RuntimeFactors]] = {}

    def add(self, record: Record, factors: RuntimeFactors) -> RuntimeFactors:
        """Adds a parameter; returns its factors, or those of an earlier one that looks the same everywhere."""
        key, stacks = (record.local, record.shape), record.place.stacks if record.place else ()
        found = self._by_stacks.setdefault(key, {}).setdefault(stacks, factors)
        if self._shared.setdefault(key, found) != found:
            self._shared[key] = None
        return found

    def get(self, name: str, shape: tuple[int, ...]) -> RuntimeFactors | None:
        """Returns the factors of the parameter of this local name and shape; None where there is none.

        Raises:
          MupError: several look the same and differ, and none of them is in the stacks that are around.
        """
        key = name, shape
        found = self._shared.get(key)
        if found is not None or key not in self._shared:
            return found
        nesting = Nesting()
        if nesting.stacks not in self._by_stacks[key]:
            raise MupError.about(name, None, shape, "other layers have this name and shape, but this one was "
                                                    "not captured at this place; capture the model that is "
                                                    "wrapped", nesting.line)
        return self._by_stacks[key][nesting.stacks]

    def get_here(self, name: str, shape: tuple[int, ...]) -> RuntimeFactors | None:
        """Returns the factors of the parameter that was added in the stacks that are around; None for none."""
        return self._by_stacks.get((name, shape), {}).get(Nesting().stacks)

    def shapes(self, name: str) -> list[tuple[int, ...]]:
        """Returns the shapes of the parameters of this local name."""
        return [shape for local, shape in self._shared if local == name]

    def __contains__(self, key: tuple[str, tuple[int, ...]]) -> bool:
        """Returns whether a parameter with this local name and shape was added."""
        return key in self._shared

    def key(self) -> Hashable:
        """Returns a hashable key; equal keys mean equal contents."""
        return frozenset((*key, stacks, factors) for key, found in self._by_stacks.items()
                         for stacks, factors in found.items())


def one_tied_multiplier(multipliers: Iterable[float]) -> float:
    """Returns the multiplier of the one SharedEmbed that a model has.

    Args:
      multipliers: those of all that it has.

    Raises:
      MupError: there is none; they differ, so that a matrix alone doesn't tell.
    """
    values = set(multipliers)
    if not values:
        raise MupError("a SharedReadout has no SharedEmbed: make the embedding a haiku_mup.SharedEmbed, inside "
                       "apply_mup() and before the readout, or name a table of your own in Mup(tied=...)")
    if len(values) > 1:
        raise MupError("a SharedReadout was given an array, and the SharedEmbeds of this model grow by "
                       "different ratios; give it the SharedEmbed itself: SharedReadout()(embed, x)")
    return values.pop()
