"""Random parameters of one's own: never wrong and quiet, against an oracle that knows how each is used.

`HYPOTHESIS_PROFILE=thorough python -m pytest tests/reference/test_own_parameters.py -m ""` tries new ones.
"""
import functools
import math
import os
from typing import NamedTuple

import haiku as hk
import jax
import jax.numpy as jnp
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from remedies import codes, declared, told
from small_models import KEY, one

import haiku_mup

THOROUGH = os.environ.get("HYPOTHESIS_PROFILE") == "thorough"       # new parameters at every run
SIZES = {"a": (2, 8), "b": (4, 8), "one": (1, 1), "three": (3, 3), "five": (5, 5)}     # base, target
INITS = {"zeros": jnp.zeros, "ones": jnp.ones, "normal": hk.initializers.RandomNormal(0.1),
         "fan_in": hk.initializers.VarianceScaling(), "constant": hk.initializers.Constant(0.3)}
VIEWS = ("plain", "cast", "scaled", "transposed back", "flattened", "remat")


class Spec(NamedTuple):
    """A parameter: its axes, whether each is summed over, and what is done with it.

    Attributes:
      axes: keys of `SIZES`.
      summed: for each axis, whether a product with activations sums over it.
      operation: "add", "multiply" or "look up" where it sums over nothing; a lookup is along the first axis.
      init: a key of `INITS`.
      view: how the parameter is handed to its use.
      eager: whether init runs untraced.
    """

    axes: tuple[str, ...]
    summed: tuple[bool, ...]
    operation: str
    init: str
    view: str
    eager: bool


@st.composite
def specs(draw):
    axes = draw(st.lists(st.sampled_from(sorted(SIZES)), min_size=1, max_size=4).filter(
        lambda axes: {"a", "b"} & set(axes)))
    summed = draw(st.lists(st.booleans(), min_size=len(axes), max_size=len(axes)))
    operations = ["add", "multiply", *["look up"] * (len(axes) > 1)]
    operation, init, view = (draw(st.sampled_from(x)) for x in (operations, sorted(INITS), VIEWS))
    return Spec(tuple(axes), tuple(summed), operation, init, view, draw(st.sampled_from([False] * 4 + [True])))


def oracle(spec):
    """Returns (role, multiplier, Adam's and SGD's rate) by Table 8."""
    is_lookup = spec.operation == "look up" and not any(spec.summed)
    m_in, m_out = (math.prod(SIZES[axis][1] / SIZES[axis][0] for i, (axis, s) in enumerate(zip(
        spec.axes, spec.summed)) if s == summed and not (is_lookup and i == 0)) for summed in (True, False))
    return {(True, True): ("hidden", 1, 1 / m_in, m_out / m_in), (True, False): ("output", 1 / m_in, 1, m_in),
            (False, True): ("input", 1, 1, m_out), (False, False): ("fixed", 1, 1, 1)}[m_in > 1, m_out > 1]


def viewed(w, view):
    """Returns the same array, after some operations."""
    if view == "transposed back":
        return jnp.swapaxes(jnp.swapaxes(w, 0, -1) + 0, 0, -1)
    if view == "flattened":
        return w.ravel().reshape(w.shape)
    if view == "cast":
        return w.astype(jnp.bfloat16).astype(w.dtype)
    return 2 * w if view == "scaled" else w


def used(w, x, spec):
    """Returns what a use of w makes of activations x [batch, 6]."""
    if any(spec.summed):
        letters = "ijkl"[:w.ndim]
        over = "".join(letter for letter, s in zip(letters, spec.summed) if s)
        sizes = [n for n, s in zip(w.shape, spec.summed) if s]
        x = hk.Linear(math.prod(sizes))(x).reshape(len(x), *sizes)
        return jnp.einsum(f"z{over},{letters}->z{''.join(k for k in letters if k not in over)}", jnp.tanh(x), w)
    if spec.operation == "look up":
        ids = jnp.argsort(x[:, :2])
        return w[ids % w.shape[0]]
    x = hk.Linear(w.size)(x).reshape(len(x), *w.shape)
    return x + w[None] if spec.operation == "add" else x * w[None]


def model(spec):
    def layer(x, width):
        shape = tuple(SIZES[axis][width > 8] for axis in spec.axes)
        w = hk.get_parameter("own", shape, init=INITS[spec.init])
        use = lambda w, x: used(viewed(w, spec.view), x, spec)      # noqa: E731
        return jnp.tanh((hk.remat(use) if spec.view == "remat" else use)(w, x))
    return one(layer)


def capture_of(spec):
    make, x = model(spec)

    def capture(mup):
        for context, width in ((mup.init_base, 8), (mup.init_target, 32)):
            init = make(width).init
            with context():
                (init if spec.eager else functools.partial(jax.eval_shape, init))(KEY, x)
    return capture


def check(spec):
    """Checks that a parameter has the oracle's factors, or is told of, and that some code of it is right."""
    mup, wanted = haiku_mup.Mup(), oracle(spec)
    texts = [text for text in told(capture_of(spec), mup) if "'~/own': " in text]
    if not texts:
        (row,) = (row for row in mup.table() if row.name == "~/own")
        assert (row.role, row.multiplier, row.adam_lr, row.sgd_lr) == wanted
        assert row.inferred == (row.role != "fixed")
        return
    found = [followed_row(spec, code) for text in texts for code in [*codes(text), *filled_in(text, spec)]]
    has_mean = wanted[0] == "hidden" and spec.init in ("ones", "constant")      # needs another initializer, too
    if not has_mean and not any("initialised with mean" in text for text in texts):
        assert wanted in found or not found, (texts, found, wanted)


def filled_in(text, spec):
    """Returns the declaration that a message leaves open, with the axes that are right."""
    if "(fan_in_axes, fan_out_axes)" not in text:
        return []
    lookup = (0,) if spec.operation == "look up" and not any(spec.summed) else ()
    summed, kept = (tuple(i for i, s in enumerate(spec.summed) if s is which and i not in lookup)
                    for which in (True, False))
    readouts = ", readouts='~/own'" if oracle(spec)[0] == "output" else ""
    return [f"Mup(fans={{'~/own': {(summed, kept, lookup) if lookup else (summed, kept)}}}{readouts})"]


def followed_row(spec, code):
    """Returns the factors that follow from a declaration; None for one that is told of in its turn."""
    mup = declared(code)
    if any("'~/own': " in text for text in told(capture_of(spec), mup)):
        return None
    row = next(row for row in mup.table() if row.name == "~/own")
    return row.role, row.multiplier, row.adam_lr, row.sgd_lr


def examples(count):
    return settings(max_examples=count, derandomize=not THOROUGH, deadline=None, database=None,
                    suppress_health_check=list(HealthCheck),
                    phases=[Phase.generate, Phase.shrink] if THOROUGH else [Phase.generate])


@examples(24)
@given(specs())
def test_a_parameter_of_ones_own_is_never_wrong_and_quiet(spec):
    check(spec)


@pytest.mark.slow
@examples(600)
@given(specs())
def test_many_parameters_of_ones_own_are_never_wrong_and_quiet(spec):
    check(spec)
