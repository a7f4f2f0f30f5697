"""How Hugging Face's checkpoints name and lay out what our parameters hold."""
import dataclasses
import functools
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np

from haiku_mup.models import bert, gpt2, roberta
from haiku_mup.models.config import BertConfig, Config, GPT2Config, RobertaConfig

Params = dict[str, dict[str, Any]]      # module -> name -> array, as Haiku nests them
_JOINED = ("query", "key", "value")     # the order of those that a checkpoint may have side by side
_LEAVES = {"w": "weight", "b": "bias", "scale": "weight", "offset": "bias", "embeddings": "weight"}


@dataclasses.dataclass(frozen=True)
class Family:
    """The models of one architecture.

    Attributes:
      config: the class of its configurations.
      models: its models, by name; Haiku's name for one is `default_name`.
      base: the name of the bare model in models with a head: in ours, and in a checkpoint.
      stack: the name of the blocks, in ours and in a checkpoint.
      block: {module of a block: its name in a checkpoint}.
      outside: the same of the bare model's other modules.
      head: the same of the heads'.
      transposed: whether blocks keep matrices as (out, in).
      tied: {tensor of a tied checkpoint that is another's copy: that other}.
      twin: {tensor of an untied checkpoint that nobody reads: the one that is read in its place}.
      buffers: what tensors are called that are no parameters.
      readouts: {module that makes outputs: the norm in front of it, if it may be tied}.
      branches: how the modules are called that a branch of haiku_mup.residual ends with.
    """

    config: type[Config]
    models: Mapping[str, type[hk.Module]]
    base: str
    stack: tuple[str, str]
    block: Mapping[str, str]
    outside: Mapping[str, str]
    head: Mapping[str, str]
    transposed: bool
    tied: Mapping[str, str]
    twin: Mapping[str, str]
    buffers: str
    readouts: Mapping[str, str]
    branches: tuple[str, ...] = ()


def _by_name(*models: type[hk.Module]) -> dict[str, type[hk.Module]]:
    return {model.__name__: model for model in models}


_BERT_BLOCK = {
    "attention/query": "attention.self.query", "attention/key": "attention.self.key",
    "attention/value": "attention.self.value", "attention/linear": "attention.output.dense",
    "attention_norm": "attention.output.LayerNorm", "intermediate": "intermediate.dense",
    "output": "output.dense", "output_norm": "output.LayerNorm",
}
_BERT_OUTSIDE = {
    "word_embeddings": "embeddings.word_embeddings", "position_embeddings": "embeddings.position_embeddings",
    "token_type_embeddings": "embeddings.token_type_embeddings", "embeddings_norm": "embeddings.LayerNorm",
    "pooler": "pooler.dense",
}
FAMILIES = {family.config.model_type: family for family in (
    Family(
        GPT2Config, _by_name(gpt2.GPT2Model, gpt2.GPT2LMHeadModel), "transformer", ("h", "h"),
        {"ln_1": "ln_1", "ln_2": "ln_2", "attn/query": "attn.c_attn", "attn/key": "attn.c_attn",
         "attn/value": "attn.c_attn", "attn/linear": "attn.c_proj", "c_fc": "mlp.c_fc", "c_proj": "mlp.c_proj"},
        {"wte": "wte", "wpe": "wpe", "ln_f": "ln_f"}, {"lm_head": "lm_head"}, False,
        {"lm_head.weight": "wte.weight"}, {}, r"h\.\d+\.attn\.(bias|masked_bias)",
        {"lm_head": "transformer/ln_f"}, ("/attn/linear", "/c_proj")),
    Family(
        BertConfig, _by_name(bert.BertModel, bert.BertForMaskedLM, bert.BertForPreTraining,
                             bert.BertForSequenceClassification),
        "bert", ("layer", "encoder.layer"), _BERT_BLOCK, _BERT_OUTSIDE,
        {"transform": "cls.predictions.transform.dense", "decoder": "cls.predictions.decoder",
         "transform_norm": "cls.predictions.transform.LayerNorm", "seq_relationship": "cls.seq_relationship",
         "classifier": "classifier"}, True,
        {"cls.predictions.decoder.weight": "embeddings.word_embeddings.weight",
         "cls.predictions.bias": "cls.predictions.decoder.bias"},
        {"cls.predictions.bias": "cls.predictions.decoder.bias"}, r"embeddings\.(position_ids|token_type_ids)",
        {"decoder": "transform_norm", "seq_relationship": "", "classifier": ""}),
    Family(
        RobertaConfig, _by_name(roberta.RobertaModel, roberta.RobertaForMaskedLM,
                                roberta.RobertaForSequenceClassification),
        "roberta", ("layer", "encoder.layer"), _BERT_BLOCK, _BERT_OUTSIDE,
        {"transform": "lm_head.dense", "decoder": "lm_head.decoder", "transform_norm": "lm_head.layer_norm",
         "dense": "classifier.dense", "out_proj": "classifier.out_proj"}, True,
        {"lm_head.decoder.weight": "embeddings.word_embeddings.weight", "lm_head.bias": "lm_head.decoder.bias"},
        {"lm_head.bias": "lm_head.decoder.bias"}, r"embeddings\.(position_ids|token_type_ids)",
        {"decoder": "transform_norm", "out_proj": ""}),
)}


class Slot(NamedTuple):
    """Where a tensor of a checkpoint, or a part of it, is in the parameters: `layer` of a stack, or None."""

    module: str
    leaf: str
    layer: int | None


@dataclasses.dataclass
class Tensor:
    """A tensor of a checkpoint.

    Attributes:
      slots: its place; those of its parts along the last axis, where it has several.
      part: shape of each part in our parameters.
      transposed: whether the checkpoint has it the other way round.
    """

    slots: list[Slot]
    part: tuple[int, ...]
    transposed: bool

    @property
    def shape(self) -> tuple[int, ...]:
        """Its shape in the checkpoint."""
        *first, last = self.part
        shape = (*first, last * len(self.slots))
        return shape[::-1] if self.transposed else shape


def default_name(model: type[hk.Module]) -> str:
    """What Haiku calls the module, unless it is given a name."""
    name: str = hk.transform(lambda: model(None).name).apply({}, None)
    return name


def tensors(family: Family, config: Config, model: type[hk.Module], root: str) -> dict[str, Tensor]:
    """What a checkpoint of this model has, by name without the prefix of the bare model.

    Args:
      family: the model's.
      config: the configuration.
      model: the model.
      root: the model's name in the tree of parameters.
    """
    found: dict[str, Tensor] = {}
    for module, leaves in _shapes(config, model).items():
        own = module.partition("/")[2]
        for leaf, x in leaves.items():
            for name, layer, matrix in _names(family, config, own, leaf):
                stacked = config.layer_stack and layer is not None
                shape = tuple(x.shape[1:] if stacked else x.shape)
                slot = Slot(f"{root}/{own}", leaf, layer if stacked else None)
                tensor = found.setdefault(name, Tensor([], shape, matrix and leaf == "w"))
                tensor.slots.append(slot)
    for tensor in found.values():
        if len(tensor.slots) > 1:
            tensor.slots = sorted(tensor.slots, key=lambda slot: _JOINED.index(slot.module.rpartition("/")[2]))
    return found


def _shapes(config: Config, model: type[hk.Module]) -> Mapping[str, Mapping[str, Any]]:
    build: Callable[..., Any] = model
    init = hk.transform(lambda ids: build(config)(ids)).init
    ids = jnp.zeros((1, 1), int)
    shapes: Mapping[str, Mapping[str, Any]] = jax.eval_shape(init, jax.random.PRNGKey(0), ids)
    return shapes


def _names(family: Family, config: Config, own: str, leaf: str) -> Iterator[tuple[str, int | None, bool]]:
    """(name in a checkpoint, number of the block or None, whether matrices are the other way round)."""
    inner, (ours, theirs), last = own.removeprefix(f"{family.base}/"), family.stack, _LEAVES[leaf]
    one = re.fullmatch(rf"{ours}_(\d+)/(.*)", inner)
    many = re.fullmatch(rf"{ours}/block/(.*)", inner)
    if one:
        yield f"{theirs}.{one[1]}.{family.block[one[2]]}.{last}", int(one[1]), family.transposed
    elif many:
        for i in range(depth(config)):
            yield f"{theirs}.{i}.{family.block[many[1]]}.{last}", i, family.transposed
    elif inner in family.outside:
        yield f"{family.outside[inner]}.{last}", None, True
    else:
        yield f"{family.head[inner]}.{last}", None, True


def depth(config: Any) -> int:
    """How many blocks the model has."""
    count: int = config.n_layer if isinstance(config, GPT2Config) else config.num_hidden_layers
    return count


def read(wanted: Mapping[str, Tensor], found: Mapping[str, Any]) -> Params:
    """The parameters that tensors of a checkpoint hold; those that aren't there are left out."""
    params: Params = {}
    layers: dict[tuple[str, str], dict[int, Any]] = {}
    for name, tensor in wanted.items():
        if name not in found:
            continue
        x = found[name].T if tensor.transposed else found[name]
        for slot, piece in zip(tensor.slots, np.split(x, len(tensor.slots), -1)):
            if slot.layer is None:
                params.setdefault(slot.module, {})[slot.leaf] = jnp.asarray(piece)
            else:
                layers.setdefault((slot.module, slot.leaf), {})[slot.layer] = piece
    for (module, leaf), pieces in layers.items():
        if len(pieces) == 1 + max(slot.layer for tensor in wanted.values() for slot in tensor.slots
                                  if slot.layer is not None):
            params.setdefault(module, {})[leaf] = jnp.stack([pieces[i] for i in sorted(pieces)])
    return params


def write(wanted: Mapping[str, Tensor], params: Mapping[str, Mapping[str, Any]]) -> dict[str, np.ndarray]:
    """The tensors of a checkpoint that has these parameters."""
    @functools.cache
    def array(module: str, leaf: str) -> np.ndarray:
        return np.asarray(params[module][leaf])

    found = {}
    for name, tensor in wanted.items():
        pieces = [(array(slot.module, slot.leaf), slot.layer) for slot in tensor.slots]
        x = np.concatenate([x if layer is None else x[layer] for x, layer in pieces], -1)
        found[name] = np.ascontiguousarray(x.T if tensor.transposed else x)
    return found
