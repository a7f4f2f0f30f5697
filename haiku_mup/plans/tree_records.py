"""A record for each parameter of a tree, from its path, its layer and what the user declares."""
import dataclasses
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from haiku_mup.errors import MupError
from haiku_mup.parameters.declarations import Declarations
from haiku_mup.parameters.fans import Fans, declared_fans, finite_axes
from haiku_mup.parameters.globs import matching
from haiku_mup.parameters.haiku_layers import NAMED, TIED, LayerKind, vector
from haiku_mup.parameters.record import Record
from haiku_mup.parameters.tree_layout import Adapter, LeafLayout, TreeLayout
from haiku_mup.parameters.tree_paths import box_kinds, named_paths
from haiku_mup.plans.stds import measured_moments

CALL = "haiku_mup.plan"
_COLLECTIONS = ("batch_stats", "cache", "intermediates", "state")       # of Flax, beside "params"


class Leaf(NamedTuple):
    """One parameter of a tree.

    Attributes:
      array: it, or its shape and dtype.
      layout: what its layer tells of it; None if that is unknown.
    """

    array: Any
    layout: LeafLayout | None


def read_tree(tree: Any, adapters: tuple[Adapter, ...], side: str) -> tuple[Any, dict[str, Leaf]]:
    """Returns a tree's parameters, with None in place of all else, and by name what is known of each.

    Args:
      tree: what the user gave.
      adapters: of the user's frameworks.
      side: "base", "target" or "delta", for errors.

    Raises:
      MupError: a tree without arrays, or with arrays that are no parameters.
    """
    layout = TreeLayout(tree, {})
    for adapter in adapters:
        found = adapter(layout.params)
        layout = TreeLayout(found.params, {**layout.leaves, **found.leaves})
    _check_collections(layout.params)
    params = jax.tree.map(lambda x: x if hasattr(x, "shape") and hasattr(x, "dtype") else None, layout.params)
    leaves = {name: Leaf(x, layout.leaves.get(name)) for name, x in named_paths(params)}
    if not leaves:
        raise MupError(f"plan: the {side} has no arrays: give a tree of arrays or of jax.ShapeDtypeStructs; a "
                       "module of Flax NNX with fans=haiku_mup.flax_nnx, a model's parameters in Linen")
    return params, leaves


def _check_collections(tree: Any) -> None:
    """Raises for what Flax keeps beside parameters, such as running means."""
    if isinstance(tree, Mapping) and "params" in tree and (others := set(tree) & set(_COLLECTIONS)):
        raise MupError(f"plan: {min(others)!r} is no parameter; give variables['params'], for base, target, "
                       "and the optimizer alike")
    foreign = {name: kind for name, kind in box_kinds(tree) if kind is not None}
    if foreign:
        name, kind = next(iter(foreign.items()))
        raise MupError(f"plan: {name!r} is a {kind}, no parameter; give nnx.state(model, nnx.Param), or the "
                       "module itself with fans=haiku_mup.flax_nnx")


def one_layer(leaf: Leaf, name: str, stacks: Mapping[str, int]) -> tuple[Any, tuple[int, ...]]:
    """Returns the shape and dtype of a parameter in one layer, and the sizes of the stacks around it.

    Raises:
      MupError: more stack axes than it has.
    """
    found = {stacks[glob] for glob in matching(name, stacks)}
    if len(found) > 1:
        raise MupError(f"stacks: {name!r}: several globs match it, and differ; let one match")
    count = found.pop() if found else leaf.layout.stacks if leaf.layout else 0
    shape = tuple(map(int, leaf.array.shape))
    if not 0 <= count <= len(shape):
        raise MupError(f"stacks: {name!r}: shape {shape} has no {count} axes in front; a stack's axes must be "
                       "the first: stack layers with out_axes=0, or variable_axes={'params': 0}")
    return jax.ShapeDtypeStruct(shape[count:], leaf.array.dtype), shape[:count]


@dataclasses.dataclass(frozen=True, kw_only=True)
class TreeDeclarations:
    """The arguments of `plan` that a `Mup` doesn't have, beside those that it has.

    Attributes:
      of_mup: the arguments that a `Mup` has, too.
      adapters: of the user's frameworks.
      stacks: {glob: how many axes in front are stacks of layers}.
      attention: {glob: the axis of a query's weight that is the key size, or (base's, target's) key size}.
    """

    of_mup: Declarations
    adapters: tuple[Adapter, ...]
    stacks: Mapping[str, int]
    attention: Mapping[str, Any]

    def record(self, name: str, leaf: Leaf, side: int) -> Record:
        """Returns the record of a parameter.

        Args:
          name: its path.
          leaf: the parameter.
          side: 0 for the base, 1 for the target.
        """
        x, stacks = one_layer(leaf, name, self.stacks)
        inexact = jnp.issubdtype(x.dtype, jnp.inexact)
        shape, layout = x.shape, leaf.layout
        fans = declared_fans(self.of_mup.fans, name, shape, CALL)
        key_size = self._key_size(name, shape, side) or (layout.key_size if layout else None)
        moments, makes_logits = measured_moments(leaf.array), False
        if not inexact:                             # nothing trains it
            fans = Fans((), (), lookup=tuple(range(len(shape))))
        elif fans is None and layout is not None:
            fans, moments, makes_logits = layout.fans, layout.exact(moments), layout.makes_logits
        elif fans is None:
            fans = vector(shape)._replace(known=len(shape) < 2)
        finite = [axes for glob, axes in self.of_mup.finite.items() if matching(name, [glob])]
        return Record(
            name=name, leaf=_last(name), local=name, shape=shape, moments=moments, fans=fans,
            layer=self._layer(name), inexact=inexact, key_size=key_size, scaled_attention=key_size is not None,
            row_sizes=layout.row_sizes if layout else (), stacks=stacks,
            finite=finite_axes(finite, fans, name, shape), of_tree=True,
            makes_logits=makes_logits, adapters=", ".join(map(adapter_code, self.adapters)))

    def _layer(self, name: str) -> LayerKind | None:
        if matching(name, self.of_mup.readouts):
            return NAMED
        return TIED if matching(name, self.of_mup.tied) else None

    def _key_size(self, name: str, shape: tuple[int, ...], side: int) -> int | None:
        """Returns the key size that the user declares for a query's weight or bias."""
        for glob in matching(name, self.attention):
            size = self.attention[glob]
            if isinstance(size, (tuple, list)):
                return int(size[side])
            if not -len(shape) <= size < len(shape):
                raise MupError(f"attention: {name!r}: shape {shape} has no axis {size}")
            return int(shape[size])
        return None


def adapter_code(adapter: Adapter) -> str:
    """Returns the code that names an adapter, for errors."""
    name = getattr(adapter, "__name__", "adapter")
    return {"equinox": "haiku_mup.equinox", "flax_nnx": "haiku_mup.flax_nnx",
            "flax_linen": "haiku_mup.flax_linen(model, x)"}.get(name, name)


def _last(name: str) -> str:
    """Returns the last part of a path, with its brackets.

    >>> _last("layers[0].weight"), _last("weights[0]"), _last("w")
    ('weight', 'weights[0]', 'w')
    """
    return name.rpartition(".")[2] if "['" not in name else name


def check_known(base: Record, target: Record) -> None:
    """Raises for a parameter that grows, and of which nothing tells the fan axes.

    Raises:
      MupError: it has the line to add.
    """
    delta = base.delta or base.shape
    if target.fans.known or base.shape == target.shape == delta:
        return
    name, rank = target.name, len(target.shape)
    readings = {"a weight [in, out]": Fans((rank - 2,), (rank - 1,)),
                "a weight [out, in]": Fans((rank - 1,), (rank - 2,)),
                "a table of which rows are looked up": Fans((), (rank - 1,), lookup=(rank - 2,)),
                "a bias or a gain": vector(target.shape)}
    code = "; ".join(f"{what}: {target.declaration(fans)}" for what, fans in readings.items())
    raise MupError.about(name, base.shape, target.shape,
                         f"it grows, and nothing says which axes are fan-in and fan-out; declare them. {code}")


def check_adapter(tree: Any, bases: Mapping[str, Record], targets: Mapping[str, Record]) -> None:
    """Raises for a framework's parameters that were given without its adapter, and without any axes.

    Args:
      tree: the parameters at the target.
      bases, targets: their records, by name.

    Raises:
      MupError: one of them grows, and the adapter would know its axes.
    """
    unknown = [name for name, target in targets.items() if not target.fans.known and len(target.shape) > 1
               and len(bases[name].shape) == len(target.shape) and bases[name].shape != target.shape]
    if not unknown:
        return
    modules = _modules_of_nodes(tree)
    given = "haiku_mup.plan(base, target, fans={})"
    if any(module.startswith("equinox.") for module in modules):
        whose, code = "Equinox's", given.format("haiku_mup.equinox")
    elif any(module.startswith("flax.nnx.") for module in modules):
        whose, code = "Flax NNX's", given.format("haiku_mup.flax_nnx") + " of the modules themselves"
    elif any(_last(name) in ("kernel", "embedding") for name in unknown):
        whose = "Flax Linen's"
        code = given.format("haiku_mup.flax_linen(model, x)") + " of variables['params']"
    else:
        return
    raise MupError(f"plan: {unknown[0]!r} grows, and nothing says which axes are fan-in and fan-out. If it is "
                   f"{whose}, its adapter knows: {code}; else declare them, fans={{glob: (fan_in_axes, "
                   "fan_out_axes)}")


def _modules_of_nodes(tree: Any) -> set[str]:
    """Returns the names of the Python modules that define the classes of a tree's nodes, and their bases."""
    found: set[str] = set()

    def visit(node: Any) -> bool:
        """Notes a node; returns False, so that those below it are visited, too."""
        found.update(f"{cls.__module__}." for cls in type(node).__mro__)
        return False

    jax.tree.leaves(tree, is_leaf=visit)
    return found
