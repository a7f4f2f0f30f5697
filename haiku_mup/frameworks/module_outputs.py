"""The outputs of a model's modules as it runs, where its framework offers them: Flax Linen and Flax NNX."""
import contextlib
import inspect
import sys
from collections.abc import Callable
from typing import Any

import jax

from haiku_mup.parameters.tree_paths import is_nnx_module, path_name

Record = Callable[[str, Any], None]     # is told a module's path, and what a call of it returned
_CALL = "__call__"


def call_and_record(function: Callable[..., Any], model: Any, record: Record, *args: Any,
                    **kwargs: Any) -> Any:
    """Returns function(model, …), and tells the outputs of modules that it calls.

    Args:
      function: a model's apply.
      model: a module of Flax NNX, or parameters.
      record: is told each module's path and output. Modules of Linen are seen as they are called, those of NNX
        afterwards. Of other frameworks nothing is told.
      ``*args``, ``**kwargs``: more arguments of the function.
    """
    with _linen_interceptor(record):
        if not (is_nnx_module(model) and _captures_outputs()):
            return function(model, *args, **kwargs)
        from flax import nnx

        captured = nnx.capture(lambda module: function(module, *args, **kwargs), nnx.Intermediate,
                               method_outputs=nnx.Intermediate)
        out, outputs = captured(model)
    for path, values in nnx.to_flat_state(outputs):
        if path[-1] == _CALL and path[:-1]:
            for value in values.get_value():
                record(path_name(tuple(map(jax.tree_util.DictKey, path[:-1]))), value)
    return out


def _captures_outputs() -> bool:
    """Returns whether this Flax captures the outputs of modules of NNX."""
    from flax import nnx

    return "method_outputs" in inspect.signature(getattr(nnx, "capture", len)).parameters


def _linen_interceptor(record: Record) -> contextlib.AbstractContextManager[Any]:
    """Returns a context in which calls of Linen's modules are told; nothing where Linen isn't in use."""
    linen = sys.modules.get("flax.linen")
    if linen is None:
        return contextlib.nullcontext()

    def interceptor(next_method: Any, args: Any, kwargs: Any, context: Any) -> Any:
        """Tells what a module returns: Flax's interceptor."""
        out = next_method(*args, **kwargs)
        module = context.module
        if context.method_name == _CALL and module.scope is not None and module.path:
            record(path_name(tuple(map(jax.tree_util.DictKey, module.path))), out)
        return out

    intercepted: contextlib.AbstractContextManager[Any] = linen.intercept_methods(interceptor)
    return intercepted
