"""The wheel holds every module of the library, and each can be imported first."""
import os
import pathlib
import shutil
import subprocess
import sys
import zipfile

import pytest

import haiku_mup

ROOT = pathlib.Path(__file__).parents[2]
BUILD = "import sys; from setuptools import build_meta; build_meta.build_wheel(sys.argv[1])"
# As a new Python for each module: haiku_mup, which always comes first, and of the rest what the module imports.
IMPORT = """
import importlib.util, pathlib, sys
import haiku, jax, optax

assert pathlib.Path(importlib.util.find_spec("haiku_mup").origin).parents[1].samefile(".")
first = set()
for name in sys.argv[1:]:
    try:
        import haiku_mup
        first = first or set(sys.modules)
        importlib.import_module(name)
    except Exception as error:
        print(name, error, sep=": ")
    for other in [other for other in set(sys.modules) - first if other.startswith("haiku_mup")]:
        del sys.modules[other]
"""


def names(folder):
    """Returns the names of all modules below a folder that holds the package."""
    files = [path.relative_to(folder).with_suffix("") for path in folder.glob("haiku_mup/**/*.py")]
    return {".".join(file.parts).removesuffix(".__init__") for file in files}


def built(source, folder):
    """Builds a wheel with the setuptools that is installed; returns the folder where it is unpacked."""
    done = subprocess.run([sys.executable, "-c", BUILD, str(folder)], cwd=source, capture_output=True,
                          text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    wheel, = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder / "library")
    return folder / "library"


def failures(folder, modules):
    """Returns a line for each module that a new Python cannot import from a folder."""
    env = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    done = subprocess.run([sys.executable, "-c", IMPORT, *sorted(modules)], cwd=folder, env=env,
                          capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


@pytest.fixture
def sources(tmp_path_factory):
    """Copies what a wheel is built from, for setuptools leaves files there that go into the next."""
    if not (ROOT / "haiku_mup").is_dir():
        pytest.skip("the library's sources are not here, but installed")
    folder = tmp_path_factory.mktemp("sources")
    shutil.copytree(ROOT / "haiku_mup", folder / "haiku_mup", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("LICENSE", "README.md", "pyproject.toml", "setup.py"):
        shutil.copy(ROOT / name, folder)
    return folder


def test_the_wheel_holds_every_module(sources, tmp_path):
    library = built(sources, tmp_path)
    assert len(names(library)) > 50 and names(library) == names(sources)


@pytest.mark.slow
def test_each_module_of_the_wheel_can_be_imported_first(sources, tmp_path):
    library = built(sources, tmp_path)
    assert failures(library, names(sources)) == []
    shutil.rmtree(library / "haiku_mup" / "rules")
    lost = failures(library, {"haiku_mup.rules.tables", "haiku_mup.mup"})
    assert [line.partition(":")[0] for line in lost] == ["haiku_mup.mup", "haiku_mup.rules.tables"]


def test_a_package_that_setup_py_forgets_is_noticed(sources, tmp_path):
    setup = sources / "setup.py"
    given, packages = setup.read_text("utf-8"), 'find_packages(include=["haiku_mup", "haiku_mup.*"]'
    assert packages in given
    setup.write_text(given.replace(packages, f'{packages}, exclude=["haiku_mup.sweep.runner"]'), "utf-8")
    library = built(sources, tmp_path)
    lost = names(sources) - names(library)
    assert lost and lost == {name for name in names(sources) if name.startswith("haiku_mup.sweep.runner")}
    assert len(failures(library, lost)) == len(lost)


@pytest.mark.skipif((ROOT / "haiku_mup").is_dir(), reason="the checkout's own wheel is built and tried, above")
def test_every_module_of_the_installed_wheel_can_be_imported():
    folder = pathlib.Path(haiku_mup.__file__).parents[1]
    assert failures(folder, names(folder)) == []
