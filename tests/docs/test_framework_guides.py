"""The guides for Equinox and Flax: their programs run and print their tables, and their diffs are short."""
import concurrent.futures
import functools
import pathlib
import re
import textwrap

import pytest

import haiku_mup

pytest.importorskip("equinox")
pytest.importorskip("flax")

GUIDES = pathlib.Path(__file__).parents[2] / "docs" / "guides"
PAGES = ["equinox", "flax_nnx", "flax_linen"]


def blocks(page, language="python"):
    """Returns the blocks of a page, in order."""
    text = (GUIDES / f"{page}.rst").read_text(encoding="utf-8")
    found = re.findall(rf"^\.\. code-block:: {language}\n\n((?: {{3}}.*\n|\n)+)", text, re.MULTILINE)
    return [textwrap.dedent(block).rstrip() for block in found]


def run(page, count, names):
    for block in blocks(page)[:count]:
        exec(compile(block, f"{page}.rst", "exec"), names)
    return names


@pytest.mark.parametrize("page", PAGES)
def test_the_program_trains_in_mup(page, capsys):
    import jax

    with jax.numpy_rank_promotion("allow"):         # Flax and Equinox promote
        names = run(page, 2, {})
    table, = blocks(page, "text")
    shown = capsys.readouterr().out.splitlines()
    assert [line.split() for line in table.splitlines()] == [line.split() for line in shown]
    assert float(names["loss"]) < 2.5 and names["plan"].multiplier(next(
        row.name for row in names["plan"].table() if row.role == "output")) == 0.25


@pytest.mark.parametrize("page", PAGES)
def test_the_diff_is_ten_lines_at_most(page):
    _, program, *_ = blocks(page)
    *lines, last = program.splitlines()
    assert 1 < sum("# +" in line for line in lines) <= 10
    assert last == "print(plan.summary())"
    # The others are of a program without the plan, in their own places.
    assert not any(re.search(r"plan|haiku_mup|base", line) for line in lines if "# +" not in line)
    for opens, inside in zip(lines, lines[1:]):
        assert "with haiku_mup" not in opens or "# +" in inside


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Sweep.recommend")       # 20 steps from two seeds show no transfer
@pytest.mark.parametrize("page", PAGES)
def test_the_check_and_the_sweep_run_and_standard_fails(page, monkeypatch):
    import jax

    with jax.numpy_rank_promotion("allow"), concurrent.futures.ThreadPoolExecutor(1) as here:
        monkeypatch.setattr(haiku_mup, "lr_sweep", functools.partial(haiku_mup.lr_sweep, executor=here))
        names = run(page, None, {})
        assert not names["check"].failures()
        assert len(names["sweep"].rows()) == 2 * 5 * 2
        sp = haiku_mup.coord_check(names["make_model"], [32, 128], (names["x"], names["y"]), names["loss_fn"],
                                   names["optax"].adam(2.0**-6), plan=names["make_plan"], parametrization="sp",
                                   seeds=4, steps=3, progress=False)
    assert sp.failures()


def test_flax_mups_models_are_planned():
    names = run("from_flax_mup", 1, {})
    assert {row.name: row.role for row in names["plan"].table()}["out.kernel"] == "output"
