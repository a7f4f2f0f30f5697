"""Figures of sweeps and of coordinate checks; needs matplotlib."""
from haiku_mup.coordinates.figures import coordinates
from haiku_mup.sweep.figures import lr_transfer

__all__ = ["coordinates", "lr_transfer"]
