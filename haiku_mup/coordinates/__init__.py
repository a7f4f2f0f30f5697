"""Coordinate checks: training models of several widths for a few steps, to see how sizes grow."""
