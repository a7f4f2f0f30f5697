"""Expected slopes: what follows from the rules."""
import math

import pytest

import haiku_mup
from haiku_mup.coordinates import expected_slopes


@pytest.mark.parametrize("role, product, weight", [
    ("input", (0, 0), (0, 0)), ("hidden", (0, 0), (-0.5, -1)), ("output", (-0.5, 0), (0, 0)),
    ("fixed", (0, 0), (0, 0))])
def test_expectations_follow_from_the_rules(role, product, weight):
    """Compares with Tensor Programs V, Appendix J.2: √n for independent terms, n for aligned ones."""
    n = 2.0**10
    m_in, m_out = (n if role in ("hidden", "output") else 1.0), (n if role in ("hidden", "input") else 1.0)
    factors = haiku_mup.maximal_update().factors(role, m_in, m_out)
    assert tuple(math.log2(x) / 10 for x in expected_slopes.weight_sizes(factors)) == weight
    found = expected_slopes.product_sizes(factors, terms=m_in, multiplier=factors.forward)
    assert tuple(math.log2(x) / 10 for x in found) == product


def test_logits_shrink_at_the_start_only_where_the_key_size_grows():
    assert expected_slopes.logit_sizes(8, 32) == (0.5, 1.0) and expected_slopes.logit_sizes(8, 8) == (1.0, 1.0)
