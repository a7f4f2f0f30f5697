"""haiku_mup: the maximal update parametrization (μP) for Haiku models and optax optimizers."""
from haiku_mup.adamw import adamw
from haiku_mup.advice import Advice
from haiku_mup.axes import fans
from haiku_mup.context import apply_mup
from haiku_mup.coord_check import coord_check
from haiku_mup.errors import MupError, MupWarning
from haiku_mup.layers import ConvReadout, MultiHeadAttention, Readout, SharedEmbed, SharedReadout
from haiku_mup.lr_sweep import lr_sweep
from haiku_mup.mup import Mup
from haiku_mup.parametrizations import maximal_update, neural_tangent, standard
from haiku_mup.recording import probe
from haiku_mup.residual import residual
from haiku_mup.rules import Parametrization
from haiku_mup.shapes import get_shapes
from haiku_mup.summary import Row
from haiku_mup.swept import Missing, Sweep
from haiku_mup.training import Training, training
from haiku_mup.trials import Trial, draws
from haiku_mup.verdict import CoordCheck, Finding, Point

__all__ = [
    "Advice",
    "ConvReadout",
    "CoordCheck",
    "Finding",
    "Missing",
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
    "Sweep",
    "Training",
    "Trial",
    "adamw",
    "apply_mup",
    "coord_check",
    "draws",
    "fans",
    "get_shapes",
    "lr_sweep",
    "maximal_update",
    "neural_tangent",
    "probe",
    "residual",
    "standard",
    "training",
]
