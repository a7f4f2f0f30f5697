"""Coordinate sizes over the number of blocks, from 2 to 64: flat with an α, and not without one."""
import functools

import haiku as hk
import jax
import jax.numpy as jnp
import optax
import pytest

import haiku_mup

BLOCKS = (2, 4, 16, 64)
# The MLP is wider than deep: else what SGD makes of products of so many random layers grows with the depth.
WIDTHS, HEADS = {"mlp": 128, "transformer": 32}, 4
HE = hk.initializers.VarianceScaling(2.0)
IMAGES = jax.random.normal(jax.random.PRNGKey(1), (32, 4, 4))
LABELS = jnp.arange(32) % 10


def matrices(params):
    """For Muon: the matrices of each block; all else is Adam's."""
    matrix = optax.contrib.MuonDimensionNumbers((1,), (2,))
    return {module: {name: matrix if "layer_stack" in module and name == "w" else None for name in bundle}
            for module, bundle in params.items()}


# rule, optimizer: with small rates, so that nothing is as large as it can be, behind a norm, in a deep model
OPTIMIZERS = {
    "adam": ("adam", optax.adam(2.0**-10)), "adamw": ("adam", optax.adamw(2.0**-10, weight_decay=0.1)),
    "sgd": ("sgd", optax.sgd(2.0**-5)), "adagrad": ("any", optax.adagrad(2.0**-8)),
    "adafactor": ("adafactor", optax.adafactor(2.0**-5, min_dim_size_to_factor=1)),
    "lamb": ("lamb", optax.lamb(2.0**-7)),
    "lars": ("lars", optax.lars(2.0**-7, trust_coefficient=1.0, momentum=0.5)),
    "muon": ("muon", optax.contrib.muon(2.0**-6, adam_learning_rate=2.0**-9,
                                        muon_weight_dimension_numbers=matrices)),
    "novograd": ("novograd", optax.novograd(2.0**-5)),
}


def norm(x):
    return hk.LayerNorm(-1, create_scale=True, create_offset=True)(x)


def hidden(x):
    y = hk.Linear(2 * x.shape[-1], w_init=HE, name="up")(norm(x))
    return hk.Linear(x.shape[-1], w_init=HE, name="down")(jax.nn.relu(y))


def attention(x):
    y = norm(x)
    return haiku_mup.MultiHeadAttention(HEADS, x.shape[-1] // HEADS, w_init=HE, name="attention")(y, y, y)


BRANCHES = {"mlp": [hidden], "transformer": [attention, hidden]}


def make_model(network, blocks):
    """A residual network of so many blocks, over rows of an image."""
    def block(x):
        for branch in BRANCHES[network]:
            x = haiku_mup.residual(x, branch)
        return x

    def fn(x):
        with haiku_mup.apply_mup():
            x = hk.layer_stack(blocks)(block)(hk.Linear(WIDTHS[network])(x))
            return haiku_mup.Readout(10)(norm(x).mean(1))

    return hk.transform(fn)


def loss_fn(apply, params, rng, batch):
    x, labels = batch
    return optax.softmax_cross_entropy_with_integer_labels(apply(params, rng, x), labels).mean()


def checked(network, alpha, optimizer, blocks=BLOCKS, **kwargs):
    table, (rule, opt) = haiku_mup.maximal_update(depth_alpha=alpha), OPTIMIZERS[optimizer]
    return haiku_mup.coord_check(
        functools.partial(make_model, network), blocks, (IMAGES, LABELS), loss_fn, opt,
        parametrization=table, rule=rule, progress=False, **{"steps": 4, "seeds": 8} | kwargs)


@pytest.mark.slow
def test_few_blocks_are_flat_with_an_alpha_and_not_without():
    few = {"blocks": (2, 16), "steps": 2, "seeds": 2}
    checked("mlp", 0.5, "adam", **few).assert_ok()
    assert not checked("mlp", 0.0, "adam", **few).ok


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("alpha", [0.5, 1.0])
@pytest.mark.parametrize("network", BRANCHES)
def test_sizes_are_flat_over_depths(network, alpha, optimizer):
    check = checked(network, alpha, optimizer)
    check.assert_ok()
    assert {finding.step for finding in check.findings} == set(range(4))


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", ["adam", "adamw", "lamb", "muon", "novograd"])
@pytest.mark.parametrize("network", BRANCHES)
def test_sizes_are_not_flat_without_an_alpha(network, optimizer):
    """Of SGD's kind gradients differ too much from draw to draw, as blocks amplify one another, to tell."""
    assert not checked(network, 0.0, optimizer).ok
