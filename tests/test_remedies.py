"""What messages about captures, wrapped models and names say to do: each by following it."""
import functools

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from remedies import told
from small_models import KEY, MODELS, captured, mlp, one
from transparent_stack import Map

import haiku_mup

X = MODELS["mlp"][1]
IDS = jnp.arange(6).reshape(2, 3)
NORMAL = hk.initializers.RandomNormal(0.1)
INPUT, HIDDEN, OUTPUT = ("input", 1, 1, 4), ("hidden", 1, 1 / 4, 1), ("output", 1 / 4, 1, 4)
TIED = ("input", 1 / 4, 1, 4)
OF_MLP = {"linear/w": INPUT, "linear_1/w": HIDDEN, "readout/w": OUTPUT}


def shapes(make, width, x=X):
    jax.eval_shape(make(width).init, KEY, x)


def based(make=mlp, x=X, **kwargs):
    """Returns a Mup that has captured a base."""
    mup = haiku_mup.Mup(**kwargs)
    with mup.init_base():
        shapes(make, 8, x)
    return mup


def transformed(layer):
    """Returns make(width) of layer(x, width), which enters apply_mup() itself."""
    return lambda width: hk.transform(functools.partial(layer, width=width))


# --- the order of calls: what(mup) is wrong; a Mup that is used as it says has the model's factors ---

def a_base_after_a_target():
    with captured(mlp, X).init_base():
        pass


def a_delta_before_a_base():
    with haiku_mup.Mup().init_delta():
        pass


def a_delta_after_a_base():
    mup = haiku_mup.Mup()
    for context, width in ((mup.init_base, 8), (mup.init_delta, 16), (mup.init_target, 32)):
        with context():
            shapes(mlp, width)
    return mup


def a_target_before_a_base():
    with haiku_mup.Mup().init_target():
        pass


def nothing_in_a_base():
    with haiku_mup.Mup().init_base():
        pass


def layers_outside():
    with haiku_mup.Mup().init_base():
        shapes(transformed(lambda x, width: hk.Linear(width)(x)), 8)


def a_wrapped_init_in_a_base():
    model = captured(mlp, X).wrap_model(mlp(32))
    with haiku_mup.Mup().init_base():
        jax.eval_shape(model.init, KEY, X)


def two_models_in_a_base():
    with haiku_mup.Mup().init_base():
        shapes(mlp, 8)
        shapes(mlp, 16)


def another_target():
    with captured(mlp, X, target=16).init_target():
        shapes(mlp, 32)


def saved():
    mup = based()
    again = haiku_mup.Mup.from_state_dict(mup.state_dict())
    with again.init_target():
        shapes(mlp, 32)
    return again


ORDERS = {
    "make a new Mup()": (a_base_after_a_target, lambda: captured(mlp, X)),
    "init_delta belongs after init_base and before init_target": (a_delta_before_a_base, a_delta_after_a_base),
    "initialise the base model first": (a_target_before_a_base, lambda: captured(mlp, X)),
    "and the target inside `with mup.init_target():` first": (
        lambda: haiku_mup.Mup().wrap_model(mlp(32)), lambda: captured(mlp, X)),
    "nothing to save before init_base": (lambda: haiku_mup.Mup().state_dict(), saved),
    "call the model's init inside": (nothing_in_a_base, lambda: captured(mlp, X)),
    "put the layers inside `with haiku_mup.apply_mup():`": (layers_outside, lambda: captured(mlp, X)),
    "inside it, call the init of the plain model": (a_wrapped_init_in_a_base, lambda: captured(mlp, X)),
    "initialise one model in it": (two_models_in_a_base, lambda: captured(mlp, X)),
    "make a new Mup() for another width": (another_target, lambda: captured(mlp, X)),
}


@pytest.mark.parametrize("words", ORDERS)
def test_the_order_of_calls(words):
    wrong, right = ORDERS[words]
    with pytest.raises(haiku_mup.MupError) as error:
        wrong()
    assert words in str(error.value)
    check(right(), OF_MLP)


def check(mup, wanted):
    """Checks the factors of parameters."""
    rows = {row.name: (row.role, row.multiplier, row.adam_lr, row.sgd_lr) for row in mup.table()}
    assert {name: rows[name] for name in wanted} == wanted


# --- wrapped models ---

def initialised(x, width, std):
    h = jnp.tanh(hk.Linear(width)(x))
    return haiku_mup.Readout(3)(hk.Linear(width, w_init=hk.initializers.RandomNormal(std))(h))


def narrower(x, width):
    h = jnp.tanh(hk.Linear(width)(x))
    return haiku_mup.Readout(3)(jnp.tile(hk.Linear(width // 2)(h), 2))


def stacked(x, width, layers):
    x = hk.Linear(width)(x)
    return haiku_mup.Readout(3)(hk.experimental.layer_stack(layers)(lambda x: jnp.tanh(hk.Linear(width)(x)))(x))


def residual(x, width, layers):
    def block(x):
        return haiku_mup.residual(x, lambda x: jnp.tanh(hk.Linear(x.shape[-1])(x)))

    return haiku_mup.Readout(3)(hk.experimental.layer_stack(layers)(block)(hk.Linear(width)(x)))


def outside(x, width, inside):
    with haiku_mup.apply_mup():
        x = jnp.tanh(hk.Linear(width)(x))
        if inside:
            return haiku_mup.Readout(3)(x)
    return haiku_mup.Readout(3)(x)


def of(layer, **kwargs):
    return one(functools.partial(layer, **kwargs))[0]


COMPLETEP = haiku_mup.maximal_update(depth_alpha=1.0)


def other_init(make, other):
    """Wraps another model than the one that is captured, and initialises it."""
    model = captured(make, X).wrap_model(other(32))
    return lambda: jax.eval_shape(model.init, KEY, X)


def deeper_apply():
    """Captures 1 and 2 residual blocks, and applies 4."""
    mup, deep = haiku_mup.Mup(parametrization=COMPLETEP), of(residual, layers=4)(32)
    with mup.init_base():
        shapes(of(residual, layers=1), 8)
    with mup.init_target():
        shapes(of(residual, layers=2), 32)
    params = jax.eval_shape(deep.init, KEY, X)
    return lambda: jax.eval_shape(lambda params: mup.wrap_model(deep).apply(params, None, X), params)


OUT, IN = (transformed(functools.partial(outside, inside=inside)) for inside in (False, True))
# words: (what is wrong, the model that is captured as the message says)
WRAPPED = {
    "init_target saw (32, 3); capture the model that is wrapped, by a Mup of its own": (
        lambda: other_init(mlp, lambda width: mlp(16)), mlp),
    "which saw (32, 32); capture the model that is wrapped": (
        lambda: other_init(of(initialised, std=0.1), of(narrower)), of(narrower)),
    "the initializer's std is 0.2, and init_target saw 0.1; capture the model that is wrapped": (
        lambda: other_init(of(initialised, std=0.1), of(initialised, std=0.2)), of(initialised, std=0.2)),
    "init_target saw (2,); capture the model that is wrapped": (
        lambda: other_init(of(stacked, layers=2), of(stacked, layers=3)), of(stacked, layers=3)),
    "or with other numbers of layers; capture the model that is wrapped": (
        deeper_apply, of(residual, layers=4)),
    "put it inside apply_mup(), and capture base and target again": (lambda: other_init(OUT, OUT), IN),
}


@pytest.mark.parametrize("words", WRAPPED)
def test_capture_the_model_that_is_wrapped(words):
    wrong, right = WRAPPED[words]
    with pytest.raises(haiku_mup.MupError) as error:
        wrong()()
    assert words in str(error.value)
    mup = captured(right, X)
    model = mup.wrap_model(right(32))
    params = jax.eval_shape(model.init, KEY, X)
    jax.eval_shape(lambda params: model.apply(params, *[None] * (right is not mlp), X), params)
    check(mup, {"readout/w": OUTPUT})


def test_wrap_the_plain_model_that_haiku_returns():
    mup = captured(mlp, X)
    with pytest.raises(haiku_mup.MupError, match="give it what hk.transform returns"):
        mup.wrap_model(lambda x: x)
    wrapped = mup.wrap_model(mlp(32))
    with pytest.raises(haiku_mup.MupError, match="wrap the plain one, once"):
        mup.wrap_model(wrapped)
    params = wrapped.init(KEY, X)
    np.testing.assert_allclose(params["readout"]["w"], 2 * mlp(32).init(KEY, X)["readout"]["w"], rtol=1e-6)


def test_apply_the_wrapped_model():
    def fn(x, width):
        with haiku_mup.apply_mup():
            return haiku_mup.Readout(3, name="remedies_readout", with_bias=False)(hk.Linear(width)(x))

    make, mup = transformed(fn), haiku_mup.Mup()
    with mup.init_base():
        shapes(make, 8)
    with mup.init_target():
        params = make(32).init(KEY, X)
    with pytest.warns(haiku_mup.MupWarning, match=r"apply mup.wrap_model\(model\) instead"):
        plain = make(32).apply(params, None, X)
    np.testing.assert_allclose(mup.wrap_model(make(32)).apply(params, None, X), plain / 4, rtol=1e-5)


def test_make_it_inside_where_a_plain_optimizer_trains():
    def fn(x, width, inside):
        with haiku_mup.apply_mup():
            x = hk.Linear(width)(x)
            y = haiku_mup.Readout(3)(hk.Linear(width, name="late")(x)) if inside else haiku_mup.Readout(3)(x)
        return y if inside else y + hk.Linear(width, name="late")(x).sum()

    parametrization = haiku_mup.maximal_update("abcd", optimizer="adam")
    mup = based(transformed(functools.partial(fn, inside=False)), parametrization=parametrization)
    with mup.init_target():
        shapes(transformed(functools.partial(fn, inside=False)), 32)
    model = transformed(functools.partial(fn, inside=False))(32)
    with pytest.warns(haiku_mup.MupWarning, match="'late/w': .*make it inside apply_mup()"):
        jax.eval_shape(mup.wrap_model(model).apply, model.init(KEY, X), None, X)
    mup = captured(transformed(functools.partial(fn, inside=True)), X,
                   mup=haiku_mup.Mup(parametrization=parametrization))
    check(mup, {"late/w": ("hidden", 1 / 4, 1, next(r.sgd_lr for r in mup.table() if r.name == "late/w"))})


# --- names ---

def lifted(size, name, rename=False):
    inner = hk.transform(lambda x: haiku_mup.Readout(3, name="last" if rename else None)(x))
    x = jnp.ones((2, size))
    params = hk.lift(inner.init, name=name)(hk.next_rng_key() if hk.running_init() else None, x)
    return inner.apply(params, None, x)


def test_rename_one_of_two_that_look_alike_within_their_lifts():
    def layer(x, width, rename):
        return lifted(width, "a") + lifted(32 if width == 32 else 16, "b", rename)

    make = of(layer, rename=False)
    with pytest.raises(haiku_mup.MupError, match="another multiplier; rename one"):
        captured(make, X).wrap_model(make(32))
    make = of(layer, rename=True)
    mup = captured(make, X)
    check(mup, {"a/readout/w": OUTPUT, "b/last/w": ("output", 1 / 2, 1, 2)})
    model = mup.wrap_model(make(32))
    params = jax.tree.map(jnp.ones_like, model.init(KEY, X))
    np.testing.assert_allclose(model.apply(params, None, X), 1 + 32 / 4 + 1 + 32 / 2, rtol=1e-6)


def test_rename_an_inner_model_or_call_it_outside():
    def teacher(name):
        return hk.without_apply_rng(hk.transform(lambda x: haiku_mup.Readout(3, name=name)(x)))

    def layer(x, width, name, params, is_outside=False):
        h = jnp.tanh(hk.Linear(width)(x))
        inner = 0 if is_outside else teacher(name).apply(params, jnp.ones((2, width)))
        return haiku_mup.Readout(3)(h) + inner

    def make(name, **kwargs):
        return lambda width: of(functools.partial(
            layer, name=name, params=teacher(name).init(KEY, jnp.ones((2, width)))), **kwargs)(width)

    mup = haiku_mup.Mup()
    with pytest.raises(haiku_mup.MupError, match="rename its modules, or call it outside"):
        captured(make("readout"), X, mup=mup)
        model = make("readout")(32)
        jax.eval_shape(mup.wrap_model(model).apply, model.init(KEY, X), None, X)
    for right in (make("teacher"), make("readout", is_outside=True)):
        mup = captured(right, X)
        check(mup, {"readout/w": OUTPUT})
        jax.eval_shape(mup.wrap_model(right(32)).apply, right(32).init(KEY, X), None, X)


# --- tied tables ---

def tied(ids, width, how):
    embed = (hk.Embed if how == "plain" else haiku_mup.SharedEmbed)(11, width, name="a")
    x = jnp.tanh(hk.Linear(width)(embed(ids)))
    if how in ("two", "itself"):
        other = haiku_mup.SharedEmbed(7, width + 8, name="b")
        y = haiku_mup.SharedReadout(name="of_b")(other, other(ids))
        return haiku_mup.SharedReadout()(embed.get_weights() if how == "two" else embed, x)[..., :7] + y
    return haiku_mup.SharedReadout()(embed.embeddings if how == "plain" else embed, x)


def copied(ids, width, is_outside):
    embed = haiku_mup.SharedEmbed(11, width, name="a")
    x = embed(ids)
    weights = embed.get_weights() if is_outside else None
    x = hk.experimental.layer_stack(2)(
        lambda x: x + (weights[ids] if is_outside else embed(ids)))(x)
    return haiku_mup.SharedReadout()(embed, x)


@pytest.mark.parametrize("layer, wrong, right, words", [
    (tied, "plain", "shared", "make the embedding a haiku_mup.SharedEmbed, inside apply_mup() and before the"),
    (tied, "two", "itself", "give it the SharedEmbed itself: SharedReadout()(embed, x)"),
    (copied, False, True, "read it outside of the layer_stack or lift, and close over it: weights = embed"),
], ids=["no SharedEmbed", "two ratios", "an untied copy"])
def test_tied_tables(layer, wrong, right, words):
    make, _ = one(lambda ids, width: layer(ids, width, wrong))
    (text,) = told(lambda mup: captured(make, IDS, mup=mup))
    assert words in text
    mup = haiku_mup.Mup()
    make, _ = one(lambda ids, width: layer(ids, width, right))
    assert told(lambda mup: captured(make, IDS, mup=mup), mup) == []
    check(mup, {"a/embeddings": TIED})


def test_name_a_table_of_your_own():
    def layer(ids, width):
        table = hk.get_parameter("table", (11, width), init=NORMAL)
        return haiku_mup.SharedReadout()(table, jnp.tanh(hk.Linear(width)(table[ids])))

    (text,) = told(lambda mup: captured(one(layer)[0], IDS, mup=mup))
    assert "or name a table of your own in Mup(tied=...)" in text
    check(captured(one(layer)[0], IDS, mup=haiku_mup.Mup(tied="~/table")), {"~/table": TIED})


# --- creators, stacks, forms ---

def test_a_layer_stack_for_a_form_that_draws_by_the_depth():
    def layer(x, width, how):
        blocks = {8: 2, 32: 4}[width]
        x = hk.Linear(width)(x)

        def block(x):
            return haiku_mup.residual(x, lambda x: hk.Linear(x.shape[-1])(x))

        if how == "stack":
            x = hk.experimental.layer_stack(blocks)(block)(x)
        else:
            for i in range(blocks):
                with hk.name_scope(f"block_{i}"):
                    x = block(x)
        return haiku_mup.Readout(3)(x)

    def capture(form, how):
        mup = haiku_mup.Mup(parametrization=form)
        return mup, told(lambda mup: captured(of(layer, how=how), X, mup=mup), mup)

    abcd = haiku_mup.maximal_update("abcd", optimizer="sgd", depth_alpha=1.0)
    _, (text,) = capture(abcd, "scopes")
    assert "use hk.layer_stack, or a form in which a Mup wraps the optimizer" in text
    mup, texts = capture(abcd, "stack")
    assert texts == [] and {row.depth for row in mup.table()} == {1, 2}
    mup, texts = capture(COMPLETEP, "scopes")
    assert texts == [] and next(row for row in mup.table() if row.name == "block_3/linear/w").adam_lr == 1 / 4


def test_one_multiplier_for_the_layers_of_a_transparent_stack():
    def layer(x, width):
        stack = hk.experimental.layer_stack(2, transparent=True, transparency_map=Map())
        return haiku_mup.Readout(3)(stack(lambda x: jnp.tanh(hk.Linear(width, w_init=NORMAL)(x)))(hk.Linear(
            width, name="first")(x)))

    def capture(mults):
        mup = haiku_mup.Mup(init_mults=mults)
        return mup, told(lambda mup: captured(one(layer)[0], X, mup=mup), mup)

    names = [row.name for row in capture({})[0].table() if row.role == "hidden"]
    assert len(names) == 2
    _, (text,) = capture({names[0]: 2.0})
    assert "give both the same multiplier" in text
    mup, texts = capture(dict.fromkeys(names, 2.0))
    assert texts == [] and {row.init_mult for row in mup.table() if row.name in names} == {2}


def test_a_plain_optimizer_where_the_form_needs_no_factors():
    for optimizer, words in (("adam", "a plain optimizer trains"), ("sgd", "a plain optax.sgd trains")):
        abcd = haiku_mup.maximal_update("abcd", optimizer=optimizer)
        mup = captured(mlp, X, mup=haiku_mup.Mup(parametrization=abcd))
        with pytest.raises(haiku_mup.MupError, match=f"{words} the wrapped model; give it as it is"):
            mup.wrap_optimizer(optax.adam(0.1) if optimizer == "adam" else optax.sgd(0.1))
        with pytest.raises(haiku_mup.MupError, match="lr_mults: .*take another form"):
            haiku_mup.Mup(parametrization=abcd, lr_mults={"*": 2.0})
        assert {getattr(row, f"{optimizer}_lr") for row in mup.table()} == {1}
    assert haiku_mup.Mup(lr_mults={"*": 2.0})
