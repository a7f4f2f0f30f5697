"""The slopes expected of each array that a model computes and of each parameter, derived from the rules."""
import dataclasses
import functools
import math
import operator
from collections.abc import Collection, Mapping, Sequence

from haiku_mup.coordinates import expected_slopes
from haiku_mup.coordinates.expected_slopes import Scalings
from haiku_mup.coordinates.quantities import RecordKind
from haiku_mup.coordinates.slope_range import FLAT, INVERSE_ROOT_TO_FLAT, ExpectedSlopes, Range
from haiku_mup.coordinates.state_records import RecordInfo
from haiku_mup.parameters.haiku_layers import NAMED, OUTPUTS, PROJECTION, TIED
from haiku_mup.rules import FIXED, HIDDEN
from haiku_mup.rules.optimizers import Coupling, OptimizerRule


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModelExpectations:
    """The slopes expected of the quantities of one model, over all widths of a check.

    In general everything keeps its size. The properties below are the exceptions, each a range by which a
    slope may deviate; the methods put together those that apply to a quantity.

    Attributes:
      scalings: the scaling of each parameter, by width; the widest model comes last.
      branches: the multipliers of `haiku_mup.residual`'s branches, by width.
      rule: the optimizer's rule.
      weight_decay: whether an update includes weight decay, which has the size of the parameter.
      errors: for each step, the measured slopes of the gradients that the loss sends into the outputs; nothing
        where they could not be measured.
      gradients: the measured slope of each parameter's gradient, in its first step.
      multipliers: the modules whose multipliers are measured by themselves; TIED for shared readouts.
    """

    scalings: Scalings
    branches: Mapping[int, Sequence[float]]
    rule: OptimizerRule
    weight_decay: bool
    errors: Sequence[Range] = ()
    gradients: Mapping[str, float] = dataclasses.field(default_factory=dict)
    multipliers: Collection[str] = ()

    def of_record(self, module: str, info: RecordInfo, *, updates: int, grows: bool = True,
                  is_output: bool = False) -> ExpectedSlopes:
        """Returns what is expected of an array that was recorded in the forward pass.

        Args:
          module: the name of the module that the array is recorded for.
          info: what the recorder knows of the array.
          updates: how many updates there were before.
          grows: whether the array's shape follows the width. If not, it may be a sum over the width, such as
            attention logits of one's own, whose independent terms μP's factors make shrink at the start.
          is_output: whether it is an output of the model.

        Behind such sums SGD's first gradients shrink alike: those of queries, of a router, of what mixes
        tokens. How much of what is moved lies behind them, nothing tells; rates and multipliers are judged by
        themselves.
        """
        weight = info.weight or f"{module}/w"
        if info.kind == RecordKind.LOGITS:
            expected = self._behind_projections(self._logits(f"{module}/{info.queries}/w"), info)
        elif info.readout is not None:
            expected = self._weights_parts[info.readout] if info.without_bias else self._readouts[info.readout]
        elif any(at[weight].multiplier != 1 for at in self.scalings.values() if weight in at):
            expected = self._product(weight)        # queries, which μP's attention multiplies
        else:
            expected = ExpectedSlopes(FLAT, FLAT)
            for readout in info.preceding_readouts:
                # It may be computed from their outputs t, which fall at the start; Δ(W·t) = ΔW·t + W·Δt, too.
                falls = self._readouts[readout].initial
                expected = ExpectedSlopes(expected.initial | falls, expected.change | falls)
            expected = self._behind_projections(expected, info)
            if not grows and not is_output:
                expected = expected._replace(initial=expected.initial | INVERSE_ROOT_TO_FLAT)
        # Entrywise normalised updates do not depend on how small gradients are; others do.
        gradients = self._gradients(updates)
        change = self._independent_branches if gradients == FLAT else gradients
        if self.rule.like_gradients:
            change = change.plus(self._independent_terms)
        return ExpectedSlopes(expected.initial.plus(self._small_hidden_weights), expected.change.plus(change))

    def of_parameter(self, name: str, *, updates: int) -> ExpectedSlopes | None:
        """Returns what is expected of a parameter after so many updates; None where that is unknown.

        The gradient of a fixed parameter, such as a readout's bias, is the mean of the outputs' errors. Where
        the data's part of that mean is near zero, what remains has the size of the initial outputs, and so have
        sums of several updates, with any optimizer. A gradient that comes through a product of two arrays that
        are independent at first, such as that of queries, shrinks as initial outputs do.
        """
        if self._gradients_unknown or not self._everywhere(name):
            return None
        muon = self.rule.coupling is Coupling.MATRIX
        initial, change = expected_slopes.parameter_slopes(name, self.scalings, muon=muon)
        fixed = all(block.role == FIXED for at in self.scalings.values() for block in at[name].row_blocks)
        if self.rule.like_gradients:
            change = change.plus(self._gradients(updates)).plus(self._independent_terms)
        elif fixed and updates > 1:
            change = change.plus(self._output_errors)
        return ExpectedSlopes(initial, change | initial if self.weight_decay else change)

    def of_multiplier(self, module: str, *, tied: bool = False) -> Range | None:
        """Returns what is expected of the factor between a layer's weight and its product; None if unknown.

        Args:
          module: the layer's name.
          tied: whether it is a shared readout; then one of any embedding that is shared.
        """
        if tied:
            names = [name for name, scaling in next(iter(self.scalings.values())).items()
                     if scaling.target.layer == TIED and self._everywhere(name)]
            # An embedding is read with its forward factor.
            factors = [[at[name].multiplier for at in self.scalings.values()] for name in names]
            slopes = [expected_slopes.slope(self.scalings, some) for some in factors]
            return Range(min(slopes), max(slopes)) if slopes else None
        weight = f"{module}/w"
        return expected_slopes.multiplier_slope(weight, self.scalings) if self._everywhere(weight) else None

    @property
    def is_sgd(self) -> bool:
        """Returns whether updates are gradients times a learning rate."""
        return self.rule.name == "sgd"

    @property
    def rate_is_known(self) -> bool:
        """Returns whether the first step tells more of learning rates than updates do.

        SGD's update beside its gradient is the rate itself; and with a decay, an update without it.
        """
        return self.is_sgd or self.rule.serves_entrywise or (self.weight_decay and self.rule.entrywise)

    def of_rate(self, name: str) -> Range | None:
        """Returns what is expected of the first step that a learning rate makes; None where that is unknown."""
        if not self.rate_is_known or not self._everywhere(name):
            return None
        if not self.is_sgd:
            change = expected_slopes.parameter_slopes(name, self.scalings).change
            return change.plus(self._excess_of_gradient(name)) if self.rule.like_gradients else change
        slopes = expected_slopes.rate_slopes(name, self.scalings)
        return slopes if math.isfinite(slopes.low) else None

    def _excess_of_gradient(self, name: str) -> Range:
        """Returns by how much the slope of an update between SGD and Adam may differ from that of Adam's.

        SGD's differs by as much as the gradient's measured slope does from the one that the rules give.
        """
        expected = expected_slopes.gradient_slopes(name, self.scalings)
        measured = self.gradients.get(name, expected.low)
        return Range(min(measured - expected.high, 0.0), max(measured - expected.low, 0.0))

    def starts_at_zero(self, name: str) -> bool:
        """Returns whether a parameter is zero at initialization, at every width."""
        return self._everywhere(name) and expected_slopes.starts_at_zero(name, self.scalings)

    def _everywhere(self, name: str) -> bool:
        """Returns whether the models of all widths have the parameter."""
        return all(name in at for at in self.scalings.values())

    def _logits(self, query_weight: str) -> ExpectedSlopes:
        """Returns what is expected of attention logits; of an unknown attention, what 1/√d and 1/d give."""
        if all(query_weight in at and at[query_weight].base.key_size for at in self.scalings.values()):
            return expected_slopes.logit_slopes(query_weight, self.scalings)
        return ExpectedSlopes(INVERSE_ROOT_TO_FLAT, FLAT)

    def _product(self, weight: str, *, with_bias: bool = False) -> ExpectedSlopes:
        """Returns what is expected of a weight's product: what its table says, but never growth.

        So the check fails for a parametrization whose own table lets a product grow, such as the standard one.
        """
        tied = any(at[weight].target.layer == TIED for at in self.scalings.values() if weight in at)
        expected = expected_slopes.product_slopes(
            weight, self.scalings, with_bias=with_bias,
            fades=(TIED if tied else weight.removesuffix("/w")) in self.multipliers)
        return ExpectedSlopes(_without_growth(expected.initial), _without_growth(expected.change))

    def _behind_projections(self, expected: ExpectedSlopes, info: RecordInfo) -> ExpectedSlopes:
        """Returns what is expected of arrays behind keys and values that are outputs.

        They start as small as outputs do, and so does what is computed from them. It moves by their moves,
        which keep their size, and by those of weights that they are multiplied by.
        """
        for readout in self._output_projections.intersection(info.preceding_readouts):
            small = self._readouts[readout].initial
            expected = ExpectedSlopes(expected.initial | expected.initial.plus(small),
                                      expected.change | expected.change.plus(small))
        return expected

    # --- deviations from keeping the size ---

    @functools.cached_property
    def _readouts(self) -> dict[str, ExpectedSlopes]:
        """Returns what is expected of each readout module's output; under TIED, of any shared readout's.

        A module of one's own with a parameter that is named as a readout may return something else, such as a
        mean weighted by scores.
        """
        scalings = next(iter(self.scalings.values()))
        readouts: dict[str, ExpectedSlopes] = {}
        for name, scaling in scalings.items():
            if scaling.target.layer in OUTPUTS and scaling.target.fans.fan_in:
                expected = self._product(name, with_bias=True)
                if scaling.target.layer == NAMED:
                    expected = expected._replace(initial=expected.initial | FLAT)
                module = scaling.target.module          # of trees, the same for all
                readouts[module] = expected_slopes.union([expected, readouts.get(module, expected)])
        tied = [self._product(name) for name, scaling in scalings.items() if scaling.target.layer == TIED]
        return readouts | {TIED: expected_slopes.union(tied)} if tied else readouts

    @functools.cached_property
    def _output_projections(self) -> set[str]:
        """Returns the modules of keys and values that are outputs."""
        return {scaling.target.module for at in self.scalings.values() for scaling in at.values()
                if scaling.target.layer == PROJECTION and scaling.multiplier != 1}

    @functools.cached_property
    def _weights_parts(self) -> dict[str, ExpectedSlopes]:
        """Returns what is expected of each readout module's output without its bias."""
        scalings = next(iter(self.scalings.values()))
        return {scaling.target.module: self._product(name) for name, scaling in scalings.items()
                if scaling.target.layer in OUTPUTS and scaling.target.fans.fan_in}

    @functools.cached_property
    def _independent_branches(self) -> Range:
        """Returns the slope of what residual branches add to the stream, as long as they are independent.

        The sum of r independent branches, each multiplied by r^-α, has size r^(½-α): less than that of the
        stream where α exceeds ½.
        """
        sizes = {width: min(self.branches[width], default=1.0) * math.sqrt(max(
            scaling.depth for scaling in scalings.values())) for width, scalings in self.scalings.items()}
        return Range(min(0.0, round(expected_slopes.slope(sizes, sizes.values()), 9)), 0.0)

    @functools.cached_property
    def _small_hidden_weights(self) -> Range:
        """Returns the slopes of initial activations behind hidden weights, and behind residual branches.

        A hidden weight that is drawn smaller than its fan-in asks for, as under the spectral condition, makes
        the initial activations smaller. An activation may lie behind all of these weights.
        """
        *_, widest = self.scalings.values()
        slopes = [self._product(name).initial.low for name, scaling in widest.items()
                  if scaling.row_blocks[0].role == HIDDEN and scaling.target.moments.drawn
                  and self._everywhere(name)]
        return Range(round(sum(min(low, 0.0) for low in slopes), 9), 0.0).plus(self._independent_branches)

    @functools.cached_property
    def _output_errors(self) -> Range:
        """Returns the slopes of the outputs' errors, which gradients are made of.

        Initial outputs, which shrink with the width, are part of the errors. A gradient has also come back
        through the residual branches.
        """
        return self._independent_terms.plus(self._independent_branches)

    @functools.cached_property
    def _independent_terms(self) -> Range:
        """Returns the slopes of sums over the width whose terms are independent, as initial outputs, and 0."""
        lows = [expected.initial.low for expected in self._readouts.values()]
        return Range(min(lows, default=0.0), 0.0)

    def _gradients(self, updates: int) -> Range:
        """Returns the slopes that gradients bring into updates: none where the optimizer normalises them.

        SGD's updates follow the gradients that the loss sends into the outputs, as they are measured. Where
        these shrink, initial outputs are a part of them. The other part, of the targets, may be the one that is
        aligned, and shrinks less. Some rules serve optimizers that normalise gradients as well.
        """
        if not self.rule.like_gradients:
            return FLAT
        if not self.errors:
            return self._output_errors
        measured = functools.reduce(operator.or_, self.errors[:max(updates, 1)])
        of_targets = min(measured.high - self._independent_terms.low, 0.0)
        measured = measured._replace(high=max(measured.high, of_targets))
        return (measured if self.rule.name == "sgd" else measured | FLAT).plus(self._independent_branches)

    @functools.cached_property
    def _gradients_unknown(self) -> bool:
        """Returns whether updates depend on the sizes of gradients, and the table does not give these.

        A table without factors of gradients, of ε and in the forward pass, as that of `standard()`, does not
        tell how gradients shrink.
        """
        *_, widest = self.scalings.values()
        return self.rule.like_gradients and all(
            block.factors.forward == block.factors.eps == block.factors.gradient == 1
            for scaling in widest.values() for block in scaling.row_blocks)


def _without_growth(slopes: Range) -> Range:
    return Range(min(slopes.low, 0.0), min(slopes.high, 0.0))
