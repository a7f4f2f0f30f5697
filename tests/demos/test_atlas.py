"""python -m benchmarks.atlas: what a piece measures, and that the documentation shows what was measured."""
import json
import pathlib
import re
from concurrent.futures import ThreadPoolExecutor

import jax.numpy as jnp
import pytest

from benchmarks.atlas import __main__ as atlas
from benchmarks.atlas import measure, page
from benchmarks.atlas.figure import line_of
from benchmarks.atlas.found import FOUND
from benchmarks.atlas.piece import Piece
from benchmarks.atlas.pieces import PIECES

DOCS = pathlib.Path(__file__).parents[2] / "docs"


def valley(exponent, width):
    """Returns a trial whose best rate is 2^-6 at width 64, and follows the width with an exponent."""
    def trial(lr, key):
        return {"valid_loss": 1.0 + (jnp.log2(lr) + 6 - exponent * jnp.log2(width / 64.0))**2}
    return trial


def piece(**changes):
    return Piece(**{"title": "Valleys", "varies": "width", "sizes": (64, 256), "log2_lrs": range(-10, -2),
                    "makers": lambda: {name: lambda width, e=e: valley(e, width)
                                       for name, e in (("a, standard", -1.0), ("a, μP", 0.0))},
                    "expected": "a guess"} | changes)


def measured(it, folder):
    with ThreadPoolExecutor(1) as here:
        measure.measure(it, folder, executor=here, progress=False)
    return json.loads((folder / "measured.json").read_text(encoding="utf-8"))


def test_a_piece_measures_the_exponent_and_the_loss_that_the_smallest_size_s_rate_costs(tmp_path):
    found = measured(piece(), tmp_path)
    standard, mup = (found["settings"][f"a, {name}"]["valid_loss"] for name in ("standard", "μP"))
    # The bowl is a parabola in log2 lr: two octaves beside its minimum cost 4, but for float32's rounding.
    assert standard["exponent"][0] == pytest.approx(-1, abs=1e-3)
    assert standard["lost"][0] == pytest.approx(4, abs=1e-3) and standard["drift"] == pytest.approx(2, abs=1e-3)
    assert mup["drift"] == pytest.approx(0, abs=1e-3) and mup["lost"][0] == pytest.approx(0, abs=1e-3)
    assert mup["best"]["256"][0] == pytest.approx(-6, abs=1e-3) and mup["edges"] == standard["edges"] == []


def test_settings_may_have_rates_of_their_own_and_an_end_is_marked(tmp_path):
    found = measured(piece(log2_lrs={"a, standard": range(-10, -2), "a, μP": range(-5, 1)}), tmp_path)
    assert list(found["settings"]) == ["a, standard", "a, μP"]
    assert found["settings"]["a, μP"]["valid_loss"]["edges"] == [64, 256]
    assert page.rate(*found["settings"]["a, μP"]["valid_loss"]["best"]["64"], True, True) == "-5.0 (end)"


def test_intervals_are_shown_from_three_seeds_on():
    assert page.rate(-6.0, 0.5, False, True) == "-6.0 ±0.5" and page.rate(-6.0, 0.5, False, False) == "-6.0"
    assert page.interval(0.25, 0.0, 0.5, 2, True) == "0.25 ±0.25"
    assert page.interval(0.25, 0.0, 0.5, 2, False) == "0.25" and page.interval(None, None, None, 2, True) == "–"


def test_with_three_seeds_a_column_says_how_far_settings_are_behind_the_best(tmp_path):
    def higher(width):
        return lambda lr, key: {"valid_loss": valley(0.0, width)(lr, key)["valid_loss"] + 0.5}

    makers = {"a, standard": higher, "a, μP": lambda width: valley(0.0, width)}
    found = measured(piece(makers=lambda: makers, seeds=3), tmp_path)
    behind = {name: it["valid_loss"]["behind"] for name, it in found["settings"].items()}
    assert behind["a, standard"] == pytest.approx([0.5] * 3, abs=1e-3) and behind["a, μP"] == [0, 0, 0]
    text = page.section("valleys", found)
    assert "- behind" in text and "- 0.500 ±0.000" in text
    assert "- behind" not in page.section("valleys", found | {"seeds": 2})


def test_more_seeds_are_added_to_what_was_measured(tmp_path):
    first, more = measured(piece(seeds=2), tmp_path), measured(piece(seeds=3), tmp_path)
    assert (first["seeds"], more["seeds"]) == (2, 3) and more["settings"].keys() == first["settings"].keys()


def test_an_expectation_can_not_be_changed_afterwards(tmp_path):
    measured(piece(), tmp_path)
    with pytest.raises(SystemExit, match="another expectation was written down before"):
        measured(piece(expected="what came out"), tmp_path)


def test_the_command_lists_pieces_and_refuses_others(capsys, tmp_path):
    assert atlas.main(["--out", str(tmp_path)]) == 0
    assert capsys.readouterr().out.count("(not measured)") == len(PIECES)
    with pytest.raises(SystemExit) as stop:
        atlas.main(["batch", "--out", str(tmp_path)])
    assert stop.value.code == 2 and "batch: there are" in capsys.readouterr().err


def test_the_documentation_shows_each_piece_as_it_was_measured():
    known = json.loads((DOCS / page.NUMBERS).read_text(encoding="utf-8"))
    assert list(known) == [name for name in PIECES if name in known]
    assert {name: it["expected"] for name, it in known.items()} == {
        name: PIECES[name].expected for name in known}, "expectations stay as they were written down"
    assert FOUND.keys() == known.keys()
    assert (DOCS / page.TABLES).read_text(encoding="utf-8") == page.tables(known)


def test_each_optimizer_of_the_guide_s_table_has_a_piece():
    guide = (DOCS / "guides" / "optimizers.rst").read_text(encoding="utf-8")
    table = guide[guide.index("optimizer, of optax or"):guide.index("Not in the table")]
    rows = re.findall(r"^   \* - (.+?)^     - ", table, re.MULTILINE | re.DOTALL)
    named = {name.strip() for row in rows for name in row.split(",")}
    measured = {setting.split(", ")[0].lower() for piece in PIECES.values() for setting in piece.makers()}
    assert len(named) > 40 and named <= measured


def test_the_page_is_written_from_what_is_measured(tmp_path):
    name = "schedules"
    measured(piece(), tmp_path / "out" / name)
    (tmp_path / "evidence").mkdir()
    (tmp_path / "figures").mkdir()
    assert atlas.main(["--out", str(tmp_path / "out"), "--page", str(tmp_path)]) == 0
    text = (tmp_path / page.TABLES).read_text(encoding="utf-8")
    assert "**Expected.** a guess" in text and "width 256" in text and "-8.0" in text
    assert (tmp_path / page.FIGURE).read_bytes().startswith(b"\x89PNG")


def test_all_optimizers_are_compared_by_medians():
    def numbers(drift, lost, lowest):
        return {"valid_loss": {"drift": drift, "lost": [lost, 0, 0], "lowest": {"64": 1.0, "512": lowest}}}

    settings = {"a, standard": numbers(2.0, 0.5, 0.3), "a, μP": numbers(0.2, 0.0, 0.4),
                "b, standard": numbers(1.0, 0.1, 0.3), "b, μP": numbers(0.4, None, 0.2)}
    pairs = page.optimizer_pairs({"optimizers_ab": {"settings": settings}, "decay": {"settings": {"c": {}}}})
    cells = [line.strip("* -") for line in page.over_optimizers(pairs).splitlines()[-6:]]
    assert cells == ["valid", "1.50", "0.30", "0.300", "0.000", "1 of 2"]


@pytest.mark.parametrize("setting, line", [
    ("adam, μP", "adam"), ("ε 0.001, μP, ε scaled", "ε 0.001, ε scaled"), ("standard", "standard")])
def test_a_line_of_the_figure_is_a_setting_without_its_parametrization(setting, line):
    assert line_of(setting) == line
