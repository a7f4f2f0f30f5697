"""Pieces over batch sizes and lengths where every example is new: an MLP learns from a fixed random network.

What the examples need is known here: their labels are drawn with the teacher's probabilities, and no example
comes twice. The base has batches of 32 and 200 steps.
"""
import functools

import haiku as hk
import jax
import jax.numpy as jnp
import optax

import haiku_mup
from benchmarks.atlas.piece import Piece, scaled_and_plain
from demos.common import losses

WIDTH, BATCH, STEPS = 64, 32, 200       # where they don't vary


@functools.cache
def teacher_data():
    """Returns a function that draws fresh batches, labelled by a fixed random network."""
    keys = jax.random.split(jax.random.key(7), 2)
    first, second = jax.random.normal(keys[0], (16, 32)) / 4, jax.random.normal(keys[1], (32, 10))

    def draw(batch_size, key, step):
        """Draws inputs, and labels with the teacher's probabilities."""
        drawn, labelled = jax.random.split(key)
        x = jax.random.normal(drawn, (batch_size, 16))
        return x, jax.random.categorical(labelled, jnp.tanh(x @ first) @ second)

    return draw


def make_mlp(width):
    """Returns an MLP with two hidden layers, whose outputs are ten logits."""
    def fn(x):
        with haiku_mup.apply_mup():
            for _ in range(2):
                x = jax.nn.relu(hk.Linear(width)(x))
            return haiku_mup.Readout(10)(x)
    return hk.transform(fn)


def run(batch_size, steps, scale):
    """Returns the trial of one batch size and number of steps, with Adam's constants scaled by a `RunScale`.

    The rate decays to zero, and the loss is that of 4,096 fresh examples.
    """
    draw = teacher_data()

    def optimizer(lr):
        schedule = optax.cosine_decay_schedule(lr, steps)
        return optax.adam(**scale.adam(schedule, b1=0.9, b2=0.98))

    def fresh_loss(apply, params, rng):
        """Computes the loss of examples that no step has seen."""
        return losses.cross_entropy(apply, params, rng, draw(4096, jax.random.key(11), 0))

    make_trial = haiku_mup.training(
        make_mlp, functools.partial(draw, batch_size), losses.cross_entropy, optimizer, steps=steps,
        base_width=WIDTH, adam=True, evaluate={"fresh_loss": fresh_loss})
    return make_trial(WIDTH)


def batch_trials(scaled, batch_size):
    """Returns the trial of a batch size, over as many examples as at the base."""
    ratio = batch_size / BATCH
    scale = haiku_mup.RunScale(batch_ratio=ratio if scaled else 1.0, betas="half_life")
    return run(batch_size, round(STEPS / ratio), scale)


def length_trials(scaled, steps):
    """Returns the trial of a number of steps, at the base's batch size."""
    scale = haiku_mup.RunScale(tokens_ratio=steps / STEPS if scaled else 1.0, betas="half_life")
    return run(BATCH, steps, scale)


PIECES = {
    "batch_fresh": Piece(
        title="Batch size, fresh examples of a teacher",
        varies="batch size", sizes=(8, 32, 128), makers=scaled_and_plain(batch_trials),
        log2_lrs=range(-11, -2), losses=("fresh_loss",),
        expected="Scaled constants keep the best rate within 0.5 octaves over batches × ¼ to 4. Without "
                 "them it grows like the batch's root, an exponent of 0.3 to 0.6, and moves by more than an "
                 "octave."),
    "length_fresh": Piece(
        title="Length of training, fresh examples of a teacher",
        varies="number of steps", sizes=(200, 400, 1600), makers=scaled_and_plain(length_trials),
        log2_lrs=range(-11, -2), losses=("fresh_loss",),
        expected="With the theory's -½ the best rate moves by less than an octave over lengths × 1 to 8. "
                 "Without scaling the exponent is between -0.5 and -0.2, as fits to large runs are near -0.3."),
}
