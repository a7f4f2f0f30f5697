"""python -m demos.compare: a small run, its report, and its flags."""
import argparse
import json
import types

import numpy as np
import pytest
from demo_runs import demo_run
from sweep_results import table

import haiku_mup
from demos import compare
from haiku_mup import Trial

LINES = "In the beginning God created the heaven and the earth.\n" * 2000
SMALL = ["--log2-lrs=-7:-6:1", "--seeds", "1", "--steps", "2", "--widths", "16,32", "--parametrizations",
         "sp,modified_sp", "--target", "64"]


@pytest.mark.slow
def test_run_from_end_to_end(tmp_path):
    (tmp_path / "text").write_text(LINES)
    code, said = demo_run(compare.main, [*SMALL, "--text", str(tmp_path / "text")], tmp_path / "out")
    assert code == 0 and len(table(tmp_path / "out")) == 8 and "is best" in said
    assert {"summary.json", "comparison.txt", "compare.png"} <= {it.name for it in (tmp_path / "out").iterdir()}


def test_the_report_has_the_table_the_choice_and_a_figure(tmp_path, capsys):
    losses = {Trial(name, width, (("lr", 2.0**-k),), seed): {
        "valid_loss": np.array(2 + (k - 7 - shift * (width > 32))**2 / 9 + shift + seed / 99)}
        for name, shift in (("sp", 2), ("mup", 0)) for width in (32, 128) for k in range(4, 11)
        for seed in range(3)}
    found = haiku_mup.Comparison(haiku_mup.Sweep(losses), target=512)
    args = argparse.Namespace(out=tmp_path, command="x", widths=[32, 128], steps=3)
    data = types.SimpleNamespace(source="a text", sizes={"train": 5})
    compare.report(args, data, found, 1.0)
    summary = json.loads((tmp_path / "summary.json").read_text(encoding="utf-8"))
    assert summary["best"] == summary["choice"] == "mup" and len(summary["table"]) == 2
    assert (tmp_path / compare.FIGURE).read_bytes().startswith(b"\x89PNG")
    assert "At width 512 take mup" in capsys.readouterr().out


@pytest.mark.parametrize("given, says", [
    (["--parametrizations", "ntk"], "give some of sp,sp_embedding,modified_sp,mup,mup_spectral"),
    (["--widths", "32,40"], "give multiples of 16"), (["--target", "0"], "above 0"),
    (["--text", "no such file"], "no such file")])
def test_what_is_wrong_is_said_in_one_line(given, says, capsys, tmp_path):
    with pytest.raises(SystemExit) as stop:
        compare.main([*given, "--out", str(tmp_path)])
    said = capsys.readouterr().err
    assert stop.value.code == 2 and says in said and said.count("\n") == 1
