"""The demo of depth: sizes and flags; a small run from end to end."""
import contextlib
import csv
import importlib.util
import io
import json

import jax
import numpy as np
import pytest

from demos import depth
from demos.common import digits, trainer

SMALL = ["--blocks", "2,4", "--width", "16", "--log2-lrs=-9:-8:1", "--seeds", "1", "--epochs", "1"]


def test_the_defaults():
    args, quick = depth.parse([]), depth.parse(["--quick"])
    assert args.blocks == [2, 8, 32] and args.parametrization == list(depth.ALPHAS)
    assert quick.blocks == [2, 16] and quick.width == args.width
    assert depth.parse(["--optimizer", "sgd"]).log2_lrs[0] == -7


def test_the_width_grows_with_the_root_of_the_depth_where_it_does():
    args = depth.parse([])
    assert depth.sizes("completep", args) == [(2, 64), (8, 64), (32, 64)]
    assert depth.sizes("both", args) == [(2, 32), (8, 64), (32, 128)]


@pytest.mark.parametrize("argv", [["--parametrization", "sp"], ["--blocks", "0"], ["--width", "x"], ["--full"]])
def test_what_cannot_be_is_one_line(argv, capsys):
    with pytest.raises(SystemExit):
        depth.parse(argv)
    assert capsys.readouterr().err.startswith("python -m demos.depth: error: ")


@pytest.mark.slow
def test_run_from_end_to_end(tmp_path, monkeypatch):
    """Runs on scikit-learn's digits, which train faster."""
    said, find = io.StringIO(), importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "mlxtend" else find(name))
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said), jax.numpy_rank_promotion("allow"):
        assert depth.main([*SMALL, "--out", str(tmp_path)]) == 0
    with open(tmp_path / "results.csv", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 4 * 2 * 2 and list(rows[0]) == list(depth.COLUMNS)
    at = {(row["parametrization"], row["blocks"], row["lr"]): row["train_loss"] for row in rows}
    few, many = ({at[name, blocks, str(2**-8)] for name in ("unscaled", "depth-mup", "completep")}
                 for blocks in ("2", "4"))
    assert len(few) == 1 and len(many) == 3                 # one base, and three targets
    summary = json.loads((tmp_path / "summary.json").read_text(encoding="utf-8"))
    assert summary["data"]["source"] == digits.SMALL.description and summary["widths"]["both"] == [8, 11]
    assert list(summary["best"]["train_loss"]["both"]["optimum"]) == ["2", "4"]
    assert (tmp_path / "depth.png").read_bytes().startswith(b"\x89PNG")
    assert "2 blocks" in said.getvalue() and "depth-mup" in said.getvalue()


def test_batches_are_shuffled_each_epoch_and_whole():
    order = trainer.batch_order(0, 300, 2)
    assert order.shape == (4, trainer.BATCH) and order.max() < 300
    assert len(set(order[:2].ravel())) == len(set(order[2:].ravel())) == 256
    assert not np.array_equal(order[:2], order[2:])
    assert not np.array_equal(order, trainer.batch_order(1, 300, 2))
