"""Decay, ε, haiku_mup.adamw, and multipliers of one's own for learning rates and draws."""
import functools
import json

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from optimizer_cases import gap, rows
from small_models import KEY, MODELS, captured, mlp, one
from transparent_stack import transparent
from trees import equal, mapped

import haiku_mup

X = MODELS["mlp"][1]
SCHEDULE = optax.linear_schedule(0.1, 0.01, 3)
WEIGHTS = {"mask": lambda params: jax.tree.map(lambda p: p.ndim > 1, params)}


def params_and_grads(width=32):
    params = jax.tree.map(lambda p: p.astype(jnp.float64), mlp(width).init(KEY, X))
    return params, jax.tree.map(lambda p: jnp.cos(30 * p), params)


def trained(opt, params, grads, steps=4):
    """The parameters after some steps."""
    @jax.jit
    def step(carry, k):
        now, state = carry
        update, state = opt.update(jax.tree.map(lambda g: g * jnp.cos(k), grads), state, now)
        return (optax.apply_updates(now, update), state), None

    return jax.lax.scan(step, (params, opt.init(params)), jnp.arange(1.0, steps + 1))[0][0]


def close(a, b, rtol=1e-12):
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=rtol, atol=1e-15), a, b)


def zero(params):
    return jax.tree.map(jnp.zeros_like, params)


# --- decay ---

DECAYED = {         # with a decoupled decay, as a function of the learning rate
    "adamw": lambda lr: optax.adamw(lr, weight_decay=0.3), "lion": lambda lr: optax.lion(lr, weight_decay=0.3),
    "adamaxw": lambda lr: optax.adamaxw(lr, weight_decay=0.3),
    "nadamw": lambda lr: optax.nadamw(lr, weight_decay=0.3),
    "muon": lambda lr: optax.contrib.muon(lr, weight_decay=0.3, adam_weight_decay=0.3),
    "ademamix": lambda lr: optax.contrib.ademamix(lr, weight_decay=0.3),
    "simplified_ademamix": lambda lr: optax.contrib.simplified_ademamix(lr, weight_decay=0.3),
    "sgd": lambda lr: optax.chain(optax.add_decayed_weights(0.3), optax.sgd(lr)),
    "rmsprop": lambda lr: optax.chain(optax.scale_by_rms(), optax.add_decayed_weights(0.3),
                                      optax.scale_by_learning_rate(lr)),
    "adagrad": lambda lr: optax.chain(optax.scale_by_rss(), optax.add_decayed_weights(0.3),
                                      optax.scale_by_learning_rate(lr)),
}


def lost(name, wrap, width):
    """What is left of parameters with zero gradients, beside what the schedule and 0.3 leave of them."""
    params, _ = params_and_grads(width)
    left = np.prod([1 - float(SCHEDULE(k)) * 0.3 for k in range(4)])
    found = trained(wrap(captured(mlp, X, 8, width), DECAYED[name](SCHEDULE)), params, zero(params))
    return found, jax.tree.map(lambda p: p * left, params)


@pytest.mark.parametrize("name", ["adamw", *(
    pytest.param(name, marks=pytest.mark.slow) for name in DECAYED if name != "adamw")])
@pytest.mark.parametrize("width", [pytest.param(8, marks=pytest.mark.slow), 128])
def test_decay_alone_is_what_was_asked_for(name, width, x64):
    """At every width a parameter loses lr · λ of itself in each step of a schedule."""
    close(*lost(name, lambda mup, opt: mup.wrap_optimizer(opt, rule=rows()[name]), width), rtol=1e-7)


def test_a_decay_that_is_scaled_is_another(x64):
    found, expected = lost("adamw", lambda mup, opt: mup.wrap_optimizer(opt, scale_decay=True), 32)
    close(found["linear"], expected["linear"], rtol=1e-7)
    assert not np.allclose(found["linear_1"]["w"], expected["linear_1"]["w"], rtol=1e-3)


@pytest.mark.slow
def test_what_novograd_loses_is_what_it_loses_at_the_base(x64):
    """Its decay has momentum, and is no product."""
    plain = optax.novograd(SCHEDULE, weight_decay=0.3)
    params, _ = params_and_grads()
    wrapped = captured(mlp, X).wrap_optimizer(plain, rule="novograd")
    close(*(trained(opt, params, zero(params)) for opt in (wrapped, plain)))


# --- haiku_mup.adamw ---

def test_adamw_is_optaxs_bit_for_bit_at_the_base():
    params = mlp(8).init(KEY, X)
    grads = jax.tree.map(jnp.cos, params)
    settings = {"b1": 0.8, "b2": 0.95, "eps": 1e-5, "weight_decay": 0.3, "nesterov": True, **WEIGHTS}
    ours = haiku_mup.adamw(captured(mlp, X, 8, 8), SCHEDULE, **settings, clip=0.5)
    plain = optax.chain(optax.clip_by_global_norm(0.5), optax.adamw(SCHEDULE, **settings))
    assert equal(*(trained(opt, params, grads) for opt in (ours, plain)))


def test_adamw_equals_the_wrapped_one_where_eps_is_nothing(x64):
    mup, (params, grads) = captured(mlp, X), params_and_grads()
    settings = {"weight_decay": 0.3, "eps": 1e-30}
    ours = haiku_mup.adamw(mup, SCHEDULE, **settings, clip=0.5)
    chain = optax.chain(optax.clip_by_global_norm(0.5), mup.wrap_optimizer(optax.adamw(SCHEDULE, **settings)))
    close(*(trained(opt, params, grads) for opt in (ours, chain)))
    as_it_is = haiku_mup.adamw(mup, SCHEDULE, eps=1e-5, scale_eps=False)
    wrapped = mup.wrap_optimizer(optax.adamw(SCHEDULE, eps=1e-5))
    close(*(trained(opt, params, grads) for opt in (as_it_is, wrapped)))


@pytest.mark.filterwarnings("ignore:.*between SGD and Adam:haiku_mup.MupWarning")
def test_adamws_eps_acts_as_at_the_base(x64):
    plain = optax.with_extra_args_support(optax.adamw(1e-6, eps=0.5, weight_decay=0.0))

    def of(**kwargs):
        return gap(lambda mup: haiku_mup.adamw(mup, 1e-6, eps=0.5, weight_decay=0.0, **kwargs), plain)

    assert of() < 1e-9 and of(scale_eps=False) > 0.1


@pytest.mark.parametrize("decay", [0.3, optax.linear_schedule(0.0, 0.3, 3)])
def test_a_decay_of_its_own_doesnt_follow_the_learning_rate(decay, x64):
    params, _ = params_and_grads()
    opt = haiku_mup.adamw(captured(mlp, X), SCHEDULE, weight_decay=decay, decay_follows_lr=False, **WEIGHTS,
                          lr_mults={"linear/w": 3.0})
    left = np.prod([1 - (decay(k) if callable(decay) else decay) for k in range(4)])
    found = trained(opt, params, zero(params))
    close(found, mapped(lambda name, p: p * left if name.endswith("w") else p, params), rtol=1e-6)


def test_adamw_in_a_form_that_needs_no_factors_is_refused():
    table = haiku_mup.maximal_update("abcd", optimizer="adam")
    with pytest.raises(haiku_mup.MupError, match="give it as it is"):
        haiku_mup.adamw(captured(mlp, X, mup=haiku_mup.Mup(parametrization=table)), 0.1)


# --- multipliers of learning rates ---

@pytest.mark.parametrize("rule, plain", [
    ("adam", lambda lr: optax.adamw(lr, weight_decay=0.3)),
    ("sgd", lambda lr: optax.chain(optax.add_decayed_weights(0.3), optax.sgd(lr, momentum=0.9))),
    pytest.param("lamb", optax.lamb, marks=pytest.mark.slow)])
def test_a_multiplier_is_a_learning_rate_of_its_own(rule, plain, x64):
    """As two optimizers, each with its rate: its decay, too."""
    mup, (params, grads) = captured(mlp, X), params_and_grads()
    ours = mup.wrap_optimizer(plain(0.1), rule=rule, lr_mults={"*linear/w": 3.0})
    labels = mapped(lambda name, p: "own" if name == "linear/w" else "rest", params)
    apart = captured(mlp, X).wrap_optimizer(
        optax.partition({"own": plain(0.1 * 3.0), "rest": plain(0.1)}, labels), rule=rule)
    close(*(trained(opt, params, grads) for opt in (ours, apart)))


def test_multipliers_are_in_the_factors_the_summary_and_the_file(tmp_path):
    mup = captured(mlp, X, mup=haiku_mup.Mup(init_mults={"linear/w": 3}, lr_mults={"*/b": 2.0}))
    assert mup.lr_scales()["linear"] == {"b": 2.0, "w": 1.0}
    head, first, *_ = mup.summary().splitlines()
    assert head.endswith("init ×  lr ×") and first.split()[-2:] == ["3", "1"]
    assert "×" not in captured(mlp, X).summary().splitlines()[0]
    mup.save(tmp_path / "base.json")
    again = haiku_mup.Mup.load(tmp_path / "base.json")
    with again.init_target():
        jax.eval_shape(mlp(32).init, KEY, X)
    assert again.summary() == mup.summary() and again.table()[1].lr_mult == 2.0
    params = mlp(32).init(KEY, X)
    for one_ in (mup, again):
        opt = one_.wrap_optimizer(optax.sgd(1.0), adam=False)
        update, _ = opt.update(params, opt.init(params), params)
        np.testing.assert_allclose(update["readout"]["b"], -2 * params["readout"]["b"])


def test_what_wrap_optimizer_is_given_takes_the_place_of_the_mups_and_is_kept():
    mup = captured(mlp, X, mup=haiku_mup.Mup(lr_mults={"*/b": 2.0}))
    mup.wrap_optimizer(optax.adam(0.1), lr_mults={"readout/w": 0.5})
    assert mup.state_dict()["lr_mults"] == {"readout/w": 0.5} and mup.lr_scales()["linear"]["b"] == 1.0
    mup.wrap_optimizer(optax.adam(0.1))                     # as they are
    assert mup.lr_scales()["readout"]["w"] == 0.5
    mup.wrap_optimizer(optax.adam(0.1), lr_mults={})
    assert "lr_mults" not in mup.state_dict()


@pytest.mark.parametrize("mults, text", [
    ({"readut/w": 2.0}, "'readut/w' matches the name of no parameter; there are readout/w"),
    ({"readout/*": 2.0, "*/w": 3.0}, "'readout/w': several globs match it"),
    ({"readout/w": 0.0}, "a number above 0"), ({"readout/w": True}, "a number above 0"),
    ({"readout/w": float("nan")}, "a number above 0"), ([("readout/w", 2.0)], "give {glob")])
def test_multipliers_that_cannot_be_are_refused(mults, text):
    for what in ("init_mults", "lr_mults"):
        with pytest.raises(haiku_mup.MupError, match=f"{what}.*{text}"):
            captured(mlp, X, mup=haiku_mup.Mup(**{what: mults}))
    with pytest.raises(haiku_mup.MupError, match=f"lr_mults.*{text}"):
        captured(mlp, X).wrap_optimizer(optax.adam(0.1), lr_mults=mults)


def test_a_plain_optimizer_has_no_multipliers():
    table = haiku_mup.maximal_update("abcd", optimizer="adam")
    with pytest.raises(haiku_mup.MupError, match="lr_mults.*plain optimizer"):
        haiku_mup.Mup(parametrization=table, lr_mults={"*": 2.0})


# --- multipliers of draws ---

@pytest.mark.parametrize("table", [None, *(pytest.param(table, marks=pytest.mark.slow) for table in (
    haiku_mup.maximal_update("table9"), haiku_mup.standard()))])
@pytest.mark.parametrize("target", [8, 32])
def test_a_draw_is_multiplied_at_every_width(table, target):
    """In the init of the wrapped model and in init_target; all else stays, bit for bit."""
    plain, ours = (captured(mlp, X, 8, target, haiku_mup.Mup(init_mults=mults, parametrization=table))
                   for mults in (None, {"linear/w": 2.0, "readout/b": 4.0}))
    before, after = (mup.wrap_model(mlp(target)).init(KEY, X) for mup in (plain, ours))
    expected = mapped(lambda name, p: p * {"linear/w": 2.0, "readout/b": 4.0}.get(name, 1.0), before)
    assert equal(after, expected)
    with ours.init_target():
        assert equal(mlp(target).init(KEY, X), expected)
    assert ours.table()[0].target_std == pytest.approx(2 * plain.table()[0].target_std)


def test_an_lstms_blocks_are_multiplied_together():
    def fn(x, width):
        core = hk.LSTM(width)
        return core(x, core.initial_state(x.shape[0]))[0]

    make, x = one(fn)
    plain, ours = (captured(make, x, mup=haiku_mup.Mup(init_mults=mults))
                   for mults in (None, {"lstm/*/w": 2.0}))
    before, after = (mup.wrap_model(make(32)).init(KEY, x)["lstm/linear"]["w"] for mup in (plain, ours))
    np.testing.assert_array_equal(after, 2 * before)


@pytest.mark.parametrize("init, text", [
    (jnp.zeros, "no parameter that is drawn"), (hk.initializers.Constant(3.0), "no parameter that is drawn"),
    (hk.initializers.RandomNormal(0.1, mean=1.0), r"\(8,\), target \(32,\).*mean of 1.*initializer")])
def test_what_has_no_std_to_multiply_is_refused(init, text):
    make, x = one(lambda x, width: hk.Linear(width, b_init=init)(x))
    with pytest.raises(haiku_mup.MupError, match=text):
        captured(make, x, mup=haiku_mup.Mup(init_mults={"linear/b": 2.0}))
    captured(make, x, mup=haiku_mup.Mup(init_mults={"linear/w": 2.0}))      # beside it is fine


def test_layers_that_are_drawn_together_need_one_multiplier():
    def fn(x, width):
        return transparent(2)(lambda x: hk.Linear(width, name="inner")(x))(hk.Linear(width)(x))

    make, x = one(fn)
    first, second = (name for name in captured(make, x).lr_scales() if "inner" in name)
    with pytest.raises(haiku_mup.MupError, match=f"'{second}/w' is drawn together with '{first}/w'"):
        captured(make, x, mup=haiku_mup.Mup(init_mults={f"{first}/w": 2.0}))
    captured(make, x, mup=haiku_mup.Mup(init_mults={f"{first}/w": 2.0, f"{second}/w": 2.0}))


# --- the file ---

def test_a_file_without_multipliers_is_as_it_was_and_loads():
    state = json.loads(json.dumps(captured(mlp, X).state_dict()))
    assert state["version"] == 1 and not {"init_mults", "lr_mults"} & set(state)
    assert haiku_mup.Mup.from_state_dict(state)._declarations.lr_mults == {}


@pytest.mark.parametrize("wrong", [{"a": -1.0}, {"a": "2"}, [1.0], {"a": None}])
def test_a_file_with_other_multipliers_is_refused(wrong):
    from haiku_mup.serialization import state_dict as store

    state = captured(mlp, X).state_dict()
    head = {k: v for k, v in state.items() if k not in ("parameters", "crc")} | {"lr_mults": wrong}
    with pytest.raises(haiku_mup.MupError, match="lr_mults"):
        haiku_mup.Mup.from_state_dict(store.with_checksum(head) | {"parameters": state["parameters"]})
