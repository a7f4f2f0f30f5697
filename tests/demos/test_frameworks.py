"""demos.frameworks: the guides' models, which are the same at the base's width in both parametrizations."""
import json
import types

import jax
import numpy as np
import pytest
from demo_runs import demo_run
from sweep_results import table

from demos import frameworks

pytest.importorskip("equinox")
pytest.importorskip("flax")


@pytest.mark.parametrize("name", frameworks.FRAMEWORKS)
def test_the_models_are_planned(name):
    make_model, plan = frameworks.FRAMEWORKS[name][0](6)
    with jax.numpy_rank_promotion("allow"):
        found = plan(*(make_model(width)[0](jax.random.key(0)) for width in (4, 8)))
    roles = [row.role for row in found.table() if len(row.base_shape) == 2]
    assert sorted(roles) == ["hidden", "input", "output"]


def test_each_has_its_own_folder_and_command():
    demo = frameworks.make_demo("nnx")
    assert demo.name == "frameworks-nnx" and demo.prog == "python -m demos.frameworks nnx"


@pytest.mark.parametrize("given, says", [
    ([], "framework"), (["torch"], "'torch'"), (["nnx", "--steps", "a"], "--steps")])
def test_what_is_wrong_is_said_in_one_line(given, says, capsys):
    with pytest.raises(SystemExit) as stop:
        frameworks.main(given)
    said = capsys.readouterr().err
    assert stop.value.code == 2 and says in said and said.count("\n") == 1


@pytest.mark.slow
@pytest.mark.parametrize("name", frameworks.FRAMEWORKS)
def test_run_from_end_to_end(name, tmp_path, monkeypatch):
    monkeypatch.setattr(frameworks.digits, "load_and_print_source", lambda: types.SimpleNamespace(
        train_x=np.ones((128, 6), "float32"), train_y=np.zeros(128, int), valid_x=np.ones((8, 6), "float32"),
        valid_y=np.zeros(8, int), source="ones", sizes={"train": 128, "valid": 8}))
    code, said = demo_run(frameworks.main, [
        name, "--widths", "32,64", "--log2-lrs=-7:-6:1", "--seeds", "1", "--steps", "3"], tmp_path)
    losses = {}
    for row in table(tmp_path):
        losses.setdefault((row["width"] == "64", row["lr"]), []).append(row["train_loss"])
    assert code == 0 and "drift" in said and (tmp_path / f"{name}.png").exists()
    assert all((sp == mup) == base for (base, _), (sp, mup) in losses.items())
    assert json.loads((tmp_path / "summary.json").read_text())["base_width"] == 64
