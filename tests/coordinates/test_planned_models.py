"""Checks and sweeps of models that are no Haiku's: pairs (init, apply), and the plan of their parameters."""
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import haiku_mup
from haiku_mup.coordinates.planned_models import PlannedModel
from haiku_mup.coordinates.recorder import Recorder
from haiku_mup.coordinates.unrecorded import unrecorded_activations

X = jax.random.normal(jax.random.key(0), (16, 5))
BATCH = X, jnp.argmax(X[:, :3], axis=1)
SEQUENCE = jax.random.normal(jax.random.key(1), (2, 4, 5))


def pair(width, forget=False, scale=1.0):
    """Returns an MLP as a dict, whose second weight is stored (out, in)."""
    def init(key):
        a, b, c = jax.random.split(key, 3)
        return {"first": jax.random.normal(a, (5, width)) / 5**0.5,
                "second": [jax.random.normal(b, (width, width)) / width**0.5, jnp.zeros(width)],
                "out": jax.random.normal(c, (width, 3)) / width**0.5, "name": "mlp"}

    def hidden(params, x):
        x = jax.nn.relu(x @ params["first"])
        x = jax.nn.relu(x @ params["second"][0].T + params["second"][1][None]) * scale
        return haiku_mup.probe("hidden", x)

    def apply(params, rng, x):
        return hidden(params, x) @ params["out"]

    def own(params, rng, x, plan):
        x = hidden(params, x)
        return (x if forget else plan.readout(x, "out")) @ params["out"]

    return init, own if forget is not None else apply


PLAN = functools.partial(haiku_mup.plan, fans={"first": (0, 1), "second[0]": (1, 0), "out": (0, 1)},
                         readouts="out", stds={"first": "constant", "second[0]": "fan_in", "out": "fan_in"})


def loss_fn(apply, params, rng, batch):
    x, y = batch
    return optax.softmax_cross_entropy_with_integer_labels(apply(params, rng, x), y).mean()


def check(make_model, **more):
    return haiku_mup.coord_check(make_model, [32, 256], BATCH, loss_fn, optax.adam(2**-7), plan=PLAN, seeds=4,
                                 steps=3, progress=False, **more)


def test_a_pair_passes_in_mup_and_fails_in_standard():
    make_model = functools.partial(pair, forget=None)
    found = check(make_model)
    assert not found.failures()
    names = {point.quantity for point in found.points}
    assert {"output", "probe hidden"} <= {name.removesuffix(" ") for name in names}
    assert any("second[0]" in name for name in names)
    assert not check(make_model, parametrization="sp").ok


def test_an_apply_that_takes_the_plan_multiplies_by_itself():
    with pytest.raises(haiku_mup.MupError, match=r"'out'.*nothing has asked for its forward multiplier"):
        check(functools.partial(pair, forget=True))
    make = functools.partial(pair, forget=False)
    assert not haiku_mup.coord_check(make, [16, 32], BATCH, loss_fn, optax.adam(2**-5), plan=PLAN, seeds=1,
                                     steps=1, progress=False).failures()


def test_forward_factors_of_any_functions():
    make = functools.partial(pair, forget=None)
    assert haiku_mup.forward_factors(make, [16, 64], X) == []
    found = haiku_mup.forward_factors(lambda width: pair(width, None, width**0.5), [16, 64], X)
    assert [(each.action, each.base, each.target, round(each.power, 3)) for each in found] == [
        ("multiplied by", 4.0, 8.0, 0.5)]


def trained(width, **more):
    make_trial = haiku_mup.training(functools.partial(pair, forget=None), BATCH, loss_fn, optax.adam, steps=8,
                                    base_width=16, plan=PLAN, **more)
    return make_trial(width)(0.03, jax.random.key(0))["train_loss"]


def test_a_sweep_trains_pairs():
    losses = trained(64)
    assert losses.shape == (8,) and losses[-1] < losses[0]
    assert (trained(16) == trained(16, parametrization="sp")).all()         # at the base's width
    assert (losses != trained(64, parametrization="sp")).any()


def test_what_is_no_pair_raises():
    with pytest.raises(haiku_mup.MupError, match=r"with a plan it must return \(init, apply\)"):
        check(lambda width: 3)
    with pytest.raises(haiku_mup.MupError, match="haiku_mup.Plan"):
        haiku_mup.coord_check(functools.partial(pair, forget=None), [16, 32], BATCH, loss_fn, optax.adam(0.1),
                              plan=lambda base, target, **more: None, progress=False)


# --- state beside parameters, and activations ---

def kept_pair(width):
    """Returns a pair that counts its calls, and keeps the mean of its inputs."""
    def init(key):
        return pair(width, None)[0](key), {"calls": jnp.zeros((), "int32"), "mean": jnp.ones(5)}

    def apply(params, rng, x, state):
        state = {"calls": state["calls"] + 1, "mean": 0.5 * state["mean"] + 0.5 * x.mean(0)}
        return pair(width, None)[1](params, rng, x - state["mean"][None]), state

    return init, apply


def one_model(make_model):
    planned = PlannedModel.of(make_model(8), make_model(16), PLAN)
    return planned.wrap_model()


def test_a_state_is_kept_as_haikus():
    model = one_model(kept_pair)
    params, state = model.init(jax.random.key(0), X)
    assert set(state["~"]) == {"state.calls", "state.mean"} and "state.mean" not in params["~"]
    for calls in (1, 2):
        _, state = model.apply(params, state, None, X)
        assert state["~"]["state.calls"] == calls
    np.testing.assert_allclose(state["~"]["state.mean"], 0.25 + 0.75 * X.mean(0), rtol=1e-5)


def with_state(batch):
    """Returns the losses of two steps; the mean that is kept changes those after the first."""
    make_trial = haiku_mup.training(kept_pair, batch, loss_fn, optax.adam, steps=2, base_width=8, plan=PLAN)
    return make_trial(16)(0.0, jax.random.key(0))["train_loss"]


def test_a_sweep_keeps_the_state():
    losses = with_state(BATCH)
    assert abs(losses[1] - losses[0]) > 1e-4        # at rate 0 the state alone has moved


@pytest.mark.parametrize("init, apply, text", [
    (lambda key: {"w": jnp.ones(3)}, lambda params, rng, x, state: (x, state),
     r"init returned a dict; init\(key\) must return \(params, state\)"),
    (lambda key: ({"w": jnp.ones(3)}, {"n": jnp.ones(1)}), lambda params, rng, x, state: x,
     r"it must return \(output, state\)"),
    (lambda key: ({"w": jnp.ones(3)}, {"n": jnp.ones(1)}), lambda params, rng, x, state: (x, {}),
     "apply returned a state without 'n'; return all")])
def test_a_state_that_is_lost_raises(init, apply, text):
    with pytest.raises(haiku_mup.MupError, match=text):
        model = PlannedModel.of((init, apply), (init, apply), haiku_mup.plan).plain_model()
        jax.eval_shape(model.init, jax.random.key(0), X)


def recorded(make_model, x=X, **more):
    """Returns what a check records of a pair: {kind and name}, and the sentence about the rest."""
    planned = PlannedModel.of(make_model(8), make_model(16), functools.partial(PLAN, **more))
    recorder = Recorder(planned.wrap_model(), ("l1",), ["~"])
    recorder.prepare(jax.random.key(0), x)
    return ({f"{info.kind} {info.suffix.removeprefix('/')}" for info in recorder.records.values()},
            unrecorded_activations(recorder.records.values(), recorder.unkept))


def test_without_a_framework_the_text_says_what_is_not_recorded():
    found, text = recorded(functools.partial(pair, forget=None))
    assert found == {"probe hidden", "output "}
    assert text.startswith("Not seen: activations but those that probe marks")
    points = [haiku_mup.Point("mup", width, 0, 0, "output", "l1", 1.0, "0") for width in (8, 16)]
    assert text in str(haiku_mup.CoordCheck(points, unrecorded=text))


def test_a_probe_inside_another_trace_raises_and_outside_is_taken():
    def make_model(width, inside):
        init, _ = pair(width, None)

        def hidden(w, x):
            x = x @ w
            return haiku_mup.probe("first", x) if inside else x

        def apply(params, rng, x):
            x = jax.jit(hidden)(params["first"], x)
            return (x if inside else haiku_mup.probe("first", x)) @ params["second"][0] @ params["out"]
        return init, apply

    with pytest.raises(haiku_mup.MupError, match="give it to probe outside"):
        recorded(functools.partial(make_model, inside=True))
    assert "probe first" in recorded(functools.partial(make_model, inside=False))[0]


@pytest.mark.parametrize("jitted", [False, True])
def test_what_is_computed_before_a_readout_is_expected_to_keep_its_size(jitted):
    def make_model(width):
        init, _ = pair(width, None)

        def apply(params, rng, x):
            x = haiku_mup.probe("hidden", jax.nn.relu(x @ params["first"]))
            x = haiku_mup.probe("second", (jax.jit(jnp.dot) if jitted else jnp.dot)(x, params["second"][0].T))
            out = haiku_mup.probe("logits", (jax.jit(jnp.dot) if jitted else jnp.dot)(x, params["out"]))
            return haiku_mup.probe("behind", jnp.tanh(out)) + 0 * haiku_mup.probe("beside", x * 2)[:, :3]
        return init, apply

    planned = PlannedModel.of(make_model(8), make_model(16), PLAN)
    recorder = Recorder(planned.wrap_model(), ("l1",), ["~"])
    recorder.prepare(jax.random.key(0), X)
    behind = {info.suffix for info in recorder.records.values() if info.preceding_readouts}
    assert behind == {"/logits", "/behind", ""} and len(recorder.records) == 6


def test_an_activation_that_shrinks_fails_before_a_readout():
    def failures(power):
        found = check(lambda width: pair(width, None, (32 / width)**power))
        return {point.quantity for point in found.failures() if point.step == 0}

    assert not failures(0) and "probe hidden" in failures(0.5)


def test_activations_of_linen():
    nn = pytest.importorskip("flax.linen")

    class Model(nn.Module):
        width: int

        @nn.compact
        def __call__(self, x):
            x = nn.Dense(self.width, name="first")(x)
            x = nn.MultiHeadDotProductAttention(2, qkv_features=self.width, name="attend")(x[None])[0]
            x = nn.remat(nn.Dense)(self.width, name="again")(x)
            return nn.Dense(3, name="out")(x)

    def make_model(width):
        model = Model(width)
        return (lambda key: model.init(key, X)["params"],
                lambda params, rng, x: jax.vmap(lambda x: model.apply({"params": params}, x))(x[None])[0])

    with jax.numpy_rank_promotion("allow"):
        found, text = recorded(make_model, fans=haiku_mup.flax_linen(Model(8), X), readouts="out.kernel",
                               stds=None)
    assert found >= {"activation first", "activation attend", "activation attend.query", "activation out"}
    assert text == "Not seen: activations of again, inside a scan, a jit or a remat of the model."


def test_a_module_of_nnx_keeps_its_state_and_shows_its_activations():
    nnx = pytest.importorskip("flax.nnx")

    class Model(nnx.Module):
        def __init__(self, width, rngs):
            self.first, self.out = nnx.Linear(5, width, rngs=rngs), nnx.Linear(width, 3, rngs=rngs)
            self.norm, self.drop = nnx.BatchNorm(width, rngs=rngs), nnx.Dropout(0.5, rngs=rngs)

        def __call__(self, x):
            return self.out(self.drop(self.norm(self.first(x))))

    def make_model(width):
        return lambda key: Model(width, nnx.Rngs(key)), lambda model, rng, x: model(x)

    more = {"fans": haiku_mup.flax_nnx, "readouts": "out.kernel", "stds": None}
    with jax.numpy_rank_promotion("allow"):
        found, text = recorded(make_model, **more)
        assert found == {*(f"activation {name}" for name in ("first", "norm", "drop", "out")), "output "}
        assert text == ""
        model = PlannedModel.of(make_model(8), make_model(16), functools.partial(PLAN, **more)).wrap_model()
        params, state = model.init(jax.random.key(0), X)
        before = state["~"]["norm.mean"]
        outputs = []
        for _ in range(2):
            out, state = model.apply(params, state, None, X)
            outputs.append(out)
    assert not any(name.startswith("norm.mean") for name in params["~"])
    assert (state["~"]["norm.mean"] != before).all()
    assert (outputs[0] != outputs[1]).any()         # dropout's counter has moved on


@pytest.mark.parametrize("wrong", [False, True])
def test_the_factors_of_attention_and_of_its_plan_belong_together(wrong):
    """Flax divides logits by the root of the key size, and the plan's queries by the rest of it."""
    linen = pytest.importorskip("flax.linen")

    def make(width):
        class Network(linen.Module):
            @linen.compact
            def __call__(self, x):
                x = linen.Dense(width)(x) * (width**0.5 if wrong else 1.0)
                x = x + linen.MultiHeadDotProductAttention(2)(x, x)
                return linen.Dense(3, name="out")(x)

        return (lambda key: Network().init(key, SEQUENCE)["params"],
                lambda params, rng, x: Network().apply({"params": params}, x)), Network()

    def loss_fn(apply, params, rng, x):
        return jnp.square(apply(params, rng, x)).mean()

    adapter = haiku_mup.flax_linen(make(8)[1], SEQUENCE)
    plan = functools.partial(haiku_mup.plan, fans=adapter, readouts="out.kernel")
    check = haiku_mup.coord_check(lambda width: make(width)[0], (8, 32), SEQUENCE, loss_fn, optax.adam(0.01),
                                  plan=plan, steps=1, seeds=1, progress=False)
    assert bool(check.factors) == wrong, check.factors
