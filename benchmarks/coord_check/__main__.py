"""Runs `python -m benchmarks.coord_check`."""
from benchmarks.coord_check.table import main

if __name__ == "__main__":
    main()
