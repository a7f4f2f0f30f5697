"""How Hugging Face's checkpoints lay out what our parameters hold."""
import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np

from haiku_mup.models.config import Config
from haiku_mup.models.huggingface.names import Family, Params, _names

_JOINED = ("query", "key", "value")     # the order of those that a checkpoint may have side by side


class Slot(NamedTuple):
    """Where a tensor of a checkpoint, or a part of it, is in the parameters: `layer` of a stack, or None."""

    module: str
    leaf: str
    layer: int | None


@dataclasses.dataclass
class Tensor:
    """A tensor of a checkpoint.

    Attributes:
      slots: its place; those of its parts along the last axis, where it has several.
      part: shape of each part in our parameters.
      transposed: whether the checkpoint has it the other way round.
    """

    slots: list[Slot]
    part: tuple[int, ...]
    transposed: bool

    @property
    def shape(self) -> tuple[int, ...]:
        """Its shape in the checkpoint."""
        *first, last = self.part
        shape = (*first, last * len(self.slots))
        return shape[::-1] if self.transposed else shape


def tensors(family: Family, config: Config, model: type[hk.Module], root: str) -> dict[str, Tensor]:
    """What a checkpoint of this model has, by name without the prefix of the bare model.

    Args:
      family: the model's.
      config: the configuration.
      model: the model.
      root: the model's name in the tree of parameters.
    """
    found: dict[str, Tensor] = {}
    for module, leaves in _shapes(config, model).items():
        own = module.partition("/")[2]
        for leaf, x in leaves.items():
            for name, layer, matrix in _names(family, config, own, leaf):
                stacked = config.layer_stack and layer is not None
                shape = tuple(x.shape[1:] if stacked else x.shape)
                slot = Slot(f"{root}/{own}", leaf, layer if stacked else None)
                tensor = found.setdefault(name, Tensor([], shape, matrix and leaf == "w"))
                tensor.slots.append(slot)
    for tensor in found.values():
        if len(tensor.slots) > 1:
            tensor.slots = sorted(tensor.slots, key=lambda slot: _JOINED.index(slot.module.rpartition("/")[2]))
    return found


def _shapes(config: Config, model: type[hk.Module]) -> Mapping[str, Mapping[str, Any]]:
    build: Callable[..., Any] = model
    init = hk.transform(lambda ids: build(config)(ids)).init
    ids = jnp.zeros((1, 1), int)
    shapes: Mapping[str, Mapping[str, Any]] = jax.eval_shape(init, jax.random.PRNGKey(0), ids)
    return shapes


def read(wanted: Mapping[str, Tensor], found: Mapping[str, Any]) -> Params:
    """The parameters that tensors of a checkpoint hold; those that aren't there are left out."""
    params: Params = {}
    layers: dict[tuple[str, str], dict[int, Any]] = {}
    for name, tensor in wanted.items():
        if name not in found:
            continue
        x = found[name].T if tensor.transposed else found[name]
        for slot, piece in zip(tensor.slots, np.split(x, len(tensor.slots), -1)):
            if slot.layer is None:
                params.setdefault(slot.module, {})[slot.leaf] = jnp.asarray(piece)
            else:
                layers.setdefault((slot.module, slot.leaf), {})[slot.layer] = piece
    for (module, leaf), pieces in layers.items():
        if len(pieces) == 1 + max(slot.layer for tensor in wanted.values() for slot in tensor.slots
                                  if slot.layer is not None):
            params.setdefault(module, {})[leaf] = jnp.stack([pieces[i] for i in sorted(pieces)])
    return params


def write(wanted: Mapping[str, Tensor], params: Mapping[str, Mapping[str, Any]]) -> dict[str, np.ndarray]:
    """The tensors of a checkpoint that has these parameters."""
    @functools.cache
    def array(module: str, leaf: str) -> np.ndarray:
        return np.asarray(params[module][leaf])

    found = {}
    for name, tensor in wanted.items():
        pieces = [(array(slot.module, slot.leaf), slot.layer) for slot in tensor.slots]
        x = np.concatenate([x if layer is None else x[layer] for x, layer in pieces], -1)
        found[name] = np.ascontiguousarray(x.T if tensor.transposed else x)
    return found
