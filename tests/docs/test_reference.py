"""The reference: every public name is in its pages, and has an example that runs."""
import inspect
import pathlib
import pydoc
import subprocess
import sys
import types
import zlib

import pytest

import haiku_mup
from haiku_mup import models

ROOT = pathlib.Path(__file__).parents[2]
# Methods that make errors and rows, for the library alone; and a method that every exception has.
INTERNAL = {"MupError.about", "MupError.made_at", "MupError.of_all", "MupError.with_source", "Row.of",
            "MupError.add_note"}


def python(*arguments):
    return subprocess.run([sys.executable, *arguments], cwd=ROOT, capture_output=True, text=True,
                          encoding="utf-8", check=False)


def public(package):
    """Returns {name: object} of a package's __all__, and of the methods and properties of its classes."""
    found = {}
    for name in package.__all__:
        found[name] = value = getattr(package, name)
        for cls in reversed(value.__mro__) if inspect.isclass(value) else ():
            for member, inner in vars(cls).items() if cls.__module__ == value.__module__ else ():
                if not member.startswith("_") and (
                        inspect.isfunction(inner) or isinstance(inner, (property, classmethod, staticmethod))):
                    found[f"{name}.{member}"] = getattr(value, member)
    return {name: value for name, value in found.items() if name not in INTERNAL}


def without_example(objects, collected):
    """Returns the names whose docstring has no example among the doctests that were collected."""
    objects = {name: getattr(value, "fget", value) for name, value in objects.items()}     # of a property
    return {name for name, value in objects.items()
            if f"{value.__module__}.{value.__qualname__}" not in collected
            or ">>>" not in (value.__doc__ or "") or "+SKIP" in value.__doc__}


@pytest.fixture(scope="module")
def collected():
    """Returns the names of the doctests that pytest collects, with this repository's settings."""
    if not (ROOT / "haiku_mup").is_dir():
        pytest.skip("the library's sources are not here, but installed: a checkout runs their examples")
    done = python("-m", "pytest", "--collect-only", "-q", "-n", "0", "haiku_mup")
    assert done.returncode == 0, done.stdout + done.stderr
    return {line.rpartition("::")[2] for line in done.stdout.splitlines() if "::" in line}


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """Makes the pages by the documented command, in another place."""
    place = tmp_path_factory.mktemp("pages")
    return python("-m", "sphinx", "-q", "-W", "-E", "docs", str(place)), place


@pytest.fixture(scope="module")
def inventory(built):
    """Returns {name: kind} of all that has a place in the pages."""
    _, _, _, _, packed = (built[1] / "objects.inv").read_bytes().split(b"\n", 4)
    lines = zlib.decompress(packed).decode().splitlines()
    return dict(line.split()[:2] for line in lines if " py:" in line)


@pytest.mark.parametrize("package", [haiku_mup, models], ids=lambda package: package.__name__)
def test_every_public_name_has_an_example_that_runs(package, collected):
    assert without_example(public(package), collected) == set()


def test_an_example_that_is_missing_is_found(collected):
    def bare():
        """No example."""

    class Half:
        """One here, but not below.

        >>> 1
        1
        """

        def method(self):
            """No example."""

    for value, name in ((bare, "bare"), (Half, "Half"), (Half.method, "Half.method")):
        value.__qualname__ = name
    package = types.SimpleNamespace(__all__=["bare", "Half"], bare=bare, Half=Half)
    assert set(public(package)) == {"bare", "Half", "Half.method"}
    assert without_example(public(package), {f"{__name__}.Half"}) == {"bare", "Half.method"}
    lost = collected - {"haiku_mup.mup.Mup.table"}      # an example that nobody runs
    assert without_example(public(haiku_mup), lost) == {"Mup.table"}


def test_the_pages_build_without_a_warning(built):
    done, place = built
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert (place / "index.html").is_file()


def test_every_public_name_is_in_the_pages(inventory):
    expected = {f"{package.__name__}.{name}" for package in (haiku_mup, models) for name in public(package)
                if not name.endswith(("Config.from_json", "Config.to_json"))}       # of Config, which has them
    expected |= {"haiku_mup.plot.lr_transfer", "haiku_mup.models.Config.from_json"}
    assert expected - set(inventory) == set()


def test_every_function_of_a_module_with_a_page_has_an_example(inventory, collected):
    found = {name for name, kind in inventory.items()
             if kind == "py:function" and name.startswith(("haiku_mup.plot.", "haiku_mup.sweep."))}
    functions = map(pydoc.locate, found)        # defined in modules of their own
    assert found and {f"{function.__module__}.{function.__qualname__}" for function in functions} <= collected


@pytest.mark.parametrize("page", sorted((ROOT / "docs/reference").glob("*.rst")), ids=lambda page: page.stem)
def test_each_page_has_an_example_before_its_first_signature(page):
    text = page.read_text(encoding="utf-8")
    assert 0 < text.find(".. code-block:: python\n") < text.index(".. auto")


def test_a_name_that_is_not_there_fails_the_build(tmp_path):
    wrong = ["`Mup.nosuch`", ":py:obj:`haiku_mup.Mup.nosuch2`", ":py:class:`haiku_mup.Nosuch3`",
             ".. autofunction:: haiku_mup.nosuch4"]
    (tmp_path / "index.rst").write_text("\n\n".join(["Title\n=====", *wrong, ""]), encoding="utf-8")
    done = python("-m", "sphinx", "-q", "-W", "-c", "docs", str(tmp_path), str(tmp_path / "pages"))
    assert done.returncode != 0
    assert all(name in done.stderr for name in ("Mup.nosuch ", "Mup.nosuch2", "Nosuch3", "nosuch4"))
