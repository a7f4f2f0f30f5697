"""The process of one side, which makes steps as it reads lines."""
import importlib
import pathlib
import sys
import time


def work(args):
    """Makes the number of steps that each input line says; prints their seconds, and the memory at the end."""
    side = importlib.import_module("benchmarks.gpt2." + ("theirs" if args.worker == "torch" else "ours"))
    before = memory("VmRSS")            # with the side's libraries
    one_step = side.make_step(args)
    losses, with_start = [one_step(), one_step()], memory("VmHWM") - before
    pathlib.Path("/proc/self/clear_refs").write_text("5")      # resets VmHWM, the peak
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
