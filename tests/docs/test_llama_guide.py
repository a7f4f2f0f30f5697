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
from small_models import KEY, captured
from trees import equal

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
    assert len(lines) == 7 and "seven lines" in GUIDE and "haiku_mup" not in plain


def test_it_is_the_librarys_llama_in_mup(x64):
    make = llama("llama_mup.py", blocks=1)
    ours, theirs = (captured(each, INPUTS, base=64, target=128) for each in (make, library))
    rows = {row.name: row for row in ours.table()}
    assert len(rows) == len(theirs.table())
    for row in theirs.table():
        mine = rows[renamed(row.name)]
        assert (mine.role, mine.target_shape, mine.target_std, mine.adam_lr, mine.sgd_lr) == (
            row.role, row.target_shape, row.target_std, row.adam_lr, row.sgd_lr)
    params = jax.jit(theirs.wrap_model(library(128)).init)(KEY, INPUTS)
    params = jax.tree.map(lambda x: x.astype("float64"), params)
    same = {renamed(module): leaves for module, leaves in params.items()}

    def loss(apply):
        return lambda params: models.cross_entropy(apply(params, None, INPUTS), jnp.asarray(IDS[:, 1:]))

    a, grads_a = jax.jit(jax.value_and_grad(loss(ours.wrap_model(make(128)).apply)))(same)
    b, grads_b = jax.jit(jax.value_and_grad(loss(theirs.wrap_model(library(128)).apply)))(params)
    np.testing.assert_allclose(a, b, rtol=1e-12)                            # sums in another order
    for module, leaves in grads_b.items():
        for leaf, grad in leaves.items():
            np.testing.assert_allclose(grads_a[renamed(module)][leaf], grad, rtol=1e-8, atol=1e-13)


def test_at_the_base_it_is_the_plain_one():
    plain, make = llama("llama.py", blocks=1)(64), llama("llama_mup.py", blocks=1)
    model = captured(make, INPUTS, base=64, target=64).wrap_model(make(64))
    params = jax.jit(plain.init)(KEY, INPUTS)
    assert equal(jax.jit(model.init)(KEY, INPUTS), params)
    assert equal(jax.jit(model.apply)(params, None, INPUTS), jax.jit(plain.apply)(params, None, INPUTS))


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


@pytest.mark.parametrize("sizes, parameters", [
    pytest.param((), 1_000_000_000, marks=pytest.mark.slow),
    pytest.param((512, 2, 2, 1), 35_000_000, marks=pytest.mark.slow)])
def test_the_launch_compiles(sizes, parameters):
    command = [sys.executable, "-W", "error", DOCS / "examples" / "launch_llama.py", *map(str, sizes)]
    done = subprocess.run(command, capture_output=True, text=True, check=False,
                          env=os.environ | {"PYTHONPATH": str(DOCS.parent)})
    assert done.returncode == 0, done.stderr
    count = int(re.search(r"([\d,]+) parameters on", done.stdout)[1].replace(",", ""))
    assert parameters < count < 1.2 * parameters, done.stdout
    assert done.stdout.count(" output ") == 3             # keys, values and the readout
