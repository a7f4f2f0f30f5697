"""Synthetic runs of optimizers: NumPy beside JAX, and runs that wait, fail, or can't be vectorized."""
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from optimizer_cases import optimizer

from haiku_mup.optimizers.detect import CannotTry, Clip, Decay, Drift, Traits, find_traits
from haiku_mup.optimizers.numpy_evaluation import numpy_function
from haiku_mup.optimizers.synthetic_runs import GROWTH, Run, RunShape, try_runs
from haiku_mup.rules.optimizers import Behaviour

SHAPES = {"linear": {"b": jax.ShapeDtypeStruct((8,), "float32"), "w": jax.ShapeDtypeStruct((6, 8), "float32")}}


def in_numpy(function, *args):
    """Returns what a function returns, flat, by its traced program in NumPy."""
    return numpy_function(jax.make_jaxpr(function)(*args))(*map(np.asarray, jax.tree.leaves(args)))


# --- programs ---

@pytest.mark.parametrize("name", ["adamw", "muon", "momo_adam", "noisy_sgd", "galore"])
def test_optimizers_do_in_numpy_what_jax_does(name):
    opt = optimizer(name, 0.1)
    params = {"m": {"w": jnp.arange(1.0, 7).reshape(2, 3), "b": jnp.ones(3)}}

    def steps(params):
        state = opt.init(params)
        for _ in range(2):
            updates, state = opt.update(jax.tree.map(jnp.cos, params), state, params, value=1.0)
        return updates

    expected = jax.tree.leaves(jax.jit(steps)(params))
    for found, wanted in zip(in_numpy(steps, params), expected, strict=True):
        np.testing.assert_allclose(found, wanted, rtol=2e-5, atol=1e-8)     # sums in another order
        assert found.dtype == wanted.dtype


@pytest.mark.parametrize("function, x", [
    (lambda x: jax.lax.cond(x.sum() > 3, jnp.sin, jnp.cos, x), [1.0, 2.0]),
    (lambda x: jax.lax.cond(x.sum() > 2, jnp.sin, jnp.cos, x), [1.0, 2.0]),
    (lambda x: jax.lax.while_loop(lambda y: y.sum() < 99, lambda y: 2 * y, x), [1.0, 2.0]),
    (lambda x: jax.lax.scan(lambda c, y: (c + y, c * y), 0.0, x), [1.0, 2.0, 3.0]),
    (lambda x: (x // 3, x % 3, -x // 2, x.astype(int) // 2, -x.astype(int) % 4), [7.0, 8.0]),
    (lambda x: jnp.linalg.svd(jnp.outer(x, x) + jnp.eye(2), compute_uv=False), [1.0, 2.0]),
    (lambda x: (x.astype(jnp.bfloat16) @ x.astype(jnp.bfloat16), x.astype(jnp.bfloat16) / 3), [1.0, 2.0]),
    (lambda x: jax.random.normal(jax.random.split(jax.random.key(3))[1], x.shape) + x, [1.0, 2.0]),
    (lambda x: jnp.where(x > 1, x**-2, jnp.sqrt(x - 2)), [1.0, 2.0, 3.0]),
    (lambda x: (x[1:], x[::-1], jnp.pad(x, 1), jnp.cumsum(x), jnp.argmax(x), x.max(), x.prod()), [1.0, 2.0]),
    (jax.checkpoint(lambda x: jax.nn.relu(x) + jax.nn.silu(x)), [-1.0, 2.0]),
])
def test_operations_are_those_of_jax(function, x):
    x = jnp.asarray(x)
    expected = jax.tree.leaves(function(x))
    for found, wanted in zip(in_numpy(function, x), expected, strict=True):
        np.testing.assert_allclose(np.asarray(found, float), np.asarray(wanted, float), rtol=1e-6)
        assert found.dtype == wanted.dtype


# --- runs ---

def test_runs_are_what_they_say():
    seen = optax.stateless(lambda g, p: jax.tree.map(lambda g, p: g + 100 * p, g, p))
    runs = [Run(params=1.0, gradient=2.0, first_entry=(3.0, 5.0)), Run(params=0.0, gradient=1.0, grows=True)]
    found = try_runs(optax.with_extra_args_support(seen), SHAPES, runs, RunShape.SMALL)["linear/b"]
    np.testing.assert_allclose(found.history[:, 0], [[310, 102]] * len(GROWTH))
    np.testing.assert_allclose(found.history[:, 1, 0], GROWTH, rtol=1e-6)


@pytest.mark.parametrize("waiting", [
    optax.MultiSteps(optax.sgd(1.0), 65).gradient_transformation(),
    optax.sgd(optax.join_schedules([optax.constant_schedule(0.0), optax.constant_schedule(1.0)], [300])),
    optax.apply_if_finite(optax.chain(optax.sgd(1.0), optax.scale_by_schedule(lambda n: 1.0 * (n > 99))), 3),
    optax.conditionally_mask(optax.sgd(1.0), lambda step: step % 120 == 119),
    optax.partition({"w": optax.adam(1.0), "b": optax.MultiSteps(optax.sgd(1.0), 99).gradient_transformation()},
                    {"linear": {"w": "w", "b": "b"}}),
])
def test_what_waits_is_waited_for(waiting):
    assert find_traits(waiting, [SHAPES])["linear/b"].behaviour is Behaviour.SGD_LIKE


@pytest.mark.parametrize("still, behaviour", [
    (optax.set_to_zero(), None), (optax.sgd(0.0), None),
    (optax.sgd(optax.linear_schedule(1.0, 0.0, 2)), "SGD")])
def test_what_stands_still_ends_the_trial(still, behaviour, monkeypatch):
    """Steps are counted by the calls of the optimizer's program."""
    calls = []
    counted = functools.partial(_counted, numpy_function, calls)
    monkeypatch.setattr("haiku_mup.optimizers.synthetic_runs.numpy_function", counted)
    assert find_traits(still, [SHAPES])["linear/w"].behaviour == behaviour
    assert len(calls) < 400      # of 4096 for each of two shapes


def _counted(make, calls, program, traced=None):
    function = make(program, traced)
    return lambda *arguments: (calls.append(1), function(*arguments))[1]


def test_an_optimizer_that_cannot_be_vectorized_is_tried_all_the_same():
    def on_the_host(x):
        return jax.pure_callback(lambda x: -np.asarray(x), jax.ShapeDtypeStruct(x.shape, x.dtype), x)

    opt = optax.stateless(lambda g, p: jax.tree.map(on_the_host, g))
    assert find_traits(opt, [SHAPES])["linear/w"].behaviour is Behaviour.SGD_LIKE

    def init(params):       # by values, which a trace doesn't have
        return optax.EmptyState() if float(params["linear"]["b"].sum()) >= 0 else None

    opt = optax.chain(optax.sign_sgd(1.0), optax.GradientTransformation(init, lambda u, s, p=None: (u, s)))
    assert find_traits(opt, [SHAPES])["linear/w"].behaviour is Behaviour.ADAM_LIKE


@pytest.mark.parametrize("make, behaviour, decay", [
    (optax.sgd, "SGD", None), (optax.adam, "Adam", None), (optax.lion, "Adam", "linear"),
    (lambda x: optax.adamw(x, weight_decay=x), "Adam", "linear"),
    (lambda x: optax.adam(0.1, b1=x), "Adam", None),
    (lambda x: optax.adam(optax.cosine_decay_schedule(x, 10)), "Adam", None), (optax.lamb, "by norm", None)])
def test_a_traced_rate_is_no_hindrance(make, behaviour, decay):
    found = []
    for transform, x in ((jax.jit, 0.1), (jax.vmap, jnp.ones(2))):
        transform(lambda x: (found.append(find_traits(make(x), [SHAPES])["linear/w"]), x)[1])(x)
    assert [(x.behaviour, x.decay) for x in found] == [(behaviour, decay)] * 2


@pytest.mark.parametrize("make", [
    lambda x: optax.adam(0.1, eps=x), lambda x: optax.chain(optax.clip_by_global_norm(x), optax.sgd(0.1)),
    lambda x: optax.stateless(lambda g, _: g if x > 1 else jax.tree.map(jnp.sign, g))], ids=[
        "eps", "clip", "a choice"])
def test_what_depends_on_a_traced_value_cannot_be_tried(make):
    def function(x):
        with pytest.raises(CannotTry):
            find_traits(make(x), [SHAPES])
        return x

    jax.jit(function)(0.1)


# --- what they tell ---

def power(p):
    return optax.stateless(lambda g, _: jax.tree.map(lambda g: -jnp.sign(g) * jnp.abs(g)**p, g))


@pytest.mark.parametrize("p, behaviour", [
    (-0.5, "between"), (0.0, "Adam"), (0.1, "between"), (0.25, "between"), (0.5, "between"), (0.9, "between"),
    (1.0, "SGD"), (1.25, "between"), (2.0, "between")])
def test_powers_of_the_gradient_are_between(p, behaviour):
    assert find_traits(power(p), [SHAPES])["linear/w"].behaviour == behaviour


@pytest.mark.parametrize("eps, behaviour", [(1e-8, "Adam"), (3e-5, "Adam"), (1e-3, "between"), (1.0, "SGD")])
def test_a_large_epsilon_is_between(eps, behaviour):
    assert find_traits(optax.adam(0.1, eps=eps), [SHAPES])["linear/w"].behaviour == behaviour


def pull(anchor, rate=0.1):
    """A pull towards values of its own, in their true shapes."""
    return optax.stateless(lambda g, p: jax.tree.map(lambda g, p, q: g + rate * (p - q), g, p, anchor))


def test_what_moves_without_a_gradient():
    anchor = jax.tree.map(lambda x: jnp.linspace(-1.0, 2.0, x.size).reshape(x.shape), SHAPES)
    for opt, decay, drift in [
            (optax.noisy_sgd(0.1, key=0), None, Drift.NOISE), (optax.yogi(0.1), None, Drift.NOISE),
            (optax.chain(optax.add_noise(1.0, 0.5, key=1), optax.adam(0.1)), None, Drift.NOISE),
            (optax.chain(pull(anchor), optax.sgd(0.1)), Decay.LINEAR, Drift.PULL),
            (optax.chain(pull(anchor), optax.noisy_sgd(0.1, key=0)), Decay.LINEAR, Drift.NOISE),
            (optax.adamw(0.1), Decay.LINEAR, None), (optax.sgd(0.1), None, None)]:
        traits = find_traits(opt, [SHAPES])["linear/w"]
        assert (traits.decay, traits.drift) == (decay, drift)


@pytest.mark.parametrize("behind, decay", [(optax.sgd(0.1), Decay.LINEAR), (optax.adam(0.1), Decay.COUPLED)])
def test_a_pull_to_where_the_state_was_made_is_a_decay(behind, decay):
    opt = optax.GradientTransformation(lambda params: params, lambda g, start, p=None: (
        jax.tree.map(lambda g, p, q: g + 0.1 * (p - q), g, p, start), start))
    assert find_traits(optax.chain(opt, behind), [SHAPES])["linear/w"].decay is decay


def test_large_parameters_are_not_tried_in_their_true_shapes():
    large = {"m": {"w": jax.ShapeDtypeStruct((1024, 1024), "float32")}}
    anchor = {"m": {"w": np.zeros((1024, 1024), np.float32)}}
    with pytest.raises(CannotTry):
        find_traits(optax.chain(pull(anchor), optax.sgd(0.1)), [large])
    needs_more = optax.GradientTransformationExtraArgs(lambda p: (), lambda g, s, p, *, loss, **_: (g, s))
    assert find_traits(needs_more, [large]) == {}


@pytest.mark.parametrize("law, factor", [
    (lambda x: (x.shape[-1] / x.shape[0])**0.5, (5 / 3)**0.5), (lambda x: 1 / x.size, 4 / 15),
    (lambda x: x.ndim / 2, None)])
def test_updates_by_the_shape_show(law, factor):
    opt = optax.chain(optax.adam(0.1), optax.stateless(lambda u, _: jax.tree.map(lambda x: x * law(x), u)))
    found = find_traits(opt, [SHAPES])["linear/w"]
    assert found == Traits(Behaviour.ADAM_LIKE, None, None, factor and pytest.approx(factor, rel=1e-5))


@pytest.mark.parametrize("behind, limit", [
    (optax.sgd(0.1, momentum=0.9), 1e-3), (optax.sgd(0.1), 0.3), (optax.adam(0.1), 0.01)])
def test_clips_by_the_norm_of_parameters_show(behind, limit):
    clipped = optax.chain(optax.adaptive_grad_clip(limit), behind)
    assert find_traits(clipped, [SHAPES])["linear/w"].behaviour is Behaviour.CLIPPED_BY_NORM
    by_value, plain = (find_traits(opt, [SHAPES])["linear/w"] for opt in (
        optax.chain(optax.clip(1.0), behind), behind))
    assert by_value._replace(clip=None) == plain
    assert by_value.clip is (None if plain.behaviour is Behaviour.ADAM_LIKE else Clip.BY_ENTRY)
