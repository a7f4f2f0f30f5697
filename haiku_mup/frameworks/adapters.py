"""`equinox`, `flax_nnx` and `flax_linen`: what `plan(fans=...)` takes for models of these frameworks."""
import contextlib
from collections.abc import Iterator
from typing import Any, Protocol

import jax

from haiku_mup.errors import MupError
from haiku_mup.parameters.tree_layout import Adapter, TreeLayout


class Multiplies(Protocol):
    """A plan, as far as `nnx_multiplied` needs it: `haiku_mup.Plan`, which is above this module."""

    def multiplied(self, params: Any) -> Any:
        """Returns parameters times their forward multipliers."""


def equinox(model: Any) -> TreeLayout:
    """Tells `plan` the axes of Equinox's layers: ``haiku_mup.plan(base, target, fans=haiku_mup.equinox)``.

    It knows Linear, Conv, ConvTranspose, Embedding, norms, GRUCell, LSTMCell, MultiheadAttention, PReLU, and
    all that is made of them; also under eqx.filter_vmap, whose axis in front is a stack of layers. An array
    of a module of your own is named by {glob: axes}: ``fans=[haiku_mup.equinox, {"blocks[*].mix": (0, 1)}]``.
    Running averages in an eqx.nn.StateIndex are no parameters.

    Args:
      model: a module, or a tree of modules; `plan` gives it.

    Returns:
      What `plan` needs.

    Raises:
      MupError: Equinox isn't installed.

    >>> import equinox as eqx
    >>> def model(width):
    ...     return eqx.nn.MLP(5, 3, width, depth=2, key=jax.random.key(0))
    >>> plan = haiku_mup.plan(model(16), model(64), fans=haiku_mup.equinox, readouts="layers[2].weight")
    >>> [row.role for row in plan.table() if row.name.endswith("weight")]
    ['input', 'hidden', 'output']
    """
    try:
        from haiku_mup.frameworks import equinox_layers
    except ModuleNotFoundError as error:
        raise _missing(error, "equinox") from error
    return equinox_layers.layout(model)


def flax_nnx(model: Any) -> TreeLayout:
    """Tells `plan` the axes of Flax NNX's layers: ``haiku_mup.plan(base, target, fans=haiku_mup.flax_nnx)``.

    It knows Linear, LinearGeneral, Einsum, Conv, ConvTranspose, Embed, norms, cells of recurrent networks,
    MultiHeadAttention, LoRA, PReLU, and all that is made of them; also under nnx.vmap and nnx.scan, whose axis
    in front is a stack of layers. A parameter of your own is named by {glob: axes}:
    ``fans=[haiku_mup.flax_nnx, {"positions": ((), 1, 0)}]``.

    Args:
      model: a module, or one that nnx.eval_shape made; `plan` gives it. Its parameters are
        ``nnx.state(model, nnx.Param)``, which is what the plan names, rescales and multiplies.

    Returns:
      What `plan` needs.

    Raises:
      MupError: Flax isn't installed; no module.

    >>> from flax import nnx
    >>> class Model(nnx.Module):
    ...     def __init__(self, width, rngs):
    ...         self.hidden, self.out = nnx.Linear(5, width, rngs=rngs), nnx.Linear(width, 3, rngs=rngs)
    >>> base, target = (Model(width, nnx.Rngs(0)) for width in (16, 64))
    >>> plan = haiku_mup.plan(base, target, fans=haiku_mup.flax_nnx, readouts="out.kernel")
    >>> plan.multiplier("out.kernel")
    0.25
    """
    try:
        from haiku_mup.frameworks import nnx_layers
    except ModuleNotFoundError as error:
        raise _missing(error, "flax") from error
    return nnx_layers.layout(model)


def flax_linen(model: Any, *args: Any, **kwargs: Any) -> Adapter:
    """Returns what tells `plan` the axes of a Linen model's layers; it traces the model's init.

    It knows Dense, DenseGeneral, Einsum, Conv, ConvTranspose, Embed, norms, cells of recurrent networks,
    attention, PReLU, and all that is made of them; also under nn.vmap and nn.scan with
    ``variable_axes={"params": 0}``.

    Args:
      model: a module of Linen, of any width.
      ``*args``, ``**kwargs``: the inputs of its init: arrays or jax.ShapeDtypeStructs, and whatever else.

    Returns:
      An adapter for the parameters, ``model.init(key, x)["params"]``.

    Raises:
      MupError: Flax isn't installed; no module of Linen.

    >>> from flax import linen as nn
    >>> def model(width):
    ...     return nn.Sequential([nn.Dense(width), nn.relu, nn.Dense(3)])
    >>> key, x = jax.random.key(0), jnp.ones((2, 5))
    >>> base, target = (model(width).init(key, x)["params"] for width in (16, 64))
    >>> plan = haiku_mup.plan(base, target, fans=haiku_mup.flax_linen(model(16), x), readouts="layers_2.kernel")
    >>> plan.multiplier("layers_2.kernel")
    0.25
    """
    try:
        from haiku_mup.frameworks import linen_layers
    except ModuleNotFoundError as error:
        raise _missing(error, "flax") from error
    return linen_layers.adapter(model, args, kwargs)


def _missing(error: ModuleNotFoundError, framework: str) -> Exception:
    """Returns the error for a framework that isn't installed; another module's own error otherwise."""
    if (error.name or "").partition(".")[0] != framework:
        return error
    return MupError(f"{framework} isn't installed: pip install {framework}")


@contextlib.contextmanager
def nnx_multiplied(plan: Multiplies, model: Any) -> Iterator[None]:
    """Multiplies the parameters of a module of Flax NNX by their forward multipliers, as long as it is open.

    For the forward pass of a loss. The module is the same, so that its running averages move as ever; when it
    ends, the parameters are as they were. See `Plan.multiplied`.

    Args:
      plan: the plan of the module.
      model: the module, which is differentiated.

    Raises:
      MupError: Flax isn't installed; a module of other parameters than the plan's.

    >>> from flax import nnx
    >>> base, target = (nnx.Linear(width, 3, rngs=nnx.Rngs(0)) for width in (16, 64))
    >>> plan = haiku_mup.plan(base, target, fans=haiku_mup.flax_nnx, readouts="kernel")
    >>> with haiku_mup.nnx_multiplied(plan, target):
    ...     logits = target(jnp.ones((2, 64)))
    """
    try:
        from flax import nnx
    except ModuleNotFoundError as error:
        raise _missing(error, "flax") from error
    # Not nnx.state: inside of nnx.capture lists have a "__captures__" beside their numbers, which Flax 0.12.8
    # can't sort. The map copies the variables, which the update changes.
    params = jax.tree.map(lambda x: x, nnx.from_flat_state(
        {path: node for path, node in nnx.iter_graph(model) if isinstance(node, nnx.Param)}))
    nnx.update(model, plan.multiplied(params))
    try:
        yield
    finally:
        nnx.update(model, params)
