"""The command line: runs the entries of packages, each in its environment, and prints what they find."""
import argparse
import json
import pathlib
import pkgutil
import tempfile
from collections.abc import Sequence
from typing import Any

import benchmarks.zoo
import benchmarks.zoo.packages
from benchmarks.zoo.environment import Environment
from benchmarks.zoo.network import Package, package
from benchmarks.zoo.report import as_rst, as_text, is_right


def names() -> list[str]:
    """Returns the names of the modules of all packages of the zoo."""
    return sorted(module.name for module in pkgutil.iter_modules(benchmarks.zoo.packages.__path__))


def run(name: str, *options: str) -> list[dict[str, Any]]:
    """Returns the records of the networks of a package, or one that says what its environment lacks."""
    with Environment() as environment, tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder, "records.json")
        try:
            environment.install(package(name))
            environment.run("-m", "benchmarks.zoo.entry", name, str(path), *options)
        except RuntimeError as error:
            return [{"network": name, "trouble": str(error)}]
        return list(json.loads(path.read_text(encoding="utf-8")))


def _kept(name: str, folder: pathlib.Path, options: Sequence[str]) -> list[dict[str, Any]]:
    """Returns the records of a package from a folder; runs it first if they aren't there, or had trouble."""
    path = folder / f"{name}.json"
    records = list(json.loads(path.read_text(encoding="utf-8"))) if path.exists() else []
    if not records or any("trouble" in record for record in records):
        records = run(name, *options)
        folder.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(records), encoding="utf-8")
    return records


def main(argv: Sequence[str] | None = None) -> int:
    """Prints a report of each network; returns 1 if a factor, or a check, isn't what it should be."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.zoo",
                                     description=benchmarks.zoo.__doc__.partition("\n")[0])
    parser.add_argument("packages", nargs="*", metavar="PACKAGE", help=", ".join(names()), default=names())
    parser.add_argument("--no-check", action="store_true", help="capture alone, without the coordinate check")
    parser.add_argument("--keep", type=pathlib.Path, metavar="FOLDER",
                        help="keep what each package gives, and don't run again what is there")
    parser.add_argument("--rst", type=pathlib.Path, metavar="FILE", help="write the table of the guide")
    args = parser.parse_args(argv)
    if unknown := set(args.packages) - set(names()):
        parser.error(f"no {', '.join(sorted(unknown))}; there are {', '.join(names())}")
    options = ["--no-check"] * args.no_check
    found: list[tuple[Package, dict[str, Any]]] = []
    for name in args.packages:
        for record in _kept(name, args.keep, options) if args.keep else run(name, *options):
            found.append((package(name), record))
            print(as_text(*found[-1]), flush=True)
    if args.rst:
        args.rst.write_text(as_rst(found), encoding="utf-8")
    return int(not all(is_right(record) for _, record in found))
