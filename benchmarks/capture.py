"""Measures what capturing a base and a target costs, beside Haiku's own tracing of the model.

python -m benchmarks.capture
"""
import concurrent.futures
import contextlib
import cProfile
import functools
import gc
import multiprocessing
import pathlib
import pstats
import re
import resource
import sys
import time
import tracemalloc
from typing import NamedTuple

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import optax

import haiku_mup
from haiku_mup import models

BLOCKS, WIDTHS, ROUNDS = (12, 96), (64, 256), 5
STACK_DEPTHS, TURNS = range(0, 96, 6), 2     # calls below the measured one, spread over 16 KB of frames
TOKENS = jnp.zeros((1, 16), int)
# GPT-2s: (blocks, width). The last one has 10 billion parameters; the first has as many names.
SIZES, BASE, DELTA, HEAD = ((32, 512), (8, 5120), (32, 5120)), 256, 384, 128


# --- beside Haiku's own tracing ---

def linears(x, width, layers=200):
    """Computes an MLP of many hk.Linears."""
    with haiku_mup.apply_mup():
        for _ in range(layers):
            x = jax.nn.relu(hk.Linear(width)(x))
        return haiku_mup.Readout(10)(x)


def gpt2_of_modules(ids, width):
    """Computes a GPT-2 of 12 blocks, which are separate modules."""
    config = models.GPT2Config(n_embd=width, n_head=2, n_layer=12, layer_stack=False)
    with haiku_mup.apply_mup():
        return models.GPT2LMHeadModel(config)(ids)


MODELS = {"200 hk.Linears": (linears, jax.ShapeDtypeStruct((1, 32), jnp.float32)),
          "GPT-2, 12 blocks": (gpt2_of_modules, jax.ShapeDtypeStruct((1, 64), jnp.int32))}
KEY = jax.random.key(0)


def adam():
    """Returns a new Adam, as a program makes it; of an earlier one, JAX would keep the trace of its init."""
    return optax.adam(1e-3)


def plain(name, make_optimizer=adam):
    """Traces the inits of base and target, and makes an optimizer's state, without a Mup."""
    function, inputs = MODELS[name]
    for width in WIDTHS:
        shapes = jax.eval_shape(hk.transform(functools.partial(function, width=width)).init, KEY, inputs)
    if make_optimizer is not None:
        jax.eval_shape(make_optimizer().init, shapes)


def captured(name, mup=None, make_optimizer=adam):
    """Does the same with a Mup: init_base, init_target, wrap_optimizer and the wrapped optimizer's state.

    Args:
      name: of the model.
      mup: what to capture it in; a new one by default.
      make_optimizer: returns the plain optimizer, or None for none.

    Returns:
      The shapes of the target's parameters.
    """
    (function, inputs), mup = MODELS[name], mup or haiku_mup.Mup()
    for width, context in zip(WIDTHS, (mup.init_base, mup.init_target)):
        with context():
            shapes = jax.eval_shape(hk.transform(functools.partial(function, width=width)).init, KEY,
                                    inputs)
    if make_optimizer is not None:
        jax.eval_shape(mup.wrap_optimizer(make_optimizer()).init, shapes)
    return jax.tree.leaves(shapes)


def calls(function, *args, **kwargs):
    """Returns how many Python calls a function makes."""
    profile = cProfile.Profile()
    profile.enable()
    function(*args, **kwargs)
    profile.disable()
    return pstats.Stats(profile).total_calls


def at_depth(depth, function, *args):
    """Calls a function with so many more frames on Python's stack."""
    return at_depth(depth - 1, function, *args) if depth else function(*args)


def by_model():
    """Prints a row for each model: alternated turns at many depths of the stack, with caches cleared or kept.

    Tracing is work of one thread, whose own time other programs disturb less than the time on the clock.

    CPython keeps frames in chunks of 16 KB. Where calls go back and forth over the end of one, each maps a new
    chunk and unmaps it, and tracing takes up to twice as long. Whether that meets the plain model or the
    captured one depends on how deep in a program they are traced. So both are traced at depths spread over a
    chunk, and the means are compared; the last column has the ratio's range over the depths.
    """
    print("base, target and Adam, without a Mup and with one")
    print(f"{'model':18}{'caches':>9}{'plain':>10}{'captured':>10}{'ratio':>7}{'calls, plain':>14}"
          f"{'captured':>10}{'ratio, by depth':>18}")
    for name in MODELS:
        plain(name), captured(name)         # imports
        for cleared in (True, False):
            times = np.array([[[turn(function, name, depth, cleared) for function in (plain, captured)]
                               for _ in range(TURNS)] for depth in STACK_DEPTHS]).min(axis=1)
            before, after = times.mean(axis=0)
            counts = [calls(function, name) for function in (plain, captured)]
            ratios = times[:, 1] / times[:, 0]
            print(f"{name:18}{'cleared' if cleared else 'kept':>9}{before:>8.2f} s{after:>8.2f} s"
                  f"{after / before:>7.2f}{counts[0]:>14,}{counts[1]:>10,}"
                  f"{f'{ratios.min():.2f} to {ratios.max():.2f}':>18}", flush=True)


def turn(function, name, depth, cleared):
    """Returns the seconds of one turn of `by_model`."""
    if cleared:
        jax.clear_caches()
    gc.collect()
    return seconds(at_depth, depth, function, name, clock=time.thread_time)


# --- as names grow ---

def network(tokens, blocks, width, heads=4, vocab=256):
    """Computes a pre-LN transformer whose blocks are separate modules: 16 names a block."""
    init = hk.initializers.VarianceScaling(1 / blocks)
    with haiku_mup.apply_mup():
        x = hk.Embed(vocab, width)(tokens)
        for _ in range(blocks):
            y = norm(x)
            x = x + haiku_mup.MultiHeadAttention(heads, width // heads, w_init=init)(y, y, y)
            x = x + hk.Linear(width, w_init=init)(jax.nn.gelu(hk.Linear(4 * width)(norm(x))))
        return haiku_mup.Readout(vocab)(norm(x))


def norm(x):
    """Normalises the last axis."""
    return hk.LayerNorm(-1, create_scale=True, create_offset=True)(x)


def shapes(blocks, mup=None):
    """Traces the inits of base and target; without a Mup, as a user would without μP."""
    contexts = (mup.init_base(), mup.init_target()) if mup else [contextlib.nullcontext()] * 2
    for width, context in zip(WIDTHS, contexts):
        model = hk.transform(functools.partial(network, blocks=blocks, width=width))
        with context:
            found = jax.eval_shape(model.init, jax.random.key(0), TOKENS)
    return len(jax.tree.leaves(found))


def seconds(function, *args, clock=time.perf_counter):
    """Returns how long a call takes."""
    start = clock()
    function(*args)
    return clock() - start


def kept(blocks):
    """Returns the bytes that a Mup keeps of its capture, and their peak."""
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


def by_names():
    """Prints a row for each depth."""
    print("base and target, by jax.eval_shape")
    print(f"{'blocks':>6}{'names':>7}{'plain init':>12}{'captured':>10}{'added, a name':>15}"
          f"{'kept, a name':>14}{'peak':>10}")
    shapes(1, haiku_mup.Mup())          # warms up
    for blocks in BLOCKS:
        names = shapes(blocks)
        rounds = [(seconds(shapes, blocks), seconds(shapes, blocks, haiku_mup.Mup())) for _ in range(ROUNDS)]
        plain, captured = np.median(rounds, axis=0)
        memory, peak = kept(blocks)
        print(f"{blocks:>6}{names:>7}{plain:>10.2f} s{captured:>8.2f} s"
              f"{1e3 * (captured - plain) / names:>12.3f} ms{memory / names:>12.0f} B{peak / 2**20:>6.1f} MiB")


# --- as their size does ---

class Cost(NamedTuple):
    """The cost of base, delta and target of a GPT-2, by jax.eval_shape.

    Attributes:
      parameters: of the target.
      names: of each of the three.
      plain: seconds without a Mup.
      captured: seconds with one.
      summary: seconds of the table.
      traced: bytes that Python allocated at the peak.
      resident: bytes by which the process grew at its peak.
    """

    parameters: int
    names: int
    plain: float
    captured: float
    summary: float
    traced: int
    resident: int


def gpt2(blocks, width, layer_stack):
    """Returns a transformed GPT-2."""
    config = models.GPT2Config(n_embd=width, n_head=width // HEAD, n_layer=blocks, layer_stack=layer_stack)

    def fn(ids):
        with haiku_mup.apply_mup():
            return models.GPT2LMHeadModel(config)(ids)

    return hk.transform(fn)


def trio(blocks, width, layer_stack, mup=None):
    """Returns the target's shapes, after those of its base and its delta were traced."""
    contexts = (mup.init_base(), mup.init_delta(), mup.init_target()) if mup else [contextlib.nullcontext()] * 3
    ids, key = jax.ShapeDtypeStruct((1, 1024), jnp.int32), jax.eval_shape(lambda: jax.random.key(0))
    for size, context in zip((BASE, DELTA, width), contexts):
        with context:
            found = jax.eval_shape(gpt2(blocks, size, layer_stack).init, key, ids)
    return found


def cost(blocks, width, layer_stack):
    """Returns the `Cost` of one model. Its memory is that of the first capture in this process."""
    trio(1, BASE, layer_stack, haiku_mup.Mup())         # warms up
    gc.collect()
    before, mup = resident(), haiku_mup.Mup()
    trio(blocks, width, layer_stack, mup)
    mup.summary()
    grown = resident("VmHWM") - before
    tracemalloc.start()
    trio(blocks, width, layer_stack, haiku_mup.Mup())
    traced = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    plain, captured, summary = np.median([
        (seconds(trio, blocks, width, layer_stack), seconds(trio, blocks, width, layer_stack, haiku_mup.Mup()),
         seconds(mup.summary)) for _ in range(ROUNDS)], axis=0)
    found = jax.tree.leaves(trio(blocks, width, layer_stack))
    return Cost(sum(x.size for x in found), len(found), plain, captured, summary, traced, grown)


def resident(what="VmRSS"):
    """Returns the bytes that this process has; with "VmHWM", or on some systems, those it had at most."""
    status = pathlib.Path("/proc/self/status")
    if not status.exists():
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 2**10)
    found = re.search(rf"{what}:\s+(\d+) kB", status.read_text())
    return int(found[1]) * 2**10


def by_size():
    """Prints a row for each model, each measured in a process of its own."""
    print("\nbase, delta and target of a GPT-2")
    print(f"{'layers':14}{'blocks':>6}{'width':>7}{'parameters':>16}{'names':>7}{'plain init':>12}"
          f"{'captured':>10}{'summary':>10}{'peak, Python':>14}{'process':>10}")
    spawn = multiprocessing.get_context("spawn")
    for layer_stack in (True, False):
        for blocks, width in SIZES:
            with concurrent.futures.ProcessPoolExecutor(1, spawn) as pool:
                found = pool.submit(cost, blocks, width, layer_stack).result()
            print(f"{'layer_stack' if layer_stack else 'modules':14}{blocks:>6}{width:>7}"
                  f"{found.parameters:>16,}{found.names:>7}{found.plain:>10.2f} s{found.captured:>8.2f} s"
                  f"{found.summary:>8.3f} s{found.traced / 2**20:>10.1f} MiB"
                  f"{found.resident / 2**20:>6.1f} MiB", flush=True)


def main():
    """Prints all tables."""
    by_model()
    by_names()
    by_size()


if __name__ == "__main__":
    main()
