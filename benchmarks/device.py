"""Measures haiku_mup on one accelerator: a training step, trials of a sweep, a check, and a transfer.

python -m benchmarks.device [--only step,trials] [--out results/device.json]

It takes some minutes on one GPU of 2025. `--smoke` runs tiny sizes anywhere, to try the program itself.
"""
import argparse
import concurrent.futures
import dataclasses
import datetime
import functools
import json
import pathlib
import re
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import optax

import haiku_mup
from benchmarks import overhead
from benchmarks.language_model import training_step
from demos.common import words
from haiku_mup import models
from haiku_mup.serialization import atomic_files

BLOCKS, HEADS, VOCABULARY = 3, 8, 2000      # of the transformer that is swept and checked


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sizes:
    """The sizes of everything that is measured.

    Attributes:
      gpt2: width, blocks, heads, vocabulary and length of the GPT-2, of which a step is timed.
      gpt2_batch: its rows.
      rounds: alternated turns of the plain and the wrapped step, of `repeats` steps each.
      repeats: steps that are timed together.
      width: of the trials.
      trials: learning rates of one sweep, side by side.
      check_widths: of the coordinate check.
      widths: of the transfer, the base first.
      log2_lrs: rates of the transfer.
      steps: of trials and of the transfer.
      rows, length: of a batch of the transformer.
    """

    gpt2: tuple[int, int, int, int, int] = (768, 12, 12, 50257, 1024)
    gpt2_batch: int = 8
    rounds: int = 7
    repeats: int = 10
    width: int = 256
    trials: int = 32
    check_widths: Sequence[int] = (256, 512, 1024)
    widths: Sequence[int] = (256, 512, 1024, 2048)
    log2_lrs: Sequence[int] = tuple(range(-14, -7))
    steps: int = 60
    rows: int = 16
    length: int = 128


FULL = Sizes()
SMOKE = Sizes(gpt2=(32, 1, 2, 64, 8), gpt2_batch=2, rounds=2, repeats=2, width=16, trials=3,
              check_widths=(16, 32, 64), widths=(16, 32), log2_lrs=(-8, -7, -6), steps=3, rows=2, length=8)


# --- a training step ---

def gpt2(ids, width, sizes):
    """Computes a GPT-2 whose heads have one size."""
    target, blocks, heads, vocabulary, length = sizes.gpt2
    config = models.GPT2Config(
        vocab_size=vocabulary, n_positions=length, n_embd=width, n_layer=blocks, n_head=heads * width // target,
        resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0, layer_stack=True)
    with haiku_mup.apply_mup():
        return models.GPT2LMHeadModel(config)(ids)


def in_bfloat16(model):
    """Returns the model computed in bfloat16, whose parameters stay float32."""
    def apply(params, ids):
        return model.apply(jax.tree.map(lambda x: x.astype(jnp.bfloat16), params), ids).astype(jnp.float32)
    return model._replace(apply=apply)


def compiled_step(sizes, wrapped):
    """Returns the compiled step and what it is given: parameters, optimizer's state, ids."""
    width, *_, vocabulary, length = sizes.gpt2
    ids = jax.random.randint(jax.random.key(0), (sizes.gpt2_batch, length), 0, vocabulary)
    base, model = (hk.without_apply_rng(hk.transform(functools.partial(gpt2, width=size, sizes=sizes)))
                   for size in (width // 2, width))
    optimizer = optax.adamw(1e-3, weight_decay=0.1)
    if wrapped:
        mup = haiku_mup.Mup()
        with mup.init_base():
            jax.eval_shape(base.init, jax.random.key(0), ids)
        with mup.init_target():
            jax.eval_shape(model.init, jax.random.key(0), ids)
        model, optimizer = mup.wrap_model(model), mup.wrap_optimizer(optimizer)
    params = jax.jit(model.init)(jax.random.key(0), ids)
    state = jax.jit(optimizer.init)(params)
    step = jax.jit(training_step(in_bfloat16(model), optimizer))
    return step.lower(params, state, ids).compile(), (params, state, ids)


def measure_step(sizes):
    """Measures the wrapped step beside the plain one: ratios of seconds, memory and fusions."""
    programs, turns, numbers = {}, {}, {}
    for name in ("plain", "wrapped"):
        programs[name], arguments = compiled_step(sizes, name == "wrapped")
        programs[name](*arguments)                      # both start from the same, plain or wrapped
    for _ in range(sizes.rounds):
        for name, program in programs.items():
            turns.setdefault(name, []).append(seconds(lambda p=program: repeated(p, arguments, sizes.repeats)))
    for name, program in programs.items():
        text, memory = program.as_text(), program.memory_analysis()
        numbers[name] = {"milliseconds": 1e3 * float(np.median(turns[name])) / sizes.repeats,
                         "temporary MiB": memory.temp_size_in_bytes / 2**20,
                         "fusions": len(re.findall(r" fusion\(", text))}
    ratios = np.array(turns["wrapped"]) / np.array(turns["plain"])
    return numbers | {"parameters": sum(x.size for x in jax.tree.leaves(arguments[0])),
                      "wrapped / plain": [float(x) for x in np.percentile(ratios, (0, 50, 100))]}


def repeated(program, arguments, repeats):
    """Runs a step several times, from the same parameters, and waits for the last."""
    for _ in range(repeats):
        found = program(*arguments)
    jax.block_until_ready(found)


def seconds(function):
    """Returns the seconds that a function takes."""
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


# --- trials, a check, a transfer ---

@functools.cache
def text():
    """Returns the words of a text; those that are not frequent are word 0."""
    found = words.load_words().train
    return np.where(found < VOCABULARY, found, 0)


def make_model(width):
    """Returns the transformer of a width."""
    def fn(ids):
        with haiku_mup.apply_mup():
            return overhead.transformer(ids, width, overhead.OURS, blocks=BLOCKS, heads=HEADS, vocab=VOCABULARY)
    return hk.transform(fn)


def draw(sizes, key, step):
    """Draws a batch: ids [rows, length], and the next ones."""
    train = jnp.asarray(text())
    starts = jax.random.randint(key, (sizes.rows, 1), 0, len(train) - sizes.length)
    found = train[starts + jnp.arange(sizes.length + 1)[None]]
    return found[:, :-1], found[:, 1:]


def loss_fn(apply, params, rng, batch):
    """Computes the cross-entropy of the next ids."""
    ids, following = batch
    return optax.softmax_cross_entropy_with_integer_labels(apply(params, rng, ids), following).mean()


def trials(sizes, parametrization="mup"):
    """Returns the maker of trials."""
    return haiku_mup.training(
        make_model, functools.partial(draw, sizes), loss_fn, optax.adam, steps=sizes.steps,
        base_width=sizes.widths[0], parametrization=parametrization)


def sweep(makers, widths, lrs):
    """Returns the sweep of one seed, run in this process, which has the device."""
    with concurrent.futures.ThreadPoolExecutor(1) as here:
        return haiku_mup.lr_sweep(makers, widths, lrs, 1, executor=here, progress=False)


def measure_trials(sizes):
    """Measures trials of a sweep, mapped over the device, beside a loop over a compiled trial.

    Both are timed with their compilation, and again without it.
    """
    rates = [2.0**-8 * 2.0**(-k / sizes.trials) for k in range(sizes.trials)]
    trial, keys = trials(sizes)(sizes.width), jax.random.split(jax.random.key(0), sizes.trials)
    one, mapped = jax.jit(trial), jax.jit(jax.vmap(trial))

    def loop():
        jax.block_until_ready([one(lr, key) for lr, key in zip(rates, keys)])

    def side_by_side():
        jax.block_until_ready(mapped(jnp.asarray(rates), keys))

    def in_sweep():
        sweep(trials(sizes), [sizes.width], rates)

    found = {name: {"with compiling": seconds(function), "again": seconds(function)}
             for name, function in (("loop", loop), ("mapped", side_by_side))}
    return found | {"lr_sweep": {"with compiling": seconds(in_sweep)}}


def measure_check(sizes):
    """Measures a coordinate check: its seconds, and its verdict."""
    batch = draw(sizes, jax.random.key(0), 0)
    start = time.perf_counter()
    check = haiku_mup.coord_check(make_model, sizes.check_widths, batch, loss_fn, optax.adam(2.0**-10),
                                  progress=False)
    return {"seconds": time.perf_counter() - start, "verdict": str(check.verdict)}


def measure_transfer(sizes):
    """Measures best rates and lowest losses over the widths, in the standard parametrization and in μP."""
    start = time.perf_counter()
    curves = sweep({name: trials(sizes, name) for name in ("sp", "mup")}, sizes.widths,
                   [2.0**k for k in sizes.log2_lrs]).curves()
    return {"seconds": time.perf_counter() - start} | {name: {
        str(width): {"log2 best lr": curve.optimum.log2_lr, "at the end of the rates": curve.optimum.at_edge,
                     "lowest loss": curve.lowest} for width, curve in by_width.items()}
        for name, by_width in curves.items()}


PARTS: dict[str, Callable[[Sizes], dict[str, Any]]] = {
    "step": measure_step, "trials": measure_trials, "check": measure_check, "transfer": measure_transfer}


# --- the command ---

def table(found):
    """Returns all numbers, a line each."""
    return "\n".join(f"{name:52}{value}" for name, value in flat(found))


def flat(found, before=""):
    """Yields ("part, name, …", number as text) of nested numbers."""
    for name, value in found.items():
        if isinstance(value, dict):
            yield from flat(value, f"{before}{name}, ")
        else:
            numbers = value if isinstance(value, list) else [value]
            yield before + name, " ".join(f"{x:.4g}" if isinstance(x, float) else str(x) for x in numbers)


def main(argv=None):
    """Runs the command; returns its exit code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.device", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--smoke", action="store_true", help="tiny sizes")
    parser.add_argument("--only", default=",".join(PARTS), help="which parts, between commas")
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("results", "device.json"))
    args = parser.parse_args(argv)
    if not set(args.only.split(",")) <= PARTS.keys():
        parser.error(f"argument --only: {args.only}: give some of {', '.join(PARTS)}")
    device, sizes = jax.devices()[0], SMOKE if args.smoke else FULL
    found = {"device": f"{device.device_kind} ({device.platform})", "jax": jax.__version__,
             "date": datetime.date.today().isoformat(), "sizes": dataclasses.asdict(sizes)}
    args.out.parent.mkdir(parents=True, exist_ok=True)
    for name in args.only.split(","):
        start = time.perf_counter()
        found[name] = PARTS[name](sizes)
        found[name]["whole, seconds"] = time.perf_counter() - start
        atomic_files.write(args.out, json.dumps(found, indent=1))       # what is measured is kept
        print(table({name: found[name]}), flush=True)
    print(f"{found['device']}, JAX {found['jax']}; all of it is in {args.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
