"""Finds rates that tie for the lowest loss, as where a coarse loss, such as an error rate, is at its bound."""
from typing import NamedTuple

import numpy as np

ROUNDING = 1e-12        # relative to the lowest loss; smaller differences between losses count as none
SAME_RATE = 1e-9        # octaves; rates closer than this differ by rounding alone


class Ties(NamedTuple):
    """The rates that tie for the lowest loss, by their indices among those that were tried.

    Attributes:
      lowest: the lowest of them.
      highest: the highest of them.
      first: the first of the longest stretch without a worse rate in between.
      last: the last of that stretch.
      rates: how many there are.
    """

    lowest: int
    highest: int
    first: int
    last: int
    rates: int

    def at_end(self, tried: int) -> bool:
        """Returns whether one of them is the first or the last of so many rates that were tried."""
        return self.lowest == 0 or self.highest == tried - 1

    def middle(self, log2_lr: np.ndarray) -> float:
        """Returns the middle of the longest stretch."""
        return float(log2_lr[self.first] + log2_lr[self.last]) / 2

    def around(self, log2_lr: np.ndarray) -> tuple[float, float]:
        """Returns the range of all tied rates and half a step to either side, as far as rates were tried."""
        below, above = max(self.lowest - 1, 0), min(self.highest + 1, len(log2_lr) - 1)
        return (float(log2_lr[below] + log2_lr[self.lowest]) / 2,
                float(log2_lr[self.highest] + log2_lr[above]) / 2)


def find_ties(log2_lr: np.ndarray, losses: np.ndarray, index: int) -> Ties | None:
    """Returns the rates that tie with the lowest one; None if the losses tell it from all others.

    Rates tie if each seed that both have has the same loss at both. Two rates of a single seed don't count:
    the lowest point of a valley may lie half way between them.

    Args:
      log2_lr: log2 of the rates, [lrs], ascending. Equal ones count as one rate.
      losses: [lrs, seeds]; inf where a seed diverged, nan where it is missing.
      index: of the lowest rate. Nothing ties if another one is lower on the seeds that both have.

    >>> find_ties(np.arange(-5.0, 0), np.array([[2.0], [0.0], [0.0], [0.0], [1.0]]), 1)
    Ties(lowest=1, highest=3, first=1, last=3, rates=3)
    """
    tied, shared = ties_with(losses, index)
    count = 1 + int((np.diff(log2_lr[tied]) > SAME_RATE).sum())
    if count < 2 or (count == 2 and shared[tied].min() < 2):
        return None
    with np.errstate(invalid="ignore"):                         # inf - inf
        excess = np.nansum(losses - losses[index], axis=1)
    if excess.min() < -rounding_error(losses):
        return None
    where = np.flatnonzero(tied)
    first, last = longest_run(tied)
    return Ties(int(where[0]), int(where[-1]), first, last, count)


def ties_with(losses: np.ndarray, index: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns which rates tie with one, [lrs], of losses [lrs, seeds], and how many seeds they share, [lrs]."""
    with np.errstate(invalid="ignore"):                         # inf - inf
        differences = abs(losses - losses[index])
    known = ~np.isnan(differences)
    differ = known & (differences > rounding_error(losses))
    return known.any(axis=1) & ~differ.any(axis=1) & ~np.isinf(losses).any(axis=1), known.sum(axis=1)


def longest_run(mask: np.ndarray) -> tuple[int, int]:
    """Returns the first and the last index of the longest stretch of True, the first of equally long ones.

    >>> longest_run(np.array([True, False, True, True, False]))
    (2, 3)
    """
    edges = np.diff(np.concatenate([[0], mask.astype(int), [0]]))
    starts, ends = np.flatnonzero(edges > 0), np.flatnonzero(edges < 0)
    longest = int((ends - starts).argmax())
    return int(starts[longest]), int(ends[longest]) - 1


def first_of_lowest(means: np.ndarray) -> int:
    """Returns the index of the lowest mean, the first of those that differ by rounding alone."""
    return int((means <= means.min() + rounding_error(means)).argmax())


def rounding_error(losses: np.ndarray) -> float:
    """Returns the largest difference between the lowest losses that may be due to rounding."""
    lowest = np.nanmin(losses, initial=np.inf)
    return float(ROUNDING * abs(lowest)) if np.isfinite(lowest) else 0.0
