"""State that is drawn, such as a codebook that moving averages train: right, or told."""
import functools
import json
import math
import warnings

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from remedies import codes, declared, told
from small_models import KEY

import haiku_mup

X = jnp.ones((2, 6))


def model(codebook, width):
    def fn(x):
        with haiku_mup.apply_mup():
            return haiku_mup.Readout(3)(codebook(hk.Linear(width)(x), width))
    return hk.transform_with_state(fn)


def quantizer(x, width, codes=4096):
    return hk.nets.VectorQuantizerEMA(width, codes, 0.25, 0.9, name="vq")(x, True)["quantize"]


def own(x, width, shape, init):
    state = hk.get_state("own", shape(width), init=init)
    return x * state.mean()


def captured(codebook, mup, base=8, target=32, init=jax.eval_shape):
    with mup.init_base():
        jax.eval_shape(model(codebook, base).init, KEY, X)
    with mup.init_target():
        return init(model(codebook, target).init, KEY, X)


def drawn(init, *args):
    """Returns the state that an init draws, for which XLA leaves out all else."""
    return jax.jit(lambda *args: init(*args)[1])(*args)


def std(state):
    return float(state["vq"]["embeddings"].std())


def test_a_codebook_of_moving_averages_is_drawn_as_at_the_base():
    """Its codes are compared with activations, whose entries keep their size: std 1 / √8 at each width."""
    mup = haiku_mup.Mup()
    state = captured(quantizer, mup, init=drawn)
    wrapped = mup.wrap_model(model(quantizer, 32))
    params, eager = wrapped.init(KEY, X)
    for each in (state, eager, drawn(wrapped.init, KEY, X)):
        assert std(each) == pytest.approx(8**-0.5, rel=0.01)
    assert std(drawn(model(quantizer, 32).init, KEY, X)) == pytest.approx(32**-0.5, rel=0.01)
    assert [row.name for row in mup.table()] == ["linear/w", "linear/b", "readout/w", "readout/b"]
    out, after = jax.eval_shape(wrapped.apply, params, eager, None, X)
    assert out.shape == (2, 3) and after["vq"]["embeddings"].shape == (32, 4096)


def test_at_the_base_width_it_is_the_standard_draw():
    mup = haiku_mup.Mup()
    state = captured(quantizer, mup, 8, 8, drawn)
    for x, y in zip(jax.tree.leaves(state), jax.tree.leaves(drawn(model(quantizer, 8).init, KEY, X))):
        np.testing.assert_array_equal(x, y)


@pytest.mark.parametrize("form", ["table9", "mean_field"])
def test_each_form_draws_it_alike(form):
    mup = haiku_mup.Mup(parametrization=haiku_mup.maximal_update(form))
    assert std(captured(quantizer, mup, init=drawn)) == pytest.approx(8**-0.5, rel=0.01)


def test_standard_parametrization_leaves_it():
    mup = haiku_mup.Mup(parametrization=haiku_mup.standard())
    assert std(captured(quantizer, mup, init=drawn)) == pytest.approx(32**-0.5, rel=0.01)


def test_a_file_keeps_its_std():
    mup = haiku_mup.Mup()
    with mup.init_base():
        jax.eval_shape(model(quantizer, 8).init, KEY, X)
    again = haiku_mup.Mup.from_state_dict(json.loads(json.dumps(mup.state_dict())))
    with again.init_target():
        state = drawn(model(quantizer, 32).init, KEY, X)
    assert std(state) == pytest.approx(8**-0.5, rel=0.01)
    again.check(mup.state_dict())


def test_a_file_without_it_is_told_of():
    mup = haiku_mup.Mup()
    with mup.init_base():
        jax.eval_shape(model(quantizer, 8).init, KEY, X)
    mup._base = mup._base._replace(states={})               # as in a file of version 0.2.0
    again = haiku_mup.Mup.from_state_dict(mup.state_dict())

    def capture():
        with again.init_target():
            jax.eval_shape(model(quantizer, 32).init, KEY, X)

    with pytest.warns(haiku_mup.MupWarning, match="'vq/embeddings': target .*capture the base again"):
        capture()


FAN_IN = hk.initializers.VarianceScaling(1.0, "fan_in", "normal")


@pytest.mark.parametrize("shape, init, wanted", [
    (lambda width: (width, 4096), FAN_IN, [8**-0.5]),
    (lambda width: (width, 128 * width), FAN_IN, [32**-0.5, 8**-0.5]),
    (lambda width: (width, 128 * width), hk.initializers.RandomNormal(0.1), [0.05, 0.1]),
], ids=["codebook", "matrix", "matrix of one std"])
def test_state_of_ones_own_is_told_of_and_each_reading_is_right(shape, init, wanted):
    layer = functools.partial(own, shape=shape, init=init)
    mup = haiku_mup.Mup()
    (text,) = told(lambda mup: captured(layer, mup), mup)
    assert text.startswith("'~/own': base ") and "draw is left as it is" in text
    found = []
    for code in codes(text):
        mup = declared(code)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            state = captured(layer, mup, init=drawn)
        found.append(float(state["~"]["own"].std()))
    assert found == pytest.approx(wanted, rel=0.01)


@pytest.mark.parametrize("shape, init", [
    (lambda width: (4, width), hk.initializers.RandomNormal()), (lambda width: (width, width), jnp.zeros),
    (lambda width: (width,), lambda shape, dtype: jnp.full(shape, 0.1, dtype)), (lambda width: (4, 5), FAN_IN),
    (lambda width: (width,), lambda shape, dtype: hk.get_parameter("own", shape, init=jnp.zeros))],
    ids=["a vector of one std", "zeros", "constants", "what doesn't grow", "what asks Haiku"])
def test_state_that_is_right_is_quiet(shape, init):
    layer = functools.partial(own, shape=shape, init=init)
    assert told(lambda mup: captured(layer, mup)) == []


def test_spectral_norm_is_quiet():
    def norm(x, width):
        w = hk.get_parameter("w", (width, width), init=FAN_IN)
        return x @ hk.SpectralNorm()(w)

    assert told(lambda mup: captured(norm, mup), haiku_mup.Mup(fans={"~/w": (0, 1)})) == []


def test_the_codes_of_a_wide_model_are_as_far_from_activations_as_at_the_base():
    """The share of codes in use, at the start: that of the base, where the standard one is another."""
    def in_use(init, width):
        x = jax.random.normal(KEY, (2048, 6))
        codes = drawn(init, KEY, x)["vq"]["embeddings"]
        return float(jnp.linalg.norm(codes, axis=0).mean()) / math.sqrt(width)

    few = functools.partial(quantizer, codes=64)
    mup = haiku_mup.Mup()
    captured(few, mup)
    base, standard = (in_use(model(few, width).init, width) for width in (8, 32))
    assert in_use(mup.wrap_model(model(few, 32)).init, 32) == pytest.approx(base, rel=0.1)
    assert standard < 0.6 * base
