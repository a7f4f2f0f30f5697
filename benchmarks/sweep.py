"""Times a sweep of learning rates, beside plain loops in PyTorch with mup's MuAdam, and in JAX.

python -m benchmarks.sweep [--torch PYTHON] [--widths 64,128,256,512,1024] [--trials 2] [--growth]

An MLP of 3 hidden layers on rows of 784 numbers, 12 learning rates x 5 seeds x 200 steps of 128 rows, float32.
haiku_mup.lr_sweep runs the whole sweep; its total includes compilation and the start of its processes. The
seconds of a width are those of its trials, by the median cell. In the loops all trials of a width cost the
same: after one to warm up, --trials are timed, and multiplied to 60; JAX's total includes compilation. PYTHON
is one that has torch and mup, in an environment of its own; without it PyTorch is left out. The peak is that of
plain matrix products in a loop, in a process on each core, in the same run: [128, width] times [width, width],
and [1024, 1024] squared. --growth sweeps the smallest width with 60 and 600 trials, instead.
"""
import argparse
import functools
import json
import os
import statistics
import subprocess
import sys
import time

INPUTS, HIDDEN, CLASSES, ROWS, BATCH, STEPS = 784, 3, 10, 4000, 128, 200
BASE, SEEDS, LRS = 64, 5, [2.0**(k / 2) for k in range(-24, -12)]
WIDTHS = 64, 128, 256, 512, 1024


def work(width):
    """Returns the FLOPs of a step's matrix products: one forward, two backward, one for the first layer."""
    first, others = INPUTS * width, (HIDDEN - 1) * width**2 + CLASSES * width
    return 2 * BATCH * (2 * first + 3 * others)


# --- the sides; each runs in a fresh process, and returns {width: seconds} and more ---

def make_problem():
    """Returns make_model, data and loss_fn, in Haiku."""
    import haiku as hk
    import jax
    import numpy as np
    import optax

    import haiku_mup

    def make_model(width):
        def fn(x):
            with haiku_mup.apply_mup():
                for _ in range(HIDDEN):
                    x = jax.nn.relu(hk.Linear(width)(x))
                return haiku_mup.Readout(CLASSES)(x)
        return hk.transform(fn)

    def loss_fn(apply, params, rng, batch):
        x, y = batch
        return optax.softmax_cross_entropy_with_integer_labels(apply(params, rng, x), y).mean()

    rng = np.random.default_rng(0)
    data = rng.normal(size=(ROWS, INPUTS)).astype("float32"), rng.integers(CLASSES, size=ROWS)
    return make_model, data, loss_fn


def sweep(widths, seeds):
    """Returns the seconds of a sweep by haiku_mup.lr_sweep."""
    import optax

    import haiku_mup
    make_model, data, loss_fn = make_problem()
    make_trial = haiku_mup.training(make_model, data, loss_fn, optax.adam, steps=STEPS, batch_size=BATCH,
                                    base_width=BASE)
    return timed(functools.partial(haiku_mup.lr_sweep, make_trial, widths, LRS, seeds, progress=False))


def ours(widths, trials):
    """Returns seconds of the whole sweep; and of each width's trials, by the median time from cell to cell."""
    from haiku_mup.sweep.runner.dispatcher import Dispatcher
    from haiku_mup.sweep.runner.executors import TASKS_PER_WORKER

    ends, end = {width: [] for width in widths}, Dispatcher._end

    def note(dispatcher, task, result):
        if task.cell:
            workers = dispatcher.executor.capacity // TASKS_PER_WORKER
            ends[task.program[1]].append((time.perf_counter(), len(task.cell), workers))
        end(dispatcher, task, result)

    Dispatcher._end = note
    whole = sweep(widths, SEEDS)
    return {width: seconds_a_trial(x) * len(LRS) * SEEDS for width, x in ends.items()} | {"whole": whole}


def seconds_a_trial(ends):
    """Returns the median over cells: from the end of one to that of the cell that each worker ran next."""
    return statistics.median((after - at) / workers / trials for (at, trials, workers), (after, _, _) in zip(
        ends, ends[ends[0][2]:]))


def loop(widths, trials):
    """Times a jitted step in a loop over steps; the rate is an argument, so a width compiles once."""
    import jax
    import jax.numpy as jnp
    import optax

    import haiku_mup
    make_model, data, loss_fn = make_problem()
    optimizer = optax.inject_hyperparams(optax.adam)(learning_rate=0.1)

    def make_programs(width):
        mup, key = haiku_mup.Mup(), jax.random.key(0)
        with mup.init_base():
            jax.eval_shape(make_model(BASE).init, key, data[0][:1])
        with mup.init_target():
            jax.eval_shape(make_model(width).init, key, data[0][:1])
        model, wrapped = mup.wrap_model(make_model(width)), mup.wrap_optimizer(optimizer)

        @jax.jit
        def step(params, state, batch):
            loss_of_params = functools.partial(loss_fn, model.apply)
            loss, gradients = jax.value_and_grad(loss_of_params)(params, None, batch)
            updates, state = wrapped.update(gradients, state, params)
            return optax.apply_updates(params, updates), state, loss

        return jax.jit(lambda key: model.init(key, data[0][:1])), jax.jit(wrapped.init), step

    def trial(init, init_optimizer, step, seed):
        params, losses = init(jax.random.key(seed)), []
        state = init_optimizer(params)
        for batch in batches(seed):
            params, state, loss = step(params, state, tuple(jnp.asarray(x[batch]) for x in data))
            losses.append(loss)
        return jax.device_get(losses)

    found, compiling = {}, 0
    for width in widths:
        programs = make_programs(width)
        first = timed(functools.partial(trial, *programs, 0))
        each = [timed(functools.partial(trial, *programs, seed)) for seed in range(trials)]
        found[width] = sum(each) / trials * len(LRS) * SEEDS
        compiling += max(first - sum(each) / trials, 0)
    return found | {"whole": sum(found.values()) + compiling}


def batches(seed):
    """Returns the rows of each step; an epoch shuffles anew, and drops the rows that fill no batch."""
    import numpy as np
    rng, epoch = np.random.default_rng(seed), ROWS // BATCH * BATCH
    order = [rng.permutation(ROWS)[:epoch] for _ in range(-(-STEPS * BATCH // epoch))]
    return np.concatenate(order).reshape(-1, BATCH)[:STEPS]


def torch(widths, trials):
    """Times MuAdam in a loop over steps."""
    import mup
    import numpy as np
    import torch
    from torch import nn

    rng = np.random.default_rng(0)
    x = torch.from_numpy(rng.normal(size=(ROWS, INPUTS)).astype("float32"))
    y = torch.from_numpy(rng.integers(CLASSES, size=ROWS))

    def network(width):
        sizes = [INPUTS] + [width] * HIDDEN
        hidden = [part for a, b in zip(sizes, sizes[1:]) for part in (nn.Linear(a, b), nn.ReLU())]
        return nn.Sequential(*hidden, mup.MuReadout(width, CLASSES))

    def trial(width, seed):
        torch.manual_seed(seed)
        model, losses = network(width), []
        mup.set_base_shapes(model, network(BASE), delta=network(2 * BASE))
        optimizer, rows = mup.MuAdam(model.parameters(), lr=1e-3), torch.from_numpy(batches(seed))
        for batch in rows:
            loss = nn.functional.cross_entropy(model(x[batch]), y[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())

    found = {}
    for width in widths:
        trial(width, 0)
        each = [timed(functools.partial(trial, width, seed)) for seed in range(trials)]
        found[width] = sum(each) / trials * len(LRS) * SEEDS
    return found | {"whole": sum(found.values())}


def peak(widths, trials):
    """Returns the FLOPs a second of a thread in plain matrix products."""
    import jax
    import jax.numpy as jnp
    import numpy as np

    def rate(rows, width):
        times = max(1, round(2e9 / (2 * rows * width**2)))
        x, w = (jnp.asarray(np.random.default_rng(0).normal(size=size), "float32") / width**0.5
                for size in ((rows, width), (width, width)))
        program = jax.jit(lambda x, w: jax.lax.fori_loop(0, times, lambda _, x: x @ w, x))
        jax.block_until_ready(program(x, w))
        seconds = min(timed(lambda: jax.block_until_ready(program(x, w))) for _ in range(10))
        return 2 * rows * width**2 * times / seconds

    return {"whole": rate(1024, 1024)} | {width: rate(BATCH, width) for width in widths}


def growth(widths, trials):
    """Returns the seconds of the smallest width's sweep with 60 trials, and with ten times as many."""
    return {times * len(LRS) * SEEDS: sweep(widths[:1], times * SEEDS) for times in (1, 10)}


def timed(function):
    """Calls the function; returns its seconds."""
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


SIDES = {"ours": ours, "loop": loop, "torch": torch, "peak": peak, "growth": growth}
NAMES = {"ours": "lr_sweep", "loop": "jitted loop", "torch": "mup, torch"}


# --- processes of their own ---

def start_process(side, args, core=None):
    """Starts a fresh process that measures a side, on one core with one thread, or on all."""
    command = [args.torch if side == "torch" else sys.executable, __file__, "--side", side, "--trials",
               str(args.trials), "--widths", ",".join(map(str, args.widths))]
    root = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    environment = {**os.environ, "PYTHONPATH": root}
    if core is not None:
        environment["XLA_FLAGS"] = environment.get("XLA_FLAGS", "") + " --xla_cpu_multi_thread_eigen=false"
        command = [sys.executable, "-c", f"import os, sys; os.sched_setaffinity(0, [{core}]); "
                   "os.execv(sys.argv[1], sys.argv[1:])", *command]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)


def result(process):
    """Returns what the process printed, with widths as numbers; None if it failed."""
    out, err = process.communicate()
    if process.returncode:
        print(f"left out: {(err.strip().splitlines() or ['no reason given'])[-1]}", file=sys.stderr)
        return None
    return {int(key) if key.isdecimal() else key: x for key, x in json.loads(out.splitlines()[-1]).items()}


def peaks(args):
    """Returns the peak of all cores, each busy with its own products."""
    processes = [start_process("peak", args, core) for core in os.sched_getaffinity(0)]
    by_core = [result(process) for process in processes]
    return {key: sum(rates[key] for rates in by_core) for key in by_core[0]}


# --- the table ---

def report(found, peak_rates, widths):
    """Formats a line for each width and for the whole: seconds, ratios, and shares of the peaks.

    Args:
      found: {side: {width or "whole": seconds}}; None for a side that failed.
      peak_rates: {width or "whole": FLOPs a second}.
      widths: of the models.
    """
    lines = ["width " + "".join(f"{NAMES[side]:>13}" for side in found) + f"{'torch/ours':>12}{'loop/ours':>11}"
             f"{'GFLOP/s':>9}{'of [128, width]':>17}{'of [1024, 1024]':>17}"]
    for width in [*widths, "whole"]:
        flops = sum(map(work, widths if width == "whole" else [width])) * len(LRS) * SEEDS * STEPS
        rate = flops / found["ours"][width]
        cells = "".join(f"{x[width]:>11.1f} s" if x else f"{'-':>13}" for x in found.values())
        ratios = [f"{found[side][width] / found['ours'][width]:.2f}" if found[side] else "-"
                  for side in ("torch", "loop")]
        share = "" if width == "whole" else f"{rate / peak_rates[width]:.0%}"
        lines.append(f"{width!s:<6}{cells}{ratios[0]:>12}{ratios[1]:>11}{rate / 1e9:>9.1f}{share:>17}"
                     f"{rate / peak_rates['whole']:>17.0%}")
    return "\n".join(lines)


def parse(argv=None):
    parser = argparse.ArgumentParser(prog="python -m benchmarks.sweep", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--torch", metavar="PYTHON", default=sys.executable,
                        help="a Python that has torch and mup")
    parser.add_argument("--widths", type=lambda text: [int(x) for x in text.split(",")], default=list(WIDTHS))
    parser.add_argument("--trials", type=int, default=2, help="of a loop, timed at each width; default: 2")
    parser.add_argument("--growth", action="store_true", help="60 and 600 trials of the smallest width")
    parser.add_argument("--side", choices=SIDES, help=argparse.SUPPRESS)
    return parser.parse_args(argv)


def print_growth(args):
    """Prints what a trial's step costs with 60 trials, and with 600."""
    seconds = result(start_process("growth", args))
    few, many = (1e3 * x / trials / STEPS for trials, x in seconds.items())
    for (trials, x), each in zip(seconds.items(), (few, many)):
        print(f"{trials} trials: {x:.1f} s, {each:.3f} ms a trial-step")
    print(f"ratio {many / few:.3f}")


def print_table(args):
    """Prints the table of all sides."""
    peak_rates = peaks(args)
    found = {side: result(start_process(side, args)) for side in NAMES}
    if found["ours"] is None:
        sys.exit("lr_sweep failed")
    print(f"{len(LRS) * SEEDS} trials of {STEPS} steps at each width; of loops {args.trials} are timed, and "
          "stand for all")
    print(report(found, peak_rates, args.widths))
    print(f"peak, in GFLOP/s: {peak_rates['whole'] / 1e9:.0f} of [1024, 1024]; of [128, width] "
          + ", ".join(f"{peak_rates[width] / 1e9:.0f}" for width in args.widths))


def main(argv=None):
    """Measures one side, in a process of its own, or starts all and prints the table."""
    args = parse(argv)
    if args.side:
        print(json.dumps(SIDES[args.side](args.widths, args.trials)))
    else:
        (print_growth if args.growth else print_table)(args)


if __name__ == "__main__":
    main()
