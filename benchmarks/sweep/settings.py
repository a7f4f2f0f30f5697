"""The sizes of the problem, the order of batches, and the clock, which all sides share."""
import time

import numpy as np

INPUTS, HIDDEN, CLASSES, ROWS, BATCH, STEPS = 784, 3, 10, 4000, 128, 200
BASE, SEEDS, LRS = 64, 5, [2.0**(k / 2) for k in range(-24, -12)]
WIDTHS = 64, 128, 256, 512, 1024
TRIALS = len(LRS) * SEEDS       # of a width


def work(width):
    """Returns the FLOPs of a step's matrix products: one forward, two backward, one for the first layer."""
    first, others = INPUTS * width, (HIDDEN - 1) * width**2 + CLASSES * width
    return 2 * BATCH * (2 * first + 3 * others)


def parameter_shapes(width):
    """Returns the shapes of the weights and biases."""
    sizes = [INPUTS, *[width] * HIDDEN, CLASSES]
    return [shape for fan_in, fan_out in zip(sizes, sizes[1:]) for shape in ((fan_in, fan_out), (fan_out,))]


def make_data():
    """Returns rows and their classes."""
    rng = np.random.default_rng(0)
    return rng.normal(size=(ROWS, INPUTS)).astype("float32"), rng.integers(CLASSES, size=ROWS)


def batches(seed):
    """Returns the rows of each step; an epoch shuffles anew, and drops the rows that fill no batch."""
    rng, epoch = np.random.default_rng(seed), ROWS // BATCH * BATCH
    order = [rng.permutation(ROWS)[:epoch] for _ in range(-(-STEPS * BATCH // epoch))]
    return np.concatenate(order).reshape(-1, BATCH)[:STEPS]


def timed(function, *args):
    """Calls the function; returns its seconds."""
    start = time.perf_counter()
    function(*args)
    return time.perf_counter() - start
