"""What a model is made from: dataclasses with the field names of Hugging Face's config.json."""
import dataclasses
import math
import os
from collections.abc import Mapping
from typing import Any, ClassVar, Self

from haiku_mup.errors import MupError
from haiku_mup.models.config_json import _file, read_json, write_json
from haiku_mup.models.layers import ACTIVATIONS

# Fields of a config.json that change what is computed, and the one value of each that these models have.
_FIXED = {
    "add_cross_attention": False, "is_decoder": False, "is_encoder_decoder": False,
    "position_embedding_type": "absolute", "scale_attn_weights": True, "reorder_and_upcast_attn": False,
}
_OURS = ("attn_mult", "output_mult", "readout_zero_init", "query_zero_init", "layer_stack", "remat")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    """What the configurations of all models have.

    Attributes:
      attn_mult: a constant to tune at the base, by which attention logits are multiplied; it transfers.
      output_mult: the same of the outputs, but for their biases.
      readout_zero_init: whether output layers of their own start at zero.
      query_zero_init: whether attention starts uniform.
      layer_stack: whether the blocks are one `layer_stack`: compiled once, their parameters stacked.
      remat: whether the backward pass computes each block anew, in place of keeping its activations.
      initializer_range: std of the draws of matrices and embeddings.
      tie_word_embeddings: whether the embedding's matrix makes the logits, too.
      num_labels: classes of a sequence classification.

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

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            self._check(field.name, getattr(self, field.name), str(field.type))

    def _check(self, name: str, value: Any, kind: str) -> None:
        if value is None and "None" in kind:
            return
        number = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
        right, wanted = True, ""
        if "bool" in kind:
            right, wanted = isinstance(value, bool), "True or False"
        elif "int" in kind:
            least = 0 if name == "pad_token_id" else 1
            right, wanted = number and value == int(value) and value >= least, f"a whole number from {least} on"
        elif name.endswith(("_pdrop", "_prob", "dropout")):
            right, wanted = number and 0 <= value < 1, "a rate from 0 to less than 1"
        elif "float" in kind:
            positive = not name.endswith("_mult")
            right, wanted = number and (not positive or value > 0), "a number" + " above 0" * positive
        elif "act" in name:
            right, wanted = value in ACTIVATIONS, f"one of {', '.join(ACTIVATIONS)}"
        if not right:
            raise MupError(f"{type(self).__name__}: {name}={value!r}: give {wanted}")

    @classmethod
    def from_json(cls, path: str | os.PathLike[str]) -> Self:
        """The configuration in a config.json.

        Fields that don't change what is computed are left out.

        Args:
          path: the file, or a directory with a config.json.

        Raises:
          MupError: another architecture's; a field with a value that these models don't have.
          OSError: a path that can't be read.

        >>> import pathlib, tempfile
        >>> path = pathlib.Path(tempfile.mkdtemp(), "config.json")
        >>> _ = path.write_text('{"model_type": "gpt2", "n_embd": 64, "n_head": 4, "use_cache": true}')
        >>> models.GPT2Config.from_json(path).n_embd
        64
        """
        return cls._of(read_json(path), os.fspath(_file(path)))

    @classmethod
    def _of(cls, values: Mapping[str, Any], source: str) -> Self:
        kind = values.get("model_type")
        if kind != cls.model_type:
            raise MupError(f"{source}: model_type is {kind!r}, and {cls.__name__} is for {cls.model_type!r}; "
                           "read it with the configuration of its own architecture, if there is one")
        for name, value in _FIXED.items():
            if values.get(name, value) != value:
                raise MupError(f"{source}: {name}={values[name]!r}: these models have {value!r} alone; take a "
                               "checkpoint without it, or transformers' own model")
        if "id2label" in values and "num_labels" not in values:
            values = {**values, "num_labels": len(values["id2label"])}
        known = {field.name for field in dataclasses.fields(cls)}
        try:
            return cls(**{name: value for name, value in values.items() if name in known})
        except MupError as error:
            raise MupError(f"{source}: {error}") from None

    def to_json(self, path: str | os.PathLike[str]) -> None:
        """Writes a config.json, which `from_json` reads, and transformers, too.

        Of the fields that transformers doesn't know, those are left out that are as they are by default.

        Args:
          path: the file, or a directory for a config.json.

        >>> import pathlib, tempfile
        >>> path = pathlib.Path(tempfile.mkdtemp())
        >>> config = models.BertConfig(hidden_size=64, num_attention_heads=4, attn_mult=2.0)
        >>> config.to_json(path)
        >>> models.BertConfig.from_json(path) == config
        True
        """
        write_json(path, self._values())

    def _values(self) -> dict[str, Any]:
        """The fields, as a config.json has them."""
        values = {"model_type": self.model_type, **dataclasses.asdict(self)}
        default = {field.name: field.default for field in dataclasses.fields(self)}
        for name in _OURS:
            if values[name] == default[name]:
                del values[name]
        count = values.pop("num_labels")
        if count != default["num_labels"]:
            values["id2label"] = {str(i): f"LABEL_{i}" for i in range(count)}
            values["label2id"] = {f"LABEL_{i}": i for i in range(count)}
        return values

    def _check_heads(self, width: str, heads: str) -> None:
        size, count = getattr(self, width), getattr(self, heads)
        if size % count:
            near = [n for n in range(1, size + 1) if size % n == 0]
            raise MupError(f"{type(self).__name__}: {width}={size} is not divisible by {heads}={count}; heads "
                           f"of one size need {heads}={min(near, key=lambda n: abs(n - count))}, or "
                           f"{width}={max(1, round(size / count)) * count}")
