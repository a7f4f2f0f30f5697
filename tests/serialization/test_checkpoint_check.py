"""Whether a checkpoint's Mup is the code's: what differs is refused, and shown; what doesn't passes."""
import copy
import json

import haiku as hk
import jax
import optax
import pytest
from small_models import KEY, MODELS, captured, one

import haiku_mup


def differing(mup, state):
    with pytest.raises(haiku_mup.MupError) as error:
        mup.check(state)
    return str(error.value)


@pytest.mark.parametrize("name", MODELS)
def test_the_same_base_passes_at_every_target(name):
    state = json.loads(json.dumps(captured(*MODELS[name]).state_dict()))
    for target in (8, 32, 64):
        assert captured(*MODELS[name], target=target).check(state) is None


def test_another_base_shows_both_rows_of_what_differs():
    mup, other = (captured(*MODELS["mlp"], base=base) for base in (8, 16))
    said = differing(mup, other.state_dict()).splitlines()
    assert "another base, so that 5 of 6 parameters differ; take the base" in said[0]       # not the last bias
    head, *rows = said[1:]
    assert len(rows) == 10 and not any("readout/b" in row for row in rows)
    for theirs, ours, own, others in zip(rows[::2], rows[1::2], mup.summary().splitlines()[1:],
                                         other.summary().splitlines()[1:]):
        assert theirs.split() == ["checkpoint", *others.split()] and ours.split() == ["here", *own.split()]
    assert head.split() == mup.summary().splitlines()[0].split()


def test_another_parametrization():
    mup, sp = (captured(*MODELS["mlp"], mup=haiku_mup.Mup(parametrization=rule))
               for rule in (None, haiku_mup.standard()))
    said = differing(mup, sp.state_dict())
    assert "standard in the checkpoint, and μP here, so that 5 of 6" in said
    same = captured(*MODELS["mlp"], target=8, mup=haiku_mup.Mup(parametrization=haiku_mup.standard()))
    said = differing(captured(*MODELS["mlp"], target=8), same.state_dict())
    assert "standard in the checkpoint, and μP here; take" in said and "\n" not in said     # nothing is scaled


@pytest.mark.parametrize("given", ["init_mults", "lr_mults"])
def test_other_multipliers(given):
    plain, tuned = (captured(*MODELS["mlp"], mup=haiku_mup.Mup(**{given: mults}))
                    for mults in ({}, {"linear_1/w": 2.0}))
    said = differing(plain, tuned.state_dict())
    assert "other init_mults or lr_mults, so that 1 of 6 parameters differ" in said
    assert [line.split()[1] for line in said.splitlines()[2:]] == ["linear_1/w"] * 2
    tuned.check(tuned.state_dict())
    differing(tuned, plain.state_dict())


def test_multipliers_of_the_optimizer_are_in_the_checkpoint():
    mup, plain = captured(*MODELS["mlp"]), captured(*MODELS["mlp"])
    mup.wrap_optimizer(optax.adam(1e-3), lr_mults={"linear_1/w": 2.0})
    assert "1 of 6 parameters differ" in differing(plain, mup.state_dict())


def test_another_initializer_of_one_parameter():
    def layer(std):
        return lambda x, width: hk.Linear(width, w_init=hk.initializers.RandomNormal(std))(x)

    mup = captured(*one(layer(0.1)))
    assert "1 of 2 parameters differ" in differing(mup, captured(*one(layer(0.2))).state_dict())


def test_a_delta_that_makes_no_difference_here_makes_one_elsewhere():
    make, inputs = MODELS["mlp"]
    mup = haiku_mup.Mup()
    with mup.init_base():
        jax.eval_shape(make(8).init, KEY, inputs)
    plain = copy.copy(mup)
    with mup.init_delta():
        jax.eval_shape(make(16).init, KEY, inputs)
    for each in (mup, plain):
        with each.init_target():
            jax.eval_shape(make(32).init, KEY, inputs)
    assert differing(mup, plain.state_dict()).count("\n") == 0      # no row differs at this width
    mup.check(mup.state_dict())


@pytest.mark.slow
def test_a_std_that_was_measured_on_another_machine():
    """Another machine's draws may differ in their last digits; another initializer's differ by more."""
    def layer(x, width):
        return hk.Linear(width, w_init=lambda shape, _: scale * jax.random.normal(hk.next_rng_key(), shape))(x)

    scale = 1.0
    mup = captured(*one(layer))
    scale = 1.0 + 1e-6
    assert mup.check(captured(*one(layer)).state_dict()) is None
    scale = 1.1
    assert "another base" in differing(mup, captured(*one(layer)).state_dict())


def test_another_model_and_no_state_dict():
    mup = captured(*MODELS["mlp"])
    short = captured(*one(lambda x, w: hk.Linear(w)(x)))
    assert "another model: 'linear_1/b' is a parameter of this one alone" in differing(mup, short.state_dict())
    assert "another model: 'linear_1/b' is a parameter of it alone" in differing(short, mup.state_dict())
    assert "the state dict" in differing(mup, {"x": 1})
    with pytest.raises(haiku_mup.MupError, match="check before init_target"):
        haiku_mup.Mup().check(mup.state_dict())


def test_a_base_that_can_not_be_this_targets():
    mup = captured(*one(lambda x, w: hk.Linear(w)(hk.Linear(w)(x))))
    fixed = one(lambda x, w: hk.Linear(7)(hk.Linear(7)(x)))
    assert "another base" in differing(mup, captured(*fixed).state_dict())
