"""What a model without a head computes, and the output layers of heads."""
from typing import Any, NamedTuple

import jax

from haiku_mup.errors import MupError
from haiku_mup.layers import Readout, SharedReadout
from haiku_mup.models.layers import normal


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
