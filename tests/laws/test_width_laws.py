"""How activations move with the width, in each parametrization: slopes of a coordinate check."""
import haiku as hk
import jax
import optax
import pytest
from mutants import IMAGES, LABELS, loss_fn, make, mlp

import haiku_mup
from haiku_mup import maximal_update, neural_tangent, standard

WIDTHS = (64, 128, 256, 512, 1024, 2048)
FORMS = [maximal_update(form) for form in ("table8", "table3", "table9", "mean_field")]


def adam(lr):
    return optax.adam(lr, eps=1e-12)


def checked(parametrization, optimizer, is_adam, widths=WIDTHS, network=mlp, **kwargs):
    return haiku_mup.coord_check(make(network), widths, (IMAGES, LABELS), loss_fn, optimizer, adam=is_adam,
                                 parametrization=parametrization, progress=False, **kwargs)


def moved(check, step=1):
    """{layer: slope of how far its outputs have moved}"""
    return {f.name: f.slope for f in check.findings if f.step == step and f.quantity.startswith("Δactivation")}


CASES = [
    *((form, adam(2.0**-7), True) for form in FORMS), *((form, optax.sgd(0.5), False) for form in FORMS),
    (maximal_update("abcd", optimizer="adam"), adam(2.0**-7), True),
    (maximal_update("abcd", optimizer="adam"), optax.sgd(0.5), False),
    (maximal_update("abcd", optimizer="sgd"), optax.sgd(0.5), False)]


@pytest.mark.slow
@pytest.mark.parametrize("parametrization, optimizer, is_adam", CASES,
                         ids=[f"{form.name}-{'adam' if is_adam else 'sgd'}" for form, _, is_adam in CASES])
def test_in_every_form_sizes_are_those_of_its_table(parametrization, optimizer, is_adam):
    """At steps 0 to 5: activations, parameters, and their changes, to a tenth."""
    check = checked(parametrization, optimizer, is_adam, steps=6)
    check.assert_ok(tol=0.1)
    assert {f.step for f in check.findings} == set(range(6)) and len(check.findings) > 150


# The first step's slopes in the limit of small rates, of three hidden layers and the readout. Standard: a
# hidden weight's update sums n aligned terms, each as large at every width with Adam (slope 1), and of the size
# of a gradient's entry, n^-½, with SGD (½); the readout sums over the last layer's change. Neural tangent:
# features move by n^-½, and so by less and less; what they add up to moves as far at every width.
# (Tensor Programs IV, arXiv 2011.14522, section 3; Tensor Programs V, arXiv 2203.03466, Appendix J.2.)
LAWS = {
    "standard-adam": (standard(), lambda s: adam(s * 2.0**-18), True, (0, 1, 1, 1.5)),
    "standard-sgd": (standard(), lambda s: optax.sgd(s * 2.0**-10), False, (-0.5, 0.5, 0.5, 1)),
    "tangent-sgd": (neural_tangent(), lambda s: optax.sgd(s * 2.0**-10), False, (-0.5, -0.5, -0.5, 0)),
    "μP-adam": (maximal_update(), lambda s: adam(s * 2.0**-14), True, (0, 0, 0, 0)),
    "μP-sgd": (maximal_update(), lambda s: optax.sgd(s * 2.0**-10), False, (0, 0, 0, 0)),
}
LAYERS = ("linear", "linear_1", "linear_2", "readout")


def assert_law(name, **kwargs):
    parametrization, optimizer, is_adam, expected = LAWS[name]
    slopes, halved = (moved(checked(parametrization, optimizer(s), is_adam, steps=2, **kwargs))
                      for s in (1.0, 0.5))
    for layer, slope in zip(LAYERS, expected):
        # Measured 0.95 and 1.34 where the limit has 1 and 1.5; elsewhere within 0.1.
        assert abs(slopes[layer] - slope) < (0.2 if slope == 1.5 else 0.1), slopes
        assert abs(slopes[layer] - halved[layer]) < 0.05, (slopes, halved)


@pytest.mark.slow
@pytest.mark.parametrize("name", LAWS)
def test_standard_blows_up_the_tangent_kernel_stands_still_and_mup_moves_everything(name):
    assert_law(name)


def test_features_of_the_tangent_kernel_stand_still():
    assert_law("tangent-sgd", widths=(64, 512), seeds=3)


def uneven(x, width):
    """Layers that grow like the width, and one between them like its sixth root."""
    x = jax.nn.relu(hk.Linear(width)(x.reshape(len(x), -1)))
    x = jax.nn.relu(hk.Linear(round(16 * (width / 64)**(1 / 6)), name="down")(x))
    x = jax.nn.relu(hk.Linear(width, name="up")(x))
    return haiku_mup.Readout(10)(x)


@pytest.mark.slow
def test_where_widths_grow_unequally_the_spectral_variant_stays_flat():
    """What the layer before moves is passed on × √(m_in / m_out): measured +0.13 and +0.18, and -0.02 twice."""
    plain, spectral = (checked(maximal_update(spectral=s), adam(2.0**-9), True, (64, 256, 1024, 4096), uneven)
                       for s in (False, True))
    assert not plain.ok and min(moved(plain)[layer] for layer in ("down", "up")) > 0.1
    assert max(abs(moved(spectral)[layer]) for layer in ("down", "up")) < 0.05
    spectral.assert_ok()


def shallow(x, width):
    return haiku_mup.Readout(10)(jax.nn.relu(hk.Linear(width)(x.reshape(len(x), -1))))


@pytest.mark.parametrize("parametrization, optimizer, is_adam, quantity, cause", [
    (standard(), adam(2.0**-10), True, "Δoutput", "training moves it more in a wider model"),
    (standard(), optax.sgd(0.5), False, "Δactivation linear", "training moves it less in a wider model"),
    (neural_tangent(), optax.sgd(0.5), False, "Δactivation linear", "training moves it less in a wider model"),
], ids=["standard-adam", "standard-sgd", "tangent-sgd"])
def test_other_tables_fail_by_what_they_make_of_activations_and_by_nothing_else(
        parametrization, optimizer, is_adam, quantity, cause):
    """Their own tables are right of parameters, and no excuse for features that blow up or stand still."""
    check = checked(parametrization, optimizer, is_adam, widths=(64, 256), network=shallow, steps=2)
    assert not check.ok and str(check).startswith(f"coordinate check of {parametrization.name}: failed")
    assert {f.quantity: f.cause for f in check.failures()}[quantity].startswith(cause)
    assert all("activation" in f.quantity or "output" in f.quantity for f in check.failures())
    updates = [f for f in check.findings if f.quantity.startswith("update ")]
    # Nothing says how standard's gradients shrink in SGD.
    assert bool(updates) == (parametrization == neural_tangent() or is_adam)
