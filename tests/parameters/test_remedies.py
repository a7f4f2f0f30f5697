"""Messages that name another layer: each by a model that is told so, and by the model that follows it."""
import functools

import haiku as hk
import jax
import jax.numpy as jnp
import pytest
from remedies import codes, followed, told
from small_models import captured, one

import haiku_mup

NORMAL = hk.initializers.RandomNormal(0.1)
X, IDS = jnp.ones((2, 6)), jnp.arange(6).reshape(2, 3)


def output(x, width, layer):
    return layer(3, name="last")(jnp.tanh(hk.Linear(width)(x)))


def hidden(x, width, layer):
    return haiku_mup.Readout(3)(layer(width, name="middle")(jnp.tanh(hk.Linear(width)(x))))


def mixed(x, width, added):
    h = jnp.tanh(hk.Linear(width)(x))
    if added:
        y = hk.Linear(width, name="of_h")(h) + hk.Linear(width, name="of_x")(x)
    else:
        y = hk.Linear(width, name="of_h")(jnp.concatenate([h, x], -1))
    return haiku_mup.Readout(3)(y)


def mixed_outputs(x, width, apart):
    h = jnp.tanh(hk.Linear(width)(x))
    if apart:
        features, logits = hk.Linear(width, name="both")(h), haiku_mup.Readout(3, name="logits")(h)
    else:
        logits, features = jnp.split(hk.Linear(width + 3, name="both")(h), [3], -1)
    return logits + haiku_mup.Readout(3)(jnp.tanh(features))


def attends(x, width, layer):
    x = hk.Linear(width)(x)[None]
    return haiku_mup.Readout(3)(layer(2, width // 2, w_init=NORMAL, name="attention")(x, x, x))


def tie(ids, width, shared):
    embed = (haiku_mup.SharedEmbed if shared else hk.Embed)(11, width, name="embed")
    x = jnp.tanh(hk.Linear(width)(embed(ids)))
    return haiku_mup.SharedReadout()(embed, x) if shared else x @ embed.embeddings.T


def unused_tie(ids, width, layer):
    return haiku_mup.Readout(3)(layer(11, width, name="embed")(ids))


def initialised(x, width, init):
    return haiku_mup.Readout(3)(hk.Linear(width, name="middle", w_init=init)(jnp.tanh(hk.Linear(width)(x))))


def ones_array(shape, dtype):
    return jnp.asarray(jax.random.normal(jax.random.PRNGKey(0), shape), dtype)


def mean(shape, dtype):
    return 0.1 * jax.random.normal(hk.next_rng_key(), shape, dtype) + 0.5


# model -> (inputs, what is wrong, what to do, words of the message, parameter, its role and factors)
MESSAGES = {
    "a plain output": (output, X, hk.Linear, haiku_mup.Readout, "haiku_mup.Readout", "last/w",
                       ("output", 1 / 4, 1, 4)),
    "a plain convolution": (lambda x, w, layer: layer(3, 1, name="last")(hk.Linear(w)(x)[None]), X, hk.Conv1D,
                            functools.partial(haiku_mup.ConvReadout, 1), "ConvReadout", "last/w",
                            ("output", 1 / 4, 1, 4)),
    "a hidden readout": (hidden, X, haiku_mup.Readout, hk.Linear, "hk.Linear", "middle/w",
                         ("hidden", 1, 1 / 4, 1)),
    "a concatenation": (mixed, X, False, True, "its own hk.Linear", "of_h/w", ("hidden", 1, 1 / 4, 1)),
    "logits inside": (mixed_outputs, X, False, True, "haiku_mup.Readout", "logits/w", ("output", 1 / 4, 1, 4)),
    "attention": (attends, X, hk.MultiHeadAttention, haiku_mup.MultiHeadAttention,
                  "haiku_mup.MultiHeadAttention", "attention/query/w", ("hidden", 1 / 2, 1 / 4, 1)),
    "a tie": (tie, IDS, False, True, "haiku_mup.SharedEmbed and SharedReadout", "embed/embeddings",
              ("input", 1 / 4, 1, 4)),
    "no tie": (unused_tie, IDS, haiku_mup.SharedEmbed, hk.Embed, "use hk.Embed", "embed/embeddings",
               ("input", 1, 1, 4)),
    "a given array": (initialised, X, ones_array, NORMAL, "draw with hk.next_rng_key()", "middle/w",
                      ("hidden", 1, 1 / 4, 1)),
    "a mean": (initialised, X, mean, NORMAL, "an initializer of mean zero", "middle/w",
               ("hidden", 1, 1 / 4, 1)),
}


@pytest.mark.parametrize("name", MESSAGES)
def test_what_a_message_says_is_right_when_it_is_followed(name):
    layer, inputs, wrong, right, words, parameter, wanted = MESSAGES[name]

    def capture(mup, what):
        return captured(one(lambda x, width: layer(x, width, what))[0], inputs, mup=mup)

    (text,) = told(functools.partial(capture, what=wrong))
    assert words in text
    mup = haiku_mup.Mup()
    assert told(functools.partial(capture, what=right), mup) == []
    row = next(row for row in mup.table() if row.name == parameter)
    assert (row.role, row.multiplier, row.adam_lr, row.sgd_lr) == wanted


def test_an_output_that_is_named():
    row = followed(lambda mup: captured(one(lambda x, w: output(x, w, hk.Linear))[0], X, mup=mup),
                   "Mup(readouts='last')")["last/w"]
    assert (row.role, row.multiplier, row.adam_lr, row.sgd_lr) == ("output", 1 / 4, 1, 4)


def test_an_output_whose_inputs_are_features():
    """The message names `finite` for inputs that are no width."""
    make = one(lambda x, width: hk.Linear(3, name="last")(x.reshape(-1)[:width]))[0]

    def capture(mup):
        return captured(make, jnp.ones((4, 8)), mup=mup)

    (text,) = told(capture)
    assert codes(text) == [] and "declare that in Mup(finite=...)" in text
    row = followed(capture, "Mup(finite={'last/w': 'in'})")["last/w"]
    assert (row.role, row.multiplier, row.adam_lr, row.sgd_lr) == ("fixed", 1, 1, 1)


# --- shapes and initializers ---

def factors(mup, name):
    row = next(row for row in mup.table() if row.name == name)
    return row.role, row.multiplier, row.adam_lr, row.sgd_lr


def own(x, width, shape, init=NORMAL, dtype=jnp.float32):
    w = hk.get_parameter("own", shape(width), dtype, init=init)
    h = jnp.tanh(hk.Linear(width)(x))
    return haiku_mup.Readout(3)(h + w.mean().astype(h.dtype))


def kernel(x, width, size):
    return haiku_mup.Readout(3)(hk.Conv1D(width, size(width), name="conv")(hk.Linear(width)(x)[None])[0])


def drawn(x, width, init):
    return haiku_mup.Readout(3)(hk.Linear(width, name="middle", w_init=init(x, width))(
        jnp.tanh(hk.Linear(width)(x))))


def number(x, width):
    return hk.initializers.RandomNormal(x[0, 0] / width**0.5)


def declared(x, width, axes):
    with haiku_mup.fans(*axes(width)):
        w = hk.get_parameter("own", (width, width), init=NORMAL)
    return haiku_mup.Readout(3)(jnp.tanh(hk.Linear(width)(x)) @ w)


def around(x, width, is_right):
    class Layer(hk.Module):
        def __call__(self, x):
            inner = hk.Linear(width, name="inner")
            if not is_right:
                with haiku_mup.fans(0, 1):
                    return inner(x)
            with haiku_mup.fans(1, 0):
                w = hk.get_parameter("own", (width, x.shape[-1]), init=NORMAL)
            return inner(x) + x @ w.T

    return haiku_mup.Readout(3)(Layer(name="layer")(jnp.tanh(hk.Linear(width)(x))))


def at(width, base, target):
    return {8: base, 32: target}[width]


INPUT, HIDDEN = ("input", 1, 1, 4), ("hidden", 1, 1 / 4, 1)
# words: (layer, what is wrong, what the words say, parameter, its factors)
SHAPES = {
    "rank differs; rebuild the base model": (
        own, {"shape": lambda w: (w, 5, 2)[:at(w, 2, 3)]}, {"shape": lambda w: (5, w)}, "~/own", INPUT),
    "give the base a width of its own": (
        own, {"shape": lambda w: (5, at(w, 0, 3))}, {"shape": lambda w: (5, w)}, "~/own", INPUT),
    "only widths may differ between base and target": (
        kernel, {"size": lambda w: at(w, 3, 5)}, {"size": lambda w: 3}, "conv/w", HIDDEN),
    "or give it the same shape in both": (
        own, {"shape": lambda w: (w,), "dtype": jnp.int32, "init": jnp.zeros},
        {"shape": lambda w: (5,), "dtype": jnp.int32, "init": jnp.zeros}, "~/own", ("fixed", 1, 1, 1)),
    "compute it from sizes, with numpy or math": (
        drawn, {"init": number}, {"init": lambda x, w: hk.initializers.RandomNormal(w**-0.5)}, "middle/w",
        HIDDEN),
    "use one initializer for both": (
        drawn, {"init": lambda x, w: at(w, jnp.zeros, NORMAL)}, {"init": lambda x, w: NORMAL}, "middle/w",
        HIDDEN),
    "declare them alike, and capture the base again": (
        declared, {"axes": lambda w: at(w, (0, 1), (1, 0))}, {"axes": lambda w: (0, 1)}, "~/own", HIDDEN),
    "or scale the array": (
        drawn, {"init": lambda x, w: ones_array},
        {"init": lambda x, w: lambda shape, dtype: ones_array(shape, dtype) * (8 / w)**0.5}, "middle/w",
        HIDDEN),
    "put it around hk.get_parameter, or use Mup(fans=...)": (
        around, {"is_right": False}, {"is_right": True}, "layer/own", HIDDEN),
}


@pytest.mark.parametrize("words", SHAPES)
def test_shapes_and_initializers(words):
    layer, wrong, right, parameter, wanted = SHAPES[words]

    def capture(mup, kwargs):
        return captured(one(functools.partial(layer, **kwargs))[0], X, mup=mup)

    texts = told(functools.partial(capture, kwargs=wrong))
    assert any(words in text for text in texts), texts
    mup = haiku_mup.Mup()
    texts = told(functools.partial(capture, kwargs=right), mup)
    assert texts == [] and factors(mup, parameter) == wanted


def test_an_integer_that_grows_is_state():
    def counts(x, width):
        count = hk.get_state("counts", (width,), jnp.int32, init=jnp.zeros)
        return own(x, width, lambda w: (w,)) + count.sum()

    (text,) = told(lambda mup: captured(one(functools.partial(
        own, shape=lambda w: (w,), dtype=jnp.int32, init=jnp.zeros))[0], X, mup=mup))
    assert "keep it out of the parameters (hk.get_state)" in text

    def make(width):
        def fn(x):
            with haiku_mup.apply_mup():
                return counts(x, width)
        return hk.transform_with_state(fn)

    mup = haiku_mup.Mup()
    assert told(lambda mup: captured(make, X, mup=mup), mup) == []
    assert factors(mup, "~/own") == INPUT and factors(mup, "linear/w") == INPUT


def test_a_std_that_no_law_explains_is_drawn_by_the_fan_in_or_with_one_std():
    def features(init):
        def capture(mup):
            for context, width, count in ((mup.init_base, 8, 5), (mup.init_target, 32, 11)):
                make, _ = one(lambda x, w: haiku_mup.Readout(3)(hk.Linear(w, w_init=init(x))(x)))
                with context():
                    jax.eval_shape(make(width).init, jax.random.PRNGKey(0), jnp.ones((2, count)))
        return capture

    finite = {"linear/w": "in"}
    (text,) = told(features(lambda x: hk.initializers.RandomNormal(1 / x.shape[-1])),
                   haiku_mup.Mup(finite=finite))
    assert "goes by the fan-in, such as hk.initializers.VarianceScaling(), or one std" in text
    for init, std in ((hk.initializers.VarianceScaling(), 11**-0.5), (NORMAL, 0.1)):
        mup = haiku_mup.Mup(finite=finite)
        assert told(features(lambda x, init=init: init), mup) == []
        row = next(row for row in mup.table() if row.name == "linear/w")
        assert row.role == "input" and row.target_std == pytest.approx(std)


# --- declarations ---

def both_ways(x, width):
    w = hk.get_parameter("own", (width, width, 4), init=NORMAL)
    return haiku_mup.Readout(3)(jnp.einsum("zi,ijk->zj", jnp.tanh(hk.Linear(width)(x)), w))


def mean_one(shape, dtype):
    return 1 + 0.1 * jax.random.normal(hk.next_rng_key(), shape, dtype)


def gained(x, width):
    gain = hk.get_parameter("gain", (width,), init=mean_one)
    return haiku_mup.Readout(3)(gain[None] * hk.Linear(width)(x))


def tied_table(ids, width):
    table = hk.get_parameter("table", (11, width), init=NORMAL)
    return haiku_mup.SharedReadout()(table, jnp.tanh(hk.Linear(width)(table[ids])))


TABLE = ("input", 1 / 4, 1, 4)
# words: (layer, inputs, what is declared, what the words say, parameter, its factors)
DECLARED = {
    "let one match": (both_ways, X, {"fans": {"~/own": (0, 1), "*own": (1, 0)}}, {"fans": {"*own": (0, 1)}},
                      "~/own", HIDDEN),
    "count the axes of one layer, without stack axes": (
        both_ways, X, {"fans": {"~/own": (0, 3)}}, {"fans": {"~/own": (0, 1)}}, "~/own", HIDDEN),
    "finite axes (3,) name one that it doesn't have": (
        both_ways, X, {"finite": {"~/own": 3}}, {"finite": {"~/own": 2}}, "~/own", HIDDEN),
    "Mup(fans=...): 'own' matches the name of no parameter; there are": (
        both_ways, X, {"fans": {"own": (0, 1)}}, {"fans": {"~/own": (0, 1)}}, "~/own", HIDDEN),
    "several globs match it: 'linear/*', '*/w'; let one match": (
        both_ways, X, {"lr_mults": {"linear/*": 2.0, "*/w": 3.0}}, {"lr_mults": {"linear/*": 2.0}}, "linear/w",
        ("input", 1, 2, 8)),
    "scale its initializer instead": (gained, X, {"init_mults": {"~/gain": 2.0}}, {}, "~/gain", INPUT),
    "take another form, or an embedding and a readout of their own": (
        tied_table, IDS, {"tied": "~/table", "parametrization": haiku_mup.maximal_update("table3")},
        {"tied": "~/table"}, "~/table", TABLE),
    "if its rows are its first axis, Mup(fans={'~/table': ((), 1, 0)})": (
        lambda ids, w: tied_table(ids, w) if w == 8 else haiku_mup.SharedReadout()(
            hk.get_parameter("table", (44, w), init=NORMAL), jnp.tanh(hk.Linear(w)(jnp.ones((2, w))))), IDS,
        {"tied": "~/table"}, {"tied": "~/table", "fans": {"~/table": ((), 1, 0)}}, "~/table", TABLE),
    "give a glob over module names, or several": (
        output, X, {"readouts": 3}, {"readouts": "last"}, "last/w", ("output", 1 / 4, 1, 4)),
    "give a haiku_mup.Parametrization": (
        both_ways, X, {"parametrization": "table9"}, {"parametrization": haiku_mup.maximal_update("table8")},
        "linear/w", INPUT),
}


@pytest.mark.parametrize("words", DECLARED)
def test_declarations(words):
    layer, inputs, wrong, right, parameter, wanted = DECLARED[words]
    if layer is output:
        layer = functools.partial(output, layer=hk.Linear)

    def capture(kwargs):
        mup = haiku_mup.Mup(**kwargs)
        captured(one(layer)[0], inputs, mup=mup)
        return mup

    with pytest.raises(haiku_mup.MupError) as error:
        capture(wrong)
    assert words in str(error.value), error.value
    assert factors(capture(right), parameter) == wanted


def test_three_growing_axes_are_declared():
    def layer(x, width):
        w = hk.get_parameter("own", (width, width, width), init=NORMAL)
        h = hk.Linear(width)(x)
        return haiku_mup.Readout(3)(jnp.einsum("zi,ijk->zjk", jnp.tanh(h), w).mean(-1))

    def capture(mup):
        return captured(one(layer)[0], X, mup=mup)

    (text,) = told(capture)
    assert "declare them: Mup(fans={'~/own': (fan_in_axes, fan_out_axes)})" in text
    for code, wanted in (("Mup(fans={'~/own': (0, (1, 2))})", ("hidden", 1, 1 / 4, 4)),
                         *((code, ("input", 1, 1, 64)) for code in codes(text))):
        row = followed(capture, code)["~/own"]
        assert (row.role, row.multiplier, row.adam_lr, row.sgd_lr) == wanted


def test_a_weight_that_is_read_as_a_readout_the_other_way_round():
    def layer(x, width):
        w = hk.get_parameter("own", (3, width), init=NORMAL)
        return jnp.tanh(hk.Linear(width)(x)) @ w.T

    def capture(mup):
        return captured(one(layer)[0], X, mup=mup)

    (text,) = told(capture, haiku_mup.Mup(readouts="~/own"))
    assert "if it is (out, in), " in text and codes(text)[1:] == ["Mup(tied='~/own')"]
    row = followed(capture, codes(text)[0])["~/own"]
    assert (row.role, row.multiplier, row.adam_lr, row.sgd_lr) == ("output", 1 / 4, 1, 4)


def test_a_delta_that_differs_in_every_width():
    def layer(x, width):
        a, b = (jnp.tanh(hk.Linear(size, name=name)(x)) for size, name in zip(width, "ab"))
        return haiku_mup.Readout(3)(a) + haiku_mup.Readout(3)(b)

    def capture(*widths):
        mup, make = haiku_mup.Mup(), one(layer)[0]
        for context, width in zip((mup.init_base, mup.init_delta, mup.init_target), widths):
            with context():
                jax.eval_shape(make(width).init, jax.random.PRNGKey(0), X)
        return mup

    with pytest.raises(haiku_mup.MupError, match="give init_delta a model that differs from the base in every"):
        capture((8, 8), (16, 8), (16, 32))
    assert factors(capture((8, 8), (16, 16), (16, 32)), "b/w") == INPUT


# --- arguments of layers ---

def test_layers_that_are_given_too_much():
    def attends(x, width, query):
        class Named(haiku_mup.MultiHeadAttention):
            @hk.transparent
            def _linear_projection(self, x, head_size, name=None):
                return super()._linear_projection(x, head_size, query if name == "query" else name)

        x = hk.Linear(width)(x)[None]
        return haiku_mup.Readout(3)(Named(2, width // 2, w_init=NORMAL, name="named")(x, x, x))

    def layers(words, wrong, right):
        (text,) = told(lambda mup: captured(one(wrong)[0], IDS if "Shared" in words else X, mup=mup))
        assert words in text
        mup = haiku_mup.Mup()
        assert told(lambda mup: captured(one(right)[0], IDS if "Shared" in words else X, mup=mup), mup) == []
        return mup

    mup = layers("keep the name in a subclass", functools.partial(attends, query="q"),
                 functools.partial(attends, query="query"))
    assert factors(mup, "named/query/w") == ("hidden", 1 / 2, 1 / 4, 1)
    for words, readout, right in (
            ("Readout: zero_init=True and a w_init: give one of the two",
             lambda: haiku_mup.Readout(3, w_init=NORMAL, zero_init=True),
             lambda: haiku_mup.Readout(3, w_init=NORMAL)),
            ("ConvReadout: zero_init=True and a w_init: give one of the two",
             lambda: haiku_mup.ConvReadout(1, 3, 1, w_init=NORMAL, zero_init=True, name="readout"),
             lambda: haiku_mup.ConvReadout(1, 3, 1, zero_init=True, name="readout"))):
        mup = layers(words, lambda x, w, readout=readout: readout()(hk.Linear(w)(x)[None]),
                     lambda x, w, right=right: right()(hk.Linear(w)(x)[None]))
        assert factors(mup, "readout/w") == ("output", 1 / 4, 1, 4)

    def tie(ids, width, **kwargs):
        embed = haiku_mup.SharedEmbed(11, width, name="embed")
        return haiku_mup.SharedReadout(**kwargs)(embed, jnp.tanh(hk.Linear(width)(embed(ids))))

    def swapped(ids, width):
        embed = haiku_mup.SharedEmbed(11, width, name="embed")
        return haiku_mup.SharedReadout()(jnp.tanh(hk.Linear(width)(embed(ids))), embed)

    def plain(ids, width):
        embed = hk.Embed(11, width, name="embed")
        return haiku_mup.SharedReadout()(embed, jnp.tanh(hk.Linear(width)(embed(ids))))

    for words, wrong, right in (
            ("SharedReadout: a bias_init, but use_bias=False: set use_bias=True",
             functools.partial(tie, bias_init=jnp.ones),
             functools.partial(tie, bias_init=jnp.ones, use_bias=True)),
            ("call SharedReadout()(embed, x)", swapped, tie), ("make it a SharedEmbed", plain, tie)):
        (text,) = told(lambda mup, wrong=wrong: captured(one(wrong)[0], IDS, mup=mup))
        assert words in text
        mup = haiku_mup.Mup()
        assert told(lambda mup, right=right: captured(one(right)[0], IDS, mup=mup), mup) == []
        assert factors(mup, "embed/embeddings") == TABLE


def test_a_record_in_the_place_of_one_that_is_unregistered():
    from haiku_mup.parameters.haiku_layers import LayerType, register, unregister

    class Transposed(hk.Module):
        def __call__(self, x, width):
            return x @ hk.get_parameter("w", (width, x.shape[-1]), init=NORMAL).T

    make = one(lambda x, w: haiku_mup.Readout(3)(Transposed(name="t")(jnp.tanh(hk.Linear(w)(x)), 2 * w)))[0]
    register(LayerType(Transposed, fans={"w": (0, 1)}))
    try:
        with pytest.raises(haiku_mup.MupError, match="unregister it first"):
            register(LayerType(Transposed, fans={"w": (1, 0)}))
        unregister(Transposed)
        register(LayerType(Transposed, fans={"w": (1, 0)}))
        assert factors(captured(make, X), "t/w") == HIDDEN
    finally:
        unregister(Transposed)
