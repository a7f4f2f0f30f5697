"""Rules for optimizers: factors by hand, every optimizer of optax beside its base, forms, Muon, warnings."""
import functools
import inspect
import re
import warnings

import haiku as hk
import jax
import jax.numpy as jnp
import mutants
import numpy as np
import optax
import pytest
from optimizer_cases import TABLE_8, gap, optimizer, rows, section
from small_models import KEY, MODELS, captured, mlp
from trees import equal, mapped

import haiku_mup
from haiku_mup import maximal_update, neural_tangent, standard
from haiku_mup.optimizer_rules import RULES, Matrix, ParameterGrowth, scales

X = MODELS["mlp"][1]
contrib = optax.contrib


# --- by hand ---

@pytest.mark.parametrize("rule, role, m_in, m_out, expected", [
    # gradient, update, and what divides parameters; m_in and m_out of Tensor Programs V, Table 8
    ("adam", "hidden", 4, 16, (1, 1 / 4, 1 / 4)), ("sgd", "hidden", 4, 16, (1, 4, 4)),
    ("any", "hidden", 4, 16, (16, 1 / 4, 1 / 4)), ("any", "output", 4, 1, (4, 1, 1)),
    ("lamb", "hidden", 4, 16, (1, 1 / 4, 1 / 2)), ("adafactor", "input", 1, 16, (1, 1, 1)),
    ("lars", "hidden", 4, 16, (16, 1 / 4, 1 / 2)), ("lars", "output", 4, 1, (4, 1, 1)),
    ("muon", "hidden", 4, 4, (1, 1, 1)), ("muon", "input", 1, 16, (1, 4, 4)),
    ("novograd", "hidden", 4, 4, (1, 1, 1)), ("novograd", "output", 4, 1, (1, 2, 2)),
    ("momo", "input", 1, 16, (4, 4, 4)), ("momo_adam", "hidden", 4, 16, (1 / 4, 1 / 4, 1 / 4)),
    *((rule, "fixed", 1, 1, (1, 1, 1)) for rule in RULES),
])
def test_factors_by_hand(rule, role, m_in, m_out, expected):
    factors = maximal_update().factors(role, m_in, m_out)
    growth = ParameterGrowth(factors=factors, size=factors.init, m_in=m_in, m_out=m_out)
    assert scales(rule, growth) == expected


@pytest.mark.parametrize("base, target, shape_scaling, expected", [
    ((64, 64), (256, 256), "width", 1), ((64, 256), (256, 1024), "width", 1),
    ((64, 256), (256, 2048), "width", 1),               # wide at base and target
    ((256, 64), (2048, 256), "width", 0.5**0.5),        # high at both: √(m_out / m_in)
    ((64, 64), (256, 64), "width", 0.5), ((64, 64), (64, 256), "width", 1),
    ((64, 64), (256, 256), "rms", 0.5), ((64, 64), (256, 256), "plain", 1),
])
def test_muons_hidden_factor_by_hand(base, target, shape_scaling, expected):
    m_in, m_out = target[0] / base[0], target[1] / base[1]
    growth = ParameterGrowth(factors=maximal_update().factors("hidden", m_in, m_out), m_in=m_in, m_out=m_out,
                             base=Matrix(*base), target=Matrix(*target), shape_scaling=shape_scaling)
    assert scales("muon", growth).update == pytest.approx(expected, rel=1e-12)


def test_novograd_normalises_a_stack_as_a_whole_and_its_layers_keep_their_rate():
    """Of 4 times as many layers, each gets half of the norm: × 2, and r^(α-1) of depth."""
    def make(layers):
        def fn(x):
            with haiku_mup.apply_mup():
                x = hk.Linear(8)(x)
                x = hk.layer_stack(layers)(lambda x: haiku_mup.residual(x, hk.Linear(8, name="branch")))(x)
                return haiku_mup.Readout(3)(x)
        return hk.transform(fn)

    for alpha, factor in ((1.0, 2.0), (0.5, 1.0)):
        mup = captured(make, X, 2, 8, haiku_mup.Mup(parametrization=maximal_update(depth_alpha=alpha)))
        params, opt = make(8).init(KEY, X), optax.novograd(1.0)
        wrapped = mup.wrap_optimizer(opt, rule="novograd")
        plain, ours = (o.update(params, o.init(params), params)[0] for o in (opt, wrapped))
        module, = (name for name in params if "branch" in name)
        np.testing.assert_allclose(ours[module]["w"], factor * plain[module]["w"], rtol=1e-5)
        assert equal(ours["linear"], plain["linear"])


# --- every optimizer of optax: what it does at the target is what it does at the base, in Adam's size ---

FEW = ("lars",)
NEIGHBOURS = dict.fromkeys(RULES, "adam") | {"adam": "sgd", "momo": "sgd"}
FORMS = [TABLE_8, maximal_update("table9"), maximal_update("mean_field"),
         maximal_update("abcd", optimizer="adam"), maximal_update("abcd", optimizer="sgd")]


def of(name, rule, table=TABLE_8):
    size = 1.0 if rows()[name] == "any" else 100.0      # beside which ε is small, where it isn't scaled
    return gap(lambda mup: mup.wrap_optimizer(optimizer(name), rule=rule), optimizer(name), table, size)


EPS = 1e-5      # from ε, and from how norms change on the way


@pytest.mark.parametrize("name", FEW)
def test_an_update_is_that_of_the_base_in_adams_size(name, x64):
    assert of(name, rows()[name]) < EPS


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(set(rows()) - set(FEW)))
@pytest.mark.filterwarnings("ignore:.*decays weights:haiku_mup.MupWarning")         # fromage
def test_every_update_is_that_of_the_base_in_adams_size(name, x64):
    assert of(name, rows()[name]) < EPS


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::haiku_mup.MupWarning")
@pytest.mark.parametrize("name", rows())
def test_with_the_neighbouring_rule_it_is_another(name, x64):
    assert of(name, NEIGHBOURS[rows()[name]]) > 0.02


@pytest.mark.slow
@pytest.mark.parametrize("table", FORMS, ids=lambda table: table.name)
@pytest.mark.parametrize("name", ["adafactor", "adagrad", "adam", "lamb", "lars", "momo", "momo_adam", "muon",
                                  "novograd", "sgd"])
def test_it_is_the_same_in_every_form(name, table, x64):
    rule = rows()[name]
    if table.plain and RULES[rule].entrywise:
        with pytest.raises(haiku_mup.MupError, match="as it is"):
            of(name, rule, table)
    else:
        assert of(name, rule, table) < EPS


@pytest.mark.parametrize("rule", ["lamb", *(
    pytest.param(rule, marks=pytest.mark.slow) for rule in RULES if rule != "lamb")])
def test_other_parametrizations_have_what_is_right_or_raise(rule):
    """The standard one has no factors for any; the tangent kernel's has none but SGD's."""
    plain = {"muon": "muon", "novograd": "novograd", "momo": "momo", "momo_adam": "momo_adam", "any": "adagrad",
             "sgd": "sgd", "adam": "adam"}.get(rule, rule)
    params = mlp(32).init(KEY, X)
    grads = jax.tree.map(jnp.cos, params)
    standards = captured(mlp, X, mup=haiku_mup.Mup(parametrization=standard()))
    opt, other = standards.wrap_optimizer(optimizer(plain), rule=rule), optimizer(plain)
    assert equal(*(o.update(grads, o.init(params), params, value=1.0)[0] for o in (opt, other)))
    tangent = captured(mlp, X, mup=haiku_mup.Mup(parametrization=neural_tangent()))
    if rule in ("sgd", "momo"):
        opt = tangent.wrap_optimizer(optimizer(plain), rule=rule)
        assert equal(*(o.update(grads, o.init(params), params, value=1.0)[0] for o in (opt, other)))
    else:
        with pytest.raises(haiku_mup.MupError, match="no learning rates for Adam"):
            tangent.wrap_optimizer(optimizer(plain), rule=rule)


def test_the_readme_says_what_to_do_with_every_optimizer_of_optax():
    public = {name for name, value in vars(optax).items() if not name.startswith("_") and (
        getattr(value, "__module__", "") == "optax._src.alias" or isinstance(value, functools.partial))}
    public |= {name for name, value in vars(contrib).items() if inspect.isfunction(value)
               and not name.startswith(("_", "scale_by_")) and value.__module__.startswith("optax.contrib.")}
    aside = set(re.findall(r"`(\w+)`", section("Optimizers and decay").partition("Not in the table:")[2]
                           .partition("\n\n")[0]))
    assert {"nadamw", "muon", "sgd"} <= public and set(rows().values()) == set(RULES)
    assert public - set(rows()) - aside == set()
    assert set(rows()) <= public and not set(rows()) & aside


def test_rules_that_contradict_each_other_are_refused():
    mup = captured(mlp, X)
    for options, text in [({"rule": "adma"}, "'adam', 'sgd'"), ({"rule": "lamb", "adam": False}, "differ"),
                          ({"rule": "momo", "scale_eps": True}, "sums over all")]:
        with pytest.raises(haiku_mup.MupError, match=text):
            mup.wrap_optimizer(optax.sgd(0.1), **options)


# --- what starts at zero, and what is in blocks ---

def test_a_parameter_that_starts_at_zero_moves_as_training_makes_it():
    """LAMB moves it like Adam at first, and then by its norm, which is an update's: 1 / m both times."""
    def fn(x, width):
        with haiku_mup.apply_mup():
            return hk.Linear(width, w_init=jnp.zeros)(hk.Linear(width, name="first")(x))

    def make(width):
        return hk.without_apply_rng(hk.transform(functools.partial(fn, width=width)))

    steps = {}
    for width in (8, 32):
        opt = captured(make, X, 8, width).wrap_optimizer(optax.lamb(0.5), rule="lamb")
        params = make(width).init(KEY, X)
        state, grads = opt.init(params), jax.tree.map(jnp.ones_like, params)
        for _ in range(3):
            updates, state = opt.update(grads, state, params)
            params = optax.apply_updates(params, updates)
            steps.setdefault(width, []).append(float(updates["linear"]["w"].mean()))
    np.testing.assert_allclose(np.divide(steps[32], steps[8]), 1 / 4, rtol=1e-4)


def lstm(width):
    def fn(x):
        with haiku_mup.apply_mup():
            core = hk.LSTM(width)
            h, _ = core(x, core.initial_state(x.shape[0]))
            return haiku_mup.Readout(3)(h)
    return hk.transform(fn)


def test_blocks_of_rows_are_scaled_apart_by_norms_and_refused_by_muon():
    mup = captured(lstm, X)
    params = mup.wrap_model(lstm(32)).init(KEY, X)
    grads = jax.tree.map(jnp.ones_like, params)
    opt = mup.wrap_optimizer(optax.lamb(1.0), rule="lamb")
    update = opt.update(grads, opt.init(params), params)[0]["lstm/linear"]["w"]
    blocks = update[:6], update[6:]                         # rows of x, and of h
    assert float(blocks[0].mean() / blocks[1].mean()) == pytest.approx(4.0, rel=1e-5)
    with pytest.raises(haiku_mup.MupError, match="'lstm/linear/w'.*muon_dimensions"):
        mup.wrap_optimizer(contrib.muon(0.1), rule="muon").init(params)
    opt = mup.wrap_optimizer(contrib.muon(0.1, muon_weight_dimension_numbers=mup.muon_dimensions), rule="muon")
    update = opt.update(grads, opt.init(params), params)[0]["lstm/linear"]["w"]
    np.testing.assert_allclose(update / update[:1], mup.lr_scales()["lstm/linear"]["w"] * np.ones((38, 128)),
                               rtol=1e-5)


# --- Muon ---

@pytest.mark.parametrize("kwargs, factor", [
    ({"consistent_rms": 0.2}, 0.5), pytest.param({}, 1.0, marks=pytest.mark.slow),
    pytest.param({"learning_rate": optax.linear_schedule(0.0, 1.0, 3)}, 1.0, marks=pytest.mark.slow)])
def test_muons_scale_by_shape_is_found_out(kwargs, factor):
    """With consistent_rms a hidden weight's factor is m^-½; and it is found under a schedule, too."""
    params = mlp(32).init(KEY, X)
    grads = jax.tree.map(jnp.cos, params)
    mup = captured(mlp, X)
    plain = contrib.muon(**{"learning_rate": 1.0, **kwargs}, muon_weight_dimension_numbers=mup.muon_dimensions)
    found = []
    for o in (mup.wrap_optimizer(plain, rule="muon"), plain):
        state = jax.jit(o.init)(params)
        for _ in range(2):
            update, state = jax.jit(o.update)(grads, state, params)
        found.append(update["linear_1"]["w"])
    np.testing.assert_allclose(found[0], factor * found[1], rtol=1e-5, atol=1e-9)


def stacked():
    make, x = MODELS["stack"]
    return captured(make, x), make(32).init(KEY, x)


def test_muon_without_dimensions_in_a_stack_is_refused():
    mup, params = stacked()
    with pytest.raises(haiku_mup.MupError, match="no matrix in one layer.*muon_dimensions"):
        mup.wrap_optimizer(contrib.muon(1.0), rule="muon").init(params)


@pytest.mark.slow
def test_muon_with_dimensions_takes_each_layer_of_a_stack():
    mup, params = stacked()
    opt = mup.wrap_optimizer(contrib.muon(1.0, muon_weight_dimension_numbers=mup.muon_dimensions), rule="muon")
    update, _ = opt.update(jax.tree.map(jnp.ones_like, params), opt.init(params), params)
    wide, high = (jnp.linalg.norm(update[f"__layer_stack_no_per_layer/{name}"]["w"], axis=(1, 2))
                  for name in ("linear_1", "linear"))
    np.testing.assert_allclose(wide / high, [2**0.5] * 3, rtol=1e-5)    # √max(1, out / in), in each layer


def test_muon_takes_whole_kernels_and_leaves_embeddings_to_adam():
    make, x = MODELS["cnn"]
    found = captured(make, x).muon_dimensions(make(32).init(KEY, x))
    taken = {f"{m}/{n}": tuple(d) for m, ds in found.items() for n, d in ds.items() if d}
    assert taken == {"conv2_d_transpose/w": ((0, 1, 3), (2,))}
    make, x = MODELS["tied"]
    found = captured(make, x).muon_dimensions(make(32).init(KEY, x))
    assert found["linear"]["w"] and found["shared_embed"]["embeddings"] is None


def test_what_is_no_muon_is_refused():
    mup = captured(mlp, X)
    params = mlp(32).init(KEY, X)
    with pytest.raises(haiku_mup.MupError, match="no MuonState"):
        mup.wrap_optimizer(optax.adam(0.1), rule="muon").init(params)
    halved = optax.chain(contrib.muon(1.0), optax.stateless(         # another scale by shape
        lambda u, p: jax.tree.map(lambda x: x * x.shape[-1], u)))
    with pytest.raises(haiku_mup.MupError, match="no rule"):
        mup.wrap_optimizer(halved, rule="muon").init(params)


def test_muon_with_a_traced_rate_is_refused_and_with_injected_ones_right():
    mup = captured(mlp, X)
    params = mlp(32).init(KEY, X)
    with pytest.raises(haiku_mup.MupError, match="traced"):
        jax.jit(lambda lr: mup.wrap_optimizer(contrib.muon(lr), rule="muon").init(params))(0.1)
    injected = optax.inject_hyperparams(contrib.muon)(learning_rate=0.1)
    assert mup.wrap_optimizer(injected, rule="muon").init(params)


# --- what warns ---

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
    ("galore", "adam", "there is no rule"), ("schedule_free_sgd", "sgd", "put it around"),
    ("sgd", "lamb", "adam=|rule='sgd'"), ("fromage", "lars", "decays weights"),
])
def test_another_rule_is_named_where_one_is_right(name, rule, text):
    with pytest.warns(haiku_mup.MupWarning, match=text):
        captured(mlp, X).wrap_optimizer(optimizer(name, 0.1), rule=rule)


@pytest.mark.parametrize("rule, optimizer_", [
    ("adafactor", optax.adafactor(0.1, weight_decay_rate=1e-3)), ("lamb", optax.lamb(0.1, weight_decay=1e-3)),
    ("lars", optax.lars(0.1, weight_decay=1e-3))])
def test_a_decay_that_cannot_be_mended_warns(rule, optimizer_):
    with pytest.warns(haiku_mup.MupWarning, match="decays weights.*add_decayed_weights") as seen:
        captured(mlp, X).wrap_optimizer(optimizer_, rule=rule)
    assert len(seen) == 1


# --- around the wrapped optimizer ---

@pytest.mark.slow
def test_schedule_free_around_evaluates_what_it_trains(x64):
    """Its average is the same as without μP's factors where they are undone: of the same trajectory."""
    mup = captured(mlp, X)
    params = jax.tree.map(lambda p: p.astype(jnp.float64), mlp(32).init(KEY, X))
    grads = jax.tree.map(jnp.cos, params)
    around = contrib.schedule_free(mup.wrap_optimizer(optax.sgd(0.1), adam=False), 0.1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        within = mup.wrap_optimizer(contrib.schedule_free(optax.sgd(0.1), 0.1), adam=False)
    found = []
    for opt in (around, within):
        now, state = params, opt.init(params)
        for _ in range(3):
            update, state = opt.update(grads, state, now)
            now = optax.apply_updates(now, update)
        found.append((now, contrib.schedule_free_eval_params(state, now)))
    (trained, average), (same, mixed) = found
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-12), trained, same)
    step = mapped(lambda n, p, q: float(jnp.abs(p - q).max()), average, params)
    assert max(jax.tree.leaves(step)) < 2 and not jax.tree.all(jax.tree.map(jnp.allclose, average, mixed))


def sizes(table, width, steps=3):
    """How far each step of L-BFGS has moved the outputs, from those of the start; mean over seeds."""
    model = hk.without_apply_rng(mutants.make(mutants.mlp)(width))
    mup = haiku_mup.Mup(parametrization=table)
    captured(mutants.make(mutants.mlp), mutants.IMAGES, 64, width, mup)
    wrapped, opt = mup.wrap_model(model), optax.lbfgs()
    apply = functools.partial(wrapped.apply, x=mutants.IMAGES)

    def loss(params):
        return optax.softmax_cross_entropy_with_integer_labels(apply(params), mutants.LABELS).mean()

    @jax.jit
    def step(params, state):
        value, grad = optax.value_and_grad_from_state(loss)(params, state=state)
        updates, state = opt.update(grad, state, params, value=value, grad=grad, value_fn=loss)
        return optax.apply_updates(params, updates), state

    found = []
    for seed in range(3):
        params = jax.jit(wrapped.init)(jax.random.key(seed), mutants.IMAGES)
        first, state = apply(params), opt.init(params)
        for _ in range(steps):
            params, state = step(params, state)
            found.append(float(jnp.abs(apply(params) - first).mean()))
    return np.reshape(found, (3, steps)).mean(0)


@pytest.mark.slow
def test_lbfgs_as_it_is_moves_outputs_alike_at_every_width_in_the_abcd_form():
    few, many = (sizes(maximal_update("abcd", optimizer="sgd"), width) for width in (64, 512))
    assert np.abs(np.log2(many / few) / 3).max() < 0.25, many / few     # measured: -0.2 at first, then 0.05
    few, many = (sizes(standard(), width) for width in (64, 512))
    assert np.log2(many / few)[0] / 3 > 0.4, many / few                 # measured: 0.6


def lookahead(opt):
    return optax.lookahead(opt, 2, 0.5)


@pytest.mark.parametrize("wrap", [
    pytest.param(contrib.mechanize, marks=pytest.mark.slow), lookahead,
    lambda opt: optax.apply_if_finite(opt, 2), lambda opt: optax.MultiSteps(opt, 2).gradient_transformation()])
def test_wrappers_go_around(wrap):
    opt = wrap(captured(mlp, X).wrap_optimizer(optax.adam(0.1)))
    params = mlp(32).init(KEY, X)
    grads = jax.tree.map(jnp.cos, params)
    if wrap is lookahead:
        params = optax.LookaheadParams.init_synced(params)
    updates, _ = opt.update(grads, opt.init(params), params)
    assert np.isfinite(jax.tree.leaves(updates)[0]).all()
