"""A variational autoencoder of hk.multi_transform, in μP."""
import haiku as hk
import jax
import jax.numpy as jnp

import haiku_mup

LATENT = 8          # no width: it stays


def make_functions(width, pixels):
    """Returns the functions of hk.multi_transform: (loss; encode, decode)."""
    @haiku_mup.apply_mup()
    def encode(x):
        x = jax.nn.relu(hk.Linear(width, name="encoder")(x))
        mean = haiku_mup.Readout(LATENT, name="mean")(x)
        return mean, haiku_mup.Readout(LATENT, name="log_std")(x)

    @haiku_mup.apply_mup()
    def decode(z):
        x = jax.nn.relu(hk.Linear(width, name="decoder")(z))
        x = jax.nn.relu(hk.Linear(width, name="decoder_hidden")(x))
        return haiku_mup.Readout(pixels, name="pixels")(x)

    def loss(x):
        mean, log_std = encode(x)
        z = mean + jnp.exp(log_std) * jax.random.normal(hk.next_rng_key(), mean.shape)
        kl = (jnp.exp(2 * log_std) + mean**2 - 1) / 2 - log_std
        return jnp.mean((decode(z) - x)**2) + 1e-3 * kl.sum(-1).mean()

    return loss, (loss, encode, decode)
