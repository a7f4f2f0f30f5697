"""Depth: the factors that follow from more blocks, and which parameters have them."""
import dataclasses
import functools
import math

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from deep_models import (
    BASE,
    CASES,
    STRUCTURES,
    TARGET,
    X,
    block,
    capture,
    completep,
    form,
    mix,
    mlp,
    model,
    norm,
    scoped,
    slow,
)
from jaxprs import gradient
from small_models import KEY, captured
from trees import equal

import haiku_mup
from haiku_mup import maximal_update
from haiku_mup.rules import ROLES, Row


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
    scaled = jax.tree.map(jnp.copy, scaled)         # the target's own arrays would be told by a warning
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


@pytest.mark.slow
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


def test_the_table_is_a_value():
    rule = maximal_update(depth_alpha=1.0)
    assert rule == maximal_update(depth_alpha=1.0) != maximal_update() and hash(rule)
    assert dataclasses.replace(rule, depth_alpha=0.0, block=Row()).factors("hidden", 2.0, 2.0, 4.0) \
        == maximal_update().factors("hidden", 2.0, 2.0)
    assert repr(capture(scoped)).startswith("Mup(μP, depth^-1, base=")
