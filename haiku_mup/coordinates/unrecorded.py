"""Names the activations of a pair (init, apply) that a check does not see."""
from collections.abc import Collection, Iterable

from haiku_mup.coordinates.quantities import RecordKind
from haiku_mup.coordinates.state_records import RecordInfo

NAMED = 8       # modules that are named


def unrecorded_activations(records: Iterable[RecordInfo], unkept: Collection[str]) -> str:
    """Returns a sentence about activations that were not recorded; "" where all were.

    Args:
      records: what was recorded.
      unkept: the modules whose outputs could not be kept.

    >>> unrecorded_activations([], ["blocks.mlp"])
    'Not seen: activations of blocks.mlp, inside a scan, a jit or a remat of the model.'
    >>> unrecorded_activations([], [])[:54]
    'Not seen: activations, which a pair (init, apply) does'
    """
    kinds = [info.kind for info in records]
    seen = {info.suffix.partition("@")[0].removeprefix("/") for info in records
            if info.kind == RecordKind.ACTIVATION}
    inside = [name for name in unkept if name not in seen]
    if inside:
        more = f" and {len(inside) - NAMED} more" if len(inside) > NAMED else ""
        return (f"Not seen: activations of {', '.join(inside[:NAMED])}{more}, inside a scan, a jit or a remat "
                "of the model.")
    if seen:
        return ""
    marked = " but those that probe marks" if RecordKind.PROBE in kinds else ""
    remedy = "" if marked else " Mark arrays with haiku_mup.probe to have them judged."
    return (f"Not seen: activations{marked}, which a pair (init, apply) doesn't show, except with modules of "
            f"Flax Linen or Flax NNX; parameters, updates and outputs are judged.{remedy}")
