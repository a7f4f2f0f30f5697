"""The layers against Haiku's own, and against formulas."""
import functools
import inspect

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_models import KEY, captured, one
from trees import equal

import haiku_mup

X = jnp.linspace(-1, 1, 2 * 5 * 8).reshape(2, 5, 8)
init = hk.initializers.VarianceScaling()


def both(f, *args):
    model = hk.without_apply_rng(hk.transform(f))
    params = model.init(KEY, *args)
    return params, model.apply(params, *args)


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


# --- attention ---

def attend(x, width, cls=haiku_mup.MultiHeadAttention, heads=2, key_size=None, **options):
    h = hk.Linear(width)(x)
    return cls(heads, key_size or width // heads, w_init=init, name="mha", model_size=width, **options)(h, h, h)


def test_attention_logits_in_growth(x64):
    """Key size 4 at the base, 16 at the target: logits q·k/√16 · √(4/16) = q·k · √4/16."""
    make, x = one(attend, (2, 5, 6))
    x = jax.random.normal(KEY, x.shape, jnp.float64)
    mup = captured(make, x)
    model = mup.wrap_model(make(32))
    p = jax.tree.map(lambda a: a + 0.1, model.init(KEY, x))
    h = x @ p["linear"]["w"] + p["linear"]["b"][None, None]
    q, k, v = ((h @ p[f"mha/{n}"]["w"] + p[f"mha/{n}"]["b"][None, None]).reshape(2, 5, 2, 16)
               for n in ("query", "key", "value"))
    weights = jax.nn.softmax(jnp.einsum("bthd,bThd->bhtT", q, k) * 4**0.5 / 16)
    out = jnp.einsum("bhtT,bThd->bthd", weights, v).reshape(2, 5, 32)
    out = out @ p["mha/linear"]["w"] + p["mha/linear"]["b"][None, None]
    np.testing.assert_allclose(model.apply(p, None, x), out, rtol=1e-12)


def test_attention_with_more_heads_is_haikus():
    outs = []
    for cls in (haiku_mup.MultiHeadAttention, hk.MultiHeadAttention):
        def layer(x, width, cls=cls):
            return attend(x, width, cls, heads=width // 4, key_size=4)
        make, x = one(layer, (2, 5, 6))
        model = captured(make, x).wrap_model(make(32))
        outs.append(model.apply(model.init(KEY, x), None, x))
    assert equal(*outs)


def test_zero_query_gives_uniform_attention():
    make, x = one(functools.partial(attend, zero_query=True, b_init=hk.initializers.RandomNormal()), (2, 5, 6))
    for f in (make(32), captured(make, x).wrap_model(make(32))):
        x = jax.random.normal(KEY, x.shape)
        p = f.init(KEY, x)
        assert not p["mha/query"]["w"].any() and not p["mha/query"]["b"].any()
        assert p["mha/key"]["w"].any() and p["mha/key"]["b"].any()
        out = f.apply(p, None, x)
        np.testing.assert_allclose(out, jnp.broadcast_to(out[:, :1], out.shape), rtol=1e-4, atol=1e-5)


def test_attention_in_a_layer_stack():
    def layer(x, width):
        def block(h):
            mha = haiku_mup.MultiHeadAttention(2, width // 2, w_init=init)
            return h + mha(h, h, h)
        return hk.experimental.layer_stack(2)(block)(hk.Linear(width)(x))

    make, x = one(layer, (2, 5, 6))
    mup = captured(make, x)
    assert [r.multiplier for r in mup.table() if r.name.endswith("query/w")] == [0.5]
    model = mup.wrap_model(make(32))
    assert jnp.isfinite(jax.jit(model.apply)(model.init(KEY, x), None, x)).all()
