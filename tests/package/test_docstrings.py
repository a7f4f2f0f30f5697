"""Docstrings start with the words that they should; the check finds those that don't."""
import pathlib
import runpy
import subprocess
import sys

import pytest

CHECK = pathlib.Path(__file__).parent / "check_docstrings.py"
ROOT = pathlib.Path(__file__).parents[2]
violations = runpy.run_path(str(CHECK))["violations"]


def said(folder, source, name="haiku_mup"):
    """Returns "line: text" of what the check finds in a module of this source."""
    module = folder / name / "rules" / "tables.py"
    module.parent.mkdir(parents=True)
    module.write_text(source, encoding="utf-8")
    return [f"{found.line}: {found.text}" for found in violations(folder / name)]


@pytest.mark.parametrize("name", ["haiku_mup", "demos", "benchmarks"])
def test_first_words(name):
    if not (ROOT / name).is_dir():
        pytest.skip("the library's sources are not here, but installed")
    assert [str(found) for found in violations(ROOT / name)] == []


RIGHT = '''"""The tables of all parametrizations."""


class Table:
    """Factors by role."""

    @property
    def name(self):
        """Returns the name; raises, where there is none."""

        def inner():
            """Names layers."""

    def bare(self):
        pass


def _private():
    """Re-reads the files; passes them on."""


async def wait():
    """Waits, as long as needed."""
'''


def test_what_is_right(tmp_path):
    assert said(tmp_path, RIGHT) == []


@pytest.mark.parametrize("old, new, where, text", [
    ("The tables of", "What is in", 1, "the module: starts with 'What'; start with a verb, or a noun"),
    ("Factors by", "How large, by", 4, "Table: starts with 'How'"),
    ("Returns the name", "The name", 8, "name: starts with 'The'; start with a verb in the third person"),
    ("Returns the name", "Return the name", 8, "name: starts with 'Return'"),
    ("Names layers", "Names of layers", 11, "inner: starts with 'Names'"),
    ("Names layers", "Whether layers have names", 11, "inner: starts with 'Whether'"),
    ("Re-reads the", "Rows of the", 18, "_private: starts with 'Rows'"),
    ("Re-reads the", "Has the", 18, "_private: starts with 'Has'"),
    ("Re-reads the", "Loss in the", 18, "_private: starts with 'Loss'"),
    ("Re-reads the", "`files`, the", 18, "_private: starts with '`files`,'"),
    ("Waits, as", "This waits as", 22, "wait: starts with 'This'"),
    ('    """Waits, as long as needed."""', "    pass", 22, "wait: no docstring"),
    ('    """Factors by role."""', "    pass", 4, "Table: no docstring")])
def test_each_violation_is_found_and_told(old, new, where, text, tmp_path):
    assert old in RIGHT
    found, = said(tmp_path, RIGHT.replace(old, new))
    assert found.startswith(f"{where}: {text}")


PACKAGE = '''"""Arithmetic, in this order:

- tables, roles: exponents
  of roles.
- forms: a package: its forms.
"""
'''


@pytest.mark.parametrize("old, new, text", [
    ("", "", None),
    ("tables, roles", "tables", "does not say what roles is for; add a line '- roles: …'"),
    ("- forms: a", "- a", "does not say what forms is for"),
    ("tables, roles", "tables, roles, names", "lists names, which is no module of it"),
    ("- forms", "- roles, forms", "lists roles twice"),
    ("- tables", "tables", "does not say what roles is for")])
def test_a_package_lists_its_modules(old, new, text, tmp_path):
    room = tmp_path / "haiku_mup" / "rules"
    (room / "forms").mkdir(parents=True)
    for path in ("roles.py", "tables.py", "forms/__init__.py", "../__init__.py"):
        (room / path).touch()
    (room / "__init__.py").write_text(PACKAGE.replace(old, new), encoding="utf-8")
    found = [str(violation) for violation in violations(tmp_path / "haiku_mup")]
    assert (found == []) if text is None else found[0].startswith(
        f"haiku_mup/rules/__init__.py:1: the package: {text}")


def test_only_the_library_needs_docstrings_throughout(tmp_path):
    source = "def public():\n    pass\n\n\ndef _private():\n    pass\n"
    assert said(tmp_path, source) == ["1: public: no docstring"]
    assert said(tmp_path, source, "demos") == []


def test_the_command(tmp_path):
    def run(*arguments):
        done = subprocess.run([sys.executable, CHECK, *arguments], capture_output=True, text=True, check=False)
        return done.returncode, done.stdout

    assert said(tmp_path, RIGHT) == [] and run(tmp_path / "haiku_mup") == (0, "")
    (tmp_path / "haiku_mup" / "mup.py").write_text('"""Who knows."""\n')
    code, text = run(tmp_path / "haiku_mup")
    assert code == 1 and text.startswith("haiku_mup/mup.py:1: the module: starts with 'Who'")
    assert run("--count", tmp_path / "haiku_mup") == (1, "   1 haiku_mup/mup.py\n   1 in all\n")
