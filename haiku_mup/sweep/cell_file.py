"""The file of a cell: a line of JSON for each trial, with its losses and a checksum."""
import hashlib
import json
import math
import zlib
from collections.abc import Sequence

import numpy as np

from haiku_mup.serialization import atomic_files
from haiku_mup.sweep.program import TrialLosses
from haiku_mup.sweep.trial import Trial


def name_of(cell: Sequence[Trial]) -> str:
    """Returns the name of a cell's file, without its ending: its program's name and a digest of its trials.

    >>> name_of([Trial("mup", 64, (("lr", 0.125),), 0)])
    'mup-64-9ec6960803216df9'
    """
    digest = hashlib.sha256(json.dumps(cell).encode()).hexdigest()[:16]
    return f"{atomic_files.safe_name(cell[0].parametrization)}-{cell[0].width}-{digest}"


def encode(cell: Sequence[Trial], losses: Sequence[TrialLosses]) -> str:
    """Returns the text of a cell's file.

    >>> encode([Trial("mup", 64, (("lr", 0.5),), 0)], [{"loss": np.float32([0.1, np.inf])}]).splitlines()
    ['{"dtype": ..., "width": 64, "lr": 0.5, "seed": 0, "loss": [0.1, null], "crc": 789392985}']
    """
    return "".join(map(_encode_line, cell, losses))


def decode(text: str, name: str) -> dict[Trial, TrialLosses]:
    """Returns the losses of a cell's trials.

    Args:
      text: of the file.
      name: of the file, as `name_of` returns it.

    Raises:
      ValueError, LookupError or TypeError: `encode` didn't make this text, or not for this name.

    >>> cell = [Trial("mup", 64, (("lr", 0.5),), 0)]
    >>> decode(encode(cell, [{"loss": np.float32([0.1, np.inf])}]), name_of(cell))[cell[0]]
    {'loss': array([0.1, inf], dtype=float32)}
    """
    lines = list(map(_decode_line, text.splitlines()))
    if not lines or name_of([trial for trial, _ in lines]) != name:
        raise ValueError("trials are missing")
    return dict(lines)


def _encode_line(trial: Trial, losses: TrialLosses) -> str:
    values = {"dtype": {name: str(x.dtype) for name, x in losses.items()}, **trial.row(),
              **{name: list(map(_to_json, x)) if x.ndim else _to_json(x) for name, x in losses.items()}}
    text = json.dumps(values, allow_nan=False)
    return f'{text[:-1]}, "crc": {zlib.crc32(text.encode())}}}\n'


def _to_json(x: np.ndarray) -> float | None:
    """Returns a number in the fewest digits that give the same bits again; None, null in JSON, for inf."""
    return float(str(x)) if math.isfinite(x) else None


def _decode_line(line: str) -> tuple[Trial, TrialLosses]:
    text, _, crc = line.rpartition(', "crc": ')
    if not text or crc != f"{zlib.crc32((text + '}').encode())}}}":
        raise ValueError("a checksum doesn't match")
    values = json.loads(text + "}")
    losses = {name: np.array(values.pop(name), dtype) for name, dtype in values.pop("dtype").items()}
    for x in losses.values():
        x[np.isnan(x)] = np.inf                 # NumPy reads None as nan
    parametrization, width, seed = (values.pop(name) for name in ("parametrization", "width", "seed"))
    return Trial(parametrization, width, tuple(values.items()), seed), losses
