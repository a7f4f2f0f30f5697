"""The distribution: its files, the cost of importing it, and warnings that are errors."""
import importlib.metadata
import pathlib
import subprocess
import sys
import warnings

import pytest

import haiku_mup

ROOT = pathlib.Path(__file__).parents[2]
LIMIT = 0.05        # s, of this process's time


def python(code):
    """Returns what a new Python prints, in which haiku and optax are imported already."""
    done = subprocess.run([sys.executable, "-W", "error", "-c", "import haiku, optax, sys, time\n" + code],
                          cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_importing_adds_little_time():
    """Of thirty tries the best: another process on the machine can only make it longer."""
    code = "t = time.process_time()\nimport haiku_mup\nprint(time.process_time() - t)"
    times = []
    while len(times) < 30 and min(times, default=1) > LIMIT:
        times.append(float(python(code)))
    assert min(times) <= LIMIT, times


def test_importing_adds_no_other_package():
    new = python("""
before = set(sys.modules)
import haiku_mup
print(*{name.partition(".")[0] for name in set(sys.modules) - before} - sys.stdlib_module_names)
""")
    assert new.split() == ["haiku_mup"]
    assert python("import haiku_mup\nprint({'matplotlib', 'pandas', 'tqdm'} & set(sys.modules))") == "set()\n"


def test_the_models_need_nothing_but_the_core():
    code = "import haiku_mup.models\nprint({'safetensors', 'torch', 'transformers'} & set(sys.modules))"
    assert python(code) == "set()\n"


def test_the_models_are_not_imported_unasked():
    assert python("import haiku_mup\nprint('haiku_mup.models' in sys.modules)") == "False\n"


@pytest.mark.parametrize("name", [
    "CHANGELOG.md", "LICENSE", "README.md", "benchmarks/__init__.py", "conftest.py", "demos/__init__.py",
    "docs/figures/lr_transfer.png", "noxfile.py", "pyproject.toml", "setup.py",
    "tests/reference/golden/microsoft_mup.json", "tests/reference/golden/transformers.npz",
    "tests/package/typed/program.py"])
def test_the_sdist_has(name):
    """Says nothing in a checkout; in an unpacked sdist, that MANIFEST.in names it."""
    assert (ROOT / name).is_file()


def installed():
    """Returns the distribution that a wheel installed, and its files; skips a checkout, or a link to it."""
    for found in importlib.metadata.distributions(name="haiku-mup"):
        files = {file.as_posix() for file in found.files or ()}
        if found.read_text("RECORD") and "haiku_mup/__init__.py" in files:
            return found, files
    pytest.skip("haiku-mup is not installed from a wheel")


def test_the_wheel_is_the_library_alone():
    found, files = installed()
    assert {file.partition("/")[0] for file in files} == {"haiku_mup", f"haiku_mup-{found.version}.dist-info"}
    assert "haiku_mup/py.typed" in files
    assert all(file.endswith((".py", ".pyc", "py.typed")) for file in files if file.startswith("haiku_mup/"))


@pytest.mark.skipif((ROOT / "haiku_mup").exists(), reason="run beside the sources, which come first")
def test_the_wheel_is_what_is_tested():
    found, _ = installed()
    assert pathlib.Path(haiku_mup.__file__).samefile(found.locate_file("haiku_mup/__init__.py"))


@pytest.mark.parametrize("kind", [DeprecationWarning, PendingDeprecationWarning, FutureWarning, UserWarning])
def test_warnings_are_errors(kind):
    with pytest.raises(kind):
        warnings.warn_explicit("old", kind, "jax/numpy.py", 1, module="jax.numpy")


def test_the_runner_of_sweeps_stays_small():
    """Executors and pools are loky's and distributed's; what is ours has 700 lines, docstrings included."""
    files = (pathlib.Path(haiku_mup.__file__).parent / "sweep" / "runner").glob("*.py")
    assert 500 < sum(len(file.read_text(encoding="utf-8").splitlines()) for file in files) <= 700
