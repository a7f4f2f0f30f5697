"""Pretraining: what a step reads, runs from end to end, and runs that were killed and go on."""
import csv
import json
import os
import pathlib
import shutil
import signal
import socket
import subprocess
import sys
import time

import numpy as np
import pytest

import haiku_mup
from demos.pretrain import corpus, processes
from demos.pretrain.arguments import parse
from demos.pretrain.models import MODELS, capture
from demos.pretrain.program import main
from demos.pretrain.report import FIGURE
from haiku_mup.models.loss import IGNORE_INDEX

ROOT = pathlib.Path(__file__).parents[2]
LINES = "".join(f"In the beginning God created verse {i}.\n" for i in range(2000))
SMALL = ["--width", "16", "--head-size", "8", "--layers", "1", "--batch", "4", "--length", "16"]
QUICK = [*SMALL, "--steps", "6", "--save-every", "3", "--eval-every", "2", "--warmup", "2"]


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    path = tmp_path_factory.mktemp("text") / "text.txt"
    path.write_text(LINES)
    return str(path)


def flags(text, *more):
    return [*QUICK, "--text", text, *more]


# --- what a step reads ---

def test_a_step_reads_what_its_number_says(text):
    data = corpus.load_corpus(pathlib.Path(text), "byte", masked=False)
    one, other = (corpus.Batches(corpus=data, rows=4, length=16, masked=False, seed=7) for _ in range(2))
    ids, labels = one.train(3)
    assert all((a == b).all() for a, b in zip(other.train(3), (ids, labels)))
    assert not (one.train(4)[0] == ids).all()
    assert not (one._replace(seed=8).train(3)[0] == ids).all()
    assert (ids[:, 1:] == labels[:, :-1]).all()             # what comes next
    assert data.decode(ids[0]) in LINES and data.decode(labels[0]) in LINES
    held = [[x for x in batch] for batch in one._replace(seed=8).valid()]
    assert len(held) == corpus.VALID_BATCHES
    assert all((a == b).all() for batch, same in zip(held, one.valid()) for a, b in zip(batch, same))


def test_of_the_places_to_guess_most_are_masked(text):
    ids = np.full((2000, 100), 50)
    shown, labels = corpus.mask_tokens(ids, 100, np.random.default_rng(0))
    guess = labels != IGNORE_INDEX
    assert (guess.sum(1) == 15).all() and (labels[guess] == 50).all() and (shown[~guess] == 50).all()
    masked = (shown[guess] == corpus.MASK_ID).mean()
    kept = (shown[guess] == 50).mean()          # some of the random ids are the same
    assert abs(masked - 0.8) < 0.01 and abs(kept - 0.1 - 0.1 / 98) < 0.01       # of 30,000: 4 standard errors
    assert set(np.unique(shown)) <= {corpus.MASK_ID, *range(corpus.SPECIAL_IDS, 100)}
    assert (np.abs(guess.mean(0) - 0.15) < 0.04).all()      # any place; 5 standard errors


@pytest.mark.parametrize("level, size", [("byte", 256 + corpus.SPECIAL_IDS), ("word", None)])
def test_text_comes_back_from_its_ids(text, level, size):
    data = corpus.load_corpus(pathlib.Path(text), level, masked=True)
    assert data.train.min() >= corpus.SPECIAL_IDS and data.train.max() < data.size
    assert data.size == (size or len(data.words) + corpus.SPECIAL_IDS)
    said = data.decode(data.train[:200])
    assert said.lower().startswith("in the beginning god created verse 0") and "\n" in said
    assert not (data.checksum == corpus.load_corpus(pathlib.Path(text), level, masked=False).checksum)


# --- from end to end, in this process ---

@pytest.fixture(scope="module")
def finished(text, tmp_path_factory):
    """Trains a GPT-2 that is its own base; returns the exit code and the folder."""
    folder = tmp_path_factory.mktemp("pretrain")
    code = main(flags(text, "--save-base", str(folder / "base.json"), "--out", str(folder / "out")))
    return code, folder


def table(folder):
    with open(folder / "learning_curve.csv", newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_run_from_end_to_end(finished, capsys):
    code, folder = finished
    rows, summary = table(folder / "out"), json.loads((folder / "out" / "summary.json").read_text())
    assert code == 0 and [row["step"] for row in rows] == [str(i) for i in range(7)]
    assert [i for i, row in enumerate(rows) if row["valid_loss"]] == [0, 2, 4, 6]
    assert abs(float(rows[0]["train_loss"]) - np.log(256)) < 0.1        # knows nothing yet
    assert (folder / "out" / FIGURE).read_bytes().startswith(b"\x89PNG")
    assert summary["found"]["valid_loss"] == float(rows[6]["valid_loss"])
    assert sorted(path.name for path in (folder / "out" / "checkpoints").iterdir()) == ["3", "6"]


def test_from_an_earlier_checkpoint_the_losses_are_the_same(finished, text, tmp_path, capsys):
    shutil.copytree(finished[1] / "out", tmp_path / "out")
    shutil.rmtree(tmp_path / "out" / "checkpoints" / "6")
    with open(tmp_path / "out" / "learning_curve.csv", "a", encoding="utf-8") as file:
        file.write("7,0.00")                                # killed as it wrote
    assert main(flags(text, "--out", str(tmp_path / "out"))) == 0
    said = capsys.readouterr().out
    assert "step 3 of 6 is where a checkpoint goes on" in said and f"\n{LINES[:4]}" in said       # and a sample
    assert table(tmp_path / "out") == table(finished[1] / "out")


@pytest.mark.parametrize("given, says", [
    (["--parametrization", "sp"], "μP in the checkpoint, and standard here"),
    (["--base", "half.json"], "another base"), (["--lr", "0.01"], "lr was 0.004, and is 0.01"),
    (["--steps", "7"], "steps was 6, and is 7"), (["--text", "other.txt"], "checksum was")])
def test_a_checkpoint_of_another_run_is_refused(finished, text, given, says, capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    pathlib.Path("other.txt").write_text(LINES.replace("God", "Gad"))
    args = parse(flags(text))
    args.width = 8
    capture(args, 256).save("half.json")
    with pytest.raises(SystemExit) as stop:
        main(flags(text, "--out", str(finished[1] / "out"), *given))
    said = capsys.readouterr().err
    assert stop.value.code == 2 and says in said
    if given[0] == "--base":            # the rows that differ
        head, first, second = said.splitlines()[1:4]
        assert head.split()[:3] == ["parameter", "base", "target"]
        assert first.startswith("checkpoint  gpt2_lm_head_model") and second.startswith("here ")


def test_a_base_in_a_file_puts_a_wider_model_in_mup(finished, text):
    args = parse(flags(text, "--base", str(finished[1] / "base.json"), "--width", "64"))
    rows = {row.name.rpartition("/")[0].rpartition("/")[2] + "/" + row.name.rpartition("/")[2]: row
            for row in capture(args, 256).table()}
    assert rows["c_fc/w"].adam_lr == 0.25 and rows["wte/embeddings"].multiplier == 0.25
    assert {row.role for row in rows.values()} == {"input", "hidden"}
    args.base = None
    assert {row.adam_lr for row in capture(args, 256).table()} == {1.0}


def test_a_llama_grows_in_every_width(text, tmp_path):
    """Groups grow with the heads, so that all but the readout is hidden; the base is that of half the width."""
    args = parse(flags(text, "--model", "llama", "--width", "32"))
    capture(args, 256).save(tmp_path / "base.json")
    args.base, args.width = tmp_path / "base.json", 64
    rows = capture(args, 256).table()
    assert {row.role for row in rows if row.name.endswith("proj/w")} == {"hidden"}
    assert {row.role for row in rows if row.name.endswith(("key/w", "value/w"))} == {"hidden"}
    assert [row.name for row in rows if row.role == "output"] == ["llama_for_causal_lm/lm_head/w"]


@pytest.mark.parametrize("given, says", [
    (["--width", "20"], "--width: 20 is no multiple of --head-size 8"), (["--steps", "0"], "above 0"),
    (["--model", "t5"], "invalid choice"), (["--text", "nothing.txt"], "nothing.txt"),
    (["--batch", "600"], "give a longer text, or a smaller --batch or --length"),
    (["--base", "a", "--save-base", "b"], "--save-base"), (["--base", "nothing.json"], "nothing.json"),
    (["--base", "a", "--parametrization", "sp"], "leave it out"), (["--warmup", "-1"], "from 0 on"),
    (["--dropout", "1"], "from 0 to less than 1"), (["--lr", "0"], "above 0"), (["--out", __file__], "exists")])
def test_what_is_wrong_is_said_in_one_line(given, says, text, tmp_path, capsys):
    with pytest.raises(SystemExit) as stop:
        main(flags(text, "--out", str(tmp_path), *given))
    said = capsys.readouterr().err
    assert stop.value.code == 2 and says in said and said.count("\n") == 1


def test_without_orbax_it_says_what_to_install(text, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "orbax.checkpoint", None)
    with pytest.raises(SystemExit):
        main(flags(text, "--out", str(tmp_path)))
    assert "pip install" in capsys.readouterr().err


# --- in processes of their own ---

def start(text, out, *more, **env):
    return subprocess.Popen([sys.executable, "-m", "demos.pretrain", *flags(text, *more), "--out", str(out)],
                            cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                            env=os.environ | env)


@pytest.fixture
def hears_ctrl_c():
    """Restores the handler of Ctrl-C, which processes started by a background shell inherit as ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def ended(process):
    out, err = process.communicate(timeout=1800)
    assert process.returncode == 0, err
    return out


def wait_for(process, path, lines):
    """Waits until the file has so many lines, or the process has ended."""
    while process.poll() is None and not (path.exists() and path.read_bytes().count(b"\n") >= lines):
        time.sleep(0.01)


@pytest.mark.slow
@pytest.mark.parametrize("model", MODELS)
def test_killed_at_any_moment_it_goes_on_as_if_nothing_had_been(model, text, tmp_path):
    more = ["--model", model, "--steps", "30", "--dropout", "0.1"]
    ended(start(text, tmp_path / "whole", *more))
    whole = (tmp_path / "whole" / "learning_curve.csv").read_bytes()
    rng = np.random.default_rng(0)
    for lines in (3, 9, 16, 24):
        process = start(text, tmp_path / "cut", *more)
        wait_for(process, tmp_path / "cut" / "learning_curve.csv", lines)
        time.sleep(rng.uniform(0, 0.05))        # somewhere between two steps, or in the midst of a checkpoint
        process.kill()
        assert process.wait() == -signal.SIGKILL
        process.communicate()
    ended(start(text, tmp_path / "cut", *more))
    assert (tmp_path / "cut" / "learning_curve.csv").read_bytes() == whole


@pytest.mark.slow
def test_ctrl_c_keeps_the_step_and_says_how_to_go_on(text, tmp_path, hears_ctrl_c):
    more = ["--steps", "2000", "--schedule", "constant", "--save-every", "1000"]
    process = start(text, tmp_path / "cut", *more)
    wait_for(process, tmp_path / "cut" / "learning_curve.csv", 5)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=600)
    assert process.returncode == 130 and "to go on: python -m demos.pretrain --width 16" in err
    steps = len(table(tmp_path / "cut"))
    more[1] = str(steps + 3)                    # a constant rate leaves the number of steps free
    out = ended(start(text, tmp_path / "cut", *more))
    assert f"step {steps} of {steps + 3} is where" in out
    ended(start(text, tmp_path / "whole", *more))
    cut, whole = ([(row["step"], row["train_loss"]) for row in table(tmp_path / name)]
                  for name in ("cut", "whole"))
    assert cut == whole


def launch(count, text, out, *more, by=None, extra=()):
    """Starts the same command in several processes, as a shell or srun does; `extra` flags for the last."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]

    def env(i):
        if by == "srun":        # what srun sets; jax makes the port out of the job's number
            return {"SLURM_JOB_ID": str(port), "SLURM_STEP_NODELIST": "localhost", "SLURM_NTASKS": str(count),
                    "SLURM_PROCID": str(i), "SLURM_LOCALID": str(i)}
        return {"JAX_COORDINATOR_ADDRESS": f"127.0.0.1:{port}", "JAX_NUM_PROCESSES": str(count),
                "JAX_PROCESS_ID": str(i)}

    return [start(text, out, *more, *extra * (i == count - 1), **env(i)) for i in range(count)]


def losses(folder):
    return {name: np.array([float(row[name]) for row in table(folder) if row[name]])
            for name in ("train_loss", "valid_loss")}


def difference(one, other):
    """Returns the largest relative difference of two runs' losses."""
    a, b = losses(one), losses(other)
    return max(np.max(abs(a[name] - b[name]) / abs(a[name])) for name in a)


@pytest.mark.slow
@pytest.mark.parametrize("model", ["gpt2", "bert", "llama"])
def test_two_and_four_processes_have_the_losses_of_one(model, text, tmp_path):
    """Compares losses: a sum of four in another order rounds otherwise, by 6e-8 at most, and training adds up.

    Over 12 steps it is 2e-7 of the loss.
    """
    more = ["--model", model, "--steps", "12", "--dropout", "0.1"]
    ended(start(text, tmp_path / "1", *more))
    for count, by in ((2, None), (4, None), (2, "srun")):
        out = tmp_path / f"{count}{by}"
        said = [ended(process) for process in launch(count, text, out, *more, by=by)]
        assert ["held out" in each for each in said] == [True] + [False] * (count - 1)
        assert all(set(each.splitlines()) <= {line for line in each.splitlines() if line.startswith("[Gloo]")}
                   for each in said[1:])                # nobody else prints
        assert 0 < difference(tmp_path / "1", out) < 1e-6       # 0: they were one process each
    another = [*more, "--seed", "1"]
    ended(start(text, tmp_path / "seed", *another))
    assert difference(tmp_path / "1", tmp_path / "seed") > 1e-3


@pytest.mark.slow
def test_a_checkpoint_of_four_processes_goes_on_in_one_and_back(text, tmp_path):
    more = ["--schedule", "constant", "--save-every", "1"]
    ended(start(text, tmp_path / "1", *more, "--steps", "12"))
    for at, count in ((3, 4), (6, 1), (9, 2), (12, 4)):
        said = [ended(process) for process in launch(count, text, tmp_path / "4", *more, "--steps", str(at))]
        assert f"step {at - 3} of {at}" in said[0]
    assert 0 < difference(tmp_path / "1", tmp_path / "4") < 1e-6


def awaited(process, seconds):
    """Waits for a process; returns its exit code and its errors."""
    _, err = process.communicate(timeout=seconds)
    return process.returncode, err


@pytest.mark.slow
@pytest.mark.parametrize("model", ["gpt2", "llama"])
def test_a_process_of_two_that_is_killed_ends_both_and_both_go_on(model, text, tmp_path):
    more = ["--model", model, "--steps", "30", "--dropout", "0.1"]
    for process in launch(2, text, tmp_path / "whole", *more):
        ended(process)
    rng = np.random.default_rng(1)
    for victim, lines in ((1, 4), (0, 11), (1, 20)):
        both = launch(2, text, tmp_path / "cut", *more)
        wait_for(both[0], tmp_path / "cut" / "learning_curve.csv", lines)
        time.sleep(rng.uniform(0, 0.05))
        both[victim].kill()
        code, err = awaited(both[1 - victim], 90)
        assert code not in (0, None) and ("process " in err or "another task died" in err)
        awaited(both[victim], 90)
    for process in launch(2, text, tmp_path / "cut", *more):
        ended(process)
    whole, cut = ((tmp_path / name / "learning_curve.csv").read_bytes() for name in ("whole", "cut"))
    assert cut == whole


@pytest.mark.slow
@pytest.mark.parametrize("who", [0, 1])
def test_an_error_in_one_process_ends_the_others(who, text, tmp_path):
    """Fails in the process that writes, by a curve that can't be written, or in the one with a wrong flag."""
    more, extra = ["--steps", "100000"], ()
    if who == 0:
        (tmp_path / "out" / "learning_curve.csv").mkdir(parents=True)
    else:
        extra = ("--text", str(tmp_path / "nothing.txt"))
    both = launch(2, text, tmp_path / "out", *more, extra=extra)
    found = [awaited(process, 200) for process in both]
    assert found[who][0] == 2 and ("directory" in found[who][1] or "nothing.txt" in found[who][1])
    code, err = found[1 - who]
    assert code not in (0, None) and ("process " in err or "another task died" in err)


@pytest.mark.slow
def test_ctrl_c_in_one_process_ends_the_others(text, tmp_path, hears_ctrl_c):
    both = launch(2, text, tmp_path / "out", "--steps", "100000")
    wait_for(both[0], tmp_path / "out" / "learning_curve.csv", 3)
    both[1].send_signal(signal.SIGINT)
    (code, err), (_, interrupted) = awaited(both[0], 90), awaited(both[1], 90)
    assert both[1].returncode == 130 and "to go on:" in interrupted
    assert code not in (0, None) and ("process " in err or "another task died" in err)


@pytest.mark.slow
def test_a_process_that_hangs_ends_the_others(text, tmp_path):
    both = launch(2, text, tmp_path / "out", "--steps", "100000")
    wait_for(both[0], tmp_path / "out" / "learning_curve.csv", 3)
    both[1].send_signal(signal.SIGSTOP)
    try:
        code, err = awaited(both[0], 3 * processes.HEARTBEAT_TIMEOUT)
    finally:
        both[1].kill()
        both[1].communicate()
    assert code not in (0, None) and "another task died" in err


@pytest.mark.slow
def test_processes_that_are_given_different_things_are_told(text, tmp_path):
    for process in launch(2, text, tmp_path / "out", extra=("--lr", "0.1")):
        code, err = awaited(process, 200)
        assert code == 2 and "the 2 processes have different arguments, texts or bases" in err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("env, says", [
    ({"JAX_NUM_PROCESSES": "4", "JAX_PROCESS_ID": "1"}, "without JAX_COORDINATOR_ADDRESS; set all"),
    ({"JAX_COORDINATOR_ADDRESS": "127.0.0.1:1"}, "without JAX_NUM_PROCESSES, JAX_PROCESS_ID"),
    ({"JAX_COORDINATOR_ADDRESS": "127.0.0.1:1", "JAX_NUM_PROCESSES": "4", "JAX_PROCESS_ID": "4"}, "from 0 on"),
    ({"JAX_COORDINATOR_ADDRESS": "127.0.0.1:1", "JAX_NUM_PROCESSES": "4", "JAX_PROCESS_ID": "x"}, "'x'")])
def test_half_of_the_variables_are_no_run_of_its_own(env, says, text, tmp_path, monkeypatch, capsys):
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(SystemExit) as stop:
        main(flags(text, "--out", str(tmp_path / "out")))
    assert stop.value.code == 2 and says in capsys.readouterr().err and not (tmp_path / "out").exists()


@pytest.mark.slow
@pytest.mark.parametrize("model", MODELS)
def test_every_model_learns(model, text, tmp_path):
    """Trains in bytes and in words, and in μP at four times the base's width."""
    base = str(tmp_path / "base.json")
    for level, more in (("byte", ["--save-base", base]), ("byte", ["--width", "64", "--base", base]),
                        ("word", ["--parametrization", "sp"])):
        out = tmp_path / f"{level}{more[0]}"
        said = ended(start(text, out, "--model", model, "--level", level, "--steps", "150", *more))
        valid = [float(row["valid_loss"]) for row in table(out) if row["valid_loss"]]
        assert valid[-1] < 0.6 * valid[0]
        assert ("perplexity" in said) == (level == "word")


def test_the_base_of_a_file_is_the_base(finished):
    mup = haiku_mup.Mup.load(finished[1] / "base.json")
    assert all(tuple(p["delta"]) != tuple(p["shape"]) for p in mup.state_dict()["parameters"].values())
