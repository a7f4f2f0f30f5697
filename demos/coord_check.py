"""Does what a network computes keep its size as it grows? A coordinate check, standard and in μP."""
import argparse
import functools
import json
import math
import pathlib
import sys

import optax

import haiku_mup
from demos.common import data as digits_data
from demos.common import flags, losses, networks
from demos.common import report as reports

PROG = "python -m demos.coord_check"
BATCH = 64
OPTIMIZERS = {"sgd": optax.sgd, "adam": optax.adam,
              "adamw": functools.partial(optax.adamw, weight_decay=0.1)}
LRS = {"sgd": 2.0**-2, "adam": 2.0**-7, "adamw": 2.0**-7}
FILES = ("coord_check.csv", "coord_check.png", "verdict.json")


# --- what is trained ---

def batch(data):
    """The first images [BATCH, rows, columns], with every second row and column of large ones, and labels."""
    side = math.isqrt(data.train_x.shape[1])
    images = data.train_x[:BATCH].reshape(BATCH, side, side)
    images = images[:, ::2, ::2] if side > 14 else images[:, :side // 7 * 7]
    return images, data.train_y[:BATCH]


def run(args, data):
    """{parametrization: CoordCheck}"""
    make_model, lr = functools.partial(networks.model, args.model), args.lr or LRS[args.optimizer]
    return {name: haiku_mup.coord_check(
        make_model, args.widths, batch(data), losses.LOSSES[args.loss], OPTIMIZERS[args.optimizer](lr),
        parametrization=name, adam=args.optimizer != "sgd", steps=args.steps, seeds=args.seeds)
        for name in args.parametrization}


# --- what is shown and kept ---

def report(args, checks):
    """Writes the files, and prints the tables."""
    points = [point for check in checks.values() for point in check.points]
    haiku_mup.CoordCheck(points).to_csv(args.out / "coord_check.csv")
    first, *rest = checks.values()
    first.plot(args.out / "coord_check.png", compare=rest[0] if rest else None)
    verdict = {"command": args.command, "versions": reports.versions(),
               "as expected": as_expected(checks), "ok": {name: check.ok for name, check in checks.items()},
               "failures": {name: [failure(f) for f in check.failures()] for name, check in checks.items()}}
    text = json.dumps(verdict, indent=2, allow_nan=False, ensure_ascii=False)
    (args.out / "verdict.json").write_text(text + "\n", encoding="utf-8")
    for name, check in checks.items():
        print(f"\n{name}: {check}")
    print(f"\n{', '.join(FILES)} are in {args.out}")


def failure(finding):
    found = {**finding._asdict(), "expected": str(finding.expected)}
    return {key: reports.known(x) if isinstance(x, float) else x for key, x in found.items()}


def as_expected(checks):
    """Whether μP passed, and the standard parametrization failed, where they were asked for."""
    return all(check.ok == (name == "mup") for name, check in checks.items())


# --- the command line ---

def rate(text):
    """'0.1' -> 0.1"""
    try:
        found = float(text)
    except ValueError:
        found = math.nan
    if not 0 < found < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r}: give a number above 0")
    return found


def parse(argv=None):
    it = flags.Parser(prog=PROG, description=__doc__)
    it.add_argument("--model", choices=networks.NETWORKS, default="mlp", help="default: mlp")
    it.add_argument("--loss", choices=losses.LOSSES, default="ce", help="default: ce")
    it.add_argument("--optimizer", choices=OPTIMIZERS, default="adam", help="default: adam")
    it.add_argument("--lr", type=rate, help=f"learning rate; default: {flags.listed(LRS)}")
    it.add_argument("--parametrization", type=flags.kinds, default="sp,mup",
                    help="sp, mup or sp,mup; default: sp,mup")
    it.add_argument("--widths", type=flags.counts, default="64,128,256,512", help="default: 64,128,256,512")
    it.add_argument("--steps", type=flags.count, default="3", help="default: 3")
    it.add_argument("--seeds", type=flags.count, default="5", help="default: 5")
    it.add_argument("--out", type=pathlib.Path, default="results/coord_check",
                    help="folder for the results, where it overwrites those of an earlier run; "
                         "default: results/coord_check")
    args = it.parse_args(argv)
    args.command = flags.command(PROG, argv)
    flags.cleared(it, args.out, FILES)
    return args


def main(argv=None):
    """Runs the check; returns its exit code: 0 where μP passed, and the standard parametrization failed."""
    args = parse(argv)
    try:
        checks = run(args, digits_data.told())
    except (FileNotFoundError, haiku_mup.MupError) as error:
        print(f"{PROG}: error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\ninterrupted", file=sys.stderr)
        return 130
    report(args, checks)
    return 0 if as_expected(checks) else 1


if __name__ == "__main__":
    sys.exit(main())
