"""What grows: a parameter as the base had it beside the same parameter at the target."""
import dataclasses
import functools
import math
from collections.abc import Callable
from typing import NamedTuple

from haiku_mup import rules
from haiku_mup.errors import MupError
from haiku_mup.parameters import factors as scale
from haiku_mup.parameters.fans import Fans
from haiku_mup.parameters.haiku_layers import NAMED, READOUT, TIED
from haiku_mup.parameters.initializers import same_std
from haiku_mup.parameters.record import Record


class RowBlock(NamedTuple):
    """What μP makes of a parameter, or of one block of its rows.

    Attributes:
      rows: how many rows it has; all, for most.
      role: its role.
      factors: its `rules.Factors`.
      draw: what a draw of the target's initializer is multiplied by.
      m_in, m_out: ratios of its fan-in and its fan-out.
      fans: its fan axes; of a layer that nobody knows, as they grow.
    """

    rows: int
    role: rules.Role
    factors: rules.Factors
    draw: float
    m_in: float
    m_out: float
    fans: Fans


class ForwardFactors(NamedTuple):
    """What happens to a parameter in the forward pass, and in the backward pass.

    Attributes:
      multiplier: what a layer of ours multiplies by: a readout, a shared readout, an attention.
      forward: what the parameter is multiplied by where anybody uses it, or its product with activations.
      gradient: what its gradient is multiplied by.
      stored: θ: what it is multiplied by in `forward` to be what Table 8 keeps.
    """

    multiplier: float = 1.0
    forward: scale.Factor = 1.0
    gradient: scale.Factor = 1.0
    stored: scale.Factor = 1.0

    @property
    def plain(self) -> bool:
        """Whether nothing happens to it but that getters see it as Table 8 would keep it."""
        return self._replace(stored=1.0) == ForwardFactors()


@dataclasses.dataclass(frozen=True)
class ParameterScaling:
    """One parameter, base beside target, and what follows.

    Attributes:
      base, target: the two records.
      row_blocks: one for most; one for each block of rows of an LSTM's matrix, where they differ.
      multiplier: what a layer of ours multiplies its product by.
      doubt: what is probably not meant: its kind, and a text with the remedy; or None.
      init_mult: a multiplier of one's own of the draw, which is in it.
      depth: the ratio of the numbers of blocks that it is one of; 1 outside of blocks.
    """

    base: Record
    target: Record
    row_blocks: tuple[RowBlock, ...]
    multiplier: float
    doubt: tuple[str, str] | None = None
    init_mult: float = 1.0
    depth: float = 1.0

    def drawn(self, mult: float) -> "ParameterScaling":
        """The same with a draw that is multiplied; as it is, where it isn't drawn.

        Raises:
          MupError: a draw with a mean, which would be multiplied, too.
        """
        moments = self.target.moments
        if mult == 1 or not moments.drawn:
            return self
        if not moments.centred:
            raise MupError.about(self.target.name, self.base.shape, self.target.shape, f"init_mults would "
                                 f"multiply its mean of {moments.mean:.3g}, too; scale its initializer instead")
        parts = tuple(part._replace(draw=part.draw * mult) for part in self.row_blocks)
        return dataclasses.replace(self, row_blocks=parts, init_mult=mult)

    def factor(self, value: Callable[[RowBlock], float]) -> scale.Factor:
        """value(part): a number, or one for each block of rows."""
        rows = (block.rows for block in self.row_blocks)
        return scale.each(map(value, self.row_blocks), rows, len(self.target.shape))

    @property
    def draw(self) -> scale.Factor:
        """What a draw of the target's initializer is multiplied by."""
        return self.factor(lambda part: part.draw)

    @property
    def forward_factors(self) -> ForwardFactors:
        """What happens to it in the forward and the backward pass. A readout multiplies by itself."""
        forward = 1.0 if self.target.layer == READOUT else self.factor(lambda part: part.factors.forward)
        return ForwardFactors(self.multiplier, forward, self.factor(lambda part: part.factors.gradient),
                    self.factor(lambda part: part.factors.stored))

    @property
    def inferred(self) -> bool:
        """Whether its axes are a guess that matters: it grows, is drawn, and no layer of Haiku's owns it."""
        return (not self.target.fans.known and self.target.moments.drawn
                and any(part.role != rules.FIXED for part in self.row_blocks))


def compare(base: Record, target: Record, parametrization: rules.Parametrization, depth: float = 1.0,
            whole: bool = True) -> ParameterScaling:
    """What a parametrization makes of a parameter, given how it was captured at the base and at the target.

    Args:
      base, target: the records.
      parametrization: the parametrization.
      depth: the ratio of the numbers of blocks that it is one of.
      whole: whether that is known already; more may be made, else, on which its std may depend.

    Raises:
      MupError: for what cannot be right; it names the parameter, both shapes and the remedy.
    """
    wrong = functools.partial(MupError.about, target.name, base.shape, target.shape)
    if len(base.shape) != len(target.shape) or len(base.row_sizes) != len(target.row_sizes):
        raise wrong("rank differs; rebuild the base model")
    if any(b == 0 != t for b, t in zip(base.shape, target.shape)):
        raise wrong("a width of 0 has no ratio; give the base a width of its own")
    parts = tuple(_part(b, t, parametrization, depth, whole, wrong)
                  for b, t in zip(_blocks(base), _blocks(target)))
    if len({part._replace(rows=0) for part in parts}) == 1:
        parts = (_part(base, target, parametrization, depth, whole, wrong),)
    doubt = _doubt(base, target, parts[0].factors, parametrization, wrong) if parametrization.draws else None
    multiplier = _multiplier(base, target, parts[0], parametrization, wrong)
    return ParameterScaling(base, target, parts, multiplier, doubt, depth=depth)


def _multiplier(base: Record, target: Record, part: RowBlock, parametrization: rules.Parametrization,
                wrong) -> float:
    """What a layer of ours multiplies by."""
    if target.layer == READOUT:
        return part.factors.forward
    if target.layer == TIED:
        found = parametrization.tied_readout(_ratio(base.shape, target.shape, target.fans.fan_out))
        if math.isnan(found):
            raise wrong(f"{parametrization.name} has no tied embeddings, since its readouts have no "
                        "multiplier; take another form, or an embedding and a readout of their own")
        return found / part.factors.forward             # of what anybody reads, which is multiplied already
    if target.scaled_attention and base.key_size and target.key_size:
        return parametrization.attention_logits(base.key_size, target.key_size)
    return 1.0


def _blocks(record: Record) -> list[Record]:
    """A record for each block of rows; itself, for most."""
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


def _part(base: Record, target: Record, parametrization: rules.Parametrization, depth: float, whole: bool,
          wrong) -> RowBlock:
    """The role and the factors of a parameter, or of a block of its rows."""
    infinite = _infinite(base, target)
    fans = _fans(base, target, infinite, wrong)
    m_in, m_out = (_ratio(base.shape, target.shape, axes) for axes in (fans.fan_in, fans.fan_out))
    role = rules.role(*(any(infinite[a] for a in axes) for axes in (fans.fan_in, fans.fan_out)))
    factors, draw = parametrization.factors(role, m_in, m_out, depth), 1.0
    if parametrization.draws:
        _check_layer(base, target, role, wrong)
        draw = _draw(base, target, role, factors, whole and depth == 1, wrong)
    return RowBlock(target.shape[0] if target.shape else 1, role, factors, draw, m_in, m_out, fans)


def _infinite(base: Record, target: Record) -> list[bool]:
    """Which axes are widths: those that the delta changes, and those that grow."""
    delta = base.delta or base.shape
    return [not b == d == t for b, d, t in zip(base.shape, delta, target.shape)]


def _ratio(base, target, axes) -> float:
    return math.prod((target[a] / base[a] for a in axes if target[a] != base[a]), start=1.0)


def _fans(base: Record, target: Record, infinite: list[bool], wrong) -> Fans:
    """The target's fans, or for a layer that nobody knows: the first axis that grows is the fan-in."""
    fans = target.fans
    if fans.known and base.fans.known and base.fans != fans:
        raise wrong(f"its fans are {base.fans[:2]} at the base and {fans[:2]} at the target; declare them "
                    "alike, and capture the base again")
    growing = [a for a, grows in enumerate(infinite) if grows]
    stray = set(growing) - {*fans.fan_in, *fans.fan_out, *fans.lookup}
    unmarked = [a for a in growing if base.delta and base.delta[a] == base.shape[a] and a not in fans.lookup]
    if unmarked:
        raise wrong(f"axis {unmarked[0]} grows, and the delta model, {base.delta}, says that it never does; "
                    "give init_delta a model that differs from the base in every width")
    if not stray:
        return fans
    if fans.known:
        raise wrong(f"axis {min(stray)} grows, and is neither fan-in nor fan-out of this layer; only "
                    "widths may differ between base and target")
    if len(growing) > 2:
        raise wrong(f"axes {tuple(growing)} grow, and nothing says which are fan-in and which fan-out; "
                    f"declare them: Mup(fans={{{target.name!r}: (fan_in_axes, fan_out_axes)}})")
    return fans._replace(fan_in=tuple(growing[:1]), fan_out=tuple(growing[1:]))


def _check_layer(base: Record, target: Record, role: rules.Role, wrong) -> None:
    if role != rules.FIXED and not target.inexact:
        raise wrong("an integer parameter can't grow with the width; keep it out of the parameters "
                    "(hk.get_state), or give it the same shape in both")
    if role == rules.OUTPUT and target.layer not in (READOUT, NAMED):
        own = "" if target.fans.known else (
            " (no layer of Haiku's owns it: if its axes are not (in, out), declare them with Mup(fans=...); if "
            f"it makes outputs, say so: Mup(readouts={target.name!r}))")
        raise wrong("a layer from a growing to a fixed width is an output; make it haiku_mup.Readout or "
                    "ConvReadout, or name it in Mup(readouts=...), or let its output grow, too; if it grows at "
                    "other widths than these, show one to init_delta" + own)
    if role == rules.HIDDEN and target.layer in (READOUT, NAMED):
        raise wrong("a Readout from a growing to a growing width is a hidden layer; make it hk.Linear or a "
                    "plain convolution, or take it out of Mup(readouts=...)")


def _draw(base: Record, target: Record, role: rules.Role, factors: rules.Factors, one_depth: bool,
          wrong) -> float:
    """What a draw is multiplied by, so that its std is the base's times the rule's factor."""
    was, now = base.moments, target.moments
    if role == rules.HIDDEN and not now.centred:
        raise wrong(f"a hidden weight is initialised with mean {now.mean:.3g}, which would grow with "
                    "the width; use an initializer of mean zero")
    if not now.drawn and not (was.drawn and now.std == 0):
        return 1 / factors.stored
    if not target.inexact or now.std == was.std or (base.shape == target.shape and same_std(was, now)):
        return factors.init
    if math.isnan(was.std) or math.isnan(now.std):
        raise wrong("the initializer's std is a traced value, and must be known here; compute it with "
                    "numpy or math instead of jax.numpy, or call init eagerly")
    # A bias may depend on its layer's fan-in, a block of rows on the whole matrix's, and any on the depth.
    one_shape = base.shape == target.shape and len(base.shape) > 1 and len(base.row_sizes) != 1 and one_depth
    if not (was.drawn and now.drawn and was.std > 0 and now.std > 0) or one_shape:
        raise wrong(f"the initializer's std is {was.std:.3g} at the base and {now.std:.3g} at the "
                    "target; use one initializer for both")
    return rules.rescale(was.std, now.std, factors.init)


def _doubt(base: Record, target: Record, factors: rules.Factors, parametrization: rules.Parametrization,
           say) -> tuple[str, str] | None:
    """What runs and is probably not meant: its kind, and what to say."""
    was, now, init = base.moments, target.moments, factors.init * factors.stored
    given = not (was.drawn or now.drawn) and init != 1 and was.std > 0
    if given and not 0.8 < rules.rescale(was.std, now.std, init) < 1.25:
        return "given", str(say(
            "a hidden weight's initializer gives one array whatever the key, so it is left as it is, "
            f"with std {now.std:.3g} where μP wants {was.std * init:.3g}; draw with hk.next_rng_key(), "
            "or scale the array"))
    if parametrization.attention and base.key_size != target.key_size and not target.scaled_attention:
        return "attention", str(say(
            f"an hk.MultiHeadAttention whose key size grows from {base.key_size} to {target.key_size} "
            "divides its logits by the size's root, and μP by the size; use haiku_mup.MultiHeadAttention"))
    return None
