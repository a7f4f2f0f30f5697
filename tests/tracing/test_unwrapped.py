"""The warning of an unwrapped apply: for a target's parameters, and not for standard ones drawn before."""
import functools
import itertools
import warnings

import haiku as hk
import jax
import jax.numpy as jnp
import optax
import pytest
from small_models import KEY

import haiku_mup

X = jnp.linspace(-1, 1, 12).reshape(2, 6)
_names = itertools.count()          # a model of its own for each test: what one knows of it, no other does
IDENTITY = lambda f: f              # noqa: E731


def models(form="table8"):
    name = f"unwrapped_{next(_names)}"

    def fn(x, width):
        with haiku_mup.apply_mup():
            x = jax.nn.relu(hk.Linear(width, name=name)(x))
            return haiku_mup.Readout(3, name=f"{name}_out")(jax.nn.relu(hk.Linear(width, name=f"{name}_b")(x)))

    return [hk.without_apply_rng(hk.transform(functools.partial(fn, width=width))) for width in (8, 32)]


def captured(base, target, init=IDENTITY, form="table8"):
    mup = haiku_mup.Mup(parametrization=haiku_mup.maximal_update(form))
    with mup.init_base():
        jax.eval_shape(base.init, KEY, X)
    with mup.init_target():
        params = init(target.init)(KEY, X)
    return mup, params


def warns(function, *args):
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        function(*args)
    return any("wrap_model" in str(w.message) for w in found)


def gradient(apply):
    return jax.grad(lambda params, x: apply(params, x).sum())


def jitted_gradient(apply):
    return jax.jit(gradient(apply))


def closed_over(apply):
    return lambda params, x: jax.jit(lambda x: apply(params, x))(x)


def mapped(apply):
    return lambda params, x: jax.vmap(apply, in_axes=(None, 0))(params, x[None])


WAYS = {"eager": IDENTITY, "jit": jax.jit, "grad": gradient, "jit of grad": jitted_gradient,
        "closed over": closed_over, "vmap": mapped}


@pytest.mark.parametrize("way, form", [*((way, "table8") for way in WAYS), ("jit", "table9")])
def test_arrays_tell_standard_parameters_from_those_of_a_target(way, form):
    base, target = models()
    standard = target.init(KEY, X)
    _, params = captured(base, target, form=form)
    # Not one function for both: where JAX has its trace, no layer runs again, and none can warn.
    for arrays, is_wrong in ((standard, False), (params, True)):
        assert warns(WAYS[way](lambda *args: target.apply(*args)), arrays, X) == is_wrong


@pytest.mark.parametrize("way", ["eager", "jit"])
def test_those_of_a_wrapped_init_are_of_a_target(way):
    base, target = models()
    target.init(KEY, X)
    mup, _ = captured(base, target, functools.partial(functools.partial, jax.eval_shape))
    assert warns(WAYS[way](target.apply), mup.wrap_model(target).init(KEY, X), X)


@pytest.mark.parametrize("init", [IDENTITY, jax.jit], ids=["eager", "jit"])
def test_standard_training_goes_on_after_a_capture(init):
    base, target = models()
    params, optimizer = init(target.init)(KEY, X), optax.adam(0.1)
    state = optimizer.init(params)
    captured(base, target)

    @jax.jit
    def step(params, state):
        updates, state = optimizer.update(gradient(target.apply)(params, X), state, params)
        return optax.apply_updates(params, updates), state

    def train(params, state):
        for _ in range(2):
            params, state = step(params, state)
        jax.jit(lambda params: target.apply(params, X))(params)
        target.apply(params, X)

    assert not warns(train, params, state)


def test_standard_parameters_that_were_trained_before_are_quiet():
    base, target = models()
    params = jax.jit(target.init)(KEY, X)
    grads = jax.jit(gradient(target.apply))(params, X)
    params = jax.tree.map(lambda p, g: p - g, params, grads)
    captured(base, target)
    assert not warns(jax.jit(lambda params: target.apply(params, X)), params)


@pytest.mark.parametrize("before", [lambda init: jax.eval_shape(init, KEY, X),
                                    lambda init: jax.make_jaxpr(init)(KEY, X), lambda init: None],
                         ids=["eval_shape", "make_jaxpr", "nothing"])
@pytest.mark.parametrize("init", [IDENTITY, jax.jit], ids=["eager", "jit"])
def test_shapes_alone_are_no_standard_parameters(before, init):
    base, target = models()
    before(target.init)
    _, params = captured(base, target, init)
    assert warns(jax.jit(target.apply), params, X)


def test_a_standard_init_after_the_capture_is_one_as_well():
    base, target = models()
    _, params = captured(base, target)
    standard = target.init(KEY, X)
    assert not warns(target.apply, standard, X)
    assert warns(target.apply, params, X)


def test_a_program_that_initialises_and_applies_is_standard_when_it_is_only_traced():
    """A sweep traces its trials before it runs any, in μP and in the standard parametrization."""
    base, target = models()

    def trial(key, x):
        return gradient(target.apply)(target.init(key, x), x)

    _, params = captured(base, target)
    assert not warns(jax.eval_shape, trial, KEY, X)
    assert warns(jax.jit(target.apply), params, X)


def test_the_base_at_its_own_width_is_standard():
    base, target = models()
    mup = haiku_mup.Mup()
    with mup.init_base():
        params = base.init(KEY, X)
    with mup.init_target():
        target.init(KEY, X)
    other = haiku_mup.Mup()
    small = models()[0]
    with other.init_base():
        jax.eval_shape(small.init, KEY, X)
    with other.init_target():
        small.init(KEY, X)
    assert not warns(base.apply, params, X)


def test_nothing_is_kept_of_arrays_that_are_gone():
    from haiku_mup.tracing import draws

    base, target = models()
    params = target.init(KEY, X)
    ids = {id(x) for x in jax.tree.leaves(params)}
    assert ids <= set(draws._standard)
    del params
    assert not ids & set(draws._standard)
