"""What a demo does around its trials: data, the file of records, progress, Ctrl-C. Every message is a line."""
import csv
import math
import sys
import time

import tqdm

from demos.common import data as digits_data
from demos.common import flags
from haiku_mup.sweep.runner.interrupts import held_back

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
    data = read_digits(it)
    flags.cleared(it, args.out, ("results.csv", *files))
    try:
        with open(args.out / "results.csv", "x", newline="", encoding="utf-8") as file:
            rows = run(args, data, file)
        report(args, data, rows, time.perf_counter() - start)
    except KeyboardInterrupt:
        print(f"\ninterrupted; what has finished is in {args.out / 'results.csv'}", file=sys.stderr)
        return 130
    return 0


def read_digits(it):
    """The data; says on screen whose it is."""
    try:
        return digits_data.told()
    except FileNotFoundError as error:
        it.error(str(error))


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
    with tqdm.tqdm(total=total, smoothing=0.1, bar_format=BAR) as bar, held_back() as pause:
        for row in trials:
            rows.append(row)
            writer.writerow(row)
            file.flush()
            bar.set_description(f"{row['parametrization']}, width {row['width']}", refresh=False)
            bar.update(work(row))
            pause()             # not while JAX compiles: cut off there, Python crashes at exit
    return rows


def finite(loss):
    """The loss as a float; inf where training diverged."""
    return float(loss) if math.isfinite(loss) else math.inf
