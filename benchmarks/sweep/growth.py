"""A sweep of the smallest width, with few trials and with many."""
from benchmarks.sweep.ours import sweep
from benchmarks.sweep.settings import SEEDS, TRIALS


def measure(widths, trials):
    """Returns the seconds with 60 trials, and with ten times as many."""
    return {times * TRIALS: sweep(widths[:1], times * SEEDS) for times in (1, 10)}
