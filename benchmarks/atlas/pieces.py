"""The pieces of the atlas: what each measures, and what was expected before it ran.

Each is a sweep of small models, meant to end within ten minutes on two cores. What varies takes the place of
the width in the records: `lr_sweep` gives it to the maker of trials. So the drift is how far the best rate
moves as it varies, in octaves, and the exponent is that of the varied size in the best rate.
"""
import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import haiku as hk
import jax
import jax.numpy as jnp
import optax

import haiku_mup
from demos.common import digits, losses, networks

SEEDS = 2
WIDTH, BATCH, STEPS = 64, 32, 200       # where they don't vary


@dataclasses.dataclass(frozen=True, kw_only=True)
class Piece:
    """One piece.

    Attributes:
      varies: what takes the place of the width.
      sizes: its values.
      makers: {name: from a size to a trial}, as `haiku_mup.lr_sweep` takes them.
      log2_lrs: the learning rates.
      expected: what was expected before it ran, a sentence or two.
    """

    varies: str
    sizes: Sequence[int]
    makers: Callable[[], Mapping[str, Any]]
    log2_lrs: Sequence[float]
    expected: str


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


def width_trials(dtype, dropout, width):
    """Returns the trial of a width on digits, in μP: parameters of a dtype, and dropout before the readout."""
    found = digits.load_digits()
    x, y = found.train_x.astype(dtype), found.train_y

    def make_model(width):
        def fn(x):
            with haiku_mup.apply_mup():
                for _ in range(3):
                    x = jax.nn.relu(hk.Linear(width)(x))
                x = hk.dropout(hk.next_rng_key(), dropout, x) if dropout else x
                return haiku_mup.Readout(networks.CLASSES)(x).astype(jnp.float32)
        return hk.transform(fn)

    return haiku_mup.training(make_model, (x, y), losses.cross_entropy, optax.adam, steps=STEPS,
                              batch_size=BATCH, base_width=WIDTH, adam=True)(width)


def of_runs(trials):
    """Returns the makers of a piece that scales constants, and leaves them."""
    return lambda: {name: functools.partial(trials, name == "scaled") for name in ("scaled", "plain")}


def of_widths(**settings):
    """Returns the makers of a piece over widths, one for each (dtype, dropout)."""
    return lambda: {name: functools.partial(width_trials, *setting) for name, setting in settings.items()}


PIECES = {
    "batch": Piece(
        varies="batch size", sizes=(8, 32, 128), makers=of_runs(batch_trials),
        log2_lrs=range(-11, -2),
        expected="Scaled constants keep the best rate within 0.5 octaves over batches × ¼ to 4. Without "
                 "them it grows like the batch's root, an exponent of 0.3 to 0.6, and moves by more than an "
                 "octave."),
    "length": Piece(
        varies="number of steps", sizes=(100, 200, 800), makers=of_runs(length_trials),
        log2_lrs=range(-11, -2),
        expected="With the theory's -½ the best rate moves by less than an octave over lengths × ½ to 4. "
                 "Without scaling the exponent is between -0.5 and -0.2, as fits to large runs are near -0.3."),
    "precision": Piece(
        varies="width", sizes=(64, 256), log2_lrs=range(-12, -4),
        makers=of_widths(float32=("float32", 0.0), bfloat16=("bfloat16", 0.0)),
        expected="In float32 the best rate stays within half an octave. In bfloat16 hidden updates are "
                 "rounded away at low rates, so that the best rate is higher at the larger width, by half an "
                 "octave or more, and its loss worse than float32's."),
    "dropout": Piece(
        varies="width", sizes=(64, 256), log2_lrs=range(-12, -4),
        makers=of_widths(none=("float32", 0.0), half=("float32", 0.5)),
        expected="Dropout of 0.5 moves the best rate by an octave between the widths; none, by less than "
                 "half."),
}
