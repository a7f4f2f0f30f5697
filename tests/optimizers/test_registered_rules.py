"""Optimizer rules that are registered from outside: what a user adds for an optimizer of their own."""
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from optimizer_cases import TABLE_8, gap
from small_models import KEY, MODELS, captured, mlp

import haiku_mup
from haiku_mup import optimizer_rules
from haiku_mup.optimizer_rules import Behaviour, Coupling, OptimizerRule, Scales
from haiku_mup.optimizers.mismatch import find_rule

X = MODELS["mlp"][1]
EPS = 1e-5


class ScaleByRootState(NamedTuple):
    trace: optax.Updates


def root_descent(learning_rate, decay=0.5):
    """SGD with momentum on gradients' roots, sign(g) · √|g|: between Adam and SGD, in its own way."""
    def update(updates, state, params=None):
        del params
        trace = jax.tree.map(lambda g, t: decay * t + jnp.sign(g) * jnp.sqrt(jnp.abs(g)), updates, state.trace)
        return trace, ScaleByRootState(trace)

    def init(params):
        return ScaleByRootState(jax.tree.map(jnp.zeros_like, params))

    return optax.chain(optax.GradientTransformation(init, update), optax.scale(-learning_rate))


class ScaleByLargestState(NamedTuple):
    pass


def largest_descent(learning_rate):
    """Sign-SGD, with steps in proportion to the largest entry of each parameter, or at least 1e-3."""
    def update(updates, state, params):
        return jax.tree.map(lambda g, p: jnp.sign(g) * jnp.abs(p).max(initial=1e-3), updates, params), state

    return optax.chain(optax.GradientTransformation(lambda params: ScaleByLargestState(), update),
                       optax.scale(-learning_rate))


def root_scales(growth):
    """Gradient: its entries have size `eps`. Update: of size √eps, where activations need Adam's."""
    s = growth.factors.adam / growth.factors.eps**0.5
    return Scales(update=s, parameter=s)


ROOT = OptimizerRule(name="root", scales=root_scales, like_gradients=True, states={"ScaleByRootState": None},
                     description="takes the root of each gradient")
LARGEST = OptimizerRule(
    name="largest", scales=optimizer_rules.by_norm, coupling=Coupling.PARAMETER, behaviours={Behaviour.BY_NORM},
    states={"ScaleByLargestState": Behaviour.BY_NORM}, description="takes the largest entry of each parameter")
OPTIMIZERS = {"root": root_descent, "largest": largest_descent}


@pytest.fixture
def registered():
    for rule in (ROOT, LARGEST):
        optimizer_rules.register(rule)
    yield
    for rule in (ROOT, LARGEST):
        optimizer_rules.unregister(rule.name)


def of(name, rule, table=TABLE_8, **kwargs):
    optimizer = OPTIMIZERS[name](1e-6)
    return gap(lambda mup: mup.wrap_optimizer(optimizer, rule=rule, **kwargs), optimizer, table)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_an_update_is_that_of_the_base_in_adams_size(name, registered, x64):
    assert of(name, name) < EPS


@pytest.mark.filterwarnings("ignore::haiku_mup.MupWarning")
@pytest.mark.parametrize("name, rule", [
    ("root", "adam"), *(pytest.param(*case, marks=pytest.mark.slow) for case in [
        ("root", "sgd"), ("largest", "adam"), ("largest", "root")])])
def test_with_another_rule_it_is_another(name, rule, registered, x64):
    assert of(name, rule) > 0.02


@pytest.mark.slow
@pytest.mark.parametrize("form", ["table3", "table9", "mean_field"])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_it_is_the_same_in_every_form(name, form, registered, x64):
    assert of(name, name, haiku_mup.maximal_update(form)) < EPS


@pytest.mark.slow
def test_with_scaled_eps_an_entrywise_rule_is_any(registered, x64):
    assert of("root", "root", scale_eps=True) < EPS
    assert optimizer_rules.choose("root", True, scale_eps=True).name == "any"


def test_wrap_optimizer_has_its_factors_and_no_warning(registered):
    params = mlp(32).init(KEY, X)
    grads = jax.tree.map(jnp.ones_like, params)
    plain, wrapped = root_descent(0.1), captured(mlp, X).wrap_optimizer(root_descent(0.1), rule="root")
    found, expected = (o.update(grads, o.init(params), params)[0] for o in (wrapped, plain))
    factors = {"linear/w": 2.0, "linear/b": 2.0, "linear_1/w": 0.5, "linear_1/b": 2.0, "readout/w": 2.0,
               "readout/b": 1.0}
    for name, factor in factors.items():
        module, leaf = name.split("/")
        np.testing.assert_allclose(found[module][leaf], factor * expected[module][leaf], rtol=1e-6)


@pytest.mark.parametrize("name, kwargs, text", [
    ("root", {}, r"adam=True\): .*takes the root of each gradient .*; pass rule='root'"),
    ("root", {"rule": "lamb"}, "takes the root of each gradient .*; pass rule='root'"),
    ("root", {"rule": "largest"}, "takes the root of each gradient .*; pass rule='root'"),
    ("largest", {}, "takes the largest entry of each parameter.*; pass rule='largest'"),
    ("adam", {"rule": "root"}, "behaves like Adam .*; pass rule='adam'"),
    ("adam", {"rule": "largest"}, "behaves like Adam .*; pass rule='adam'"),
])
def test_warnings_know_it(name, kwargs, text, registered):
    with pytest.warns(haiku_mup.MupWarning, match=text):
        captured(mlp, X).wrap_optimizer((OPTIMIZERS | {"adam": optax.adam})[name](0.1), **kwargs)


def test_a_decay_inside_that_its_norm_makes_depend_on_the_width_warns(registered):
    optimizer = optax.chain(optax.add_decayed_weights(0.1), largest_descent(0.1))
    with pytest.warns(haiku_mup.MupWarning, match="decays weights"):
        captured(mlp, X).wrap_optimizer(optimizer, rule="largest")


def test_it_is_found_by_the_names_of_states(registered):
    shapes = jax.eval_shape(mlp(32).init, KEY, X)
    assert [find_rule(make(0.1), shapes) for make in OPTIMIZERS.values()] == [ROOT, LARGEST]


def test_without_its_registered_rule_it_has_a_general_one():
    with pytest.raises(haiku_mup.MupError, match="rule='root': give one of 'adam'"):
        captured(mlp, X).wrap_optimizer(root_descent(0.1), rule="root")
    shapes = jax.eval_shape(mlp(32).init, KEY, X)
    assert find_rule(root_descent(0.1), shapes).name == "any"
    with pytest.warns(haiku_mup.MupWarning, match="between SGD and Adam .*; pass rule='any'"):
        captured(mlp, X).wrap_optimizer(root_descent(0.1))
    with pytest.warns(haiku_mup.MupWarning, match="the parameter's norm.*pass rule='lars'"):
        captured(mlp, X).wrap_optimizer(largest_descent(0.1))


def test_names_are_registered_once():
    with pytest.raises(haiku_mup.MupError, match="there is a rule 'adam' already"):
        optimizer_rules.register(OptimizerRule(name="adam", scales=root_scales, description="is another"))
    with pytest.raises(haiku_mup.MupError, match="no rule 'root'"):
        optimizer_rules.unregister("root")
