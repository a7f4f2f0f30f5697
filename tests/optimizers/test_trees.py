"""Trees of parameters as people make them: frozen ones that are None, and trees of several models."""
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from small_models import KEY, MODELS, captured, mlp

import haiku_mup

X = MODELS["mlp"][1]


@pytest.fixture(scope="module")
def mup():
    return captured(mlp, X)


@pytest.fixture(scope="module")
def params():
    return mlp(32).init(KEY, X)


def one_update(optimizer, params):
    """Returns the first update, at gradients of a tenth of the parameters."""
    grads = jax.tree.map(lambda p: 0.1 * p + 1e-3, params)
    return optimizer.update(grads, optimizer.init(params), params)[0]


def assert_equal(found, expected):
    jax.tree.map(np.testing.assert_array_equal, found, expected)


@pytest.mark.parametrize("make", [optax.adamw, lambda lr: optax.chain(optax.trace(0.9), optax.scale(-lr)),
                                  lambda lr: optax.masked(optax.adam(lr), lambda tree: jax.tree.map(
                                      lambda p: p.ndim > 1, tree))])
def test_none_is_a_frozen_parameter(mup, params, make):
    wrapped = mup.wrap_optimizer(make(1e-2), rule="any")
    whole = one_update(wrapped, params)
    leaf = {**params, "linear_1": {**params["linear_1"], "b": None}}
    assert_equal(one_update(wrapped, leaf), {**whole, "linear_1": {**whole["linear_1"], "b": None}})
    assert_equal(one_update(wrapped, {**params, "linear_1": None}), {**whole, "linear_1": None})


def test_a_rule_is_tried_on_what_is_not_frozen(params):
    with pytest.warns(haiku_mup.MupWarning, match="adam=False"):
        captured(mlp, X).wrap_optimizer(optax.sgd(0.1)).init({**params, "linear": None})


def test_one_mup_serves_trees_in_a_tree(mup, params):
    wrapped = mup.wrap_optimizer(optax.adamw(1e-2))
    both = {"online": params, "copies": {"target": jax.tree.map(lambda p: 2 * p, params)}}
    found, alone = one_update(wrapped, both), one_update(wrapped, params)
    assert_equal(found["online"], alone)
    assert_equal(found["copies"]["target"], one_update(wrapped, both["copies"]["target"]))
    wrong = {"online": {"linear": {"w": jnp.ones((3, 4, 5))}}}
    with pytest.raises(haiku_mup.MupError, match="linear/w.*was given"):
        wrapped.init(wrong)


def test_one_optimizer_over_the_models_of_two_mups():
    actor, critic = captured(mlp, X), captured(mlp, X, 8, 64)
    both = {"actor": mlp(32).init(KEY, X), "critic": mlp(64).init(KEY, X)}
    labels = {"actor": "actor", "critic": "critic"}
    each = {"actor": actor.wrap_optimizer(optax.adam(1e-2)), "critic": critic.wrap_optimizer(optax.adam(1e-2))}
    found = one_update(optax.partition(each, labels), both)
    for name, optimizer in each.items():
        assert_equal(found[name], one_update(optimizer, both[name]))
    assert not np.array_equal(found["actor"]["linear_1"]["w"][:8, :8], found["critic"]["linear_1"]["w"][:8, :8])


def test_muon_in_a_tree_of_trees(mup, params):
    plain = optax.contrib.muon(0.02, muon_weight_dimension_numbers=mup.muon_dimensions)
    wrapped = mup.wrap_optimizer(plain, rule="muon")
    nested = one_update(wrapped, {"actor": params})
    jax.tree.map(np.testing.assert_allclose, nested["actor"], one_update(wrapped, params))


def test_flatten_belongs_inside(mup, params):
    inside = one_update(mup.wrap_optimizer(optax.flatten(optax.adam(1e-2))), params)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), inside,
                 one_update(mup.wrap_optimizer(optax.adam(1e-2)), params))
    with pytest.raises(haiku_mup.MupError, match=r"wrap_optimizer\(optax.flatten"):
        optax.flatten(mup.wrap_optimizer(optax.adam(1e-2))).init(params)
