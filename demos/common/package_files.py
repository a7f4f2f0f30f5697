"""Data sets that lie in installed packages, so that nothing is downloaded."""
import importlib.util
import pathlib
from typing import NamedTuple


class PackageFile(NamedTuple):
    """A file inside a package.

    Attributes:
      package: the package that must be installed.
      path: of the file in the package's folder.
      description: of the data in it, for figures and messages.
    """

    package: str
    path: str
    description: str


def find(source: PackageFile) -> pathlib.Path | None:
    """Returns the file's path, or None if it isn't there; doesn't import the package, which takes seconds."""
    spec = importlib.util.find_spec(source.package)
    if spec is None or not spec.submodule_search_locations:
        return None
    path = pathlib.Path(spec.submodule_search_locations[0]) / source.path
    return path if path.is_file() else None
