"""The rows of the table, what each library measures for them, and the table itself."""
import argparse
import importlib
import textwrap
import warnings
from typing import NamedTuple

import benchmarks.peers

ROWS = {
    "init": "hidden std / wanted, m 8 to 2: fan-in, constant, fan-out initializer",
    "adam": "Adam's factor of a hidden weight, m 7 to 3; wanted 0.143",
    "transposed": "… of a transposed convolution",
    "adamw": "AdamW's decay of a hidden weight, m 7 to 7; wanted 1.000",
    "tied": "tied embeddings: multiplier of logits, m 7; wanted 0.143",
    "nested": "… inside a module",
    "output": "plain output layer",
    "conv_output": "plain convolution as output layer",
    "stacked": "Adam's factor in stacked layers, m 7 to 7; wanted 0.143",
    "traced": "… where the init was traced before",
    "file": "… where the base was kept in a file",
}


class Library(NamedTuple):
    """A library to measure.

    Attributes:
      name: of its column.
      module: the module here that measures it; its `measures` returns {row: function of nothing}.
      arguments: of `measures`; None for a folder that was not given.
      install: what to do if it is missing.
    """

    name: str
    module: str
    arguments: tuple
    install: str


def libraries(old, flax_mup):
    """Returns the libraries; `old` and `flax_mup` are the folders of two of them, or None."""
    return [
        Library("haiku_mup", "haiku_mups", (), "pip install ."),
        Library("haiku-mup 0.1.5", "haiku_mups", (old,), "pip install --target FOLDER, and --old FOLDER"),
        Library("microsoft/mup", "microsoft_mup", (), "pip install mup torch"),
        Library("flax-mup", "flax_mup", (flax_mup,), "pip install flax optax chex, and --flax-mup FOLDER"),
    ]


def cells(measures):
    """Returns the cell of each row: the measured value, or the error or warning that came instead."""
    found = {}
    for row in ROWS:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("error", UserWarning)
                found[row] = format_cell(measures.get(row, lambda: "–")())
        except Exception as error:      # whatever it raises is what it does
            text = f"{type(error).__name__}: {error}".replace("|", "/")
            found[row] = textwrap.shorten(text, 80, placeholder=" …")
    return found


def format_cell(value):
    """Formats a number, a list of numbers, or words."""
    if isinstance(value, list):
        return ", ".join(f"{number:.1f}" for number in value)
    return value if isinstance(value, str) else f"{value:.3f}"


def main(argv=None):
    """Prints the table of the libraries that are installed."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.peers",
                                     description=benchmarks.peers.__doc__.partition("\n")[0])
    parser.add_argument("--old", metavar="FOLDER", help="where haiku-mup 0.1.5 was installed")
    parser.add_argument("--flax-mup", metavar="FOLDER", help="where flax-mup was cloned")
    args = parser.parse_args(argv)
    table = {}
    for library in libraries(args.old, args.flax_mup):
        try:
            if None in library.arguments:
                raise ImportError("no folder")
            module = importlib.import_module(f"benchmarks.peers.{library.module}")
            table[library.name] = cells(module.measures(*library.arguments))
        except (ImportError, FileNotFoundError) as error:
            print(f"{library.name} is skipped ({error}): {library.install}")
    print("\n| |" + "".join(f" {name} |" for name in table) + "\n| --- |" + " --- |" * len(table))
    for row, title in ROWS.items():
        print(f"| {title} |" + "".join(f" {found[row]} |" for found in table.values()))
