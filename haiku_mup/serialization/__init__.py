"""Files of captured bases, and the comparison of a checkpoint's Mup with the one at hand."""
