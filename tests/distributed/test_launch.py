"""docs/guides/scaling.rst: its program on a mesh of 8 devices, and the sweep that it begins with."""
import os
import pathlib
import re
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
from haiku_mup import models

DOCS = pathlib.Path(__file__).parents[2] / "docs"


def saved(path, width, layers):
    """A base of another width, in a file."""
    config = models.GPT2Config(vocab_size=64, n_embd=width, n_head=width // 16, n_layer=layers,
                               n_positions=32, layer_stack=True, remat=True)
    delta = models.GPT2Config(**vars(config) | {"n_embd": 2 * width, "n_head": width // 8})
    mup = haiku_mup.Mup()
    for context, one in ((mup.init_base, config), (mup.init_delta, delta)):
        def fn(ids, one=one):
            with haiku_mup.apply_mup():
                return models.GPT2LMHeadModel(one)(ids)

        with context():
            jax.eval_shape(hk.transform(fn).init, jax.random.key(0), jnp.zeros((1, 32), int))
    mup.save(path)
    return str(path)


def launched(*arguments, devices):
    """The losses that the program prints, and its summary."""
    flags = f"--xla_force_host_platform_device_count={devices} --xla_backend_optimization_level=0"
    command = [sys.executable, "-W", "error", DOCS / "examples" / "launch.py", *map(str, arguments)]
    done = subprocess.run(command, env={**os.environ, "XLA_FLAGS": flags, "PYTHONPATH": str(DOCS.parent)},
                          capture_output=True, text=True, encoding="utf-8", check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return np.array(done.stdout.split(), float), done.stderr


@pytest.mark.slow
def test_on_eight_devices_it_trains_as_on_one(tmp_path):
    base = saved(tmp_path / "base.json", 32, 2)
    (alone, summary), (spread, _) = (launched(base, 64, 2, *mesh, devices=8) for mesh in ((1, 1), (4, 2)))
    assert len(alone) == 3 and alone[2] < alone[0]
    np.testing.assert_allclose(spread, alone, rtol=1e-5)        # float32, added up in another order
    factors = [line.split()[-2:] for line in summary.splitlines() if "c_fc/w" in line]
    assert factors == [["0.5", "1"]]                            # a hidden weight's, twice as wide
    own, _ = launched(saved(tmp_path / "own.json", 64, 2), 64, 2, 1, 1, devices=1)
    assert abs(own - alone).max() > 1e-3                        # and so the base is not without effect


def test_its_sweep_runs(tmp_path, monkeypatch):
    """With other numbers: the page's are for a cluster."""
    monkeypatch.chdir(tmp_path)
    page = (DOCS / "guides" / "scaling.rst").read_text("utf-8")
    block = re.search(r"code-block:: python\n\n((?:   .*\n|\n)+)", page)[1]
    for large, small in (("steps=5000", "steps=2"), ("batch_size=64", "batch_size=4"), ("=256", "=8"),
                         ("[256, 512]", "[8, 16]"), ("(-14, -6)", "(-7, -5)"), ("seeds=3", "seeds=1")):
        assert large in block
        block = block.replace(large, small)

    def make_model(width):
        def fn(x):
            with haiku_mup.apply_mup():
                return haiku_mup.Readout(1)(jax.nn.relu(hk.Linear(width)(x)))

        return hk.transform(fn)

    x = np.linspace(-1, 1, 32, dtype=np.float32).reshape(8, 4)

    def loss_fn(apply, params, rng, batch):
        return ((apply(params, rng, batch[0]) - batch[1])**2).mean()

    names = {"haiku_mup": haiku_mup, "make_model": make_model, "data": (x, x[:, :1]), "loss_fn": loss_fn,
             "make_optimizer": optax.adam}
    exec(textwrap.dedent(block), names)
    assert len(names["sweep"].rows()) == 4 and len(list((tmp_path / "results").iterdir())) > 0
