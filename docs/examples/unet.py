"""A U-Net in μP, which takes the noise out of images."""
import functools

import haiku as hk
import jax
import jax.numpy as jnp

import haiku_mup


def convolve(x, channels):
    x = hk.Conv2D(channels, 3)(x)
    return jax.nn.gelu(hk.GroupNorm(4)(x))


def network(images, width, levels=2):
    """Maps noisy images [batch, height, width, 1] to clean ones."""
    with haiku_mup.apply_mup():
        x, skips = images, []
        for level in range(levels):
            x = convolve(x, width * 2**level)
            skips.append(x)
            x = hk.Conv2D(width * 2**level, 3, stride=2)(x)
        x = convolve(x, width * 2**levels)
        for level in reversed(range(levels)):
            x = hk.Conv2DTranspose(width * 2**level, 3, stride=2)(x)
            x = convolve(jnp.concatenate([x, skips.pop()], axis=-1), width * 2**level)
        return haiku_mup.ConvReadout(2, 1, 1)(x)


def make_model(width):
    return hk.transform(functools.partial(network, width=width))


def loss_fn(apply, params, rng, batch):
    noisy, clean = batch
    return jnp.mean((apply(params, rng, noisy) - clean)**2)
