"""RoBERTa (Liu et al., arXiv 1907.11692): BERT's blocks, with other positions and heads."""
import dataclasses
from typing import ClassVar

import haiku as hk
import jax
import jax.numpy as jnp

from haiku_mup.errors import MupError
from haiku_mup.models import heads, inputs, layers
from haiku_mup.models.bert import BertConfig, BertModel, masked_logits
from haiku_mup.models.layers import dropped, normal


@dataclasses.dataclass(frozen=True, kw_only=True)
class RobertaConfig(BertConfig):
    """The configuration of RoBERTa; its defaults are those of transformers, not of roberta-base.

    Positions count from pad_token_id + 1 on, so that the longest sequence has max_position_embeddings -
    pad_token_id - 1 tokens. For the fields see `BertConfig`.

    >>> models.RobertaConfig().pad_token_id
    1
    """

    model_type: ClassVar[str] = "roberta"

    vocab_size: int = 50265
    pad_token_id: int | None = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.pad_token_id is None:
            raise MupError("RobertaConfig: pad_token_id=None: positions count from that id on; give one")


class RobertaModel(BertModel):
    """RoBERTa without a head: BERT, whose positions count from pad_token_id + 1 on, and leave padding out.

    >>> config = models.RobertaConfig(vocab_size=99, hidden_size=16, num_attention_heads=2, num_hidden_layers=2)
    >>> def fn(ids):
    ...     with haiku_mup.apply_mup():
    ...         return models.RobertaModel(config, add_pooling_layer=False)(ids)
    >>> ids = jnp.zeros((2, 5), int)
    >>> params = jax.eval_shape(hk.transform(fn).init, jax.random.PRNGKey(0), ids)
    >>> jax.eval_shape(hk.transform(fn).apply, params, None, ids).last_hidden_state.shape
    (2, 5, 16)
    """

    def _positions(self, ids: jax.Array) -> jax.Array:
        padding = self.config.pad_token_id or 0
        inputs.check_length(ids.shape[-1], self.config.max_position_embeddings - padding - 1,
                           "max_position_embeddings, which is pad_token_id + 1 more than that")
        real = jnp.asarray(ids != padding, ids.dtype)
        return jnp.asarray(jnp.cumsum(real, -1) * real + padding)

    def _padded_position(self) -> int | None:
        return self.config.pad_token_id


class RobertaForMaskedLM(hk.Module):
    """RoBERTa that predicts what stands at each place.

    >>> config = models.RobertaConfig(vocab_size=99, hidden_size=16, num_attention_heads=2, num_hidden_layers=2)
    >>> def fn(ids):
    ...     with haiku_mup.apply_mup():
    ...         return models.RobertaForMaskedLM(config)(ids)
    >>> ids = jnp.zeros((2, 5), int)
    >>> params = jax.eval_shape(hk.transform(fn).init, jax.random.PRNGKey(0), ids)
    >>> jax.eval_shape(hk.transform(fn).apply, params, None, ids).shape
    (2, 5, 99)
    """

    def __init__(self, config: RobertaConfig, name: str | None = None):
        """Makes the model.

        Args:
          config: its configuration.
          name: name of the module, "roberta_for_masked_lm" by default.
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
        roberta = RobertaModel(c, "roberta", add_pooling_layer=False, shared=c.tie_word_embeddings)
        x = roberta(input_ids, attention_mask, token_type_ids, position_ids, is_training=is_training)
        return masked_logits(c, roberta.embed, x.last_hidden_state, layers.ACTIVATIONS["gelu"])


class RobertaForSequenceClassification(hk.Module):
    """RoBERTa that puts sequences into classes.

    >>> config = models.RobertaConfig(vocab_size=99, hidden_size=16, num_attention_heads=2, num_hidden_layers=2)
    >>> def fn(ids):
    ...     with haiku_mup.apply_mup():
    ...         return models.RobertaForSequenceClassification(config)(ids)
    >>> ids = jnp.zeros((2, 5), int)
    >>> params = jax.eval_shape(hk.transform(fn).init, jax.random.PRNGKey(0), ids)
    >>> jax.eval_shape(hk.transform(fn).apply, params, None, ids).shape
    (2, 2)
    """

    def __init__(self, config: RobertaConfig, name: str | None = None):
        """Makes the model.

        Args:
          config: its configuration.
          name: name of the module, "roberta_for_sequence_classification" by default.
        """
        super().__init__(name=name)
        self.config = config

    def __call__(self, input_ids: jax.Array, attention_mask: jax.Array | None = None,
                 token_type_ids: jax.Array | None = None, position_ids: jax.Array | None = None, *,
                 is_training: bool = False) -> jax.Array:
        """Logits [B, num_labels] of ids [B, T].

        For the arguments see `BertModel`.
        """
        c, rate = self.config, heads.classifier_rate(self.config) * is_training
        roberta = RobertaModel(c, "roberta", add_pooling_layer=False)
        x = roberta(input_ids, attention_mask, token_type_ids, position_ids, is_training=is_training)
        first = dropped(x.last_hidden_state[..., 0, :], rate)
        dense = hk.Linear(c.hidden_size, w_init=normal(c.initializer_range), name="dense")
        return heads.readout(c, c.num_labels, "out_proj")(dropped(jnp.tanh(dense(first)), rate))
