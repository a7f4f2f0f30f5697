"""Compares each parameter at base and target; derives its role and its factors."""
import dataclasses
import functools
import math
from collections.abc import Callable, Sequence
from typing import NamedTuple, TypeAlias

from haiku_mup import rules
from haiku_mup.errors import MupError
from haiku_mup.parameters.fans import Fans
from haiku_mup.parameters.finite_sizes import with_finite_sizes_of
from haiku_mup.parameters.haiku_layers import SCALING_INPUTS, TIED
from haiku_mup.parameters.initializers import same_std
from haiku_mup.parameters.record import Record
from haiku_mup.parameters.role_errors import as_finite, as_vector, check_flax, check_role
from haiku_mup.parameters.row_factors import Factor, from_blocks

# From a text; it adds the name of the parameter, and both shapes.
MakeError: TypeAlias = Callable[[str], MupError]


@dataclasses.dataclass(frozen=True, kw_only=True)
class RowBlock:
    """The role and the factors of a parameter, or of one block of its rows.

    Attributes:
      rows: the number of rows; all of them, if there is one block.
      role: its role.
      factors: its factors in the parametrization.
      draw: the factor of a draw of the target's initializer.
      m_in, m_out: ratios of its fan-in and its fan-out, target / base.
      fans: its fan axes. Of an unknown layer, those that grow.
    """

    rows: int
    role: rules.Role
    factors: rules.Factors
    draw: float
    m_in: float
    m_out: float
    fans: Fans


class RuntimeFactors(NamedTuple):
    """Factors of a parameter in the forward pass, and of its gradient in the backward pass.

    Attributes:
      multiplier: the factor that the layer itself applies: a readout, a shared readout, an attention.
      forward: the factor of the parameter wherever it is read, or of its product with activations.
      gradient: the factor of its gradient.
      stored: θ, the factor in `forward` that turns the stored value into the one that Table 8 stores.
    """

    multiplier: float = 1.0
    forward: Factor = 1.0
    gradient: Factor = 1.0
    stored: Factor = 1.0

    @property
    def plain(self) -> bool:
        """Returns whether nothing is multiplied, except for getters, which see the Table 8 value."""
        return self[:3] == _NO_FACTORS[:3]      # all but `stored`


_NO_FACTORS = RuntimeFactors()
_TRACED = ("the initializer's std is a traced value, which depends on what init is given, and must be known "
           "here; compute it from sizes, with numpy or math, or call init eagerly")


@dataclasses.dataclass(frozen=True, kw_only=True)
class ParameterScaling:
    """A parameter at base and target, with the factors that follow.

    Attributes:
      base, target: the two records.
      row_blocks: one for most parameters; one for each block of rows of an LSTM's matrix, if they differ.
      multiplier: the factor that the layer itself applies to its product.
      init_mult: the user's multiplier of the draw, which is included in `draw`.
      depth: the ratio of the numbers of blocks that it belongs to; 1 outside of blocks.
    """

    base: Record
    target: Record
    row_blocks: tuple[RowBlock, ...]
    multiplier: float
    init_mult: float = 1.0
    depth: float = 1.0

    def of(self, base: Record, target: Record) -> "ParameterScaling":
        """Returns the scaling of a parameter whose two records have the same contents as these."""
        return ParameterScaling(base=base, target=target, row_blocks=self.row_blocks, depth=self.depth,
                                multiplier=self.multiplier, init_mult=self.init_mult)

    def with_init_mult(self, mult: float) -> "ParameterScaling":
        """Returns the scaling with the draw multiplied; unchanged if the parameter is not drawn.

        Raises:
          MupError: a draw with a mean, which would be multiplied, too.
        """
        moments = self.target.moments
        if mult == 1 or not moments.drawn:
            return self
        if not moments.centred:
            raise self.target.error(self.base, f"init_mults would multiply its mean of {moments.mean:.3g}, "
                                    "too; scale its initializer instead")
        blocks = tuple(dataclasses.replace(block, draw=block.draw * mult) for block in self.row_blocks)
        return dataclasses.replace(self, row_blocks=blocks, init_mult=mult)

    def factor(self, value: Callable[[RowBlock], float]) -> Factor:
        """Returns value(block): a number, or one for each block of rows."""
        if len(self.row_blocks) == 1:
            return value(self.row_blocks[0])
        rows = (block.rows for block in self.row_blocks)
        return from_blocks(map(value, self.row_blocks), rows, len(self.target.shape))

    @property
    def draw(self) -> Factor:
        """Returns the factor of a draw of the target's initializer."""
        return self.factor(lambda block: block.draw)

    @property
    def runtime_factors(self) -> RuntimeFactors:
        """Returns the factors in both passes. A readout applies its forward factor itself."""
        forward = self.factor(lambda block: block.factors.forward)
        if self.target.layer in SCALING_INPUTS:
            forward = 1.0
        return RuntimeFactors(self.multiplier, forward, self.factor(lambda block: block.factors.gradient),
                              self.factor(lambda block: block.factors.stored))

    @property
    def inferred(self) -> bool:
        """Returns whether factors follow from a guess of its fans: it grows, and nobody declares them."""
        return self.target.is_guess and any(block.role != rules.FIXED for block in self.row_blocks)


def scaling_of(base: Record, target: Record, parametrization: rules.Parametrization, depth: float = 1.0,
               depth_is_final: bool = True) -> ParameterScaling:
    """Returns the scaling of a parameter, from its records at the base and at the target.

    Args:
      base, target: the records.
      parametrization: the parametrization.
      depth: the ratio of the numbers of blocks that it belongs to.
      depth_is_final: whether no more blocks can be made; its std may depend on their number.

    Raises:
      MupError: for what cannot be right; it names the parameter, both shapes and the remedy.
    """
    error = functools.partial(target.error, base)
    if len(base.shape) != len(target.shape) or len(base.row_sizes) != len(target.row_sizes):
        raise error("rank differs; rebuild the base model")
    if any(b == 0 != t for b, t in zip(base.shape, target.shape)):
        raise error("a width of 0 has no ratio; give the base a width of its own")
    if parametrization.draws:
        check_flax(base, target, error)
    one_depth = depth_is_final and depth == 1
    block = functools.partial(_row_block, parametrization=parametrization, depth=depth, one_depth=one_depth,
                              error=error)
    resized = with_finite_sizes_of(target, base, error)
    blocks = tuple(map(block, _records_of_blocks(resized), _records_of_blocks(target)))
    if len(blocks) > 1 and len({dataclasses.replace(each, rows=0) for each in blocks}) == 1:
        blocks = (block(resized, target),)          # several that agree are one
    return ParameterScaling(base=base, target=target, row_blocks=blocks, depth=depth,
                            multiplier=_multiplier(resized, target, blocks[0], parametrization, error))


def _multiplier(base: Record, target: Record, block: RowBlock, parametrization: rules.Parametrization,
                error: MakeError) -> float:
    """Returns the factor that the layer itself applies: 1, unless it is a layer of haiku_mup.layers."""
    if target.layer in SCALING_INPUTS:
        return block.factors.forward
    if target.layer == TIED:
        found = parametrization.tied_readout(block.m_out)
        if math.isnan(found):
            raise error(f"{parametrization.name} has no tied embeddings, since its readouts have no "
                        "multiplier; take another form, or an embedding and a readout of their own")
        return found / block.factors.forward        # the matrix that it reads has the forward factor already
    if target.scaled_attention and base.key_size and target.key_size:
        return parametrization.attention_logits(base.key_size, target.key_size)
    return 1.0


def _records_of_blocks(record: Record) -> list[Record]:
    """Returns a record for each block of rows; the record itself, for most parameters."""
    if not record.row_sizes:
        return [record]
    _, *rest = record.shape
    blocks = [dataclasses.replace(record, shape=(rows, *rest), row_sizes=(rows,), delta=None)
              for rows in record.row_sizes]
    if record.delta is None:
        return blocks
    _, *rest = record.delta
    return [dataclasses.replace(block, delta=(rows, *rest), delta_row_sizes=())
            for block, rows in zip(blocks, record.delta_row_sizes)]


def _row_block(base: Record, target: Record, *, parametrization: rules.Parametrization, depth: float,
               one_depth: bool, error: MakeError) -> RowBlock:
    """Returns the role and the factors of a parameter, or of a block of its rows."""
    infinite = _infinite(base, target)
    fans = _fans(base, target, infinite, error)
    m_in, m_out = (_ratio(base.shape, target.shape, axes) for axes in (fans.fan_in, fans.fan_out))
    role = rules.role(*(any(infinite[a] for a in axes) for axes in (fans.fan_in, fans.fan_out)))
    lookup = fans.known and bool(fans.lookup)
    factors, draw = parametrization.factors(role, m_in, m_out, depth, lookup=lookup), 1.0
    if parametrization.draws:
        check_role(target, role, fans, error)
        draw = _draw(base, target, role=role, factors=factors, one_depth=one_depth, error=error)
    return RowBlock(rows=target.shape[0] if target.shape else 1, role=role, factors=factors, draw=draw,
                    m_in=m_in, m_out=m_out, fans=fans)


def _infinite(base: Record, target: Record) -> list[bool]:
    """Returns which axes are widths: those that the delta changes, and those that grow."""
    delta = base.delta or base.shape
    return [not b == d == t for b, d, t in zip(base.shape, delta, target.shape)]


def _ratio(base: Sequence[int], target: Sequence[int], axes: Sequence[int]) -> float:
    """Returns the product of target / base over some axes."""
    return math.prod((target[a] / base[a] for a in axes if target[a] != base[a]), start=1.0)


def _fans(base: Record, target: Record, infinite: list[bool], error: MakeError) -> Fans:
    """Returns the target's fans; for an unknown layer, the first axis that grows is the fan-in."""
    fans = target.fans
    if fans.known and base.fans.known and base.fans != fans:
        raise error(f"its fans are {base.fans[:2]} at the base and {fans[:2]} at the {target.model}; declare "
                    "them alike, and capture the base again")
    growing = [a for a, grows in enumerate(infinite) if grows]
    neither = set(growing) - {*fans.fan_in, *fans.fan_out, *fans.lookup}
    unmarked = [a for a in growing if base.delta and base.delta[a] == base.shape[a] and a not in fans.lookup]
    if unmarked:
        raise error(f"axis {unmarked[0]} grows, and the delta model, {base.delta}, says that it never does; "
                    f"give {'a delta' if target.of_tree else 'init_delta a model'} that differs from the base "
                    "in every width")
    if target.layer == TIED and not fans.known and len(growing) == 1:
        rest = tuple(a for a in range(len(infinite)) if a != growing[0])
        return fans._replace(fan_in=(), fan_out=tuple(growing), lookup=rest)
    if not neither:
        return fans
    if fans.known:
        raise error(f"axis {min(neither)} grows, and is neither fan-in nor fan-out of this layer; only widths "
                    f"may differ between base and {target.model}: if it is not a width, "
                    f"{as_finite(target, min(neither))}")
    if len(growing) > 2:
        raise error(f"axes {tuple(growing)} grow, and nothing says which are fan-in and which fan-out; "
                    f"declare them: {target.call}(fans={{{target.name!r}: (fan_in_axes, fan_out_axes)}}), or, "
                    f"if it is a bias or a gain, {as_vector(target)}")
    return fans._replace(fan_in=tuple(growing[:1]), fan_out=tuple(growing[1:]))


def _draw(base: Record, target: Record, *, role: rules.Role, factors: rules.Factors, one_depth: bool,
          error: MakeError) -> float:
    """Returns the factor of a draw that makes its std the base's times the rule's factor."""
    was, now = base.moments, target.moments
    # An array that is left as it is must be known, too, where its std should not stay.
    left = not now.drawn and not (was.drawn and now.std == 0)
    matters = role == rules.OUTPUT or factors.init * factors.stored != 1
    if left and matters and target.inexact and not target.of_tree and any(
            map(math.isnan, (was.std, now.std, now.mean))):
        raise error(_TRACED)
    if role == rules.HIDDEN and not now.centred:
        raise error(f"a hidden weight is initialised with mean {now.mean:.3g}, which would grow with "
                    "the width; use an initializer of mean zero" + ("" if target.fans.known else (
                        f"; if it is a bias or a gain, which no product sums over, {as_vector(target)}")))
    if left:
        return 1 / factors.stored
    if not target.inexact or now.std == was.std or (base.shape == target.shape and same_std(was, now)):
        return factors.init
    if math.isnan(was.std) or math.isnan(now.std):
        if target.of_tree:      # a tree of shapes; only draws need to know
            return math.nan
        raise error(_TRACED)
    # With equal shapes the stds must be equal, with three exceptions: a bias may depend on its layer's fan-in,
    # a block of rows on the whole matrix's, and any parameter on the depth.
    one_shape = base.shape == target.shape and len(base.shape) > 1 and len(base.row_sizes) != 1 and one_depth
    if not (was.drawn and now.drawn and was.std > 0 and now.std > 0) or one_shape:
        raise error(f"the initializer's std is {was.std:.3g} at the base and {now.std:.3g} at the "
                    f"{target.model}; use one initializer for both")
    return rules.rescale(was.std, now.std, factors.init)
