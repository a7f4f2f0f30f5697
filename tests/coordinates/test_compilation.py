"""Compiling in another thread, with options that XLA knows, and keeping what is compiled."""
import concurrent.futures

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import haiku_mup
from haiku_mup.coordinates import compilation


def test_an_option_that_xla_does_not_know_is_left_away():
    lowered = jax.jit(jnp.sin).lower(0.5)
    options = {"xla_has_no_such_option": True}
    with pytest.raises(jax.errors.JaxRuntimeError, match="xla_has_no_such_option"):
        lowered.compile(compiler_options=options)
    assert compilation.compile_fast(lowered, options)(0.5) == jnp.sin(0.5)


def test_a_program_is_compiled_elsewhere_and_anew_for_other_arguments():
    traced = []

    def double(x):
        traced.append(x.shape)
        return 2 * x

    program = compilation.BackgroundJit(double)
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        out = program.start(pool, jax.ShapeDtypeStruct((3,), jnp.float32), calls=1)
        assert (out.shape, out.dtype) == ((3,), jnp.float32)
        for x in np.ones(3, np.float32), np.ones(3, np.float32), np.ones(4, np.float32):
            np.testing.assert_array_equal(program(x), 2 * x)
    assert traced == [(3,), (4,)]


def test_an_error_of_the_program_is_not_taken_for_another():
    def fails(x):
        raise TypeError("mine")

    program = compilation.BackgroundJit(lambda x: jax.pure_callback(fails, x, x))
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        program.start(pool, np.float32(1), calls=1)
        with pytest.raises(Exception, match="mine"):
            jax.block_until_ready(program(np.float32(1)))


def test_work_decides_whether_a_program_is_optimized():
    """Compares one program on few and many entries, called once and often, and repeated within a scan."""
    def small(x):
        return jnp.tanh(x) + 1

    def is_worth(function, entries, calls):
        return compilation.is_worth_optimizing(jax.make_jaxpr(function)(jnp.ones(entries)).jaxpr, calls)

    def repeated(x):
        return jax.lax.scan(lambda x, _: (small(x), None), x, None, length=20_000)[0]

    assert not is_worth(small, 100, 15) and not is_worth(jax.jit(small), 100, 15)
    assert is_worth(small, 100_000, 15 * 100) and is_worth(small, 100, 100_000)
    assert is_worth(repeated, 100, 15) and not is_worth(lambda x: x @ x, 100, 100_000)


# --- programs that are kept ---

def check(folder, rate=0.01, **arguments):
    """Checks a small MLP, whose optimizer has a rate; returns how many programs the folder has."""
    def make_model(width):
        def fn(x):
            with haiku_mup.apply_mup():
                return haiku_mup.Readout(1)(jax.nn.relu(hk.Linear(width)(x)))
        return hk.transform(fn)

    def loss_fn(apply, params, rng, batch):
        return jnp.mean(apply(params, rng, batch)**2)

    haiku_mup.coord_check(make_model, [8, 16], jnp.ones((4, 3)), loss_fn, optax.adam(rate), seeds=1, steps=2,
                          progress=False, compilation_cache=folder, **arguments)
    return len([path for path in folder.iterdir() if path.name.endswith("-cache")])


def test_a_second_check_of_an_unchanged_model_compiles_nothing_and_of_another_does(tmp_path):
    first = check(tmp_path / "kept")
    assert first >= 4                   # at least an init and a step for each width
    assert check(tmp_path / "kept") == first
    assert check(tmp_path / "kept", rate=0.02) > first


def test_jax_has_its_own_settings_again_after_an_error(tmp_path):
    names = ("jax_compilation_cache_dir", "jax_persistent_cache_min_compile_time_secs",
             "jax_persistent_cache_min_entry_size_bytes", "jax_enable_compilation_cache")
    before = [getattr(jax.config, name) for name in names]
    with pytest.raises(haiku_mup.MupError, match="give 'mup'"):
        check(tmp_path, parametrization="mu")
    with pytest.raises(RuntimeError), compilation.kept_programs(tmp_path):
        assert jax.config.jax_compilation_cache_dir == str(tmp_path)
        raise RuntimeError
    assert [getattr(jax.config, name) for name in names] == before


def test_a_folder_that_can_not_be_made_is_an_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError):
        check(tmp_path / "file")
