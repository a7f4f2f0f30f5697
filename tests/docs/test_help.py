"""docs/help/errors.rst: the words that it quotes are the library's, and its anchors are one for each."""
import ast
import pathlib
import re

import pytest

ROOT = pathlib.Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "help" / "errors.rst").read_text(encoding="utf-8")
ENTRY = re.compile(r"^\.\. _((?:error|warning)-[a-z0-9-]+):\n\n.+?\n~+\n\n"
                   r"\*(\w+)\*: “… (.*?) …”\n\n(.*?)(?=^\.\. _|\Z)", re.MULTILINE | re.DOTALL)


def words(node):
    """Returns the text of a string, with … for what is put into it."""
    match node:
        case ast.Constant(value=str(text)):
            return text
        case ast.JoinedStr(values=parts):
            return "".join(words(part) for part in parts)
        case ast.BinOp(left=left, right=right):
            return words(left) + words(right)
    return "…"


@pytest.fixture(scope="module")
def strings():
    """Returns all strings of the library, whitespace as one blank."""
    files = (ROOT / "haiku_mup").rglob("*.py")
    if not (ROOT / "haiku_mup").is_dir():
        pytest.skip("the library's sources are not here, but installed")
    nodes = (node for file in files for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))))
    return "\n".join(" ".join(words(node).split()) for node in nodes
                     if isinstance(node, (ast.Constant, ast.JoinedStr, ast.BinOp)))


def entries():
    """Returns (anchor, kind, words, what is said of it) of each entry."""
    return [(anchor, kind, " ".join(quoted.split()), said)
            for anchor, kind, quoted, said in ENTRY.findall(PAGE)]


def test_each_entry_quotes_words_of_the_library(strings):
    assert len(entries()) == PAGE.count("\n~~~") > 50
    assert [quoted for _, _, quoted, _ in entries() if quoted not in strings] == []


def test_words_that_nothing_says_are_noticed(strings):
    assert "a layer from a growing to a fixed size" not in strings


def test_each_entry_has_an_anchor_of_its_kind_and_a_remedy():
    anchors = [anchor for anchor, *_ in entries()]
    assert len(set(anchors)) == len(anchors)
    assert all(anchor.startswith(kind.lower() + "-") and "**Do:** " in said
               for anchor, kind, _, said in entries())
