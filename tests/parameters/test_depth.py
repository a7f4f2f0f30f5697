"""Depth: what follows from more blocks, by hand, by trajectories, and every way to get it wrong."""
import dataclasses
import functools
import itertools
import json
import math
import re
import warnings

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jaxprs import gradient
from small_models import KEY, MODELS, captured
from transparent_stack import Map
from trees import equal

import haiku_mup
from haiku_mup import maximal_update
from haiku_mup.rules import ROLES, Row

X, IDS = jnp.linspace(-1, 1, 24).reshape(4, 6), jnp.arange(6).reshape(2, 3)
BASE, TARGET = (2, 8), (6, 16)          # blocks, width
draws = hk.initializers.VarianceScaling(1.0)
CASES = [("table8", None), ("table3", None), ("table9", None), ("mean_field", None), ("abcd", "adam"),
         ("abcd", "sgd")]


def form(name, optimizer=None, alpha=1.0):
    return maximal_update(name, optimizer=optimizer, depth_alpha=alpha)


def completep(alpha=1.0):
    return haiku_mup.Mup(parametrization=maximal_update(depth_alpha=alpha))


# --- models: one block, in every structure that repeats it ---

def norm(x):
    return hk.LayerNorm(-1, True, True)(x)


def mlp(x):
    width = x.shape[-1]
    y = jax.nn.relu(hk.Linear(2 * width, w_init=draws, b_init=draws, name="up")(norm(x)))
    return hk.Linear(width, w_init=draws, b_init=draws, name="down")(y)


def mix(x):
    return jnp.tanh(hk.Linear(x.shape[-1], w_init=draws, name="mix")(x))


def block(x):
    """Two branches."""
    return haiku_mup.residual(haiku_mup.residual(x, mlp), mix)


class Block(hk.Module):
    def __call__(self, x):
        return block(x)


def transparent(count):
    return hk.layer_stack(count, transparent=True, transparency_map=Map())


def scoped(x, blocks):
    for i in range(blocks):
        with hk.name_scope(f"block_{i}"):
            x = block(x)
    return x


def modules(x, blocks):
    for _ in range(blocks):
        x = Block()(x)                  # "block", "block_1", …
    return x


def made_first(x, blocks):
    class Net(hk.Module):
        def __init__(self):
            super().__init__()
            self.blocks = [Block(name=f"block_{i + 1}") for i in range(blocks)]     # from 1 on

        def __call__(self, x):
            return hk.Sequential(self.blocks)(x)

    return Net()(x)


STRUCTURES = {
    "layer_stack": lambda x, n: hk.layer_stack(n)(block)(x),
    "layer_stack of remat": lambda x, n: hk.layer_stack(n, unroll=2)(hk.remat(block))(x),
    "layer_stack nested": lambda x, n: hk.layer_stack(n // 2)(lambda x: hk.layer_stack(2)(block)(x))(x),
    "layer_stack transparent": lambda x, n: transparent(n)(block)(x),
    "transparent, of modules": lambda x, n: transparent(n)(lambda x: Block()(x))(x),
    "name_scope": scoped,
    "modules": modules,
    "modules made first": made_first,
    "modules in a stack": lambda x, n: hk.layer_stack(2)(lambda x: scoped(x, n // 2))(x),
    "a stack in modules": lambda x, n: functools.reduce(
        lambda x, i: hk.to_module(hk.layer_stack(n // 2)(block))(f"stage_{i}")(x), range(2), x),
}


def model(body, blocks, width):
    def fn(x):
        with haiku_mup.apply_mup():
            x = body(hk.Linear(width, w_init=draws, name="first")(x), blocks)
            return haiku_mup.Readout(3, w_init=draws)(norm(x))
    return hk.without_apply_rng(hk.transform(fn))


def capture(body, base=BASE, target=TARGET, mup=None, x=X):
    mup = completep() if mup is None else mup
    with mup.init_base():
        jax.eval_shape(model(body, *base).init, KEY, x)
    with mup.init_target():
        jax.eval_shape(model(body, *target).init, KEY, x)
    return mup


# --- the table ---

@pytest.mark.parametrize("alpha", [0.5, 0.75, 1.0])
def test_factors_by_hand(alpha):
    """On top of the width's: Adam r^(α-1), SGD r^(2α-1), ε r^-α, a branch r^-α; Table 1 of CompleteP."""
    rule, plain, r = form("table8", alpha=alpha), maximal_update(), 4.0
    assert rule.branch(r) == r**-alpha and plain.branch(r) == 1.0
    for role in ROLES:
        ours, theirs = rule.factors(role, 2.0, 8.0, r), plain.factors(role, 2.0, 8.0, r)
        assert theirs == plain.factors(role, 2.0, 8.0) == rule.factors(role, 2.0, 8.0)
        wanted = theirs._replace(adam=theirs.adam * r**(alpha - 1), sgd=theirs.sgd * r**(2 * alpha - 1),
                                 eps=theirs.eps * r**-alpha)
        np.testing.assert_allclose(ours, wanted, rtol=1e-14)


@pytest.mark.parametrize("alpha", [0.5, 0.75, 1.0])
@pytest.mark.parametrize("name, optimizer", CASES)
def test_forms_are_one_and_plain_ones_need_no_rates(name, optimizer, alpha):
    rule = form(name, optimizer, alpha)
    assert rule.equivalent(form("table8", alpha=alpha))
    assert not rule.equivalent(form("table8", alpha=alpha - 0.125 if alpha > 0.5 else 1.0))
    assert not rule.equivalent(maximal_update())
    for role in ROLES:
        found = rule.factors(role, 2.0, 8.0, 4.0)
        if optimizer:
            assert getattr(found, optimizer) == pytest.approx(1.0)
        if optimizer == "adam":
            assert found.eps == pytest.approx(1.0)
        if optimizer == "sgd":
            assert found.gradient == 1.0


def test_the_plain_forms_by_hand():
    """r = 4, no widths: θ = r^(α-½) for SGD; for Adam r^(α-1), and gradients × r."""
    #                                                      init fwd adam sgd  ε     d    θ
    assert form("abcd", "sgd", 1.0).factors("fixed", 1, 1, 4.0) == (0.5, 2.0, 0.5, 1.0, 0.5, 1.0, 2.0)
    assert form("abcd", "sgd", 0.5).factors("fixed", 1, 1, 4.0) == (1.0, 1.0, 0.5, 1.0, 0.5, 1.0, 1.0)
    assert form("abcd", "adam", 1.0).factors("fixed", 1, 1, 4.0) == (1.0, 1.0, 1.0, 1.0, 1.0, 4.0, 1.0)
    assert form("abcd", "adam", 0.5).factors("fixed", 1, 1, 4.0) == (2.0, 0.5, 1.0, 1.0, 1.0, 4.0, 0.5)


@pytest.mark.parametrize("alpha", [0.25, 1.5, -1.0, math.nan, True, "1"])
def test_an_alpha_that_is_none_is_refused(alpha):
    with pytest.raises(haiku_mup.MupError, match="depth_alpha=.*1.0 .CompleteP., 0.5 .Depth-μP."):
        maximal_update(depth_alpha=alpha)


@pytest.mark.parametrize("kwargs", [{"depth_alpha": -1.0}, {"depth_alpha": "1"}, {"block": None}])
def test_a_table_that_cannot_be_is_refused(kwargs):
    with pytest.raises(haiku_mup.MupError, match=next(iter(kwargs))):
        haiku_mup.Parametrization("mine", **kwargs)


# --- trajectories: each structure beside one that is written out, without the library ---

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


def slow(*values):
    return pytest.param(*values, marks=pytest.mark.slow)


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


# --- what changes, and what does not ---

FAST = "layer_stack of remat", "layer_stack transparent", "modules made first"


@pytest.mark.parametrize("name", [name if name in FAST else slow(name) for name in STRUCTURES])
def test_at_the_bases_depth_it_is_a_plain_sum_bit_for_bit(name, monkeypatch):
    def make(width):
        plain = model(STRUCTURES[name], TARGET[0], width)
        return hk.transform_with_state(plain.apply._original_fn)

    mup = captured(make, X, 8, 8, completep())
    wrapped = gradient(mup.wrap_model(make(8)), X)
    monkeypatch.setattr(haiku_mup, "residual", lambda x, branch: x + branch(x))
    assert wrapped == gradient(make(8), X)


@pytest.mark.parametrize("name", STRUCTURES)
def test_every_parameter_of_a_block_and_none_else(name):
    mup = capture(STRUCTURES[name])
    inside = {row.name: row.depth for row in mup.table()}
    assert set(inside.values()) == {1.0, 3.0}
    others = {key for key, depth in inside.items() if depth == 1.0}
    assert {key.rpartition("/")[0] for key in others} <= {"first", "readout", "layer_norm", "layer_norm_1"}
    assert len(others) == 6 and "depth" in mup.summary().splitlines()[0]
    assert "depth" not in capture(STRUCTURES[name], BASE, (BASE[0], 16)).summary()


def test_the_scales_by_hand():
    """r = 3, m = 2, α = ½."""
    mup = capture(STRUCTURES["name_scope"], mup=completep(0.5))
    adam, sgd = mup.lr_scales(), mup.lr_scales(adam=False)
    root = pytest.approx(3**-0.5)
    assert (adam["block_5/up"]["w"], adam["block_5/up"]["b"]) == (pytest.approx(0.5 * 3**-0.5), root)
    assert adam["block_0/layer_norm"]["scale"] == root and adam["first"]["w"] == adam["readout"]["w"] == 1.0
    assert (sgd["block_5/up"]["w"], sgd["block_5/up"]["b"], sgd["readout"]["w"]) == (1.0, 2.0, 2.0)
    (multiplier,) = set(mup._target.branches.values())
    assert multiplier == root and len(mup._target.branches) == 6


def test_an_init_that_shrinks_with_the_depth_is_taken_back():
    """GPT-2's std / √(2 L): at the target a std is the base's times the width's factor, and no other."""
    def body(x, blocks):
        small = hk.initializers.RandomNormal(0.02 / math.sqrt(2 * blocks))

        def inner(x):
            return haiku_mup.residual(x, lambda x: hk.Linear(x.shape[-1], w_init=small, name="out")(norm(x)))
        return hk.layer_stack(blocks)(inner)(x)

    for width in (8, 32):
        mup = capture(body, (2, 8), (8, width))
        row = next(row for row in mup.table() if row.name.endswith("out/w"))
        assert row.target_std == pytest.approx(0.01 * (width / 8)**-0.5) and row.base_std == 0.01
        params = mup.wrap_model(model(body, 8, width)).init(KEY, X)
        draw = params["__layer_stack_no_per_layer/out"]["w"]
        assert draw.std() == pytest.approx(row.target_std, rel=5 / (2 * draw.size)**0.5)


def test_stacks_of_different_ratios():
    """An encoder and a decoder, each with its own."""
    def body(x, blocks):
        for name, count in (("encoder", blocks), ("decoder", 2 * blocks if blocks > 2 else 2)):
            x = hk.layer_stack(count, name=name)(block)(x)
        return x

    mup = capture(body, (2, 8), (8, 8))
    assert {(row.name[:7], row.depth) for row in mup.table() if "coder" in row.name} == {
        ("encoder", 4.0), ("decoder", 8.0)}
    assert sorted(mup._target.branches.values()) == [1 / 8, 1 / 4]
    params = mup.wrap_model(model(body, 8, 8)).init(KEY, X)
    found = mup.wrap_model(model(body, 8, 8)).apply(params, X)

    def halved(x, blocks, factors=(1 / 4, 1 / 8)):
        for name, count, factor in zip(("encoder", "decoder"), (8, 16), factors):
            x = hk.layer_stack(count, name=name)(lambda x, f=factor: jax.tree.reduce(
                lambda x, branch: x + f * branch(x), [mlp, mix], x))(x)
        return x

    np.testing.assert_allclose(model(halved, 8, 8).apply(params, X), found, rtol=1e-5)


def test_a_residual_in_the_branch_of_another():
    """It is multiplied by what the outer one is not; its parameters have both ratios."""
    def body(x, blocks, residual=haiku_mup.residual):
        outer, inner = (2, 2) if blocks == 2 else (6, 8)

        def deep(x):
            return mix(hk.layer_stack(inner, name="inner")(lambda x: residual(x, mlp))(x))
        return hk.layer_stack(outer, name="outer")(lambda x: residual(x, deep))(x)

    mup = capture(body)
    depths = {row.name.rpartition("/")[0]: row.depth for row in mup.table() if row.name.startswith("outer")}
    assert depths.pop("outer/mix") == 3.0 and set(depths.values()) == {12.0}
    wrapped = mup.wrap_model(model(body, *TARGET))
    params = wrapped.init(KEY, X)
    model(body, *TARGET).init(KEY, X)       # so that it may be applied as it is

    def by_hand(x, branch):
        return x + branch(x) * (1 / 3 if branch is not mlp else 1 / 4)
    plain = model(functools.partial(body, residual=by_hand), *TARGET)
    scaled = params | {"readout": {"w": params["readout"]["w"] / 2, "b": params["readout"]["b"]}}
    np.testing.assert_allclose(wrapped.apply(params, X), plain.apply(scaled, X), rtol=1e-5)


def test_a_branch_without_parameters_has_its_blocks_factor():
    def body(x, blocks):
        for i in range(blocks):
            with hk.name_scope(f"block_{i}"):
                x = haiku_mup.residual(haiku_mup.residual(x, mlp), jnp.tanh)
        return x

    def stacked(x, blocks):
        class Sub(hk.Module):
            def __call__(self, x):
                return haiku_mup.residual(x, jnp.tanh)
        return hk.layer_stack(blocks)(lambda x: Sub()(haiku_mup.residual(x, mlp)))(x)

    assert set(capture(body)._target.branches.values()) == {1 / 3}
    branches = capture(stacked)._target.branches
    assert set(branches.values()) == {1 / 3} and len(branches) == 2


def test_without_an_alpha_depths_may_differ_and_nothing_is_scaled():
    def body(x, blocks):
        return hk.layer_stack(blocks)(lambda x: x + mlp(x))(x)      # no residual

    for rule in (maximal_update(depth_alpha=0.0), haiku_mup.standard()):
        for base, target in (((2, 8), (6, 8)), ((6, 8), (2, 8))):
            mup = capture(body, base, target, haiku_mup.Mup(parametrization=rule))
            assert {row.adam_lr for row in mup.table()} == {row.sgd_lr for row in mup.table()} == {1.0}
            params = mup.wrap_model(model(body, *target)).init(KEY, X)
            assert equal(params, model(body, *target).init(KEY, X))
            wrapped = mup.wrap_model(model(body, *target))
            assert equal(wrapped.apply(params, X), model(body, *target).apply(params, X))
    for target in ((6, 8), (2, 8)):
        capture(scoped, (4, 8), target, haiku_mup.Mup(parametrization=maximal_update(depth_alpha=0.0)))


def test_a_delta_may_have_another_depth():
    mup = completep()
    with mup.init_base():
        jax.eval_shape(model(scoped, 2, 8).init, KEY, X)
    with mup.init_delta():
        jax.eval_shape(model(scoped, 3, 16).init, KEY, X)
    with mup.init_target():
        jax.eval_shape(model(scoped, 6, 8).init, KEY, X)
    row = next(row for row in mup.table() if row.name == "block_5/up/w")
    assert (row.role, row.depth) == ("hidden", 3.0)


def test_traces_are_not_mixed_up():
    """One jitted apply, of models in and out of μP and of two α: each its own trace."""
    body = STRUCTURES["layer_stack"]
    plain = model(body, *TARGET)
    params = plain.init(KEY, X)
    run = jax.jit(plain.apply)
    first = run(params, X)
    outs = []
    for alpha in (1.0, 0.5, 1.0):
        wrapped = capture(body, mup=completep(alpha)).wrap_model(plain)
        outs.append(jax.jit(wrapped.apply)(params, X))
    assert equal(outs[0], outs[2]) and not np.allclose(outs[0], outs[1]) and not np.allclose(outs[0], first)
    assert equal(run(params, X), first)


def test_a_tree_for_a_stream():
    def fn(x):
        return haiku_mup.residual({"a": x, "b": 2 * x}, lambda x: {"a": x["b"], "b": x["a"]})

    out = hk.transform(fn).apply({}, None, X)
    assert equal(out, {"a": 3 * X, "b": 3 * X})


# --- in a file ---

@pytest.mark.parametrize("name", ["layer_stack", "layer_stack nested", "name_scope"])
def test_it_is_kept_in_a_file(name, tmp_path):
    mup = capture(STRUCTURES[name], mup=completep(0.75))
    mup.save(tmp_path / "base.json")
    again = haiku_mup.Mup.load(tmp_path / "base.json")
    assert again._declarations.parametrization == maximal_update(depth_alpha=0.75)
    assert again.state_dict() == mup.state_dict()
    with again.init_target():
        jax.eval_shape(model(STRUCTURES[name], *TARGET).init, KEY, X)
    assert again.table() == mup.table() and again._target.branches == mup._target.branches


def earlier(state):
    """The file as the version before wrote it, which kept no depth."""
    from haiku_mup.serialization import state_dict as store

    state = json.loads(json.dumps(state))
    new = "stacks", "crc"
    parameters = {name: store.with_checksum({key: value for key, value in values.items() if key not in new})
                  for name, values in state.pop("parameters").items()}
    state.pop("crc")
    for key in ("depth_alpha", "block"):
        del state["parametrization"][key]
    return store.with_checksum(state) | {"parameters": parameters}


def test_an_earlier_file_loads_and_says_that_it_does_not_know_the_depth():
    make, x = MODELS["mlp"]
    again = haiku_mup.Mup.from_state_dict(earlier(captured(make, x).state_dict()))
    assert again.state_dict() == captured(make, x).state_dict()
    make, x = MODELS["stack"]
    again = haiku_mup.Mup.from_state_dict(earlier(captured(make, x).state_dict()))
    with pytest.warns(haiku_mup.MupWarning, match="didn't keep how many.*save it again"), again.init_target():
        jax.eval_shape(make(32).init, KEY, x)
    assert [row.depth for row in again.table()] == [1.0] * len(again.table())


@pytest.mark.parametrize("stacks", [[-1], ["x"], 3, [1.5]])
def test_a_file_with_stacks_that_are_none_is_refused(stacks):
    from haiku_mup.serialization import state_dict as store

    state = captured(*MODELS["stack"]).state_dict()
    name = next(iter(state["parameters"]))
    values = dict(state["parameters"][name], stacks=stacks)
    del values["crc"]
    state["parameters"] = state["parameters"] | {name: store.with_checksum(values)}
    with pytest.raises(haiku_mup.MupError, match="stacks is"):
        haiku_mup.Mup.from_state_dict(state)


# --- no quiet mistakes ---

def raises(*parts):
    return pytest.raises(haiku_mup.MupError, match=".*".join(map(re.escape, parts)))


@pytest.mark.parametrize("name, says", [
    ("layer_stack", "a layer_stack around it has 6 layers, the base's 2: a difference in depth"),
    ("layer_stack nested", "a layer_stack around it has 3 layers, the base's 1: a difference in depth"),
    ("layer_stack transparent", "the base has no such parameter"),
    ("name_scope", "'block' are block_0, block_1;"),
    ("modules", "'block' are block, block_1; if they are blocks"),
    ("a stack in modules", "a layer_stack around it has 3 layers, the base's 1")])
def test_a_difference_in_depth_raises_without_an_alpha(name, says):
    with raises(says, "depth_alpha=1.0", "depth_alpha=0.0"):
        capture(STRUCTURES[name], mup=haiku_mup.Mup())
    capture(STRUCTURES[name], BASE, (2, 16), mup=haiku_mup.Mup())


def test_fewer_blocks_without_an_alpha():
    with raises("a layer_stack around it has 2 layers, the base's 6: a difference in depth"):
        capture(STRUCTURES["layer_stack"], (6, 8), (2, 8), haiku_mup.Mup())
    with raises("'block_2/", "the target has no such parameter", "2 modules 'block' with numbers, 6 at the",
                "depth_alpha=1.0"):
        capture(scoped, (6, 8), (2, 8), haiku_mup.Mup())


@pytest.mark.parametrize("name", ["layer_stack", "name_scope", "layer_stack transparent"])
def test_a_base_with_more_blocks(name):
    with raises("no more blocks than its target"):
        capture(STRUCTURES[name], (6, 8), (2, 8))


def test_a_block_without_residual():
    def body(x, blocks):
        return hk.layer_stack(blocks)(lambda x: x + mlp(x))(x)
    with raises("layer_norm/scale'", "6 layers, the base's 2", "no branch of haiku_mup.residual makes it"):
        capture(body)
    assert capture(body, BASE, (2, 16))


@pytest.mark.parametrize("how", ["one branch", "post-norm"])
def test_a_part_of_a_block_without_residual(how):
    def inner(x):
        x = haiku_mup.residual(x, mix)
        return x + mlp(x) if how == "one branch" else norm(x)

    for body in (lambda x, n: hk.layer_stack(n)(inner)(x),
                 lambda x, n: in_turn(x, [hk.to_module(inner)(f"block_{i}") for i in range(n)])):
        with raises("layer_norm", "no branch of haiku_mup.residual makes it", "all its parameters"):
            capture(body)


def in_turn(x, layers):
    for layer in layers:
        x = layer(x)
    return x


@pytest.mark.parametrize("body", [
    lambda x, n: haiku_mup.residual(x, lambda x: hk.layer_stack(n)(mlp)(x)),
    lambda x, n: hk.layer_stack(2)(lambda x: haiku_mup.residual(x, lambda x: hk.layer_stack(n)(mix)(x)))(x),
    lambda x, n: haiku_mup.residual(x, lambda x: in_turn(
        x, [hk.Linear(x.shape[-1], name=f"layer_{i}") for i in range(n)])),
    lambda x, n: in_turn(x, [lambda x, i=i: haiku_mup.residual(x, hk.to_module(mlp)(f"mlp_{i}"))
                             for i in range(n)]),
    lambda x, n: haiku_mup.residual(x, lambda x: transparent(n)(mix)(x))])
def test_a_branch_that_gets_deeper_is_no_more_blocks(body):
    with raises("within a branch of haiku_mup.residual", "hk.name_scope(f'block_{i}')"):
        capture(body)


def test_layers_that_only_look_numbered():
    """Haiku's own numbers: linear_1 at the base is another layer than linear_1 in the block after the first."""
    def body(x, blocks):
        for _ in range(blocks):
            x = haiku_mup.residual(x, branch)
        return x

    def branch(x):
        return hk.Linear(x.shape[-1])(jax.nn.relu(hk.Linear(2 * x.shape[-1])(x)))

    for alpha in (1.0, 0.0):
        with raises("linear", "must be alike, and the shapes of these are not", "hk.name_scope"):
            capture(body, mup=completep(alpha))


@pytest.mark.parametrize("what", ["std", "name", "layer"])
def test_blocks_that_are_not_alike(what):
    def body(x, blocks):
        for i in range(blocks):
            with hk.name_scope(f"block_{i}"):
                x = haiku_mup.residual(x, lambda x, i=i: inner(x, i))
        return x

    def inner(x, i):
        if what == "std":
            return hk.Linear(x.shape[-1], w_init=hk.initializers.RandomNormal(0.1 * (i + 1)))(x)
        if what == "name":
            return hk.Linear(x.shape[-1], with_bias=i != 1)(x)
        heads = 1 + i % 2
        return haiku_mup.MultiHeadAttention(heads, x.shape[-1] // heads, w_init=draws)(x, x, x)

    with raises("block_", f"the {what}s of these are not"):
        capture(body)


@pytest.mark.parametrize("numbers", [lambda n: range(0, 2 * n, 2), lambda n: range(n - 2, 2 * n - 2)])
def test_numbers_with_gaps(numbers):
    def body(x, blocks):
        for i in numbers(blocks):
            with hk.name_scope(f"block_{i}"):
                x = block(x)
        return x

    with raises("'block': the base has block_0, block_", "numbered one after the other"):
        capture(body)


def test_a_parameter_of_another_place_in_a_branch():
    def body(x, blocks):
        shared = hk.Linear(x.shape[-1], name="shared")
        for i in range(blocks):
            with hk.name_scope(f"block_{i}"):
                x = haiku_mup.residual(x, shared)
                x = haiku_mup.residual(x, mlp)
        return x

    with raises("haiku_mup.residual makes", "in the block"):
        capture(body)


def test_an_array_for_a_branch():
    with raises("residual: the branch is a ", "give a function of x"):
        hk.transform(lambda x: haiku_mup.residual(x, x)).apply({}, None, X)


def test_a_form_that_draws_by_the_depth_with_numbered_modules():
    with raises("draws it by the depth", "hk.layer_stack"):
        capture(scoped, mup=haiku_mup.Mup(parametrization=form("abcd", "sgd")))
    for which in CASES[:-1]:
        capture(scoped, mup=haiku_mup.Mup(parametrization=form(*which)))


@pytest.mark.parametrize("name", ["layer_stack", "name_scope"])
def test_a_model_of_another_depth(name):
    mup = capture(STRUCTURES[name])
    deeper = model(STRUCTURES[name], 8, 16)
    wrapped = mup.wrap_model(deeper)
    with raises("capture the model that is wrapped"):
        wrapped.init(KEY, X)
    with raises("not captured", "capture the model that is wrapped"):
        wrapped.apply(deeper.init(KEY, X), X)
    with raises("make a new Mup() for another width or depth"), mup.init_target():
        jax.eval_shape(deeper.init, KEY, X)
    assert mup.wrap_model(model(STRUCTURES[name], *TARGET)).init(KEY, X)


def test_an_unwrapped_apply_warns():
    mup = completep()
    plain = model(STRUCTURES["layer_stack"], 6, 8)
    with mup.init_base():
        jax.eval_shape(model(STRUCTURES["layer_stack"], 2, 8).init, KEY, X)
    with mup.init_target():
        params = plain.init(KEY, X)
    with pytest.warns(haiku_mup.MupWarning, match="haiku_mup.residual: .*mup.wrap_model") as seen:
        plain.apply(params, X)
    assert len(seen) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        mup.wrap_model(plain).apply(params, X)
        plain.apply(plain.init(KEY, X), X)          # a standard twin


def test_a_stack_of_one_is_a_base():
    assert {row.depth for row in capture(STRUCTURES["layer_stack"], (1, 8), (6, 8)).table()} == {1.0, 6.0}
    assert {row.depth for row in capture(scoped, (1, 8), (6, 8)).table()} == {1.0, 6.0}
    with raises("without layers has no ratio"):
        capture(STRUCTURES["layer_stack"], (0, 8), (6, 8))


def test_a_stack_without_layers_on_both_sides_trains():
    mup = capture(STRUCTURES["layer_stack"], (0, 8), (0, 16))
    params = mup.wrap_model(model(STRUCTURES["layer_stack"], 0, 16)).init(KEY, X)
    for rule, optimizer in (("adam", optax.adam), ("sgd", optax.sgd), ("any", optax.yogi),
                            ("novograd", optax.novograd)):
        opt = mup.wrap_optimizer(optimizer(0.1), rule=rule)
        updates, _ = opt.update(params, opt.init(params), params)
        assert jax.tree.map(jnp.shape, updates) == jax.tree.map(jnp.shape, params)


def test_the_table_is_a_value():
    rule = maximal_update(depth_alpha=1.0)
    assert rule == maximal_update(depth_alpha=1.0) != maximal_update() and hash(rule)
    assert dataclasses.replace(rule, depth_alpha=0.0, block=Row()).factors("hidden", 2.0, 2.0, 4.0) \
        == maximal_update().factors("hidden", 2.0, 2.0)
    assert repr(capture(scoped)).startswith("Mup(μP, depth^-1, base=")


# --- GPT-2 ---

def transformer(family, config):
    def fn(ids):
        with haiku_mup.apply_mup():
            return family(config)(ids)
    return hk.transform(fn)


def two_depths(mup, family, make):
    """A base of 2 layers, and a target of 6."""
    few, many = (transformer(family, make(n)) for n in (2, 6))
    with mup.init_base():
        jax.eval_shape(few.init, KEY, IDS)
    with mup.init_target():
        jax.eval_shape(many.init, KEY, IDS)
    return mup.wrap_model(many)


@pytest.mark.parametrize("stacked", [False, True])
def test_gpt2_may_have_more_layers(stacked):
    from haiku_mup import models

    def config(layers):
        return models.GPT2Config(vocab_size=50, n_positions=8, n_embd=8, n_head=2, n_layer=layers,
                                 layer_stack=stacked)

    mup = completep()
    wrapped, rows = two_depths(mup, models.GPT2LMHeadModel, config), mup.table()
    assert {row.depth for row in rows} == {1.0, 3.0} and set(mup._target.branches.values()) == {1 / 3}
    assert all((row.depth == 3) == bool(re.search(r"/h(_\d+)?/", row.name)) for row in rows)
    assert all(row.target_std == pytest.approx(row.base_std) for row in rows)      # √(2 L) is taken back
    assert jax.eval_shape(wrapped.init, KEY, IDS)


def test_bert_which_normalises_the_stream_may_not():
    from haiku_mup import models

    def config(layers):
        return models.BertConfig(vocab_size=50, max_position_embeddings=8, hidden_size=8, num_attention_heads=2,
                                 intermediate_size=16, num_hidden_layers=layers)

    with raises("no branch of haiku_mup.residual makes it"):
        two_depths(completep(), models.BertForMaskedLM, config)


def test_an_initializer_of_ones_own_for_each_of_one_depth_is_refused():
    """A std may depend on the depth, and on nothing else at one shape; in numbered modules, too."""
    def body(x, blocks):
        std = 0.1 if x.shape[-1] == 8 and blocks == 2 else 0.2

        def branch(x):
            return hk.Linear(x.shape[-1], w_init=hk.initializers.RandomNormal(std))(x)

        for i in range(2):
            with hk.name_scope(f"block_{i}"):
                x = haiku_mup.residual(x, branch)
        return x

    with raises("'block_0/linear/w'", "std is 0.1 at the base and 0.2 at the target"):
        capture(body, (2, 8), (6, 8))
