"""Contexts in threads, inside one another and after errors; and what is kept of a model that is gone."""
import functools
import gc
import threading

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from small_models import KEY, MODELS, captured, mlp
from trees import equal

import haiku_mup
from haiku_mup.parameters.record import Record
from haiku_mup.tracing import haiku_internals, unwrapped
from haiku_mup.tracing.scope import active_context
from haiku_mup.tracing.wrapped_model import WrappedModel

X = MODELS["mlp"][1]


def in_thread(function):
    """What `function` returns in a thread of its own."""
    found = []
    thread = threading.Thread(target=lambda: found.append(function()))
    thread.start()
    thread.join()
    return found[0]


def test_a_thread_does_not_see_anothers_context():
    plain = mlp(32).init(KEY, X)
    mup = haiku_mup.Mup()
    with mup.init_base():
        jax.eval_shape(mlp(8).init, KEY, X)
    with mup.init_target():
        there = in_thread(lambda: mlp(32).init(KEY, X))
        here = mlp(32).init(KEY, X)
    assert equal(there, plain) and not equal(here, plain)
    model = mup.wrap_model(mlp(32))
    assert equal(in_thread(lambda: model.init(KEY, X)), here)
    assert equal(in_thread(lambda: model.apply(here, X)), model.apply(here, X))


def test_two_mups_in_two_threads_at_once():
    """Each step of one waits for the other's."""
    barrier = threading.Barrier(2, timeout=60)
    found = {}

    def work(width):
        mup = haiku_mup.Mup()
        barrier.wait()
        with mup.init_base():
            barrier.wait()
            jax.eval_shape(mlp(8).init, KEY, X)
            barrier.wait()
        with mup.init_target():
            barrier.wait()
            jax.eval_shape(mlp(width).init, KEY, X)
            barrier.wait()
        found[width] = mup.lr_scales()["linear_1"]["w"]

    threads = [threading.Thread(target=work, args=(width,)) for width in (16, 32)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == {16: 0.5, 32: 0.25}


def test_contexts_of_two_mups_nested_and_alternating():
    one, two = haiku_mup.Mup(), haiku_mup.Mup()
    init = jax.jit(mlp(16).init)
    with one.init_base():
        jax.eval_shape(mlp(8).init, KEY, X)
        with two.init_base():
            init(KEY, X)
    with two.init_target():
        second = init(KEY, X)
        with one.init_target():
            first = init(KEY, X)
        assert equal(init(KEY, X), second)
    assert one.lr_scales()["linear_1"]["w"] == 0.5 and two.lr_scales()["linear_1"]["w"] == 1
    assert equal(second, init(KEY, X)) and not equal(first, second)
    models = [mup.wrap_model(hk.Transformed(init, mlp(16).apply)) for mup in (one, two, one)]
    assert [equal(m.init(KEY, X), first) for m in models] == [True, False, True]


def test_base_and_target_of_other_batches_and_lengths():
    make, x = MODELS["attention"]
    mup = haiku_mup.Mup()
    with mup.init_base():
        jax.eval_shape(make(8).init, KEY, x[:1, :2])
    with mup.init_target():
        jax.eval_shape(make(32).init, KEY, jnp.tile(x, (3, 2, 1)))
    assert mup.table() == captured(make, x).table()


@pytest.mark.parametrize("how", ["eager", "jit"])
def test_an_init_inside_anothers_init(how):
    """A wrapped model, initialised and applied in the body of a function that is captured itself."""
    teacher = captured(mlp, X, 8, 16).wrap_model(mlp(16))
    wanted = jax.jit(teacher.init)(KEY, X)
    run = jax.jit if how == "jit" else (lambda f: f)
    init, apply = run(teacher.init), run(teacher.apply)
    seen = []

    def fn(x, width):
        with haiku_mup.apply_mup():
            params = init(KEY, x)
            seen.append(jax.tree.map(lambda a, b: jnp.abs(a - b).max(), params, wanted))
            return haiku_mup.Readout(3)(hk.Linear(width)(x)) + apply(params, x)

    def make(width):
        return hk.transform(functools.partial(fn, width=width))

    mup = haiku_mup.Mup()
    with mup.init_base():
        make(8).init(KEY, X)
    with mup.init_target():
        make(32).init(KEY, X)
    assert {row.name for row in mup.table()} == {"linear/w", "linear/b", "readout/w", "readout/b"}
    assert len(seen) == 2 and max(map(float, jax.tree.leaves(seen))) < 1e-6


@pytest.mark.parametrize("where", ["initializer", "function", "with"])
def test_after_an_exception_anywhere_all_is_as_before(where):
    def fail(shape, dtype):
        raise ZeroDivisionError

    def fn(x):
        with haiku_mup.apply_mup():
            x = hk.Linear(32, w_init=fail if where == "initializer" else None)(x)
            if where == "function":
                raise ZeroDivisionError
            return x

    mup = haiku_mup.Mup()
    plain = mlp(32).init(KEY, X)
    for entry in (mup.init_base, mup.init_base, mup.init_target):
        with pytest.raises(ZeroDivisionError), entry():
            hk.transform(fn).init(KEY, X)
            raise ZeroDivisionError
        assert active_context() is None and equal(mlp(32).init(KEY, X), plain)
        with mup.init_base():
            jax.eval_shape(mlp(8).init, KEY, X)
    with mup.init_target():
        jax.eval_shape(mlp(32).init, KEY, X)
    assert mup.lr_scales()["linear_1"]["w"] == 0.25


# --- what is kept ---

def life_of_a_model():
    def fn(x, width):
        with haiku_mup.apply_mup():
            embed = haiku_mup.SharedEmbed(5, width)
            h = hk.Linear(width)(x) + embed(jnp.arange(2))
            return haiku_mup.Readout(3)(h) + haiku_mup.SharedReadout()(embed, h)[:, :3]

    base, target = (hk.transform(functools.partial(fn, width=width)) for width in (4, 16))
    mup = haiku_mup.Mup()
    with mup.init_base():
        jax.eval_shape(base.init, KEY, X)
    with mup.init_target():
        jax.eval_shape(target.init, KEY, X)
    model = mup.wrap_model(target)
    params = jax.eval_shape(model.init, KEY, X)
    jax.eval_shape(lambda p: model.apply(p, None, X), params)
    jax.eval_shape(mup.wrap_optimizer(optax.adam(1e-3)).init, params)


@pytest.mark.slow
def test_nothing_of_ours_is_kept_of_models_that_are_gone():
    """What JAX keeps are the traces of jax.numpy's own functions in a context; none of draws."""
    def census():
        gc.collect()
        objects = gc.get_objects()
        return np.array([len(objects), *(sum(type(o) is kind for o in objects) for kind in (
            Record, haiku_mup.Mup, WrappedModel)), len(unwrapped._latest), len(haiku_internals._homes)])

    for _ in range(3):
        life_of_a_model()
    before = census()
    for _ in range(10):
        life_of_a_model()
    objects, *ours = census() - before
    assert not any(count > 0 for count in ours)     # what other tests left may go meanwhile
    assert objects < 10 * 1500      # 4,000 a model with those of draws
