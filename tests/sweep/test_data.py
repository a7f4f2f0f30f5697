"""What `training` takes as data, models, losses and optimizers; and what it says of anything else."""
import functools
import itertools
import random
import warnings

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import haiku_mup
from haiku_mup.sweep.optimizer_argument import warn_of_unused_rate
from haiku_mup.sweep.retrace import output_shapes
from haiku_mup.sweep.training import _placeholders
from haiku_mup.sweep.training_loop import DrawnBatches, ShuffledBatches
from haiku_mup.sweep.training_step import takes_key

X, Y = np.arange(12, dtype=np.float32).reshape(4, 3) / 12, np.ones((4, 1), np.float32)
KEY = jax.random.key(0)


def make_model(width):
    def fn(x):
        with haiku_mup.apply_mup():
            return haiku_mup.Readout(1)(jax.nn.relu(hk.Linear(width)(x)))
    return hk.transform(fn)


def loss_fn(apply, params, rng, batch):
    x, y = batch
    return jnp.mean((apply(params, rng, x) - y)**2)


def training(data=(X, Y), model=make_model, loss=loss_fn, optimizer=optax.adam, **options):
    return haiku_mup.training(model, data, loss, optimizer, **{"steps": 2, "base_width": 4, **options})


class Loader:
    """An iterable over batches, as PyTorch's DataLoader is."""

    def __iter__(self):
        return iter([(X, Y)] * 5)

    def __len__(self):
        return 5


def drawing(draw):
    """Returns data(key, step) whose inputs a function of no arguments draws."""
    return lambda key, step: (draw(), jnp.asarray(Y))


def counter():
    """Returns a function that returns a larger number at each call."""
    state = {"calls": 0}

    def draw():
        state["calls"] += 1
        return jnp.asarray(X) * state["calls"]
    return draw


RNG, IN_TURN = np.random.default_rng(0), itertools.cycle([X, 2 * X])
OUTSIDE = {
    "numpy array": lambda: RNG.normal(size=(4, 3)),
    "numpy in jax": lambda: jnp.asarray(RNG.normal(size=(4, 3))),
    "a number": lambda: jnp.asarray(X) * random.random(),
    "rows": lambda: jnp.tile(X, (99, 1))[RNG.permutation(396)][:4],
    "a slice": lambda: jnp.tile(X, (99, 1))[(at := random.randrange(2**8)):at + 4],
    "inside jit": jax.jit(lambda: jnp.asarray(RNG.normal(size=(4, 3)))),
    "inside scan": lambda: jax.lax.scan(lambda c, _: (c + random.random(), None), jnp.asarray(X), length=2)[0],
    "iterator": lambda: next(IN_TURN), "counter": counter(),
    "a key": lambda: jax.random.normal(jax.random.key(random.randrange(2**31)), (4, 3))}
PURE = {
    "drawn": lambda key, step: (jax.random.normal(key, (4, 3)), jnp.asarray(Y)),
    "one batch": lambda key, step: (X, Y), "in turn": lambda key, step: (jnp.stack([X, 2 * X])[step % 2], Y),
    "seeded": lambda key, step: (np.random.default_rng(0).normal(size=(4, 3)), Y),
    "jitted": jax.jit(lambda key, step: (X * step, Y)),
    "choice": lambda key, step: (jax.random.choice(key, jnp.asarray(X), (4,)), jnp.asarray(Y)),
    "not a number": lambda key, step: (jnp.where(step > 0, X, np.nan * X), Y)}


# --- data ---

@pytest.mark.parametrize("name", OUTSIDE)
def test_a_draw_outside_of_jax_is_an_error(name):
    random.seed(0)
    with pytest.raises(haiku_mup.MupError, match=r"every step would see one batch. Draw with jax.random and"):
        training(drawing(OUTSIDE[name]))(8)


@pytest.mark.parametrize("name", PURE)
def test_a_function_of_key_and_step_is_none(name):
    shapes, same = output_shapes(DrawnBatches(PURE[name])._draw, KEY, 0)
    assert same and [x.shape for x in shapes] == [(4, 3), (4, 1)]


@pytest.mark.parametrize("data, said", [
    (iter([(X, Y)]), "a list_iterator, an iterator"), (((X, Y) for _ in range(9)), "a generator, an iterator"),
    (Loader(), "a Loader, an iterator"), ((X, iter(Y)), "an iterator"), (zip(X, Y), "an iterator"),
    ("digits", "a str, which is not an array"), (lambda step: X, r"not of \(key, step\)"),
    (lambda: next(iter([X])), r"not of \(key, step\)"),
    ((X.tolist(), Y.tolist()), "convert lists of numbers by np.asarray")])
def test_data_that_is_none_is_an_error(data, said):
    with pytest.raises(haiku_mup.MupError, match=f"training: data .*{said}"):
        training(data)


def generator(key, step):
    yield X, Y


@pytest.mark.parametrize("data", [(X for _ in range(3)), generator, Loader(), drawing(OUTSIDE["numpy array"])])
def test_the_error_says_what_to_write(data):
    with pytest.raises(haiku_mup.MupError) as error:
        training(data)(8)
    for part in ("batches = jax.tree.map(lambda *x: jnp.asarray(np.stack(x)), "
                 "*itertools.islice(iterator, steps))",
                 "data = lambda key, step: jax.tree.map(lambda x: x[step % len(x)], batches)"):
        assert part in str(error.value)


def test_what_the_error_says_is_right():
    """Each step has the batch that the iterator gave."""
    iterator, steps = ((k * X, Y) for k in itertools.count(1)), 3
    batches = jax.tree.map(lambda *x: jnp.asarray(np.stack(x)), *itertools.islice(iterator, steps))
    drawn = DrawnBatches(lambda key, step: jax.tree.map(lambda x: x[step % len(x)], batches))
    assert [x.shape for x in drawn.example()] == [(4, 3), (4, 1)]
    for step in range(steps):
        np.testing.assert_array_equal(jax.jit(drawn.by_step(KEY))(step)[0], (step + 1) * X)


@pytest.mark.parametrize("data", [
    lambda key, step: [(X, Y)][step], lambda key, step: (X, Y) if step % 2 else (2 * X, Y),
    lambda key, step: (np.asarray(X)[step:step + 4], Y), lambda key, step: (np.asarray(key), Y),
    lambda key, step: (X * int(step), Y)])
def test_a_step_that_is_taken_for_a_number_is_an_error(data):
    with pytest.raises(haiku_mup.MupError, match=r"jax.numpy, as in jnp.stack\(batches\)\[step\]"):
        training(data)(8)


def test_lists_are_trees_as_tuples_are():
    batch = ShuffledBatches([X, Y], 2, steps=3).example()
    assert isinstance(batch, list) and [x.shape for x in batch] == [(2, 3), (2, 1)]
    assert len(ShuffledBatches({"x": X, "more": [X, Y]}, None, 1).example()["more"]) == 2


def test_an_evaluation_is_a_batch_or_a_function():
    with pytest.raises(haiku_mup.MupError, match=r"evaluate\['valid'\] .* an iterator; give one batch"):
        training(evaluate={"valid": iter([(X, Y)])})


# --- models, losses, optimizers ---

def without_key(width):
    return hk.without_apply_rng(make_model(width))


def test_a_model_without_a_key_trains_as_with_one():
    a, b = (jax.jit(training(model=model, optimizer=optax.sgd)(8))(0.1, KEY)["train_loss"]
            for model in (make_model, without_key))
    np.testing.assert_array_equal(a, b)


def of_no_input():
    return hk.get_parameter("w", [], init=jnp.zeros)


@pytest.mark.parametrize("function", [
    lambda x: x, lambda rng: rng, lambda *args: args, lambda x, *, rate=1: x, of_no_input, hk.Linear])
def test_which_models_take_a_key(function):
    for transform in (hk.transform, hk.transform_with_state):
        model, stateful = transform(function), transform is hk.transform_with_state
        assert takes_key(model.apply, stateful) and not takes_key(hk.without_apply_rng(model).apply, stateful)
    assert takes_key(lambda params, rng, x: x, False)


def test_a_wrapped_model_takes_a_key_if_it_did():
    mup = haiku_mup.Mup()
    with mup.init_base():
        jax.eval_shape(make_model(4).init, KEY, X)
    with mup.init_target():
        jax.eval_shape(make_model(8).init, KEY, X)
    assert takes_key(mup.wrap_model(make_model(8)).apply, False)
    assert not takes_key(mup.wrap_model(without_key(8)).apply, False)


def test_a_model_of_several_functions_is_refused_with_what_to_write():
    def several(width):
        def fn():
            layer = hk.Linear(width)
            return layer, (layer, layer)
        return hk.multi_transform(fn)

    with pytest.raises(haiku_mup.MupError, match=r"hk.transform\(lambda \*inputs: fn\(\)\[0\]\(\*inputs\)\)"):
        training(model=several, loss=lambda apply, *args: loss_fn(apply[0], *args))(8)


@pytest.mark.parametrize("options, said", [
    (dict(model=make_model(8)), "make_model is a Transformed; give a function from a width"),
    (dict(optimizer=optax.adam(1e-3)), r"function of the rate, such as optax.adam in place of optax.adam\("),
    (dict(optimizer=optax.chain(optax.clip(1.0), optax.sgd(0.1))), "optimizer has its learning rate already"),
    (dict(optimizer=optax.MultiSteps(optax.adam(1e-3), 2)), "optimizer has its learning rate already"),
    (dict(optimizer="adam"), "optimizer is a str"), (dict(optimizer=0.1), "optimizer is a float")])
def test_arguments_of_another_kind_are_named(options, said):
    with pytest.raises(haiku_mup.MupError, match=said):
        training(**options)


@pytest.mark.parametrize("options, said", [
    (dict(optimizer=lambda lr: lr), "the optimizer's function returned a float"),
    (dict(optimizer=lambda lr: optax.adam), "the optimizer's function returned a function"),
    (dict(model=lambda width: None), "make_model returned NoneType"),
    (dict(loss=lambda apply, params, rng, batch: apply(params, batch[0]).mean()), "write apply"),
    (dict(loss=lambda apply, params, rng, batch: jnp.float32(0)), "never called apply")])
def test_functions_that_return_something_else_are_named(options, said):
    with pytest.raises(haiku_mup.MupError, match=said):
        training(**options)(8)


PLAIN = optax.adam(1e-3)


@pytest.mark.parametrize("optimizer", [
    lambda lr: PLAIN, lambda lr: optax.sgd(0.1, momentum=0.9),
    lambda lr: optax.chain(optax.clip(1.0), optax.adamw(optax.cosine_decay_schedule(0.1, 9)))])
def test_an_optimizer_that_ignores_the_rate_is_warned_of(optimizer):
    said = r"doesn't depend on the learning rate .* lambda lr: optax.adam\(lr\)"
    with pytest.warns(haiku_mup.MupWarning, match=said) as found:
        training(optimizer=optimizer)(8)
    assert found[0].filename == __file__


@pytest.mark.parametrize("optimizer", [
    lambda lr: optax.chain(optax.scale(-lr), optax.scale_by_adam()), optax.contrib.cocob,
    lambda lr: optax.chain(optax.scale_by_schedule(lambda step: -lr / (step + 1)), optax.scale_by_lion()),
    lambda lr: optax.chain(optax.sgd(lr), optax.scale_by_sign())])
def test_an_optimizer_that_normalizes_what_the_rate_multiplied_is_warned_of(optimizer):
    said = "updates are the same at learning rates of 0.001 and 0.004.*multiply by the rate last"
    with pytest.warns(haiku_mup.MupWarning, match=said) as found:
        make_trial = training(optimizer=optimizer, rule="adam")
        make_trial(8)
    assert found[0].filename == __file__
    with warnings.catch_warnings():
        warnings.filterwarnings("error", "training: ")
        make_trial(16)          # once is enough


@pytest.mark.parametrize("optimizer", [
    optax.adam, lambda lr: optax.sgd(optax.warmup_constant_schedule(0.0, lr, 9)), optax.lion,
    lambda lr: optax.inject_hyperparams(optax.adam)(lr), lambda lr, momentum: optax.sgd(lr, momentum),
    lambda lr: optax.chain(optax.scale_by_adam(), optax.add_decayed_weights(0.1), optax.scale(-lr)),
    lambda lr: optax.partition({"a": optax.adam(1e-3), "b": optax.sgd(lr)}, lambda tree: jax.tree.map(
        lambda x: "ab"[x.ndim > 1], tree)),
    lambda lr: optax.adam(optax.warmup_cosine_decay_schedule(1e-5, lr, 1000, 2000)),    # begins alike
    lambda lr: optax.chain(optax.scale_by_adam(), optax.scale_by_learning_rate(lr)),
    lambda lr: optax.contrib.cocob(alpha=1 / lr),
    lambda lr: optax.chain(optax.sgd(lr), optax.clip(1e-4)), lambda lr: optax.MultiSteps(optax.adam(lr), 8),
    lambda lr: optax.contrib.mechanize(optax.adam(lr)), optax.contrib.prodigy, optax.contrib.dog, optax.rprop,
    lambda lr: optax.chain(optax.sgd(lr), optax.set_to_zero()),     # frozen, which is no matter of the rate
    optax.polyak_sgd, lambda lr: optax.polyak_sgd(1.0, scaling=lr)])
def test_an_optimizer_that_uses_the_rate_is_none(optimizer):
    w, b = (jax.ShapeDtypeStruct(shape, "float32") for shape in ((3, 2), (2,)))
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        warn_of_unused_rate(functools.partial(optimizer, **_placeholders(optimizer, 0.5)),
                            {"linear": {"w": w, "b": b}})
    assert not found


@pytest.mark.parametrize("wrong, said", [
    (lambda out: out, r"an array \(4, 1\)"), (lambda out: (out.mean(), 1), "a tuple"),
    (lambda out: out.mean().astype(int), r"an array \(\)")])
def test_a_loss_that_is_no_scalar_is_named_as_a_coordinate_check_does(wrong, said):
    trial = training(loss=lambda apply, params, rng, batch: wrong(apply(params, rng, batch[0])))(8)
    with pytest.raises(haiku_mup.MupError, match=f"loss_fn returned {said}; a scalar is needed"):
        jax.eval_shape(trial, 0.1, KEY)
