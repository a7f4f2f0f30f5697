"""What runs and is probably not meant: warnings about a whole model, and their quiet twins."""
import warnings

import haiku as hk
import jax
import jax.numpy as jnp
import pytest
from small_models import KEY, MODELS, captured, entry, one

import haiku_mup

normal = hk.initializers.RandomNormal(0.1)


def quiet(make, inputs, **sizes):
    """The capture's rows, where nothing warns."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return {row.name: row for row in captured(make, inputs, **sizes).table()}


@pytest.mark.parametrize("name", MODELS)
def test_good_models_are_quiet(name):
    assert quiet(*MODELS[name])


# --- fan-ins that grow by a ratio of their own ---

def concatenated(x, width):
    h = hk.Linear(width)(x)
    return haiku_mup.Readout(3)(hk.Linear(width, name="mixed")(jnp.concatenate([h, x], -1)))


def test_a_concatenation_of_a_growing_and_a_fixed_part():
    """8 + 6 features grow to 32 + 6: neither the rows of h nor those of x have factors that are right."""
    with pytest.warns(haiku_mup.MupWarning, match=r"'mixed/w': base \(14, 8\), target \(38, 32\).* × 2\.714"):
        captured(*one(concatenated))


def test_its_remedy_is_quiet():
    def added(x, width):
        h = hk.Linear(width)(x)
        both = hk.Linear(width, name="of_h")(h) + hk.Linear(width, with_bias=False, name="of_x")(x)
        return haiku_mup.Readout(3)(both)

    rows = quiet(*one(added))
    assert (rows["of_h/w"].role, rows["of_x/w"].role) == ("hidden", "input")


def test_a_readout_of_a_concatenation():
    with pytest.warns(haiku_mup.MupWarning, match="'readout/w'.* concatenation"):
        captured(*one(lambda x, w: haiku_mup.Readout(3)(jnp.concatenate([hk.Linear(w)(x), x], -1))))


@pytest.mark.parametrize("layer", [
    lambda x, w: hk.Linear(w)(jnp.concatenate([hk.Linear(w)(x), hk.Linear(2 * w)(x)], -1)),
    lambda x, w: hk.Linear(w)(jnp.concatenate([hk.Linear(w * w)(x), hk.Linear(w * w)(x)], -1)),
    lambda x, w: hk.Linear(w)(hk.Linear(w * w)(x).reshape(2, w, w)),                # a quotient of two
    lambda x, w: hk.Linear(w)(jnp.einsum("bi,bj->bij", hk.Linear(w)(x), hk.Linear(2 * w)(x)).reshape(2, -1)),
    lambda x, w: hk.Linear(w)(hk.Flatten()(hk.Conv2D(w, 3)(jnp.ones((2, 4, 4, 1)) * x.mean()))),
    lambda x, w: hk.Linear(w)(jax.nn.glu(hk.Linear(2 * w)(x))),
    lambda x, w: hk.LSTM(w)(x, hk.LSTM(w).initial_state(2))[0],
], ids=["alike", "squares", "heads", "outer product", "flattened", "gated", "lstm"])
def test_ratios_that_layers_have_are_quiet(layer):
    assert quiet(*one(layer))


def test_inputs_that_grow():
    make, _ = one(lambda x, w: hk.Linear(w)(hk.Linear(2 * w)(jnp.ones((2, w * w * w)))))
    with pytest.warns(haiku_mup.MupWarning, match="'linear_1/w'.* × 64"):
        captured(make, jnp.ones((2, 6)))


# --- ties that nobody uses ---

def test_a_shared_embedding_without_a_shared_readout():
    def fn(ids, width):
        embed = haiku_mup.SharedEmbed(11, width)
        return hk.Linear(width)(embed(ids)) @ embed.embeddings.T

    with pytest.warns(haiku_mup.MupWarning, match=r"'shared_embed/embeddings'.*no SharedReadout reads"):
        captured(one(fn)[0], jnp.arange(6).reshape(2, 3))


@pytest.mark.parametrize("by_weights", [False, True])
def test_a_shared_embedding_with_one_is_quiet(by_weights):
    def fn(ids, width):
        embed = haiku_mup.SharedEmbed(11, width)
        x = hk.Linear(width)(embed(ids))
        return haiku_mup.SharedReadout()(embed.get_weights() if by_weights else embed, x)

    make, ids = one(fn)[0], jnp.arange(6).reshape(2, 3)
    assert quiet(make, ids) and quiet(make, ids, base=8, target=8)


# --- guesses ---

@pytest.mark.parametrize("shape, role, marked", [
    (lambda w: (w,), "input", True), (lambda w: (5, w), "input", True), (lambda w: (w, w), "hidden", True),
    (lambda w: (5,), "fixed", False)])
def test_a_drawn_parameter_of_ones_own_is_marked_where_it_grows(shape, role, marked):
    (row,) = quiet(*one(entry("w", shape, normal))).values()
    assert (row.role, row.inferred) == (role, marked)


@pytest.mark.parametrize("shape, init", [
    (lambda w: (w,), jnp.ones), (lambda w: (w,), jnp.zeros), (lambda w: (5, w), jnp.ones)])
def test_it_is_marked_whatever_its_initial_value(shape, init):
    (row,) = quiet(*one(entry("w", shape, init))).values()
    assert (row.role, row.inferred) == ("input", True)


def test_parameters_of_haikus_layers_are_not_marked_and_those_of_their_subclasses_are():
    class Own(hk.Linear):
        """A subclass."""

        def __call__(self, inputs):
            return super().__call__(inputs) * hk.get_parameter("gain", (self.output_size,), init=jnp.ones)[None]

    rows = quiet(*one(lambda x, w: Own(w, b_init=normal)(hk.GRU(w)(x, jnp.zeros((2, w)))[0])))
    assert {name for name, row in rows.items() if row.inferred} == {"own/gain"}


def test_fans_around_layers_hold_for_nothing_and_say_so():
    def fn(x, width):
        with haiku_mup.fans(fan_in=0, fan_out=1):
            return hk.Linear(width)(x)

    with pytest.warns(haiku_mup.MupWarning, match=r"'~': haiku_mup.fans\(...\) is around layers"):
        captured(*one(fn))


# --- an initializer that has changed since the base was captured ---

def test_another_initializer_for_one_shape():
    def fn(x, width, std):
        return haiku_mup.Readout(3, w_init=hk.initializers.RandomNormal(std))(hk.Linear(width)(x))

    mup = haiku_mup.Mup()
    with mup.init_base():
        jax.eval_shape(one(lambda x, w: fn(x, w, 0.02))[0](8).init, KEY, jnp.ones((2, 6)))
    again = haiku_mup.Mup.from_state_dict(mup.state_dict())
    with pytest.raises(haiku_mup.MupError, match="'readout/w'.* 0.02 at the base and 0.5 at the target"), \
            again.init_target():
        jax.eval_shape(one(lambda x, w: fn(x, w, 0.5))[0](8).init, KEY, jnp.ones((2, 6)))


# --- arguments ---

@pytest.mark.parametrize("adam", ["sgd", None, 1])
def test_adam_is_a_bool(adam):
    mup = captured(*MODELS["mlp"])
    for call in (mup.lr_scales, mup.scale_updates, lambda adam: mup.wrap_optimizer(None, adam)):
        with pytest.raises(haiku_mup.MupError, match="True for Adam's factors, or False for SGD's"):
            call(adam)


@pytest.mark.parametrize("fans", ["x", ["x"], {3: (0, 1)}, {"x": (0, None)}, {"x": (0, 1.0)}, {"x": (0, True)}])
def test_fans_that_are_none(fans):
    with pytest.raises(haiku_mup.MupError, match="^fans: "):
        haiku_mup.Mup(fans=fans)


def test_a_glob_that_matches_nothing_names_the_likely_module():
    make, x = one(lambda x, w: hk.Linear(3, name="logits")(hk.Linear(w)(x)))
    says = r"'\*/logit' matches the name of no .*; there are logits, linear\nhelp: "
    with pytest.raises(haiku_mup.MupError, match=says):
        captured(make, x, mup=haiku_mup.Mup(readouts="*/logit"))


def test_bare_factors_know_the_parameters_that_they_are_for():
    make, x = MODELS["mlp"]
    chain = captured(make, x).scale_updates()
    with pytest.raises(haiku_mup.MupError, match="the optimizer was given"):
        chain.init(make(16).init(KEY, x))
    assert chain.init(captured(make, x).wrap_model(make(32)).init(KEY, x)) is not None
