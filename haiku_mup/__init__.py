"""haiku_mup: the maximal update parametrization (μP) for Haiku models and optax optimizers.

The modules below import in this order, each only from those before it:

- errors: `MupError` and `MupWarning`, with the line of the user's model.
- rules: arithmetic without JAX, from roles and width ratios to factors, for parametrizations and optimizers.
- parameters: one parameter at the base and at the target: its fans, its initializer, its role, its factors.
- tracing: hooks into Haiku, which capture parameters, rescale draws and apply multipliers.
- layers, optimizers, serialization: readouts and attention; wrapped optax optimizers; files of a base.
- frameworks: adapters for Equinox, Flax NNX and Flax Linen, which import these as they are called.
- mup, plans: `Mup`, which connects all of these, and `plan`, which does so for trees of other frameworks.
- coordinates, models: coordinate checks; GPT-2, Llama, BERT and RoBERTa.
- sweep, plot: learning-rate sweeps; figures.

Where to add or change something:

- A layer type: a `LayerType` record in parameters/haiku_layers.py, or beside the layer's class.
- An optimizer rule: an `OptimizerRule` record in rules/optimizers.py.
- A parametrization: a table in rules/tables.py.
- The factors of one parameter: its fans from parameters/haiku_layers.py, its role from parameters/scaling.py,
  the exponents of that role from rules/tables.py.
- Anything that depends on private names of Haiku or JAX, or on Python's frames: haiku_internals.py and
  jax_internals.py in tracing.
"""
import importlib
from typing import TYPE_CHECKING, Any

from haiku_mup.tracing import user_context as _user_context  # noqa: F401  JAX must know it before it traces

if TYPE_CHECKING:           # each name is imported as it is asked for: see __getattr__
    from haiku_mup.coordinates.check import coord_check
    from haiku_mup.coordinates.findings import Finding, Point
    from haiku_mup.coordinates.forward_factors import ForwardFactor, forward_factors
    from haiku_mup.coordinates.recorder import probe
    from haiku_mup.coordinates.result import CoordCheck
    from haiku_mup.coordinates.verdict import Verdict
    from haiku_mup.errors import MupError, MupWarning
    from haiku_mup.frameworks.adapters import equinox, flax_linen, flax_nnx, nnx_multiplied
    from haiku_mup.layers import ConvReadout, MultiHeadAttention, Readout, SharedEmbed, SharedReadout
    from haiku_mup.layers.residual import residual
    from haiku_mup.mup import Mup
    from haiku_mup.optimizers.adamw import adamw
    from haiku_mup.parameters.fans import fans
    from haiku_mup.parameters.record import get_shapes
    from haiku_mup.parameters.summary_table import Row
    from haiku_mup.plans.from_trees import plan
    from haiku_mup.plans.plan import Plan
    from haiku_mup.rules.parametrization import Parametrization
    from haiku_mup.rules.per_layer import modified_standard, per_layer
    from haiku_mup.rules.run_scale import RunScale
    from haiku_mup.rules.tables import maximal_update, neural_tangent, standard
    from haiku_mup.sweep.compare_parametrizations import compare
    from haiku_mup.sweep.comparison import Comparison
    from haiku_mup.sweep.lr_sweep import lr_sweep
    from haiku_mup.sweep.recommendation import Advice
    from haiku_mup.sweep.result import Sweep
    from haiku_mup.sweep.training import Training, training
    from haiku_mup.sweep.transfer import Transfer
    from haiku_mup.sweep.trial import Missing, Trial, draws
    from haiku_mup.tracing.context import apply_mup

# The module of each public name. No name here is that of a package or a module of haiku_mup.
_MODULES = {
    "Advice": "sweep.recommendation", "Comparison": "sweep.comparison", "ConvReadout": "layers",
    "CoordCheck": "coordinates.result", "Finding": "coordinates.findings",
    "ForwardFactor": "coordinates.forward_factors", "Missing": "sweep.trial", "MultiHeadAttention": "layers",
    "Mup": "mup", "MupError": "errors", "MupWarning": "errors", "Parametrization": "rules.parametrization",
    "Plan": "plans.plan", "Point": "coordinates.findings", "Readout": "layers",
    "Row": "parameters.summary_table", "RunScale": "rules.run_scale", "SharedEmbed": "layers",
    "SharedReadout": "layers", "Sweep": "sweep.result", "Training": "sweep.training",
    "Transfer": "sweep.transfer", "Trial": "sweep.trial", "Verdict": "coordinates.verdict",
    "adamw": "optimizers.adamw", "apply_mup": "tracing.context", "compare": "sweep.compare_parametrizations",
    "coord_check": "coordinates.check", "draws": "sweep.trial", "equinox": "frameworks.adapters",
    "fans": "parameters.fans", "flax_linen": "frameworks.adapters", "flax_nnx": "frameworks.adapters",
    "forward_factors": "coordinates.forward_factors", "get_shapes": "parameters.record",
    "lr_sweep": "sweep.lr_sweep", "maximal_update": "rules.tables", "modified_standard": "rules.per_layer",
    "neural_tangent": "rules.tables", "nnx_multiplied": "frameworks.adapters", "per_layer": "rules.per_layer",
    "plan": "plans.from_trees", "probe": "coordinates.recorder", "residual": "layers.residual",
    "standard": "rules.tables", "training": "sweep.training",
}
# Modules that `import haiku_mup` alone gives access to, as in haiku_mup.rules.Power.
_SUBMODULES = ("errors", "initializers", "layers", "mup", "optimizer_rules", "optimizers", "parameters",
               "rules")

__all__ = [
    "Advice",
    "Comparison",
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
    "Plan",
    "Point",
    "Readout",
    "Row",
    "RunScale",
    "SharedEmbed",
    "SharedReadout",
    "Sweep",
    "Training",
    "Transfer",
    "Trial",
    "Verdict",
    "adamw",
    "apply_mup",
    "compare",
    "coord_check",
    "draws",
    "equinox",
    "fans",
    "flax_linen",
    "flax_nnx",
    "forward_factors",
    "get_shapes",
    "lr_sweep",
    "maximal_update",
    "modified_standard",
    "neural_tangent",
    "nnx_multiplied",
    "per_layer",
    "plan",
    "probe",
    "residual",
    "standard",
    "training",
]


if not TYPE_CHECKING:       # a checker knows all names, and is to say which there aren't
    def __getattr__(name: str) -> Any:
        """Imports a public name, or a module, as it is first asked for."""
        if name in _MODULES:
            value = globals()[name] = getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)
            return value
        if name in _SUBMODULES:
            return importlib.import_module(f"{__name__}.{name}")
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    """Returns the public names, and what was imported of them."""
    return sorted({*globals(), *__all__})
