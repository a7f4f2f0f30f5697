"""The coordinate checks in the documentation: six networks and losses, standard above and in μP below."""
import pathlib
import sys

import haiku_mup
from demos import coord_check
from demos.common import flags

OUT, RESULTS = pathlib.Path("docs/figures"), pathlib.Path("results/gallery")
DPI = 75
CHECKS = {                          # file -> the flags of demos.coord_check
    "mlp_ce": ["--model", "mlp", "--loss", "ce"],
    "mlp_mse": ["--model", "mlp", "--loss", "mse"],
    "cnn_ce": ["--model", "cnn", "--loss", "ce"],
    "cnn_mse": ["--model", "cnn", "--loss", "mse"],
    "resnet": ["--model", "resnet", "--optimizer", "sgd"],
    "transformer": ["--model", "transformer"],
}


def main(checks=CHECKS, out=OUT, results=RESULTS):
    """Runs every check; returns 0 if each passed in μP and failed in the standard parametrization."""
    codes = []
    for name, given in checks.items():
        print(f"\n{coord_check.PROG} {' '.join(given)}", flush=True)
        codes.append(coord_check.main([*given, "--out", str(results / name)]))
        if codes[-1] in (2, 130):
            break                       # it was interrupted, or there are no data
        both = haiku_mup.CoordCheck.from_csv(results / name / "coord_check.csv")
        both.only("sp").plot(compare=both.only("mup")).savefig(out / f"coord_{name}.png", dpi=DPI)
    return max(codes)


if __name__ == "__main__":
    flags.Parser(prog="python -m demos.gallery", description=__doc__).parse_args()
    sys.exit(main())
