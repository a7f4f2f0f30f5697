"""How fast is a sweep of learning rates, beside plain loops in PyTorch with mup's MuAdam, and in JAX?

python -m benchmarks.sweep [--torch PYTHON] [--widths 64,128,256,512,1024] [--trials 2] [--growth]

An MLP of 3 hidden layers on rows of 784 numbers, 12 learning rates x 5 seeds x 200 steps of 128 rows, float32.
haiku_mup.lr_sweep makes the whole sweep; compilation and the start of its processes are in the total. A width's
seconds are those of its trials, by the median cell. Of the loops, where a trial costs what another does,
--trials at each width are timed behind one that isn't, and stand for all 60; what compiling takes is in JAX's
total. PYTHON is one that has torch and mup, in an environment of its own; without it PyTorch is left out. The
peak is that of plain matrix products in a loop, in a process on each core, in the same run: [128, width] times
[width, width], and [1024, 1024] squared. --growth sweeps the smallest width with 60 and 600 trials, instead.
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
    """Floating-point operations of a step's matrix products: one forward, two backward, for inputs one."""
    first, others = INPUTS * width, (HIDDEN - 1) * width**2 + CLASSES * width
    return 2 * BATCH * (2 * first + 3 * others)


# --- the four sides; each runs in a fresh process, and gives {width: seconds} and more ---

def problem():
    """make_model, data and loss_fn, in Haiku."""
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
    """Seconds of a sweep by haiku_mup.lr_sweep."""
    import optax

    import haiku_mup
    make_model, data, loss_fn = problem()
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
    """A jitted step in a loop over steps; the rate is an argument, so that a width compiles once."""
    import jax
    import jax.numpy as jnp
    import optax

    import haiku_mup
    make_model, data, loss_fn = problem()
    optimizer = optax.inject_hyperparams(optax.adam)(learning_rate=0.1)

    def compiled(width):
        mup, key = haiku_mup.Mup(), jax.random.key(0)
        with mup.init_base():
            jax.eval_shape(make_model(BASE).init, key, data[0][:1])
        with mup.init_target():
            jax.eval_shape(make_model(width).init, key, data[0][:1])
        model, wrapped = mup.wrap_model(make_model(width)), mup.wrap_optimizer(optimizer)

        @jax.jit
        def step(params, state, batch):
            of_batch = functools.partial(loss_fn, model.apply)
            loss, gradients = jax.value_and_grad(of_batch)(params, None, batch)
            updates, state = wrapped.update(gradients, state, params)
            return optax.apply_updates(params, updates), state, loss

        return jax.jit(lambda key: model.init(key, data[0][:1])), jax.jit(wrapped.init), step

    def trial(init, start, step, seed):
        params, losses = init(jax.random.key(seed)), []
        state = start(params)
        for batch in batches(seed):
            params, state, loss = step(params, state, tuple(jnp.asarray(x[batch]) for x in data))
            losses.append(loss)
        return jax.device_get(losses)

    found, compiling = {}, 0
    for width in widths:
        programs = compiled(width)
        first = timed(functools.partial(trial, *programs, 0))
        each = [timed(functools.partial(trial, *programs, seed)) for seed in range(trials)]
        found[width] = sum(each) / trials * len(LRS) * SEEDS
        compiling += max(first - sum(each) / trials, 0)
    return found | {"whole": sum(found.values()) + compiling}


def batches(seed):
    """Rows of each step: an epoch shuffles anew, and drops what fills no batch."""
    import numpy as np
    rng, whole = np.random.default_rng(seed), ROWS // BATCH * BATCH
    order = [rng.permutation(ROWS)[:whole] for _ in range(-(-STEPS * BATCH // whole))]
    return np.concatenate(order).reshape(-1, BATCH)[:STEPS]


def torch(widths, trials):
    """MuAdam in a loop over steps."""
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
    """Floating-point operations a second of a thread in plain matrix products."""
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
    """Seconds of the smallest width's sweep with 60 trials, and with ten times as many."""
    return {times * len(LRS) * SEEDS: sweep(widths[:1], times * SEEDS) for times in (1, 10)}


def timed(function):
    """Seconds on the clock."""
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


SIDES = {"ours": ours, "loop": loop, "torch": torch, "peak": peak, "growth": growth}
NAMES = {"ours": "lr_sweep", "loop": "jitted loop", "torch": "mup, torch"}


# --- processes of their own ---

def started(side, args, core=None):
    """A fresh process that measures a side, on one core with one thread or on all."""
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
    """What it printed, with widths as numbers; None where it couldn't."""
    out, err = process.communicate()
    if process.returncode:
        print(f"left out: {(err.strip().splitlines() or ['no reason given'])[-1]}", file=sys.stderr)
        return None
    return {int(key) if key.isdecimal() else key: x for key, x in json.loads(out.splitlines()[-1]).items()}


def peaks(args):
    """The peak of all cores, each busy with products of its own."""
    each = [result(process) for process in [started("peak", args, core) for core in os.sched_getaffinity(0)]]
    return {key: sum(one[key] for one in each) for key in each[0]}


# --- what is shown ---

def report(found, top, widths):
    """A line for each width and for the whole: seconds, ratios, and shares of the peaks."""
    trial_steps = len(LRS) * SEEDS * STEPS
    lines = ["width " + "".join(f"{NAMES[side]:>13}" for side in found) + f"{'torch/ours':>12}{'loop/ours':>11}"
             f"{'GFLOP/s':>9}{'of [128, width]':>17}{'of [1024, 1024]':>17}"]
    for width in [*widths, "whole"]:
        some = widths if width == "whole" else [width]
        rate = sum(map(work, some)) * trial_steps / found["ours"][width]
        cells = "".join(f"{x[width]:>11.1f} s" if x else f"{'-':>13}" for x in found.values())
        ratios = [f"{found[side][width] / found['ours'][width]:.2f}" if found[side] else "-"
                  for side in ("torch", "loop")]
        own = f"{rate / top[width]:.0%}" if width in top and width != "whole" else ""
        lines.append(f"{width!s:<6}{cells}{ratios[0]:>12}{ratios[1]:>11}{rate / 1e9:>9.1f}{own:>17}"
                     f"{rate / top['whole']:>17.0%}")
    return "\n".join(lines)


def parse(argv=None):
    it = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    it.add_argument("--torch", metavar="PYTHON", default=sys.executable, help="a Python that has torch and mup")
    it.add_argument("--widths", type=lambda text: [int(x) for x in text.split(",")], default=list(WIDTHS))
    it.add_argument("--trials", type=int, default=2, help="of a loop, timed at each width; default: 2")
    it.add_argument("--growth", action="store_true", help="60 and 600 trials of the smallest width")
    it.add_argument("--side", choices=SIDES, help=argparse.SUPPRESS)
    return it.parse_args(argv)


def main(argv=None):
    """Prints the table."""
    args = parse(argv)
    if args.side:
        print(json.dumps(SIDES[args.side](args.widths, args.trials)))
    elif args.growth:
        seconds = result(started("growth", args))
        each = {trials: 1e3 * x / trials / STEPS for trials, x in seconds.items()}
        few, many = each.values()
        for trials, x in each.items():
            print(f"{trials} trials: {seconds[trials]:.1f} s, {x:.3f} ms a trial-step")
        print(f"ratio {many / few:.3f}")
    else:
        top = peaks(args)
        found = {side: result(started(side, args)) for side in NAMES}
        if found["ours"] is None:
            sys.exit("lr_sweep failed")
        print(f"{len(LRS) * SEEDS} trials of {STEPS} steps at each width; of loops {args.trials} are timed, "
              "and stand for all")
        print(report(found, top, args.widths))
        print(f"peak, in GFLOP/s: {top['whole'] / 1e9:.0f} of [1024, 1024]; of [128, width] "
              + ", ".join(f"{top[width] / 1e9:.0f}" for width in args.widths))


if __name__ == "__main__":
    main()
