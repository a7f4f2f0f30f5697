"""What a demo does around its trials: data, the file of records, progress, Ctrl-C. Every message is a line."""
import contextlib
import csv
import math
import signal
import sys
import time

import tqdm

from demos import data as digits_data

BAR = "{l_bar}{bar}| {elapsed} so far, {remaining} left"


def conduct(it, args, files, run, report):
    """Runs a demo; returns its exit code.

    Args:
      it: the parser, which says what is wrong with the data or the folder.
      args: what it parsed.
      files: names of what `report` will leave in args.out beside results.csv.
      run: (args, data, file) -> records, which it also writes to the file.
      report: (args, data, records, seconds) -> None.
    """
    start = time.perf_counter()
    data, file = read_digits(it), open_results(it, args.out, files)
    try:
        with file:
            rows = run(args, data, file)
        report(args, data, rows, time.perf_counter() - start)
    except KeyboardInterrupt:
        print(f"\ninterrupted; what has finished is in {file.name}", file=sys.stderr)
        return 130
    return 0


def read_digits(it):
    """The data; says on screen whose it is."""
    try:
        return digits_data.told()
    except FileNotFoundError as error:
        it.error(str(error))


def open_results(it, out, files):
    """results.csv, open for writing. An earlier run's other files go: they would not match it."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        for name in files:
            (out / name).unlink(missing_ok=True)
        return open(out / "results.csv", "w", newline="", encoding="utf-8")
    except OSError as error:
        it.error(f"argument --out: can't write to {str(out)!r} ({error.strerror}); "
                 "give a folder that you may write to")


def kept(trials, columns, work, total, file):
    """Writes each record to the file as it comes, and shows the time left; returns all of them.

    Args:
      trials: yields records.
      columns: their keys.
      work: record -> how much of the total it was.
      total: the work of all trials.
      file: where to write.
    """
    writer = csv.DictWriter(file, columns, lineterminator="\n")
    writer.writeheader()
    rows = []
    with tqdm.tqdm(total=total, smoothing=0.1, bar_format=BAR) as bar, held_back() as pressed:
        for row in trials:
            rows.append(row)
            writer.writerow(row)
            file.flush()
            bar.set_description(f"{row['parametrization']}, width {row['width']}", refresh=False)
            bar.update(work(row))
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


def finite(loss):
    """The loss as a float; inf where training diverged."""
    return float(loss) if math.isfinite(loss) else math.inf
