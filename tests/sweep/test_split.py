"""A trial's draws, compiled apart from its training: the numbers stay, and equal seeds draw once."""
import concurrent.futures
import functools
import time

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import haiku_mup
from haiku_mup.sweep import program, split
from haiku_mup.sweep.program import Program
from haiku_mup.sweep.trial import Trial

X = np.linspace(-1, 1, 40).reshape(10, 4).astype(np.float32)


def trials(*points):
    """Returns a trial of each (learning rate, seed)."""
    return [Trial("mup", 8, (("lr", lr),), seed) for lr, seed in points]


def losses_of(compiled, points, chunk):
    return np.array([losses["train_loss"] for losses in compiled.run(trials(*points), chunk)])


def make_trial(width):
    def network(x):
        with haiku_mup.apply_mup():
            return haiku_mup.Readout(1)(jax.nn.relu(hk.Linear(width)(x)))

    def loss_fn(apply, params, rng, batch):
        return (apply(params, rng, batch)**2).mean()

    return haiku_mup.training(lambda _: hk.transform(network), X, loss_fn, optax.adam, steps=7, batch_size=5,
                              base_width=8)(width)


def whole(monkeypatch):
    """Makes programs of their trials as they are."""
    def one_by_one(jaxpr, chunk, args, options):
        run = jax.jit(split.side_by_side(functools.partial(jax.core.eval_jaxpr, jaxpr), chunk))
        return lambda *args: run(*args)

    monkeypatch.setattr(program, "SplitTrial", one_by_one)


@pytest.mark.parametrize("chunk", [1, 2, 3])
def test_training_apart_from_the_draws_gives_the_numbers_of_the_whole(monkeypatch, chunk):
    points = [(lr, seed) for lr in (0.01, 0.1) for seed in range(3)]
    with jax.enable_x64(True):
        apart = losses_of(Program(make_trial(8), ["lr"]), points, chunk)
        whole(monkeypatch)
        together = losses_of(Program(make_trial(8), ["lr"]), points, chunk)
    assert apart.shape == (6, 7) and len({x.tobytes() for x in apart}) == 6
    np.testing.assert_allclose(apart, together, rtol=1e-5)      # float32 data; XLA rounds each otherwise


def test_what_a_hyperparameter_decides_is_not_drawn_beforehand():
    def trial(lr, key, scale):
        noise = jax.random.normal(jax.random.fold_in(key, (10 * scale).astype(int)), (2,))
        return scale * jax.random.normal(key, (2,)) + lr * noise

    compiled = Program(trial, ["lr", "scale"])
    points = [Trial("mup", 8, (("lr", lr), ("scale", scale)), 3) for lr in (0.5, 1.0) for scale in (1.0, 2.0)]
    found = [losses["train_loss"] for losses in compiled.run(points, chunk=2)]
    expected = [trial(lr, jax.random.key(3), jnp.float32(scale)) for lr in (0.5, 1.0) for scale in (1.0, 2.0)]
    np.testing.assert_allclose(found, expected, rtol=1e-5)


@pytest.mark.parametrize("chunk", [1, 2, 3])
def test_seeds_decide_the_draws_of_any_generator(chunk):
    """Under vmap, random bits of rbg depend on their place among the others."""
    with jax.default_prng_impl("rbg"):
        found = losses_of(Program(lambda lr, key: 0 * lr + jax.random.normal(key, (3,)), ["lr"]),
                          [(0.5, 0), (0.25, 0), (0.5, 1), (0.25, 1)], chunk)
        np.testing.assert_array_equal(found[0], jax.random.normal(jax.random.key(0), (3,)))
    np.testing.assert_array_equal(found[::2], found[1::2])
    assert (found[0] != found[2]).all()


def count_draws(compiled, monkeypatch, points, chunk):
    """Runs trials; returns how often their draws ran."""
    calls, compile_fast = [], split.compile_fast

    def compile_and_count(lowered, options):
        function = compile_fast(lowered, options)
        is_draw = len(lowered.in_avals[0]) == 2

        def call(*args):
            calls.append(is_draw)
            return function(*args)
        return call

    monkeypatch.setattr(split, "compile_fast", compile_and_count)
    losses_of(compiled, points, chunk)
    return sum(calls), len(calls) - sum(calls)


def draw(lr, key):
    return lr * jax.random.normal(key, (3,))


@pytest.mark.parametrize("points, chunk, draws, runs", [
    ([(0.5, 0), (0.5, 1), (0.25, 0), (0.25, 1)], 2, 1, 2),
    ([(0.5, 0), (0.5, 1), (0.25, 0), (0.25, 1)], 1, 2, 4),
    ([(0.5, 0), (0.5, 1), (0.25, 1), (0.25, 0)], 2, 2, 2)])     # other seeds side by side, or in another order
def test_trials_of_equal_seeds_draw_once(monkeypatch, points, chunk, draws, runs):
    assert count_draws(Program(draw, ["lr"]), monkeypatch, points, chunk) == (draws, runs)


def test_no_more_draws_are_kept_than_fit(monkeypatch):
    monkeypatch.setattr(split, "KEPT_BYTES", 12)        # three numbers: those of one seed
    points = [(0.5, 0), (0.25, 0), (0.5, 1), (0.5, 0)]
    assert count_draws(Program(draw, ["lr"]), monkeypatch, points, chunk=1) == (3, 4)
    monkeypatch.setattr(split, "KEPT_BYTES", 11)
    assert count_draws(Program(draw, ["lr"]), monkeypatch, points, chunk=1) == (4, 4)


def test_threads_share_what_is_drawn(monkeypatch):
    monkeypatch.setattr(split, "KEPT_BYTES", 120)       # ten seeds' three numbers
    compiled = Program(draw, ["lr"])
    expected = losses_of(compiled, [(0.5, seed) for seed in range(40)], chunk=1)
    nbytes = split._nbytes
    monkeypatch.setattr(split, "_nbytes", lambda arrays: (time.sleep(1e-4), nbytes(arrays))[1])    # others run
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        for _ in range(20):
            found = list(pool.map(lambda seed: losses_of(compiled, [(0.5, seed)], chunk=1)[0], range(40)))
            np.testing.assert_array_equal(found, expected)


def test_a_trial_that_calls_python_is_compiled_whole(monkeypatch):
    monkeypatch.setattr(program, "SplitTrial", None)
    seen = []

    def trial(lr, key):
        x = lr * jax.random.normal(key, (3,))
        jax.debug.callback(lambda x: seen.append(float(x)), x[0])
        return x

    found = losses_of(Program(trial, ["lr"]), [(0.5, 0)], chunk=1)
    assert seen == [float(found[0, 0])]
    with pytest.raises(TypeError):
        losses_of(Program(draw, ["lr"]), [(0.5, 0)], chunk=1)
