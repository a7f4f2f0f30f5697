"""Residual branches, with a multiplier that falls with the number of blocks."""
from collections.abc import Callable
from typing import TypeVar

import jax

from haiku_mup.errors import MupError
from haiku_mup.parameters.row_factors import scaled
from haiku_mup.tracing.layer_multipliers import compute_branch

T = TypeVar("T")


def residual(x: T, branch: Callable[[T], T]) -> T:
    """Returns x + branch(x), with the branch multiplied by r^-α if a target has r times the blocks of its base.

    Use it in place of ``x = x + branch(x)`` for each branch of a block (attention, MLP), in a model that is to
    grow in depth. Blocks repeat in `hk.layer_stack`, or in modules (or `hk.name_scope`) with one name and
    numbers. Call it inside the block. α is the argument of `maximal_update(depth_alpha=...)`.

    Parameters made in branches are the parameters in blocks, with factors of their own. All parameters of a
    block must be made in a branch, so normalise inside of it (pre-LN). Outside of μP, at the base's depth and
    without an α it is ``x + branch(x)``, bit for bit. A branch inside another is multiplied by its own factor
    divided by that of the other. Branches in one module that share their layers, such as one hk.Linear that is
    called n times, count by their calls; they need α = 1, and the layers' own factors are 1. (CompleteP, arXiv
    2505.01618, Table 1; Depth-μP, arXiv 2310.02244.)

    Args:
      x: the residual stream, an array or a tree of arrays.
      branch: a function, or a module, that computes from x what is added to it, a tree like x.

    Returns:
      The stream with the branch added.

    Raises:
      MupError: an array for the branch; in a wrapped model whose depth differs from the base's, a place that
        was not captured.

    >>> def fn(x, blocks):
    ...     block = lambda x: haiku_mup.residual(x, lambda x: hk.Linear(8)(jax.nn.relu(hk.Linear(8)(x))))
    ...     with haiku_mup.apply_mup():
    ...         return hk.layer_stack(blocks)(block)(x)
    >>> base, target = (hk.transform(functools.partial(fn, blocks=n)) for n in (2, 8))
    >>> mup = haiku_mup.Mup(parametrization=haiku_mup.maximal_update(depth_alpha=0.5))
    >>> with mup.init_base():
    ...     _ = jax.eval_shape(base.init, jax.random.PRNGKey(0), jnp.ones(8))
    >>> with mup.init_target():
    ...     _ = jax.eval_shape(target.init, jax.random.PRNGKey(0), jnp.ones(8))
    >>> mup.table()[0].depth, mup.table()[0].adam_lr        # which is r^(α-1)
    (4.0, 0.5)
    """
    if not callable(branch):
        raise MupError(f"residual: the branch is a {type(branch).__name__}; give a function of x that computes "
                       "it, so that its parameters are known: residual(x, lambda x: layer(norm(x)))")
    out, factor = compute_branch(branch, x)
    total: T = jax.tree.map(lambda a, b: a + scaled(b, factor), x, out)
    return total
