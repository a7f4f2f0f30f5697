"""Heads: output layers on top of a bare model, and the base class of models that have one."""
from typing import Any, Generic, NamedTuple, TypeVar

import haiku as hk
import jax

from haiku_mup.errors import MupError
from haiku_mup.layers import Readout, SharedReadout
from haiku_mup.models.config import Config
from haiku_mup.models.layers import normal_init
from haiku_mup.parameters.fans import FanWord
from haiku_mup.parameters.haiku_layers import LayerType, register

Configuration = TypeVar("Configuration", bound=Config)
Logits = TypeVar("Logits")


class Output(NamedTuple):
    """The output of a model without a head.

    Attributes:
      last_hidden_state: [B, T, D], after the last block and, in GPT-2 and Llama, the final norm.
      pooler_output: [B, D], from BERT's pooler; None for models without one.
      hidden_states: each block's input, and last_hidden_state; None unless requested.

    >>> models.Output(jnp.ones((2, 5, 16))).pooler_output is None
    True
    """

    last_hidden_state: jax.Array
    pooler_output: jax.Array | None = None
    hidden_states: tuple[jax.Array, ...] | None = None


class ModelWithHead(hk.Module, Generic[Configuration, Logits]):
    """Base class of models with a head: a bare model, and output layers on its hidden states.

    Subclasses define both, in `_bare_model` and `_head`. These are transparent, so that the names of their
    modules are those of modules made in `__call__`.
    """

    def __init__(self, config: Configuration, name: str | None = None):
        """Makes the model.

        Args:
          config: its configuration.
          name: name of the module, by default that of the class in snake case.
        """
        super().__init__(name=name)
        self.config = config

    def __call__(self, input_ids: jax.Array, attention_mask: jax.Array | None = None,
                 token_type_ids: jax.Array | None = None, position_ids: jax.Array | None = None, *,
                 is_training: bool = False) -> Logits:
        """Maps ids [B, T] to the head's logits; the class says which.

        For the arguments see the model without a head.
        """
        model = self._bare_model()
        output = model(input_ids, attention_mask, token_type_ids, position_ids, is_training=is_training)
        return self._head(model, output, is_training, input_ids)

    @hk.transparent
    def _bare_model(self) -> Any:
        """Returns the model whose hidden states the head reads."""
        raise NotImplementedError

    @hk.transparent
    def _head(self, model: Any, output: Output, is_training: bool, ids: jax.Array) -> Logits:
        """Maps the bare model's output to logits; `model.embed` is the embedding of a tied readout."""
        raise NotImplementedError


class Head(Readout):
    """A `Readout` of labels or of token ids, whose number may differ between base and target."""


register(LayerType(Head, finite={"w": FanWord.OUT, "b": FanWord.OUT}))


def readout_layer(config: Any, size: int, name: str, with_bias: bool = True) -> Readout:
    """Returns an output layer with a matrix of its own."""
    init = None if config.readout_zero_init else normal_init(config.initializer_range)
    return Head(size, with_bias, init, name=name, output_mult=config.output_mult,
                zero_init=config.readout_zero_init)


def vocabulary_logits(config: Any, embed: Any, x: jax.Array, name: str, with_bias: bool) -> jax.Array:
    """Maps x [..., D] to logits [..., vocab_size], by the embedding's matrix if it is tied, else by another."""
    if not config.tie_word_embeddings:
        return readout_layer(config, config.vocab_size, name, with_bias)(x)
    if config.readout_zero_init:
        raise MupError(f"{type(config).__name__}: readout_zero_init=True, and the readout is the embedding's "
                       "matrix, which can't be zero; give tie_word_embeddings=False, or leave it")
    return SharedReadout(with_bias, name=name, output_mult=config.output_mult)(embed, x)


def classifier_dropout(config: Any) -> float:
    """Returns the dropout rate of a classification head: classifier_dropout, or else hidden_dropout_prob."""
    rate: float = config.hidden_dropout_prob if config.classifier_dropout is None else config.classifier_dropout
    return rate
