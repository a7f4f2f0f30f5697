"""The process of one side, which makes steps as it reads lines."""
import argparse
import contextlib
import ctypes
import gc
import importlib
import pathlib
import sys
import time


def work(args):
    """Makes the number of steps that each input line says; prints their seconds, and the memory at the end."""
    side = importlib.import_module("benchmarks.gpt2." + ("theirs" if args.worker == "torch" else "ours"))
    tiny = argparse.Namespace(**vars(args) | {"vocab": 64, "blocks": 1})
    side.make_step(tiny)()              # loads what libraries load at their first use
    trim()
    before = memory("VmRSS")            # with the side's libraries
    reset_peak()
    one_step = side.make_step(args)
    losses, with_start = [one_step(), one_step()], memory("VmHWM") - before
    trim()
    reset_peak()
    print("ready", flush=True)
    for line in sys.stdin:
        seconds = []
        for _ in range(int(line)):
            start = time.perf_counter()
            losses.append(one_step())
            seconds.append(time.perf_counter() - start)
        print(*seconds, flush=True)
    stepping = memory("VmHWM") - before
    print(stepping, max(with_start, stepping), losses[0], losses[-1], flush=True)


def memory(field):
    """Returns MiB of this process, as the kernel counts them."""
    lines = pathlib.Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field)) / 1024


def reset_peak():
    """Sets VmHWM to what the process has now."""
    pathlib.Path("/proc/self/clear_refs").write_text("5")


def trim():
    """Gives the kernel back what is free, such as what compiling took; glibc alone can."""
    gc.collect()
    with contextlib.suppress(AttributeError):
        ctypes.CDLL(None).malloc_trim(0)
