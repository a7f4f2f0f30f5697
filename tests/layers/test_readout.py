"""Readouts against formulas."""
import haiku as hk
import jax.numpy as jnp
import numpy as np
import pytest
from small_models import KEY, both, captured, one

import haiku_mup

X = jnp.linspace(-1, 1, 2 * 5 * 8).reshape(2, 5, 8)


def test_names():
    f = hk.transform(lambda x: haiku_mup.Readout(2)(x) + haiku_mup.Readout(2)(x))
    assert set(f.init(KEY, X)) == {"readout", "readout_1"}


def test_output_mult_multiplies_the_weights_part_alone():
    b_init = hk.initializers.Constant(1.0)
    params, out = both(lambda x: haiku_mup.Readout(4, b_init=b_init, output_mult=3.0)(x), X)
    np.testing.assert_allclose(out, 3 * X @ params["readout"]["w"] + 1, rtol=1e-5)
    make, x = one(lambda x, width: haiku_mup.Readout(4, b_init=b_init, output_mult=3.0)(hk.Linear(width)(x)))
    model = captured(make, x).wrap_model(make(32))
    p = model.init(KEY, x)
    h = x @ p["linear"]["w"]
    np.testing.assert_allclose(model.apply(p, None, x), 3 * h / 4 @ p["readout"]["w"] + 1, rtol=1e-5)


def test_a_readout_with_a_finite_fan_in_is_a_linear_layer():
    make, x = one(lambda x, width: haiku_mup.Readout(4)(x) + hk.Linear(width)(x).mean())
    mup = captured(make, x)
    row = next(r for r in mup.table() if r.name == "readout/w")
    assert (row.role, row.multiplier, row.sgd_lr) == ("fixed", 1.0, 1.0)


def test_zero_init():
    params, out = both(lambda x: haiku_mup.Readout(4, zero_init=True)(x), X)
    assert not params["readout"]["w"].any() and not out.any()
    make, x = one(lambda x, width: haiku_mup.Readout(4, zero_init=True)(hk.Linear(width)(x)))
    mup = captured(make, x)
    assert not mup.wrap_model(make(32)).init(KEY, x)["readout"]["w"].any()
    assert mup.table()[2].sgd_lr == 4.0


@pytest.mark.parametrize("arguments, said", [
    (dict(output_size=0), "output_size=0"), (dict(output_size="3"), "output_size='3'"),
    (dict(output_size=3.0), "output_size=3.0"), (dict(output_size=3, output_mult="a"), "output_mult='a'")])
def test_arguments_that_can_not_be(arguments, said):
    def conv(output_size, **others):
        return haiku_mup.ConvReadout(1, output_size, 1, **others)

    for make, text in ((haiku_mup.Readout, said), (conv, said.replace("output_size", "output_channels"))):
        with pytest.raises(haiku_mup.MupError, match=f"Readout: {text}: give"):
            hk.transform(lambda x, make=make: make(**arguments)(x)).init(KEY, X)
    for size, mult in ((np.int64(3), np.float32(2.0)), (3, jnp.ones(()))):
        hk.transform(lambda x, size=size, mult=mult: haiku_mup.Readout(size, output_mult=mult)(x)).init(KEY, X)
