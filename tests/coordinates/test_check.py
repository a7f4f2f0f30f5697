"""The coordinate check: what it records, what it expects, and what it says of right and wrong models."""
import csv
import math
import random

import haiku as hk
import jax
import jax.numpy as jnp
import mutants
import numpy as np
import optax
import pytest
from mutants import LABELS, REFUSED, RIGHT, WRONG, checked, loss_fn

import haiku_mup
from haiku_mup import CoordCheck, Point
from haiku_mup.coordinates import expected_slopes, figures
from haiku_mup.coordinates import recorder as recording
from haiku_mup.coordinates.state_records import merge_state, split_state

X = jax.random.normal(jax.random.PRNGKey(3), (8, 6))
FEW = {"widths": (64, 256), "seeds": 3}
TINY = {"widths": (8, 16), "seeds": 1, "steps": 2}


def recorded(fn, x=X, stats=("l1",), rng=None):
    """{quantity: [layers …, stats]} of one forward pass of fn(x), and its output."""
    model = hk.transform_with_state(fn)
    params, state = model.init(jax.random.PRNGKey(0), x)
    recorder = recording.Recorder(model, stats)
    empty = recorder.prepare(jax.random.PRNGKey(0), x)

    @jax.jit
    def run(params, state):
        def loss(params):
            out, new = recorder.apply(params, merge_state(state, empty), rng, x)
            return sum(jnp.sum(leaf) for leaf in jax.tree.leaves(out)), (out, new)
        return jax.grad(loss, has_aux=True)(params)[1]

    out, new = run(params, state)
    own, records = split_state(new)
    assert jax.tree.structure(own) == jax.tree.structure(state)
    found = {}
    for (module, entry), info in recorder.records.items():
        row = np.asarray(records[module][entry])
        with np.errstate(invalid="ignore"):     # 0 / 0 in a branch that wasn't taken
            found[info.kind, module, info.suffix] = row[..., 1:1 + len(stats)] / row[..., :1]
    return found, out, model.apply(params, state, rng, x)[0]


# --- what is recorded ---

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
    assert len(found) == 3


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
    assert set(found) == {("activation", "linear", ""), ("output", "~", "")}
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
        ("activation", "linear"), ("activation", "linear@1"), ("probe", "~/twice"), ("probe", "pair/inside"),
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


# --- what is expected ---

@pytest.mark.parametrize("role, product, weight", [
    ("input", (0, 0), (0, 0)), ("hidden", (0, 0), (-0.5, -1)), ("output", (-0.5, 0), (0, 0)),
    ("fixed", (0, 0), (0, 0))])
def test_expectations_follow_from_the_rules(role, product, weight):
    """Tensor Programs V, Appendix J.2: √n for a sum of what is independent, n for what is aligned."""
    n = 2.0**10
    m_in, m_out = (n if role in ("hidden", "output") else 1.0), (n if role in ("hidden", "input") else 1.0)
    factors = haiku_mup.maximal_update().factors(role, m_in, m_out)
    assert tuple(math.log2(x) / 10 for x in expected_slopes.entry_sizes(factors)) == weight
    found = expected_slopes.product_sizes(factors, terms=m_in, multiplier=factors.forward)
    assert tuple(math.log2(x) / 10 for x in found) == product


def test_logits_shrink_at_the_start_only_where_the_key_size_grows():
    assert expected_slopes.logit_sizes(8, 32) == (0.5, 1.0) and expected_slopes.logit_sizes(8, 8) == (1.0, 1.0)


# --- the verdict ---

def points(slope, noise=0.0, seeds=5, quantity="activation linear", expected="0", widths=(64, 128, 256, 512)):
    rng = np.random.default_rng(0)
    return [Point("mup", w, s, 0, quantity, "l1", w**slope * math.exp(noise * rng.normal()), expected)
            for w in widths for s in range(seeds)]


@pytest.mark.parametrize("slope, noise, ok", [(0, 0, True), (0.09, 0, True), (0.11, 0, False), (-0.2, 0, False),
                                              (0.2, 1.0, True), (0.5, 0.05, False)])
def test_what_fails_is_off_by_more_than_the_tolerance_and_the_noise(slope, noise, ok):
    check = CoordCheck(points(slope, noise))
    assert check.ok == ok
    assert check.findings[0].slope == pytest.approx(slope, abs=1e-9 + noise)


@pytest.mark.parametrize("expected, slopes", [("-0.5", (-0.5,)), ("-0.5..0", (-0.5, -0.2, 0.0))])
def test_what_is_expected_passes(expected, slopes):
    unknown = points(3.0, quantity="probe x", expected="")
    assert all(CoordCheck(points(slope, expected=expected) + unknown).ok for slope in slopes)


def test_what_fades_with_the_width_passes_and_what_stays_fails():
    fades = [Point("mup", w, 0, 0, "output", "l1", 1 + 4 * 32 / w**1.2, "0") for w in (64, 128, 256, 512, 1024)]
    stays = [p._replace(value=p.width**-0.3) for p in fades]
    assert CoordCheck(fades).findings[0].slope < -0.15
    assert CoordCheck(fades).ok and not CoordCheck(stays).ok


def test_zero_passes_everywhere_and_fails_at_some_widths():
    zeros = [point._replace(value=0.0) for point in points(0)]
    some = [point._replace(value=0.0) if point.width == 64 else point for point in points(0)]
    assert CoordCheck(zeros + points(0, quantity="activation other")).ok
    (failure,) = CoordCheck(some).failures()
    assert math.isnan(failure.slope) and "diverged" in failure.cause


def test_the_table_has_the_worst_on_top_and_says_why():
    check = CoordCheck(points(0.3) + points(1.0, quantity="update linear/w", expected="-1"))
    lines = str(check).splitlines()
    assert "failed; 2 of 2" in lines[0] and lines[2].startswith("update linear/w")
    with pytest.raises(AssertionError, match="update linear/w"):
        check.assert_ok()
    check.assert_ok(tol=2.5)


def test_nothing_is_not_right():
    for check in (CoordCheck([]), CoordCheck(points(0, expected="")), CoordCheck([points(0)[0]])):
        assert not check.ok and "nothing was judged" in str(check)
        with pytest.raises(AssertionError, match="nothing was judged"):
            check.assert_ok()


def test_two_parametrizations_are_judged_apart():
    both = CoordCheck(points(0) + [p._replace(parametrization="sp") for p in points(1.0)])
    with pytest.raises(haiku_mup.MupError, match="mup and sp"):
        both.ok  # noqa: B018
    assert both.only("mup").ok and not both.only("sp").ok
    with pytest.raises(haiku_mup.MupError, match="'mup', 'sp'"):
        both.only("ntk")


def test_a_file_gives_back_what_was_written(tmp_path):
    check = CoordCheck(points(0.3, 0.1, expected="-0.5..0"))
    check.to_csv(tmp_path / "points.csv")
    assert CoordCheck.from_csv(tmp_path / "points.csv") == check
    with open(tmp_path / "points.csv", encoding="utf-8") as file:
        assert next(csv.reader(file)) == list(Point._fields)
    (tmp_path / "other.csv").write_text("a,b\n1,2\n", encoding="utf-8")
    with pytest.raises(haiku_mup.MupError, match="columns"):
        CoordCheck.from_csv(tmp_path / "other.csv")


# --- right and wrong models ---

@pytest.mark.parametrize("name", ["mlp", "zero readout", "stack"])
def test_a_right_model_passes(name):
    RIGHT[name](**FEW).assert_ok()


@pytest.mark.filterwarnings("ignore::haiku_mup.MupWarning")
@pytest.mark.parametrize("name", ["multiplier squared", "1/√d attention", "decay scaled"])
def test_a_wrong_one_is_caught(name):
    check, culprit, cause = WRONG[name]
    assert_named(check(**FEW), culprit, cause)


@pytest.mark.parametrize("name", REFUSED)
def test_a_wrong_one_is_refused(name):
    check, text = REFUSED[name]
    with pytest.raises(haiku_mup.MupError, match=text):
        check()


def test_the_standard_parametrization_fails():
    assert not RIGHT["mlp"](parametrization="sp", **FEW).ok


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::haiku_mup.MupWarning")
@pytest.mark.parametrize("name", WRONG)
def test_every_wrong_one_is_caught_at_the_defaults(name):
    check, culprit, cause = WRONG[name]
    assert_named(check(), culprit, cause)


@pytest.mark.slow
@pytest.mark.parametrize("name", RIGHT)
def test_no_false_alarm(name):
    """Fifty seeds: the verdicts of ten checks of five seeds, and of a hundred other choices of five."""
    every = RIGHT[name](seeds=50).points
    order = random.Random(0)
    chosen = [range(i, i + 5) for i in range(0, 50, 5)] + [order.sample(range(50), 5) for _ in range(100)]
    failures = [CoordCheck([p for p in every if p.seed in seeds]).failures() for seeds in chosen]
    assert failures[:10] == [[]] * 10
    assert sum(map(bool, failures)) <= 1, [f for f in failures if f]


def assert_named(check, culprit, cause):
    named = [failure for failure in check.failures() if failure.name == culprit]
    assert named, str(check)
    assert any(cause in failure.cause for failure in named), str(check)


# --- bad input ---

@pytest.mark.parametrize("change, text", [
    ({"widths": (64,)}, "give two or more"), ({"widths": (64, 64)}, "give two or more"),
    ({"stats": ("mean",)}, "which are judged"), ({"stats": ("l7", "l1")}, "l7"), ({"seeds": 0}, "one seed"),
    ({"steps": 0}, "one step"), ({"parametrization": "ntk"}, "'ntk'"),
    ({"fix_batch": False, "steps": 3}, "batches for"),
    ({"optimizer": optax.sgd(1e30), "adam": False}, "lower the"),
    ({"optimizer": optax.sgd(optax.linear_schedule(0.0, 1.0, 9)), "adam": False, "steps": 1}, "warm-up"),
    ({"make_model": lambda width: mutants.make(mutants.mlp)(64)}, "same shapes"),
    ({"make_model": lambda width: None}, "NoneType")])
def test_what_cannot_be_checked_is_refused(change, text):
    with pytest.raises(haiku_mup.MupError, match=text):
        checked(mutants.mlp, **TINY | change)


@pytest.mark.parametrize("loss, text", [
    (lambda apply, params, rng, batch: apply(params, rng, batch[0]), r"an array \(32, 10\)"),
    (lambda apply, params, rng, batch: (loss_fn(apply, params, rng, batch), 1), "a tuple"),
    (lambda apply, params, rng, batch: jnp.float32(0), "never called apply"),
    (lambda apply, params, rng, batch: jax.jit(lambda: apply(params, rng, batch[0]).mean())(), "outside of")])
def test_a_loss_that_cannot_be_used_is_refused(loss, text):
    with pytest.raises(haiku_mup.MupError, match=text):
        haiku_mup.coord_check(mutants.make(mutants.mlp), (8, 16), (mutants.IMAGES, LABELS), loss,
                              optax.adam(0.01), steps=1, seeds=1, progress=False)


def test_an_interrupted_check_leaves_nothing_behind():
    def loss(apply, params, rng, batch):
        apply(params, rng, batch[0])
        raise KeyboardInterrupt

    with jax.checking_leaks(), pytest.raises(KeyboardInterrupt):
        haiku_mup.coord_check(mutants.make(mutants.mlp), (8, 16), (mutants.IMAGES, LABELS), loss,
                              optax.adam(0.01), progress=False)
    model = mutants.make(mutants.mlp)(8)
    params = model.init(jax.random.PRNGKey(0), mutants.IMAGES)
    assert recording._recorder.get() is None
    assert model.apply(params, None, mutants.IMAGES).shape == (32, 10)


def test_a_model_with_a_state_and_batches_of_its_own():
    def make_model(width):
        def fn(x, is_training):
            with haiku_mup.apply_mup():
                x = hk.BatchNorm(True, True, 0.9)(hk.Linear(width)(x), is_training)
                x = hk.dropout(hk.next_rng_key(), 0.1, jax.nn.relu(x))
                return haiku_mup.Readout(10)(x)
        return hk.transform_with_state(fn)

    def loss(apply, params, rng, batch):
        x, y = batch
        out = apply(params, rng, x, is_training=True)
        return optax.softmax_cross_entropy_with_integer_labels(out, y).mean()

    batches = [(jax.random.normal(jax.random.PRNGKey(i), (32, 6)), LABELS) for i in range(3)]
    check = haiku_mup.coord_check(make_model, (64, 256), batches, loss, optax.adam(0.01), seeds=3,
                                  fix_batch=False, stats=("l1", "std"), progress=False)
    check.assert_ok()
    assert {p.stat for p in check.points if p.expected} == {"l1"}
    assert not any(p.quantity.startswith("Δactivation") for p in check.points)
    bias = [p for p in check.points if p.quantity == "update linear/b"]     # before a norm: rounding errors
    assert bias and not any(p.expected for p in bias)


def test_batches_may_differ_in_shape():
    batches = [(jax.random.normal(jax.random.PRNGKey(i), (n, 4, 4)), LABELS[:n]) for i, n in enumerate((8, 16))]
    check = haiku_mup.coord_check(mutants.make(mutants.mlp), (8, 16), batches, loss_fn, optax.adam(0.01),
                                  seeds=1, steps=2, fix_batch=False, progress=False)
    assert {p.step for p in check.points} == {0, 1} and np.isfinite([p.value for p in check.points]).all()


# --- the picture ---

@pytest.mark.parametrize("count", [0, 1, 5, 300])
def test_the_picture_has_a_panel_a_step(count, tmp_path):
    many = [p._replace(step=step, quantity=f"activation linear_{i}") for i in range(count) for step in (0, 1)
            for p in points(0.5 * (i == 3), seeds=1)]
    figure = CoordCheck(many).plot(tmp_path / "check.png", compare=CoordCheck(many))
    assert (tmp_path / "check.png").read_bytes().startswith(b"\x89PNG")
    assert len(figure.axes) == (4 if count else 2)
    strong = [line for axes in figure.axes for line in axes.get_lines()
              if line.get_color() == figures.FAILED_COLOUR]
    named = [text.get_text() for axes in figure.axes for text in axes.texts]
    assert len(strong) == len(named) == 4 * (count > 3)
    assert all(text == "+0.50 activation linear_3" for text in named)
