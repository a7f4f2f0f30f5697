"""Tables with learning rates by layer: Everett et al., arXiv 2407.05872, for any parametrization and alignment.

A product with activations sums over the fan-in n. What an update adds to the weight, Δ, changes the product by
a sum that grows like n · Δ if the update is aligned with the activations, and like √n · Δ if it is not. So the
largest learning rate with which no product moves more in wider models is, for Adam,

    1 / (multiplier · n^a),   a = 1 with full alignment, a = ½ with none,

for hidden weights and readouts, and 1 / multiplier for inputs, which sum over nothing that grows. A gradient
comes back through the readout's weights. Their size, multiplier included, is n^-½ in the standard and the
neural tangent parametrization; in μP and the mean-field form n^-1 at first and with full alignment, and n^-½
after the first updates with none. That is ε's factor for inputs and hidden weights; in readouts it is the
multiplier. SGD's rate is Adam's over ε's factor. (The paper's Table 1 has Adam's rates, which we read at
second hand; ε's factors and SGD's are derived here.)

None of this counts what a readout's initial weights make of changed activations, which the paper treats as an
alignment of its own. The first gradients point along these weights. So n changes of size 1, times weights of
n^-½, add up to √n: in the first steps outputs of the standard and the neural tangent form move like √n, unless
the readout starts at zero. μP's multiplier makes the weights n^-1, and the sum 1.
"""
import dataclasses

from haiku_mup.errors import MupError
from haiku_mup.rules.exponents import Power, RoleExponents
from haiku_mup.rules.parametrization import Parametrization
from haiku_mup.rules.tables import FORM_THETAS, block_exponents, maximal_update

ALIGNMENTS = {"full": 1.0, "none": 0.5}     # exponent of the fan-in in the sum that an update adds
_NAMES = {"standard": "standard", "neural_tangent": "neural tangent", "maximal_update": "μP",
          "mean_field": "μP, mean_field"}
_ROOT = Power(-0.5, 0)
_THETAS: dict[str, dict[str, Power]] = {
    "standard": {},
    "neural_tangent": {"hidden": _ROOT, "output": _ROOT},
    "maximal_update": FORM_THETAS["table9", None],
    "mean_field": FORM_THETAS["mean_field", None],
}


def per_layer(form: str = "standard", alignment: str = "full", *,
              depth_alpha: float | None = None) -> Parametrization:
    """Returns a parametrization with learning rates by layer, which move each product alike at every width.

    In the paper all of these transfer, and the standard one with such rates is the best of them. With "none"
    wider models have higher rates; a coordinate check fails while updates are aligned after all, as they are
    in the first steps. Draws have the std of the base times the table's factor, whatever the initializer; with
    fan-in initializers they are the standard ones.

    Args:
      form: "standard", "neural_tangent", "maximal_update" (that of the paper, which is Table 9 of Tensor
        Programs V) or "mean_field".
      alignment: "full" if updates are aligned with activations, "none" if they are not.
      depth_alpha: see `maximal_update`.

    Raises:
      MupError: no such form or alignment; an α that `maximal_update` refuses.

    >>> for form in ("standard", "neural_tangent", "maximal_update", "mean_field"):
    ...     table = haiku_mup.per_layer(form, alignment="none")
    ...     ratios = {"input": (1.0, 16.0), "hidden": (16.0, 16.0), "output": (16.0, 1.0)}
    ...     print(form, [table.factors(role, *m).adam for role, m in ratios.items()])
    standard [1.0, 0.25, 0.25]
    neural_tangent [1.0, 1.0, 1.0]
    maximal_update [0.25, 0.25, 1.0]
    mean_field [1.0, 1.0, 4.0]
    """
    if form not in _NAMES or alignment not in ALIGNMENTS:
        raise MupError(f"per_layer: no form {form!r} with alignment={alignment!r}; give 'standard', "
                       "'neural_tangent', 'maximal_update' or 'mean_field', with 'full' or 'none'")
    a, is_mup = ALIGNMENTS[alignment], form in ("maximal_update", "mean_field")
    multiplier = Power(-1.0 if is_mup else 0.0)
    # The readout's weights, with their multiplier, relative to the base, from the first updates on.
    readout = Power(0, -a if is_mup else -0.5)
    table = dataclasses.replace(
        maximal_update() if is_mup else Parametrization("standard", tied=None),
        input=_rates(RoleExponents(eps=readout)),
        hidden=_rates(RoleExponents(init=_ROOT, adam=Power(-a), eps=readout)),
        output=_rates(RoleExponents(init=Power() if is_mup else _ROOT, forward=multiplier, eps=multiplier,
                                    adam=Power(-a).times(multiplier, -1))),
        depth_alpha=depth_alpha, block=block_exponents(depth_alpha))
    if alignment == "none":
        table = dataclasses.replace(table, tied=None, attention=0.0)
    name = f"{_NAMES[form]}, rates by layer" + ", no alignment" * (alignment == "none")
    return table.moved(name + (f", depth^-{depth_alpha:g}" if depth_alpha else ""), **_THETAS[form])


def modified_standard(*, depth_alpha: float | None = None) -> Parametrization:
    """Returns the modified standard parametrization: Adam's rate × 1 / width for hidden weights and readouts.

    Inputs keep their rate, draws are standard, and nothing is multiplied in the forward pass: it is
    ``per_layer("standard", "full")`` (Everett et al., arXiv 2407.05872). Beside μP's, initial logits don't
    shrink with the width, and in the first steps outputs move up to √width as far: a coordinate check says so,
    unless the readout starts at zero (``w_init=hk.initializers.Constant(0.0)``). Embeddings can't be tied,
    since no rate is right for both of their uses. Attention divides logits by √d, so let heads keep their size,
    and their number grow.

    Args:
      depth_alpha: see `maximal_update`.

    >>> table = haiku_mup.modified_standard()
    >>> hidden, readout = table.factors("hidden", 4.0, 4.0), table.factors("output", 4.0, 1.0)
    >>> (hidden.init, hidden.forward, hidden.adam), (readout.init, readout.forward, readout.adam)
    ((0.5, 1.0, 0.25), (0.5, 1.0, 0.25))
    """
    found = per_layer("standard", depth_alpha=depth_alpha)
    return dataclasses.replace(found, name=found.name.replace("standard, rates by layer", "modified standard"))


def _rates(exponents: RoleExponents) -> RoleExponents:
    """Returns the exponents with SGD's rate: Adam's over ε's factor."""
    assert exponents.adam is not None
    return dataclasses.replace(exponents, sgd=exponents.adam.times(exponents.eps, -1))
