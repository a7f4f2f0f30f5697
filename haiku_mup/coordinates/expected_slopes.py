"""Expected sizes relative to the base, and their slopes over widths: arithmetic on the rules, without JAX.

A sum over n independent terms grows like √n; a sum over n terms that training has aligned grows like n (Tensor
Programs V, arXiv 2203.03466, Appendix J.2). With the factors of a weight's init, multiplier and learning rate,
which the rules give, that determines the size of what the weight computes, initially and after an update.
"""
import functools
import math
import operator
from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple, TypeAlias, TypeVar

from haiku_mup.coordinates.slope_range import FLAT, ExpectedSlopes, Range
from haiku_mup.parameters.haiku_layers import SCALING_INPUTS, TIED
from haiku_mup.parameters.initializers import Moments
from haiku_mup.parameters.scaling import ParameterScaling
from haiku_mup.rules import Factors
from haiku_mup.rules.tables import maximal_update

T = TypeVar("T")
Scalings: TypeAlias = Mapping[int, Mapping[str, ParameterScaling]]      # width -> parameter's name -> scaling


# --- sizes relative to the base ---

class RelativeSizes(NamedTuple):
    """Sizes of a quantity, relative to those at the base.

    Attributes:
      initial: its size at initialization.
      change: how far one update moves it.
    """

    initial: float
    change: float


def weight_sizes(factors: Factors) -> RelativeSizes:
    """Returns the sizes of a weight's entries, and of an update's.

    An update of SGD is one of Adam times the size of the gradient, and SGD's factor divides by that size. So
    updates of both have the size of Adam's factor.

    >>> weight_sizes(haiku_mup.maximal_update().factors("hidden", 4.0, 4.0))
    RelativeSizes(initial=0.5, change=0.25)
    """
    return RelativeSizes(factors.init, factors.sgd * factors.eps if math.isnan(factors.adam) else factors.adam)


def product_sizes(factors: Factors, *, terms: float, multiplier: float) -> RelativeSizes:
    """Returns the sizes of a weight's product with activations, and of what an update adds to it.

    Args:
      factors: those of the weight.
      terms: ratio, target / base, of how many terms the product sums over.
      multiplier: of the product.

    >>> product_sizes(haiku_mup.maximal_update().factors("hidden", 4.0, 4.0), terms=4.0, multiplier=1.0)
    RelativeSizes(initial=1.0, change=1.0)
    >>> product_sizes(haiku_mup.maximal_update().factors("output", 4.0, 1.0), terms=4.0, multiplier=0.25)
    RelativeSizes(initial=0.5, change=1.0)
    """
    initial, change = weight_sizes(factors)
    return RelativeSizes(initial * math.sqrt(terms) * multiplier, change * terms * multiplier)


def logit_sizes(base_key_size: int, key_size: int) -> RelativeSizes:
    """Returns the sizes of attention logits: initially, and with aligned queries and keys.

    >>> logit_sizes(16, 64)
    RelativeSizes(initial=0.5, change=1.0)
    """
    d = key_size / base_key_size
    scale = maximal_update().attention_logits(base_key_size, key_size) / math.sqrt(d)
    return RelativeSizes(math.sqrt(d) * scale, d * scale)


# --- slopes over widths ---

def slope(widths: Iterable[float], values: Iterable[float]) -> float:
    """Returns the least-squares slope of log2 values against log2 widths.

    >>> round(slope([64, 128, 256], [1.0, 0.5, 0.25]), 6)
    -1.0
    """
    x, y = ([math.log2(v) for v in part] for part in (widths, values))
    mean_x, mean_y = (sum(part) / len(part) for part in (x, y))
    return sum((a - mean_x) * (b - mean_y) for a, b in zip(x, y)) / sum((a - mean_x)**2 for a in x)


def _slopes(by_width: Mapping[int, T], sizes: Callable[[T], RelativeSizes]) -> ExpectedSlopes:
    """Returns the slopes of the sizes that a function gives for each width's value."""
    initial, change = (slope(by_width, values) for values in zip(*map(sizes, by_width.values())))
    return ExpectedSlopes(Range(initial, initial), Range(change, change))


def parameter_slopes(name: str, scalings: Scalings, *, muon: bool = False) -> ExpectedSlopes:
    """Returns the slopes expected of a parameter's entries; with several blocks of rows, those of any block.

    Muon makes the singular values of a gradient equal. Where the gradient's rank is low, as with a small batch,
    the entries of the update are aligned, like Adam's. Where the rank grows with the width, they also grow like
    its root. Both are expected.

    Args:
      name: the parameter's name.
      scalings: its scaling, among others, at each width.
      muon: whether the optimizer is Muon.
    """
    blocks = max(len(at[name].row_blocks) for at in scalings.values())
    expected = []
    for i in range(blocks):
        # At the base's own width there may be one block, where wider models have several.
        factors = {width: at[name].row_blocks[min(i, len(at[name].row_blocks) - 1)].factors
                   for width, at in scalings.items()}
        expected.append(_slopes(factors, weight_sizes))
    if muon:
        rank = slope(scalings, (math.sqrt(min(at[name].row_blocks[0].m_in, at[name].row_blocks[0].m_out))
                                for at in scalings.values()))
        expected += [each._replace(change=each.change.plus(Range(rank, rank))) for each in expected]
    return union(expected)


def rate_slopes(name: str, scalings: Scalings) -> Range:
    """Returns the slopes expected of SGD's learning rate; with several blocks of rows, those of any block."""
    return _factor_slopes(name, scalings, lambda factors: factors.sgd)


def _factor_slopes(name: str, scalings: Scalings, factor: Callable[[Factors], float]) -> Range:
    """Returns the slopes of a factor; with several blocks of rows, those of any block."""
    blocks = max(len(at[name].row_blocks) for at in scalings.values())
    slopes = [slope(scalings, (factor(at[name].row_blocks[min(i, len(at[name].row_blocks) - 1)].factors)
                               for at in scalings.values())) for i in range(blocks)]
    return Range(min(slopes), max(slopes))


def gradient_slopes(name: str, scalings: Scalings) -> Range:
    """Returns the slopes expected of a gradient's entries, those of ε's factors, in any block of rows."""
    return _factor_slopes(name, scalings, lambda factors: factors.eps * factors.gradient)


def product_slopes(name: str, scalings: Scalings, *, with_bias: bool = False,
                   fades: bool = False) -> ExpectedSlopes:
    """Returns the slopes expected of a weight's product with activations: of a hidden layer, of a readout.

    Training changes the product by what it adds to the weight, which is aligned with the activations, and by
    the change of the activations. So the product moves as far as the first of these at least. In narrow models
    parts that are not aligned stand out beside it, and fade like initial values do. An embedding is aligned
    from the start with what was looked up in it.

    Args:
      name: the weight's name.
      scalings: its scaling, among others, at each width.
      with_bias: whether the layer's bias is added. It keeps its size, unless it starts at zero. It moves by the
        mean of the errors, which may have the size of the initial outputs.
      fades: whether to expect what is seen in narrow models, too: where the multiplier is measured by itself.
    """
    initial, change = _slopes({width: at[name] for width, at in scalings.items()}, _product_sizes)
    if next(iter(scalings.values()))[name].target.layer == TIED:
        return ExpectedSlopes(initial | change, initial | change if fades else change)
    if with_bias and has_bias(name, scalings):
        start = initial | FLAT if _has_nonzero_bias(name, scalings) else initial
        return ExpectedSlopes(start, initial | change)
    return ExpectedSlopes(initial, initial | change if fades else change)


def has_bias(name: str, scalings: Scalings) -> bool:
    """Returns whether a weight's layer has a bias."""
    return _bias_of(name) in next(iter(scalings.values()))


def multiplier_slope(name: str, scalings: Scalings) -> Range:
    """Returns the slope expected of the factor between a weight and its product with activations."""
    found = round(slope(scalings, (_multiplier(at[name]) for at in scalings.values())), 9)
    return Range(found, found)


def _multiplier(scaling: ParameterScaling) -> float:
    # A Readout's multiplier is its forward factor, which must not count twice.
    forward = 1.0 if scaling.target.layer in SCALING_INPUTS else scaling.row_blocks[0].factors.forward
    return scaling.multiplier * forward


def _product_sizes(scaling: ParameterScaling) -> RelativeSizes:
    layer, fans, factors = scaling.target.layer, scaling.target.fans, scaling.row_blocks[0].factors
    summed_axes = fans.fan_out if layer == TIED else fans.fan_in
    return product_sizes(factors, terms=_ratio(scaling, summed_axes), multiplier=_multiplier(scaling))


def logit_slopes(query_weight: str, scalings: Scalings) -> ExpectedSlopes:
    """Returns the slopes expected of the logits of the attention whose queries this weight makes."""
    expected = _slopes({width: at[query_weight] for width, at in scalings.items()}, _logit_sizes)
    return expected._replace(change=expected.initial | expected.change)


def _logit_sizes(scaling: ParameterScaling) -> RelativeSizes:
    base, target = scaling.base.key_size, scaling.target.key_size
    assert base and target, "the weight makes no queries"
    return logit_sizes(base, target)


def starts_at_zero(name: str, scalings: Scalings) -> bool:
    """Returns whether a parameter is zero at initialization, at every width."""
    return all(_is_zero(at[name].target.moments) for at in scalings.values())


def union(expected: Iterable[ExpectedSlopes]) -> ExpectedSlopes:
    """Returns the smallest ranges that contain all that are given."""
    initial, change = zip(*expected)
    return ExpectedSlopes(functools.reduce(operator.or_, initial), functools.reduce(operator.or_, change))


def _has_nonzero_bias(name: str, scalings: Scalings) -> bool:
    """Returns whether a weight's layer has a bias that does not start at zero."""
    bias = next(iter(scalings.values())).get(_bias_of(name))
    return bias is not None and not _is_zero(bias.target.moments)


def _bias_of(weight: str) -> str:
    return f"{weight.removesuffix('/w')}/b"


def _is_zero(moments: Moments) -> bool:
    return moments.std == 0 and moments.mean == 0


def _ratio(scaling: ParameterScaling, axes: Iterable[int]) -> float:
    """Returns how many times more entries the target has than the base, over these axes."""
    return math.prod((scaling.target.shape[a] / scaling.base.shape[a] for a in axes), start=1.0)
