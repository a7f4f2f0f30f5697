"""Runs `python -m benchmarks.peers`."""
from benchmarks.peers.table import main

if __name__ == "__main__":
    main()
