"""Updates whose size depends on the value of the parameter: which are told, and with what remedy."""
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from optimizer_cases import gap
from small_models import MODELS, captured, mlp

import haiku_mup
from haiku_mup.optimizers.mismatch import find_rule
from haiku_mup.optimizers.value_dependence import depends_on_value

X = MODELS["mlp"][1]


def entrywise(function):
    """Returns the transformation of each update u and parameter p to function(u, p)."""
    return optax.stateless(lambda updates, params: jax.tree.map(function, updates, params))


def sized(size, before=None, lr=0.01):
    """Returns an optimizer whose updates, Adam's unless others are given, are multiplied by size(|p|)."""
    before = optax.scale_by_adam() if before is None else before
    return optax.chain(before, entrywise(lambda u, p: size(jnp.abs(p)) * u), optax.scale(-lr))


SIZES = {
    "0.1 + |p|": lambda p: 0.1 + p, "1 + |p|": lambda p: 1 + p, "10 + |p|": lambda p: 10 + p,
    "root": lambda p: jnp.sqrt(1 + p**2), "inverse": lambda p: 1 / (1 + p), "exp": lambda p: jnp.exp(-p),
    "square": lambda p: p**2, "max": lambda p: jnp.maximum(p, 3)}
ROOT = entrywise(lambda u, p: jnp.sign(u) * jnp.sqrt(jnp.abs(u)))


def told(optimizer, **options):
    """Returns the messages of wrap_optimizer."""
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        captured(mlp, X).wrap_optimizer(optimizer, **options)
    return [str(warning.message) for warning in seen]


@pytest.mark.parametrize("name", SIZES)
def test_a_size_by_the_value_is_told_and_has_the_rule_of_lamb(name):
    message, = told(sized(SIZES[name]))
    assert "whose size depends on the parameter's value" in message and "pass rule='lamb'" in message
    assert message.endswith("errors.rst#warning-value)")
    assert told(sized(SIZES[name]), rule="lamb") == []
    assert told(optax.adam(0.01)) == []         # without it


@pytest.mark.parametrize("before", [optax.identity(), ROOT], ids=["sgd", "a root"])
def test_beside_gradients_of_any_size_it_has_the_rule_of_lars(before):
    for options in {"adam": False}, {"rule": "any"}, {"rule": "lamb"}:
        message, = told(sized(SIZES["1 + |p|"], before), **options)
        assert "pass rule='lars'" in message
    assert told(sized(SIZES["1 + |p|"], before), rule="lars") == []


@pytest.mark.filterwarnings("ignore:.*depends on the parameter's value:haiku_mup.MupWarning")
@pytest.mark.parametrize("before, wrong, right", [
    (None, "adam", "lamb"), (optax.identity(), "sgd", "lars"), (ROOT, "any", "lars")])
def test_the_rule_that_is_named_gives_updates_as_at_the_base(before, wrong, right, x64):
    """Parameters move by up to 1e-3 of themselves on the way, which is another share than at the base."""
    plain = optax.with_extra_args_support(sized(SIZES["0.1 + |p|"], before, lr=1e-4))
    gaps = {rule: gap(lambda mup, rule=rule: mup.wrap_optimizer(plain, rule=rule), plain)
            for rule in (wrong, right)}
    assert gaps[right] < 2e-3 and gaps[wrong] > 0.1


def test_only_parameters_that_are_seen_at_another_size_are_told():
    def parts(weights, biases):
        return optax.partition({"w": weights, "b": biases}, lambda tree: {
            module: {name: name for name in leaves} for module, leaves in tree.items()})

    message, = told(parts(sized(SIZES["root"]), optax.adam(0.01)))
    assert "'linear_1/w', makes updates whose size" in message
    assert told(parts(optax.adam(0.01), sized(SIZES["root"]))) == []


def test_a_parametrization_without_such_a_rule_says_why():
    mup = captured(mlp, X, mup=haiku_mup.Mup(parametrization=haiku_mup.neural_tangent()))
    assert mup.wrap_optimizer(sized(SIZES["root"], optax.identity()), adam=False)       # no factors: quiet
    mup = captured(mlp, X, mup=haiku_mup.Mup(parametrization=haiku_mup.modified_standard()))
    with pytest.warns(haiku_mup.MupWarning, match="let it see values as at the base: pass rule='lamb'"):
        mup.wrap_optimizer(sized(SIZES["root"]))


@pytest.mark.parametrize("optimizer, rule", [
    (sized(SIZES["root"]), "lamb"), (sized(SIZES["root"], optax.identity()), "lars"),
    (optax.adam(0.1), "adam")])
def test_the_rule_is_found(optimizer, rule):
    shapes = {"linear": {"w": jax.ShapeDtypeStruct((8, 8), "float32")}}
    assert find_rule(optimizer, shapes).name == rule


ADAM = optax.scale_by_adam()
QUIET = {
    "large decay": optax.adamw(1e-2, weight_decay=10.0), "small rate": optax.adamw(1e-9, weight_decay=0.1),
    "decay of signs": optax.chain(optax.scale_by_sign(), optax.add_decayed_weights(0.3), optax.scale(-0.1)),
    "cautious decay": optax.chain(ADAM, entrywise(lambda u, p: u + 0.1 * p * (u * p > 0)), optax.scale(-1e-2)),
    "cautious": optax.chain(ADAM, entrywise(lambda u, p: u * (u > 0)), optax.scale(-1e-2)),
    "clip behind a decay": optax.chain(
        ADAM, optax.add_decayed_weights(0.1), optax.clip(1.0), optax.scale(-1e-2)),
    "zeros stay": optax.chain(optax.adam(1e-2), entrywise(lambda u, p: u * (p != 0))),
    "rounding": optax.chain(optax.adam(1e-5), entrywise(lambda u, p: (p + u) - p)),
    "not negative": optax.chain(optax.adam(0.05), optax.keep_params_nonnegative()),
    "prodigy": optax.contrib.prodigy(weight_decay=0.1), "dadapt": optax.contrib.dadapt_adamw(1.0),
    "masked": optax.masked(optax.adamw(0.1), lambda tree: jax.tree.map(lambda p: p.ndim > 1, tree)),
    "several steps": optax.MultiSteps(optax.adamw(1e-2, weight_decay=0.3), 4),
    "finite": optax.apply_if_finite(optax.adamw(1e-2), 3)}


@pytest.mark.parametrize("name", QUIET)
def test_what_has_one_size_at_every_value_is_quiet(name):
    assert [message for message in told(QUIET[name]) if "value" in message] == []


def test_a_clip_behind_a_decay_of_large_values_is_none():
    """At 10 the decay fills the clip, and nothing is left of a gradient of either sign."""
    params = np.array([0.01, 1.0, 10.0])
    gradients = np.array([0.0, 1e-3, -1e-3])[:, None]
    updates = np.clip(0.2 * params + gradients, -1, 1)[..., None]
    assert not depends_on_value(updates, params)
    updates[1:, 1] += gradients[1:]
    assert depends_on_value(updates, params)
    updates[0, 0] = np.nan
    assert not depends_on_value(updates, params)
