"""Parts of today's transformers, and what μP asks of each: docs/guides/transformers.rst explains them."""
import math

import haiku as hk
import jax
import jax.numpy as jnp

import haiku_mup

INIT = hk.initializers.VarianceScaling()
BASE_SIZE = 16          # of a head at the base


def rms_norm(x):
    """Divides x by its root mean square over the last axis; multiplies it by a gain (arXiv 1910.07467)."""
    with haiku_mup.fans(fan_in=(), fan_out=0):
        gain = hk.get_parameter("gain", x.shape[-1:], init=jnp.ones)
    size = jnp.sqrt(jnp.mean(x**2, -1, keepdims=True) + 1e-6)
    return x / size * jnp.broadcast_to(gain, x.shape)


def rotary(x):
    """Turns pairs of entries of x [batch, T, heads, size] by angles that grow with T (arXiv 2104.09864)."""
    half = x.shape[-1] // 2
    angles = jnp.outer(jnp.arange(x.shape[1]), 10_000.0**(-jnp.arange(half) / half))[None, :, None]
    cos, sin, (a, b) = jnp.cos(angles), jnp.sin(angles), jnp.split(x, 2, -1)
    return jnp.concatenate([a * cos - b * sin, a * sin + b * cos], -1)


def keys_and_values(x, size):
    """Makes keys and values of groups that grow with the width: by hidden layers."""
    return [hk.Linear(size, False, INIT, name=name)(x) for name in ("key", "value")]


def few_keys_and_values(x, size):
    """Makes those of groups that stay: from a growing to a fixed width, so by outputs. Values start at zero."""
    keys = haiku_mup.Readout(size, False, INIT, name="key")(x)
    return keys, haiku_mup.Readout(size, False, zero_init=True, name="value")(x)


def attention(x, heads, groups, size, shared=keys_and_values):
    """Attends with heads of that size, which share keys and values in groups (arXiv 2305.13245)."""
    def split(x, *shape):
        return x.reshape(*x.shape[:2], *shape, size)

    q = rotary(split(hk.Linear(heads * size, False, INIT, name="query")(x), heads))
    k, v = (split(y, groups) for y in shared(x, groups * size))
    q, k, scale = split(q, groups, heads // groups), rotary(k), math.sqrt(BASE_SIZE) / size
    haiku_mup.probe("aligned", scale * jnp.sum(q**2, -1))       # the score of a key that is aligned with q
    scores = scale * jnp.einsum("btghd,bTgd->bghtT", q, k)
    earlier = jnp.tril(jnp.ones(scores.shape[-2:], bool))[None, None, None]
    weights = jax.nn.softmax(jnp.where(earlier, scores, -1e30))
    gathered = jnp.einsum("bghtT,bTgd->btghd", weights, v).reshape(*x.shape[:2], heads * size)
    return hk.Linear(x.shape[-1], False, INIT, name="out")(gathered)


def swiglu(x, hidden):
    """Applies a feed-forward layer with a gate (arXiv 2002.05202)."""
    gate, up = (hk.Linear(hidden, False, INIT, name=name)(x) for name in ("gate", "up"))
    return hk.Linear(x.shape[-1], False, INIT, name="down")(jax.nn.silu(gate) * up)


def mixture(x, hidden, experts=4, chosen=2):
    """Applies the feed-forward layers that a router chooses for each place (arXiv 1701.06538)."""
    logits = haiku_mup.Readout(experts, False, INIT, name="router")(x)
    best, which = jax.lax.top_k(logits, chosen)
    gates = jnp.einsum("btk,btke->bte", jax.nn.softmax(best), jax.nn.one_hot(which, experts))
    init = hk.initializers.VarianceScaling(fan_in_axes=(1,))
    with haiku_mup.fans(fan_in=1, fan_out=2):
        up = hk.get_parameter("experts_up", (experts, x.shape[-1], hidden), init=init)
        down = hk.get_parameter("experts_down", (experts, hidden, x.shape[-1]), init=init)
    y = jax.nn.relu(jnp.einsum("btm,emh->bteh", x, up))
    return jnp.einsum("bteh,ehm,bte->btm", y, down, gates)


@haiku_mup.apply_mup()
def decoder(ids, width, attend, feed, blocks=2, vocab=64):
    """Returns logits [batch, T, vocab] of ids [batch, T]; a block has attend(x, width) and feed(x, width)."""
    x = hk.Embed(vocab, width, w_init=hk.initializers.RandomNormal())(ids)
    for i in range(blocks):
        for name, part in (("attend", attend), ("feed", feed)):
            with hk.experimental.name_scope(f"{name}_{i}"):
                x = x + part(rms_norm(x), width)
    with hk.experimental.name_scope("last"):
        x = rms_norm(x)
    return haiku_mup.Readout(vocab, False, INIT)(x)
