"""Runs the trials of a sweep on processes, threads or clusters, and keeps them in a folder."""
