"""Records of a forward pass, as entries of Haiku's state beside the model's own.

State is the one place where a value can be kept under jit, remat, scan and layer_stack. Each record is the sum
over calls of what is measured of an array; its name starts with a mark that no model uses.
"""
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, TypeAlias

from haiku_mup.coordinates.quantities import RecordKind

Tree: TypeAlias = Mapping[str, Mapping[str, Any]]       # module -> name -> array, as Haiku nests them
_MARK = "haiku_mup recorded "
WITHOUT_BIAS = "/weights"       # suffix of what a readout returns, without its bias


class RecordInfo(NamedTuple):
    """Properties of a recorded array that are known while the model is traced.

    Attributes:
      kind: the kind of the array.
      suffix: tells it from others of its module: a probe's name, a path in a tree, the number of the call.
      order: its place among all records, in the order of computation.
      shape: its shape, in one layer.
      eps: the relative rounding error of its dtype.
      readout: the module of the readout that returned it, without the prefix of a lift; TIED for a
        SharedReadout; None for other arrays.
      preceding_readouts: the readouts that were called before it was computed, named alike.
      queries: of logits, the name of the layer that projects the attention's queries; None for other arrays.
      weight: the weight or gain that makes it, if that isn't its module's w: of queries in other frameworks.
    """

    kind: RecordKind
    suffix: str
    order: int
    shape: tuple[int, ...]
    eps: float
    readout: str | None
    preceding_readouts: tuple[str, ...]
    queries: str | None = None
    weight: str | None = None

    @property
    def without_bias(self) -> bool:
        """Returns whether it is what a readout returns, without its bias."""
        return self.kind == RecordKind.ACTIVATION and self.suffix.startswith(WITHOUT_BIAS)

    @property
    def entry(self) -> str:
        """Returns the name of the record in the state of its module."""
        return f"{_MARK}{self.kind} {self.suffix}"


def is_record(name: str) -> bool:
    """Returns whether an entry of a state is a record, by its name."""
    return name.startswith(_MARK)


def records_in(state: Tree) -> dict[str, dict[str, Any]]:
    """Returns the records in a state."""
    return _filtered(state, is_record)


def split_state(state: Tree) -> tuple[dict[str, dict[str, Any]], dict[str, dict[str, Any]]]:
    """Returns the model's own state, and the records in it."""
    return _filtered(state, lambda name: not is_record(name)), records_in(state)


def merge_state(model_state: Tree, records: Tree) -> dict[str, dict[str, Any]]:
    """Returns the state that has both the model's own entries and the records."""
    return {module: {**model_state.get(module, {}), **records.get(module, {})}
            for module in {**model_state, **records}}


def _filtered(state: Tree, keep: Callable[[str], bool]) -> dict[str, dict[str, Any]]:
    """Returns the entries whose name is to be kept, without modules that have none."""
    kept = {module: {name: x for name, x in entries.items() if keep(name)} for module, entries in state.items()}
    return {module: entries for module, entries in kept.items() if entries}
