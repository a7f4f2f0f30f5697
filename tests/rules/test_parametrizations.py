"""Parametrizations: their tables by hand and beside others', and one trajectory in every form of μP."""
import dataclasses
import itertools
import json
import math

import numpy as np
import pytest
from form_models import FORMS

import haiku_mup
from haiku_mup import maximal_update, neural_tangent, standard
from haiku_mup.rules import FIXED, HIDDEN, INPUT, OUTPUT, ROLES, Parametrization, Power, RoleExponents

ALL = [*FORMS.values(), standard(), neural_tangent(), maximal_update(spectral=True)]

# --- the tables ---

def table(parametrization, m=16.0):
    """{role: (init, forward, SGD, Adam) as exponents of m} where all widths grow by m."""
    ratios = {INPUT: (1.0, m), HIDDEN: (m, m), OUTPUT: (m, 1.0), FIXED: (1.0, 1.0)}
    return {role: tuple(math.log(x, m) for x in (f.init, f.forward, f.sgd, f.adam))
            for role in (INPUT, HIDDEN, OUTPUT) for f in [parametrization.factors(role, *ratios[role])]}


@pytest.mark.parametrize("parametrization, init, forward, sgd, adam", [
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
def test_exponents_are_the_papers(parametrization, init, forward, sgd, adam):
    expected = dict(zip((INPUT, HIDDEN, OUTPUT), zip(init, forward, sgd, adam)))
    for role, found in table(parametrization).items():
        np.testing.assert_allclose(found, expected[role], atol=1e-12, err_msg=f"{parametrization.name} {role}")


def test_unequal_proportions_by_hand():
    """m_in = 4, m_out = 16: θ is √(m_out / m_in) in Table 9, m_in^-½ for mean fields, 1 / m_in in abcd."""
    def hidden(form):
        return FORMS[form].factors(HIDDEN, 4.0, 16.0)

    #                              init  forward adam  sgd  ε      d     θ
    assert hidden("table8") ==     (0.5, 1.0, 0.25, 4.0, 1 / 16, 1.0, 1.0)
    assert hidden("table9") ==     (0.25, 2.0, 0.125, 1.0, 1 / 8, 1.0, 2.0)
    assert hidden("mean_field") == (1.0, 0.5, 0.5, 16.0, 1 / 32, 1.0, 0.5)
    assert hidden("abcd adam") ==  (2.0, 0.25, 1.0, 1.0, 1.0, 64.0, 0.25)


@pytest.mark.parametrize("parametrization", ALL, ids=lambda parametrization: parametrization.name)
def test_at_the_base_every_factor_is_one(parametrization):
    for role in ROLES:
        factors = parametrization.factors(role, 1.0, 1.0)
        assert set(factors) <= {1.0} | {math.nan} or parametrization == neural_tangent()
        assert all(x == 1 for x in factors if not math.isnan(x))
    assert parametrization.attention_logits(48, 48) == 1.0


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


@pytest.mark.parametrize("parametrization, role, fan_in, fan_out, init, sgd, adam", INFERNO)
def test_absolute_scales_are_infernos(parametrization, role, fan_in, fan_out, init, sgd, adam):
    found = parametrization.factors(role, float(fan_in), float(fan_out))
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


# --- values ---

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
