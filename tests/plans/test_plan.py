"""`plan` on trees of all kinds: names, roles and factors, errors and their remedies, initial values, files."""
import copy
import pickle
import subprocess
import sys
import warnings
import zlib
from typing import Any, NamedTuple

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import haiku_mup
from haiku_mup.parameters.tree_paths import named_paths
from haiku_mup.tracing.jax_internals import no_trace_state, trace_state

KEY = jax.random.key(0)


def normal(name, shape, std=None):
    """Returns a draw that depends on its name and shape; of NumPy's, for which nothing is compiled."""
    draw = np.random.default_rng(zlib.crc32(f"{name}{shape}".encode())).normal(size=shape)
    return jnp.asarray(draw * (shape[0]**-0.5 if std is None else std), "float32")


def mlp(width, other=None, classes=3):
    """Returns parameters of uneven widths: in -> width -> other -> classes; weights are (in, out)."""
    other = 2 * width if other is None else other
    return {"first": {"w": normal("first", (5, width)), "b": jnp.zeros(width)},
            "second": {"w": normal("second", (width, other)), "b": jnp.zeros(other)},
            "out": {"w": normal("out", (other, classes)), "b": jnp.zeros(classes)}}


AXES = {"*.w": (0, 1)}


def mlp_plan(base, target, **more):
    return haiku_mup.plan(base, target, fans=AXES, **{"readouts": "out.w", **more})


# --- names ---

class Layer(NamedTuple):
    query: Any
    value: Any


def test_paths_are_as_one_writes_them():
    tree = {"layers": [{"weight": 1, "bias": None}], "pair": Layer(2, (3, 4)), "mlp/~/linear": {"w": 5}}
    assert [name for name, _ in named_paths(tree)] == [
        "layers[0].weight", "mlp/~/linear.w", "pair.query", "pair.value[0]", "pair.value[1]"]


def test_globs_take_brackets_as_they_are():
    def params(width):
        return {"layers": [normal(str(i), (width, width)) for i in range(12)]}

    fans = {"layers[1].*": (0, 1)}
    with pytest.raises(haiku_mup.MupError, match="matches the name of no parameter"):
        haiku_mup.plan(params(4), params(8), fans=fans)
    fans = {"layers[?]": (0, 1), "layers[1?]": (1, 0)}
    rows = haiku_mup.plan(params(4), params(8), fans=fans).table()
    assert {row.role for row in rows} == {"hidden"} and not any(row.inferred for row in rows)


# --- one implementation ---

def layers(x, width, readout):
    for size in (width, 2 * width):
        x = jax.nn.relu(hk.Linear(size)(x))
    return readout(3, name="readout")(x)


def haiku_mlp(width):
    def fn(x):
        with haiku_mup.apply_mup():
            return layers(x, width, haiku_mup.Readout)

    return hk.transform(fn)


def both(parametrization, base=8, target=32):
    """Returns a Mup and the plan of the same parameters."""
    x, models = jnp.ones((2, 5)), [haiku_mlp(base), haiku_mlp(target)]
    mup = haiku_mup.Mup(parametrization=parametrization)
    with mup.init_base():
        jax.eval_shape(models[0].init, KEY, x)
    with mup.init_target():
        jax.eval_shape(models[1].init, KEY, x)
    trees = [model.init(KEY, x) for model in models]
    plan = haiku_mup.plan(*trees, fans={"*.w": (0, 1)}, readouts="readout.w", stds={"*.w": "fan_in"},
                          parametrization=parametrization)
    return mup, plan, trees, models


FORMS = [haiku_mup.maximal_update(form) for form in ("table8", "table3", "table9", "mean_field")]


@pytest.mark.parametrize("form", FORMS, ids=lambda form: form.name)
def test_a_plan_has_the_factors_of_a_mup(form):
    mup, plan, (_, tree), models = both(form)
    ours, theirs = ({row.name.replace(".", "/"): row for row in each.table()} for each in (plan, mup))
    for name, row in theirs.items():
        same = ("role", "multiplier", "adam_lr", "sgd_lr", "base_shape", "target_shape")
        assert [getattr(row, a) for a in same] == [getattr(ours[name], a) for a in same]
    for adam in (True, False):
        assert plan.lr_scales(adam) == mup.lr_scales(adam)
    rescaled = plan.rescaled(tree)
    with mup.init_target():
        drawn = models[1].init(KEY, jnp.ones((2, 5)))
    for ours, theirs in zip(jax.tree.leaves(rescaled), jax.tree.leaves(drawn)):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5)
    logits = mup.wrap_model(models[1]).apply(drawn, None, jnp.ones((2, 5)))
    plain = hk.transform(lambda x: layers(x, 32, hk.Linear))
    ours = plain.apply(plan.multiplied(rescaled), None, jnp.ones((2, 5)))
    np.testing.assert_allclose(ours, logits, rtol=2e-5)


RULES = [(optax.sgd(0.1, momentum=0.9), {"adam": False}), (optax.adamw(0.1, weight_decay=0.1), {}),
         (optax.adam(0.1), {"scale_eps": True}), (optax.lamb(0.1, weight_decay=0.0), {"rule": "lamb"}),
         (optax.lion(0.1), {}), (optax.contrib.muon(0.1), {"rule": "muon"})]


@pytest.mark.parametrize("optimizer, options", RULES)
def test_optimizers_make_the_updates_of_a_mups(optimizer, options):
    mup, plan, (_, tree), _ = both(haiku_mup.maximal_update())
    if options.get("rule") == "muon":
        optimizer = optax.contrib.muon(0.1, muon_weight_dimension_numbers=mup.muon_dimensions)
        assert plan.muon_dimensions(tree) == mup.muon_dimensions(tree)
    plan.multiplied(tree)
    found = []
    for each in (mup, plan):
        wrapped = each.wrap_optimizer(optimizer, **options)
        state, params = wrapped.init(tree), tree
        for _ in range(2):
            grads = jax.tree.map(lambda x: jnp.sin(x + 1), params)
            updates, state = wrapped.update(grads, state, params)
            params = optax.apply_updates(params, updates)
        found.append(params)
    for a, b in zip(*map(jax.tree.leaves, found)):
        np.testing.assert_array_equal(a, b)


def test_a_rule_that_does_not_fit_warns_by_the_path():
    plan = mlp_plan(mlp(8), mlp(32))
    with pytest.warns(haiku_mup.MupWarning, match="pass adam=False"):
        plan.wrap_optimizer(optax.sgd(0.1))
    parts = optax.partition({"a": optax.adam(0.1), "s": optax.sgd(0.1)}, lambda tree: {
        name: dict.fromkeys(leaves, "s" if name == "second" else "a") for name, leaves in tree.items()})
    with pytest.warns(haiku_mup.MupWarning, match=r"for 'second\.[bw]', behaves like SGD"):
        plan.wrap_optimizer(parts)


def test_masked_and_frozen_leaves_and_unknown_ones():
    plan, tree = mlp_plan(mlp(8), mlp(32)), mlp(32)
    plan.multiplied(tree)
    mask = jax.tree.map(lambda x: x.ndim == 2, tree)
    optimizer = optax.masked(plan.wrap_optimizer(optax.sgd(1.0), adam=False), mask)
    updates, _ = optimizer.update(tree, optimizer.init(tree), tree)
    np.testing.assert_allclose(updates["second"]["w"], -tree["second"]["w"])        # m_out / m_in is 1
    np.testing.assert_allclose(updates["out"]["w"], -4 * tree["out"]["w"])
    part = {"out": {"w": tree["out"]["w"], "b": None}}
    inner = plan.wrap_optimizer(optax.adam(1.0))
    inner.init(part)
    with pytest.raises(haiku_mup.MupError, match=r"'other\.w': not among the target's parameters.*plan"):
        inner.init({"other": {"w": jnp.ones(3)}})
    with pytest.raises(haiku_mup.MupError, match="make a plan for this width"):
        inner.init(mlp(16))
    with pytest.raises(haiku_mup.MupError, match="is wrapped already"):
        plan.wrap_optimizer(inner)


# --- errors, and what they say to do ---

def test_what_is_unknown_raises_with_the_line_to_add():
    base, target = mlp(8), mlp(32)
    with pytest.raises(haiku_mup.MupError) as caught:
        haiku_mup.plan(base, target)
    text = str(caught.value)
    assert all(f"'{name}.w': base" in text for name in ("first", "second", "out"))
    line = "haiku_mup.plan(fans={'second.w': (0, 1)})"
    assert line in text and "'first.b'" not in text
    fans = {f"{name}.w": (0, 1) for name in ("first", "second", "out")}
    with pytest.raises(haiku_mup.MupError, match=r"'out\.w'.*haiku_mup.plan\(readouts='out\.w'\)"):
        haiku_mup.plan(base, target, fans=fans)
    assert haiku_mup.plan(base, target, fans=fans, readouts="out.w").table()[2].role == "fixed"


def test_all_that_is_wrong_is_in_one_error():
    base = {"a": normal("a", (8, 3)), "b": normal("b", (8, 4))}
    target = {"a": normal("a", (16, 3)), "b": normal("b", (16, 4))}
    with pytest.raises(haiku_mup.MupError) as caught:
        haiku_mup.plan(base, target, fans={"*": (0, 1)})
    assert "'a': base (8, 3), target (16, 3)" in str(caught.value) and "'b': base" in str(caught.value)


@pytest.mark.parametrize("arguments, text", [
    ({"readouts": ["out.w", "second.w"]}, r"'second\.w'.*is a hidden layer"),
    ({"readouts": ["out.w", "first.w"]}, r"'first\.w'.*fan-in doesn't grow"),
    ({"readouts": "nosuch"}, "'nosuch' matches the name of no parameter"),
    ({"readouts": "out"}, "'out' matches the name of no parameter; inside it there are out.b, out.w"),
    ({"stacks": {"*.w": 3}}, "has no 3 axes in front"),
    ({"stds": {"*.w": "kaiming"}}, "'fan_in'"),
    ({"attention": {"*.w": 0.5}}, "attention"),
    ({"finite": {"nosuch": "in"}}, "nosuch"),
    ({"lr_mults": {"nosuch": 2.0}}, "nosuch"),
    ({"tied": "second.w"}, r"tied table.*haiku_mup.plan\(fans=")])
def test_wrong_arguments_raise(arguments, text):
    with pytest.raises(haiku_mup.MupError, match=text):
        mlp_plan(mlp(8), mlp(32), **arguments)


def test_trees_that_differ_raise():
    target = mlp(32)
    del target["first"]["b"]
    with pytest.raises(haiku_mup.MupError, match=r"'first\.b': the base has it, and the target has not"):
        mlp_plan(mlp(8), target)
    with pytest.raises(haiku_mup.MupError, match="has no arrays"):
        haiku_mup.plan({}, {})
    target = {**mlp(32), "second": {"w": jnp.ones((4, 32, 64)), "b": jnp.zeros(64)}}
    with pytest.raises(haiku_mup.MupError, match="rank differs"):
        mlp_plan(mlp(8), target)


def test_a_delta_tells_widths_that_do_not_grow_here():
    base = mlp(8)
    assert {row.role for row in mlp_plan(base, base).table()} == {"fixed"}
    rows = {row.name: row.role for row in mlp_plan(base, base, delta=mlp(16)).table()}
    assert (rows["first.w"], rows["second.w"], rows["out.w"]) == ("input", "hidden", "output")
    with pytest.raises(haiku_mup.MupError, match="give a delta that differs"):
        mlp_plan(base, mlp(32), delta=mlp(16, other=16))


def test_finite_axes_and_integers():
    def params(width, features):
        return {"w": normal("w", (features, width)), "positions": jnp.arange(width)}

    with_more = params(32, 7)
    plan = haiku_mup.plan(params(8, 5), with_more, fans={"w": (0, 1)}, finite={"w": "in"})
    assert [(row.name, row.role) for row in plan.table()] == [("positions", "fixed"), ("w", "input")]
    plan.wrap_optimizer(optax.sgd(1.0), adam=False)


def test_stacks_are_no_widths():
    def params(width, layers=2):
        return {"w": normal("w", (layers, width, width), width**-0.5), "b": jnp.zeros((layers, width))}

    plan = haiku_mup.plan(params(4), params(16), fans={"w": (0, 1)}, stacks={"*": 1})
    assert [(row.role, row.adam_lr, row.target_shape) for row in plan.table()] == [
        ("input", 1.0, (16,)), ("hidden", 0.25, (16, 16))]
    with pytest.raises(haiku_mup.MupError, match="give the base as many layers"):
        haiku_mup.plan(params(4), params(16, layers=3), fans={"w": (0, 1)}, stacks={"*": 1})
    assert plan.rescaled(params(16))["w"].shape == (2, 16, 16)


def test_linens_collections_beside_parameters_raise():
    def variables(width):
        return {"params": mlp(width), "batch_stats": {"mean": jnp.zeros(width)}}

    with pytest.raises(haiku_mup.MupError, match=r"give variables\['params'\]"):
        haiku_mup.plan(variables(8), variables(32), fans=AXES)


# --- initial values ---

def test_at_equal_widths_everything_is_bit_for_bit():
    base, again = mlp(8), mlp(8)
    again["first"]["w"] = again["first"]["w"] * 1.02        # another draw: its std differs by chance
    plan = mlp_plan(base, again, delta=mlp(16))
    for tree in (plan.rescaled(again), plan.multiplied(again)):
        assert all(a is b for a, b in zip(jax.tree.leaves(tree), jax.tree.leaves(again)))
    wrapped, plain = plan.wrap_optimizer(optax.adam(0.1)), optax.adam(0.1)
    (a, _), (b, _) = (each.update(again, each.init(again), again) for each in (wrapped, plain))
    assert all((x == y).all() for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b)))


@pytest.mark.parametrize("std, factor", [("fan_in", 1.0), ("constant", 0.5), (0.02, 0.5), ("fan_out", 1.0)])
def test_declared_stds_are_exact(std, factor):
    base, target = mlp(16), mlp(64)
    plan = mlp_plan(base, target, stds={"second.w": std})
    target["second"]["w"] = normal("x", (64, 128), plan.table()[5].base_std * (
        1.0 if factor == 0.5 else 0.5))
    found = plan.rescaled(target)["second"]["w"] / target["second"]["w"]
    np.testing.assert_allclose(found, factor, rtol=1e-6)


def test_measured_stds_are_as_exact_as_the_docstring_says():
    """1 / √(2n) each, in five standard errors; and an initializer of another law fails the same bound."""
    base, target = mlp(32), mlp(128)
    sizes = base["second"]["w"].size, target["second"]["w"].size
    bound = 5 * sum((2 * n)**-0.5 for n in sizes)
    factor = np.asarray(mlp_plan(base, target).rescaled(target)["second"]["w"] / target["second"]["w"]).mean()
    assert 0 < abs(factor - 1) < bound < abs(0.5 - 1)


def test_initializers_draw_anew_where_a_key_is_given():
    init = jax.nn.initializers.lecun_normal()
    base = mlp(16)
    shapes = jax.eval_shape(lambda: mlp(64))
    with pytest.raises(haiku_mup.MupError, match="is a shape"):
        mlp_plan(base, shapes).rescaled(shapes)
    plan = mlp_plan(base, mlp(64), stds={"*.w": init})
    tree = {name: {"w": shapes[name]["w"], "b": jnp.zeros(shapes[name]["b"].shape)} for name in shapes}
    drawn = plan.rescaled(tree, key=KEY)
    assert drawn["second"]["w"].shape == (64, 128)
    np.testing.assert_allclose(drawn["second"]["w"].std(), 64**-0.5, rtol=0.05)
    again = plan.rescaled(tree, key=jax.random.key(1))
    assert (again["out"]["w"] != drawn["out"]["w"]).all()


def test_shapes_alone_have_factors_but_no_draws():
    shapes = [jax.eval_shape(lambda width=width: mlp(width)) for width in (8, 32)]
    plan = mlp_plan(*shapes)
    assert plan.lr_scales()["second"]["w"] == 0.25 and "–" in plan.summary()
    with pytest.raises(haiku_mup.MupError, match=r"plan\(stds="):
        plan.rescaled(mlp(32))
    exact = mlp_plan(*shapes, stds={"*.w": "fan_in", "*.b": 0})
    assert exact.rescaled(mlp(32))["out"]["w"].shape == (64, 3)


def test_rescaling_twice_raises():
    base = jax.tree.map(lambda x: 3 * x, mlp(16))
    plan, target = mlp_plan(base, mlp(64)), mlp(64)
    once = plan.rescaled(target)
    with pytest.raises(haiku_mup.MupError, match="rescaled already"):
        plan.rescaled(once)


def test_a_hidden_weight_with_a_mean_raises():
    target = mlp(32)
    target["second"]["w"] += 1.0
    with pytest.raises(haiku_mup.MupError, match=r"'second\.w'.*initialised with mean"):
        mlp_plan(mlp(8), target)


# --- the forward pass ---

def test_what_nothing_asked_for_is_told():
    plan, tree = mlp_plan(mlp(8), mlp(32)), mlp(32)
    optimizer = plan.wrap_optimizer(optax.adam(0.1))
    state = optimizer.init(tree)
    with pytest.warns(haiku_mup.MupWarning, match=r"'out\.w'.*nothing has asked for its forward multiplier"):
        optimizer.update(tree, state, tree)
    optimizer.update(tree, state, tree)             # once
    with pytest.raises(haiku_mup.MupError, match=r"plan.multiplied\(params\)"):
        plan.check_asked()
    plan.multiplied(tree)
    plan.check_asked()


def test_a_factor_that_acts_twice_is_told():
    plan, tree, x = mlp_plan(mlp(8), mlp(32)), mlp(32), jnp.ones((1, 64))

    def on_the_weight(tree, x):
        return x @ plan.multiplied(tree)["out"]["w"]

    def on_the_inputs(tree, x):
        return plan.readout(x, "out.w") @ tree["out"]["w"]

    once = jax.eval_shape(on_the_weight, tree, x)
    with pytest.warns(haiku_mup.MupWarning, match="in one forward pass its factor would act twice"):
        assert jax.eval_shape(on_the_inputs, tree, x) == once       # each by itself is right
    with pytest.raises(haiku_mup.MupError, match="act twice; leave one of them out"):
        jax.eval_shape(lambda tree, x: on_the_inputs(plan.multiplied(tree), x), tree, x)


def test_the_state_of_no_trace_is_the_same_where_a_trace_asks_first():
    found = []

    def asks(x):
        found.extend([no_trace_state(), trace_state()])
        return x

    no_trace_state.cache_clear()
    jax.eval_shape(asks, 1.0)
    assert found[0] == trace_state() != found[1]


def test_what_was_asked_outlives_the_plan_that_was_asked_first():
    first, second = mlp_plan(mlp(8), mlp(44)), mlp_plan(mlp(8), mlp(44))
    first.multiplied(mlp(44))
    copied = pickle.loads(pickle.dumps(second))
    del first
    for each in (second, copied):
        each.check_asked()


def test_equal_plans_share_what_was_asked_as_they_share_traces():
    first, second, other = mlp_plan(mlp(8), mlp(40)), mlp_plan(mlp(8), mlp(40)), mlp_plan(mlp(8), mlp(48))
    assert first == second and hash(first) == hash(second) and first != other

    @jax.jit
    def loss(tree, x):
        return plan.readout(x, "out.w") @ tree["out"]["w"]

    plan = first
    loss(mlp(40), jnp.ones((1, 80)))
    second.check_asked()
    with pytest.raises(haiku_mup.MupError):
        other.check_asked()


def test_a_tied_table():
    def params(width):
        return {"table": normal("table", (11, width), 0.02), "w": normal("w", (width, width))}

    plan = haiku_mup.plan(params(8), params(32), fans={"table": ((), 1, 0), "w": (0, 1)}, tied="table")
    tree = params(32)
    row = plan.table()[0]
    assert (row.role, row.multiplier, row.adam_lr, row.sgd_lr) == ("input", 0.25, 1.0, 4.0)
    assert plan.multiplied(tree)["table"] is tree["table"]          # it is looked up as it is
    with pytest.raises(haiku_mup.MupError, match="table"):
        plan.check_asked()
    np.testing.assert_allclose(plan.readout(jnp.ones(32), "table"), 0.25)
    plan.check_asked()


def test_attention():
    def params(width):
        return {"query": {"w": normal("q", (width, 2, width // 2)), "b": jnp.zeros((2, width // 2))}}

    fans = {"*.w": (0, (1, 2)), "*.b": ((), (0, 1))}
    plan = haiku_mup.plan(params(8), params(32), fans=fans, attention={"query.*": -1})
    assert plan.multiplier("query.w") == plan.multiplier("query.b") == 0.5
    assert plan.attention_scale(16, base_key_size=4) == 1 / 16 * 4**0.5
    flat = haiku_mup.plan(params(8), params(32), fans=fans, attention={"query.*": (4, 4)})
    assert flat.multiplier("query.w") == 1.0


def test_unknown_paths_raise():
    with pytest.raises(haiku_mup.MupError, match=r"'out\.weight': no parameter; there are out\.w"):
        mlp_plan(mlp(8), mlp(32)).multiplier("out.weight")


# --- files ---

def test_a_saved_base_gives_the_plan_again(tmp_path):
    base, target = mlp(8), mlp(32)
    plan = mlp_plan(base, target, lr_mults={"first.*": 2.0}, parametrization=haiku_mup.maximal_update("table9"))
    plan.save(tmp_path / "base.json")
    again = haiku_mup.Plan.load(tmp_path / "base.json", target)
    assert again == plan and again.summary() == plan.summary()
    with pytest.raises(haiku_mup.MupError, match="no plan's"):
        mup = both(haiku_mup.maximal_update())[0]
        mup.save(tmp_path / "mup.json")
        haiku_mup.Plan.load(tmp_path / "mup.json", target)
    with pytest.raises(haiku_mup.MupError, match="of haiku_mup.plan"):
        haiku_mup.Mup.load(tmp_path / "base.json")


def test_the_summary_names_draws_that_few_entries_tell():
    def tree(width, std=1.0):
        return {"start": normal("start", (width,)) * std, "w": normal("w", (width, 2000)) * std}

    plan = haiku_mup.plan(tree(8), tree(32), fans={"w": ((), 0, 1)})
    assert plan.summary().endswith(
        "\nThe std of 'start' is measured on few entries, and the factor of its draw known to 28%; where that "
        "matters, declare it: haiku_mup.plan(stds={'start': 'constant'}), 'fan_in', or its initializer")
    exact = haiku_mup.plan(tree(8), tree(32), fans={"w": ((), 0, 1)}, stds={"start": "constant"})
    assert "start" in exact.summary() and "few entries" not in exact.summary()


def test_a_plan_is_copied():
    plan = mlp_plan(mlp(8), mlp(32))
    assert copy.copy(plan) == plan
    assert pickle.loads(pickle.dumps(plan)) == plan


def test_imports_neither_flax_nor_equinox():
    """Haiku itself imports Flax where it is installed, so neither can be here."""
    code = ("import sys\n"
            "sys.modules.update(flax=None, equinox=None)\n"
            "import haiku_mup\n"
            "[getattr(haiku_mup, name) for name in haiku_mup.__all__]")
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_nothing_warns_where_nothing_is_wrong():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        plan = mlp_plan(mlp(8), mlp(32))
        tree = plan.rescaled(mlp(32))
        optimizer = haiku_mup.adamw(plan, 1e-3)
        grads = jax.grad(lambda tree: jnp.sum(plan.multiplied(tree)["out"]["w"]))(tree)
        optimizer.update(grads, optimizer.init(tree), tree)
