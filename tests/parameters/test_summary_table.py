"""The table of a model as text: names that are cut stay different."""
import pytest

from haiku_mup.parameters.summary_table import shortened

DEEP = [f"model/~/encoder/layer_{i}/attention/linear_{j}/{leaf}"
        for i in range(12) for j in range(3) for leaf in "wb"]


@pytest.mark.parametrize("room", [24, 32, 40])
@pytest.mark.parametrize("names", [DEEP, [f"{'x' * 40}{i}{'y' * 40}" for i in range(9)],
                                   [f"{i}{'y' * 80}" for i in range(9)], [f"{'x' * 80}{i}" for i in range(9)]])
def test_different_names_stay_different(names, room):
    cut = shortened(names, room)
    assert len(set(cut)) == len(names) and max(map(len, cut)) < max(map(len, names))
    for short, name in zip(cut, names):
        head, dots, tail = short.partition("…")
        assert short == name if not dots else name.startswith(head) and name.endswith(tail) and tail


def test_a_wider_table_is_only_made_for_names_that_would_be_one():
    assert max(map(len, shortened(["a" * 60 + "/w", "a" * 60 + "/b"], 24))) == 24
    assert shortened(["short", "names"], 24) == ["short", "names"] and shortened([], 24) == []


def test_one_name_twice_is_no_reason_for_a_wider_table():
    assert {*map(len, shortened(["a" * 60] * 2, 24))} == {24}
