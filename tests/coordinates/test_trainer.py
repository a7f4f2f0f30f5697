"""Trainer: the same numbers however it compiles and measures."""
import haiku as hk
import jax
import jax.numpy as jnp
import optax
import pytest
from mutants import IMAGES, LABELS, loss_fn

import haiku_mup
from haiku_mup.coordinates import compilation


def points(make_model, **changes):
    """Returns {(quantity, width, seed, step, stat): value} of a check with SGD, whose steps are continuous."""
    settings = {"seeds": 1, "steps": 2, "adam": False, "progress": False} | changes
    check = haiku_mup.coord_check(make_model, (8, 16, 12), (IMAGES, LABELS), loss_fn, optax.sgd(0.1),
                                  **settings)
    assert [p.width for p in check.points] == sorted(p.width for p in check.points)
    return {(p.quantity, p.width, p.seed, p.step, p.stat): p.value for p in check.points}


def stacked(width):
    def fn(x):
        with haiku_mup.apply_mup():
            x = hk.Linear(width)(x.reshape(len(x), -1))
            x = hk.experimental.layer_stack(2)(lambda x: x + hk.Linear(width)(jax.nn.relu(x)))(x)
            return haiku_mup.Readout(10)(x)
    return hk.transform(fn)


def differing(found, expected):
    """Returns the keys of values that differ by more than float32 rounds in two steps, or that one side lacks.

    The tolerance is relative to the value, and to the largest value of its kind.
    """
    sizes = {}
    for (quantity, *_), value in expected.items():
        kind = quantity.split()[0]
        sizes[kind] = max(sizes.get(kind, 0), abs(value))
    return (found.keys() ^ expected.keys()) | {
        key for key, value in expected.items()
        if not abs(found.get(key, 0.0) - value) <= 1e-5 * sizes[key[0].split()[0]] + 1e-4 * abs(value)}


@pytest.fixture(scope="module")
def quick():
    return points(stacked)


@pytest.mark.slow
@pytest.mark.parametrize("options", [{}, compilation.FAST_OPTIONS])
def test_results_do_not_depend_on_the_compilers_options(quick, monkeypatch, options):
    monkeypatch.setattr(compilation, "FASTEST_OPTIONS", options)
    assert differing(points(stacked), quick) == set()


@pytest.mark.slow
def test_a_function_among_the_statistics_changes_no_other(quick):
    """Compares parameters measured by a compiled program, as with a function, and by NumPy, as without."""
    def smallest(x):
        return jnp.min(x)

    both = points(stacked, stats=("l1", smallest))
    assert differing({key: value for key, value in both.items() if key[-1] != "smallest"}, quick) == set()
    assert all(value < 0 for key, value in both.items()
               if (key[0], key[-1]) == ("param readout/w", "smallest"))


def test_a_value_that_is_missing_or_differs_is_found(quick):
    first, second, *_ = quick
    wrong = {key: value for key, value in quick.items() if key != first} | {second: quick[second] + 1.0}
    assert differing(wrong, quick) == {first, second}
