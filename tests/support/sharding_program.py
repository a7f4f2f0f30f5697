"""Trains sharded models, plain and wrapped, and prints what it found: `python sharding_program.py CASE …`.

It is to be run with XLA_FLAGS=--xla_force_host_platform_device_count=8, which JAX reads as it starts.
"""
import collections
import json
import re
import sys
from typing import Any, NamedTuple

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import haiku_mup
from haiku_mup import models

KEY, BASE, WIDTH = jax.random.key(17), 16, 64
COLLECTIVES = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute")


# --- models ---

def gpt2(width, init=None):
    """Returns a layer-stacked transformer, whose blocks are computed anew in the backward pass, and ids."""
    config = models.GPT2Config(vocab_size=64, n_embd=width, n_head=8, n_layer=2, n_positions=16,
                               layer_stack=True, remat=True)

    def fn(ids):
        with haiku_mup.apply_mup():
            return models.GPT2LMHeadModel(config)(ids)

    return hk.transform(fn), jnp.arange(8 * 16).reshape(8, 16) % 64


def mlp(width, init=None):
    def fn(x):
        with haiku_mup.apply_mup():
            x = jax.nn.relu(hk.Linear(width, w_init=init)(x))
            return haiku_mup.Readout(8)(jax.nn.relu(hk.Linear(width)(x)))

    return hk.transform(fn), jnp.linspace(-1, 1, 8 * 64).reshape(8, 64)


def orthogonal(width):
    return mlp(width, hk.initializers.Orthogonal())


def lstm(width, init=None):
    """Returns an LSTM, whose matrix has a factor for each block of rows; a mesh cuts it elsewhere."""
    def fn(x):
        with haiku_mup.apply_mup():
            core = hk.LSTM(width)
            return haiku_mup.Readout(8)(core(x, core.initial_state(x.shape[0]))[0])

    return hk.transform(fn), jnp.linspace(-1, 1, 8 * 24).reshape(8, 24)


# --- how parameters are sharded ---

def whole(name, x):
    return P()


def spread(name, x):
    """Shards fully: over the last axis that the devices divide."""
    axis = max((i for i, n in enumerate(x.shape) if n % 8 == 0), default=None)
    return P() if axis is None else P(*[None] * axis, "data")


def columns_and_rows(name, x):
    """Shards as Megatron-LM: the first layer of a branch by its columns, the last by its rows."""
    opens = any(part in name for part in ("query", "key", "value", "c_fc", "linear_1", "~/linear/"))
    closes = any(part in name for part in ("attn/linear", "c_proj", "readout"))
    before = [None] * (x.ndim - 1)
    if name.endswith("embeddings") and "wte" in name:
        return P("model")
    if closes and name.endswith("/w"):
        return P(*before[:-1], "model")
    return P(*before, "model") if opens and not closes else P()


def columns(name, x):
    return P(*[None] * (x.ndim - 1), "model") if name == "linear/w" else P()


def by_layers(name, x):
    """Shards the axis of layers over two devices, and the width over four."""
    return P("model", *[None] * (x.ndim - 2), "data") if "/h/" in name else P()


class Case(NamedTuple):
    """A model on a mesh.

    Attributes:
      make: width -> (transformed model, inputs).
      axes: {name: size} of the mesh.
      spec: (name, parameter) -> how it is sharded.
      kind: of the mesh's axes.
      parametrization: that of the Mup.
    """

    make: Any
    axes: dict
    spec: Any
    kind: Any = AxisType.Auto
    parametrization: Any = haiku_mup.maximal_update()


DATA, BOTH, LAYERS = {"data": 8}, {"data": 2, "model": 4}, {"data": 4, "model": 2}
ABCD = haiku_mup.maximal_update("abcd", optimizer="adam")
TABLE_9 = haiku_mup.maximal_update("table9")
CASES = {
    "data": Case(gpt2, DATA, whole),
    "full": Case(gpt2, DATA, spread),
    "tensor": Case(gpt2, BOTH, columns_and_rows),
    "layers": Case(gpt2, LAYERS, by_layers),
    "full-abcd": Case(gpt2, DATA, spread, parametrization=ABCD),
    "tensor-table9": Case(gpt2, BOTH, columns_and_rows, parametrization=TABLE_9),
    "full-lstm": Case(lstm, DATA, spread),
    "tensor-mlp": Case(mlp, BOTH, columns_and_rows),
    "orthogonal": Case(orthogonal, DATA, spread),
    "data-explicit": Case(gpt2, DATA, whole, AxisType.Explicit),
    "columns-explicit": Case(mlp, BOTH, columns, AxisType.Explicit),
}


# --- what is compared ---

def sides(case):
    """Returns {"plain", "wrapped", "wrong": (model, optimizer)}; the last gathers every update."""
    (base, inputs), (target, _) = case.make(BASE), case.make(WIDTH)
    mup = haiku_mup.Mup(parametrization=case.parametrization)
    with mup.init_base():
        jax.eval_shape(base.init, KEY, inputs)
    with mup.init_target():
        jax.eval_shape(target.init, KEY, inputs)
    adamw = optax.adamw(0.01, eps=1e-3, weight_decay=0.1)       # an ε above the noise of gradients that are 0
    wrapped = adamw if case.parametrization == ABCD else mup.wrap_optimizer(adamw, scale_eps=True)
    gathered = optax.stateless(lambda updates, params: jax.tree.map(together, updates))
    return {"plain": (target, adamw), "wrapped": (mup.wrap_model(target), wrapped),
            "wrong": (mup.wrap_model(target), optax.chain(gathered, wrapped))}, inputs


def together(x):
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty:
        return x
    return (jax.sharding.reshard if mesh.explicit_axes else jax.lax.with_sharding_constraint)(x, P())


def loss_of(model):
    def loss(params, inputs):
        outputs = model.apply(params, None, inputs)
        return models.cross_entropy(outputs, jnp.arange(outputs[..., 0].size).reshape(outputs.shape[:-1]) % 8)

    return loss


def step_of(model, optimizer):
    def step(params, state, inputs):
        loss, grads = jax.value_and_grad(loss_of(model))(params, inputs)
        updates, state = optimizer.update(grads, state, params)
        return optax.apply_updates(params, updates), state, loss

    return step


def collectives(compiled):
    """Counts the collectives of a compiled program: {kind: number}."""
    found = re.findall(rf"(?:{'|'.join(COLLECTIVES)})(?=(?:-start)?\()", compiled.as_text())
    return dict(sorted(collections.Counter(found).items()))


def equal(a, b):
    """Returns True where two trees are equal, bit for bit."""
    return all(np.array_equal(np.asarray(x), np.asarray(y)) for x, y in zip(*map(jax.tree.leaves, (a, b))))


def apart(a, b):
    """Returns the largest difference of two trees, relative to the leaf's size, or to that of an update."""
    return max(float(np.abs(np.asarray(x) - np.asarray(y)).max() / max(0.01, np.abs(np.asarray(y)).max()))
               for x, y in zip(*map(jax.tree.leaves, (a, b))))


def kept(shardings, tree):
    """Returns True where a tree has these shardings."""
    return all(s.is_equivalent_to(x.sharding, x.ndim) for s, x in zip(*map(jax.tree.leaves, (shardings, tree))))


def specs(tree):
    """Returns the partition of each leaf as text; equal partitions have equal texts."""
    def cut(spec):          # P(), P(None) and P(None, None) are one
        return [*spec[:max((i + 1 for i, axis in enumerate(spec) if axis), default=0)]]

    return [str(cut(tuple(x.sharding.spec))) if hasattr(x.sharding, "spec") else ""
            for x in jax.tree.leaves(tree)]


def compared(case):
    """Measures the plain, the wrapped and the wrong side of a case."""
    both, inputs = sides(case)
    mesh = jax.make_mesh(tuple(case.axes.values()), tuple(case.axes), axis_types=(case.kind,) * len(case.axes))
    wrong = both.pop("wrong")
    found = {side: of_side(case, mesh, inputs, *pair) for side, pair in both.items()}
    return {**found, "wrong": {"update": moved_by(case, mesh, inputs, *wrong)}}


def placed(case, mesh, params):
    """Returns the shardings of parameters."""
    return hk.data_structures.map(
        lambda module, name, x: NamedSharding(mesh, case.spec(f"{module}/{name}", x)), params)


def moved_by(case, mesh, inputs, model, optimizer):
    """Returns the collectives of an optimizer's update."""
    shapes = jax.eval_shape(model.init, KEY, inputs)
    params = jax.tree.map(lambda x, where: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=where), shapes,
                          placed(case, mesh, shapes))
    with jax.set_mesh(mesh):
        state = jax.eval_shape(optimizer.init, params)
        return collectives(jax.jit(lambda g, s, p: optimizer.update(g, s, p)).lower(
            params, state, params).compile())


def of_side(case, mesh, inputs, model, optimizer):
    """Compares a model and its optimizer on a mesh with the same on one device."""
    alone = jax.jit(model.init)(KEY, inputs)
    shardings = placed(case, mesh, alone)
    step = step_of(model, optimizer)
    one = jax.jit(step)(alone, jax.jit(optimizer.init)(alone), inputs)
    draw = jax.jit(model.init, out_shardings=shardings)
    params = draw(KEY, inputs)
    with jax.set_mesh(mesh):
        state = optimizer.init(params)
        batch = jax.device_put(inputs, NamedSharding(mesh, P("data")))
        forward = jax.jit(loss_of(model)).lower(params, batch).compile()
        update = jax.jit(lambda g, s, p: optimizer.update(g, s, p)).lower(params, state, params).compile()
        whole_step = jax.jit(step, donate_argnums=(0, 1)).lower(params, state, batch).compile()
        draws = {"equal": equal(params, alone), "sharded": kept(shardings, params),
                 "other": equal(draw(jax.random.key(1), inputs), alone)}
        inside = equal(draw(KEY, inputs), alone)
        states = specs(state)
        out = whole_step(params, state, batch)
    return {"draws": draws, "inside": inside, "state": states,
            "forward": collectives(forward), "update": collectives(update),
            "step": collectives(whole_step), "out": specs(out), "kept": kept(shardings, out[0]),
            "apart": apart(out[::2], one[::2])}


# --- shard_map, and a mesh of explicit axes that is left ---

def by_hand(check_vma):
    """Trains data-parallel in shard_map: each device has all parameters and averages the gradients."""
    both, inputs = sides(CASES["data"])
    mesh, found = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,)), {}
    for side in ("plain", "wrapped"):
        model, optimizer = both[side]

        def local(params, state, inputs, labels, model=model, optimizer=optimizer):
            def loss(params):
                found = models.cross_entropy(model.apply(params, None, inputs), labels)
                return jax.lax.pmean(found, "data") if check_vma else found

            loss_, grads = jax.value_and_grad(loss)(params)
            if not check_vma:           # else JAX knows that they are the mean's, and adds them up
                loss_, grads = jax.lax.pmean((loss_, grads), "data")
            updates, state = optimizer.update(grads, state, params)
            return optax.apply_updates(params, updates), state, loss_

        params = jax.jit(model.init)(KEY, inputs)
        state, labels = optimizer.init(params), jnp.arange(inputs.size).reshape(inputs.shape) % 8
        args, places = (params, state, inputs, labels), (P(), P(), P("data"), P("data"))
        split = jax.jit(jax.shard_map(local, mesh=mesh, in_specs=places, out_specs=P(), check_vma=check_vma))
        one = jax.jit(step_of(model, optimizer))(params, state, inputs)
        found[side] = {"step": collectives(split.lower(*args).compile()),
                       "apart": apart(split(*args)[::2], one[::2])}
    return found


def of_shards():
    """Updates in shard_map, where each device has a part of every parameter."""
    both, inputs = sides(CASES["full"])
    model, optimizer = both["wrapped"]
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
    params = jax.jit(model.init)(KEY, inputs)
    state, grads = optimizer.init(params), jax.tree.map(jnp.sin, params)
    spec = jax.tree.map(lambda x: spread("", x), params)
    by_param = optax.tree_map_params(optimizer, lambda _, s: s, state, spec, transform_non_params=lambda _: P())
    update = jax.jit(jax.shard_map(lambda g, s, p: optimizer.update(g, s, p)[0], mesh=mesh,
                                   in_specs=(spec, by_param, spec), out_specs=spec))
    return {"apart": apart(update(grads, state, params), optimizer.update(grads, state, params)[0]),
            "step": collectives(update.lower(grads, state, params).compile())}


def left():
    """Trains fully sharded in a mesh of explicit axes, which jax.sharding.auto_axes leaves, as Haiku needs."""
    both, inputs = sides(CASES["full"])
    mesh, found = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Explicit,)), {}
    for side in ("plain", "wrapped"):
        model, optimizer = both[side]
        alone = jax.jit(model.init)(KEY, inputs)
        one = jax.jit(step_of(model, optimizer))(alone, optimizer.init(alone), inputs)
        with jax.set_mesh(mesh):
            shardings = jax.tree.map(lambda x: NamedSharding(mesh, spread("", x)), alone)
            params = jax.jit(model.init, out_shardings=shardings)(KEY, inputs)
            state = optimizer.init(params)
            outs = *jax.tree.map(lambda x: x.sharding, (params, state)), NamedSharding(mesh, P())
            step = jax.jit(jax.sharding.auto_axes(step_of(model, optimizer), out_sharding=outs))
            args = params, state, jax.device_put(inputs, NamedSharding(mesh, P("data")))
            compiled = step.lower(*args).compile()
            out = compiled(*args)
        found[side] = {"step": collectives(compiled), "out": specs(out), "kept": kept(shardings, out[0]),
                       "apart": apart(out[::2], one[::2])}
    return found


OTHERS = {"by-hand": lambda: by_hand(True), "by-hand-unchecked": lambda: by_hand(False), "of-shards": of_shards,
          "left": left}


if __name__ == "__main__":
    print(json.dumps({name: OTHERS[name]() if name in OTHERS else compared(CASES[name])
                      for name in sys.argv[1:]}))
