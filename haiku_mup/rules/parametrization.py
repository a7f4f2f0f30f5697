"""Parametrizations: from a parameter's role and its width ratios to its factors.

Everything is relative to a base model. `m_in` and `m_out` are the products of target / base over a parameter's
fan-in axes and over its fan-out axes. Every factor is 1 where both are 1. With a base of width 1 the ratios are
the fans themselves, and the factors are absolute scales. The tables of exponents are in `rules.tables`.
"""
import dataclasses
import functools
import math
from typing import Any, Literal, NamedTuple

from haiku_mup.errors import MupError
from haiku_mup.rules.exponents import (
    FIXED,
    HIDDEN,
    INPUT,
    LIMIT,
    ONE,
    OUTPUT,
    ROLES,
    Power,
    Role,
    RoleExponents,
    are_role_exponents,
    is_exponent,
    is_power,
)


class Factors(NamedTuple):
    """Factors of a parameter's standard values, relative to the base model.

    Attributes:
      init: factor of the initializer's std at the base.
      forward: multiplier of the layer's output: of its weights' part, not of its bias.
      adam: factor of the learning rate for Adam and all entrywise normalised optimizers; nan if there is none.
      sgd: factor of the learning rate for SGD, with or without momentum; nan if there is none.
      eps: factor of Adam's ε.
      gradient: factor of the gradient, in the backward pass.
      stored: divisor of initial values that are not drawn.
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
    """A table: how initial values, multipliers and learning rates depend on a model's widths.

    `standard`, `modified_standard`, `per_layer`, `neural_tangent` and `maximal_update` return such tables, and
    users may write their own.

    Attributes:
      name: its name, in messages and in tables.
      input: the `rules.RoleExponents` of parameters whose fan-out alone grows.
      hidden: the exponents of parameters whose fan-in and fan-out grow.
      output: the exponents of parameters whose fan-in alone grows.
      fixed: the exponents of parameters that don't grow.
      tied: multiplier of the logits that an embedding makes as a readout, with the ratio of its width for m_in;
        None if embeddings can't be tied.
      attention: exponent of the key size's ratio in a multiplier of attention logits beside the usual 1 / √d.
      draws: whether draws get their std from the table; False leaves each initializer's draw as it is.
      spectral: whether a hidden weight whose fan-out grows less than its fan-in is drawn smaller.
      plain: the optimizer that trains in it without factors, "adam" or "sgd"; "" if each needs factors.
      reason: why there is no learning rate for an optimizer; "" if there is one for each.
      depth_alpha: α: a branch of `haiku_mup.residual` is multiplied by r^-α, where r is the ratio of the
        numbers of blocks. With 0 these may differ, and nothing depends on them; with None they may not differ.
      block: additional exponents of parameters in blocks that repeat: of r, which takes the place of m_in.
      embedding: the exponents of inputs that are looked up, such as embeddings; None for those of `input`.
      step_decay: power of the width ratios in what a decay takes from a hidden weight in a step; by default it
        takes as much at every width.

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
    plain: str = ""
    reason: str = ""
    depth_alpha: float | None = None
    block: RoleExponents = RoleExponents()
    embedding: RoleExponents | None = None
    step_decay: Power = ONE

    def __post_init__(self) -> None:
        """Raises MupError for a field that is no such value."""
        for field in ("plain", "reason"):
            if getattr(self, field) is None:
                object.__setattr__(self, field, "")
        for role in (*ROLES, "block", "embedding"):
            exponents = getattr(self, role)
            if not are_role_exponents(exponents) and not (role == "embedding" and exponents is None):
                raise MupError(f"Parametrization: {role}: {exponents!r}: give a rules.RoleExponents of "
                               f"rules.Power, each with two exponents from -{LIMIT} to {LIMIT}; sgd and adam "
                               "may be None")
        right = {"name": type(self.name) is str, "tied": self.tied is None or is_power(self.tied),
                 "attention": is_exponent(self.attention), "draws": type(self.draws) is bool,
                 "spectral": type(self.spectral) is bool, "plain": self.plain in ("", "adam", "sgd"),
                 "reason": type(self.reason) is str, "step_decay": is_power(self.step_decay),
                 "depth_alpha": self.depth_alpha is None or (
                     is_exponent(self.depth_alpha) and self.depth_alpha >= 0)}
        for field in (field for field, is_right in right.items() if not is_right):
            raise MupError(f"Parametrization: {field}: {getattr(self, field)!r} is no such value; see the "
                           "docstring")

    def factors(self, role: str, m_in: float, m_out: float, depth: float = 1.0, *,
                lookup: bool = False) -> Factors:
        """Computes the factors of a parameter.

        With `spectral`, a hidden weight is drawn smaller by min(1, √(m_out / m_in)), which keeps its spectral
        norm at √(fan_out / fan_in) where the fan-out grows less (Yang et al., arXiv 2310.17813).

        Args:
          role: "hidden", "input", "output" or "fixed".
          m_in: ratio of the fan-in, target / base.
          m_out: ratio of the fan-out, target / base.
          depth: ratio of the number of blocks, target / base, for a parameter in one of them.
          lookup: whether it is looked up, as an embedding is.

        >>> readout = haiku_mup.maximal_update().factors("output", 4.0, 1.0)
        >>> readout.init, readout.forward, readout.adam, readout.sgd, readout.eps
        (1.0, 0.25, 1.0, 4.0, 0.25)
        >>> haiku_mup.maximal_update(depth_alpha=0.5).factors("hidden", 1.0, 1.0, depth=4.0).adam
        0.5
        """
        exponents = self.embedding if lookup and role == INPUT and self.embedding else getattr(self, role)
        found = _factors(exponents, self.block, m_in, m_out, depth)
        if self.spectral and role == HIDDEN:
            return found._replace(init=found.init * min(1.0, math.sqrt(m_out / m_in)))
        return found

    @property
    def scales_nothing(self) -> bool:
        """Returns whether no factor of any parameter or logit ever differs from 1, as in `standard`.

        >>> haiku_mup.standard().scales_nothing, haiku_mup.standard(embedding_lr=1.0).scales_nothing
        (True, False)
        """
        roles = (*(getattr(self, role) for role in ROLES), self.embedding or self.input)
        plain = all(dataclasses.replace(each, init=ONE) == RoleExponents() for each in (*roles, self.block))
        return (plain and not self.draws and not self.depth_alpha and self.attention == 0
                and (self.tied, self.step_decay) == (ONE, ONE))

    @property
    def multiplies_readouts_alone(self) -> bool:
        """Returns whether neither pass has a factor of any parameter that is no readout, at any ratio.

        >>> [haiku_mup.maximal_update(form).multiplies_readouts_alone for form in ("table8", "table9")]
        [True, False]
        """
        def is_plain(exponents: RoleExponents) -> bool:
            return exponents.forward == exponents.gradient == exponents.stored == ONE

        others = (getattr(self, role) for role in ROLES if role != OUTPUT)
        # Without `draws`, an output need not be a readout.
        return all(map(is_plain, (*others, self.block))) and (self.draws or is_plain(self.output))

    def learning_rate(self, factors: Factors, optimizer: Literal["adam", "sgd"]) -> float:
        """Returns a learning rate's factor, for an optimizer of Adam's kind or of SGD's.

        Raises:
          MupError: the parametrization has no learning rate for this kind; it says why.

        >>> parametrization = haiku_mup.maximal_update()
        >>> parametrization.learning_rate(parametrization.factors("hidden", 4.0, 4.0), "adam")
        0.25
        """
        factor: float = getattr(factors, optimizer)
        if math.isnan(factor):
            why = f": {self.reason}" if self.reason else ""
            raise MupError(f"{self.name}: no learning rates for {'SGD' if optimizer == 'sgd' else 'Adam'}{why}")
        return factor

    def branch(self, depth: float) -> float:
        """Computes the multiplier of a residual block's branch, depth^-α.

        Args:
          depth: ratio of the number of blocks, target / base.

        >>> haiku_mup.maximal_update(depth_alpha=1.0).branch(8.0)
        0.125
        """
        return float(depth**-(self.depth_alpha or 0.0))

    def tied_readout(self, m: float) -> float:
        """Computes the multiplier of the logits of an embedding that is used as a readout, too.

        The embedding itself has the role `input`. In μP its init is not multiplied: its product with
        activations grows like its width, and the multiplier takes that back, as it does in a readout.

        Args:
          m: ratio of the embedding's width, target / base.

        Returns:
          The multiplier; nan if embeddings can't be tied.

        >>> haiku_mup.maximal_update().tied_readout(4.0)
        0.25
        """
        return math.nan if self.tied is None else self.tied(m, m)

    def attention_logits(self, base_key_size: int, key_size: int) -> float:
        """Computes the factor of attention logits beside the usual 1 / √key_size.

        In μP both together are 1/√d at the base and 1/d in growth. Training correlates queries and keys, so
        that their product grows like d, not √d (Tensor Programs V, Definition 4.1).

        Args:
          base_key_size: the size of a head's queries and keys at the base.
          key_size: the same at the target.

        >>> haiku_mup.maximal_update().attention_logits(16, 64)
        0.5
        """
        return float((key_size / base_key_size)**self.attention)

    def moved(self, name: str, *, input: Power = ONE, hidden: Power = ONE,
              output: Power = ONE, block: Power = ONE) -> "Parametrization":
        """Returns an equivalent form, which stores w / θ in place of w and uses θ · (w / θ). It trains alike.

        Forward multipliers become × θ, SGD's learning rates / θ², Adam's / θ, ε × θ: abc-symmetry (Tensor
        Programs V, arXiv 2203.03466, Appendix J.2.1), which `RoleExponents.moved` derives.

        Args:
          name: of the new form.
          input, hidden, output: θ of each role.
          block: additional θ of parameters in blocks, in powers of the depth's ratio.

        >>> table_3 = haiku_mup.maximal_update().moved("Table 3", output=haiku_mup.rules.Power(1))
        >>> readout = table_3.factors("output", 4.0, 1.0)
        >>> readout.init, readout.forward
        (0.25, 1.0)
        """
        return dataclasses.replace(
            self, name=name, input=self.input.moved(input), hidden=self.hidden.moved(hidden),
            embedding=self.embedding and self.embedding.moved(input),
            output=self.output.moved(output), block=self.block.moved(block), plain="",
            reason="" if self.plain else self.reason,
            tied=self.tied and self.tied.times(input))

    def equivalent(self, other: "Parametrization") -> bool:
        """Returns whether some θ leads from this form to the other, so that both train alike.

        >>> haiku_mup.maximal_update().equivalent(haiku_mup.maximal_update("table9"))
        True
        >>> haiku_mup.maximal_update().equivalent(haiku_mup.neural_tangent())
        False
        """
        same = (self.attention, self.draws, self.spectral, self.depth_alpha, self.step_decay) == (
            other.attention, other.draws, other.spectral, other.depth_alpha, other.step_decay)
        same_ties = None in (self.tied, other.tied) or _canonical_tie(self) == _canonical_tie(other)
        return same and same_ties and all(
            _canonical(getattr(self, role)) == _canonical(getattr(other, role)) for role in (*ROLES, "block")
        ) and _canonical(self.embedding or self.input) == _canonical(other.embedding or other.input)


@functools.lru_cache(maxsize=2**10)        # the same few for thousands of parameters
def _factors(exponents: RoleExponents, block: RoleExponents, m_in: float, m_out: float,
             depth: float) -> Factors:
    """Computes a role's powers of the width ratios times a block's powers of the depth's; nan for None."""
    def factor(name: str) -> float:
        of_width, of_depth = getattr(exponents, name), getattr(block, name)
        return math.nan if None in (of_width, of_depth) else of_width(m_in, m_out) * of_depth(depth, 1.0)

    return Factors(**{name: factor(name) for name in Factors._fields})


def _canonical(exponents: RoleExponents) -> dict[str, Any]:
    """Returns the equivalent exponents without multipliers of gradients and of the forward pass, rounded."""
    plain = dataclasses.replace(
        exponents, gradient=ONE, eps=exponents.eps.times(exponents.gradient, -1),
        sgd=exponents.sgd and exponents.sgd.times(exponents.gradient))
    plain = plain.moved(ONE.times(plain.forward, -1))
    return {name: _rounded(getattr(plain, name)) for name in Factors._fields}


def _canonical_tie(parametrization: Parametrization) -> Any:
    """Returns the exponent of a tied embedding's logits beside its multiplier as an input, rounded."""
    logits, forward = parametrization.tied or ONE, parametrization.input.forward
    # An embedding's one width is both fans here, so that exponents of the two add up.
    return _rounded(Power(logits.fan_in + logits.fan_out - forward.fan_in - forward.fan_out))


def _rounded(power: Power | None) -> tuple[float, ...] | None:
    """Returns exponents without the rounding errors of moves; 0.0 for -0.0."""
    return None if power is None else tuple(round(x, 9) + 0.0 for x in power)


def role(fan_in_grows: bool, fan_out_grows: bool) -> Role:
    """Returns the role of a parameter by which of its fans grow with the width.

    >>> [str(role(*grow)) for grow in [(True, True), (False, True), (True, False), (False, False)]]
    ['hidden', 'input', 'output', 'fixed']
    """
    return {(True, True): HIDDEN, (False, True): INPUT,
            (True, False): OUTPUT, (False, False): FIXED}[fan_in_grows, fan_out_grows]


def rescale(base_std: float, target_std: float, init: float) -> float:
    """Computes the factor of a draw at the target that makes its std the base's times `init`.

    >>> rescale(base_std=0.02, target_std=0.02, init=0.5)       # a constant std on a hidden weight
    0.5
    >>> rescale(base_std=0.1, target_std=0.05, init=0.5)        # 1 / √fan_in there: right as it is
    1.0
    """
    factor = base_std / target_std * init
    return 1.0 if math.isclose(factor, 1.0, rel_tol=1e-12) else factor     # no rounding of exact draws
