"""Checks how the sizes of what a network computes grow with its width, standard and in μP."""
import functools
import math
import sys

import optax

import haiku_mup
from demos.common import digits, flags, losses, networks
from demos.common import report as reports
from haiku_mup import Verdict

PROG = "python -m demos.coord_check"
BATCH = 64
OPTIMIZERS = {"sgd": optax.sgd, "adam": optax.adam,
              "adamw": functools.partial(optax.adamw, weight_decay=0.1)}
LRS = {"sgd": 2.0**-2, "adam": 2.0**-7, "adamw": 2.0**-7}
FILES = ("coord_check.csv", "coord_check.png", "verdict.json")


# --- the check ---

def make_batch(data):
    """Returns the first images [BATCH, rows, columns], large ones at half resolution, and their labels."""
    side = math.isqrt(data.train_x.shape[1])
    images = data.train_x[:BATCH].reshape(BATCH, side, side)
    images = images[:, ::2, ::2] if side > 14 else images[:, :side // 7 * 7]
    return images, data.train_y[:BATCH]


def run(args, data):
    """Returns {parametrization: CoordCheck}."""
    make_model, lr = functools.partial(networks.make_model, args.model), args.lr or LRS[args.optimizer]
    return {name: haiku_mup.coord_check(
        make_model, args.widths, make_batch(data), losses.LOSSES[args.loss], OPTIMIZERS[args.optimizer](lr),
        parametrization=name, adam=args.optimizer != "sgd", steps=args.steps, seeds=args.seeds)
        for name in args.parametrization}


# --- results ---

def report(args, checks):
    """Writes the files, and prints the tables."""
    points = [point for check in checks.values() for point in check.points]
    haiku_mup.CoordCheck(points).to_csv(args.out / "coord_check.csv")
    first, *rest = checks.values()
    first.plot(args.out / "coord_check.png", compare=rest[0] if rest else None)
    verdict = {"command": args.command, "versions": reports.versions(),
               "as expected": as_expected(checks), "ok": {name: check.ok for name, check in checks.items()},
               "verdict": {name: check.verdict for name, check in checks.items()},
               "failures": {name: list(map(json_values, check.failures())) for name, check in checks.items()}}
    reports.write_json(args.out / "verdict.json", verdict, ensure_ascii=False)
    for name, check in checks.items():
        print(f"\n{name}: {check}")
    print(f"\n{', '.join(FILES)} are in {args.out}")


def json_values(finding):
    """Returns a finding as a JSON object."""
    values = {**finding._asdict(), "expected": str(finding.expected)}
    return {key: reports.finite_or_none(x) if isinstance(x, float) else x for key, x in values.items()}


def as_expected(checks):
    """Returns whether μP passed and the standard parametrization failed, of those that were requested."""
    return exit_code(checks) == 0


def exit_code(checks):
    """Returns 0 where μP passed and the standard parametrization failed, 1 where not, 3 for undecided."""
    expected = {name: Verdict.PASSED if name == "mup" else Verdict.FAILED for name in checks}
    wrong = [check.verdict for name, check in checks.items() if check.verdict is not expected[name]]
    if not wrong:
        return 0
    return Verdict.UNDECIDED.exit_code if set(wrong) == {Verdict.UNDECIDED} else Verdict.FAILED.exit_code


# --- the command line ---

def parse(argv=None):
    """Parses the command line, and makes the folder for results."""
    parser = flags.Parser(prog=PROG, description=__doc__)
    parser.add_argument("--model", choices=networks.NETWORKS, default="mlp", help="default: mlp")
    parser.add_argument("--loss", choices=losses.LOSSES, default="ce", help="default: ce")
    parser.add_argument("--optimizer", choices=OPTIMIZERS, default="adam", help="default: adam")
    parser.add_argument("--lr", type=flags.positive_float,
                        help=f"learning rate; default: {flags.describe(LRS)}")
    parser.add_argument("--parametrization", type=flags.parametrizations, default="sp,mup",
                        help="sp, mup or sp,mup; default: sp,mup")
    parser.add_argument("--widths", type=flags.positive_ints, default="64,128,256,512",
                        help="default: 64,128,256,512")
    parser.add_argument("--steps", type=flags.positive_int, default="3", help="default: 3")
    parser.add_argument("--seeds", type=flags.positive_int, default="5", help="default: 5")
    flags.add_out(parser, "results/coord_check")
    args = parser.parse_args(argv)
    args.command = flags.typed_command(PROG, argv)
    flags.clear_folder(parser, args.out, FILES)
    return args


def main(argv=None):
    """Runs the check; returns its exit code.

    It is 0 where μP passed, and the standard parametrization failed; 1 where not; 3 where the check is
    undecided, which more seeds mend; 2 for bad arguments; 130 after Ctrl-C.
    """
    args = parse(argv)
    try:
        checks = run(args, digits.load_and_print_source())
    except (FileNotFoundError, haiku_mup.MupError) as error:
        print(f"{PROG}: error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\ninterrupted", file=sys.stderr)
        return 130
    report(args, checks)
    return exit_code(checks)


if __name__ == "__main__":
    sys.exit(main())
