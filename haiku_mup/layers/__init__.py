"""The layers that μP multiplies: readouts, shared embeddings, attention, residual branches."""
from haiku_mup.layers.readout import ConvReadout, MultiHeadAttention, Readout, SharedEmbed, SharedReadout

__all__ = ["ConvReadout", "MultiHeadAttention", "Readout", "SharedEmbed", "SharedReadout"]
