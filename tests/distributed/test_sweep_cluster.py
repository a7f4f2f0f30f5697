"""A sweep on a cluster of dask.distributed, one of whose two workers is killed while it runs."""
import os
import signal
import threading
import time
import warnings

import pytest
import sweep_program

import haiku_mup

distributed = pytest.importorskip("distributed")


@pytest.mark.slow
def test_a_worker_that_is_killed_takes_nothing_along(tmp_path, monkeypatch):
    monkeypatch.setenv("STEPS", "20000")

    def kill():
        while len(list((tmp_path / "cells").glob("*"))) < 2:
            time.sleep(0.01)
        pid = cluster.workers[0].pid
        os.kill(pid, signal.SIGKILL)
        killed.append(pid)

    killed: list[int] = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")             # distributed's own, of ports and of what it closes late
        with distributed.LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as cluster, \
                distributed.Client(cluster) as client:
            threading.Thread(target=kill, daemon=True).start()
            found = haiku_mup.lr_sweep(sweep_program.chaotic, [16, 32], sweep_program.LRS, 3, out=tmp_path,
                                       executor=client.get_executor(), chunk=1, progress=False)
    assert killed and not found.missing and len(found.losses) == 2 * 6 * 3
    assert {len(losses["train_loss"]) for losses in found.losses.values()} == {20000}
