"""Names what usually causes each deviation that a coordinate check finds, and its remedy."""
import math
from collections.abc import Sequence

from haiku_mup.coordinates.findings import Finding
from haiku_mup.coordinates.quantities import CHANGE_MARK, ParameterKind, RecordKind, kind_of

NOT_FINITE = "zero, infinite or not a number at some width: training diverged, or a part is dead; lower the " \
    "learning rate"


def diagnosed(findings: Sequence[Finding]) -> list[Finding]:
    """Returns the findings, those outside of their range with a cause."""
    updates = [f for f in findings if kind_of(f.quantity) == ParameterKind.UPDATE]
    vectors_grow = any(f.expected.high > -0.25 and f.slope > 0.6 and f.excess > 0.3 for f in updates)
    return [f._replace(cause=_cause(f, vectors_grow)) if f.excess > 0 else f for f in findings]


def _cause(finding: Finding, vectors_grow: bool) -> str:
    """Returns the usual cause of a deviation.

    Args:
      finding: what was found of one quantity.
      vectors_grow: whether updates grow that should keep their size: of inputs, biases or readouts. Then all
        learning rates have the wrong factors, and not that of one weight.
    """
    if math.isnan(finding.slope):
        return NOT_FINITE
    kind, above = kind_of(finding.quantity), finding.slope > finding.expected.high
    if kind == ParameterKind.DECAY:
        return ("weight decay is multiplied by the learning rate's factor, or isn't decoupled from it: "
                "wrap_optimizer(…, scale_decay=False)")
    if kind in (ParameterKind.UPDATE, ParameterKind.CHANGE):
        return _cause_in_update(finding, above, vectors_grow)
    if kind == ParameterKind.VALUE:
        return ("it is drawn too large" if above else "it is drawn too small") + (
            ": its std must be that of μP: call mup.wrap_model(model).init, and let the base vary this width")
    if kind == RecordKind.LOGITS:
        return ("attention logits are divided by √d, not by d: use haiku_mup.MultiHeadAttention" if above else
                "attention logits shrink: their multiplier is applied twice, or queries don't learn")
    if finding.expected.low < -0.25 and finding.step == 0:      # only outputs are to shrink at the start
        return ("an output without its multiplier: a haiku_mup.Readout (or SharedReadout) in a wrapped model" if
                above else "an output's multiplier is applied twice")
    return _cause_in_activation(finding, above)


def _cause_in_update(finding: Finding, above: bool, vectors_grow: bool) -> str:
    """Returns the usual cause of an update that is too large, or too small."""
    if above and vectors_grow:
        return "updates grow: SGD's factors with an optimizer like Adam; wrap_optimizer(…, adam=True)"
    if above:
        return "its learning rate lacks its factor: mup.wrap_optimizer, and a base that varies this width"
    if finding.expected.low > -0.75 and finding.slope < -0.75:
        return "updates shrink: Adam's factors with SGD; wrap_optimizer(…, adam=False)"
    return "its learning rate shrinks with the width, and must not: one factor too many"


def _cause_in_activation(finding: Finding, above: bool) -> str:
    """Returns the usual cause of an activation that grows or shrinks: initially, or by training."""
    trained = finding.quantity.startswith(CHANGE_MARK) or finding.step > 0
    if trained and above:
        return ("training moves it more in a wider model: the learning rate of a weight before it lacks its "
                "factor, or logits their multiplier (1/√d attention, no Readout)")
    if trained:
        return "training moves it less in a wider model: a learning rate or a multiplier before it shrinks"
    return ("it grows at the start: a weight before it is drawn too large for its fan-in, or has a width that "
            "the base doesn't vary" if above else
            "it shrinks at the start: a weight before it is drawn too small for its fan-in")
