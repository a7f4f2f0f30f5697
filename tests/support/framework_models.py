"""An MLP, a CNN and a transformer, each in Haiku, as plain dicts, in Flax NNX, Flax Linen and Equinox.

All compute the same from the same parameters. `MODELS[name]` has the function of Haiku; `FRAMEWORKS[framework]`
has a function from (name, width) to a `Model`.
"""
from typing import Any, NamedTuple

import equinox as eqx
import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax import nnx

import haiku_mup
from haiku_mup.parameters.tree_paths import named_paths

KEY = jax.random.key(0)
IDS = np.array([[1, 2, 3, 4, 5], [6, 5, 4, 3, 2]])
INPUTS = {"mlp": np.random.default_rng(0).normal(size=(6, 5)),
          "cnn": np.random.default_rng(1).normal(size=(4, 6, 6, 3)), "transformer": IDS, "tied": IDS}
VOCAB, HEADS, NORM = 7, 2, 1e-5


class Model(NamedTuple):
    """A model of one width.

    Attributes:
      params: its parameters, arrays or shapes, as the framework has them.
      apply: from (params, inputs, plan) to outputs.
      names: from its parameters' paths to Haiku's names, each with what turns Haiku's array into it.
      plan: the arguments of `haiku_mup.plan`, which is given `source` at base and target.
      source: what plan is given, if it is not `params`.
    """

    params: Any
    apply: Any
    names: dict[str, Any]
    plan: dict[str, Any]
    source: Any = None

    def filled(self, values):
        """Returns the parameters with Haiku's values."""
        leaves = []
        for name, x in named_paths(self.params):
            source, turn = self.names[name] if isinstance(self.names[name], tuple) else (self.names[name], None)
            module, _, leaf = source.rpartition("/")
            value = values[module][leaf] if turn is None else turn(values[module][leaf], x.shape)
            leaves.append(jnp.asarray(value).reshape(x.shape))
        return jax.tree.unflatten(jax.tree.structure(self.params), leaves)


def transposed(w, shape):
    return w.T


def conv_transposed(w, shape):
    return jnp.transpose(w, (3, 2, 0, 1))


# --- Haiku, in μP ---

def haiku_model(name, width, readout=haiku_mup.Readout):
    def mlp(x):
        x = jax.nn.relu(hk.Linear(width, name="first")(x))
        return readout(3, name="out")(jax.nn.relu(hk.Linear(3 * width // 2 + 1, name="second")(x)))

    def cnn(x):
        for i, size in enumerate((width, 2 * width)):
            x = hk.Conv2D(size, 3, name=f"conv_{i}")(x)
            x = jax.nn.relu(hk.BatchNorm(True, True, 0.9, eps=NORM, name=f"norm_{i}")(x, is_training=True))
        return readout(3, name="out")(x.mean((1, 2)))

    def transformer(ids, tied=False):
        embed = (haiku_mup.SharedEmbed if tied else hk.Embed)(VOCAB, width, name="embed")
        x = embed(ids)
        h = norm("norm_0", x)
        attend = haiku_mup.MultiHeadAttention(HEADS, width // HEADS, model_size=width, name="attend",
                                              w_init=hk.initializers.VarianceScaling())
        x = x + attend(h, h, h)
        h = jax.nn.gelu(hk.Linear(2 * width, name="up")(norm("norm_1", x)))
        x = norm("norm_2", x + hk.Linear(width, name="down")(h))
        return haiku_mup.SharedReadout()(embed, x) if tied else readout(VOCAB, name="out")(x)

    def norm(name, x):
        return hk.LayerNorm(-1, True, True, eps=NORM, name=name)(x)

    bodies = {"mlp": mlp, "cnn": cnn, "transformer": transformer, "tied": lambda ids: transformer(ids, True)}

    def fn(x):
        with haiku_mup.apply_mup():
            return bodies[name](x)

    return hk.transform_with_state(fn)


def haiku_names(name):
    """Returns the names of Haiku's parameters."""
    if name == "mlp":
        return [f"{layer}/{leaf}" for layer in ("first", "second", "out") for leaf in "wb"]
    if name == "cnn":
        return [f"{layer}_{i}/{leaf}" for i in range(2) for layer, leaves in (
            ("conv", "wb"), ("norm", ("scale", "offset"))) for leaf in leaves] + ["out/w", "out/b"]
    return ["embed/embeddings", *[f"norm_{i}/{leaf}" for i in range(3) for leaf in ("scale", "offset")],
            *[f"{layer}/{leaf}" for layer in ("attend/query", "attend/key", "attend/value", "attend/linear",
                                              "up", "down") for leaf in "wb"],
            *["out/w", "out/b"] * (name == "transformer")]


# --- plain dicts of Haiku's names ---

def dict_model(name, width):
    model = haiku_model(name, width)
    params = jax.eval_shape(lambda: model.init(KEY, INPUTS[name])[0])

    def dense(p, x):
        return x @ p["w"] + p["b"]

    def norm(p, x, axes=(-1,)):
        mean, variance = x.mean(axes, keepdims=True), x.var(axes, keepdims=True)
        shape = (1,) * (x.ndim - 1) + (-1,)
        return (x - mean) / jnp.sqrt(variance + NORM) * p["scale"].reshape(shape) + p["offset"].reshape(shape)

    def apply(params, x, plan):
        p = plan.multiplied(params)
        if name == "mlp":
            x = jax.nn.relu(dense(p["first"], x))
            return dense(p["out"], jax.nn.relu(dense(p["second"], x)))
        if name == "cnn":
            for i in range(2):
                layer = p[f"conv_{i}"]
                x = jax.lax.conv_general_dilated(x, layer["w"], (1, 1), "SAME", dimension_numbers=(
                    "NHWC", "HWIO", "NHWC")) + layer["b"]
                x = jax.nn.relu(norm(p[f"norm_{i}"], x, (0, 1, 2)))
            return dense(p["out"], x.mean((1, 2)))
        x = p["embed"]["embeddings"][x]
        q, k, v = (dense(p[f"attend/{part}"], norm(p["norm_0"], x)).reshape(*x.shape[:2], HEADS, -1)
                   for part in ("query", "key", "value"))
        weights = jax.nn.softmax(jnp.einsum("bthd,bThd->bhtT", q, k) / q.shape[-1]**0.5)
        x = x + dense(p["attend/linear"], jnp.einsum("bhtT,bThd->bthd", weights, v).reshape(x.shape))
        x = norm(p["norm_2"], x + dense(p["down"], jax.nn.gelu(dense(p["up"], norm(p["norm_1"], x)))))
        if name == "tied":
            return plan.readout(x, "embed.embeddings") @ params["embed"]["embeddings"].T
        return dense(p["out"], x)

    sizes = (4, width // HEADS)                     # the base's key size is that of width 8
    more = {"tied": {"tied": "embed.embeddings"}}.get(name, {"readouts": "out.w"})
    if name in ("transformer", "tied"):
        more["attention"] = {"attend/query.*": sizes}
    fans = {"*.w": (-2, -1), "norm_*": ((), -1)} if name != "cnn" else {
        "*.w": (-2, -1), "norm_*": ((), (0, 1, 2, 3))}
    if name in ("transformer", "tied"):
        fans["embed.embeddings"] = ((), 1, 0)
    if name == "mlp":
        fans = {"*.w": (0, 1)}
    names = {source[::-1].replace("/", ".", 1)[::-1]: source for source in haiku_names(name)}
    return Model(params, apply, names, {"fans": fans, **more})


# --- Flax NNX ---

class NnxMlp(nnx.Module):
    def __init__(self, width, rngs):
        other = 3 * width // 2 + 1
        self.first, self.second = nnx.Linear(5, width, rngs=rngs), nnx.Linear(width, other, rngs=rngs)
        self.out = nnx.Linear(other, 3, rngs=rngs)

    def __call__(self, x, plan):
        return self.out(jax.nn.relu(self.second(jax.nn.relu(self.first(x)))))


class NnxCnn(nnx.Module):
    def __init__(self, width, rngs):
        sizes = (3, width, 2 * width)
        self.convs = nnx.List([nnx.Conv(a, b, (3, 3), rngs=rngs) for a, b in zip(sizes, sizes[1:])])
        self.norms = nnx.List([nnx.BatchNorm(b, epsilon=NORM, use_fast_variance=False, rngs=rngs)
                               for b in sizes[1:]])
        self.out = nnx.Linear(sizes[-1], 3, rngs=rngs)

    def __call__(self, x, plan):
        for conv, norm in zip(self.convs, self.norms):
            x = jax.nn.relu(norm(conv(x), use_running_average=False))
        return self.out(x.mean((1, 2)))


class NnxTransformer(nnx.Module):
    def __init__(self, width, rngs, tied=False):
        dtype = jnp.zeros(0).dtype               # nnx.Embed computes in that of its initial table
        self.embed = nnx.Embed(VOCAB, width, param_dtype=dtype, rngs=rngs)
        self.norms = nnx.List([nnx.LayerNorm(width, epsilon=NORM, use_fast_variance=False, rngs=rngs)
                               for _ in range(3)])
        self.attend = nnx.MultiHeadAttention(HEADS, width, decode=False, rngs=rngs)
        self.up, self.down = nnx.Linear(width, 2 * width, rngs=rngs), nnx.Linear(2 * width, width, rngs=rngs)
        self.out = nnx.data(None if tied else nnx.Linear(width, VOCAB, rngs=rngs))

    def __call__(self, ids, plan):
        x = self.embed(ids)
        x = x + self.attend(self.norms[0](x))
        x = self.norms[2](x + self.down(jax.nn.gelu(self.up(self.norms[1](x)))))
        return self.embed.attend(plan.readout(x, "embed.embedding")) if self.out is None else self.out(x)


def nnx_maker(name):
    """Returns the function from (width, rngs) to a module."""
    return {"mlp": NnxMlp, "cnn": NnxCnn, "transformer": NnxTransformer,
            "tied": lambda width, rngs: NnxTransformer(width, rngs, True)}[name]


def nnx_model(name, width):
    make = nnx_maker(name)
    with jax.numpy_rank_promotion("allow"):
        model = nnx.eval_shape(lambda: make(width, nnx.Rngs(0)))
    graph, params, rest = nnx.split(model, nnx.Param, ...)
    # Flax makes running averages in float32 whatever the parameters are, and float64 can't go into them.
    rest = jax.tree.map(lambda x: jnp.zeros(x.shape, jnp.promote_types(x.dtype, jnp.zeros(0).dtype)
                                            if jnp.issubdtype(x.dtype, jnp.inexact) else x.dtype), rest)

    def apply(params, x, plan):
        with jax.numpy_rank_promotion("allow"):
            return nnx.merge(graph, plan.multiplied(params), rest, copy=True)(x, plan)

    more = {"tied": "embed.embedding"} if name == "tied" else {"readouts": "out.kernel"}
    return Model(params, apply, flax_names(name, lambda layer, i: f"{layer}s[{i}]"),
                 {"fans": haiku_mup.flax_nnx, **more}, model)


def flax_names(name, listed):
    """Returns the names of Flax's parameters; `listed` gives those of layers in lists."""
    leaves = {"w": "kernel", "b": "bias", "scale": "scale", "offset": "bias", "embeddings": "embedding"}
    found = {}
    for source in haiku_names(name):
        module, _, leaf = source.rpartition("/")
        stem, _, i = module.partition("_")
        module = listed(stem, i) if i else module.replace("attend/linear", "attend/out").replace("/", ".")
        found[f"{module}.{leaves[leaf]}"] = source
    return found


# --- Flax Linen ---

class LinenModel(nn.Module):
    name_of_model: str
    width: int

    @nn.compact
    def __call__(self, x, plan=None):
        return getattr(self, self.name_of_model)(x, plan)

    def mlp(self, x, plan):
        x = nn.relu(nn.Dense(self.width, name="first")(x))
        return nn.Dense(3, name="out")(nn.relu(nn.Dense(3 * self.width // 2 + 1, name="second")(x)))

    def cnn(self, x, plan):
        for i, size in enumerate((self.width, 2 * self.width)):
            x = nn.Conv(size, (3, 3), name=f"conv_{i}")(x)
            x = nn.relu(nn.BatchNorm(False, epsilon=NORM, use_fast_variance=False, name=f"norm_{i}")(x))
        return nn.Dense(3, name="out")(x.mean((1, 2)))

    def transformer(self, ids, plan):
        norms = [nn.LayerNorm(NORM, use_fast_variance=False, name=f"norm_{i}") for i in range(3)]
        embed = nn.Embed(VOCAB, self.width, name="embed")
        x = embed(ids)
        x = x + nn.MultiHeadDotProductAttention(HEADS, qkv_features=self.width, name="attend")(norms[0](x))
        h = nn.gelu(nn.Dense(2 * self.width, name="up")(norms[1](x)))
        x = norms[2](x + nn.Dense(self.width, name="down")(h))
        if self.name_of_model == "tied":
            return embed.attend(x if plan is None else plan.readout(x, "embed.embedding"))
        return nn.Dense(VOCAB, name="out")(x)

    tied = transformer


def linen_model(name, width):
    model = LinenModel(name, width)
    with jax.numpy_rank_promotion("allow"):
        params = jax.eval_shape(lambda: model.init(KEY, INPUTS[name]))["params"]
        fans = haiku_mup.flax_linen(model, INPUTS[name])

    def apply(params, x, plan):
        with jax.numpy_rank_promotion("allow"):
            return model.apply({"params": plan.multiplied(params)}, x, plan, mutable=["batch_stats"])[0]

    more = {"tied": "embed.embedding"} if name == "tied" else {"readouts": "out.kernel"}
    return Model(params, apply, flax_names(name, lambda layer, i: f"{layer}_{i}"), {"fans": fans, **more})


# --- Equinox ---

class EqxMlp(eqx.Module):
    layers: list
    out: eqx.nn.Linear

    def __init__(self, width, key):
        sizes = (5, width, 3 * width // 2 + 1)
        self.layers = [eqx.nn.Linear(a, b, key=key) for a, b in zip(sizes, sizes[1:])]
        self.out = eqx.nn.Linear(sizes[-1], 3, key=key)

    def __call__(self, x, plan):
        for layer in self.layers:
            x = jax.nn.relu(layer(x))
        return self.out(x)


class EqxCnn(eqx.Module):
    convs: list
    norms: list
    out: eqx.nn.Linear

    def __init__(self, width, key):
        sizes = (3, width, 2 * width)
        self.convs = [eqx.nn.Conv2d(a, b, 3, padding="SAME", key=key) for a, b in zip(sizes, sizes[1:])]
        self.norms = [eqx.nn.BatchNorm(b, "batch", eps=NORM, mode="batch") for b in sizes[1:]]
        self.out = eqx.nn.Linear(sizes[-1], 3, key=key)

    def __call__(self, x, state):
        x = jnp.transpose(x, (2, 0, 1))
        for conv, norm in zip(self.convs, self.norms):
            x, state = norm(conv(x), state)
            x = jax.nn.relu(x)
        return self.out(x.mean((1, 2))), state


class EqxTransformer(eqx.Module):
    embed: eqx.nn.Embedding
    norms: list
    attend: eqx.nn.MultiheadAttention
    up: eqx.nn.Linear
    down: eqx.nn.Linear
    out: eqx.nn.Linear | None

    def __init__(self, width, key, tied=False):
        self.embed = eqx.nn.Embedding(VOCAB, width, key=key)
        self.norms = [eqx.nn.LayerNorm(width, eps=NORM) for _ in range(3)]
        bias = dict.fromkeys([f"use_{part}_bias" for part in ("query", "key", "value", "output")], True)
        self.attend = eqx.nn.MultiheadAttention(HEADS, width, key=key, **bias)
        self.up, self.down = eqx.nn.Linear(width, 2 * width, key=key), eqx.nn.Linear(2 * width, width, key=key)
        self.out = None if tied else eqx.nn.Linear(width, VOCAB, key=key)

    def __call__(self, ids, plan):
        x = self.embed.weight[ids]
        h = jax.vmap(self.norms[0])(x)
        x = x + self.attend(h, h, h)
        h = jax.nn.gelu(jax.vmap(self.up)(jax.vmap(self.norms[1])(x)))
        x = jax.vmap(self.norms[2])(x + jax.vmap(self.down)(h))
        if self.out is None:
            return plan.readout(x, "embed.weight") @ self.embed.weight.T
        return jax.vmap(self.out)(x)


def eqx_maker(name):
    """Returns the function from (width, key) to a module."""
    return {"mlp": EqxMlp, "cnn": EqxCnn, "transformer": EqxTransformer,
            "tied": lambda width, key: EqxTransformer(width, key, True)}[name]


def eqx_model(name, width):
    make = eqx_maker(name)
    state = None
    if name == "cnn":
        model, state = eqx.nn.make_with_state(make)(width, KEY)
    else:
        model = eqx.filter_eval_shape(make, width, KEY)
    params, static = eqx.partition(model, lambda x: isinstance(x, (jax.Array, jax.ShapeDtypeStruct)))

    def apply(params, x, plan):
        with jax.numpy_rank_promotion("allow"):
            whole = eqx.combine(plan.multiplied(params), static)
            if name == "cnn":
                fresh = jax.tree.map(lambda x: x, state)            # Equinox refuses one that was used before
                return jax.vmap(lambda x: whole(x, fresh)[0], axis_name="batch")(x)
            return jax.vmap(lambda x: whole(x, plan))(x)

    more = {"tied": "embed.weight"} if name == "tied" else {"readouts": "out.weight"}
    return Model(params, apply, eqx_names(name), {"fans": haiku_mup.equinox, **more})


def eqx_names(name):
    found = {}
    for source in haiku_names(name):
        module, _, leaf = source.rpartition("/")
        stem, _, i = module.partition("_")
        module = {"first": "layers[0]", "second": "layers[1]"}.get(module, module)
        if module.startswith("attend/"):
            module = f"attend.{module[7:].replace('linear', 'output')}_proj"
        module = f"{stem}s[{i}]" if i else module
        turn = conv_transposed if stem == "conv" and leaf == "w" else transposed if leaf == "w" else None
        found[f"{module}.{'bias' if leaf in ('b', 'offset') else 'weight'}"] = (source, turn)
    return found


FRAMEWORKS = {"dict": dict_model, "nnx": nnx_model, "linen": linen_model, "equinox": eqx_model}
