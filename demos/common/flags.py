"""Command lines: types of flags, flags that several demos have, and errors of one line."""
import argparse
import math
import pathlib
import shlex
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any


class Parser(argparse.ArgumentParser):
    """A parser whose errors are one line, and that takes no abbreviations of flags."""

    def __init__(self, **kwargs: Any):
        super().__init__(allow_abbrev=False, **kwargs)

    def error(self, message: str):
        """Prints the error, and exits with 2."""
        if "expected one argument" in message:
            message += "; write a value that starts with a minus as --log2-lrs=-12:-4:0.5"
        self.exit(2, f"{self.prog}: error: {message}\n")


def parse(parser: argparse.ArgumentParser, argv: Sequence[str] | None,
          defaults: Callable[[argparse.Namespace], Mapping[str, Any]]) -> argparse.Namespace:
    """Parses a command line whose defaults depend on other flags; `args.command` is what was typed.

    Args:
      parser: the parser, without these defaults.
      argv: the command line; that of this process by default.
      defaults: maps the flags, with None for those that are not given, to defaults for them.
    """
    parser.set_defaults(**defaults(parser.parse_args(argv)))
    args = parser.parse_args(argv)
    args.command = typed_command(parser.prog, argv)
    return args


def typed_command(prog: str, argv: Sequence[str] | None = None) -> str:
    """Returns the command without --out and --scheduler, which don't change the results."""
    ignored = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    for flag in ("--out", "--scheduler"):
        ignored.add_argument(flag)
    return shlex.join([*prog.split(), *ignored.parse_known_args(argv)[1]])


# --- types of flags ---

def positive_int(text: str) -> int:
    """Parses '3' to 3."""
    if not (text.isascii() and text.isdecimal() and int(text) > 0):
        raise argparse.ArgumentTypeError(f"{text!r}: give a whole number above 0")
    return int(text)


def positive_ints(text: str) -> list[int]:
    """Parses '128,64' to [64, 128]."""
    return sorted(set(map(positive_int, text.split(","))))


def positive_float(text: str) -> float:
    """Parses '0.1' to 0.1."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r}: give a number above 0")
    return value


def fraction(text: str) -> float:
    """Parses '0.1' to 0.1, and '0' to 0.0."""
    value = 0.0 if text.strip() == "0" else positive_float(text)
    if value >= 1:
        raise argparse.ArgumentTypeError(f"{text!r}: give a number from 0 to less than 1")
    return value


def parametrizations(text: str) -> list[str]:
    """Parses 'sp,mup' to ['sp', 'mup']."""
    names = list(dict.fromkeys(text.split(",")))
    if not set(names) <= {"sp", "mup"}:
        raise argparse.ArgumentTypeError(f"{text!r}: give sp, mup or sp,mup")
    return names


def log2_lr_grid(text: str) -> list[float]:
    """Parses '-2:-1:0.5' to [-2.0, -1.5, -1.0]."""
    try:
        first, last, step = map(float, text.split(":"))
        steps = round((last - first) / step)
        valid = -126 <= first <= last <= 127 and abs(first + steps * step - last) < 1e-6 * step
    except (ValueError, ZeroDivisionError, OverflowError):
        valid = False
    if not valid:
        raise argparse.ArgumentTypeError(
            f"{text!r}: give first:last:step of log2 lr, as in -12:-4:0.5, "
            "with last a whole number of steps above first, and both from -126 to 127")
    return [first + i * step for i in range(steps + 1)]


# --- flags that several demos have ---

def add_log2_lrs(parser: argparse.ArgumentParser, default: str, example: str = "-12:-4:0.5") -> None:
    """Adds --log2-lrs, whose default depends on other flags."""
    parser.add_argument("--log2-lrs", type=log2_lr_grid, metavar="FIRST:LAST:STEP",
                        help=f"both ends are in; write it with =, as in --log2-lrs={example}; default: "
                             f"{default}")


def add_out(parser: argparse.ArgumentParser, default: str) -> None:
    """Adds --out, the folder for results."""
    parser.add_argument("--out", type=pathlib.Path, default=default,
                        help="folder for the results, where it overwrites those of an earlier run; "
                             f"default: {default}")


def clear_folder(parser: argparse.ArgumentParser, out: pathlib.Path, names: Iterable[str]) -> None:
    """Makes the folder, and removes files of an earlier run, which would not match the new ones."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        for name in names:
            (out / name).unlink(missing_ok=True)
    except OSError as error:
        parser.error(f"argument --out: can't write to {str(out)!r} ({error.strerror}); give a folder that you "
                     "may write to")


def describe(defaults: Mapping[str, Any]) -> str:
    """Formats {"widths": "64", "seeds": "1"} as 'widths 64, seeds 1'."""
    return ", ".join(f"{flag.replace('_', '-')} {value}" for flag, value in defaults.items())
