"""Folders of haiku_mup 0.2.0 load, and sweeps continue in them.

An adaptive sweep goes on as the search of today does, which asks for fewer trials, or for others.

The arithmetic of the trials is exact, so that losses are equal bit for bit on every machine.
"""
import concurrent.futures
import functools
import json
import pathlib
import shutil

import jax
import jax.numpy as jnp
import jaxlib
import pytest

import haiku_mup

FOLDERS = pathlib.Path(__file__).parent / "folders_of_0_2_0"


def make_trial(width):
    """Returns a trial with a curve of three steps."""
    def trial(lr, key):
        return lr * jnp.arange(1, 4) + width * (jax.random.bits(key) % 1024).astype(jnp.float32)
    return trial


def make_valley(width):
    """Returns a trial with two losses; the first is lowest at a learning rate of 0.25."""
    def trial(lr, key):
        distance = lr - 0.25
        return {"train_loss": distance * distance + (jax.random.bits(key) % 1024).astype(jnp.float32) / 2**16,
                "steps": jnp.array([jnp.inf, width])}
    return trial


def sweep(search, out):
    """Runs the same sweep as version 0.2.0 did."""
    maker, lrs, seeds = {"grid": ({"mup": make_trial}, [0.125, 0.25, 0.5], 2),
                         "adaptive": ({"μP/1": make_valley}, [2.0**k for k in range(-6, 0)], 3)}[search]
    with concurrent.futures.ThreadPoolExecutor(1) as executor:
        return haiku_mup.lr_sweep(maker, [2, 4], lrs, seeds, search=search, out=out, chunk=2, executor=executor,
                                  progress=False)


def copied(search, tmp_path):
    """Returns a copy of a folder, with the fingerprints that the installed jaxlib gives."""
    out = tmp_path / "out"
    shutil.copytree(FOLDERS / search, out)
    for path in (out / "programs").glob("*.json"):
        program = json.loads(path.read_text())
        if program["versions"]["jaxlib"] != jaxlib.__version__:
            program["fingerprint"] = fingerprints(search, tmp_path)[path.name]
            path.write_text(json.dumps(program))
    return out


@functools.cache
def fingerprints(search, tmp_path):
    """Returns {file name: fingerprint} of the programs as the installed jaxlib compiles them."""
    sweep(search, tmp_path / "anew")
    return {path.name: json.loads(path.read_text())["fingerprint"]
            for path in (tmp_path / "anew" / "programs").glob("*.json")}


def contents(out):
    return {path.name: path.read_bytes() for path in [*(out / "cells").iterdir(), out / "results.csv"]}


def assert_equal_where_both_ran(found, earlier):
    both = found.losses.keys() & earlier.losses.keys()
    assert len(both) >= 8 and all(
        (found.losses[trial][name] == earlier.losses[trial][name]).all()
        for trial in both for name in earlier.losses[trial])


searches = pytest.mark.parametrize("search", ["grid", "adaptive"])


@searches
def test_a_folder_loads(search):
    loaded = haiku_mup.Sweep.load(FOLDERS / search)
    assert len(loaded.losses) == 12 and not loaded.missing
    assert {path.suffix for path in (FOLDERS / search / "cells").iterdir()} == {".jsonl"}


@searches
def test_what_has_finished_does_not_run_again(search, tmp_path):
    out = copied(search, tmp_path)
    files = [*(out / "cells").iterdir(), *(out / "programs").iterdir(), out / "sweep.json"]
    times = {path: path.stat().st_mtime_ns for path in files}
    found = sweep(search, out)
    assert {path: path.stat().st_mtime_ns for path in files} == times
    assert_equal_where_both_ran(found, haiku_mup.Sweep.load(FOLDERS / search))
    if search == "grid":
        assert contents(out) == contents(FOLDERS / search)


@searches
@pytest.mark.parametrize("missing", [slice(None, None, 2), slice(1, None)])
def test_a_sweep_continues_bit_for_bit(search, tmp_path, missing):
    out = copied(search, tmp_path)
    cells = sorted((out / "cells").iterdir())
    removed = cells[missing]
    times = {path: path.stat().st_mtime_ns for path in cells if path not in removed}
    for path in removed:
        path.unlink()
    found = sweep(search, out)
    assert {path: path.stat().st_mtime_ns for path in times} == times
    assert_equal_where_both_ran(found, haiku_mup.Sweep.load(FOLDERS / search))
    if search == "grid":
        assert len(found.losses) == 12 and contents(out) == contents(FOLDERS / search)
