"""A census: each message that names a remedy has a test that follows it, or a reason why none does.

`remedies.txt` has, for each module, the first words of each message, and below them a test, as pytest names it.
"argument: " before it says that the message names the values that an argument takes, and that the test gives
one. "not followed: " says why nothing follows it. Whoever rewords a message, or adds one, runs
`python -m pytest tests/package/test_remedies.py -m ""`.
"""
import ast
import pathlib

import pytest
from messages import messages, texts

ROOT = pathlib.Path(__file__).parents[2]
TABLE = ROOT / "tests/package/remedies.txt"


def entries():
    """Returns {module: {first words of a message: test or reason}}."""
    found, module, words = {}, None, None
    for line in TABLE.read_text(encoding="utf-8").splitlines():
        if line.startswith("["):
            module = found.setdefault(line[1:-1], {})
        elif line.startswith("    "):
            assert words not in module, f"{words!r} stands twice"
            module[words] = line.strip()
        elif line:
            words = line
    return found


@pytest.fixture(scope="module")
def table():
    return entries()


def one_line(text):
    return " ".join(text.split())


def entries_of(message, table):
    """Returns the entries of the table that a message has."""
    return [words for words in table.get(message.module, {}) if one_line(message.text).startswith(words)]


@pytest.mark.slow
def test_each_message_with_a_remedy_has_an_entry(table):
    missing = [message for message in messages() if len(entries_of(message, table)) != 1]
    assert not missing, "write a test that follows it, and name it in tests/package/remedies.txt"


@pytest.mark.slow
def test_each_entry_has_a_message(table):
    known = {(message.module, words) for message in messages() for words in entries_of(message, table)}
    assert {(module, words) for module, of in table.items() for words in of} == known


def functions(file):
    """Returns the names of a file's test functions."""
    return {node.name for node in ast.parse(file.read_text(encoding="utf-8")).body
            if isinstance(node, ast.FunctionDef)}


@pytest.mark.slow
def test_each_test_exists_and_each_reason_is_one(table):
    for test in {entry.removeprefix("argument: ") for of in table.values() for entry in of.values()}:
        if test.startswith("not followed: "):
            assert len(test.split()) > 5, test
            continue
        path, name = test.split("::")
        assert name in functions(ROOT / path), test


def test_a_new_message_is_seen(table):
    source = 'def f(x):\n    raise MupError(f"{x}: no such width; give the base another one")\n'
    (text,) = texts(source)
    (message, *_) = messages()
    assert text == "…: no such width; give the base another one"
    assert entries_of(message._replace(text=text), table) == []
    assert len(messages()) > 200
