"""GPT-2 (Radford et al., Language Models are Unsupervised Multitask Learners, 2019)."""
import dataclasses
import math
from collections.abc import Sequence
from typing import Any, ClassVar

import haiku as hk
import jax
import jax.numpy as jnp

from haiku_mup.layers import SharedEmbed
from haiku_mup.layers.residual import residual
from haiku_mup.models.config import Config
from haiku_mup.models.heads import ModelWithHead, Output, vocabulary_logits
from haiku_mup.models.inputs import OTHER_TOKENIZER, check_ids, check_length, combine_masks, embed_ids
from haiku_mup.models.layers import ACTIVATIONS, Attention, apply_blocks, dropout, layer_norm, normal_init


@dataclasses.dataclass(frozen=True, kw_only=True)
class GPT2Config(Config):
    """The configuration of GPT-2; defaults are those of the smallest published model.

    Attributes:
      vocab_size: number of token ids.
      n_positions: length of the longest sequence.
      n_embd: width.
      n_layer: number of blocks.
      n_head: number of attention heads; each has n_embd / n_head dimensions.
      n_inner: width of the feed-forward layer; 4 · n_embd by default.
      activation_function: of the feed-forward layer.
      resid_pdrop: dropout rate of each branch before it is added to the residual stream.
      embd_pdrop: dropout rate of the sum of embeddings.
      attn_pdrop: dropout rate of attention weights.
      layer_norm_epsilon: of the layer norms.
      scale_attn_by_inverse_layer_idx: whether block i, counted from 1, also divides its attention logits by i.
      pad_token_id: id of padding, for other programs; None for none.

    For the others see `Config`.

    >>> models.GPT2Config(n_embd=64, n_head=4).inner
    256
    """

    model_type: ClassVar[str] = "gpt2"

    vocab_size: int = 50257
    n_positions: int = 1024
    n_embd: int = 768
    n_layer: int = 12
    n_head: int = 12
    n_inner: int | None = None
    activation_function: str = "gelu_new"
    resid_pdrop: float = 0.1
    embd_pdrop: float = 0.1
    attn_pdrop: float = 0.1
    layer_norm_epsilon: float = 1e-5
    scale_attn_by_inverse_layer_idx: bool = False
    bos_token_id: int | None = dataclasses.field(default=50256, compare=False)
    eos_token_id: int | Sequence[int] | None = dataclasses.field(default=50256, compare=False)
    pad_token_id: int | None = dataclasses.field(default=None, compare=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check_heads("n_embd", "n_head")

    @property
    def inner(self) -> int:
        """Returns the width of the feed-forward layer.

        >>> models.GPT2Config(n_inner=100).inner
        100
        """
        return self.n_inner or 4 * self.n_embd


class Block(hk.Module):
    """A pre-LN block: attention and a feed-forward layer, each on a norm of its input, which it is added to."""

    def __init__(self, config: GPT2Config, is_training: bool, name: str | None = None):
        super().__init__(name=name)
        self.config, self.is_training = config, is_training

    def __call__(self, x: jax.Array, layer_idx: Any, mask: jax.Array | None) -> jax.Array:
        c, resid_rate = self.config, self.config.resid_pdrop * self.is_training
        init = normal_init(c.initializer_range)
        # The stream sums 2 · n_layer branches: their last layers' init is divided by the root (section 2.3).
        branch_init = normal_init(c.initializer_range / math.sqrt(2 * c.n_layer))
        attn_mult = c.attn_mult / (layer_idx + 1) if c.scale_attn_by_inverse_layer_idx else c.attn_mult

        def attend(x: jax.Array) -> jax.Array:
            y = layer_norm("ln_1", c.layer_norm_epsilon)(x)
            attention = Attention(
                c.n_head, c.n_embd // c.n_head, w_init=init, out_init=branch_init, attn_mult=attn_mult,
                zero_query=c.query_zero_init, dropout_rate=c.attn_pdrop * self.is_training, name="attn")
            return dropout(attention(y, y, y, mask), resid_rate)

        def feed_forward(x: jax.Array) -> jax.Array:
            y = layer_norm("ln_2", c.layer_norm_epsilon)(x)
            y = ACTIVATIONS[c.activation_function](hk.Linear(c.inner, w_init=init, name="c_fc")(y))
            return dropout(hk.Linear(c.n_embd, w_init=branch_init, name="c_proj")(y), resid_rate)

        return residual(residual(x, attend), feed_forward)


class GPT2Model(hk.Module):
    """GPT-2 without a head.

    >>> config = models.GPT2Config(vocab_size=100, n_embd=16, n_head=2, n_layer=2)
    >>> def fn(ids):
    ...     with haiku_mup.apply_mup():
    ...         return models.GPT2Model(config)(ids)
    >>> ids = jnp.zeros((2, 5), int)
    >>> params = jax.eval_shape(hk.transform(fn).init, jax.random.PRNGKey(0), ids)
    >>> jax.eval_shape(hk.transform(fn).apply, params, None, ids).last_hidden_state.shape
    (2, 5, 16)
    """

    def __init__(self, config: GPT2Config, name: str | None = None, *, shared: bool = False):
        """Makes the model.

        Args:
          config: its configuration.
          name: name of the module, "gpt2_model" by default.
          shared: whether a `SharedReadout` reads the embedding, which the attribute `embed` then holds.
        """
        super().__init__(name=name)
        self.config, self.shared = config, shared
        self.embed: hk.Embed | None = None

    def __call__(self, input_ids: jax.Array, attention_mask: jax.Array | None = None,
                 token_type_ids: jax.Array | None = None, position_ids: jax.Array | None = None, *,
                 is_training: bool = False, output_hidden_states: bool = False) -> Output:
        """Maps ids [B, T] to vectors [B, T, D].

        Args:
          input_ids: tokens.
          attention_mask: [B, T], 0 for tokens that no position may attend to.
          token_type_ids: [B, T], further tokens whose embeddings are added.
          position_ids: [B, T]; 0, 1, 2, … by default.
          is_training: whether to apply dropout, which needs a random key.
          output_hidden_states: whether to return each block's input, too.

        Raises:
          MupError: a sequence longer than config.n_positions; outside of jit, an id outside of the vocabulary.
        """
        c = self.config
        ids = check_ids("input_ids", input_ids, c.vocab_size, OTHER_TOKENIZER)
        x = dropout(self._embed(ids, token_type_ids, position_ids), c.embd_pdrop * is_training)
        x, block_inputs = apply_blocks(
            lambda name: Block(c, is_training, name), x, combine_masks(attention_mask, ids, causal=True),
            count=c.n_layer, name="h", layer_stack=c.layer_stack, remat=c.remat,
            keep_inputs=output_hidden_states)
        x = layer_norm("ln_f", c.layer_norm_epsilon)(x)
        return Output(x, None, (*block_inputs, x) if output_hidden_states else None)

    @hk.transparent
    def _embed(self, ids: jax.Array, token_type_ids: jax.Array | None,
               position_ids: jax.Array | None) -> jax.Array:
        """Sums the embeddings of tokens, positions and token types."""
        c, init = self.config, normal_init(self.config.initializer_range)
        self.embed = (SharedEmbed if self.shared else hk.Embed)(c.vocab_size, c.n_embd, w_init=init, name="wte")
        wpe = hk.Embed(c.n_positions, c.n_embd, w_init=init, name="wpe")
        x = embed_ids(self.embed, ids)
        if position_ids is None:
            length = ids.shape[-1]
            check_length(length, c.n_positions, "n_positions")
            x = x + jnp.expand_dims(wpe(jnp.arange(length)), range(x.ndim - 2))
        else:
            positions = check_ids("position_ids", position_ids, c.n_positions, "see config.n_positions")
            x = x + embed_ids(wpe, positions)
        if token_type_ids is None:
            return x
        types = check_ids("token_type_ids", token_type_ids, c.vocab_size, OTHER_TOKENIZER)
        return x + embed_ids(self.embed, types)


class GPT2LMHeadModel(ModelWithHead[GPT2Config, jax.Array]):
    """GPT-2 that predicts the next token: logits [B, T, vocab_size] of the token after each.

    The readout is the embedding's matrix unless the configuration says otherwise.

    >>> config = models.GPT2Config(vocab_size=100, n_embd=16, n_head=2, n_layer=2)
    >>> def fn(ids):
    ...     with haiku_mup.apply_mup():
    ...         return models.GPT2LMHeadModel(config)(ids)
    >>> ids = jnp.zeros((2, 5), int)
    >>> params = jax.eval_shape(hk.transform(fn).init, jax.random.PRNGKey(0), ids)
    >>> jax.eval_shape(hk.transform(fn).apply, params, None, ids).shape
    (2, 5, 100)
    """

    @hk.transparent
    def _bare_model(self) -> GPT2Model:
        return GPT2Model(self.config, "transformer", shared=self.config.tie_word_embeddings)

    @hk.transparent
    def _head(self, model: GPT2Model, output: Output, is_training: bool, ids: jax.Array) -> jax.Array:
        return vocabulary_logits(self.config, model.embed, output.last_hidden_state, "lm_head", with_bias=False)
