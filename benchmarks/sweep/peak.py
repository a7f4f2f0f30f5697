"""Plain matrix products in a loop."""
import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.sweep.settings import BATCH, timed


def measure(widths, trials):
    """Returns the FLOPs a second of this process's threads."""
    return {"whole": rate(1024, 1024)} | {width: rate(BATCH, width) for width in widths}


def rate(rows, width):
    """Returns the FLOPs a second of products [rows, width] times [width, width]."""
    times = max(1, round(2e9 / (2 * rows * width**2)))
    x, w = (jnp.asarray(np.random.default_rng(0).normal(size=size), "float32") / width**0.5
            for size in ((rows, width), (width, width)))
    program = jax.jit(lambda x, w: jax.lax.fori_loop(0, times, lambda _, x: x @ w, x))
    jax.block_until_ready(program(x, w))
    seconds = min(timed(lambda: jax.block_until_ready(program(x, w))) for _ in range(10))
    return 2 * rows * width**2 * times / seconds
