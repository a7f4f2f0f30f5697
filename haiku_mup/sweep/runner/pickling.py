"""Pickles functions for other processes: by name where these can import them, else by value."""
import pickle
import sys
from typing import Any

from haiku_mup.errors import MupError


def dumps(value: Any) -> bytes:
    """Returns a pickle, made by cloudpickle if it is installed. Raises MupError where there can't be one.

    >>> pickle.loads(dumps({"double": lambda x: 2 * x}))["double"](3)
    6
    """
    pickler, by_value = pickle, []  # type: Any, list[Any]
    try:
        import cloudpickle as pickler  # type: ignore[import-untyped, no-redef]

        # Nobody else can import a module without __spec__. One without __builtins__ has no Python code, either.
        by_value = [module for name, module in list(sys.modules.items())
                    if name == getattr(module, "__name__", None) and getattr(module, "__spec__", None) is None
                    and "__builtins__" in vars(module) and name not in pickler.list_registry_pickle_by_value()]
    except ImportError:
        pass
    for module in by_value:
        pickler.register_pickle_by_value(module)
    try:
        return bytes(pickler.dumps(value))
    except Exception as error:
        raise MupError(f"lr_sweep: what make_trial is made of can't be sent to another process ({error}); pip "
                       "install 'haiku-mup[sweep]' for functions that pickle can't take, or make such things, "
                       "as locks and open files, inside of make_trial") from error
    finally:
        for module in by_value:
            pickler.unregister_pickle_by_value(module)
