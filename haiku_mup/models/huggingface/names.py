"""How Hugging Face's checkpoints name and lay out what our parameters hold."""
import dataclasses
import re
from collections.abc import Iterator, Mapping
from typing import Any

import haiku as hk

from haiku_mup.models import bert, gpt2, roberta
from haiku_mup.models.bert import BertConfig
from haiku_mup.models.config import Config
from haiku_mup.models.gpt2 import GPT2Config
from haiku_mup.models.roberta import RobertaConfig

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


def default_name(model: type[hk.Module]) -> str:
    """What Haiku calls the module, unless it is given a name."""
    name: str = hk.transform(lambda: model(None).name).apply({}, None)
    return name


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
