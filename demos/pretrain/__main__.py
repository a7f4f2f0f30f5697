"""Runs `python -m demos.pretrain`."""
import sys

from demos.pretrain.program import main

if __name__ == "__main__":
    sys.exit(main())
