"""haiku_mup: the maximal update parametrization (μP) for Haiku models and optax optimizers."""
from haiku_mup.axes import fans
from haiku_mup.context import apply_mup
from haiku_mup.errors import MupError, MupWarning
from haiku_mup.layers import ConvReadout, MultiHeadAttention, Readout, SharedEmbed, SharedReadout
from haiku_mup.mup import Mup
from haiku_mup.shapes import get_shapes
from haiku_mup.summary import Row

__all__ = [
    "ConvReadout",
    "Mup",
    "MultiHeadAttention",
    "MupError",
    "MupWarning",
    "Readout",
    "Row",
    "SharedEmbed",
    "SharedReadout",
    "apply_mup",
    "fans",
    "get_shapes",
]
