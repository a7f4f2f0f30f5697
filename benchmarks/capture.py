"""What capturing a base and a target costs, as the number of parameters' names grows.

python -m benchmarks.capture
"""
import contextlib
import functools
import gc
import time
import tracemalloc

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np

import haiku_mup

BLOCKS, WIDTHS, ROUNDS = (12, 96), (64, 256), 5
TOKENS = jnp.zeros((1, 16), int)


def network(tokens, blocks, width, heads=4, vocab=256):
    """A pre-LN transformer whose blocks are separate modules: 16 names a block."""
    init = hk.initializers.VarianceScaling(1 / blocks)
    with haiku_mup.apply_mup():
        x = hk.Embed(vocab, width)(tokens)
        for _ in range(blocks):
            y = norm(x)
            x = x + haiku_mup.MultiHeadAttention(heads, width // heads, w_init=init)(y, y, y)
            x = x + hk.Linear(width, w_init=init)(jax.nn.gelu(hk.Linear(4 * width)(norm(x))))
        return haiku_mup.Readout(vocab)(norm(x))


def norm(x):
    return hk.LayerNorm(-1, create_scale=True, create_offset=True)(x)


def shapes(blocks, mup=None):
    """The inits of base and target, traced anew: with no Mup, as a user would without μP."""
    contexts = (mup.init_base(), mup.init_target()) if mup else [contextlib.nullcontext()] * 2
    for width, context in zip(WIDTHS, contexts):
        model = hk.transform(functools.partial(network, blocks=blocks, width=width))
        with context:
            found = jax.eval_shape(model.init, jax.random.key(0), TOKENS)
    return len(jax.tree.leaves(found))


def seconds(blocks, mup=None):
    start = time.perf_counter()
    shapes(blocks, mup)
    return time.perf_counter() - start


def kept(blocks):
    """Bytes that a Mup keeps of its capture, and their peak."""
    gc.collect()
    tracemalloc.start()
    try:
        mup = haiku_mup.Mup()
        shapes(blocks, mup)
        peak = tracemalloc.get_traced_memory()[1]
        gc.collect()
        with_it = tracemalloc.get_traced_memory()[0]
        del mup
        gc.collect()
        return with_it - tracemalloc.get_traced_memory()[0], peak
    finally:
        tracemalloc.stop()


def main():
    """Prints a row for each depth."""
    print("base and target, by jax.eval_shape")
    print(f"{'blocks':>6}{'names':>7}{'plain init':>12}{'captured':>10}{'added, a name':>15}"
          f"{'kept, a name':>14}{'peak':>10}")
    shapes(1, haiku_mup.Mup())          # warms up
    for blocks in BLOCKS:
        names = shapes(blocks)
        rounds = [(seconds(blocks), seconds(blocks, haiku_mup.Mup())) for _ in range(ROUNDS)]
        plain, captured = np.median(rounds, axis=0)
        memory, peak = kept(blocks)
        print(f"{blocks:>6}{names:>7}{plain:>10.2f} s{captured:>8.2f} s"
              f"{1e3 * (captured - plain) / names:>12.3f} ms{memory / names:>12.0f} B{peak / 2**20:>6.1f} MiB")


if __name__ == "__main__":
    main()
