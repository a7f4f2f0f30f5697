"""Benchmarks, one for each question; each prints a table of ratios, measured in one run."""
