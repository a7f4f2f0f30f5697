"""The three answers of a check, what it says of each, and what it could not see."""
import math

import pytest
from power_laws import points

from haiku_mup import CoordCheck, Verdict
from haiku_mup.coordinates import slopes, verdict


@pytest.mark.parametrize("slope, noise, seeds, answer", [
    (0.0, 0.05, 5, "passed"), (0.4, 0.05, 5, "failed"), (0.0, 1.5, 2, "undecided"), (0.4, 1.5, 2, "undecided"),
    (0.0, 0.0, 1, "passed"), (0.4, 0.0, 1, "failed")])
def test_what_is_too_wide_to_tell_has_not_passed(slope, noise, seeds, answer):
    check = CoordCheck(points(slope, noise, seeds))
    assert check.verdict == answer and check.ok == (answer == "passed")
    assert str(check).startswith(f"coordinate check: {answer}; ")


def test_the_first_line_says_why_and_how_many_seeds_to_take():
    check = CoordCheck(points(0, 0.3, 2))
    error = check.undecided()[0].error
    line = str(check).splitlines()[0]
    assert f"2 seeds leave ±{error:.1f} around the slope of activation linear" in line and "; take " in line
    needed = int(line.rpartition(" ")[2])
    spread = error / slopes.student(1) * 2**0.5
    assert slopes.student(needed - 1) * spread / needed**0.5 <= 0.25
    assert slopes.student(needed - 2) * spread / (needed - 1)**0.5 > 0.25
    with pytest.raises(AssertionError, match="is undecided"):
        check.assert_ok()


def test_one_seed_at_two_widths_tells_nothing():
    check = CoordCheck(points(1.0, seeds=1, widths=(64, 128)))
    assert check.verdict == "undecided" and "1 seed leaves no interval" in str(check) and "take 5" in str(check)


@pytest.mark.parametrize("slope, rows, quantity, step, answer", [
    (-0.12, 0, "Δactivation linear", 1, "undecided"),               # of a file that doesn't know
    (-0.12, 32, "Δactivation linear", 1, "undecided"),
    (-0.12, 32, "output.logits", 1, "undecided"),
    (-0.08, 32, "Δactivation linear", 1, "passed"),
    (-0.12, 16, "Δactivation linear", 1, "undecided"),              # as of 32 rows
    (-0.16, 16, "Δactivation linear", 1, "failed"),
    (-0.16, 32, "Δactivation linear", 1, "failed"),
    (-0.16, 64, "Δactivation linear", 1, "undecided"),
    (-0.5, 4096, "Δactivation linear", 1, "failed"),                # as those that are never aligned
    (0.12, 32, "Δactivation linear", 1, "failed"),
    (-0.12, 32, "activation linear", 0, "failed"),
    (-0.12, 32, "update linear/w", 0, "failed"),
    (-0.12, 32, "update linear/w", 1, "undecided"),
    (-0.12, 32, "rate linear/w", 1, "failed")])
def test_narrow_models_do_not_tell_what_fades_from_what_shrinks(slope, rows, quantity, step, answer):
    check = CoordCheck([p._replace(step=step, rows=rows)
                        for p in points(slope, quantity=quantity, widths=(32, 256))])
    assert check.verdict == answer
    line = str(check).splitlines()[0]
    why = (f"the slope of {quantity}, {slope} ± 0.00, may be that of narrow models", "a batch of fewer rows")
    assert [text in line for text in why] == [answer == "undecided"] * 2
    if answer == "undecided":
        check.assert_ok(tol=0.2)
        with pytest.raises(AssertionError, match="is undecided"):
            check.assert_ok()


def test_what_fades_is_doubted_at_three_widths_too():
    def verdict(*widths):
        return CoordCheck([p._replace(step=1, rows=128) for p in points(
            -0.17, quantity="Δactivation linear", widths=widths)]).verdict

    assert verdict(16, 32, 64, 128) == "undecided"
    assert verdict(64, 128, 256, 512) == "undecided"
    assert verdict(1024, 2048, 4096, 8192) == "failed"


@pytest.mark.parametrize("widths", [(64, 512), (64, 128, 256, 512)])
def test_chance_explains_one_slope_of_a_hundred_but_not_a_half_of_them(widths):
    def check(wrong):
        return CoordCheck([p for i in range(100) for p in points(
            0.3 if i < wrong else 0.0, 0.15, quantity=f"activation linear_{i}", widths=widths)])

    one = check(1)
    assert one.findings[0].excess > 0.1                                     # far outside, but one of a hundred
    assert one.verdict == "undecided" and "may be chance, as one of many; take 10 seeds" in str(one)
    assert check(50).verdict == "failed" and check(0).verdict == "passed"


def test_what_is_surely_off_by_less_than_the_tolerance_makes_nothing_else_more_probable():
    lone = points(0.3, 0.15, quantity="activation linear")
    for off, answer in (0.05, "undecided"), (0.3, "failed"):
        others = [p for i in range(50) for p in points(off, 0.001, quantity=f"update linear_{i}/w")]
        finding, = (f for f in CoordCheck(lone + others).findings if f.quantity == "activation linear")
        assert math.isinf(finding.doubt) == (answer == "undecided")
        assert CoordCheck(lone + others).verdict == answer
    assert CoordCheck(others[:4] + lone).failures(tol=0.4) == []


def test_the_probability_of_a_slope_by_chance_is_that_of_its_interval():
    at_end = slopes.SlopeEstimate(0.3, 0.2, freedom=4).chance(slopes.Range(0, 0.1))
    assert math.isclose(at_end, 0.05, rel_tol=1e-6)
    assert slopes.SlopeEstimate(0.1, 0.2, freedom=4).chance(slopes.Range(0, 0.1)) == 1
    assert slopes.SlopeEstimate(0.1, 0.0, freedom=4).chance(slopes.Range(0, 0)) == 0
    assert slopes.SlopeEstimate(math.nan, math.nan).chance(slopes.Range(0, 0)) == 0


@pytest.mark.parametrize("share, quantity, answer", [
    (0.25, "update linear/w", "undecided"), (0.9, "update linear/w", "failed"),
    (0.25, "param linear/w", "failed")])
def test_a_later_update_may_rise_where_it_has_nearly_cancelled(share, quantity, answer):
    def at(step, slope, size):
        return [p._replace(step=step, rows=32, value=size * p.value) for p in points(
            slope, quantity=quantity, widths=(64, 512))]

    check = CoordCheck(at(0, 0.0, 8.0) + at(2, 0.4, share))
    assert check.verdict == answer
    assert ("nearly cancel; take a lower learning rate" in str(check)) == (answer == "undecided")
    assert CoordCheck(at(2, 0.4, share)).verdict == "failed"            # nothing is known of the first step


def test_what_fades_between_two_widths_is_half_of_a_squared_size():
    """√(1 + 1) at the narrower, √(1 + 1 / 8) at one eightfold as wide."""
    assert math.isclose(slopes.fading_slope((32, 256), 32), -math.log2(math.sqrt(2 / 1.125)) / 3)


def test_a_failure_that_is_sure_counts_beside_what_is_not():
    check = CoordCheck(points(0, 1.5, 2) + points(1.0, 0.0, 2, quantity="update linear/w"))
    assert check.verdict == Verdict.FAILED and check.undecided()


def test_of_what_tells_the_same_the_best_known_counts():
    """An update's rate is exact, whatever its size scatters; so is one of several steps."""
    scattered = points(0, 1.5, 2, quantity="update linear/w")
    assert CoordCheck(scattered).verdict == "undecided"
    assert CoordCheck(scattered + points(0, 0, 2, quantity="rate linear/w")).ok
    assert CoordCheck(scattered + [p._replace(step=1) for p in points(0, 0, 2, quantity="update linear/w")]).ok
    assert not CoordCheck(scattered + points(0, 0, 2, quantity="rate other/w")).ok


def test_a_readout_whose_multiplier_is_measured_needs_no_interval():
    scattered = points(-0.5, 1.0, 2, quantity="activation readout", expected="-0.5")
    output = [p._replace(quantity="output") for p in scattered]
    exact = points(-1, 0, 2, quantity="multiplier readout", expected="-1")
    assert CoordCheck(scattered + output).verdict == "undecided"
    assert CoordCheck(scattered + output + exact).ok
    assert not CoordCheck(scattered + output + exact + points(0, 1.0, 2)).ok


def test_parameters_without_a_sharp_rate_are_named():
    sharp = points(-1, quantity="update a/w", expected="-1")
    ranged, frozen = (points(-1, quantity=f"update {name}/w", expected=expected)
                      for name, expected in (("b", "-1..0"), ("c", "")))
    check = CoordCheck(sharp + ranged + frozen)
    assert check.ok and check.unseen() == ["b/w", "c/w"]
    assert "Not seen: the learning rates of b/w, c/w" in str(check)
    assert "Not seen" not in str(CoordCheck(sharp))


def test_what_falls_as_it_should_is_marked():
    text = str(CoordCheck(points(-0.5, quantity="logits attention", expected="-0.5")))
    assert "ok: falls, as expected" in text and "as expected" not in str(CoordCheck(points(0)))


def test_what_stands_still_in_a_trial_tells_nothing_there():
    """An expert without tokens: no update at a width in one seed is no failure; in all seeds it is one."""
    update = points(0, quantity="update expert/w")
    one = [p._replace(value=0.0) if (p.width, p.seed) == (128, 3) else p for p in update]
    every = [p._replace(value=0.0) if p.width == 128 else p for p in update]
    assert CoordCheck(one).ok and not CoordCheck(every).ok
    activation = [p._replace(quantity="activation expert") for p in one]
    assert math.isnan(CoordCheck(activation).failures()[0].slope)


def test_answers_have_exit_codes():
    assert {str(answer): answer.exit_code for answer in Verdict} == {"passed": 0, "failed": 1, "undecided": 3}
    assert verdict.seeds_needed(0.3, 5) > 5


def test_a_parameter_that_starts_at_zero_is_what_training_makes_of_it():
    bias = [p._replace(step=1) for p in points(0, 1.5, 2, quantity="param linear/b")]
    assert CoordCheck(bias + points(0, 0, 2, quantity="rate linear/b")).ok
    assert not CoordCheck([p._replace(step=0) for p in bias] + points(0, 0, 2, quantity="rate linear/b")).ok
