"""Runs a sweep that tests disturb, in a process of its own: `sweep_program.py FOLDER [WIDTH …]`."""
import concurrent.futures
import os
import signal
import sys

import jax
import jax.numpy as jnp

import haiku_mup

LRS, SEEDS = [2.0**k for k in range(-6, 0)], 3
STEPS = int(os.environ.get("STEPS", "2"))


def make_trial(width):
    """Returns a trial whose losses are a line of arithmetic."""
    def trial(lr, key):
        return lr * jnp.arange(1, 4) + jax.random.normal(key) / width
    return trial


def deadly(width):
    """Ends its worker at width 3, where it is made; raises at width 5."""
    if width == 3:
        os._exit(9)
    if width == 5:
        raise RuntimeError("five")
    trial = make_trial(width)
    return lambda lr, key: trial(lr, key)


def chaotic(width):
    """Returns a trial of a chaotic map: its losses take a while, and every bit of the inputs changes them."""
    def trial(lr, key):
        def step(x, _):
            x = jnp.sin(3 * x @ x / width**0.5 + lr)
            return x, jnp.abs(x).mean()

        x = jax.random.normal(key, (width, width))
        return {"train_loss": jax.lax.scan(step, x, None, length=STEPS)[1], "spread": x.std()}
    return trial


def main(out, *widths):
    print("started", flush=True)
    with concurrent.futures.ThreadPoolExecutor(1) as here:
        executor = here if os.environ.get("EXECUTOR") == "here" else None
        haiku_mup.lr_sweep({"sp": chaotic, "mup": chaotic}, map(int, widths or (8, 16)), LRS, SEEDS, out=out,
                           executor=executor, chunk=2, progress=False, search=os.environ.get("SEARCH", "grid"))
    print("finished", flush=True)


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)        # what started it may ignore Ctrl-C
    main(*sys.argv[1:])
