"""The tensors of a checkpoint's files, by the names that weights.py knows."""
import json
import pathlib
import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np

from haiku_mup.errors import MupError
from haiku_mup.models.config import Config
from haiku_mup.models.huggingface.names import Family
from haiku_mup.parameters.fans import matching

FILE, INDEX = "model.safetensors", "model.safetensors.index.json"


def read(folder: pathlib.Path, family: Family, config: Config, wanted: Collection[str],
         ignore: Sequence[str]) -> dict[str, np.ndarray]:
    """The tensors of a directory, by name, without those that are ignored, no parameters, or copies of others.

    Raises:
      MupError: no weights; two tensors of one name; a copy that is none.
    """
    named: dict[str, np.ndarray] = {}
    for key, x in _tensors(folder).items():
        short = _short(family, key)
        if matching(key, ignore) or matching(short, ignore) or re.fullmatch(family.buffers, short):
            continue
        if short in named:
            raise MupError(f"{folder}: two tensors are {short!r}, the other one is {key!r}; name one in "
                           "ignore=[...]")
        named[short] = x
    _settle(family, config, wanted, named, str(folder))
    return named


def write(folder: pathlib.Path, tensors: Mapping[str, np.ndarray]) -> None:
    """Writes the tensors, as transformers reads them."""
    _safetensors().numpy.save_file(dict(tensors), folder / FILE, metadata={"format": "pt"})


def _short(family: Family, key: str) -> str:
    """The name without the bare model's prefix, and with today's names of norms."""
    short = re.sub(r"LayerNorm\.gamma$", "LayerNorm.weight", key.removeprefix(f"{family.base}."))
    return re.sub(r"LayerNorm\.beta$", "LayerNorm.bias", short)


def _safetensors() -> Any:
    try:
        import safetensors.numpy
    except ImportError as error:
        raise ImportError("weights are kept in safetensors: pip install 'haiku-mup[safetensors]'") from error
    return safetensors


def _tensors(folder: pathlib.Path) -> dict[str, np.ndarray]:
    """The tensors of a directory, by name."""
    files = [FILE]
    if not (folder / FILE).is_file() and (folder / INDEX).is_file():
        index = json.loads((folder / INDEX).read_text(encoding="utf-8"))
        files = sorted(set(index["weight_map"].values()))
    for file in files:
        if not (folder / file).is_file():
            others = sorted(it.name for it in folder.iterdir() if it.suffix in (".bin", ".h5", ".msgpack"))
            remedy = f"of {', '.join(others)} make it with transformers" if others else (
                "download it, too, or make it with transformers")
            raise MupError(f"{folder}: no {file} in it, so no weights that can be read; {remedy}: "
                           "AutoModel.from_pretrained(folder).save_pretrained(folder)")
    found = {}
    for file in files:
        found.update(_safetensors().numpy.load_file(folder / file))
    return found


def _settle(family: Family, config: Config, wanted: Collection[str], found: dict[str, np.ndarray],
            source: str) -> None:
    """Takes those out of `found` that are copies of others, in a tied checkpoint, or that nobody reads."""
    for copy, original in (family.tied if config.tie_word_embeddings else family.twin).items():
        if copy not in found or original not in wanted:
            continue
        x = found.pop(copy)
        if config.tie_word_embeddings and not np.array_equal(found.setdefault(original, x), x):
            raise MupError(f"{source}: {copy!r} and {original!r} differ, and tie_word_embeddings is true; set "
                           "it to false in config.json, or name the wrong one in ignore=[...]")
        found.setdefault(original, x)
