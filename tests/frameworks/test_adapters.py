"""The adapters know the axes of each layer: sizes that differ tell which axis is which.

Every layer has 3 inputs, 5 outputs (or heads and sizes whose product is 5's own), so that a shape's axes are
known without asking the adapter.
"""
import jax
import jax.numpy as jnp
import pytest

import haiku_mup
from haiku_mup.plans.tree_records import adapter_code

eqx = pytest.importorskip("equinox")
nnx = pytest.importorskip("flax.nnx")
nn = pytest.importorskip("flax.linen")
freeze = pytest.importorskip("flax.core").freeze

KEY, X = jax.random.key(0), jax.ShapeDtypeStruct((2, 7, 3), "float32")
IMAGE, IDS = jax.ShapeDtypeStruct((2, 7, 7, 3), "float32"), jax.ShapeDtypeStruct((2, 7), "int32")


def linen(model, *args, **kwargs):
    """Returns the parameters' shapes, and what the adapter tells of them."""
    params = jax.eval_shape(lambda key: model.init(key, *(jnp.zeros(x.shape, x.dtype) for x in args), **kwargs),
                            KEY)["params"]
    return haiku_mup.flax_linen(model, *args, **kwargs)(params)


def of_nnx(make):
    return haiku_mup.flax_nnx(nnx.eval_shape(lambda: make(nnx.Rngs(0))))


def of_equinox(make):
    return haiku_mup.equinox(eqx.filter_eval_shape(make, KEY))


def axes(layout, name):
    leaf = layout.leaves[name]
    return leaf.fans.fan_in, leaf.fans.fan_out, leaf.fans.lookup, leaf.stacks


def vectors(layout):
    return {name for name, leaf in layout.leaves.items() if not leaf.fans.fan_in and not leaf.fans.lookup}


# (make, name of the weight, its shape, (fan_in, fan_out, lookup, stacks))
EQUINOX = {
    "linear": (lambda key: eqx.nn.Linear(3, 5, key=key), "weight", (5, 3), ((1,), (0,), (), 0)),
    "scalar": (lambda key: eqx.nn.Linear(3, "scalar", key=key), "weight", (1, 3), ((1,), (0,), (), 0)),
    "conv": (lambda key: eqx.nn.Conv2d(3, 5, 2, key=key), "weight", (5, 3, 2, 2), ((1,), (0,), (), 0)),
    "transpose": (lambda key: eqx.nn.ConvTranspose1d(3, 5, 2, key=key), "weight", (5, 3, 2),
                  ((1,), (0,), (), 0)),
    "embedding": (lambda key: eqx.nn.Embedding(11, 5, key=key), "weight", (11, 5), ((), (1,), (0,), 0)),
    "gru": (lambda key: eqx.nn.GRUCell(3, 5, key=key), "weight_ih", (15, 3), ((1,), (0,), (), 0)),
    "lstm": (lambda key: eqx.nn.LSTMCell(3, 5, key=key), "weight_hh", (20, 5), ((1,), (0,), (), 0)),
    "norm": (lambda key: eqx.nn.LayerNorm((5, 3)), "weight", (5, 3), ((), (0, 1), (), 0)),
    "batch norm": (lambda key: eqx.nn.make_with_state(eqx.nn.BatchNorm)(5, "batch", mode="batch")[0], "weight",
                   (5,), ((), (0,), (), 0)),
    "attention": (lambda key: eqx.nn.MultiheadAttention(2, 6, key=key), "query_proj.weight", (6, 6),
                  ((1,), (0,), (), 0)),
    "stack": (lambda key: eqx.filter_vmap(lambda key: eqx.nn.Linear(3, 5, key=key))(jax.random.split(key, 4)),
              "weight", (4, 5, 3), ((1,), (0,), (), 1)),
    "inside": (lambda key: {"a": [eqx.nn.MLP(3, 5, 4, 1, key=key)]}, "a[0].layers[1].weight", (5, 4),
               ((1,), (0,), (), 0)),
}
NNX = {
    "linear": (lambda rngs: nnx.Linear(3, 5, rngs=rngs), "kernel", (3, 5), ((0,), (1,), (), 0)),
    "general": (lambda rngs: nnx.LinearGeneral((2, 3), (5, 4), axis=(-2, -1), rngs=rngs), "kernel",
                (2, 3, 5, 4), ((0, 1), (2, 3), (), 0)),
    "einsum": (lambda rngs: nnx.Einsum("btd,hdk->bthk", (2, 3, 5), (2, 5), rngs=rngs), "kernel", (2, 3, 5),
               ((1,), (0, 2), (), 0)),
    "conv": (lambda rngs: nnx.Conv(3, 5, (2, 2), rngs=rngs), "kernel", (2, 2, 3, 5), ((2,), (3,), (), 0)),
    "transpose": (lambda rngs: nnx.ConvTranspose(3, 5, (2,), rngs=rngs), "kernel", (2, 3, 5),
                  ((1,), (2,), (), 0)),
    "transposed kernel": (lambda rngs: nnx.ConvTranspose(3, 5, (2,), transpose_kernel=True, rngs=rngs),
                          "kernel", (2, 5, 3), ((2,), (1,), (), 0)),
    "embed": (lambda rngs: nnx.Embed(11, 5, rngs=rngs), "embedding", (11, 5), ((), (1,), (0,), 0)),
    "norm": (lambda rngs: nnx.LayerNorm(5, rngs=rngs), "scale", (5,), ((), (0,), (), 0)),
    "batch norm": (lambda rngs: nnx.BatchNorm(5, rngs=rngs), "bias", (5,), ((), (0,), (), 0)),
    "lstm": (lambda rngs: nnx.OptimizedLSTMCell(3, 5, rngs=rngs), "dense_i.kernel", (3, 20),
             ((0,), (1,), (), 0)),
    "gru": (lambda rngs: nnx.GRUCell(3, 5, rngs=rngs), "dense_h.kernel", (5, 15), ((0,), (1,), (), 0)),
    "query": (lambda rngs: nnx.MultiHeadAttention(2, 6, decode=False, rngs=rngs), "query.kernel", (6, 2, 3),
              ((0,), (1, 2), (), 0)),
    "attention's out": (lambda rngs: nnx.MultiHeadAttention(2, 6, decode=False, rngs=rngs), "out.kernel",
                        (2, 3, 6), ((0, 1), (2,), (), 0)),
    "lora": (lambda rngs: nnx.LoRA(3, 2, 5, rngs=rngs), "lora_b", (2, 5), ((0,), (1,), (), 0)),
    "stack": (lambda rngs: nnx.split_rngs(splits=4)(nnx.vmap(lambda rngs: nnx.Linear(3, 5, rngs=rngs)))(rngs),
              "kernel", (4, 3, 5), ((0,), (1,), (), 1)),
}
LINEN = {
    "dense": (lambda: linen(nn.Dense(5), X), "kernel", (3, 5), ((0,), (1,), (), 0)),
    "general": (lambda: linen(nn.DenseGeneral((5, 4), axis=(-2, -1)), X), "kernel", (7, 3, 5, 4),
                ((0, 1), (2, 3), (), 0)),
    "einsum": (lambda: linen(nn.Einsum((2, 3, 5), "btd,hdk->bthk"), X), "kernel", (2, 3, 5),
               ((1,), (0, 2), (), 0)),
    "conv": (lambda: linen(nn.Conv(5, (2, 2)), IMAGE), "kernel", (2, 2, 3, 5), ((2,), (3,), (), 0)),
    "transpose": (lambda: linen(nn.ConvTranspose(5, (2, 2)), IMAGE), "kernel", (2, 2, 3, 5),
                  ((2,), (3,), (), 0)),
    "transposed kernel": (lambda: linen(nn.ConvTranspose(5, (2, 2), transpose_kernel=True), IMAGE), "kernel",
                          (2, 2, 5, 3), ((3,), (2,), (), 0)),
    "embed": (lambda: linen(nn.Embed(11, 5), IDS), "embedding", (11, 5), ((), (1,), (0,), 0)),
    "norm": (lambda: linen(nn.LayerNorm(), X), "scale", (3,), ((), (0,), (), 0)),
    "lstm": (lambda: linen(nn.RNN(nn.OptimizedLSTMCell(5)), X), "cell.hi.kernel", (5, 5), ((0,), (1,), (), 0)),
    "gru": (lambda: linen(nn.RNN(nn.GRUCell(5)), X), "cell.in.kernel", (3, 5), ((0,), (1,), (), 0)),
    "query": (lambda: linen(nn.MultiHeadDotProductAttention(3, qkv_features=6), X), "query.kernel", (3, 3, 2),
              ((0,), (1, 2), (), 0)),
    "attention's out": (lambda: linen(nn.MultiHeadDotProductAttention(3, qkv_features=6), X), "out.kernel",
                        (3, 2, 3), ((0, 1), (2,), (), 0)),
    "boxed": (lambda: linen(nn.Dense(5, kernel_init=nn.with_partitioning(
        nn.initializers.lecun_normal(), ("a", "b"))), X), "kernel", (3, 5), ((0,), (1,), (), 0)),
    "stack": (lambda: linen(nn.vmap(nn.Dense, variable_axes={"params": 0}, split_rngs={"params": True},
                                    in_axes=None, axis_size=4)(5), X), "kernel", (4, 3, 5),
              ((0,), (1,), (), 1)),
    "scan": (lambda: linen(Scanned(), X), "Layer_0.Dense_0.kernel", (2, 3, 3), ((0,), (1,), (), 1)),
}


class Layer(nn.Module):
    @nn.compact
    def __call__(self, x, _):
        return nn.Dense(3)(x), None


class Scanned(nn.Module):
    @nn.compact
    def __call__(self, x):
        scan = nn.scan(nn.remat(Layer), variable_axes={"params": 0}, split_rngs={"params": True}, length=2)
        return scan(name="Layer_0")(x, None)[0]


@pytest.mark.parametrize("make, name, shape, expected", EQUINOX.values(), ids=EQUINOX)
def test_equinox(make, name, shape, expected):
    check(of_equinox(make), name, shape, expected)


@pytest.mark.parametrize("make, name, shape, expected", NNX.values(), ids=NNX)
def test_flax_nnx(make, name, shape, expected):
    check(of_nnx(make), name, shape, expected)


@pytest.mark.parametrize("layout, name, shape, expected", LINEN.values(), ids=LINEN)
def test_flax_linen(layout, name, shape, expected):
    check(layout(), name, shape, expected)


def check(layout, name, shape, expected):
    from haiku_mup.parameters.tree_paths import named_paths

    arrays = {n: x for n, x in named_paths(layout.params) if hasattr(x, "shape")}
    assert arrays[name].shape == shape and axes(layout, name) == expected
    assert set(layout.leaves) == set(arrays)            # nothing is left out, nothing is unknown
    assert vectors(layout) >= {n for n in arrays if n.rpartition(".")[2].startswith("bias")}


def test_key_sizes_are_those_of_queries():
    found = of_nnx(lambda rngs: nnx.MultiHeadAttention(2, 6, decode=False, rngs=rngs)).leaves
    assert {name for name, leaf in found.items() if leaf.key_size == 3} == {"query.kernel", "query.bias"}
    found = of_nnx(lambda rngs: nnx.MultiHeadAttention(2, 6, decode=False, normalize_qk=True, rngs=rngs)).leaves
    assert {name for name, leaf in found.items() if leaf.key_size} == {"query_ln.scale"}
    found = of_equinox(lambda key: eqx.nn.MultiheadAttention(2, 6, key=key, use_query_bias=True)).leaves
    assert {name for name, leaf in found.items() if leaf.key_size == 3} == {
        "query_proj.weight", "query_proj.bias"}
    found = linen(nn.MultiHeadDotProductAttention(3, qkv_features=6), X).leaves
    assert {name for name, leaf in found.items() if leaf.key_size == 2} == {"query.kernel", "query.bias"}
    found = linen(nn.MultiHeadDotProductAttention(3, qkv_features=6, normalize_qk=True), X).leaves
    assert {name for name, leaf in found.items() if leaf.key_size} == {"query_ln.scale"}


# --- exact stds ---

def measured(plan, name):
    return next(row for row in plan.table() if row.name == name)


@pytest.mark.parametrize("make, name, std", [
    (lambda w: eqx.nn.Linear(w, 10, key=KEY), "bias", lambda w: (3 * w)**-0.5),
    (lambda w: eqx.nn.Linear(w, w, key=KEY), "weight", lambda w: (3 * w)**-0.5),
    (lambda w: eqx.nn.Conv1d(w, w, 2, key=KEY), "weight", lambda w: (6 * w)**-0.5),
    (lambda w: nnx.Linear(w, w, rngs=nnx.Rngs(0)), "kernel", lambda w: w**-0.5),
    (lambda w: nnx.Embed(11, w, rngs=nnx.Rngs(0)), "embedding", lambda w: w**-0.5)])
def test_default_stds_are_exact(make, name, std):
    """Ten entries of a bias tell their std to 22 %; its layer's class tells it exactly."""
    adapter = haiku_mup.equinox if isinstance(make(2), eqx.Module) else haiku_mup.flax_nnx
    readouts = "weight" if name == "bias" else ()
    row = measured(haiku_mup.plan(make(8), make(32), fans=adapter, readouts=readouts), name)
    assert row.base_std == pytest.approx(std(8), rel=1e-12)


def test_another_initializer_is_measured():
    def model(w):
        return nnx.Linear(w, w, kernel_init=nnx.initializers.normal(0.02), rngs=nnx.Rngs(0))

    plan = haiku_mup.plan(model(32), model(64), fans=haiku_mup.flax_nnx)
    assert measured(plan, "kernel").base_std == pytest.approx(0.02, rel=0.1)


# --- what is not known, and what is no parameter ---

class Own(eqx.Module):
    linear: eqx.nn.Linear
    mix: jax.Array
    activation: object

    def __init__(self, width, key=KEY):
        self.linear, self.mix = eqx.nn.Linear(3, width, key=key), jnp.ones((width, width))
        self.activation = jax.nn.relu


def test_an_array_of_ones_own_raises_with_the_line_to_add():
    base, target = (eqx.filter_eval_shape(Own, width) for width in (4, 8))
    with pytest.raises(haiku_mup.MupError, match=r"'mix': base \(4, 4\).*declare them.") as caught:
        haiku_mup.plan(base, target, fans=haiku_mup.equinox)
    line = str(caught.value).partition("a weight [in, out]: haiku_mup.plan(")[2].partition(");")[0]
    assert line == "fans=[haiku_mup.equinox, {'mix': (0, 1)}]"
    plan = haiku_mup.plan(base, target, **eval(f"dict({line})"))
    assert {row.name: row.role for row in plan.table()} == {
        "linear.weight": "input", "linear.bias": "input", "mix": "hidden"}


@pytest.mark.parametrize("adapter, code", [
    (haiku_mup.flax_nnx, "haiku_mup.flax_nnx"),
    (haiku_mup.flax_linen(nn.Dense(3), X), "haiku_mup.flax_linen(model, x)"),
    (lambda model: haiku_mup.equinox(model), "<lambda>")])
def test_errors_repeat_the_adapters_that_are_there(adapter, code):
    assert adapter_code(adapter) == code


def test_an_adapter_that_is_missing_is_named():
    class Table(nn.Module):
        width: int

        @nn.compact
        def __call__(self, x):
            return nn.Dense(3)(nn.Embed(7, self.width)(x))

    ids = jnp.ones((2,), int)
    variables = [Table(width).init(KEY, ids) for width in (4, 8)]
    linen = r"'{}Dense_0.kernel' grows, .* fans=haiku_mup.flax_linen\(model, x\)\) of variables\['params'\]"
    for prefix, trees in (("params.", variables), ("", [tree["params"] for tree in variables]),
                          ("params.", [freeze(tree) for tree in variables])):
        with pytest.raises(haiku_mup.MupError, match=linen.format(prefix)):
            haiku_mup.plan(*trees)
    with pytest.raises(haiku_mup.MupError, match="'layers.0..weight' grows, .* fans=haiku_mup.equinox"):
        haiku_mup.plan(*(eqx.nn.MLP(5, 3, width, 2, key=KEY) for width in (4, 8)))
    with pytest.raises(haiku_mup.MupError, match=".*0..weight' grows, .* fans=haiku_mup.equinox"):
        haiku_mup.plan(*({"net": [eqx.nn.Linear(5, width, key=KEY)]} for width in (4, 8)))
    states = [nnx.state(nnx.Linear(5, width, rngs=nnx.Rngs(0)), nnx.Param) for width in (4, 8)]
    with pytest.raises(haiku_mup.MupError, match="'kernel' grows, .* fans=haiku_mup.flax_nnx. of the modules"):
        haiku_mup.plan(*states)
    # Other trees are asked for the axes of each.
    with pytest.raises(haiku_mup.MupError, match="a weight .in, out.: haiku_mup.plan"):
        haiku_mup.plan({"w": jnp.zeros((5, 4))}, {"w": jnp.zeros((5, 8))})
    # So is a framework's, where some axes are declared.
    with pytest.raises(haiku_mup.MupError, match="'Embed_0.embedding': base .* a weight .in, out.: "):
        haiku_mup.plan(*(tree["params"] for tree in variables), fans={"Dense_0.kernel": (0, 1)})


def test_weights_that_are_normalised_are_unknown():
    def model(width):
        return eqx.nn.WeightNorm(eqx.nn.Linear(width, width, key=KEY))

    with pytest.raises(haiku_mup.MupError, match="nothing says which axes"):
        haiku_mup.plan(*(eqx.filter_eval_shape(model, w) for w in (4, 8)), fans=haiku_mup.equinox)

    if not hasattr(nnx, "WeightNorm"):      # Flax 0.12.0
        return

    def flax_model(width):
        return nnx.WeightNorm(nnx.Linear(width, width, rngs=nnx.Rngs(0)), rngs=nnx.Rngs(0))

    with pytest.raises(haiku_mup.MupError, match="nothing says which axes"):
        haiku_mup.plan(*(nnx.eval_shape(lambda w=w: flax_model(w)) for w in (4, 8)), fans=haiku_mup.flax_nnx)


def test_weights_of_equinox_that_are_frozen_or_shared():
    def shared(key, width=8):
        layers = [eqx.nn.Linear(width, width, key=key), eqx.nn.Linear(width, width, key=key)]
        return eqx.nn.Shared(layers, where=lambda layers: layers[1].weight, get=lambda layers: layers[0].weight)

    def frozen(key):
        layers = [eqx.nn.Linear("scalar", 5, key=key), eqx.nn.Conv2d(4, 6, 3, groups=2, key=key)]
        return eqx.filter(layers, eqx.tree_at(lambda layers: [layer.weight for layer in layers], jax.tree.map(
            lambda x: True, eqx.filter(layers, eqx.is_array)), [False, False]))

    assert list(of_equinox(shared).leaves) == [
        "pytree[0].weight", "pytree[0].bias", "pytree[1].bias"]
    found = of_equinox(frozen).leaves
    assert {name: leaf.std for name, leaf in found.items()} == pytest.approx(
        {"[0].bias": 3**-0.5, "[1].bias": (3 * 2 * 9)**-0.5})
    plan = haiku_mup.plan(*(shared(KEY, width) for width in (8, 16)), fans=haiku_mup.equinox)
    assert plan.lr_scales()


def test_running_means_are_no_parameters():
    model = nnx.BatchNorm(5, rngs=nnx.Rngs(0))
    assert set(haiku_mup.flax_nnx(model).leaves) == {"scale", "bias"}
    with pytest.raises(haiku_mup.MupError, match=r"'mean' is a BatchStat, no parameter; give nnx.state\(model"):
        haiku_mup.plan(nnx.state(model), nnx.state(model))
    with pytest.raises(haiku_mup.MupError, match="fans=haiku_mup.flax_nnx"):
        haiku_mup.plan(model, model)
    with pytest.raises(haiku_mup.MupError, match="doesn't tell its layers; give plan the modules"):
        haiku_mup.plan(nnx.state(model, nnx.Param), nnx.state(model, nnx.Param), fans=haiku_mup.flax_nnx)
    layer, state = eqx.nn.make_with_state(eqx.nn.BatchNorm)(5, "batch", mode="ema")
    whole = eqx.nn.BatchNorm(5, "batch", mode="ema")
    for module in (layer, whole):
        assert set(haiku_mup.equinox(module).leaves) == {"weight", "bias"}
    with pytest.raises(haiku_mup.MupError, match=r"give variables\['params'\]"):
        variables = nn.BatchNorm(use_running_average=False).init(KEY, jnp.ones((2, 3)))
        haiku_mup.plan(variables, variables, fans=haiku_mup.flax_linen(
            nn.BatchNorm(use_running_average=False), X))


def test_a_stack_that_is_not_in_front_raises():
    def model(width):
        make = nnx.vmap(lambda rngs: nnx.Linear(width, width, rngs=rngs), in_axes=0, out_axes=1)
        return nnx.split_rngs(splits=4)(make)(nnx.Rngs(0))

    with pytest.raises(haiku_mup.MupError, match="put it in front: out_axes=0"):
        haiku_mup.plan(*(nnx.eval_shape(lambda w=w: model(w)) for w in (4, 8)), fans=haiku_mup.flax_nnx)


def test_a_table_that_attends_is_tied():
    class Model(nn.Module):
        width: int

        @nn.compact
        def __call__(self, ids):
            embed = nn.Embed(11, self.width, name="embed")
            return embed.attend(embed(ids))

    base, target = (linen(Model(width), IDS).params for width in (4, 8))
    adapter = haiku_mup.flax_linen(Model(4), IDS)
    with pytest.raises(haiku_mup.MupError, match=r"plan\(tied='embed.embedding'\).*plan.readout") as caught:
        haiku_mup.plan(base, target, fans=adapter)
    tied = haiku_mup.plan(base, target, fans=adapter, tied="embed.embedding")
    assert tied.multiplier("embed.embedding") == 0.5
    assert "{'embed.embedding': ((), 1, 0)}" in str(caught.value)
    assert haiku_mup.plan(base, target, fans=[adapter, {"embed.embedding": ((), 1, 0)}]).lr_scales()


def test_lora_is_told_apart():
    def model(width):
        return nnx.LoRALinear(width, width, lora_rank=2, rngs=nnx.Rngs(0))

    base, target = (nnx.eval_shape(lambda w=w: model(w)) for w in (4, 8))
    with pytest.raises(haiku_mup.MupError, match=r"'lora\.lora_a'.*is an output; name it"):
        haiku_mup.plan(base, target, fans=haiku_mup.flax_nnx)
    plan = haiku_mup.plan(base, target, fans=haiku_mup.flax_nnx, readouts="*.lora_a")
    assert {row.name: row.role for row in plan.table()}["lora.lora_b"] == "input"


def test_other_things_raise():
    with pytest.raises(haiku_mup.MupError, match=r"haiku_mup.flax_linen\(model, x\)"):
        haiku_mup.flax_linen({"w": 1})
