"""What a coordinate check compiles and measures: quickly, and the same."""
import concurrent.futures

import haiku as hk
import jax
import jax.numpy as jnp
import mutants
import numpy as np
import optax
import pytest
from mutants import IMAGES, LABELS, loss_fn

import haiku_mup
from haiku_mup.coordinates import array_stats as stats
from haiku_mup.coordinates import compilation

ALL = tuple(stats.STATS)


def points(make_model, **changes):
    """{(quantity, width, seed, step, stat): value} of a small check with SGD, whose steps are continuous."""
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


def agree(found, expected):
    """To rounding in float32, over two steps: beside the largest of what is of the same kind."""
    assert found.keys() == expected.keys()
    sizes = {}
    for (quantity, *_), value in expected.items():
        kind = quantity.split()[0]
        sizes[kind] = max(sizes.get(kind, 0), abs(value))
    for key, value in expected.items():
        assert abs(found[key] - value) <= 1e-5 * sizes[key[0].split()[0]] + 1e-4 * abs(value), key


@pytest.fixture(scope="module")
def quick():
    return points(stacked)


# --- compiling ---

@pytest.mark.slow
def test_results_do_not_depend_on_the_compilers_options(quick, monkeypatch):
    monkeypatch.setattr(compilation, "FAST_OPTIONS", {})
    agree(quick, points(stacked))


def test_an_option_that_xla_does_not_know_is_left_away(monkeypatch):
    lowered = jax.jit(jnp.sin).lower(0.5)
    monkeypatch.setattr(compilation, "FAST_OPTIONS", {"xla_has_no_such_option": True})
    with pytest.raises(jax.errors.JaxRuntimeError, match="xla_has_no_such_option"):
        lowered.compile(compiler_options=compilation.FAST_OPTIONS)
    assert compilation.compile_fast(lowered)(0.5) == jnp.sin(0.5)


def test_a_program_is_compiled_elsewhere_and_anew_for_other_arguments():
    traced = []

    def double(x):
        traced.append(x.shape)
        return 2 * x

    program = compilation.BackgroundJit(double)
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        out = program.start(pool, jax.ShapeDtypeStruct((3,), jnp.float32))
        assert (out.shape, out.dtype) == ((3,), jnp.float32)
        for x in np.ones(3, np.float32), np.ones(3, np.float32), np.ones(4, np.float32):
            np.testing.assert_array_equal(program(x), 2 * x)
    assert traced == [(3,), (4,)]


def test_an_error_of_the_program_is_not_taken_for_another():
    def fails(x):
        raise TypeError("mine")

    program = compilation.BackgroundJit(lambda x: jax.pure_callback(fails, x, x))
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        program.start(pool, np.float32(1))
        with pytest.raises(Exception, match="mine"):
            jax.block_until_ready(program(np.float32(1)))


# --- measuring ---

@pytest.mark.parametrize("dtype", [np.float32, np.float16, jnp.bfloat16, np.complex64])
@pytest.mark.parametrize("shape, axes", [
    ((stats.BLOCK + 7,), 0), ((3, 2, 5, 4), 2), ((2, stats.BLOCK, 3), 1), ((), 0)])
def test_parameters_in_memory_are_measured_as_compiled_ones_are(shape, axes, dtype):
    rng = np.random.default_rng(5)
    x, y = (rng.normal(0.3, 1, shape).astype(dtype) for _ in range(2))
    names = [name for name in ALL if dtype != np.complex64 or name != "mean"]
    for arrays in (x,), (x, y):
        found = stats.numpy_statistics_by_layer(*arrays, stats=names, axes=axes)
        expected = stats.statistics_by_layer(*map(jnp.asarray, arrays), stats=names, axes=axes)
        assert found.dtype == np.float32 and found.shape == (*shape[:axes], len(names))
        # float32's sums over 30,000 entries
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)


def test_what_diverges_is_measured_without_a_warning():
    x = np.asarray([np.inf, 1.0], np.float32)
    assert np.isnan(stats.numpy_statistics_by_layer(x, x, stats=ALL, axes=0)).all()


def test_a_function_among_the_statistics_changes_no_other(quick):
    """With one, parameters are measured by a compiled program, and without by NumPy."""
    def smallest(x):
        return jnp.min(x)

    both = points(stacked, stats=("l1", smallest))
    agree({key: value for key, value in both.items() if key[-1] != "smallest"}, quick)
    assert all(value < 0 for key, value in both.items()
               if (key[0], key[-1]) == ("param readout/w", "smallest"))


@pytest.mark.parametrize("inside", [
    jax.vmap, jax.checkpoint, lambda f: lambda x: jax.grad(lambda x: f(x).sum())(x),
    lambda f: lambda x: jax.lax.map(f, x)])
def test_apply_inside_a_transformation_of_the_loss_is_refused(inside):
    def loss(apply, params, rng, batch):
        return jnp.mean(inside(lambda x: apply(params, rng, x[None]))(batch[0]))

    with pytest.raises(haiku_mup.MupError, match="outside of any"):
        haiku_mup.coord_check(mutants.make(mutants.mlp), (8, 16), (IMAGES[:, 0], LABELS), loss,
                              optax.adam(0.01), steps=1, seeds=1, progress=False)
