"""On 8 devices a wrapped model and its optimizer send and keep what the plain ones do, and draw as on one."""
import json
import os
import pathlib
import subprocess
import sys

import haiku as hk
import jax
import jax.numpy as jnp
import optax
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from small_models import KEY, MODELS, captured

import haiku_mup

ROOT = pathlib.Path(__file__).parents[2]
FLAGS = "--xla_force_host_platform_device_count=8 --xla_backend_optimization_level=0"
SHARDED = ("data", "full", "tensor", "layers", "tensor-table9", "full-lstm", "data-explicit",
           "columns-explicit")
ALL = "state", "out", "kept", "forward", "update", "step"


def found(*cases):
    """What `sharding_program.py` prints of cases, in a process that has 8 devices."""
    command = [sys.executable, "-W", "error", ROOT / "tests" / "support" / "sharding_program.py", *cases]
    done = subprocess.run(command, cwd=ROOT, env={**os.environ, "XLA_FLAGS": FLAGS, "PYTHONPATH": str(ROOT)},
                          capture_output=True, text=True, encoding="utf-8", check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout)


def check(case, explicit=False, alike=ALL):
    """The wrapped side is the plain one, but for its numbers; the collectives of an update that isn't.

    Inside of a mesh of explicit axes JAX traces draws otherwise, and XLA may round their last bit otherwise.
    """
    plain, wrapped = case["plain"], case["wrapped"]
    for side in (plain, wrapped):
        assert side["draws"] == {"equal": True, "sharded": True, "other": False}
        assert side["inside"] or explicit
        assert side["apart"] < 1e-4         # float32, added up in another order
    for what in alike:
        assert wrapped[what] == plain[what], what
    assert plain["update"] == {} and sum(plain["step"].values()) > 0
    return case["wrong"]["update"]


@pytest.mark.slow
def test_a_tensor_parallel_step():
    assert check(found("tensor-mlp")["tensor-mlp"]) != {}       # and so the comparison is not blind


@pytest.mark.slow
@pytest.mark.parametrize("name", SHARDED)
def test_a_sharded_step(name):
    case = found(name)[name]
    gathered = check(case, explicit="explicit" in name)
    assert (gathered == {}) == name.startswith("data")          # where all is in one place already
    assert case["wrapped"]["kept"] or name == "layers"          # where XLA moves some, plain or wrapped


@pytest.mark.slow
def test_a_form_that_multiplies_in_the_forward_pass():
    """Queries, keys and values have inputs of their own there, x times a factor: XLA gathers one by one."""
    case = found("full-abcd")["full-abcd"]
    check(case, alike=("state", "out", "kept", "update"))
    plain, wrapped = case["plain"]["forward"], case["wrapped"]["forward"]
    assert wrapped == {**plain, "all-gather": plain["all-gather"] + 2}


@pytest.mark.slow
def test_an_orthogonal_matrix_is_drawn_as_the_plain_model_draws_it():
    """Whether that is as on one device depends on how XLA decomposes a matrix that is spread over several."""
    case = found("orthogonal")["orthogonal"]
    plain, wrapped = case["plain"], case["wrapped"]
    assert plain["draws"]["equal"] == wrapped["draws"]["equal"]
    assert all(wrapped[what] == plain[what] for what in ALL)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["by-hand", "by-hand-unchecked"])
def test_a_step_in_shard_map(name):
    case = found(name)[name]
    plain, wrapped = case["plain"], case["wrapped"]
    assert wrapped["step"] == plain["step"] != {}
    assert max(plain["apart"], wrapped["apart"]) < 1e-4


@pytest.mark.slow
def test_an_update_of_shards_in_shard_map():
    case = found("of-shards")["of-shards"]
    assert case["step"] == {} and case["apart"] < 1e-6


@pytest.mark.slow
def test_a_step_that_leaves_explicit_axes():
    case = found("left")["left"]
    plain, wrapped = case["plain"], case["wrapped"]
    assert all(wrapped[what] == plain[what] for what in ("step", "out"))
    assert wrapped["kept"] and max(plain["apart"], wrapped["apart"]) < 1e-4


# --- on one device ---

def looked_up(layer):
    """What an embedding makes of ids that are sharded, in a mesh of one explicit axis."""
    ids = jnp.arange(6).reshape(2, 3)
    model = hk.without_apply_rng(hk.transform(lambda ids: layer(7, 4)(ids)))
    params = model.init(KEY, ids)
    mesh = jax.make_mesh((1,), ("data",), axis_types=(AxisType.Explicit,))
    with jax.set_mesh(mesh):
        placed = jax.device_put((params, ids), (NamedSharding(mesh, PartitionSpec()),
                                                NamedSharding(mesh, PartitionSpec("data"))))
        rows = jax.jit(model.apply)(*placed)
    return jax.typeof(rows).sharding.spec, bool((rows == model.apply(params, ids)).all())


def test_a_shared_embedding_looks_up_explicitly_sharded_ids():
    assert looked_up(haiku_mup.SharedEmbed) == (PartitionSpec("data", None, None), True)
    with pytest.raises(Exception, match="out_sharding"):        # Haiku's own can't be told
        looked_up(hk.Embed)


@pytest.mark.parametrize("rule", ["adam", "sgd", "lamb"])
def test_optax_knows_which_of_the_state_are_parameters(rule):
    make, x = MODELS["mlp"]
    plain = {"adam": optax.adamw(0.1), "sgd": optax.sgd(0.1, 0.9), "lamb": optax.lamb(0.1)}[rule]
    wrapped = captured(make, x).wrap_optimizer(plain, rule=rule)
    params = jax.eval_shape(make(32).init, KEY, x)
    names = hk.data_structures.map(lambda module, name, x: f"{module}/{name}", params)
    specs = [optax.tree_map_params(optimizer, lambda x, name: f"{name} {x.shape}", jax.eval_shape(
        optimizer.init, params), names, transform_non_params=lambda x: None) for optimizer in (plain, wrapped)]
    assert specs[0] == specs[1] and "readout/w (32, 3)" in jax.tree.leaves(specs[1])
