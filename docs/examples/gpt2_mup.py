"""GPT-2 in plain Haiku, in the standard parametrization."""
import functools
import math

import haiku as hk
import jax
import jax.numpy as jnp

import haiku_mup

norm = functools.partial(hk.LayerNorm, axis=-1, create_scale=True, create_offset=True)


def attention(x, heads, init, last):
    """Gathers, for each place of x [batch, T, width], from those up to it."""
    size = x.shape[-1] // heads
    q, k, v = (hk.Linear(x.shape[-1], w_init=init, name=name)(x).reshape(*x.shape[:-1], heads, size)
               for name in ("query", "key", "value"))
    scores = jnp.einsum("bthd,bThd->bhtT", q, k) * math.sqrt(16) / size       # 16 at the base
    earlier = jnp.tril(jnp.ones(scores.shape[-2:], bool))
    weights = jax.nn.softmax(jnp.where(earlier[None, None], scores, -1e30))
    gathered = jnp.einsum("bhtT,bThd->bthd", weights, v).reshape(x.shape)
    return hk.Linear(x.shape[-1], w_init=last, name="linear")(gathered)


def feed_forward(x, init, last):
    """Transforms each place by itself."""
    y = jax.nn.gelu(hk.Linear(4 * x.shape[-1], w_init=init, name="c_fc")(x))
    return hk.Linear(x.shape[-1], w_init=last, name="c_proj")(y)


@haiku_mup.apply_mup()
def gpt2(ids, width, heads=4, blocks=2, vocab=64, places=32, std=0.02):
    """Returns logits [batch, T, vocab] of the id that follows each of ids [batch, T]."""
    init = hk.initializers.RandomNormal(std)
    last = hk.initializers.RandomNormal(std / math.sqrt(2 * blocks))
    embed = haiku_mup.SharedEmbed(vocab, width, w_init=init, name="wte")
    x = embed(ids) + hk.Embed(places, width, w_init=init, name="wpe")(jnp.arange(ids.shape[1])[None])
    for i in range(blocks):
        with hk.experimental.name_scope(f"h_{i}"):
            x = x + attention(norm(name="ln_1")(x), heads, init, last)
            x = x + feed_forward(norm(name="ln_2")(x), init, last)
    x = norm(name="ln_f")(x)
    return haiku_mup.SharedReadout()(embed, x)
