"""What messages about depth say to do: each by following it, with the factors that follow."""
import functools

import haiku as hk
import jax
import jax.numpy as jnp
import pytest
from deep_models import BASE, STRUCTURES, TARGET, capture, completep, draws, mix, mlp, norm
from remedies import told

import haiku_mup


def factors(mup, ending):
    """Returns (role, Adam's rate, depth) of the parameters whose names have an ending."""
    found = {(row.role, row.adam_lr, row.depth) for row in mup.table() if row.name.endswith(ending)}
    (only,) = found
    return only


def said(body, base=BASE, target=TARGET, mup=None):
    """Returns what is told of a model."""
    return told(lambda mup: capture(body, base, target, mup=mup), mup or completep())


def in_turn(layers, x):
    return functools.reduce(lambda x, layer: layer(x), layers, x)


def blocks(block):
    """A body of several blocks, each with the number as its argument, in scopes of their own."""
    def body(x, count):
        for i in range(count):
            with hk.name_scope(f"block_{i}"):
                x = block(x, i)
        return x
    return body


def branch(x):
    return jnp.tanh(hk.Linear(x.shape[-1], w_init=draws)(x))


@pytest.mark.parametrize("name", ["layer_stack", "name_scope", "modules"])
def test_name_an_alpha_or_none(name):
    (text,) = said(STRUCTURES[name], mup=haiku_mup.Mup())
    assert "haiku_mup.residual and Mup(parametrization=haiku_mup.maximal_update(depth_alpha=1.0))" in text
    assert "with depth_alpha=0.0 it may differ, and nothing is scaled" in text
    for alpha, wanted in ((1.0, ("hidden", 1 / 2, 3)), (0.0, ("hidden", 1 / 2 / 3, 3))):
        mup = completep(alpha)
        assert said(STRUCTURES[name], mup=mup) == []
        role, adam, depth = factors(mup, "mix/w")
        assert (role, depth) == wanted[::2]
        # α = 1: r^(α - 1) is 1 beside 1/m; without a scale of branches nothing depends on the depth.
        assert adam == pytest.approx(1 / 2)


def test_tune_the_model_with_fewer_blocks():
    (text,) = said(STRUCTURES["name_scope"], TARGET, BASE)
    assert "a base can't have more blocks than its target; tune the model with fewer" in text
    mup = completep()
    assert said(STRUCTURES["name_scope"], BASE, TARGET, mup) == []
    assert factors(mup, "mix/w") == ("hidden", 1 / 2, 3)


# words: (what is wrong, what the words say), with a parameter "linear/w" in its blocks, or another
BODIES = {
    "add what each block computes by x = haiku_mup.residual(x, branch)": (
        lambda x, n: hk.layer_stack(n)(lambda x: x + branch(x))(x),
        lambda x, n: hk.layer_stack(n)(lambda x: haiku_mup.residual(x, branch))(x)),
    "with a branch that makes all its parameters": (
        lambda x, n: hk.layer_stack(n)(lambda x: haiku_mup.residual(norm(x), branch))(x),
        lambda x, n: hk.layer_stack(n)(lambda x: haiku_mup.residual(x, lambda x: branch(norm(x))))(x)),
    "call it in the stack or the module that repeats": (
        lambda x, n: haiku_mup.residual(x, lambda x: hk.layer_stack(n)(branch)(x)),
        lambda x, n: hk.layer_stack(n)(lambda x: haiku_mup.residual(x, branch))(x)),
    "or in hk.name_scope(f'block_{i}')": (
        lambda x, n: haiku_mup.residual(x, lambda x: in_turn(
            [hk.to_module(branch)(f"layer_{i}") for i in range(n)], x)),
        blocks(lambda x, i: haiku_mup.residual(x, branch))),
    "put each block in its own module, or in hk.name_scope(f'block_{i}')": (
        lambda x, n: in_turn([lambda x: haiku_mup.residual(x, lambda x: hk.Linear(x.shape[-1])(
            jax.nn.relu(hk.Linear(2 * x.shape[-1])(x))))] * n, x),
        blocks(lambda x, i: haiku_mup.residual(x, lambda x: hk.Linear(x.shape[-1])(
            jax.nn.relu(hk.Linear(x.shape[-1])(x)))))),
    "must be alike": (
        blocks(lambda x, i: haiku_mup.residual(x, lambda x: hk.Linear(
            x.shape[-1], w_init=hk.initializers.RandomNormal(0.1 * (i + 1)))(x))),
        blocks(lambda x, i: haiku_mup.residual(x, branch))),
    "blocks that repeat must be numbered one after the other, from the same number on": (
        lambda x, n: in_turn([hk.to_module(lambda x: haiku_mup.residual(x, branch))(f"block_{2 * i}")
                              for i in range(n)], x),
        blocks(lambda x, i: haiku_mup.residual(x, branch))),
}


@pytest.mark.parametrize("words", BODIES)
def test_what_is_said_of_blocks(words):
    wrong, right = BODIES[words]
    (text,) = said(wrong)
    assert words in text, text
    mup = completep()
    assert said(right, mup=mup) == []
    assert factors(mup, "linear/w") == ("hidden", 1 / 2, 3)


def test_a_shared_layer_is_made_in_the_block():
    def wrong(x, count):
        shared = hk.Linear(x.shape[-1], name="shared")
        return blocks(lambda x, i: haiku_mup.residual(haiku_mup.residual(x, shared), branch))(x, count)

    (text,) = said(wrong)
    assert "make both in the block" in text or "make it in the block" in text
    mup = completep()
    assert said(blocks(lambda x, i: haiku_mup.residual(haiku_mup.residual(
        x, lambda x: hk.Linear(x.shape[-1], name="own")(x)), branch)), mup=mup) == []
    assert factors(mup, "own/w") == ("hidden", 1 / 2, 3)


def test_a_branch_without_parameters_is_called_beside_one_with_them():
    def body(x, count, beside):
        def block(x):
            x = haiku_mup.residual(x, branch) if beside else x
            return haiku_mup.residual(x, jnp.tanh)
        return hk.layer_stack(count)(block)(x)

    (text,) = said(functools.partial(body, beside=False))
    assert "call it where a branch with parameters is called" in text
    mup = completep()
    assert said(functools.partial(body, beside=True), mup=mup) == []
    assert factors(mup, "linear/w") == ("hidden", 1 / 2, 3)


# --- base and target that are not one function ---

def stacks_or_one(x, count, how):
    if how == "none" and count == TARGET[0]:
        return haiku_mup.residual(x, branch)
    if how == "nested" and count == TARGET[0]:
        return hk.layer_stack(2)(lambda x: hk.layer_stack(count // 2)(
            lambda x: haiku_mup.residual(x, branch))(x))(x)
    return hk.layer_stack(count)(lambda x: haiku_mup.residual(x, branch))(x)


@pytest.mark.parametrize("how", ["none", "nested"])
def test_build_both_from_one_function(how):
    (text,) = said(functools.partial(stacks_or_one, how=how))
    assert "build both from one function" in text or "build base and target from one function" in text
    mup = completep()
    assert said(functools.partial(stacks_or_one, how="one"), mup=mup) == []
    assert factors(mup, "linear/w") == ("hidden", 1 / 2, 3)


def test_another_name_is_built_from_one_function():
    def body(x, count, name):
        return hk.Linear(x.shape[-1], name=name(count))(x)

    texts = said(functools.partial(body, name=lambda count: f"layer_of_{'ab'[count == 6]}"))
    assert "build base and target from one function, and capture the base again" in texts[0]
    mup = completep()
    assert said(functools.partial(body, name=lambda count: "same"), mup=mup) == []
    assert factors(mup, "same/w") == ("hidden", 1 / 2, 1)


def test_a_stack_has_one_layer_at_least():
    (text,) = said(STRUCTURES["layer_stack"], (0, 8), (6, 16))
    assert "build base and target with at least one layer" in text
    mup = completep()
    assert said(STRUCTURES["layer_stack"], (1, 8), (6, 16), mup) == []
    assert factors(mup, "mix/w") == ("hidden", 1 / 2, 6)


def test_a_branch_is_a_function():
    with pytest.raises(haiku_mup.MupError, match=r"give a function of x .*residual\(x, lambda x: layer\(norm"):
        hk.transform(lambda x: haiku_mup.residual(x, mlp(x))).init(jax.random.PRNGKey(0), jnp.ones((2, 4)))
    mup = completep()
    assert said(lambda x, n: hk.layer_stack(n)(
        lambda x: haiku_mup.residual(x, lambda x: mix(norm(x))))(x), mup=mup) == []
    assert factors(mup, "mix/w") == ("hidden", 1 / 2, 3)


@pytest.mark.parametrize("alpha, branch_factor", [(1.0, 1 / 3), (0.5, 3**-0.5), (0.75, 3**-0.75), (0.0, 1.0)])
def test_alphas_that_are_named_are_taken(alpha, branch_factor):
    for bad in (-1.0, "one", float("nan")):
        with pytest.raises(haiku_mup.MupError, match=r"give 1.0 \(CompleteP\), 0.5 \(Depth-μP\)"):
            haiku_mup.maximal_update(depth_alpha=bad)
    assert haiku_mup.maximal_update(depth_alpha=alpha).branch(3.0) == pytest.approx(branch_factor)
