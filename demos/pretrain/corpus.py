"""Text as ids, the batch of each step, and the masks of BERT and RoBERTa."""
import pathlib
import zlib
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from demos.common import words
from haiku_mup.models.loss import IGNORE_INDEX

PAD_ID, MASK_ID, SPECIAL_IDS = 0, 1, 2      # before the text's own ids, for models that predict masked tokens
MASKED = 0.15               # of the tokens are to be predicted;
KEPT, RANDOM = 0.1, 0.1     # of these, the input shows some unchanged, some as a random token, the rest masked
VALID_BATCHES = 8


class Corpus(NamedTuple):
    """A text in ids, of bytes or of words.

    Attributes:
      train: ids in the order of the text [train].
      valid: [valid].
      special: number of special ids, which come before those of the text.
      size: number of ids.
      words: of the ids from `special` on; None if these are bytes.
      source: which text it is.
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
        """Returns a checksum of all ids."""
        return zlib.crc32(self.valid.tobytes(), zlib.crc32(self.train.tobytes()))

    def decode(self, ids: np.ndarray) -> str:
        """Returns the text of ids, none of them special."""
        numbers = [int(i) - self.special for i in ids]
        if self.words is None:
            return bytes(numbers).decode("utf-8", "replace")
        return " ".join(self.words[i] for i in numbers).replace(f" {words.END_OF_LINE} ", "\n")


def load_corpus(file: pathlib.Path | None, level: str, masked: bool) -> Corpus:
    """Loads a file's text, or an installed one (see `words.load_words`), as bytes or as words.

    Args:
      file: a text in UTF-8.
      level: "byte" or "word".
      masked: whether to reserve ids for padding and masks.

    Raises:
      OSError: the file can't be read.
      ValueError: it isn't UTF-8, or too short.

    >>> corpus = load_corpus(None, "byte", masked=False)
    >>> corpus.size, corpus.decode(corpus.train[:27])
    (256, 'In the beginning God create')
    """
    special = SPECIAL_IDS * masked
    if level == "word":
        text = words.load_words(file)
        return Corpus(text.train + special, text.valid + special, special, len(text.words) + special,
                      text.words, text.source)
    lines, source = words.load_lines(file)
    parts = words.split([f"{line}\n".encode() for line in lines], source)
    train, valid = (np.array(part, np.int32) + special for part in parts)
    return Corpus(train, valid, special, 256 + special, None, source)


class Batches(NamedTuple):
    """The inputs and labels of each step: ids [rows, length].

    Attributes:
      corpus: the text.
      rows: of a batch.
      length: ids of a row.
      masked: whether the labels are masked tokens; else, the next ones.
      seed: of what is drawn.
    """

    corpus: Corpus
    rows: int
    length: int
    masked: bool
    seed: int

    def check(self) -> None:
        """Raises ValueError if the text is too short for a batch to train or to validate."""
        need = self.rows * self.length + 1
        if min(len(self.corpus.train), len(self.corpus.valid)) < need:
            raise ValueError(f"{self.corpus.source}: {len(self.corpus.valid):,} ids to validate, and a batch "
                             f"takes {need:,}: give a longer text, or a smaller --batch or --length")

    def train(self, step: int) -> tuple[np.ndarray, np.ndarray]:
        """Returns the batch of a step; it depends on the number alone, so that a run can continue anywhere."""
        rng = np.random.default_rng([self.seed, step])
        starts = rng.integers(len(self.corpus.train) - self.length, size=self.rows)
        return self._examples(self.corpus.train, starts, rng)

    def valid(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yields batches from the start of the validation part; they are the same for every seed."""
        size = self.rows * self.length
        for i in range(min(VALID_BATCHES, (len(self.corpus.valid) - 1) // size)):
            starts = i * size + self.length * np.arange(self.rows)
            yield self._examples(self.corpus.valid, starts, np.random.default_rng(i))

    def _examples(self, ids: np.ndarray, starts: np.ndarray,
                  rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        windows = ids[starts[:, None] + np.arange(self.length + 1)]
        if not self.masked:
            return windows[:, :-1], windows[:, 1:]
        return mask_tokens(windows[:, :-1], self.corpus.size, rng)


def mask_tokens(ids: np.ndarray, size: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Masks 15% of each row of ids [rows, length]; returns inputs, and labels (IGNORE_INDEX for the rest).

    Of the 15%, inputs show 80% as masks, 10% as random tokens, and 10% unchanged. (Devlin et al., arXiv
    1810.04805, section 3.1; drawn anew for every step: Liu et al., arXiv 1907.11692, section 4.1.)

    >>> ids = np.full((2, 20), 7)
    >>> inputs, labels = mask_tokens(ids, 10, np.random.default_rng(0))
    >>> (labels == 7).sum(1), bool((inputs == ids)[labels != 7].all())
    (array([3, 3]), True)
    """
    count = max(1, round(MASKED * ids.shape[1]))
    positions = np.argsort(rng.random(ids.shape), axis=1)[:, :count]
    is_label = np.zeros(ids.shape, bool)
    np.put_along_axis(is_label, positions, True, axis=1)
    draw, random_ids = rng.random(ids.shape), rng.integers(SPECIAL_IDS, size, ids.shape)
    inputs = np.where(draw < KEPT, ids, np.where(draw < KEPT + RANDOM, random_ids, MASK_ID))
    inputs, labels = np.where(is_label, inputs, ids), np.where(is_label, ids, IGNORE_INDEX)
    return inputs.astype(ids.dtype), labels.astype(ids.dtype)
