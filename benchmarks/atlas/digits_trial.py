"""The trial on digits, and what its pieces have in common.

An MLP with three hidden layers is trained for five epochs of 4,000 MNIST digits, in batches of 64, with a rate
that decays linearly to zero, unless a piece says otherwise. The base has width 64.
"""
import functools

import haiku as hk
import jax
import jax.numpy as jnp
import optax

import haiku_mup
from benchmarks.atlas.piece import Piece
from demos.common import digits, losses, networks

BASE, WIDTHS = 64, (64, 128, 256, 512)
BATCH, STEPS = 64, 310
LOSSES = ("train_loss", "valid_loss")
PARAMETRIZATIONS = {"standard": haiku_mup.standard(), "μP": haiku_mup.maximal_update()}


def mlp(width, dropout=0.0):
    """Returns an MLP with three hidden layers, and dropout behind each while it is trained."""
    def fn(x, is_training=True):
        with haiku_mup.apply_mup():
            for _ in range(3):
                x = jax.nn.relu(hk.Linear(width)(x))
                if dropout and is_training:
                    x = hk.dropout(hk.next_rng_key(), dropout, x)
            return haiku_mup.Readout(networks.CLASSES)(x).astype(jnp.float32)
    return hk.transform(fn)


def judge(apply, params, rng, *, data):
    """Computes the loss of a trained model, without dropout."""
    x, y = data
    logits = apply(params, rng, x, is_training=False)
    return optax.softmax_cross_entropy_with_integer_labels(logits, y).mean()


def trial(width, *, optimizer, parametrization="μP", rule=None, dropout=0.0, dtype="float32",
          batch_size=BATCH, steps=STEPS):
    """Returns the trial of a width.

    Args:
      width: of the three hidden layers.
      optimizer: from a learning rate to an optax optimizer.
      parametrization: one of PARAMETRIZATIONS, or a haiku_mup.Parametrization.
      rule: of the optimizer, see `haiku_mup.Mup.wrap_optimizer`; None to have it found.
      dropout: the share of activations that is dropped in training.
      dtype: of parameters and images.
      batch_size: digits in a step.
      steps: of training.
    """
    found = digits.load_digits()
    train = found.train_x.astype(dtype), found.train_y
    valid = found.valid_x.astype(dtype), found.valid_y
    return haiku_mup.training(
        functools.partial(mlp, dropout=dropout), train, losses.cross_entropy, optimizer, steps=steps,
        batch_size=batch_size, base_width=BASE, rule=rule,
        parametrization=PARAMETRIZATIONS.get(parametrization, parametrization),
        evaluate={"train_loss": functools.partial(judge, data=train),
                  "valid_loss": functools.partial(judge, data=valid)})(width)


def decaying(make, **constants):
    """Returns an optimizer whose rate decays linearly to zero, from the rate that it is given."""
    return lambda lr: make(optax.linear_schedule(lr, 0.0, STEPS), **constants)


def in_both(name, make, **options):
    """Returns the makers of one setting in the standard parametrization and in μP."""
    return {f"{name}, {each}": functools.partial(trial, optimizer=make, parametrization=each, **options)
            for each in PARAMETRIZATIONS}


def log2_lrs(lowest, highest, spacing=1):
    """Returns log2 of the rates from the lowest to the highest, a number of octaves apart."""
    return tuple(lowest + spacing * i for i in range(round((highest - lowest) / spacing) + 1))


def over_widths(title, makers, rates, expected):
    """Returns the piece of some settings, over all widths."""
    return Piece(title=title, varies="width", sizes=WIDTHS, makers=makers, log2_lrs=rates, losses=LOSSES,
                 expected=expected)
