"""The contract: capture, draw, wrap; in every way that a user may call init and apply."""
import functools
import gc
import itertools

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from small_models import KEY, MODELS, captured, mlp, one, stack
from trees import equal

import haiku_mup
from haiku_mup.parameters.record import Record

X = MODELS["mlp"][1]


@pytest.mark.parametrize("name", MODELS)
def test_at_base_width_everything_is_bit_for_bit_the_plain_model(name):
    make, x = MODELS[name]
    plain = make(8)
    run = (lambda f: f) if name == "mlp" else jax.jit       # eager ops cost a compilation each
    mup = haiku_mup.Mup()
    with mup.init_base():
        base = run(plain.init)(KEY, x)
    with mup.init_target():
        params = run(plain.init)(KEY, x)
    model = mup.wrap_model(plain)
    expected = run(plain.init)(KEY, x)
    assert equal(base, expected) and equal(params, expected)
    assert equal(run(model.init)(KEY, x), expected)
    assert equal(run(model.apply)(params, x), run(plain.apply)(params, x))
    grads = [run(jax.grad(lambda p: jnp.sum(f(p, x)**2)))(params) for f in (model.apply, plain.apply)]       # noqa: B023
    assert equal(*grads)
    updates = [run(opt.update)(grads[0], opt.init(params), params)[0]
               for opt in (mup.wrap_optimizer(optax.adamw(0.1)), optax.adamw(0.1))]
    assert equal(*updates)


@pytest.mark.parametrize("name", MODELS)
def test_records_are_those_of_the_tree(name):
    make, x = MODELS[name]
    mup = captured(make, x)
    params = make(32).init(KEY, x)
    assert jax.tree.structure(mup.lr_scales()) == jax.tree.structure(params)
    assert all(type(s) is float for s in jax.tree.leaves((mup.lr_scales(), mup.lr_scales(adam=False))))


INITS = {
    "eager": lambda init: init,
    "jitted": jax.jit,
    "vmapped": lambda init: lambda key, x: jax.tree.map(
        lambda p: p[0], jax.vmap(init, (0, None))(key[None], x)),
    "jitted vmapped": lambda init: lambda key, x: jax.tree.map(
        lambda p: p[0], jax.jit(jax.vmap(init, (0, None)))(key[None], x)),
}


@pytest.mark.parametrize("name, how", [("mlp", "eager"), ("stack", "jitted"), *(
    pytest.param(*each, marks=pytest.mark.slow) for each in itertools.product(["mlp", "stack"], INITS))])
def test_every_way_to_init_gives_the_same(name, how):
    """Draws under jit may differ in the last bit: tolerances are float32's rounding."""
    make, x = MODELS[name]
    expected = captured(make, x).wrap_model(make(32)).init(KEY, x)
    mup = haiku_mup.Mup()
    with mup.init_base():
        INITS[how](make(8).init)(KEY, x)
    with mup.init_target():
        params = INITS[how](make(32).init)(KEY, x)
    again = INITS[how](mup.wrap_model(make(32)).init)(KEY, x)
    for other in (params, again):
        jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-6, atol=1e-7), other, expected)
    plain = make(32).init(KEY, x)
    assert not equal(plain, expected)


def test_draws_under_new_keys_have_the_std_of_mup():
    mup = captured(mlp, X)
    params = jax.jit(mup.wrap_model(mlp(32)).init)(jax.random.PRNGKey(99), X)
    for row in mup.table():
        module, _, name = row.name.rpartition("/")
        if np.prod(row.target_shape) >= 96 and row.target_std:
            n = np.prod(row.target_shape)
            assert np.std(params[module][name]) == pytest.approx(row.target_std, rel=4 / (2 * n)**0.5)


def test_by_hand(x64):
    """Ratio 4: the readout's inputs × 1/4; a hidden weight of constant std × 1/2; the rest untouched."""
    x = X.astype(jnp.float64)
    mup = captured(mlp, x)
    plain, params = (f.init(KEY, x) for f in (mlp(32), mup.wrap_model(mlp(32))))
    for module, name, factor in (("linear", "w", 1.0), ("linear_1", "w", 0.5), ("readout", "w", 2.0),
                                 ("readout", "b", 1.0)):
        np.testing.assert_allclose(params[module][name], factor * plain[module][name], rtol=1e-14)
    h = jax.nn.relu(x @ params["linear"]["w"])
    h = jax.nn.relu(h @ params["linear_1"]["w"])
    out = h / 4 @ params["readout"]["w"] + params["readout"]["b"][None]
    np.testing.assert_allclose(mup.wrap_model(mlp(32)).apply(params, x), out, rtol=1e-13)
    assert mup.lr_scales() == {"linear": {"b": 1.0, "w": 1.0}, "linear_1": {"b": 1.0, "w": 0.25},
                               "readout": {"b": 1.0, "w": 1.0}}
    assert mup.lr_scales(adam=False) == {"linear": {"b": 4.0, "w": 4.0}, "linear_1": {"b": 4.0, "w": 1.0},
                                         "readout": {"b": 1.0, "w": 4.0}}


def test_activations_keep_their_size_over_widths():
    """After 3 steps of Adam the output moves by as much at width 1024 as at 64; in SP it does not."""
    def moved(width, in_mup):
        x = jnp.tile(X, (4, 1))
        mup = captured(mlp, x, 64, width)
        model = mup.wrap_model(mlp(width)) if in_mup else mlp(width)
        opt = mup.wrap_optimizer(optax.adam(1e-3)) if in_mup else optax.adam(1e-3)

        @jax.jit
        def step(params, state):
            grads = jax.grad(lambda p: jnp.mean((model.apply(p, x) - 1.0)**2))(params)
            updates, state = opt.update(grads, state, params)
            return optax.apply_updates(params, updates), state

        params = first = model.init(KEY, x)
        state = opt.init(params)
        for _ in range(3):
            params, state = step(params, state)
        return float(jnp.abs(model.apply(params, x) - model.apply(first, x)).mean())

    assert moved(1024, True) < 2 * moved(64, True)
    assert moved(1024, False) > 3 * moved(64, False)


# --- types, nesting, caches ---

def with_state(x, width):
    with haiku_mup.apply_mup():
        x = hk.BatchNorm(True, True, 0.9)(hk.Linear(width)(x), is_training=True)
        return haiku_mup.Readout(3)(x)


def test_wrap_model_keeps_the_type_state_and_rng():
    make = lambda width: hk.transform_with_state(functools.partial(with_state, width=width))  # noqa: E731
    mup = captured(make, X)
    model = mup.wrap_model(make(32))
    assert type(model) is hk.TransformedWithState
    params, state = model.init(KEY, X)
    out, state = model.apply(params, state, KEY, X)
    assert out.shape == (2, 3) and state
    bare = mup.wrap_model(hk.without_apply_rng(make(32)))
    assert type(bare) is hk.TransformedWithState
    assert equal(bare.apply(params, state, X)[0], hk.without_apply_rng(model).apply(params, state, X)[0])


@pytest.mark.parametrize("stateful", [False, True])
def test_wrap_model_keeps_multi_transforms(stateful):
    def fn(width):
        encoder, decoder = hk.Linear(width), haiku_mup.Readout(3)

        def encode(x):
            with haiku_mup.apply_mup():
                return encoder(x)

        def decode(z):
            with haiku_mup.apply_mup():
                return decoder(z)

        return lambda x: decode(encode(x)), {"encode": encode, "decode": decode}

    kind = hk.multi_transform_with_state if stateful else hk.multi_transform
    make = lambda width: kind(functools.partial(fn, width))  # noqa: E731
    mup = captured(make, X)
    model = mup.wrap_model(make(32))
    assert type(model) is (hk.MultiTransformedWithState if stateful else hk.MultiTransformed)
    state = model.init(KEY, X)
    state = state if stateful else (state,)
    first = (lambda out: out[0]) if stateful else (lambda out: out)
    z = first(model.apply["encode"](*state, KEY, X))
    out = first(model.apply["decode"](*state, KEY, z))
    params = state[0]
    np.testing.assert_allclose(out, z / 4 @ params["readout"]["w"] + params["readout"]["b"][None], rtol=1e-6)


def test_what_haiku_transforms_anew_is_still_in_mup():
    mup = captured(mlp, X)
    model = mup.wrap_model(mlp(32))
    params = model.init(KEY, X)
    anew = hk.transform(model.apply._original_fn)
    assert equal(anew.init(KEY, X), params)
    assert equal(anew.apply(params, None, X), model.apply(params, X))


def test_one_apply_mup_inside_another_is_one():
    def fn(x, width):
        with haiku_mup.apply_mup(), haiku_mup.apply_mup():
            x = hk.Linear(width)(x)
            with haiku_mup.apply_mup():
                return haiku_mup.Readout(3)(hk.Linear(width, w_init=hk.initializers.RandomNormal())(x))

    make = lambda width: hk.transform(functools.partial(fn, width=width))  # noqa: E731
    once = captured(lambda w: hk.transform(functools.partial(mlp_like, width=w)), X)
    twice = captured(make, X)
    assert [r.target_std for r in once.table()] == [r.target_std for r in twice.table()]
    a, b = (m.wrap_model(f).init(KEY, X) for m, f in (
        (once, hk.transform(functools.partial(mlp_like, width=32))), (twice, make(32))))
    assert equal(a, b)


def mlp_like(x, width):
    with haiku_mup.apply_mup():
        x = hk.Linear(width)(x)
        return haiku_mup.Readout(3)(hk.Linear(width, w_init=hk.initializers.RandomNormal())(x))


def test_outside_every_context_it_is_the_plain_model():
    def plain(x):
        x = jax.nn.relu(hk.Linear(32)(x))
        x = jax.nn.relu(hk.Linear(32, w_init=hk.initializers.RandomNormal(0.3))(x))
        return hk.Linear(3, b_init=hk.initializers.RandomNormal(), name="readout")(x)

    expected = hk.without_apply_rng(hk.transform(plain))
    params = expected.init(KEY, X)
    assert equal(mlp(32).init(KEY, X), params)
    texts = [str(jax.make_jaxpr(f.apply)(params, X)) for f in (mlp(32), expected)]
    assert texts[0] == texts[1]


def test_a_trace_made_in_one_context_is_not_used_in_another():
    make = mlp(32)
    init = jax.jit(make.init)
    plain = init(KEY, X)                # traced before any context
    mup = haiku_mup.Mup()
    with mup.init_base():
        jax.jit(mlp(8).init)(KEY, X)
    with mup.init_target():
        params = init(KEY, X)
        assert equal(init(KEY, X), params)          # several seeds in one context are one trace
    assert not equal(params, plain)
    assert equal(init(KEY, X), plain)
    model = mup.wrap_model(make)
    assert equal(jax.jit(model.init)(KEY, X), params) and equal(jax.jit(make.init)(KEY, X), plain)
    inner = jax.jit(make.apply)
    with mup.init_target():             # a jitted init's arrays can't be told from the plain one's
        eager = make.init(KEY, X)
    with pytest.warns(haiku_mup.MupWarning, match="wrap_model"):
        inner(eager, X)
    standard = inner(params, X)
    wrapped = mup.wrap_model(hk.Transformed(make.init, inner))
    np.testing.assert_allclose(wrapped.apply(params, X), model.apply(params, X), rtol=1e-5, atol=1e-6)
    assert not np.allclose(wrapped.apply(params, X), standard)
    assert equal(inner(params, X), standard)
    other = haiku_mup.Mup()
    with other.init_base():
        init(KEY, X)
    with other.init_target():
        assert equal(init(KEY, X), plain)


def test_equal_content_shares_a_trace():
    traces = []

    def layer(x, width):
        traces.append(width)
        return haiku_mup.Readout(3)(hk.Linear(width)(x))

    make, x = one(layer)
    plain = make(32)
    inner = jax.jit(plain.apply)
    models = [captured(make, x).wrap_model(hk.Transformed(plain.init, inner)) for _ in range(3)]
    params = models[0].init(KEY, x)
    traces.clear()
    for model in models:
        model.apply(params, None, x)
    assert len(traces) == 1


def test_two_mups_one_inside_the_other():
    teacher = captured(mlp, X, 8, 16)
    taught = teacher.wrap_model(mlp(16))
    params = taught.init(KEY, X)

    def fn(x, width):
        with haiku_mup.apply_mup():
            y = taught.apply(params, x)         # another Mup's model, below our apply_mup()
            fresh = taught.init(KEY, x)
            x = hk.Linear(width)(x)
            return haiku_mup.Readout(3)(x) + y + 0 * fresh["linear"]["w"].sum()

    make = lambda width: hk.transform(functools.partial(fn, width=width))  # noqa: E731
    mup = captured(make, X)
    assert [row.name for row in mup.table()] == ["linear/w", "linear/b", "readout/w", "readout/b"]
    model = mup.wrap_model(make(32))
    own = model.init(KEY, X)
    h = X @ own["linear"]["w"] + own["linear"]["b"][None]
    out = h / 4 @ own["readout"]["w"] + taught.apply(params, X)
    np.testing.assert_allclose(model.apply(own, None, X), out, rtol=1e-5, atol=1e-6)


def test_an_inner_transform_that_is_not_in_the_tree_is_not_captured():
    def fn(x, width):
        with haiku_mup.apply_mup():
            inner = hk.transform(lambda x: hk.Linear(3)(hk.Linear(17)(x)))
            y = inner.apply(inner.init(KEY, x), None, x)
            return haiku_mup.Readout(3)(hk.Linear(width)(x)) + y

    mup = captured(lambda width: hk.transform(functools.partial(fn, width=width)), X)
    assert [row.target_shape for row in mup.table()] == [(6, 32), (32,), (32, 3), (3,)]


def test_lifted_names_with_one_local_name_have_records_of_their_own():
    def fn(x, width):
        def lifted(size, name):
            inner = hk.transform(lambda x: haiku_mup.Readout(3)(hk.Linear(size)(x)))
            params = hk.lift(inner.init, name=name)(
                hk.next_rng_key() if hk.running_init() else None, x)
            return inner.apply(params, None, x)

        with haiku_mup.apply_mup():
            return lifted(width, "a") + lifted(5 * width, "b")

    make = lambda width: hk.transform(functools.partial(fn, width=width))  # noqa: E731
    mup = captured(make, X)
    assert {row.name: row.target_shape for row in mup.table()} == {
        "a/linear/w": (6, 32), "a/linear/b": (32,), "a/readout/w": (32, 3), "a/readout/b": (3,),
        "b/linear/w": (6, 160), "b/linear/b": (160,), "b/readout/w": (160, 3), "b/readout/b": (3,)}
    model = mup.wrap_model(make(32))
    p = model.init(KEY, X)
    out = sum((X @ p[f"{k}/linear"]["w"]) / 4 @ p[f"{k}/readout"]["w"] for k in "ab")
    np.testing.assert_allclose(model.apply(p, None, X), out, rtol=1e-5, atol=1e-6)


def test_a_stack_axis_is_no_width():
    mup = captured(stack, X)
    rows = {row.name.rpartition("stack_no_per_layer/")[2]: row for row in mup.table()}
    assert rows["linear/w"].target_shape == (64, 32) and rows["linear_1/w"].role == "hidden"
    opt = mup.wrap_optimizer(optax.sgd(1.0), adam=False)
    params = mup.wrap_model(stack(32)).init(KEY, X)
    updates, _ = opt.update(params, opt.init(params), params)
    assert updates["readout"]["w"][0, 0] == -4 * params["readout"]["w"][0, 0]


def test_several_seeds_and_init_target_again_with_the_same_shapes():
    mup = captured(mlp, X)
    with mup.init_target():
        first, second = (mlp(32).init(k, X) for k in jax.random.split(KEY))
    assert not equal(first, second)
    assert equal(first, mup.wrap_model(mlp(32)).init(jax.random.split(KEY)[0], X))


def test_wrapping_inside_the_target_context():
    mup = haiku_mup.Mup()
    with mup.init_base():
        mlp(8).init(KEY, X)
    with mup.init_target():
        params = mlp(32).init(KEY, X)
        model = mup.wrap_model(mlp(32))
        opt = mup.wrap_optimizer(optax.adam(1e-3))
    assert equal(model.init(KEY, X), params) and opt.init(params)


def test_a_program_for_haiku_mup_0_1_5():
    """Its README's, with the one line that never ran (hk.init) as its authors must have meant it."""
    class MyModel(hk.Module):
        def __init__(self, width, n_classes=10):
            super().__init__(name="model")
            self.width = width

        def __call__(self, x):
            x = jax.nn.relu(hk.Linear(self.width)(x))
            return haiku_mup.Readout(2)(x)

    def fn(x, width=100):
        with haiku_mup.apply_mup():
            return MyModel(width)(x)

    mup = haiku_mup.Mup()
    init_input = jnp.zeros(123)
    with mup.init_base():
        hk.transform(functools.partial(fn, width=1)).init(KEY, init_input)
    model = hk.transform(fn)
    with mup.init_target():
        params = model.init(KEY, init_input)
    model = mup.wrap_model(model)
    optimizer = mup.wrap_optimizer(optax.adam(3e-4), adam=True)
    assert mup.lr_scales() == {"model/linear": {"b": 1.0, "w": 1.0}, "model/readout": {"b": 1.0, "w": 1.0}}
    assert mup.lr_scales(adam=False)["model/readout"]["w"] == 100.0
    state = optimizer.init(params)
    updates, state = optimizer.update(params, state, params)
    assert haiku_mup.get_shapes(optax.apply_updates(params, updates)) == {
        "model/linear": {"b": (100,), "w": (123, 100)}, "model/readout": {"b": (2,), "w": (100, 2)}}
    assert model.apply(params, None, init_input).shape == (2,)


def test_summary_shows_every_row_aligned_and_cuts_long_names():
    def layer(x, width):
        return haiku_mup.Readout(3)(hk.Linear(width, name="a_name_" * 30)(x))

    mup = captured(*one(layer))
    lines = mup.summary().splitlines()
    assert len(lines) == 1 + len(mup.table()) and len({len(line) for line in lines}) == 1
    assert max(map(len, lines)) <= 100 and "…" in lines[1] and lines[1].startswith("a_name_")
    assert "6×32" in lines[1] and "input" in lines[1]
    assert max(map(len, mup.summary(width=60).splitlines())) < len(lines[0])


# --- found by trying to break it ---

def test_a_scalar_in_a_stack_a_stack_axis_behind_and_a_name_with_a_slash():
    normal = hk.initializers.RandomNormal()

    def layer(x, width):
        x = hk.Linear(width)(x)
        inner = hk.transform(lambda x: hk.Linear(width, w_init=normal)(x))
        init = jax.vmap(inner.init, (0, None), out_axes=-1)
        params = hk.lift(init, name="lifted")(
            hk.next_rng_keys(5) if hk.running_init() else None, x)
        x = jax.vmap(lambda p: inner.apply(p, None, x), in_axes=-1)(params).mean(0)

        def block(x):
            return x * hk.get_parameter("gain", (), init=jnp.zeros)

        x = hk.experimental.layer_stack(3)(block)(x)
        return haiku_mup.Readout(3)(x + hk.get_parameter("a/b", (width,), init=jnp.zeros)[None])

    make, x = one(layer)
    mup = captured(make, x)
    params = mup.wrap_model(make(32)).init(KEY, x)
    assert jax.tree.structure(params) == jax.tree.structure(mup.lr_scales())
    assert {"lifted/linear/w", "~/a/b"} < {row.name for row in mup.table()}
    w = params["lifted/linear"]["w"]
    assert w.shape == (32, 32, 5) and w.std() == pytest.approx(0.5, rel=0.05)   # 5,120 draws: 1 %
    mup.wrap_optimizer(optax.adam(1e-3)).init(params)


def test_an_inner_transform_with_the_name_of_a_layer_does_not_take_its_place():
    def layer(x, width):
        other = hk.transform(lambda x: hk.Linear(width, w_init=hk.initializers.RandomNormal(), name="l")(x))
        other.init(KEY, x)
        return hk.Linear(width, name="l")(hk.Linear(width, name="h")(jnp.ones((2, width))))

    make, x = one(layer)
    row = next(r for r in captured(make, jnp.ones((2, 8))).table() if r.name == "l/w")
    assert row.base_std == pytest.approx(8**-0.5 * 0.87962566103423978)


def test_dtypes_and_integers_are_kept():
    def bf16(shape, dtype):
        return np.random.default_rng(0).normal(size=shape).astype(jnp.bfloat16)

    def drawn(shape, dtype):
        x = jax.random.normal(hk.next_rng_key(), shape)
        return np.asarray(x).astype(jnp.bfloat16) if not isinstance(x, jax.core.Tracer) else x.astype(dtype)

    def ints(shape, dtype):
        return jax.random.randint(hk.next_rng_key(), shape, 0, 10 if shape == (4,) else 20)

    def layer(x, width):
        hk.get_parameter("ids", (4,), jnp.int32, init=ints)
        hk.get_parameter("given", (width,), jnp.bfloat16, init=bf16)
        return hk.get_parameter("w", (width, width), jnp.bfloat16, init=drawn)

    make, x = one(layer)
    mup = haiku_mup.Mup()
    with mup.init_base():
        make(8).init(KEY, x)
    with mup.init_target():
        make(32).init(KEY, x)
    params, plain = mup.wrap_model(make(32)).init(KEY, x)["~"], make(32).init(KEY, x)["~"]
    assert {k: p.dtype for k, p in params.items()} == {k: p.dtype for k, p in plain.items()}
    assert (params["ids"] == plain["ids"]).all()
    assert jnp.std(params["w"].astype(float)) == pytest.approx(0.5, rel=0.1)


def test_arrays_and_numbers_that_a_trace_hides():
    """Under eval_shape jax.numpy makes tracers of constants; where no std is needed, none is asked for."""
    def layer(x, width):
        matrix = np.ones((5, width), np.float32)
        h = hk.Embed(embedding_matrix=matrix)(jnp.arange(2))
        h = h + hk.Linear(width, b_init=hk.initializers.Constant(jnp.log(0.1)))(x)
        return haiku_mup.Readout(3, b_init=hk.initializers.RandomNormal(1 / jnp.sqrt(3.0)))(h)

    make, x = one(layer)
    model = captured(make, x).wrap_model(make(32))
    assert (jax.jit(model.init)(KEY, x)["embed"]["embeddings"] == 1).all()


def test_a_wrapped_model_may_be_lifted():
    model = captured(mlp, X).wrap_model(mlp(32))

    def outer(x):
        params = hk.lift(model.init, name="inner")(hk.next_rng_key() if hk.running_init() else None, x)
        return model.apply(params, x)

    f = hk.without_apply_rng(hk.transform(outer))
    params = f.init(KEY, X)
    inner = {name.removeprefix("inner/"): p for name, p in params.items()}
    assert equal(f.apply(params, X), model.apply(inner, X))
    assert params["inner/linear_1"]["w"].std() == pytest.approx(0.15, rel=0.1)     # 0.3 · ½, 1,024 draws


def test_another_target_of_the_same_shapes_and_other_heads():
    init = hk.initializers.VarianceScaling()

    def layer(x, width, heads):
        h = hk.Linear(width)(x)[None]
        return haiku_mup.MultiHeadAttention(heads(width), width // heads(width), w_init=init)(h, h, h)

    def make(heads):
        return one(functools.partial(layer, heads=heads))[0]

    mup = captured(make(lambda w: 2), X)
    assert 0.5 in {row.multiplier for row in mup.table()}
    with mup.init_target():
        jax.eval_shape(make(lambda w: w // 4)(32).init, KEY, X)
    assert {row.multiplier for row in mup.table()} == {1.0}


def test_integer_settings_and_keyword_calls():
    def layer(x, width):
        core = hk.LSTM(width)
        h = hk.Linear(width, w_init=hk.initializers.RandomNormal(1))(x)
        h, _ = core(inputs=h, prev_state=core.initial_state(2))
        embed = haiku_mup.SharedEmbed(5, width)
        return haiku_mup.SharedReadout()(weight=embed, x=h)

    mup = captured(*one(layer))
    assert "lstm/linear/w" in mup.summary() and mup.table()[0].base_std == 1.0


def test_jax_caches_keep_no_capture_alive():
    """A context is a key in JAX's caches, which last: what it captured must not last as long."""
    def alive():
        gc.collect()
        names = {record.name for record in gc.get_objects() if isinstance(record, Record)}
        return {name for name in names if name.startswith("kept_alive")}

    make, x = one(lambda x, width: haiku_mup.Readout(3)(jax.nn.relu(hk.Linear(width, name="kept_alive")(x))))
    mup = captured(make, x)
    assert alive() == {"kept_alive/w", "kept_alive/b"}
    del mup
    assert not alive()
