"""Rules for optimizers: factors by hand, and every optimizer of optax beside its base, in each form."""
import dataclasses
import functools
import inspect
import re

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from optimizer_cases import TABLE_8, gap, optimizer, rows, section
from small_models import KEY, MODELS, captured, mlp
from trees import equal

import haiku_mup
from haiku_mup import maximal_update, neural_tangent, standard
from haiku_mup.optimizer_rules import RULES, Matrix, ParameterGrowth, ShapeScaling, scales

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
    *(((64, 64), target, "spectral", 1) for target in ((256, 256), (256, 64), (64, 512), (128, 4096))),
])
def test_muons_hidden_factor_by_hand(base, target, shape_scaling, expected):
    m_in, m_out = target[0] / base[0], target[1] / base[1]
    growth = ParameterGrowth(factors=maximal_update().factors("hidden", m_in, m_out), m_in=m_in, m_out=m_out,
                             base=Matrix(*base), target=Matrix(*target), shape_scaling=shape_scaling)
    assert scales("muon", growth).update == pytest.approx(expected, rel=1e-12)


def test_a_shape_scaling_is_an_enum_and_equals_its_string():
    growth = ParameterGrowth(factors=maximal_update().factors("hidden", 4.0, 4.0), shape_scaling="rms")
    assert growth.shape_scaling is ShapeScaling.RMS and growth.shape_scaling == "rms"
    with pytest.raises(haiku_mup.MupError, match="shape_scaling='wide': give one of 'plain', 'width', 'rms'"):
        dataclasses.replace(growth, shape_scaling="wide")


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


@pytest.mark.parametrize("behind", ["sgd", "adam"])
@pytest.mark.filterwarnings("ignore::haiku_mup.MupWarning")
def test_clips_by_the_norm_of_units_need_parameters_and_gradients_as_at_the_base(behind, x64):
    """Weights alone: a floor under the norm, which decides for zeros, acts sooner at larger widths."""
    clip = optax.masked(optax.adaptive_grad_clip(0.01), lambda tree: jax.tree.map(lambda x: x.ndim > 1, tree))
    opt = optax.with_extra_args_support(optax.chain(clip, optimizer(behind)))
    gaps = {rule: gap(lambda mup, rule=rule: mup.wrap_optimizer(opt, rule=rule), opt, size=0.01)
            for rule in ("lars", "any", behind)}
    assert gaps["lars"] < EPS and gaps[behind] > 0.01 and gaps["any"] > 1e-4


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


def test_the_guide_says_what_to_do_with_every_optimizer_of_optax():
    public = {name for name, value in vars(optax).items() if not name.startswith("_") and (
        getattr(value, "__module__", "") == "optax._src.alias" or isinstance(value, functools.partial))}
    public |= {name for name, value in vars(contrib).items() if inspect.isfunction(value)
               and not name.startswith(("_", "scale_by_")) and value.__module__.startswith("optax.contrib.")}
    aside = set(re.findall(r"`(\w+)`", section("Which rule").partition("Not in the table:")[2]))
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
