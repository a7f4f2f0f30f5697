"""haiku_mup.lr_sweep."""
import statistics
import time

import optax

import haiku_mup
from benchmarks.sweep.problem import loss_fn, make_model
from benchmarks.sweep.settings import BASE, BATCH, LRS, SEEDS, STEPS, TRIALS, make_data, timed
from haiku_mup.sweep.runner.dispatcher import Dispatcher


def measure(widths, trials):
    """Returns seconds of the whole sweep; and of each width's trials, by the median time from cell to cell."""
    ends, end = {width: [] for width in widths}, Dispatcher._receive

    def end_and_note(dispatcher, task, result):
        if task.cell and isinstance(result, list):      # and not why it failed
            ends[task.program[1]].append((time.perf_counter(), len(task.cell), dispatcher.executor.capacity))
        end(dispatcher, task, result)

    Dispatcher._receive = end_and_note
    whole = sweep(widths, SEEDS)
    return {width: seconds_a_trial(x) * TRIALS for width, x in ends.items()} | {"whole": whole}


def sweep(widths, seeds):
    """Returns the seconds of a sweep."""
    make_trial = haiku_mup.training(make_model, make_data(), loss_fn, optax.adam, steps=STEPS, batch_size=BATCH,
                                    base_width=BASE)
    return timed(lambda: haiku_mup.lr_sweep(make_trial, widths, LRS, seeds, progress=False))


def seconds_a_trial(ends):
    """Returns the median over cells: from the end of one to that of the cell that each worker ran next."""
    return statistics.median((after - at) / workers / trials for (at, trials, workers), (after, _, _) in zip(
        ends, ends[ends[0][2]:]))
