# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # From a plain Haiku MLP to μP
#
# You tune a learning rate on a small model, then you train a large one. In the usual parametrization the tuned
# rate is wrong for the large model. In the maximal update parametrization (μP) it is right. This notebook shows
# both on handwritten digits, and what it takes to get from one to the other. You need to know JAX, Haiku and
# optax; you need not know μP.
#
# To run it, take a clone of the repository and install what it uses:
#
# ```sh
# python -m pip install '.[demos]' jupyterlab
# jupyter lab demos/tutorial.ipynb
# ```
#
# It takes some two minutes on 2 cores. The digits come from `demos/common/digits.py`, which is in the clone
# and not in the installed package. So the first cell puts the clone on Python's path, whether Jupyter was
# started in its root or in `demos/`.

# %%
"""Trains an MLP on handwritten digits at several widths, in the standard parametrization and in μP."""
# %matplotlib inline
import functools
import pathlib
import sys
import textwrap

sys.path.insert(0, ".." if pathlib.Path.cwd().name == "demos" else ".")

import haiku as hk
import jax
import numpy as np
import optax

import haiku_mup
from demos.common.digits import load_digits
from haiku_mup import plot, sweep

# %% [markdown]
# ## 1. The data
#
# Images are rows of pixels, of mean 0 and standard deviation 1. μP takes inputs to be of that size.

# %%
data = load_digits()
arrays = jax.device_put((data.train_x, data.train_y))
print(f"{data.source}: {data.train_x.shape[0]} images of {data.train_x.shape[1]} pixels to train on")

# %% [markdown]
# ## 2. A plain MLP
#
# Three hidden layers and Adam, with nothing special. `inject_hyperparams` keeps the learning rate in the
# optimizer's state, where each run can set its own.

# %%
def network(x, width):
    for _ in range(3):
        x = jax.nn.relu(hk.Linear(width)(x))
    return hk.Linear(10)(x)


def standard(width):
    model = hk.transform(functools.partial(network, width=width))
    optimizer = optax.inject_hyperparams(optax.adam)(learning_rate=1e-3)
    return model, optimizer


# %% [markdown]
# A run trains one model from start to end in one compiled program. The learning rate is an argument of that
# program, so all the runs at one width share it.

# %%
BATCH, EPOCHS = 128, 10


def trainer(model, optimizer):
    """Compiles a program from (arrays, lr, key, batches) to the last training loss and the parameters."""
    def loss_fn(params, x, y):
        logits = model.apply(params, None, x)
        return optax.softmax_cross_entropy_with_integer_labels(logits, y).mean()

    @jax.jit
    def train(arrays, lr, key, batches):                # batches [steps, BATCH] of row numbers
        x, y = arrays

        def step(carry, rows):
            params, state = carry
            grads = jax.grad(loss_fn)(params, x[rows], y[rows])
            updates, state = optimizer.update(grads, state, params)
            return (optax.apply_updates(params, updates), state), None

        params = model.init(key, x[:1])
        state = optimizer.init(params)
        state.hyperparams["learning_rate"] = lr
        (params, _), _ = jax.lax.scan(step, (params, state), batches)
        return loss_fn(params, x, y), params

    return train


def batch_order(seed):
    """Returns row numbers [steps, BATCH]; each epoch shuffles anew, and drops the rows that fill no batch."""
    rng, images = np.random.default_rng(seed), len(data.train_x)
    order = [rng.permutation(images)[:images // BATCH * BATCH] for _ in range(EPOCHS)]
    return np.concatenate(order).reshape(-1, BATCH).astype(np.int32)


# %% [markdown]
# Now the sweep: four widths, ten learning rates an octave (a factor of 2) apart, three seeds. Each run becomes
# a record. `sweep.curves` groups the records by parametrization and width. Each curve knows its optimum: the
# minimum of a parabola around its lowest point. This cell trains for the best part of a minute.

# %%
WIDTHS = (64, 128, 256, 512)
RATES = 2.0 ** np.arange(-13, -3)
ORDERS = [batch_order(seed) for seed in range(3)]


def runs(name, make):
    """Trains the models of make(width) at all widths, rates and seeds; returns a record for each run."""
    rows = []
    for width in WIDTHS:
        model, optimizer, *_ = make(width)
        train = trainer(model, optimizer)
        for lr in RATES:
            for seed, order in enumerate(ORDERS):
                loss, _ = train(arrays, np.float32(lr), jax.random.key(seed), order)
                rows.append({"parametrization": name, "width": width, "lr": lr, "seed": seed,
                             "train_loss": float(loss)})
    return rows


def show_best(rows):
    for name, curves in sweep.curves(rows).items():
        for width, curve in curves.items():
            best = curve.optimum
            edge = "   at the end of the rates, so perhaps beyond" * best.at_edge
            print(f"{name:<4}width {width:<5}best log2 lr {best.log2_lr:7.2f}   "
                  f"lowest loss {min(curve.mean):.4f}{edge}")


standard_rows = runs("sp", standard)
show_best(standard_rows)

# %% [markdown]
# The wider the model, the smaller the best learning rate. (`sp` is short for standard parametrization.) So a
# rate that is tuned at width 64 is too large at width 512.
#
# ## 3. Six steps to μP
#
# This is all that changes. Steps 1 and 2 are in the network:
#
# ```diff
# -def network(x, width):
# -    for _ in range(3):
# -        x = jax.nn.relu(hk.Linear(width)(x))
# -    return hk.Linear(10)(x)
# +def mup_network(x, width):
# +    with haiku_mup.apply_mup():                         # 1. the layers inside are in μP
# +        for _ in range(3):
# +            x = jax.nn.relu(hk.Linear(width)(x))
# +        return haiku_mup.Readout(10)(x)                 # 2. the output layer is a Readout
# ```
#
# Steps 3 to 6 are where the model is made. Shapes are enough for steps 3 and 4, so they run in `jax.eval_shape`
# and allocate nothing.
#
# ```diff
# -def standard(width):
# -    model = hk.transform(functools.partial(network, width=width))
# +def in_mup(width, network=mup_network):
# +    base, model = (hk.transform(functools.partial(network, width=w)) for w in (BASE, width))
#      optimizer = optax.inject_hyperparams(optax.adam)(learning_rate=1e-3)
# -    return model, optimizer
# +    mup, key, x = haiku_mup.Mup(), jax.random.key(0), data.train_x[:1]
# +    with mup.init_base():                               # 3. the model that was tuned
# +        jax.eval_shape(base.init, key, x)
# +    with mup.init_target():                             # 4. the model to train
# +        jax.eval_shape(model.init, key, x)
# +    model = mup.wrap_model(model)                       # 5. init and apply are now in μP
# +    optimizer = mup.wrap_optimizer(optimizer)           # 6. so is each parameter's learning rate
# +    return model, optimizer, mup
# ```
#
# `trainer` and the rest of the code stay as they are.

# %%
BASE = 64


def mup_network(x, width):
    with haiku_mup.apply_mup():                         # 1. the layers inside are in μP
        for _ in range(3):
            x = jax.nn.relu(hk.Linear(width)(x))
        return haiku_mup.Readout(10)(x)                 # 2. the output layer is a Readout


def in_mup(width, network=mup_network):
    base, model = (hk.transform(functools.partial(network, width=w)) for w in (BASE, width))
    optimizer = optax.inject_hyperparams(optax.adam)(learning_rate=1e-3)
    mup, key, x = haiku_mup.Mup(), jax.random.key(0), data.train_x[:1]
    with mup.init_base():                               # 3. the model that was tuned
        jax.eval_shape(base.init, key, x)
    with mup.init_target():                             # 4. the model to train
        jax.eval_shape(model.init, key, x)
    model = mup.wrap_model(model)                       # 5. init and apply are now in μP
    optimizer = mup.wrap_optimizer(optimizer)           # 6. so is each parameter's learning rate
    return model, optimizer, mup


model, optimizer, mup = in_mup(512)
print(mup.summary())

# %% [markdown]
# How to read it, a row for each parameter:
#
# - **base**, **target**: its shape in both models. A dimension that differs is a *width*, and it grows.
# - **role**: which of its sides grow. `input`: the output side only, as in first layers and biases. `hidden`:
#   both. `output`: the input side only. `fixed`: none.
# - **std base**, **std target**: the standard deviation of its initial values in both models. In a plain Haiku
#   layer it goes like 1/√fan-in, and hidden weights keep that in μP. The readout's weights don't shrink.
# - **multiplier**: what the layer's inputs are multiplied by. Only the readout has one, 64/512.
# - **Adam lr**, **SGD lr**: what the learning rate is multiplied by, with either kind of optimizer. With Adam
#   only that of the hidden weights changes.
#
# ## 4. At the base nothing changes
#
# All factors are relative to the base. So at width 64 the model in μP *is* the plain model, bit for bit:
# initial values, and all that training makes of them.

# %%
def same(a, b):
    """Compares the arrays of two trees. (The last layer's name differs: linear_3, readout.)"""
    pairs = zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    return all(np.array_equal(x, y) for x, y in pairs)


key, lr = jax.random.key(0), np.float32(2**-9)
(plain_model, plain_optimizer), (mup_model, mup_optimizer, _) = standard(BASE), in_mup(BASE)
assert same(plain_model.init(key, data.train_x[:1]), mup_model.init(key, data.train_x[:1]))

plain_run = trainer(plain_model, plain_optimizer)(arrays, lr, key, ORDERS[0])
mup_run = trainer(mup_model, mup_optimizer)(arrays, lr, key, ORDERS[0])
assert same(plain_run, mup_run)
print(f"after {len(ORDERS[0])} steps both have the loss {plain_run[0]:.6f}, and equal parameters")

# %% [markdown]
# So the model that you have tuned is the base, and what you tuned stays.
#
# ## 5. The sweep, in μP
#
# The same widths, rates and seeds once more.

# %%
mup_rows = runs("mup", in_mup)
show_best(mup_rows)

# %% [markdown]
# How far apart are the best rates of the four widths, in octaves?

# %%
curves = sweep.curves(standard_rows + mup_rows)
for name, widths in curves.items():
    print(f"{name:<4}drift {sweep.drift(widths):.2f} octaves")

# %%
plot.lr_transfer(standard_rows + mup_rows)

# %% [markdown]
# On the left the lowest point moves as the width grows, on the right it stays about where it is. On the right
# the curves also lie close together at small rates: there a wide model trains like the narrow one, or a little
# better.
#
# The bars are 95% intervals over three seeds, and some are an octave wide and more: near its lowest point a
# curve is flat. So trust the trend over four widths, not one disc. Nor is every wider model lower: in μP, width
# 256 ends above width 128 in this run.
#
# What it is good for: take the rate, of those tried, that is best at width 64, and train width 512 with it.

# %%
for name, widths in curves.items():
    tuned, wide = widths[64].best, widths[512]
    loss = wide.mean[list(wide.log2_lr).index(tuned)]
    print(f"{name:<4}width 512, log2 lr {tuned}: loss {loss:.4f}; at its own best rate {min(wide.mean):.4f}")

# %% [markdown]
# In the standard parametrization that rate costs a factor of more than ten in the training loss. In μP it is
# the best one at width 512, too. Tuned anew at width 512, the plain model ends lower than the one in μP, in
# this run: μP doesn't promise the lowest loss, it saves you the sweep at the large width.
#
# ## 6. What a mistake looks like
#
# Say the output layer is still an `hk.Linear`. It maps a growing width to a fixed size, which only a `Readout`
# does right, so the model is refused before anything is trained. The error names the parameter, the shapes and
# the remedy.

# %%
def mistaken_network(x, width):
    with haiku_mup.apply_mup():
        for _ in range(3):
            x = jax.nn.relu(hk.Linear(width)(x))
        return hk.Linear(10)(x)


try:
    in_mup(512, mistaken_network)
except haiku_mup.MupError as error:
    print(textwrap.fill(f"MupError: {error}", 100))

# %% [markdown]
# ## 7. Where to go next
#
# - `docs/` has the rules for embeddings that are tied to the output, attention, other optimizers and weight
#   decay, and a list of mistakes with their remedies. Read "What transfers" before you rely on a tuned rate:
#   width does, but batch size, number of steps and regularisation are for you to tune at the size that you
#   train.
# - `python -m demos.mnist_mlp` is this sweep with more rates, with flags, and for the validation loss, too.
#   Rates an octave apart and three seeds, as here, are few.
# - In your own program: take the six steps, look at `print(mup.summary())`, tune at the base, train the target.
