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
import warnings

sys.path.insert(0, ".." if pathlib.Path.cwd().name == "demos" else ".")

import haiku as hk
import jax
import numpy as np
import optax

import haiku_mup
from demos.common.digits import load_digits

# %% [markdown]
# ## 1. The data
#
# Images are rows of pixels, of mean 0 and standard deviation 1. μP takes inputs to be of that size.

# %%
digits = load_digits()
data = digits.train_x, digits.train_y
print(f"{digits.source}: {data[0].shape[0]} images of {data[0].shape[1]} pixels to train on")

# %% [markdown]
# ## 2. A plain MLP
#
# Three hidden layers, with nothing special. The loss takes the model's `apply`, so that one function serves
# training, a check and a sweep.

# %%
def network(x, width):
    for _ in range(3):
        x = jax.nn.relu(hk.Linear(width)(x))
    return hk.Linear(10)(x)


def plain_model(width):
    return hk.transform(functools.partial(network, width=width))


def loss_fn(apply, params, rng, batch):
    x, y = batch
    logits = apply(params, rng, x)
    return optax.softmax_cross_entropy_with_integer_labels(logits, y).mean()


# %% [markdown]
# ## 3. Six steps to μP
#
# This is all that changes. The *base* is the small model, which you tune; the *target* is the large one,
# which you train. Steps 1 and 2 are in the network:
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
# Steps 3 to 6 are where the model is made. Shapes are enough for steps 3 and 4, so they run in
# `jax.eval_shape` and allocate nothing.

# %%
def mup_network(x, width):
    with haiku_mup.apply_mup():                         # 1. the layers inside are in μP
        for _ in range(3):
            x = jax.nn.relu(hk.Linear(width)(x))
        return haiku_mup.Readout(10)(x)                 # 2. the output layer is a Readout


def mup_model(width):
    return hk.transform(functools.partial(mup_network, width=width))


BASE = 64
base, target = mup_model(BASE), mup_model(256)
mup, key, x = haiku_mup.Mup(), jax.random.key(0), data[0][:1]
with mup.init_base():                                   # 3. the model that was tuned
    jax.eval_shape(base.init, key, x)
with mup.init_target():                                 # 4. the model to train
    jax.eval_shape(target.init, key, x)
model = mup.wrap_model(target)                          # 5. init and apply are now in μP
optimizer = mup.wrap_optimizer(optax.adam(1e-3))        # 6. so is each parameter's learning rate
print(mup.summary())

# %% [markdown]
# How to read it, a row for each parameter:
#
# - **base**, **target**: its shape in both models. A dimension that differs is a *width*, and it grows.
# - **role**: which of its sides grow. `input`: the output side only, as in first layers and biases. `hidden`:
#   both. `output`: the input side only. `fixed`: none.
# - **std base**, **std target**: the standard deviation of its initial values in both models. In a plain Haiku
#   layer it goes like 1/√fan-in, and hidden weights keep that in μP. The readout's weights don't shrink.
# - **multiplier**: what the layer's inputs are multiplied by. Only the readout has one, 64/256.
# - **Adam lr**, **SGD lr**: what the learning rate is multiplied by, with either kind of optimizer. With Adam
#   only that of the hidden weights changes.
#
# In your own training loop, `model` and `optimizer` take the place of the plain ones, and nothing else changes.
# `training`, `lr_sweep` and `coord_check` take steps 3 to 6 themselves: give them the plain `mup_model`.
#
# ## 4. At the base nothing changes
#
# All factors are relative to the base. So at width 64 the model in μP *is* the plain model, bit for bit: its
# initial values, its outputs, and all that training makes of them.

# %%
def same(a, b):
    """Compares the arrays of two trees. (The last layer's name differs: linear_3, readout.)"""
    pairs = zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    return all(np.array_equal(x, y) for x, y in pairs)


at_base = haiku_mup.Mup()
with at_base.init_base():
    jax.eval_shape(base.init, key, x)
with at_base.init_target():                             # the target is as wide as the base
    jax.eval_shape(base.init, key, x)
plain, wrapped = plain_model(BASE), at_base.wrap_model(base)
plain_params, mup_params = plain.init(key, x), wrapped.init(key, x)
assert same(plain_params, mup_params)
assert np.array_equal(plain.apply(plain_params, None, x), wrapped.apply(mup_params, None, x))
print(f"at width {BASE} both have the same outputs, and equal parameters")

# %% [markdown]
# So the model that you have tuned is the base, and what you tuned stays.
#
# ## 5. Check it
#
# A coordinate check trains models of several widths for a few steps. In μP, nothing that training makes may
# grow or vanish with the width. It takes seconds, and finds most mistakes. The plain model must fail it.

# %%
batch = data[0][:128], data[1][:128]
check = functools.partial(haiku_mup.coord_check, widths=[64, 128, 256, 512], batch=batch, loss_fn=loss_fn,
                          optimizer=optax.adam(2**-8), progress=False)
print(str(check(mup_model)).splitlines()[0])
print(str(check(mup_model, parametrization="sp")).splitlines()[0])

# %% [markdown]
# ## 6. Sweep the learning rate
#
# Three widths, nine learning rates an octave (a factor of 2) apart, three seeds. `training` makes the trials,
# which train with Adam for ten epochs; `lr_sweep` runs them on all cores. `"sp"` is short for standard
# parametrization: there the model is taken as it is, without any factor.

# %%
WIDTHS, RATES = [64, 128, 256], [2.0**k for k in range(-13, -4)]
train = functools.partial(haiku_mup.training, mup_model, data, loss_fn, optax.adam, steps=310, batch_size=128,
                          base_width=BASE)
trials = {name: train(parametrization=name) for name in ("sp", "mup")}
sweep = haiku_mup.lr_sweep(trials, WIDTHS, RATES, seeds=3, progress=False)
print(sweep)

# %% [markdown]
# How far apart are the best rates of the three widths, in octaves?

# %%
for name, octaves in sweep.drift().items():
    print(f"{name:<4}drift {octaves:.2f} octaves")

# %%
sweep.plot()

# %% [markdown]
# On the left the lowest point moves as the width grows, on the right it stays about where it is. On the right
# the curves also lie close together at small rates: there a wide model trains like the narrow one, or better.
#
# The bars are 95% intervals over three seeds: near its lowest point a curve is flat. So trust the trend over
# the widths, not one disc. μP doesn't promise the lowest loss: it saves you the sweep at the large width.
#
# ## 7. The verdict, and a rate
#
# `recommend` says which rate to give the large model, from where, and what speaks against it: here, that three
# seeds are few.

# %%
warnings.simplefilter("ignore", haiku_mup.MupWarning)       # the advice prints what it would warn of
advice = sweep.recommend("mup")
print(textwrap.fill(str(advice), 100))

# %% [markdown]
# Give this rate to the wrapped optimizer of a model as wide as you like:
# `mup.wrap_optimizer(optax.adam(advice.lr))`.
#
# ## 8. What a mistake looks like
#
# Say the output layer is still an `hk.Linear`. It maps a growing width to a fixed size, which only a `Readout`
# does right, so the model is refused before anything is trained. The error names the parameter, the shapes and
# the remedy.

# %%
def mistaken_model(width):
    return hk.transform(haiku_mup.apply_mup()(functools.partial(network, width=width)))


try:
    haiku_mup.training(mistaken_model, data, loss_fn, optax.adam, steps=310, base_width=BASE)(256)
except haiku_mup.MupError as error:
    print(textwrap.fill(f"MupError: {error}", 100))

# %% [markdown]
# ## 9. Where to go next
#
# - The guide "Your own model, step by step" takes your model through the same steps; others are about
#   transformers, convolutions, optimizers and depth. "Concepts" says why it works.
# - Read "What transfers, and what doesn't" before you rely on a tuned rate: width does, but batch size, number
#   of steps and regularization are for you to tune at the size that you train.
# - `python -m demos.mnist_mlp` is this sweep with more rates and widths, and for the validation loss, too.
#   Rates an octave apart and three seeds, as here, are few.
