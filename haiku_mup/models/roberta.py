"""RoBERTa (Liu et al., arXiv 1907.11692): BERT's blocks with other positions and heads."""
import dataclasses
from collections.abc import Sequence
from typing import ClassVar

import haiku as hk
import jax
import jax.numpy as jnp

from haiku_mup.errors import MupError
from haiku_mup.models.bert import BertConfig, BertModel, masked_lm_logits
from haiku_mup.models.heads import ModelWithHead, Output, classifier_dropout, readout_layer
from haiku_mup.models.inputs import check_length
from haiku_mup.models.layers import ACTIVATIONS, dropout, normal_init


@dataclasses.dataclass(frozen=True, kw_only=True)
class RobertaConfig(BertConfig):
    """The configuration of RoBERTa; defaults are those of transformers, not of roberta-base.

    Positions count from pad_token_id + 1, so the longest sequence has max_position_embeddings - pad_token_id -
    1 tokens. For the fields see `BertConfig`.

    >>> models.RobertaConfig().pad_token_id
    1
    """

    model_type: ClassVar[str] = "roberta"

    vocab_size: int = 50265
    pad_token_id: int | None = 1
    bos_token_id: int | None = dataclasses.field(default=0, compare=False)
    eos_token_id: int | Sequence[int] | None = dataclasses.field(default=2, compare=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.pad_token_id is None:
            raise MupError("RobertaConfig: pad_token_id=None: positions count from that id on; give one")


class RobertaModel(BertModel):
    """RoBERTa without a head: BERT with positions that count from pad_token_id + 1 and skip padding.

    >>> config = models.RobertaConfig(vocab_size=99, hidden_size=16, num_attention_heads=2, num_hidden_layers=2)
    >>> def fn(ids):
    ...     with haiku_mup.apply_mup():
    ...         return models.RobertaModel(config, add_pooling_layer=False)(ids)
    >>> ids = jnp.zeros((2, 5), int)
    >>> params = jax.eval_shape(hk.transform(fn).init, jax.random.PRNGKey(0), ids)
    >>> jax.eval_shape(hk.transform(fn).apply, params, None, ids).last_hidden_state.shape
    (2, 5, 16)
    """

    def _position_ids(self, ids: jax.Array) -> jax.Array:
        """Counts tokens from pad_token_id + 1; padding has the position pad_token_id."""
        padding = self.config.pad_token_id or 0
        check_length(ids.shape[-1], self.config.max_position_embeddings - padding - 1,
                     "max_position_embeddings, which is pad_token_id + 1 more than that")
        is_token = jnp.asarray(ids != padding, ids.dtype)
        return jnp.asarray(jnp.cumsum(is_token, -1) * is_token + padding)

    def _padding_position(self) -> int | None:
        return self.config.pad_token_id


class RobertaForMaskedLM(ModelWithHead[RobertaConfig, jax.Array]):
    """RoBERTa that predicts the token at each position: logits [B, T, vocab_size].

    >>> config = models.RobertaConfig(vocab_size=99, hidden_size=16, num_attention_heads=2, num_hidden_layers=2)
    >>> def fn(ids):
    ...     with haiku_mup.apply_mup():
    ...         return models.RobertaForMaskedLM(config)(ids)
    >>> ids = jnp.zeros((2, 5), int)
    >>> params = jax.eval_shape(hk.transform(fn).init, jax.random.PRNGKey(0), ids)
    >>> jax.eval_shape(hk.transform(fn).apply, params, None, ids).shape
    (2, 5, 99)
    """

    @hk.transparent
    def _bare_model(self) -> RobertaModel:
        tied = self.config.tie_word_embeddings
        return RobertaModel(self.config, "roberta", add_pooling_layer=False, shared=tied)

    @hk.transparent
    def _head(self, model: RobertaModel, output: Output, is_training: bool, ids: jax.Array) -> jax.Array:
        return masked_lm_logits(self.config, model.embed, output.last_hidden_state, ACTIVATIONS["gelu"])


class RobertaForSequenceClassification(ModelWithHead[RobertaConfig, jax.Array]):
    """RoBERTa that classifies sequences: logits [B, num_labels].

    >>> config = models.RobertaConfig(vocab_size=99, hidden_size=16, num_attention_heads=2, num_hidden_layers=2)
    >>> def fn(ids):
    ...     with haiku_mup.apply_mup():
    ...         return models.RobertaForSequenceClassification(config)(ids)
    >>> ids = jnp.zeros((2, 5), int)
    >>> params = jax.eval_shape(hk.transform(fn).init, jax.random.PRNGKey(0), ids)
    >>> jax.eval_shape(hk.transform(fn).apply, params, None, ids).shape
    (2, 2)
    """

    @hk.transparent
    def _bare_model(self) -> RobertaModel:
        return RobertaModel(self.config, "roberta", add_pooling_layer=False)

    @hk.transparent
    def _head(self, model: RobertaModel, output: Output, is_training: bool, ids: jax.Array) -> jax.Array:
        c, rate = self.config, classifier_dropout(self.config) * is_training
        first = dropout(output.last_hidden_state[..., 0, :], rate)
        dense = hk.Linear(c.hidden_size, w_init=normal_init(c.initializer_range), name="dense")
        return readout_layer(c, c.num_labels, "out_proj")(dropout(jnp.tanh(dense(first)), rate))
