"""Runs the trials of a sweep on an executor, retries what fails, and keeps results in a folder.

- dispatcher: submits tasks, receives their results, and retries what failed.
- schedule: the cells of trials that the searches of a sweep ask for.
- tasks, pickling: what a worker does, and how it gets the user's functions.
- executors: loky's processes, the caller's executor, or a thread.
- folder: the files of a sweep.
"""
