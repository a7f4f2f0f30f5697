"""docs/guides/llama.rst: its diff makes a Llama in μP of a Llama, it runs, and a billion parameters compile."""
import difflib
import doctest
import functools
import os
import pathlib
import re
import runpy
import subprocess
import sys

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from guide_models import assert_plain_at_the_base, assert_same_in_mup
from small_models import captured

import haiku_mup
from haiku_mup import models

DOCS = pathlib.Path(__file__).parents[2] / "docs"
GUIDE = (DOCS / "guides" / "llama.rst").read_text(encoding="utf-8")
IDS = np.random.default_rng(0).integers(0, 64, (4, 17))
INPUTS = IDS[:, :-1]


def llama(name, **settings):
    """Returns make(width) of an example's Llama."""
    fn = runpy.run_path(str(DOCS / "examples" / name))["llama"]
    return lambda width: hk.transform(functools.partial(fn, width=width, **settings))


def library(width):
    """Returns the library's Llama."""
    config = models.LlamaConfig(
        vocab_size=64, hidden_size=width, num_attention_heads=4, num_key_value_heads=2, num_hidden_layers=1,
        intermediate_size=64 * -(-width // 24))

    def fn(ids):
        with haiku_mup.apply_mup():
            return models.LlamaForCausalLM(config)(ids)

    return hk.transform(fn)


def renamed(module):
    """Returns the example's name for a module of the library."""
    return module.removeprefix("llama_for_causal_lm/").removeprefix("model/").replace("/self_attn/", "/")


def test_the_diff_makes_one_of_the_other():
    plain, ours, diff = ((DOCS / "examples" / name).read_text(encoding="utf-8").replace(
        "Llama in plain Haiku, in the standard parametrization.", "Llama in Haiku, in μP.")
        for name in ("llama.py", "llama_mup.py", "llama.diff"))
    assert diff == "".join(difflib.unified_diff(
        plain.splitlines(True), ours.splitlines(True), "llama.py", "llama_mup.py", n=1))
    lines = [line for line in difflib.ndiff(plain.splitlines(), ours.splitlines()) if line[0] in "+-"]
    assert sum(line[0] == "+" and line[1:].strip() != "" for line in lines) == 4
    assert "four lines of it differ" in GUIDE and "haiku_mup" not in plain


def test_it_is_the_librarys_llama_in_mup(x64):
    assert_same_in_mup(llama("llama_mup.py", blocks=1), library, renamed, IDS, rtol=1e-8)


def test_at_the_base_it_is_the_plain_one():
    assert_plain_at_the_base(llama("llama.py", blocks=1), llama("llama_mup.py", blocks=1), INPUTS)


def test_the_page_runs():
    names = {"haiku_mup": haiku_mup, "hk": hk, "jax": jax, "jnp": jnp}
    test = doctest.DocTestParser().get_doctest(GUIDE, names, "llama.rst", "llama.rst", 0)
    assert len(test.examples) > 5 and doctest.DocTestRunner().run(test).failed == 0


def test_heads_that_stay_are_refused():
    def make(width):
        config = models.LlamaConfig(vocab_size=64, hidden_size=width, num_attention_heads=4, head_dim=16,
                                    num_hidden_layers=1)

        def fn(ids):
            with haiku_mup.apply_mup():
                return models.LlamaForCausalLM(config)(ids)

        return hk.transform(fn)

    with pytest.raises(haiku_mup.MupError, match="self_attn/query/w"):
        captured(make, INPUTS, base=64, target=128)


@pytest.mark.parametrize("sizes, parameters, outputs", [
    pytest.param((), 1_000_000_000, ["lm_head"], marks=pytest.mark.slow),
    # One group, as at the base: keys and values are outputs, too.
    pytest.param((512, 2, 2, 1), 35_000_000, ["key", "value", "lm_head"], marks=pytest.mark.slow)])
def test_the_launch_compiles(sizes, parameters, outputs):
    command = [sys.executable, "-W", "error", DOCS / "examples" / "launch_llama.py", *map(str, sizes)]
    done = subprocess.run(command, capture_output=True, text=True, check=False,
                          env=os.environ | {"PYTHONPATH": str(DOCS.parent)})
    assert done.returncode == 0, done.stderr
    count = int(re.search(r"([\d,]+) parameters on", done.stdout)[1].replace(",", ""))
    assert parameters < count < 1.2 * parameters, done.stdout
    found = [line for line in done.stdout.splitlines() if " output " in line]
    assert len(found) == len(outputs) and all(f"{name}/w" in line for name, line in zip(outputs, found)), found
