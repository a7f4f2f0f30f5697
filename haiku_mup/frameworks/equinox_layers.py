"""The layers of Equinox. Weights are [out, in], and are drawn uniformly, with a std of 1 / √(3 · fan-in)."""
import math
from collections.abc import Callable, Iterator
from typing import Any, TypeAlias

import equinox as eqx
import jax

from haiku_mup.frameworks.leaf_specs import LeafSpec, Shape, root, table, vector
from haiku_mup.parameters.fans import Fans
from haiku_mup.parameters.tree_layout import TreeLayout
from haiku_mup.parameters.tree_paths import path_name

nn: Any = eqx.nn
Specs: TypeAlias = dict[str, LeafSpec]          # by the names of a layer's attributes


def _uniform(fan_in: float) -> Callable[[Shape], float]:
    return lambda shape: root(3 * fan_in)


def _weight(spatial: int, fan_in: float, key_size: int | None = None) -> LeafSpec:
    """Returns the spec of a weight [out, in, *kernel]."""
    return LeafSpec(rank=2 + spatial, fans=Fans((1,), (0,)), std=_uniform(fan_in), key_size=key_size)


def _fan_in(module: Any, axes: int, sizes: tuple[int, ...]) -> float:
    """Returns the fan-in of a layer's initializers.

    Args:
      module: the layer. Its weight is no array where it is frozen (eqx.partition), or eqx.nn.Shared has it.
      axes: how many of its weight's last axes have the fan-in.
      sizes: those that the layer was made with.
    """
    return math.prod(getattr(module.weight, "shape", sizes)[-axes:])


def _linear(module: Any, key_size: int | None = None) -> Specs:
    features = 1 if module.in_features == "scalar" else module.in_features
    fan_in = _fan_in(module, 1, (features,))
    return {"weight": _weight(0, fan_in, key_size), "bias": vector(1, _uniform(fan_in), key_size)}


def _conv(module: Any) -> Specs:
    spatial = module.num_spatial_dims
    fan_in = _fan_in(module, 1 + spatial, (module.in_channels // module.groups, *module.kernel_size))
    return {"weight": _weight(spatial, fan_in), "bias": vector(1 + spatial, _uniform(fan_in))}


def _recurrent(module: Any) -> Specs:
    std = _uniform(module.hidden_size)
    weight = LeafSpec(rank=2, fans=Fans((1,), (0,)), std=std)
    return {"weight_ih": weight, "weight_hh": weight, "bias": vector(1, std), "bias_n": vector(1, std)}


def _norm(module: Any) -> Specs:
    rank = len(getattr(module, "shape", (1,)))
    return {"weight": vector(rank), "bias": vector(rank)}


LAYERS: dict[type, Callable[[Any], Specs]] = {
    nn.Linear: _linear,
    nn.Conv: _conv,
    nn.ConvTranspose: _conv,
    nn.Embedding: lambda module: {"weight": table(lambda shape: 1.0)},
    nn.GRUCell: _recurrent,
    nn.LSTMCell: _recurrent,
    **dict.fromkeys((nn.LayerNorm, nn.RMSNorm, nn.GroupNorm, nn.BatchNorm), _norm),
    nn.PReLU: lambda module: {"negative_slope": vector(0)},
}
# Layers that normalise the weights of a layer inside, so that this one's axes don't tell its role.
OPAQUE = tuple(getattr(nn, name) for name in ("WeightNorm", "SpectralNorm") if hasattr(nn, name))


def layout(model: Any) -> TreeLayout:
    """Returns a model's parameters, and what its layers tell of them."""
    params = jax.tree.map(lambda x: None if isinstance(x, nn.StateIndex) else x, model,
                          is_leaf=lambda x: isinstance(x, nn.StateIndex))
    leaves = {}
    for path, module in _modules(model):
        for attribute, spec in _specs(module):
            x = _attribute(module, attribute)
            if hasattr(x, "shape"):
                keys = [jax.tree_util.GetAttrKey(part) for part in attribute.split(".")]
                name = path_name((*path, *keys))
                leaves[name] = spec.layout(name, tuple(x.shape))
    return TreeLayout(params, leaves)


def _modules(model: Any) -> Iterator[tuple[Any, Any]]:
    """Yields (path, module) of the layers that are known, outermost first."""
    ends = (*LAYERS, *OPAQUE, nn.MultiheadAttention)
    for path, module in jax.tree_util.tree_flatten_with_path(model, is_leaf=lambda x: isinstance(x, ends))[0]:
        if isinstance(module, ends) and not isinstance(module, OPAQUE):
            yield path, module


def _specs(module: Any) -> Iterator[tuple[str, LeafSpec]]:
    """Yields the specs of a layer's parameters, by attributes."""
    if isinstance(module, nn.MultiheadAttention):
        for name in ("query_proj", "key_proj", "value_proj", "output_proj"):
            inner = getattr(module, name)
            if isinstance(inner, nn.Linear):
                key_size = module.qk_size if name == "query_proj" else None
                yield from ((f"{name}.{leaf}", spec) for leaf, spec in _linear(inner, key_size).items())
        return
    for cls in type(module).__mro__:
        if cls in LAYERS:
            yield from LAYERS[cls](module).items()
            return


def _attribute(module: Any, names: str) -> Any:
    for name in names.split("."):
        module = getattr(module, name, None)
    return module
