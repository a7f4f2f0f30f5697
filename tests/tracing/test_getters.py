"""Where a parameter is used: outside of apply_mup(), by another model, behind getters, by the plain model."""
import contextlib
import functools
import warnings

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from small_models import KEY, captured
from trees import equal

import haiku_mup
from haiku_mup import maximal_update, neural_tangent, standard

FORMS = {form: maximal_update(form) for form in ("table8", "table3", "table9", "mean_field")}
FORMS |= {f"abcd {o}": maximal_update("abcd", optimizer=o) for o in ("adam", "sgd")}
OTHERS = [form for form in FORMS if form != "table8"]
X = jnp.linspace(-1, 1, 12).reshape(2, 6)
draw = hk.initializers.RandomNormal(0.3)


def of(fn, x=X, rule=None, **kwargs):
    """A function of inputs and width at the target, and what wraps it."""
    def make(width):
        return hk.without_apply_rng(hk.transform(functools.partial(fn, width=width)))
    return make(32), captured(make, x, mup=haiku_mup.Mup(parametrization=rule, **kwargs))


def outputs(fn, x=X, **kwargs):
    """What the wrapped model gives in each form, from one key."""
    found = {}
    for form, rule in FORMS.items():
        plain, mup = of(fn, x, rule, **kwargs)
        model = mup.wrap_model(plain)
        found[form] = jax.jit(lambda x, model=model: model.apply(model.init(KEY, x), x))(x)
    return found


def assert_alike(found):
    for form in OTHERS:
        np.testing.assert_allclose(found[form], found["table8"], rtol=1e-12, err_msg=form)


# --- outside of apply_mup() ---

def made_inside(x, width):
    """Layers, and a parameter of one's own, that are made inside and used again outside."""
    with haiku_mup.apply_mup():
        first, again = hk.Linear(width), hk.Linear(width, w_init=draw, b_init=draw)
        readout = haiku_mup.Readout(3)
        embed, conv = hk.Embed(5, width, w_init=draw), hk.Conv1D(width, 3, w_init=draw)
        layers = (lambda y: again(y) + embed(jnp.arange(2)), lambda y: conv(y[None])[0],
                  lambda y: y + hk.get_parameter("own", (width,), x.dtype, init=draw)[None])
        y = first(x)
        for layer in layers:
            y = jnp.tanh(layer(y))
        out = readout(y)
    for layer in layers:
        y = jnp.tanh(layer(y))
    return out + readout(y)


def double(create, shape, dtype, init, context):
    """hk.Embed makes float32 whatever the mode."""
    return create(shape, jnp.float64, init)


@pytest.mark.slow
def test_what_is_made_inside_and_used_outside_keeps_its_factor(x64):
    def fn(x, width):
        with hk.custom_creator(double):
            return made_inside(x, width)

    assert_alike(outputs(fn, X.astype(float)))


def test_a_named_readout_that_is_used_outside_keeps_its_factor():
    def fn(x, width):
        with haiku_mup.apply_mup():
            head, x = hk.Linear(3, name="head"), hk.Linear(width)(x)
            return head(x), head

    def outside(x, width):
        y, head = fn(x, width)
        return y, head(jnp.ones((1, width)))

    plain, mup = of(outside, readouts="head")
    params = plain.init(KEY, X)
    ours, plains = (model.apply(params, X)[1] for model in (mup.wrap_model(plain), plain))
    np.testing.assert_allclose(ours, plains / 4, rtol=1e-6)


def test_a_layer_that_nobody_captured_warns_where_no_optimizer_would():
    def fn(x, width):
        with haiku_mup.apply_mup():
            x = hk.Linear(width)(x)
            stray = hk.Linear(width, name="stray")
            out = haiku_mup.Readout(3)(x)
        return out + stray(x).sum()

    plain, mup = of(fn, rule=FORMS["abcd adam"])
    params = plain.init(KEY, X)
    with pytest.warns(haiku_mup.MupWarning, match="'stray/w': .*not captured in init_target"):
        mup.wrap_model(plain).apply(params, X)
    plain, mup = of(fn)                         # elsewhere the optimizer says it, of what is trained
    mup.wrap_model(plain).apply(params, X)
    with pytest.raises(haiku_mup.MupError, match="stray/"):
        mup.wrap_optimizer(optax.adam(0.1)).init(params)


# --- models that are transformed apart ---

def block(x, width):
    return haiku_mup.Readout(3)(jnp.tanh(hk.Linear(width)(x)))


def teacher(width, name=None):
    """A model with the names and shapes of block's, or below a module, and parameters of its own."""
    def fn(x):
        if name is None:
            return block(x, width)
        with hk.name_scope(name):
            return block(x, width)
    model = hk.without_apply_rng(hk.transform(fn))
    return model, model.init(jax.random.PRNGKey(3), X)


CALLS = {"as it is": lambda f: f, "jitted": jax.jit, "mapped": lambda f: lambda p, x: jax.vmap(
    f, (None, 0))(p, x[:, None])[:, 0]}


@pytest.mark.parametrize("form, how, inside", [
    *((form, "as it is", True) for form in FORMS), *(("table9", how, False) for how in CALLS),
    ("table9", "mapped", True), ("table8", "jitted", True)])
def test_another_model_with_the_same_names_is_refused(form, how, inside):
    other, theirs = teacher(32)

    def fn(x, width):
        with haiku_mup.apply_mup():
            out = block(x, width)
            return (out, CALLS[how](other.apply)(theirs, x)) if inside else out

    def around(x, width):
        return fn(x, width) if inside else (fn(x, width), CALLS[how](other.apply)(theirs, x))

    def run():
        plain, mup = of(around, rule=FORMS[form])
        return mup.wrap_model(plain).apply(plain.init(KEY, X), X)[1]

    if form == "table3":                        # it has no factors but in draws and learning rates
        np.testing.assert_allclose(run(), other.apply(theirs, X), rtol=1e-5)
        return
    name = "readout/w" if form == "table8" else r"(linear|readout)/w"
    with pytest.raises(haiku_mup.MupError, match=rf"'{name}'.*transformed apart.*wrap_model\(inner\)"):
        run()


@pytest.mark.parametrize("form", ["table8", "table9", "abcd adam"])
def test_another_model_with_names_of_its_own_is_left_alone(form):
    other, theirs = teacher(32, name="teacher")

    def fn(x, width):
        with haiku_mup.apply_mup():
            return block(x, width), jax.jit(other.apply)(theirs, x)

    plain, mup = of(fn, rule=FORMS[form])
    found = mup.wrap_model(plain).apply(plain.init(KEY, X), X)[1]
    np.testing.assert_allclose(found, other.apply(theirs, X), rtol=1e-5)


def test_another_models_shared_embedding_is_left_alone():
    def shared(ids, width, name="embed"):
        with haiku_mup.apply_mup():
            embed = haiku_mup.SharedEmbed(7, width, name=name)
            return haiku_mup.SharedReadout()(embed.get_weights(), embed(ids))

    ids = jnp.arange(4)
    other = hk.without_apply_rng(hk.transform(lambda ids: shared(ids, 32, "theirs")))
    theirs = other.init(KEY, ids)
    plain, mup = of(lambda ids, width: (shared(ids, width), other.apply(theirs, ids)), ids)
    found = mup.wrap_model(plain).apply(plain.init(KEY, ids), ids)
    np.testing.assert_allclose(found[1], other.apply(theirs, ids), rtol=1e-6)
    same = other.apply({"theirs": plain.init(KEY, ids)["embed"]}, ids)
    np.testing.assert_allclose(found[0], same / 4, rtol=1e-5)


@pytest.mark.parametrize("form", ["table8", "table9"])
def test_an_init_inside_that_nothing_lifts_draws_as_it_does_alone(form):
    other = hk.without_apply_rng(hk.transform(lambda x: hk.Linear(32, w_init=draw, name="second")(x)))
    x = jnp.ones((2, 32))
    seen = []

    def fn(x, width):
        with haiku_mup.apply_mup():
            out = haiku_mup.Readout(3)(hk.Linear(width, w_init=draw, name="second")(hk.Linear(width)(x)))
            seen.append(other.init(KEY, jnp.ones((2, 32))))
            return out

    plain, mup = of(fn, rule=FORMS[form])
    assert len(mup.table()) == 6
    model, alone = mup.wrap_model(plain), other.init(KEY, x)
    seen.clear()
    params = model.init(KEY, X)
    model.apply(params, X)
    assert len(seen) == 2 and all(equal(found, alone) for found in seen)
    assert params["second"]["w"].std() < 0.2 < alone["second"]["w"].std()


def test_a_block_of_a_stack_does_not_lend_its_factors():
    """In a layer_stack parameters have no identity, as below a lift; Python's stack tells whose they are."""
    other = hk.without_apply_rng(hk.transform(lambda x: hk.Linear(x.shape[-1])(x)))

    def fn(x, width):
        def layer(x):
            theirs = {"linear": {"w": jnp.eye(width), "b": jnp.zeros(width)}}
            return hk.Linear(width)(x) + other.apply(theirs, x)

        with haiku_mup.apply_mup():
            x = hk.Linear(width, name="first")(x)
            return haiku_mup.Readout(3)(hk.experimental.layer_stack(2)(layer)(x))

    for form, rule in FORMS.items():
        if form in ("table8", "table3"):        # hidden weights have no factor here
            plain, mup = of(fn, rule=rule)
            mup.wrap_model(plain).init(KEY, X)
        else:
            with pytest.raises(haiku_mup.MupError, match="'linear/[wb]'.*transformed apart"):
                plain, mup = of(fn, rule=rule)
                mup.wrap_model(plain).init(KEY, X)


# --- getters of one's own ---

def cast(next_getter, value, context):
    return next_getter(value.astype(jnp.bfloat16))


def bent(next_getter, value, context):
    """What is no multiple of what is stored."""
    return next_getter(jnp.tanh(3 * value))


def bent_afterwards(next_getter, value, context):
    return jnp.tanh(3 * next_getter(value))


def replaced(next_getter, value, context):
    """Values of one's own, as where weights are kept elsewhere."""
    n = len(context.full_name)
    return next_getter(jnp.cos(n + jnp.arange(value.size, dtype=value.dtype)).reshape(value.shape))


GETTERS = {f.__name__: f for f in (cast, bent, bent_afterwards, replaced)}


def within(here, where, getter):
    return hk.custom_getter(getter) if where == here else contextlib.nullcontext()


def behind(getter, where):
    """A network with parameters of every kind, its getter around apply_mup(), in it, or around two layers."""
    def fn(ids, width):
        dtype = jnp.float64
        with hk.custom_creator(double), within("around", where, getter), haiku_mup.apply_mup(), \
                within("inside", where, getter):
            embed = haiku_mup.SharedEmbed(7, width, w_init=draw)
            x = embed(ids) + hk.get_parameter("own", (width,), dtype, init=draw)[None]
            x = hk.LayerNorm(-1, True, True)(x) + hk.Linear(width, w_init=draw, b_init=draw)(x)
            x = hk.dynamic_unroll(hk.GRU(width), x[:, None], jnp.zeros((1, width), x.dtype))[0][:, 0]
            x = hk.Linear(width, name="layer")(jnp.tanh(x))
            out = hk.Linear(3, name="head", w_init=draw)(x) + haiku_mup.Readout(3, w_init=draw)(x)
            with within("late", where, getter):
                out += hk.Linear(3, name="late_head")(jnp.tanh(hk.Linear(width, name="late", b_init=draw)(x)))
            return out.sum() + jnp.tanh(haiku_mup.SharedReadout()(embed, x)).sum(), x
    return fn


@pytest.mark.parametrize("name, where, form", [
    ("bent", "inside", "table9"), ("replaced", "around", "abcd adam"),
    *(pytest.param(name, where, form, marks=pytest.mark.slow)
      for name in ("bent", "bent_afterwards", "replaced") for where in ("around", "inside", "late")
      for form in OTHERS if form != "table3")])         # it has no ties
def test_getters_see_what_table_8_keeps_in_every_form(name, where, form, x64):
    """So a function of what is seen is one function in all forms: outputs and gradients are alike."""
    ids, fn = jnp.arange(4), behind(GETTERS[name], where)
    found = {}
    for one in ("table8", form):
        plain, mup = of(fn, ids, FORMS[one], readouts="*head")
        model = mup.wrap_model(plain)

        @jax.jit
        def run(ids, model=model):
            params = model.init(KEY, ids)
            return model.apply(params, ids)[1], jax.grad(lambda p: model.apply(p, ids)[0])(params)

        out, grads = run(ids)
        # θ · the gradient / d is the same in every form
        scales = {row: entry.row_blocks[0].factors for row, entry in mup._captured("a test").items()}
        found[one] = out, {f"{m}/{n}": g / scales[f"{m}/{n}"].stored / scales[f"{m}/{n}"].gradient
                           for m, leaves in grads.items() for n, g in leaves.items()}
    (out, grads), (expected, wanted) = found[form], found["table8"]
    np.testing.assert_allclose(out, expected, rtol=1e-10)
    for parameter, gradient in grads.items():
        np.testing.assert_allclose(gradient, wanted[parameter], rtol=1e-8, atol=1e-12, err_msg=parameter)


@pytest.mark.parametrize("where", ["around", "inside"])
@pytest.mark.parametrize("form", FORMS)
def test_a_getter_that_casts_casts(form, where):
    """bfloat16 reaches every product, and the outputs are Table 8's to its precision."""
    def fn(x, width, getter=cast):
        with within("around", where, getter), haiku_mup.apply_mup(), within("inside", where, getter):
            x = hk.Linear(width, w_init=draw, b_init=draw)(x)
            x = jnp.tanh(hk.Linear(width, w_init=draw)(x))
            own = hk.get_parameter("own", (width,), x.dtype, init=draw)
            return haiku_mup.Readout(3, w_init=draw)(x + own[None])

    x = X.astype(jnp.bfloat16)
    plain, mup = of(fn, x, FORMS[form])
    model = mup.wrap_model(plain)
    params = model.init(KEY, X)
    found = model.apply(params, x)
    exact = mup.wrap_model(hk.without_apply_rng(hk.transform(functools.partial(
        fn, width=32, getter=lambda next_getter, value, context: next_getter(value))))).apply(params, X)
    assert found.dtype == jnp.bfloat16 and exact.dtype == jnp.float32
    np.testing.assert_allclose(found.astype(jnp.float32), exact, atol=0.05)
    assert abs(exact).max() > 0.1


# --- the plain model, where the wrapped one was meant ---

def own_head(x, width):
    with haiku_mup.apply_mup():
        return hk.Linear(3, name="head")(hk.Linear(width, w_init=draw)(hk.Linear(width)(x)))


@pytest.mark.parametrize("rule", [*(FORMS[f] for f in OTHERS), maximal_update(), neural_tangent(), standard()],
                         ids=lambda rule: rule.name)
def test_the_plain_model_applied_after_init_target_warns(rule):
    """In every table with factors in the forward or the backward pass, whichever layers have them."""
    plain, mup = of(own_head, rule=rule, readouts="head")
    with mup.init_target():
        params = plain.init(KEY, X)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        mup.wrap_model(plain).apply(params, X)
        if rule in (standard(), FORMS["table3"]):           # nothing to lose
            plain.apply(params, X)
            return
    with pytest.warns(haiku_mup.MupWarning, match="'(linear|head).*initialised in Mup.init_target.*wrap_model"):
        plain.apply(params, X)
    plain.apply(params, X)                      # once for each Mup
    plain.init(KEY, X)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        plain.apply(params, X)                  # the latest init was the plain one


def test_apply_mup_outside_of_a_transform_does_nothing():
    plain, mup = of(own_head, rule=FORMS["table9"], readouts="head")
    with haiku_mup.apply_mup():
        assert equal(plain.init(KEY, X), plain.init(KEY, X))
