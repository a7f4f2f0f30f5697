"""Reads and writes config.json, in the fields of Hugging Face's transformers."""
import dataclasses
import inspect
import json
import math
import os
import pathlib
from collections.abc import Mapping
from typing import Any, TypeVar

from haiku_mup.errors import MupError
from haiku_mup.models.token_ids import are_token_ids, token_id_fields
from haiku_mup.serialization import atomic_files

T = TypeVar("T")

# Fields that change what transformers computes, each with the only value that the models here implement.
_REQUIRED = {
    "add_cross_attention": False, "is_decoder": False, "is_encoder_decoder": False,
    "position_embedding_type": "absolute", "scale_attn_weights": True, "reorder_and_upcast_attn": False,
    "partial_rotary_factor": 1.0,
}
# Fields that transformers doesn't know.
_OURS = ("attn_mult", "output_mult", "readout_zero_init", "query_zero_init", "layer_stack", "remat")
# Fields of which file, and which program wrote it: another one does now.
_OF_THE_FILE = ("model_type", "dtype", "torch_dtype", "transformers_version", "_name_or_path")


def read_json(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Reads the object in a config.json; `path` is the file or its directory.

    Raises:
      MupError: not JSON, or not an object.
    """
    file = config_file(path)
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise MupError(f"{file}: no JSON ({error}); give a config.json as transformers writes it") from None
    if not isinstance(values, dict):
        raise MupError(f"{file}: a {type(values).__name__}, where a config.json has an object")
    return values


def write_json(path: str | os.PathLike[str], values: Mapping[str, Any]) -> None:
    """Writes a config.json; `path` is the file or its directory."""
    atomic_files.write(config_file(path), json.dumps(values, indent=2, sort_keys=True) + "\n")


def config_file(path: str | os.PathLike[str]) -> pathlib.Path:
    """Returns the path of the config.json in a directory; any other path as it is."""
    file = pathlib.Path(path)
    return file / "config.json" if file.is_dir() else file


def from_values(config_class: type[T], values: Mapping[str, Any], source: str) -> T:
    """Makes a configuration from the object in a config.json; fields that the class lacks are `other_fields`.

    Args:
      config_class: a subclass of `Config`.
      values: the object.
      source: where it is from, for errors.

    Raises:
      MupError: another model_type; a value that the models here don't implement, or that is invalid.
    """
    _check_supported(config_class, values, source)
    if values.get("id2label"):          # as in transformers, whatever num_labels says
        values = {**values, "num_labels": len(values["id2label"])}
    fields: Any = config_class
    ids = {field.name for field in token_id_fields(fields)}
    names = set(inspect.signature(fields).parameters) - {"other_fields", "other_files"}
    others = {name: value for name, value in values.items() if name not in {*names - ids, *_OF_THE_FILE}}
    known = {name: value for name, value in values.items() if name in names}
    vocab_size = values.get("vocab_size", getattr(fields, "vocab_size", math.inf))
    for name in ids & known.keys():
        if not are_token_ids(known[name], vocab_size):
            known[name] = None          # -1, or an id that is no token's: kept as it is in `others`
    try:
        return config_class(**known, **{"other_fields": others})
    except MupError as error:
        raise MupError(f"{source}: {error}") from None


def _check_supported(config_class: Any, values: Mapping[str, Any], source: str) -> None:
    """Raises MupError for another architecture, or for a variant that the models here don't implement."""
    model_type = values.get("model_type")
    if model_type != config_class.model_type:
        raise MupError(f"{source}: model_type is {model_type!r}, and {config_class.__name__} is for "
                       f"{config_class.model_type!r}; read it with the configuration of its own architecture, "
                       "if there is one")
    for name, value in _REQUIRED.items():
        if values.get(name, value) != value:
            raise MupError(f"{source}: {name}={values[name]!r}: these models have {value!r} alone; take a "
                           "checkpoint without it, or transformers' own model")
    if values.get("quantization_config"):
        raise MupError(f"{source}: quantization_config: these models read weights that aren't quantized; make "
                       "them with transformers: from_pretrained(folder), dequantize(), save_pretrained(new)")


def to_values(config: Any) -> dict[str, Any]:
    """Returns the object of a config.json; leaves out fields of ours that have their default."""
    values = {"model_type": config.model_type, **config._file_fields()}
    others = values.pop("other_fields")
    del values["other_files"]
    default: dict[str, Any] = {field.name: field.default for field in dataclasses.fields(config)}
    for name in _OURS:
        if values[name] == default[name]:
            del values[name]
    for field in token_id_fields(config):
        unusable = not are_token_ids(others.get(field.name), getattr(config, "vocab_size", math.inf))
        if values[field.name] is None and unusable:
            del values[field.name]      # written as it was read
    num_labels = values.pop("num_labels")       # transformers keeps labels in its place
    return {**others, **values, **_labels(others, num_labels, default["num_labels"])}


def _labels(others: Mapping[str, Any], num_labels: int, default: int) -> dict[str, Any]:
    """Returns names of labels to write in place of those that were read, if these are not of this number."""
    id2label, label2id = others.get("id2label"), others.get("label2id") or {}
    if len(id2label or range(default)) == num_labels:
        return {}
    if not id2label and len(label2id) == num_labels:
        return {"id2label": {str(id): label for label, id in label2id.items()}}
    names = [f"LABEL_{i}" for i in range(num_labels)]
    return {"id2label": {str(i): name for i, name in enumerate(names)},
            "label2id": {name: i for i, name in enumerate(names)}}
