"""Depth: every way to get it wrong is an error or a warning."""
import warnings

import haiku as hk
import jax
import jax.numpy as jnp
import optax
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
    draws,
    form,
    mix,
    mlp,
    model,
    norm,
    raises,
    scoped,
    transparent,
)
from small_models import KEY

import haiku_mup


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
    with raises("have more blocks than its target"):
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
        with raises("linear", "the shapes of these are not", "hk.name_scope"):
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
