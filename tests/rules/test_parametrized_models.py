"""Models in each parametrization: what a Mup makes of them, refuses and keeps."""
import functools

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from form_models import FORMS, IDS, MODELS, X, rectangular
from small_models import KEY, attention, captured, cnn, entry, mlp, one, tied
from trees import equal

import haiku_mup
from haiku_mup import maximal_update, neural_tangent, standard
from haiku_mup.rules import Parametrization, Power, RoleExponents


def of(make, parametrization, **kwargs):
    fn, x, _ = make
    return captured(lambda w: hk.transform(functools.partial(fn, width=w)), x,
                    mup=haiku_mup.Mup(parametrization=parametrization, **kwargs))


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
    for parametrization in (FORMS["table8"], FORMS[form]):
        mup = captured(lambda w: hk.transform(functools.partial(fn, width=w)), x,
                       mup=haiku_mup.Mup(readouts="head", parametrization=parametrization))
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
    from haiku_mup.parameters.haiku_layers import LayerType, Weight, register, unregister

    mup = of(MODELS["rectangular"], FORMS["table9"])
    model = mup.wrap_model(hk.transform(functools.partial(rectangular, width=32)))
    params = model.init(KEY, X)
    linear = unregister(hk.Linear)
    register(LayerType(hk.Linear, scaled_inputs=Weight("w", lambda *args: (1, 1))))
    try:
        with pytest.raises(haiku_mup.MupError, match="its factor in the forward pass is 2.0"):
            model.apply(params, None, X)
    finally:
        unregister(hk.Linear)
        register(linear)


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
    parametrization = Parametrization("mine", hidden=RoleExponents(adam=Power(-1)))
    mup = of(MODELS["rectangular"], parametrization)
    with pytest.raises(haiku_mup.MupError, match="scale_eps=True needs a table"):
        mup.wrap_optimizer(optax.sgd(0.1), adam=False, scale_eps=True)
    mup.wrap_optimizer(optax.sgd(0.1), adam=False)
    with pytest.raises(haiku_mup.MupError, match="plain optax.sgd"):
        haiku_mup.coord_check(lambda w: None, (8, 16), X, None, optax.adam(0.1), progress=False,
                              parametrization=FORMS["abcd sgd"])


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
