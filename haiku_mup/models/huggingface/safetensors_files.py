"""Reads and writes the safetensors files of a checkpoint; needs the extra `safetensors`."""
import contextlib
import json
import pathlib
import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np

from haiku_mup.errors import MupError
from haiku_mup.models.config import Config
from haiku_mup.models.huggingface.names import Architecture
from haiku_mup.parameters.globs import matching

FILE, INDEX = "model.safetensors", "model.safetensors.index.json"


def read_state_dict(folder: pathlib.Path, architecture: Architecture, config: Config, keys: Collection[str],
                    ignore: Sequence[str]) -> dict[str, np.ndarray]:
    """Reads the tensors of a checkpoint; leaves out buffers, copies of others, and those to be ignored.

    Args:
      folder: the checkpoint's.
      architecture: the model's.
      config: its configuration.
      keys: those that the model's state dict has.
      ignore: globs over keys.

    Returns:
      The tensors, by key without the bare model's prefix.

    Raises:
      MupError: no weights; two tensors of one key; tied tensors that differ.
    """
    state_dict: dict[str, np.ndarray] = {}
    for name, x in _read_shards(folder).items():
        key = _canonical_key(architecture, name)
        if matching(name, ignore) or matching(key, ignore) or re.fullmatch(architecture.buffers, key):
            continue
        if key in state_dict:
            raise MupError(f"{folder}: two tensors are {key!r}, the other one is {name!r}; name one in "
                           "ignore=[...]")
        state_dict[key] = x
    copies = architecture.tied_keys if config.tie_word_embeddings else architecture.ignored_keys
    for copy, original in copies.items():
        if copy in state_dict and original in keys:
            _drop_copy(state_dict, copy, original, config.tie_word_embeddings, folder)
    return state_dict


def write_state_dict(folder: pathlib.Path, state_dict: Mapping[str, np.ndarray]) -> None:
    """Writes one file, as transformers reads it."""
    _safetensors().numpy.save_file(dict(state_dict), folder / FILE, metadata={"format": "pt"})


def remove_shards(folder: pathlib.Path) -> None:
    """Removes an index and its shards, whose tensors are older than those of the one file beside them."""
    if not (folder / INDEX).is_file():
        return
    with contextlib.suppress(MupError):         # an index that can't be read names no shards
        for shard in _shards(folder):
            if shard != FILE and pathlib.PurePath(shard).name == shard:
                (folder / shard).unlink(missing_ok=True)
    (folder / INDEX).unlink()


def _canonical_key(architecture: Architecture, name: str) -> str:
    """Returns the key without the bare model's prefix, and with today's names of layer norms' parameters."""
    key = name.removeprefix(f"{architecture.base_model_prefix}.")
    key = re.sub(r"LayerNorm\.gamma$", "LayerNorm.weight", key)
    return re.sub(r"LayerNorm\.beta$", "LayerNorm.bias", key)


def _drop_copy(state_dict: dict[str, np.ndarray], copy: str, original: str, tied: bool,
               folder: pathlib.Path) -> None:
    """Drops a copy from the state dict; it takes the original's place if that is missing.

    Raises:
      MupError: two tied tensors that differ.
    """
    x = state_dict.pop(copy)
    if tied and not np.array_equal(state_dict.setdefault(original, x), x):
        raise MupError(f"{folder}: {copy!r} and {original!r} differ, and tie_word_embeddings is true; set "
                       "it to false in config.json, or name the wrong one in ignore=[...]")
    state_dict.setdefault(original, x)


def _safetensors() -> Any:
    """Imports safetensors.

    Raises:
      ImportError: with the extra to install.
    """
    try:
        import safetensors.numpy
    except ImportError as error:
        raise ImportError("weights are kept in safetensors: pip install safetensors") from error
    return safetensors


def _read_shards(folder: pathlib.Path) -> dict[str, np.ndarray]:
    """Reads all tensors of a folder, from one file or from the shards that the index lists."""
    shards = [FILE] if (folder / FILE).is_file() or not (folder / INDEX).is_file() else _shards(folder)
    for shard in shards:
        if not (folder / shard).is_file():
            raise _missing(folder, shard)
    tensors = {}
    for shard in shards:
        tensors.update(_read_file(folder / shard))
    return tensors


def _read_file(file: pathlib.Path) -> dict[str, np.ndarray]:
    """Reads the tensors of one file.

    Raises:
      MupError: a file that is cut off, or is none of tensors; tensors of a dtype that NumPy lacks.
    """
    safetensors = _safetensors()
    try:
        tensors: dict[str, np.ndarray] = safetensors.numpy.load_file(file)
    except (safetensors.SafetensorError, AttributeError, KeyError) as error:    # the latter two: a dtype
        raise MupError(f"{file}: can't be read ({error}); download it again if it is cut off, or make it with "
                       "transformers, in float32 or bfloat16") from None
    return tensors


def _shards(folder: pathlib.Path) -> list[str]:
    """Returns the names of the files that the index lists.

    Raises:
      MupError: an index that can't be read.
    """
    try:
        index = json.loads((folder / INDEX).read_text(encoding="utf-8"))
        return sorted(set(index["weight_map"].values()))
    except (ValueError, KeyError, TypeError, AttributeError):
        raise MupError(f"{folder / INDEX}: no index of tensors; download it again") from None


def _missing(folder: pathlib.Path, shard: str) -> MupError:
    """Returns the error for a missing file; it names files of other formats to convert."""
    others = sorted(it.name for it in folder.iterdir() if it.suffix in (".bin", ".h5", ".msgpack"))
    remedy = f"of {', '.join(others)} make it with transformers" if others else (
        "download it, too, or make it with transformers")
    return MupError(f"{folder}: no {shard} in it, so no weights that can be read; {remedy}: "
                    "AutoModel.from_pretrained(folder).save_pretrained(folder)")
