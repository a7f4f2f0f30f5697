"""Measures what transfers, piece by piece: resumable, with what was expected of each written down first.

python -m benchmarks.atlas                  lists the pieces, and which are measured
python -m benchmarks.atlas batch length     measures these; a piece that was interrupted goes on where it was
python -m benchmarks.atlas --page           prints a page of all that are measured
"""
import argparse
import json
import pathlib
import sys
import time

import haiku_mup
from benchmarks.atlas.pieces import PIECES, SEEDS
from haiku_mup.serialization import atomic_files
from haiku_mup.sweep.transfer import Estimate


def write_expectation(piece, folder):
    """Writes what is expected, before anything is measured; what is there already must be the same."""
    path = folder / "expected.txt"
    if path.exists() and path.read_text(encoding="utf-8") != piece.expected:
        raise SystemExit(f"{path}: another expectation was written down before this piece was measured; keep "
                         "it, or measure in another folder")
    folder.mkdir(parents=True, exist_ok=True)
    path.write_text(piece.expected, encoding="utf-8")


def measure(name, folder):
    """Measures a piece; writes measured.json."""
    piece, start = PIECES[name], time.perf_counter()
    write_expectation(piece, folder)
    sweep = haiku_mup.lr_sweep(piece.makers(), piece.sizes, [2.0**k for k in piece.log2_lrs], SEEDS,
                               out=folder / "sweep")
    found = {of: describe(sweep, of) for of in sweep.curves()}
    atomic_files.write(folder / "measured.json", json.dumps(
        {"varies": piece.varies, "seconds": round(time.perf_counter() - start), "measured": found}, indent=1))


def describe(sweep, of):
    """Returns the drift, the exponent, the best rates and the lowest losses of one curve, as JSON values."""
    transfer, curves = sweep.transfer()[of], sweep.curves()[of]
    return {"drift": number(sweep.drift()[of]), "exponent": [number(x) for x in transfer.exponent],
            "best": {size: number(curve.optimum.log2_lr) for size, curve in curves.items()},
            "edges": [size for size, curve in curves.items() if curve.optimum.at_edge],
            "lowest": {size: number(curve.lowest) for size, curve in curves.items()}}


def number(x):
    """Returns a number for JSON, which has no nan and no infinity."""
    return float(x) if x == x and abs(x) != float("inf") else None


def page(out):
    """Returns the page: for each piece what was expected, and a line for each curve."""
    lines = []
    for name in PIECES:
        path = out / name / "measured.json"
        if not path.exists():
            continue
        found = json.loads(path.read_text(encoding="utf-8"))
        lines += [f"{name}, over the {found['varies']} ({found['seconds']} s)",
                  f"  expected: {(out / name / 'expected.txt').read_text(encoding='utf-8')}"]
        lines += [f"  {of}: {sentence(each)}" for of, each in found["measured"].items()]
    return "\n".join(lines) or "nothing is measured yet"


def sentence(found):
    """Returns one curve's results in a line."""
    def text(x):
        return "unknown" if x is None else f"{x:.2f}"

    best = ", ".join(f"{text(x)} ({size})" for size, x in found["best"].items())
    lowest = ", ".join(f"{x:.4g} ({size})" for size, x in found["lowest"].items() if x is not None)
    exponent = Estimate(*(float("nan") if x is None else x for x in found["exponent"]))
    edges = f"; at the end of the rates: {', '.join(map(str, found['edges']))}" if found["edges"] else ""
    return (f"drift {text(found['drift'])}, exponent {exponent}; log2 of the best lr {best}; loss {lowest}"
            f"{edges}")


def main(argv=None):
    """Runs the command; returns its exit code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.atlas", description=__doc__.partition("\n")[0])
    parser.add_argument("pieces", nargs="*", metavar="PIECE", help=", ".join(PIECES))
    parser.add_argument("--page", action="store_true", help="print a page of all that are measured")
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("results", "atlas"))
    args = parser.parse_args(argv)
    unknown = [name for name in args.pieces if name not in PIECES]
    if unknown:
        parser.error(f"{', '.join(unknown)}: there are {', '.join(PIECES)}")
    for name in args.pieces:
        measure(name, args.out / name)
    if args.page or args.pieces:
        print(page(args.out))
    else:
        for name, piece in PIECES.items():
            done = "measured" if (args.out / name / "measured.json").exists() else "not measured"
            print(f"{name} ({done}), over the {piece.varies}: {piece.expected}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
