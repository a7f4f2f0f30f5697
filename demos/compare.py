"""Compares parametrizations of a transformer that reads the Bible: which transfers, and which is best."""
import argparse
import functools
import pathlib
import sys
import time

import haiku as hk
import jax
import jax.numpy as jnp
import optax

import haiku_mup
from demos import text_transformer
from demos.common import flags, losses, sweeps
from demos.common import report as reports
from haiku_mup.sweep.compare_parametrizations import parametrizations

PROG = "python -m demos.compare"
FIGURE, LOSS = "compare.png", "valid_loss"
SIZES = {"default": {"parametrizations": ",".join(parametrizations()), "widths": "32,128",
                     "log2_lrs": "-9:-4:1", "seeds": "3", "steps": "300", "target": "512"},
         # All widths of this transformer grow alike, and so mup_spectral is mup.
         "quick": {"parametrizations": "sp,sp_embedding,modified_sp,mup", "widths": "32,64",
                   "log2_lrs": "-7:-4:1", "seeds": "2", "steps": "45", "target": "128"}}


# --- the experiment ---

def compare(args, data):
    """Trains the transformer in each parametrization; returns a haiku_mup.Comparison."""
    train, valid = jnp.asarray(data.train), jnp.asarray(data.valid)
    length, batch_size = text_transformer.LENGTH, text_transformer.BATCH
    batches = min(text_transformer.VALID, (len(valid) - 1) // (batch_size * length))
    starts = length * jnp.arange(batches * batch_size).reshape(batches, batch_size)
    valid_batches = text_transformer.rows(valid, starts)
    network = functools.partial(text_transformer.network, vocab_size=len(data.words))

    def batch(key, step):
        """Draws a batch of the training part."""
        return text_transformer.rows(train, jax.random.randint(key, (batch_size,), 0, len(train) - length))

    def valid_loss(apply, params, rng):
        """Computes the loss, in nats, of the first words of the validation part."""
        return jax.lax.map(lambda row: losses.cross_entropy(apply, params, rng, row), valid_batches).mean()

    chosen = parametrizations()
    return haiku_mup.compare(
        lambda width: hk.transform(functools.partial(network, width=width)), batch, losses.cross_entropy,
        optax.adam, widths=args.widths, lrs=[2.0**x for x in args.log2_lrs], seeds=args.seeds,
        parametrizations={name: chosen[name] for name in args.parametrizations}, target=args.target,
        steps=args.steps, evaluate={LOSS: valid_loss}, out=args.out,
        sweep={"executor": sweeps.cluster(args.scheduler)})


# --- results ---

def report(args, data, found, seconds):
    """Writes comparison.txt, summary.json and the figure, and prints the comparison."""
    rows = [{name: str(x) if isinstance(x, tuple) else x for name, x in row.items()} for row in found.table()]
    numbers = [{name: reports.finite_or_none(x) if type(x) is float else x for name, x in row.items()}
               for row in rows]
    (args.out / "comparison.txt").write_text(f"{found}\n", encoding="utf-8")
    reports.write_summary(args, data, seconds, {"base_width": args.widths[0]}, {
        "table": numbers, "best": found.best, "equals": found.equals, "choice": found.choice})
    title = f"transformer with {text_transformer.BLOCKS} blocks, Adam, {args.steps} steps, {data.source}"
    found.plot(args.out / FIGURE, title=title, caption=args.command)
    print(f"\n{found}\n\nresults.csv, comparison.txt, summary.json and {FIGURE} are in {args.out}")


# --- the command line ---

def names(text):
    """Parses 'sp,mup' to ['sp', 'mup']."""
    known, found = list(parametrizations()), list(dict.fromkeys(text.split(",")))
    if not set(found) <= set(known):
        raise argparse.ArgumentTypeError(f"{text!r}: give some of {','.join(known)}")
    return found


def make_parser():
    """Returns the parser; flags without a default get it from `parse`."""
    default, quick = SIZES["default"], SIZES["quick"]
    parser = flags.Parser(prog=PROG, description=__doc__)
    parser.add_argument("--parametrizations", type=names,
                        help=f"default: {default['parametrizations']}; the last two are equal here, where all "
                             "widths grow alike")
    parser.add_argument("--widths", type=flags.positive_ints, help=f"default: {default['widths']}")
    flags.add_log2_lrs(parser, default["log2_lrs"])
    for name, what in (("seeds", "of each trial"), ("steps", "of training"),
                       ("target", "the width that is to be trained at last")):
        parser.add_argument(f"--{name}", type=flags.positive_int, help=f"{what}; default: {default[name]}")
    parser.add_argument("--text", type=pathlib.Path, metavar="FILE",
                        help="a text to read in place of the Bible")
    parser.add_argument("--quick", action="store_true",
                        help=f"a small comparison: other defaults, {flags.describe(quick)}")
    parser.add_argument("--out", type=pathlib.Path,
                        help="folder for the results; an interrupted comparison continues where it was; "
                             "default: results/compare, or results/compare-quick")
    parser.add_argument("--scheduler", metavar="ADDRESS", help="of a cluster of dask.distributed; default: all "
                        "cores of this machine")
    return parser


def parse(argv=None):
    """Parses the command line; defaults depend on the size."""
    def defaults(given):
        size = "quick" if given.quick else "default"
        return {"out": pathlib.Path("results", "compare" + "-quick" * given.quick), **SIZES[size]}

    return flags.parse(make_parser(), argv, defaults)


def main(argv=None):
    """Runs the demo; returns its exit code."""
    parser, args, start = make_parser(), parse(argv), time.perf_counter()
    try:
        data = text_transformer.load(args)
        flags.clear_folder(parser, args.out, ("summary.json", "comparison.txt", FIGURE))
        found = compare(args, data)
    except KeyboardInterrupt as interrupted:
        print(f"\n{interrupted}".rstrip(), file=sys.stderr)    # what has finished, and how to continue
        return 130
    except (OSError, ValueError) as error:          # haiku_mup.MupError is a ValueError
        parser.error(str(error))
    report(args, data, found, time.perf_counter() - start)
    return 0


if __name__ == "__main__":
    sys.exit(main())
