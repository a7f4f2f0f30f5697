"""Depth in files: numbers of blocks are kept, and earlier files that have none load."""
import json

import jax
import pytest
from deep_models import STRUCTURES, TARGET, X, capture, completep, model
from small_models import KEY, MODELS, captured

import haiku_mup
from haiku_mup import maximal_update


@pytest.mark.parametrize("name", ["layer_stack", "layer_stack nested", "name_scope"])
def test_it_is_kept_in_a_file(name, tmp_path):
    mup = capture(STRUCTURES[name], mup=completep(0.75))
    mup.save(tmp_path / "base.json")
    again = haiku_mup.Mup.load(tmp_path / "base.json")
    assert again._declarations.parametrization == maximal_update(depth_alpha=0.75)
    assert again.state_dict() == mup.state_dict()
    with again.init_target():
        jax.eval_shape(model(STRUCTURES[name], *TARGET).init, KEY, X)
    assert again.table() == mup.table() and again._target.branches == mup._target.branches


def earlier(state):
    """The file as the version before wrote it, which kept no depth."""
    from haiku_mup.serialization import state_dict as store

    state = json.loads(json.dumps(state))
    new = "stacks", "crc"
    parameters = {name: store.with_checksum({key: value for key, value in values.items() if key not in new})
                  for name, values in state.pop("parameters").items()}
    state.pop("crc")
    for key in ("depth_alpha", "block"):
        del state["parametrization"][key]
    return store.with_checksum(state) | {"parameters": parameters}


def test_an_earlier_file_loads_and_says_that_it_does_not_know_the_depth():
    make, x = MODELS["mlp"]
    again = haiku_mup.Mup.from_state_dict(earlier(captured(make, x).state_dict()))
    assert again.state_dict() == captured(make, x).state_dict()
    make, x = MODELS["stack"]
    again = haiku_mup.Mup.from_state_dict(earlier(captured(make, x).state_dict()))
    with pytest.warns(haiku_mup.MupWarning, match="didn't keep how many.*save the base"), again.init_target():
        jax.eval_shape(make(32).init, KEY, x)
    assert [row.depth for row in again.table()] == [1.0] * len(again.table())


@pytest.mark.parametrize("stacks", [[-1], ["x"], 3, [1.5]])
def test_a_file_with_stacks_that_are_none_is_refused(stacks):
    from haiku_mup.serialization import state_dict as store

    state = captured(*MODELS["stack"]).state_dict()
    name = next(iter(state["parameters"]))
    values = dict(state["parameters"][name], stacks=stacks)
    del values["crc"]
    state["parameters"] = state["parameters"] | {name: store.with_checksum(values)}
    with pytest.raises(haiku_mup.MupError, match="stacks is"):
        haiku_mup.Mup.from_state_dict(state)
