"""The zoo: what is ours of it. The packages themselves are installed by `python -m benchmarks.zoo` alone."""
import dataclasses
import json
import pathlib
import re

import haiku as hk
import jax
import jax.numpy as jnp
import pytest

from benchmarks.zoo import command, environment, report
from benchmarks.zoo.capture import capture, guesses, mistaken, stages
from benchmarks.zoo.hand_table import FACTORS, Mistake, mistakes, parse
from benchmarks.zoo.network import Network, Package, package

GUIDES = pathlib.Path(__file__).parents[2] / "docs" / "guides"
TABLE = """
linear/w      input    0  0   0  1
linear/b      input    -  0   0  1
linear_1/w    hidden  -1/2 0 -1  0
linear_1/b    input    -  0   0  1
head/w        output   0  -1  0  1
head/b        fixed    -  0   0  0
~/bias        input    -  0   0  1
"""


def net(width):
    """A bias of two axes of its own, which is taken for a weight, and a plain output layer."""
    def function(x):
        heads, size = {32: (4, 8), 72: (6, 12), 128: (8, 16)}[width]
        x = jax.nn.relu(hk.Linear(width)(x))
        x = hk.Linear(width)(x).reshape(-1, heads, size)
        x += hk.get_parameter("bias", [heads, size], init=jnp.zeros)[None]
        return hk.Linear(3, name="head", w_init=hk.initializers.RandomNormal(0.1))(x.reshape(-1, width))
    return function


NETWORK = Network(name="net", make=net, inputs=lambda: (jnp.ones((2, 5)),), table=TABLE, widths=(32, 72, 128),
                  declarations={"readouts": "head", "fans": {"~/bias": ((), (0, 1))}})


@pytest.fixture(scope="module")
def captured():
    return capture(NETWORK, NETWORK.declarations)


def test_a_model_that_is_as_by_hand_has_no_mistakes(captured):
    assert captured.error == "" and captured.told == [] and captured.mistakes == []


@pytest.mark.parametrize("field, what", [("multiplier", "forward"), ("adam_lr", "Adam"), ("sgd_lr", "SGD"),
                                         ("target_std", "std")])
def test_each_wrong_factor_is_found(captured, field, what):
    rows = captured.mup.table()
    wrong = dataclasses.replace(rows[0], **{field: 2 * getattr(rows[0], field)})
    found, = mistakes(parse(TABLE), [wrong, *rows[1:]], 4.0)
    assert (found.name, found.what) == (rows[0].name, what)


def test_a_wrong_role_is_found(captured):
    rows = [dataclasses.replace(row, role="fixed") for row in captured.mup.table()]
    found = mistakes(parse(TABLE), rows, 4.0)
    assert [m.name for m in found] == [row.name for row in captured.mup.table() if row.name != "head/b"]
    assert str(found[0]) == "linear/w: role fixed, by hand input"


def test_what_is_not_drawn_has_no_std_and_what_is_drawn_has_one(captured):
    text = TABLE.replace("linear/w      input    0", "linear/w      input    -").replace(
        "linear/b      input    -", "linear/b      input    0")
    assert {(m.name, m.what) for m in mistakes(parse(text), captured.mup.table(), 4.0)} == {
        ("linear/w", "std"), ("linear/b", "std")}


@pytest.mark.parametrize("text, said", [
    (TABLE.replace("~/bias ", "~/b "), "no line of the table fits '~/bias'"),
    (TABLE + "other/w fixed 0 0 0 0\n", r"no parameter fits \['other/w'\]")])
def test_lines_and_parameters_belong_to_each_other(captured, text, said):
    with pytest.raises(ValueError, match=said):
        mistakes(parse(text), captured.mup.table(), 4.0)


@pytest.mark.parametrize("line", ["a/w hidden 0 0 0", "a/w hiden 0 0 0 0", "a/w hidden 0 0 x 0"])
def test_a_line_that_cannot_be_read_is_refused(line):
    with pytest.raises(ValueError):
        parse(line)


def test_a_star_alone_is_special():
    row, = parse("lstm/*w[0:16] hidden 0 0 0 0")
    assert row.fits("lstm/linear/w[0:16]") and not row.fits("lstm/linear/w0") and len(FACTORS) == 4


def test_what_is_wrong_without_declarations_is_refused_told_or_quiet():
    found = stages(NETWORK)
    assert [list(stage.declarations) for stage in found] == [[], ["readouts"], ["readouts", "fans"]]
    assert guesses(found) == {"refused": ["head/w"], "told": ["~/bias"], "quiet": []}
    silent = [stage._replace(told=[]) for stage in found]
    assert guesses(silent)["quiet"] == ["~/bias"]


def test_what_is_wrong_with_all_declarations_is_told_or_quiet(captured):
    wrong = [Mistake(name, "SGD", "× 4", "× 1") for name in ("linear/w", "head/w")]
    found = mistaken(captured._replace(mistakes=wrong, told=["'head/w': a guess"]))
    assert found == {"told": {"head/w"}, "quiet": {"linear/w"}}


RECORD = {"network": "net", "parameters": 7, "declarations": {"readouts": "'head'"}, "summary": "table",
          "stages": [{"declarations": "", "error": "refused", "told": ["warned"]},
                     {"declarations": "readouts", "error": "", "told": []}],
          "mistakes": [], "wrong without": {"refused": ["head/w"], "told": [], "quiet": []},
          "wrong with all": {"told": [], "quiet": []},
          "verdict": "passed", "failure": "", "check": "mup: passed"}
PACKAGE = Package("nets", "1.0", list)


def test_a_record_is_reported_as_text_and_as_a_row_of_the_guide():
    assert report.is_right(RECORD)
    text = report.as_text(PACKAGE, RECORD)
    assert all(part in text for part in ("nets 1.0: net", "readouts='head'", "refused: head/w", "warned"))
    assert report.as_rst([(PACKAGE, RECORD)]).splitlines()[-7:] == [
        "   * - nets 1.0", "     - net", "     - 7", "     - ``readouts='head'``", "     - 1 refused",
        "     - none", "     - passed"]


@pytest.mark.parametrize("change", [
    {"trouble": "it doesn't import"}, {"verdict": "failed"}, {"failure": "a penalty"},
    {"wrong with all": {"told": [], "quiet": ["a/w"]}},
    {"wrong without": {"refused": [], "told": [], "quiet": ["a/w"]}}])
def test_what_is_wrong_is_not_right(change):
    assert not report.is_right({**RECORD, **change})
    report.as_text(PACKAGE, {**RECORD, **change})


def test_a_package_is_installed_alone_beside_what_its_networks_import(monkeypatch):
    calls = []

    def run(arguments, **kwargs):
        calls.append(arguments)
        return ""
    monkeypatch.setattr(environment, "_run", run)
    monkeypatch.setattr(environment.shutil, "which", lambda name: None)
    with environment.Environment() as made:
        folder = pathlib.Path(made.python).parents[1]
        made.install(Package("nets", "1.0", list, requires=("einops==0.8",), jax=("jax==0.8.0",)))
        made.run("-m", "program")
        assert folder.is_dir()
    assert not folder.exists()
    assert calls[0][1:3] == ["-m", "venv"] and calls[3] == [made.python, "-m", "program"]
    assert calls[1][-3:] == ["jax==0.8.0", "numpy>=2.0", "einops==0.8"]
    assert calls[2][-2:] == ["--no-deps", "nets==1.0"]


def test_a_program_that_fails_says_why():
    with pytest.raises(RuntimeError, match="no such thing"):
        environment._run([environment.sys.executable, "-c", "raise SystemExit('no such thing')"])


def test_the_command_prints_a_report_of_each_network_and_writes_the_table(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(command, "run", lambda name, *options: [{**RECORD, "network": name}])
    names = command.names()
    assert command.main(["--rst", str(tmp_path / "table")]) == 0
    printed, table = capsys.readouterr().out, (tmp_path / "table").read_text(encoding="utf-8")
    for name in names:
        heading = f"{package(name).name} {package(name).version}"
        assert f"{heading}: {name}" in printed and heading in table
    monkeypatch.setattr(command, "run", lambda name, *options: [{**RECORD, "verdict": "failed"}])
    assert command.main(names[:1]) == 1
    with pytest.raises(SystemExit):
        command.main(["nothing"])


def test_an_environment_that_cannot_be_made_is_a_line_of_the_report(monkeypatch):
    def fail(self, package):
        raise RuntimeError("no such version")
    monkeypatch.setattr(environment, "_run", lambda *args, **kwargs: "")
    monkeypatch.setattr(environment.Environment, "install", fail)
    assert command.run(command.names()[0])[0]["trouble"] == "no such version"


def test_records_that_are_kept_are_not_made_again(monkeypatch, tmp_path, capsys):
    made = []

    def run(name, *options):
        assert options == ("--no-check",)
        made.append(name)
        return [{"network": name, "trouble": "no network"}] if len(made) == 1 else [RECORD]
    monkeypatch.setattr(command, "run", run)
    name, arguments = command.names()[0], ["--no-check", "--keep", str(tmp_path / "kept")]
    assert [command.main([name, *arguments]) for _ in range(3)] == [1, 0, 0]
    assert made == [name, name] and "no network" in capsys.readouterr().out


def test_a_check_that_should_fail_is_right_if_it_does_or_is_not_run():
    assert report.is_right({**RECORD, "verdict": "not run", "failure": "a penalty"})
    assert report.is_right({**RECORD, "verdict": "failed", "failure": "a penalty"})


def test_records_come_back_from_the_environment(monkeypatch):
    def run(arguments, **kwargs):
        if "benchmarks.zoo.entry" in arguments:
            pathlib.Path(arguments[-1]).write_text(json.dumps([RECORD]), encoding="utf-8")
        return ""
    monkeypatch.setattr(environment, "_run", run)
    assert command.run(command.names()[0]) == [RECORD]


@pytest.mark.parametrize("name", command.names())
def test_all_packages_are_pinned_and_in_the_table_of_the_guide(name):
    found = package(name)
    assert all("==" in requirement for requirement in (*found.requires, *found.jax))
    assert f"- {found.name} {found.version}\n" in (GUIDES / "zoo_table.txt").read_text(encoding="utf-8")


def test_the_guide_shows_every_kind_of_declaration_that_its_table_has():
    guide = (GUIDES / "existing_models.rst").read_text(encoding="utf-8")
    kinds = set(re.findall(r"``(\w+)=", (GUIDES / "zoo_table.txt").read_text(encoding="utf-8")))
    assert ".. include:: zoo_table.txt" in guide and kinds == {"readouts", "fans"}
    assert all(f"+mup = haiku_mup.Mup({kind}=" in guide for kind in kinds)
