"""`RunScale`: its factors by hand, what they keep exactly, limits, and how adamw and a Mup use it."""
import json
import math
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from small_models import KEY, MODELS, captured, mlp

import haiku_mup
from haiku_mup import MupError, RunScale

X = MODELS["mlp"][1]
FILES = pathlib.Path(__file__).parents[1] / "serialization" / "version_0_2_0"

# --- by hand ---


@pytest.mark.parametrize("m_b, m_d, lr, one_minus_beta, eps, decay, sgd", [
    # Complete(d)P: √(m_B/m_D), m_B/m_D, √(m_D/m_B), √(m_B/m_D); SGD: m_B / √m_D
    (1, 1, 1, 1, 1, 1, 1), (4, 1, 2, 4, 1 / 2, 2, 4), (1, 4, 1 / 2, 1 / 4, 2, 1 / 2, 1 / 2),
    (4, 16, 1 / 2, 1 / 4, 2, 1 / 2, 1), (16, 4, 2, 4, 1 / 2, 2, 8), (1 / 4, 1, 1 / 2, 1 / 4, 2, 1 / 2, 1 / 4),
])
def test_factors_are_the_papers(m_b, m_d, lr, one_minus_beta, eps, decay, sgd):
    scale = RunScale(batch_ratio=m_b, tokens_ratio=m_d)
    assert (scale.adam_lr, scale.eps, scale.decay, scale.sgd_lr) == (lr, eps, decay, sgd)
    assert 1 - scale.beta(0.9375) == one_minus_beta / 16
    assert scale.step_decay == one_minus_beta


def test_exponents_are_parameters():
    scale = RunScale(tokens_ratio=16, lr_tokens=-0.3)
    assert math.isclose(scale.adam_lr, 16**-0.3) and math.isclose(scale.sgd_lr, 16**-0.3)
    assert math.isclose(scale.decay, 16**-0.7)          # lr · λ · steps stays, whatever the exponent
    assert RunScale(batch_ratio=4, lr_batch=1, eps_batch=0, sgd_lr_batch=0.5).adam_lr == 4
    assert RunScale(batch_ratio=4, eps_batch=0).eps == 1
    assert RunScale(batch_ratio=4, sgd_lr_batch=0.5).sgd_lr == 2


def test_averages_may_follow_the_batch_alone():
    """So they do where runs are too short for a memory that grows with them."""
    scale = RunScale(batch_ratio=4, tokens_ratio=16, betas_tokens=0)
    assert 1 - scale.beta(0.9375) == 4 / 16 and 1 - RunScale(tokens_ratio=16, betas_tokens=0).beta(0.75) == 0.25
    assert scale.decay == RunScale(batch_ratio=4, tokens_ratio=16).decay == 0.5     # lr · λ · steps stays
    assert "1 - β × 4" in str(scale)
    half = RunScale(batch_ratio=4, betas="half_life", betas_batch=0.5)
    assert half.beta(0.5) == 0.25
    with pytest.raises(MupError, match="b1=0.75 or more"):
        RunScale(batch_ratio=4, tokens_ratio=16, betas_tokens=0).adam(0.1, b1=0.5)
    with pytest.raises(MupError, match="RunScale: betas_batch"):
        RunScale(betas_batch="1")


@pytest.mark.parametrize("m_b, m_d, exponents", [
    (4, 1, {}), (2, 8, {}), (4, 16, {"lr_tokens": -0.3}), (0.5, 3, {"lr_batch": 1.0}),
])
def test_what_decay_takes_over_the_run_stays(m_b, m_d, exponents):
    scale = RunScale(batch_ratio=m_b, tokens_ratio=m_d, **exponents)
    adamw = scale.adamw(0.01, b1=0.8, b2=0.8, weight_decay=0.1)
    assert math.isclose(adamw["learning_rate"] * adamw["weight_decay"] * m_d / m_b, 0.01 * 0.1)
    assert math.isclose(scale.step_decay * m_d / m_b, 1)


def test_a_half_life_is_the_same_share_of_the_run():
    for m_b, m_d in ((4, 1), (2, 16), (0.5, 1)):
        scale = RunScale(batch_ratio=m_b, tokens_ratio=m_d, betas="half_life")
        for beta in (0.5, 0.9, 0.999):
            half = math.log(0.5) / math.log(beta)                   # steps, of 1 at the base
            here = math.log(0.5) / math.log(scale.beta(beta))       # steps, of m_D / m_B here
            assert math.isclose(here / (m_d / m_b), half)
    linear, exact = RunScale(batch_ratio=2), RunScale(batch_ratio=2, betas="half_life")
    assert abs(linear.beta(0.999) - exact.beta(0.999)) < 2e-6       # they agree for small 1 - β
    assert abs(linear.beta(0.6) - exact.beta(0.6)) > 0.1


def test_numbers_of_steps():
    assert RunScale(batch_ratio=4, tokens_ratio=16).steps(1000) == 4000
    assert RunScale(batch_ratio=1e9).steps(1000) == 1


# --- limits ---

@pytest.mark.parametrize("scale, beta, least", [
    ({"batch_ratio": 16}, 0.9, 0.9375), ({"batch_ratio": 4}, 0.5, 0.75), ({"batch_ratio": 7}, 0.5, 0.8572)])
def test_a_beta_below_zero_is_refused_and_each_remedy_is_right(scale, beta, least):
    with pytest.raises(MupError, match=rf"b1={least} or more") as caught:
        RunScale(**scale).adam(0.1, b1=beta)
    assert "betas='half_life'" in str(caught.value)
    assert 0 <= RunScale(**scale).adam(0.1, b1=least)["b1"] < 1e-3
    assert 0 < RunScale(**scale, betas="half_life").adam(0.1, b1=beta)["b1"] < 1


@pytest.mark.parametrize("wrong", [
    {"batch_ratio": 0}, {"tokens_ratio": -1}, {"batch_ratio": True}, {"batch_ratio": math.nan},
    {"tokens_ratio": math.inf}, {"lr_batch": "0.5"}, {"betas": "quadratic"}, {"critical_batch_ratio": 0},
])
def test_what_is_no_ratio_or_exponent_is_refused(wrong):
    with pytest.raises(MupError, match=f"RunScale: {next(iter(wrong))}"):
        RunScale(**wrong)


@pytest.mark.parametrize("beta", [1, 1.5, -0.1, math.nan])
def test_what_is_no_beta_is_refused(beta):
    with pytest.raises(MupError, match="from 0 to below 1"):
        RunScale().beta(beta)


def test_a_batch_beyond_the_critical_one_warns_and_one_below_does_not():
    mup = captured(mlp, X)
    with pytest.warns(haiku_mup.MupWarning, match="beyond the critical one of 8"):
        haiku_mup.adamw(mup, 0.1, b1=0.95, run_scale=RunScale(batch_ratio=16, critical_batch_ratio=8))
    assert RunScale(batch_ratio=8, critical_batch_ratio=8).doubts == [] == RunScale(batch_ratio=99).doubts


# --- equivalences, in float64 ---

def gradients(batch, steps, size=5):
    """Per-example gradients [steps, batch, size] that don't depend on the parameters."""
    return jax.random.normal(KEY, (steps, batch, size), jnp.float64)


def trained(optimizer, grads, p=None):
    """Returns parameters after one update by each row of grads [steps, size]."""
    p = jnp.zeros(grads.shape[1:], grads.dtype) if p is None else p
    state = optimizer.init(p)
    for g in grads:
        update, state = optimizer.update(g, state, p)
        p = p + update
    return p


def test_sgd_on_a_linear_loss_ends_at_the_same_place(x64):
    """The linear scaling rule is exact where gradients don't depend on parameters."""
    grads = gradients(2, 8)
    for m_b in (2, 4):
        larger = grads.reshape(8 // m_b, 2 * m_b, -1)
        scale = RunScale(batch_ratio=m_b)
        a = trained(optax.sgd(0.3), grads.mean(1))
        np.testing.assert_allclose(trained(optax.sgd(**scale.sgd(0.3)), larger.mean(1)), a, rtol=1e-12)
        assert not np.allclose(trained(optax.sgd(0.3 * m_b**0.5), larger.mean(1)), a, rtol=1e-2)


def test_sgds_momentum_moves_as_far_by_a_constant_gradient(x64):
    """In the long run a constant gradient moves parameters by lr / (1 − momentum) a step."""
    scale, n = RunScale(batch_ratio=2), 400
    a = trained(optax.sgd(0.1, 0.9), jnp.ones((n, 1), jnp.float64))
    b = trained(optax.sgd(**scale.sgd(0.1, momentum=0.9)), jnp.ones((n // 2, 1), jnp.float64))
    step = 0.1 / (1 - 0.9)
    assert abs(float(a[0] - b[0])) < 10 * step              # the two starts
    assert abs(float(a[0]) + n * step) < 10 * step


def test_eps_keeps_its_size_beside_noise(x64):
    """Noise in a batch of m_B times as many examples is smaller by √m_B: so Adam's updates are the same."""
    grads, scale = gradients(1, 6)[:, 0], RunScale(batch_ratio=4, betas="half_life")
    a = trained(optax.adam(0.1, eps=0.5), grads)
    b = trained(optax.adam(0.1, eps=0.5 * scale.eps), grads / 4**0.5)
    np.testing.assert_allclose(b, a, rtol=1e-12)
    root = scale.adam(0.1, eps_root=0.5)["eps_root"]        # it is added to squares
    np.testing.assert_allclose(trained(optax.adam(0.1, eps_root=root, eps=0.0), grads / 4**0.5),
                               trained(optax.adam(0.1, eps_root=0.5, eps=0.0), grads), rtol=1e-12)


# --- adamw and Mup ---

def test_adamw_is_optaxs_with_the_constants_that_the_value_gives(x64):
    mup, scale = captured(mlp, X), RunScale(batch_ratio=4, tokens_ratio=16)
    params = jax.tree.map(lambda p: p.astype(jnp.float64), mlp(32).init(KEY, X))
    grads = jax.tree.map(lambda p: jnp.cos(30 * p), params)
    constants = scale.adamw(0.01, b1=0.8, b2=0.9, eps=1e-3, weight_decay=0.3)

    def update(optimizer):
        return optimizer.update(grads, optimizer.init(params), params)[0]

    ours = update(haiku_mup.adamw(mup, 0.01, 0.8, 0.9, 1e-3, 0.3, batch_ratio=4, tokens_ratio=16))
    same = update(mup.wrap_optimizer(optax.adamw(**constants), scale_eps=True, run_scale=scale))
    plain = update(haiku_mup.adamw(mup, 0.01, 0.8, 0.9, 1e-3, 0.3, run_scale=RunScale()))
    jax.tree.map(np.testing.assert_array_equal, ours, same)
    assert not np.allclose(ours["linear_1"]["w"], plain["linear_1"]["w"])


def test_an_independent_decay_takes_kappa_times_as_much_a_step():
    mup, none = captured(mlp, X), jax.tree.map(jnp.zeros_like, mlp(32).init(KEY, X))
    params = jax.tree.map(jnp.ones_like, none)
    optimizer = haiku_mup.adamw(mup, lambda step: 0.1, weight_decay=lambda step: 0.01, decay_follows_lr=False,
                                b1=0.75, batch_ratio=4)
    found = optimizer.update(none, optimizer.init(params), params)[0]
    jax.tree.map(lambda u: np.testing.assert_allclose(u, -0.04, rtol=1e-5), found)


def test_a_mup_keeps_the_scale_in_files_and_shows_it(tmp_path):
    mup, scale = captured(mlp, X), RunScale(batch_ratio=4, tokens_ratio=16, betas="half_life", lr_tokens=-0.3)
    before = mup.state_dict()
    assert mup.run_scale is None and "run_scale" not in before and "batch ×" not in mup.summary()
    haiku_mup.adamw(mup, 0.1, run_scale=scale)
    mup.save(tmp_path / "base.json")
    again = haiku_mup.Mup.load(tmp_path / "base.json")
    assert again.run_scale == scale == mup.run_scale
    assert str(scale) == mup.summary().splitlines()[-1] and "β ^ 0.25" in str(scale)
    mup.wrap_optimizer(optax.adam(0.1))                     # says nothing of it, and so keeps it
    assert mup.run_scale == scale
    with pytest.raises(MupError, match="another run scale"):
        mup.check(before)
    mup.check(json.loads(json.dumps(mup.state_dict())))


def test_adamw_takes_the_mups_own_scale_unless_another_is_given():
    mup = captured(mlp, X)
    haiku_mup.adamw(mup, 0.1, batch_ratio=2)
    haiku_mup.adamw(mup, 0.1)
    assert mup.run_scale == RunScale(batch_ratio=2)
    haiku_mup.adamw(mup, 0.1, tokens_ratio=2)
    assert mup.run_scale == RunScale(tokens_ratio=2)
    with pytest.raises(MupError, match="give either run_scale or the two ratios"):
        haiku_mup.adamw(mup, 0.1, batch_ratio=2, run_scale=RunScale())
    with pytest.raises(MupError, match="give a haiku_mup.RunScale"):
        mup.wrap_optimizer(optax.adam(0.1), run_scale=4)


@pytest.mark.parametrize("wrong", [{"batch_ratio": 0}, {"unknown": 1}, [4], {"betas": "x"}])
def test_a_wrong_scale_in_a_file_is_refused(wrong):
    from haiku_mup.serialization.state_dict import with_checksum
    state = captured(mlp, X).state_dict()
    head = {k: v for k, v in state.items() if k not in ("parameters", "crc")} | {"run_scale": wrong}
    with pytest.raises(MupError, match="run_scale"):
        haiku_mup.Mup.from_state_dict(with_checksum(head) | {"parameters": state["parameters"]})


def test_files_of_0_2_0_have_none():
    files = [path for path in FILES.glob("*.json") if not path.name.endswith(".rows.json")]
    assert len(files) == 2 and all(haiku_mup.Mup.load(path).run_scale is None for path in files)
