"""Checks that a package's imports follow the order of its rooms: `check_imports.py [FOLDER]`.

Reads the source, and so sees every import: at the top of a module, inside a function, under TYPE_CHECKING.
Prints a line for each violation, with what would be right, and exits with 1 if there is one. FOLDER is the
package's own, haiku_mup beside tests by default.
"""
import ast
import collections
import importlib.util
import itertools
import pathlib
import sys
from collections.abc import Iterator
from typing import NamedTuple

# A room may import the rooms on the lines above its own, and none on its own line.
ORDER = (
    ("errors",),
    ("rules",),
    ("parameters",),
    ("tracing",),
    ("layers", "optimizers", "serialization", "frameworks"),
    ("mup", "plans"),
    ("coordinates", "models"),
    ("sweep",),
    ("__init__", "plot", "optimizer_rules", "expectation", "initializers"),
)
RANK = {room: rank for rank, rooms in enumerate(ORDER) for room in rooms}
MODULES = {"mup", *ORDER[-1]}      # single files; all other rooms are packages
EVERYWHERE = sys.stdlib_module_names | {"haiku", "jax", "jaxlib", "numpy", "optax", "scipy"}
ONLY = {"rules": sys.stdlib_module_names}                   # arithmetic: no JAX, no arrays
OPTIONAL = {                                                # the rooms that may use an optional package
    "cloudpickle": {"sweep"}, "distributed": {"sweep"}, "loky": {"sweep"}, "safetensors": {"models"},
    "equinox": {"frameworks"}, "flax": {"frameworks"},
    "tqdm": {"coordinates", "sweep"}, "matplotlib": {"coordinates", "plot", "sweep"},
}


class Import(NamedTuple):
    """One imported name: "haiku_mup.rules.tables", or "haiku_mup.rules.tables.standard"."""

    line: int
    target: str


class Module(NamedTuple):
    """A source file of the package."""

    name: str           # "haiku_mup.rules.tables"; of a package, its folder's
    path: str           # as it is printed
    imports: list[Import]

    @property
    def room(self) -> str:
        _, _, inner = self.name.partition(".")
        return inner.partition(".")[0] or "__init__"


def read(folder: pathlib.Path) -> dict[str, Module]:
    """Returns {name: module} of every source file below the package's folder."""
    modules = {}
    for path in sorted(folder.rglob("*.py")):
        parts = path.relative_to(folder.parent).with_suffix("").parts
        is_package = parts[-1] == "__init__"
        name = ".".join(parts[:-1] if is_package else parts)
        around = name if is_package else name.rpartition(".")[0]
        tree = ast.parse(path.read_text(encoding="utf-8"), str(path))
        modules[name] = Module(name, path.relative_to(folder.parent).as_posix(), list(imports(tree, around)))
    return modules


def imports(tree: ast.AST, package: str) -> Iterator[Import]:
    """Yields every import in the tree of a module that lies in `package`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (Import(node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = importlib.util.resolve_name("." * node.level + (node.module or ""), package)
            yield from (Import(node.lineno, f"{base}.{alias.name}") for alias in node.names)
        elif (isinstance(node, ast.Call) and ast.unparse(node.func).endswith("import_module") and node.args
              and isinstance(node.args[0], ast.Constant)):
            yield Import(node.lineno, importlib.util.resolve_name(node.args[0].value, package))


def violations(folder: pathlib.Path) -> list[str]:
    """Returns a line for each module and import of the package that is not as the rooms say."""
    package, modules = folder.name, read(folder)
    found = [*wrong_places(package, modules)]
    for module in modules.values():
        wrong = {}                      # {(line, why): the first of the names that the line imports}
        for line, target in module.imports:
            top, _, inner = target.partition(".")
            inside = top == package
            why = direction(module, inner.partition(".")[0], modules) if inside else other_package(module, top)
            if why:
                wrong.setdefault((line, why), target)
        found += [f"{module.path}:{line}: imports {target}; {why}" for (line, why), target in wrong.items()]
    return found + [*circles(modules)]


def wrong_places(package: str, modules: dict[str, Module]) -> Iterator[str]:
    """Yields the modules at the top that aren't meant to be there, and folders that are no room."""
    rooms = [room for room in RANK if room not in MODULES]
    at_top = [module for module in modules.values() if module.path.count("/") == 1]
    for module in at_top:
        if module.room not in MODULES:
            yield f"{module.path}: a module at the top of {package}; move it to a room: {', '.join(rooms)}"
    for room in {module.room: module for module in modules.values() if module not in at_top}:
        if room not in rooms:
            yield f"{package}/{room}: a folder that is no room; move its modules to a room: {', '.join(rooms)}"


def direction(module: Module, name: str, modules: dict[str, Module]) -> str:
    """Returns what is wrong with an import of `name` from the package's top, "" if nothing is."""
    package = module.name.partition(".")[0]
    room = name if name in RANK or f"{package}.{name}" in modules else "__init__"
    if room == module.room or not {room, module.room} <= RANK.keys() or RANK[room] < RANK[module.room]:
        return ""
    if room == "__init__":
        return f"import it from the module that defines it, not from {package} itself"
    before = [other for other in RANK if RANK[other] < RANK[module.room]]
    how = "is beside" if RANK[room] == RANK[module.room] else "comes after"
    return (f"{room} {how} {module.room}, which may import {', '.join(before) or 'nothing of the package'}; "
            f"move what both need to one of these, or pass it as an argument")


def other_package(module: Module, top: str) -> str:
    """Returns what is wrong with an import of another package, "" if nothing is."""
    if module.room in ONLY and top not in ONLY[module.room]:
        return f"{module.room} imports the standard library alone; move this code to parameters or a later room"
    if top in EVERYWHERE or module.room in OPTIONAL.get(top, ()):
        return ""
    if top in OPTIONAL:
        return f"only {' and '.join(sorted(OPTIONAL[top]))} may import {top}"
    return (f"the library needs no {top}; if it is to, add it to setup.py and to OPTIONAL of "
            f"tests/package/check_imports.py")


def circles(modules: dict[str, Module]) -> Iterator[str]:
    """Yields a circle of imports for each group of modules of one room that import each other."""
    edges = {name: neighbours(module, modules) for name, module in modules.items()}
    paths = {name: shortest_paths(edges, name) for name in edges}
    reported: set[str] = set()
    for name, found in paths.items():
        if name in found and name not in reported:
            reported.update(other for other in found if name in paths[other])
            steps = [f"{modules[a].path}:{edges[a][b]} imports {b}" for a, b in itertools.pairwise(found[name])]
            yield f"circle: {', '.join(steps)}; move what they share to a module of its own"


def neighbours(module: Module, modules: dict[str, Module]) -> dict[str, int]:
    """Returns {name: line} of the modules of its own room that a module imports."""
    found: dict[str, int] = {}
    for line, target in module.imports:
        name = target if target in modules else target.rpartition(".")[0]
        if name in modules and modules[name].room == module.room:
            found.setdefault(name, line)
    return found


def shortest_paths(edges: dict[str, dict[str, int]], start: str) -> dict[str, list[str]]:
    """Returns {name: [start, ..., name]} of all that `start` reaches over one edge or more."""
    found: dict[str, list[str]] = {}
    queue = collections.deque([[start]])
    while queue:
        path = queue.popleft()
        for name in edges[path[-1]]:
            if name not in found:
                found[name] = [*path, name]
                queue.append(found[name])
    return found


def main(arguments: list[str]) -> int:
    """Prints the violations; returns 1 if there are any."""
    folder = pathlib.Path(arguments[0] if arguments else pathlib.Path(__file__).parents[2] / "haiku_mup")
    found = violations(folder.resolve())
    print(*found, sep="\n", end="\n" if found else "")
    return int(bool(found))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
