"""The rules: what follows from a parameter's role and its width ratios in a parametrization. No JAX.

Everything is relative to a base model. `m_in` and `m_out` are the products of target / base over a
parameter's fan-in axes and over its fan-out axes, and every factor is 1 where they are 1. With a base of
width 1 they are the fans themselves, and factors are absolute scales. The tables are in parametrizations.py.
"""
import dataclasses
import enum
import functools
import math
from typing import Any, NamedTuple

from haiku_mup.errors import MupError

LIMIT = 8           # of an exponent's size


class Role(enum.StrEnum):
    """The role of a parameter: which of its fans grow with the width. Each equals its plain string.

    >>> Role.HIDDEN == "hidden", str(Role.HIDDEN), {"hidden": 1}[Role.HIDDEN]
    (True, 'hidden', 1)
    """

    HIDDEN = "hidden"       # fan-in and fan-out
    INPUT = "input"         # fan-out alone: first layers, embeddings, biases, gains of norms
    OUTPUT = "output"       # fan-in alone: readouts
    FIXED = "fixed"         # neither


HIDDEN, INPUT, OUTPUT, FIXED = ROLES = tuple(Role)


class Power(NamedTuple):
    """m_in ** fan_in · m_out ** fan_out."""

    fan_in: float = 0.0
    fan_out: float = 0.0

    def __call__(self, m_in: float, m_out: float) -> float:
        over, under = 1.0, 1.0          # one division, so that equal powers of equal ratios cancel exactly
        for m, power in ((m_in, self.fan_in), (m_out, self.fan_out)):
            over, under = over * m**max(power, 0.0), under * m**max(-power, 0.0)
        return float(over / under)

    def times(self, other: "Power", power: float = 1.0) -> "Power":
        """The product with a power of another.

        >>> Power(-1.0, 0.0).times(Power(0.5, 1.0), power=-2)
        Power(fan_in=-2.0, fan_out=-2.0)
        """
        return Power(self.fan_in + power * other.fan_in, self.fan_out + power * other.fan_out)


ONE = Power()


@dataclasses.dataclass(frozen=True, kw_only=True)
class RoleExponents:
    """Exponents of the width ratios in each factor of one role's parameters.

    The fields are those of `Factors`, in the same order.

    Attributes:
      init: std of the draw.
      forward: multiplier of the parameter, or of its product with the activations.
      adam: learning rate of an entrywise normalised optimizer; None if no learning rate is right.
      sgd: learning rate of SGD, with or without momentum; None if no learning rate is right.
      eps: Adam's ε, which is the size of one entry of the gradient that the optimizer sees.
      gradient: multiplier of the gradient before the optimizer sees it.
      stored: θ, in a form that keeps w / θ in place of w. Initial values that are not drawn, such as a norm's
        gain of 1, are divided by it.
    """

    init: Power = ONE
    forward: Power = ONE
    adam: Power | None = ONE
    sgd: Power | None = ONE
    eps: Power = ONE
    gradient: Power = ONE
    stored: Power = ONE

    def moved(self, theta: Power) -> "RoleExponents":
        """Returns the exponents with w / θ in place of w: abc-symmetry (Tensor Programs V, Appendix J.2.1).

        >>> hidden = RoleExponents(init=Power(-0.5), adam=Power(-1))
        >>> moved = hidden.moved(Power(-1))
        >>> moved.forward(4.0, 1.0), moved.adam(4.0, 1.0)
        (0.25, 1.0)
        """
        return dataclasses.replace(
            self, init=self.init.times(theta, -1), forward=self.forward.times(theta),
            adam=self.adam and self.adam.times(theta, -1), sgd=self.sgd and self.sgd.times(theta, -2),
            eps=self.eps.times(theta), stored=self.stored.times(theta))

    def scale_eps(self) -> "RoleExponents":
        """Returns the exponents with gradients that keep their size, so that ε needs no factor.

        An accumulator's starting value needs none either.

        >>> RoleExponents(adam=Power(-1), eps=Power(0, -1)).scale_eps().gradient
        Power(fan_in=0.0, fan_out=1.0)
        """
        return dataclasses.replace(self, gradient=self.gradient.times(self.eps, -1), eps=ONE,
                                   sgd=self.sgd and self.sgd.times(self.eps))

    def _replace(self, **changes: Power | None) -> "RoleExponents":
        """Returns `dataclasses.replace(self, **changes)`: `Row` was a named tuple in 0.2.0."""
        return dataclasses.replace(self, **changes)     # type: ignore[arg-type]

    levelled = scale_eps        # its name in 0.2.0


Row = RoleExponents             # its name in 0.2.0


class Factors(NamedTuple):
    """What a parameter's standard values are multiplied by, relative to the base model.

    Attributes:
      init: factor of the initializer's std at the base.
      forward: multiplier of the layer's output (of its weights' part, not of its bias).
      adam: factor of the learning rate for Adam and all entrywise normalised optimizers; nan if there is none.
      sgd: factor of the learning rate for SGD, with or without momentum; nan if there is none.
      eps: factor of Adam's ε.
      gradient: factor of the gradient, in the backward pass.
      stored: what values that are not drawn are divided by.
    """

    init: float
    forward: float
    adam: float
    sgd: float
    eps: float
    gradient: float = 1.0
    stored: float = 1.0


@dataclasses.dataclass(frozen=True)
class Parametrization:
    """How a model's initial values, products and learning rates depend on its widths: a table.

    `standard`, `neural_tangent` and `maximal_update` make them; a table of one's own is one, too. The per-step
    decay needs no entry: what AdamW's lr · λ takes from a parameter in a step is the same at every width.

    Attributes:
      name: what to call it.
      input: the `rules.RoleExponents` of parameters whose fan-out alone grows.
      hidden: that of those whose fan-in and fan-out grow.
      output: that of those whose fan-in alone grows.
      fixed: that of those that don't grow.
      tied: multiplier of the logits that an embedding makes as a readout, m_in being the ratio of its width;
        None where such an embedding can't be had.
      attention: exponent of the key size's ratio in a multiplier of attention logits beside the usual 1 / √d.
      draws: whether draws get their std from the table; False leaves each initializer's draw as it is.
      spectral: whether a hidden weight whose fan-out grows less than its fan-in is drawn smaller.
      plain: the optimizer that trains in it as it is, "adam" or "sgd"; None where each needs factors.
      reason: why there is no learning rate for an optimizer, where there is none; else None.
      depth_alpha: α: a branch of `haiku_mup.residual` is multiplied by r^-α, where r is the ratio of the
        numbers of blocks; 0 where these may differ and nothing depends on them; None where they may not differ.
      block: what comes on top for parameters in blocks that repeat, in powers of r, which it has for its m_in.

    >>> from haiku_mup.rules import Power, RoleExponents
    >>> hidden = RoleExponents(init=Power(-0.25), forward=Power(-0.5))
    >>> mine = haiku_mup.Parametrization("mine", hidden=hidden)
    >>> mine.factors("hidden", 4.0, 4.0).forward
    0.5
    """

    name: str
    input: RoleExponents = RoleExponents()
    hidden: RoleExponents = RoleExponents()
    output: RoleExponents = RoleExponents()
    fixed: RoleExponents = RoleExponents()
    tied: Power | None = ONE
    attention: float = 0.0
    draws: bool = True
    spectral: bool = False
    plain: str | None = None
    reason: str | None = None
    depth_alpha: float | None = None
    block: RoleExponents = RoleExponents()

    def __post_init__(self) -> None:
        for field in ("plain", "reason"):
            if getattr(self, field) == "":      # as 0.2.0 wrote None
                object.__setattr__(self, field, None)
        for role in (*ROLES, "block"):
            exponents = getattr(self, role)
            if not _are_exponents(exponents):
                raise MupError(f"Parametrization: {role}: {exponents!r}: give a rules.RoleExponents of "
                               f"rules.Power, each with two exponents from -{LIMIT} to {LIMIT}; sgd and adam "
                               "may be None")
        good = {"name": type(self.name) is str, "tied": self.tied is None or _is_power(self.tied),
                "attention": _is_exponent(self.attention), "draws": type(self.draws) is bool,
                "spectral": type(self.spectral) is bool, "plain": self.plain in (None, "adam", "sgd"),
                "reason": self.reason is None or type(self.reason) is str,
                "depth_alpha": self.depth_alpha is None or (
                    _is_exponent(self.depth_alpha) and self.depth_alpha >= 0)}
        for field in (field for field, right in good.items() if not right):
            raise MupError(f"Parametrization: {field}: {getattr(self, field)!r} is none; see its docstring")

    def factors(self, role: str, m_in: float, m_out: float, depth: float = 1.0) -> Factors:
        """What follows for a parameter.

        Args:
          role: "hidden", "input", "output" or "fixed".
          m_in: ratio of the fan-in, target / base.
          m_out: ratio of the fan-out, target / base.
          depth: ratio of the number of blocks, target / base, for a parameter in one of them.

        >>> haiku_mup.maximal_update().factors("output", 4.0, 1.0)[:5]
        (1.0, 0.25, 1.0, 4.0, 0.25)
        >>> haiku_mup.maximal_update(depth_alpha=0.5).factors("hidden", 1.0, 1.0, depth=4.0).adam
        0.5
        """
        found = _factors(getattr(self, role), self.block, m_in, m_out, depth)
        if self.spectral and role == HIDDEN:
            return found._replace(init=found.init * min(1.0, math.sqrt(m_out / m_in)))
        return found

    def branch(self, depth: float) -> float:
        """Multiplier of a residual block's branch.

        Args:
          depth: ratio of the number of blocks, target / base.

        >>> haiku_mup.maximal_update(depth_alpha=1.0).branch(8.0)
        0.125
        """
        return float(depth**-(self.depth_alpha or 0.0))

    def tied_readout(self, m: float) -> float:
        """Multiplier of the logits of an embedding that is used as a readout, too; nan where there is none.

        The embedding itself has the role `input`. In μP its init is not multiplied: its product with
        activations grows like its width, and the multiplier takes that back, as it does in a readout.

        Args:
          m: ratio of the embedding's width, target / base.

        >>> haiku_mup.maximal_update().tied_readout(4.0)
        0.25
        """
        return math.nan if self.tied is None else self.tied(m, m)

    def attention_logits(self, base_key_size: int, key_size: int) -> float:
        """Factor of attention logits beside the usual 1 / √key_size.

        In μP it is 1/√d at the base, 1/d in growth: queries and keys become correlated in training, so that
        their product grows like d, not √d (Tensor Programs V, Definition 4.1).

        Args:
          base_key_size: the size of a head's queries and keys at the base.
          key_size: the same at the target.

        >>> haiku_mup.maximal_update().attention_logits(16, 64)
        0.5
        """
        return float((key_size / base_key_size)**self.attention)

    def moved(self, name: str, *, input: Power = ONE, hidden: Power = ONE,
              output: Power = ONE, block: Power = ONE) -> "Parametrization":
        """An equivalent form, with w / θ kept in place of w, and w / θ · θ used: it trains alike.

        Forward multipliers become × θ, SGD's learning rates / θ², Adam's / θ, ε × θ. (abc-symmetry; Tensor
        Programs V, arXiv 2203.03466, Appendix J.2.1.)

        Args:
          name: of the new form.
          input, hidden, output: θ of each role.
          block: θ of parameters in blocks, on top, in powers of the depth's ratio.

        >>> table_3 = haiku_mup.maximal_update().moved("Table 3", output=haiku_mup.rules.Power(1))
        >>> table_3.factors("output", 4.0, 1.0)[:2]
        (0.25, 1.0)
        """
        return dataclasses.replace(
            self, name=name, input=self.input.moved(input), hidden=self.hidden.moved(hidden),
            output=self.output.moved(output), block=self.block.moved(block), plain=None,
            reason=None if self.plain else self.reason,
            tied=self.tied and self.tied.times(input))

    def equivalent(self, other: "Parametrization") -> bool:
        """Whether some θ leads from one to the other, so that both train alike.

        >>> haiku_mup.maximal_update().equivalent(haiku_mup.maximal_update("table9"))
        True
        >>> haiku_mup.maximal_update().equivalent(haiku_mup.neural_tangent())
        False
        """
        def canonical(exponents: RoleExponents) -> dict[str, Any]:
            # Gradients as they come, and nothing multiplied in the forward pass.
            plain = dataclasses.replace(
                exponents, gradient=ONE, eps=exponents.eps.times(exponents.gradient, -1),
                sgd=exponents.sgd and exponents.sgd.times(exponents.gradient))
            plain = plain.moved(ONE.times(plain.forward, -1))
            return {name: _rounded(getattr(plain, name)) for name in Factors._fields}

        def tied(parametrization: Parametrization) -> Any:
            logits = parametrization.tied or ONE    # of an embedding, whose one width is both fans
            return _rounded(Power(sum(logits) - sum(parametrization.input.forward)))

        same = (self.attention, self.draws, self.spectral, self.depth_alpha) == (
            other.attention, other.draws, other.spectral, other.depth_alpha)
        ties = None in (self.tied, other.tied) or tied(self) == tied(other)
        return same and ties and all(
            canonical(getattr(self, role)) == canonical(getattr(other, role)) for role in (*ROLES, "block"))


@functools.lru_cache(maxsize=2**10)        # the same few for thousands of parameters
def _factors(exponents: RoleExponents, block: RoleExponents, m_in: float, m_out: float,
             depth: float) -> Factors:
    """Returns a role's powers of the width ratios times a block's of the depth's; nan where there is none."""
    def factor(name: str) -> float:
        width, more = getattr(exponents, name), getattr(block, name)
        return math.nan if width is None or more is None else width(m_in, m_out) * more(depth, 1.0)

    return Factors(**{name: factor(name) for name in Factors._fields})


def _are_exponents(x: Any) -> bool:
    return isinstance(x, RoleExponents) and all(
        _is_power(power := getattr(x, name)) or (power is None and name in ("adam", "sgd"))
        for name in Factors._fields)


def _is_power(x: Any) -> bool:
    return isinstance(x, Power) and all(map(_is_exponent, x))


def _is_exponent(x: Any) -> bool:
    return isinstance(x, (int, float)) and not isinstance(x, bool) and -LIMIT <= x <= LIMIT


def _rounded(power: Power | None) -> tuple[float, ...] | None:
    return None if power is None else tuple(round(x, 9) + 0.0 for x in power)


def role(fan_in_grows: bool, fan_out_grows: bool) -> Role:
    """The role of a parameter whose fan-in and fan-out grow with the width, or don't.

    >>> [str(role(*grow)) for grow in [(True, True), (False, True), (True, False), (False, False)]]
    ['hidden', 'input', 'output', 'fixed']
    """
    return {(True, True): HIDDEN, (False, True): INPUT,
            (True, False): OUTPUT, (False, False): FIXED}[fan_in_grows, fan_out_grows]


def rescale(base_std: float, target_std: float, init: float) -> float:
    """What a draw at the target is multiplied by: its std becomes the base's times the factor `init`.

    >>> rescale(base_std=0.02, target_std=0.02, init=0.5)       # a constant std on a hidden weight
    0.5
    >>> rescale(base_std=0.1, target_std=0.05, init=0.5)        # 1 / √fan_in there: right as it is
    1.0
    """
    factor = base_std / target_std * init
    return 1.0 if math.isclose(factor, 1.0, rel_tol=1e-12) else factor     # no rounding where none
