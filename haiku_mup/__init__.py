"""haiku_mup: the maximal update parametrization (μP) for Haiku models and optax optimizers."""
import importlib
from typing import TYPE_CHECKING, Any

from haiku_mup.errors import MupError, MupWarning
from haiku_mup.layers import ConvReadout, MultiHeadAttention, Readout, SharedEmbed, SharedReadout
from haiku_mup.layers.residual import residual
from haiku_mup.mup import Mup
from haiku_mup.optimizers.adamw import adamw
from haiku_mup.parameters.fans import fans
from haiku_mup.parameters.record import get_shapes
from haiku_mup.parameters.table import Row
from haiku_mup.rules.parametrization import Parametrization
from haiku_mup.rules.tables import maximal_update, neural_tangent, standard
from haiku_mup.tracing.context import apply_mup

if TYPE_CHECKING:           # checks and sweeps are imported as they are asked for
    from haiku_mup.coordinates.check import coord_check
    from haiku_mup.coordinates.findings import Finding, Point
    from haiku_mup.coordinates.forward_factors import ForwardFactor, forward_factors
    from haiku_mup.coordinates.recorder import probe
    from haiku_mup.coordinates.result import CoordCheck
    from haiku_mup.sweep.lr_sweep import lr_sweep
    from haiku_mup.sweep.recommendation import Advice
    from haiku_mup.sweep.result import Sweep
    from haiku_mup.sweep.training import Training, training
    from haiku_mup.sweep.trial import Missing, Trial, draws

_ASKED_FOR = {      # no name here is that of a room, which would take its place
    "Advice": "sweep.recommendation", "CoordCheck": "coordinates.result", "Finding": "coordinates.findings",
    "Missing": "sweep.trial", "Point": "coordinates.findings", "Sweep": "sweep.result",
    "Training": "sweep.training", "Trial": "sweep.trial", "coord_check": "coordinates.check",
    "ForwardFactor": "coordinates.forward_factors", "draws": "sweep.trial",
    "forward_factors": "coordinates.forward_factors", "lr_sweep": "sweep.lr_sweep",
    "probe": "coordinates.recorder", "training": "sweep.training",
}

__all__ = [
    "Advice",
    "ConvReadout",
    "CoordCheck",
    "Finding",
    "ForwardFactor",
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
    "forward_factors",
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
