"""What grows: a parameter as the base had it beside the same parameter at the target."""
import dataclasses
import functools
import math
from collections.abc import Mapping
from typing import Any

import jax

from haiku_mup import rules
from haiku_mup.errors import MupError
from haiku_mup.fans import Fans
from haiku_mup.initializers import Moments

READOUT, TIED = "readout", "tied"       # layers whose product is multiplied; others are ""


@dataclasses.dataclass(frozen=True)
class Record:
    """One parameter, as one context captured it.

    Attributes:
      name: its name in the parameter tree, "module/name".
      leaf: the last part of that name, which may hold slashes of its own.
      local: the same without the prefix of hk.lift and layer_stack: what a layer knows of itself.
      shape: its shape in one layer, without any stack axis.
      moments: std and mean of its initializer.
      fans: its fan axes.
      layer: `READOUT`, `TIED` (the matrix of a SharedEmbed) or "".
      inexact: whether its entries are floating point or complex numbers.
      key_size: size of an attention's queries, where it makes them; else None.
      scaled_attention: whether that attention scales its logits in μP.
      parts: sizes whose concatenation is its fan-in (an LSTM's [x, h]); empty for most.
    """

    name: str
    leaf: str
    local: str
    shape: tuple[int, ...]
    moments: Moments
    fans: Fans
    layer: str = ""
    inexact: bool = True
    key_size: int | None = None
    scaled_attention: bool = False
    parts: tuple[int, ...] = ()


@dataclasses.dataclass(frozen=True)
class Entry:
    """One parameter, base beside target, and what follows.

    Attributes:
      base, target: the two records.
      role: one of `rules.ROLES`.
      factors: its `rules.Factors`.
      draw: what a draw of the target's initializer is multiplied by.
      multiplier: what the layer multiplies its product by.
      doubt: what is probably not meant: its kind, and a text with the remedy; or None.
    """

    base: Record
    target: Record
    role: str
    factors: rules.Factors
    draw: float
    multiplier: float
    doubt: tuple[str, str] | None = None

    @property
    def std(self) -> float:
        """Std of the parameter at the target, in μP."""
        return self.target.moments.std * self.draw


def compare(base: Record, target: Record) -> Entry:
    """What μP makes of a parameter, given how it was captured at the base and at the target.

    Raises:
      MupError: for what cannot be right; it names the parameter, both shapes and the remedy.
    """
    wrong = functools.partial(MupError.about, target.name, base.shape, target.shape)
    if len(base.shape) != len(target.shape):
        raise wrong("rank differs; rebuild the base model")
    if any(b == 0 != t for b, t in zip(base.shape, target.shape)):
        raise wrong("a width of 0 has no ratio; give the base a width of its own")
    fans = _fans(base, target, wrong)
    m_in, m_out = (_ratio(base.shape, target.shape, axes) for axes in (fans.fan_in, fans.fan_out))
    role = rules.role(_grows(base.shape, target.shape, fans.fan_in),
                      _grows(base.shape, target.shape, fans.fan_out))
    _check_layer(base, target, role, wrong)
    factors = rules.factors(role, m_in, m_out)
    multiplier = 1.0
    if target.layer == READOUT:
        multiplier = factors.forward
    elif target.layer == TIED:
        multiplier = rules.tied_readout(m_out)
    elif target.scaled_attention and base.key_size and target.key_size:
        multiplier = rules.attention(base.key_size, target.key_size)
    draw = _draw(base, target, role, factors, wrong)
    return Entry(base, target, role, factors, draw, multiplier, _doubt(base, target, factors.init, wrong))


def _ratio(base, target, axes) -> float:
    return math.prod((target[a] / base[a] for a in axes if target[a] != base[a]), start=1.0)


def _grows(base, target, axes) -> bool:
    return any(base[a] != target[a] for a in axes)


def _fans(base: Record, target: Record, wrong) -> Fans:
    """The target's fans, or for a layer that nobody knows: the first axis that grows is the fan-in."""
    fans = target.fans
    growing = [a for a, (b, t) in enumerate(zip(base.shape, target.shape)) if b != t]
    stray = set(growing) - {*fans.fan_in, *fans.fan_out, *fans.lookup}
    if not stray:
        return fans
    if fans.known:
        raise wrong(f"axis {min(stray)} grows, and is neither fan-in nor fan-out of this layer; only "
                    "widths may differ between base and target")
    if len(growing) > 2:
        raise wrong(f"axes {tuple(growing)} grow, and nothing says which are fan-in and which "
                    "fan-out; use a layer of Haiku's, or a weight with two growing axes: (in, out)")
    return fans._replace(fan_in=tuple(growing[:1]), fan_out=tuple(growing[1:]))


def _check_layer(base: Record, target: Record, role: str, wrong) -> None:
    if role != rules.FIXED and not target.inexact:
        raise wrong("an integer parameter can't grow with the width; keep it out of the parameters "
                    "(hk.get_state), or give it the same shape in both")
    if role == rules.OUTPUT and target.layer != READOUT:
        raise wrong("a layer from a growing to a fixed width is an output; make it "
                    "haiku_mup.Readout, or let its output grow, too")
    if role == rules.HIDDEN and target.layer == READOUT:
        raise wrong("a Readout from a growing to a growing width is a hidden layer; make it hk.Linear")
    parts = {t / b for b, t in zip(base.parts, target.parts)}
    if len(parts) > 1:
        raise wrong(f"this LSTM multiplies one matrix by [x, h], whose sizes grow from {base.parts} to "
                    f"{target.parts}: two ratios in one parameter; let both grow alike (an hk.Linear "
                    "in front of it does), or use hk.GRU")


def _draw(base: Record, target: Record, role: str, factors: rules.Factors, wrong) -> float:
    """What a draw is multiplied by, so that its std is the base's times the rule's factor."""
    was, now = base.moments, target.moments
    if role == rules.HIDDEN and not now.centred:
        raise wrong(f"a hidden weight is initialised with mean {now.mean:.3g}, which would grow with "
                    "the width; use an initializer of mean zero")
    if not now.drawn and not (was.drawn and now.std == 0):
        return 1.0
    if not target.inexact or now.std == was.std or (base.shape == target.shape and _same(was, now)):
        return factors.init
    if math.isnan(was.std) or math.isnan(now.std):
        raise wrong("the initializer's std is a traced value, and must be known here; compute it with "
                    "numpy or math instead of jax.numpy, or call init eagerly")
    if not (was.drawn and now.drawn and was.std > 0 and now.std > 0):
        raise wrong(f"the initializer's std is {was.std:.3g} at the base and {now.std:.3g} at the "
                    "target; use one initializer for both")
    return rules.rescale(was.std, now.std, factors.init)


def _doubt(base: Record, target: Record, init: float, say) -> tuple[str, str] | None:
    """What runs and is probably not meant: its kind, and what to say."""
    was, now = base.moments, target.moments
    given = not (was.drawn or now.drawn) and init != 1 and was.std > 0
    if given and not 0.8 < rules.rescale(was.std, now.std, init) < 1.25:
        return "given", str(say(
            "a hidden weight's initializer gives one array whatever the key, so it is left as it is, "
            f"with std {now.std:.3g} where μP wants {was.std * init:.3g}; draw with hk.next_rng_key(), "
            "or scale the array"))
    if base.key_size != target.key_size and not target.scaled_attention:
        return "attention", str(say(
            f"an hk.MultiHeadAttention whose key size grows from {base.key_size} to {target.key_size} "
            "divides its logits by the size's root, and μP by the size; use haiku_mup.MultiHeadAttention"))
    return None


def _same(was: Moments, now: Moments) -> bool:
    """Whether two stds of one shape may be one: within five standard errors, or both traced."""
    if math.isnan(was.std) and math.isnan(now.std):
        return True
    return was.drawn and abs(was.std - now.std) <= 5 * (was.error + now.error) * now.std


def get_shapes(params: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, tuple[int, ...]]]:
    """The shapes of a tree of arrays: the same tree, with a tuple of ints for each array.

    >>> get_shapes({"linear": {"w": jax.ShapeDtypeStruct((2, 3), "float32")}})
    {'linear': {'w': (2, 3)}}
    """
    shapes: dict[str, dict[str, tuple[int, ...]]] = jax.tree.map(lambda p: tuple(p.shape), params)
    return shapes
