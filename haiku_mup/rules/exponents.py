"""Exponents of width ratios, and the roles of parameters that have them."""
import dataclasses
import enum
from typing import Any, NamedTuple

LIMIT = 8           # the largest size of an exponent


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
    """The function m_in ** fan_in · m_out ** fan_out of two width ratios."""

    fan_in: float = 0.0
    fan_out: float = 0.0

    def __call__(self, m_in: float, m_out: float) -> float:
        """Computes the power of two ratios."""
        over, under = 1.0, 1.0          # one division, so that equal powers of equal ratios cancel exactly
        for m, power in ((m_in, self.fan_in), (m_out, self.fan_out)):
            over, under = over * m**max(power, 0.0), under * m**max(-power, 0.0)
        return float(over / under)

    def times(self, other: "Power", power: float = 1.0) -> "Power":
        """Returns the product with a power of another `Power`.

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
      stored: θ, in a form that stores w / θ in place of w. Initial values that are not drawn, such as a norm's
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
        """Returns the exponents of the form that stores w / θ in place of w.

        This is abc-symmetry (Tensor Programs V, arXiv 2203.03466, Appendix J.2.1). The forward multiplier is
        × θ, so the model computes the same. Then w moves θ times as far as what is stored, and the gradient of
        what is stored is × θ. So Adam's learning rate is / θ, SGD's / θ², and ε × θ.

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
        """Returns the exponents with gradients multiplied to keep their size, so that ε needs no factor.

        The starting value of an accumulator needs none either. SGD's update is the multiplied gradient, so its
        learning rate is divided by as much.

        >>> RoleExponents(adam=Power(-1), eps=Power(0, -1)).scale_eps().gradient
        Power(fan_in=0.0, fan_out=1.0)
        """
        return dataclasses.replace(self, gradient=self.gradient.times(self.eps, -1), eps=ONE,
                                   sgd=self.sgd and self.sgd.times(self.eps))

    levelled = scale_eps        # its name in 0.2.0

    def _replace(self, **changes: Power | None) -> "RoleExponents":
        """Returns `dataclasses.replace(self, **changes)`; 0.2.0's `Row` was a named tuple."""
        return dataclasses.replace(self, **changes)     # type: ignore[arg-type]


Row = RoleExponents             # its name in 0.2.0


def is_exponent(x: Any) -> bool:
    """Returns whether x is a number from -LIMIT to LIMIT; nan is none."""
    return isinstance(x, (int, float)) and not isinstance(x, bool) and -LIMIT <= x <= LIMIT


def is_power(x: Any) -> bool:
    """Returns whether x is a `Power` of two exponents."""
    return isinstance(x, Power) and all(map(is_exponent, x))


def are_role_exponents(x: Any) -> bool:
    """Returns whether x is a `RoleExponents` of powers; its learning rates may be None."""
    def is_right(name: str) -> bool:
        value = getattr(x, name)
        return is_power(value) or (value is None and name in ("adam", "sgd"))

    return isinstance(x, RoleExponents) and all(is_right(field.name) for field in dataclasses.fields(x))
