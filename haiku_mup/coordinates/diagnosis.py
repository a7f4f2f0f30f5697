"""Names what usually causes each deviation that a coordinate check finds, and its remedy."""
import math
from collections.abc import Sequence, Set

from haiku_mup.coordinates.findings import Finding
from haiku_mup.coordinates.optimizer_diagnosis import OptimizerDiagnosis
from haiku_mup.coordinates.quantities import CHANGE_MARK, ParameterKind, RecordKind, kind_of
from haiku_mup.rules.optimizers import Behaviour

NOT_FINITE = "zero, infinite or not a number at some width: training diverged, or a part is dead; lower the " \
    "learning rate"
EPSILON = "Adam's ε is not small beside the gradients of wide models, first of all those of {!r}: give the " \
    "optimizer a smaller eps; or wrap_optimizer(…, scale_eps=True), and here rule='any'"


def diagnosed(findings: Sequence[Finding], optimizer: OptimizerDiagnosis | None = None) -> list[Finding]:
    """Returns the findings, those outside of their range with a cause; those in doubt only where ε is.

    Args:
      findings: what was found.
      optimizer: how the optimizer behaves, where it was tried.
    """
    updates = [f for f in findings if kind_of(f.quantity) == ParameterKind.UPDATE]
    vectors_grow = any(f.expected.high > -0.25 and f.slope > 0.6 and f.excess > 0.3 for f in updates)
    tried = optimizer or OptimizerDiagnosis()
    wrong = [f for f in findings if f.excess > 0]
    drawn = {(f.name, _is_above(f)) for f in wrong
             if kind_of(f.quantity) == ParameterKind.VALUE and not f.step and f.excess > f.doubt}
    causes = {id(f): _cause(f, drawn, vectors_grow, tried) for f in wrong}
    return [f._replace(cause=causes[id(f)]) if id(f) in causes else f for f in findings]


def _cause(finding: Finding, drawn: Set[tuple[str, bool]], vectors_grow: bool,
           optimizer: OptimizerDiagnosis) -> str:
    """Returns the usual cause of a deviation.

    Args:
      finding: what was found of one quantity.
      drawn: the names of parameters whose draws are wrong, and whether these grow; later values show it, too.
      vectors_grow: whether updates grow that should keep their size: of inputs, biases or readouts. Then all
        learning rates have the wrong factors, and not that of one weight.
      optimizer: how the optimizer behaves.
    """
    if math.isnan(finding.slope):
        return NOT_FINITE
    shrinks = finding.slope < finding.expected.low
    if shrinks and optimizer.small_gradient and _is_trained(finding) and not _is_rate(finding):
        return EPSILON.format(optimizer.small_gradient)
    if finding.excess <= finding.doubt:     # it may be right
        return ""
    kind, above = kind_of(finding.quantity), _is_above(finding)
    if kind == RecordKind.MULTIPLIER:
        return _cause_in_multiplier(finding, above)
    if kind == ParameterKind.DECAY:
        return ("weight decay is multiplied by the learning rate's factor, or isn't decoupled from it: "
                "wrap_optimizer(…, scale_decay=False)")
    if kind == ParameterKind.RATE:
        return _cause_in_rate(above, optimizer)
    if kind == ParameterKind.VALUE and (not finding.step or (finding.name, above) in drawn):
        return ("it is drawn too large" if above else "it is drawn too small") + (
            "; its std must be that of μP: call mup.wrap_model(model).init, and let the base vary this width")
    if kind in (ParameterKind.UPDATE, ParameterKind.CHANGE, ParameterKind.VALUE):
        return _cause_in_update(finding, above, vectors_grow, optimizer)
    if kind == RecordKind.LOGITS:
        return ("attention logits are divided by √d, not by d: use haiku_mup.MultiHeadAttention" if above else
                "attention logits shrink: their multiplier is applied twice, or queries don't learn")
    if finding.expected.low < -0.25 and finding.step == 0:      # only outputs are to shrink at the start
        return ("an output without its multiplier: a haiku_mup.Readout (or SharedReadout) in a wrapped model" if
                above else "an output's multiplier is applied twice")
    return _cause_in_activation(finding, above)


def _cause_in_multiplier(finding: Finding, above: bool) -> str:
    """Returns the usual cause of a wrong factor between a weight and its product."""
    if finding.expected.high < -0.25:
        return ("an output without its multiplier: a haiku_mup.Readout (or SharedReadout) in a wrapped model, "
                "whose output_mult is the same at every width" if above else
                "an output's multiplier is applied twice, or its output_mult shrinks with the width")
    return "its product is multiplied by a factor of the width that μP doesn't have"


def _is_trained(finding: Finding) -> bool:
    """Returns whether a finding is of what updates make."""
    return finding.step > 0 or kind_of(finding.quantity) in (ParameterKind.UPDATE, ParameterKind.CHANGE)


def _is_above(finding: Finding) -> bool:
    return finding.slope > finding.expected.high


def _is_rate(finding: Finding) -> bool:
    return kind_of(finding.quantity) in (ParameterKind.RATE, ParameterKind.DECAY)


def _cause_in_rate(above: bool, optimizer: OptimizerDiagnosis) -> str:
    """Returns the usual cause of an update that is too large, or too small, beside its gradient."""
    if optimizer.behaviour not in (None, Behaviour.SGD_LIKE):
        return "updates are not SGD's: this optimizer is not like SGD; leave out adam=False"
    return ("its learning rate grows too much with the width: it must have μP's factor for SGD" if above else
            "its learning rate is too small in wide models: it lacks the factor for SGD; "
            "mup.wrap_optimizer(…, adam=False)")


def _cause_in_update(finding: Finding, above: bool, vectors_grow: bool, optimizer: OptimizerDiagnosis) -> str:
    """Returns the usual cause of an update that is too large, or too small."""
    if above and vectors_grow and optimizer.behaviour is not Behaviour.SGD_LIKE:
        return "updates grow: SGD's factors with an optimizer like Adam; wrap_optimizer(…, adam=True)"
    if above:
        return "its learning rate lacks its factor: mup.wrap_optimizer, and a base that varies this width"
    like_sgd = optimizer.behaviour in (None, Behaviour.SGD_LIKE)
    if like_sgd and finding.expected.low > -0.75 and finding.slope < -0.75:
        return "updates shrink: Adam's factors with SGD; wrap_optimizer(…, adam=False)"
    return "its learning rate shrinks with the width, and must not: it has one factor too many"


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
