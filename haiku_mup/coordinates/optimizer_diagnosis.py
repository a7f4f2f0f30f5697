"""Tries the optimizer of a check that fails: whether it is like SGD or Adam, and whether Adam's ε matters."""
from collections.abc import Collection, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from haiku_mup.coordinates.quantities import ParameterKind
from haiku_mup.coordinates.trainer import Trainer
from haiku_mup.coordinates.training_runs import TrainingRuns
from haiku_mup.optimizers.detect import find_traits
from haiku_mup.rules.optimizers import Behaviour, OptimizerRule

_LARGE = 2.0**40        # a gradient times this is large beside any ε
_SHRUNK = 0.95          # ε matters where updates are below this times those without it


class OptimizerDiagnosis(NamedTuple):
    """Behaviour of an optimizer at the gradients of a check.

    Attributes:
      behaviour: "SGD" or "Adam", or another behaviour; None if that is unclear.
      small_gradient: the parameter whose updates ε shrinks most at the widest model; None where none is shrunk.
    """

    behaviour: Behaviour | None = None
    small_gradient: str | None = None


def diagnose_optimizer(optimizer: Any, trainers: Mapping[int, Trainer], runs: TrainingRuns,
                       rule: OptimizerRule, *, noise: Collection[str] = ()) -> OptimizerDiagnosis:
    """Tries an optimizer on small arrays of the model's names, with the gradients that the check has seen.

    Args:
      optimizer: the plain optimizer.
      trainers: by width, the narrowest first.
      runs: what the check has measured.
      rule: the optimizer's rule; one that makes gradients as large as at the base keeps ε's part.
      noise: the parameters whose gradients are only rounding errors: see `rounding_noise`.
    """
    *_, widest = trainers
    tree: dict[str, dict[str, Any]] = {}
    for name, shape in trainers[widest].shapes.items():
        module, _, leaf = name.rpartition("/")
        tree.setdefault(module, {})[leaf] = np.ones([min(n, 2) for n in shape], np.float32)
    traits = find_traits(optimizer, [tree])
    behaviours = {each.behaviour for each in traits.values() if each.behaviour}
    behaviour = next(iter(behaviours)) if len(behaviours) == 1 else None
    if rule.serves_entrywise or behaviour is not Behaviour.ADAM_LIKE:
        return OptimizerDiagnosis(behaviour)
    sizes = {name: size for name, size in _gradient_sizes(runs, widest).items() if name not in noise}
    shares = _shares_without_eps(optimizer, tree, sizes)
    smallest = min(shares, key=shares.__getitem__, default="")
    return OptimizerDiagnosis(behaviour, smallest if shares.get(smallest, 1.0) < _SHRUNK else None)


def _gradient_sizes(runs: TrainingRuns, width: int) -> dict[str, float]:
    """Returns the mean size of each parameter's gradient at a width, over entries, in its smallest step."""
    sizes: dict[str, float] = {}
    for (at, _), steps in runs.items():
        for step in steps if at == width else ():
            for name, kinds in step.parameters.items():
                gradient = kinds[ParameterKind.GRADIENT]            # [layers …, stats + 1]
                size = float(np.min(gradient[..., 0] / np.maximum(gradient[..., -1], 1e-12)))
                if size > 0:
                    sizes[name] = min(sizes.get(name, size), size)
    return sizes


def _shares_without_eps(optimizer: Any, tree: Any, sizes: Mapping[str, float]) -> dict[str, float]:
    """Returns the size of each parameter's update, relative to that at gradients too large for ε to matter."""
    def update(factor: float) -> dict[str, float]:
        gradients = {module: {leaf: x * np.float32(factor * sizes.get(f"{module}/{leaf}", 0.0))
                              for leaf, x in leaves.items()} for module, leaves in tree.items()}
        updates, _ = jax.jit(optimizer.update)(gradients, optimizer.init(tree), tree)
        return {f"{module}/{leaf}": float(np.abs(x).mean()) for module, leaves in updates.items()
                for leaf, x in leaves.items()}

    try:
        small, large = update(1.0), update(_LARGE)
    except Exception:       # an optimizer for other parameters may raise anything
        return {}
    return {name: small[name] / large[name] for name in sizes if large.get(name)}
