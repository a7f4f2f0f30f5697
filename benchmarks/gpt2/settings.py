"""The data and the optimizer, which all sides share."""
import numpy as np

BATCH, LENGTH, STEPS, LR, DECAY = 8, 128, 4, 3e-4, 0.1


def make_tokens(args):
    """Returns ids [BATCH, LENGTH]."""
    return np.random.default_rng(0).integers(0, args.vocab, (BATCH, LENGTH))
