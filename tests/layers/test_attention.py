"""Attention against formulas, and against that of Haiku."""
import functools

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
from small_models import KEY, captured, one
from trees import equal

import haiku_mup

init = hk.initializers.VarianceScaling()


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
