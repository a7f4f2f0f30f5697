"""The rules of μP: what follows from a parameter's role and its width ratios. Arithmetic; no JAX.

Everything is relative to a base model. `m_in` and `m_out` are the products of target / base over a
parameter's fan-in axes and over its fan-out axes, and every factor is 1 where they are 1.
"""
import math
from typing import NamedTuple

HIDDEN, INPUT, OUTPUT, FIXED = ROLES = ("hidden", "input", "output", "fixed")


class Power(NamedTuple):
    """m_in ** fan_in · m_out ** fan_out."""

    fan_in: float
    fan_out: float

    def __call__(self, m_in: float, m_out: float) -> float:
        return float(m_in**self.fan_in * m_out**self.fan_out)


class Row(NamedTuple):
    """One role's line in the table of a parametrization."""

    init: Power     # std of the draw
    forward: Power  # multiplier of the product with the activations
    adam: Power     # learning rate of an entrywise normalised optimizer
    eps: Power      # Adam's ε: the size of one entry of the gradient


ONE = Power(0, 0)

# Tensor Programs V (arXiv 2203.03466), Table 8, and for ε its Appendix B.3: a gradient's entry
# shrinks like 1 / fan_out where the fan-out grows, and like the multiplier 1 / fan_in in a readout.
TABLE_8 = {
    INPUT:  Row(init=ONE,            forward=ONE,          adam=ONE,          eps=Power(0, -1)),
    HIDDEN: Row(init=Power(-0.5, 0), forward=ONE,          adam=Power(-1, 0), eps=Power(0, -1)),
    OUTPUT: Row(init=ONE,            forward=Power(-1, 0), adam=ONE,          eps=Power(-1, 0)),
    FIXED:  Row(init=ONE,            forward=ONE,          adam=ONE,          eps=ONE),
}


class Factors(NamedTuple):
    """What a parameter's standard values are multiplied by, relative to the base model.

    Attributes:
      init: factor of the initializer's std at the base.
      forward: multiplier of the layer's output (of its weights' part, not of its bias).
      adam: factor of the learning rate for Adam and all entrywise normalised optimizers.
      sgd: factor of the learning rate for SGD, with or without momentum.
      eps: factor of Adam's ε.
    """

    init: float
    forward: float
    adam: float
    sgd: float
    eps: float


def role(fan_in_grows: bool, fan_out_grows: bool) -> str:
    """The role of a parameter whose fan-in and fan-out grow with the width, or don't.

    >>> role(True, True), role(False, True), role(True, False), role(False, False)
    ('hidden', 'input', 'output', 'fixed')
    """
    return {(True, True): HIDDEN, (False, True): INPUT,
            (True, False): OUTPUT, (False, False): FIXED}[fan_in_grows, fan_out_grows]


def factors(role: str, m_in: float, m_out: float) -> Factors:
    """μP in the form of Tensor Programs V, Table 8.

    SGD's factor is Adam's over that of ε, in every role: an update of SGD is one of Adam's times the
    gradient's size. So input m_out, hidden m_out / m_in, output m_in (ibid., Table 8).

    Args:
      role: one of `ROLES`.
      m_in: ratio of the fan-in, target / base.
      m_out: ratio of the fan-out, target / base.

    >>> factors("hidden", 4.0, 4.0)
    Factors(init=0.5, forward=1.0, adam=0.25, sgd=1.0, eps=0.25)
    >>> factors("output", 4.0, 1.0)
    Factors(init=1.0, forward=0.25, adam=1.0, sgd=4.0, eps=0.25)
    """
    row = TABLE_8[role]
    init, forward, adam, eps = (power(m_in, m_out) for power in row)
    return Factors(init, forward, adam, sgd=adam / eps, eps=eps)


def tied_readout(m: float) -> float:
    """Multiplier of the logits of an embedding that is used as a readout, too.

    The embedding itself has the role `input`, so its init is not multiplied: its product with
    activations grows like its width, and the multiplier takes that back, as it does in a readout.

    Args:
      m: ratio of the embedding's width, target / base.

    >>> tied_readout(4.0)
    0.25
    """
    return TABLE_8[OUTPUT].forward(m, 1.0)


def attention(base_key_size: int, key_size: int) -> float:
    """Factor of attention logits beside the usual 1 / √key_size: 1/√d at the base, 1/d in growth.

    Queries and keys become correlated in training, so that their product grows like d, not √d
    (Tensor Programs V, Definition 4.1).

    >>> attention(16, 64)
    0.5
    """
    return math.sqrt(base_key_size / key_size)


def rescale(base_std: float, target_std: float, init: float) -> float:
    """What a draw at the target is multiplied by: its std becomes the base's times the factor `init`.

    >>> rescale(base_std=0.02, target_std=0.02, init=0.5)       # a constant std on a hidden weight
    0.5
    >>> rescale(base_std=0.1, target_std=0.05, init=0.5)        # 1 / √fan_in there: right as it is
    1.0
    """
    factor = base_std / target_std * init
    return 1.0 if math.isclose(factor, 1.0, rel_tol=1e-12) else factor     # no rounding where none
