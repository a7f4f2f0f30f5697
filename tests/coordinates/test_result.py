"""CoordCheck: which slopes fail, what it says of them, and its files."""
import csv
import math

import pytest
from power_laws import points

import haiku_mup
from haiku_mup import CoordCheck, Point


@pytest.mark.parametrize("slope, noise, ok", [(0, 0, True), (0.09, 0, True), (0.11, 0, False), (-0.2, 0, False),
                                              (0.2, 1.0, None), (0.5, 0.05, False)])
def test_what_fails_is_off_by_more_than_the_tolerance_and_the_noise(slope, noise, ok):
    check = CoordCheck(points(slope, noise))
    assert check.verdict == {True: "passed", False: "failed", None: "undecided"}[ok]
    assert check.findings[0].slope == pytest.approx(slope, abs=1e-9 + noise)


@pytest.mark.parametrize("expected, slopes", [("-0.5", (-0.5,)), ("-0.5..0", (-0.5, -0.2, 0.0))])
def test_what_is_expected_passes(expected, slopes):
    unknown = points(3.0, quantity="probe x", expected="")
    assert all(CoordCheck(points(slope, expected=expected) + unknown).ok for slope in slopes)


def test_what_fades_with_the_width_passes_and_what_stays_fails():
    fades = [Point("mup", w, 0, 0, "output", "l1", 1 + 4 * 32 / w**1.2, "0") for w in (64, 128, 256, 512, 1024)]
    stays = [p._replace(value=p.width**-0.3) for p in fades]
    assert CoordCheck(fades).findings[0].slope < -0.15
    assert CoordCheck(fades).ok and not CoordCheck(stays).ok


def test_zero_passes_everywhere_and_fails_at_some_widths():
    zeros = [point._replace(value=0.0) for point in points(0)]
    some = [point._replace(value=0.0) if point.width == 64 else point for point in points(0)]
    assert CoordCheck(zeros + points(0, quantity="activation other")).ok
    (failure,) = CoordCheck(some).failures()
    assert math.isnan(failure.slope) and "diverged" in failure.cause


def test_the_table_has_the_worst_on_top_and_says_why():
    check = CoordCheck(points(0.3) + points(1.0, quantity="update linear/w", expected="-1"))
    lines = str(check).splitlines()
    assert "failed; 2 of 2" in lines[0] and lines[2].startswith("update linear/w")
    with pytest.raises(AssertionError, match="update linear/w"):
        check.assert_ok()
    check.assert_ok(tol=2.5)


def test_a_wrong_draw_is_also_the_cause_of_later_values_and_not_of_a_shrinking_update():
    def causes(*, at_start):
        early = points(at_start, quantity="param linear/w", expected="0")
        late = [p._replace(step=1) for p in points(-0.5, quantity="param linear/w", expected="0")]
        return {f.step: f.cause for f in CoordCheck(early + late).failures()}

    drawn = causes(at_start=-0.5)
    assert drawn[0] == drawn[1] and drawn[0].startswith("it is drawn too small")
    assert "learning rate" in causes(at_start=0.0)[1] and "learning rate" in causes(at_start=0.5)[1]


def test_nothing_is_not_right():
    for check in (CoordCheck([]), CoordCheck(points(0, expected="")), CoordCheck([points(0)[0]])):
        assert not check.ok and "nothing was judged" in str(check)
        with pytest.raises(AssertionError, match="nothing was judged"):
            check.assert_ok()


def test_two_parametrizations_are_judged_apart():
    both = CoordCheck(points(0) + [p._replace(parametrization="sp") for p in points(1.0)])
    with pytest.raises(haiku_mup.MupError, match="mup and sp"):
        both.ok  # noqa: B018
    assert both.only("mup").ok and not both.only("sp").ok
    with pytest.raises(haiku_mup.MupError, match="'mup', 'sp'"):
        both.only("ntk")


def test_a_file_gives_back_what_was_written(tmp_path):
    check = CoordCheck(points(0.3, 0.1, expected="-0.5..0"))
    check.to_csv(tmp_path / "points.csv")
    assert CoordCheck.from_csv(tmp_path / "points.csv") == check
    with open(tmp_path / "points.csv", encoding="utf-8") as file:
        assert next(csv.reader(file)) == list(Point._fields)
    (tmp_path / "other.csv").write_text("a,b\n1,2\n", encoding="utf-8")
    with pytest.raises(haiku_mup.MupError, match="columns"):
        CoordCheck.from_csv(tmp_path / "other.csv")


def test_a_cause_is_said_once_however_many_rows_it_has():
    rows = [p for i in range(4) for p in points(0.0, quantity=f"update layer{i}/w", expected="-1")]
    text = str(CoordCheck(rows))
    cause = CoordCheck(rows).failures()[0].cause
    assert cause and text.count(cause) == 1 and f"\n(1) {cause}" in text and text.count("fails (1)") == 4
    assert max(map(len, text.splitlines()[1:6])) < 80
    assert "fails" not in str(CoordCheck(points(0.0)))
