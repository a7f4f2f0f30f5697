"""Fan axes and roles of Haiku's own layers, each by running it at two widths."""
import haiku as hk
import jax.numpy as jnp
import pytest
from helpers import captured, entry, one

normal = hk.initializers.RandomNormal()


def image(x, width, channels=None):
    """Channels that grow, for a layer behind: [1, 1, 6, channels]."""
    return hk.Linear(channels or width, with_bias=False, name="h")(x)[None]


def sequence(core):
    return lambda x, width: hk.dynamic_unroll(core(width), image(x, width), core(width).initial_state(2))[0]


# layer -> {parameter: role}; the ratio is 4 wherever something grows
LAYERS = {
    "Linear": (lambda x, w: hk.Linear(w)(image(x, w)), {"linear/w": "hidden", "linear/b": "input"}),
    "Conv1D": (lambda x, w: hk.Conv1D(w, 3)(image(x, w)), {"conv1_d/w": "hidden", "conv1_d/b": "input"}),
    "Conv2D grouped": (
        lambda x, w: hk.Conv2D(2 * w, 3, feature_group_count=2)(image(x, w)),
        {"conv2_d/w": "hidden", "conv2_d/b": "input"}),
    "Conv2D channels first": (
        lambda x, w: hk.Conv2D(w, 1, data_format="NCHW")(jnp.ones((1, 3, 2, 2)) + 0 * x.sum()),
        {"conv2_d/w": "input", "conv2_d/b": "input"}),
    "Conv1DTranspose": (
        lambda x, w: hk.Conv1DTranspose(3 * w, 3)(image(x, w)),
        {"conv1_d_transpose/w": "hidden", "conv1_d_transpose/b": "input"}),
    "Conv1DTranspose from the data": (
        lambda x, w: hk.Conv1DTranspose(w, 3)(x[None]),
        {"conv1_d_transpose/w": "input", "conv1_d_transpose/b": "input"}),
    "DepthwiseConv1D": (
        lambda x, w: hk.DepthwiseConv1D(2, 3)(image(x, w)),
        {"depthwise_conv1_d/w": "input", "depthwise_conv1_d/b": "input"}),
    "Embed": (lambda x, w: hk.Embed(5, w)(jnp.arange(2)), {"embed/embeddings": "input"}),
    "Embed, vocabulary grows, too": (
        lambda x, w: hk.Embed(w + 5, w)(jnp.arange(2)), {"embed/embeddings": "input"}),
    "LayerNorm on two axes": (
        lambda x, w: hk.LayerNorm((-2, -1), True, True, param_axis=(-2, -1))(jnp.ones((2, w, w))),
        {"layer_norm/scale": "input", "layer_norm/offset": "input"}),
    "RMSNorm": (lambda x, w: hk.RMSNorm(-1)(image(x, w)), {"rms_norm/scale": "input"}),
    "GroupNorm": (
        lambda x, w: hk.GroupNorm(2)(image(x, w)), {"group_norm/scale": "input", "group_norm/offset": "input"}),
    "Bias on two axes": (
        lambda x, w: hk.Bias(bias_dims=(-2, -1))(jnp.ones((2, w, w))), {"bias/b": "input"}),
    "GRU": (sequence(hk.GRU), {"gru/w_i": "hidden", "gru/w_h": "hidden", "gru/b": "input"}),
    "VanillaRNN": (sequence(hk.VanillaRNN), {
        "vanilla_rnn/linear/w": "hidden", "vanilla_rnn/linear/b": "input",
        "vanilla_rnn/linear_1/w": "hidden", "vanilla_rnn/linear_1/b": "input"}),
    "LSTM behind a layer that grows": (
        sequence(hk.LSTM), {"lstm/linear/w": "hidden", "lstm/linear/b": "input"}),
    "VectorQuantizer": (
        lambda x, w: hk.nets.VectorQuantizer(w, 10, 0.25)(image(x, w), True)["quantize"],
        {"vector_quantizer/embeddings": "input"}),
    "three axes of one's own": (entry("w", lambda w: (w, 3, w), normal), {"~/w": "hidden"}),
    "a vector with axes of size 1": (entry("w", lambda w: (1, w, 1, 1), normal), {"~/w": "input"}),
    "a scalar": (entry("w", lambda w: (), normal), {"~/w": "fixed"}),
}


@pytest.mark.parametrize("name", LAYERS)
def test_roles(name):
    layer, roles = LAYERS[name]
    make, x = one(layer)
    rows = {row.name: row for row in captured(make, x).table() if not row.name.startswith("h/")}
    assert {name: row.role for name, row in rows.items()} == roles
    for row in rows.values():
        if row.role == "hidden":
            assert (row.adam_lr, row.sgd_lr) == (0.25, 1.0)
        elif row.role == "input":
            assert (row.adam_lr, row.sgd_lr) == (1.0, 16.0 if "two axes" in name else 4.0)


def test_conv_transpose_has_its_fans_the_other_way_round():
    """Out × 4 · 3/3, in × 4 against a Conv1D whose sides grow by other ratios."""
    def layer(x, w, cls):
        h = hk.Linear(w, name="h")(x)[None]
        return cls(w + 24, 3)(h)        # 8 -> 32 is 4; 32 -> 56 is 1.75

    for cls, name in ((hk.Conv1D, "conv1_d/w"), (hk.Conv1DTranspose, "conv1_d_transpose/w")):
        make, x = one(lambda x, w, cls=cls: layer(x, w, cls))
        row = next(r for r in captured(make, x).table() if r.name == name)
        assert (row.adam_lr, row.sgd_lr) == (0.25, 1.75 / 4)
