"""The sizes of the models, and the clock, which all sides share."""
import time

BATCH, INPUTS, CLASSES, STEPS, HEADS, LENGTH, LR = 64, 64, 10, 3, 4, 16, 2**-8
MODELS = {"mlp": (128, 256, 512, 1024, 2048), "transformer": (64, 128, 256, 512)}       # and their widths


def timed(function):
    """Calls the function; returns its seconds on the clock, and of this process's CPU time."""
    start = time.perf_counter(), time.process_time()
    function()
    return time.perf_counter() - start[0], time.process_time() - start[1]
