"""Follows what the messages about plans propose: then nothing raises, and factors are those of μP."""
import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import haiku_mup
from haiku_mup.coordinates.pairs import Pair

X = np.ones((2, 5), np.float32)


def draw(*shape, std=None):
    """Returns a draw of NumPy's, for which nothing is compiled."""
    return np.random.default_rng(sum(shape)).normal(
        size=shape).astype("float32") * (shape[0]**-0.5 if std is None else std)


def params(width):
    return {"first": draw(5, width), "second": draw(width, width), "out": draw(width, 3)}


FANS = {"*": (0, 1)}


def plan_of(make=params, widths=(8, 32), **more):
    return haiku_mup.plan(*map(make, widths), **{"fans": FANS, "readouts": "out", **more})


def refused(text, function, *args, **kwargs):
    with pytest.raises(haiku_mup.MupError, match=text) as caught:
        function(*args, **kwargs)
    return str(caught.value)


def test_arguments_are_given_in_the_form_that_is_named():
    refused("fans: 3: give", plan_of, fans=3)
    assert plan_of(fans=[FANS]) == plan_of()
    refused("stds: .*: give {glob over paths: std}", plan_of, stds=[0.1])
    refused("give a number, one of", plan_of, stds={"second": "kaiming"})
    for std in (0.1, "fan_in", jax.nn.initializers.lecun_normal()):
        plan_of(stds={"second": std})
    refused("stds: 'second': several globs", plan_of, stds={"second": 0.1, "s*": 0.2})
    refused("give how many axes in front", plan_of, stacks={"*": -1})
    refused("stacks: 'first': several globs match it, and differ", plan_of, stacks={"*": 0, "first": 1})
    refused("give the axis that is the key size, or the key sizes", plan_of, attention={"second": 0.5})
    assert plan_of(attention={"second": -1}).multiplier("second") == 0.5
    assert plan_of(attention={"second": (8, 32)}).multiplier("second") == 0.5


def stacked(width, layers=2):
    return {"w": draw(layers, width, width, std=width**-0.5), "out": draw(width, 3)}


def test_stacks_are_in_front_and_of_one_number():
    more = {"fans": {"w": (0, 1), "out": (0, 1)}, "stacks": {"w": 1}}
    refused("has no 4 axes in front", plan_of, stacked, **more | {"stacks": {"w": 4}})
    text = refused("give the base as many layers", haiku_mup.plan, stacked(8), stacked(32, 3), readouts="out",
                   **more)
    assert "put it in front" in text
    assert plan_of(stacked, **more).lr_scales()["w"] == 0.25


def test_trees_of_one_structure():
    target = params(32)
    base = {name: x for name, x in params(8).items() if name != "second"}
    refused("the target has it, and the base has not; build both by one function", haiku_mup.plan, base, target,
            fans=FANS, readouts="out")
    refused("the delta's rank differs; build all by one function", plan_of,
            delta={**params(16), "second": draw(16, 16, 16)})
    assert plan_of(delta=params(16)).lr_scales() == plan_of().lr_scales()
    refused("has no arrays: give a tree of arrays", haiku_mup.plan, {"f": len}, {"f": len})
    shapes = [jax.eval_shape(functools.partial(params, width)) for width in (8, 32)]
    assert haiku_mup.plan(*shapes, fans=FANS, readouts="out").lr_scales() == plan_of().lr_scales()


def test_each_line_of_axes_that_is_proposed_is_taken():
    text = refused("nothing says which axes are fan-in and fan-out", haiku_mup.plan, params(8), params(32))
    lines = [line for line in re.findall(r"haiku_mup\.plan\((fans=\{'second': .*?\})\)", text)]
    assert len(lines) == 4                      # [in, out], [out, in], a table, a bias
    roles = []
    for line in lines:
        fans = eval(f"dict({line})")["fans"]
        plan = plan_of(fans={"first": (0, 1), "out": (0, 1), **fans})
        roles.append(next(row.role for row in plan.table() if row.name == "second"))
    assert roles == ["hidden", "hidden", "input", "input"]


def test_initial_values_are_those_of_the_plan():
    plan, tree = plan_of(), params(32)
    refused("'first': not in the tree; give the target's parameters", plan.rescaled, {})
    refused("give it the target's parameters", plan.rescaled, params(8))
    assert plan.rescaled(tree)["second"].shape == (32, 32)
    constant = plan_of(lambda width: {**params(width), "second": draw(width, width, std=0.1)})
    drawn = {**tree, "second": draw(32, 32, std=0.1)}
    refused("give it as its initializer draws it", constant.rescaled, constant.rescaled(drawn))
    shapes = jax.eval_shape(lambda: tree)
    text = refused("is a shape; give its array; or key=", plan.rescaled, shapes)
    glob = text.partition("stds={'")[2].partition("'")[0]
    assert glob == "first"
    drawn = plan_of(stds={"*": jax.nn.initializers.lecun_normal()}).rescaled(shapes, key=jax.random.key(0))
    assert abs(float(drawn["second"].std()) - 32**-0.5) < 0.1 * 32**-0.5
    unknown = haiku_mup.plan(*(jax.eval_shape(functools.partial(params, w)) for w in (8, 32)), fans=FANS,
                             readouts="out")
    text = refused(r"declare it: haiku_mup.plan\(stds=\{'first': 'fan_in'\}\)", unknown.rescaled, tree)
    declared = haiku_mup.plan(*(jax.eval_shape(functools.partial(params, w)) for w in (8, 32)), fans=FANS,
                              readouts="out", stds={"*": "fan_in"})
    assert np.allclose(declared.rescaled(tree)["second"], tree["second"])


def test_what_multiplies_the_forward_pass_is_one_of_two():
    for use in (lambda plan: plan.multiplied(params(40)), lambda plan: plan.readout(jnp.ones(40), "out")):
        plan = plan_of(widths=(8, 40), lr_mults={"out": 2.0 + id(use) % 97})    # equal to no other test's
        text = refused("compute the loss with plan.multiplied.params., or give the layer plan.readout",
                       plan.check_asked)
        assert "plan.readout(x, 'out')" in text
        use(plan)
        plan.check_asked()


def test_a_file_is_read_by_what_wrote_it(tmp_path):
    plan_of().save(tmp_path / "base.json")
    refused("of haiku_mup.plan", haiku_mup.Mup.load, tmp_path / "base.json")
    assert haiku_mup.Plan.load(tmp_path / "base.json", params(32), fans=FANS) == plan_of()


def test_a_pair_with_a_state_returns_two_things():
    def apply(given, rng, x, state):
        return x, state

    refused(r"init\(key\) must return \(params, state\)", Pair(params, apply).draw, 8)
    assert Pair(lambda key: (params(8), {}), apply).draw(8)[1] == {}
    refused(r"it must return \(output, state\)", Pair(params, apply).output, X)
    assert Pair(params, apply).output((X, {}))[1] == {}


# --- Flax ---

def test_modules_of_nnx_are_given_as_they_are():
    nnx = pytest.importorskip("flax.nnx")

    def model(width):
        return nnx.BatchNorm(width, rngs=nnx.Rngs(0))

    base, target = model(8), model(32)
    refused("doesn't tell its layers; give plan the modules", haiku_mup.plan, nnx.state(base, nnx.Param),
            nnx.state(target, nnx.Param), fans=haiku_mup.flax_nnx)
    refused("is a BatchStat, no parameter; give nnx.state", haiku_mup.plan, nnx.state(base), nnx.state(target))
    plan = haiku_mup.plan(base, target, fans=haiku_mup.flax_nnx)
    states = [nnx.state(each, nnx.Param) for each in (base, target)]
    assert haiku_mup.plan(*states).lr_scales(adam=False) == plan.lr_scales(adam=False)
    refused("a module of NNX is changed in place", plan.rescaled, target)
    nnx.update(target, plan.rescaled(nnx.state(target, nnx.Param)))
    refused("with haiku_mup.nnx_multiplied", plan.multiplied, target)
    with haiku_mup.nnx_multiplied(plan, target):
        pass


def test_parameters_alone_of_linen():
    nn = pytest.importorskip("flax.linen")
    refused(r"is no module of Linen; give the model", haiku_mup.flax_linen, {"w": 1})

    def variables(width):
        return {"params": {"scale": np.ones(width)}, "batch_stats": {"mean": np.ones(width)}}

    layer = nn.BatchNorm(use_running_average=True)
    refused(r"give variables\['params'\]", haiku_mup.plan, variables(8), variables(32))
    plan = haiku_mup.plan(*(variables(width)["params"] for width in (8, 32)),
                          fans=haiku_mup.flax_linen(layer, np.ones((2, 8), "float32")))
    assert plan.table()[0].role == "input"
    dense = haiku_mup.flax_linen(nn.Dense(8), X)
    with pytest.raises(haiku_mup.MupError, match="give the parameters as the layer made them"):
        haiku_mup.plan({"kernel": np.ones(8)}, {"kernel": np.ones(32)}, fans=dense)
    haiku_mup.plan(*({"kernel": draw(5, width), "bias": np.zeros(width)} for width in (8, 32)), fans=dense)
