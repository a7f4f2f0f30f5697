"""Pickles functions for other processes: by name where these can import them, else by value."""
import contextlib
import importlib.util
import pickle
import sys
import types
from typing import Any

from haiku_mup.errors import MupError


def class_error(value: Any) -> str | None:
    """Says which class, that a value has, a pickle would break; returns None if there is none.

    Equinox reads a class's fields as it makes the class; what cloudpickle sends by value, such as a class of
    ``__main__``, gets them afterwards, and no instance can be made (Equinox 0.13, cloudpickle 3.1).
    """
    if "equinox" not in sys.modules or importlib.util.find_spec("cloudpickle") is None:
        return None
    import cloudpickle  # type: ignore[import-untyped]

    found: list[str] = []

    class Pickler(cloudpickle.Pickler):     # type: ignore[misc]
        """Notes classes of Equinox that go by value."""

        def reducer_override(self, obj: Any) -> Any:
            """Returns how an object is pickled."""
            reduced = super().reducer_override(obj)
            if isinstance(obj, type) and reduced is not NotImplemented and (
                    type(obj).__module__.partition(".")[0] == "equinox"):
                found.append(obj.__name__)
            return reduced

    with contextlib.suppress(Exception):    # `dumps` raises
        Pickler(types.SimpleNamespace(write=len)).dump(value)
    return (f"lr_sweep: other processes can't import the class {found[0]}, and can't get a class of Equinox's "
            "in another way; define it in a module that your program imports") if found else None


def dumps(value: Any) -> bytes:
    """Returns a pickle, made by cloudpickle if it is installed. Raises MupError where there can't be one.

    >>> pickle.loads(dumps({"double": lambda x: 2 * x}))["double"](3)
    6
    """
    if text := class_error(value):
        raise MupError(text)
    pickler, by_value = pickle, []  # type: Any, list[Any]
    with contextlib.suppress(ImportError):
        import cloudpickle as pickler  # type: ignore[no-redef]

        # Nobody else can import a module without __spec__. One without __builtins__ has no Python code, either.
        by_value = [module for name, module in list(sys.modules.items())
                    if name == getattr(module, "__name__", None) and getattr(module, "__spec__", None) is None
                    and "__builtins__" in vars(module) and name not in pickler.list_registry_pickle_by_value()]
    for module in by_value:
        pickler.register_pickle_by_value(module)
    try:
        return bytes(pickler.dumps(value))
    except Exception as error:
        raise MupError(f"lr_sweep: what make_trial is made of can't be sent to another process ({error}); pip "
                       "install cloudpickle, or make locks, open files and the like inside of it") from error
    finally:
        for module in by_value:
            pickler.unregister_pickle_by_value(module)
