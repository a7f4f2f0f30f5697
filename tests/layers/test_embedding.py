"""Tied embeddings against formulas."""
import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_models import KEY, captured, one

import haiku_mup


@pytest.mark.parametrize("by", ["embed", "weights"])
@pytest.mark.parametrize("nested", [False, True])
def test_shared_readout(by, nested):
    def readout(embed, h):
        given = embed if by == "embed" else embed.get_weights()
        return haiku_mup.SharedReadout(
            use_bias=True, bias_init=hk.initializers.Constant(1.0), output_mult=3.0)(given, h)

    class Block(hk.Module):
        def __call__(self, embed, h):
            return readout(embed, h)

    def layer(x, width):
        embed = haiku_mup.SharedEmbed(7, width)
        return (Block() if nested else readout)(embed, embed(jnp.arange(2)))

    make, x = one(layer)
    mup = captured(make, x)
    model = mup.wrap_model(make(32))
    params = model.init(KEY, x)
    w = params["shared_embed"]["embeddings"]
    np.testing.assert_allclose(model.apply(params, None, x), 3 * w[:2] / 4 @ w.T + 1, rtol=1e-5, atol=1e-5)
    row = mup.table()[0]
    assert (row.role, row.target_std, row.multiplier) == ("input", row.base_std, 0.25)
    assert (row.adam_lr, row.sgd_lr) == (1.0, 4.0)


def test_several_shared_readouts_of_several_embeds():
    def layer(x, width):
        a, b = haiku_mup.SharedEmbed(7, width, name="a"), haiku_mup.SharedEmbed(5, 3 * width - 16, name="b")
        u, v = (e(jnp.arange(2)) for e in (a, b))
        readout = haiku_mup.SharedReadout()
        return readout(a, u), readout(b, v), readout(a, u + 1)

    make, x = one(layer)
    model = captured(make, x).wrap_model(make(32))
    params = model.init(KEY, x)
    a, b = (params[k]["embeddings"] for k in "ab")
    for out, expected in zip(model.apply(params, None, x), (
            a[:2] / 4 @ a.T, b[:2] / 10 @ b.T, (a[:2] + 1) / 4 @ a.T)):
        np.testing.assert_allclose(out, expected, rtol=1e-4, atol=1e-5)


def test_shared_weights_closed_over_by_a_layer_stack():
    def layer(x, width):
        embed = haiku_mup.SharedEmbed(7, width)
        h, weights = embed(jnp.arange(2)), embed.get_weights()

        def body(h):
            return h + jax.nn.softmax(haiku_mup.SharedReadout()(weights, h)) @ weights

        return haiku_mup.SharedReadout()(embed, hk.experimental.layer_stack(2)(body)(h))

    make, x = one(layer)
    model = captured(make, x).wrap_model(make(32))
    params = model.init(KEY, x)
    assert set(params) == {"shared_embed"}
    w = params["shared_embed"]["embeddings"]
    h = w[:2]
    for _ in range(2):
        h = h + jax.nn.softmax(h / 4 @ w.T) @ w
    np.testing.assert_allclose(model.apply(params, None, x), h / 4 @ w.T, rtol=1e-4, atol=1e-4)
