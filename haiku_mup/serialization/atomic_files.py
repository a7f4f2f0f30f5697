"""Files that are there whole or not at all, and as they are once they are there."""
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

FULL = (errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC))

def write(path: pathlib.Path, text: str, new: bool = False) -> None:
    """Has the file whole on disk, or raises and leaves what was there.

    Raises:
      FileExistsError: where it must be new, and isn't.
      OSError: with the path, and what to do.
    """
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:12]}.tmp")
    try:
        with open(temporary, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        _linked(temporary, path) if new else os.replace(temporary, path)
        _sync(path.parent)
    except FileExistsError:
        raise
    except OSError as error:
        full = "; what has finished is kept: make room, and call again" * (error.errno in FULL)
        raise OSError(error.errno, f"{error.strerror}{full}", os.fspath(path)) from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()


def _linked(temporary: pathlib.Path, path: pathlib.Path) -> None:
    """Gives the file its name, if that is free."""
    try:
        os.link(temporary, path)
    except FileExistsError:
        raise
    except OSError:                                     # a file system without links
        if path.exists():
            raise FileExistsError(path) from None
        os.replace(temporary, path)


def taken(path: pathlib.Path, values: Mapping[str, Any]) -> bool:
    """Writes the file unless there is one; whether there was."""
    try:
        write(path, json.dumps(values, indent=1) + "\n", new=True)
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


def read_json(path: pathlib.Path) -> dict[str, Any]:
    """The values of a file that `create` wrote.

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
        why = "there is no such file, as the folder of a sweep has it"
    raise MupError(f"{path}: {why}; give another out")


def safe(name: str) -> str:
    """A part of a file's name; distinct names stay distinct."""
    plain = "".join(c if c.isascii() and (c.isalnum() or c in "_+.") else "_" for c in name)
    return plain if plain == name else f"{plain}~{zlib.crc32(name.encode()):08x}"
