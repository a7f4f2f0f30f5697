"""The layers of Flax Linen. Kernels are [*kernel, in, out], and are drawn with a std of 1 / √fan-in.

Parameters don't tell which module made them, so the model's init is traced, and calls of modules are recorded.
"""
import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import jax
from flax import linen as nn
from flax.linen import recurrent

from haiku_mup.errors import MupError
from haiku_mup.frameworks.leaf_specs import LeafSpec, einsum, general, kernel, root, table, vector
from haiku_mup.parameters.tree_layout import Adapter, TreeLayout
from haiku_mup.parameters.tree_paths import named_paths, path_name

Specs: TypeAlias = dict[str, LeafSpec]          # by the names of a layer's parameters
Path: TypeAlias = tuple[str, ...]


def _size(x: int | Sequence[int]) -> int:
    return len(x) if isinstance(x, Sequence) else 1


def _linear(module: Any, call: tuple[Any, ...]) -> Specs:
    return {"kernel": kernel(), "bias": vector()}


def _general(module: Any, call: tuple[Any, ...], key_size: int | None = None) -> Specs:
    n_out = _size(module.features)
    return {"kernel": general(len(module.batch_dims), _size(module.axis), n_out, key_size),
            "bias": vector(n_out, key_size=key_size)}


def _conv(module: Any, call: tuple[Any, ...]) -> Specs:
    transposed = bool(getattr(module, "transpose_kernel", False))
    return {"kernel": kernel(_size(module.kernel_size), transposed), "bias": vector()}


def _einsum(module: Any, call: tuple[Any, ...]) -> Specs:
    args, kwargs = call
    equation = module.einsum_str or kwargs.get("einsum_str") or (args[1] if len(args) > 1 else None)
    if not equation:
        return {}
    spec = einsum(equation)
    return {"kernel": spec, "bias": vector(len(spec.fans.fan_out) + len(spec.fans.lookup))}


def _norm(module: Any, call: tuple[Any, ...]) -> Specs:
    rank = _size(getattr(module, "feature_axes", getattr(module, "axis", -1)))
    return {"scale": vector(rank), "bias": vector(rank)}


LAYERS: dict[type, Callable[[Any, tuple[Any, ...]], Specs]] = {
    nn.Dense: _linear,
    recurrent.DenseParams: _linear,             # of nn.OptimizedLSTMCell
    nn.DenseGeneral: _general,
    nn.Einsum: _einsum,
    nn.Conv: _conv,
    nn.ConvTranspose: _conv,
    nn.Embed: lambda module, call: {"embedding": table(lambda shape: root(shape[-1]))},
    **dict.fromkeys((nn.BatchNorm, nn.LayerNorm, nn.RMSNorm, nn.GroupNorm, nn.InstanceNorm), _norm),
    nn.PReLU: lambda module, call: {"negative_slope": vector(0)},
}
# Layers that normalise the weights of a layer inside, so that this one's axes don't tell its role.
OPAQUE = (nn.WeightNorm, nn.SpectralNorm)


class _Recorder:
    """Records the layers whose methods a model calls.

    Attributes:
      specs: what is known of each parameter, by the path of its module and its own name.
      opaque: the paths of layers whose weights are normalised.
      attended: the paths of embeddings that make logits.
    """

    def __init__(self) -> None:
        self.specs: dict[Path, LeafSpec] = {}
        self.opaque: set[Path] = set()
        self.attended: set[Path] = set()
        self._attentions: list[Any] = []        # that are being called

    def __call__(self, next_method: Any, args: Any, kwargs: Any, context: Any) -> Any:
        """Calls a method of a module: Flax's interceptor."""
        module = context.module
        attends = isinstance(module, nn.MultiHeadDotProductAttention) and context.method_name == "__call__"
        self._attentions += [module] * attends
        try:
            out = next_method(*args, **kwargs)
        finally:
            del self._attentions[len(self._attentions) - attends:]
        if module.scope is not None and context.method_name != "setup":
            self._record(module, tuple(map(str, module.path)), (args, kwargs))
            if isinstance(module, nn.Embed) and context.method_name == "attend":
                self.attended.add(tuple(map(str, module.path)))
        return out

    def _record(self, module: Any, path: Path, call: tuple[Any, ...]) -> None:
        if isinstance(module, OPAQUE) and module.layer_instance.scope is not None:
            self.opaque.add(tuple(map(str, module.layer_instance.path)))
        for cls in type(module).__mro__:
            if cls in LAYERS:
                specs = LAYERS[cls](module, call)
                self.specs.update({(*path, leaf): spec for leaf, spec in {
                    **specs, **self._queries(module, path)}.items()})
                return

    def _queries(self, module: Any, path: Path) -> Specs:
        """Returns the specs of what makes queries last in an attention: a norm where there is one."""
        attention = self._attentions[-1] if self._attentions else None
        if attention is None or path[:-1] != tuple(map(str, attention.path)):
            return {}
        size = _key_size(module) if path[-1] == "query" else None
        if size and not attention.normalize_qk:
            return _general(module, ((), {}), size)
        if path[-1] == "query_ln":              # of the size of a head
            return {leaf: vector(spec.rank, key_size=1) for leaf, spec in _norm(module, ((), {})).items()}
        return {}


def _key_size(module: Any) -> int | None:
    """Returns the size of a head's queries, [heads, size]."""
    return int(module.features[-1]) if isinstance(module.features, Sequence) else None


def adapter(model: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Adapter:
    """Returns what tells `plan` the axes of a model's parameters.

    Raises:
      MupError: no module of Linen.
    """
    if not isinstance(model, nn.Module):
        raise MupError(f"haiku_mup.flax_linen: {type(model).__name__} is no module of Linen; give the model "
                       "and the inputs of its init: haiku_mup.flax_linen(model, x)")
    recorder = _Recorder()
    leaves, tree = jax.tree.flatten((args, kwargs))
    arrays = {i: x for i, x in enumerate(leaves) if hasattr(x, "shape") and hasattr(x, "dtype")}

    def init(key: Any, arrays: dict[int, Any]) -> Any:
        args, kwargs = jax.tree.unflatten(tree, [arrays.get(i, x) for i, x in enumerate(leaves)])
        with nn.intercept_methods(recorder):
            return model.init({"params": key, "dropout": key}, *args, **kwargs)

    jax.eval_shape(init, jax.random.key(0), arrays)

    def layout(params: Any) -> TreeLayout:
        """Returns the parameters, and what the layers tell of them."""
        prefix = "params." if isinstance(params, Mapping) and set(params) == {"params"} else ""
        specs = {prefix + path_name(tuple(map(jax.tree_util.DictKey, path))): dataclasses.replace(
                     spec, makes_logits=path[:-1] in recorder.attended) for path, spec in recorder.specs.items()
                 if not any(path[:n] in recorder.opaque for n in range(len(path)))}
        return TreeLayout(params, {name: _with_own_key_size(specs[name], tuple(x.shape)).layout(
            name, tuple(x.shape)) for name, x in named_paths(params) if name in specs and hasattr(x, "shape")})

    layout.__name__ = "flax_linen"                  # for errors, which name it
    return layout


def _with_own_key_size(spec: LeafSpec, shape: tuple[int, ...]) -> LeafSpec:
    """Returns the spec with the key size of an array, its last axis, and not that of the traced model."""
    if spec.key_size is None:
        return spec
    return dataclasses.replace(spec, key_size=shape[-1])
