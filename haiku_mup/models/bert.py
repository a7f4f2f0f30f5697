"""BERT (Devlin et al., arXiv 1810.04805)."""
import dataclasses
from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple

import haiku as hk
import jax
import jax.numpy as jnp

from haiku_mup.errors import MupError
from haiku_mup.layers import SharedEmbed
from haiku_mup.models.config import Config
from haiku_mup.models.heads import ModelWithHead, Output, classifier_dropout, readout_layer, vocabulary_logits
from haiku_mup.models.inputs import OTHER_TOKENIZER, check_ids, check_length, combine_masks, embed_ids
from haiku_mup.models.layers import ACTIVATIONS, Attention, apply_blocks, dropout, layer_norm, normal_init


@dataclasses.dataclass(frozen=True, kw_only=True)
class BertConfig(Config):
    """The configuration of BERT; defaults are those of bert-base-uncased.

    Attributes:
      vocab_size: number of token ids.
      hidden_size: width.
      num_hidden_layers: number of blocks.
      num_attention_heads: number of attention heads; each has hidden_size / num_attention_heads dimensions.
      intermediate_size: width of the feed-forward layer.
      hidden_act: activation of the feed-forward layer.
      hidden_dropout_prob: dropout rate of the sum of embeddings, and of each branch before it is added.
      attention_probs_dropout_prob: dropout rate of attention weights.
      max_position_embeddings: length of the longest sequence.
      type_vocab_size: number of token types.
      layer_norm_eps: of the layer norms.
      pad_token_id: id of padding, whose embedding gets no gradient as an input; None for none.
      classifier_dropout: dropout rate of a classification head; hidden_dropout_prob by default.

    For the others see `Config`.

    >>> models.BertConfig(hidden_size=64, num_attention_heads=4).intermediate_size
    3072
    """

    model_type: ClassVar[str] = "bert"

    vocab_size: int = 30522
    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    intermediate_size: int = 3072
    hidden_act: str = "gelu"
    hidden_dropout_prob: float = 0.1
    attention_probs_dropout_prob: float = 0.1
    max_position_embeddings: int = 512
    type_vocab_size: int = 2
    layer_norm_eps: float = 1e-12
    pad_token_id: int | None = 0
    classifier_dropout: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check_heads("hidden_size", "num_attention_heads")
        if self.pad_token_id is not None and self.pad_token_id >= self.vocab_size:
            raise MupError(f"{type(self).__name__}: pad_token_id={self.pad_token_id} is outside of the "
                           f"vocabulary, whose ids are 0 to {self.vocab_size - 1}; give one of them, or None")


class Block(hk.Module):
    """A post-LN block: attention and a feed-forward layer, each added to its input, and the sum normalised."""

    def __init__(self, config: BertConfig, is_training: bool, name: str | None = None):
        super().__init__(name=name)
        self.config, self.is_training = config, is_training

    def __call__(self, x: jax.Array, layer_idx: Any, mask: jax.Array | None) -> jax.Array:
        del layer_idx
        c, rate = self.config, self.config.hidden_dropout_prob * self.is_training
        init = normal_init(c.initializer_range)
        attention = Attention(
            c.num_attention_heads, c.hidden_size // c.num_attention_heads, w_init=init, out_init=init,
            attn_mult=c.attn_mult, zero_query=c.query_zero_init,
            dropout_rate=c.attention_probs_dropout_prob * self.is_training, name="attention")
        x = layer_norm("attention_norm", c.layer_norm_eps)(x + dropout(attention(x, x, x, mask), rate))
        y = hk.Linear(c.intermediate_size, w_init=init, name="intermediate")(x)
        y = hk.Linear(c.hidden_size, w_init=init, name="output")(ACTIVATIONS[c.hidden_act](y))
        return layer_norm("output_norm", c.layer_norm_eps)(x + dropout(y, rate))


class BertModel(hk.Module):
    """BERT without a head.

    >>> config = models.BertConfig(vocab_size=100, hidden_size=16, num_attention_heads=2, num_hidden_layers=2)
    >>> def fn(ids):
    ...     with haiku_mup.apply_mup():
    ...         return models.BertModel(config)(ids)
    >>> ids = jnp.ones((2, 5), int)
    >>> params = jax.eval_shape(hk.transform(fn).init, jax.random.PRNGKey(0), ids)
    >>> output = jax.eval_shape(hk.transform(fn).apply, params, None, ids)
    >>> output.last_hidden_state.shape, output.pooler_output.shape
    ((2, 5, 16), (2, 16))
    """

    def __init__(self, config: BertConfig, name: str | None = None, *, add_pooling_layer: bool = True,
                 shared: bool = False):
        """Makes the model.

        Args:
          config: its configuration.
          name: name of the module, by default that of the class in snake case.
          add_pooling_layer: whether to compute `pooler_output`.
          shared: whether a `SharedReadout` reads the embedding, which the attribute `embed` then holds.
        """
        super().__init__(name=name)
        self.config, self.add_pooling_layer, self.shared = config, add_pooling_layer, shared
        self.embed: hk.Embed | None = None

    def __call__(self, input_ids: jax.Array, attention_mask: jax.Array | None = None,
                 token_type_ids: jax.Array | None = None, position_ids: jax.Array | None = None, *,
                 is_training: bool = False, output_hidden_states: bool = False) -> Output:
        """Maps ids [B, T] to vectors [B, T, D].

        Args:
          input_ids: tokens.
          attention_mask: [B, T], 0 for tokens that no position may attend to.
          token_type_ids: [B, T], which sentence a token belongs to; 0 by default.
          position_ids: [B, T]; 0, 1, 2, … by default.
          is_training: whether to apply dropout, which needs a random key.
          output_hidden_states: whether to return each block's input, too.

        Raises:
          MupError: a sequence longer than there are positions; outside of jit, an id outside of the vocabulary.
        """
        c = self.config
        ids = check_ids("input_ids", input_ids, c.vocab_size, OTHER_TOKENIZER)
        mask = combine_masks(attention_mask, ids)
        x = layer_norm("embeddings_norm", c.layer_norm_eps)(self._embed(ids, token_type_ids, position_ids))
        x, block_inputs = apply_blocks(
            lambda name: Block(c, is_training, name), dropout(x, c.hidden_dropout_prob * is_training), mask,
            count=c.num_hidden_layers, name="layer", layer_stack=c.layer_stack, remat=c.remat,
            keep_inputs=output_hidden_states)
        pooled = None
        if self.add_pooling_layer:
            pooler = hk.Linear(c.hidden_size, w_init=normal_init(c.initializer_range), name="pooler")
            pooled = jnp.tanh(pooler(x[..., 0, :]))
        return Output(x, pooled, (*block_inputs, x) if output_hidden_states else None)

    @hk.transparent
    def _embed(self, ids: jax.Array, token_type_ids: jax.Array | None,
               position_ids: jax.Array | None) -> jax.Array:
        """Sums the embeddings of tokens, token types and positions."""
        c, init = self.config, normal_init(self.config.initializer_range)
        self.embed = (SharedEmbed if self.shared else hk.Embed)(
            c.vocab_size, c.hidden_size, w_init=init, name="word_embeddings")
        x = embed_ids(self.embed, ids, c.pad_token_id)
        types = check_ids("token_type_ids", jnp.zeros_like(ids) if token_type_ids is None else token_type_ids,
                          c.type_vocab_size, "see config.type_vocab_size")
        type_embed = hk.Embed(c.type_vocab_size, c.hidden_size, w_init=init, name="token_type_embeddings")
        x = x + embed_ids(type_embed, types)
        positions = check_ids("position_ids", self._position_ids(ids) if position_ids is None else position_ids,
                              c.max_position_embeddings, "see config.max_position_embeddings")
        position_embed = hk.Embed(
            c.max_position_embeddings, c.hidden_size, w_init=init, name="position_embeddings")
        return x + embed_ids(position_embed, positions, self._padding_position())

    def _position_ids(self, ids: jax.Array) -> jax.Array:
        """Counts positions 0, 1, 2, …"""
        check_length(ids.shape[-1], self.config.max_position_embeddings, "max_position_embeddings")
        return jnp.broadcast_to(jnp.arange(ids.shape[-1]), ids.shape)

    def _padding_position(self) -> int | None:
        """Returns the position whose embedding gets no gradient; None for none."""
        return None


def masked_lm_logits(config: BertConfig, embed: Any, x: jax.Array,
                     activation: Callable[[jax.Array], jax.Array]) -> jax.Array:
    """Maps hidden states [B, T, D] to logits [B, T, vocab_size], by a hidden layer, a norm and the readout."""
    x = activation(hk.Linear(config.hidden_size, w_init=normal_init(config.initializer_range),
                             name="transform")(x))
    x = layer_norm("transform_norm", config.layer_norm_eps)(x)
    return vocabulary_logits(config, embed, x, "decoder", with_bias=True)


class BertForMaskedLM(ModelWithHead[BertConfig, jax.Array]):
    """BERT that predicts the token at each position: logits [B, T, vocab_size].

    >>> config = models.BertConfig(vocab_size=100, hidden_size=16, num_attention_heads=2, num_hidden_layers=2)
    >>> def fn(ids):
    ...     with haiku_mup.apply_mup():
    ...         return models.BertForMaskedLM(config)(ids)
    >>> ids = jnp.ones((2, 5), int)
    >>> params = jax.eval_shape(hk.transform(fn).init, jax.random.PRNGKey(0), ids)
    >>> jax.eval_shape(hk.transform(fn).apply, params, None, ids).shape
    (2, 5, 100)
    """

    @hk.transparent
    def _bare_model(self) -> BertModel:
        return BertModel(self.config, "bert", add_pooling_layer=False, shared=self.config.tie_word_embeddings)

    @hk.transparent
    def _head(self, model: BertModel, output: Output, is_training: bool, ids: jax.Array) -> jax.Array:
        activation = ACTIVATIONS[self.config.hidden_act]
        return masked_lm_logits(self.config, model.embed, output.last_hidden_state, activation)


class PreTrainingOutput(NamedTuple):
    """The output of `BertForPreTraining`.

    Attributes:
      prediction_logits: [B, T, vocab_size], for the token at each position.
      seq_relationship_logits: [B, 2]: class 0, the second sentence follows the first; class 1, it doesn't.

    >>> models.PreTrainingOutput(jnp.ones((2, 5, 100)), jnp.ones((2, 2)))._fields
    ('prediction_logits', 'seq_relationship_logits')
    """

    prediction_logits: jax.Array
    seq_relationship_logits: jax.Array


class BertForPreTraining(ModelWithHead[BertConfig, PreTrainingOutput]):
    """BERT that predicts the token at each position, and whether the second sentence follows the first.

    >>> config = models.BertConfig(vocab_size=100, hidden_size=16, num_attention_heads=2, num_hidden_layers=2)
    >>> def fn(ids):
    ...     with haiku_mup.apply_mup():
    ...         return models.BertForPreTraining(config)(ids)
    >>> ids = jnp.ones((2, 5), int)
    >>> params = jax.eval_shape(hk.transform(fn).init, jax.random.PRNGKey(0), ids)
    >>> jax.eval_shape(hk.transform(fn).apply, params, None, ids).seq_relationship_logits.shape
    (2, 2)
    """

    @hk.transparent
    def _bare_model(self) -> BertModel:
        return BertModel(self.config, "bert", shared=self.config.tie_word_embeddings)

    @hk.transparent
    def _head(self, model: BertModel, output: Output, is_training: bool, ids: jax.Array) -> PreTrainingOutput:
        c, activation = self.config, ACTIVATIONS[self.config.hidden_act]
        assert output.pooler_output is not None
        predictions = masked_lm_logits(c, model.embed, output.last_hidden_state, activation)
        return PreTrainingOutput(predictions, readout_layer(c, 2, "seq_relationship")(output.pooler_output))


class BertForSequenceClassification(ModelWithHead[BertConfig, jax.Array]):
    """BERT that classifies sequences: logits [B, num_labels].

    >>> config = models.BertConfig(vocab_size=100, hidden_size=16, num_attention_heads=2, num_hidden_layers=2)
    >>> def fn(ids):
    ...     with haiku_mup.apply_mup():
    ...         return models.BertForSequenceClassification(config)(ids)
    >>> ids = jnp.ones((2, 5), int)
    >>> params = jax.eval_shape(hk.transform(fn).init, jax.random.PRNGKey(0), ids)
    >>> jax.eval_shape(hk.transform(fn).apply, params, None, ids).shape
    (2, 2)
    """

    @hk.transparent
    def _bare_model(self) -> BertModel:
        return BertModel(self.config, "bert")

    @hk.transparent
    def _head(self, model: BertModel, output: Output, is_training: bool, ids: jax.Array) -> jax.Array:
        assert output.pooler_output is not None
        pooled = dropout(output.pooler_output, classifier_dropout(self.config) * is_training)
        return readout_layer(self.config, self.config.num_labels, "classifier")(pooled)
