"""What a model is given: ids and masks, checked, and looked up."""
from typing import Any

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np

from haiku_mup.errors import MupError
from haiku_mup.layers import sharded_lookup as lookups

TOKENIZER = "are they another tokenizer's? See config.vocab_size"

def looked_up(embed: hk.Embed, ids: jax.Array, padding: int | None = None) -> jax.Array:
    """The rows of ids. A padding id's row gets no gradient from being looked up."""
    with lookups.told():
        rows: jax.Array = embed(ids)
    if padding is None:
        return rows
    return jnp.where(jnp.expand_dims(ids == padding, -1), jax.lax.stop_gradient(rows), rows)


def attended(attention_mask: Any, ids: jax.Array, causal: bool = False) -> jax.Array | None:
    """Which of [B, 1, T', T] to attend to; None for all.

    Args:
      attention_mask: of tokens [B, T]: 0 or False for those that nobody may see; None for none.
      ids: the tokens [B, T].
      causal: whether nobody may see a later one.

    Raises:
      MupError: a mask of another shape.
    """
    if attention_mask is not None and jnp.shape(attention_mask) != jnp.shape(ids):
        raise MupError(f"attention_mask: shape {jnp.shape(attention_mask)}, and input_ids have {ids.shape}; "
                       "give 1 for each token to be seen, 0 for others")
    mask = None if attention_mask is None else (jnp.asarray(attention_mask) != 0)[..., None, None, :]
    if not causal:
        return mask
    length = ids.shape[-1]
    earlier = np.tril(np.ones((1,) * (ids.ndim - 1) + (1, length, length), bool))
    return jnp.asarray(earlier) if mask is None else mask & earlier


def checked_ids(what: str, ids: Any, size: int, remedy: str) -> jax.Array:
    """The ids [batch, tokens], which are 0 to size - 1.

    Raises:
      MupError: what are no ids; ids outside, where they can be seen: not under jit.
    """
    if not hasattr(ids, "dtype") or not jnp.issubdtype(ids.dtype, jnp.integer):
        raise MupError(f"{what}: give an array of whole numbers [batch, tokens]")
    if ids.ndim < 2:
        raise MupError(f"{what}: shape {ids.shape}; give [batch, tokens], as in {what}[None]")
    if ids.size and not isinstance(ids, jax.core.Tracer):
        known = np.asarray(ids)             # NumPy's, so that it is not traced
        low, high = int(known.min()), int(known.max())
        if low < 0 or high >= size:
            raise MupError(f"{what}: {low if low < 0 else high} is outside of 0 to {size - 1}; {remedy}")
    return jnp.asarray(ids)


def check_length(length: int, most: int, field: str) -> None:
    """Raises for a sequence that is longer than there are positions."""
    if length > most:
        raise MupError(f"input_ids: {length} tokens, and there are positions for {most}; cut the sequences, or "
                       f"give a larger {field}")
