"""Records the parameters of hk.experimental.flax.lift, which Haiku's creators don't see."""
import math
from collections.abc import Iterator, Mapping
from typing import Any

import haiku as hk
import jax.numpy as jnp

from haiku_mup.parameters.fans import Fans
from haiku_mup.parameters.haiku_layers import FLAX
from haiku_mup.parameters.initializers import Moments
from haiku_mup.parameters.record import Record
from haiku_mup.tracing.haiku_internals import Nesting, flax_prefix
from haiku_mup.tracing.layer_multipliers import current_branch
from haiku_mup.tracing.scope import AppliedContext


def note_flax(applied: AppliedContext, module: Any, made: Any) -> None:
    """Notes the parameters that a lift of Flax's has made, if a module is one, in an init.

    Args:
      applied: the apply_mup() that is open.
      module: a module of Haiku's that was called.
      made: what it returned.
    """
    prefix = flax_prefix(module)
    if prefix is None or not hk.running_init():
        return
    nesting = Nesting()
    for record, names, array in _records(prefix, made[0], nesting):
        created = applied.active.adopt(record, names, array)
        module_name = record.local[:-len(record.leaf) - 1]
        name = f"{nesting.modules_in_tree(module_name, applied.lifts_around)[0]}/{record.leaf}"
        applied.created.append((created, name, len(nesting.renamings) > applied.lifts_around))


def _records(prefix: str, params: Mapping[str, Mapping[str, Any]], nesting: Nesting,
             ) -> Iterator[tuple[Record, tuple[str, ...], Any]]:
    """Yields a record for each parameter, with its names in the tree, and the array."""
    for module, leaves in params.items():
        for leaf, array in leaves.items():
            local = f"{prefix}/{module}"
            names = tuple(f"{above}/{leaf}" for above in nesting.modules_in_tree(local))
            shape = tuple(map(int, array.shape))
            record = Record(
                name=names[0], leaf=leaf, local=f"{local}/{leaf}", shape=shape,
                # None of its axes is a width: where one grows, there is an error.
                fans=Fans((), (), lookup=tuple(range(len(shape)))),
                moments=Moments(math.nan, math.nan, drawn=False), layer=FLAX,
                inexact=bool(jnp.issubdtype(array.dtype, jnp.inexact)), stacks=nesting.stacked_layers,
                place=nesting.place(names, leaf, current_branch.get()), line=nesting.line)
            yield record, names, array
