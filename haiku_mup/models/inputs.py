"""Inputs of language models: checks of ids, embedding lookups, attention masks."""
from typing import Any

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np

from haiku_mup.errors import MupError
from haiku_mup.layers import sharded_lookup

OTHER_TOKENIZER = "are they another tokenizer's? See config.vocab_size"


def check_ids(name: str, ids: Any, size: int, remedy: str) -> jax.Array:
    """Returns the ids as an array [batch, tokens], and checks that they are integers from 0 to size - 1.

    Values can be checked only outside of jit: there is nothing to see in a tracer.

    Args:
      name: of the argument, for errors.
      ids: the argument.
      size: number of rows of the embedding that the ids index.
      remedy: end of the error about an id out of range.

    Raises:
      MupError: not an array of integers; fewer than two axes; an id out of range.
    """
    if not hasattr(ids, "dtype") or not jnp.issubdtype(ids.dtype, jnp.integer):
        raise MupError(f"{name}: give an array of whole numbers [batch, tokens]")
    if ids.ndim < 2:
        raise MupError(f"{name}: shape {ids.shape}; give [batch, tokens], as in {name}[None]")
    if ids.size and not isinstance(ids, jax.core.Tracer):
        values = np.asarray(ids)            # in NumPy, so that min and max are not traced
        low, high = int(values.min()), int(values.max())
        if low < 0 or high >= size:
            raise MupError(f"{name}: {low if low < 0 else high} is outside of 0 to {size - 1}; {remedy}")
    return jnp.asarray(ids)


def check_length(length: int, max_length: int, field: str) -> None:
    """Raises MupError for a sequence with more tokens than there are position embeddings."""
    if length > max_length:
        raise MupError(f"input_ids: {length} tokens, and there are positions for {max_length}; cut the "
                       f"sequences, or give a larger {field}")


def embed_ids(embed: hk.Embed, ids: jax.Array, padding_id: int | None = None) -> jax.Array:
    """Looks up the embeddings of ids; that of `padding_id` gets no gradient from the lookup."""
    with sharded_lookup.out_sharding():
        rows: jax.Array = embed(ids)
    if padding_id is None:
        return rows
    return jnp.where(jnp.expand_dims(ids == padding_id, -1), jax.lax.stop_gradient(rows), rows)


def combine_masks(attention_mask: Any, ids: jax.Array, causal: bool = False) -> jax.Array | None:
    """Combines a padding mask and a causal mask into one mask for attention weights [B, H, T', T].

    Args:
      attention_mask: [B, T], 0 or False for tokens that no position may attend to; None for no padding.
      ids: the tokens [B, T].
      causal: whether a position may attend only to itself and earlier ones.

    Returns:
      A boolean array that broadcasts to [B, H, T', T]; None if every position attends to all.

    Raises:
      MupError: a mask whose shape is not that of the ids.
    """
    if attention_mask is not None and jnp.shape(attention_mask) != jnp.shape(ids):
        raise MupError(f"attention_mask: shape {jnp.shape(attention_mask)}, and input_ids have {ids.shape}; "
                       "give 1 for each token to be seen, 0 for others")
    padding = None if attention_mask is None else (jnp.asarray(attention_mask) != 0)[..., None, None, :]
    if not causal:
        return padding
    length = ids.shape[-1]
    earlier = np.tril(np.ones((1,) * (ids.ndim - 1) + (1, length, length), bool))   # same rank as `padding`
    return jnp.asarray(earlier) if padding is None else padding & earlier
