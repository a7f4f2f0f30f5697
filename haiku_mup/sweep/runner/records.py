"""A trial and its losses as a line of JSON, with a checksum; and the name of a cell of trials."""
import hashlib
import json
import math
import zlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from haiku_mup.serialization import atomic_files as files
from haiku_mup.sweep.program import TrialLosses
from haiku_mup.sweep.trial import Trial


def name_of(cell: Sequence[Trial]) -> str:
    """The name of a cell's file: that of its program, and a digest of its trials.

    >>> name_of([Trial("mup", 64, (("lr", 0.125),), 0)])
    'mup-64-9ec6960803216df9'
    """
    digest = hashlib.sha256(json.dumps(cell).encode()).hexdigest()[:16]
    return f"{files.safe_name(cell[0].parametrization)}-{cell[0].width}-{digest}" if cell else ""


def encode(trial: Trial, losses: TrialLosses) -> str:
    """A line. A loss of inf is null.

    >>> line = encode(Trial("mup", 64, (("lr", 0.5),), 0), {"loss": np.float32([0.1, np.inf])})
    >>> line.partition('"parametrization"')[2]
    ': "mup", "width": 64, "lr": 0.5, "seed": 0, "loss": [0.1, null], "crc": 789392985}\\n'
    """
    values = {"dtype": {name: str(x.dtype) for name, x in losses.items()}, **trial.row(),
              **{name: _numbers(x) for name, x in losses.items()}}
    text = json.dumps(values, allow_nan=False)
    return f'{text[:-1]}, "crc": {zlib.crc32(text.encode())}}}\n'


def _numbers(x: np.ndarray) -> Any:
    """Numbers that JSON has, in the fewest digits that give the same again; None for inf."""
    if x.ndim:
        return [_numbers(part) for part in x]
    return float(str(x)) if math.isfinite(x) else None


def decode(line: str) -> tuple[Trial, TrialLosses]:
    """What was encoded.

    Raises:
      ValueError, LookupError or TypeError: whatever `encode` doesn't make.
    """
    text, _, crc = line.rpartition(', "crc": ')
    if not text or crc != f"{zlib.crc32((text + '}').encode())}}}":
        raise ValueError("a checksum doesn't fit")
    values = json.loads(line)
    kinds = values.pop("dtype")
    losses = {name: np.array(_filled(values.pop(name)), dtype) for name, dtype in kinds.items()}
    parametrization, width, seed = (values.pop(name) for name in ("parametrization", "width", "seed"))
    del values["crc"]
    return Trial(parametrization, width, tuple(values.items()), seed), losses


def _filled(x: Any) -> Any:
    if isinstance(x, list):
        return list(map(_filled, x))
    return math.inf if x is None else x
