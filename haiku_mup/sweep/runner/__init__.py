"""Runs the trials of a sweep on an executor, retries what fails, and keeps results in a folder."""
