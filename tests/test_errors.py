"""No quiet mistakes: each error and each warning, by its message, and the contexts afterwards."""
import functools
import math
import re
import warnings
from contextlib import nullcontext

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from small_models import KEY, MODELS, captured, entry, mlp, one
from trees import equal

import haiku_mup
from haiku_mup.coordinates.model_inputs import as_widths
from haiku_mup.tracing.getters import enclosing
from haiku_mup.tracing.scope import active_context, applied_context

X = MODELS["mlp"][1]
normal = hk.initializers.RandomNormal()


@pytest.fixture(autouse=True)
def _contexts_are_as_they_were():
    yield
    assert active_context() is None and applied_context.get() is None
    assert enclosing.get() is None
    params = mlp(8).init(KEY, X)        # and the plain model is plain
    assert params["readout"]["w"].shape == (8, 3)


@pytest.mark.parametrize("what", ["init_base", "init_target"])
def test_apply_mup_outside_of_a_transformed_function(what):
    """Around the init, and around hk.transform; inside, as the error says, it captures."""
    plain = hk.transform(lambda x: haiku_mup.Readout(3)(x))
    mup = haiku_mup.Mup()
    with mup.init_base():
        shapes(mlp, 8, X)
    for misplaced in (lambda: plain.init(KEY, X), lambda: hk.transform(lambda x: x)):
        with raises("outside of a transformed function", "hk.transform is given"), getattr(
                haiku_mup.Mup() if what == "init_base" else mup, what)():
            with haiku_mup.apply_mup():
                misplaced()
    with haiku_mup.apply_mup():             # where nothing is captured it does nothing
        plain.init(KEY, X)


def raises(*parts):
    """pytest.raises of the library's error, whose message has all these parts in this order."""
    return pytest.raises(haiku_mup.MupError, match=".*".join(map(re.escape, parts)))


def shapes(make, width, x):
    jax.eval_shape(make(width).init, KEY, x)


def test_the_error_is_a_value_error():
    assert issubclass(haiku_mup.MupError, ValueError)


def test_target_before_base():
    mup = haiku_mup.Mup()
    with raises("init_target before init_base"), mup.init_target():
        raise AssertionError("the body must not run")
    captured(mlp, X, mup=mup)           # and it is as good as new


def test_a_second_base_after_a_target():
    mup = captured(mlp, X)
    with raises("init_base after init_target", "new Mup()"), mup.init_base():
        raise AssertionError("the body must not run")
    assert mup.wrap_model(mlp(32))


def test_a_second_base_before_a_target_replaces_the_first():
    mup = haiku_mup.Mup()
    with mup.init_base():
        shapes(mlp, 4, X)
    captured(mlp, X, mup=mup)
    assert mup.table()[0].base_shape == (6, 8)


@pytest.mark.parametrize("what", ["init_base", "init_target"])
def test_a_context_that_captured_nothing(what):
    def forgotten(x, width):
        return haiku_mup.Readout(3)(hk.Linear(width)(x))

    make = lambda width: hk.transform(functools.partial(forgotten, width=width))  # noqa: E731
    mup = haiku_mup.Mup()
    if what == "init_target":
        with mup.init_base():
            shapes(mlp, 8, X)
    with raises(what, "captured no parameter", "apply_mup()"), getattr(mup, what)():
        shapes(make, 8, X)
    with raises(what, "captured no parameter"), getattr(mup, what)():
        pass


@pytest.mark.parametrize("what", ["init_base", "init_target"])
def test_a_wrapped_init_in_a_context_of_another_mup(what):
    model, mup = captured(mlp, X).wrap_model(mlp(32)), haiku_mup.Mup()
    if what == "init_target":
        with mup.init_base():
            shapes(mlp, 8, X)
    with raises(what, "captured no parameter: a wrapped model ran in it", "plain model"), getattr(mup, what)():
        jax.eval_shape(model.init, KEY, X)
    with getattr(mup, what)():                          # as it says, and beside a wrapped model
        jax.eval_shape(model.init, KEY, X)
        shapes(mlp, 32, X)


@pytest.mark.parametrize("call", ["wrap_model", "wrap_optimizer", "scale_updates", "lr_scales", "table",
                                  "summary"])
def test_use_before_init_target(call):
    mup = haiku_mup.Mup()
    arguments = {"wrap_model": [mlp(32)], "wrap_optimizer": [optax.adam(1e-3)]}.get(call, [])
    with raises("before init_target"):
        getattr(mup, call)(*arguments)
    with mup.init_base():
        shapes(mlp, 8, X)
    with raises("before init_target"):
        getattr(mup, call)(*arguments)


def test_a_parameter_that_only_one_of_the_two_has():
    def layer(x, width):
        return hk.Linear(width, with_bias=width == 8)(x)

    make, x = one(layer)
    mup = haiku_mup.Mup()
    with mup.init_base():
        shapes(make, 8, x)
    with raises("'linear/b'", "base (8,)", "target has no such parameter"), mup.init_target():
        shapes(make, 32, x)
    mup = haiku_mup.Mup()
    with mup.init_base():
        shapes(make, 16, x)
    with raises("'linear/b'", "target (8,)", "base has no such parameter"), mup.init_target():
        shapes(make, 8, x)


def test_ranks_that_differ():
    make, x = one(entry("w", lambda width: (5, 8) if width == 8 else (5, 9, 2), normal))
    with raises("'~/w': base (5, 8), target (5, 9, 2): rank differs; rebuild the base model"):
        captured(make, x)


@pytest.mark.parametrize("what", ["init_base", "init_target"])
def test_one_name_with_two_shapes_in_one_context(what):
    mup = haiku_mup.Mup()
    if what == "init_target":
        with mup.init_base():
            shapes(mlp, 8, X)
    with raises("'linear/w'", "(6, 16)", "(6, 32)", "two shapes"), getattr(mup, what)():
        shapes(mlp, 16, X)
        shapes(mlp, 32, X)
    captured(mlp, X, mup=mup)


def test_an_integer_parameter_that_grows():
    zeros = entry("counts", lambda width: (width,), jnp.zeros, dtype=jnp.int32)
    with raises("'~/counts'", "base (8,)", "target (32,)", "integer"):
        captured(*one(zeros))
    same = entry("counts", lambda width: (5,), jnp.zeros, dtype=jnp.int32)
    assert captured(*one(lambda x, width: hk.Linear(width)(x) + same(x, width).sum()))


@pytest.mark.parametrize("layer, name", [
    (lambda x, width: hk.Linear(3)(hk.Linear(width, name="h")(x)), "linear/w"),
    (lambda x, width: hk.Conv2D(3, 1)(hk.Conv2D(width, 1, name="h")(x[None, None])), "conv2_d/w"),
    (lambda x, width: hk.Conv2DTranspose(3, 1)(hk.Linear(width, name="h")(x[None, None])),
     "conv2_d_transpose/w"),
    (entry("w", lambda width: (width, 5), normal), "~/w"),
    (entry("w", lambda width: (width, 5, 4), normal), "~/w"),
])
def test_an_output_that_is_no_readout(layer, name):
    with raises(repr(name), "base (", "target (", "haiku_mup.Readout"):
        captured(*one(layer))


def test_a_readout_that_is_a_hidden_layer():
    with raises("'readout/w'", "(8, 8)", "(32, 32)", "hidden layer", "hk.Linear"):
        captured(*one(lambda x, width: haiku_mup.Readout(width)(hk.Linear(width)(x))))


@pytest.mark.parametrize("shape", [lambda w: (w, w, w), lambda w: (w, 4, w, w)])
def test_more_than_two_infinite_dimensions(shape):
    with raises("'~/w'", "grow", "which"):
        captured(*one(entry("w", shape, normal)))


def test_a_kernel_that_grows():
    with raises("'conv1_d/w'", "base (8,", "axis 0 grows"):
        captured(*one(lambda x, width: hk.Conv1D(width, width)(x[None])))


def test_wrapping_twice():
    mup = captured(mlp, X)
    model, opt = mup.wrap_model(mlp(32)), mup.wrap_optimizer(optax.adam(1e-3))
    for wrapped in (model, hk.without_apply_rng(mup.wrap_model(hk.transform(lambda x: x)))):
        with raises("wrap_model", "wrapped already"):
            mup.wrap_model(wrapped)
    with raises("wrap_optimizer", "wrapped already"):
        mup.wrap_optimizer(opt)
    for hidden in (optax.chain(optax.clip(1.0), opt), optax.chain(optax.sgd(1.0), mup.scale_updates())):
        with raises("act twice"):
            mup.wrap_optimizer(hidden)


@pytest.mark.parametrize("bad", [3, None, lambda x: x, (1, 2)])
def test_wrapping_what_is_no_model_and_no_optimizer(bad):
    mup = captured(mlp, X)
    with raises("wrap_model", "hk.transform"):
        mup.wrap_model(bad)
    with raises("not an optax optimizer"):
        mup.wrap_optimizer(bad)


def test_an_optimizer_given_other_parameters():
    mup = captured(mlp, X)
    opt = mup.wrap_optimizer(optax.adam(1e-3))
    params = mlp(32).init(KEY, X)
    with raises("'other/w'", "not among the target's parameters"):
        opt.init({**params, "other": {"w": jnp.ones(3)}})
    for tree in ([params], params["linear"]):
        with raises("[module][name]"):
            opt.init(tree)
    with raises("'linear/b'", "(8,)", "new Mup()"):
        opt.init(mlp(8).init(KEY, X))
    state = opt.init(params)
    with raises("'linear9/b'", "not among"):
        opt.update({"linear9": params["linear"]}, state)


def test_another_width_in_the_wrapped_model():
    model = captured(mlp, X).wrap_model(mlp(16))
    with raises("'readout/w'", "(16, 3)"):
        model.init(KEY, X)


def test_another_initializer_in_the_wrapped_model():
    def layer(x, width, std):
        return hk.Linear(width, w_init=hk.initializers.RandomNormal(std))(hk.Linear(width)(x))

    mup = captured(*one(functools.partial(layer, std=1.0)))
    model = mup.wrap_model(one(functools.partial(layer, std=0.01))[0](32))
    with raises("'linear/w'", "(32, 32)", "std is 0.01", "saw 1", "capture"):
        model.init(KEY, X)


def test_another_width_in_a_second_init_target():
    mup = captured(mlp, X)
    with raises("'linear/w'", "base (6, 8)", "target (6, 16)", "(6, 32)", "new Mup()"), mup.init_target():
        shapes(mlp, 16, X)
    assert mup.table()[0].target_shape == (6, 32)
    with mup.init_target():
        shapes(mlp, 32, X)


def test_a_shared_readout_without_a_shared_embed():
    def plain_embed(x, width):
        embed = hk.Embed(5, width)
        return haiku_mup.SharedReadout()(embed.embeddings, embed(jnp.arange(2)))

    with raises("SharedReadout has no SharedEmbed"):
        captured(*one(plain_embed))
    with raises("SharedReadout", "Embed", "SharedEmbed"):
        captured(*one(lambda x, w: haiku_mup.SharedReadout()(hk.Embed(5, w), jnp.ones((2, w)))))


def test_an_array_is_ambiguous_with_two_ratios():
    def layer(x, width, by_array, second):
        a, b = haiku_mup.SharedEmbed(5, width, name="a"), haiku_mup.SharedEmbed(7, second(width), name="b")
        for embed in (a, b):
            embed(jnp.arange(2))
        given = (a.get_weights(), b.get_weights()) if by_array else (a, b)
        return haiku_mup.SharedReadout()(given[0], a(jnp.arange(2)))

    for by_array, second in ((False, lambda w: 2 * w), (True, lambda w: 2 * w), (False, lambda w: w + 8)):
        captured(*one(functools.partial(layer, by_array=by_array, second=second)))
    with raises("different ratios", "SharedReadout()(embed, x)"):
        captured(*one(functools.partial(layer, by_array=True, second=lambda w: w + 8)))


def test_weights_and_activations_that_do_not_fit():
    def layer(x, width):
        return haiku_mup.SharedReadout()(haiku_mup.SharedEmbed(5, width), jnp.ones((2, 7)))

    with raises("(5, 8)", "(2, 7)", "[vocab_size, embed_dim]"):
        captured(*one(layer))
    with raises("bias_init", "use_bias=True"):
        hk.transform(lambda: haiku_mup.SharedReadout(bias_init=jnp.zeros)).init(KEY)
    with raises("zero_init=True", "w_init"):
        hk.transform(lambda: haiku_mup.Readout(3, w_init=normal, zero_init=True)).init(KEY)


def test_an_untied_copy_inside_a_layer_stack():
    def layer(x, width):
        embed = haiku_mup.SharedEmbed(5, width)
        h = embed(jnp.arange(2))
        return hk.experimental.layer_stack(2)(lambda h: h + embed(jnp.arange(2)))(h)

    with raises("shared_embed/embeddings'", "untied copy", "get_weights()"):
        captured(*one(layer))


def test_a_readout_outside_apply_mup():
    def layer(x, width):
        with haiku_mup.apply_mup():
            x = hk.Linear(width)(x)
        return haiku_mup.Readout(3)(x)

    make = lambda width: hk.transform(functools.partial(layer, width=width))  # noqa: E731
    mup = captured(make, X)
    model = mup.wrap_model(make(32))
    with raises("'readout/w'", "(32, 3)", "inside apply_mup()"):
        model.init(KEY, X)
    with raises("'readout/b'", "inside apply_mup()"):
        mup.wrap_optimizer(optax.adam(1e-3)).init(make(32).init(KEY, X))


def test_layers_that_look_alike_from_inside_a_lift_and_differ():
    def layer(x, width, first, second):
        def lifted(size, name):
            inner = hk.transform(lambda x: haiku_mup.Readout(3)(x))
            x = jnp.ones((2, size))
            params = hk.lift(inner.init, name=name)(hk.next_rng_key() if hk.running_init() else None, x)
            return inner.apply(params, None, x)
        return lifted(first(width), "a") + lifted(second(width), "b")

    same = functools.partial(layer, first=lambda w: 2 * w, second=lambda w: w)
    mup = captured(*one(same))
    assert mup.wrap_model(one(same)[0](32))
    other = functools.partial(layer, first=lambda w: w, second=lambda w: 32 if w == 32 else 16)
    with raises("'b/readout/w'", "base (16, 3), target (32, 3)", "another multiplier"):
        captured(*one(other)).wrap_model(one(other)[0](32))


def test_a_creator_that_adds_a_mean():
    def layer(x, width):
        with hk.custom_creator(lambda create, *args: create(*args[:-1]) + 1.0):
            return hk.Linear(width, w_init=normal)(hk.Linear(width)(x))

    with raises("'linear/w'", "initialised with mean", "mean zero"):
        captured(*one(layer))


def test_a_std_that_is_traced():
    def layer(x, width):
        std = x[0, 0] / jnp.sqrt(width)
        return hk.Linear(width, w_init=hk.initializers.RandomNormal(std))(hk.Linear(width)(x))

    with raises("'linear/w'", "(8, 8)", "(32, 32)", "traced", "numpy"):
        captured(*one(layer))


def test_a_width_of_zero():
    with raises("'linear/w'", "(6, 0)", "(6, 32)", "width of 0"):
        captured(*one(lambda x, width: hk.Linear(width)(x)), base=0)


def test_a_subclass_of_attention_without_a_query():
    class Renamed(haiku_mup.MultiHeadAttention):
        def _linear_projection(self, x, head_size, name=None):
            return super()._linear_projection(x, head_size, "q" if name == "query" else name)

    with raises("'renamed'", "query"):
        captured(*one(lambda x, width: Renamed(2, width, w_init=normal)(x, x, x)))


@pytest.mark.parametrize("first", [True, False])
def test_an_initializer_for_one_of_the_two(first):
    def layer(x, width):
        init = jnp.zeros if (width == 8) == first else normal
        return hk.Linear(width, w_init=init)(x)

    with raises("'linear/w'", f"std is {1 - first} at the base and {0 + first} at", "one initializer"):
        captured(*one(layer))


@pytest.mark.parametrize("where", ["base", "target", "wrapped init", "wrapped apply"])
def test_an_exception_in_the_body_leaves_everything_as_it_was(where):
    class Stop(Exception):
        pass

    mup = captured(mlp, X) if where.startswith("wrapped") else haiku_mup.Mup()

    def stopped(x, width):
        with haiku_mup.apply_mup():
            hk.Linear(width)(x)
            raise Stop

    make = lambda width: hk.transform(functools.partial(stopped, width=width))  # noqa: E731
    if where == "target":
        with mup.init_base():
            shapes(mlp, 8, X)
    with pytest.raises(Stop):
        if where.startswith("wrapped"):
            model = mup.wrap_model(make(32))
            params = mlp(32).init(KEY, X)
            model.init(KEY, X) if where.endswith("init") else model.apply(params, None, X)
        else:
            with getattr(mup, f"init_{where}")():
                make(8).init(KEY, X)
    if where != "wrapped init" and where != "wrapped apply":
        captured(mlp, X, mup=mup)
    assert mup.wrap_model(mlp(32)).init(KEY, X)


def test_inputs_are_not_changed():
    mup = captured(mlp, X)
    model, adam = mlp(32), optax.adam(1e-3)
    before = (*model, *adam, dict(vars(model.init)), dict(vars(model.apply)))
    mup.wrap_model(model)
    params = mlp(32).init(KEY, X)
    copy = jax.tree.map(jnp.copy, params)
    opt = mup.wrap_optimizer(adam)
    opt.update(params, opt.init(params), params)
    assert equal(params, copy)
    assert before == (*model, *adam, dict(vars(model.init)), dict(vars(model.apply)))
    scales = mup.lr_scales()
    scales["linear"]["w"] = 7.0
    assert mup.lr_scales()["linear"]["w"] == 1.0


# --- warnings ---

def warns(*parts):
    return pytest.warns(haiku_mup.MupWarning, match=".*".join(map(re.escape, parts)))


def test_an_unwrapped_apply_warns_once():
    mup = haiku_mup.Mup()
    with mup.init_base():
        mlp(8).init(KEY, X)
    with mup.init_target():
        params = mlp(32).init(KEY, X)
    with warns("'readout/w'", "(32, 3)", "mup.wrap_model(model)") as seen:
        mlp(32).apply(params, X)
        mlp(32).apply(params, X)
    assert len(seen) == 1
    assert seen[0].filename.endswith("small_models.py")   # the line that calls the layer, in the user's model
    mup.wrap_model(mlp(32)).apply(params, X)            # quiet


def test_a_standard_twin_is_quiet():
    captured(mlp, X)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        twin = mlp(32)
        twin.apply(twin.init(KEY, X), X)
        base = mlp(8)
        base.apply(base.init(KEY, X), X)
    mup = captured(MODELS["stack"][0], X)       # where running_init is False twice during one init
    twin = MODELS["stack"][0](32)
    twin.apply(twin.init(KEY, X), X)
    assert mup.table()


@pytest.mark.parametrize("name", ["attention", "tied"])
def test_other_layers_with_multipliers_warn_as_well(name):
    make, x = MODELS[name]
    mup = captured(make, x)
    params = mup.wrap_model(make(32)).init(KEY, x)
    with warns("wrap_model"):
        make(32).apply(params, x)


CLIPPED_SGD = optax.chain(optax.clip_by_global_norm(1.0), optax.sgd(0.1))


@pytest.mark.parametrize("optimizer, adam", [
    (optax.sgd(0.1), True), (optax.sgd(0.1, momentum=0.9), True), (optax.adam(1e-3), False),
    (optax.adamw(1e-3), False), (optax.lion(1e-3), False), (optax.rmsprop(1e-3), False),
    (CLIPPED_SGD, True),
    (optax.chain(optax.clip_by_global_norm(1.0), optax.adam(0.1)), False),
    (optax.adam(optax.warmup_cosine_decay_schedule(0.0, 1e-3, 5, 50)), False),
    (optax.inject_hyperparams(optax.sgd)(learning_rate=0.1), True),
    (optax.MultiSteps(optax.adam(1e-3), 4), False),
    (optax.masked(optax.sgd(0.1), lambda p: jax.tree.map(lambda x: x.ndim == 2, p)), True),
    (optax.partition({"a": optax.sgd(0.1), "b": optax.set_to_zero()},
                     {"linear": "a", "linear_1": "a", "readout": "b"}), True),
])
def test_factors_that_do_not_fit_the_optimizer(optimizer, adam):
    mup = captured(mlp, X)
    kind = "SGD" if adam else "Adam"
    with warns(f"adam={adam}", f"behaves like {kind}", f"adam={not adam}") as seen:
        opt = mup.wrap_optimizer(optimizer, adam=adam)
        opt.init(mlp(32).init(KEY, X))                  # once for each optimizer that is wrapped
        assert len(seen) == 1
        mup.wrap_optimizer(optimizer, adam=adam)
    assert len(seen) == 2
    other = captured(mlp, X)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        opt = other.wrap_optimizer(optimizer, adam=not adam)
        if optimizer is not CLIPPED_SGD:                                    # whose clip belongs in front of it
            other.wrap_optimizer(optimizer, adam=adam, scale_eps=True)      # right for both
        opt.init(mlp(32).init(KEY, X))


def test_a_tied_output_of_a_plain_embedding():
    def layer(x, width, cls, read):
        embed = cls(5, width)
        h = embed(jnp.arange(2))
        return h @ embed.embeddings.T if read else h

    with warns("'embed/embeddings'", "base (5, 8), target (5, 32)", "SharedReadout") as seen:
        captured(*one(functools.partial(layer, cls=hk.Embed, read=True)))
    assert len(seen) == 1
    captured(*one(functools.partial(layer, cls=hk.Embed, read=False)))     # a lookup is quiet
    captured(*one(functools.partial(layer, cls=hk.Embed, read=True)), 8, 8)


@pytest.mark.parametrize("decay", [1e-4, 1e-2, 0.5])
def test_an_l2_in_front_of_adam_is_not_taken_for_sgd_nor_for_a_decay(decay):
    with warns("L2 term", "decay behind it") as seen:
        captured(mlp, X).wrap_optimizer(optax.chain(optax.add_decayed_weights(decay), optax.adam(0.1)))
    assert len(seen) == 1


def test_the_summary_says_that_nothing_grows():
    assert "Nothing grows" in captured(mlp, X, 8, 8).summary()
    assert "Nothing grows" not in captured(mlp, X).summary()


@pytest.mark.parametrize("optimizer, rule", [
    (optax.adafactor(1e-3), "adafactor"), (optax.lamb(1e-3), "lamb"), (optax.lars(1e-3), "lars"),
    (optax.contrib.muon(1e-3), "muon")])
def test_an_optimizer_that_is_not_entrywise(optimizer, rule):
    for options in ({}, {"adam": False}, {"scale_eps": True}, {"rule": "any"}, {"rule": rule}):
        with warns("from other entries", f"rule={rule!r}") if options != {"rule": rule} else nullcontext():
            captured(mlp, X).wrap_optimizer(optimizer, **options)


def test_a_function_of_parameters_inside_the_wrapped_optimizer():
    mup = captured(mlp, X)
    params = mlp(32).init(KEY, X)
    search = optax.chain(optax.sgd(0.1), optax.scale_by_backtracking_linesearch(5))
    opt = mup.wrap_optimizer(search, adam=False)
    with raises("value_fn", "line search, outside"):
        opt.update(params, opt.init(params), params, value=0.0, grad=params, value_fn=lambda p: 0.0)


def test_a_warning_that_was_made_an_error_comes_again():
    mup = captured(mlp, X)
    for _ in range(2):
        with warnings.catch_warnings(), pytest.raises(haiku_mup.MupWarning):
            warnings.simplefilter("error")
            mup.wrap_optimizer(optax.sgd(0.1))


def test_a_traced_learning_rate_is_not_tried():
    mup = captured(mlp, X)
    params = mlp(32).init(KEY, X)

    @jax.jit
    def step(lr):
        opt = mup.wrap_optimizer(optax.adam(lr))
        return opt.update(params, opt.init(params), params)[0]

    opt = mup.wrap_optimizer(optax.adam(0.1))
    expected = jax.jit(lambda: opt.update(params, opt.init(params), params)[0])()
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-6), step(0.1), expected)


def test_haikus_attention_with_a_growing_key_size():
    def layer(x, width, key_size, heads=lambda width: 2):
        h = hk.Linear(width)(x)[None]
        return hk.MultiHeadAttention(
            heads(width), key_size(width), w_init=normal, model_size=width)(h, h, h)

    with warns("'multi_head_attention/query/w'", "key size grows from 4 to 16",
               "haiku_mup.MultiHeadAttention") as seen:
        mup = captured(*one(functools.partial(layer, key_size=lambda width: width // 2)))
        with mup.init_target():
            shapes(one(functools.partial(layer, key_size=lambda width: width // 2))[0], 32, X)
    assert len(seen) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        captured(*one(functools.partial(layer, key_size=lambda width: 4, heads=lambda width: width // 4)))


def test_a_given_array_of_the_wrong_size_on_a_hidden_weight():
    """Nobody can rescale what does not depend on the key; it is left alone, and not in silence."""
    def layer(x, width):
        closed_over = lambda shape, dtype: jax.random.normal(KEY, shape, dtype)  # noqa: E731
        return hk.Linear(width, w_init=closed_over)(hk.Linear(width, name="h")(x))

    with warns("'linear/w'", "(8, 8)", "(32, 32)", "hk.next_rng_key()"):
        captured(*one(layer))


# --- initializers that draw with a key from outside of them ---

def _from_outside(x, width, kind):
    """Applies a hidden weight, or a readout's, that is drawn with the model's key, not the initializer's."""
    x, key = jax.nn.relu(hk.Linear(width)(x)), hk.next_rng_key()
    if kind == "parameter":
        array = 0.1 * jax.random.normal(key, (width, width))
        return haiku_mup.Readout(3)(x @ hk.get_parameter("w", [width, width], init=lambda *_: array))
    if kind == "constant":
        array = 0.1 * jax.random.normal(key, (width, width))
        return haiku_mup.Readout(3)(hk.Linear(width, w_init=hk.initializers.Constant(array))(x))
    if kind == "closure":
        def init(shape, dtype):
            return 0.1 * jax.random.normal(key, shape, dtype)

        return haiku_mup.Readout(3)(hk.Linear(width, w_init=init)(x))

    def scaled(shape, dtype):
        return jax.random.normal(key, shape, dtype) / shape[0]**0.5

    return haiku_mup.Readout(3, w_init=scaled)(x)


@pytest.mark.parametrize("kind", ["closure", "constant", "parameter", "readout"])
@pytest.mark.parametrize("base, target", [
    ("shapes", "eager"), ("shapes", "jit"), ("eager", "jit"), ("eager", "eager")])
def test_a_draw_that_ignores_the_initializers_key_is_never_quiet(kind, base, target):
    """Two keys give one array, which is left as it is; as a tracer it can't even be measured."""
    run = {"eager": lambda f: f, "jit": jax.jit, "shapes": lambda f: functools.partial(jax.eval_shape, f)}
    make, x = one(functools.partial(_from_outside, kind=kind))
    mup = haiku_mup.Mup(fans={"~/w": (0, 1)} if kind == "parameter" else None)
    known = base == target == "eager"
    with (pytest.warns(haiku_mup.MupWarning, match="gives one array whatever the key.*hk.next_rng_key") if known
          else raises("the initializer's std is a traced value", "call init eagerly")):
        with mup.init_base():
            run[base](make(8).init)(KEY, x)
        with mup.init_target():
            run[target](make(128).init)(KEY, x)


def _given(array):
    return lambda shape, dtype: jnp.asarray(array(shape), dtype)


def _normal(shape):
    return np.random.RandomState(0).randn(*shape)


def _sines(shape):
    return np.sin(np.arange(shape[0])[:, None] / 1e4**(np.arange(shape[1]) / shape[1]))


@pytest.mark.parametrize("array, told", [
    (lambda shape: _normal(shape) / shape[1]**0.5, True), (_normal, False),
    (_sines, False), (lambda shape: np.log(1 + np.arange(math.prod(shape))).reshape(shape), False),
    (lambda shape: np.ones(shape) / shape[1], False)])
@pytest.mark.parametrize("layer", ["embed", "matrix", "linear", "parameter"])
def test_a_given_input_weight_whose_std_depends_on_the_width_warns(array, told, layer):
    """As if it were drawn: tables of sines, frequencies and the like may be as they are."""
    ids = np.arange(20) % 7

    def network(width):
        if layer == "embed":
            x = hk.Embed(50, width, w_init=_given(array))(ids)
        elif layer == "matrix":
            x = hk.Embed(50, width, embedding_matrix=jnp.asarray(array((50, width)), jnp.float32))(ids)
        elif layer == "linear":
            x = hk.Linear(width, w_init=_given(array))(np.ones((2, 50)))
        else:
            x = np.ones((2, 50)) @ hk.get_parameter("w", [50, width], init=_given(array))
        return haiku_mup.Readout(3)(x)

    make, x = one(lambda _, width: network(width))
    mup = haiku_mup.Mup()
    with pytest.warns(haiku_mup.MupWarning, match="an input weight's initializer gives one array") if told \
            else nullcontext():
        with mup.init_base():
            jax.eval_shape(make(8).init, KEY, x)
        with mup.init_target():
            make(128).init(KEY, x)


# --- arguments of checks and sweeps, as a newcomer may get them wrong ---

BATCH = np.ones((8, *X.shape[1:]), np.float32), np.zeros(8, np.int32)
ADAM = optax.adam(0.01)


def cross_entropy(apply, params, rng, batch):
    x, labels = batch
    return optax.softmax_cross_entropy_with_integer_labels(apply(params, rng, x), labels).mean()


def check(make_model=mlp, widths=(8, 16), loss_fn=cross_entropy, **options):
    haiku_mup.coord_check(make_model, widths, BATCH, loss_fn, ADAM, steps=1, seeds=1, progress=False, **options)


def training(make_model=mlp, **options):
    return haiku_mup.training(make_model, BATCH, cross_entropy, optax.adam,
                              **{"steps": 2, "batch_size": 4, "base_width": 8} | options)


def sweep(make_trial=None, widths=(8,), lrs=(0.01,), seeds=1):
    haiku_mup.lr_sweep(make_trial or training(), widths, lrs, seeds, progress=False)


def pair(width):
    return (lambda key: {"w": jnp.ones((width, 3))}), (lambda params, rng, x: x)


@pytest.mark.parametrize("call, parts", [
    (lambda: check(widths=64), ["coord_check: widths=64", "give a list of whole numbers"]),
    (lambda: check(widths="64"), ["widths='64'", "give a list"]),
    (lambda: check(widths=[8.5, 16]), ["widths=[8.5, 16]", "whole numbers"]),
    (lambda: check(plan=haiku_mup.standard()), ["coord_check: plan is a Parametrization", "functools.partial"]),
    (lambda: check(pair), ["make_model returned tuple", "pair (init, apply)", "give plan="]),
    (lambda: check(loss_fn=lambda apply, params, batch: 0.0), [
        "loss_fn is no function of (apply, params, rng, batch)", "def loss_fn(apply, params, rng, batch)"]),
    (lambda: check(lambda width: hk.transform(lambda x: hk.Linear(width)(x))), [
        "captured no parameter: put the layers inside `with haiku_mup.apply_mup():`"]),
    (lambda: training(steps="4"), ["training: steps='4'", "give a whole number"]),
    (lambda: training(steps=4.5), ["training: steps=4.5", "give a whole number"]),
    (lambda: training(steps=None), ["training: steps=None", "give a whole number"]),
    (lambda: training(steps=float("inf")), ["training: steps=inf", "give a whole number"]),
    (lambda: check(widths=[8, float("inf")]), ["widths=[8, inf]", "whole numbers"]),
    (lambda: training(plan={}), ["training: plan is a dict", "functools.partial"]),
    (lambda: training(pair)(8), ["make_model returned tuple", "give plan="]),
    (lambda: sweep(widths=8), ["lr_sweep: widths=8", "give a list of whole numbers"]),
    (lambda: sweep(lrs=0.01), ["lr_sweep: lrs=0.01", "give a list of learning rates"]),
    (lambda: sweep(lrs=np.array(0.01)), ["lr_sweep: lrs=array(0.01)", "give a list of learning rates"]),
    (lambda: sweep(seeds=1.5), ["lr_sweep: seeds=1.5", "give the number of seeds"]),
    (lambda: sweep(training()(8)), ["lr_sweep: make_trial 'trial'", "'key'", "haiku_mup.training(make_model"]),
    (lambda: sweep(mlp(8)), ["it is a Transformed", "haiku_mup.training(make_model"]),
    (lambda: sweep(mlp), ["make_trial returned Transformed", "give haiku_mup.training(make_model"]),
    (lambda: haiku_mup.forward_factors(mlp(8), [8, 16], X), ["make_model is a Transformed", "give a function"]),
])
def test_a_wrong_argument_is_named_with_what_to_give(call, parts):
    with raises(*parts):
        call()


def test_a_decorated_function_is_judged_by_its_own_arguments():
    """Not by those of the function inside, which inspect.signature shows."""
    def of_logits(inner):
        @functools.wraps(inner)
        def outer(apply, params, rng, batch):
            return inner(apply(params, rng, batch[0]), batch[1])
        return outer

    @of_logits
    def decorated(logits, labels):
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

    haiku_mup.training(mlp, BATCH, decorated, optax.adam, steps=2, batch_size=4, base_width=8)(8)
    make_trial = functools.wraps(lambda a, b: None)(lambda width: lambda lr, key: lr)
    assert haiku_mup.lr_sweep(make_trial, [8], [0.5], 1, progress=False).losses


def test_whole_numbers_of_any_type_are_widths_and_steps():
    for widths in np.array([8, 16]), jnp.array([16, 8, 8]), (8.0, 16.0), range(8, 24, 8):
        assert as_widths(widths, "coord_check") == [8, 16]
    assert training(steps=2.0).steps == training(steps=np.int64(2)).steps == 2
