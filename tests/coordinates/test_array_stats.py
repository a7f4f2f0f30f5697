"""Statistics of arrays: the same from NumPy as from JAX."""
import jax.numpy as jnp
import numpy as np
import pytest

from haiku_mup.coordinates import array_stats as stats

ALL = tuple(stats.STATS)


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
