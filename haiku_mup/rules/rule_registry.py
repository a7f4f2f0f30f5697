"""The record of an optimizer rule, the values that rules work on, and the table of all rules."""
import dataclasses
import enum
import math
from collections.abc import Callable, Collection, Mapping
from typing import Literal, NamedTuple

from haiku_mup.errors import MupError
from haiku_mup.rules.parametrization import Factors


class Scales(NamedTuple):
    """Factors around an optimizer, for one parameter.

    Attributes:
      gradient: multiplier of its gradient, before the optimizer sees it.
      update: multiplier of the optimizer's update.
      parameter: divisor of the parameter that the optimizer sees. A decay inside the optimizer so takes
        `update` / `parameter` times what it takes at the base, which is the same where the two are equal.
    """

    gradient: float = 1.0
    update: float = 1.0
    parameter: float = 1.0

    @property
    def decay(self) -> float:
        """Computes the multiplier of a decay inside the optimizer.

        >>> Scales(update=0.25, parameter=0.25).decay
        1.0
        """
        return self.update / self.parameter


class Matrix(NamedTuple):
    """The shape of a parameter as an optimizer of matrices sees it: [n_in, n_out], summed over n_in."""

    n_in: float
    n_out: float


class ShapeScaling(enum.StrEnum):
    """The ways in which optimizers of matrices scale the singular values of their updates by the shape."""

    PLAIN = "plain"             # not at all
    WIDTH = "width"             # √max(1, n_out / n_in): optax.contrib.muon
    RMS = "rms"                 # √max(n_in, n_out): the same, with consistent_rms
    SPECTRAL = "spectral"       # √(n_out / n_in): Dion, Scion, Modula


@dataclasses.dataclass(frozen=True, kw_only=True)
class ParameterGrowth:
    """Ratios and factors of one parameter that grows from the base to the target: the argument of a rule.

    Attributes:
      factors: the parametrization's factors of this parameter.
      size: size of the parameter's entries, relative to the base.
      m_in: ratio of its fan-in.
      m_out: ratio of its fan-out.
      base: its shape at the base, as a matrix.
      target: its shape at the target, as a matrix.
      shape_scaling: how an optimizer of matrices scales updates by their shape; plain strings are converted.
      layers: ratio of the numbers of layers that are one array to the optimizer: those of a layer_stack.

    Raises:
      MupError: no such shape scaling.
    """

    factors: Factors
    size: float = 1.0
    m_in: float = 1.0
    m_out: float = 1.0
    base: Matrix = Matrix(1, 1)
    target: Matrix = Matrix(1, 1)
    shape_scaling: ShapeScaling | str = ShapeScaling.PLAIN
    layers: float = 1.0

    def __post_init__(self) -> None:
        """Converts a plain string to a shape scaling."""
        if self.shape_scaling not in list(ShapeScaling):
            raise MupError(f"shape_scaling={self.shape_scaling!r}: give one of "
                           f"{', '.join(map(repr, map(str, ShapeScaling)))}")
        object.__setattr__(self, "shape_scaling", ShapeScaling(self.shape_scaling))

    @property
    def aligned_norm(self) -> float:
        """Computes the growth of the norm, Frobenius or spectral, of a matrix with aligned entries of one size.

        >>> from haiku_mup import maximal_update
        >>> hidden = maximal_update().factors("hidden", 4.0, 4.0)
        >>> ParameterGrowth(factors=hidden, m_in=4.0, m_out=4.0).aligned_norm
        4.0
        """
        return math.sqrt(self.m_in * self.m_out)


class Behaviour(enum.StrEnum):
    """The behaviour of an optimizer that is tried on a parameter, from the least like Adam on."""

    NOT_ENTRYWISE = "neither"   # an entry's update depends on other entries, in another way than BY_NORM
    BY_NORM = "by norm"         # twice the parameter gives twice the update
    CLIPPED_BY_NORM = "clipped by norm"     # the parameter's norm limits gradients, and is no factor else
    BETWEEN = "between"         # like SGD at first and like Adam later, or by the gradient's size; a power
    SGD_LIKE = "SGD"            # twice the gradient gives twice the update
    ADAM_LIKE = "Adam"          # twice the gradient gives the same update


class Coupling(enum.StrEnum):
    """The values that an entry's update depends on, beside this entry's own value and gradients."""

    ENTRY = "entry"             # nothing
    PARAMETER = "parameter"     # the parameter's norm
    GRADIENT = "gradient"       # the norm of the parameter's gradient
    MATRIX = "matrix"           # the gradient as a matrix; parameters that are no matrix have Adam's rule
    MODEL = "model"             # sums over all parameters, which need gradients as they are


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class OptimizerRule:
    """One kind of optimizer: its factors, and how to recognize and name it.

    Attributes:
      name: what users pass as `wrap_optimizer(rule=...)`.
      scales: from a parameter's growth to the factors around the optimizer.
      coupling: what an entry's update depends on.
      learning_rate: the learning rate in `Factors` that the factors come from. A parametrization without it has
        no factors for this rule.
      serves_entrywise: whether the factors are right for all entrywise optimizers. They are so only if SGD's
        learning rate is Adam's divided by ε's factor.
      like_gradients: whether updates may be as large as gradients; a coordinate check allows for it.
      behaviours: what fitting optimizers do when they are tried; others are warned of.
      default_for: the behaviour, or behaviours, that mean this rule if no state means another one.
      states: names of classes of optax states that mean this rule: together with a behaviour, or by themselves
        (None).
      description: what such an optimizer does, in a warning: "this optimizer DESCRIPTION; pass rule=...".
      advice: what the warning adds behind the rule to pass.
      adam: the value of `wrap_optimizer(adam=...)` that means this rule; None if neither does.

    SGD on square roots, sign(g) · √\\|g\\|: its updates have the size √eps, and should have Adam's:

    >>> from haiku_mup import optimizer_rules
    >>> def root(growth):
    ...     s = growth.factors.adam / growth.factors.eps**0.5
    ...     return optimizer_rules.Scales(update=s, parameter=s)
    >>> optimizer_rules.register(optimizer_rules.OptimizerRule(
    ...     name="root", scales=root, states={"ScaleByRootState": None}, description="takes gradients' roots"))
    >>> hidden = haiku_mup.maximal_update().factors("hidden", 4.0, 4.0)
    >>> optimizer_rules.scales("root", optimizer_rules.ParameterGrowth(factors=hidden)).update
    0.5
    >>> optimizer_rules.unregister("root")
    """

    name: str
    scales: Callable[[ParameterGrowth], Scales]
    coupling: Coupling = Coupling.ENTRY
    learning_rate: Literal["adam", "sgd"] = "adam"
    serves_entrywise: bool = False
    like_gradients: bool = False
    behaviours: frozenset[Behaviour] = frozenset()
    default_for: Behaviour | Collection[Behaviour] | None = None
    states: Mapping[str, Behaviour | None] = dataclasses.field(default_factory=dict)
    description: str
    advice: str = ""
    adam: bool | None = None

    def __post_init__(self) -> None:
        """Converts plain strings to members of their enums."""
        object.__setattr__(self, "coupling", Coupling(self.coupling))
        object.__setattr__(self, "behaviours", frozenset(map(Behaviour, self.behaviours)))

    def __call__(self, growth: ParameterGrowth) -> Scales:
        """Computes the factors around the optimizer for one parameter; `RULES` had functions in 0.2.0."""
        return self.scales(growth)

    def with_scaled_eps(self) -> "OptimizerRule":
        """Returns the rule that makes gradients as large as at the base, too.

        ε so acts alike at every width. An entrywise optimizer then makes the same updates as at the base, and
        the rule is "any". Others have ε beside an entry of the gradient, of size `eps`, or beside the
        gradient's norm.

        Raises:
          MupError: an optimizer whose sums over all parameters need gradients as they are.
        """
        if self.coupling is Coupling.MODEL:
            raise MupError(f"scale_eps=True and rule={self.name!r}: its sums over all parameters need "
                           "gradients as they are; leave scale_eps out")
        if self.coupling is Coupling.ENTRY:
            return RULES["any"]
        beside_norm = self.coupling in (Coupling.GRADIENT, Coupling.MATRIX)
        # By the parameter's norm, everything that the optimizer sees is then as large as at the base.
        clipped = {Behaviour.CLIPPED_BY_NORM} if self.coupling is Coupling.PARAMETER else set()

        def scales(growth: ParameterGrowth) -> Scales:
            seen = growth.factors.eps * (growth.aligned_norm if beside_norm else 1.0)
            return self.scales(growth)._replace(gradient=1 / seen)

        return dataclasses.replace(self, scales=scales, behaviours=self.behaviours | clipped)

    def fits(self, behaviour: Behaviour | None, states: Collection[str]) -> bool:
        """Returns whether the rule is right for an optimizer, by what it does and by the names of its states.

        Args:
          behaviour: what the optimizer did when it was tried; None if that is unclear.
          states: the names of the classes of its states.
        """
        meant = rule_of_states(states)
        if behaviour is Behaviour.CLIPPED_BY_NORM and (meant is None or meant.entrywise):
            return behaviour in self.behaviours
        if meant and meant.name != self.name and not (self.serves_entrywise and meant.entrywise):
            return False
        if meant and meant.name == self.name and not self.behaviours:
            return True         # its states alone tell of it
        return behaviour is None or behaviour in self.behaviours

    def is_default_for(self, behaviour: Behaviour) -> bool:
        """Returns whether a behaviour means this rule if no state means another one."""
        default = self.default_for
        return default is not None and behaviour in ((default,) if isinstance(default, str) else default)

    @property
    def entrywise(self) -> bool:
        """Returns whether an entry's update depends on this entry alone."""
        return self.coupling is Coupling.ENTRY


# --- the table ---

RULES: dict[str, OptimizerRule] = {}        # by name; special rules behind the general ones


def register(rule: OptimizerRule) -> None:
    """Adds a rule to the table, so that `wrap_optimizer(rule=...)` takes its name, and warnings know it.

    Raises:
      MupError: a name that is taken.
    """
    if rule.name in RULES:
        raise MupError(f"there is a rule {rule.name!r} already; give yours another name, or unregister it")
    RULES[rule.name] = rule


def unregister(name: str) -> None:
    """Removes a rule from the table.

    Raises:
      MupError: no rule of this name.
    """
    if RULES.pop(name, None) is None:
        raise MupError(f"no rule {name!r}; there are {', '.join(map(repr, RULES))}")


def choose(rule: str | None, adam: bool, scale_eps: bool = False) -> OptimizerRule:
    """Returns the rule that `wrap_optimizer(adam=…, rule=…, scale_eps=…)` asks for.

    Raises:
      MupError: no such rule, or arguments that contradict each other.

    >>> choose(None, False).name, choose("lamb", True).name, choose(None, True, scale_eps=True).name
    ('sgd', 'lamb', 'any')
    """
    if rule is None:
        chosen = next(known for known in RULES.values() if known.adam == bool(adam))
    elif rule not in RULES:
        raise MupError(f"rule={rule!r}: give one of {', '.join(map(repr, RULES))}")
    else:
        chosen = RULES[rule]
        if not adam and chosen.adam is not False:
            raise MupError(f"rule={rule!r} and adam=False differ; give rule alone")
    return chosen.with_scaled_eps() if scale_eps else chosen


def rule_of_states(states: Collection[str], behaviour: Behaviour | None = None) -> OptimizerRule | None:
    """Returns the rule that names of classes of states mean, by themselves or together with a behaviour.

    >>> rule_of_states({"MuonState"}).name, rule_of_states({"ScaleByAdamState"})
    ('muon', None)
    >>> rule_of_states({"ScaleByAdamState"}, Behaviour.BY_NORM).name
    'lamb'
    """
    for rule in reversed(RULES.values()):       # a user's rules first, and special ones before general ones
        if any(name in states and beside in (None, behaviour) for name, beside in rule.states.items()):
            return rule
    return None


def rule_of(behaviour: Behaviour | None, states: Collection[str]) -> OptimizerRule | None:
    """Returns the rule that an optimizer's behaviour and the names of its states mean, if there is one.

    >>> rule_of(Behaviour.ADAM_LIKE, {"ScaleByLionState"}).name
    'adam'
    """
    found = rule_of_states(states, behaviour)
    if behaviour is Behaviour.CLIPPED_BY_NORM and found and found.entrywise:
        found = None            # what an entrywise optimizer is doesn't matter where gradients are clipped so
    if found is not None or behaviour is None:
        return found
    return next((rule for rule in RULES.values() if rule.is_default_for(behaviour)), None)
