"""The table, against numbers worked out by hand."""
import math

import pytest

from haiku_mup import maximal_update, rules


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
