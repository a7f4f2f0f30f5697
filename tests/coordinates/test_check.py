"""coord_check: what it says of right and wrong models, and what it refuses."""
import random

import haiku as hk
import jax
import jax.numpy as jnp
import mutants
import numpy as np
import optax
import pytest
from mutants import LABELS, REFUSED, RIGHT, WRONG, checked, loss_fn

import haiku_mup
from haiku_mup import CoordCheck
from haiku_mup.coordinates import recorder

FEW = {"widths": (64, 256), "seeds": 3}
TINY = {"widths": (8, 16), "seeds": 1, "steps": 2}


# --- right and wrong models ---

@pytest.mark.parametrize("name", ["mlp", "zero readout", "stack"])
def test_a_right_model_passes(name):
    RIGHT[name](**FEW).assert_ok()


@pytest.mark.filterwarnings("ignore::haiku_mup.MupWarning")
@pytest.mark.parametrize("name", ["multiplier squared", "1/√d attention", "decay scaled"])
def test_a_wrong_one_is_caught(name):
    check, culprit, cause = WRONG[name]
    assert_named(check(**FEW), culprit, cause)


@pytest.mark.parametrize("name", REFUSED)
def test_a_wrong_one_is_refused(name):
    check, text = REFUSED[name]
    with pytest.raises(haiku_mup.MupError, match=text):
        check()


def test_the_standard_parametrization_fails():
    assert not RIGHT["mlp"](parametrization="sp", **FEW).ok


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::haiku_mup.MupWarning")
@pytest.mark.parametrize("name", WRONG)
def test_every_wrong_one_is_caught_at_the_defaults(name):
    check, culprit, cause = WRONG[name]
    assert_named(check(), culprit, cause)


@pytest.mark.slow
@pytest.mark.parametrize("name", RIGHT)
def test_no_false_alarm(name):
    """Judges fifty seeds: as ten checks of five seeds each, and as a hundred other choices of five."""
    every = RIGHT[name](seeds=50).points
    order = random.Random(0)
    chosen = [range(i, i + 5) for i in range(0, 50, 5)] + [order.sample(range(50), 5) for _ in range(100)]
    failures = [CoordCheck([p for p in every if p.seed in seeds]).failures() for seeds in chosen]
    assert failures[:10] == [[]] * 10
    assert sum(map(bool, failures)) <= 1, [f for f in failures if f]


def assert_named(check, culprit, cause):
    named = [failure for failure in check.failures() if failure.name == culprit]
    assert named, str(check)
    assert any(cause in failure.cause for failure in named), str(check)


# --- bad input ---

@pytest.mark.parametrize("change, text", [
    ({"widths": (64,)}, "give two or more"), ({"widths": (64, 64)}, "give two or more"),
    ({"stats": ("mean",)}, "which are judged"), ({"stats": ("l7", "l1")}, "l7"), ({"seeds": 0}, "one seed"),
    ({"steps": 0}, "one step"), ({"parametrization": "ntk"}, "'ntk'"),
    ({"fix_batch": False, "steps": 3}, "batches for"),
    ({"optimizer": optax.sgd(1e30), "adam": False}, "lower the"),
    ({"optimizer": optax.sgd(optax.linear_schedule(0.0, 1.0, 9)), "adam": False, "steps": 1}, "warm-up"),
    ({"make_model": lambda width: mutants.make(mutants.mlp)(64)}, "same shapes"),
    ({"make_model": lambda width: None}, "NoneType")])
def test_what_cannot_be_checked_is_refused(change, text):
    with pytest.raises(haiku_mup.MupError, match=text):
        checked(mutants.mlp, **TINY | change)


@pytest.mark.parametrize("loss, text", [
    (lambda apply, params, rng, batch: apply(params, rng, batch[0]), r"an array \(32, 10\)"),
    (lambda apply, params, rng, batch: (loss_fn(apply, params, rng, batch), 1), "a tuple"),
    (lambda apply, params, rng, batch: jnp.float32(0), "never called apply")])
def test_a_loss_that_cannot_be_used_is_refused(loss, text):
    with pytest.raises(haiku_mup.MupError, match=text):
        haiku_mup.coord_check(mutants.make(mutants.mlp), (8, 16), (mutants.IMAGES, LABELS), loss,
                              optax.adam(0.01), steps=1, seeds=1, progress=False)


def test_an_interrupted_check_leaves_nothing_behind():
    def loss(apply, params, rng, batch):
        apply(params, rng, batch[0])
        raise KeyboardInterrupt

    with jax.checking_leaks(), pytest.raises(KeyboardInterrupt):
        haiku_mup.coord_check(mutants.make(mutants.mlp), (8, 16), (mutants.IMAGES, LABELS), loss,
                              optax.adam(0.01), progress=False)
    model = mutants.make(mutants.mlp)(8)
    params = model.init(jax.random.PRNGKey(0), mutants.IMAGES)
    assert recorder._recorder.get() is None
    assert model.apply(params, None, mutants.IMAGES).shape == (32, 10)


def test_a_model_with_a_state_and_batches_of_its_own():
    def make_model(width):
        def fn(x, is_training):
            with haiku_mup.apply_mup():
                x = hk.BatchNorm(True, True, 0.9)(hk.Linear(width)(x), is_training)
                x = hk.dropout(hk.next_rng_key(), 0.1, jax.nn.relu(x))
                return haiku_mup.Readout(10)(x)
        return hk.transform_with_state(fn)

    def loss(apply, params, rng, batch):
        x, y = batch
        out = apply(params, rng, x, is_training=True)
        return optax.softmax_cross_entropy_with_integer_labels(out, y).mean()

    batches = [(jax.random.normal(jax.random.PRNGKey(i), (32, 6)), LABELS) for i in range(3)]
    check = haiku_mup.coord_check(make_model, (64, 256), batches, loss, optax.adam(0.01), seeds=3,
                                  fix_batch=False, stats=("l1", "std"), progress=False)
    check.assert_ok()
    assert {p.stat for p in check.points if p.expected} == {"l1"}
    assert not any(p.quantity.startswith("Δactivation") for p in check.points)
    bias = [p for p in check.points if p.quantity == "update linear/b"]     # before a norm: rounding errors
    assert bias and not any(p.expected for p in bias)


def test_an_optimizer_whose_step_depends_on_the_loss_can_be_checked():
    def checked(parametrization):
        return haiku_mup.coord_check(mutants.make(mutants.mlp), (64, 256), (mutants.IMAGES, LABELS), loss_fn,
                                     optax.contrib.momo_adam(0.01), seeds=3, parametrization=parametrization,
                                     rule="momo_adam", progress=False)

    checked("mup").assert_ok()
    assert not checked("sp").ok


def test_batches_may_differ_in_shape():
    batches = [(jax.random.normal(jax.random.PRNGKey(i), (n, 4, 4)), LABELS[:n]) for i, n in enumerate((8, 16))]
    check = haiku_mup.coord_check(mutants.make(mutants.mlp), (8, 16), batches, loss_fn, optax.adam(0.01),
                                  seeds=1, steps=2, fix_batch=False, progress=False)
    assert {p.step for p in check.points} == {0, 1} and np.isfinite([p.value for p in check.points]).all()
