"""Every structure that Haiku has, against the plain model and against the same model without the structure."""
import functools
import re

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jaxprs import gradient, program
from small_models import KEY
from transparent_stack import Map, transparent

import haiku_mup

X = jnp.linspace(-1, 1, 12).reshape(2, 6)
constant = hk.initializers.RandomUniform(-0.5, 0.5)     # uniform ones compile in half the time
fan_in = hk.initializers.UniformScaling()


def branch(x):
    """Two layers and a gain of its own, for activations of any width."""
    width = x.shape[-1]
    y = jax.nn.relu(hk.Linear(2 * width, w_init=constant, name="up")(x))
    y = hk.Linear(width, w_init=fan_in, name="down")(y)
    gain = hk.get_parameter("gain", (width,), init=hk.initializers.RandomUniform(0.9, 1.1))
    return y * gain.reshape((1,) * (y.ndim - 1) + (width,))


def block(x):
    with hk.name_scope("block"):
        return x + branch(x)


def blocks(count):
    """The oracle: `count` blocks, one after the other."""
    def body(x):
        for _ in range(count):
            x = block(x)
        return x
    return body


class Block(hk.Module):
    def __call__(self, x):
        return x + branch(x)


STRUCTURES = {}


def structure(oracle, name=None):
    """Registers body(x) -> x, between a first layer and a readout, and its oracle: another body, or None."""
    def register(body):
        STRUCTURES[name or body.__name__] = body, oracle
        return body
    return register


# --- stacks ---

def stacked(count, **kwargs):
    return hk.layer_stack(count, **kwargs)


structure(blocks(3), "layer_stack")(lambda x: stacked(3)(block)(x))
structure(blocks(4), "layer_stack unrolled")(lambda x: stacked(4, unroll=2)(block)(x))
structure(blocks(6), "layer_stack nested")(lambda x: stacked(2)(lambda x: stacked(3)(block)(x))(x))
structure(blocks(3), "layer_stack of remat")(lambda x: stacked(3)(hk.remat(block))(x))
structure(blocks(3), "layer_stack under remat")(lambda x: hk.remat(lambda x: stacked(3)(block)(x))(x))
structure(blocks(3), "layer_stack transparent")(lambda x: transparent(3)(block)(x))
structure(blocks(6), "layer_stack transparent in a stack")(
    lambda x: stacked(2)(lambda x: transparent(3)(block)(x))(x))
structure(blocks(6), "layer_stack in a transparent one")(
    lambda x: transparent(2)(lambda x: stacked(3)(block)(x))(x))
structure(blocks(6), "layer_stack transparent in a transparent one")(lambda x: hk.layer_stack(
    2, transparent=True, transparency_map=Map("outer"))(lambda x: transparent(3)(block)(x))(x))


@structure(blocks(3))
def layer_stack_with_per_layer_inputs(x):
    def body(x, y):
        return block(x) * y, x.sum()

    x, sums = hk.layer_stack(3, with_per_layer_inputs=True)(body)(x, jnp.arange(1.0, 4.0))
    return x + sums.sum()


@structure(lambda x: blocks(2)(blocks(2)(x)))
def layer_stacks_of_one_name_in_two_modules(x):
    for name in "ab":
        with hk.name_scope(name):
            x = hk.layer_stack(2, name="stack")(block)(x)
    return x


@structure(blocks(3))
def layer_stack_transparent_in_a_module(x):
    class Net(hk.Module):
        def __call__(self, x):
            return transparent(3)(block)(x)

    return Net()(x)


# --- lifts ---

def lifted(x, lift, body=block):
    inner = hk.transform(body)
    params = lift(inner.init)(hk.next_rng_key() if hk.running_init() else None, x)
    return inner.apply(params, None, x)


structure(block, "lift")(lambda x: lifted(x, functools.partial(hk.lift, name="l")))
structure(block, "transparent_lift")(lambda x: lifted(x, hk.transparent_lift))
structure(block, "lift in a lift")(lambda x: lifted(
    x, functools.partial(hk.lift, name="outer"), lambda x: lifted(x, functools.partial(hk.lift, name="inner"))))
structure(block, "lift in a transparent_lift")(lambda x: lifted(
    x, hk.transparent_lift, lambda x: lifted(x, hk.lift)))
structure(blocks(2), "lift in a layer_stack")(lambda x: stacked(2)(lambda x: lifted(x, hk.lift))(x))
structure(blocks(2), "lift in a transparent layer_stack")(
    lambda x: transparent(2)(lambda x: lifted(x, hk.lift))(x))


@structure(block)
def lift_with_state(x):
    inner = hk.transform_with_state(block)
    init, updater = hk.lift_with_state(inner.init, name="l")
    params, state = init(hk.next_rng_key() if hk.running_init() else None, x)
    out, state = inner.apply(params, state, None, x)
    updater.update(state)
    return out


def ensemble(x, lift):
    inner = hk.transform(block)
    keys = hk.next_rng_keys(3) if hk.running_init() else None
    params = lift(jax.vmap(inner.init, in_axes=(0, None)))(keys, x)
    return jax.vmap(inner.apply, in_axes=(0, None, None))(params, None, x).mean(0)


def in_a_scope(x):
    with hk.name_scope("e"):
        return ensemble(x, hk.transparent_lift)


structure(block, "an ensemble: params mapped")(lambda x: ensemble(x, hk.lift))
structure(block, "a transparent ensemble")(in_a_scope)


# --- Haiku's versions of JAX's control flow ---

def twice(x):
    return jnp.stack([x, 2 * x])


def eval_shaped(x):
    module = Block(name="block")
    hk.eval_shape(module, x)
    return module(x)


structure(block, "vmap")(lambda x: hk.vmap(block, split_rng=not hk.running_init())(twice(x)).sum(0))
structure(block, "vmap over one argument")(lambda x: hk.vmap(
    lambda a, b: block(a) + b, in_axes=(1, None), out_axes=1, split_rng=False)(
        x[None], jnp.ones((1, x.shape[1])))[0])
structure(block, "map")(lambda x: hk.map(Block(name="block"), twice(x)).sum(0))
structure(block, "fori_loop")(lambda x: block(x) if hk.running_init() else hk.fori_loop(
    0, 3, lambda i, x: block(x), x))
structure(block, "remat")(lambda x: hk.remat(block)(x))
structure(block, "eval_shape")(eval_shaped)


@structure(block)
def scan(x):
    module = Block(name="block")
    return hk.scan(lambda c, y: (module(c) + y, c.sum()), x, twice(x))[0]


@structure(None)
def while_loop(x):
    module = Block(name="block")
    start = module(x) if hk.running_init() else x
    if hk.running_init():
        return start
    # as forward mode only differentiates while_loop, its result is no part of the gradient
    steps = hk.while_loop(lambda s: s[1] < 3, lambda s: (jax.lax.stop_gradient(module(s[0])), s[1] + 1), (
        jax.lax.stop_gradient(x), 0))
    return module(x) + steps[0]


@structure(lambda x: Block(name="a")(x) + Block(name="b")(x))
def cond(x):
    a, b = Block(name="a"), Block(name="b")
    return a(x) + b(x) if hk.running_init() else hk.cond(x.sum() > 0, a, b, x)


@structure(lambda x: Block(name="a")(x) + Block(name="b")(x))
def switch(x):
    a, b = Block(name="a"), Block(name="b")
    return a(x) + b(x) if hk.running_init() else hk.switch(1, [a, b], x)


@structure(block)
def value_and_grad(x):
    module = Block(name="block")
    value, grad = hk.value_and_grad(lambda x: (module(x)**2).sum())(x)
    return module(x) + grad + value


# --- names, and modules used in other ways ---

@structure(block)
def name_scopes(x):
    with hk.name_scope("outer"), hk.name_scope("inner"):
        return block(x)


structure(block, "to_module")(lambda x: hk.to_module(block)("a_name")(x))


@structure(block)
def called_twice(x):
    module = Block(name="block")
    return module(module(x))


@structure(blocks(2))
def modules_in_a_list(x):
    class Net(hk.Module):
        def __init__(self):
            super().__init__()
            self.layers = [Block(name=f"block_{i}") for i in range(2)]

        def __call__(self, x):
            return hk.Sequential([*self.layers, jnp.tanh])(x)

    return Net()(x)


@structure(block)
def shared_with_another_module(x):
    class User(hk.Module):
        def __init__(self, module):
            super().__init__()
            self.module = module

        def __call__(self, x):
            return self.module(x)

    module = Block(name="block")
    return User(module)(User(module)(x))


@structure(lambda x: hk.Linear(x.shape[-1], with_bias=False, w_init=constant, name="w")(x))
def a_parameter_at_the_top(x):
    return x @ hk.get_parameter("w", (x.shape[-1],) * 2, init=constant)


@structure(block)
def methods_and_transparent_methods(x):
    class Net(hk.Module):
        @hk.transparent
        def hidden(self, x):
            return block(x)

        def other(self, x):
            return self.hidden(x)

    return Net().other(x)


@structure(blocks(2))
def force_name_and_flat_names(x):
    return Block(name=hk.force_name("elsewhere"))(Block(name="block")(x))


# --- state ---

@structure(block)
def exponential_moving_average(x):
    return block(x) + hk.ExponentialMovingAverage(0.9)(x.mean(0, keepdims=True))


@structure(block)
def spectral_norm(x):
    def getter(next_getter, value, context):
        return hk.SpectralNorm(name=f"sn_{context.name}")(value) if context.name == "w" else next_getter(value)

    with hk.custom_getter(getter):
        return block(x)


@structure(block)
def averaged_parameters_of_a_lift(x):
    inner = hk.transform(block)
    params = hk.lift(inner.init, name="l")(hk.next_rng_key() if hk.running_init() else None, x)
    return inner.apply(hk.SNParamsTree(ignore_regex=".*/(b|gain)")(hk.EMAParamsTree(0.9)(params)), None, x)


@structure(None)
def batch_norm_in_a_stack(x):
    def body(x):
        return x + hk.BatchNorm(True, True, 0.9)(hk.Linear(x.shape[-1], w_init=fan_in)(x), is_training=True)

    return hk.layer_stack(3)(body)(x)


@structure(None)
def vector_quantizers(x):
    """The embeddings of VectorQuantizerEMA are state, and it sits between layers."""
    width = x.shape[-1]
    y = hk.nets.VectorQuantizer(width, 5, 0.25)(x, True)["quantize"]
    return block(y) + hk.nets.VectorQuantizerEMA(width, 5, 0.25, 0.9)(x, True)["quantize"]


# --- creators and getters of the user's own, and precision ---

def doubled(next_getter, value, context):
    return next_getter(2 * value)


def seen(next_creator, shape, dtype, init, context):
    return next_creator(shape, dtype, init)


def other_init(next_creator, shape, dtype, init, context):
    return next_creator(shape, dtype, hk.initializers.RandomUniform(-0.2, 0.2) if context.name == "w" else init)


@structure(block)
def a_getter_inside(x):
    with hk.custom_getter(doubled):
        return block(x)


@structure(block)
def a_creator_inside(x):
    with hk.custom_creator(seen):
        return block(x)


@structure(block)
def a_creator_around(x):
    return block(x)         # the model is made with it: see `model`


@structure(None)
def a_creator_around_that_replaces_initializers(x):
    return block(x)


@structure(block)
def an_interceptor_inside(x):
    def interceptor(next_method, args, kwargs, context):
        out = next_method(*args, **kwargs)
        return jnp.tanh(out) if isinstance(context.module, hk.Linear) and out is not None else out

    with hk.intercept_methods(interceptor):
        return block(x)


AROUND = {
    "a_creator_around": lambda: hk.custom_creator(seen),
    "a_creator_around_that_replaces_initializers": lambda: hk.custom_creator(other_init),
}


# What others have, nested.
TWICE = ("layer_stack transparent in a stack", "layer_stack in a transparent one",
         "layer_stack transparent in a transparent one", "lift in a transparent layer_stack")
EAGER = ("layer_stack nested", "lift", "vmap", "remat")      # it compiles each operation

# --- the checks ---

def model(body, around=None):
    """make(width) -> an hk.TransformedWithState."""
    def fn(x, width):
        with (around or hk.name_scope)(*(() if around else ("net",))), haiku_mup.apply_mup():
            x = hk.Linear(width, w_init=fan_in, name="first")(x)
            return haiku_mup.Readout(3, w_init=fan_in)(body(x))
    return lambda width: hk.transform_with_state(functools.partial(fn, width=width))


def captured(make, target=16):
    mup = haiku_mup.Mup()
    with mup.init_base():
        jax.eval_shape(make(4).init, KEY, X)
    with mup.init_target():
        jax.eval_shape(make(target).init, KEY, X)
    return mup


def names(tree):
    return {f"{module}/{name}" for module, leaves in tree.items() for name in leaves}


def kinds(mup):
    """What there is of each kind of parameter, whatever the structure adds to its name."""
    found = set()
    for row in mup.table():
        module, _, leaf = row.name.rpartition("/")
        module = re.sub(r"(_(layer|outer)?_?\d+)*$", "", module.rpartition("/")[2])
        kind = module if module in ("first", "readout", "up", "down", "w") else leaf
        found.add((kind, leaf if kind != "w" else "w", row.role, row.base_shape, row.target_shape, row.base_std,
                   row.target_std, row.multiplier, row.adam_lr, row.sgd_lr))
    return found


@pytest.mark.parametrize("name", [
    pytest.param(name, marks=pytest.mark.slow) if name in TWICE else name for name in STRUCTURES])
def test_structure(name):
    body, oracle = STRUCTURES[name]
    make = model(body, AROUND.get(name))
    same = captured(make, 4)
    assert gradient(same.wrap_model(make(4)), X) == gradient(make(4), X)    # at base width: bit for bit

    mup = captured(make)
    ours = mup.wrap_model(make(16))
    assert gradient(ours, X) != gradient(make(16), X)                   # and apply finds every multiplier
    params = jax.tree.map(np.asarray, jax.jit(ours.init)(KEY, X)[0])
    with mup.init_target():
        assert program(make(16).init, KEY, X) == program(ours.init, KEY, X)
        eager = make(16).init(KEY, X)[0] if name in EAGER else params
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6), eager, params)
    optimizer = mup.wrap_optimizer(optax.sgd(1.0), adam=False)
    updates, _ = optimizer.update(params, optimizer.init(params), params)
    assert {row.name for row in mup.table()} == names(params)
    scales = mup.lr_scales(adam=False)
    assert jax.tree.structure(scales) == jax.tree.structure(params)
    jax.tree.map(lambda u, s, p: np.testing.assert_allclose(u, -s * p, rtol=1e-6), updates, scales, params)
    for row in mup.table():
        module, _, leaf = row.name.rpartition("/")
        draw = np.asarray(params[module][leaf])
        if draw.size >= 96 and row.target_std:
            assert draw.std() == pytest.approx(row.target_std, rel=4 / (2 * draw.size)**0.5)
    if oracle:
        assert kinds(mup) == kinds(captured(model(oracle)))


# --- where apply_mup() is, and what is lifted ---

def factors(mup):
    return {row.name: (row.role, row.target_std, row.multiplier, row.adam_lr) for row in mup.table()}


@pytest.mark.parametrize("lift", [functools.partial(hk.lift, name="l"), hk.transparent_lift])
def test_apply_mup_between_two_lifts(lift):
    """It ends in a tree that has a part of each name."""
    def net(x, width, inner=block):
        x = inner(hk.Linear(width, w_init=fan_in, name="first")(x))
        return haiku_mup.Readout(3, w_init=fan_in)(x)

    def around(x, width):
        return lifted(x, lift, lambda x: below(x, width))

    def below(x, width):
        with haiku_mup.apply_mup():
            return net(x, width, inner=lambda x: stacked(2)(lambda x: lifted(x, hk.lift))(x))

    make = lambda width: hk.transform_with_state(functools.partial(around, width=width))  # noqa: E731
    mup = captured(make)
    params, _ = jax.eval_shape(mup.wrap_model(make(16)).init, KEY, X)
    assert {row.name for row in mup.table()} == names(params) and any("stack" in name for name in params)
    oracle = model(lambda x: stacked(2)(lambda x: lifted(x, hk.lift))(x))
    assert kinds(mup) == kinds(captured(oracle))


@pytest.mark.parametrize("name", ["layer_stack", "layer_stack transparent", "lift in a lift"])
def test_a_wrapped_model_that_is_lifted_itself(name):
    make = model(STRUCTURES[name][0])
    inner = captured(make).wrap_model(make(16))
    def fn(x):
        init, updater = hk.lift_with_state(inner.init, name="m")
        updater.ignore_update()
        return inner.apply(*init(hk.next_rng_key() if hk.running_init() else None, x), None, x)[0]

    outer = hk.transform(fn)
    params = jax.jit(outer.init)(KEY, X)
    plain = make(16).init
    wanted = {f"m/{module}": leaves for module, leaves in jax.eval_shape(plain, KEY, X)[0].items()}
    assert jax.tree.map(jnp.shape, params) == jax.tree.map(lambda p: p.shape, wanted)
    for row in captured(make).table():
        module, _, leaf = row.name.rpartition("/")
        draw = params[f"m/{module}"][leaf]
        if draw.size >= 96 and row.target_std:
            assert draw.std() == pytest.approx(row.target_std, rel=4 / (2 * draw.size)**0.5)


# --- names that collide without their prefix ---

@pytest.mark.parametrize("how", ["lift", "layer_stack"])
def test_names_that_collide_without_their_prefix(how):
    """Two layers of one local name and one shape, hidden in one and an input in the other."""
    def fn(x, width):
        def layer(x, size):
            return hk.Linear(size, w_init=constant, with_bias=False, name="l")(x)

        def both(name, x):
            if how == "lift":
                return lifted(x, functools.partial(hk.lift, name=name), lambda x: layer(x, 16))
            return hk.layer_stack(2, name=name)(lambda x: layer(x, 16))(x)

        with haiku_mup.apply_mup():
            one, two = jnp.ones((2, 16)), jnp.ones((2, width))
            if how == "lift":
                two = lifted(two, functools.partial(hk.lift, name="two"), lambda x: layer(x, width))
            else:
                two = hk.layer_stack(2, name="two")(lambda x: layer(x, width))(two)
            return both("one", one).sum() + two.sum()

    make = lambda width: hk.transform_with_state(functools.partial(fn, width=width))  # noqa: E731
    found = factors(captured(make))
    std = 1 / np.sqrt(12)
    assert found == {"one/l/w": ("fixed", pytest.approx(std), 1, 1),
                     "two/l/w": ("hidden", pytest.approx(std / 2), 1, 0.25)}


# --- several functions, precision ---

def gan(width):
    def net(sizes, name):
        return hk.nets.MLP(sizes, name=name, w_init=fan_in, activate_final=True)

    class Net(hk.Module):
        def __init__(self, size, name):
            super().__init__(name=name)
            self.body, self.head = net((width, width), "body"), haiku_mup.Readout(size, w_init=fan_in)

        def __call__(self, x):
            with haiku_mup.apply_mup():
                return self.head(self.body(x))

    generator, discriminator = Net(6, "generator"), Net(1, "discriminator")

    def both(z):
        return discriminator(generator(z))

    return both, (generator, discriminator, both)


def test_several_functions_of_one_transform():
    """A GAN: the same factors in each function as in a model of its own; each apply has its multipliers."""
    make = lambda width: hk.multi_transform_with_state(functools.partial(gan, width))  # noqa: E731
    mup = captured(make)
    ours = mup.wrap_model(make(16))
    params, state = jax.jit(ours.init)(KEY, X)
    assert {row.name for row in mup.table()} == names(params)
    assert {(row.name[-7:], row.role, row.adam_lr) for row in mup.table() if row.name.endswith("w")} == {
        ("ear_0/w", "input", 1), ("ear_1/w", "hidden", 0.25), ("adout/w", "output", 1)}
    fake, score, both = (f for f in ours.apply)
    out = fake(params, state, None, X)[0]
    np.testing.assert_allclose(score(params, state, None, out)[0], both(params, state, None, X)[0], rtol=1e-6)
    h = jax.nn.relu(jax.nn.relu(X @ params["generator/~/body/~/linear_0"]["w"])
                    @ params["generator/~/body/~/linear_1"]["w"])
    np.testing.assert_allclose(out, h / 4 @ params["generator/~/readout"]["w"], rtol=1e-5)


@pytest.mark.parametrize("policy", ["p=f32,c=bf16,o=f32", "p=bf16,c=bf16,o=bf16", "p=f16,c=f32,o=f16"])
def test_mixed_precision(policy):
    jmp = pytest.importorskip("jmp")

    def layer(x):
        ones = jnp.ones((5, x.shape[-1]), x.dtype)
        with hk.mixed_precision.push_policy(hk.Linear, jmp.get_policy(policy)), \
                hk.mixed_precision.push_policy(haiku_mup.Readout, jmp.get_policy(policy)):
            return haiku_mup.Readout(5, name="inner")(stacked(2)(block)(x)) @ ones

    make = model(layer)
    same = captured(make, 4)
    assert gradient(same.wrap_model(make(4)), X) == gradient(make(4), X)
    mup = captured(make)
    params, plain = (jax.jit(m.init)(KEY, X)[0] for m in (mup.wrap_model(make(16)), make(16)))
    assert [(p.shape, p.dtype) for p in jax.tree.leaves(params)] == [
        (p.shape, p.dtype) for p in jax.tree.leaves(plain)]
    assert {row.name for row in mup.table()} == names(params)
    up = "net/__layer_stack_no_per_layer/block/up"
    assert params[up]["w"].dtype == jmp.get_policy(policy).param_dtype
    np.testing.assert_allclose(*(np.asarray(w, float) for w in (params[up]["w"], plain[up]["w"] / 2)),
                               rtol=0.01)
    assert kinds(mup) == kinds(captured(model(lambda x: haiku_mup.Readout(5, name="inner")(
        stacked(2)(block)(x)) @ jnp.ones((5, x.shape[-1])))))


@pytest.mark.parametrize("target", [16, 32])
def test_a_layer_of_a_stack_is_not_taken_for_one_outside_of_its_name_and_shape(target):
    """At width 16, the first layer and those of the stack are both linear/w, (16, 16)."""
    def make(width):
        def fn(x):
            with haiku_mup.apply_mup():
                x = jnp.tanh(hk.Linear(width)(x))
                x = hk.layer_stack(3)(lambda x: x + jnp.tanh(hk.Linear(width)(x)))(x)
                return haiku_mup.Readout(5)(x)
        return hk.transform(fn)

    outs, x = [], jnp.ones((2, 16)) / 4
    for form in ("table8", "table9", "mean_field"):
        mup = haiku_mup.Mup(parametrization=haiku_mup.maximal_update(form))
        with mup.init_base():
            jax.eval_shape(make(8).init, jax.random.PRNGKey(1), x)
        with mup.init_target():
            params = make(target).init(jax.random.PRNGKey(1), x)
        outs.append(mup.wrap_model(make(target)).apply(params, None, x))
    for out in outs[1:]:
        np.testing.assert_allclose(out, outs[0], rtol=1e-4, atol=1e-6)      # float32
