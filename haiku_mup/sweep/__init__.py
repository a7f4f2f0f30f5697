"""Sweeps over learning rates: trials, curves, optima, recommendations."""
from haiku_mup.sweep.loss_curves import FLOOR, Curve, curves, drift, setback
from haiku_mup.sweep.optimum import Optimum

__all__ = ["FLOOR", "Curve", "Optimum", "curves", "drift", "setback"]
