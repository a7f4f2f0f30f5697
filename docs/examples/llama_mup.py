"""Llama in Haiku, in μP."""
import functools
import math

import haiku as hk
import jax
import jax.numpy as jnp

import haiku_mup

norm = functools.partial(hk.RMSNorm, axis=-1, eps=1e-6)


def rotary(x):
    """Turns pairs of entries of x [batch, T, heads, size] by angles that grow with T."""
    half = x.shape[-1] // 2
    angles = jnp.outer(jnp.arange(x.shape[1]), 10_000.0**(-jnp.arange(half) / half))[None, :, None]
    cos, sin, (a, b) = jnp.cos(angles), jnp.sin(angles), jnp.split(x, 2, -1)
    return jnp.concatenate([a * cos - b * sin, b * cos + a * sin], -1)


def attention(x, heads, groups, init):
    """Gathers, for each place of x [batch, T, width], from those up to it; heads share keys in groups."""
    size = x.shape[-1] // heads
    q, k, v = (hk.Linear(count * size, False, init, name=name)(x).reshape(*x.shape[:2], count, size)
               for name, count in (("query", heads), ("key", groups), ("value", groups)))
    q, k = rotary(q).reshape(*x.shape[:2], groups, heads // groups, size), rotary(k)
    scores = jnp.einsum("btghd,bTgd->bghtT", q, k) * math.sqrt(16) / size       # 16 at the base
    earlier = jnp.tril(jnp.ones(scores.shape[-2:], bool))
    weights = jax.nn.softmax(jnp.where(earlier[None, None, None], scores, -1e30))
    gathered = jnp.einsum("bghtT,bTgd->btghd", weights, v).reshape(x.shape)
    return hk.Linear(x.shape[-1], False, init, name="linear")(gathered)


def feed_forward(x, init):
    """Transforms each place by itself, with a gate."""
    hidden = 64 * math.ceil(x.shape[-1] / 24)           # 8/3 of the width, rounded up to a multiple of 64
    gate, up = (hk.Linear(hidden, False, init, name=name)(x) for name in ("gate_proj", "up_proj"))
    return hk.Linear(x.shape[-1], False, init, name="down_proj")(jax.nn.silu(gate) * up)


@haiku_mup.apply_mup()
def llama(ids, width, heads=4, groups=2, blocks=2, vocab=64, std=0.02):
    """Returns logits [batch, T, vocab] of the id that follows each of ids [batch, T]."""
    init = hk.initializers.RandomNormal(std)
    x = hk.Embed(vocab, width, w_init=init, name="embed_tokens")(ids)
    for i in range(blocks):
        with hk.experimental.name_scope(f"layers_{i}"):
            x = x + attention(norm(name="input_layernorm")(x), heads, groups, init)
            x = x + feed_forward(norm(name="post_attention_layernorm")(x), init)
    x = norm(name="norm")(x)
    return haiku_mup.Readout(vocab, False, init, name="lm_head")(x)
