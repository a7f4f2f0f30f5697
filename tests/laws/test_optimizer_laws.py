"""Coordinate sizes with each rule for optimizers: flat over widths, and not with the neighbouring rule."""
import haiku as hk
import jax
import optax
import pytest
from mutants import IMAGES, LABELS, loss_fn, make, mlp

import haiku_mup

WIDTHS = (64, 128, 256, 512, 1024, 2048)        # 2⁶ … 2¹¹
INIT = hk.initializers.VarianceScaling()


def transformer(x, width):
    """One pre-norm block of attention and a hidden layer, over rows."""
    x = hk.Linear(width)(x)
    y = hk.LayerNorm(-1, True, True)(x)
    x = x + haiku_mup.MultiHeadAttention(4, width // 4, w_init=INIT)(y, y, y)
    y = hk.LayerNorm(-1, True, True)(x)
    x = x + hk.Linear(width, name="down")(jax.nn.relu(hk.Linear(2 * width, name="up")(y)))
    return haiku_mup.Readout(10)(hk.LayerNorm(-1, True, True)(x).mean(1))


class Dimensions:
    """Muon on hidden weights alone: the dimensions are those of a Mup that has captured this width."""

    def __init__(self, **kwargs):
        self.kwargs = kwargs

    def __call__(self, rule):
        def parametrize(mup, model, optimizer):
            muon = optax.contrib.muon(2.0**-4, adam_learning_rate=2.0**-7, **self.kwargs,
                                      muon_weight_dimension_numbers=mup.muon_dimensions)
            return mup.wrap_model(model), mup.wrap_optimizer(muon, rule=rule)
        return parametrize


# rule, optimizer or what makes a parametrization of a rule, a neighbouring rule
CASES = {
    "adafactor": ("adafactor", optax.adafactor(2.0**-5, min_dim_size_to_factor=1), "adam"),
    "lamb": ("lamb", optax.lamb(2.0**-5), "adam"),
    "lars": ("lars", optax.lars(2.0**-5, trust_coefficient=1.0, momentum=0.5), "sgd"),
    "muon": ("muon", optax.contrib.muon(2.0**-4, adam_learning_rate=2.0**-7), "adam"),
    "muon of hidden weights": ("muon", Dimensions(), "adam"),
    "muon by rms": ("muon", Dimensions(consistent_rms=0.2), "adam"),
    "novograd": ("novograd", optax.novograd(2.0**-3), "adam"),
    "adagrad": ("any", optax.adagrad(2.0**-6), "adam"),
    "yogi": ("any", optax.yogi(2.0**-7), "adam"),               # its second moments do not begin at zero
    "radam": ("any", optax.radam(2.0**-7), "adam"),             # it begins as SGD
    "momo": ("momo", optax.contrib.dowg(), "adam"),             # one step size for all: SGD's own
    "adam": ("adam", optax.adam(2.0**-7, eps=1e-12), "sgd"),
    "sgd": ("sgd", optax.sgd(2.0**-2), "adam"),
}


def checked(name, rule, network=mlp, widths=WIDTHS, **kwargs):
    optimizer = CASES[name][1]
    if isinstance(optimizer, Dimensions):
        kwargs["parametrization"], optimizer = optimizer(rule), optax.adam(0.1)
    return haiku_mup.coord_check(make(network), widths, (IMAGES, LABELS), loss_fn, optimizer, rule=rule,
                                 progress=False, **{"steps": 6, "seeds": 3} | kwargs)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::haiku_mup.MupWarning")
def test_lamb_is_flat_with_its_rule_and_not_with_adams():
    few = {"widths": (64, 256), "steps": 2, "seeds": 5}     # fewer leave activations uncertain
    checked("lamb", "lamb", **few).assert_ok()
    assert not checked("lamb", "adam", **few).ok


@pytest.mark.slow
@pytest.mark.parametrize("network", [mlp, transformer])
@pytest.mark.parametrize("name", CASES)
def test_sizes_are_flat_with_the_right_rule(name, network):
    """At steps 0 to 5, over widths 2⁶ to 2¹¹; to 2¹⁰ for a transformer with Muon, which takes long."""
    short = network is transformer and CASES[name][0] == "muon"
    check = checked(name, CASES[name][0], network, WIDTHS[:5] if short else WIDTHS)
    check.assert_ok()
    assert {finding.step for finding in check.findings} == set(range(6))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::haiku_mup.MupWarning")
@pytest.mark.parametrize("network", [mlp, transformer])
@pytest.mark.parametrize("name", CASES)
def test_sizes_are_not_flat_with_the_neighbouring_rule(name, network):
    check = checked(name, CASES[name][2], network, widths=WIDTHS[:4], steps=3)
    assert not check.ok, str(check)
