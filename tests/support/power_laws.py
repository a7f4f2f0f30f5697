"""Points of a coordinate check that follow a power law of the width."""
import math

import numpy as np

from haiku_mup import Point


def points(slope, noise=0.0, seeds=5, quantity="activation linear", expected="0", widths=(64, 128, 256, 512)):
    rng = np.random.default_rng(0)
    return [Point("mup", w, s, 0, quantity, "l1", w**slope * math.exp(noise * rng.normal()), expected)
            for w in widths for s in range(seeds)]
