"""Sweeps over learning rates: trials, curves, optima, recommendations."""
from haiku_mup.sweep.loss_curves import FLOOR, Curve, Curves, Optimum, curves, drift, setback

__all__ = ["FLOOR", "Curve", "Curves", "Optimum", "curves", "drift", "setback"]
