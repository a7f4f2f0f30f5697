"""GPT-2, BERT, RoBERTa and Llama in Haiku, in μP, with the outputs and weights of Hugging Face's transformers.

- config, config_json: configurations, with the fields of config.json.
- token_ids: fields of special tokens.
- layers, inputs, heads, loss: what the models share.
- gpt2, bert, roberta, llama: the models.
- grouped_attention, rope: Llama's attention.
- huggingface: reads and writes their weights.
"""
from haiku_mup.models.bert import (
    BertConfig,
    BertForMaskedLM,
    BertForPreTraining,
    BertForSequenceClassification,
    BertModel,
    PreTrainingOutput,
)
from haiku_mup.models.config import Config
from haiku_mup.models.gpt2 import GPT2Config, GPT2LMHeadModel, GPT2Model
from haiku_mup.models.heads import Output
from haiku_mup.models.huggingface.pretrained import load_pretrained, save_pretrained
from haiku_mup.models.llama import (
    LlamaConfig,
    LlamaForCausalLM,
    LlamaForSequenceClassification,
    LlamaModel,
)
from haiku_mup.models.loss import cross_entropy, next_tokens
from haiku_mup.models.roberta import (
    RobertaConfig,
    RobertaForMaskedLM,
    RobertaForSequenceClassification,
    RobertaModel,
)

__all__ = [
    "BertConfig",
    "BertForMaskedLM",
    "BertForPreTraining",
    "BertForSequenceClassification",
    "BertModel",
    "Config",
    "GPT2Config",
    "GPT2LMHeadModel",
    "GPT2Model",
    "LlamaConfig",
    "LlamaForCausalLM",
    "LlamaForSequenceClassification",
    "LlamaModel",
    "Output",
    "PreTrainingOutput",
    "RobertaConfig",
    "RobertaForMaskedLM",
    "RobertaForSequenceClassification",
    "RobertaModel",
    "cross_entropy",
    "load_pretrained",
    "next_tokens",
    "save_pretrained",
]
