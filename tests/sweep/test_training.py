"""`training`: its trials are plain training loops, in any parametrization."""
import concurrent.futures
import functools
import warnings

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import haiku_mup
from haiku_mup.sweep.training_loop import ShuffledBatches, scan_while_finite

ROWS, STEPS, BATCH, BASE, WIDTH = 20, 12, 8, 4, 12
RNG = np.random.default_rng(0)
DATA = RNG.normal(size=(ROWS, 3)), RNG.normal(size=(ROWS, 2))
KEY, LR = jax.random.key(5), 0.02
ONE_THREAD = concurrent.futures.ThreadPoolExecutor(1)
slow = pytest.mark.slow


def make_model(width, output_mult=1.0):
    def fn(x):
        with haiku_mup.apply_mup():
            x = jnp.tanh(hk.Linear(width)(x))
            x = hk.LayerNorm(-1, True, True)(hk.Linear(width)(x))
            return haiku_mup.Readout(2, output_mult=output_mult)(x)
    return hk.transform(fn)


def loss_fn(apply, params, rng, batch):
    x, y = batch
    return jnp.mean((apply(params, rng, x) - y)**2)


def training(optimizer=optax.adam, model=make_model, data=DATA, **options):
    return haiku_mup.training(model, data, loss_fn, optimizer, base_width=BASE,
                              **{"steps": STEPS, "batch_size": BATCH, **options})


def by_hand(model, optimizer, params, order):
    """Returns the losses of a plain loop over batches."""
    @jax.jit
    def step(params, state, number):
        loss, gradients = jax.value_and_grad(lambda p: loss_fn(model.apply, p, None, order(number)))(params)
        updates, state = optimizer.update(gradients, state, params)
        return optax.apply_updates(params, updates), state, loss

    state, losses = optimizer.init(params), []
    for number in range(STEPS):
        params, state, loss = step(params, state, number)
        losses.append(float(loss))
    return losses


def captured(rule):
    mup, x = haiku_mup.Mup(parametrization=rule), DATA[0][:1]
    with mup.init_base():
        jax.eval_shape(make_model(BASE).init, KEY, x)
    with mup.init_target():
        jax.eval_shape(make_model(WIDTH).init, KEY, x)
    return mup


@pytest.mark.parametrize("name, rule, optimizer, adam", [
    ("mup", haiku_mup.maximal_update(), optax.adamw, True),
    pytest.param("mup", haiku_mup.maximal_update(), functools.partial(optax.sgd, momentum=0.9), False,
                 marks=slow),
    pytest.param("", haiku_mup.neural_tangent(), optax.sgd, False, marks=slow),
    pytest.param("", haiku_mup.maximal_update("abcd", optimizer="adam"), optax.adam, None, marks=slow),
    pytest.param("sp", None, optax.adam, None, marks=slow),
])
def test_a_trial_is_a_plain_loop(x64, name, rule, optimizer, adam):
    """It finds the optimizer's rule; its losses are those of a loop by hand with the same draws."""
    found = jax.jit(training(optimizer, parametrization=name or rule)(WIDTH))(LR, KEY)
    init_key, data_key, _ = jax.random.split(KEY, 3)
    order = ShuffledBatches(DATA, BATCH, STEPS).by_step(data_key)
    if rule is None:
        model, inner = make_model(WIDTH), optimizer(LR)
    else:
        mup = captured(rule)
        model, inner = mup.wrap_model(make_model(WIDTH)), optimizer(LR)
        inner = inner if adam is None else mup.wrap_optimizer(inner, adam=adam)
    losses = by_hand(model, inner, jax.jit(model.init)(init_key, DATA[0][:BATCH]), order)
    np.testing.assert_allclose(found["train_loss"], losses, rtol=1e-9)      # 12 steps of rounding to 1e-16


@pytest.mark.parametrize("optimizer", [optax.contrib.momo, pytest.param(optax.contrib.momo_adam, marks=slow)])
def test_an_optimizer_whose_step_depends_on_the_loss_is_given_it(x64, optimizer):
    """The losses are those of a loop by hand that passes them as `value`; a constant would give others."""
    model, mup = make_model(WIDTH), captured(haiku_mup.maximal_update())
    model = mup.wrap_model(model)
    rule = optimizer.__name__
    init_key, data_key, _ = jax.random.split(KEY, 3)
    batch = ShuffledBatches(DATA, BATCH, STEPS).by_step(data_key)

    def losses(value_of):
        wrapped = mup.wrap_optimizer(optimizer(1.0), rule=rule)

        def step(carry, number):
            params, state = carry
            loss, gradients = jax.value_and_grad(
                lambda p: loss_fn(model.apply, p, None, batch(number)))(params)
            updates, state = wrapped.update(gradients, state, params, value=value_of(loss))
            return (optax.apply_updates(params, updates), state), loss

        params = model.init(init_key, DATA[0][:BATCH])
        return jax.lax.scan(step, (params, wrapped.init(params)), jnp.arange(STEPS))[1]

    found = jax.jit(training(optimizer)(WIDTH))(1.0, KEY)["train_loss"]
    np.testing.assert_allclose(found, losses(lambda loss: loss), rtol=1e-9)     # 12 steps of rounding to 1e-16
    assert np.abs(found - losses(lambda loss: 1.0)).max() > 1e-3


@pytest.mark.parametrize("chunk", ["auto", 1, 3])
@pytest.mark.parametrize("required", [True, False])
def test_a_models_hyperparameter_in_a_sweep_is_that_of_models_made_with_it(required, chunk):
    """It is traced, side by side with others; a required one is tried at a half, as a dropout rate may be."""
    def made(width, rate):
        def fn(x):
            with haiku_mup.apply_mup():
                x = hk.dropout(hk.next_rng_key(), rate, jnp.tanh(hk.Linear(width)(x)))
                return haiku_mup.Readout(2, output_mult=1 + rate)(x)
        return hk.transform(fn)

    model = made if required else lambda width, rate=0.1: made(width, rate)
    found = haiku_mup.lr_sweep(training(model=model), [WIDTH], [LR, 2 * LR], 2,
                               hyperparameters={"rate": [0.2, 0.4]}, executor=ONE_THREAD, chunk=chunk,
                               progress=False)
    assert len(found.losses) == 8 and not found.missing
    for trial, losses in found.losses.items():
        point = dict(trial.point)
        alone = training(model=lambda width, rate=point["rate"]: made(width, rate))(WIDTH)
        expected = alone(point["lr"], jax.random.key(trial.seed))
        np.testing.assert_allclose(losses["train_loss"], expected["train_loss"], rtol=1e-4)     # float32


@slow
def test_hyperparameters_go_to_the_function_that_takes_them():
    def optimizer(lr, momentum):
        return optax.sgd(lr, momentum=momentum)

    trial = jax.jit(training(optimizer)(WIDTH))
    plain = trial(LR, KEY, momentum=0.9)["train_loss"]
    same = training(functools.partial(optax.sgd, momentum=0.9))(WIDTH)
    np.testing.assert_allclose(plain, jax.jit(same)(LR, KEY)["train_loss"], rtol=1e-5)
    mult = trial(LR, KEY, momentum=0.9, output_mult=2.0)["train_loss"]
    fixed = training(optimizer, functools.partial(make_model, output_mult=2.0))(WIDTH)
    np.testing.assert_allclose(mult, jax.jit(fixed)(LR, KEY, momentum=0.9)["train_loss"], rtol=1e-5)
    assert abs(mult[0] - plain[0]) > 1e-3
    text = r"unknown hyperparameters 'warmth'.*\['momentum'\].*\['output_mult'\]"
    with pytest.raises(haiku_mup.MupError, match=text):
        trial(LR, KEY, momentum=0.9, warmth=1.0)


@slow
def test_init_scale_multiplies_what_is_drawn_and_nothing_else():
    """A gain of the norm that was multiplied would show in the first loss."""
    def scaled(width):
        def fn(x):
            with haiku_mup.apply_mup():
                init = hk.initializers.VarianceScaling(9.0)             # 3 times the default's std
                x = jnp.tanh(hk.Linear(width, w_init=init)(x))
                x = hk.LayerNorm(-1, True, True)(hk.Linear(width, w_init=init)(x))
                return haiku_mup.Readout(2, w_init=init)(x)
        return hk.transform(fn)

    def plain(width):
        def fn(x):
            with haiku_mup.apply_mup():
                init = hk.initializers.VarianceScaling(1.0)
                x = jnp.tanh(hk.Linear(width, w_init=init)(x))
                x = hk.LayerNorm(-1, True, True)(hk.Linear(width, w_init=init)(x))
                return haiku_mup.Readout(2, w_init=init)(x)
        return hk.transform(fn)

    three = jax.jit(training(model=plain)(WIDTH))(LR, KEY, init_scale=3.0)["train_loss"]
    np.testing.assert_allclose(three, jax.jit(training(model=scaled)(WIDTH))(LR, KEY)["train_loss"], rtol=1e-4)


@slow
def test_state_is_kept_for_loss_functions_and_evaluations():
    def model(width):
        def fn(x):
            with haiku_mup.apply_mup():
                count = hk.get_state("count", (), init=jnp.zeros)
                hk.set_state("count", count + 1)
                return haiku_mup.Readout(2)(hk.Linear(width)(x)), count
        return hk.transform_with_state(fn)

    def loss(apply, params, rng, batch):
        return jnp.mean((apply(params, rng, batch[0])[0] - batch[1])**2)

    make = haiku_mup.training(model, DATA, loss, optax.adam, steps=STEPS, base_width=BASE, evaluate={
        "count": lambda apply, params, rng: apply(params, rng, DATA[0])[1], "valid_loss": DATA})
    found = jax.jit(make(WIDTH))(LR, KEY)
    assert found["count"] == STEPS
    assert found["valid_loss"] < found["train_loss"][0]


@slow
def test_an_evaluation_called_train_loss_comes_first():
    found = jax.jit(training(evaluate={"train_loss": DATA})(WIDTH))(LR, KEY)
    assert {name: x.shape for name, x in found.items()} == {"train_loss": (), "batch_loss": (STEPS,)}


def test_the_losses_of_batches_may_come_first():
    """Tests that a sweep is judged by them, then, and not by a further loss."""
    found = training(evaluate={"train_loss": None, "valid_loss": DATA})(WIDTH)(LR, KEY)
    assert [(name, x.shape) for name, x in found.items()] == [("train_loss", (STEPS,)), ("valid_loss", ())]
    assert found["train_loss"][0] > found["valid_loss"]


@slow
def test_data_may_be_a_function_of_a_key_and_a_step():
    def draw(key, step):
        rows = jax.random.randint(key, (BATCH,), 0, ROWS)
        return jnp.asarray(DATA[0])[rows] * (step < 6), jnp.asarray(DATA[1])[rows]

    losses = jax.jit(training(data=draw)(WIDTH))(LR, KEY)["train_loss"]
    assert losses.shape == (STEPS,) and len(set(losses.tolist())) == STEPS


@pytest.mark.parametrize("steps", [1, 7, 40, 101])
def test_a_run_that_diverges_ends_and_the_others_go_on(steps):
    """Runs side by side end as each alone does."""
    def step(x, number):
        return x * 1e9, x + number * 0

    alone = [scan_while_finite(step, x, steps)[1] for x in (1.0, 0.0)]
    both = jax.vmap(lambda x: scan_while_finite(step, x, steps)[1])(jnp.array([1.0, 0.0]))
    np.testing.assert_array_equal(both, alone)
    wanted = np.where(np.arange(steps) < 5, 10.0**(9 * np.minimum(np.arange(steps), 4)), np.inf)
    np.testing.assert_allclose(both[0], wanted, rtol=1e-5)
    np.testing.assert_array_equal(both[1], np.zeros(steps))


def test_it_costs_no_time_after_it_diverged():
    """Counts the steps: of 200, only those of a segment run."""
    def step(x, number):
        count.append(1)
        return jnp.inf * x, x

    count = []
    with jax.disable_jit():
        scan_while_finite(step, jnp.float32(1.0), 200)
    assert len(count) < 25


def test_each_epoch_has_each_row_once():
    rows = ShuffledBatches(np.arange(7), 2, 6)
    batch = rows.by_step(KEY)
    epochs = [[int(x) for step in range(first, first + 3) for x in batch(step)] for first in (0, 3)]
    assert all(len(set(epoch)) == 6 for epoch in epochs) and epochs[0] != epochs[1]


@pytest.mark.parametrize("options, said", [
    (dict(steps=0), "steps=0"), (dict(batch_size=21), "batch_size=21"), (dict(batch_size=0), "batch_size=0"),
    (dict(data=(DATA[0], DATA[1][:5])), r"data of \[5, 20\] rows"), (dict(parametrization="mu"), "'mu'"),
])
def test_arguments_that_are_not_allowed(options, said):
    with pytest.raises(haiku_mup.MupError, match=said):
        training(**options)


def test_an_optimizer_whose_kind_does_not_show_must_be_named():
    def odd(lr):
        return optax.GradientTransformation(lambda params: (), lambda g, s, p=None: (
            jax.tree.map(lambda g, p: -lr * jnp.where(p == 0, jnp.sign(g), g), g, p), s))

    with pytest.raises(haiku_mup.MupError, match="pass adam=True"):
        training(odd)(WIDTH)
    training(odd, adam=True)(WIDTH)


@slow
def test_an_optimizer_that_does_not_fit_is_warned_of():
    with pytest.warns(haiku_mup.MupWarning, match="the parameter's norm, .* pass rule='lamb'"):
        training(optax.lamb, adam=True)(WIDTH)
    with pytest.warns(haiku_mup.MupWarning, match="behaves like SGD"):
        training(optax.sgd, adam=True)(WIDTH)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        training(optax.lion)(WIDTH)
        training(optax.lamb)(WIDTH)                     # whose rule is known by its state


def headless(x, width):
    with haiku_mup.apply_mup():
        return hk.Linear(2)(hk.Linear(width)(x))


def test_a_mistake_of_the_model_is_named():
    with pytest.raises(haiku_mup.MupError, match="Readout"):
        training(model=lambda width: hk.transform(lambda x: headless(x, width)))(WIDTH)


# --- declarations ---

def test_in_sp_a_model_needs_no_apply_mup_and_in_mup_it_does():
    def plain(width):
        def fn(x):
            return hk.Linear(1, name="out")(jax.nn.relu(hk.Linear(width)(x)))

        return hk.transform(fn)

    def inside(width):
        def fn(x):
            with haiku_mup.apply_mup():
                return hk.Linear(1, name="out")(jax.nn.relu(hk.Linear(width)(x)))

        return hk.transform(fn)

    def losses(model, **scale):
        trial = training(model=model, parametrization="sp")(16)
        return jax.jit(trial)(0.01, jax.random.key(3), **scale)["train_loss"]

    for scale in ({}, {"init_scale": 2.0}):
        np.testing.assert_array_equal(losses(plain, **scale), losses(inside, **scale))
    with pytest.raises(haiku_mup.MupError, match="init_base captured no parameter"):
        training(model=plain)(16)


def classes_grow(width):
    def fn(x):
        with haiku_mup.apply_mup():
            return haiku_mup.Readout(width // 2)(jnp.tanh(hk.Linear(width)(x)))
    return hk.transform(fn)


def table_of_ones_own(width):
    def fn(x):
        with haiku_mup.apply_mup():
            table = hk.get_parameter("table", [5, width], init=hk.initializers.RandomNormal())
            features = jnp.tanh(hk.Linear(width)(table[jnp.arange(len(x)) % 5]))
            return haiku_mup.SharedReadout()(table, features)
    return hk.transform(fn)


def mean_loss(apply, params, rng, batch):
    return jnp.mean((apply(params, rng, batch[0]) - 1)**2)


def sweeps(model, **declarations):
    haiku_mup.training(model, DATA, mean_loss, optax.adam, steps=1, base_width=BASE, **declarations)(WIDTH)


def checks(model, **declarations):
    haiku_mup.coord_check(model, [BASE, WIDTH], DATA, mean_loss, optax.adam(LR), steps=1, seeds=1,
                          progress=False, **declarations)


@pytest.mark.parametrize("run", [sweeps, checks])
@pytest.mark.parametrize("model, declarations", [
    (classes_grow, {"finite": {"readout/*": "out"}}), (table_of_ones_own, {"tied": "~/table"})])
def test_trials_and_checks_take_every_declaration_of_a_model(run, model, declarations):
    with pytest.raises((haiku_mup.MupError, haiku_mup.MupWarning), match=f"{next(iter(declarations))}="):
        run(model)
    run(model, **declarations)
