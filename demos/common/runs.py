"""Runs a demo on the digits: data, the file of records, progress, Ctrl-C. Every message is one line."""
import csv
import math
import sys
import time

import tqdm

from demos.common import digits as digits_data
from demos.common import flags
from haiku_mup.sweep.interrupt import deferred_interrupt

BAR = "{l_bar}{bar}| {elapsed} so far, {remaining} left"


def run_demo(parser, args, files, run, report):
    """Runs a demo on the digits; returns its exit code.

    Args:
      parser: reports errors in the data or the folder.
      args: the parsed flags.
      files: names of the files that `report` writes to args.out beside results.csv.
      run: (args, digits, file) -> records, which it also writes to the file.
      report: (args, digits, records, seconds) -> None.
    """
    start = time.perf_counter()
    try:
        digits = digits_data.load_and_print_source()
    except FileNotFoundError as error:
        parser.error(str(error))
    flags.clear_folder(parser, args.out, ("results.csv", *files))
    try:
        with open(args.out / "results.csv", "x", newline="", encoding="utf-8") as file:
            records = run(args, digits, file)
        report(args, digits, records, time.perf_counter() - start)
    except KeyboardInterrupt:
        print(f"\ninterrupted; what has finished is in {args.out / 'results.csv'}", file=sys.stderr)
        return 130
    return 0


def write_records(trials, columns, work, total, file):
    """Writes each record to a CSV file as its trial ends, and shows the time left; returns all records.

    Args:
      trials: yields records.
      columns: their keys.
      work: record -> its share of the total.
      total: the work of all trials.
      file: to write to.
    """
    writer = csv.DictWriter(file, columns, lineterminator="\n")
    writer.writeheader()
    records = []
    with (tqdm.tqdm(total=total, smoothing=0.1, bar_format=BAR) as bar,
          deferred_interrupt() as raise_if_interrupted):
        for record in trials:
            records.append(record)
            writer.writerow(record)
            file.flush()
            bar.set_description(f"{record['parametrization']}, width {record['width']}", refresh=False)
            bar.update(work(record))
            raise_if_interrupted()      # not while JAX compiles: interrupted there, Python crashes at exit
    return records


def finite_or_inf(loss):
    """Returns the loss as a float; inf if training diverged."""
    return float(loss) if math.isfinite(loss) else math.inf
