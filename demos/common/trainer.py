"""Trains on digits, for sweeps that aren't over widths alone: over depths, or over data types."""

import jax
import numpy as np
import optax

import haiku_mup
from demos.common import losses, runs

BATCH = 128
OPTIMIZERS = {"adam": optax.adam, "sgd": optax.sgd}


def wrap(parametrization, base, target, x, *, optimizer, adam):
    """Wraps a model and its optimizer in a parametrization.

    Args:
      parametrization: a haiku_mup.Parametrization.
      base: the model that was tuned, transformed.
      target: the model to train, transformed.
      x: inputs, of which the shape matters.
      optimizer: for the target.
      adam: whether the optimizer is Adam-like.
    """
    mup, key = haiku_mup.Mup(parametrization=parametrization), jax.random.key(0)
    with mup.init_base():
        jax.eval_shape(base.init, key, x)
    with mup.init_target():
        jax.eval_shape(target.init, key, x)
    wrapped = optimizer if parametrization.plain else mup.wrap_optimizer(optimizer, adam=adam)
    return mup.wrap_model(target), wrapped


def make_trainer(make, size, x, optimizer, loss_fn=losses.cross_entropy):
    """Compiles a program from (arrays, lr, key, batches) to the losses on all of both sets.

    The learning rate is an argument, so one program serves all trials of a size.

    Args:
      make: (size, x, optimizer) -> (model, optimizer).
      size: of the model.
      x: images, of which the shape matters.
      optimizer: "adam" or "sgd".
      loss_fn: as `haiku_mup.coord_check` takes it.
    """
    model, opt = make(size, x, optax.inject_hyperparams(OPTIMIZERS[optimizer])(learning_rate=0.1))

    def loss(params, x, y):
        return loss_fn(model.apply, params, None, (x, y))

    def train(arrays, lr, key, batches):                # batches [steps, batch] of row numbers
        x, y, valid_x, valid_y = arrays

        def step(carry, rows):
            params, state = carry
            gradients = jax.grad(loss)(params, x[rows], y[rows])
            updates, state = opt.update(gradients, state, params)
            return (optax.apply_updates(params, updates), state), None

        params = model.init(key, x[:1])
        state = opt.init(params)
        state.hyperparams["learning_rate"] = lr
        (params, _), _ = jax.lax.scan(step, (params, state), batches)
        return loss(params, x, y), loss(params, valid_x, valid_y)

    return jax.jit(train)


def batch_order(seed, images, epochs):
    """Returns row numbers [steps, batch]; each epoch shuffles anew, and drops the rows that fill no batch."""
    rng, batches = np.random.default_rng(seed), images // BATCH
    order = [rng.permutation(images)[:batches * BATCH] for _ in range(epochs)]
    return np.concatenate(order).reshape(-1, BATCH).astype(np.int32)


def train_grid(train, log2_lrs, arrays, orders):
    """Trains at each rate in each order of batches; yields (lr, seed, losses …)."""
    for log2_lr in log2_lrs:
        for seed, order in enumerate(orders):
            found = train(arrays, arrays[0].dtype.type(2**log2_lr), jax.random.key(seed), order)
            yield 2**log2_lr, seed, *map(runs.finite_or_inf, found)
