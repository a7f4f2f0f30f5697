"""Llama (Touvron et al., arXiv 2302.13971): RMS norms, rotary embeddings, grouped queries, gated layers."""
import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import haiku as hk
import jax
import jax.numpy as jnp

from haiku_mup.errors import MupError
from haiku_mup.layers import SharedEmbed
from haiku_mup.layers.residual import residual
from haiku_mup.models.config import Config
from haiku_mup.models.grouped_attention import GroupedAttention
from haiku_mup.models.heads import ModelWithHead, Output, readout_layer, vocabulary_logits
from haiku_mup.models.inputs import OTHER_TOKENIZER, check_ids, combine_masks, embed_ids
from haiku_mup.models.layers import ACTIVATIONS, RMSNorm, apply_blocks, normal_init
from haiku_mup.models.rope import RopeParameters, cos_and_sin, parse_rope


@dataclasses.dataclass(frozen=True, kw_only=True)
class LlamaConfig(Config):
    """The configuration of Llama; defaults are those of transformers, with the sizes of Llama-2-7b.

    Attributes:
      vocab_size: number of token ids.
      hidden_size: width.
      intermediate_size: width of the feed-forward layer.
      num_hidden_layers: number of blocks.
      num_attention_heads: number of attention heads.
      num_key_value_heads: number of groups of heads that share keys and values; None for one a head.
      head_dim: size of a head; None for hidden_size / num_attention_heads.
      hidden_act: activation of the feed-forward layer's gate.
      max_position_embeddings: length of the sequences that the model was made for; longer ones are no error.
      rms_norm_eps: of the norms.
      attention_bias: whether the projections of attention add biases.
      mlp_bias: whether those of the feed-forward layer do.
      attention_dropout: dropout rate of attention weights.
      rope_parameters: settings of rotary position embeddings, a mapping with rope_type ("default", "linear",
        "dynamic", "llama3" or "yarn"), rope_theta, and what the type needs.
      pad_token_id: id of padding, whose embedding gets no gradient as an input; None for none.

    The settings may be given as transformers 4 has them: by the arguments ``rope_theta`` and ``rope_scaling``.
    For the other fields see `Config`.

    >>> config = models.LlamaConfig(hidden_size=64, num_attention_heads=4, num_key_value_heads=2)
    >>> config.key_size, config.rope_parameters["rope_theta"]
    (16, 10000.0)
    """

    model_type: ClassVar[str] = "llama"

    vocab_size: int = 32000
    hidden_size: int = 4096
    intermediate_size: int = 11008
    num_hidden_layers: int = 32
    num_attention_heads: int = 32
    num_key_value_heads: int | None = None
    head_dim: int | None = None
    hidden_act: str = "silu"
    max_position_embeddings: int = 2048
    rms_norm_eps: float = 1e-6
    attention_bias: bool = False
    mlp_bias: bool = False
    attention_dropout: float = 0.0
    tie_word_embeddings: bool = False
    rope_parameters: Mapping[str, Any] | None = None
    pad_token_id: int | None = None
    bos_token_id: int | None = dataclasses.field(default=1, compare=False)
    eos_token_id: int | Sequence[int] | None = dataclasses.field(default=2, compare=False)
    rope_theta: dataclasses.InitVar[float | None] = None
    rope_scaling: dataclasses.InitVar[Mapping[str, Any] | None] = None

    def __post_init__(self, rope_theta: float | None, rope_scaling: Mapping[str, Any] | None) -> None:
        super().__post_init__()
        self._check_heads("hidden_size", "num_attention_heads")
        if self.num_attention_heads % self.groups:
            raise MupError(f"{type(self).__name__}: num_attention_heads={self.num_attention_heads} is not "
                           f"divisible by num_key_value_heads={self.groups}; give a divisor")
        if self.pad_token_id is not None and self.pad_token_id >= self.vocab_size:
            raise MupError(f"{type(self).__name__}: pad_token_id={self.pad_token_id} is outside of the "
                           f"vocabulary, whose ids are 0 to {self.vocab_size - 1}; give one of them, or None")
        try:
            rope = parse_rope(self.rope_parameters, rope_theta, rope_scaling, self.max_position_embeddings,
                              self.other_fields.get("original_max_position_embeddings"))
        except MupError as error:
            raise MupError(f"{type(self).__name__}: {error}") from None
        object.__setattr__(self, "rope_parameters", rope)       # the class is frozen
        least = 4 if rope["rope_type"] == "dynamic" else 2
        if self.key_size % 2 or self.key_size < least:
            raise MupError(f"{type(self).__name__}: heads of size {self.key_size}: rotary embeddings need an "
                           f"even size of at least {least}; give another head_dim or num_attention_heads")

    @property
    def key_size(self) -> int:
        """Returns the size of a head.

        >>> models.LlamaConfig(head_dim=64).key_size
        64
        """
        return self.head_dim or self.hidden_size // self.num_attention_heads

    @property
    def groups(self) -> int:
        """Returns the number of groups of heads that share keys and values.

        >>> models.LlamaConfig().groups
        32
        """
        return self.num_key_value_heads or self.num_attention_heads

    def _file_fields(self) -> dict[str, Any]:
        """Returns the fields as transformers writes them: no size is None, settings of rope in both forms."""
        assert self.rope_parameters is not None
        rope = dict(self.rope_parameters)
        scaling = None if rope["rope_type"] == "default" else {
            name: value for name, value in rope.items() if name != "rope_theta"}
        return {**super()._file_fields(), "head_dim": self.key_size, "num_key_value_heads": self.groups,
                "rope_parameters": rope, "rope_theta": rope["rope_theta"], "rope_scaling": scaling}


class Block(hk.Module):
    """A pre-norm block: attention and a gated feed-forward layer, each on a norm of its input."""

    def __init__(self, config: LlamaConfig, is_training: bool, name: str | None = None):
        super().__init__(name=name)
        self.config, self.is_training = config, is_training

    def __call__(self, x: jax.Array, layer_idx: Any, shared: tuple[jax.Array, jax.Array, Any]) -> jax.Array:
        del layer_idx
        c, init, (cos, sin, mask) = self.config, normal_init(self.config.initializer_range), shared

        def attend(x: jax.Array) -> jax.Array:
            y = RMSNorm(c.rms_norm_eps, name="input_layernorm")(x)
            attention = GroupedAttention(
                c.num_attention_heads, c.groups, c.key_size, w_init=init, with_bias=c.attention_bias,
                attn_mult=c.attn_mult, zero_query=c.query_zero_init,
                dropout_rate=c.attention_dropout * self.is_training, name="self_attn")
            return attention(y, cos, sin, mask)

        def feed_forward(x: jax.Array) -> jax.Array:
            y = RMSNorm(c.rms_norm_eps, name="post_attention_layernorm")(x)
            gate, up = (hk.Linear(c.intermediate_size, c.mlp_bias, init, name=name)(y)
                        for name in ("gate_proj", "up_proj"))
            y = ACTIVATIONS[c.hidden_act](gate) * up
            return hk.Linear(c.hidden_size, c.mlp_bias, init, name="down_proj")(y)

        return residual(residual(x, attend), feed_forward)


class LlamaModel(hk.Module):
    """Llama without a head.

    >>> config = models.LlamaConfig(vocab_size=100, hidden_size=16, intermediate_size=40, num_attention_heads=4,
    ...                             num_key_value_heads=2, num_hidden_layers=2)
    >>> def fn(ids):
    ...     with haiku_mup.apply_mup():
    ...         return models.LlamaModel(config)(ids)
    >>> ids = jnp.zeros((2, 5), int)
    >>> params = jax.eval_shape(hk.transform(fn).init, jax.random.PRNGKey(0), ids)
    >>> jax.eval_shape(hk.transform(fn).apply, params, None, ids).last_hidden_state.shape
    (2, 5, 16)
    """

    def __init__(self, config: LlamaConfig, name: str | None = None, *, shared: bool = False):
        """Makes the model.

        Args:
          config: its configuration.
          name: name of the module, "llama_model" by default.
          shared: whether a `SharedReadout` reads the embedding, which the attribute `embed` then holds.
        """
        super().__init__(name=name)
        self.config, self.shared = config, shared
        self.embed: hk.Embed | None = None

    def __call__(self, input_ids: jax.Array, attention_mask: jax.Array | None = None,
                 token_type_ids: None = None, position_ids: jax.Array | None = None, *,
                 is_training: bool = False, output_hidden_states: bool = False) -> Output:
        """Maps ids [B, T] to vectors [B, T, D].

        Args:
          input_ids: tokens.
          attention_mask: [B, T], 0 for tokens that no position may attend to.
          token_type_ids: None; Llama has no token types.
          position_ids: [B, T]; 0, 1, 2, … by default, also where padding is in front.
          is_training: whether to apply dropout, which needs a random key.
          output_hidden_states: whether to return each block's input, too.

        Raises:
          MupError: token types; outside of jit, an id outside of the vocabulary.
        """
        c = self.config
        if token_type_ids is not None:
            raise MupError("token_type_ids: Llama has no token types; leave them out")
        ids = check_ids("input_ids", input_ids, c.vocab_size, OTHER_TOKENIZER)
        self.embed = (SharedEmbed if self.shared else hk.Embed)(
            c.vocab_size, c.hidden_size, w_init=normal_init(c.initializer_range), name="embed_tokens")
        x = embed_ids(self.embed, ids, c.pad_token_id)
        mask = combine_masks(attention_mask, ids, causal=True)
        x, block_inputs = apply_blocks(
            lambda name: Block(c, is_training, name), x, (*self._angles(ids, position_ids, x.dtype), mask),
            count=c.num_hidden_layers, name="layers", layer_stack=c.layer_stack, remat=c.remat,
            keep_inputs=output_hidden_states)
        x = RMSNorm(c.rms_norm_eps, name="norm")(x)
        return Output(x, None, (*block_inputs, x) if output_hidden_states else None)

    def _angles(self, ids: jax.Array, position_ids: jax.Array | None,
                dtype: Any) -> tuple[jax.Array, jax.Array]:
        """Returns the cosines and sines of the positions' angles."""
        c, length = self.config, ids.shape[-1]
        assert isinstance(c.rope_parameters, RopeParameters)
        if position_ids is None:
            positions = jnp.arange(length).reshape((1,) * (ids.ndim - 1) + (length,))
        else:
            positions = check_ids("position_ids", position_ids, 2**31 - 1, "give positions from 0 on")
            if positions.shape[-1] != length:
                raise MupError(f"position_ids: shape {positions.shape}, and input_ids have {ids.shape}; give "
                               "one for each token")
        return cos_and_sin(c.rope_parameters, c.key_size, positions, c.max_position_embeddings, dtype)


class LlamaForCausalLM(ModelWithHead[LlamaConfig, jax.Array]):
    """Llama that predicts the next token: logits [B, T, vocab_size] of the token after each.

    >>> config = models.LlamaConfig(vocab_size=100, hidden_size=16, intermediate_size=40, num_attention_heads=4,
    ...                             num_key_value_heads=2, num_hidden_layers=2)
    >>> def fn(ids):
    ...     with haiku_mup.apply_mup():
    ...         return models.LlamaForCausalLM(config)(ids)
    >>> ids = jnp.zeros((2, 5), int)
    >>> params = jax.eval_shape(hk.transform(fn).init, jax.random.PRNGKey(0), ids)
    >>> jax.eval_shape(hk.transform(fn).apply, params, None, ids).shape
    (2, 5, 100)
    """

    @hk.transparent
    def _bare_model(self) -> LlamaModel:
        return LlamaModel(self.config, "model", shared=self.config.tie_word_embeddings)

    @hk.transparent
    def _head(self, model: LlamaModel, output: Output, is_training: bool, ids: jax.Array) -> jax.Array:
        return vocabulary_logits(self.config, model.embed, output.last_hidden_state, "lm_head", with_bias=False)


class LlamaForSequenceClassification(ModelWithHead[LlamaConfig, jax.Array]):
    """Llama that classifies sequences: logits [B, num_labels], of the last token that is no padding.

    >>> config = models.LlamaConfig(vocab_size=100, hidden_size=16, intermediate_size=40, num_attention_heads=4,
    ...                             num_hidden_layers=2, pad_token_id=0)
    >>> def fn(ids):
    ...     with haiku_mup.apply_mup():
    ...         return models.LlamaForSequenceClassification(config)(ids)
    >>> ids = jnp.ones((2, 5), int)
    >>> params = jax.eval_shape(hk.transform(fn).init, jax.random.PRNGKey(0), ids)
    >>> jax.eval_shape(hk.transform(fn).apply, params, None, ids).shape
    (2, 2)
    """

    @hk.transparent
    def _bare_model(self) -> LlamaModel:
        return LlamaModel(self.config, "model")

    @hk.transparent
    def _head(self, model: LlamaModel, output: Output, is_training: bool, ids: jax.Array) -> jax.Array:
        last = _last_token(ids, self.config.pad_token_id)
        x = jnp.take_along_axis(output.last_hidden_state, last[..., None, None], -2)[..., 0, :]
        return readout_layer(self.config, self.config.num_labels, "score", with_bias=False)(x)


def _last_token(ids: jax.Array, pad_token_id: int | None) -> jax.Array:
    """Returns the position [B] of the last token of each sequence that is no padding; 0 if all are.

    Raises:
      MupError: several sequences, and nothing that says what padding is.
    """
    length = ids.shape[-1]
    if pad_token_id is None:
        if ids.size != length:
            raise MupError("LlamaForSequenceClassification: several sequences, and pad_token_id=None: nothing "
                           "says where each of them ends; give the configuration a pad_token_id")
        return jnp.full(ids.shape[:-1], length - 1)
    positions = jnp.arange(length).reshape((1,) * (ids.ndim - 1) + (length,))
    return jnp.max(jnp.where(ids == pad_token_id, 0, positions), -1)
