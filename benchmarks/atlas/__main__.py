"""Measures what transfers, piece by piece: resumable, with what was expected of each written down first.

python -m benchmarks.atlas                      lists the pieces, and which are measured
python -m benchmarks.atlas batch_text decay     measures these; a piece that was interrupted goes on
python -m benchmarks.atlas --all                measures all that are not, one after another
python -m benchmarks.atlas --page docs          writes what is measured into the documentation
"""
import argparse
import json
import pathlib
import sys

from benchmarks.atlas.measure import measure
from benchmarks.atlas.pieces import PIECES


def main(argv=None):
    """Runs the command; returns its exit code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.atlas", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pieces", nargs="*", metavar="PIECE", help=", ".join(PIECES))
    parser.add_argument("--all", action="store_true", help="measure all that are not measured")
    parser.add_argument("--page", type=pathlib.Path, metavar="DOCS", help="write tables and a figure there")
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("results", "atlas"))
    args = parser.parse_args(argv)
    unknown = [name for name in args.pieces if name not in PIECES]
    if unknown:
        parser.error(f"{', '.join(unknown)}: there are {', '.join(PIECES)}")
    for name in args.pieces or [name for name in PIECES if args.all and not measured(args.out, name)]:
        print(f"{name}: {PIECES[name].expected}", flush=True)
        measure(PIECES[name], args.out / name)
    if args.page:
        from benchmarks.atlas import page  # it needs Matplotlib
        page.write(args.out, args.page)
    if not (args.pieces or args.all or args.page):
        for name, piece in PIECES.items():
            done = "measured" if measured(args.out, name) else "not measured"
            print(f"{name} ({done}), over the {piece.varies}: {piece.expected}")
    return 0


def measured(out, name):
    """Returns whether a piece is measured, with all its seeds."""
    path = out / name / "measured.json"
    return path.exists() and json.loads(path.read_text(encoding="utf-8"))["seeds"] >= PIECES[name].seeds


if __name__ == "__main__":
    sys.exit(main())
