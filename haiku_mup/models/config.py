"""The base class of configurations: dataclasses with the field names of Hugging Face's config.json."""
import dataclasses
import math
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, Self

from haiku_mup.errors import MupError
from haiku_mup.models import config_json
from haiku_mup.models.layers import ACTIVATIONS
from haiku_mup.models.token_ids import are_token_ids, token_id_fields


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    """The fields that the configurations of all models share.

    Attributes:
      attn_mult: multiplies attention logits: a constant to tune at the base; it transfers.
      output_mult: multiplies outputs, but not their biases: another such constant.
      readout_zero_init: whether untied output layers start at zero.
      query_zero_init: whether queries start at zero, so that attention starts uniform.
      layer_stack: whether the blocks are one `layer_stack`, compiled once, with stacked parameters.
      remat: whether the backward pass recomputes each block's activations.
      initializer_range: std of matrices and embeddings at init.
      tie_word_embeddings: whether the embedding's matrix also computes the logits.
      num_labels: number of classes in sequence classification.
      bos_token_id: id with which text begins; None for none. Its default is that of transformers, or None if
        the vocabulary is too small for it.
      eos_token_id: id with which text ends, or several; None for none. Its default is as that for its begin.
        Nothing here uses either: they tell other programs where to begin and to stop.
      other_fields: fields of a config.json that change nothing here, such as names of labels and task settings.
      other_files: contents of the files beside a config.json that change nothing here: generation settings and
        the tokenizer (`huggingface.other_files.NAMES`), which `save_pretrained` writes.

    What changes nothing here is kept for other programs, and left out as configurations are compared.

    >>> models.GPT2Config(attn_mult=2.0).attn_mult
    2.0
    """

    model_type: ClassVar[str]

    attn_mult: float = 1.0
    output_mult: float = 1.0
    readout_zero_init: bool = False
    query_zero_init: bool = False
    layer_stack: bool = False
    remat: bool = False
    initializer_range: float = 0.02
    tie_word_embeddings: bool = True
    num_labels: int = 2
    bos_token_id: int | None = dataclasses.field(default=None, compare=False)
    eos_token_id: int | Sequence[int] | None = dataclasses.field(default=None, compare=False)
    other_fields: Mapping[str, Any] = dataclasses.field(default_factory=dict, compare=False, repr=False)
    other_files: Mapping[str, bytes] = dataclasses.field(default_factory=dict, compare=False, repr=False)

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value, annotation = getattr(self, field.name), str(field.type)
            if value is None and "None" in annotation:
                continue
            is_valid, wanted = _requirement(field.name, annotation)
            if not is_valid(value):
                raise MupError(f"{type(self).__name__}: {field.name}={value!r}: give {wanted}")
        for field in token_id_fields(self):
            self._check_token_id(field)

    def _check_token_id(self, field: dataclasses.Field[Any]) -> None:
        """Sets a default id that the vocabulary lacks to None.

        Raises:
          MupError: another id that the vocabulary lacks.
        """
        value, vocab_size = getattr(self, field.name), getattr(self, "vocab_size", math.inf)
        if are_token_ids(value, vocab_size):
            return
        if value != field.default:
            raise MupError(f"{type(self).__name__}: {field.name}={value!r} is outside of the vocabulary, whose "
                           f"ids are 0 to {vocab_size - 1}; give ids of it, or None")
        object.__setattr__(self, field.name, None)      # the class is frozen

    @classmethod
    def from_json(cls, path: str | os.PathLike[str]) -> Self:
        """Reads a configuration from a config.json; keeps fields that change nothing here in `other_fields`.

        Args:
          path: the file, or a directory with a config.json.

        Raises:
          MupError: another architecture's file; a value that the models here don't implement.
          OSError: the file can't be read.

        >>> import pathlib, tempfile
        >>> path = pathlib.Path(tempfile.mkdtemp(), "config.json")
        >>> _ = path.write_text('{"model_type": "gpt2", "n_embd": 64, "n_head": 4, "use_cache": true}')
        >>> models.GPT2Config.from_json(path).n_embd
        64
        """
        source = os.fspath(config_json.config_file(path))
        return config_json.from_values(cls, config_json.read_json(path), source)

    def to_json(self, path: str | os.PathLike[str]) -> None:
        """Writes a config.json that `from_json` and transformers read.

        Fields that transformers doesn't know are left out if they have their default. Those of `other_fields`
        are written as they were read, but for names of labels whose number is no longer `num_labels`.

        Args:
          path: the file, or a directory for a config.json.

        >>> import pathlib, tempfile
        >>> path = pathlib.Path(tempfile.mkdtemp())
        >>> config = models.BertConfig(hidden_size=64, num_attention_heads=4, attn_mult=2.0)
        >>> config.to_json(path)
        >>> models.BertConfig.from_json(path) == config
        True
        """
        config_json.write_json(path, config_json.to_values(self))

    def _file_fields(self) -> dict[str, Any]:
        """Returns the fields as a config.json has them."""
        return dataclasses.asdict(self)

    def _check_heads(self, width_field: str, heads_field: str) -> None:
        """Raises MupError if the width is not divisible by the number of heads."""
        width, heads = getattr(self, width_field), getattr(self, heads_field)
        if width % heads:
            divisors = [n for n in range(1, width + 1) if width % n == 0]
            nearest = min(divisors, key=lambda n: abs(n - heads))
            raise MupError(f"{type(self).__name__}: {width_field}={width} is not divisible by "
                           f"{heads_field}={heads}; heads of one size need {heads_field}={nearest}, or "
                           f"{width_field}={max(1, round(width / heads)) * heads}")


def _requirement(name: str, annotation: str) -> tuple[Callable[[Any], bool], str]:
    """Returns a test of a field's value, and what to give instead of a value that fails it."""
    if "bool" in annotation:
        return lambda value: isinstance(value, bool), "True or False"
    if name.endswith("_token_id"):
        several = "Sequence" in annotation
        return (lambda value: are_token_ids(value, math.inf) and (several or isinstance(value, int)),
                "the id of a token, a whole number from 0 on" + ", or several" * several
                + ", or None" * ("None" in annotation))
    if "int" in annotation:
        return (lambda value: _is_number(value) and value == int(value) and value >= 1,
                "a whole number from 1 on")
    if name.endswith(("_pdrop", "_prob", "dropout")):
        return lambda value: _is_number(value) and 0 <= value < 1, "a rate from 0 to less than 1"
    if name.endswith("_mult"):
        return _is_number, "a number"
    if "float" in annotation:
        return lambda value: _is_number(value) and value > 0, "a number above 0"
    if "act" in name:
        return lambda value: value in ACTIVATIONS, f"one of {', '.join(ACTIVATIONS)}"
    return lambda value: True, ""


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
