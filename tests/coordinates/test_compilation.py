"""BackgroundJit: compiles in another thread, with options that XLA knows."""
import concurrent.futures

import jax
import jax.numpy as jnp
import numpy as np
import pytest

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
