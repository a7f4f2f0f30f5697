"""What the failures of a coordinate check usually mean, in plain words, and the table that shows them."""
import math
from collections.abc import Sequence
from typing import Any

NOT_FINITE = "zero, infinite or not a number at some width: training diverged, or a part is dead; lower the " \
    "learning rate"


def explained(findings: Sequence[Any]) -> list[Any]:
    """The findings with their causes."""
    vectors = any(_of(f, "update") and f.expected.high > -0.25 and f.slope > 0.6 and f.excess > 0.3
                  for f in findings)
    return [f._replace(cause=_cause(f, vectors)) if f.excess > 0 else f for f in findings]


def _of(finding: Any, *kinds: str) -> bool:
    return finding.quantity.split(" ")[0] in kinds


def _cause(finding: Any, vectors: bool) -> str:
    """What one of them usually means.

    Args:
      finding: a `verdict.Finding`.
      vectors: whether updates of inputs, biases or readouts grow, too.
    """
    if math.isnan(finding.slope):
        return NOT_FINITE
    above = finding.slope > finding.expected.high
    if _of(finding, "decay"):
        return ("weight decay is multiplied by the learning rate's factor, or isn't decoupled from it: "
                "wrap_optimizer(…, scale_decay=False)")
    if _of(finding, "update", "Δparam"):
        return _update(finding, above, vectors)
    if _of(finding, "param"):
        return ("it is drawn too large" if above else "it is drawn too small") + (
            ": its std must be that of μP: call mup.wrap_model(model).init, and let the base vary this width")
    if _of(finding, "logits"):
        return ("attention logits are divided by √d, not by d: use haiku_mup.MultiHeadAttention" if above else
                "attention logits shrink: their multiplier is applied twice, or queries don't learn")
    if finding.expected.low < -0.25 and finding.step == 0:
        return ("an output without its multiplier: a haiku_mup.Readout (or SharedReadout) in a wrapped model" if
                above else "an output's multiplier is applied twice")
    return _activation(finding, above)


def _update(finding: Any, above: bool, vectors: bool) -> str:
    if above and vectors:
        return "updates grow: SGD's factors with an optimizer like Adam; wrap_optimizer(…, adam=True)"
    if above:
        return "its learning rate lacks its factor: mup.wrap_optimizer, and a base that varies this width"
    if finding.expected.low > -0.75 and finding.slope < -0.75:
        return "updates shrink: Adam's factors with SGD; wrap_optimizer(…, adam=False)"
    return "its learning rate shrinks with the width, and must not: one factor too many"


def _activation(finding: Any, above: bool) -> str:
    moves = finding.quantity.startswith("Δ") or finding.step > 0
    if moves and above:
        return ("training moves it more in a wider model: the learning rate of a weight before it lacks its "
                "factor, or logits their multiplier (1/√d attention, no Readout)")
    if moves:
        return "training moves it less in a wider model: a learning rate or a multiplier before it shrinks"
    return ("it grows at the start: a weight before it is drawn too large for its fan-in, or has a width that "
            "the base doesn't vary" if above else
            "it shrinks at the start: a weight before it is drawn too small for its fan-in")
