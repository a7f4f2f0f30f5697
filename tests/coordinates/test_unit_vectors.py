"""Normalised vectors, such as CLIP's features: their entries shrink, and should; others may not."""
import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import haiku_mup
from haiku_mup.coordinates.array_stats import squared_norms

WIDTHS = [32, 64, 128, 256]
KEYS = jax.random.split(jax.random.PRNGKey(1), 3)
X = jax.random.normal(KEYS[0], (32, 16))
VIEWS = X, X + 0.5 * jax.random.normal(KEYS[1], X.shape)
OPTIMIZERS = {"adam": (optax.adam(2**-7), {}), "sgd": (optax.sgd(0.1), {"adam": False})}


def unit(x):
    return x / jnp.linalg.norm(x, axis=-1, keepdims=True)


def stable_unit(x):
    """Has an ε inside the root, as other libraries do."""
    return 3.0 * x * jax.lax.rsqrt(jnp.square(x).sum(-1, keepdims=True) + 1e-6)


def over_root(x):
    return x / x.shape[-1]**0.5


def of_the_batch(x):
    """Has a squared norm of 1 on average at any width, but not in each row."""
    return x / jnp.sqrt(jnp.square(x).mean(0, keepdims=True) * x.shape[-1])


def hidden(x, width):
    for _ in range(2):
        x = jax.nn.relu(hk.Linear(width)(x))
    return hk.Linear(width)(x)


def maker(function):
    """Returns make_model of function(x, width)."""
    def make_model(width):
        def fn(x):
            with haiku_mup.apply_mup():
                return function(x, width)
        return hk.transform(fn)
    return make_model


def features(normalise):
    """Returns make_model of features that are normalised, or not."""
    return maker(lambda x, width: normalise(hidden(x, width)))


def contrastive(apply, params, rng, batch):
    """The loss of SimCLR, of features of any size."""
    one, other = (unit(apply(params, rng, view)) for view in batch)
    return optax.softmax_cross_entropy_with_integer_labels(10 * one @ other.T, jnp.arange(len(one))).mean()


def cross_entropy(apply, params, rng, batch):
    labels = jnp.arange(len(batch[0])) % 10
    return optax.softmax_cross_entropy_with_integer_labels(apply(params, rng, batch[0]), labels).mean()


def check(make_model, optimizer="adam", loss=contrastive, **options):
    opt, kind = OPTIMIZERS[optimizer]
    return haiku_mup.coord_check(make_model, WIDTHS, VIEWS, loss, opt, seeds=4, steps=3, progress=False, **kind,
                                 **options)


def failing(found):
    """Returns the names of the quantities that fail."""
    return {finding.quantity.removeprefix("Δ") for finding in found.failures()}


# --- outputs ---

@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("normalise", [unit, stable_unit])
def test_unit_norm_features_pass(normalise, optimizer):
    found = check(features(normalise), optimizer)
    assert found.ok and not found.factors, found
    first, = (finding for finding in found.findings if (finding.quantity, finding.step) == ("output", 0))
    assert str(first.expected) == "-0.5" and first.slope == pytest.approx(-0.5, abs=0.05)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_features_that_the_loss_normalises_pass(optimizer):
    assert check(features(lambda x: x), optimizer).ok


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("shrink", [over_root, of_the_batch])
def test_features_that_shrink_for_another_reason_fail(shrink, optimizer):
    """Their norm differs from row to row, though its mean hardly depends on the width."""
    assert failing(check(features(shrink), optimizer)) == {"output"}


@pytest.mark.parametrize("normalise", [unit, lambda x: x])
def test_features_in_the_standard_parametrization_fail(normalise):
    found = check(features(normalise), parametrization="sp")
    assert "update linear_1/w" in failing(found) and "activation linear_1" in failing(found)


def test_features_whose_learning_rate_is_wrong_fail_with_sgd():
    """Gradients of features shrink with their number; that must not hide a rate that lacks its factor."""
    found = check(features(unit), "sgd", parametrization=lambda mup, model, optimizer: (
        mup.wrap_model(model), optimizer))
    assert "rate linear/b" in failing(found)


@pytest.mark.parametrize("shrink", [unit, over_root])
def test_a_fixed_number_of_outputs_that_shrink_fails(shrink):
    assert failing(check(features(lambda x: shrink(x)[:, :10]), loss=cross_entropy)) >= {"output"}


def test_features_of_low_precision_pass():
    make_model = maker(lambda x, width: unit(hidden(x, width)).astype(jnp.bfloat16))
    found = check(make_model)
    assert {str(f.expected) for f in found.findings if f.quantity == "output"} == {"-0.5"}
    assert not failing(found)


# --- modules inside ---

class Unit(hk.Module):
    def __call__(self, x):
        return unit(x)


def cosine_attention(x, width):
    """Attends over the rows of a batch by cosines: queries and keys are normalised, and there is no 1/√d."""
    h = jax.nn.relu(hidden(x, width))
    queries, keys = (Unit(name=name)(hk.Linear(width, name=f"{name}_projection")(h)) for name in ("q", "k"))
    return haiku_mup.Readout(10)(h + jax.nn.softmax(10 * queries @ keys.T) @ h)


def behind_a_layer(x, width):
    """Gives normalised vectors to a layer, which then sees too little in wide models."""
    h = jax.nn.relu(hk.Linear(width, name="behind")(Unit(name="q")(hidden(x, width))))
    return haiku_mup.Readout(10)(h)


def test_a_module_may_normalise_what_is_multiplied_by_the_like():
    found = check(maker(cosine_attention), loss=cross_entropy)
    assert not failing(found) and not found.factors, found
    assert {str(f.expected) for f in found.findings if f.quantity == "activation q"} == {"-0.5"}


def test_the_layer_behind_normalised_vectors_fails():
    found = check(maker(behind_a_layer), loss=cross_entropy)
    assert "activation behind" in failing(found) and "activation q" not in failing(found)
    assert found.factors


# --- the parts ---

class Positions(hk.Module):
    """A fixed table, whose rows have one norm: of size 1 in each entry, or shrinking with the width."""

    def __call__(self, x, width, shrinks):
        angles = jnp.arange(len(x))[:, None] / 100.0**(jnp.arange(width // 2) / (width // 2))[None]
        table = jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], axis=-1)
        return table / (width / 2)**0.5 if shrinks else table


@pytest.mark.parametrize("shrinks", [True, False])
def test_a_fixed_table_that_shrinks_is_no_unit_vector(shrinks):
    """Added to activations of size 1, it vanishes."""
    def positioned(x, width):
        x = hk.Linear(width)(x) + Positions(name="positions")(x, width, shrinks)
        return haiku_mup.Readout(4)(jax.nn.relu(hk.Linear(width)(jax.nn.relu(x))))

    def loss_fn(apply, params, rng, batch):
        return (apply(params, rng, batch)**2).mean()

    result = haiku_mup.coord_check(maker(positioned), WIDTHS, X, loss_fn, optax.adam(2**-7), steps=3, seeds=4,
                                   progress=False)
    failed = {finding.quantity for finding in result.failures()}
    assert ("activation positions" in failed) == shrinks and result.ok == (not shrinks)


def test_factors_of_the_width_are_none_in_the_outputs_own_norm():
    def left(function):
        return [f.power for f in haiku_mup.forward_factors(maker(function), [32, 128], X)]

    assert left(lambda x, w: unit(hidden(x, w))) == left(lambda x, w: stable_unit(hidden(x, w))) == []
    assert left(lambda x, w: over_root(hidden(x, w))) == pytest.approx([-0.5])
    assert left(lambda x, w: x.sum() * jnp.square(hidden(x, w)).sum(-1)) == pytest.approx([1])
    assert left(behind_a_layer) == pytest.approx([-0.5]) and left(cosine_attention) == []


def test_norms_are_those_of_rows():
    rows = np.array([[3.0, 4.0], [5.0, 0.0], [0.0, -1.0], [1.0, 0.0]])
    np.testing.assert_allclose(squared_norms(jnp.array(rows)), [13, 12])
    np.testing.assert_allclose(squared_norms(jnp.array(unit(rows))), [1, 0], atol=1e-6)
    np.testing.assert_allclose(squared_norms(jnp.array(2.0)), [4, 0])
