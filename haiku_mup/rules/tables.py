"""Tables of exponents: the standard and the neural tangent parametrization, and μP in its forms.

Those with learning rates by layer (Everett et al.) are in `rules.per_layer`.
"""
import dataclasses

from haiku_mup.errors import MupError
from haiku_mup.rules.exponents import ONE, Power, RoleExponents, is_exponent
from haiku_mup.rules.parametrization import Parametrization

# Tensor Programs V (arXiv 2203.03466), Table 8, and Appendix B.3 for ε. A gradient's entry shrinks like
# 1 / fan_out if the fan-out grows, and in a readout like the multiplier 1 / fan_in. In every role SGD's factor
# is Adam's divided by that of ε, since an update of SGD is an update of Adam times the gradient's size.
_TABLE_8 = Parametrization(
    "μP",
    input=RoleExponents(sgd=Power(0, 1), eps=Power(0, -1)),
    hidden=RoleExponents(init=Power(-0.5, 0), sgd=Power(-1, 1), adam=Power(-1, 0), eps=Power(0, -1)),
    output=RoleExponents(forward=Power(-1, 0), sgd=Power(1, 0), eps=Power(-1, 0)),
    tied=Power(-1, 0),
    attention=-0.5,
)
# θ of input, hidden and output weights, which leads from Table 8 to each other form.
_ROOT_OUT = Power(0, 0.5)
_TABLE_9 = {"input": _ROOT_OUT, "hidden": Power(-0.5, 0.5), "output": Power(0.5, 0)}
FORM_THETAS: dict[tuple[str, str | None], dict[str, Power]] = {
    ("table8", None): {},
    ("table3", None): {"output": Power(1, 0)},
    ("table9", None): _TABLE_9,
    ("mean_field", None): {"hidden": Power(-0.5, 0)},
    ("abcd", "adam"): {"hidden": Power(-1, 0)},
    ("abcd", "sgd"): _TABLE_9,
}
_REASONS: dict[str | None, str] = {
    "adam": "a plain optimizer trains the wrapped model; give it as it is",
    "sgd": "a plain optax.sgd trains the wrapped model; give it as it is",
}
_STANDARD = Parametrization(
    "standard",
    # The std of initializers whose variance is 1 / fan_in; draws are left as they are.
    hidden=RoleExponents(init=Power(-0.5, 0)), output=RoleExponents(init=Power(-0.5, 0)),
    draws=False, depth_alpha=0.0,
)
# A gradient's entry shrinks like the weight's own multiplier, m_in^-½, and like that of the layer which reads
# its output, m_out^-½.
_ROOT = RoleExponents(forward=Power(-0.5, 0), stored=Power(-0.5, 0), adam=None, eps=Power(-0.5, -0.5))
_NEURAL_TANGENT = Parametrization(
    "neural tangent", input=RoleExponents(adam=None, eps=Power(0, -0.5)), hidden=_ROOT, output=_ROOT,
    tied=Power(-0.5, 0),
    reason="its limit is that of gradient descent, and an optimizer that normalises gradients moves each "
           "weight as far at every width, so that what a layer computes moves without bound; use SGD and its "
           "factors (adam=False), or maximal_update()",
)


def standard(*, embedding_lr: float = 0.0) -> Parametrization:
    """Returns the standard parametrization: each draw, product and learning rate as it is.

    Its table has the init of fan-in initializers (LeCun, Glorot, He), for comparison with other tables. A `Mup`
    with it leaves draws untouched.

    Args:
      embedding_lr: exponent of the width in the learning rate of embeddings (parameters that are looked up).
        With 1 it grows like the width beside all other rates, as it does in μP; much of μP's gain with AdamW is
        reported to be this (Kalra & Barkeshli, arXiv 2605.21486).

    Raises:
      MupError: an exponent that is no number from -8 to 8.

    >>> hidden = haiku_mup.standard().factors("hidden", 4.0, 4.0)
    >>> hidden.init, hidden.forward, hidden.adam, hidden.sgd
    (0.5, 1.0, 1.0, 1.0)
    >>> haiku_mup.standard(embedding_lr=1.0).factors("input", 1.0, 4.0, lookup=True).adam
    4.0
    """
    return _with_embedding_lr(_STANDARD, embedding_lr, "standard")


def neural_tangent() -> Parametrization:
    """Returns the neural tangent parametrization: each std as at the base, products with weights × m_in^-½.

    SGD's learning rate is as it is. In the limit of large widths features stop moving, and the network is
    linear in its parameters (Jacot et al., arXiv 1806.07572; in terms of widths Tensor Programs IV, arXiv
    2011.14522, Table 1). There are no learning rates for Adam: functions that need them raise.

    >>> hidden = haiku_mup.neural_tangent().factors("hidden", 4.0, 4.0)
    >>> hidden.init, hidden.forward
    (1.0, 0.5)
    """
    return _NEURAL_TANGENT


def maximal_update(form: str = "table8", *, optimizer: str | None = None, spectral: bool = False,
                   depth_alpha: float | None = None, embedding_lr: float = 0.0,
                   decay: float = 1.0) -> Parametrization:
    """Returns the maximal update parametrization, in one of its equivalent forms. All train alike.

    Args:
      form: where the factors are. "table8", "table3" and "table9" are those of Tensor Programs V
        (arXiv 2203.03466): with a multiplier in readouts alone; with no multiplier; and with no factor in SGD's
        learning rates. "mean_field" draws every weight with the base's std (Everett et al., arXiv 2407.05872).
        "abcd" has all factors in the forward pass and in the gradient, so that a plain optimizer trains the
        wrapped model, without `Mup.wrap_optimizer`. In the form for Adam `jax.grad` then gives derivatives
        times a factor that grows with the width: a clip by their norm depends on the width, and line searches
        and second derivatives are wrong.
      optimizer: for "abcd": "adam", which is right for SGD and for optimizers between the two as well; or
        "sgd", which leaves gradients as they are.
      spectral: whether to draw a hidden weight smaller by √(m_out / m_in) where its fan-out grows less than
        its fan-in, so that its spectral norm has the right size (Yang et al., arXiv 2310.17813).
      depth_alpha: α of a model that may have r times as many residual blocks as its base. Each branch of
        `haiku_mup.residual` is multiplied by r^-α, and parameters in the blocks have factors of r. 1.0 is
        CompleteP (Dey et al., arXiv 2505.01618), 0.5 Depth-μP (Yang et al., arXiv 2310.02244). With 0.0 depths
        may differ, and nothing depends on them; with None they may not differ.
      embedding_lr: exponent of the width in the learning rate of embeddings (parameters that are looked up),
        beside μP's. 0 is right where the vocabulary is small beside the width. Where it is large, -0.5: the
        embeddings' rate is then √width times that of hidden weights (Hayou & Liu, arXiv 2506.15025). u-μP has
        -0.5, too (Blake et al., arXiv 2407.17465): in factors relative to the base it is
        ``maximal_update("mean_field", embedding_lr=-0.5, depth_alpha=0.5)``.
      decay: exponent of the width in AdamW's λ of hidden weights, whose rate is multiplied by 1 / width. With 1
        a weight loses as much in a step at every width. With 0.5 the size of trained weights is to stay right
        (λ ∝ √width; Fan et al., arXiv 2510.15262); with 0 λ is as it is.

    Raises:
      MupError: no such form; "abcd" without its optimizer, or another form with one; an α that is neither 0 nor
        from 0.5 to 1, with which features or their updates would grow with the depth, or vanish; in "abcd",
        whose optimizer is plain, embedding_lr or decay; an exponent that is no number from -8 to 8.

    >>> hidden = haiku_mup.maximal_update("table9").factors("hidden", 4.0, 4.0)
    >>> hidden.init, hidden.forward, hidden.adam, hidden.sgd
    (0.5, 1.0, 0.25, 1.0)
    >>> haiku_mup.maximal_update(depth_alpha=1.0).factors("hidden", 4.0, 4.0, depth=2.0).sgd
    2.0
    """
    if (form, optimizer) not in FORM_THETAS:
        raise MupError(f"maximal_update: no form {form!r} with optimizer={optimizer!r}; give 'table8', "
                       "'table3', 'table9' or 'mean_field', or 'abcd' with optimizer='adam' or 'sgd'")
    if optimizer and (embedding_lr, decay) != (0.0, 1.0):
        raise MupError("maximal_update: in 'abcd' a plain optimizer has no factors for embedding_lr or decay; "
                       "take another form")
    if not is_exponent(decay):
        raise MupError(f"maximal_update: decay={decay!r}: give the exponent of the width in AdamW's λ, such as "
                       "0.5")
    block = block_exponents(depth_alpha, optimizer)
    name = "μP" if form == "table8" else f"μP, {form}" + f" {optimizer}" * bool(optimizer)
    moved = _TABLE_8.moved(name, **FORM_THETAS[form, optimizer])
    if form == "table3":
        moved = dataclasses.replace(moved, tied=None)   # readouts have no multiplier, and are drawn smaller
    if optimizer == "adam":
        moved = dataclasses.replace(moved, **{role: getattr(moved, role).scale_eps()
                                              for role in ("input", "hidden", "output")})
    name += f", λ × width^{decay:g}" * (decay != 1) + (f", depth^-{depth_alpha:g}" if depth_alpha else "")
    found = dataclasses.replace(moved, name=name, spectral=spectral, plain=optimizer or "",
                                reason=_REASONS.get(optimizer, ""), depth_alpha=depth_alpha, block=block,
                                step_decay=Power(decay - 1) if decay != 1 else ONE)
    return _with_embedding_lr(found, embedding_lr, "maximal_update")


def _with_embedding_lr(found: Parametrization, exponent: float, function: str) -> Parametrization:
    """Returns a parametrization with another power of the width in embeddings' learning rates.

    Raises:
      MupError: what is no exponent.
    """
    if not is_exponent(exponent):
        raise MupError(f"{function}: embedding_lr={exponent!r}: give the exponent of the width in the learning "
                       "rate of embeddings, such as 1.0")
    if exponent == 0:
        return found
    rate, power = found.input, Power(0, exponent)
    embedding = dataclasses.replace(rate, adam=rate.adam and rate.adam.times(power),
                                    sgd=rate.sgd and rate.sgd.times(power))
    return dataclasses.replace(found, name=f"{found.name}, embedding lr × width^{exponent:g}",
                               embedding=embedding)


def block_exponents(alpha: float | None, plain: str | None = None) -> RoleExponents:
    """Returns the additional exponents, of r, for parameters in r times as many blocks as the base has.

    A branch is multiplied by r^-α. So are its gradients, and that is ε's factor. All r branches together should
    move the residual stream as far as at the base, so each should move it by 1 / r as much. The branch is r^-α
    times a function of its parameters, which so should move by r^(α-1). That is Adam's factor. SGD's is Adam's
    divided by ε's: r^(2α-1). (Dey et al., arXiv 2505.01618, Table 1, for Adam's and ε's; Yang et al., arXiv
    2310.02244, for SGD's at α = ½.)

    If an optimizer is to be plain, its factor is moved into θ: r^(α-1) for Adam, r^(α-½) for SGD.

    Raises:
      MupError: an α that is neither None, nor 0, nor from ½ to 1.
    """
    number = isinstance(alpha, (int, float)) and not isinstance(alpha, bool)
    if alpha is not None and not (number and (alpha == 0 or 0.5 <= alpha <= 1)):
        raise MupError(f"depth_alpha={alpha!r}: give 1.0 (CompleteP), 0.5 (Depth-μP) or a "
                       "number between; 0.0 for depths that may differ, with no factor; None for depths "
                       "that may not")
    if not alpha:
        return RoleExponents()
    block = RoleExponents(adam=Power(alpha - 1), sgd=Power(2 * alpha - 1), eps=Power(-alpha))
    if plain == "adam":
        return block.moved(Power(alpha - 1)).scale_eps()
    return block.moved(Power(alpha - 0.5)) if plain == "sgd" else block
