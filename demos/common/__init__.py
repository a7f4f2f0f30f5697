"""Modules that several demos share: data, flags, losses, sweeps, reports."""
