"""What an optimizer's gradients, updates and parameters are multiplied by, for each kind of optimizer. No JAX.

Every rule comes of one question: how large is what the optimizer makes of a gradient, relative to the base? The
activations need updates of the size that Adam's factor says (`Factors.adam`, with entries aligned as training
aligns them; Tensor Programs V, arXiv 2203.03466, Appendix J.2), whatever optimizer makes them. Gradients have
the size `Factors.eps`, and parameters that of their draw, `Factors.init`. All move together from one form of a
parametrization to another (w / θ, abc-symmetry), so that in each form an optimizer sees the same arrays but for
gradients that it doesn't mind.
"""
import math
from collections.abc import Callable
from typing import NamedTuple

from haiku_mup.errors import MupError
from haiku_mup.rules.parametrization import Factors


class Scales(NamedTuple):
    """What is done around an optimizer, for one parameter.

    Attributes:
      gradient: what its gradient is multiplied by, before the optimizer sees it.
      update: what the optimizer's update is multiplied by.
      parameter: what the parameter that the optimizer sees is divided by. A decay inside so takes `update` /
        `parameter` times what it takes at the base; where these are one number, what it takes is the same.
    """

    gradient: float = 1.0
    update: float = 1.0
    parameter: float = 1.0

    @property
    def decay(self) -> float:
        """What the decay of the optimizer inside is multiplied by.

        >>> Scales(update=0.25, parameter=0.25).decay
        1.0
        """
        return self.update / self.parameter


class Matrix(NamedTuple):
    """The shape of a parameter as an optimizer of matrices takes it: what it sums over, and what comes out."""

    n_in: float
    n_out: float


class ParameterGrowth(NamedTuple):
    """What a rule works from.

    Attributes:
      factors: the parametrization's, for this parameter.
      size: of the entries of the parameter, relative to the base.
      m_in: ratio of its fan-in.
      m_out: ratio of its fan-out.
      base: its shape at the base, as a matrix.
      target: its shape at the target.
      shape_scaling: how an optimizer of matrices scales by their shape, a key of `SHAPE_SCALINGS`.
      layers: ratio of the numbers of layers that are one array to the optimizer: those of a layer_stack.
    """

    factors: Factors
    size: float = 1.0
    m_in: float = 1.0
    m_out: float = 1.0
    base: Matrix = Matrix(1, 1)
    target: Matrix = Matrix(1, 1)
    shape_scaling: str = "plain"
    layers: float = 1.0


Known = ParameterGrowth         # its name in 0.2.0


# --- the rules ---

def adam(growth: ParameterGrowth) -> Scales:
    """Entrywise normalised optimizers: Adam, AdamW, Lion, RMSProp, sign-SGD.

    Gradient: of any size. Update: its entries have size 1, at every width.
    Activations need updates of Adam's size: × `adam`.

    >>> from haiku_mup import maximal_update
    >>> adam(ParameterGrowth(maximal_update().factors("hidden", 4.0, 4.0))).update
    0.25
    """
    s = growth.factors.adam
    return Scales(1.0, s, s)


def sgd(growth: ParameterGrowth) -> Scales:
    """SGD, with or without momentum.

    Gradient: its entries have size `eps`. Update: the gradient.
    Activations need updates of Adam's size: × `sgd`, which is `adam` / `eps` in every table of ours.

    >>> from haiku_mup import maximal_update
    >>> sgd(ParameterGrowth(maximal_update().factors("input", 1.0, 4.0))).update
    4.0
    """
    s = growth.factors.sgd
    return Scales(1.0, s, s)


def any_entrywise(growth: ParameterGrowth) -> Scales:
    """Every optimizer that works entry by entry: SGD, Adam and those between (Adagrad, Yogi, RAdam, AdaBelief).

    Gradient: made of size 1, as at the base, by / `eps`. Update: so of size 1, whatever it makes of a gradient.
    Activations need updates of Adam's size: × `adam`.

    >>> from haiku_mup import maximal_update
    >>> any_entrywise(ParameterGrowth(maximal_update().factors("hidden", 4.0, 4.0)))
    Scales(gradient=4.0, update=0.25, parameter=0.25)
    """
    s = growth.factors.adam
    return Scales(1 / growth.factors.eps, s, s)


def by_norm(growth: ParameterGrowth) -> Scales:
    """Normalised, and scaled by the parameter's own norm or RMS: Adafactor, LAMB.

    Gradient: of any size. Update: of the parameter's size, which is made that of the base, by / `size`.
    Activations need updates of Adam's size: × `adam`; together hidden m_in^-½, relative to its own size.

    A floor under the RMS (Adafactor's 1e-3) and a parameter that starts at zero so act as at the base. (optax
    factors Adafactor's second moments from `min_dim_size_to_factor=128` on: let all widths be on one side.)
    A decay inside takes `adam` / `size` times as much: it can't be mended, since a parameter that the optimizer
    sees smaller is moved less.

    >>> from haiku_mup import maximal_update
    >>> by_norm(ParameterGrowth(maximal_update().factors("hidden", 4.0, 4.0), size=0.5)).decay
    0.5
    """
    return Scales(1.0, growth.factors.adam, growth.size)


def by_norm_or_not(growth: ParameterGrowth) -> Scales:
    """LARS: SGD's update scaled to the parameter's norm, or as it is where that is zero, or masked.

    Gradient: made of size 1, by / `eps`. Update: of the parameter's size, made that of the base; or size 1.
    Activations need updates of Adam's size: × `adam`.

    >>> from haiku_mup import maximal_update
    >>> by_norm_or_not(ParameterGrowth(maximal_update().factors("input", 1.0, 4.0)))
    Scales(gradient=4.0, update=1.0, parameter=1.0)
    """
    return by_norm(growth)._replace(gradient=1 / growth.factors.eps)


SHAPE_SCALINGS: dict[str, Callable[[Matrix], float]] = {
    "plain": lambda shape: 1.0,                                             # singular values of 1
    "width": lambda shape: math.sqrt(max(1.0, shape.n_out / shape.n_in)),   # optax.contrib.muon
    "rms": lambda shape: math.sqrt(max(shape.n_in, shape.n_out)),           # the same, with consistent_rms
}

LAWS = SHAPE_SCALINGS           # its name in 0.2.0


def muon(growth: ParameterGrowth) -> Scales:
    """Muon: every singular value of the update is made one number.

    Gradient: of any size. Update: of spectral norm c, by its shape: a key of `SHAPE_SCALINGS`.
    Activations need a spectral norm that grows like that of aligned entries of Adam's size, `adam` ·
    √(m_in · m_out), for hidden weights √(m_out / m_in): × that over the growth of c.

    So hidden weights that keep their proportions have 1 (with consistent_rms m^-½); those that are wider than
    high, at base and target, too; those that are higher than wide √(m_out / m_in). (Spectral condition: Yang et
    al., arXiv 2310.17813; consistent_rms: Liu et al., arXiv 2502.16982.)

    >>> from haiku_mup import maximal_update
    >>> hidden = ParameterGrowth(maximal_update().factors("hidden", 4.0, 4.0), m_in=4.0, m_out=4.0,
    ...                base=Matrix(64, 64), target=Matrix(256, 256), shape_scaling="width")
    >>> muon(hidden).update, muon(hidden._replace(shape_scaling="rms")).update
    (1.0, 0.5)
    """
    wanted = growth.factors.adam * math.sqrt(growth.m_in * growth.m_out)
    spectral_norm = SHAPE_SCALINGS[growth.shape_scaling]
    s = wanted / (spectral_norm(growth.target) / spectral_norm(growth.base))
    return Scales(1.0, s, s)


def novograd(growth: ParameterGrowth) -> Scales:
    """NovoGrad: each parameter's gradient over its norm.

    Gradient: of any size. Update: of norm 1, at every width; over all layers of a stack together.
    Activations need a norm that grows like that of aligned entries of Adam's size: × `adam` · √(m_in · m_out),
    in each layer.

    >>> from haiku_mup import maximal_update
    >>> growth = ParameterGrowth(maximal_update().factors("input", 1.0, 4.0), m_out=4.0)
    >>> novograd(growth).update, novograd(growth._replace(layers=9.0)).update
    (2.0, 6.0)
    """
    s = muon(growth._replace(shape_scaling="plain")).update * math.sqrt(growth.layers)
    return Scales(1.0, s, s)


def momo_adam(growth: ParameterGrowth) -> Scales:
    """Adam with a step that depends on the loss and on sums over all parameters: Momo-Adam.

    Gradient: of p / s, so × s, for sums of gradient · parameter to be the loss's. Update: of size 1, in p / s.
    Activations need updates of Adam's size: × s = `adam`. Each role's share of the sums keeps its size.

    >>> from haiku_mup import maximal_update
    >>> momo_adam(ParameterGrowth(maximal_update().factors("hidden", 4.0, 4.0)))
    Scales(gradient=0.25, update=0.25, parameter=0.25)
    """
    s = growth.factors.adam
    return Scales(s / growth.factors.gradient, s, s)     # of a form that multiplies gradients, it is taken back


def momo(growth: ParameterGrowth) -> Scales:
    """SGD with a step that depends on sums over all parameters: Momo, Polyak's step, DoG, DoWG.

    Gradient: of p / s, so × s, for sums to be those of one variable. Update: the gradient, in p / s.
    Activations need updates of Adam's size: s² = `sgd`. Each role's share of the sums keeps its size.

    >>> from haiku_mup import maximal_update
    >>> momo(ParameterGrowth(maximal_update().factors("input", 1.0, 4.0)))
    Scales(gradient=2.0, update=2.0, parameter=2.0)
    """
    s = math.sqrt(growth.factors.sgd * growth.factors.gradient)
    return Scales(s / growth.factors.gradient, s, s)


RULES: dict[str, Callable[[ParameterGrowth], Scales]] = {
    "adam": adam, "sgd": sgd, "any": any_entrywise,
    "adafactor": by_norm, "lamb": by_norm, "lars": by_norm_or_not, "muon": muon, "novograd": novograd,
    "momo": momo, "momo_adam": momo_adam,
}
ENTRYWISE, NORMED = ("adam", "sgd", "any"), ("adafactor", "lamb", "lars")
SUMMED = ("momo", "momo_adam")         # they need gradients as they are


def scales(rule: str, growth: ParameterGrowth, *, scale_eps: bool = False) -> Scales:
    """What a rule does around an optimizer, for one parameter.

    Args:
      rule: a key of `RULES`.
      growth: what it works from.
      scale_eps: whether the gradients that the optimizer sees are made as large as at the base, so that its ε
        acts alike at every width.

    >>> from haiku_mup import maximal_update
    >>> scales("lamb", ParameterGrowth(maximal_update().factors("output", 4.0, 1.0)), scale_eps=True)
    Scales(gradient=4.0, update=1.0, parameter=1.0)
    """
    found = RULES[rule](growth)
    if not scale_eps:
        return found
    if rule in ("adam", "sgd"):
        return any_entrywise(growth)
    spread = math.sqrt(growth.m_in * growth.m_out) if rule in ("muon", "novograd") else 1.0   # of a norm
    return found._replace(gradient=1 / (growth.factors.eps * spread))


def checked(rule: str | None, adam: bool, scale_eps: bool = False) -> str:
    """The rule that `wrap_optimizer(adam=…, rule=…, scale_eps=…)` asks for.

    Raises:
      MupError: no such rule, or two of these that contradict each other.

    >>> checked(None, False), checked("lamb", True)
    ('sgd', 'lamb')
    """
    if rule is None:
        return "adam" if adam else "sgd"
    if rule not in RULES:
        raise MupError(f"rule={rule!r}: give one of {', '.join(map(repr, RULES))}")
    if not adam and rule != "sgd":
        raise MupError(f"rule={rule!r} and adam=False differ; give rule alone")
    if scale_eps and rule in SUMMED:
        raise MupError(f"scale_eps=True and rule={rule!r}: its sums over all parameters need gradients as they "
                       "are; leave scale_eps out")
    return rule
