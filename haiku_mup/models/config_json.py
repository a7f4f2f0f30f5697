"""Reads and writes config.json, in the fields of Hugging Face's transformers."""
import dataclasses
import json
import os
import pathlib
from collections.abc import Mapping
from typing import Any, TypeVar

from haiku_mup.errors import MupError

T = TypeVar("T")

# Fields that change what transformers computes, each with the only value that the models here implement.
_REQUIRED = {
    "add_cross_attention": False, "is_decoder": False, "is_encoder_decoder": False,
    "position_embedding_type": "absolute", "scale_attn_weights": True, "reorder_and_upcast_attn": False,
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
    text = json.dumps(values, indent=2, sort_keys=True, allow_nan=False)
    config_file(path).write_text(text + "\n", encoding="utf-8")


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
    if values.get("id2label") and "num_labels" not in values:
        values = {**values, "num_labels": len(values["id2label"])}
    fields: Any = config_class
    names = {field.name for field in dataclasses.fields(fields)} - {"other_fields"}
    others = {name: value for name, value in values.items() if name not in {*names, *_OF_THE_FILE}}
    try:
        known = {name: value for name, value in values.items() if name in names}
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


def to_values(config: Any) -> dict[str, Any]:
    """Returns the object of a config.json; leaves out fields of ours that have their default."""
    values = {"model_type": config.model_type, **dataclasses.asdict(config)}
    others = values.pop("other_fields")
    default = {field.name: field.default for field in dataclasses.fields(config)}
    for name in _OURS:
        if values[name] == default[name]:
            del values[name]
    num_labels = values.pop("num_labels")       # transformers keeps labels in its place
    if len(others.get("id2label") or ()) != num_labels:
        others = {name: value for name, value in others.items() if name not in ("id2label", "label2id")}
        if num_labels != default["num_labels"]:
            values["id2label"] = {str(i): f"LABEL_{i}" for i in range(num_labels)}
            values["label2id"] = {f"LABEL_{i}": i for i in range(num_labels)}
    return {**others, **values}
