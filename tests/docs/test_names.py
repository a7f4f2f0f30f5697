"""README.md, CHANGELOG.md and docs/: every name of the library, program and file that they mention is there."""
import importlib
import inspect
import pathlib
import re

import pytest

import haiku_mup

ROOT = pathlib.Path(__file__).parents[2]
PAGES = ["README.md", "CHANGELOG.md", *sorted(
    path.relative_to(ROOT).as_posix() for end in ("rst", "py", "diff") for path in ROOT.glob(f"docs/**/*.{end}")
    if "_build" not in path.parts)]
DOTTED = re.compile(r"\bhaiku_mup(?:\.\w+)+")
QUOTED = re.compile(r"`(?:haiku_mup\.)?([A-Za-z]\w*(?:\.\w+)*)(?:\((.*?)\))?`")      # `Mup(fans=...)`
PROGRAM = re.compile(r"-m ((?:demos|benchmarks)(?:\.\w+)*)")
FILE = re.compile(r"(?<![\w/.])(?:docs|tests|demos|benchmarks)/[\w./-]*\w|\b[A-Z]+\.md\b")


def missing(text):
    """Returns what a text mentions and isn't there: names, keyword arguments, programs, files."""
    found = {name for name in DOTTED.findall(text) if not resolves(name)}
    for name, arguments in QUOTED.findall(text):
        if name.partition(".")[0] in {*haiku_mup.__all__, "models"}:
            if not resolves(f"haiku_mup.{name}"):
                found.add(f"haiku_mup.{name}")
            else:
                found |= {f"{name}({key}=)" for key in re.findall(r"(\w+)=", arguments) if not takes(name, key)}
    found |= {f"-m {name}" for name in PROGRAM.findall(text) if not runs(name)}
    return found | {path for path in FILE.findall(text) if not (ROOT / path).exists() and "_build" not in path}


def resolves(name):
    """Returns True where a dotted name can be imported, or is an attribute of what can."""
    try:
        value(name)
    except AttributeError:
        return False
    return True


def value(name):
    """Imports as much of a dotted name as is a module, and follows the rest."""
    found, parts = haiku_mup, name.split(".")
    for place, part in enumerate(parts[1:], 2):
        if inspect.ismodule(found) and not hasattr(found, part):
            try:
                importlib.import_module(".".join(parts[:place]))
            except ModuleNotFoundError:
                pass
        found = getattr(found, part)
    return found


def takes(name, key):
    """Returns True where a function or class of the library has this keyword argument."""
    parameters = inspect.signature(value(f"haiku_mup.{name}")).parameters
    return key in parameters or any(p.kind is p.VAR_KEYWORD for p in parameters.values())


def runs(name):
    """Returns True where `python -m name` finds a program."""
    place = ROOT.joinpath(*name.split("."))
    return place.with_suffix(".py").is_file() or (place / "__main__.py").is_file()


@pytest.mark.parametrize("page", PAGES)
def test_what_a_page_mentions_is_there(page):
    assert missing((ROOT / page).read_text(encoding="utf-8")) == set()


@pytest.mark.parametrize("text", [
    "haiku_mup.lr_sweeps", "`haiku_mup.Mup.loads`", "from haiku_mup.sweeping import x", "``Mup.nosuch(x)``",
    "`Mup(fan=...)`", "`models.GPT3Config`", "python -m demos.nosuch", "python -m benchmarks.nosuch.x",
    "docs/nosuch.rst", "[page](docs/lr_transfer.png)", "pytest tests/test_nosuch.py", "NOSUCH.md"])
def test_what_is_not_there_is_found(text):
    assert len(missing(text)) == 1


def test_what_is_there_is_not():
    assert missing("`haiku_mup.Mup.load`, `Mup(fans=...)`, haiku_mup.sweep.curves, `adamw(clip=1)`, "
                   "README.md, haiku_mup.rules.tables.standard, python -m demos.cnn, docs/index.rst") == set()
    assert len(PAGES) > 15
