"""Checks the first words of docstrings: `check_docstrings.py [--count] [FOLDER ...]`.

- Those of functions, methods and properties start with a verb in the third person: "Returns".
- Those of modules and classes start with a verb or a noun phrase: "Atomic files.", not "What is there whole".
- Every public function and class of haiku_mup has one.
- That of a package inside haiku_mup names each of its modules in a list ("- slopes, result: …"), and no other.

Prints a line for each violation and exits with 1 if there is one; --count prints how many each room has.
FOLDERs are haiku_mup, demos and benchmarks by default.
"""
import argparse
import ast
import collections
import pathlib
import re
import sys
from collections.abc import Iterator
from typing import NamedTuple

ROOT = pathlib.Path(__file__).parents[2]
FOLDERS = ("haiku_mup", "demos", "benchmarks")
DOCUMENTED = ("haiku_mup",)         # folders whose public functions and classes need a docstring
# A verb in the third person has this form. Other words that have it are listed, or stand before "of".
VERB = re.compile(r"[A-Z][a-z-]*[a-hj-rtv-z]s")         # not "Loss", "Bias", "Axis", "Plus"
NO_VERBS = frozenset("""
    Across Always As Besides Has Its Perhaps Towards Was Yes
    Activations Arguments Arrays Axes Biases Bytes Cells Channels Classes Columns Constants Contexts
    Coordinates Curves Dicts Digits Dimensions Embeddings Entries Errors Exponents Fans Features Figures
    Files Functions Globs Gradients Heads Hyperparameters Images Indices Initializers Inputs Items Jobs
    Keys Kinds Layers Lines Logits Losses Messages Models Modules Multipliers Numbers Octaves Optima
    Optimizers Options Outputs Pages Parameters Paths Pieces Predictions Probabilities Programs Properties
    Queries Rates Ratios Readouts Results Roles Rooms Rows Rules Scalars Seconds Settings Slopes
    Statistics Stds Strings Tables Tensors Texts Things Tokens Trees Trials Tuples Types Values Vectors
    Warnings Widths Words Workers
    """.split())
AFTER_A_NOUN = frozenset("are of were whose".split())
# No noun phrase starts with one of these.
NO_NOUNS = frozenset("""
    Are At By For From Had Has Have How If In Is It Of On That There These They Those To Was Were What
    Whatever When Where Whether Which While Who Whom Whose Why With Without
    """.split())
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)


LISTED = re.compile(r"- ([a-z0-9_]+(?:, [a-z0-9_]+)*):")      # modules, in the docstring of a package


class Violation(NamedTuple):
    """A docstring that starts with a wrong word, or that is missing."""

    path: str
    line: int
    text: str

    @property
    def room(self) -> str:
        """Returns the first two folders of the path."""
        return "/".join(self.path.split("/")[:2])

    def __str__(self) -> str:
        """Returns the violation as a linter prints it."""
        return f"{self.path}:{self.line}: {self.text}"


def violations(folder: pathlib.Path) -> Iterator[Violation]:
    """Yields what is wrong with the docstrings of the source files below a folder."""
    for path in sorted(folder.rglob("*.py")):
        shown = path.relative_to(folder.parent).as_posix()
        tree = ast.parse(path.read_text(encoding="utf-8"), str(path))
        yield from (Violation(shown, line, text) for line, text in first_words(tree))
        if folder.name in DOCUMENTED:
            yield from (Violation(shown, line, text) for line, text in missing(tree))
            if path.name == "__init__.py" and path.parent != folder:
                yield from (Violation(shown, 1, text) for text in wrong_list(path.parent, tree))


def first_words(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Yields (line, text) for every docstring that starts with a wrong word."""
    for node in ast.walk(tree):
        docstring = isinstance(node, (ast.Module, ast.ClassDef, *FUNCTIONS)) and ast.get_docstring(node)
        if not docstring:
            continue
        line, name = getattr(node, "lineno", 1), getattr(node, "name", "the module")
        first, second, *_ = [*docstring.split(), "", ""]
        word, found = first.rstrip(",;:."), f"{name}: starts with {first!r}; start with"
        if isinstance(node, FUNCTIONS) and not is_verb(word, second):
            yield line, f"{found} a verb in the third person, such as 'Returns'"
        elif word in NO_NOUNS:
            yield line, f"{found} a verb, or a noun that names the thing"


def is_verb(word: str, following: str) -> bool:
    """Returns True where a word has the form of a verb in the third person, and is not known to be a noun."""
    return bool(VERB.fullmatch(word)) and word not in NO_VERBS and following not in AFTER_A_NOUN


def missing(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Yields (line, text) for each public function or class of a module that has no docstring."""
    for node in tree.body:
        if isinstance(node, (ast.ClassDef, *FUNCTIONS)) and not node.name.startswith("_") \
                and not ast.get_docstring(node):
            yield node.lineno, f"{node.name}: no docstring"


def wrong_list(package: pathlib.Path, tree: ast.Module) -> Iterator[str]:
    """Yields a text for each module that the docstring of a package does not list, lists twice, or invents."""
    lines = (ast.get_docstring(tree) or "").splitlines()
    listed = [name for line in lines if (found := LISTED.match(line)) for name in found[1].split(", ")]
    modules = {path.stem for path in package.glob("*.py") if path.name != "__init__.py"}
    modules |= {path.parent.name for path in package.glob("*/__init__.py")}
    for name in sorted(modules - set(listed)):
        yield f"the package: does not say what {name} is for; add a line '- {name}: …' to the docstring"
    for name in sorted(set(listed) - modules):
        yield f"the package: lists {name}, which is no module of it; take it out of the docstring"
    for name in sorted({name for name in listed if listed.count(name) > 1}):
        yield f"the package: lists {name} twice; leave one of the two"


def main(arguments: list[str]) -> int:
    """Prints the violations, or their numbers; returns 1 if there are any."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", action="store_true", help="print how many each room has")
    parser.add_argument("folders", nargs="*", type=pathlib.Path, default=[ROOT / name for name in FOLDERS])
    args = parser.parse_args(arguments)
    found = [violation for folder in args.folders for violation in violations(folder.resolve())]
    if args.count:
        counts = collections.Counter(violation.room for violation in found)
        for room, count in [*sorted(counts.items()), ("in all", len(found))]:
            print(f"{count:4} {room}")
    else:
        for violation in found:
            print(violation)
    return int(bool(found))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
