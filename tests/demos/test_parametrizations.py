"""The demo of parametrizations: a small run from end to end, its flags, and what it says of losses."""
import json
import math
import signal

import jax
import numpy as np
import pytest
from demo_runs import demo_run
from sweep_results import table

from demos import parametrizations
from demos.common.digits import SMALL as SMALL_DIGITS
from demos.common.digits import load_digits

SMALL = ["--widths", "96", "--forms-at", "96", "--log2-lrs=-1:0:1", "--seeds", "2", "--epochs", "1"]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """Runs on scikit-learn's digits, which train faster; returns the exit code, folder and what was printed."""
    out = tmp_path_factory.mktemp("demo") / "new"
    code, said = demo_run(parametrizations.main, SMALL, out)
    return code, out, said


def test_run_from_end_to_end(finished):
    code, out, said = finished
    rows, summary = table(out), json.loads((out / "summary.json").read_text(encoding="utf-8"))
    assert code == 0 and not jax.config.jax_enable_x64
    assert (out / "parametrizations.png").read_bytes().startswith(b"\x89PNG")
    assert len(rows) == (3 + 5) * 2 * 2 + 5 * 2 and list(rows[0]) == list(parametrizations.COLUMNS)
    assert all(0 < float(row["train_loss"]) < 1 for row in rows)
    assert {name: list(found["optimum"]) for name, found in summary["best"]["train_loss"].items()} == {
        name: ["96"] for name in ("sp", "ntp", "mup")}
    assert summary["command"] == " ".join(["python -m demos.parametrizations", *SMALL])
    assert summary["data"]["source"] == SMALL_DIGITS.description and str(out) not in json.dumps(summary)
    assert "drift" in said and "all forms" in said and "left" in said


def test_forms_are_one_curve_and_others_are_not(finished):
    found = json.loads((finished[1] / "summary.json").read_text(encoding="utf-8"))["forms"]
    assert found["float64"]["all forms"] < 1e-12
    assert found["float32"]["all forms"] < 1e-3             # few steps magnify rounding little
    assert min(found["float32"]["sp"], found["float32"]["ntp"]) > 0.01


def test_the_first_form_is_the_default_one_and_each_parametrization_its_own(finished):
    losses = {}
    for row in table(finished[1]):
        if row["dtype"] == "float32":
            losses.setdefault(row["parametrization"], []).append((row["lr"], row["seed"], row["train_loss"]))
    assert losses["mup"] == losses["table8"]
    assert not set(losses["sp"]) & set(losses["ntp"]) | set(losses["sp"]) & set(losses["mup"])


def test_forms_and_parametrizations_are_one_at_the_base():
    args, digits = parametrizations.parse([]), load_digits()
    orders = [np.arange(256, dtype=np.int32).reshape(2, 128)]
    found = set()
    for name in ("sp", "ntp", "table9"):
        train, arrays = parametrizations.make_program(parametrizations.Cell(name, 64), args, digits)
        found |= set(parametrizations.trainer.train_grid(train, [-3.0], arrays, orders))
    assert len(found) == 1


# --- flags ---

def test_defaults_depend_on_quick_and_on_the_loss():
    args = parametrizations.parse([])
    assert (args.widths, args.forms_at, args.seeds, args.epochs) == ([64, 256, 1024], 192, 3, 3)
    assert (args.log2_lrs[0], args.log2_lrs[-1], args.loss) == (-3, 1.5, "mse")
    quick = parametrizations.parse(["--quick", "--loss", "ce", "--seeds", "2"])
    assert (quick.widths, quick.seeds, quick.log2_lrs) == ([64, 512], 2, [-4, -3, -2, -1, 0, 1])
    assert quick.command == "python -m demos.parametrizations --quick --loss ce --seeds 2"


@pytest.mark.parametrize("given, says", [
    (["--forms-at", "64"], "--forms-at: '64': at the base's width all are equal; give another"),
    (["--forms-at", "0"], "--forms-at: '0': give a whole number above 0"),
    (["--widths", "64,0"], "--widths"),
    (["--seeds", "0"], "--seeds"),
    (["--loss", "mae"], "--loss"),
    (["--log2-lrs=-4:-12:1"], "--log2-lrs: '-4:-12:1': give first:last:step"),
    (["--optimizer", "adam"], "unrecognized arguments"),
])
def test_bad_flags_give_one_line(given, says, capsys):
    with pytest.raises(SystemExit) as stop:
        parametrizations.main(given)
    said = capsys.readouterr().err
    assert stop.value.code == 2 and says in said and said.count("\n") == 1


# --- what it says of losses ---

def record(form, width, lr, loss, dtype="float32"):
    return dict(zip(parametrizations.COLUMNS, (form, width, lr, 0, loss, loss, dtype)))


def forms(losses, **other):
    """Records at rates 1, 2, …: of each form the losses, or another's of its own."""
    return [record(name, 96, 2.0**i, loss) for name in parametrizations.FORMS
            for i, loss in enumerate(other.get(name, losses))]


def test_differences_are_the_largest_up_to_the_best_rate():
    rows = forms([4.0, 2.0, 3.0], table3=[4.0, 2.5, 30.0], abcd=[4.0, math.inf, math.inf])
    best, found = parametrizations.differences(rows, "float32")
    assert best == 1 and found["table3"] == pytest.approx(0.25) and found["table9"] == 0
    assert found["abcd"] == found["all forms"] == math.inf


def test_a_run_in_which_all_diverged_has_its_report(tmp_path, capsys):
    args = parametrizations.parse([*SMALL, "--out", str(tmp_path)])
    rows = [record(name, width, 1.0, math.inf)
            for name in parametrizations.PARAMETRIZATIONS for width in (64, 96)]
    rows += [record(name, 96, 1.0, math.inf, dtype) for dtype in ("float32", "float64")
             for name in parametrizations.FORMS]
    parametrizations.report(args, load_digits(), rows, 1.0)
    found = json.loads((tmp_path / "summary.json").read_text(encoding="utf-8"))["forms"]
    assert set(found["float64"].values()) == {None} and "nan" in capsys.readouterr().out


def test_interrupted_run_keeps_what_has_finished(tmp_path, capsys, monkeypatch):
    (tmp_path / "parametrizations.png").write_text("of an earlier run")

    def interrupted(args, digits):
        yield record("sp", 64, 1.0, 0.5)
        signal.raise_signal(signal.SIGINT)
        yield record("sp", 64, 2.0, 0.5)
        raise AssertionError("it went on")

    monkeypatch.setattr(parametrizations, "trials", interrupted)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)      # it is ignored in a background shell
    try:
        assert parametrizations.main([*SMALL, "--out", str(tmp_path)]) == 130
    finally:
        signal.signal(signal.SIGINT, before)
    assert len(table(tmp_path)) == 2 and [path.name for path in tmp_path.iterdir()] == ["results.csv"]
    assert str(tmp_path / "results.csv") in capsys.readouterr().err


def test_the_table_has_a_line_a_parametrization():
    gaps = {name: 1e-3 for name in (*parametrizations.OTHER_FORMS, "all forms")}
    both = {"float32": (0.5, gaps | {"sp": 0.5, "ntp": 0.5}), "float64": (0.0, gaps)}
    said = parametrizations.difference_table(96, both)
    assert "2^0.5 in float32, 2^0 in float64" in said
    assert [line.split()[-2:] for line in said.split("\n")[-3:]] == [
        ["1.0e-03", "1.0e-03"], ["5.0e-01", "-"], ["5.0e-01", "-"]]
