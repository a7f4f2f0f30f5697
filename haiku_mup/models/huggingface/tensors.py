"""Converts parameters to tensors of a state dict and back: splits, joins, transposes, stacks."""
import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, TypeAlias

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np

from haiku_mup.models.config import Config
from haiku_mup.models.huggingface.names import Architecture, state_dict_keys

Params: TypeAlias = dict[str, dict[str, Any]]       # {module: {name: array}}, as Haiku nests them
_JOINED = ("query", "key", "value")     # the order in which GPT-2 joins these in one tensor


class ParameterSlice(NamedTuple):
    """A parameter, or one layer of a stacked parameter.

    Attributes:
      module: its module.
      leaf: its name in the module.
      layer_idx: index in the stack; None for all of the parameter.
    """

    module: str
    leaf: str
    layer_idx: int | None


@dataclasses.dataclass
class TensorLayout:
    """The parameters that a tensor of a state dict holds.

    Attributes:
      slices: the parameter; or those that are joined along the tensor's last axis.
      slice_shape: shape of each in our parameters.
      transposed: whether the state dict has the tensor transposed.
    """

    slices: list[ParameterSlice]
    slice_shape: tuple[int, ...]
    transposed: bool

    @property
    def shape(self) -> tuple[int, ...]:
        """Returns the tensor's shape in the state dict."""
        *first, last = self.slice_shape
        shape = (*first, last * len(self.slices))
        return shape[::-1] if self.transposed else shape


Layout: TypeAlias = Mapping[str, TensorLayout]      # by key, without the bare model's prefix


def state_dict_layout(architecture: Architecture, config: Config, model: type[hk.Module], root: str) -> Layout:
    """Returns the layout of the model's state dict.

    Args:
      architecture: the model's.
      config: its configuration.
      model: its class.
      root: the model's name in the tree of parameters.
    """
    layout: dict[str, TensorLayout] = {}
    for name, leaves in _parameter_shapes(config, model).items():
        module = name.partition("/")[2]
        for leaf, x in leaves.items():
            for key in state_dict_keys(architecture, config, module, leaf):
                stacked = config.layer_stack and key.layer_idx is not None
                tensor = layout.setdefault(key.name, TensorLayout(
                    [], tuple(x.shape[1:] if stacked else x.shape), key.transposed and leaf == "w"))
                layer_idx = key.layer_idx if stacked else None
                tensor.slices.append(ParameterSlice(f"{root}/{module}", leaf, layer_idx))
    for tensor in layout.values():
        if len(tensor.slices) > 1:
            tensor.slices.sort(key=lambda part: _JOINED.index(part.module.rpartition("/")[2]))
    return layout


def _parameter_shapes(config: Config, model: type[hk.Module]) -> Mapping[str, Mapping[str, Any]]:
    """Returns the shapes of the model's parameters; allocates nothing."""
    build: Callable[..., Any] = model
    init = hk.transform(lambda ids: build(config)(ids)).init
    ids = jnp.zeros((1, 1), int)
    shapes: Mapping[str, Mapping[str, Any]] = jax.eval_shape(init, jax.random.PRNGKey(0), ids)
    return shapes


def params_from_state_dict(layout: Layout, state_dict: Mapping[str, Any]) -> Params:
    """Returns the parameters in a state dict; leaves out missing ones, and stacks with a missing layer."""
    params: Params = {}
    stacks: dict[tuple[str, str], dict[int, Any]] = {}
    for key, tensor in layout.items():
        if key not in state_dict:
            continue
        x = state_dict[key].T if tensor.transposed else state_dict[key]
        for (module, leaf, layer_idx), array in zip(tensor.slices, np.split(x, len(tensor.slices), -1)):
            if layer_idx is None:
                params.setdefault(module, {})[leaf] = jnp.asarray(array)
            else:
                stacks.setdefault((module, leaf), {})[layer_idx] = array
    indices = {part.layer_idx for tensor in layout.values() for part in tensor.slices} - {None}
    for (module, leaf), layers in stacks.items():
        if layers.keys() == indices:
            params.setdefault(module, {})[leaf] = jnp.stack([layers[i] for i in sorted(layers)])
    return params


def state_dict_from_params(layout: Layout, params: Mapping[str, Mapping[str, Any]]) -> dict[str, np.ndarray]:
    """Returns the state dict that holds the parameters."""
    @functools.cache
    def array(module: str, leaf: str) -> np.ndarray:        # one copy to the host for all layers of a stack
        return np.asarray(params[module][leaf])

    def read(part: ParameterSlice) -> np.ndarray:
        x = array(part.module, part.leaf)
        return x if part.layer_idx is None else x[part.layer_idx]

    state_dict = {}
    for key, tensor in layout.items():
        x = np.concatenate([read(part) for part in tensor.slices], -1)
        state_dict[key] = np.ascontiguousarray(x.T if tensor.transposed else x)
    return state_dict
