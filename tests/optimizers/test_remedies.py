"""What messages about optimizers say to do: each by following it, with the updates that follow."""
import functools
import warnings

import jax
import jax.numpy as jnp
import optax
import pytest
from small_models import KEY, MODELS, captured, mlp

import haiku_mup
from haiku_mup import optimizer_rules

X = MODELS["mlp"][1]
contrib = optax.contrib
LAYERS = ("linear", "linear_1", "readout")
ADAM, SGD = (1, 1 / 4, 1), (4, 1, 4)        # the factors of input, hidden weight and output


@pytest.fixture(scope="module")
def params():
    return jax.jit(mlp(32).init)(KEY, X)


@functools.cache
def mup():
    """Returns the one Mup of all tests, which wrapping leaves as it is."""
    return captured(mlp, X)


def updates(optimizer, params, steps=1):
    """Returns the last of several updates, at gradients of ones."""
    state, grads = optimizer.init(params), jax.tree.map(jnp.ones_like, params)
    for _ in range(steps):
        update, state = optimizer.update(grads, state, params)
    return update


def factors(wrapped, plain, params, **kwargs):
    """Returns how much larger the wrapped optimizer's updates of weights are than the plain one's."""
    ours, plains = (updates(o, params, **kwargs) for o in (wrapped, plain))
    return tuple(float((ours[layer]["w"] / plains[layer]["w"]).mean()) for layer in LAYERS)


def quiet(wrap):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return wrap()


# (optimizer, how it is wrapped, words, how it is wrapped as they say, factors)
RULES = {
    "adam=False": (optax.sgd(0.1), {}, "pass adam=False", {"adam": False}, SGD),
    "adam=True": (optax.adam(0.1), {"adam": False}, "pass adam=True", {"adam": True}, ADAM),
    "any": (optax.adam(0.1), {"adam": False}, "or rule='any'", {"rule": "any"}, ADAM),
    "any for sgd": (optax.sgd(0.1), {}, "or rule='any'", {"rule": "any"}, SGD),
    "eps": (optax.adam(0.1, eps=1e-3), {}, "pass rule='any'", {"rule": "any"}, ADAM),
    "yogi": (optax.yogi(0.1), {}, "pass rule='any'", {"rule": "any"}, None),
}


@pytest.mark.parametrize("name", RULES)
def test_pass_the_rule_that_is_named(name, params):
    plain, wrong, words, right, wanted = RULES[name]
    with pytest.warns(haiku_mup.MupWarning) as seen:
        mup().wrap_optimizer(plain, **wrong)
    assert words in str(seen[0].message)
    wrapped = quiet(lambda: mup().wrap_optimizer(plain, **right))
    if wanted:
        assert factors(wrapped, plain, params) == pytest.approx(wanted, rel=0.01)


def test_an_eps_near_gradients_is_named_and_a_smaller_one_is_quiet(params):
    """Gradients of 1e-3 in entries of a hidden weight are 1e-3 / 4 at four times the width: ε acts alike."""
    plain = optax.adam(0.1, eps=1e-3)
    with pytest.warns(haiku_mup.MupWarning, match="at gradients of 0.001, beside which its ε"):
        mup().wrap_optimizer(plain)
    quiet(lambda: mup().wrap_optimizer(optax.adam(0.1, eps=1e-8)))
    small = jax.tree.map(lambda p: jnp.full(p.shape, 1e-3 / 4), params)
    found = {}
    for name, optimizer in (("base", plain), ("ours", mup().wrap_optimizer(plain, rule="any"))):
        grads = small if name == "ours" else jax.tree.map(lambda g: 4 * g, small)
        found[name] = float(optimizer.update(grads, optimizer.init(params), params)[0]["linear_1"]["w"][0, 0])
    assert found["ours"] == pytest.approx(found["base"] / 4, rel=1e-4)


def test_wrap_the_plain_optimizer_once(params):
    ours = mup()
    wrapped = ours.wrap_optimizer(optax.adam(0.1))
    for wrong, words in ((wrapped, "wrap the plain one, once"), (
            optax.chain(optax.scale_by_adam(), ours.scale_updates(), optax.scale(-0.1)), "wrap once: ")):
        with pytest.raises(haiku_mup.MupError, match=words):
            ours.wrap_optimizer(wrong)
    right = ours.wrap_optimizer(optax.chain(optax.scale_by_adam(), optax.scale(-0.1)))
    assert factors(right, optax.adam(0.1), params) == pytest.approx(ADAM)
    with pytest.raises(haiku_mup.MupError, match="give wrap_optimizer a GradientTransformation"):
        ours.wrap_optimizer(optax.adam)
    with pytest.raises(haiku_mup.MupError, match="give True for Adam's factors, or False for SGD's"):
        ours.wrap_optimizer(optax.adam(0.1), adam="adam")


def test_put_mechanize_schedule_free_and_sam_around(params):
    for around, words in ((contrib.mechanize, "optax.contrib.mechanize"), (
            functools.partial(contrib.schedule_free, learning_rate=0.1), "optax.contrib.schedule_free"), (
            functools.partial(contrib.sam, adv_optimizer=optax.sgd(0.05)), "optax.contrib.sam")):
        with pytest.warns(haiku_mup.MupWarning, match=f"put it around: {words}") as seen:
            mup().wrap_optimizer(around(optax.sgd(0.1)), adam=False)
        assert len(seen) == 1
        quiet(lambda around=around: around(mup().wrap_optimizer(optax.sgd(0.1), adam=False)).init(params))
    around = contrib.schedule_free(mup().wrap_optimizer(optax.sgd(0.1), adam=False), 0.1)
    assert factors(around, contrib.schedule_free(optax.sgd(0.1), 0.1), params) == pytest.approx(SGD, rel=1e-4)


def test_leave_the_noise_out_where_no_factor_mends_it(params):
    noisy = optax.chain(optax.add_noise(0.1, 0.5, key=0), optax.novograd(0.1))
    with pytest.warns(haiku_mup.MupWarning, match="leave the noise out"):
        mup().wrap_optimizer(noisy, rule="novograd")
    wrapped = quiet(lambda: mup().wrap_optimizer(optax.novograd(0.1), rule="novograd"))
    assert factors(wrapped, optax.novograd(0.1), params) == pytest.approx((2, 1, 2), rel=0.01)


def test_take_the_scaling_by_shape_out(params):
    own = optax.stateless(lambda u, _: jax.tree.map(lambda x: x / x.shape[0] if x.ndim == 2 else x, u))
    with pytest.warns(haiku_mup.MupWarning, match="take the scaling by shape out"):
        mup().wrap_optimizer(optax.chain(optax.adam(0.1), own))
    wrapped = quiet(lambda: mup().wrap_optimizer(optax.adam(0.1)))
    assert factors(wrapped, optax.adam(0.1), params) == pytest.approx(ADAM)


def test_what_has_no_rule_goes_outside(params):
    galore = contrib.galore(1e-2, rank=2)
    with pytest.warns(haiku_mup.MupWarning, match="use an optimizer that works entry by entry, or put"):
        mup().wrap_optimizer(galore)
    centre = optax.stateless(lambda u, _: jax.tree.map(lambda x: x - 0.1 * x.mean(), u))
    with pytest.warns(haiku_mup.MupWarning, match="that mixes entries outside of wrap_optimizer"):
        mup().wrap_optimizer(optax.chain(centre, optax.sgd(0.1)), adam=False)
    wrapped = quiet(lambda: optax.chain(centre, mup().wrap_optimizer(optax.sgd(0.1), adam=False)))
    assert factors(wrapped, optax.chain(centre, optax.sgd(0.1)), params) == pytest.approx(SGD)


def test_what_divides_by_the_gradients_norm_has_the_rule_of_novograd(params):
    plain = optax.stateless(lambda g, _: jax.tree.map(lambda g: -0.1 * g / jnp.linalg.norm(g), g))
    words = "if it divides each parameter's gradient by its norm, pass rule='novograd'; else use"
    for wrong in {}, {"adam": False}, {"rule": "any"}:
        with pytest.warns(haiku_mup.MupWarning, match=words):
            mup().wrap_optimizer(plain, **wrong)
    wrapped = quiet(lambda: mup().wrap_optimizer(plain, rule="novograd"))
    assert factors(wrapped, plain, params) == pytest.approx((2, 1, 2), rel=0.01)
    centre = optax.stateless(lambda u, _: jax.tree.map(lambda x: x - 0.1 * x.mean(), u))
    for other in contrib.galore(1e-2, rank=2), optax.chain(centre, optax.sgd(0.1)):
        with pytest.warns(haiku_mup.MupWarning, match="no rule describes how; use an optimizer"):
            mup().wrap_optimizer(other, adam=False)


def lost(optimizer, params):
    """Returns the part of each weight that a step without a gradient takes away."""
    update, _ = optimizer.update(jax.tree.map(jnp.zeros_like, params), optimizer.init(params), params)
    return [float(-(update[layer]["w"] / params[layer]["w"]).mean()) for layer in LAYERS]


def test_apply_a_decay_behind_what_normalises(params):
    with pytest.warns(haiku_mup.MupWarning, match="apply the decay behind it, as optax.adamw does"):
        mup().wrap_optimizer(optax.chain(optax.add_decayed_weights(1e-2), optax.adam(0.1)))
    wrapped = quiet(lambda: mup().wrap_optimizer(optax.adamw(0.1, weight_decay=1e-2)))
    assert lost(wrapped, params) == pytest.approx([1e-3] * 3, rel=1e-3)
    with pytest.warns(haiku_mup.MupWarning, match=r"take the decay out, and apply it behind the wrapped"):
        mup().wrap_optimizer(optax.lamb(0.1, weight_decay=1e-2), rule="lamb")
    behind = quiet(lambda: optax.chain(mup().wrap_optimizer(optax.lamb(0.1), rule="lamb"),
                                       optax.add_decayed_weights(-0.1 * 1e-2)))
    assert lost(behind, params) == pytest.approx([1e-3] * 3, rel=1e-3)


def test_a_line_search_goes_outside(params):
    search = optax.scale_by_backtracking_linesearch(5)
    ours = mup()

    def value(params):
        return sum((leaf**2).sum() for leaf in jax.tree.leaves(params))

    grads = jax.grad(value)(params)
    wrong = ours.wrap_optimizer(optax.chain(optax.sgd(0.1), search), adam=False)
    with pytest.raises(haiku_mup.MupError, match="put what needs the function, such as a line search, outside"):
        wrong.update(grads, wrong.init(params), params, value=value(params), grad=grads, value_fn=value)
    right = optax.chain(ours.wrap_optimizer(optax.sgd(1e-3), adam=False), search)
    update, _ = right.update(grads, right.init(params), params, value=value(params), grad=grads, value_fn=value)
    ratios = [float((update[layer]["w"] / grads[layer]["w"]).mean()) for layer in LAYERS]
    assert [x / ratios[1] for x in ratios] == pytest.approx(SGD, rel=1e-4)


# --- parameters that it is given ---

def test_give_it_the_targets_parameters(params):
    ours = mup()
    optimizer = ours.wrap_optimizer(optax.adam(0.1))
    for wrong, words in (({**params, "other": {"w": jnp.ones(3)}}, "make them all inside apply_mup()"),
                         ([params], "or a mapping of such trees"),
                         (mlp(8).init(KEY, X), r"or make a new Mup\(\) for this width")):
        with pytest.raises(haiku_mup.MupError, match=words):
            optimizer.init(wrong)
    for right in (params, {"model": params}, {"linear": params["linear"]}):
        assert optimizer.init(right)
    assert factors(optimizer, optax.adam(0.1), params) == pytest.approx(ADAM)
    other = captured(mlp, X, 8, 64).wrap_optimizer(optax.adam(0.1))
    assert factors(other, optax.adam(0.1), mlp(64).init(KEY, X)) == pytest.approx((1, 1 / 8, 1))


# --- Muon ---

def muon(ours, **kwargs):
    return contrib.muon(0.1, muon_weight_dimension_numbers=ours.muon_dimensions, **kwargs)


def muon_alone(ours, behind):
    """Returns Muon for hidden weights, with another scale by shape behind it, and Adam for all others."""
    def labels(tree):
        return {module: {name: "muon" if numbers else "adam" for name, numbers in leaves.items()}
                for module, leaves in ours.muon_dimensions(tree).items()}

    def numbers(tree):
        return jax.tree.map(lambda x: contrib.MuonDimensionNumbers((0,), (1,)), tree)

    plain = optax.chain(contrib.scale_by_muon(weight_dimension_numbers=numbers), behind, optax.scale(-0.1))
    return optax.partition({"muon": plain, "adam": optax.adam(0.1)}, labels)


BY_SHAPE = optax.stateless(lambda u, _: jax.tree.map(lambda x: x * x.shape[-1] if x.ndim == 2 else x, u))


@pytest.mark.parametrize("make, words", [
    (lambda ours: optax.adam(0.1), "give it optax.contrib.muon"),
    (lambda ours: muon(ours, adaptive=True), "leave adaptive=True out"),
    (lambda ours: muon_alone(ours, BY_SHAPE), "take out what scales its updates by their shape"),
    (lambda ours: optax.chain(contrib.muon(0.1), BY_SHAPE), "give it muon_weight_dimension_numbers=mup.muon"),
], ids=["no muon", "adaptive", "a law", "a law for all matrices"])
def test_muon(make, words, params):
    ours = mup()
    with pytest.raises(haiku_mup.MupError, match=words):
        ours.wrap_optimizer(make(ours), rule="muon").init(params)
    wrapped = quiet(lambda: ours.wrap_optimizer(muon(ours), rule="muon"))
    assert factors(wrapped, muon(ours), params) == pytest.approx((1, 1, 1), rel=0.01)


def test_muon_leaves_what_is_no_matrix_to_adam():
    make, x = MODELS["stack"]
    ours, params = captured(make, x), make(32).init(KEY, x)
    with pytest.raises(haiku_mup.MupError, match="leave it to Muon's Adam part: .*mup.muon_dimensions"):
        ours.wrap_optimizer(contrib.muon(0.1), rule="muon").init(params)
    wrapped, plain = ours.wrap_optimizer(muon(ours), rule="muon"), muon(ours)
    name = next(name for name in params if name.endswith("/linear"))
    first, second = (updates(o, params)[name]["b"] for o in (wrapped, plain))
    assert float((first / second).mean()) == pytest.approx(1)


# --- rules and parametrizations ---

def test_rules_that_exclude_one_another(params):
    for kwargs, words in (({"rule": "momo", "scale_eps": True}, "leave scale_eps out"),
                          ({"rule": "lamb", "adam": False}, "give rule alone")):
        with pytest.raises(haiku_mup.MupError, match=words):
            mup().wrap_optimizer(contrib.momo(0.1) if "momo" in kwargs.values() else optax.lamb(0.1), **kwargs)
    assert mup().wrap_optimizer(contrib.momo(0.1), rule="momo")
    assert factors(mup().wrap_optimizer(optax.lamb(0.1), rule="lamb"), optax.lamb(0.1), params
                   ) == pytest.approx((1, 1 / 2, 1), rel=0.01)


def test_a_rule_of_another_name_or_in_the_place_of_one_that_is_unregistered(params):
    own = optimizer_rules.OptimizerRule(name="sgd", scales=optimizer_rules.sgd, description="is mine")
    with pytest.raises(haiku_mup.MupError, match="give yours another name, or unregister it"):
        optimizer_rules.register(own)
    optimizer_rules.register(optimizer_rules.OptimizerRule(
        name="mine", scales=optimizer_rules.sgd, description="is mine", learning_rate="sgd",
        behaviours=frozenset({optimizer_rules.Behaviour.SGD_LIKE})))
    try:
        wrapped = mup().wrap_optimizer(optax.sgd(0.1), rule="mine")
        with pytest.raises(haiku_mup.MupError, match="there is a rule 'mine' already"):
            optimizer_rules.register(optimizer_rules.RULES["mine"])
    finally:
        optimizer_rules.unregister("mine")
    assert factors(wrapped, optax.sgd(0.1), params) == pytest.approx(SGD)


def test_the_tangent_kernel_needs_sgd(params):
    ours = captured(mlp, X, mup=haiku_mup.Mup(parametrization=haiku_mup.neural_tangent()))
    with pytest.raises(haiku_mup.MupError, match=r"use SGD and its factors \(adam=False\), or maximal_update"):
        ours.wrap_optimizer(optax.adam(0.1))
    wrapped = ours.wrap_optimizer(optax.sgd(0.1), adam=False)
    assert factors(wrapped, optax.sgd(0.1), params) == pytest.approx((1, 1, 1))
    assert factors(mup().wrap_optimizer(optax.adam(0.1)), optax.adam(0.1), params) == pytest.approx(ADAM)
