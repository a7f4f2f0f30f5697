"""The tutorial: its script and its notebook are in step, its outputs are clean, and what it claims holds."""
import copy
import importlib.util
import json
import os
import pathlib
import re
import subprocess
import sys

import pytest

DEMOS = pathlib.Path(__file__).parents[2] / "demos"
SCRIPT = (DEMOS / "tutorial.py").read_text(encoding="utf-8")
FILE = DEMOS / "tutorial.ipynb"
NOTEBOOK = json.loads(FILE.read_text(encoding="utf-8"))
MARK = re.compile(r"^# %%(?: \[(\w+)\])?\n", re.MULTILINE)
ABSOLUTE = re.compile(r"(?:^|[\s'\"(=])(?:~|/|[A-Z]:\\)[\w.-]+[/\\]", re.MULTILINE)


def cells(script):
    """Returns [(kind, source)] of a script in percent format."""
    _, *parts = MARK.split(script)
    return [_cell(kind or "code", body.strip("\n")) for kind, body in zip(parts[::2], parts[1::2])]


def _cell(kind, body):
    return kind, re.sub(r"^# ?" if kind == "markdown" else r"^# (?=%)", "", body, flags=re.MULTILINE)


def in_step(notebook, script):
    return [(c["cell_type"], "".join(c["source"])) for c in notebook["cells"]] == cells(script)


def outputs(notebook):
    return [out for cell in notebook["cells"] for out in cell.get("outputs", [])]


def printed(notebook):
    return "".join("".join(out["text"]) for out in outputs(notebook) if out["output_type"] == "stream")


def images(notebook):
    return [out["data"]["image/png"] for out in outputs(notebook) if "image/png" in out.get("data", {})]


def dirty(notebook):
    """Returns what a reader should not see, and what would differ from run to run."""
    found = [out for out in outputs(notebook)
             if out["output_type"] == "error" or out.get("name") == "stderr"]
    found += [cell["metadata"] for cell in notebook["cells"] if cell["metadata"]]
    texts = ["".join(cell["source"]) for cell in notebook["cells"]]
    return found + [hit for text in [*texts, printed(notebook)] for hit in ABSOLUTE.findall(text)]


def drifts(notebook):
    found = re.findall(r"^(sp|mup) +drift (\d+\.\d+) octaves$", printed(notebook), re.MULTILINE)
    return {name: float(octaves) for name, octaves in found}


def holds(notebook):
    """Checks that the optimum moves less in μP, the bases are equal, the checks have their verdicts, a rate is
    recommended, and the mistake is refused; one figure.
    """
    moved, text = drifts(notebook), printed(notebook)
    return (moved["mup"] < moved["sp"] and "and equal parameters\n" in text
            and "coordinate check: passed; " in text and "coordinate check of sp: failed; " in text
            and "Use a learning rate of 0.0" in text
            and "MupError: 'linear_3/w': base (64, 10), target (256, 10)" in text
            and len(images(notebook)) == 1)


# --- the committed notebook ---

def test_script_and_notebook_are_in_step():
    assert len(NOTEBOOK["cells"]) > 15 and in_step(NOTEBOOK, SCRIPT)


@pytest.mark.parametrize("before, after", [
    ("RATES, seeds=3", "RATES, seeds=4"), ("a plain Haiku MLP", "a Haiku MLP"),
    ("# %matplotlib inline\n", ""), ("# %% [markdown]\n# ## 1.", "# %%\n# ## 1."),
    ("\n# %%\ndef same", "\ndef same"),
])
def test_a_changed_cell_is_noticed(before, after):
    assert before in SCRIPT and not in_step(NOTEBOOK, SCRIPT.replace(before, after, 1))


def test_jupytext_reads_the_same_cells():
    jupytext = pytest.importorskip("jupytext", reason="python -m pip install '.[notebook]'")
    read = jupytext.reads(SCRIPT, fmt="py:percent")
    assert [(cell.cell_type, cell.source) for cell in read.cells] == cells(SCRIPT)


def test_outputs_are_there_and_clean_and_small():
    code = [cell for cell in NOTEBOOK["cells"] if cell["cell_type"] == "code"]
    assert [cell["execution_count"] for cell in code] == list(range(1, len(code) + 1))
    assert all(cell["outputs"] for cell in code if re.search(r"^( {4})?print\(|^sweep\.plot", "".join(
        cell["source"]), re.MULTILINE))
    assert dirty(NOTEBOOK) == []
    assert FILE.stat().st_size < 150_000


@pytest.mark.parametrize("output", [
    {"output_type": "error"},
    {"output_type": "stream", "name": "stderr", "text": "a warning"},
    {"output_type": "stream", "name": "stdout", "text": ["see\n", "/opt/python/lib.py"]},
])
def test_an_unclean_output_is_noticed(output):
    notebook = copy.deepcopy(NOTEBOOK)
    notebook["cells"][1]["outputs"] = [output]
    assert dirty(notebook)


def test_what_was_printed_is_what_is_claimed():
    assert holds(NOTEBOOK)


def test_another_result_is_noticed():
    other = json.loads(json.dumps(NOTEBOOK).replace("mup drift 0", "mup drift 9"))
    assert drifts(other)["mup"] > 9 and not holds(other)


def test_the_diffs_are_the_code():
    """Lines with a minus are code before, those with a plus are code after, others both."""
    code = [source for kind, source in cells(SCRIPT) if kind == "code"]
    prose = "\n".join(source for kind, source in cells(SCRIPT) if kind == "markdown")
    diffs = re.findall(r"```diff\n(.*?)```", prose, re.DOTALL)
    assert len(diffs) == 1
    for diff in diffs:
        for other in "+-":
            kept = "".join(line[1:] + "\n" for line in diff.splitlines() if line[0] != other)
            assert any(kept in source + "\n" for source in code), kept


@pytest.mark.parametrize("folder", [DEMOS, DEMOS.parent], ids=["demos", "root"])
def test_the_first_cell_finds_the_digits(folder):
    first = next(source for kind, source in cells(SCRIPT) if kind == "code").replace("%matplotlib", "# ")
    done = subprocess.run([sys.executable, "-W", "error", "-c", first + "\nload_digits"], cwd=folder,
                          capture_output=True, text=True, check=False)
    assert done.returncode == 0 and not done.stderr, done.stderr


# --- made anew ---

@pytest.mark.slow
@pytest.mark.skipif(not all(map(importlib.util.find_spec, ("jupytext", "nbclient", "ipykernel"))),
                    reason="python -m pip install '.[notebook]'")
def test_made_anew_it_claims_the_same(tmp_path):
    """The command that makes it runs it in a fresh kernel, and ends with an error where a cell does."""
    out, env = tmp_path / "tutorial.ipynb", dict(os.environ)
    env.pop("XLA_FLAGS", None)                          # conftest's would make it slow
    done = subprocess.run([sys.executable, "-m", "demos.notebook", "--out", str(out)], cwd=DEMOS.parent,
                          env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    made = json.loads(out.read_text(encoding="utf-8"))
    assert in_step(made, SCRIPT) and holds(made)
    assert [out for out in outputs(made) if out["output_type"] == "error"] == []
