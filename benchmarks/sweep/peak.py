"""Plain matrix products in a loop, and Adam's passes over the parameters: what a step can't do without."""
import jax
import jax.numpy as jnp
import numpy as np
import optax

from benchmarks.sweep.settings import BATCH, parameter_shapes, timed

UPDATED = 1e8       # entries that are updated in one run


def measure(widths, trials):
    """Returns the FLOPs a second of this process's threads, and the updates a second at each width."""
    products = {"whole": rate(1024, 1024)} | {width: rate(BATCH, width) for width in widths}
    return products | {f"updates {width}": update_rate(width) for width in widths}


def rate(rows, width):
    """Returns the FLOPs a second of products [rows, width] times [width, width]."""
    times = max(1, round(2e9 / (2 * rows * width**2)))
    x, w = (jnp.asarray(np.random.default_rng(0).normal(size=size), "float32") / width**0.5
            for size in ((rows, width), (width, width)))
    return 2 * rows * width**2 * times / least_seconds(
        lambda x, w: jax.lax.fori_loop(0, times, lambda _, x: x @ w, x), x, w)


def update_rate(width):
    """Returns how many of Adam's updates of all parameters a second makes, for given gradients.

    It reads parameters, gradients and two moments, and writes all but the gradients: 28 bytes an entry.
    """
    params = [jnp.ones(shape) for shape in parameter_shapes(width)]
    optimizer, times = optax.adam(1e-3), max(1, round(UPDATED / sum(x.size for x in params)))

    def train(params, gradients):
        def update(_, carry):
            params, state = carry
            updates, state = optimizer.update(gradients, state)
            return optax.apply_updates(params, updates), state

        return jax.lax.fori_loop(0, times, update, (params, optimizer.init(params)))

    return times / least_seconds(train, params, params)


def least_seconds(function, *args):
    """Returns the seconds of the fastest of ten runs of a compiled function."""
    program = jax.jit(function)
    jax.block_until_ready(program(*args))
    return min(timed(lambda: jax.block_until_ready(program(*args))) for _ in range(10))
