"""The processes of one run, on one machine or on many: they join, check each other, and end together."""
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
HEARTBEAT_TIMEOUT = 30      # seconds without a sign of life, after which a process counts as dead
ONE_LINE_ERRORS = (ImportError, OSError, ValueError)        # their messages need no traceback


def join() -> None:
    """Joins the other processes, if the environment names them.

    By hand: JAX_COORDINATOR_ADDRESS (the first one's host:port), JAX_NUM_PROCESSES and JAX_PROCESS_ID. With
    srun and mpirun, JAX detects them.

    Raises:
      ValueError: some of the three variables are set, but not all, which would start several runs in one
        folder; a variable is not a whole number.
    """
    given = [name for name in VARIABLES if os.environ.get(name)]
    if _on_cluster() and given in ([], [VARIABLES[0]]):
        jax.distributed.initialize(heartbeat_timeout_seconds=HEARTBEAT_TIMEOUT)
    elif given:
        missing = [name for name in VARIABLES if name not in given]
        if missing:
            raise ValueError(f"{', '.join(given)}: set without {', '.join(missing)}; set all three, or none")
        count, number = (_int_variable(name) for name in VARIABLES[1:])
        if not 0 <= number < count:
            raise ValueError(f"JAX_PROCESS_ID is {number} of JAX_NUM_PROCESSES {count}: number them from 0 on")
        jax.distributed.initialize(num_processes=count, process_id=number,
                                   heartbeat_timeout_seconds=HEARTBEAT_TIMEOUT)


def _on_cluster() -> bool:
    """Returns whether srun or mpirun has started several processes."""
    env = os.environ
    return ("SLURM_STEP_NODELIST" in env and int(env.get("SLURM_NTASKS", 1)) > 1) \
        or int(env.get("OMPI_COMM_WORLD_SIZE", 1)) > 1


def _int_variable(name: str) -> int:
    try:
        return int(os.environ[name])
    except ValueError as error:
        raise ValueError(f"{name} is {os.environ[name]!r}: give a whole number") from error


def is_leader() -> bool:
    """Returns whether this is the process that prints and writes."""
    return jax.process_index() == 0


def is_single() -> bool:
    """Returns whether there are no other processes."""
    return jax.process_count() == 1


def print_once(text: str) -> None:
    """Prints in the leading process."""
    if is_leader():
        print(text, flush=True)


def check_same(arguments: Any) -> None:
    """Raises ValueError, in all processes, if they have different arguments: they must run one program."""
    checksum = np.uint32(zlib.crc32(json.dumps(arguments, sort_keys=True, default=str).encode()))
    checksums = multihost_utils.process_allgather(checksum).tolist()
    if len(set(checksums)) > 1:
        raise ValueError(f"the {len(checksums)} processes have different arguments, texts or bases; start all "
                         "with one command, on the same files")


@contextlib.contextmanager
def end_together() -> Iterator[None]:
    """Ends a process of several at once, with a message, when the body raises; and so ends the others, too.

    A usual exit would hang: Python would wait for the other processes, and they for this one, in a collective
    operation. Ending the process closes its connections, which is an error in each collective operation that
    uses them; without one, jax.distributed ends the others after `HEARTBEAT_TIMEOUT` seconds.
    """
    try:
        yield
    except BaseException as error:
        if is_single():
            raise
        code = error.code if isinstance(error, SystemExit) and isinstance(error.code, int) else 1
        _print_error(error)
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _print_error(error: BaseException) -> None:
    """Prints the error that ends this process; a SystemExit has printed its own."""
    if isinstance(error, jax.errors.JaxRuntimeError):
        print(str(error).partition("\n")[0], file=sys.stderr)
    elif not isinstance(error, SystemExit):
        traceback.print_exception(error)
    print(f"process {jax.process_index()} of {jax.process_count()} ends. Where one ends all do, and the first "
          "to end says why; started again, they go on from the last checkpoint", file=sys.stderr)
