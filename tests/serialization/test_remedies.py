"""What messages about saved bases and checkpoints say to do: each by following it."""
import json

import jax
import pytest
from small_models import KEY, MODELS, captured, mlp

import haiku_mup

X = MODELS["mlp"][1]
HIDDEN, OUTPUT = ("hidden", 1, 1 / 4, 1), ("output", 1 / 4, 1, 4)


def check(mup):
    rows = {row.name: (row.role, row.multiplier, row.adam_lr, row.sgd_lr) for row in mup.table()}
    assert (rows["linear_1/w"], rows["readout/w"]) == (HIDDEN, OUTPUT)


def restored(state):
    """Returns a Mup of a saved base, with its target captured."""
    mup = haiku_mup.Mup.from_state_dict(state)
    with mup.init_target():
        jax.eval_shape(mlp(32).init, KEY, X)
    return mup


@pytest.mark.parametrize("other", [
    lambda: captured(mlp, X, base=16), lambda: captured(mlp, X, mup=haiku_mup.Mup(
        parametrization=haiku_mup.maximal_update("table9")))], ids=["another base", "another parametrization"])
def test_take_the_checkpoints_own_base(other):
    checkpoint = json.loads(json.dumps(captured(mlp, X).state_dict()))
    with pytest.raises(haiku_mup.MupError, match="take the base and the parametrization that the"):
        other().check(checkpoint)
    mup = restored(checkpoint)
    mup.check(checkpoint)
    check(mup)
    make, x = MODELS["attention"]
    with pytest.raises(haiku_mup.MupError, match="load the checkpoint of this model"):
        mup.check(captured(make, x).state_dict())


def damaged(state):
    state["parameters"]["linear/w"]["shape"] = [6, 9]


def newer(state):
    state["version"] = 2


def without_a_name(state):
    state["names"].pop()


@pytest.mark.parametrize("damage", [damaged, newer, without_a_name])
def test_save_the_base_again(damage, tmp_path):
    mup, path = captured(mlp, X), tmp_path / "base.json"
    state = json.loads(json.dumps(mup.state_dict()))
    damage(state)
    path.write_text(json.dumps(state))
    with pytest.raises(haiku_mup.MupError, match=r"save the base again: mup.save\(path\)"):
        haiku_mup.Mup.load(path)
    mup.save(path)
    again = haiku_mup.Mup.load(path)
    with again.init_target():
        jax.eval_shape(mlp(32).init, KEY, X)
    check(again)


def test_a_base_before_it_is_saved():
    mup = haiku_mup.Mup()
    with pytest.raises(haiku_mup.MupError, match="initialise the base inside `with mup.init_base"):
        mup.state_dict()
    with mup.init_base():
        jax.eval_shape(mlp(8).init, KEY, X)
    check(restored(mup.state_dict()))
