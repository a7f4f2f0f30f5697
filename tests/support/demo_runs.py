"""Demos, run in the process of the test."""
import concurrent.futures
import contextlib
import importlib.util
import io

import jax
import pytest


def demo_run(main, argv, out, hidden="mlxtend"):
    """Runs a demo's main with `--out`, as if a package were missing; returns its code and what it printed."""
    from demos.common import sweeps  # imports matplotlib

    said, find = io.StringIO(), importlib.util.find_spec
    with (pytest.MonkeyPatch.context() as monkeypatch, jax.numpy_rank_promotion("raise"),
          concurrent.futures.ThreadPoolExecutor(1) as here, contextlib.redirect_stdout(said),
          contextlib.redirect_stderr(said)):
        monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == hidden else find(name))
        monkeypatch.setattr(sweeps, "cluster", lambda address: here)
        code = main([*argv, "--out", str(out)])
    return code, said.getvalue()
