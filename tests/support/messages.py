"""Finds the messages of the package that name a remedy, in its source."""
import ast
import pathlib
import re
from collections.abc import Iterator
from typing import NamedTuple

PACKAGE = pathlib.Path(__file__).parents[2] / "haiku_mup"
# Words with which a message says what to do.
_REMEDY = re.compile(
    r"\b(give|take|make|use|put|call|name|declare|wrap|capture|build|save|pass|tune|draw|set|lower|rename|load|"
    r"leave|multiply|initialise|generate|return|write|remove|rebuild|compute|install|upgrade|add|apply|let|read|"
    r"start|cut|download|pip|keep|say|show|scale|unregister|try|must be|is needed|belongs)\b", re.IGNORECASE)
UNCOUNTED = ("errors/help_anchors.py",)                    # words of other modules' messages
_SHORTEST = 30      # characters: what is shorter is a part of a message, or a name


class Message(NamedTuple):
    """A text in the source; a value that is put into it is "…".

    Attributes:
      module: the module's path in the package.
      text: the text.
    """

    module: str
    text: str


def messages() -> list[Message]:
    """Returns the texts in the package that name a remedy."""
    return [Message(str(path.relative_to(PACKAGE)), text) for path in sorted(PACKAGE.rglob("*.py"))
            if not str(path.relative_to(PACKAGE)).startswith(UNCOUNTED)
            for text in texts(path.read_text(encoding="utf-8"))]


def texts(source: str) -> Iterator[str]:
    """Yields the texts in a program that name a remedy, without docstrings.

    >>> source = 'def f(x):\\n    "Gives it."\\n    raise ValueError(f"{x!r} is no number at all; give one")'
    >>> list(texts(source))
    ['… is no number at all; give one']
    """
    tree = ast.parse(source)
    parents = {child: node for node in ast.walk(tree) for child in ast.iter_child_nodes(node)}
    for node in ast.walk(tree):
        if isinstance(parents.get(node), (ast.Expr, ast.JoinedStr, ast.FormattedValue)):
            continue            # a docstring, or a part of another text
        text = _text(node)
        if text and len(text) >= _SHORTEST and " " in text and _REMEDY.search(text):
            yield text


def _text(node: ast.AST) -> str | None:
    if isinstance(node, ast.JoinedStr):
        return "".join(str(x.value) if isinstance(x, ast.Constant) else "…" for x in node.values)
    return node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else None
