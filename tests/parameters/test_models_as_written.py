"""Models as people write them: each parameter's role and factors, derived by hand, and what is told of them."""
import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from remedies import told
from small_models import captured, one

import haiku_mup

FAN_IN, NORMAL, ZEROS = hk.initializers.VarianceScaling(), hk.initializers.RandomNormal(0.1), jnp.zeros
X, IDS = jnp.ones((2, 3, 6)), jnp.arange(6).reshape(2, 3)       # [batch, tokens, features], [batch, tokens]
IMAGES = jnp.ones((2, 8, 8, 3))
# Width 8 at the base, 32 at the target: (role, multiplier, Adam's rate, SGD's rate)
INPUT, HIDDEN, OUTPUT, FIXED = ("input", 1, 1, 4), ("hidden", 1, 1 / 4, 1), ("output", 1 / 4, 1, 4), (
    "fixed", 1, 1, 1)


def own(name, *shape, init=FAN_IN):
    return hk.get_parameter(name, shape, init=init)


def out(x, name="readout"):
    return haiku_mup.Readout(3, name=name)(x)


def einsum_attention(x, width):
    heads, size = 2, width // 2
    x = hk.Linear(width)(x)
    q, k, v = (jnp.einsum("btd,dhk->bthk", x, own(name, width, heads, size)) for name in "qkv")
    weights = jax.nn.softmax(jnp.einsum("bthk,bshk->bhts", q, k) / size)
    mixed = jnp.einsum("bhts,bshk->bthk", weights, v)
    return out(jnp.einsum("bthk,hkd->btd", mixed, own("o", heads, size, width)))


def attention_of_more_heads(x, width):
    heads, size = width // 4, 4
    x = hk.Linear(width)(x)
    v = jnp.einsum("btd,dhk->bthk", x, own("v", width, heads, size))
    sinks = own("sinks", heads, 1, 1, init=ZEROS)
    scores = jnp.einsum("bthk,bshk->bhts", v, v) * jnp.exp(own("temperature", init=ZEROS)) + sinks[None]
    return out(jnp.einsum("bhts,bshk,hkd->btd", scores, v, own("o", heads, size, width)))


def relative_positions(x, width):
    heads = width // 4
    x = hk.Linear(width)(x)
    distances = jnp.arange(3)[:, None] - jnp.arange(3)[None]
    table = hk.Embed(5, heads, name="buckets")(distances + 2)                   # [t, s, heads]
    scores = jnp.einsum("btd,bsd->bts", x, x)[:, None] / width + jnp.moveaxis(table, -1, 0)[None]
    return out(jnp.einsum("bhts,bshk->bthk", scores, x.reshape(2, 3, heads, 4)).reshape(2, 3, width))


def vision_transformer(images, width):
    x = hk.Conv2D(width, 4, 4)(images).reshape(2, 4, width)
    token = jnp.broadcast_to(own("class", 1, 1, width, init=NORMAL), (2, 1, width))
    x = jnp.concatenate([token, x], 1) + own("positions", 1, 5, width, init=NORMAL)
    x = x + hk.Linear(width)(jax.nn.gelu(hk.Linear(4 * width)(hk.LayerNorm(-1, True, True)(x))))
    return out(x[:, 0])


def ensemble(x, width):
    x = jnp.broadcast_to(x, (5, *x.shape))
    x = jnp.tanh(jnp.einsum("mbti,mio->mbto", x, own("w1", 5, 6, width)) + own(
        "b1", 5, width, init=ZEROS)[:, None, None])
    return out(jnp.tanh(jnp.einsum("mbti,mio->mbto", x, own("w2", 5, width, width))))


def heads_of_an_ensemble(x, width):
    x = jnp.tanh(hk.Linear(width)(x))
    bias = own("bias", 5, 1, init=ZEROS)[:, None, None]
    return jnp.einsum("bti,mio->mbto", x, own("head", 5, width, 1)) + bias


def weight_norm(x, width):
    x = hk.Linear(width)(x)
    v, g = own("v", width, width), own("g", width, init=jnp.ones)
    return out(x @ (g[None] * v / jnp.linalg.norm(v, axis=0, keepdims=True)))


def low_rank_adapter(x, width):
    x = jnp.tanh(hk.Linear(width)(x))
    return out(hk.Linear(width)(x) + x @ own("down", width, 2) @ own("up", 2, width, init=ZEROS))


def experts(x, width, count=4):
    x = hk.Linear(width)(x)
    gates = jax.nn.softmax(haiku_mup.Readout(count, name="router")(x))
    h = jax.nn.relu(jnp.einsum("btd,edf->btef", x, own("w1", count, width, 2 * width)))
    return out(jnp.einsum("btef,efd,bte->btd", h, own("w2", count, 2 * width, width), gates))


def more_experts(x, width):
    return experts(x, width, count=width // 4)


def u_net(images, width):
    down = jax.nn.relu(hk.Conv2D(width, 3, name="in")(images))
    low = jax.nn.relu(hk.Conv2D(2 * width, 3, 2, name="down")(down))
    up = hk.Conv2DTranspose(width, 3, 2, name="up")(low)
    x = jax.nn.relu(hk.Conv2D(width, 3, name="merge")(jnp.concatenate([up, down], -1)))
    return haiku_mup.ConvReadout(2, 3, 1)(x)


def graph_network(x, width):
    nodes = hk.Linear(width, name="embed")(x)
    pairs = jnp.concatenate([jnp.repeat(nodes, 3, 1), jnp.tile(nodes, (1, 3, 1))], -1)
    edges = hk.Linear(width, name="edge")(pairs) + hk.Linear(width, name="of_features")(jnp.tile(x, (1, 3, 1)))
    received = jax.nn.relu(edges).reshape(2, 3, 3, width).mean(2)
    return out(hk.Linear(width, name="node")(jnp.concatenate([nodes, received], -1)))


def mixed_edges(x, width):
    nodes = hk.Linear(width, name="embed")(x)
    return out(jax.nn.relu(hk.Linear(width, name="edge")(jnp.concatenate([nodes, nodes, x[..., :2]], -1))))


def actor_critic(x, width):
    core = hk.LSTM(width)
    x, _ = core(jax.nn.relu(hk.Linear(width)(x[:, 0])), core.initial_state(2))
    return out(x, "policy"), haiku_mup.Readout(1, name="value")(x)


def mixed_core(x, width):
    core = hk.LSTM(width)
    inputs = jnp.concatenate([jax.nn.relu(hk.Linear(width)(x[:, 0])), jnp.ones((2, 5))], -1)
    return out(core(inputs, core.initial_state(2))[0])


def autoencoder(x, width):
    h = jax.nn.relu(hk.Linear(width, name="encoder")(x))
    mean, log_std = (haiku_mup.Readout(4, name=name)(h) for name in ("mean", "log_std"))
    z = mean + jnp.exp(log_std)
    return out(jax.nn.relu(hk.Linear(width, name="b")(jax.nn.relu(hk.Linear(width, name="a")(z)))))


def equivariant(x, width):
    """Tensor products of irreps, by weights [u, v, w] of all multiplicities, [u, v], and of paths."""
    x = hk.Linear(width)(x)
    y = jnp.einsum("btu,btv,uvw->btw", x, x, own("uvw", width, width, width))
    y = y + jnp.einsum("btu,btv,uv->btu", x, x, own("uvu", width, width))
    return out(y * own("paths", 7, width, init=NORMAL)[:3][None])


def depthwise(images, width):
    x = hk.Conv2D(width, 1, name="in")(images)
    x = hk.DepthwiseConv2D(1, 3)(x) + hk.Conv2D(width, 3, feature_group_count=width, name="grouped")(x)
    kernel = own("kernel", 8, width, init=NORMAL)
    return out(hk.Conv2D(width, 1, name="pointwise")(jax.nn.relu(x)).mean(1) * kernel[None])


def shared_layers(x, width):
    x, shared = hk.Linear(width)(x), hk.Linear(width, name="shared")
    class Again(hk.Module):
        def __call__(self, x):
            return jnp.tanh(shared(x))
    return out(Again()(jnp.tanh(shared(Again()(x)))))


def state_space(x, width):
    u = hk.Linear(width)(x)
    a, b, c = own("a", width, 4, init=jnp.ones), own("b", width, 4), own("c", width, 4)
    h = jnp.einsum("btd,dn->btdn", u, jnp.exp(-a) * b)
    return out(jnp.einsum("btdn,dn->btd", h, c) + own("d", width, init=jnp.ones)[None, None] * u)


def kolmogorov_arnold(x, width):
    def basis(x):
        return jnp.stack([jnp.sin(x), jnp.cos(x), x], -1)
    x = jnp.einsum("ztik,iok->zto", basis(x), own("first", 6, width, 3))
    x = jnp.einsum("ztik,iok->zto", basis(x), own("middle", width, width, 3))
    return jnp.einsum("ztik,iok->zto", basis(x), own("last", width, 2, 3))


def stacked_by_hand(x, width):
    w, b = own("w", 3, width, width), own("b", 3, width, init=ZEROS)

    def block(x, layer):
        return jnp.tanh(x @ layer[0] + layer[1][None, None]), None
    return out(jax.lax.scan(block, hk.Linear(width)(x), (w, b))[0])


def joined_projections(x, width):
    """Weights [out, in] of three projections, which are one product."""
    x = hk.Linear(width)(x)
    w = jnp.concatenate([own(name, 2 * width * width // 8, width).T for name in "qkv"], -1)
    return out(x @ w)


def recurrence_of_ones_own(x, width):
    w, h = own("w", width, width), jnp.broadcast_to(own("start", 1, width, init=ZEROS), (2, width))
    x = hk.Linear(width)(x)
    for t in range(3):
        h = jnp.tanh(x[:, t] + h @ w)
    return out(h)


def mixer(x, width):
    x = jnp.swapaxes(hk.Linear(width)(x), 1, 2)
    x = hk.Linear(3, name="tokens_out")(jax.nn.relu(hk.Linear(10, name="tokens_in")(x)))
    return out(hk.Linear(width, name="channels")(jnp.swapaxes(x, 1, 2)))


def latents(x, width):
    queries = jnp.broadcast_to(own("latents", 4, width, init=NORMAL), (2, 4, width))
    keys = hk.Linear(width)(x)
    return out(jax.nn.softmax(jnp.einsum("bnd,btd->bnt", queries, keys) / width) @ keys)


def channels_first(images, width):
    x = hk.Conv2D(width, 3, data_format="NCHW")(jnp.moveaxis(images, -1, 1))
    x = x * own("gain", width, 1, 1, init=jnp.ones)[None]
    return out(hk.BatchNorm(True, True, 0.9, data_format="NCHW")(x, True).mean((2, 3)))


def spectral_convolution(x, width):
    x = jnp.fft.rfft(hk.Linear(width)(x), axis=1)                               # [batch, 2, width]
    real, imaginary = own("real", 2, width, width), own("imaginary", 2, width, width)
    x = jnp.einsum("bmi,mio->bmo", x, jax.lax.complex(real, imaginary))
    return out(jnp.fft.irfft(x, 3, axis=1))


# model: (inputs, {argument of Mup: declaration}, {parameter: factors}); without a declaration, it is quiet
QUIET = {
    einsum_attention: (X, {"~/q": HIDDEN, "~/v": HIDDEN, "~/o": HIDDEN, "readout/w": OUTPUT}),
    attention_of_more_heads: (X, {"~/v": HIDDEN, "~/o": HIDDEN, "~/sinks": INPUT, "~/temperature": FIXED}),
    relative_positions: (X, {"buckets/embeddings": INPUT, "linear/w": INPUT}),
    vision_transformer: (IMAGES, {"~/class": INPUT, "~/positions": INPUT, "conv2_d/w": INPUT,
                                  "linear/w": HIDDEN, "linear_1/w": HIDDEN, "layer_norm/scale": INPUT}),
    ensemble: (X, {"~/w1": INPUT, "~/b1": INPUT, "~/w2": HIDDEN, "readout/w": OUTPUT}),
    weight_norm: (X, {"~/v": HIDDEN, "~/g": INPUT}),
    experts: (X, {"~/w1": HIDDEN, "~/w2": HIDDEN, "router/w": OUTPUT}),
    u_net: (IMAGES, {"in/w": INPUT, "down/w": HIDDEN, "up/w": HIDDEN, "merge/w": HIDDEN,
                     "conv_readout/w": OUTPUT}),
    graph_network: (X, {"embed/w": INPUT, "edge/w": HIDDEN, "of_features/w": INPUT, "node/w": HIDDEN}),
    actor_critic: (X, {"linear/w": INPUT, "lstm/linear/w": HIDDEN, "policy/w": OUTPUT, "value/w": OUTPUT,
                       "value/b": FIXED}),
    autoencoder: (X, {"encoder/w": INPUT, "mean/w": OUTPUT, "log_std/w": OUTPUT, "a/w": INPUT, "b/w": HIDDEN}),
    depthwise: (IMAGES, {"in/w": INPUT, "depthwise_conv2_d/w": INPUT, "grouped/w": INPUT, "pointwise/w": HIDDEN,
                         "~/kernel": INPUT}),
    shared_layers: (X, {"shared/w": HIDDEN, "linear/w": INPUT}),
    stacked_by_hand: (X, {"~/w": HIDDEN, "~/b": INPUT}),
    recurrence_of_ones_own: (X, {"~/w": HIDDEN, "~/start": INPUT}),
    mixer: (X, {"tokens_in/w": FIXED, "tokens_out/w": FIXED, "channels/w": HIDDEN}),
    channels_first: (IMAGES, {"conv2_d/w": INPUT, "~/gain": INPUT, "batch_norm/scale": INPUT}),
    spectral_convolution: (X, {"~/real": HIDDEN, "~/imaginary": HIDDEN}),
    # Its product with keys is divided by the width in the model, so that it needs no multiplier of a readout.
    latents: (X, {"~/latents": INPUT, "linear/w": INPUT}),
}


def capture(model, inputs, **kwargs):
    """Returns a Mup that has captured a model, and what is told of it."""
    mup, (make, _) = haiku_mup.Mup(**kwargs), one(model)
    if model is channels_first:
        plain = make

        def make(width):
            return hk.transform_with_state(plain(width).apply._original_fn)
    return mup, told(lambda mup: captured(make, inputs, mup=mup), mup)


def check(mup, wanted):
    rows = {row.name: (row.role, row.multiplier, row.adam_lr, row.sgd_lr) for row in mup.table()}
    assert {name: rows[name] for name in wanted} == wanted


@pytest.mark.parametrize("model", QUIET, ids=lambda model: model.__name__)
def test_right_by_itself(model):
    inputs, wanted = QUIET[model]
    mup, texts = capture(model, inputs)
    assert texts == []
    check(mup, wanted)


BOTH = ("input", 1, 1, 4)
# model: (inputs, words of what is told, {argument of Mup: declaration}, factors)
TOLD = {
    heads_of_an_ensemble: (X, "an output, as haiku_mup.Readout is", {"readouts": "~/head"},
                           {"~/head": OUTPUT, "~/bias": FIXED}),
    low_rank_adapter: (X, "an output, as haiku_mup.Readout is", {"readouts": "~/down"},
                       {"~/down": OUTPUT, "~/up": INPUT, "linear_1/w": HIDDEN}),
    more_experts: (X, "nothing says which are fan-in and which fan-out",
                   {"fans": {"~/w1": (1, 2, 0), "~/w2": (1, 2, 0)}, "finite": {"router/*": "out"}},
                   {"~/w1": HIDDEN, "~/w2": HIDDEN, "router/w": OUTPUT, "router/b": FIXED}),
    mixed_edges: (X, "a concatenation of a growing and a fixed part:", None, {}),
    mixed_core: (X, "its fan-in grows", None, {}),
    equivariant: (X, "nothing says which are fan-in and which fan-out", {"fans": {"~/uvw": ((0, 1), 2)}},
                  {"~/uvw": ("hidden", 1, 1 / 16, 1 / 4), "~/uvu": HIDDEN, "~/paths": INPUT}),
    state_space: (X, "a bias or a gain", {"fans": {f"~/{name}": ((), (0, 1)) for name in "abc"}},
                  {"~/a": BOTH, "~/b": BOTH, "~/c": BOTH, "~/d": INPUT}),
    kolmogorov_arnold: (X, "a weight from the fixed to the growing width",
                        {"fans": {"~/first": ((0, 2), 1)}, "readouts": "~/last"},
                        {"~/first": INPUT, "~/middle": HIDDEN, "~/last": OUTPUT}),
    joined_projections: (X, "the program uses it as", {"fans": {f"~/{name}": (1, 0) for name in "qkv"}},
                         {"~/q": ("hidden", 1, 1 / 4, 4)}),
}


@pytest.mark.parametrize("model", TOLD, ids=lambda model: model.__name__)
def test_told_and_right_when_it_is_declared(model):
    inputs, words, declared, wanted = TOLD[model]
    _, texts = capture(model, inputs)
    assert any(words in text for text in texts), texts
    if declared is not None:
        mup, texts = capture(model, inputs, **declared)
        assert texts == []
        check(mup, wanted)


def test_draws_have_the_std_of_mup():
    """A hidden weight of one std, is drawn × 1/2 at four times the width."""
    def model(x, width):
        x = hk.Linear(width)(x)
        return out(x @ own("w", width, width, init=NORMAL) * own("gain", width, init=NORMAL)[None, None])

    mup, _ = capture(model, X)
    rows = {row.name: row for row in mup.table()}
    np.testing.assert_allclose([rows["~/w"].target_std, rows["~/gain"].target_std], [0.05, 0.1], rtol=1e-6)
