"""Names of parameters in the state dicts of Hugging Face's transformers: one record for each architecture."""
import dataclasses
import re
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import haiku as hk

from haiku_mup.models import bert, gpt2, llama, roberta
from haiku_mup.models.config import Config


@dataclasses.dataclass(frozen=True, kw_only=True)
class Architecture:
    """The models of one model_type, and how transformers names and lays out their parameters.

    Modules are named relative to the model, keys of a state dict relative to the bare model's prefix.

    Attributes:
      config_class: the class of its configurations.
      model_classes: its models, by name.
      base_model_prefix: name of the bare model in models with a head, in Haiku and in a state dict.
      blocks_module: name of the blocks, or of their stack, in Haiku.
      blocks_key: name of the list of blocks in a state dict.
      block_keys: {module of a block: its key}.
      base_keys: {module of the bare model, outside of its blocks: its key}.
      head_keys: {module of a head: its key}.
      transposed_blocks: whether matrices of blocks are [out, in] in a state dict, as nn.Linear has them.
      tied_keys: {tensor that is a copy in a tied checkpoint: the tensor that it copies}.
      ignored_keys: {tensor that transformers ignores in an untied checkpoint: the tensor it reads instead}.
      buffers: a regular expression for keys of buffers, which are no parameters.
      readouts: {output layer: the norm before it if it may be tied, else None}.
      branch_outputs: suffixes of the modules that end a branch of `haiku_mup.residual`.
    """

    config_class: type[Config]
    model_classes: Mapping[str, type[hk.Module]]
    base_model_prefix: str
    blocks_module: str
    blocks_key: str
    block_keys: Mapping[str, str]
    base_keys: Mapping[str, str]
    head_keys: Mapping[str, str]
    tied_keys: Mapping[str, str]
    buffers: str
    readouts: Mapping[str, str | None]
    transposed_blocks: bool = True
    ignored_keys: Mapping[str, str] = dataclasses.field(default_factory=dict)
    branch_outputs: tuple[str, ...] = ()


def _by_name(*models: type[hk.Module]) -> dict[str, type[hk.Module]]:
    return {model.__name__: model for model in models}


_GPT2 = Architecture(
    config_class=gpt2.GPT2Config,
    model_classes=_by_name(gpt2.GPT2Model, gpt2.GPT2LMHeadModel),
    base_model_prefix="transformer",
    blocks_module="h",
    blocks_key="h",
    block_keys={
        "ln_1": "ln_1", "ln_2": "ln_2", "attn/query": "attn.c_attn", "attn/key": "attn.c_attn",
        "attn/value": "attn.c_attn", "attn/linear": "attn.c_proj", "c_fc": "mlp.c_fc", "c_proj": "mlp.c_proj"},
    base_keys={"wte": "wte", "wpe": "wpe", "ln_f": "ln_f"},
    head_keys={"lm_head": "lm_head"},
    transposed_blocks=False,
    tied_keys={"lm_head.weight": "wte.weight"},
    buffers=r"h\.\d+\.attn\.(bias|masked_bias)",
    readouts={"lm_head": "transformer/ln_f"},
    branch_outputs=("/attn/linear", "/c_proj"),
)
_BERT = Architecture(
    config_class=bert.BertConfig,
    model_classes=_by_name(bert.BertModel, bert.BertForMaskedLM, bert.BertForPreTraining,
                           bert.BertForSequenceClassification),
    base_model_prefix="bert",
    blocks_module="layer",
    blocks_key="encoder.layer",
    block_keys={
        "attention/query": "attention.self.query", "attention/key": "attention.self.key",
        "attention/value": "attention.self.value", "attention/linear": "attention.output.dense",
        "attention_norm": "attention.output.LayerNorm", "intermediate": "intermediate.dense",
        "output": "output.dense", "output_norm": "output.LayerNorm"},
    base_keys={
        "word_embeddings": "embeddings.word_embeddings", "pooler": "pooler.dense",
        "position_embeddings": "embeddings.position_embeddings",
        "token_type_embeddings": "embeddings.token_type_embeddings", "embeddings_norm": "embeddings.LayerNorm"},
    head_keys={
        "transform": "cls.predictions.transform.dense", "decoder": "cls.predictions.decoder",
        "transform_norm": "cls.predictions.transform.LayerNorm", "seq_relationship": "cls.seq_relationship",
        "classifier": "classifier"},
    tied_keys={"cls.predictions.decoder.weight": "embeddings.word_embeddings.weight",
               "cls.predictions.bias": "cls.predictions.decoder.bias"},
    ignored_keys={"cls.predictions.bias": "cls.predictions.decoder.bias"},
    buffers=r"embeddings\.(position_ids|token_type_ids)",
    readouts={"decoder": "transform_norm", "seq_relationship": None, "classifier": None},
)
_ROBERTA = dataclasses.replace(
    _BERT,
    config_class=roberta.RobertaConfig,
    model_classes=_by_name(roberta.RobertaModel, roberta.RobertaForMaskedLM,
                           roberta.RobertaForSequenceClassification),
    base_model_prefix="roberta",
    head_keys={
        "transform": "lm_head.dense", "decoder": "lm_head.decoder", "transform_norm": "lm_head.layer_norm",
        "dense": "classifier.dense", "out_proj": "classifier.out_proj"},
    tied_keys={"lm_head.decoder.weight": "embeddings.word_embeddings.weight",
               "lm_head.bias": "lm_head.decoder.bias"},
    ignored_keys={"lm_head.bias": "lm_head.decoder.bias"},
    readouts={"decoder": "transform_norm", "out_proj": None},
)
_LLAMA = Architecture(
    config_class=llama.LlamaConfig,
    model_classes=_by_name(llama.LlamaModel, llama.LlamaForCausalLM, llama.LlamaForSequenceClassification),
    base_model_prefix="model",
    blocks_module="layers",
    blocks_key="layers",
    block_keys={
        "input_layernorm": "input_layernorm", "post_attention_layernorm": "post_attention_layernorm",
        "self_attn/query": "self_attn.q_proj", "self_attn/key": "self_attn.k_proj",
        "self_attn/value": "self_attn.v_proj", "self_attn/linear": "self_attn.o_proj",
        "gate_proj": "mlp.gate_proj", "up_proj": "mlp.up_proj", "down_proj": "mlp.down_proj"},
    base_keys={"embed_tokens": "embed_tokens", "norm": "norm"},
    head_keys={"lm_head": "lm_head", "score": "score"},
    tied_keys={"lm_head.weight": "embed_tokens.weight"},
    buffers=r"(layers\.\d+\.self_attn\.)?rotary_emb\.(inv_freq|cos_cached|sin_cached)",
    readouts={"lm_head": "model/norm", "score": None},
    branch_outputs=("/self_attn/linear", "/down_proj"),
)
ARCHITECTURES = {each.config_class.model_type: each for each in (_GPT2, _BERT, _ROBERTA, _LLAMA)}

_LEAF_KEYS = {"w": "weight", "b": "bias", "scale": "weight", "offset": "bias", "embeddings": "weight"}


class Key(NamedTuple):
    """A key of a state dict that holds a parameter, or one layer of a stacked parameter.

    Attributes:
      name: the key.
      layer_idx: index of the block; None outside of blocks.
      transposed: whether matrices are [out, in] there.
    """

    name: str
    layer_idx: int | None
    transposed: bool


def state_dict_keys(architecture: Architecture, config: Config, module: str, leaf: str) -> Iterator[Key]:
    """Yields the keys that hold a parameter: one, or one for each block if the blocks are stacked.

    Args:
      architecture: the model's.
      config: its configuration.
      module: the parameter's module, relative to the model.
      leaf: the parameter's name in its module.
    """
    inner, suffix = module.removeprefix(f"{architecture.base_model_prefix}/"), _LEAF_KEYS[leaf]
    in_block = re.fullmatch(rf"{architecture.blocks_module}(?:_(\d+)|/block)/(.*)", inner)
    if in_block is None:
        key = architecture.base_keys.get(inner) or architecture.head_keys[inner]
        yield Key(f"{key}.{suffix}", None, True)
        return
    number, block_module = in_block.groups()        # no number: a stack of all blocks
    for i in range(num_blocks(config)) if number is None else [int(number)]:
        key = f"{architecture.blocks_key}.{i}.{architecture.block_keys[block_module]}.{suffix}"
        yield Key(key, i, architecture.transposed_blocks)


def default_name(model: type[hk.Module]) -> str:
    """Returns the name that Haiku gives a module without a name."""
    name: str = hk.transform(lambda: model(None).name).apply({}, None)
    return name


def num_blocks(config: Any) -> int:
    """Returns the number of a model's blocks."""
    count: int = config.n_layer if isinstance(config, gpt2.GPT2Config) else config.num_hidden_layers
    return count
