"""docs/evidence/beside_the_others.rst says what `python -m benchmarks.peers` measures of haiku_mup."""
import importlib.util

import pytest

from benchmarks.peers import common, haiku_mups, table

M = f"{1 / 7:.3f}"
OURS = {
    "init": "1.0, 1.0, 1.0", "adam": M, "transposed": M, "adamw": "1.000", "tied": M, "nested": M,
    "output": "MupError: 'out/w': base (4, 5), target (28, 5): a layer from a growing to a …",
    "conv_output": "MupError: 'conv2_d/w': base (3, 3, 4, 5), target (3, 3, 28, 5): a layer from a …",
    "stacked": M, "traced": M, "file": M}
SLOW = "transposed", "nested", "stacked", "traced", "file"


@pytest.mark.parametrize("row", [
    pytest.param(row, marks=pytest.mark.slow) if row in SLOW else row for row in table.ROWS])
def test_ours(row):
    assert table.cells({row: haiku_mups.measures()[row]})[row] == OURS[row]


def test_what_is_missing_is_skipped_and_named(capsys, monkeypatch, tmp_path):
    monkeypatch.setattr(table, "cells", lambda measures: dict.fromkeys(table.ROWS, "measured"))
    table.main(["--flax-mup", str(tmp_path)])
    out = capsys.readouterr().out
    assert "haiku-mup 0.1.5 is skipped (no folder): pip install --target FOLDER, and --old FOLDER\n" in out
    assert "flax-mup is skipped (" in out
    assert "\n| | haiku_mup |" in out
    assert all(f"\n| {title} | measured |" in out for title in table.ROWS.values())


@pytest.mark.parametrize("measure, cell", [
    (lambda: 1 / 3, "0.333"), (lambda: [1.04, 2.83], "1.0, 2.8"), (lambda: "silent", "silent"),
    (lambda: {}["a|b"], "KeyError: 'a/b'"),
    (lambda: table.warnings.warn("said", stacklevel=1), "UserWarning: said")])
def test_a_cell_is_a_number_a_word_an_error_or_a_warning(measure, cell):
    assert table.cells({"adam": measure}) == {**dict.fromkeys(table.ROWS, "–"), "adam": cell}


def test_a_package_of_a_folder_takes_no_other_ones_place(tmp_path):
    (tmp_path / "haiku_mup").mkdir()
    (tmp_path / "haiku_mup" / "__init__.py").write_text("from .inner import NUMBER\n")
    (tmp_path / "haiku_mup" / "inner.py").write_text("NUMBER = 3\n")
    before = common.sys.modules["haiku_mup"]
    assert common.import_from(tmp_path, "haiku_mup", "haiku_mup_of_a_test").NUMBER == 3
    assert common.sys.modules["haiku_mup"] is before and importlib.util.find_spec("haiku_mup")
