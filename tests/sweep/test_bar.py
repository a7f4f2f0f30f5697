"""Bars of sweeps and of checks: they say what is compiled."""
from concurrent.futures import ThreadPoolExecutor

import haiku as hk
import jax
import jax.numpy as jnp
import optax
import pytest

import haiku_mup

pytest.importorskip("tqdm")
LRS = [0.1, 0.2, 0.3, 0.4, 0.5, 0.6]


@pytest.mark.parametrize("progress", [True, False])
def test_a_sweep_says_what_it_traces_compiles_and_trains(progress, capsys):
    with ThreadPoolExecutor(1) as here:
        haiku_mup.lr_sweep({"mup": lambda width: lambda lr, key: lr / width}, [64, 128], LRS, seeds=1,
                           executor=here, chunk=1, progress=progress)
    shown = capsys.readouterr().err
    for work in ("tracing mup, width 64", "compiling mup, width 64", "training mup, width",
                 "compiling mup, width 128", "12/12"):
        assert (work in shown) == progress


def test_the_bar_of_an_adaptive_sweep_ends_full(capsys):
    with ThreadPoolExecutor(1) as here:
        found = haiku_mup.lr_sweep({"mup": lambda width: lambda lr, key: (jnp.log2(lr) + 2)**2}, [64, 128],
                                   [2.0**k for k in range(-8, 4)], seeds=3, executor=here, search="adaptive")
    shown, count = capsys.readouterr().err, len(found.losses)
    assert count < 24 and "/24" in shown and f"{count}/{count}" in shown.split("\r")[-1]


@pytest.mark.parametrize("progress", [True, False])
def test_a_check_says_what_it_traces_and_compiles(progress, capsys):
    def make_model(width):
        def fn(x):
            with haiku_mup.apply_mup():
                return haiku_mup.Readout(1)(hk.Linear(width)(x))
        return hk.transform(fn)

    def loss_fn(apply, params, rng, x):
        return jnp.mean((apply(params, rng, x) - 1)**2)

    x = jax.random.normal(jax.random.key(0), (4, 3))
    haiku_mup.coord_check(make_model, [8, 16], x, loss_fn, optax.adam(0.01), steps=1, seeds=2,
                          progress=progress)
    shown = capsys.readouterr().err
    for work in ("tracing width 8", "tracing width 16", "width 16, seed 1"):
        assert (work in shown) == progress
