"""What the demos' command lines have in common: types of flags, and errors of one line."""
import argparse
import shlex


class Parser(argparse.ArgumentParser):
    """Says in one line what is wrong, and takes no abbreviations."""

    def __init__(self, **kwargs):
        super().__init__(allow_abbrev=False, **kwargs)

    def error(self, message):
        if "expected one argument" in message:
            message += "; write a value that starts with a minus as --log2-lrs=-12:-4:0.5"
        self.exit(2, f"{self.prog}: error: {message}\n")


def count(text):
    """'3' -> 3"""
    if not (text.isascii() and text.isdecimal() and int(text) > 0):
        raise argparse.ArgumentTypeError(f"{text!r}: give a whole number above 0")
    return int(text)


def counts(text):
    """'128,64' -> [64, 128]"""
    return sorted(set(map(count, text.split(","))))


def kinds(text):
    """'sp,mup' -> ['sp', 'mup']"""
    found = list(dict.fromkeys(text.split(",")))
    if not set(found) <= {"sp", "mup"}:
        raise argparse.ArgumentTypeError(f"{text!r}: give sp, mup or sp,mup")
    return found


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


def listed(defaults):
    """{"widths": "64", "seeds": "1"} -> 'widths 64, seeds 1'"""
    return ", ".join(f"{flag} {value}" for flag, value in defaults.items())


def cleared(it, out, names):
    """Makes the folder, and takes away an earlier run's files: they would not match."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        for name in names:
            (out / name).unlink(missing_ok=True)
    except OSError as error:
        it.error(f"argument --out: can't write to {str(out)!r} ({error.strerror}); give a folder that you may "
                 "write to")


def command(prog, argv=None):
    """What was typed, without --out and --scheduler: where trials run and results go doesn't change them."""
    rest = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    for flag in ("--out", "--scheduler"):
        rest.add_argument(flag)
    return shlex.join([*prog.split(), *rest.parse_known_args(argv)[1]])
