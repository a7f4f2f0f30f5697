"""Learning rates by layer (Everett et al.), embeddings' rates, the decay's exponent: tables, models, checks."""
import dataclasses
import functools
import json
import math
import warnings

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from small_models import KEY, captured

import haiku_mup
from haiku_mup import MupError, maximal_update, modified_standard, neural_tangent, per_layer, standard
from haiku_mup.rules import HIDDEN, INPUT, OUTPUT, Parametrization, Power, RoleExponents

FORMS = ("standard", "neural_tangent", "maximal_update", "mean_field")
M = 16.0
RATIOS = {INPUT: (1.0, M), HIDDEN: (M, M), OUTPUT: (M, 1.0)}


def exponents(table, factor):
    """The exponents of m in one factor of inputs, hidden weights and outputs, where all widths grow by m."""
    return [round(math.log(getattr(table.factors(role, *RATIOS[role]), factor), M), 9) for role in RATIOS]


# --- tables ---

@pytest.mark.parametrize("form, alignment, adam", [
    # Everett et al., arXiv 2407.05872, Table 1, Adam's rates, as it is cited; the mean-field form by θ
    ("standard", "full", (0, -1, -1)), ("standard", "none", (0, -.5, -.5)),
    ("neural_tangent", "full", (0, -.5, -.5)), ("neural_tangent", "none", (0, 0, 0)),
    ("maximal_update", "full", (-.5, -1, -.5)), ("maximal_update", "none", (-.5, -.5, 0)),
    ("mean_field", "full", (0, -.5, 0)), ("mean_field", "none", (0, 0, .5)),
])
def test_adams_exponents_are_the_papers(form, alignment, adam):
    assert exponents(per_layer(form, alignment), "adam") == list(adam)


@pytest.mark.parametrize("form, init, forward", [
    ("standard", (0, -.5, -.5), (0, 0, 0)), ("neural_tangent", (0, 0, 0), (0, -.5, -.5)),
    ("maximal_update", (-.5, -.5, -.5), (.5, 0, -.5)), ("mean_field", (0, 0, 0), (0, -.5, -1)),
])
@pytest.mark.parametrize("alignment", ["full", "none"])
def test_draws_and_multipliers_are_those_of_the_parametrization(form, init, forward, alignment):
    table = per_layer(form, alignment)
    assert (exponents(table, "init"), exponents(table, "forward")) == (list(init), list(forward))


def test_what_is_equivalent():
    assert per_layer("maximal_update").equivalent(maximal_update()) and per_layer("mean_field").equivalent(
        maximal_update("mean_field"))
    for alignment in ("full", "none"):
        tables = {form: per_layer(form, alignment) for form in FORMS}
        assert tables["standard"].equivalent(tables["neural_tangent"])
        assert tables["maximal_update"].equivalent(tables["mean_field"])
        assert not tables["standard"].equivalent(tables["mean_field"])
    assert not any(per_layer(form).equivalent(per_layer(form, "none")) for form in FORMS)
    assert not modified_standard().equivalent(maximal_update())
    assert dataclasses.replace(modified_standard(), name="a") == dataclasses.replace(per_layer(), name="a")


def test_the_tangent_kernels_sizes_of_gradients_are_those_of_its_own_table():
    for factor in ("eps", "init", "forward", "sgd"):
        if factor != "sgd":     # its own rates are the constant ones of the tangent kernel
            assert exponents(per_layer("neural_tangent"), factor) == exponents(neural_tangent(), factor)
    assert exponents(per_layer("standard"), "sgd") == [.5, -.5, -1]
    assert exponents(per_layer("maximal_update"), "sgd") == [0, 0, 0] == exponents(
        maximal_update("table9"), "sgd")


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("alignment", ["full", "none"])
def test_sgds_rate_is_adams_over_epss_factor(form, alignment):
    table = per_layer(form, alignment, depth_alpha=1.0)
    for role in RATIOS:
        found = table.factors(role, 4.0, 16.0, 2.0)
        assert math.isclose(found.sgd * found.eps, found.adam)
        assert set(table.factors(role, 1.0, 1.0)) == {1.0}


def test_wrong_forms_and_exponents_are_refused():
    for wrong in (("ntk", "full"), ("standard", "half")):
        with pytest.raises(MupError, match="give 'standard'"):
            per_layer(*wrong)
    with pytest.raises(MupError, match="depth_alpha=2"):
        modified_standard(depth_alpha=2)
    for make in (standard, maximal_update):
        with pytest.raises(MupError, match="embedding_lr='1'"):
            make(embedding_lr="1")
    for wrong in ({"decay": 0.5}, {"embedding_lr": 1.0}):
        with pytest.raises(MupError, match="plain optimizer has no factors"):
            maximal_update("abcd", optimizer="adam", **wrong)
    with pytest.raises(MupError, match="step_decay"):
        Parametrization("mine", step_decay=1.0)
    with pytest.raises(MupError, match="embedding"):
        Parametrization("mine", embedding=Power(1))


# --- embeddings ---

def network(ids, width, readout_init=None):
    """An embedding, a bias, a gain, a hidden weight and a readout."""
    with haiku_mup.apply_mup():
        x = hk.Embed(11, width, w_init=hk.initializers.RandomNormal())(ids)
        x = hk.LayerNorm(-1, True, True)(jax.nn.relu(hk.Linear(width)(x)))
        return haiku_mup.Readout(5, w_init=readout_init)(x)


def make(width):
    return make_with_readout(None, width)


def make_with_readout(init, width):
    return hk.transform(functools.partial(network, width=width, readout_init=init))


IDS = jnp.arange(6)


def rates(table):
    return captured(make, IDS, mup=haiku_mup.Mup(parametrization=table)).lr_scales()


def test_embeddings_alone_have_a_rate_of_their_own():
    """m is 4. Biases and gains are inputs, too, and no embeddings."""
    for table, embedding, bias in [
            (standard(), 1, 1), (standard(embedding_lr=1.0), 4, 1), (modified_standard(), 1, 1),
            (maximal_update(), 1, 1), (maximal_update(embedding_lr=-0.5), 0.5, 1),
            (maximal_update("table9", embedding_lr=-0.5), 0.25, 0.5)]:
        found = rates(table)
        assert found["embed"]["embeddings"] == embedding and found["linear"]["b"] == bias, table.name
        assert found["layer_norm"]["scale"] == bias


def test_at_another_rate_standard_with_embeddings_by_the_width_has_modified_standards_ratios():
    """All rates of standard / m: embeddings 1, weights 1/m, as in modified standard; but vectors 1/m, too."""
    a, b = rates(standard(embedding_lr=1.0)), rates(modified_standard())
    for name in ("embed/embeddings", "linear/w", "readout/w"):
        module, leaf = name.split("/")
        assert a[module][leaf] / 4 == b[module][leaf]
    assert a["linear"]["b"] / 4 != b["linear"]["b"]


def test_a_table_that_is_declared_to_be_looked_up_is_an_embedding():
    def own(ids, width):
        with haiku_mup.apply_mup():
            table = hk.get_parameter("table", (11, width), init=hk.initializers.RandomNormal())
            return haiku_mup.Readout(5)(table[ids])

    mup = haiku_mup.Mup(fans={"*/table": ((), 1, 0)}, parametrization=maximal_update(embedding_lr=-0.5))
    captured(lambda width: hk.transform(functools.partial(own, width=width)), IDS, mup=mup)
    assert mup.lr_scales()["~"]["table"] == 0.5


def test_forms_with_an_embeddings_rate_are_equivalent():
    """u-μP, relative to the base: embedding 1/√width, hidden 1/√fan_in with unit draws, depth 1/√L."""
    form = maximal_update("mean_field", embedding_lr=-0.5, depth_alpha=0.5)
    assert form.equivalent(maximal_update(embedding_lr=-0.5, depth_alpha=0.5))
    assert not form.equivalent(maximal_update("mean_field", depth_alpha=0.5))
    assert exponents(form, "init") == [0, 0, 0] and exponents(form, "adam") == [0, -.5, 0]
    assert form.factors(INPUT, 1.0, M, lookup=True).adam == 1 / 4 and form.branch(4.0) == 0.5


def update(table, params, grads, optimizer=None, **kwargs):
    mup = captured(make, IDS, mup=haiku_mup.Mup(parametrization=table))
    wrapped = mup.wrap_optimizer(optimizer or optax.adam(0.1), **kwargs)
    return wrapped.update(grads, wrapped.init(params), params)[0]


def test_equivalent_forms_train_alike(x64):
    """The same losses in standard and in neural tangent with the same alignment; others with another."""
    def losses(table):
        mup = captured(make, IDS, mup=haiku_mup.Mup(parametrization=table))
        model = mup.wrap_model(make(32))
        params = jax.tree.map(lambda p: p.astype(jnp.float64), jax.jit(model.init)(KEY, IDS))
        optimizer = mup.wrap_optimizer(optax.adamw(0.05, eps=1e-3, weight_decay=0.1), scale_eps=True)

        @jax.jit
        def step(params, state):
            def loss_of(params):
                return jnp.square(model.apply(params, None, IDS) - 1).mean()

            loss, grads = jax.value_and_grad(loss_of)(params)
            updates, state = optimizer.update(grads, state, params)
            return optax.apply_updates(params, updates), state, loss

        state, found = optimizer.init(params), []
        for _ in range(3):
            params, state, loss = step(params, state)
            found.append(float(loss))
        return found

    a, b, c = map(losses, (modified_standard(), per_layer("neural_tangent"), per_layer(alignment="none")))
    np.testing.assert_allclose(a, b, rtol=1e-6)
    assert abs(c[2] - a[2]) > 1e-3 * abs(a[2])


# --- decay ---

@pytest.mark.parametrize("decay, taken", [(1.0, 1.0), (0.5, 0.5), (0.0, 0.25)])
def test_a_decays_exponent_is_that_of_lambda(decay, taken):
    """m is 4, and the rate of hidden weights 1/4. λ × m^decay, and so a step takes m^(decay - 1)."""
    params = jax.tree.map(jnp.ones_like, jax.eval_shape(make(32).init, KEY, IDS))
    none = jax.tree.map(jnp.zeros_like, params)
    adamw = optax.adamw(0.1, weight_decay=0.1)
    for form in ("table8", "mean_field"):
        found = update(maximal_update(form, decay=decay), params, none, adamw)
        np.testing.assert_allclose(found["linear"]["w"], -0.01 * taken, rtol=1e-6)
        np.testing.assert_allclose(found["readout"]["w"], -0.01, rtol=1e-6)
        np.testing.assert_allclose(found["embed"]["embeddings"], -0.01, rtol=1e-6)
    grads = jax.tree.map(jnp.ones_like, params)
    found = update(maximal_update(decay=decay), params, grads)
    np.testing.assert_allclose(found["linear"]["w"], -0.1 / 4, rtol=1e-5)


def test_an_independent_decay_with_a_factor_of_its_own_is_refused_and_the_remedy_is_right():
    mup = captured(make, IDS, mup=haiku_mup.Mup(parametrization=maximal_update(decay=0.5)))
    with pytest.raises(MupError, match="must follow the learning rate"):
        haiku_mup.adamw(mup, 0.1, decay_follows_lr=False)
    haiku_mup.adamw(mup, 0.1)


# --- models, files, sweeps ---

def test_modified_standard_draws_as_standard_does_and_multiplies_nothing():
    plain = jax.jit(make(32).init)(KEY, IDS)
    mup = captured(make, IDS, mup=haiku_mup.Mup(parametrization=modified_standard()))
    jax.tree.map(np.testing.assert_array_equal, plain, jax.jit(mup.wrap_model(make(32)).init)(KEY, IDS))
    assert {row.multiplier for row in mup.table()} == {1.0}


def test_modified_standard_has_no_tied_embeddings():
    def tied(ids, width):
        with haiku_mup.apply_mup():
            embed = haiku_mup.SharedEmbed(11, width)
            return haiku_mup.SharedReadout()(embed, hk.Linear(width)(embed(ids)))

    with pytest.raises(MupError, match="no tied embeddings.*an embedding and a readout of their own"):
        captured(lambda width: hk.transform(functools.partial(tied, width=width)), IDS,
                 mup=haiku_mup.Mup(parametrization=modified_standard()))


@pytest.mark.parametrize("table", [
    modified_standard(), per_layer("mean_field", "none"), standard(embedding_lr=1.0),
    maximal_update(embedding_lr=-0.5, decay=0.5)], ids=lambda table: table.name)
def test_files_keep_it(table, tmp_path):
    mup = captured(make, IDS, mup=haiku_mup.Mup(parametrization=table))
    state = json.loads(json.dumps(mup.state_dict()))
    assert haiku_mup.Mup.from_state_dict(state).parametrization == table
    assert ("embedding" in state["parametrization"]) == (table.embedding is not None)
    mup.check(state)


def test_files_of_other_tables_are_as_before():
    state = captured(make, IDS).state_dict()
    assert not {"embedding", "step_decay"} & set(state["parametrization"])


@pytest.mark.slow
def test_a_sweep_scales_rates_of_a_table_that_leaves_draws_alone():
    """0.2.0 took any table without draws for one without factors."""
    own = Parametrization("mine", hidden=RoleExponents(adam=Power(-1)), draws=False)
    assert not own.scales_nothing and standard().scales_nothing and not maximal_update().scales_nothing

    def loss_fn(apply, params, rng, batch):
        return jnp.square(apply(params, rng, batch)).mean()

    def losses(table):
        make_trial = haiku_mup.training(make, IDS, loss_fn, optax.adam, steps=3, base_width=8,
                                        parametrization=table)
        return jax.jit(make_trial(32))(0.1, jax.random.key(0))["train_loss"]

    plain = losses(standard())
    assert not np.allclose(losses(own), plain) and not np.allclose(losses(standard(embedding_lr=1.0)), plain)


# --- coordinate checks ---

def checked(table, widths=(32, 128), zero=True, **kwargs):
    """The coordinate check of the network; with zero, its readout starts at zero."""
    init = hk.initializers.Constant(0.0) if zero else None
    make = functools.partial(make_with_readout, init)
    x = jax.random.randint(jax.random.PRNGKey(2), (32,), 0, 11)

    def loss_fn(apply, params, rng, batch):
        ids, labels = batch
        return optax.softmax_cross_entropy_with_integer_labels(apply(params, rng, ids), labels).mean()

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", haiku_mup.MupWarning)
        return haiku_mup.coord_check(make, widths, (x, x % 5), loss_fn, optax.adam(2.0**-6),
                                     parametrization=table, progress=False, **{"seeds": 2, "steps": 3} | kwargs)


@pytest.mark.slow
def test_with_a_readout_of_zeros_modified_standard_is_flat_and_standard_with_faster_embeddings_is_not():
    assert not checked(modified_standard()).failures()
    assert checked(standard(embedding_lr=1.0)).failures()


@pytest.mark.slow
@pytest.mark.parametrize("form", FORMS)
def test_full_alignment_is_flat_in_every_form_and_none_moves_too_far_in_the_first_steps(form):
    assert not checked(per_layer(form), (32, 64, 128, 256), seeds=3).failures()
    assert checked(per_layer(form, "none"), (32, 64, 128, 256), seeds=3).failures()


@pytest.mark.slow
def test_a_drawn_readout_is_aligned_with_what_the_first_steps_change_and_only_mup_takes_that_back():
    """Of size n^-½, it sums n aligned changes: outputs move like √n, and nothing else does."""
    failed = checked(modified_standard(), (32, 128, 512), zero=False, seeds=5).failures()
    assert failed and all("readout" in each.quantity or "output" in each.quantity for each in failed)
    assert not checked(maximal_update(), (32, 128, 512), zero=False, seeds=5).failures()
