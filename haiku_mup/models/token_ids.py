"""Ids of special tokens, with which text begins, ends or is padded, as fields of configurations."""
import dataclasses
from collections.abc import Sequence
from typing import Any


def token_id_fields(config_class: Any) -> list[dataclasses.Field[Any]]:
    """Returns the fields of ids that change nothing in what the model computes."""
    return [field for field in dataclasses.fields(config_class)
            if field.name.endswith("_token_id") and not field.compare]


def token_ids(value: Any) -> list[Any]:
    """Returns the ids in the value of such a field: one, several or none."""
    return [] if value is None else list(value) if isinstance(value, Sequence) else [value]


def are_token_ids(value: Any, vocab_size: float) -> bool:
    """Returns whether a value is None, or whole numbers from 0 to vocab_size - 1, one or several."""
    return value is None or bool(token_ids(value)) and all(
        isinstance(id, int) and not isinstance(id, bool) and 0 <= id < vocab_size for id in token_ids(value))
