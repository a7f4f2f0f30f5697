"""The file config.json."""
import json
import os
import pathlib
from collections.abc import Mapping
from typing import Any

from haiku_mup.errors import MupError


def read_json(path: str | os.PathLike[str]) -> dict[str, Any]:
    """What a config.json, or that of a directory, holds.

    Raises:
      MupError: no object of JSON.
    """
    file = _file(path)
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise MupError(f"{file}: no JSON ({error}); give a config.json as transformers writes it") from None
    if not isinstance(values, dict):
        raise MupError(f"{file}: a {type(values).__name__}, where a config.json has an object")
    return values


def write_json(path: str | os.PathLike[str], values: Mapping[str, Any]) -> None:
    """Writes a config.json, into a directory if it is one."""
    text = json.dumps(values, indent=2, sort_keys=True, allow_nan=False)
    _file(path).write_text(text + "\n", encoding="utf-8")


def _file(path: str | os.PathLike[str]) -> pathlib.Path:
    file = pathlib.Path(path)
    return file / "config.json" if file.is_dir() else file
