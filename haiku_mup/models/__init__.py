"""GPT-2, BERT and RoBERTa in Haiku, ready for μP, equal to the originals."""
from haiku_mup.models.config import BertConfig, Config, GPT2Config, RobertaConfig
from haiku_mup.models.gpt2 import GPT2LMHeadModel, GPT2Model
from haiku_mup.models.parts import Output, cross_entropy

__all__ = ["BertConfig", "Config", "GPT2Config", "GPT2LMHeadModel", "GPT2Model", "Output", "RobertaConfig",
           "cross_entropy"]
