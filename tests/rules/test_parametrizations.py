"""Parametrizations: their tables by hand and beside others', and one trajectory in every form of μP."""
import dataclasses
import functools
import itertools
import json
import math

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from small_models import KEY, attention, captured, cnn, entry, mlp, one, tied
from trees import equal

import haiku_mup
from haiku_mup import maximal_update, neural_tangent, standard
from haiku_mup.rules import FIXED, HIDDEN, INPUT, OUTPUT, ROLES, Parametrization, Power, RoleExponents

FORMS = {form: maximal_update(form) for form in ("table8", "table3", "table9", "mean_field")}
FORMS |= {f"abcd {o}": maximal_update("abcd", optimizer=o) for o in ("adam", "sgd")}
ALL = [*FORMS.values(), standard(), neural_tangent(), maximal_update(spectral=True)]


# --- the tables ---

def table(rule, m=16.0):
    """{role: (init, forward, SGD, Adam) as exponents of m} where all widths grow by m."""
    ratios = {INPUT: (1.0, m), HIDDEN: (m, m), OUTPUT: (m, 1.0), FIXED: (1.0, 1.0)}
    return {role: tuple(math.log(x, m) for x in (f.init, f.forward, f.sgd, f.adam))
            for role, f in ((role, rule.factors(role, *ratios[role])) for role in (INPUT, HIDDEN, OUTPUT))}


@pytest.mark.parametrize("rule, init, forward, sgd, adam", [
    # DESIGN.md, section 3; Tensor Programs V, Tables 3, 8, 9; Everett et al., Table 1
    (FORMS["table8"], (0, -.5, 0), (0, 0, -1), (1, 0, 1), (0, -1, 0)),
    (FORMS["table3"], (0, -.5, -1), (0, 0, 0), (1, 0, -1), (0, -1, -1)),
    (FORMS["table9"], (-.5, -.5, -.5), (.5, 0, -.5), (0, 0, 0), (-.5, -1, -.5)),
    (FORMS["mean_field"], (0, 0, 0), (0, -.5, -1), (1, 1, 1), (0, -.5, 0)),
    (FORMS["abcd sgd"], (-.5, -.5, -.5), (.5, 0, -.5), (0, 0, 0), (-.5, -1, -.5)),
    (FORMS["abcd adam"], (0, .5, 0), (0, -1, -1), (0, 0, 0), (0, 0, 0)),
    (standard(), (0, -.5, -.5), (0, 0, 0), (0, 0, 0), (0, 0, 0)),
    (neural_tangent(), (0, 0, 0), (0, -.5, -.5), (0, 0, 0), (math.nan,) * 3),
], ids=[*FORMS, "standard", "ntp"])
def test_exponents_are_the_papers(rule, init, forward, sgd, adam):
    expected = dict(zip((INPUT, HIDDEN, OUTPUT), zip(init, forward, sgd, adam)))
    for role, found in table(rule).items():
        np.testing.assert_allclose(found, expected[role], atol=1e-12, err_msg=f"{rule.name} {role}")


def test_unequal_proportions_by_hand():
    """m_in = 4, m_out = 16: θ is √(m_out / m_in) in Table 9, m_in^-½ for mean fields, 1 / m_in in abcd."""
    def hidden(form):
        return FORMS[form].factors(HIDDEN, 4.0, 16.0)

    #                              init  forward adam  sgd  ε      d     θ
    assert hidden("table8") ==     (0.5, 1.0, 0.25, 4.0, 1 / 16, 1.0, 1.0)
    assert hidden("table9") ==     (0.25, 2.0, 0.125, 1.0, 1 / 8, 1.0, 2.0)
    assert hidden("mean_field") == (1.0, 0.5, 0.5, 16.0, 1 / 32, 1.0, 0.5)
    assert hidden("abcd adam") ==  (2.0, 0.25, 1.0, 1.0, 1.0, 64.0, 0.25)


@pytest.mark.parametrize("rule", ALL, ids=lambda rule: rule.name)
def test_at_the_base_every_factor_is_one(rule):
    for role in ROLES:
        assert set(rule.factors(role, 1.0, 1.0)) <= {1.0} | {math.nan} or rule == neural_tangent()
        assert all(x == 1 for x in rule.factors(role, 1.0, 1.0) if not math.isnan(x))
    assert rule.attention_logits(48, 48) == 1.0


def test_forms_are_equivalent_and_others_are_not():
    assert all(a.equivalent(b) for a, b in itertools.product(FORMS.values(), repeat=2))
    others = [standard(), neural_tangent(), maximal_update(spectral=True), Parametrization("mine")]
    assert not any(maximal_update().equivalent(other) for other in others)
    assert Parametrization("mine").equivalent(Parametrization("ours"))


def test_there_and_back_is_the_same():
    theta = {"input": Power(0.3, -1), "hidden": Power(1, 0.5), "output": Power(-2, 0)}
    there = maximal_update().moved("there", **theta)
    back = there.moved(maximal_update().name, **{role: Power().times(t, -1) for role, t in theta.items()})
    assert back != there and back.equivalent(there)
    for role in ROLES:
        first = maximal_update().factors(role, 3.0, 5.0)
        np.testing.assert_allclose(back.factors(role, 3.0, 5.0), first, rtol=1e-12)


def test_the_spectral_variant_draws_smaller_where_the_fan_out_grows_less():
    """Yang et al., arXiv 2310.17813: std √(1 / fan_in) · min(1, √(fan_out / fan_in))."""
    plain, spectral = maximal_update(), maximal_update(spectral=True)
    assert spectral.factors(HIDDEN, 16.0, 4.0).init == plain.factors(HIDDEN, 16.0, 4.0).init / 2
    assert spectral.factors(HIDDEN, 4.0, 16.0) == plain.factors(HIDDEN, 4.0, 16.0)
    assert all(spectral.factors(role, 16.0, 4.0) == plain.factors(role, 16.0, 4.0) for role in (INPUT, OUTPUT))


@pytest.mark.parametrize("args", [("table7",), ("abcd",)])
def test_a_form_that_is_none_is_refused(args):
    with pytest.raises(haiku_mup.MupError, match="give 'table8'"):
        maximal_update(*args)
    with pytest.raises(haiku_mup.MupError, match="'table8' with optimizer='sgd'"):
        maximal_update(optimizer="sgd")


# --- beside others': ratios are the fans themselves, and so absolute scales ---

# inferno, commit 6b0194d, bnn/params/parametrizations: (init, SGD, Adam) of weights. Its hidden weights have
# SGD's rate 1 whatever their proportions (ours m_out / m_in), and its biases of outputs fan_out, which is no
# width: compared where the widths grow alike.
INFERNO = [
    # class, role, fan_in, fan_out, init, SGD, Adam
    (standard(), HIDDEN, 8, 32, 8**-0.5, 1, 1), (standard(), OUTPUT, 8, 32, 8**-0.5, 1, 1),
    (FORMS["table3"], INPUT, 1, 32, 1, 32, 1), (FORMS["table3"], HIDDEN, 8, 8, 8**-0.5, 1, 1 / 8),
    (FORMS["table3"], HIDDEN, 32, 32, 32**-0.5, 1, 1 / 32),
    (FORMS["table3"], OUTPUT, 8, 1, 1 / 8, 1 / 8, 1 / 8),
    (FORMS["table3"], OUTPUT, 32, 1, 1 / 32, 1 / 32, 1 / 32),
]


@pytest.mark.parametrize("rule, role, fan_in, fan_out, init, sgd, adam", INFERNO)
def test_absolute_scales_are_infernos(rule, role, fan_in, fan_out, init, sgd, adam):
    found = rule.factors(role, float(fan_in), float(fan_out))
    np.testing.assert_allclose((found.init, found.sgd, found.adam), (init, sgd, adam), rtol=1e-12)
    assert found.forward == found.gradient == 1


def test_the_tangent_kernels_draws_are_infernos():
    """Its weights have std 1 at every width; its learning rates are marked as doubtful, and not compared."""
    assert {neural_tangent().factors(role, 8.0, 32.0).init for role in ROLES} == {1.0}


# cellarium-ml, commit 51be8b0, layers/mu_linear.py: (a, b, d) of forward m^-a, std m^-b and gradient m^d.
CELLARIUM = {
    ("sgd", INPUT): (-.5, .5, 0), ("sgd", HIDDEN): (0, .5, 0), ("sgd", OUTPUT): (.5, .5, 0),
    ("adam", INPUT): (0, 0, 1), ("adam", HIDDEN): (1, -.5, 2), ("adam", OUTPUT): (1, 0, 1),
}


@pytest.mark.parametrize("optimizer, role", CELLARIUM)
def test_the_abcd_tables_are_cellariums(optimizer, role):
    a, b, d = CELLARIUM[optimizer, role]
    m = 8.0
    found = FORMS[f"abcd {optimizer}"].factors(role, *{INPUT: (1, m), HIDDEN: (m, m), OUTPUT: (m, 1)}[role])
    np.testing.assert_allclose((found.forward, found.init, found.gradient), (m**-a, m**-b, m**d), rtol=1e-12)
    assert getattr(found, optimizer) == 1


# --- one trajectory ---

OPTIMIZERS = {
    "sgd": (optax.sgd(0.05), False), "momentum": (optax.sgd(0.02, momentum=0.9), False),
    "decayed sgd": (optax.chain(optax.add_decayed_weights(0.3), optax.sgd(0.05)), False),
    "adam": (optax.adam(0.01, eps=1e-3), True), "adamw": (optax.adamw(0.01, eps=1e-3, weight_decay=0.5), True),
    "lion": (optax.lion(0.003, weight_decay=0.5), True),
}
X = jnp.linspace(-1, 1, 2 * 5 * 4).reshape(2, 5, 4)
IDS = jnp.arange(6).reshape(2, 3)


def rectangular(x, width):
    """Widths that grow by 4, by 9 and by 2; the norm's gain and the biases are no zeros."""
    bias = hk.initializers.RandomNormal(0.1)
    with haiku_mup.apply_mup():
        x = jax.nn.relu(hk.Linear(width, b_init=bias)(x))
        x = jnp.tanh(hk.Linear({8: 5, 32: 45}[width], b_init=bias, w_init=hk.initializers.RandomNormal(0.3))(x))
        x = hk.LayerNorm(-1, True, True)(hk.Linear({8: 12, 32: 24}[width])(x))
        return haiku_mup.Readout(3, b_init=bias)(x)


def block(x, width):
    y = hk.LayerNorm(-1, True, True)(x)
    init = hk.initializers.VarianceScaling()
    bias = hk.initializers.RandomNormal(0.1)
    x = x + haiku_mup.MultiHeadAttention(2, width // 2, w_init=init, b_init=bias)(y, y, y)
    y = hk.LayerNorm(-1, True, True)(x)
    return x + hk.Linear(width)(jax.nn.gelu(hk.Linear({8: 20, 32: 180}[width])(y)))


def transformer(x, width):
    """Pre-LN, its blocks stacked under remat; one width grows by 4, the other by 9."""
    with haiku_mup.apply_mup():
        x = hk.Linear(width)(x) + hk.get_parameter(
            "places", (5, width), x.dtype, init=hk.initializers.RandomNormal(0.3))[None]
        x = hk.experimental.layer_stack(2)(hk.remat(functools.partial(block, width=width)))(x)
        return haiku_mup.Readout(3)(hk.LayerNorm(-1, True, True)(x))


def convolutions(x, width):
    """Channels that grow by 4 and by 2."""
    with haiku_mup.apply_mup():
        x = hk.BatchNorm(True, True, 0.9)(hk.Conv2D(width, 3)(x), is_training=True)
        x = hk.Conv2DTranspose({8: 12, 32: 24}[width], 3)(jax.nn.relu(x))
        x = hk.DepthwiseConv2D(1, 3)(x)
        x = hk.GroupNorm(2)(hk.Conv2D(width, 3, feature_group_count=2)(x))
        return haiku_mup.ConvReadout(2, 3, 1)(x).mean((1, 2))


def recurrent(x, width):
    """An LSTM, whose rows differ; a GRU and an hk.scan, whose weights are read as parameters."""
    with haiku_mup.apply_mup():
        lstm, gru = hk.LSTM(width), hk.GRU(width)
        zeros = jnp.zeros((2, width), x.dtype)
        x, _ = hk.dynamic_unroll(lstm, x.swapaxes(0, 1), hk.LSTMState(zeros, zeros))
        x, _ = hk.dynamic_unroll(gru, x, zeros)
        linear = hk.Linear(width)
        _, x = hk.scan(lambda c, x: (jnp.tanh(linear(c) + x),) * 2, jnp.zeros_like(x[0]), x)
        x = hk.vmap(hk.Linear(width, name="mapped"), split_rng=False)(x)
        return haiku_mup.Readout(3)(x)


def double(next_creator, shape, dtype, init, context):
    """hk.Embed makes float32 whatever the mode."""
    return next_creator(shape, jnp.float64, init)


def own(x, width):
    """Parameters of one's own, on several axes, an embedding, a bias; an einsum makes the outputs."""
    init = hk.initializers.RandomNormal(0.3)
    with hk.custom_creator(double), haiku_mup.apply_mup():
        codes = hk.Embed(7, width, lookup_style="ONE_HOT", w_init=init)(jnp.arange(10).reshape(2, 5) % 7)
        x = codes + hk.Linear(width)(x)
        with haiku_mup.fans(fan_in=0, fan_out=(1, 2)):
            w = hk.get_parameter("heads", (width, 2, width // 2), x.dtype, init=init)
        x = hk.Bias(bias_dims=[-1], b_init=init)(jnp.tanh(jnp.einsum("...d,dhk->...hk", x, w)))
        return jnp.einsum("...hk,hkc->...c", x, hk.get_parameter(
            "outputs", (2, width // 2, 3), x.dtype, init=init))


def with_tie(ids, width):
    with hk.custom_creator(double), haiku_mup.apply_mup():
        embed = haiku_mup.SharedEmbed(11, width, w_init=hk.initializers.RandomNormal(0.5))
        x = hk.LayerNorm(-1, True, True)(embed(ids))
        x = x + hk.Linear(width, with_bias=False)(jnp.tanh(hk.Linear({8: 12, 32: 24}[width])(x)))
        return haiku_mup.SharedReadout(use_bias=True)(embed, x)


MODELS = {
    "rectangular": (rectangular, X, {}), "transformer": (transformer, X, {}), "tied": (with_tie, IDS, {}),
    "convolutions": (convolutions, jnp.linspace(-1, 1, 2 * 6 * 6 * 3).reshape(2, 6, 6, 3), {}),
    "recurrent": (recurrent, X, {}),
    "own": (own, X, {"readouts": "*/outputs", "fans": {"*/outputs": ((0, 1), 2)}}),
}


def trajectory(name, rule, optimizer, adam, steps=4):
    """Losses of a few steps; a plain optimizer, where the form needs no wrap."""
    fn, x, kwargs = MODELS[name]
    x = x.astype(jnp.float64) if jnp.issubdtype(x.dtype, jnp.floating) else x
    base, target = (hk.without_apply_rng(hk.transform_with_state(functools.partial(fn, width=w)))
                    for w in (8, 32))
    mup = haiku_mup.Mup(parametrization=rule, **kwargs)
    with mup.init_base():
        jax.eval_shape(base.init, KEY, x)
    twice = name == "rectangular"       # draws of the target and of the wrapped model, which compile for long
    with mup.init_target():
        first = jax.jit(target.init)(KEY, x) if twice else jax.eval_shape(target.init, KEY, x)
    model = mup.wrap_model(target)
    if not rule.plain:
        optimizer = mup.wrap_optimizer(optimizer, adam=adam, scale_eps=adam)

    @jax.jit
    def start(key, x):
        params, state = model.init(key, x)
        return params, state, optimizer.init(params)

    params, state, opt_state = start(KEY, x)
    assert not twice or equal(params, first[0])

    @jax.jit
    def step(params, state, opt_state):
        def loss(params):
            out, new = model.apply(params, state, x)
            return jnp.mean((out - jnp.broadcast_to(jnp.arange(out.shape[-1]), out.shape))**2), new

        (value, new), grads = jax.value_and_grad(loss, has_aux=True)(params)
        updates, opt_state = optimizer.update(grads, opt_state, params)
        return optax.apply_updates(params, updates), new, opt_state, value

    losses = []
    for _ in range(steps):
        params, state, opt_state, value = step(params, state, opt_state)
        losses.append(float(value))
    return losses


def gaps(name, kind, forms):
    """{form: the largest relative difference of its losses from the first form's}"""
    optimizer, adam = OPTIMIZERS[kind]
    without = {"abcd sgd"} if adam else set()           # it needs Adam's factors
    without |= {"table3"} if name == "tied" else set()  # it has no multiplier to tie with
    forms = {form: rule for form, rule in forms.items() if form not in without}
    first, *others = (trajectory(name, rule, optimizer, adam) for rule in forms.values())
    assert len(set(first)) == len(first)
    return {form: np.max(np.abs(np.divide(losses, first) - 1)) for form, losses in zip(list(forms)[1:], others)}


CASES = [(name, kind) for name, kind in itertools.product(MODELS, OPTIMIZERS)]
FEW = {("rectangular", "adamw"): FORMS, ("tied", "sgd"): FORMS, ("own", "decayed sgd"): FORMS}


@pytest.mark.parametrize("name, kind", FEW)
def test_forms_train_alike(name, kind, x64):
    found = gaps(name, kind, FEW[name, kind])
    assert max(found.values()) < 1e-9, found            # rounding, grown by training


@pytest.mark.slow
@pytest.mark.parametrize("name, kind", CASES)
def test_all_forms_train_alike(name, kind, x64):
    found = gaps(name, kind, FORMS)
    assert max(found.values()) < 1e-9, found


@pytest.mark.parametrize("rule", [neural_tangent(), *(
    pytest.param(rule, marks=pytest.mark.slow) for rule in (standard(), maximal_update(spectral=True)))])
def test_other_parametrizations_train_otherwise(rule, x64):
    """The comparison is not blind."""
    ours, other = (trajectory("rectangular", rule, optax.sgd(0.05), False) for rule in (maximal_update(), rule))
    assert not np.allclose(ours, other, rtol=1e-3)


# --- in a Mup ---

def of(make, rule, **kwargs):
    fn, x, _ = make
    return captured(lambda w: hk.transform(functools.partial(fn, width=w)), x,
                    mup=haiku_mup.Mup(parametrization=rule, **kwargs))


@pytest.mark.parametrize("make", [mlp, cnn, attention, tied])
def test_standard_is_the_plain_model_bit_for_bit(make):
    x = {mlp: jnp.ones((2, 6)), cnn: jnp.ones((2, 6, 6, 3)), attention: X, tied: IDS}[make]
    mup = captured(make, x, mup=haiku_mup.Mup(parametrization=standard()))
    plain, wrapped = make(32), mup.wrap_model(make(32))
    params = plain.init(KEY, x)
    assert equal(wrapped.init(KEY, x), params)
    assert equal(wrapped.apply(params, x), plain.apply(params, x))
    assert jax.tree.leaves(mup.lr_scales()) == [1.0] * len(jax.tree.leaves(params))
    assert {row.multiplier for row in mup.table()} == {1.0}


def test_standard_takes_models_that_are_not_made_for_mup():
    make, x = one(lambda x, width: hk.Linear(3)(hk.Linear(width)(x)))
    mup = captured(make, x, mup=haiku_mup.Mup(parametrization=standard()))
    assert [row.role for row in mup.table() if row.name.endswith("w")] == ["input", "output"]


def test_neural_tangent_has_no_rates_for_adam():
    mup = of(MODELS["rectangular"], neural_tangent())
    for ask in (mup.lr_scales, lambda: mup.wrap_optimizer(optax.adam(0.1)), mup.scale_updates):
        with pytest.raises(haiku_mup.MupError, match="neural tangent: no learning rates for Adam"):
            ask()
    assert set(jax.tree.leaves(mup.lr_scales(adam=False))) == {1.0}
    assert "–" in mup.summary() and "nan" not in mup.summary()


def test_neural_tangent_warns_of_adam_with_what_can_be_done():
    """Not with adam=True or scale_eps=True, which raise."""
    mup = of(MODELS["rectangular"], neural_tangent())
    with pytest.warns(haiku_mup.MupWarning, match="like Adam.*no learning rates for Adam.*use SGD") as said:
        mup.wrap_optimizer(optax.adam(0.1), adam=False)
    assert not any("scale_eps" in str(w.message) or "pass adam" in str(w.message) for w in said)
    for wrong in ({"adam": True}, {"adam": False, "scale_eps": True}):
        with pytest.raises(haiku_mup.MupError, match="no learning rates for Adam.*use SGD"):
            mup.wrap_optimizer(optax.sgd(0.1), **wrong)
    mup.wrap_optimizer(optax.sgd(0.1), adam=False)
    with pytest.warns(haiku_mup.MupWarning, match="pass adam=False, or rule='any'"):
        of(MODELS["rectangular"], maximal_update()).wrap_optimizer(optax.sgd(0.1))


@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
def test_abcd_needs_no_wrap_and_says_so(optimizer):
    mup = of(MODELS["rectangular"], FORMS[f"abcd {optimizer}"])
    for ask in (lambda: mup.wrap_optimizer(optax.sgd(0.1), adam=False), mup.scale_updates):
        with pytest.raises(haiku_mup.MupError, match=r"abcd.*give it as it is"):
            ask()


def test_table_3_has_no_tied_embeddings():
    with pytest.raises(haiku_mup.MupError, match="table3 has no tied embeddings"):
        captured(tied, IDS, mup=haiku_mup.Mup(parametrization=FORMS["table3"]))


def test_values_that_are_not_drawn_keep_what_they_stand_for():
    """A gain of one is stored as 1 / θ, and used as one."""
    make, x = one(lambda x, width: haiku_mup.Readout(2)(hk.LayerNorm(-1, True, True)(hk.Linear(width)(x))))
    mup = captured(make, x, mup=haiku_mup.Mup(parametrization=FORMS["table9"]))
    params = mup.wrap_model(make(32)).init(KEY, x)
    assert set(np.asarray(params["layer_norm"]["scale"])) == {0.5}      # 1 / √4
    row = next(row for row in mup.table() if row.name == "layer_norm/scale")
    assert (row.multiplier, row.role) == (2.0, "input")


def test_ones_own_table_works_and_is_kept(tmp_path):
    mine = Parametrization("mine", hidden=RoleExponents(init=Power(-0.25), forward=Power(-0.5), adam=None),
                           tied=None, attention=-0.25, spectral=True)
    mup = of(MODELS["rectangular"], mine)
    mup.save(tmp_path / "base.json")
    again = haiku_mup.Mup.load(tmp_path / "base.json")
    assert again._declarations.parametrization == mine and repr(again).startswith("Mup(mine, base=")
    again = captured(lambda w: hk.transform(functools.partial(rectangular, width=w)), X, mup=_Loaded(again))
    assert again.table()[2].multiplier == pytest.approx(4**-0.5)


class _Loaded:
    """A Mup whose base is there already."""

    def __init__(self, mup):
        self._mup = mup

    def init_base(self):
        return haiku_mup.Mup().init_base()

    def __getattr__(self, name):
        return getattr(self._mup, name)


@pytest.mark.parametrize("change", [
    {"hidden": [[0, 0]] * 6}, {"hidden": [["a", 0]] * 7}, {"tied": [1, 2, 3]}, {"more": 1}, {"input": 3},
    {"hidden": [[1e400, 0]] * 7}, {"attention": "x"}, {"draws": 1}, {"name": 3}])
def test_a_table_that_is_none_is_refused(change):
    from haiku_mup.serialization import state_dict as store

    state = of(MODELS["rectangular"], maximal_update()).state_dict()
    head = {key: value for key, value in state.items() if key not in ("parameters", "crc")}
    head["parametrization"] = head["parametrization"] | change
    with pytest.raises(haiku_mup.MupError, match="parametrization|JSON"):
        haiku_mup.Mup.from_state_dict(store.with_checksum(head) | {"parameters": state["parameters"]})


@pytest.mark.parametrize("wrong", ["mup", maximal_update, 3])
def test_what_is_no_parametrization_is_refused(wrong):
    with pytest.raises(haiku_mup.MupError, match="give a haiku_mup.Parametrization"):
        haiku_mup.Mup(parametrization=wrong)


def test_a_parametrization_is_a_frozen_value():
    assert maximal_update() == maximal_update() and hash(maximal_update()) == hash(maximal_update())
    assert maximal_update() != maximal_update("table9")
    with pytest.raises(dataclasses.FrozenInstanceError):
        maximal_update().name = "mine"
    assert json.loads(json.dumps(dataclasses.asdict(standard())))["draws"] is False


# --- outputs of one's own ---

def test_a_parameter_of_ones_own_may_be_a_readout():
    make, x = one(entry("w", lambda width: (width, 3), hk.initializers.RandomNormal()))
    mup = captured(make, x, mup=haiku_mup.Mup(readouts="~/w"))
    (row,) = mup.table()
    assert (row.role, row.multiplier, row.sgd_lr, row.adam_lr) == ("output", 0.25, 4.0, 1.0)
    params = {"~": {"w": jnp.ones((32, 3))}}
    assert equal(mup.wrap_model(make(32)).apply(params, None, x), jnp.full((32, 3), 0.25))
    with pytest.raises(haiku_mup.MupError, match=r"Mup\(readouts='~/w'\)"):
        captured(make, x)


class Itself(haiku_mup.Readout):
    """A readout that reads its weights itself."""

    def __call__(self, x):
        return x @ hk.get_parameter("w", (x.shape[-1], self.output_size), init=jnp.ones)


def test_a_readout_that_reads_its_weights_itself_is_multiplied():
    make, x = one(lambda x, width: Itself(3)(jnp.ones_like(hk.Linear(width)(x))))
    mup = captured(make, x)
    params = make(32).init(KEY, x)
    assert equal(mup.wrap_model(make(32)).apply(params, None, x), jnp.full((2, 3), 8.0))     # 32 / 4


@pytest.mark.parametrize("form", ["table8", "table9"])
@pytest.mark.parametrize("batched", [False, True])
def test_convolutions_with_channels_first_are_multiplied(batched, form):
    def fn(x, width):
        with haiku_mup.apply_mup():
            x = hk.Conv2D(width, 1, data_format="NCHW")(x)
            return hk.Conv2D(2, 1, data_format="NCHW", name="head")(x)

    x = jnp.linspace(-1, 1, 3 * 25).reshape(*(1,) * batched, 3, 5, 5)
    losses = []
    for rule in (FORMS["table8"], FORMS[form]):
        mup = captured(lambda w: hk.transform(functools.partial(fn, width=w)), x,
                       mup=haiku_mup.Mup(readouts="head", parametrization=rule))
        model = mup.wrap_model(hk.transform(functools.partial(fn, width=32)))
        params = model.init(KEY, x)
        losses.append(model.apply(params, None, x))
    with pytest.warns(haiku_mup.MupWarning, match="applied without its multipliers"):
        plain = hk.transform(functools.partial(fn, width=32)).apply(params, None, x)
    np.testing.assert_allclose(losses[1], losses[0], rtol=1e-5, atol=1e-6)
    if form == "table8":
        np.testing.assert_allclose(losses[0], plain / 4, rtol=1e-5, atol=1e-6)


def test_a_shared_matrix_that_is_read_stands_for_what_it_is():
    def fn(ids, width):
        with haiku_mup.apply_mup():
            embed = haiku_mup.SharedEmbed(11, width)
            weights, readout = embed.get_weights(), haiku_mup.SharedReadout()
            x = embed(ids)
            return readout(weights, x + jax.nn.softmax(readout(embed, x)) @ weights)

    outs = []
    for form in ("table8", "table9"):
        mup = captured(lambda w: hk.without_apply_rng(hk.transform(functools.partial(fn, width=w))), IDS,
                       mup=haiku_mup.Mup(parametrization=FORMS[form]))
        model = mup.wrap_model(hk.without_apply_rng(hk.transform(functools.partial(fn, width=32))))
        outs.append(model.apply(model.init(KEY, IDS), IDS))
    np.testing.assert_allclose(*outs, rtol=1e-4, atol=1e-5)


def test_parameters_of_numpy_are_multiplied_alike():
    mup = of(MODELS["rectangular"], FORMS["table9"])
    model = mup.wrap_model(hk.transform(functools.partial(rectangular, width=32)))
    params = model.init(KEY, X)
    ours, numpys = (model.apply(p, None, X) for p in (params, jax.device_get(params)))
    np.testing.assert_allclose(numpys, ours, rtol=1e-5)


def test_inputs_that_hide_a_factor_are_refused():
    """Whatever keeps a layer from knowing its factor, it is not used without."""
    from haiku_mup.parameters.haiku_layers import LayerType, Weight, register

    mup = of(MODELS["rectangular"], FORMS["table9"])
    model = mup.wrap_model(hk.transform(functools.partial(rectangular, width=32)))
    params = model.init(KEY, X)
    undo = register(LayerType(hk.Linear, scaled_inputs=Weight("w", lambda *args: (1, 1))))
    try:
        with pytest.raises(haiku_mup.MupError, match="its factor in the forward pass is 2.0"):
            model.apply(params, None, X)
    finally:
        undo()


def test_a_glob_over_a_modules_bias_leaves_the_check_right():
    def make_model(width):
        def fn(x):
            with haiku_mup.apply_mup():
                return hk.Linear(3, name="head")(jax.nn.relu(hk.Linear(width)(x)))
        return hk.transform(fn)

    def loss(apply, params, rng, batch):
        return jnp.mean((apply(params, rng, batch) - 1)**2)

    x = jax.random.normal(KEY, (16, 6))
    check = haiku_mup.coord_check(make_model, (32, 256), x, loss, optax.adam(0.01), readouts="*head*",
                                  seeds=4, steps=2, progress=False)
    check.assert_ok()
    assert any(str(f.expected) == "-0.5" for f in check.findings)


def test_sgds_rates_that_are_no_pair_are_refused():
    rule = Parametrization("mine", hidden=RoleExponents(adam=Power(-1)))
    mup = of(MODELS["rectangular"], rule)
    with pytest.raises(haiku_mup.MupError, match="scale_eps=True needs a table"):
        mup.wrap_optimizer(optax.sgd(0.1), adam=False, scale_eps=True)
    mup.wrap_optimizer(optax.sgd(0.1), adam=False)
    with pytest.raises(haiku_mup.MupError, match="plain optax.sgd"):
        haiku_mup.coord_check(lambda w: None, (8, 16), X, None, optax.adam(0.1), progress=False,
                              parametrization=FORMS["abcd sgd"])


@pytest.mark.parametrize("kwargs", [
    {"name": 3}, {"hidden": None}, {"hidden": RoleExponents(init=None)},
    {"hidden": RoleExponents(init=Power(math.nan))}, {"tied": (1, 2)}, {"input": RoleExponents(forward=0.5)},
    {"attention": None}, {"hidden": RoleExponents(init=Power(64))}, {"plain": "lion"}])
def test_a_table_that_cannot_be_is_refused(kwargs):
    with pytest.raises(haiku_mup.MupError, match=next(iter(kwargs))):
        Parametrization(**{"name": "mine"} | kwargs)


def test_tables_that_store_or_tie_otherwise_are_not_equivalent():
    nine = FORMS["table9"]
    bare = {role: dataclasses.replace(getattr(nine, role), stored=Power())
            for role in ("input", "hidden", "output")}
    assert not dataclasses.replace(nine, **bare).equivalent(nine)
    assert not Parametrization("a", tied=Power(-1)).equivalent(Parametrization("b"))


class Twice(hk.Linear):
    """A linear layer that calls hk.Linear's own method, or reads its weights itself."""

    def __call__(self, x, itself=False):
        if itself:
            return x @ hk.get_parameter("w", (x.shape[-1], self.output_size), init=jnp.ones)
        return 1 + super().__call__(x)


@pytest.mark.parametrize("itself", [False, True])
def test_a_subclass_that_is_named_a_readout_is_multiplied_once(itself):
    make, x = one(lambda x, width: Twice(3, w_init=jnp.ones, name="head")(hk.Linear(width)(x), itself))
    mup = captured(make, x, mup=haiku_mup.Mup(readouts="head"))
    params = make(32).init(KEY, x)
    plain, ours = (model.apply(params, None, x) for model in (make(32), mup.wrap_model(make(32))))
    np.testing.assert_allclose(ours - (not itself), (plain - (not itself)) / 4, rtol=1e-6)
