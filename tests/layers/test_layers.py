"""The layers are those of Haiku outside of μP, with the same signatures."""
import inspect

import haiku as hk
import jax.numpy as jnp
import pytest
from small_models import both
from trees import equal

import haiku_mup

X = jnp.linspace(-1, 1, 2 * 5 * 8).reshape(2, 5, 8)
init = hk.initializers.VarianceScaling()


@pytest.mark.parametrize("ours, haikus, arguments", [
    (haiku_mup.Readout, hk.Linear, (4, True, init, init, "name")),
    (haiku_mup.SharedEmbed, hk.Embed, (4, 3)),
    (haiku_mup.MultiHeadAttention, hk.MultiHeadAttention, (4, 3)),
])
def test_signatures_are_haikus_and_more(ours, haikus, arguments):
    plain, more = (inspect.signature(c.__init__) for c in (haikus, ours))
    names = list(plain.parameters)
    assert [n for n in more.parameters if n in names] == names
    assert all(more.parameters[n].default == plain.parameters[n].default for n in names)
    more.bind(None, *arguments)


def test_outside_of_mup_they_are_haikus():
    assert equal(*(both(lambda x: c(4, name="n")(x), X) for c in (haiku_mup.Readout, hk.Linear)))   # noqa: B023
    for size in ({}, {"value_size": 3, "model_size": 6, "with_bias": False}):
        assert equal(*(both(lambda x: c(2, 4, w_init=init, name="n", **size)(x, x, x), X)     # noqa: B023
                       for c in (haiku_mup.MultiHeadAttention, hk.MultiHeadAttention)))
    ids = jnp.arange(3)
    assert equal(*(both(lambda i: c(7, 4, name="n")(i), ids) for c in (haiku_mup.SharedEmbed, hk.Embed)))  # noqa: B023
