"""Runs `python -m benchmarks.gpt2`."""
from benchmarks.gpt2.table import main

if __name__ == "__main__":
    main()
