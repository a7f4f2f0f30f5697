"""Rules for optimizers: the factors of gradients, updates and parameters, for each kind of optimizer.

Each rule answers one question: relative to the base, how large are the updates that the optimizer makes of a
gradient? Activations need updates of the size that Adam's factor says (`Factors.adam`, with entries aligned as
training aligns them; Tensor Programs V, arXiv 2203.03466, Appendix J.2), whatever optimizer makes them. A
gradient's entries have the size `Factors.eps`, and a parameter's the size of its draw, `Factors.init`. All of
these move together from one form of a parametrization to another (w / θ, abc-symmetry). So in each form an
optimizer sees the same arrays, but for the size of gradients where that doesn't matter to it.

A rule is a function from a `ParameterGrowth` to `Scales`, and a record, `OptimizerRule`, which is the only
place that says anything else about it. To add one of your own, `register` its record; see `OptimizerRule` for
an example.
"""
import math
from collections.abc import Callable

from haiku_mup.rules.parametrization import Factors
from haiku_mup.rules.rule_registry import (
    RULES,
    Behaviour,
    Coupling,
    Matrix,
    OptimizerRule,
    ParameterGrowth,
    Scales,
    ShapeScaling,
    choose,
    register,
    rule_of,
    rule_of_states,
    unregister,
)

__all__ = ["ADAM", "RULES", "SHAPE_SCALINGS", "Behaviour", "Coupling", "Matrix", "OptimizerRule",
           "ParameterGrowth", "Scales", "ShapeScaling", "adam", "any_entrywise", "by_norm",
           "by_norm_or_not", "choose", "entry_size", "momo", "momo_adam", "muon", "novograd", "register",
           "rule_of", "rule_of_states", "scales", "sgd", "unregister"]


def scales(rule: str, growth: ParameterGrowth, *, scale_eps: bool = False) -> Scales:
    """Computes the factors that a rule puts around an optimizer, for one parameter.

    Args:
      rule: a key of `RULES`.
      growth: how the parameter grows.
      scale_eps: whether gradients are made as large as at the base, so that the optimizer's ε acts alike at
        every width.

    >>> from haiku_mup import maximal_update
    >>> readout = maximal_update().factors("output", 4.0, 1.0)
    >>> scales("lamb", ParameterGrowth(factors=readout), scale_eps=True)
    Scales(gradient=4.0, update=1.0, parameter=1.0)
    """
    return (RULES[rule].with_scaled_eps() if scale_eps else RULES[rule]).scales(growth)


# --- entry by entry ---

def adam(growth: ParameterGrowth) -> Scales:
    """Computes the factors of entrywise normalised optimizers: Adam, AdamW, Lion, RMSProp, sign-SGD.

    Gradient: of any size. Update: its entries have size 1 at every width.
    Activations need updates of Adam's size: × `adam`.

    >>> from haiku_mup import maximal_update
    >>> adam(ParameterGrowth(factors=maximal_update().factors("hidden", 4.0, 4.0))).update
    0.25
    """
    s = growth.factors.adam
    return Scales(update=s, parameter=s)


_OR_ANY = ", or rule='any', which is right for both and for those between (adagrad, yogi, radam)"

ADAM = OptimizerRule(
    name="adam", scales=adam, adam=True, behaviours=frozenset({Behaviour.ADAM_LIKE}),
    default_for=Behaviour.ADAM_LIKE, description="behaves like Adam", advice=_OR_ANY)
register(ADAM)


def sgd(growth: ParameterGrowth) -> Scales:
    """Computes the factors of SGD, with or without momentum.

    Gradient: its entries have size `eps`. Update: the gradient.
    Activations need updates of Adam's size: × `sgd`, which is `adam` / `eps` in each of our tables.

    >>> from haiku_mup import maximal_update
    >>> sgd(ParameterGrowth(factors=maximal_update().factors("input", 1.0, 4.0))).update
    4.0
    """
    s = growth.factors.sgd
    return Scales(update=s, parameter=s)


register(OptimizerRule(
    name="sgd", scales=sgd, adam=False, learning_rate="sgd", like_gradients=True,
    behaviours=frozenset({Behaviour.SGD_LIKE}), default_for=Behaviour.SGD_LIKE, description="behaves like SGD",
    advice=_OR_ANY))


def any_entrywise(growth: ParameterGrowth) -> Scales:
    """Computes the factors of all entrywise optimizers: SGD, Adam, Adagrad, Yogi, RAdam, AdaBelief.

    Gradient: made of size 1, as at the base: / `eps`. Update: so of size 1, however the optimizer makes it.
    Activations need updates of Adam's size: × `adam`.

    >>> from haiku_mup import maximal_update
    >>> any_entrywise(ParameterGrowth(factors=maximal_update().factors("hidden", 4.0, 4.0)))
    Scales(gradient=4.0, update=0.25, parameter=0.25)
    """
    s = growth.factors.adam
    return Scales(gradient=1 / growth.factors.eps, update=s, parameter=s)


# With gradients that are small beside ε, or beside an accumulator's start, optimizers that normalise behave
# like SGD: their states tell.
register(OptimizerRule(
    name="any", scales=any_entrywise, serves_entrywise=True, like_gradients=True,
    behaviours=frozenset({Behaviour.ADAM_LIKE, Behaviour.SGD_LIKE, Behaviour.BETWEEN}),
    default_for=Behaviour.BETWEEN,
    states={"ScaleByAdaDeltaState": None, "MadgradState": None, "ScaleByAdamState": Behaviour.SGD_LIKE,
            "ScaleByRssState": Behaviour.SGD_LIKE, "ScaleByBeliefState": Behaviour.SGD_LIKE},
    description="is between SGD and Adam", advice=", which is right for both and between"))


# --- by the parameter's norm ---

def entry_size(factors: Factors, *, drawn: bool, zero: bool) -> float:
    """Computes the size of a parameter's entries, relative to the base.

    A parameter that starts at zero is the sum of its updates, which have Adam's size. A constant is stored / θ.

    Args:
      factors: of the parameter.
      drawn: whether its initial value is drawn.
      zero: whether it starts at zero.

    >>> from haiku_mup import maximal_update
    >>> hidden = maximal_update().factors("hidden", 4.0, 4.0)
    >>> entry_size(hidden, drawn=True, zero=False), entry_size(hidden, drawn=False, zero=True)
    (0.5, 0.25)
    """
    if drawn:
        return factors.init
    return factors.adam if zero else 1 / factors.stored


def by_norm(growth: ParameterGrowth) -> Scales:
    """Computes the factors of normalised updates that the parameter's norm or RMS scales: Adafactor, LAMB.

    Gradient: of any size. Update: of the parameter's size, which is made that of the base: / `size`.
    Activations need updates of Adam's size: × `adam`. So a hidden weight moves m_in^-½ beside its own size.

    A floor under the RMS (Adafactor's 1e-3) and a parameter that starts at zero so act as at the base. (optax
    factors Adafactor's second moments from `min_dim_size_to_factor=128` on: let all widths be on one side.)
    A decay inside takes `adam` / `size` times as much. No factor can make that independent of the width, since
    a parameter that the optimizer sees smaller is moved less.

    >>> from haiku_mup import maximal_update
    >>> by_norm(ParameterGrowth(factors=maximal_update().factors("hidden", 4.0, 4.0), size=0.5)).decay
    0.5
    """
    return Scales(update=growth.factors.adam, parameter=growth.size)


def by_norm_or_not(growth: ParameterGrowth) -> Scales:
    """Computes the factors of LARS: SGD's update scaled to the parameter's norm, unless that is 0 or masked.

    Gradient: made of size 1: / `eps`. Update: of the parameter's size, made that of the base; or of size 1.
    Activations need updates of Adam's size: × `adam`.

    The optimizer so sees gradients and parameters whose entries are as large as at the base, and norms of units
    that grow alike. That is right, too, where the norm of each unit's parameters limits its gradient (adaptive
    gradient clipping, Brock et al., arXiv 2102.06171), whatever entrywise optimizer follows. Only a floor under
    norms acts sooner at larger widths, for parameters that start at zero.

    >>> from haiku_mup import maximal_update
    >>> by_norm_or_not(ParameterGrowth(factors=maximal_update().factors("input", 1.0, 4.0)))
    Scales(gradient=4.0, update=1.0, parameter=1.0)
    """
    return by_norm(growth)._replace(gradient=1 / growth.factors.eps)


_BY_NORM = "makes an entry's update from other entries, too (the parameter's norm, as adafactor, lamb, lars do)"

register(OptimizerRule(
    name="lars", scales=by_norm_or_not, coupling=Coupling.PARAMETER, like_gradients=True,
    behaviours=frozenset({Behaviour.BY_NORM, Behaviour.CLIPPED_BY_NORM, Behaviour.ADAM_LIKE,
                          Behaviour.SGD_LIKE}),
    default_for=frozenset({Behaviour.BY_NORM, Behaviour.CLIPPED_BY_NORM}),
    description="makes an entry's update from other entries, too (the parameter's norm, as adafactor, lamb, "
                "lars and adaptive_grad_clip do)"))
register(OptimizerRule(
    name="lamb", scales=by_norm, coupling=Coupling.PARAMETER,
    behaviours=frozenset({Behaviour.BY_NORM, Behaviour.ADAM_LIKE}),
    states={"ScaleByAdamState": Behaviour.BY_NORM}, description=_BY_NORM))
register(OptimizerRule(
    name="adafactor", scales=by_norm, coupling=Coupling.PARAMETER,
    behaviours=frozenset({Behaviour.BY_NORM, Behaviour.ADAM_LIKE}),
    states={"FactoredState": Behaviour.BY_NORM}, description=_BY_NORM))


# --- by the gradient's norm ---

# The spectral norm of Muon's update, by the parameter's shape.
SHAPE_SCALINGS: dict[ShapeScaling, Callable[[Matrix], float]] = {
    ShapeScaling.PLAIN: lambda shape: 1.0,
    ShapeScaling.WIDTH: lambda shape: math.sqrt(max(1.0, shape.n_out / shape.n_in)),
    ShapeScaling.RMS: lambda shape: math.sqrt(max(shape.n_in, shape.n_out)),
    ShapeScaling.SPECTRAL: lambda shape: math.sqrt(shape.n_out / shape.n_in),
}


def muon(growth: ParameterGrowth) -> Scales:
    """Computes the factors of Muon, whose updates have singular values that are all one number.

    Gradient: of any size. Update: of spectral norm c, by its shape: an entry of `SHAPE_SCALINGS`.
    Activations need a spectral norm that grows like that of aligned entries of Adam's size, which is
    `adam` · √(m_in · m_out), for hidden weights √(m_out / m_in): × that, divided by the growth of c.

    So hidden weights that keep their proportions have factor 1 (with consistent_rms m^-½). So have those with
    more outputs than inputs, at base and target; those with more inputs than outputs have √(m_out / m_in).
    With c = √(n_out / n_in) all hidden weights have factor 1, whatever their proportions. (Spectral condition:
    Yang et al., arXiv 2310.17813; consistent_rms: Liu et al., arXiv 2502.16982; the last: Large et al., arXiv
    2405.14813, Pethick et al., arXiv 2502.07529, Ahn et al., arXiv 2504.05295.)

    >>> from haiku_mup import maximal_update
    >>> def hidden(shape_scaling):
    ...     return ParameterGrowth(factors=maximal_update().factors("hidden", 4.0, 4.0), m_in=4.0, m_out=4.0,
    ...                            base=Matrix(64, 64), target=Matrix(256, 256), shape_scaling=shape_scaling)
    >>> muon(hidden("width")).update, muon(hidden("rms")).update
    (1.0, 0.5)
    """
    spectral_norm = SHAPE_SCALINGS[ShapeScaling(growth.shape_scaling)]
    s = growth.factors.adam * growth.aligned_norm / (spectral_norm(growth.target) / spectral_norm(growth.base))
    return Scales(update=s, parameter=s)


register(OptimizerRule(
    name="muon", scales=muon, coupling=Coupling.MATRIX,
    behaviours=frozenset({Behaviour.ADAM_LIKE, Behaviour.NOT_ENTRYWISE}), states={"MuonState": None},
    description="makes an entry's update from other entries, too (a whole matrix, as muon does)"))


def novograd(growth: ParameterGrowth) -> Scales:
    """Computes the factors of NovoGrad, which divides each parameter's gradient by its norm.

    Gradient: of any size. Update: of norm 1 at every width; over all layers of a stack together.
    Activations need a norm that grows like that of aligned entries of Adam's size, in each layer: × `adam` ·
    √(m_in · m_out) · √`layers`.

    >>> from haiku_mup import maximal_update
    >>> factors = maximal_update().factors("input", 1.0, 4.0)
    >>> [novograd(ParameterGrowth(factors=factors, m_out=4.0, layers=layers)).update for layers in (1.0, 9.0)]
    [2.0, 6.0]
    """
    s = growth.factors.adam * growth.aligned_norm * math.sqrt(growth.layers)
    return Scales(update=s, parameter=s)


register(OptimizerRule(
    name="novograd", scales=novograd, coupling=Coupling.GRADIENT,
    behaviours=frozenset({Behaviour.NOT_ENTRYWISE}), states={"ScaleByNovogradState": None},
    description="makes an entry's update from other entries, too (the gradient's norm, as novograd does)"))


# --- by sums over all parameters ---

def momo(growth: ParameterGrowth) -> Scales:
    """Computes the factors of SGD with a step from sums over all parameters: Momo, Polyak's step, DoG, DoWG.

    Gradient: of p / s, so × s, for sums to be those of one variable. Update: the gradient, in p / s.
    Activations need updates of Adam's size: s² = `sgd`. Each role's share of the sums keeps its size.

    >>> from haiku_mup import maximal_update
    >>> momo(ParameterGrowth(factors=maximal_update().factors("input", 1.0, 4.0)))
    Scales(gradient=2.0, update=2.0, parameter=2.0)
    """
    s = math.sqrt(growth.factors.sgd * growth.factors.gradient)
    return Scales(gradient=s / growth.factors.gradient, update=s, parameter=s)  # sums need true gradients


def momo_adam(growth: ParameterGrowth) -> Scales:
    """Computes the factors of Adam whose step depends on the loss and on sums over all parameters: Momo-Adam.

    Gradient: of p / s, so × s, for sums of gradient · parameter to be the loss's. Update: of size 1, in p / s.
    Activations need updates of Adam's size: × s = `adam`. Each role's share of the sums keeps its size.

    >>> from haiku_mup import maximal_update
    >>> momo_adam(ParameterGrowth(factors=maximal_update().factors("hidden", 4.0, 4.0)))
    Scales(gradient=0.25, update=0.25, parameter=0.25)
    """
    s = growth.factors.adam
    return Scales(gradient=s / growth.factors.gradient, update=s, parameter=s)


_BY_SUMS = "has a step that depends on sums over all parameters"

register(OptimizerRule(
    name="momo", scales=momo, coupling=Coupling.MODEL, learning_rate="sgd", like_gradients=True,
    behaviours=frozenset({Behaviour.SGD_LIKE, Behaviour.NOT_ENTRYWISE}),
    states={"MomoState": None, "DoGState": None, "DoWGState": None}, description=_BY_SUMS))
register(OptimizerRule(
    name="momo_adam", scales=momo_adam, coupling=Coupling.MODEL,
    behaviours=frozenset({Behaviour.ADAM_LIKE, Behaviour.NOT_ENTRYWISE}), states={"MomoAdamState": None},
    description=_BY_SUMS))
