"""The layers of Flax NNX. Kernels are [*kernel, in, out], and are drawn with a std of 1 / √fan-in."""
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import jax
from flax import nnx

from haiku_mup.errors import MupError
from haiku_mup.frameworks.leaf_specs import LeafSpec, einsum, general, kernel, root, table, vector
from haiku_mup.parameters.tree_layout import LeafLayout, TreeLayout
from haiku_mup.parameters.tree_paths import named_paths, path_name

Specs: TypeAlias = dict[str, LeafSpec]          # by the names of a layer's attributes
Path: TypeAlias = tuple[Any, ...]


def _linear(module: Any) -> Specs:
    return {"kernel": kernel(), "bias": vector()}


def _general(module: Any, key_size: int | None = None) -> Specs:
    batch, n_in, n_out = (len(x) for x in (module.batch_axis, module.in_features, module.out_features))
    return {"kernel": general(batch, n_in, n_out, key_size), "bias": vector(n_out, key_size=key_size)}


def _conv(module: Any) -> Specs:
    return {"kernel": kernel(len(module.kernel_size)), "bias": vector()}


def _conv_transpose(module: Any) -> Specs:
    transposed = bool(module.transpose_kernel)
    return {"kernel": kernel(len(module.kernel_shape) - 2, transposed), "bias": vector()}


def _einsum(module: Any) -> Specs:
    bias = {"bias": vector(len(module.bias_shape))} if module.bias_shape is not None else {}
    return {"kernel": einsum(module.einsum_str), **bias} if module.einsum_str else bias


def _norm(module: Any) -> Specs:
    axes = getattr(module, "feature_axes", -1)
    rank = len(axes) if isinstance(axes, Sequence) else 1
    return {"scale": vector(rank), "bias": vector(rank)}


LAYERS: dict[type, Callable[[Any], Specs]] = {
    nnx.Linear: _linear,
    nnx.LinearGeneral: _general,
    nnx.Einsum: _einsum,
    nnx.Conv: _conv,
    nnx.ConvTranspose: _conv_transpose,
    nnx.Embed: lambda module: {"embedding": table(lambda shape: root(shape[-1]))},
    **dict.fromkeys((nnx.BatchNorm, nnx.LayerNorm, nnx.RMSNorm, nnx.GroupNorm, nnx.InstanceNorm), _norm),
    nnx.LoRA: lambda module: {"lora_a": kernel(), "lora_b": kernel()},
    nnx.PReLU: lambda module: {"negative_slope": vector(0)},
}
# Layers that normalise the weights of a layer inside, so that this one's axes don't tell its role.
OPAQUE = tuple(getattr(nnx, name) for name in ("WeightNorm", "SpectralNorm") if hasattr(nnx, name))


def layout(model: Any) -> TreeLayout:
    """Returns a model's parameters, and what its layers tell of them.

    Raises:
      MupError: no module.
    """
    if not isinstance(model, nnx.Module):
        raise MupError(f"haiku_mup.flax_nnx: a {type(model).__name__} doesn't tell its layers; give plan the "
                       "modules, or what nnx.eval_shape makes; for a nnx.State, fans={glob: axes}")
    modules = {path: node for path, node in nnx.iter_graph(model) if isinstance(node, nnx.Module)}
    params = nnx.state(model, nnx.Param)
    specs = {path_name(_keys((*path, attribute))): spec for path, module in modules.items()
             if not _is_inside(path, modules) for attribute, spec in _specs(path, modules).items()}
    leaves: dict[str, LeafLayout] = {}
    for name, x in named_paths(params):
        if name in specs:
            leaves[name] = specs[name].layout(name, tuple(x.shape))
    return TreeLayout(params, leaves)


def _keys(path: Path) -> Path:
    return tuple(map(jax.tree_util.DictKey, path))


def _is_inside(path: Path, modules: dict[Path, Any]) -> bool:
    """Returns whether a module is, or is inside, one that normalises its weights."""
    return any(isinstance(modules.get(path[:n]), OPAQUE) for n in range(len(path) + 1))


def _specs(path: Path, modules: dict[Path, Any]) -> Specs:
    """Returns the specs of a module's own parameters, by attributes."""
    module, outer = modules[path], modules.get(path[:-1]) if path else None
    if isinstance(outer, nnx.MultiHeadAttention) and path[-1] in ("query", "query_ln"):
        return _queries(module, outer, path[-1])
    for cls in type(module).__mro__:
        if cls in LAYERS:
            return LAYERS[cls](module)
    return {}


def _queries(module: Any, attention: Any, name: str) -> Specs:
    """Returns the specs of what makes queries last: a norm where there is one, else the projection."""
    if name == "query_ln":
        return {leaf: vector(spec.rank, key_size=attention.head_dim) for leaf, spec in _norm(module).items()}
    return _general(module, None if attention.normalize_qk else attention.head_dim)
