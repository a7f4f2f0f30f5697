"""Recorder: what it records of a forward pass, wherever modules are called."""
import haiku as hk
import jax
import jax.numpy as jnp
import mutants
import numpy as np
import pytest

import haiku_mup
from haiku_mup.coordinates import recorder
from haiku_mup.coordinates.multipliers import multiplier_of
from haiku_mup.coordinates.recorder import Recorder
from haiku_mup.coordinates.state_records import merge_state, split_state

X = jax.random.normal(jax.random.PRNGKey(3), (8, 6))


def recorded(fn, x=X, stats=("l1",), rng=None):
    """Returns {quantity: [layers …, stats]} of one forward pass of fn(x), its output, and that of the model."""
    model = hk.transform_with_state(fn)
    params, state = model.init(jax.random.PRNGKey(0), x)
    recording = Recorder(model, stats)
    empty = recording.prepare(jax.random.PRNGKey(0), x)

    @jax.jit
    def run(params, state):
        def loss(params):
            out, new = recording.apply(params, merge_state(state, empty), rng, x)
            return sum(jnp.sum(leaf) for leaf in jax.tree.leaves(out)), (out, new)
        return jax.grad(loss, has_aux=True)(params)[1]

    out, new = run(params, state)
    model_state, records = split_state(new)
    assert jax.tree.structure(model_state) == jax.tree.structure(state)
    found = {}
    for (module, entry), info in recording.records.items():
        row = np.asarray(records[module][entry])
        with np.errstate(invalid="ignore"):     # 0 / 0 in a branch that wasn't taken
            last, divisor = (2, row[..., 2:]) if info.kind == "multiplier" else (1 + len(stats), row[..., :1])
            found[info.kind, module, info.suffix] = row[..., 1:last] / divisor
    return found, out, model.apply(params, state, rng, x)[0]


def test_records_are_what_modules_return():
    def fn(x):
        x = jax.nn.relu(hk.Linear(5)(x))
        return hk.Linear(3)(x)

    stats = ("l1", "l2", "mean", "std", "max", jnp.min)
    found, out, plain = recorded(fn, stats=stats)
    y = np.asarray(plain, np.float64)
    expected = [abs(y).mean(), (y**2).mean()**0.5, y.mean(), y.std(), abs(y).max(), y.min()]
    np.testing.assert_allclose(found["activation", "linear_1", ""], expected, rtol=1e-5)
    np.testing.assert_allclose(found["output", "~", ""], expected, rtol=1e-5)
    np.testing.assert_array_equal(out, plain)
    assert found["multiplier", "linear", ""][0] == pytest.approx(1, rel=1e-5)
    assert len(found) == 5


def nested(x):
    def block(x):
        def inner(x):
            return x + hk.Linear(6, name="inner")(x)
        return hk.experimental.layer_stack(2)(hk.remat(inner))(jnp.tanh(hk.Linear(6, name="outer")(x)))
    return hk.experimental.layer_stack(3)(block)(x)


def scanned(x):
    linear = hk.Linear(6)

    def body(carry, _):
        carry = jnp.tanh(linear(carry))
        return carry, carry
    return hk.scan(body, x, None, length=4)[1]


def branched(x):
    one, other = hk.Linear(6, name="one"), hk.Linear(6, name="other")
    if hk.running_init():               # Haiku's cond takes no new parameters
        return one(x) + other(x)
    return hk.cond(x.sum() > 1e9, one, other, x)


def mapped(x):
    return hk.vmap(hk.Linear(3), split_rng=False)(x)


def lifted(x):
    inner = hk.transform_with_state(lambda x: hk.Linear(3)(x))
    init, _ = hk.lift_with_state(inner.init)
    params, state = init(hk.maybe_next_rng_key(), x)
    return inner.apply(params, state, None, x)[0]


def test_a_stack_has_a_record_a_layer():
    found, out, plain = recorded(nested)
    shapes = {module.rpartition("/")[2]: row.shape for (_, module, _), row in found.items() if module != "~"}
    assert shapes == {"outer": (3, 1), "inner": (3, 2, 1)}
    np.testing.assert_allclose(out, plain, rtol=1e-5)


def test_a_scan_has_the_mean_over_its_steps():
    found, out, plain = recorded(scanned)
    assert set(found) == {("activation", "linear", ""), ("multiplier", "linear", ""), ("output", "~", "")}
    before = np.arctanh(np.asarray(plain, np.float64))
    np.testing.assert_allclose(found["activation", "linear", ""], [abs(before).mean()], rtol=1e-4)


def test_a_branch_that_is_not_taken_has_no_record():
    found, _, plain = recorded(branched)
    assert np.isnan(found["activation", "one", ""]).all()
    np.testing.assert_allclose(found["activation", "other", ""], [abs(np.asarray(plain)).mean()], rtol=1e-5)


def test_a_vmap_has_one_record_of_the_batch():
    found, _, plain = recorded(mapped)
    np.testing.assert_allclose(found["activation", "linear", ""], [abs(np.asarray(plain)).mean()], rtol=1e-5)


def test_a_lift_without_a_state_is_refused():
    def fn(x):
        inner = hk.transform(lambda x: hk.Linear(3)(x))
        params = hk.lift(inner.init)(hk.maybe_next_rng_key(), x)
        return inner.apply(params, None, x)

    with pytest.raises(haiku_mup.MupError, match="hk.lift_with_state"):
        recorded(fn)


def test_calls_paths_and_probes_have_names_of_their_own():
    class Pair(hk.Module):
        def __call__(self, x):
            haiku_mup.probe("inside", x)
            return {"a": x, "b": (x, 2 * x, jnp.arange(3))}

    def fn(x):
        linear = hk.Linear(6)
        x = haiku_mup.probe("twice", linear(linear(x)))
        return Pair()(x)

    found, _, _ = recorded(fn)
    names = {(kind, module + rest) for kind, module, rest in found}
    assert names == {
        ("activation", "linear"), ("activation", "linear@1"), ("multiplier", "linear"),
        ("multiplier", "linear@1"), ("probe", "~/twice"), ("probe", "pair/inside"),
        ("activation", "pair.a"), ("activation", "pair.b.0"), ("activation", "pair.b.1"),
        ("output", "~.a"), ("output", "~.b.0"), ("output", "~.b.1")}


def test_attention_logits_are_those_of_the_softmax():
    def fn(x):
        x = x[None]
        y = haiku_mup.MultiHeadAttention(2, 4, w_init=hk.initializers.VarianceScaling())(x, x, x)
        return y

    found, _, _ = recorded(fn)
    params = hk.transform(fn).init(jax.random.PRNGKey(0), X)
    query, key = ((X @ params[f"multi_head_attention/{side}"]["w"]).reshape(8, 2, 4)
                  for side in ("query", "key"))
    logits = np.einsum("thd,Thd->htT", query, key) / 2
    np.testing.assert_allclose(found["logits", "multi_head_attention", ""], [abs(logits).mean()], rtol=1e-4)


def test_low_precision_is_measured_in_float32():
    found, _, _ = recorded(lambda x: hk.Linear(300)(x.astype(jnp.bfloat16)) * 0 + 1, stats=("l2",))
    assert found["output", "~", ""].dtype == np.float32
    np.testing.assert_allclose(found["output", "~", ""], [1.0], rtol=1e-6)


def test_outside_of_a_check_a_probe_is_nothing():
    def fn(x):
        return haiku_mup.probe("x", x)

    model = hk.transform(fn)
    assert model.init(None, X) == {} and (model.apply({}, None, X) == X).all()
    assert haiku_mup.probe("x", 3) == 3


class Own(hk.Linear):
    """A layer of the user's, which is not called twice."""

    calls = 0

    def __call__(self, inputs, *, precision=None):
        type(self).calls += 1
        return 3 * super().__call__(inputs, precision=precision)


def block(x, width):
    y = haiku_mup.MultiHeadAttention(2, width // 2, w_init=hk.initializers.VarianceScaling())(x, x, x)
    with hk.custom_getter(lambda next_getter, value, context: next_getter(2 * value)):
        y = hk.Linear(width, name="doubled")(y)
    with hk.custom_getter(lambda next_getter, value, context: next_getter(value / jnp.linalg.norm(value))):
        y = hk.Linear(width, with_bias=False, name="of_norm_1")(y)
    return haiku_mup.Readout(10)(Own(width)(y))


@pytest.mark.parametrize("parametrization", [haiku_mup.maximal_update(), haiku_mup.neural_tangent()])
def test_multipliers_that_are_traced_are_those_that_are_measured(parametrization, monkeypatch):
    mup, key, x = haiku_mup.Mup(parametrization=parametrization), jax.random.PRNGKey(0), X[None]
    base, target = (mutants.make(block)(width) for width in (8, 32))
    with mup.init_base():
        jax.eval_shape(base.init, key, x)
    with mup.init_target():
        params = target.init(key, x)

    def multipliers():
        model = Recorder(mup.wrap_model(target), ("l1",))
        empty, Own.calls = model.prepare(key, x), 0
        _, state = jax.eval_shape(lambda: model.apply(params, empty, None, x))
        assert Own.calls == 1
        _, state = model.apply(params, empty, None, x)
        return {module: multiplier_of(state[module][entry])
                for (module, entry), info in model.records.items() if info.kind == "multiplier"}

    traced = multipliers()
    monkeypatch.setattr(recorder, "traced_sizes", lambda *args: None)
    assert traced == pytest.approx(multipliers(), rel=1e-5)
    standard = {"multi_head_attention/query": 0.5, "doubled": 2.0, "own": 3.0, "readout": 0.25}
    if parametrization == haiku_mup.maximal_update():
        assert {name: traced[name] for name in standard} == pytest.approx(standard)
    else:
        assert traced["doubled"] != pytest.approx(2.0)
