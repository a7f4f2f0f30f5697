"""The folder of a sweep: its files, continued and refused sweeps, damaged cells, full and read-only disks."""
import concurrent.futures
import csv
import errno
import functools
import math
import os
import pathlib
import shutil
import subprocess

import jax.numpy as jnp
import numpy as np
import pandas
import pytest
from sweep_program import make_trial

import haiku_mup
from haiku_mup.serialization import atomic_files as files
from haiku_mup.sweep import spec

LRS = [0.125, 0.25, 0.5]


@pytest.fixture(scope="module")
def here():
    with concurrent.futures.ThreadPoolExecutor(1) as executor:
        yield executor


@pytest.fixture(scope="module")
def finished(here, tmp_path_factory):
    """Returns a finished sweep and its folder."""
    out = tmp_path_factory.mktemp("finished") / "out"
    return haiku_mup.lr_sweep(make_trial, (2, 4), LRS, 2, out=out, executor=here, chunk=2, progress=False), out


@pytest.fixture
def found(finished, tmp_path):
    """Returns a finished sweep; copies its folder to where `sweep` continues."""
    shutil.copytree(finished[1], tmp_path / "out")
    return finished[0]


@pytest.fixture
def sweep(here, tmp_path):
    def run(make=make_trial, widths=(2, 4), lrs=LRS, seeds=2, **options):
        return haiku_mup.lr_sweep(make, widths, lrs, seeds, out=tmp_path / "out", executor=here, progress=False,
                                  **{"chunk": 2, **options})
    return run


def cells(folder):
    return {path.name: path.read_bytes() for path in sorted((folder / "cells").glob("*.jsonl"))}


def equal(a, b):
    return [*a.losses] == [*b.losses] and all(
        x[name].dtype == y[name].dtype and (x[name] == y[name]).all()
        for x, y in zip(a.losses.values(), b.losses.values()) for name in {*x, *y})


def counted(make):
    """Returns a function that calls `make`, and the list of the widths that it was called with."""
    calls = []

    @functools.wraps(make)
    def counting(width):
        calls.append(width)
        return make(width)
    return counting, calls


# --- what is in it ---

def test_a_cell_is_a_file_of_lines_that_pandas_reads(found, tmp_path):
    assert len(cells(tmp_path / "out")) == 6            # 2 widths × 6 trials in twos
    parts = [pandas.read_json(path, lines=True) for path in (tmp_path / "out" / "cells").glob("*.jsonl")]
    table = pandas.concat(parts).sort_values(["width", "lr", "seed"])
    assert list(table["lr"]) == [lr for _ in (2, 4) for lr in LRS for _ in (0, 1)]
    for row, losses in zip(table["train_loss"], found.losses.values()):
        np.testing.assert_array_equal(np.array(row, np.float32), losses["train_loss"])
    table = tmp_path / "out" / "results.csv"
    pandas.testing.assert_frame_equal(pandas.read_csv(table), pandas.DataFrame(found.rows()), check_dtype=False,
                                      rtol=1e-15, atol=0)       # pandas 2 may miss the last bit
    with open(table, newline="", encoding="utf-8") as file:
        written = [*csv.DictReader(file)]
    assert written == [{name: str(value) for name, value in row.items()} for row in found.rows()]


def test_losses_come_back_bit_for_bit(sweep, tmp_path):
    def make(width):
        def trial(lr, key):
            return {"a": lr * jnp.array([jnp.pi, 1e-30, 1e30, jnp.inf, jnp.nan]), "b": lr / 3}
        return trial

    found = sweep(make)
    assert equal(sweep(make), found) and equal(haiku_mup.Sweep.load(tmp_path / "out"), found)
    assert [*found.losses.values()][0]["a"][3:].tolist() == [math.inf, math.inf]


def test_what_has_finished_does_not_run_again(found, sweep, tmp_path):
    before = cells(tmp_path / "out")
    gone = sorted((tmp_path / "out" / "cells").glob("*.jsonl"))[0]
    gone.unlink()
    times = {path: path.stat().st_mtime_ns for path in (tmp_path / "out" / "cells").glob("*.jsonl")}
    assert equal(sweep(), found)
    assert cells(tmp_path / "out") == before
    assert all(path.stat().st_mtime_ns == then for path, then in times.items())


def test_a_folder_that_is_still_being_filled_can_be_loaded(found, tmp_path):
    sorted((tmp_path / "out" / "cells").glob("*.jsonl"))[0].unlink()
    loaded = haiku_mup.Sweep.load(tmp_path / "out")
    assert (len(loaded.losses), len(loaded.missing)) == (len(found.losses) - 2, 2)
    with pytest.raises(haiku_mup.MupError, match="no such file"):
        haiku_mup.Sweep.load(tmp_path)


# --- what is refused ---

@pytest.mark.parametrize("change, said", [
    (dict(widths=[2, 8]), "widths has no longer 4 and has now 8"), (dict(widths=[2]), "widths has no longer 4"),
    (dict(seeds=3), "seeds has now 2"), (dict(chunk=3), "chunk was 2, and is 3"),
    (dict(lrs=[0.125, 0.25, 1.0]), "learning rates and hyperparameters has no longer lr=0.5 and has now lr=1"),
    (dict(lrs=LRS[::-1]), "is in another order"),
    (dict(search="adaptive"), "search was 'grid', and is 'adaptive'"),
    (dict(hyperparameters={"momentum": [0.9]}), "has now lr=0.125, momentum=0.9"),
])
def test_other_arguments_are_named_and_refused(found, sweep, tmp_path, change, said):
    before = {path: path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file()}
    with pytest.raises(haiku_mup.MupError, match=f"out is the folder of another sweep: .*{said}"):
        sweep(**change)
    assert before == {path: path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file()}


def test_another_program_is_refused(sweep, tmp_path):
    """Even at a width that has finished. A program is the same if its code and its data are."""
    data = np.arange(3.0, dtype=np.float32)

    def make(width, data=data, factor=1.0):
        return lambda lr, key: lr * jnp.asarray(data) * factor + width

    sweep(make)
    sweep(functools.partial(make, data=data.copy()))
    for other in (functools.partial(make, data=data + 1), functools.partial(make, factor=2.0)):
        with pytest.raises(haiku_mup.MupError, match="'trial' at width 2 computes something else.*data, loss"):
            sweep(other)


def test_another_version_of_jax_is_named(found, sweep, monkeypatch):
    there = spec.versions()
    monkeypatch.setattr(spec, "versions", lambda: there | {"jaxlib": "99.0"})
    with pytest.raises(haiku_mup.MupError, match=rf"jaxlib was {there['jaxlib']}, and is 99.0"):
        sweep(lambda width: lambda lr, key: lr)


def test_grow_adds_to_the_arguments(found, sweep):
    with pytest.raises(haiku_mup.MupError, match="grow=True"):
        sweep(seeds=3)
    make, calls = counted(make_trial)
    many = sweep(make, widths=[2, 4, 8], seeds=3, grow=True)
    assert len(many.losses) == 27 and calls == [2, 4, 8]
    for trial, losses in found.losses.items():
        np.testing.assert_array_equal(many.losses[trial]["train_loss"], losses["train_loss"])
    assert equal(sweep(widths=[2, 4, 8], seeds=3), many)
    with pytest.raises(haiku_mup.MupError, match="has no longer 8"):
        sweep(grow=True)


def test_a_folder_of_something_else_is_refused(sweep, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "sweep.json").write_text('{"format": "mine"}')
    with pytest.raises(haiku_mup.MupError, match="sweep.json is of 'mine'"):
        sweep()
    (tmp_path / "out" / "sweep.json").write_text("{")
    with pytest.raises(haiku_mup.MupError, match="sweep.json: it was changed"):
        sweep()


# --- damage ---

DAMAGES = [
    lambda text: text[:-20], lambda text: text[:len(text) // 2], lambda text: text.splitlines()[0] + "\n",
    lambda text: text.replace('"seed": 0', '"seed": 1'), lambda text: text.replace("1", "2", 1),
    lambda text: "", lambda text: "\0" * len(text), lambda text: text + text]


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_cell_is_detected(found, tmp_path, damage):
    path = sorted((tmp_path / "out" / "cells").glob("*.jsonl"))[1]
    path.write_text(damage(path.read_text()))
    with pytest.warns(haiku_mup.MupWarning, match="damaged"):
        there = haiku_mup.Sweep.load(tmp_path / "out")
    assert there.losses.items() and len(there.losses) == len(found.losses) - 2 and len(there.missing) == 2
    assert path.with_suffix(".damaged").exists() and not path.exists()


def test_damaged_cells_run_again(found, sweep, tmp_path):
    before = cells(tmp_path / "out")
    for damage, path in zip(DAMAGES, sorted((tmp_path / "out" / "cells").glob("*.jsonl"))[1:]):
        path.write_text(damage(path.read_text()))
    with pytest.warns(haiku_mup.MupWarning, match="damaged"):
        again = sweep()
    assert equal(again, found) and cells(tmp_path / "out") == before


def test_a_folder_that_cannot_be_written_to_raises_before_any_work(tmp_path, here):
    """Permissions don't stop root, so a file is in the way of the folder."""
    (tmp_path / "out").write_text("")
    make, calls = counted(make_trial)
    for out in (tmp_path / "out", tmp_path / "out" / "below", pathlib.Path("/proc/here")):
        with pytest.raises(OSError, match=f"{out.name}|out"):
            haiku_mup.lr_sweep(make, [2], LRS, 1, out=out, executor=here, progress=False)
    assert not calls


@pytest.mark.skipif(os.geteuid() == 0, reason="nothing is read-only for root")
def test_a_read_only_folder_raises_before_any_work(sweep, tmp_path):
    (tmp_path / "out" / "cells").mkdir(parents=True)
    (tmp_path / "out" / "programs").mkdir()
    (tmp_path / "out" / "cells").chmod(0o500)
    make, calls = counted(make_trial)
    with pytest.raises(PermissionError, match="out"):
        sweep(make)
    assert not calls


@pytest.mark.parametrize("after", [0, 3])
def test_a_full_disk_ends_the_sweep_and_keeps_what_has_finished(finished, sweep, tmp_path, monkeypatch, after):
    """A full disk keeps a part of a file, and raises."""
    fsync, calls = os.fsync, []

    def full(handle):
        if files_of(handle, ".jsonl"):
            calls.append(handle)
            if len(calls) > after:
                os.ftruncate(handle, 7)
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        fsync(handle)

    monkeypatch.setattr(files.os, "fsync", full)
    with pytest.raises(OSError, match="No space left on device; what has finished is kept: make room"):
        sweep()
    assert len(cells(tmp_path / "out")) == after
    assert not list((tmp_path / "out").rglob("*.tmp"))
    monkeypatch.setattr(files.os, "fsync", fsync)
    assert equal(sweep(), finished[0])


@pytest.fixture
def mounted(tmp_path):
    """Returns a function that mounts a small disk at tmp_path / "out"; unmounts it when the test ends."""
    def mount(options):
        done = subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(out)], capture_output=True,
                              text=True, check=False)
        if done.returncode:
            pytest.skip(f"no disk can be mounted here: {done.stderr.strip()}")

    out = tmp_path / "out"
    out.mkdir()
    yield mount
    subprocess.run(["umount", str(out)], capture_output=True, check=False)


@pytest.mark.slow
def test_a_disk_that_is_full(finished, sweep, tmp_path, mounted):
    """A mounted disk, of which a file takes all but a few pages."""
    mounted("size=128k")
    filler = tmp_path / "out" / "filler"
    filler.write_bytes(b" " * (128 - 24) * 1024)     # six pages are left; a file takes one or more
    with pytest.raises(OSError, match="No space left on device; what has finished is kept"):
        sweep()
    there = cells(tmp_path / "out")
    assert 0 < len(there) < 6 and there.items() <= cells(finished[1]).items()
    filler.unlink()
    assert equal(sweep(), finished[0])


@pytest.mark.slow
def test_a_disk_that_is_read_only(finished, sweep, tmp_path, mounted):
    mounted("size=128k,ro")
    make, calls = counted(make_trial)
    with pytest.raises(OSError, match="Read-only file system.*out"):
        sweep(make)
    assert not calls


def files_of(handle, suffix):
    return suffix in os.readlink(f"/proc/self/fd/{handle}")
