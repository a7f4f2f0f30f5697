"""Warnings about a rule that doesn't fit what an optimizer does."""
import functools
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from optimizer_cases import optimizer, rows
from small_models import KEY, MODELS, captured, mlp
from trees import mapped

import haiku_mup

X = MODELS["mlp"][1]
contrib = optax.contrib


def test_each_part_of_a_partition_is_tried():
    labels = lambda params: mapped(lambda name, p: "a" if name.endswith("w") else "b", params)  # noqa: E731
    for parts, text in [((optax.adam(0.1), optax.sgd(0.1)), "/b'.*behaves like SGD"),
                        ((optax.sgd(0.1), optax.adam(0.1)), "/w'.*behaves like SGD"),
                        ((optax.sgd(0.1), optax.lamb(0.1)), "/b'.*rule='lamb'"),
                        ((optax.adam(0.1), optax.yogi(0.1)), "/b'.*rule='any'")]:
        partition = optax.partition(dict(zip("ab", parts)), labels)
        with pytest.warns(haiku_mup.MupWarning, match=text):
            captured(mlp, X).wrap_optimizer(partition)
    good = optax.partition({"a": optax.adam(0.1), "b": optax.lion(0.1)}, labels)
    captured(mlp, X).wrap_optimizer(good).init(mlp(32).init(KEY, X))


@pytest.mark.parametrize("name, rule, text", [
    ("adagrad", "sgd", "rule='any'"), ("radam", "adam", "rule='any'"), ("yogi", "sgd", "rule='any'"),
    ("adadelta", "adam", "rule='any'"), ("novograd", "adam", "rule='novograd'"),
    ("lamb", "muon", "rule='lamb'"),
    ("dog", "sgd", "rule='momo'"), ("momo_adam", "adam", "rule='momo_adam'"),
    ("galore", "adam", "no rule describes how"), ("schedule_free_sgd", "sgd", "put it around"),
    ("sgd", "lamb", "adam=|rule='sgd'"), ("fromage", "lars", "decays weights"),
])
def test_another_rule_is_named_where_one_is_right(name, rule, text):
    with pytest.warns(haiku_mup.MupWarning, match=text):
        captured(mlp, X).wrap_optimizer(optimizer(name, 0.1), rule=rule)


def test_a_traced_rate_is_judged_as_a_known_one():
    mup, params = captured(mlp, X), mlp(32).init(KEY, X)
    jax.jit(lambda lr: mup.wrap_optimizer(optax.adam(lr)).init(params))(0.1)
    with pytest.warns(haiku_mup.MupWarning, match="behaves like SGD.*pass adam=False"):
        jax.jit(lambda lr: mup.wrap_optimizer(optax.sgd(lr)).init(params))(0.1)


def test_a_traced_eps_is_told_and_the_remedy_is_right():
    mup, params = captured(mlp, X), mlp(32).init(KEY, X)
    with pytest.warns(haiku_mup.MupWarning, match=r"traced values.*optax.inject_hyperparams") as seen:
        jax.jit(lambda eps: mup.wrap_optimizer(optax.adam(0.1, eps=eps)).init(params))(1e-8)
    assert len(seen) == 1
    optimizer = mup.wrap_optimizer(optax.inject_hyperparams(optax.adam)(learning_rate=0.1, eps=1e-8))

    @jax.jit
    def update(eps):
        state = optimizer.init(params)
        state = state._replace(hyperparams={**state.hyperparams, "eps": eps})
        return optimizer.update(jax.tree.map(jnp.ones_like, params), state, params)[0]

    found = update(1e-8)
    assert [float(-found[layer]["w"].mean()) for layer in ("linear", "linear_1", "readout")] == pytest.approx(
        [0.1, 0.1 / 4, 0.1], rel=1e-4)


@pytest.mark.parametrize("rule, optimizer_", [
    ("adafactor", optax.adafactor(0.1, weight_decay_rate=1e-3)), ("lamb", optax.lamb(0.1, weight_decay=1e-3)),
    ("lars", optax.lars(0.1, weight_decay=1e-3))])
def test_a_decay_that_cannot_be_mended_warns(rule, optimizer_):
    with pytest.warns(haiku_mup.MupWarning, match="decays weights.*add_decayed_weights") as seen:
        captured(mlp, X).wrap_optimizer(optimizer_, rule=rule)
    assert len(seen) == 1


def told(wrap):
    """Returns the warnings of a call."""
    with pytest.warns(haiku_mup.MupWarning) as seen:
        wrap()
    return [str(warning.message) for warning in seen]


@pytest.mark.parametrize("name", sorted(set(rows()) - {"fromage"}))     # fromage decays
def test_no_optimizer_of_optax_with_its_rule_warns(name):
    captured(mlp, X).wrap_optimizer(optimizer(name), rule=rows()[name])


@pytest.mark.parametrize("waiting", [
    optax.MultiSteps(optax.sgd(1e-2), 65), optax.adam(1e-2, eps=1e-3),
    optax.sgd(optax.join_schedules([optax.constant_schedule(0.0), optax.constant_schedule(0.1)], [100]))])
def test_what_begins_late_or_is_between_is_told(waiting):
    message, = told(lambda: captured(mlp, X).wrap_optimizer(waiting))
    assert "behaves like SGD" in message or (
        "is between SGD and Adam" in message and "pass rule='any'" in message)


def test_a_power_has_the_rule_between():
    root = optax.stateless(lambda g, p: jax.tree.map(lambda g: -0.1 * jnp.sign(g) * jnp.sqrt(jnp.abs(g)), g))
    for rule in ("adam", "sgd"):
        message, = told(lambda rule=rule: captured(mlp, X).wrap_optimizer(root, rule=rule))
        assert "is between SGD and Adam (tried" in message and "pass rule='any'" in message
    captured(mlp, X).wrap_optimizer(root, rule="any")


@pytest.mark.parametrize("opt, rule, remedy", [
    (optax.noisy_sgd(0.1, key=0), {"adam": False}, {"rule": "any"}),
    (optax.chain(optax.add_noise(0.1, 0.5, key=0), optax.adam(0.1)), {}, {"scale_eps": True}),
    (optax.chain(optax.add_noise(0.1, 0.5, key=0), optax.lamb(0.1)), {"rule": "lamb"},
     {"rule": "lamb", "scale_eps": True})])
def test_noise_needs_gradients_as_at_the_base(opt, rule, remedy):
    message, = told(lambda: captured(mlp, X).wrap_optimizer(opt, **rule))
    assert "as noise does" in message
    assert ("pass scale_eps=True" if "lamb" in rule.values() else "pass rule='any'") in message
    captured(mlp, X).wrap_optimizer(opt, **remedy)          # and no warning


def test_noise_beside_a_gradients_norm_has_no_remedy():
    opt = optax.chain(optax.add_noise(0.1, 0.5, key=0), optax.novograd(0.1))
    message, = told(lambda: captured(mlp, X).wrap_optimizer(opt, rule="novograd"))
    assert "leave the noise out" in message


@pytest.mark.parametrize("behind", [optax.sgd(0.1, momentum=0.9), optax.adam(0.1)])
def test_clips_by_the_norm_of_units_have_the_rule_of_lars(behind):
    opt = optax.chain(optax.adaptive_grad_clip(0.01), behind)
    for rule in ("sgd", "adam", "any", "lamb"):
        message, = told(lambda rule=rule: captured(mlp, X).wrap_optimizer(opt, rule=rule))
        assert "adaptive_grad_clip do); pass rule='lars'" in message
    captured(mlp, X).wrap_optimizer(opt, rule="lars")
    captured(mlp, X).wrap_optimizer(opt, rule="lamb", scale_eps=True)


def moved_at(opt, params):
    """Returns the largest update at parameters without a gradient."""
    updates, _ = opt.update(jax.tree.map(jnp.zeros_like, params), opt.init(params), params)
    return max(float(jnp.abs(u).max()) for u in jax.tree.leaves(updates))


CLIPS = [optax.clip_by_global_norm(1.0), optax.clip_by_block_rms(1.0), optax.clip(1.0)]


@pytest.mark.parametrize("clip, optimizer_", [
    *((clip, optax.sgd(0.1)) for clip in CLIPS), (CLIPS[0], optax.sgd(0.1, momentum=0.9)),
    *((clip, optax.adagrad(0.1)) for clip in CLIPS[:2])])
def test_a_clip_that_sees_scaled_gradients_is_told_and_one_in_front_does_not(clip, optimizer_):
    mup = captured(mlp, X)
    with pytest.warns(haiku_mup.MupWarning, match="acts harder in wider models; put the clip in front"):
        mup.wrap_optimizer(optax.chain(clip, optimizer_), rule="any")
    params = mlp(32).init(KEY, X)
    front = optax.chain(clip, mup.wrap_optimizer(optimizer_, rule="any"))
    gradients = jax.tree.map(lambda p: 1e3 * jnp.ones_like(p), params)
    updates, _ = front.update(gradients, front.init(params), params)
    assert all(jnp.isfinite(u).all() and u.any() for u in jax.tree.leaves(updates))


@pytest.mark.parametrize("clip, optimizer_, options", [
    *((clip, optax.sgd(0.1), {"adam": False}) for clip in CLIPS),       # gradients are as they are
    *((clip, optax.adam(0.1), {"scale_eps": True}) for clip in CLIPS),  # Adam divides by their size
    (CLIPS[2], optax.adagrad(0.1), {"rule": "any"}),        # as this does, where gradients are large
    (optax.identity(), contrib.momo(0.1), {"rule": "momo"})])       # a sum over all entries, as its rule knows
def test_a_clip_that_does_no_harm_is_quiet(clip, optimizer_, options):
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        captured(mlp, X).wrap_optimizer(optax.chain(clip, optimizer_), **options)
    assert [str(warning.message) for warning in seen] == []


def test_a_pull_to_the_start_is_told_and_put_behind_it_moves_nothing_there():
    mup, params = captured(mlp, X), mlp(32).init(KEY, X)

    def pull(rate):
        return optax.stateless(lambda g, p: jax.tree.map(lambda g, p, q: g + rate * (p - q), g, p, params))

    inside = optax.chain(optax.scale_by_adam(), pull(0.1), optax.scale(-1e-2))
    message, = told(lambda: mup.wrap_optimizer(inside))
    assert "'linear_1/w'" in message and "put the pull behind" in message
    behind = optax.chain(mup.wrap_optimizer(optax.adam(1e-2)), pull(-1e-3))
    assert moved_at(behind, params) == 0.0
    # What multiplies no parameter pulls to where it is.
    assert moved_at(mup.wrap_optimizer(inside, scale_decay=True), params) == 0.0
    large = {m: {n: np.zeros(p.shape) for n, p in ps.items()} for m, ps in mlp(512).init(KEY, X).items()}
    inside = optax.chain(optax.scale_by_adam(), optax.stateless(
        lambda g, p: jax.tree.map(lambda g, p, q: g + p - q, g, p, large)), optax.scale(-1e-2))
    message, = told(lambda: captured(mlp, X, target=512).wrap_optimizer(inside))
    assert "too large to try" in message


def entrywise(function):
    """Returns the transformation of each update u and parameter p to function(u, p)."""
    return optax.stateless(lambda updates, params: jax.tree.map(function, updates, params))


def project(function):
    """Returns the transformation after which a parameter is function of where it would be."""
    return entrywise(lambda u, p: function(p + u) - p)


def shrunk(x):
    return jnp.sign(x) * jnp.maximum(jnp.abs(x) - 1e-4, 0)


def in_ball(x):
    return x * jnp.minimum(1, 0.5 / (1e-9 + jnp.linalg.norm(x)))


NOT_LINEAR = {
    "box": project(lambda x: jnp.clip(x, -0.05, 0.05)), "wide box": project(lambda x: jnp.clip(x, -10, 10)),
    "narrow box": project(lambda x: jnp.clip(x, -1e-3, 1e-3)),
    "unit box": project(lambda x: jnp.clip(x, -1, 1)),
    "soft threshold": project(shrunk), "ball": project(in_ball),
    "L1": entrywise(lambda u, p: u - 1e-4 * jnp.sign(p)), "cubic": entrywise(lambda u, p: u - 1e-4 * p**3)}


@pytest.mark.parametrize("plain, options", [(optax.adam(1e-3), {}), (optax.sgd(1e-2), {"adam": False})])
@pytest.mark.parametrize("name", NOT_LINEAR)
def test_what_is_no_decay_in_proportion_is_told_and_goes_behind(name, plain, options):
    """Inside, where weights are divided by their factors, a box of ±0.05 would leave ±0.05 / 4 of them."""
    mup, params, part = captured(mlp, X), mlp(32).init(KEY, X), NOT_LINEAR[name]
    messages = told(lambda: mup.wrap_optimizer(optax.chain(plain, part), **options))
    assert "not in proportion to them" in messages[0] and "behind the wrapped optimizer" in messages[0]
    behind = optax.chain(mup.wrap_optimizer(plain, **options), part)        # quiet
    updates, _ = behind.update(jax.tree.map(jnp.ones_like, params), behind.init(params), params)
    if name == "box":
        new = optax.apply_updates(params, updates)["linear_1"]["w"]
        assert float(jnp.abs(new).max()) == pytest.approx(0.05, rel=1e-6)


@pytest.mark.parametrize("chain", [
    (optax.add_decayed_weights(1e-2), optax.adam(1e-3)), (optax.add_decayed_weights(1e-4), optax.rmsprop(1e-3)),
    (entrywise(lambda u, p: u + 0.1 * jnp.sign(p)), optax.adam(1e-3))])
def test_what_is_normalised_with_gradients_is_told_apart(chain):
    message, = told(lambda: captured(mlp, X).wrap_optimizer(optax.chain(*chain)))
    assert "in front of what normalises gradients" in message


@pytest.mark.parametrize("plain, options", [
    (optax.adamw(1e-3, weight_decay=0.1), {}), (optax.lion(1e-3, weight_decay=0.1), {}),
    (optax.chain(optax.add_decayed_weights(1e-2), optax.sgd(0.1, 0.9)), {"adam": False}),
    *((optax.chain(optax.adam(lr), optax.keep_params_nonnegative()), {}) for lr in (1e-3, 0.05))])
def test_decays_in_proportion_are_quiet(plain, options):
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        captured(mlp, X).wrap_optimizer(plain, **options)
    assert [str(warning.message) for warning in seen] == []


@pytest.mark.parametrize("most", [1.0, 10.0])
def test_an_update_that_the_norm_of_its_parameter_bounds_has_the_rule_of_lamb(most):
    """Weights are smaller than updates of size 1, so that the bound acts at every step."""
    bound = entrywise(lambda u, p: u * jnp.minimum(1, most * jnp.linalg.norm(p) / (1e-9 + jnp.linalg.norm(u))))
    opt = optax.chain(optax.scale_by_adam(), bound, optax.scale(-1e-2))
    message, = told(lambda: captured(mlp, X).wrap_optimizer(opt))
    assert "pass rule='lamb'" in message
    sizes = {}
    for width in (8, 128):
        mup, size = captured(mlp, X, target=width), 0.02 * (8 / width)**0.5
        params = jax.tree.map(functools.partial(jnp.full_like, fill_value=size), mlp(width).init(KEY, X))
        wrapped = mup.wrap_optimizer(opt, rule="lamb")          # quiet
        updates, _ = wrapped.update(jax.tree.map(jnp.ones_like, params), wrapped.init(params), params)
        sizes[width] = float(jnp.abs(updates["linear_1"]["w"]).mean()) * width
    assert sizes[128] == pytest.approx(sizes[8], rel=1e-3)      # of lr / m


@pytest.mark.parametrize("plain", [
    optax.lbfgs(0.3, linesearch=None), optax.chain(optax.scale_by_lbfgs(), optax.scale(-1e-3)), optax.lbfgs()])
def test_lbfgs_inside_is_told_and_is_alone_in_the_form_that_is_named(plain):
    for options in {}, {"adam": False}, {"rule": "any"}:
        message, = told(lambda options=options: captured(mlp, X).wrap_optimizer(plain, **options))
        assert "has L-BFGS inside" in message
    form = haiku_mup.Mup(parametrization=haiku_mup.maximal_update("abcd", optimizer="sgd"))
    mup, params = captured(mlp, X, mup=form), mlp(32).init(KEY, X)
    model = mup.wrap_model(mlp(32))

    def loss(params):
        return (model.apply(params, X)**2).mean()

    opt = optax.lbfgs(0.3, linesearch=None)
    updates, _ = opt.update(jax.grad(loss)(params), opt.init(params), params)
    assert loss(optax.apply_updates(params, updates)) < loss(params)


def test_a_scale_by_shape_is_told():
    """It would count the width once more: μP's factors of one's own, in the optimizer."""
    own = optax.stateless(lambda u, _: jax.tree.map(lambda x: x / x.shape[0] if x.ndim == 2 else x, u))
    message, = told(lambda: captured(mlp, X).wrap_optimizer(optax.chain(optax.adam(0.1), own)))
    assert "/w', scales its updates by the parameter's shape" in message and "0.667 times" in message


def test_each_optimizer_is_told_once():
    mup, params = captured(mlp, X), mlp(32).init(KEY, X)
    for _ in range(2):
        opts = []
        assert len(told(lambda opts=opts: opts.append(mup.wrap_optimizer(contrib.galore(1e-2, rank=2))))) == 1
        opts[0].init(params)            # which checks again, and has said it
    assert "rule='novograd'" in told(lambda: mup.wrap_optimizer(optax.novograd(1e-2)))[0]


def test_no_guard_silences_the_trial():
    mup, params = captured(mlp, X), mlp(32).init(KEY, X)
    with jax.transfer_guard("disallow"):
        wrapped = []
        assert "behaves like SGD" in told(lambda: wrapped.append(mup.wrap_optimizer(optax.sgd(0.1))))[0]
        jax.jit(wrapped[0].init)(params)
        muon = contrib.muon(0.1, muon_weight_dimension_numbers=mup.muon_dimensions)
        jax.jit(mup.wrap_optimizer(muon, rule="muon").init)(params)
