"""Embedding lookups in meshes with explicit axes, where JAX must be told the sharding of their outputs."""
import contextlib
from typing import Any

import haiku as hk
import jax
from jax.sharding import PartitionSpec


def out_sharding():
    """Returns a context in which hk.Embed can look up sharded ids in a mesh with `AxisType.Explicit` axes.

    The rows are sharded as the ids are, and along the embedding's width as the matrix is, if that axis of the
    mesh is free. In any other mesh, and in none, nothing changes.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or not mesh.explicit_axes:
        return contextlib.nullcontext()
    return hk.intercept_methods(_look_up)


def _look_up(next_method, args, kwargs, context: hk.MethodContext) -> Any:
    """Looks up the rows of sharded ids in place of hk.Embed; passes other calls on."""
    embed: Any = context.module
    ids = args[0] if args else kwargs.get("ids")
    if context.orig_class is not hk.Embed or context.method_name != "__call__" or not _is_sharded(ids):
        return next_method(*args, **kwargs)
    matrix = embed.embeddings          # [vocab_size, embed_dim]
    rows, width = tuple(jax.typeof(ids).sharding.spec), jax.typeof(matrix).sharding.spec[1]
    spec = PartitionSpec(*rows, None if width in rows else width)       # an axis can shard one dimension only
    return matrix.at[ids].get(out_sharding=spec)


def _is_sharded(ids: Any) -> bool:
    return isinstance(ids, jax.Array) and any(axis is not None for axis in jax.typeof(ids).sharding.spec)
