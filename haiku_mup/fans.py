"""Which axes of a parameter are its fan-in and which its fan-out: Haiku's own layers, and a default."""
import math
from typing import NamedTuple

import haiku as hk


class Fans(NamedTuple):
    """Axes of one layer's parameter, without any stack axis in front.

    Axes in neither are no widths: a convolution's kernel, the rows of a lookup table.

    Attributes:
      fan_in: axes that a product with activations sums over.
      fan_out: axes of the activations that come out.
      known: False where the layer is not one of Haiku's, so that the axes are a guess.
      lookup: axes that may grow and count for nothing.
    """

    fan_in: tuple[int, ...]
    fan_out: tuple[int, ...]
    known: bool = True
    lookup: tuple[int, ...] = ()


# Vectors however many axes they have; then matrices, with what their rows and columns are.
_VECTORS = (hk.LayerNorm, hk.RMSNorm, hk.BatchNorm, hk.GroupNorm, hk.InstanceNorm, hk.Bias)
_MATRICES = {
    hk.Linear: {"w"}, hk.ConvND: {"w"}, hk.GRU: {"w_i", "w_h"},     # (*kernel, in, out)
    hk.DepthwiseConv1D: {"w"}, hk.DepthwiseConv2D: {"w"}, hk.DepthwiseConv3D: {"w"},
}


def fans(module: hk.Module | None, name: str, shape: tuple[int, ...]) -> Fans:
    """The fan axes of parameter `name` of `module`.

    A depthwise kernel is (*kernel, 1, out): its fan-in is the kernel alone, and never grows.

    Args:
      module: the hk.Module that owns it; None at top level.
      name: its last name: "w", "b", "scale", ….
      shape: its shape in one layer.

    >>> fans(None, "w", (64, 128))
    Fans(fan_in=(0,), fan_out=(1,), known=False, lookup=())
    """
    rank = len(shape)
    matrix = Fans((rank - 2,), (rank - 1,))
    if rank < 2 or isinstance(module, _VECTORS):
        return Fans((), tuple(range(rank)))
    if isinstance(module, (*_MATRICES, hk.ConvNDTranspose)) and name == "b":
        return Fans((), tuple(range(rank)))             # (out, 1, 1) where channels come first
    if isinstance(module, hk.ConvNDTranspose) and name == "w":
        return Fans((rank - 1,), (rank - 2,))           # (*kernel, out, in)
    if isinstance(module, hk.Embed) and name == "embeddings":
        return Fans((), (1,), lookup=(0,))              # (vocab, d)
    if isinstance(module, hk.nets.VectorQuantizer) and name == "embeddings":
        return Fans((), (0,), lookup=(1,))              # (d, codes)
    if any(isinstance(module, layer) and name in names for layer, names in _MATRICES.items()):
        return matrix
    if rank > 2 and math.prod(shape) == max(shape):     # (1, c, 1, 1); but (d, 1) is a matrix
        return Fans((), tuple(range(rank)), known=False)
    return matrix._replace(known=False)
