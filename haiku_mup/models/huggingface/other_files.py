"""Files beside the weights that change nothing here: those of tokenizers, and settings of generation."""
import fnmatch
import json
import math
import pathlib
from collections.abc import Mapping
from typing import Any

from haiku_mup.errors import MupError
from haiku_mup.models.token_ids import are_token_ids, token_id_fields, token_ids

GENERATION = "generation_config.json"
# Globs over their names.
NAMES = (
    GENERATION, "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json",
    "vocab.json", "merges.txt", "vocab.txt", "tokenizer.model", "sentencepiece.bpe.model", "spiece.model",
    "chat_template.jinja", "chat_template.json", "additional_chat_templates/*.jinja",
)


def read_other_files(folder: pathlib.Path) -> dict[str, bytes]:
    """Returns the contents of a folder's other files, by name."""
    return {file.relative_to(folder).as_posix(): file.read_bytes()
            for glob in NAMES for file in sorted(folder.glob(glob)) if file.is_file()}


def write_other_files(staging: pathlib.Path, folder: pathlib.Path, config: Any) -> None:
    """Writes `config.other_files`. A file that is there with other contents stays: it may be newer.

    Args:
      staging: where files are written that will take their place in the folder.
      folder: the folder.
      config: a configuration.

    Raises:
      MupError: a name that is none of NAMES.
    """
    for name, content in config.other_files.items():
        if not any(fnmatch.fnmatchcase(name, glob) for glob in NAMES) or ".." in name:
            raise MupError(f"save_pretrained: other_files has {name!r}; there may be {', '.join(NAMES)}; write "
                           "others yourself")
        target, file = folder / name, staging / name
        if target.exists() and target.read_bytes() != content:
            continue
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(_with_ids(content, config) if name == GENERATION else content)


def _with_ids(content: bytes, config: Any) -> bytes:
    """Returns generation settings with the ids of the configuration that are not those of its config.json."""
    try:
        settings = json.loads(content)
    except ValueError:
        return content
    changed = _changed_ids(config)
    if not isinstance(settings, dict) or not changed:
        return content
    return (json.dumps({**settings, **changed}, indent=2, sort_keys=True) + "\n").encode()


def _changed_ids(config: Any) -> Mapping[str, Any]:
    """Returns the ids that were given after the configuration was read from a file."""
    found = {}
    for field in token_id_fields(config):
        value, read = getattr(config, field.name), config.other_fields.get(field.name, field.default)
        was_unusable = not are_token_ids(read, getattr(config, "vocab_size", math.inf))
        if token_ids(value) != token_ids(read) and not (value is None and was_unusable):
            found[field.name] = value
    return found
