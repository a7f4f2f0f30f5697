"""The std of every initializer, and of what it gives at the target, by class × role × ratio."""
import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_models import KEY, entry, one

import haiku_mup
from haiku_mup import rules
from haiku_mup.parameters.initializers import ENTRIES, moments

init = hk.initializers


def custom(shape, dtype):
    """An initializer of a user's own: Laplace's distribution, std 0.03 at any shape."""
    return 0.03 / np.sqrt(2) * jax.random.laplace(hk.next_rng_key(), shape, dtype)


def custom_fan_in(shape, dtype):
    return jax.random.normal(hk.next_rng_key(), shape, dtype) / np.sqrt(shape[0])


DRAWN = {
    "truncated": init.TruncatedNormal(0.02),
    "truncated to a side": init.TruncatedNormal(0.02, lower=-1.0, upper=1.0),
    "normal": init.RandomNormal(0.02),
    "uniform": init.RandomUniform(-0.1, 0.1),
    "uniform scaling": init.UniformScaling(2.0),
    "orthogonal": init.Orthogonal(1.5),
    "orthogonal, axis 0": init.Orthogonal(axis=0),
    "custom": custom,
    "custom fan-in": custom_fan_in,
    **{f"{mode} {kind}": init.VarianceScaling(2.0, mode, kind)
       for mode in ("fan_in", "fan_out", "fan_avg")
       for kind in ("truncated_normal", "normal", "uniform")},
}
FIXED = {
    "zeros": jnp.zeros,
    "zero": init.Constant(0.0),
    "identity": init.Identity(),
    "given": lambda shape, dtype: jnp.sin(jnp.arange(shape[0] * shape[1], dtype=dtype)).reshape(shape),
}
# role -> (shape at the base, shape at the target, the layer's class)
ROLES = {
    "hidden": ((32, 48), (128, 96), hk.Linear),
    "hidden, narrower": ((64, 64), (32, 16), hk.Linear),
    "input": ((20, 32), (20, 128), hk.Linear),
    "output": ((32, 20), (128, 20), haiku_mup.Readout),
    "fixed": ((24, 20), (24, 20), hk.Linear),
}


@pytest.fixture(autouse=True)
def _rank_promotion():
    with jax.numpy_rank_promotion("allow"):     # Haiku's Orthogonal multiplies (r, c) by (c,)
        yield


def weights(initializer, base, target, layer, keys):
    """The target's weights as the plain initializer draws them, and as they come out in μP."""
    def fn(x, shape):
        with haiku_mup.apply_mup():
            return layer(shape[1], w_init=initializer, with_bias=False, name="layer")(x)

    base, target = (hk.transform(lambda shape=shape: fn(jnp.ones((1, shape[0])), shape))
                    for shape in (base, target))
    mup = haiku_mup.Mup()
    with mup.init_base():
        jax.eval_shape(base.init, KEY)
    with mup.init_target():
        jax.eval_shape(target.init, KEY)
    draw = [np.stack([f.init(k)["layer"]["w"] for k in keys])
            for f in (target, mup.wrap_model(target))]
    return *draw, mup.table()[0]


@pytest.mark.filterwarnings("ignore:.*its fan-in grows × 0.5, and no layer.s output does")  # of one layer
@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("name", DRAWN)
def test_std_at_the_target(name, role, x64):
    """μP's draw is the plain draw, times σ_base · factor / σ_target: exact where σ is known."""
    shape_base, shape_target, layer = ROLES[role]
    initializer = DRAWN[name]
    plain, ours, row = weights(initializer, shape_base, shape_target, layer, jax.random.split(KEY, 2))
    m_in = shape_target[0] / shape_base[0]
    factor = m_in**-0.5 if role.startswith("hidden") else 1.0
    base, target = (moments(initializer, s, jnp.float64).std for s in (shape_base, shape_target))
    np.testing.assert_allclose(ours, plain * (base * factor / target), rtol=1e-12)
    assert row.base_std == base
    assert row.target_std == pytest.approx(base * factor, rel=1e-12)
    assert row.role == role.partition(",")[0]


@pytest.mark.parametrize("name", DRAWN)
def test_moments_agree_with_draws(name):
    """σ as it is read off attributes (or measured) is that of independent draws, to 4 errors."""
    shape, n = (32, 48), 200
    f = hk.transform(lambda: DRAWN[name](shape, jnp.float32))
    x = np.stack([f.apply({}, k) for k in jax.random.split(KEY, n)]).astype(np.float64)
    m = moments(DRAWN[name], shape, jnp.float32)
    assert m.drawn and m.centred
    # the error of a std from 307,200 entries is at most 0.13 % (normal; less for bounded draws, 0.2 %
    # for Laplace's), that of the measured one 0.28 %, or 0.4 %
    tolerance = 4 * (2e-3 + 1.5 * m.error)
    assert x.std() == pytest.approx(m.std, rel=tolerance)


@pytest.mark.parametrize("initializer, mean, std", [
    (init.RandomNormal(0.5, mean=2.0), 2.0, 0.5),
    (init.RandomUniform(0.0, 1.0), 0.5, 12**-0.5),
    (init.TruncatedNormal(2.0, lower=-np.inf, upper=np.inf), 0.0, 2.0),
    (init.TruncatedNormal(1.0), 0.0, 0.87962566103423978),      # scipy.stats.truncnorm.std(-2, 2)
    (init.TruncatedNormal(1.0, lower=0.0, upper=np.inf), (2 / np.pi)**0.5, (1 - 2 / np.pi)**0.5),
    (init.Constant(3.0), 3.0, 0.0),
    (jnp.ones, 1.0, 0.0),
])
def test_moments_by_hand(initializer, mean, std):
    m = moments(initializer, (16, 8), jnp.float32)
    assert (m.mean, m.std) == (pytest.approx(mean, rel=1e-14, abs=1e-15), pytest.approx(std, rel=1e-14))


@pytest.mark.parametrize("name", FIXED)
def test_deterministic_initializers_are_left_alone(name):
    with pytest.warns(haiku_mup.MupWarning) if name == "given" else jax.numpy_rank_promotion("raise"):
        plain, ours, _ = weights(FIXED[name], (32, 32), (128, 128), hk.Linear, [KEY])
    assert (plain == ours).all()
    assert not moments(FIXED[name], (32, 32), jnp.float32).drawn


FEW = [init.Constant(0.1), jnp.ones, init.RandomUniform()]


@pytest.mark.parametrize("initializer", [
    *FEW, init.RandomNormal(mean=0.1),
    init.TruncatedNormal(mean=0.1), init.TruncatedNormal(lower=-1.0, upper=2.0),
    lambda s, d: jax.random.normal(hk.next_rng_key(), s, d) + 0.1])
def test_a_mean_on_a_hidden_weight_is_an_error(initializer):
    with pytest.raises(haiku_mup.MupError, match=r"'layer/w': base \(8, 8\), target \(32, 32\): .*mean"):
        weights(initializer, (8, 8), (32, 32), hk.Linear, [KEY])
    for role in ("input", "output", "fixed") if initializer in FEW else ():      # where it does no harm
        weights(initializer, *ROLES[role], [KEY])


def test_unknown_initializers_are_measured_with_the_same_keys_and_enough_entries():
    seen = []

    def spy(shape, dtype):
        x = jax.random.normal(hk.next_rng_key(), shape, dtype)
        if not isinstance(x, jax.core.Tracer):
            seen.append(x)
        return x

    small = moments(spy, (100, 200), jnp.float32)
    assert sum(x.size for x in seen) >= ENTRIES and len(seen) == 4
    assert moments(spy, (100, 200), jnp.float32) == small
    assert 0 < moments(spy, (7,), jnp.bfloat16).error <= (2 * ENTRIES)**-0.5


@pytest.mark.slow
def test_unknown_initializers_inside_a_trace_are_measured_eagerly():
    make, x = one(entry("w", lambda width: (6, width), custom))
    stds = []
    for transform in (lambda f: f, jax.jit, lambda f: lambda k, x: jax.vmap(f, (0, None))(k[None], x)):
        mup = haiku_mup.Mup()
        with mup.init_base():
            jax.eval_shape(make(8).init, KEY, x)
        with mup.init_target():
            transform(make(32).init)(KEY, x)
        stds.append([(r.base_std, r.target_std) for r in mup.table()])
    assert stds[0] == stds[1] == stds[2]


def test_no_memory_is_taken_for_haikus_initializers_under_eval_shape():
    make, x = one(lambda x, width: hk.Linear(width)(hk.Linear(width)(x)))
    mup = haiku_mup.Mup()
    with mup.init_base():
        jax.eval_shape(make(64).init, KEY, x)
    with mup.init_target():         # 4 TB of weights
        jax.eval_shape(make(2**20).init, KEY, x)
    assert mup.lr_scales()["linear"]["w"] == 64 / 2**20


def test_a_bias_whose_std_depends_on_fan_in_keeps_the_bases_std(x64):
    """As PyTorch draws biases: uniform within 1 / √fan_in."""
    def layer(x, width):
        for name, size in (("hidden", width), ("readout", 5)):
            bound = x.shape[-1]**-0.5
            b_init = init.RandomUniform(-bound, bound)
            cls = hk.Linear if name == "hidden" else haiku_mup.Readout
            x = cls(size, b_init=b_init, name=name)(x)
        return x

    make, x = one(layer)
    mup = haiku_mup.Mup()
    with mup.init_base():
        jax.eval_shape(make(8).init, KEY, x)
    with mup.init_target():
        params = make(32).init(KEY, x)
    rows = {row.name: row for row in mup.table()}
    assert rows["readout/b"].target_std == rows["readout/b"].base_std == (8**-0.5 / 3**0.5)
    plain = make(32).init(KEY, x)
    np.testing.assert_allclose(params["readout"]["b"], 2 * plain["readout"]["b"], rtol=1e-12)
    np.testing.assert_array_equal(params["hidden"]["b"], plain["hidden"]["b"])


def test_rounding_of_symmetric_bounds_is_no_mean():
    assert moments(init.RandomUniform(-3 * 0.1, 0.3), (8, 8), jnp.float32).centred
    assert not moments(init.RandomUniform(-0.3, 0.301), (8, 8), jnp.float32).centred


def test_a_given_array_that_is_almost_constant():
    nearly = np.full((8, 8), 0.1, np.float32)
    nearly[0, 0] = np.nextafter(nearly[0, 0], 1)
    assert 0 <= moments(lambda s, d: nearly, (8, 8), jnp.float32).std < 1e-7


def test_a_random_sign_is_drawn():
    signs = moments(lambda s, d: jax.random.rademacher(hk.next_rng_key(), s, d), (1,), jnp.float32)
    assert signs.drawn and signs.std == pytest.approx(1.0, rel=0.05)     # of at least 2¹⁰ draws


def test_rules_and_rescaling_agree():
    assert rules.rescale(1.0, 0.5, haiku_mup.maximal_update().factors("hidden", 4.0, 4.0).init) == 1.0
