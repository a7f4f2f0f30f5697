"""Layers that multiply by μP's factors: readouts, shared embeddings, attention, residual branches.

- readout: linear and convolutional output layers.
- embedding, sharded_lookup: an embedding that shares its matrix with a readout; lookups of sharded ids.
- attention: dot-product attention with 1/d in growth.
- residual: branches whose multiplier falls with the depth.

They ask `tracing.layer_multipliers` for their factors. The facts about layer types, Haiku's and these, are
records in the table of `parameters.haiku_layers`.
"""
from haiku_mup.layers.attention import MultiHeadAttention
from haiku_mup.layers.embedding import SharedEmbed, SharedReadout
from haiku_mup.layers.readout import ConvReadout, Readout

__all__ = ["ConvReadout", "MultiHeadAttention", "Readout", "SharedEmbed", "SharedReadout"]
