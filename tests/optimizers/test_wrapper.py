"""What the wrapped optimizer does to a tree: factors, decay, ε, and every optax structure around it."""
import functools

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from small_models import KEY, MODELS, captured, mlp
from trees import equal

import haiku_mup

X = MODELS["mlp"][1]
ADAM = {"linear": {"b": 1.0, "w": 1.0}, "linear_1": {"b": 1.0, "w": 0.25}, "readout": {"b": 1.0, "w": 1.0}}
SGD = {"linear": {"b": 4.0, "w": 4.0}, "linear_1": {"b": 4.0, "w": 1.0}, "readout": {"b": 1.0, "w": 4.0}}
EPS = {"linear": {"b": 0.25, "w": 0.25}, "linear_1": {"b": 0.25, "w": 0.25},
       "readout": {"b": 1.0, "w": 0.25}}


@pytest.fixture(autouse=True)
def _x64(x64):
    return x64


@pytest.fixture
def mup():
    return captured(mlp, X)


def params_and_grads(steps=3):
    params = jax.tree.map(lambda p: p.astype(jnp.float64), mlp(32).init(KEY, X))
    return params, [jax.tree.map(lambda p, k=k: jnp.sin(p * 10 + k), params) for k in range(steps)]


def run(opt, params, grads, **extra):
    """The updates of each step."""
    state, updates = opt.init(params), []
    update = jax.jit(opt.update)
    for g in grads:
        u, state = update(g, state, params, **extra)
        params = optax.apply_updates(params, u)
        updates.append(u)
    return updates


def close(a, b, rtol=1e-12):
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=rtol), a, b)


def times(scales, tree):
    return jax.tree.map(lambda s, x: s * x, scales, tree)


@pytest.mark.parametrize("optimizer, adam", [
    (optax.adam(1e-2), True), (optax.lion(1e-2, weight_decay=0.0), True), (optax.rmsprop(1e-2), True),
    (optax.inject_hyperparams(optax.adam)(learning_rate=1e-2), True),
    (optax.adam(optax.linear_schedule(0.0, 1e-2, 2)), True),
    (optax.MultiSteps(optax.adam(1e-2), 2), True),
    (optax.sgd(1e-2), False), (optax.sgd(1e-2, momentum=0.9, nesterov=True), False),
    (optax.chain(optax.clip(0.1), optax.sgd(1e-2)), False),
])
def test_updates_are_the_plain_ones_times_the_factors(mup, optimizer, adam):
    """Where there is no decay the optimizer doesn't see parameters, so the first update is exact."""
    params, grads = params_and_grads()
    ours, plain = (run(o, params, [grads[0]] * 3) for o in (mup.wrap_optimizer(optimizer, adam), optimizer))
    close(ours, [times(ADAM if adam else SGD, u) for u in plain])


@pytest.mark.parametrize("optimizer, adam, lr, decay", [
    (optax.adamw(1e-2, weight_decay=0.1), True, 1e-2, 0.1),
    (optax.lion(1e-2, weight_decay=0.1), True, 1e-2, 0.1),
    (optax.inject_hyperparams(optax.adamw)(learning_rate=1e-2, weight_decay=0.1), True, 1e-2, 0.1),
    (optax.chain(optax.sgd(1e-2), optax.add_decayed_weights(-1e-3)), False, 1e-2, 0.1),
    (optax.chain(optax.add_decayed_weights(0.1), optax.sgd(1e-2)), False, 1e-2, 0.1),
])
@pytest.mark.parametrize("scale_decay", [False, True])
def test_decay_alone(mup, optimizer, adam, lr, decay, scale_decay):
    """With zero gradients a parameter loses lr · λ · p a step; with scale_decay, times its factor."""
    params, grads = params_and_grads()
    opt = mup.wrap_optimizer(optimizer, adam, scale_decay=scale_decay)
    update, = run(opt, params, [jax.tree.map(jnp.zeros_like, grads[0])])
    factors = (ADAM if adam else SGD) if scale_decay else jax.tree.map(lambda _: 1.0, ADAM)
    close(update, times(factors, jax.tree.map(lambda p: -lr * decay * p, params)))


def test_adamw_by_hand(mup):
    """update = factor · Adam's - lr · λ · p, with Adam's written out."""
    params, grads = params_and_grads(1)
    update, = run(mup.wrap_optimizer(optax.adamw(1e-2, weight_decay=0.1)), params, grads)
    adam = jax.tree.map(lambda g: -1e-2 * g / (jnp.abs(g) + 1e-8), grads[0])
    close(update, jax.tree.map(lambda s, u, p: s * u - 1e-3 * p, ADAM, adam, params))


def test_scale_eps_by_hand(mup):
    params, grads = params_and_grads(1)
    update, = run(mup.wrap_optimizer(optax.adam(1e-2, eps=0.5), scale_eps=True), params, grads)
    close(update, jax.tree.map(
        lambda s, e, g: -s * 1e-2 * g / (jnp.abs(g) + 0.5 * e), ADAM, EPS, grads[0]))


@pytest.mark.parametrize("adam", [False, True])
def test_scale_eps_is_exact_for_sgd_as_well(mup, adam):
    """One pair of factors for every optimizer between SGD and Adam."""
    params, grads = params_and_grads()
    sgd = optax.chain(optax.add_decayed_weights(0.1), optax.sgd(1e-2, momentum=0.9))
    pair = run(mup.wrap_optimizer(sgd, adam, scale_eps=True), params, grads)
    close(pair, run(mup.wrap_optimizer(sgd, adam=False), params, grads))


def test_state_is_the_inner_optimizers_own(mup):
    params, _ = params_and_grads()
    opt = optax.inject_hyperparams(optax.adamw)(learning_rate=1e-2)
    states = [o.init(params) for o in (mup.wrap_optimizer(opt), opt)]
    assert jax.tree.structure(states[0]) == jax.tree.structure(states[1])
    assert states[0].hyperparams["learning_rate"] == 1e-2
    assert isinstance(mup.wrap_optimizer(opt), optax.GradientTransformationExtraArgs)


def test_extra_arguments_arrive(mup):
    """Polyak's step needs the value of the loss; a plain transform in the chain ignores it."""
    params, grads = params_and_grads(1)
    opt = optax.chain(optax.scale(1.0), optax.polyak_sgd())
    ours, plain = (run(o, params, grads, value=jnp.array(2.0)) for o in (
        mup.wrap_optimizer(opt, adam=False), opt))
    close(ours, [times(SGD, u) for u in plain])


def test_masked_and_partition_inside_and_around(mup):
    params, grads = params_and_grads()
    weights = jax.tree.map(lambda p: p.ndim > 1, params)
    labels = jax.tree.map(lambda w: "w" if w else "b", weights)
    adam, sgd = optax.adamw(1e-2, weight_decay=0.1), optax.sgd(0.1)
    expected = [jax.tree.map(lambda w, a, s: a if w else s, weights, a, s) for a, s in zip(
        run(mup.wrap_optimizer(adam), params, grads), run(mup.wrap_optimizer(sgd, False), params, grads))]
    around = optax.partition({"w": mup.wrap_optimizer(adam), "b": mup.wrap_optimizer(sgd, False)}, labels)
    # the factors of both: each parameter has its own history, so trees may be taken apart
    close(run(around, params, grads)[0], expected[0])
    inside = mup.wrap_optimizer(optax.partition({"w": adam, "b": optax.set_to_zero()}, labels))
    update = run(inside, params, grads)[0]
    close([update[m]["w"] for m in update], [expected[0][m]["w"] for m in update])
    assert all(not update[m]["b"].any() for m in update)
    masked = optax.chain(optax.masked(mup.wrap_optimizer(adam), weights),
                         optax.masked(mup.wrap_optimizer(sgd, False), jax.tree.map(lambda w: not w, weights)))
    close(run(masked, params, grads)[0], expected[0])


def test_multi_steps_around(mup):
    params, grads = params_and_grads(4)
    inner = optax.adamw(1e-2)
    ours = run(optax.MultiSteps(mup.wrap_optimizer(inner), 2), params, grads)
    close(ours, run(mup.wrap_optimizer(optax.MultiSteps(inner, 2)), params, grads))
    assert not jax.tree.leaves(ours[0])[0].any() and jax.tree.leaves(ours[1])[0].any()


@pytest.mark.parametrize("made", [lambda opt: opt, lambda opt: opt.gradient_transformation()])
def test_accumulated_steps_are_given_the_loss(mup, made):
    """optax's gradient_transformation() drops extra arguments (0.2.8), of which some steps need the loss."""
    params, grads = params_and_grads(4)
    accumulated = optax.MultiSteps(optax.contrib.momo_adam(1e-2), 2)
    ours = run(mup.wrap_optimizer(made(accumulated), rule="momo_adam"), params, grads, value=0.5)
    wrapped_inside = optax.MultiSteps(mup.wrap_optimizer(optax.contrib.momo_adam(1e-2), rule="momo_adam"), 2)
    close(ours, run(wrapped_inside, params, grads, value=0.5))
    assert jnp.abs(ours[1]["linear"]["w"]).max() > 0


def test_frozen_subsets_and_order(mup):
    params, grads = params_and_grads()
    opt = mup.wrap_optimizer(optax.adamw(1e-2))
    whole = run(opt, params, grads[:1])[0]
    part = {m: params[m] for m in ("readout", "linear_1")}
    update, = run(opt, part, [{m: grads[0][m] for m in part}])
    close(update, {m: whole[m] for m in part})
    frozen, trained = hk.data_structures.partition(lambda m, n, p: n == "b", params)
    update, = run(opt, trained, [{m: {"w": grads[0][m]["w"]} for m in trained}])
    close(update, {m: {"w": whole[m]["w"]} for m in whole})
    assert frozen


def test_immutable_and_stacked_trees(mup):
    params, grads = params_and_grads(1)
    opt = mup.wrap_optimizer(optax.adam(1e-2))
    flat = hk.data_structures.to_immutable_dict(params)
    update, _ = opt.update(hk.data_structures.to_immutable_dict(grads[0]), opt.init(flat), flat)
    close(hk.data_structures.to_mutable_dict(update), run(opt, params, grads)[0])
    ensemble = jax.tree.map(lambda p: jnp.stack([p, p]), params)        # an extra axis in front
    assert opt.init(ensemble)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16, jnp.float32])
@pytest.mark.parametrize("scale_eps", [False, True])
def test_dtypes_are_kept(mup, dtype, scale_eps):
    params, grads = params_and_grads(1)
    params, grads = (jax.tree.map(lambda x: x.astype(dtype), t) for t in (params, grads[0]))
    opt = mup.wrap_optimizer(optax.adamw(1e-2), scale_eps=scale_eps)
    state = opt.init(params)
    update, new = opt.update(grads, state, params)
    assert {x.dtype for x in jax.tree.leaves(update)} == {jnp.dtype(dtype)}
    assert haiku_mup.get_shapes(new) == haiku_mup.get_shapes(state)
    assert [x.dtype for x in jax.tree.leaves(new)] == [x.dtype for x in jax.tree.leaves(state)]


def test_scale_updates_in_a_chain_of_ones_own(mup):
    params, grads = params_and_grads()
    own = optax.chain(optax.scale_by_adam(), mup.scale_updates(), optax.add_decayed_weights(0.1),
                      optax.scale(-1e-2))
    close(run(own, params, grads), run(mup.wrap_optimizer(optax.adamw(1e-2, weight_decay=0.1)), params, grads))
    sgd = optax.chain(mup.scale_updates(adam=False), optax.sgd(0.1))
    close(run(sgd, params, grads), run(mup.wrap_optimizer(optax.sgd(0.1), adam=False), params, grads))


def test_clip_outside_is_the_plain_clip(mup):
    params, grads = params_and_grads(1)
    clip = optax.clip_by_global_norm(0.5)
    update, = run(optax.chain(clip, mup.wrap_optimizer(optax.sgd(1.0), adam=False)), params, grads)
    norm = optax.tree.norm(grads[0])
    close(update, times(SGD, jax.tree.map(lambda g: -g * 0.5 / norm, grads[0])))


@pytest.mark.parametrize("optimizer, adam", [
    (optax.adamw(1e-2), True), (optax.sgd(1e-2, momentum=0.9), False)])
def test_at_base_width_it_is_the_plain_optimizer_bit_for_bit(optimizer, adam):
    mup = captured(mlp, X, 32, 32)
    params, grads = params_and_grads()
    assert equal(*(run(o, params, grads) for o in (mup.wrap_optimizer(optimizer, adam), optimizer)))


def test_table_3_form_has_the_same_trajectory(mup):
    """abc-symmetry: readout weights stored times 1/m, no multiplier, SGD × 1/m², Adam × 1/m, ε × m."""
    model = mup.wrap_model(mlp(32))
    params = jax.tree.map(lambda p: p.astype(jnp.float64), model.init(KEY, X))
    x = jnp.asarray(X, jnp.float64)

    def table_3(params, x):     # the plain model, on its own parameters
        h = jax.nn.relu(x @ params["linear"]["w"] + params["linear"]["b"][None])
        h = jax.nn.relu(h @ params["linear_1"]["w"] + params["linear_1"]["b"][None])
        return h @ params["readout"]["w"] + params["readout"]["b"][None]

    def train(apply, params, opt):
        losses, state = [], opt.init(params)
        step = jax.jit(jax.value_and_grad(lambda p: jnp.mean((apply(p, x) - 1.0)**2)))
        for _ in range(10):
            loss, grads = step(params)
            updates, state = opt.update(grads, state, params)
            params = optax.apply_updates(params, updates)
            losses.append(float(loss))
        return losses

    other = {**params, "readout": {**params["readout"], "w": params["readout"]["w"] / 4}}
    sgd = {**SGD, "readout": {"b": 1.0, "w": 4.0 / 16}}
    losses = train(model.apply, params, mup.wrap_optimizer(optax.sgd(0.02), adam=False))
    close(train(table_3, other, optax.chain(optax.sgd(0.02), optax.stateless(
        lambda u, p: times(sgd, u)))), losses, rtol=1e-10)
    adam = {**ADAM, "readout": {"b": 1.0, "w": 0.25}}
    losses = train(model.apply, params, mup.wrap_optimizer(optax.adam(0.01, eps=1e-30)))
    close(train(table_3, other, optax.chain(optax.adam(0.01, eps=1e-30), optax.stateless(
        lambda u, p: times(adam, u)))), losses, rtol=1e-10)
    assert losses[-1] < 0.9 * losses[0]


# --- trees with rows, integers and holes ---

def mixed(x, width):
    """An LSTM, whose matrix has factors by rows, a layer, and integers."""
    with haiku_mup.apply_mup():
        ids = hk.get_parameter("ids", (2,), jnp.int32, init=jnp.zeros)
        core = hk.LSTM(width)
        h, _ = core(x, core.initial_state(x.shape[0]))
        return haiku_mup.Readout(3)(h) + ids.sum()


def mixed_model():
    mup = captured(lambda width: hk.transform(functools.partial(mixed, width=width)), X)
    params = jax.eval_shape(hk.transform(functools.partial(mixed, width=32)).init, KEY, X)
    params = jax.tree.map(lambda p: (jnp.arange(p.size).reshape(p.shape) % 7).astype(p.dtype), params)
    grads = jax.grad(lambda p: sum((x.astype(float)**2).sum() for x in jax.tree.leaves(p)),
                     allow_int=True)(params)
    return mup, params, grads


def test_rows_next_to_scalars_in_any_part_of_the_tree():
    mup, params, _ = mixed_model()
    grads = {m: {n: jnp.ones_like(p) for n, p in ps.items()} for m, ps in params.items() if m != "~"}
    params = {m: params[m] for m in grads}
    rows = np.repeat([4.0, 1.0], [6, 32])[:, None]
    wanted = {"lstm/linear": {"w": -jnp.ones((38, 128)) * rows, "b": jnp.full(128, -4.0)},
              "readout": {"w": jnp.full((32, 3), -4.0), "b": jnp.full(3, -1.0)}}
    opt = mup.wrap_optimizer(optax.sgd(1.0), adam=False)
    close(run(opt, params, [grads])[0], wanted)
    for keep in (lambda m, n, p: n == "w", lambda m, n, p: m == "lstm/linear", lambda m, n, p: n == "b"):
        part, rest = hk.data_structures.partition(keep, params)
        some, others = (run(opt, p, [jax.tree.map(jnp.ones_like, p)])[0] for p in (part, rest))
        close(hk.data_structures.merge(some, others), wanted)
    back = {m: dict(reversed(params[m].items())) for m in reversed(params)}
    close(run(opt, back, [jax.tree.map(jnp.ones_like, back)])[0], wanted)


def test_rows_under_masks_and_partitions():
    mup, params, _ = mixed_model()
    params.pop("~")
    ones = jax.tree.map(jnp.ones_like, params)
    labels = {"lstm/linear": {"w": "a", "b": "b"}, "readout": {"w": "b", "b": "a"}}
    adam, sgd = optax.adam(1.0), optax.sgd(1.0)
    inside = mup.wrap_optimizer(optax.partition({"a": adam, "b": optax.set_to_zero()}, labels))
    around = optax.partition({"a": mup.wrap_optimizer(adam), "b": mup.wrap_optimizer(sgd, adam=False)}, labels)
    rows = np.repeat([1.0, 0.25], [6, 32])[:, None]
    for opt, other in ((inside, 0), (around, -4)):
        update, = run(opt, params, [ones])
        np.testing.assert_allclose(update["lstm/linear"]["w"], -jnp.ones((38, 128)) * rows, rtol=1e-6)
        np.testing.assert_array_equal(update["lstm/linear"]["b"], np.full(128, other))
        np.testing.assert_array_equal(update["readout"]["w"], np.full((32, 3), other))


def test_integers_and_float0():
    """The gradient of an integer has no numbers in it: optax's own optimizers want it masked."""
    mup, params, grads = mixed_model()
    assert grads["~"]["ids"].dtype == jax.dtypes.float0
    bare = mup.scale_updates(adam=False)
    update, _ = bare.update(grads, bare.init(params), params)
    assert update["~"]["ids"] is grads["~"]["ids"]
    np.testing.assert_array_equal(update["readout"]["w"], 4 * grads["readout"]["w"])
    weights = jax.tree.map(lambda p: jnp.issubdtype(p.dtype, jnp.inexact), params)
    opt = optax.masked(mup.wrap_optimizer(optax.sgd(1.0), adam=False), weights)
    update, _ = opt.update(grads, opt.init(params), params)
    assert update["~"]["ids"] is grads["~"]["ids"]
    np.testing.assert_array_equal(update["readout"]["w"], -4 * grads["readout"]["w"])
    opt = mup.wrap_optimizer(optax.masked(optax.adam(1.0), weights))
    update, _ = opt.update(grads, opt.init(params), params)
    assert update["~"]["ids"].dtype == jax.dtypes.float0
    assert opt.init(params) and mup.lr_scales()["~"]["ids"] == 1.0
