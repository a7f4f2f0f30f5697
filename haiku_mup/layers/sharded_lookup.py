"""Embedding lookups where shardings are explicit: JAX is to be told there how what comes out is sharded."""
import contextlib
from typing import Any

import haiku as hk
import jax
from jax.sharding import PartitionSpec


def told():
    """A context in which hk.Embed looks up sharded ids, in a mesh whose axes are `AxisType.Explicit`.

    What comes out is sharded as the ids are, and along the embedding's width as the matrix is, where that axis
    of the mesh is free. In any other mesh, and in none, nothing changes.
    """
    mesh = jax.sharding.get_abstract_mesh()
    return contextlib.nullcontext() if mesh.empty or not mesh.explicit_axes else hk.intercept_methods(_told)


def _told(next_method, args, kwargs, context: hk.MethodContext) -> Any:
    embed: Any = context.module
    ids = args[0] if args else kwargs.get("ids")
    if context.orig_class is not hk.Embed or context.method_name != "__call__" or not _sharded(ids):
        return next_method(*args, **kwargs)
    matrix = embed.embeddings          # [vocab_size, embed_dim]
    rows, width = tuple(jax.typeof(ids).sharding.spec), jax.typeof(matrix).sharding.spec[1]
    spec = PartitionSpec(*rows, None if width in rows else width)
    return matrix.at[ids].get(out_sharding=spec)


def _sharded(ids: Any) -> bool:
    return isinstance(ids, jax.Array) and any(axis is not None for axis in jax.typeof(ids).sharding.spec)
