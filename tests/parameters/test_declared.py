"""What a user says of a model from outside and at the spot: fans, readouts, and a delta."""
import contextlib
import functools

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_models import KEY, captured, one
from trees import equal

import haiku_mup

normal = hk.initializers.RandomNormal(0.1)


def rows(mup):
    return {row.name: row for row in mup.table()}


def heads(x, width):
    """[..., d] -> [..., heads, key] -> [..., d], with two weights of three axes that all grow."""
    x = hk.Linear(width)(x)
    w = hk.get_parameter("w", (width, width // 4, width // 2), init=normal)
    o = hk.get_parameter("o", (width // 4, width // 2, width), init=normal)
    return haiku_mup.Readout(3)(jnp.einsum("bhk,hkd->bd", jnp.einsum("bd,dhk->bhk", x, w), o))


def heads_at_the_spot(x, width):
    x = hk.Linear(width)(x)
    with haiku_mup.fans(fan_in=0, fan_out=(1, 2)):
        w = hk.get_parameter("w", (width, width // 4, width // 2), init=normal)
    with haiku_mup.fans(fan_in=(0, -2), fan_out=-1):
        o = hk.get_parameter("o", (width // 4, width // 2, width), init=normal)
    return haiku_mup.Readout(3)(jnp.einsum("bhk,hkd->bd", jnp.einsum("bd,dhk->bhk", x, w), o))


FANS = {"*/w": (0, (1, 2)), "*/o": ((0, 1), 2)}
NO_LAYERS = {"~/w": (0, (1, 2)), "~/o": ((0, 1), 2)}


@pytest.mark.parametrize("layer, fans", [(heads, NO_LAYERS), (heads_at_the_spot, None)])
def test_weights_of_three_growing_axes(layer, fans):
    """Width × 4, heads × 4, key size × 4: by hand, from Table 8."""
    mup = captured(*one(layer), mup=haiku_mup.Mup(fans=fans))
    w, o = rows(mup)["~/w"], rows(mup)["~/o"]
    assert (w.role, w.adam_lr, w.sgd_lr, w.target_std) == ("hidden", 1 / 4, 16 / 4, pytest.approx(0.1 / 2))
    assert (o.role, o.adam_lr, o.sgd_lr, o.target_std) == ("hidden", 1 / 16, 4 / 16, pytest.approx(0.1 / 4))
    assert not w.inferred and "?" not in mup.summary()


def test_weights_of_three_growing_axes_undeclared():
    with pytest.raises(haiku_mup.MupError, match=r"'~/w': .* declare them: Mup\(fans=\{'~/w': "):
        captured(*one(heads))


def test_a_guess_is_marked():
    def own(x, width):
        w = hk.get_parameter("w", (width, 2 * width), init=normal)
        return haiku_mup.Readout(3)(hk.Linear(width)(x) @ w)

    mup = captured(*one(own))
    assert [row.name for row in mup.table() if row.inferred] == ["~/w"]
    assert "hidden?" in mup.summary() and "Mup(fans=...)" in mup.summary()
    mup = captured(*one(own), mup=haiku_mup.Mup(fans={"~/w": (1, 0)}))      # used transposed
    assert rows(mup)["~/w"].adam_lr == 1 / 4 and "?" not in mup.summary()


def test_experts_are_no_fan():
    def moe(x, width, experts):
        with haiku_mup.fans(fan_in=1, fan_out=2, lookup=0):
            return hk.get_parameter("w", (experts, width, 2 * width), init=normal)

    for ratio in (1, 2):
        mup = captured(*one(lambda x, w, ratio=ratio: moe(x, w, 4 * (ratio if w > 8 else 1))))
        assert (rows(mup)["~/w"].role, rows(mup)["~/w"].adam_lr) == ("hidden", 0.25)


def test_a_vector_on_two_axes():
    def bias(x, width):
        return hk.get_parameter("b", (width, width), init=normal)

    mup = captured(*one(bias), mup=haiku_mup.Mup(fans={"~/b": ((), (0, 1))}))
    assert (rows(mup)["~/b"].role, rows(mup)["~/b"].sgd_lr) == ("input", 16)


def test_fans_at_the_spot_are_not_those_of_layers_inside():
    class Own(hk.Module):
        def __call__(self, x, width):
            with haiku_mup.fans(fan_in=1, fan_out=0):
                w = hk.get_parameter("w", (2 * width, width), init=normal)
                x = hk.Linear(width)(x)
            return x @ w.T

    mup = captured(*one(lambda x, w: Own()(x, w)))
    assert rows(mup)["own/linear/w"].role == "input" and rows(mup)["own/linear/b"].role == "input"
    assert rows(mup)["own/w"].role == "hidden" and not rows(mup)["own/w"].inferred


def test_fans_by_glob_in_a_stack_are_of_one_layer():
    def stacked(x, width):
        x = hk.Linear(width)(x)
        block = hk.experimental.layer_stack(3, name="blocks")(
            lambda x: x @ hk.get_parameter("w", (width, width), init=normal))
        return block(x)

    mup = captured(*one(stacked), mup=haiku_mup.Mup(fans={"blocks/*": (0, 1)}))
    assert [row.inferred for row in mup.table() if row.name.startswith("blocks")] == [False]


@pytest.mark.parametrize("fans, says", [
    ({"~/w": (0, (1, 3))}, "name an axis that it doesn't have"),
    ({"~/w": (0, (0, 1))}, "or one twice"),
    ({"~/w": (0, (1, 2)), "*w": (0, 1)}, "several globs"),
    ({"~/w": 0}, "give \\(fan_in_axes, fan_out_axes\\)"),
    ({"~/w": ("0", 1)}, "axes are whole numbers"),
    ({"~/w": (0, (1, 2)), "nothing/*": (0, 1)}, "'nothing/\\*' matches the name of no parameter"),
])
def test_wrong_fans(fans, says):
    with pytest.raises(haiku_mup.MupError, match=says):
        captured(*one(heads), mup=haiku_mup.Mup(fans={"~/o": ((0, 1), 2), **fans}))


def test_fans_that_differ_between_base_and_target():
    def layer(x, width):
        with haiku_mup.fans(*((0, 1) if width == 8 else (1, 0))):
            return hk.get_parameter("w", (width, width), init=normal)

    with pytest.raises(haiku_mup.MupError, match="declare them alike"):
        captured(*one(layer))


# --- readouts by name ---

IMAGE = jnp.linspace(-1, 1, 2 * 6 * 6 * 3).reshape(2, 6, 6, 3)
HEADS = {
    "linear": (lambda name: hk.Linear(3, name=name), lambda: haiku_mup.Readout(3, name="logits")),
    "conv": (lambda name: hk.Conv2D(3, 3, name=name), lambda: haiku_mup.ConvReadout(2, 3, 3, name="logits")),
    "grouped": (lambda name: hk.Conv2D(4, 3, feature_group_count=2, name=name),
                lambda: haiku_mup.ConvReadout(2, 4, 3, feature_group_count=2, name="logits")),
}


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("optimizer", [None, "jit"])
def test_a_readout_by_name_is_a_readout(head, optimizer):
    """The same draws, outputs, gradients and table as with the layer."""
    plain, ours = HEADS[head]

    def fn(x, width, last):
        return last(jax.nn.relu(hk.Conv2D(width, 3)(x)))

    by_name = captured(one(lambda x, w: fn(x, w, plain("logits")))[0], IMAGE,
                       mup=haiku_mup.Mup(readouts="*logits"))
    by_layer = captured(one(lambda x, w: fn(x, w, ours()))[0], IMAGE)
    assert rows(by_name) == rows(by_layer) and rows(by_name)["logits/w"].multiplier == 0.25
    results = []
    for mup, last in ((by_name, lambda: plain("logits")), (by_layer, ours)):
        model = hk.without_apply_rng(mup.wrap_model(one(lambda x, w, last=last: fn(x, w, last()))[0](32)))
        params = model.init(KEY, IMAGE)
        loss = jax.value_and_grad(lambda p, model=model: (model.apply(p, IMAGE)**2).sum())
        results.append((params, (jax.jit(loss) if optimizer else loss)(params)))
    assert equal(*results)


def test_a_transposed_convolution_may_be_a_readout():
    make, _ = one(lambda x, w: hk.Conv2DTranspose(3, 3, name="pixels")(hk.Conv2D(w, 3)(x)))
    mup = captured(make, IMAGE, mup=haiku_mup.Mup(readouts=["pixels"]))
    assert (rows(mup)["pixels/w"].role, rows(mup)["pixels/w"].multiplier) == ("output", 0.25)
    with pytest.raises(haiku_mup.MupError, match="readouts"):
        captured(make, IMAGE)


@pytest.mark.slow
def test_a_ready_made_resnet(x64):
    """hk.nets.ResNet, whose head can't be edited: at the base the plain model; the logits × 1/2 beyond."""
    def fn(x, width):
        with haiku_mup.apply_mup():
            return hk.nets.ResNet(
                (1, 1, 1, 1), 4, channels_per_group=tuple(width * k for k in (2, 4, 8, 16)), bottleneck=False,
                use_projection=(True,) * 4, initial_conv_config={"output_channels": width},
                logits_config={"w_init": normal})(x, is_training=True)

    def make(width):
        return hk.without_apply_rng(hk.transform_with_state(functools.partial(fn, width=width)))

    for width in (2, 4):
        mup = captured(make, IMAGE, base=2, target=width, mup=haiku_mup.Mup(readouts="*/logits"))
        model = mup.wrap_model(make(width))
        params, state = jax.jit(model.init)(KEY, IMAGE)
        got = jax.jit(model.apply)(params, state, IMAGE)[0]
        with pytest.warns(haiku_mup.MupWarning) if width == 4 else contextlib.nullcontext():     # no factor
            plain = jax.jit(make(width).apply)(params, state, IMAGE)[0]
        np.testing.assert_allclose(got, plain * (2 / width), rtol=1e-12)    # its logits have a bias of zero
        if width == 2:
            assert equal(params, jax.jit(make(2).init)(KEY, IMAGE)[0])


@pytest.mark.parametrize("readouts, says", [
    ("*/nothing", "matches the name of no hk.Linear or convolution"),
    ("linear", "is a hidden layer"),
    (3, "readouts: 3: give a glob"),
])
def test_wrong_readouts(readouts, says):
    def layer(x, width):
        return haiku_mup.Readout(3)(hk.Linear(width)(hk.Linear(width, name="first")(x)))

    with pytest.raises(haiku_mup.MupError, match=says):
        captured(*one(layer), mup=haiku_mup.Mup(readouts=readouts))


def test_a_readout_by_name_in_a_stack_and_a_name_twice():
    def layer(x, width):
        x = hk.Linear(width)(x)

        def block(x):
            return x + hk.Linear(width, name="up")(hk.Linear(3, name="down")(x))

        return haiku_mup.Readout(3)(hk.experimental.layer_stack(2, name="s")(block)(x))

    make, x = one(layer)
    mup = captured(make, x, mup=haiku_mup.Mup(readouts="s/*down"))
    assert (rows(mup)["s/down/w"].multiplier, rows(mup)["s/up/w"].multiplier) == (0.25, 1)
    model = mup.wrap_model(make(32))
    params = model.init(KEY, x)
    quarter = {name: {"w": params[name]["w"] / 4, "b": params[name]["b"]} for name in ("s/down", "readout")}
    with pytest.warns(haiku_mup.MupWarning, match="without its multipliers"):
        wanted = make(32).apply({**params, **quarter}, None, x)
    np.testing.assert_allclose(model.apply(params, None, x), wanted, rtol=1e-5)


# --- delta ---

def uneven(x, width):
    """A hidden width of its own, which a user may leave alone."""
    base, inner = width
    x = hk.Linear(base)(x)
    x = hk.Linear(inner)(x)
    x = hk.Linear(base)(x)
    return haiku_mup.Readout(3)(x)


def three(base, delta, target, layer=uneven):
    make, x = one(layer)
    mup = haiku_mup.Mup()
    with mup.init_base():
        jax.eval_shape(make(base).init, KEY, x)
    if delta is not None:
        with mup.init_delta():
            jax.eval_shape(make(delta).init, KEY, x)
    with mup.init_target():
        jax.eval_shape(make(target).init, KEY, x)
    return mup


def test_a_width_that_stays_is_hidden_with_a_delta():
    with pytest.raises(haiku_mup.MupError, match="'linear_1/w': .*init_delta"):
        three((8, 16), None, (32, 16))
    mup = three((8, 16), (4, 4), (32, 16))
    found = {name: (row.role, row.adam_lr, row.sgd_lr) for name, row in rows(mup).items() if "/w" in name}
    assert found == {"linear/w": ("input", 1, 4), "linear_1/w": ("hidden", 0.25, 0.25),
                     "linear_2/w": ("hidden", 1, 4), "readout/w": ("output", 1, 4)}
    assert rows(mup)["linear_1/b"].role == "input" and rows(mup)["readout/b"].role == "fixed"


def test_with_all_widths_growing_a_delta_changes_nothing():
    assert three((8, 16), (4, 4), (32, 32)).table() == three((8, 16), None, (32, 32)).table()


def test_a_width_that_grows_and_that_the_delta_leaves_alone():
    with pytest.raises(haiku_mup.MupError, match="'linear_1/w': .* the delta model, .*never does"):
        three((8, 16), (4, 16), (32, 64), layer=lambda x, w: haiku_mup.Readout(3)(
            hk.Linear(w[0])(x)) + haiku_mup.Readout(3)(hk.Linear(w[1])(x)))


def test_a_delta_is_judged_itself():
    with pytest.raises(haiku_mup.MupError, match="readout|Readout"):
        three(8, 4, 32, layer=lambda x, w: hk.Linear(3)(hk.Linear(w)(x)))
    with pytest.raises(haiku_mup.MupError, match="the delta has no such parameter"):
        three(8, 4, 8, layer=lambda x, w: haiku_mup.Readout(3, with_bias=w > 4)(hk.Linear(w)(x)))
    with pytest.raises(haiku_mup.MupError, match="the base has no such parameter"):
        three(8, 4, 8, layer=lambda x, w: haiku_mup.Readout(3, with_bias=w < 8)(hk.Linear(w)(x)))


def test_a_delta_out_of_order():
    mup = haiku_mup.Mup()
    with pytest.raises(haiku_mup.MupError, match="after init_base and before init_target"), mup.init_delta():
        raise AssertionError
    mup = three(8, None, 32, layer=lambda x, w: haiku_mup.Readout(3)(hk.Linear(w)(x)))
    with pytest.raises(haiku_mup.MupError, match="after init_base and before init_target"), mup.init_delta():
        raise AssertionError
