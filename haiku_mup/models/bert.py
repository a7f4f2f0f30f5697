"""BERT (Devlin et al., arXiv 1810.04805)."""
from collections.abc import Callable
from typing import Any, NamedTuple

import haiku as hk
import jax
import jax.numpy as jnp

from haiku_mup.layers.readout import SharedEmbed
from haiku_mup.models import layers as parts
from haiku_mup.models.config import BertConfig
from haiku_mup.models.layers import Attention, Output, dropped, norm, normal


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
        y = parts.ACTIVATIONS[c.hidden_act](hk.Linear(c.intermediate_size, w_init=init, name="intermediate")(x))
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
        ids = parts.checked_ids("input_ids", input_ids, c.vocab_size, parts.TOKENIZER)
        mask = parts.attended(attention_mask, ids)
        x = self._embedded(ids, token_type_ids, position_ids)
        x = dropped(norm("embeddings_norm", c.layer_norm_eps)(x), c.hidden_dropout_prob * is_training)
        x, given = parts.blocks(c, c.num_hidden_layers, lambda name: Block(c, is_training, name), x, mask,
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
        x = parts.looked_up(self.embed, ids, c.pad_token_id)
        if types is None:
            types = jnp.zeros_like(ids)
        types = parts.checked_ids("token_type_ids", types, c.type_vocab_size, "see config.type_vocab_size")
        table = hk.Embed(c.type_vocab_size, c.hidden_size, w_init=init, name="token_type_embeddings")
        x = x + parts.looked_up(table, types)
        if positions is None:
            positions = self._positions(ids)
        positions = parts.checked_ids("position_ids", positions, c.max_position_embeddings,
                                      "see config.max_position_embeddings")
        table = hk.Embed(c.max_position_embeddings, c.hidden_size, w_init=init, name="position_embeddings")
        return x + parts.looked_up(table, positions, self._padded_position())

    def _positions(self, ids: jax.Array) -> jax.Array:
        """0, 1, 2, …"""
        parts.check_length(ids.shape[-1], self.config.max_position_embeddings, "max_position_embeddings")
        return jnp.broadcast_to(jnp.arange(ids.shape[-1]), ids.shape)

    def _padded_position(self) -> int | None:
        """The place whose embedding doesn't learn."""
        return None


def masked_logits(config: BertConfig, embed: Any, x: jax.Array,
                  activation: Callable[[jax.Array], jax.Array]) -> jax.Array:
    """Logits [B, T, vocab_size] for what stands at each place: a hidden layer and the readout."""
    x = activation(hk.Linear(config.hidden_size, w_init=normal(config.initializer_range), name="transform")(x))
    x = norm("transform_norm", config.layer_norm_eps)(x)
    return parts.vocabulary_logits(config, embed, x, "decoder", with_bias=True)


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
        return masked_logits(c, bert.embed, x.last_hidden_state, parts.ACTIVATIONS[c.hidden_act])


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
        logits = masked_logits(c, bert.embed, x.last_hidden_state, parts.ACTIVATIONS[c.hidden_act])
        return PreTrainingOutput(logits, parts.readout(c, 2, "seq_relationship")(x.pooler_output))


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
        pooled = dropped(x.pooler_output, parts.classifier_rate(c) * is_training)
        return parts.readout(c, c.num_labels, "classifier")(pooled)
