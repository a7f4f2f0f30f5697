"""What GPT-2, BERT and RoBERTa share: attention, lookups, dropout, masks, blocks one after the other."""
import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np

from haiku_mup.errors import MupError
from haiku_mup.layers import sharded_lookup as lookups
from haiku_mup.layers.readout import MultiHeadAttention, Readout, SharedReadout
from haiku_mup.parameters.factors import scaled
from haiku_mup.parameters.initializers import Initializer
from haiku_mup.tracing import context
from haiku_mup.tracing import getters as uses

_gelu_tanh = functools.partial(jax.nn.gelu, approximate=True)
ACTIVATIONS: Mapping[str, Callable[[jax.Array], jax.Array]] = {
    "gelu": functools.partial(jax.nn.gelu, approximate=False), "gelu_new": _gelu_tanh,
    "gelu_pytorch_tanh": _gelu_tanh, "relu": jax.nn.relu, "silu": jax.nn.silu, "swish": jax.nn.silu,
    "tanh": jnp.tanh,
}
IGNORED = -100      # a label that counts for nothing
TOKENIZER = "are they another tokenizer's? See config.vocab_size"


class Output(NamedTuple):
    """What a model without a head computes.

    Attributes:
      last_hidden_state: [B, T, D], behind the last block, and GPT-2's last norm.
      pooler_output: of BERT's pooler [B, D]; None where there is none.
      hidden_states: what each block is given, and last_hidden_state; None unless it was asked for.

    >>> models.Output(jnp.ones((2, 5, 16))).pooler_output is None
    True
    """

    last_hidden_state: jax.Array
    pooler_output: jax.Array | None = None
    hidden_states: tuple[jax.Array, ...] | None = None


class Query(hk.Linear):
    """Queries, and so an attention's logits, times what μP and the configuration say."""

    def __init__(self, output_size: int, w_init: Initializer | None, mult: Any, name: str | None = None):
        super().__init__(output_size, w_init=w_init, name=name)
        self.mult = mult

    def __call__(self, inputs: jax.Array, *, precision: Any = None) -> jax.Array:
        factor = context.multiplier(f"{self.module_name}/w", uses.weight_shape(self, inputs))
        queries: jax.Array = scaled(super().__call__(inputs, precision=precision), factor)
        if isinstance(self.mult, (int, float)) and self.mult == 1:
            return queries
        return queries * jnp.asarray(self.mult, queries.dtype)


class Attention(MultiHeadAttention):
    """`MultiHeadAttention` with a tunable constant, dropout, and an initializer of its own for its outputs.

    Same parameters, same names. Logits are `mult` · q·k / √d at the base's key size d, and go like 1/d beyond.
    """

    def __init__(self, num_heads: int, key_size: int, *, w_init: Initializer, out_init: Initializer,
                 mult: Any = 1.0, dropout: float = 0.0, zero_query: bool = False, name: str | None = None):
        super().__init__(num_heads, key_size, w_init=w_init, zero_query=zero_query, name=name)
        self.out_init, self.mult, self.dropout = out_init, mult, dropout

    def __call__(self, query: jax.Array, key: jax.Array, value: jax.Array,
                 mask: jax.Array | None = None) -> jax.Array:
        size = self.num_heads * self.key_size
        query_init = jnp.zeros if self.zero_query else self.w_init
        q = self._heads(Query(size, query_init, self.mult, name="query")(query))    # [T', H, K]
        k, v = (self._heads(hk.Linear(size, w_init=self.w_init, name=name)(x))      # [T, H, K]
                for name, x in (("key", key), ("value", value)))
        logits = jnp.einsum("...thd,...Thd->...htT", q * self.key_size**-0.5, k)
        if mask is not None:
            logits = logits + jnp.where(mask, 0, jnp.finfo(logits.dtype).min).astype(logits.dtype)
        weights = dropped(jax.nn.softmax(logits), self.dropout)                     # [H, T', T]
        out = jnp.einsum("...htT,...Thd->...thd", weights, v)
        return hk.Linear(size, w_init=self.out_init, name="linear")(out.reshape(query.shape[:-1] + (size,)))

    def _heads(self, x: jax.Array) -> jax.Array:
        return x.reshape(*x.shape[:-1], self.num_heads, self.key_size)


def normal(std: float) -> Initializer:
    """The initializer of a matrix."""
    init: Initializer = hk.initializers.RandomNormal(std)
    return init


def norm(name: str, eps: float) -> hk.LayerNorm:
    """A layer norm over the last axis."""
    return hk.LayerNorm(-1, create_scale=True, create_offset=True, eps=eps, name=name)


def dropped(x: jax.Array, rate: float) -> jax.Array:
    """x with dropout; itself at rate 0."""
    return x if rate == 0 else hk.dropout(hk.next_rng_key(), rate, x)


def looked_up(embed: hk.Embed, ids: jax.Array, padding: int | None = None) -> jax.Array:
    """The rows of ids. A padding id's row gets no gradient from being looked up."""
    with lookups.told():
        rows: jax.Array = embed(ids)
    if padding is None:
        return rows
    return jnp.where(jnp.expand_dims(ids == padding, -1), jax.lax.stop_gradient(rows), rows)


def classifier_rate(config: Any) -> float:
    """The dropout of a classification."""
    rate: float = config.hidden_dropout_prob if config.classifier_dropout is None else config.classifier_dropout
    return rate


def readout(config: Any, size: int, name: str, with_bias: bool = True) -> Readout:
    """An output layer of its own."""
    init = None if config.readout_zero_init else normal(config.initializer_range)
    return Readout(size, with_bias, init, name=name, output_mult=config.output_mult,
                   zero_init=config.readout_zero_init)


def vocabulary_logits(config: Any, embed: Any, x: jax.Array, name: str, with_bias: bool) -> jax.Array:
    """Logits [..., vocab_size], by the embedding's matrix or by one of their own."""
    if not config.tie_word_embeddings:
        return readout(config, config.vocab_size, name, with_bias)(x)
    if config.readout_zero_init:
        raise MupError(f"{type(config).__name__}: readout_zero_init=True, and the readout is the embedding's "
                       "matrix, which can't be zero; give tie_word_embeddings=False, or leave it")
    return SharedReadout(with_bias, name=name, output_mult=config.output_mult)(embed, x)


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


def blocks(config: Any, count: int, make: Callable[[str], Callable[..., jax.Array]], x: jax.Array,
           mask: jax.Array | None, name: str, keep: bool) -> tuple[jax.Array, tuple[jax.Array, ...]]:
    """What `count` blocks make of x, one after the other, and what each is given, if that is to be kept.

    Args:
      config: says whether they are stacked, and computed anew in the backward pass.
      count: how many.
      make: from a name to a block, which maps (x, its number, mask) to x.
      x: activations [B, T, D].
      mask: as `attended` gives it.
      name: of the stack; of block i it is name_i.
      keep: whether to keep what each is given.
    """
    def step(x: jax.Array, number: Any, own: str) -> jax.Array:
        block = make(own)
        out: jax.Array = (hk.remat(block) if config.remat else block)(x, number, mask)
        return out

    if not config.layer_stack:
        given = []
        for i in range(count):
            given.append(x)
            x = step(x, i, f"{name}_{i}")
        return x, tuple(given) if keep else ()

    def layer(x: jax.Array, number: jax.Array) -> tuple[jax.Array, jax.Array | None]:
        return step(x, number, "block"), x if keep else None

    stack = hk.experimental.layer_stack(count, with_per_layer_inputs=True, name=name)
    x, stacked = stack(layer)(x, jnp.arange(count))
    return x, tuple(stacked[i] for i in range(count)) if keep else ()


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


def cross_entropy(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """The mean of -log p over labels; a label of -100 counts for nothing.

    For a model that predicts the next token, the labels are `next_tokens(ids)`.

    Args:
      logits: [..., classes].
      labels: whole numbers [...].

    Returns:
      A scalar; 0 where no label counts.

    >>> logits, labels = jnp.zeros((2, 3, 8)), jnp.array([[0, 1, -100], [-100, -100, 7]])
    >>> float(models.cross_entropy(logits, labels)) == float(jnp.log(8.0))
    True
    """
    counts = labels != IGNORED
    safe = jnp.where(counts, labels, 0)
    picked = jnp.take_along_axis(logits, safe[..., None], -1)[..., 0]
    losses = jnp.where(counts, jax.nn.logsumexp(logits, -1) - picked, 0)
    return losses.sum() / jnp.maximum(counts.sum(), 1)


def next_tokens(ids: jax.Array, attention_mask: jax.Array | None = None) -> jax.Array:
    """The labels of a model that predicts the next token: the last place of a sequence has none.

    Cheaper than to cut the logits by one, which copies them.

    Args:
      ids: [..., T].
      attention_mask: of the same shape: tokens with 0 are no labels.

    Returns:
      Labels for `cross_entropy`, [..., T].

    >>> models.next_tokens(jnp.array([[5, 6, 7, 0]]), jnp.array([[1, 1, 1, 0]]))
    Array([[   6,    7, -100, -100]], dtype=int32)
    """
    labels = jnp.asarray(ids)
    if attention_mask is not None:
        labels = jnp.where(jnp.asarray(attention_mask) != 0, labels, IGNORED)
    return jnp.pad(labels[..., 1:], [(0, 0)] * (labels.ndim - 1) + [(0, 1)], constant_values=IGNORED)
