"""Sweeps over learning rates: trials, curves, optima, recommendations."""
# In the order of a sweep (the docstring is a page of the reference):
# - lr_sweep, spec: the call and its arguments.
# - training, optimizer_argument, retrace, training_step, training_loop: makes trials.
# - trial, program, jaxprs: one training run; the compiled program that runs many of them side by side.
# - search: which trials run. runner: how they run. cell_file: how finished ones are kept.
# - loss_curves, optimum, recommendation: what the losses say.
# - result, rows, figures: `Sweep`, with its tables and figures.
from haiku_mup.sweep.loss_curves import Curve, curves, drift, setback
from haiku_mup.sweep.optimum import Optimum

__all__ = ["Curve", "Optimum", "curves", "drift", "setback"]
