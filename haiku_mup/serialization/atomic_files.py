"""Atomic, write-once files."""
import contextlib
import errno
import json
import os
import pathlib
import uuid
import zlib
from collections.abc import Mapping
from typing import Any

from haiku_mup.errors import MupError

FULL = (errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC))       # Windows has no quotas of this kind


def write(path: str | os.PathLike[str], text: str, new: bool = False) -> None:
    """Writes a file atomically: after a crash it has all of its old contents, or all of the new ones.

    A symbolic link stays, and the file that it points to is replaced.

    Args:
      path: the file.
      text: what it is to hold.
      new: whether the file must not exist yet. Of several processes that write it, one succeeds.

    Raises:
      FileExistsError: the file must be new, and exists.
      OSError: the file can't be written. The error names it, and the remedy for a full disk.
    """
    given, path = path, pathlib.Path(os.path.realpath(path))
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:12]}.tmp")
    try:
        # The contents must be on the disk before the name is: else a crash may leave an empty file of that
        # name. The folder comes last, since the name is an entry of it.
        with open(temporary, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        _link(temporary, path) if new else os.replace(temporary, path)
        _sync(path.parent)
    except FileExistsError:
        raise
    except OSError as error:
        full = "; what has finished is kept: make room, and call again" * (error.errno in FULL)
        raise OSError(error.errno, f"{error.strerror}{full}", os.fspath(given)) from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()


def _link(temporary: pathlib.Path, path: pathlib.Path) -> None:
    """Gives a file its name if no other file has it; unlike os.replace, os.link fails then."""
    try:
        os.link(temporary, path)
    except FileExistsError:
        raise
    except OSError:                                     # a file system without links
        if path.exists():
            raise FileExistsError(path) from None
        os.replace(temporary, path)


def _sync(folder: pathlib.Path) -> None:
    """Flushes a folder's entries to the disk, where the system can."""
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def create_json(path: pathlib.Path, values: Mapping[str, Any]) -> bool:
    """Writes a JSON file if there is none; returns whether it did.

    Raises:
      OSError: as `write`.
    """
    try:
        write(path, json.dumps(values, indent=1) + "\n", new=True)
    except FileExistsError:
        return False
    return True


def read_json(path: pathlib.Path) -> dict[str, Any]:
    """Returns the values of a file that `create_json` wrote.

    Raises:
      MupError: there is none, or it holds something else.
    """
    why = "it was changed, or is no file of a sweep"
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        if isinstance(values, dict):
            return values
    except ValueError:
        pass
    except FileNotFoundError:
        why = "there is no such file, which every folder of a sweep has"
    raise MupError(f"{path}: {why}; give another out")


def safe_name(name: str) -> str:
    """Returns a name with only plain characters, for a part of a file's name; distinct names stay distinct.

    >>> safe_name("mup"), safe_name("my/mup")
    ('mup', 'my_mup~4b79240d')
    """
    plain = "".join(c if c.isascii() and (c.isalnum() or c in "_+.") else "_" for c in name)
    return plain if plain == name else f"{plain}~{zlib.crc32(name.encode()):08x}"
