"""Runs `python -m benchmarks.sweep`."""
from benchmarks.sweep.table import main

if __name__ == "__main__":
    main()
