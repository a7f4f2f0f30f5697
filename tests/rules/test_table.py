"""The table, against numbers worked out by hand; the values that tables are made of."""
import dataclasses
import json
import math

import pytest
from small_models import MODELS, captured

import haiku_mup
from haiku_mup import maximal_update, optimizer_rules, rules


@pytest.mark.parametrize("role, m_in, m_out, init, forward, adam, sgd, eps", [
    # Tensor Programs V, Table 8, at ratios 4 and 16 (a hidden weight whose sides grow unequally)
    ("input", 1.0, 16.0, 1.0, 1.0, 1.0, 16.0, 1 / 16),
    ("hidden", 4.0, 16.0, 0.5, 1.0, 0.25, 4.0, 1 / 16),
    ("hidden", 16.0, 4.0, 0.25, 1.0, 1 / 16, 0.25, 0.25),
    ("output", 16.0, 1.0, 1.0, 1 / 16, 1.0, 16.0, 1 / 16),
    ("fixed", 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0),
])
def test_table_8(role, m_in, m_out, init, forward, adam, sgd, eps):
    assert maximal_update().factors(role, m_in, m_out) == (init, forward, adam, sgd, eps, 1.0, 1.0)


@pytest.mark.parametrize("role", rules.ROLES)
def test_at_base_width_every_factor_is_exactly_one(role):
    assert set(maximal_update().factors(role, 1.0, 1.0)) == {1.0}


def test_roles_follow_from_what_grows():
    grows = {(True, True): "hidden", (False, True): "input", (True, False): "output",
             (False, False): "fixed"}
    assert all(rules.role(*k) == v for k, v in grows.items())


def test_attention_is_the_root_at_base_and_the_size_in_growth():
    for base, d in ((16, 16), (16, 64), (32, 8)):
        assert math.isclose(maximal_update().attention_logits(base, d) / math.sqrt(d), math.sqrt(base) / d)
    assert maximal_update().attention_logits(48, 48) == 1.0


def test_tied_logits_are_divided_by_the_ratio():
    assert maximal_update().tied_readout(8.0) == 1 / 8


def test_rescale_gives_the_bases_std_times_the_factor():
    assert rules.rescale(0.02, 0.02, 0.25) == 0.25
    assert rules.rescale(0.1, 0.1 / math.sqrt(3), 1.0) == pytest.approx(math.sqrt(3), rel=1e-15)


def test_rescale_is_one_where_only_rounding_differs():
    assert rules.rescale(1 / math.sqrt(100), 1 / math.sqrt(300), 3**-0.5) == 1.0


# --- values ---

def test_roles_are_their_strings():
    assert [*rules.Role] == [*rules.ROLES] == ["hidden", "input", "output", "fixed"]
    assert json.dumps(list(rules.Role)) == '["hidden", "input", "output", "fixed"]'
    assert f"{rules.HIDDEN}" == "hidden" and {"hidden": 1}[rules.HIDDEN] == 1


def test_a_models_table_has_plain_strings():
    make, x = MODELS["mlp"]
    mup = captured(make, x)
    assert {type(row.role) for row in mup.table()} == {str}
    assert "role='input'" in repr(mup.table()[0]) and "Role" not in mup.summary()


def test_a_roles_exponents_have_the_fields_of_factors_in_their_order():
    names = [field.name for field in dataclasses.fields(rules.RoleExponents)]
    assert names == list(rules.Factors._fields)
    with pytest.raises(TypeError):
        rules.RoleExponents(rules.Power(1))


def test_a_row_of_version_0_2_0_is_a_roles_exponents():
    row = rules.Row(init=rules.Power(1), sgd=rules.Power(2), adam=rules.Power(3))
    assert isinstance(row, rules.RoleExponents)
    assert row._replace(sgd=None) == dataclasses.replace(row, sgd=None)
    assert row.levelled() == row.scale_eps()


def test_no_plain_optimizer_and_no_reason_may_be_none():
    table = rules.Parametrization("a", plain=None, reason=None)
    assert table == rules.Parametrization("a") and (table.plain, table.reason) == ("", "")


def test_learning_rates_that_there_are_not_raise_with_the_reason():
    table = rules.Parametrization("mine", hidden=rules.RoleExponents(adam=None))
    factors = table.factors("hidden", 2.0, 2.0)
    assert table.learning_rate(factors, "sgd") == 1.0
    with pytest.raises(haiku_mup.MupError, match="^mine: no learning rates for Adam\nhelp: "):
        table.learning_rate(factors, "adam")
    with pytest.raises(haiku_mup.MupError, match="^mine: no learning rates for Adam: it is mine\nhelp: "):
        dataclasses.replace(table, reason="it is mine").learning_rate(factors, "adam")


def test_version_0_2_0s_names_of_optimizer_rules_work():
    known = optimizer_rules.Known(maximal_update().factors("hidden", 4.0, 4.0), 0.5, 4.0, 4.0, law="rms")
    assert known.law == known.shape_scaling == "rms" and known._replace(law="plain").law == "plain"
    assert optimizer_rules.RULES["adam"](known) == optimizer_rules.adam(known) == (1.0, 0.25, 0.25)
    assert optimizer_rules.scales("lamb", known, level=True) == (4.0, 0.25, 0.5)
    assert optimizer_rules.checked(None, True, level=True) == "adam"
    assert set(optimizer_rules.ENTRYWISE) == {"adam", "sgd", "any"} and "rms" in optimizer_rules.LAWS
    assert set(optimizer_rules.NORMED) == {"adafactor", "lamb", "lars"}
    assert set(optimizer_rules.SUMMED) == {"momo", "momo_adam"}
