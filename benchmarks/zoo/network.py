"""Public packages with Haiku networks, and what the zoo knows of each network: all of it written by hand."""
import contextlib
import importlib
import sys
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple
from unittest import mock


class Network(NamedTuple):
    """A network of a package.

    Attributes:
      name: in the report.
      make: from a width to a function of the inputs, to be called inside of `apply_mup`.
      inputs: makes the inputs.
      table: the roles and factors of its parameters, derived by hand: see `benchmarks.zoo.hand_table`.
      declarations: arguments of `Mup` that it needs.
      widths: of base, delta and target, captured by their shapes alone.
      check_widths: of the coordinate check.
      learning_rate: Adam's, in the check.
      seeds: of the check.
      outputs: from what the network returns to the arrays that are trained in the check.
      failure: why the check should fail; empty if it should not.
    """

    name: str
    make: Callable[[int], Callable[..., Any]]
    inputs: Callable[[], tuple]
    table: str
    declarations: Mapping[str, Any] = {}
    widths: tuple[int, int, int] = (32, 48, 128)
    check_widths: tuple[int, ...] = (32, 128)
    learning_rate: float = 2**-8
    seeds: int = 4
    outputs: Callable[[Any], Any] = lambda found: found
    failure: str = ""


class Package(NamedTuple):
    """A package of the index, pinned.

    Attributes:
      name: on the index.
      version: of it.
      networks: makes its networks, in an environment that has the package.
      requires: other packages that its networks import, pinned.
      jax: what of JAX and Haiku it runs with.
    """

    name: str
    version: str
    networks: Callable[[], list[Network]]
    requires: tuple[str, ...] = ()
    jax: tuple[str, ...] = ("jax==0.10.2", "jaxlib==0.10.2", "dm-haiku==0.0.17", "optax==0.2.8")


def package(name: str) -> Package:
    """Returns a package of the zoo by the name of its module here."""
    found: Package = importlib.import_module(f"benchmarks.zoo.packages.{name}").PACKAGE
    return found


@contextlib.contextmanager
def stubs(*names: str) -> Iterator[dict[str, Any]]:
    """Yields empty modules, which imports of modules that a network doesn't need find in their place."""
    modules: dict[str, Any] = {name: mock.MagicMock() for name in names}
    with mock.patch.dict(sys.modules, modules):
        yield modules
