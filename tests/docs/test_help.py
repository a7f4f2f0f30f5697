"""docs/help/errors.rst: the words that it quotes are the library's, and its anchors are one for each."""
import ast
import pathlib
import pickle
import re

import pytest

import haiku_mup
from haiku_mup.errors.help_anchors import OTHER_ERROR, OTHER_WARNING, PHRASES

URL = "docs/help/errors.rst"
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


def docstrings(tree):
    """Returns the nodes of the docstrings of a module, which nobody sees on a screen."""
    return {node.body[0].value for node in ast.walk(tree)
            if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef))
            and isinstance(node.body[0], ast.Expr)}


@pytest.fixture(scope="module")
def strings():
    """Returns the library's strings without docstrings and the anchors' own, whitespace as one blank."""
    files = set((ROOT / "haiku_mup").rglob("*.py")) - {ROOT / "haiku_mup" / "errors" / "help_anchors.py"}
    if not (ROOT / "haiku_mup").is_dir():
        pytest.skip("the library's sources are not here, but installed")
    trees = [ast.parse(file.read_text(encoding="utf-8")) for file in files]
    nodes = (node for tree in trees for node in set(ast.walk(tree)) - docstrings(tree))
    return "\n".join(" ".join(words(node).split()) for node in nodes
                     if isinstance(node, (ast.Constant, ast.JoinedStr, ast.BinOp)))


def entries():
    """Returns (anchor, kind, words, what is said of it) of each entry."""
    return [(anchor, kind, " ".join(quoted.split()), said)
            for anchor, kind, quoted, said in ENTRY.findall(PAGE)]


def test_each_entry_quotes_words_of_the_library(strings):
    assert len(entries()) == PAGE.count("\n~~~") - 2 > 50
    assert [quoted for _, _, quoted, _ in entries() if quoted not in strings] == []


def test_words_that_nothing_says_are_noticed(strings):
    assert "a layer from a growing to a fixed size" not in strings


def test_each_entry_has_an_anchor_of_its_kind_and_a_remedy():
    anchors = [anchor for anchor, *_ in entries()]
    assert len(set(anchors)) == len(anchors)
    assert all(anchor.startswith(kind.lower() + "-") and "**Do:** " in said
               for anchor, kind, _, said in entries())


def test_the_page_has_the_anchors_that_messages_name_with_their_words():
    assert {anchor: quoted for anchor, _, quoted, _ in entries()} == PHRASES
    assert all(f".. _{anchor}:\n" in PAGE for anchor in (*PHRASES, OTHER_ERROR, OTHER_WARNING))


@pytest.mark.parametrize("anchor", [*PHRASES, OTHER_ERROR, OTHER_WARNING])
def test_a_message_names_the_entry_that_quotes_it(anchor):
    text = f"'a/w': {PHRASES.get(anchor, 'anything else')}; see here"
    kind = "other" if anchor in (OTHER_ERROR, OTHER_WARNING) else anchor.partition("-")[2]
    error, warning = haiku_mup.MupError(text), haiku_mup.MupWarning(text)
    error.add_note("of the model")
    assert (str(error), error.__notes__[0], len(error.__notes__)) == (text, "of the model", 2)
    assert error.__notes__[1] in (f"help: {URL}#error-{kind}", f"help: {URL}#warning-{kind}")
    assert str(warning) in (f"{text} (help: {URL}#{each}-{kind})" for each in ("error", "warning"))


def test_errors_that_are_joined_pickled_or_named_after_a_file_name_the_entry_once():
    errors = [haiku_mup.MupError.about(name, (8, 1), (16, 1), PHRASES["error-rank"]) for name in "ab"]
    for error in (errors[0], haiku_mup.MupError.of_all(errors), errors[0].with_source("base.json"),
                  pickle.loads(pickle.dumps(errors[0]))):
        assert error.__notes__ == [f"help: {URL}#error-rank"]
