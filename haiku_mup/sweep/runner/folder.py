"""The folder of a sweep: its arguments, its programs, and each cell that has finished."""
import contextlib
import json
import os
import pathlib
import tempfile
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

from haiku_mup.errors import MupError, MupWarning
from haiku_mup.serialization import atomic_files
from haiku_mup.sweep import cell_file, spec
from haiku_mup.sweep.program import TrialLosses
from haiku_mup.sweep.runner.tasks import TracedProgram
from haiku_mup.sweep.trial import Trial


class SweepFolder:
    """Keeps a sweep in a folder.

    Files are atomic and written once, so processes that share a folder, even over a network, need no locks. A
    cell's name follows from its trials, so another process that runs it writes the same file.

    - ``sweep.json``: the arguments, and the versions of packages.
    - ``programs/mup-64.json``: a fingerprint of what a program computes, and the sizes of its chunks and cells.
    - ``cells/mup-64-….jsonl``: the losses of a cell; see `cell_file`.
    - ``results.csv``: `Sweep.rows`, from when the sweep last ended or was interrupted.

    Args:
      path: of the folder.
      arguments: of the sweep, as JSON values; None to read a folder that is there.
      grow: whether to add to the arguments that the folder was made with.

    Raises:
      MupError: the folder is that of another sweep, or not a sweep's.
      OSError: it can't be written to.
    """

    def __init__(self, path: str | os.PathLike[str], arguments: Mapping[str, Any] | None = None,
                 grow: bool = False):
        self.path = pathlib.Path(path)
        self.is_shared = True               # the folder was there: another process may be at work in it
        self.losses: dict[Trial, TrialLosses] = {}
        if arguments is not None:
            for name in ("programs", "cells"):
                (self.path / name).mkdir(parents=True, exist_ok=True)
            tempfile.TemporaryFile(dir=self.path / "cells").close()     # raises before any work
            self.is_shared = not atomic_files.create_json(self.path / "sweep.json", spec.to_file(arguments))
        self.arguments = spec.from_file(atomic_files.read_json(self.path / "sweep.json"), self.path)
        if arguments is not None:
            self._compare(json.loads(json.dumps(arguments)), grow)
        for cell in sorted((self.path / "cells").glob("*.jsonl")):
            self._load(cell)

    def _compare(self, arguments: dict[str, Any], grow: bool) -> None:
        """Checks that the folder was made with these arguments, or extends its own."""
        changes = spec.describe_changes(self.arguments, arguments)
        extends = spec.is_extension(self.arguments, arguments)
        if changes and extends and grow:
            atomic_files.write(self.path / "sweep.json", json.dumps(spec.to_file(arguments), indent=1) + "\n")
        elif changes:
            raise MupError(f"{self.path} is the folder of another sweep: {changes}. Give another out"
                           + ", or grow=True to add what is new" * extends)

    def register(self, parametrization: str, width: int, traced: TracedProgram) -> TracedProgram:
        """Returns a program with its first run's sizes of chunk and cell. Raises MupError if it was changed."""
        path = self.path / "programs" / f"{atomic_files.safe_name(parametrization)}-{width}.json"
        if atomic_files.create_json(path, {
                "parametrization": parametrization, "width": width, **traced.info._asdict(),
                "chunk": traced.chunk, "cell": traced.cell, "versions": spec.versions()}):
            return traced
        kept = atomic_files.read_json(path)
        if kept.get("fingerprint") != traced.info.fingerprint:
            raise MupError(f"{self.path}: {parametrization!r} at width {width} computes something else than "
                           f"what is there: {spec.cause_of_change(kept)}. Give another out, or remove this one")
        return traced._replace(chunk=int(kept["chunk"]), cell=int(kept["cell"]))

    def load_cell(self, cell: Sequence[Trial]) -> list[TrialLosses] | None:
        """Returns the losses of a cell's trials; None if it has not finished, here or in another process."""
        if not set(cell) <= self.losses.keys():
            self._load(self._path(cell))
        return [self.losses[trial] for trial in cell] if set(cell) <= self.losses.keys() else None

    def save_cell(self, cell: Sequence[Trial], losses: Sequence[TrialLosses]) -> None:
        """Writes a cell to the disk."""
        atomic_files.write(self._path(cell), cell_file.encode(cell, losses))

    def _path(self, cell: Sequence[Trial]) -> pathlib.Path:
        return self.path / "cells" / f"{cell_file.name_of(cell)}.jsonl"

    def _load(self, path: pathlib.Path) -> None:
        """Reads a cell, if it has finished. Sets a damaged file aside."""
        try:
            self.losses |= cell_file.decode(path.read_text(encoding="utf-8"), path.stem)
        except FileNotFoundError:
            pass
        except (ValueError, LookupError, TypeError) as error:
            with contextlib.suppress(OSError):
                path.replace(path.with_suffix(".damaged"))
            warnings.warn(f"{path}: {error}: damaged, or not of this sweep; it is set aside as "
                          f"{path.stem}.damaged, and the cell runs again", MupWarning, stacklevel=2)
