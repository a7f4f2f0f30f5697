"""GPT-2 (Radford et al., Language Models are Unsupervised Multitask Learners, 2019)."""
import dataclasses
import math
from typing import Any, ClassVar

import haiku as hk
import jax
import jax.numpy as jnp

from haiku_mup.layers import SharedEmbed
from haiku_mup.layers.residual import residual
from haiku_mup.models import heads, inputs, layers
from haiku_mup.models.config import Config
from haiku_mup.models.heads import Output
from haiku_mup.models.layers import Attention, dropped, norm, normal


@dataclasses.dataclass(frozen=True, kw_only=True)
class GPT2Config(Config):
    """The configuration of GPT-2; its defaults are those of the smallest one that was published.

    Attributes:
      vocab_size: how many ids there are.
      n_positions: the longest sequence.
      n_embd: the width.
      n_layer: how many blocks.
      n_head: how many heads of n_embd / n_head each.
      n_inner: the feed-forward layer's width; 4 · n_embd by default.
      activation_function: of the feed-forward layer.
      resid_pdrop: dropout of what is added to the residual stream.
      embd_pdrop: dropout of the embeddings' sum.
      attn_pdrop: dropout of attention.
      layer_norm_epsilon: of the norms.
      scale_attn_by_inverse_layer_idx: whether block i divides its attention logits by i, too, from 1 on.

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

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check_heads("n_embd", "n_head")

    @property
    def inner(self) -> int:
        """The width of the feed-forward layer.

        >>> models.GPT2Config(n_inner=100).inner
        100
        """
        return self.n_inner or 4 * self.n_embd


class Block(hk.Module):
    """Attention and a feed-forward layer, each behind a norm and added to its input."""

    def __init__(self, config: GPT2Config, is_training: bool, name: str | None = None):
        super().__init__(name=name)
        self.config, self.is_training = config, is_training

    def __call__(self, x: jax.Array, number: Any, mask: jax.Array | None) -> jax.Array:
        c, rate = self.config, self.config.resid_pdrop * self.is_training
        init = normal(c.initializer_range)
        # What is added to the residual stream is drawn smaller, by the root of how often (ibid., section 2.3).
        last = normal(c.initializer_range / math.sqrt(2 * c.n_layer))
        mult = c.attn_mult / (number + 1) if c.scale_attn_by_inverse_layer_idx else c.attn_mult

        def attend(x: jax.Array) -> jax.Array:
            y = norm("ln_1", c.layer_norm_epsilon)(x)
            attention = Attention(
                c.n_head, c.n_embd // c.n_head, w_init=init, out_init=last, mult=mult,
                zero_query=c.query_zero_init, dropout=c.attn_pdrop * self.is_training, name="attn")
            return dropped(attention(y, y, y, mask), rate)

        def feed_forward(x: jax.Array) -> jax.Array:
            y = hk.Linear(c.inner, w_init=init, name="c_fc")(norm("ln_2", c.layer_norm_epsilon)(x))
            y = layers.ACTIVATIONS[c.activation_function](y)
            return dropped(hk.Linear(c.n_embd, w_init=last, name="c_proj")(y), rate)

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
          shared: whether a `SharedReadout` reads its embedding, which then is its attribute `embed`.
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
          attention_mask: [B, T]: 0 for tokens that nobody may see.
          token_type_ids: [B, T]: more tokens, whose embeddings are added.
          position_ids: [B, T]: places; 0, 1, 2, … by default.
          is_training: whether to drop out, which needs a random key.
          output_hidden_states: whether to return what each block is given, too.

        Raises:
          MupError: a sequence longer than config.n_positions; outside of jit, ids outside of the vocabulary.
        """
        c = self.config
        wte = (SharedEmbed if self.shared else hk.Embed)(
            c.vocab_size, c.n_embd, w_init=normal(c.initializer_range), name="wte")
        wpe = hk.Embed(c.n_positions, c.n_embd, w_init=normal(c.initializer_range), name="wpe")
        self.embed = wte
        ids = inputs.checked_ids("input_ids", input_ids, c.vocab_size, inputs.TOKENIZER)
        x = inputs.looked_up(wte, ids)
        if position_ids is None:
            inputs.check_length(x.shape[-2], c.n_positions, "n_positions")
            x = x + jnp.expand_dims(wpe(jnp.arange(x.shape[-2])), range(x.ndim - 2))
        else:
            places = inputs.checked_ids("position_ids", position_ids, c.n_positions, "see config.n_positions")
            x = x + inputs.looked_up(wpe, places)
        if token_type_ids is not None:
            types = inputs.checked_ids("token_type_ids", token_type_ids, c.vocab_size, inputs.TOKENIZER)
            x = x + inputs.looked_up(wte, types)
        x = dropped(x, c.embd_pdrop * is_training)
        mask = inputs.attended(attention_mask, ids, causal=True)
        x, given = layers.blocks(c, c.n_layer, lambda name: Block(c, is_training, name), x, mask, "h",
                                output_hidden_states)
        x = norm("ln_f", c.layer_norm_epsilon)(x)
        return Output(x, None, (*given, x) if output_hidden_states else None)


class GPT2LMHeadModel(hk.Module):
    """GPT-2 that predicts the next token, its readout tied to the embedding unless the configuration says not.

    >>> config = models.GPT2Config(vocab_size=100, n_embd=16, n_head=2, n_layer=2)
    >>> def fn(ids):
    ...     with haiku_mup.apply_mup():
    ...         return models.GPT2LMHeadModel(config)(ids)
    >>> ids = jnp.zeros((2, 5), int)
    >>> params = jax.eval_shape(hk.transform(fn).init, jax.random.PRNGKey(0), ids)
    >>> jax.eval_shape(hk.transform(fn).apply, params, None, ids).shape
    (2, 5, 100)
    """

    def __init__(self, config: GPT2Config, name: str | None = None):
        """Makes the model.

        Args:
          config: its configuration.
          name: name of the module, "gpt2_lm_head_model" by default.
        """
        super().__init__(name=name)
        self.config = config

    def __call__(self, input_ids: jax.Array, attention_mask: jax.Array | None = None,
                 token_type_ids: jax.Array | None = None, position_ids: jax.Array | None = None, *,
                 is_training: bool = False) -> jax.Array:
        """Logits [B, T, vocab_size] of the token that follows each of ids [B, T].

        For the arguments see `GPT2Model`.
        """
        c = self.config
        transformer = GPT2Model(c, "transformer", shared=c.tie_word_embeddings)
        x = transformer(input_ids, attention_mask, token_type_ids, position_ids, is_training=is_training)
        return heads.vocabulary_logits(c, transformer.embed, x.last_hidden_state, "lm_head", with_bias=False)
