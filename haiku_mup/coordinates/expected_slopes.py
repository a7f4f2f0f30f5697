"""What μP expects of a model's coordinates: how each grows with the width. Arithmetic on the rules; no JAX.

A sum over n terms that don't know of each other grows like √n, and one over terms that training has
aligned like n (Tensor Programs V, arXiv 2203.03466, Appendix J.2). Together with the factors of a weight's
init, multiplier and learning rate that gives the size of what it makes, at the start and after an update.
"""
import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from haiku_mup import rules
from haiku_mup.coordinates.slope_range import FLAT, Range, Sizes
from haiku_mup.parameters.haiku_layers import READOUT, TIED
from haiku_mup.parameters.scaling import ParameterScaling
from haiku_mup.rules.tables import maximal_update


def parameter(factors: rules.Factors) -> tuple[float, float]:
    """The size of a weight's entries relative to the base, at the start and of an update.

    An update of SGD is one of Adam's times the gradient's size, and its factor takes that back: both have
    the size that Adam's factor says.

    >>> parameter(haiku_mup.maximal_update().factors("hidden", 4.0, 4.0))
    (0.5, 0.25)
    """
    return factors.init, factors.sgd * factors.eps if math.isnan(factors.adam) else factors.adam


def product(factors: rules.Factors, terms: float, multiplier: float) -> tuple[float, float]:
    """The size of a weight's product with activations, at the start and of what an update adds to it.

    Args:
      factors: of the weight.
      terms: the ratio of what the product sums over.
      multiplier: what the layer multiplies by.

    >>> product(haiku_mup.maximal_update().factors("hidden", 4.0, 4.0), terms=4.0, multiplier=1.0)
    (1.0, 1.0)
    >>> product(haiku_mup.maximal_update().factors("output", 4.0, 1.0), terms=4.0, multiplier=0.25)
    (0.5, 1.0)
    """
    start, update = parameter(factors)
    return start * math.sqrt(terms) * multiplier, update * terms * multiplier


def logits(base_key_size: int, key_size: int) -> tuple[float, float]:
    """The size of attention logits, at the start and when queries and keys are aligned.

    >>> logits(16, 64)
    (0.5, 1.0)
    """
    d = key_size / base_key_size
    scale = maximal_update().attention_logits(base_key_size, key_size) / math.sqrt(d)
    return math.sqrt(d) * scale, d * scale


# --- slopes over widths ---

Entries = Mapping[int, Mapping[str, ParameterScaling]]             # width -> parameter -> base beside target


def slope(widths: Iterable[float], values: Iterable[float]) -> float:
    """The slope of log2 values against log2 widths.

    >>> round(slope([64, 128, 256], [1.0, 0.5, 0.25]), 6)
    -1.0
    """
    x, y = ([math.log2(v) for v in part] for part in (widths, values))
    mean_x, mean_y = (sum(part) / len(part) for part in (x, y))
    return sum((a - mean_x) * (b - mean_y) for a, b in zip(x, y)) / sum((a - mean_x)**2 for a in x)


def _sizes(entries: Mapping[int, Any], size: Callable[[Any], tuple[float, float]]) -> Sizes:
    """The slopes of both of a quantity's sizes over the widths."""
    starts, changes = zip(*(size(value) for value in entries.values()))
    start, change = slope(entries, starts), slope(entries, changes)
    return Sizes(Range(start, start), Range(change, change))


def of_parameter(name: str, entries: Entries, muon: bool = False) -> Sizes:
    """What is expected of a parameter: of any of its blocks of rows.

    Muon makes a gradient's singular values alike. Where they are few, as with a small batch, its update has
    aligned entries, as Adam's; where they grow with the width, entries × the root of their number.
    """
    blocks = max(len(at[name].row_blocks) for at in entries.values())
    found = [_sizes({width: at[name].row_blocks[min(i, len(at[name].row_blocks) - 1)].factors
                     for width, at in entries.items()}, parameter) for i in range(blocks)]
    if muon:
        rank = slope(entries, (math.sqrt(min(at[name].row_blocks[0].m_in, at[name].row_blocks[0].m_out))
                               for at in entries.values()))
        found += [sizes._replace(change=sizes.change.plus(Range(rank, rank))) for sizes in found]
    return hull(found)


def of_product(name: str, entries: Entries) -> Sizes:
    """What is expected of the product of a weight with activations: a hidden layer's, a readout's.

    Training moves it by what it adds to the weight, and by the activations' own change, with which the weight
    as it was drawn may be aligned or not. A readout's bias keeps its size, where it isn't zero. Embeddings are
    aligned from the start with what was looked up in them.
    """
    def size(entry: ParameterScaling) -> tuple[float, float]:
        fans = entry.target.fans
        axes = fans.fan_out if entry.target.layer == TIED else fans.fan_in
        factors = entry.row_blocks[0].factors
        multiplier = entry.multiplier * (1.0 if entry.target.layer == READOUT else factors.forward)
        return product(factors, _growth(entry, axes), multiplier)

    found = _sizes({width: at[name] for width, at in entries.items()}, size)
    start, both = found.start, found.start | found.change
    if _bias(name, entries):
        return Sizes(start | FLAT, both)
    tied = next(iter(entries.values()))[name].target.layer == TIED
    return Sizes(both if tied else start, both)


def of_logits(name: str, entries: Entries) -> Sizes:
    """What is expected of the logits of the attention whose queries this weight makes."""
    sizes = {width: (at[name].base.key_size, at[name].target.key_size) for width, at in entries.items()}
    found = _sizes(sizes, lambda pair: logits(*pair))
    return found._replace(change=found.start | found.change)


def is_zero(name: str, entries: Entries) -> bool:
    """Whether a parameter starts at zero, so that it is what training makes of it."""
    return all(at[name].target.moments[:2] == (0, 0) for at in entries.values())


def _bias(name: str, entries: Entries) -> bool:
    """Whether the readout of this weight has a bias that doesn't start at zero."""
    some = next(iter(entries.values())).get(f"{name.removesuffix('/w')}/b")
    return some is not None and (some.target.moments.std != 0 or some.target.moments.mean != 0)


def _growth(entry: ParameterScaling, axes: Iterable[int]) -> float:
    return math.prod((entry.target.shape[a] / entry.base.shape[a] for a in axes), start=1.0)


def hull(found: Iterable[Sizes]) -> Sizes:
    """The smallest sizes that have all of these."""
    first, *rest = found
    for other in rest:
        first = Sizes(first.start | other.start, first.change | other.change)
    return first
