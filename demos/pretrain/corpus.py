"""Text as the numbers that a language model reads: the batch of each step, and places to guess in it."""
import pathlib
import zlib
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from demos.common import texts
from haiku_mup.models.loss import IGNORE_INDEX

PAD, MASK, SPECIAL = 0, 1, 2        # ids that stand before the text's own, where masked places are guessed
MASKED, SHOWN, WRONG = 0.15, 0.1, 0.1       # of the places; of those, what is left as it is, and any other id
VALID = 8                           # batches to validate on


class Corpus(NamedTuple):
    """A text in ids, and what they stand for.

    Attributes:
      train: ids in the order of the text [train].
      valid: [valid].
      special: how many ids there are before those of the text's words or bytes.
      size: how many ids there are.
      words: what the ids from `special` on stand for; None where they are bytes.
      source: what text it is.
    """

    train: np.ndarray
    valid: np.ndarray
    special: int
    size: int
    words: tuple[str, ...] | None
    source: str

    @property
    def sizes(self) -> dict[str, int]:
        return {"train": len(self.train), "valid": len(self.valid), "ids": self.size}

    @property
    def checksum(self) -> int:
        """Of all ids: whether it is the same text."""
        return zlib.crc32(self.valid.tobytes(), zlib.crc32(self.train.tobytes()))

    def text(self, ids: np.ndarray) -> str:
        """What ids stand for. There are none in front of the text's own."""
        own = [int(i) - self.special for i in ids]
        if self.words is None:
            return bytes(own).decode("utf-8", "replace")
        return " ".join(self.words[i] for i in own).replace(f" {texts.END} ", "\n")


def corpus(file: pathlib.Path | None, level: str, masked: bool) -> Corpus:
    """The file's text, or that of `texts.text`, in bytes or in words.

    Args:
      file: a text in UTF-8.
      level: "byte" or "word".
      masked: whether there are ids for padding and masks, too.

    Raises:
      OSError: the file can't be read.
      ValueError: it isn't UTF-8, or too short.

    >>> found = corpus(None, "byte", masked=False)
    >>> found.size, found.text(found.train[:27])
    (256, 'In the beginning God create')
    """
    special = SPECIAL * masked
    if level == "word":
        text = texts.text(file)
        return Corpus(text.train + special, text.valid + special, special, len(text.words) + special,
                      text.words, text.source)
    lines, source = texts.lines(file)
    parts = texts.split([f"{line}\n".encode() for line in lines], source)
    train, valid = (np.array(part, np.int32) + special for part in parts)
    return Corpus(train, valid, special, 256 + special, None, source)


class Batches(NamedTuple):
    """What a model is shown, and what it should say: ids and labels [rows, length].

    Attributes:
      corpus: the text.
      rows: of a batch.
      length: ids of a row.
      masked: whether it has to guess what is hidden; else, what comes next.
      seed: of what is drawn.
    """

    corpus: Corpus
    rows: int
    length: int
    masked: bool
    seed: int

    def check(self) -> None:
        """Raises where the text is too short for a batch to train or to validate."""
        need = self.rows * self.length + 1
        if min(len(self.corpus.train), len(self.corpus.valid)) < need:
            raise ValueError(f"{self.corpus.source}: {len(self.corpus.valid):,} ids to validate, and a batch "
                             f"takes {need:,}: give a longer text, or a smaller --batch or --length")

    def train(self, step: int) -> tuple[np.ndarray, np.ndarray]:
        """The batch of a step: its number is all that it depends on."""
        rng = np.random.default_rng([self.seed, step])
        starts = rng.integers(len(self.corpus.train) - self.length, size=self.rows)
        return self._examples(self.corpus.train, starts, rng)

    def valid(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """The same batches from the start of the held-out part, whatever the seed."""
        size = self.rows * self.length
        for i in range(min(VALID, (len(self.corpus.valid) - 1) // size)):
            starts = i * size + self.length * np.arange(self.rows)
            yield self._examples(self.corpus.valid, starts, np.random.default_rng(i))

    def _examples(self, ids: np.ndarray, starts: np.ndarray,
                  rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        window = ids[starts[:, None] + np.arange(self.length + 1)]
        if not self.masked:
            return window[:, :-1], window[:, 1:]
        return hidden(window[:, :-1], self.corpus.size, rng)


def hidden(ids: np.ndarray, size: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Ids [rows, length] with 15% of each row to be guessed, and what these places were (others: IGNORE_INDEX).

    Of the places that are to be guessed 80% show a mask, 10% any id, and 10% what was there. (Devlin et al.,
    arXiv 1810.04805, section 3.1; drawn anew for every step: Liu et al., arXiv 1907.11692, section 4.1.)

    >>> ids = np.full((2, 20), 7)
    >>> shown, labels = hidden(ids, 10, np.random.default_rng(0))
    >>> (labels == 7).sum(1), bool((shown == ids)[labels != 7].all())
    (array([3, 3]), True)
    """
    count = max(1, round(MASKED * ids.shape[1]))
    places = np.argsort(rng.random(ids.shape), axis=1)[:, :count]
    guess = np.zeros(ids.shape, bool)
    np.put_along_axis(guess, places, True, axis=1)
    fate, any_id = rng.random(ids.shape), rng.integers(SPECIAL, size, ids.shape)
    shown = np.where(fate < SHOWN, ids, np.where(fate < SHOWN + WRONG, any_id, MASK))
    return np.where(guess, shown, ids).astype(ids.dtype), np.where(guess, ids, IGNORE_INDEX).astype(ids.dtype)
