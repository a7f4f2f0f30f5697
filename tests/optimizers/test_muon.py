"""Muon: how its updates scale by shape, and which parameters it takes."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from small_models import KEY, MODELS, captured, mlp

import haiku_mup

X = MODELS["mlp"][1]
contrib = optax.contrib


@pytest.mark.parametrize("kwargs, factor", [
    ({"consistent_rms": 0.2}, 0.5), pytest.param({}, 1.0, marks=pytest.mark.slow),
    pytest.param({"learning_rate": optax.linear_schedule(0.0, 1.0, 3)}, 1.0, marks=pytest.mark.slow)])
def test_muons_scale_by_shape_is_found_out(kwargs, factor):
    """With consistent_rms a hidden weight's factor is m^-½; and it is found under a schedule, too."""
    params = mlp(32).init(KEY, X)
    grads = jax.tree.map(jnp.cos, params)
    mup = captured(mlp, X)
    plain = contrib.muon(**{"learning_rate": 1.0, **kwargs}, muon_weight_dimension_numbers=mup.muon_dimensions)
    found = []
    for o in (mup.wrap_optimizer(plain, rule="muon"), plain):
        state = jax.jit(o.init)(params)
        for _ in range(2):
            update, state = jax.jit(o.update)(grads, state, params)
        found.append(update["linear_1"]["w"])
    np.testing.assert_allclose(found[0], factor * found[1], rtol=1e-5, atol=1e-9)


def stacked():
    make, x = MODELS["stack"]
    return captured(make, x), make(32).init(KEY, x)


def test_muon_without_dimensions_in_a_stack_is_refused():
    mup, params = stacked()
    with pytest.raises(haiku_mup.MupError, match="not a matrix in one layer.*muon_dimensions"):
        mup.wrap_optimizer(contrib.muon(1.0), rule="muon").init(params)


@pytest.mark.slow
def test_muon_with_dimensions_takes_each_layer_of_a_stack():
    mup, params = stacked()
    opt = mup.wrap_optimizer(contrib.muon(1.0, muon_weight_dimension_numbers=mup.muon_dimensions), rule="muon")
    update, _ = opt.update(jax.tree.map(jnp.ones_like, params), opt.init(params), params)
    wide, high = (jnp.linalg.norm(update[f"__layer_stack_no_per_layer/{name}"]["w"], axis=(1, 2))
                  for name in ("linear_1", "linear"))
    np.testing.assert_allclose(wide / high, [2**0.5] * 3, rtol=1e-5)    # √max(1, out / in), in each layer


def test_inject_hyperparams_must_know_that_the_dimensions_are_no_schedule():
    make, x = MODELS["tied"]
    mup, params = captured(make, x), make(32).init(KEY, x)
    for static_args in ((), ("muon_weight_dimension_numbers",)):
        make_muon = optax.inject_hyperparams(contrib.muon, static_args=static_args)
        muon = make_muon(0.02, muon_weight_dimension_numbers=mup.muon_dimensions)
        if static_args:
            mup.wrap_optimizer(muon, rule="muon").init(params)
        else:
            with pytest.raises(haiku_mup.MupError, match="takes a function for a schedule.*static_args"):
                mup.wrap_optimizer(muon, rule="muon").init(params)


def test_muon_takes_whole_kernels_and_leaves_embeddings_to_adam():
    make, x = MODELS["cnn"]
    found = captured(make, x).muon_dimensions(make(32).init(KEY, x))
    taken = {f"{m}/{n}": tuple(d) for m, ds in found.items() for n, d in ds.items() if d}
    assert taken == {"conv2_d_transpose/w": ((0, 1, 3), (2,))}
    make, x = MODELS["tied"]
    found = captured(make, x).muon_dimensions(make(32).init(KEY, x))
    assert found["linear"]["w"] and found["shared_embed"]["embeddings"] is None


def test_what_is_no_muon_is_refused():
    mup = captured(mlp, X)
    params = mlp(32).init(KEY, X)
    with pytest.raises(haiku_mup.MupError, match="no MuonState"):
        mup.wrap_optimizer(optax.adam(0.1), rule="muon").init(params)


def by_shape(law):
    """Returns a transform that multiplies matrices [n_in, n_out] by law(n_in, n_out)."""
    def scaled(update):
        return update * law(*update.shape) if update.ndim == 2 else update
    return optax.stateless(lambda updates, _: jax.tree.map(scaled, updates))


def muon_alone(mup, law, **kwargs):
    """Returns Muon without a scale by shape of its own, which takes hidden weights, and a law behind it."""
    def numbers(tree):
        return jax.tree.map(lambda x: contrib.MuonDimensionNumbers((0,), (1,)), tree)

    def labels(tree):
        taken = mup.muon_dimensions(tree)
        return {m: {n: "muon" if taken[m][n] else "adam" for n in bundle} for m, bundle in tree.items()}

    muon = optax.chain(contrib.scale_by_muon(weight_dimension_numbers=numbers, **kwargs), by_shape(law),
                       optax.scale(-1e-2))
    return optax.partition({"muon": muon, "adam": optax.adam(1e-3)}, labels)


@pytest.mark.parametrize("law, factor", [
    (lambda n_in, n_out: (n_out / n_in)**0.5, 1.0), (lambda n_in, n_out: max(n_in, n_out)**0.5, 0.5)])
def test_a_law_of_ones_own_is_found_if_it_is_a_known_one(law, factor):
    """√(fan_out / fan_in), of Dion, Scion and Modula, has factor 1; √max is that of consistent_rms, m^-½."""
    mup, params = captured(mlp, X), mlp(32).init(KEY, X)
    plain, grads = muon_alone(mup, law), jax.tree.map(jnp.cos, params)
    found, expected = (o.update(grads, o.init(params), params)[0]["linear_1"]["w"]
                       for o in (mup.wrap_optimizer(plain, rule="muon"), plain))
    np.testing.assert_allclose(found, factor * expected, rtol=1e-5, atol=1e-9)


def test_laws_without_a_rule_are_refused_and_nothing_is_asked_for_that_was_given():
    mup, params = captured(mlp, X), mlp(32).init(KEY, X)
    for law in (lambda n_in, n_out: n_out, lambda n_in, n_out: (n_in * n_out)**0.5):
        with pytest.raises(haiku_mup.MupError, match="no rule; take out what scales") as error:
            mup.wrap_optimizer(muon_alone(mup, law), rule="muon").init(params)
        assert "muon_dimensions" not in str(error.value)
    ours = contrib.muon(0.02, adaptive=True, muon_weight_dimension_numbers=mup.muon_dimensions)
    with pytest.raises(haiku_mup.MupError, match="twice the gradient.*leave adaptive=True out") as error:
        mup.wrap_optimizer(ours, rule="muon").init(params)
    assert "muon_dimensions" not in str(error.value)
    everything = optax.chain(contrib.muon(1.0), by_shape(lambda n_in, n_out: n_out))    # readouts, too
    with pytest.raises(haiku_mup.MupError, match="no rule; give it .*muon_dimensions"):
        mup.wrap_optimizer(everything, rule="muon").init(params)


def test_a_trial_that_fails_says_why():
    mup, params = captured(mlp, X), mlp(32).init(KEY, X)
    needs_many = optax.stateless(lambda u, _: jax.tree.map(lambda x: x.reshape(-1, 6), u))
    muon = optax.chain(contrib.muon(0.1, muon_weight_dimension_numbers=mup.muon_dimensions), needs_many)
    with pytest.raises(haiku_mup.MupError, match="scales its updates: on small arrays it raises TypeError"):
        mup.wrap_optimizer(muon, rule="muon").init(params)


def test_muon_with_a_traced_rate_and_with_injected_ones_is_right():
    mup = captured(mlp, X)
    params = mlp(32).init(KEY, X)
    grads = jax.tree.map(jnp.ones_like, params)

    def update(lr):
        muon = contrib.muon(lr, muon_weight_dimension_numbers=mup.muon_dimensions)
        optimizer = mup.wrap_optimizer(muon, rule="muon")
        return optimizer.update(grads, optimizer.init(params), params)[0]

    for traced, known in zip(*map(jax.tree.leaves, (jax.jit(update)(0.1), update(0.1)))):
        np.testing.assert_allclose(traced, known, rtol=1e-5)
    injected = optax.inject_hyperparams(contrib.muon)(learning_rate=0.1)
    assert mup.wrap_optimizer(injected, rule="muon").init(params)
