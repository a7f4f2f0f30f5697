"""The guides: their programs run, their examples are in μP as they stand, and drawings are up to date."""
import functools
import os
import pathlib
import re
import runpy
import subprocess
import sys
import textwrap

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import haiku_mup

DOCS = pathlib.Path(__file__).parents[2] / "docs"
KEY = jax.random.key(0)


def programs(page):
    """Returns the blocks of Python of a page, in order."""
    text = (DOCS / page).read_text(encoding="utf-8")
    found = re.findall(r"^\.\. code-block:: python\n\n((?: {3}.*\n|\n)+)", text, re.MULTILINE)
    return [textwrap.dedent(block) for block in found]


def example(name):
    """Returns what an example defines."""
    return runpy.run_path(str(DOCS / "examples" / name))


# --- your own model, step by step ---

def run(blocks, monkeypatch, folder):
    monkeypatch.chdir(folder)
    names = {}
    for block in blocks:
        exec(compile(block, "your_model.rst", "exec"), names)
    return names


def test_the_steps_up_to_the_summary_run(monkeypatch, tmp_path, capsys):
    names = run(programs("guides/your_model.rst")[:4], monkeypatch, tmp_path)
    page = (DOCS / "guides" / "your_model.rst").read_text(encoding="utf-8")
    assert textwrap.indent(capsys.readouterr().out, "   ") in page
    assert [row.role for row in names["mup"].table() if row.name.endswith("/w")] == [
        "input", "hidden", "hidden", "output"]


@pytest.mark.slow
def test_all_steps_run(tmp_path):
    """Runs them in a Python of their own, since the sweep starts processes."""
    done = subprocess.run([sys.executable, "-c", "\n".join(programs("guides/your_model.rst"))], cwd=tmp_path,
                          env=os.environ | {"PYTHONPATH": str(DOCS.parent)}, capture_output=True, text=True,
                          encoding="utf-8", check=False)
    assert done.returncode == 0, done.stderr
    assert "Use a learning rate of" in done.stdout and (tmp_path / "base.json").is_file()


# --- examples ---

def images(size, channels):
    return jax.random.normal(KEY, (8, size, size, channels))


def vit():
    names = example("vit.py")
    x = images(8, 3)
    return names["make_model"], names["loss_fn"], (x, jnp.arange(8) % 10), {"readout"}


def unet():
    names = example("unet.py")
    clean = jax.image.resize(images(2, 1), (8, 8, 8, 1), "nearest")
    return names["make_model"], names["loss_fn"], (clean + 0.3 * images(8, 1), clean), {"conv_readout"}


def actor_critic():
    names = example("actor_critic.py")
    observations = jax.random.normal(KEY, (5, 8, 6))
    batch = observations, observations[..., :4].argmax(-1), observations.sum(-1)
    return names["make_model"], names["loss_fn"], batch, {"policy", "value"}


def vae():
    names, *blocks = example("vae.py"), *programs("guides/convolutions_and_recurrent.rst")
    names |= {"haiku_mup": haiku_mup, "hk": hk}
    exec(blocks[1].partition("haiku_mup.coord_check")[0], names)
    x = jax.random.normal(KEY, (8, 784))
    return names["make_model"], names["loss_fn"], x, {"mean", "log_std", "pixels"}


EXAMPLES = {function.__name__: function for function in (vit, unet, actor_critic, vae)}


@pytest.mark.parametrize("name", EXAMPLES)
def test_an_example_has_its_readouts_and_gives_no_warning(name):
    make_model, _, batch, readouts = EXAMPLES[name]()
    x = batch if name == "vae" else batch[0]
    mup = haiku_mup.Mup()
    with mup.init_base():
        jax.eval_shape(make_model(16).init, KEY, x)
    with mup.init_target():
        jax.eval_shape(make_model(64).init, KEY, x)
    rows = {row.name: row for row in mup.table()}
    assert {name.rpartition("/")[0] for name, row in rows.items() if row.role == "output"} == readouts
    assert any(row.role == "hidden" for row in rows.values())


@pytest.mark.slow
@pytest.mark.parametrize("name", ["vae"])
def test_an_example_passes_the_check_and_fails_in_the_standard_parametrization(name):
    make_model, loss_fn, batch, _ = EXAMPLES[name]()
    check = functools.partial(haiku_mup.coord_check, make_model, [16, 32, 64, 128], batch, loss_fn,
                              optax.adam(2.0**-7), steps=2, progress=False)
    check().assert_ok()
    assert not check(parametrization="sp").ok


def test_the_functions_of_a_vae_are_wrapped():
    x = np.ones((2, 784), "float32")
    names = example("vae.py") | {"functools": functools, "haiku_mup": haiku_mup, "hk": hk, "jax": jax,
                                 "optax": optax, "key": KEY, "x": x}
    exec(programs("guides/convolutions_and_recurrent.rst")[0].replace("512", "128"), names)
    z, _ = names["encode"](names["params"], KEY, x)
    assert names["decode"](names["params"], KEY, z).shape == (2, 784)
    assert names["loss"](names["params"], KEY, x).shape == ()


# --- drawings ---

def test_the_drawing_is_what_its_program_draws():
    drawn = runpy.run_path(str(DOCS / "figures" / "concepts.py"))["drawing"]()
    assert drawn == (DOCS / "figures" / "concepts.svg").read_text(encoding="utf-8")
