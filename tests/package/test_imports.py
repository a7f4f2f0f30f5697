"""Imports of haiku_mup run one way; the check finds each violation in a package that is made wrong."""
import pathlib
import runpy
import subprocess
import sys

import pytest

import haiku_mup

CHECK = pathlib.Path(__file__).parent / "check_imports.py"
violations = runpy.run_path(str(CHECK))["violations"]


def package(folder, files):
    """Writes a package of these {path: source}, with an __init__.py in each folder; returns its own folder."""
    root = folder / "haiku_mup"
    for path, source in files.items():
        file = root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(source, encoding="utf-8")
    for inner in (root, *root.glob("**/")):
        (inner / "__init__.py").touch()
    return root


RIGHT = {
    "__init__.py": "from haiku_mup.mup import Mup\n",
    "errors/__init__.py": "",
    "rules/tables.py": "import math\nfrom haiku_mup.errors import MupError\nfrom . import powers\n",
    "rules/powers.py": "",
    "tracing/capture.py": "import jax\nfrom haiku_mup import rules\nfrom haiku_mup.rules import tables\n",
    "mup.py": "def wrap():\n    from haiku_mup.tracing import capture\n",
    "sweep/runner/pools.py": "import loky\nimport haiku_mup.sweep.trial\n",
    "sweep/trial.py": "from haiku_mup import mup\n",
}


def test_imports_run_one_way():
    assert violations(pathlib.Path(haiku_mup.__file__).parent) == []


def test_a_package_that_is_right(tmp_path):
    assert violations(package(tmp_path, RIGHT)) == []


@pytest.mark.parametrize("path, source, where, remedy", [
    ("rules/tables.py", "\nfrom haiku_mup.tracing.capture import x, y",
     "rules/tables.py:2: imports haiku_mup.tracing.capture.x; tracing comes after rules",
     "may import errors; move what both need"),
    ("rules/tables.py", "def f():\n    import haiku_mup.mup", "rules/tables.py:2", "mup comes after rules"),
    ("rules/tables.py", "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from ..mup import Mup",
     "rules/tables.py:3: imports haiku_mup.mup.Mup", "mup comes after rules"),
    ("tracing/capture.py", "import importlib\nimportlib.import_module('..sweep.trial', __package__)",
     "tracing/capture.py:2: imports haiku_mup.sweep.trial", "sweep comes after tracing"),
    ("layers/readout.py", "from haiku_mup.optimizers import wrapper", "layers/readout.py:1",
     "optimizers is beside layers"),
    ("mup.py", "from haiku_mup import Sweep", "mup.py:1", "import it from the module that defines it"),
    ("rules/tables.py", "import jax.numpy", "rules/tables.py:1", "rules imports the standard library alone"),
    ("mup.py", "import flax.linen", "mup.py:1: imports flax.linen", "only frameworks may import flax"),
    ("mup.py", "import torch", "mup.py:1: imports torch", "the library needs no torch"),
    ("mup.py", "from demos import common", "mup.py:1: imports demos.common", "the library needs no demos"),
    ("mup.py", "import matplotlib.figure", "mup.py:1", "only coordinates and plot and sweep"),
    ("scaling.py", "", "scaling.py: a module at the top of haiku_mup",
     "move it to a room: errors, rules, parameters"),
    ("training/loop.py", "", "training: a folder that is no room", "move its modules to a room"),
    ("rules/powers.py", "from haiku_mup.rules import tables",
     "circle: haiku_mup/rules/powers.py:1 imports haiku_mup.rules.tables, haiku_mup/rules/tables.py:3 imports "
     "haiku_mup.rules.powers", "move what they share"),
    ("sweep/trial.py", "def f():\n    from haiku_mup.sweep.runner.pools import x",
     "circle: haiku_mup/sweep/runner/pools.py:2 imports haiku_mup.sweep.trial, haiku_mup/sweep/trial.py:2",
     "move what they share"),
    ("rules/__init__.py", "from haiku_mup.rules.tables import x\nfrom haiku_mup.rules.powers import y",
     "circle: haiku_mup/rules/__init__.py:2 imports haiku_mup.rules.powers, haiku_mup/rules/powers.py:1", "")])
def test_each_violation_is_found_and_told(path, source, where, remedy, tmp_path):
    """In an otherwise right package: one line, with the place, the import and what would be right."""
    below = {"rules/powers.py": "from haiku_mup.rules import ONE"} if path == "rules/__init__.py" else {}
    said, = violations(package(tmp_path, RIGHT | below | {path: source}))
    assert said.startswith(where if where.startswith("circle") else f"haiku_mup/{where}") and remedy in said


def test_the_command(tmp_path):
    def run(*arguments):
        done = subprocess.run([sys.executable, CHECK, *arguments], capture_output=True, text=True, check=False)
        return done.returncode, done.stdout

    root = package(tmp_path, RIGHT)
    assert run(root) == (0, "")
    (root / "mup.py").write_text("import torch")
    code, said = run(root)
    assert code == 1 and said.startswith("haiku_mup/mup.py:1: imports torch; ") and said.count("\n") == 1
