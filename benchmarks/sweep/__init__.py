"""Times a sweep of learning rates, beside plain loops in PyTorch with mup's MuAdam, and in JAX.

python -m benchmarks.sweep [--torch PYTHON] [--widths 64,128,256,512,1024] [--trials 2] [--growth]

An MLP of 3 hidden layers on rows of 784 numbers, 12 learning rates x 5 seeds x 200 steps of 128 rows, float32.
haiku_mup.lr_sweep runs the whole sweep; its total includes compilation and the start of its processes. The
seconds of a width are those of its trials, by the median cell. In the loops all trials of a width cost the
same: after one to warm up, --trials are timed, and multiplied to 60; JAX's total includes compilation. PYTHON
is one that has torch and mup, in an environment of its own; without it PyTorch is left out. The peak is that of
plain matrix products in a loop, in a process on each core, in the same run: [128, width] times [width, width],
and [1024, 1024] squared. The bound is the time that a step's products take at the first of these speeds, and
Adam's pass over the parameters alone, which waits for memory where they don't fit into a core's cache; it is
measured in the same processes. --growth sweeps the smallest width with 60 and 600 trials, instead.
"""
