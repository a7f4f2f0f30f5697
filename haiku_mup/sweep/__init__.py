"""Sweeps over learning rates: trials, curves, optima, recommendations.

What is trained:

- training, optimizer_argument: turns a model, data, a loss and an optimizer into the trials of each width.
- training_loop, training_step: the batches and the steps of a trial.
- trial, spec: the hyperparameters of trials, and the arguments of `lr_sweep`.

How trials run:

- lr_sweep, search: trains every trial of a grid, or those that an adaptive search asks for.
- program, loop_state: compiles the trial of a width into a program that runs many of them side by side.
- split: compiles a trial's draws apart from its training, and draws once for each seed.
- retrace: finds draws that a trial makes outside of JAX.
- runner: hands trials to workers, and retries what fails.
- cell_file: keeps the losses of a few trials in a file.
- interrupt: defers Ctrl-C to a safe moment.

What comes out:

- result, rows: `Sweep`, and its table.
- loss_curves, optimum, ties: the loss against the learning rate, and the rate, or rates, at which it is lowest.
- recommendation: the learning rate to use, with reasons and warnings.
- transfer: the law of the best rate over widths, and what errors in it cost.
- compare_parametrizations, comparison: trains a model in several parametrizations, and compares them.
- figures: pictures.
"""
from haiku_mup.sweep.loss_curves import Curve, curves, drift, setback
from haiku_mup.sweep.optimum import Optimum

__all__ = ["Curve", "Optimum", "curves", "drift", "setback"]
