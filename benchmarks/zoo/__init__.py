"""Puts networks of public packages in μP, each package in an environment of its own.

python -m benchmarks.zoo [PACKAGE ...] [--no-check] [--keep FOLDER] [--rst FILE]

Makes a virtual environment for each package, with pinned versions (uv makes it where it is installed, else venv
and pip), captures its networks at three widths, with the declarations that they need and without, compares
roles and factors with a table that was written by hand from the rules of μP, and runs the coordinate check.
None of the packages' code is here: the entries in benchmarks/zoo/packages import it. --keep continues a run
that was stopped; --rst writes the table of docs/guides/existing_models.rst.
"""
