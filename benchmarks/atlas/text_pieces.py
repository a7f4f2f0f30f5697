"""Pieces on the words of a text: batch size and length in one pass, attention and norms.

A transformer with three blocks reads random windows of 32 words, which together are less than the text. Its
vocabulary has the 2,000 most frequent words. The base has width 32, batches of 8 windows and 300 steps (100
where widths or lengths vary). All is judged by the loss on 10,240 words of the validation part.
"""
import functools
import warnings

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import optax

import haiku_mup
from benchmarks.atlas.piece import Piece, scaled_and_plain
from demos import text_transformer
from demos.common import losses, words

BASE, BLOCKS, HEADS, LENGTH, BATCH = 32, 3, 2, 32, 8
BATCH_STEPS, STEPS = 300, 100       # of the base, where the batch varies, and where anything else does
VALID = 40                          # batches to validate
VOCABULARY = 2000                   # other words are <unk>, which is word 0


# --- the trial ---

@functools.cache
def text():
    """Returns the words of the text: the training part, and batches to validate."""
    found = words.load_words()
    # Words are numbered from the most frequent one on.
    train, valid = (jnp.asarray(np.where(part < VOCABULARY, part, 0)) for part in (found.train, found.valid))
    starts = LENGTH * jnp.arange(VALID * BATCH).reshape(VALID, BATCH)
    return train, text_transformer.rows(valid, starts)


def trial(width, *, optimizer, steps, network=text_transformer.network, batch_size=BATCH):
    """Returns the trial of a width, in μP.

    Args:
      width: of the network.
      optimizer: from a learning rate to an optax optimizer.
      steps: of training.
      network: (ids, width, vocab_size) -> logits.
      batch_size: rows of LENGTH words in a step.
    """
    train, valid = text()

    def batch(key, step):
        """Draws rows of the training part."""
        starts = jax.random.randint(key, (batch_size,), 0, len(train) - LENGTH)
        return text_transformer.rows(train, starts)

    def valid_loss(apply, params, rng):
        """Computes the loss, in nats a word, of the validation part."""
        return jax.lax.map(lambda rows: losses.cross_entropy(apply, params, rng, rows), valid).mean()

    def make_model(width):
        return hk.transform(functools.partial(network, width=width, vocab_size=VOCABULARY))

    with warnings.catch_warnings():
        # A piece measures what a warning is about: logits of Haiku's own attention in μP.
        warnings.simplefilter("ignore", haiku_mup.MupWarning)
        return haiku_mup.training(
            make_model, batch, losses.cross_entropy, optimizer, steps=steps, base_width=BASE,
            evaluate={"valid_loss": valid_loss})(width)


def decaying(make, steps=STEPS, **constants):
    """Returns an optimizer whose rate decays linearly to zero, from the rate that it is given."""
    return lambda lr: make(optax.linear_schedule(lr, 0.0, steps), **constants)


# --- batch size and length ---

def in_run(batch_size, steps, scale):
    """Returns the trial of one batch size and number of steps, with Adam's constants scaled by a `RunScale`."""
    def optimizer(lr):
        return optax.adam(**scale.adam(optax.linear_schedule(lr, 0.0, steps), b1=0.9, b2=0.98))
    return trial(BASE, optimizer=optimizer, steps=steps, batch_size=batch_size)


def batch_trials(scaled, batch_size):
    """Returns the trial of a batch size, over as many words as at the base."""
    ratio = batch_size / BATCH
    scale = haiku_mup.RunScale(batch_ratio=ratio if scaled else 1.0, betas="half_life")
    return in_run(batch_size, round(BATCH_STEPS / ratio), scale)


def length_trials(scaled, steps):
    """Returns the trial of a number of steps, at the base's batch size."""
    scale = haiku_mup.RunScale(tokens_ratio=steps / STEPS if scaled else 1.0, betas="half_life")
    return in_run(BATCH, steps, scale)


# --- attention and norms ---

def network(ids, width, vocab_size, attention=haiku_mup.MultiHeadAttention, gains=True):
    """Maps ids as `text_transformer.network` does, by two heads whose size grows with the width.

    Args:
      ids: [batch, length].
      width: of the residual stream.
      vocab_size: of ids.
      attention: the layer; Haiku's own scales logits by 1/√d at every width.
      gains: whether the norms have gains and biases.
    """
    init, unit_normal = hk.initializers.VarianceScaling(), hk.initializers.RandomNormal()
    causal = jnp.tril(jnp.ones((1, 1, ids.shape[1], ids.shape[1])))
    norm = functools.partial(hk.LayerNorm, -1, gains, gains)

    def block(x):
        y = norm()(x)
        x = x + attention(HEADS, width // HEADS, w_init=init)(y, y, y, causal)
        return x + hk.Linear(width)(jax.nn.gelu(hk.Linear(4 * width)(norm()(x))))

    with haiku_mup.apply_mup():
        x = hk.Embed(vocab_size, width, w_init=unit_normal)(ids)
        x = x + jnp.broadcast_to(hk.get_parameter("places", (LENGTH, width), init=unit_normal), x.shape)
        x = hk.experimental.layer_stack(BLOCKS)(block)(x)
        return haiku_mup.Readout(vocab_size, with_bias=False)(norm()(x))


NETWORKS = {"1/d": {}, "1/√d": {"attention": hk.MultiHeadAttention}, "1/d, no gains": {"gains": False}}


def attention_trials():
    """Returns the makers of each kind of attention and norm, in μP."""
    return {name: functools.partial(trial, optimizer=decaying(optax.adam), steps=STEPS,
                                    network=functools.partial(network, **options))
            for name, options in NETWORKS.items()}


PIECES = {
    "batch_text": Piece(
        title="Batch size, text in one pass", varies="batch size", sizes=(2, 8, 32), log2_lrs=range(-10, -2),
        makers=scaled_and_plain(batch_trials),
        expected="Scaled constants keep the best rate within 0.5 octaves; without them it moves by 1.2 "
                 "octaves or more, an exponent of 0.3 to 0.5. Small batches end lower, as they take more "
                 "steps."),
    "length_text": Piece(
        title="Length of training, text in one pass", varies="number of steps", sizes=(100, 400, 800),
        log2_lrs=range(-10, -2), makers=scaled_and_plain(length_trials),
        expected="Such short runs are far from a limit in which noise dominates: unscaled, the best rate "
                 "falls with an exponent of -0.3 to -0.1, and by less than an octave. Scaled with -½ it "
                 "drifts, towards higher multiples, by half an octave to one."),
    "attention_text": Piece(
        title="Attention's scale, and norms without gains, in μP", varies="width", sizes=(32, 64, 128),
        log2_lrs=range(-9, -2), makers=attention_trials,
        expected="Two heads grow from 16 to 64. With 1/√d logits the best rate falls a little, by less than "
                 "half an octave: no transfer fails within two octaves of the width. Norms without gains "
                 "train as well, within 0.02 nats, and drift as little."),
}
