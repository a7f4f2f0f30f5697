"""Fan axes and roles of every layer that Haiku has, each by running it at two widths."""
import inspect
import types

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_models import KEY, captured, entry, one

import haiku_mup

normal = hk.initializers.RandomNormal()


def image(x, width, dims=1, first=False):
    """Channels that grow, for a layer behind: [1, 2, 1, …, channels], or [1, channels, 2, 1, …]."""
    x = hk.Linear(width, with_bias=False, name="h")(x).reshape(1, 2, *(1,) * (dims - 1), width)
    return jnp.moveaxis(x, -1, 1) if first else x


def sequence(core):
    """What a core makes of two steps; without its state if that is no part of the layer."""
    return lambda x, width: hk.dynamic_unroll(core(width), image(x, width), core(width).initial_state(2))[0]


def frames(dims, core):
    """A convolutional LSTM on channels that grow."""
    def layer(x, width):
        x = image(x, width, dims)
        made = core(x.shape[1:-1], 2 * width, 3)
        return made(x, made.initial_state(1))
    return layer


# (fan-in axes, fan-out axes, lookup axes)
MATRIX, VECTOR = ([0], [1], []), ([], [0], [])
PLANE, FLIPPED = ([], [0, 1], []), ([1], [0], [])


def kernel(dims, role="hidden", flipped=False):
    fan_in, fan_out = [dims], [dims + 1]
    return role, (fan_out, fan_in, []) if flipped else (fan_in, fan_out, [])


B = "input", VECTOR
W = "hidden", MATRIX
FIRST = [], [0, 1, 2], []          # (channels, 1, 1); (1, width, width)


def convolution(name, dims, **kwargs):
    return {f"{name}/w": kernel(dims, **kwargs), f"{name}/b": B}


def norm(*names, module):
    return {f"{module}/{name}": B for name in names}


# layer -> {parameter: (role, fans)}; the first word is the class; the ratio is 4 wherever something grows
LAYERS = {
    "Linear": (lambda x, w: hk.Linear(w)(image(x, w)), {"linear/w": W, "linear/b": B}),
    "Linear from the data": (lambda x, w: hk.Linear(w)(x), {"linear/w": ("input", MATRIX), "linear/b": B}),
    "Conv1D": (lambda x, w: hk.Conv1D(w, 3)(image(x, w)), convolution("conv1_d", 1)),
    "Conv2D dilated": (lambda x, w: hk.Conv2D(w, 3, rate=2)(image(x, w, 2)), convolution("conv2_d", 2)),
    "Conv2D from the data": (
        lambda x, w: hk.Conv2D(w, 3)(jnp.ones((1, 2, 2, 3))), convolution("conv2_d", 2, role="input")),
    "Conv2D grouped": (
        lambda x, w: hk.Conv2D(2 * w, 3, feature_group_count=2)(image(x, w, 2)), convolution("conv2_d", 2)),
    "Conv2D whose groups grow": (       # the channels of a group stay: it is as wide as ever
        lambda x, w: hk.Conv2D(2 * w, 3, feature_group_count=w // 4)(image(x, w, 2)),
        convolution("conv2_d", 2, role="input")),
    "Conv2D channels first": (
        lambda x, w: hk.Conv2D(w, 1, data_format="NCHW")(image(x, w, 2, first=True)),
        {"conv2_d/w": kernel(2), "conv2_d/b": ("input", FIRST)}),
    "Conv3D": (lambda x, w: hk.Conv3D(w, 1)(image(x, w, 3)), convolution("conv3_d", 3)),
    "ConvND": (lambda x, w: hk.ConvND(2, w, 1, name="c")(image(x, w, 2)), convolution("c", 2)),
    "Conv1DTranspose": (
        lambda x, w: hk.Conv1DTranspose(3 * w, 3)(image(x, w)),
        convolution("conv1_d_transpose", 1, flipped=True)),
    "Conv1DTranspose from the data": (
        lambda x, w: hk.Conv1DTranspose(w, 3)(x[None]),
        convolution("conv1_d_transpose", 1, flipped=True, role="input")),
    "Conv2DTranspose channels first": (
        lambda x, w: hk.Conv2DTranspose(w, 3, data_format="NCHW")(image(x, w, 2, first=True)),
        {"conv2_d_transpose/w": kernel(2, flipped=True), "conv2_d_transpose/b": ("input", FIRST)}),
    "Conv3DTranspose": (
        lambda x, w: hk.Conv3DTranspose(w, 1)(image(x, w, 3)),
        convolution("conv3_d_transpose", 3, flipped=True)),
    "ConvNDTranspose": (
        lambda x, w: hk.ConvNDTranspose(1, w, 1, name="c")(image(x, w)), convolution("c", 1, flipped=True)),
    "DepthwiseConv1D": (
        lambda x, w: hk.DepthwiseConv1D(2, 3)(image(x, w)), convolution("depthwise_conv1_d", 1, role="input")),
    "DepthwiseConv2D": (
        lambda x, w: hk.DepthwiseConv2D(2, 3)(image(x, w, 2)),
        convolution("depthwise_conv2_d", 2, role="input")),
    "DepthwiseConv2D channels first": (
        lambda x, w: hk.DepthwiseConv2D(1, 3, data_format="NCHW")(image(x, w, 2, first=True)),
        {"depthwise_conv2_d/w": kernel(2, "input"), "depthwise_conv2_d/b": ("input", FIRST)}),
    "DepthwiseConv3D": (
        lambda x, w: hk.DepthwiseConv3D(1, 1)(image(x, w, 3)),
        convolution("depthwise_conv3_d", 3, role="input")),
    "SeparableDepthwiseConv2D": (
        lambda x, w: hk.SeparableDepthwiseConv2D(2, 3, name="s")(image(x, w, 2)),
        {"s/~/depthwise_conv2_d/w": kernel(2, "input"), "s/~/depthwise_conv2_d_1/w": kernel(2, "input"),
         "s/~/depthwise_conv2_d_1/b": B}),
    "Embed": (
        lambda x, w: hk.Embed(5, w)(jnp.arange(2)), {"embed/embeddings": ("input", ([], [1], [0]))}),
    "Embed whose vocabulary grows, too": (
        lambda x, w: hk.Embed(w + 5, w)(jnp.arange(2)), {"embed/embeddings": ("input", ([], [1], [0]))}),
    "Embed whose vocabulary alone grows": (
        lambda x, w: hk.Embed(w, 5)(jnp.arange(2)), {"embed/embeddings": ("fixed", ([], [1], [0]))}),
    "Embed of one_hot": (
        lambda x, w: hk.Embed(5, w, lookup_style="ONE_HOT")(jnp.arange(2)),
        {"embed/embeddings": ("input", ([], [1], [0]))}),
    "Embed of a matrix": (
        lambda x, w: hk.Embed(embedding_matrix=np.ones((5, w)))(jnp.arange(2)),
        {"embed/embeddings": ("input", ([], [1], [0]))}),
    "LayerNorm": (
        lambda x, w: hk.LayerNorm(-1, True, True)(image(x, w)), norm("scale", "offset", module="layer_norm")),
    "LayerNorm on two axes": (
        lambda x, w: hk.LayerNorm((-2, -1), True, True, param_axis=(-2, -1))(jnp.ones((2, w, w))),
        {"layer_norm/scale": ("input", FIRST), "layer_norm/offset": ("input", FIRST)}),
    "RMSNorm": (lambda x, w: hk.RMSNorm(-1)(image(x, w)), norm("scale", module="rms_norm")),
    "GroupNorm": (lambda x, w: hk.GroupNorm(2)(image(x, w)), norm("scale", "offset", module="group_norm")),
    "InstanceNorm": (
        lambda x, w: hk.InstanceNorm(True, True)(image(x, w)), norm("scale", "offset", module="instance_norm")),
    "BatchNorm channels first": (
        lambda x, w: hk.BatchNorm(True, True, 0.9, data_format="NC...")(image(x, w, 2, first=True), True),
        {f"batch_norm/{name}": ("input", ([], [0, 1, 2, 3], [])) for name in ("scale", "offset")}),
    "Bias": (lambda x, w: hk.Bias()(image(x, w)), {"bias/b": ("input", PLANE)}),
    "Bias on two axes": (
        lambda x, w: hk.Bias(bias_dims=(-2, -1))(jnp.ones((2, w, w))), {"bias/b": ("input", PLANE)}),
    "Bias on no axis": (lambda x, w: hk.Bias(bias_dims=())(image(x, w)), {"bias/b": ("fixed", ([], [], []))}),
    "MultiHeadAttention": (
        lambda x, w: hk.MultiHeadAttention(w // 4, 4, w_init=normal, name="a")(*[image(x, w)] * 3),
        {f"a/{name}/{leaf}": role for name in ("query", "key", "value", "linear")
         for leaf, role in (("w", W), ("b", B))}),
    "GRU": (sequence(hk.GRU), {"gru/w_i": W, "gru/w_h": W, "gru/b": B}),
    "VanillaRNN": (sequence(lambda w: hk.VanillaRNN(w, double_bias=True)), {
        "vanilla_rnn/linear/w": W, "vanilla_rnn/linear/b": B,
        "vanilla_rnn/linear_1/w": W, "vanilla_rnn/linear_1/b": B}),
    "LSTM behind a layer that grows": (sequence(hk.LSTM), {"lstm/linear/w": W, "lstm/linear/b": B}),
    "DeepRNN": (
        lambda x, w: (lambda core: core(image(x, w)[0], core.initial_state(2)))(hk.DeepRNN(
            [hk.GRU(w), jax.nn.relu, hk.VanillaRNN(w, double_bias=False, name="v")])),
        {"gru/w_i": W, "gru/w_h": W, "gru/b": B, "v/linear/w": W, "v/linear/b": B, "v/linear_1/w": W}),
    "ResetCore": (
        lambda x, w: (lambda core: core((image(x, w)[0], jnp.zeros(2, bool)), core.initial_state(2)))(
            hk.ResetCore(hk.GRU(w))), {"gru/w_i": W, "gru/w_h": W, "gru/b": B}),
    **{f"Conv{n}DLSTM": (frames(n, core), {
        f"conv{n}_dlstm/{name}/{leaf}": kernel(n) if leaf == "w" else B
        for name in ("input_to_hidden", "hidden_to_hidden") for leaf in "wb"})
       for n, core in enumerate((hk.Conv1DLSTM, hk.Conv2DLSTM, hk.Conv3DLSTM), 1)},
    "Sequential": (
        lambda x, w: hk.Sequential([hk.Linear(w), jax.nn.relu])(image(x, w)), {"linear/w": W, "linear/b": B}),
    "MLP": (
        lambda x, w: hk.nets.MLP((w, w))(x),
        {"mlp/~/linear_0/w": ("input", MATRIX), "mlp/~/linear_0/b": B,
         "mlp/~/linear_1/w": W, "mlp/~/linear_1/b": B}),
    "VectorQuantizer": (
        lambda x, w: hk.nets.VectorQuantizer(w, 10, 0.25)(image(x, w), True)["quantize"],
        {"vector_quantizer/embeddings": ("input", ([], [0], [1]))}),
    "(own) three axes": (entry("w", lambda w: (w, 3, w), normal), {"~/w": ("hidden", None)}),
    "(own) a vector with axes of size 1": (
        entry("w", lambda w: (1, w, 1, 1), normal), {"~/w": ("input", ([], [0, 1, 2, 3], []))}),
    "(own) a scalar": (entry("w", lambda w: (), normal), {"~/w": ("fixed", ([], [], []))}),
}


@pytest.mark.parametrize("name", LAYERS)
def test_roles(name):
    layer, wanted = LAYERS[name]
    make, x = one(seen := Seen(layer))
    mup = captured(lambda width: stateful(make(width)), x)
    rows = {row.name: row for row in mup.table() if not row.name.startswith("h/")}
    fans = {name: entry["fans"] for name, entry in mup.state_dict()["parameters"].items()}
    assert {name: (row.role, wanted[name][1] and tuple(fans[name])) for name, row in rows.items()} == wanted
    assert name.startswith("(own)") or name.split()[0] in seen.classes
    for row in rows.values():
        if row.role == "hidden":
            assert (row.adam_lr, row.sgd_lr) == (0.25, 1.0)
        elif row.role == "input":
            assert (row.adam_lr, row.sgd_lr) == (1.0, 16.0 if name.endswith("on two axes") else 4.0)


class Seen:
    """A layer, and the names of the classes of all modules that it calls."""

    def __init__(self, layer):
        self.layer, self.classes = layer, set()

    def __call__(self, x, width):
        def interceptor(next_method, args, kwargs, context):
            self.classes.add(type(context.module).__name__)
            return next_method(*args, **kwargs)

        with hk.intercept_methods(interceptor):
            return self.layer(x, width)


# --- that none is missing ---

TREE = {"linear": {"w": jnp.ones((2, 3))}}
STATE_ONLY = {
    "ExponentialMovingAverage": lambda: hk.ExponentialMovingAverage(0.9)(jnp.ones(3)),
    "EMAParamsTree": lambda: hk.EMAParamsTree(0.9)(TREE),
    "SpectralNorm": lambda: hk.SpectralNorm()(jnp.ones((2, 3))),
    "SNParamsTree": lambda: hk.SNParamsTree()(TREE),
    "VectorQuantizerEMA": lambda: hk.nets.VectorQuantizerEMA(3, 4, 0.25, 0.9)(jnp.ones((2, 3)), True),
}
NOTHING = {
    "AvgPool": lambda: hk.AvgPool((2, 2, 1), 1, "SAME")(jnp.ones((1, 2, 2, 3))),
    "MaxPool": lambda: hk.MaxPool((2, 2, 1), 1, "SAME")(jnp.ones((1, 2, 2, 3))),
    "Flatten": lambda: hk.Flatten()(jnp.ones((2, 3))),
    "Reshape": lambda: hk.Reshape((3,))(jnp.ones((2, 3))),
    "IdentityCore": lambda: hk.IdentityCore()(jnp.ones(3), ()),
}
ABSTRACT = {"Module", "RNNCore"}
FIXED_WIDTH = {"ResNet18", "ResNet34", "ResNet50", "ResNet101", "ResNet152", "ResNet200"}
BELOW = {"ResNet", "MobileNetV1"}       # tests of their own


def exported(where=hk, seen=None):
    """{name: class} of all modules that Haiku shows."""
    seen = {where} if seen is None else seen
    found = {}
    for name in (n for n in dir(where) if not n.startswith("_")):
        value = getattr(where, name)
        if inspect.isclass(value) and issubclass(value, hk.Module):
            found[value.__name__] = value
        elif isinstance(value, types.ModuleType) and value.__name__.startswith("haiku.") and value not in seen:
            seen.add(value)
            found |= exported(value, seen)
    return found


def test_every_layer_that_haiku_has_is_in_the_table():
    known = {*STATE_ONLY, *NOTHING, *ABSTRACT, *FIXED_WIDTH, *BELOW} | {name.split()[0] for name in LAYERS}
    assert set(exported()) - known == set()
    assert len(exported()) > 50 and {"Linear", "MLP", "ResNet50"} <= set(exported())


@pytest.mark.parametrize("name", [*STATE_ONLY, *NOTHING])
def test_layers_without_parameters(name):
    layer = STATE_ONLY.get(name) or NOTHING.get(name)
    params, state = jax.eval_shape(hk.transform_with_state(layer).init, KEY)
    assert not params and bool(state) == (name in STATE_ONLY)


@pytest.mark.parametrize("name", sorted(FIXED_WIDTH))
def test_networks_whose_width_is_fixed(name):
    settings = inspect.signature(getattr(hk.nets, name)).parameters
    assert not {"channels_per_group", "channels"} & set(settings)


@pytest.mark.parametrize("v2, bottleneck", [(False, True), (True, False)])
def test_resnet(v2, bottleneck):
    def layer(x, w):
        return hk.nets.ResNet(
            (1, 1, 1, 1), 10, resnet_v2=v2, bottleneck=bottleneck, use_projection=(True,) * 4,
            channels_per_group=tuple(w * k for k in (4, 8, 16, 32)), initial_conv_config={"output_channels": w},
            logits_config={"w_init": normal, "name": "head"})(jnp.ones((1, 8, 8, 3)), is_training=True)

    roles, mup = network(layer, "*/head")
    assert roles.pop("res_net/~/initial_conv/w") == "input" and roles.pop("res_net/~/head/b") == "fixed"
    assert roles.pop("res_net/~/head/w") == "output"
    convolutions = {name for name in roles if "conv" in name and name.endswith("/w")}
    assert len(convolutions) == 4 * (3 + bottleneck) and all(roles[name] == "hidden" for name in convolutions)
    assert {role for name, role in roles.items() if name not in convolutions} == {"input"}
    assert {row.multiplier for row in mup.table()} == {1, 0.25}


def test_mobilenet():
    """It grows by its channels; its first convolution has 32 always."""
    def layer(x, w):
        return hk.nets.MobileNetV1((1, 2, 1), (w, 2 * w, 4 * w), 10)(jnp.ones((1, 16, 16, 3)), True)

    roles, _ = network(layer, "*/logits")
    kernels = {name[len("mobile_net_v1/"):]: role for name, role in roles.items() if name.endswith("/w")}
    assert kernels == {
        "conv2_d/w": "fixed", "logits/w": "output",
        "mobile_net_v1_block/depthwise_conv/w": "fixed", "mobile_net_v1_block/pointwise_conv/w": "input",
        "mobile_net_v1_block_1/depthwise_conv/w": "input", "mobile_net_v1_block_1/pointwise_conv/w": "hidden",
        "mobile_net_v1_block_2/depthwise_conv/w": "input", "mobile_net_v1_block_2/pointwise_conv/w": "hidden"}


def test_mlp_with_a_readout_by_glob():
    roles, _ = network(lambda x, w: hk.nets.MLP((w, w, 3))(x), "mlp/~/linear_2")
    assert [roles[f"mlp/~/linear_{i}/w"] for i in range(3)] == ["input", "hidden", "output"]
    with pytest.raises(haiku_mup.MupError, match="linear_2/w.*readouts"):
        network(lambda x, w: hk.nets.MLP((w, w, 3))(x), ())


def network(layer, readouts):
    make, x = one(layer)
    mup = captured(lambda width: stateful(make(width)), x, mup=haiku_mup.Mup(readouts=readouts))
    return {row.name: row.role for row in mup.table()}, mup


def stateful(model):
    return hk.transform_with_state(model.apply._original_fn)


def test_conv_transpose_has_its_fans_the_other_way_round():
    """Out × 4 · 3/3, in × 4 against a Conv1D whose sides grow by other ratios."""
    def layer(x, w, cls):
        h = hk.Linear(w, name="h")(x)[None]
        return cls(w + 24, 3)(h)        # 8 -> 32 is 4; 32 -> 56 is 1.75

    for cls, name in ((hk.Conv1D, "conv1_d/w"), (hk.Conv1DTranspose, "conv1_d_transpose/w")):
        make, x = one(lambda x, w, cls=cls: layer(x, w, cls))
        row = next(r for r in captured(make, x).table() if r.name == name)
        assert (row.adam_lr, row.sgd_lr) == (0.25, 1.75 / 4)
