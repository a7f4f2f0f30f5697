"""Depth: each structure trains as one that is written out, without the library; and forms train alike."""
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from deep_models import BASE, CASES, STRUCTURES, TARGET, X, capture, form, model, slow
from small_models import KEY

import haiku_mup
from haiku_mup import maximal_update


def written_out(params, x, branch):
    """The same network on a list of blocks, in JAX alone."""
    def normed(p, x):
        centred = x - x.mean(-1, keepdims=True)
        return p["scale"][None] * centred / jnp.sqrt((centred**2).mean(-1, keepdims=True) + 1e-5) \
            + p["offset"][None]

    def linear(p, x):
        return x @ p["w"] + p["b"][None]

    x = linear(params["first"], x)
    for p in params["blocks"]:
        x = x + branch * linear(p["down"], jax.nn.relu(linear(p["up"], normed(p["layer_norm"], x))))
        x = x + branch * jnp.tanh(linear(p["mix"], x))
    out = normed(params["norm"], x)
    return linear(params["readout"], out / (TARGET[1] / BASE[1]))


PARTS = ("layer_norm", "up", "down", "mix")


def blocks_of(name, params):
    """The blocks of a structure's parameters, in their order."""
    count = TARGET[0]
    if name.startswith("layer_stack") and "transparent" not in name or name.endswith(("a stack", "in modules")):
        found = {}
        for module, leaves in params.items():
            part = module.rpartition("/")[2]
            if part in PARTS and "/" in module:
                place = module.rpartition("/")[0]
                found.setdefault(place, {})[part] = leaves
        out = []
        for place in sorted(found):
            rank = found[place]["up"]["b"].ndim - 1
            flat = jax.tree.map(lambda p, rank=rank: p.reshape(-1, *p.shape[rank:]), found[place])
            out.append([jax.tree.map(lambda p, i=i: p[i], flat) for i in range(flat["up"]["b"].shape[0])])
        if name == "modules in a stack":        # places are block_0, block_1, …, each with all its turns
            return [turn for turns in zip(*out) for turn in turns]
        return list(itertools.chain(*out))
    numbered = {
        "layer_stack transparent": lambda i, part: f"{part}_layer_{i}",
        "transparent, of modules": lambda i, part: f"block/{part}_layer_{i}",
        "name_scope": lambda i, part: f"block_{i}/{part}",
        "modules": lambda i, part: f"block_{i}/{part}" if i else f"block/{part}",
        "modules made first": lambda i, part: f"net/~/block_{i + 1}/{part}",
    }[name]
    return [{part: params[numbered(i, part)] for part in PARTS} for i in range(count)]


def outside(params):
    return {"first": params["first"], "readout": params["readout"],
            "norm": params["layer_norm" if "layer_norm" in params else "layer_norm_1"]}


OPTIMIZERS = {
    "sgd": (lambda lr, eps, decay: optax.sgd(lr), False, 0.05),
    "momentum": (lambda lr, eps, decay: optax.sgd(lr, momentum=0.9), False, 0.02),
    "adam": (lambda lr, eps, decay: optax.adam(lr, eps=eps), True, 0.01),
    "adamw": (lambda lr, eps, decay: optax.adamw(lr, eps=eps, weight_decay=decay), True, 0.01),
}
EPS, DECAY = 1e-3, 0.1                  # an ε that matters


def oracle(params, name, kind, alpha, steps=4):
    """Losses of the written-out network, each parameter with an optimizer of its own."""
    make, adam, lr = OPTIMIZERS[kind]
    params = outside(params) | {"blocks": blocks_of(name, params)}
    assert len(params["blocks"]) == TARGET[0]
    r, m = TARGET[0] / BASE[0], TARGET[1] / BASE[1]

    def optimizer(path, p):
        names = [getattr(key, "key", None) for key in path]
        inside, leaf, layer = "blocks" in names, names[-1], names[-2]
        hidden, output = leaf == "w" and layer in PARTS, (layer, leaf) == ("readout", "w")
        fixed = (layer, leaf) == ("readout", "b")
        factor, eps = (1 / m if hidden else 1.0), (1.0 if fixed else 1 / m)
        if inside:
            factor, eps = factor * r**(alpha - 1), eps * r**-alpha
        if not adam:                    # SGD: hidden 1, others m; r^(2α-1)
            factor = {True: 1.0, False: 1.0 if fixed else m}[hidden] * (r**(2 * alpha - 1) if inside else 1.0)
        assert p.ndim <= 2 and not (output and inside)
        return make(lr * factor, EPS * eps, DECAY / factor)     # a step takes lr · DECAY of the weight

    paths, tree = jax.tree_util.tree_flatten_with_path(params)
    optimizers = [optimizer(path, p) for path, p in paths]

    def loss(params):
        return (written_out(params, X.astype(float), r**-alpha)**2).mean()

    @jax.jit
    def step(params, states):
        value, grads = jax.value_and_grad(loss)(params)
        leaves, grads = jax.tree.leaves(params), jax.tree.leaves(grads)
        moved = [o.update(g, s, p) for o, g, s, p in zip(optimizers, grads, states, leaves)]
        params = jax.tree.unflatten(tree, [p + u for p, (u, _) in zip(leaves, moved)])
        return params, [s for _, s in moved], value

    states, losses = [o.init(p) for o, p in zip(optimizers, jax.tree.leaves(params))], []
    for _ in range(steps):
        params, states, value = step(params, states)
        losses.append(float(value))
    return losses


def ours(mup, body, params, kind, steps=4):
    make, adam, lr = OPTIMIZERS[kind]
    wrapped, optimizer = mup.wrap_model(model(body, *TARGET)), make(lr, EPS, DECAY)
    if not mup._declarations.parametrization.plain:
        optimizer = mup.wrap_optimizer(optimizer, adam=adam, scale_eps=adam)

    @jax.jit
    def step(params, state):
        value, grads = jax.value_and_grad(lambda p: (wrapped.apply(p, X.astype(float))**2).mean())(params)
        updates, state = optimizer.update(grads, state, params)
        return optax.apply_updates(params, updates), state, value

    state, losses = optimizer.init(params), []
    for _ in range(steps):
        params, state, value = step(params, state)
        losses.append(float(value))
    return losses


def trained(name, kind, alpha, rule=None):
    mup = capture(STRUCTURES[name], x=X.astype(float),
                  mup=haiku_mup.Mup(parametrization=rule or maximal_update(depth_alpha=alpha)))
    params = jax.jit(mup.wrap_model(model(STRUCTURES[name], *TARGET)).init)(KEY, X.astype(float))
    return mup, params, ours(mup, STRUCTURES[name], params, kind)


@pytest.mark.parametrize("name, kind, alpha", [
    ("layer_stack", "adamw", 0.5), pytest.param("modules", "sgd", 1.0, marks=pytest.mark.slow)])
def test_structures_train_as_what_is_written_out(name, kind, alpha, x64):
    mup, params, losses = trained(name, kind, alpha)
    np.testing.assert_allclose(losses, oracle(params, name, kind, alpha), rtol=1e-10)
    other = 1.0 if alpha == 0.5 else 0.5        # the comparison is not blind
    assert not np.allclose(losses[1:], oracle(params, name, kind, other)[1:], rtol=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("name, kind, alpha", [*itertools.product(STRUCTURES, OPTIMIZERS, [0.5, 1.0])])
def test_all_structures_train_as_what_is_written_out(name, kind, alpha, x64):
    _, params, losses = trained(name, kind, alpha)
    np.testing.assert_allclose(losses, oracle(params, name, kind, alpha), rtol=1e-10)


@pytest.mark.parametrize("kind, alpha, forms", [
    ("sgd", 1.0, CASES[5:]), slow("adamw", 0.5, CASES[:5]),
    slow("adamw", 1.0, CASES[:5]), slow("sgd", 0.5, CASES), slow("sgd", 1.0, CASES),
    slow("momentum", 0.75, CASES)])
def test_forms_train_alike(kind, alpha, forms, x64):
    _, _, first = trained("layer_stack", kind, alpha)
    for which in forms:
        _, _, losses = trained("layer_stack", kind, alpha, form(*which, alpha))
        np.testing.assert_allclose(losses, first, rtol=1e-9)
    _, _, without = trained("layer_stack", kind, alpha, maximal_update(depth_alpha=0.0))
    assert not np.allclose(without, first, rtol=1e-3)
