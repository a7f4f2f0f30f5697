"""The folder of a sweep: what was asked for, which programs ran, and each cell that has finished."""
import contextlib
import csv
import io
import json
import os
import pathlib
import tempfile
import warnings
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from haiku_mup.errors import MupError, MupWarning
from haiku_mup.serialization import atomic_files as files
from haiku_mup.sweep.program import ProgramInfo, TrialLosses
from haiku_mup.sweep.runner import records
from haiku_mup.sweep.trial import Trial

FORMAT, VERSION = "haiku_mup sweep", 1
GROWS = ("parametrizations", "widths", "points", "seeds")
NAMES = {"points": "learning rates and hyperparameters"}
PACKAGES = ("jax", "jaxlib", "dm-haiku", "optax", "numpy")


class Portions(NamedTuple):
    """In which portions a program's trials run; it goes on in them, so that the same program runs.

    Attributes:
      chunk: how many beside one another on a device.
      cell: how many in a cell.
    """

    chunk: int
    cell: int


class Nothing:
    """Keeps nothing: the ledger of a sweep without a folder.

    Attributes:
      joined: whether the folder was there: perhaps another process is at work, from the other end.
    """

    joined = False

    def found(self, cell: Sequence[Trial]) -> list[TrialLosses] | None:
        """The losses of a cell's trials, if it has finished."""
        return None

    def agreed(self, parametrization: str, width: int, facts: ProgramInfo, mine: Portions) -> Portions:
        """What was agreed on when the program first ran."""
        return mine

    def keep(self, cell: Sequence[Trial], losses: Sequence[TrialLosses]) -> None:
        """Has a finished cell on disk when it returns."""

    def summarise(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Writes all rows in one table."""


class Ledger(Nothing):
    """Keeps a sweep in a folder.

    Every file is written elsewhere, synchronised and renamed, so that it is there whole or not at all, and none
    is ever changed: processes that work on one folder, even over a network, need no lock. A cell's name follows
    from its trials, so that who does it again writes the same file.

    - ``sweep.json``: the arguments, and versions of packages.
    - ``programs/mup-64.json``: a fingerprint of what a program computes, and in which portions its trials run.
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
        self.folder: pathlib.Path = pathlib.Path(folder)
        for part in ("programs", "cells"):
            (self.folder / part).mkdir(parents=True, exist_ok=True)
        self._probe()
        path = self.folder / "sweep.json"
        head = _head_of(arguments)
        self.joined = not files.create_json(path, head)
        if self.joined:
            head = self._head()
            self._compare(head["arguments"], json.loads(json.dumps(arguments)), grow)
        self._cells = dict(self._read())

    # --- cells ---

    def found(self, cell):
        losses = self._cells.get(records.name_of(cell))
        if losses is None:                      # another process may have done it in the meantime
            losses = self._load(self._path(cell))
        return None if losses is None else [losses[trial] for trial in cell]

    def keep(self, cell, losses):
        lines = [records.encode(trial, found) for trial, found in zip(cell, losses)]
        files.write(self._path(cell), "".join(lines))
        self._cells[records.name_of(cell)] = dict(zip(cell, losses))

    def summarise(self, rows):
        text = io.StringIO()
        columns = list(dict.fromkeys(key for row in rows for key in row))
        writer = csv.DictWriter(text, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        files.write(self.folder / "results.csv", text.getvalue())

    def _path(self, cell):
        return self.folder / "cells" / f"{records.name_of(cell)}.jsonl"

    def _read(self):
        for path in sorted((self.folder / "cells").glob("*.jsonl")):
            losses = self._load(path)
            if losses is not None:
                yield path.stem, losses

    def _load(self, path):
        """The losses of a cell by trial; None where there are none, or they are damaged: that is put aside."""
        try:
            found = list(map(records.decode, path.read_text(encoding="utf-8").splitlines()))
            if records.name_of([trial for trial, _ in found]) != path.stem:
                raise ValueError("trials are missing")
            return dict(found)
        except FileNotFoundError:
            return None
        except (ValueError, LookupError, TypeError) as error:
            with contextlib.suppress(OSError):
                path.replace(path.with_suffix(".damaged"))
            warnings.warn(f"{path}: {error}: damaged, or not of this sweep; it is set aside as "
                          f"{path.stem}.damaged, and the cell runs again", MupWarning, stacklevel=2)
            return None

    # --- programs ---

    def agreed(self, parametrization, width, facts, mine):
        path = self.folder / "programs" / f"{files.safe_name(parametrization)}-{width}.json"
        if files.create_json(path, {"parametrization": parametrization, "width": width, **facts._asdict(),
                                  **mine._asdict(), "versions": versions()}):
            return mine
        there = files.read_json(path)
        if there.get("fingerprint") != facts.fingerprint:
            raise MupError(f"{self.folder}: {parametrization!r} at width {width} computes something else than "
                           f"what is there: {self._why(there)}. Give another out, or remove this one")
        return Portions(int(there["chunk"]), int(there["cell"]))

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
        head = files.read_json(self.folder / "sweep.json")
        if head.get("format") != FORMAT or head.get("version") != VERSION:
            raise MupError(f"{self.folder}: sweep.json is of {str(head.get('format'))[:40]!r} "
                           f"{str(head.get('version'))[:20]}, not of {FORMAT!r} {VERSION}; give another out")
        return head

    def _compare(self, there, mine, grow):
        differing = [name for name in {**there, **mine} if there.get(name) != mine.get(name)]
        added = all(name in GROWS and _added(there[name], mine[name]) is not None for name in differing)
        if differing and grow and added:
            files.write(self.folder / "sweep.json", json.dumps(_head_of(mine), indent=1) + "\n")
        elif differing:
            text = "; ".join(_difference(name, there.get(name), mine.get(name)) for name in differing)
            remedy = ", or grow=True to add what is new" * added
            raise MupError(f"{self.folder} is the folder of another sweep: {text}. Give another out{remedy}")


def read(folder: str | os.PathLike[str]) -> tuple[dict[Trial, TrialLosses], list[Trial]]:
    """The trials in a folder that have finished, in the order of its grid; and the others.

    Raises:
      MupError: no folder of a sweep.
    """
    ledger = Ledger.__new__(Ledger)
    ledger.folder = pathlib.Path(folder)
    asked = ledger._head()["arguments"]
    there = {trial: losses for _, cell in ledger._read() for trial, losses in cell.items()}
    trials = [Trial(name, width, tuple(map(tuple, point)), seed) for name in asked["parametrizations"]
              for width in asked["widths"] for point in asked["points"] for seed in asked["seeds"]]
    left = [] if asked["search"] == "adaptive" else [trial for trial in trials if trial not in there]
    return {trial: there[trial] for trial in trials if trial in there}, left


def _head_of(arguments: Mapping[str, Any]) -> dict[str, Any]:
    return {"format": FORMAT, "version": VERSION, "arguments": dict(arguments), "versions": versions()}


def versions() -> dict[str, str]:
    """Of the packages that numbers may depend on."""
    import importlib.metadata

    return {name: importlib.metadata.version(name) for name in PACKAGES}


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
    gone, new = [x for x in there if x not in mine], [x for x in mine if x not in there]
    parts = [f"has no longer {_listed(gone)}"] * bool(gone) + [f"has now {_listed(new)}"] * bool(new)
    return f"{label} {' and '.join(parts) or 'is in another order'}"


def _listed(found: Sequence[Any]) -> str:
    shown = [", ".join(f"{name}={x:g}" for name, x in item) if isinstance(item, list) else str(item)
             for item in found]
    return ", ".join(shown[:5]) + f" and {len(shown) - 5} more" * (len(shown) > 5)
