"""BackgroundJit: compiles in another thread, with options that XLA knows."""
import concurrent.futures

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from haiku_mup.coordinates import compilation


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
