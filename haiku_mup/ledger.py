"""The folder of a sweep: what was asked for, which programs ran, and each finished cell, in a file of its own."""
import contextlib
import errno
import hashlib
import json
import math
import os
import pathlib
import tempfile
import warnings
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from haiku_mup.errors import MupError, MupWarning
from haiku_mup.programs import Facts, Losses
from haiku_mup.trials import Trial

FORMAT, VERSION = "haiku_mup sweep", 1
GROWS = ("parametrizations", "widths", "points", "seeds")
NAMES = {"points": "learning rates and hyperparameters"}
PACKAGES = ("jax", "jaxlib", "dm-haiku", "optax", "numpy")


class Nothing:
    """Keeps nothing: the ledger of a sweep without a folder."""

    folder: pathlib.Path | None = None
    joined = False          # whether the folder was there: perhaps another process is at work from the other end

    def found(self, cell: Sequence[Trial]) -> list[Losses] | None:
        """The losses of a cell's trials, if it has finished."""
        return None

    def agreed(self, parametrization: str, width: int, facts: Facts, chunk: int) -> int:
        """How many trials are to run beside one another: what was agreed on when the program first ran."""
        return chunk

    def keep(self, cell: Sequence[Trial], losses: Sequence[Losses]) -> None:
        """Has a finished cell on disk when it returns."""

    def summarise(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Writes all rows in one table."""


class Ledger(Nothing):
    """Keeps a sweep in a folder.

    Every file is written elsewhere, synchronised and renamed, so that it is there whole or not at all, and none is
    ever changed: processes that work on one folder, even over a network, need no lock. A cell's name follows from
    its trials, so that who does it again writes the same file.

    - ``sweep.json``: the arguments, and versions of packages.
    - ``programs/mup-64.json``: what the program of a parametrization and a width computes, and in which portions.
    - ``cells/mup-64-….jsonl``: a line for each trial, with a checksum; null is a loss of inf.
    - ``results.csv``: `Sweep.rows`, as of the last end or interruption.

    Args:
      folder: where.
      arguments: of the sweep, as JSON values.
      grow: whether arguments may be added to those that the folder was made with.

    Raises:
      MupError: a folder of another sweep.
      OSError: one that can't be written to.
    """

    def __init__(self, folder: str | os.PathLike[str], arguments: Mapping[str, Any], grow: bool = False):
        self.folder = pathlib.Path(folder)
        for part in ("programs", "cells"):
            (self.folder / part).mkdir(parents=True, exist_ok=True)
        self._probe()
        path = self.folder / "sweep.json"
        head = {"format": FORMAT, "version": VERSION, "arguments": dict(arguments), "versions": versions()}
        self.joined = _taken(path, head)
        if self.joined:
            head = self._head()
            self._compare(head["arguments"], json.loads(json.dumps(arguments)), grow)
        self._versions = head["versions"]
        self._cells = dict(self._read())

    # --- cells ---

    def found(self, cell):
        losses = self._cells.get(name_of(cell))
        if losses is None:                      # another process may have done it in the meantime
            losses = self._load(self._path(cell))
        return None if losses is None else [losses[trial] for trial in cell]

    def keep(self, cell, losses):
        lines = [_line(trial, found) for trial, found in zip(cell, losses)]
        _write(self._path(cell), "".join(lines))
        self._cells[name_of(cell)] = dict(zip(cell, losses))

    def summarise(self, rows):
        import csv
        import io

        text = io.StringIO()
        writer = csv.DictWriter(text, list(dict.fromkeys(key for row in rows for key in row)), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        _write(self.folder / "results.csv", text.getvalue())

    def _path(self, cell):
        return self.folder / "cells" / f"{name_of(cell)}.jsonl"

    def _read(self):
        for path in sorted((self.folder / "cells").glob("*.jsonl")):
            losses = self._load(path)
            if losses is not None:
                yield path.stem, losses

    def _load(self, path):
        """The losses of a cell by trial; None where there are none, or they are damaged: that is put aside."""
        try:
            losses = dict(map(_parsed, path.read_text(encoding="utf-8").splitlines()))
            if name_of(list(losses)) != path.stem:
                raise ValueError("trials are missing")
            return losses
        except FileNotFoundError:
            return None
        except ValueError as error:
            with contextlib.suppress(OSError):
                path.replace(path.with_suffix(".damaged"))
            warnings.warn(f"{path}: {error}: damaged, or not of this sweep; it is set aside as "
                          f"{path.stem}.damaged, and the cell runs again", MupWarning, stacklevel=2)
            return None

    # --- programs ---

    def agreed(self, parametrization, width, facts, chunk):
        path = self.folder / "programs" / f"{_safe(parametrization)}-{width}.json"
        mine = {"parametrization": parametrization, "width": width, **facts._asdict(), "chunk": chunk,
                "versions": versions()}
        if not _taken(path, mine):
            return chunk
        there = _json(path)
        if there.get("fingerprint") != facts.fingerprint:
            raise MupError(f"{self.folder}: {parametrization!r} at width {width} computes something else than what is "
                           f"there: {self._why(there)}. Give another out, or remove this one")
        return int(there["chunk"])

    def _why(self, there):
        changed = [f"{name} was {version}, and is {versions().get(name)}"
                   for name, version in there.get("versions", {}).items() if versions().get(name) != version]
        return ", ".join(changed) or "the model, data, loss, optimizer, steps or JAX's settings were changed"

    # --- the folder ---

    def _probe(self):
        """Raises, before any work, where nothing can be written."""
        with tempfile.TemporaryFile(dir=self.folder / "cells"):
            pass

    def _head(self):
        head = _json(self.folder / "sweep.json")
        if head.get("format") != FORMAT or head.get("version") != VERSION:
            raise MupError(f"{self.folder}: sweep.json is of {str(head.get('format'))[:40]!r} "
                           f"{str(head.get('version'))[:20]}, not of {FORMAT!r} {VERSION}; give another out")
        return head

    def _compare(self, there, mine, grow):
        differing = [name for name in {**there, **mine} if there.get(name) != mine.get(name)]
        added = all(name in GROWS and _added(there[name], mine[name]) is not None for name in differing)
        if differing and grow and added:
            _write(self.folder / "sweep.json", json.dumps(
                {"format": FORMAT, "version": VERSION, "arguments": mine, "versions": versions()}, indent=1) + "\n")
        elif differing:
            text = "; ".join(_difference(name, there.get(name), mine.get(name)) for name in differing)
            remedy = ", or grow=True to add what is new" * added
            raise MupError(f"{self.folder} is the folder of another sweep: {text}. Give another out{remedy}")


def name_of(cell: Sequence[Trial]) -> str:
    """The name of a cell's file: that of its program, and a digest of its trials.

    >>> name_of([Trial("mup", 64, (("lr", 0.125),), 0)])
    'mup-64-54df73fae81b1ab9'
    """
    digest = hashlib.sha256(json.dumps(cell).encode()).hexdigest()[:16]
    return f"{_safe(cell[0].parametrization)}-{cell[0].width}-{digest}" if cell else ""


def versions() -> dict[str, str]:
    """Of the packages that numbers may depend on."""
    import importlib.metadata

    return {name: importlib.metadata.version(name) for name in PACKAGES}


# --- a trial as a line ---

def _line(trial: Trial, losses: Losses) -> str:
    values = {"dtype": {name: str(x.dtype) for name, x in losses.items()}, **trial.row(),
              **{name: _numbers(x) for name, x in losses.items()}}
    text = json.dumps(values, allow_nan=False)
    return f'{text[:-1]}, "crc": {zlib.crc32(text.encode())}}}\n'


def _numbers(x: np.ndarray) -> Any:
    """Numbers that JSON has, in the fewest digits that give the same again; None for inf."""
    if x.ndim:
        return [_numbers(part) for part in x]
    return float(str(x)) if math.isfinite(x) else None


def _parsed(line: str) -> tuple[Trial, Losses]:
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


# --- files ---

def _write(path: pathlib.Path, text: str, new: bool = False) -> None:
    """Has the file whole on disk, or raises and leaves what was there.

    Raises:
      FileExistsError: where it must be new, and isn't.
      OSError: with the path, and what to do.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.link(temporary, path) if new else os.replace(temporary, path)
        _sync(path.parent)
    except FileExistsError:
        raise
    except OSError as error:
        full = "; what has finished is kept: make room, and call again" * (error.errno in (errno.ENOSPC, errno.EDQUOT))
        raise OSError(error.errno, f"{error.strerror}{full}", os.fspath(path)) from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()


def _taken(path: pathlib.Path, values: Mapping[str, Any]) -> bool:
    """Writes the file unless there is one; whether there was."""
    try:
        _write(path, json.dumps(values, indent=1) + "\n", new=True)
    except FileExistsError:
        return True
    return False


def _sync(folder: pathlib.Path) -> None:
    """Has the folder's entries on disk, where the system can."""
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _json(path: pathlib.Path) -> dict[str, Any]:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        if isinstance(values, dict):
            return values
    except ValueError:
        pass
    raise MupError(f"{path}: not readable: it was changed, or is no file of a sweep; give another out")


def _safe(name: str) -> str:
    """A part of a file's name; distinct names stay distinct."""
    plain = "".join(c if c.isascii() and (c.isalnum() or c in "_+.") else "_" for c in name)
    return plain if plain == name else f"{plain}~{zlib.crc32(name.encode()):08x}"


# --- arguments ---

def _added(there: Any, mine: Any) -> list[Any] | None:
    """What is new; None where something that is there is missing now."""
    if not (isinstance(there, list) and isinstance(mine, list)) or any(x not in mine for x in there):
        return None
    return [x for x in mine if x not in there]


def _difference(name: str, there: Any, mine: Any) -> str:
    label = NAMES.get(name, name)
    if not (isinstance(there, list) and isinstance(mine, list)):
        return f"{label} was {there!r}, and is {mine!r}"
    parts = [f"{word} {_listed(found)}" for word, found in (
        ("has no longer", [x for x in there if x not in mine]), ("has now", [x for x in mine if x not in there])) if found]
    return f"{label} {' and '.join(parts) or 'is in another order'}"


def _listed(found: Sequence[Any]) -> str:
    shown = [", ".join(f"{name}={x:g}" for name, x in item) if isinstance(item, list) else str(item) for item in found]
    return ", ".join(shown[:5]) + f" and {len(shown) - 5} more" * (len(shown) > 5)
