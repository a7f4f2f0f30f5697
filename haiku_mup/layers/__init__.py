"""Layers that multiply by μP's factors: readouts, shared embeddings, attention, residual branches."""
from haiku_mup.layers.attention import MultiHeadAttention
from haiku_mup.layers.embedding import SharedEmbed, SharedReadout
from haiku_mup.layers.readout import ConvReadout, Readout

__all__ = ["ConvReadout", "MultiHeadAttention", "Readout", "SharedEmbed", "SharedReadout"]
