"""BERT (Devlin et al., arXiv 1810.04805)."""
import dataclasses
from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple

import haiku as hk
import jax
import jax.numpy as jnp

from haiku_mup.errors import MupError
from haiku_mup.layers import SharedEmbed
from haiku_mup.models import heads, inputs, layers
from haiku_mup.models.config import Config
from haiku_mup.models.heads import Output
from haiku_mup.models.layers import Attention, dropped, norm, normal


@dataclasses.dataclass(frozen=True, kw_only=True)
class BertConfig(Config):
    """The configuration of BERT; its defaults are those of bert-base-uncased.

    Attributes:
      vocab_size: how many ids there are.
      hidden_size: the width.
      num_hidden_layers: how many blocks.
      num_attention_heads: how many heads of hidden_size / num_attention_heads each.
      intermediate_size: the feed-forward layer's width.
      hidden_act: its activation.
      hidden_dropout_prob: dropout of the embeddings' sum, and of what is added to the residual stream.
      attention_probs_dropout_prob: dropout of attention.
      max_position_embeddings: the longest sequence.
      type_vocab_size: how many token types there are.
      layer_norm_eps: of the norms.
      pad_token_id: the id whose embedding starts at zero, and doesn't learn as an input; None for none.
      classifier_dropout: of a classification; hidden_dropout_prob by default.

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
    """Attention and a feed-forward layer, each added to its input, with a norm behind."""

    def __init__(self, config: BertConfig, is_training: bool, name: str | None = None):
        super().__init__(name=name)
        self.config, self.is_training = config, is_training

    def __call__(self, x: jax.Array, number: Any, mask: jax.Array | None) -> jax.Array:
        del number
        c, rate = self.config, self.config.hidden_dropout_prob * self.is_training
        init = normal(c.initializer_range)
        attention = Attention(
            c.num_attention_heads, c.hidden_size // c.num_attention_heads, w_init=init, out_init=init,
            mult=c.attn_mult, zero_query=c.query_zero_init,
            dropout=c.attention_probs_dropout_prob * self.is_training, name="attention")
        x = norm("attention_norm", c.layer_norm_eps)(x + dropped(attention(x, x, x, mask), rate))
        y = hk.Linear(c.intermediate_size, w_init=init, name="intermediate")(x)
        y = layers.ACTIVATIONS[c.hidden_act](y)
        y = hk.Linear(c.hidden_size, w_init=init, name="output")(y)
        return norm("output_norm", c.layer_norm_eps)(x + dropped(y, rate))


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
          name: name of the module, by default that of the class in Haiku's spelling.
          add_pooling_layer: whether to compute `pooler_output`.
          shared: whether a `SharedReadout` reads its embedding, which then is its attribute `embed`.
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
          attention_mask: [B, T]: 0 for tokens that nobody may see.
          token_type_ids: [B, T]: the sentence that a token is of; 0 by default.
          position_ids: [B, T]: places; counted by default.
          is_training: whether to drop out, which needs a random key.
          output_hidden_states: whether to return what each block is given, too.

        Raises:
          MupError: a sequence longer than there are positions; outside of jit, ids outside of the vocabulary.
        """
        c = self.config
        ids = inputs.checked_ids("input_ids", input_ids, c.vocab_size, inputs.TOKENIZER)
        mask = inputs.attended(attention_mask, ids)
        x = self._embedded(ids, token_type_ids, position_ids)
        x = dropped(norm("embeddings_norm", c.layer_norm_eps)(x), c.hidden_dropout_prob * is_training)
        x, given = layers.blocks(c, c.num_hidden_layers, lambda name: Block(c, is_training, name), x, mask,
                                "layer", output_hidden_states)
        pooled = None
        if self.add_pooling_layer:
            pooler = hk.Linear(c.hidden_size, w_init=normal(c.initializer_range), name="pooler")
            pooled = jnp.tanh(pooler(x[..., 0, :]))
        return Output(x, pooled, (*given, x) if output_hidden_states else None)

    @hk.transparent
    def _embedded(self, ids: jax.Array, types: jax.Array | None, positions: jax.Array | None) -> jax.Array:
        """The sum of three embeddings."""
        c, init = self.config, normal(self.config.initializer_range)
        self.embed = (SharedEmbed if self.shared else hk.Embed)(
            c.vocab_size, c.hidden_size, w_init=init, name="word_embeddings")
        x = inputs.looked_up(self.embed, ids, c.pad_token_id)
        if types is None:
            types = jnp.zeros_like(ids)
        types = inputs.checked_ids("token_type_ids", types, c.type_vocab_size, "see config.type_vocab_size")
        table = hk.Embed(c.type_vocab_size, c.hidden_size, w_init=init, name="token_type_embeddings")
        x = x + inputs.looked_up(table, types)
        if positions is None:
            positions = self._positions(ids)
        positions = inputs.checked_ids("position_ids", positions, c.max_position_embeddings,
                                      "see config.max_position_embeddings")
        table = hk.Embed(c.max_position_embeddings, c.hidden_size, w_init=init, name="position_embeddings")
        return x + inputs.looked_up(table, positions, self._padded_position())

    def _positions(self, ids: jax.Array) -> jax.Array:
        """0, 1, 2, …"""
        inputs.check_length(ids.shape[-1], self.config.max_position_embeddings, "max_position_embeddings")
        return jnp.broadcast_to(jnp.arange(ids.shape[-1]), ids.shape)

    def _padded_position(self) -> int | None:
        """The place whose embedding doesn't learn."""
        return None


def masked_logits(config: BertConfig, embed: Any, x: jax.Array,
                  activation: Callable[[jax.Array], jax.Array]) -> jax.Array:
    """Logits [B, T, vocab_size] for what stands at each place: a hidden layer and the readout."""
    x = activation(hk.Linear(config.hidden_size, w_init=normal(config.initializer_range), name="transform")(x))
    x = norm("transform_norm", config.layer_norm_eps)(x)
    return heads.vocabulary_logits(config, embed, x, "decoder", with_bias=True)


class BertForMaskedLM(hk.Module):
    """BERT that predicts what stands at each place.

    >>> config = models.BertConfig(vocab_size=100, hidden_size=16, num_attention_heads=2, num_hidden_layers=2)
    >>> def fn(ids):
    ...     with haiku_mup.apply_mup():
    ...         return models.BertForMaskedLM(config)(ids)
    >>> ids = jnp.ones((2, 5), int)
    >>> params = jax.eval_shape(hk.transform(fn).init, jax.random.PRNGKey(0), ids)
    >>> jax.eval_shape(hk.transform(fn).apply, params, None, ids).shape
    (2, 5, 100)
    """

    def __init__(self, config: BertConfig, name: str | None = None):
        """Makes the model.

        Args:
          config: its configuration.
          name: name of the module, "bert_for_masked_lm" by default.
        """
        super().__init__(name=name)
        self.config = config

    def __call__(self, input_ids: jax.Array, attention_mask: jax.Array | None = None,
                 token_type_ids: jax.Array | None = None, position_ids: jax.Array | None = None, *,
                 is_training: bool = False) -> jax.Array:
        """Logits [B, T, vocab_size] of ids [B, T].

        For the arguments see `BertModel`.
        """
        c = self.config
        bert = BertModel(c, "bert", add_pooling_layer=False, shared=c.tie_word_embeddings)
        x = bert(input_ids, attention_mask, token_type_ids, position_ids, is_training=is_training)
        return masked_logits(c, bert.embed, x.last_hidden_state, layers.ACTIVATIONS[c.hidden_act])


class PreTrainingOutput(NamedTuple):
    """What BERT computes in its pre-training.

    Attributes:
      prediction_logits: [B, T, vocab_size], for what stands at each place.
      seq_relationship_logits: [B, 2]: whether the second sentence follows the first (0) or not (1).

    >>> models.PreTrainingOutput(jnp.ones((2, 5, 100)), jnp.ones((2, 2)))._fields
    ('prediction_logits', 'seq_relationship_logits')
    """

    prediction_logits: jax.Array
    seq_relationship_logits: jax.Array


class BertForPreTraining(hk.Module):
    """BERT that predicts what stands at each place, and whether the second sentence follows the first.

    >>> config = models.BertConfig(vocab_size=100, hidden_size=16, num_attention_heads=2, num_hidden_layers=2)
    >>> def fn(ids):
    ...     with haiku_mup.apply_mup():
    ...         return models.BertForPreTraining(config)(ids)
    >>> ids = jnp.ones((2, 5), int)
    >>> params = jax.eval_shape(hk.transform(fn).init, jax.random.PRNGKey(0), ids)
    >>> jax.eval_shape(hk.transform(fn).apply, params, None, ids).seq_relationship_logits.shape
    (2, 2)
    """

    def __init__(self, config: BertConfig, name: str | None = None):
        """Makes the model.

        Args:
          config: its configuration.
          name: name of the module, "bert_for_pre_training" by default.
        """
        super().__init__(name=name)
        self.config = config

    def __call__(self, input_ids: jax.Array, attention_mask: jax.Array | None = None,
                 token_type_ids: jax.Array | None = None, position_ids: jax.Array | None = None, *,
                 is_training: bool = False) -> PreTrainingOutput:
        """Both kinds of logits of ids [B, T].

        For the arguments see `BertModel`.
        """
        c = self.config
        bert = BertModel(c, "bert", shared=c.tie_word_embeddings)
        x = bert(input_ids, attention_mask, token_type_ids, position_ids, is_training=is_training)
        assert x.pooler_output is not None
        logits = masked_logits(c, bert.embed, x.last_hidden_state, layers.ACTIVATIONS[c.hidden_act])
        return PreTrainingOutput(logits, heads.readout(c, 2, "seq_relationship")(x.pooler_output))


class BertForSequenceClassification(hk.Module):
    """BERT that puts sequences into classes.

    >>> config = models.BertConfig(vocab_size=100, hidden_size=16, num_attention_heads=2, num_hidden_layers=2)
    >>> def fn(ids):
    ...     with haiku_mup.apply_mup():
    ...         return models.BertForSequenceClassification(config)(ids)
    >>> ids = jnp.ones((2, 5), int)
    >>> params = jax.eval_shape(hk.transform(fn).init, jax.random.PRNGKey(0), ids)
    >>> jax.eval_shape(hk.transform(fn).apply, params, None, ids).shape
    (2, 2)
    """

    def __init__(self, config: BertConfig, name: str | None = None):
        """Makes the model.

        Args:
          config: its configuration.
          name: name of the module, "bert_for_sequence_classification" by default.
        """
        super().__init__(name=name)
        self.config = config

    def __call__(self, input_ids: jax.Array, attention_mask: jax.Array | None = None,
                 token_type_ids: jax.Array | None = None, position_ids: jax.Array | None = None, *,
                 is_training: bool = False) -> jax.Array:
        """Logits [B, num_labels] of ids [B, T].

        For the arguments see `BertModel`.
        """
        c = self.config
        bert = BertModel(c, "bert")
        x = bert(input_ids, attention_mask, token_type_ids, position_ids, is_training=is_training)
        assert x.pooler_output is not None
        pooled = dropped(x.pooler_output, heads.classifier_rate(c) * is_training)
        return heads.readout(c, c.num_labels, "classifier")(pooled)
