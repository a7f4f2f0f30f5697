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
    "a concatenation": (mixed, X, False, True, "an hk.Linear of its own", "of_h/w", ("hidden", 1, 1 / 4, 1)),
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
