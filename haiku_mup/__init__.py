"""haiku_mup: the maximal update parametrization (μP) for Haiku models and optax optimizers."""
import importlib
from typing import TYPE_CHECKING, Any

from haiku_mup.adamw import adamw
from haiku_mup.axes import fans
from haiku_mup.context import apply_mup
from haiku_mup.errors import MupError, MupWarning
from haiku_mup.layers import ConvReadout, MultiHeadAttention, Readout, SharedEmbed, SharedReadout
from haiku_mup.mup import Mup
from haiku_mup.parametrizations import maximal_update, neural_tangent, standard
from haiku_mup.residual import residual
from haiku_mup.rules import Parametrization
from haiku_mup.shapes import get_shapes
from haiku_mup.summary import Row

if TYPE_CHECKING:           # checks and sweeps are imported as they are asked for
    from haiku_mup.advice import Advice
    from haiku_mup.coordinates import coord_check
    from haiku_mup.recording import probe
    from haiku_mup.sweeping import lr_sweep
    from haiku_mup.swept import Missing, Sweep
    from haiku_mup.trainable import Training, training
    from haiku_mup.trials import Trial, draws
    from haiku_mup.verdict import CoordCheck, Finding, Point

_ASKED_FOR = {      # no name here is that of a room, which would take its place
    "Advice": "advice", "CoordCheck": "verdict", "Finding": "verdict", "Missing": "swept", "Point": "verdict",
    "Sweep": "swept", "Training": "trainable", "Trial": "trials", "coord_check": "coordinates",
    "draws": "trials", "lr_sweep": "sweeping", "probe": "recording", "training": "trainable",
}

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


if not TYPE_CHECKING:       # a checker knows all names, and is to say which there aren't
    def __getattr__(name: str) -> Any:
        if name not in _ASKED_FOR:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        value = globals()[name] = getattr(importlib.import_module(f"{__name__}.{_ASKED_FOR[name]}"), name)
        return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
