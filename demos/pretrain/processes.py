"""The processes of one run, on one machine or on many: how they find each other, and how they end together."""
import contextlib
import json
import os
import sys
import traceback
import zlib
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

VARIABLES = ("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID")
PATIENCE = 30       # seconds: a process that has given no sign of life for so long is taken for dead
SAID = (ImportError, OSError, ValueError)       # what a message of one line is enough for


def join() -> None:
    """Joins the other processes, where these variables or a cluster's say that there are some.

    By hand: JAX_COORDINATOR_ADDRESS (the first one's host:port), JAX_NUM_PROCESSES and JAX_PROCESS_ID. With
    srun and mpirun, jax finds them out.

    Raises:
      ValueError: some of the three and not all, which would be so many runs in one folder; no whole numbers.
    """
    env = os.environ
    given = [name for name in VARIABLES if env.get(name)]
    if _on_cluster() and given in ([], [VARIABLES[0]]):
        jax.distributed.initialize(heartbeat_timeout_seconds=PATIENCE)
    elif given:
        missing = [name for name in VARIABLES if name not in given]
        if missing:
            raise ValueError(f"{', '.join(given)}: set without {', '.join(missing)}; set all three, or none")
        count, number = (_whole(name) for name in VARIABLES[1:])
        if not 0 <= number < count:
            raise ValueError(f"JAX_PROCESS_ID is {number} of JAX_NUM_PROCESSES {count}: number them from 0 on")
        jax.distributed.initialize(num_processes=count, process_id=number, heartbeat_timeout_seconds=PATIENCE)


def _on_cluster() -> bool:
    """Whether srun or mpirun has started several."""
    env = os.environ
    return ("SLURM_STEP_NODELIST" in env and int(env.get("SLURM_NTASKS", 1)) > 1) \
        or int(env.get("OMPI_COMM_WORLD_SIZE", 1)) > 1


def _whole(name: str) -> int:
    try:
        return int(os.environ[name])
    except ValueError as error:
        raise ValueError(f"{name} is {os.environ[name]!r}: give a whole number") from error


def leads() -> bool:
    """Whether this process is the one that writes and speaks."""
    return jax.process_index() == 0


def alone() -> bool:
    """Whether there are no other processes, which may be at another step."""
    return jax.process_count() == 1


def say(text: str) -> None:
    """Prints it, in the process that speaks."""
    if leads():
        print(text, flush=True)


def agree(given: Any) -> None:
    """Makes sure that all processes were given the same: each is to run the same program.

    Raises:
      ValueError: in all of them, where one differs.
    """
    mine = np.uint32(zlib.crc32(json.dumps(given, sort_keys=True, default=str).encode()))
    others = multihost_utils.process_allgather(mine).tolist()
    if len(set(others)) > 1:
        raise ValueError(f"the {len(others)} processes have different arguments, texts or bases; start all "
                         "with one command, on the same files")


@contextlib.contextmanager
def together() -> Iterator[None]:
    """A process of several that fails in here ends at once, with a message; and so the others end, too.

    By itself it would wait for them as Python exits, and they for it, in a sum that it has no part in. As it
    ends, its connections do, which is an error in each sum that goes over them; where there is none,
    jax.distributed ends the others after `PATIENCE` seconds.
    """
    try:
        yield
    except BaseException as error:
        if alone():
            raise
        code = error.code if isinstance(error, SystemExit) and isinstance(error.code, int) else 1
        _tell(error)
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _tell(error: BaseException) -> None:
    """Says what has ended this process, unless that is said."""
    if isinstance(error, jax.errors.JaxRuntimeError):
        print(str(error).partition("\n")[0], file=sys.stderr)
    elif not isinstance(error, SystemExit):
        traceback.print_exception(error)
    print(f"process {jax.process_index()} of {jax.process_count()} ends. Where one ends all do, and the first "
          "to end says why; started again, they go on from the last checkpoint", file=sys.stderr)
