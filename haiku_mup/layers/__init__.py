"""Layers that multiply by μP's factors: readouts, shared embeddings, attention, residual branches.

They ask `tracing.multipliers` for their factors. The facts about layer types, Haiku's and these, are records in
the table of `parameters.haiku_layers`.
"""
from haiku_mup.layers.attention import MultiHeadAttention
from haiku_mup.layers.embedding import SharedEmbed, SharedReadout
from haiku_mup.layers.readout import ConvReadout, Readout

__all__ = ["ConvReadout", "MultiHeadAttention", "Readout", "SharedEmbed", "SharedReadout"]
