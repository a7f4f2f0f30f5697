"""haiku_mup: the maximal update parametrization (μP) for Haiku models and optax optimizers."""
from haiku_mup.axes import fans
from haiku_mup.context import apply_mup
from haiku_mup.coord_check import coord_check
from haiku_mup.errors import MupError, MupWarning
from haiku_mup.layers import ConvReadout, MultiHeadAttention, Readout, SharedEmbed, SharedReadout
from haiku_mup.mup import Mup
from haiku_mup.parametrizations import maximal_update, neural_tangent, standard
from haiku_mup.recording import probe
from haiku_mup.residual import residual
from haiku_mup.rules import Parametrization
from haiku_mup.shapes import get_shapes
from haiku_mup.summary import Row
from haiku_mup.verdict import CoordCheck, Finding, Point

__all__ = [
    "ConvReadout",
    "CoordCheck",
    "Finding",
    "Mup",
    "MultiHeadAttention",
    "MupError",
    "MupWarning",
    "Parametrization",
    "Point",
    "Readout",
    "Row",
    "SharedEmbed",
    "SharedReadout",
    "apply_mup",
    "coord_check",
    "fans",
    "get_shapes",
    "maximal_update",
    "neural_tangent",
    "probe",
    "residual",
    "standard",
]
