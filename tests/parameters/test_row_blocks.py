"""An LSTM's one matrix, whose rows for x and for h are two: their draws, factors and trajectories."""
import functools

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from small_models import KEY, captured, one
from trees import equal

import haiku_mup
from haiku_mup.parameters.row_factors import RowFactors, broadcastable, from_blocks, map_factor, scaled

X = jnp.linspace(-1, 1, 4 * 2 * 6).reshape(4, 2, 6)     # [time, batch, features]


class TwoMatrices(hk.RNNCore):
    """An LSTM with a matrix each for x and h, with the std that hk.LSTM's one matrix has."""

    def __init__(self, width):
        super().__init__(name="lstm")
        self.width = width

    def __call__(self, x, state):
        std = 1 / np.sqrt(x.shape[-1] + self.width)
        init = hk.initializers.TruncatedNormal(std)
        gated = (hk.Linear(4 * self.width, w_init=init, with_bias=False, name="x")(x)
                 + hk.Linear(4 * self.width, w_init=init, name="h")(state.hidden))
        i, g, f, o = jnp.split(gated, 4, axis=-1)
        c = jax.nn.sigmoid(f + 1) * state.cell + jax.nn.sigmoid(i) * jnp.tanh(g)
        h = jax.nn.sigmoid(o) * jnp.tanh(c)
        return h, hk.LSTMState(h, c)

    def initial_state(self, batch_size):
        return hk.LSTMState(*(jnp.zeros((batch_size, self.width)),) * 2)


def unrolled(core):
    def fn(x, width):
        lstm = core(width)
        out, _ = hk.dynamic_unroll(lstm, x, lstm.initial_state(x.shape[1]))
        return haiku_mup.Readout(3)(out[-1])
    return fn


ONE, TWO = (one(unrolled(core))[0] for core in (hk.LSTM, TwoMatrices))


def as_one(params):
    """The parameters of the two matrices, as those of hk.LSTM."""
    return {"lstm/linear": {"w": jnp.concatenate([params["lstm/x"]["w"], params["lstm/h"]["w"]]),
                            "b": params["lstm/h"]["b"]}, "readout": params["readout"]}


def test_factors_by_hand():
    """Width 8 -> 32, of 6 inputs: rows of x are an input's, those of h hidden."""
    mup = captured(ONE, X)
    x, h = (row for row in mup.table() if row.name.startswith("lstm/linear/w"))
    assert (x.name, x.role, x.base_shape, x.target_shape) == ("lstm/linear/w[0:6]", "input", (6, 32), (6, 128))
    assert (h.name, h.role) == ("lstm/linear/w[6:38]", "hidden")
    assert (h.base_shape, h.target_shape) == ((8, 32), (32, 128))
    assert (x.adam_lr, x.sgd_lr, h.adam_lr, h.sgd_lr) == (1, 4, 0.25, 1)
    assert x.target_std == pytest.approx(x.base_std) and h.target_std == pytest.approx(x.base_std / 2)
    scales = mup.lr_scales()["lstm/linear"]
    assert scales["w"].shape == (38, 1) and scales["b"] == 1.0
    np.testing.assert_array_equal(scales["w"][:, 0], [1] * 6 + [0.25] * 32)


def test_draws_are_those_of_the_rows():
    model = captured(ONE, X).wrap_model(ONE(32))
    draws = np.stack([model.init(jax.random.PRNGKey(s), X)["lstm/linear"]["w"] for s in range(40)])
    wanted = 0.87962566103423978 / np.sqrt(14)          # TruncatedNormal of std 1/√(6 + 8)
    # 40 · 6 · 128 and 40 · 32 · 128 draws: standard errors of 0.4 % and 0.2 %
    assert draws[:, :6].std() == pytest.approx(wanted, rel=0.02)
    assert draws[:, 6:].std() == pytest.approx(wanted / 2, rel=0.01)


@pytest.mark.parametrize("optimizer, adam", [
    (optax.sgd(0.3), False), (optax.sgd(0.2, momentum=0.9), False), (optax.adam(0.02), True),
    (optax.adamw(0.02, weight_decay=0.3), True)], ids=["sgd", "momentum", "adam", "adamw"])
@pytest.mark.parametrize("scale_eps", [False, True])
def test_one_matrix_trains_as_two(x64, optimizer, adam, scale_eps):
    x = X.astype(jnp.float64)
    losses = []
    for make in (ONE, TWO):
        mup = captured(make, x)
        model = hk.without_apply_rng(mup.wrap_model(make(32)))
        params = captured(TWO, x).wrap_model(TWO(32)).init(KEY, x)
        params = as_one(params) if make is ONE else params
        opt = mup.wrap_optimizer(optimizer, adam=adam, scale_eps=scale_eps)
        loss = jax.jit(jax.value_and_grad(lambda p, model=model: ((model.apply(p, x) - 1)**2).mean()))
        state, found = opt.init(params), []
        for _ in range(12):
            value, grads = loss(params)
            updates, state = opt.update(grads, state, params)
            params = optax.apply_updates(params, updates)
            found.append(float(value))
        losses.append(found)
    np.testing.assert_allclose(*losses, rtol=1e-10)
    assert losses[0][-1] < losses[0][0]


@pytest.mark.parametrize("inputs, parts", [(lambda w: w, 1), (lambda w: 2 * w, 1), (lambda w: w * w, 2),
                                           (lambda w: 6, 2)])
def test_rows_that_agree_are_one(inputs, parts):
    def fn(x, width):
        return unrolled(hk.LSTM)(hk.Linear(inputs(width))(x), width)

    mup = captured(one(fn)[0], X)
    assert sum(row.name.startswith("lstm/linear/w") for row in mup.table()) == parts
    if inputs(2) == 4 and parts == 2:                   # x grows × 16, h × 4
        np.testing.assert_array_equal(np.unique(mup.lr_scales()["lstm/linear"]["w"]), [1 / 16, 1 / 4])


def test_at_base_width_it_is_the_plain_model():
    mup = captured(ONE, X, base=8, target=8)
    assert equal(mup.wrap_model(ONE(8)).init(KEY, X), ONE(8).init(KEY, X))
    assert mup.lr_scales()["lstm/linear"]["w"] == 1.0


def test_in_a_stack_and_with_a_tree_that_does_not_fit():
    def fn(x, width):
        x = hk.Linear(6)(hk.Linear(6)(x))

        def block(x):
            core = hk.LSTM(width)
            return x + haiku_mup.Readout(6)(hk.dynamic_unroll(core, x, core.initial_state(2))[0])

        return hk.experimental.layer_stack(3, name="s")(block)(x)

    make, _ = one(fn)
    mup = captured(make, X)
    params = mup.wrap_model(make(32)).init(KEY, X)
    assert params["s/lstm/linear"]["w"].shape == (3, 38, 128)
    opt = mup.wrap_optimizer(optax.adam(1.0))
    updates, _ = opt.update(jax.tree.map(jnp.ones_like, params), opt.init(params), params)
    got = updates["s/lstm/linear"]["w"]
    np.testing.assert_allclose(got[:, :6], -1, rtol=1e-5)
    np.testing.assert_allclose(got[:, 6:], -0.25, rtol=1e-5)
    behind = jax.tree.map(lambda p: jnp.moveaxis(p, 0, -1), params["s/lstm/linear"])
    with pytest.raises(ValueError, match="stacks of layers must be in front"):
        opt.init({"s/lstm/linear": behind})


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_dtypes_are_kept(dtype):
    x = jnp.ones((3, 2), dtype)
    assert scaled(x, RowFactors((1.0, 0.5), (2, 1), 2)).dtype == x.dtype
    np.testing.assert_array_equal(scaled(x, RowFactors((1.0, 0.5), (2, 1), 2))[:, 0], [1, 1, 0.5])


def test_factors_are_one_number_where_they_agree():
    assert from_blocks([0.5, 0.5], (2, 1), 2) == 0.5
    inverse = map_factor(lambda x: 1 / x, from_blocks([0.5, 1.0], (1, 1), 2))
    assert broadcastable(inverse).tolist() == [[2.0], [1.0]]
    with pytest.raises(ValueError, match="3 rows"):
        scaled(jnp.ones((4, 2)), RowFactors((1.0, 0.5), (2, 1), 2))
    with pytest.raises(ValueError, match="3 rows"):
        scaled(jnp.ones(3), RowFactors((1.0, 0.5), (2, 1), 2))


def test_a_state_that_stays_while_the_inputs_grow_is_an_output():
    def fn(x, width):
        core = hk.LSTM(5)
        return hk.dynamic_unroll(core, hk.Linear(width)(x), core.initial_state(2))[0]

    with pytest.raises(haiku_mup.MupError, match="'lstm/linear/w'"):
        captured(one(fn)[0], X)


def test_rows_of_one_size_in_a_matrix_that_grows_keep_the_bases_std():
    """Inputs grow, and the hidden size stays, here: its rows' std is that of the whole matrix's fan-in."""
    def fn(x, width):
        with haiku_mup.apply_mup():
            x = hk.Linear(width)(x)
            lstm = hk.LSTM(8 if width == 16 else 4)
            return haiku_mup.Readout(3)(hk.dynamic_unroll(lstm, x, lstm.initial_state(x.shape[1]))[0][-1])

    mup = haiku_mup.Mup()
    for context, width in ((mup.init_base, 8), (mup.init_delta, 16), (mup.init_target, 32)):
        with context():
            jax.eval_shape(hk.transform(functools.partial(fn, width=width)).init, KEY, X)
    x, h = (row for row in mup.table() if row.name.startswith("lstm/linear/w"))
    assert (x.role, h.role, h.base_shape, h.target_shape) == ("hidden", "hidden", (4, 16), (4, 16))
    assert x.target_std == pytest.approx(x.base_std / 2, rel=1e-12)
    assert h.target_std == pytest.approx(h.base_std, rel=1e-12)
