"""Functions as bytes, for other processes: by name where these can import them, else as they are."""
import functools
import importlib.util
import pickle
import sys
import types
from collections.abc import Iterator
from typing import Any

from haiku_mup.errors import MupError


def pack(work: Any) -> bytes:
    """A value with functions in it as bytes, by cloudpickle, if it is installed.

    Raises:
      MupError: what can't be pickled.

    >>> pickle.loads(pack({"double": lambda x: 2 * x}))["double"](3)
    6
    """
    try:
        import cloudpickle  # type: ignore[import-untyped]
    except ImportError:
        return _dumped(pickle, work)
    modules = {m for m in _modules(work, set()) if not _importable(m.__name__)} - {
        sys.modules[name] for name in cloudpickle.list_registry_pickle_by_value() if name in sys.modules}
    for module in modules:
        cloudpickle.register_pickle_by_value(module)
    try:
        return _dumped(cloudpickle, work)
    finally:
        for module in modules:
            cloudpickle.unregister_pickle_by_value(module)


def _dumped(by: Any, work: Any) -> bytes:
    try:
        return bytes(by.dumps(work))
    except Exception as error:
        raise MupError(f"lr_sweep: what make_trial is made of can't be sent to another process ({error}); pip "
                       "install 'haiku-mup[sweep]' for functions that pickle can't take, or make such things, "
                       "as locks and open files, inside of make_trial") from error


def _modules(x: Any, seen: set[int]) -> Iterator[types.ModuleType]:
    """Where the functions come from that it holds, or that these hold in turn."""
    if id(x) in seen:
        return
    seen.add(id(x))
    parts: list[Any] = []
    if isinstance(x, types.FunctionType):
        if x.__module__ in sys.modules:
            yield sys.modules[x.__module__]
        cells = [cell.cell_contents for cell in x.__closure__ or () if cell != types.CellType()]
        parts = [*cells, *(x.__defaults__ or ()), *(x.__kwdefaults__ or {}).values()]
    elif isinstance(x, functools.partial):
        parts = [x.func, *x.args, *x.keywords.values()]
    elif isinstance(x, dict):
        parts = list(x.values())
    elif isinstance(x, (tuple, list)):
        parts = list(x)
    elif type(x).__module__.startswith("haiku_mup.") and hasattr(x, "__dict__"):
        parts = list(vars(x).values())
    for part in parts:
        yield from _modules(part, seen)


def _importable(name: str) -> bool:
    """Whether another process can import it; __main__ is nobody else's, and cloudpickle knows that."""
    try:
        return name == "__main__" or importlib.util.find_spec(name) is not None
    except (ImportError, ValueError):
        return False
