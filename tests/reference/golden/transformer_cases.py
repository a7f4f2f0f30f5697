"""Configurations, weights and data that both sides of the transformers' golden tests share, in numpy.

make_transformers.py computes these cases with Hugging Face's transformers, ../test_models_golden.py with
haiku_mup.models. Weights are drawn here on both sides, so that none need to be stored.
"""
import zlib
from typing import Any, NamedTuple

import numpy as np

VOCAB, LENGTH, SEQUENCES, POSITIONS, LABELS = 13, 7, 3, 10, 3
STEPS = 20
PAD = {'gpt2': 12, 'bert': 0, 'roberta': 1}


class Case(NamedTuple):
    """A model: its class, what differs from SIZES in its configuration, and which inputs it is given."""
    model: str
    config: dict[str, Any] = {}
    inputs: tuple[str, ...] = ()

    @property
    def kind(self):
        return 'gpt2' if self.model.startswith('GPT2') else 'roberta' if self.model[0] == 'R' else 'bert'


SIZES = {
    'gpt2': {'vocab_size': VOCAB, 'n_positions': POSITIONS, 'n_embd': 6, 'n_layer': 2, 'n_head': 2},
    'bert': {'vocab_size': VOCAB, 'max_position_embeddings': POSITIONS, 'hidden_size': 6,
             'num_hidden_layers': 2, 'num_attention_heads': 2, 'intermediate_size': 10, 'type_vocab_size': 2,
             'num_labels': LABELS},
}
SIZES['roberta'] = SIZES['bert']
CASES = {
    'gpt2': Case('GPT2Model', {'n_inner': 10}, ('position_ids',)),
    'gpt2_lm': Case('GPT2LMHeadModel'),
    'gpt2_lm_untied': Case('GPT2LMHeadModel', {'tie_word_embeddings': False}, ('token_type_ids',)),
    'gpt2_lm_inverse': Case('GPT2LMHeadModel', {'scale_attn_by_inverse_layer_idx': True, 'n_inner': 9,
                                                'activation_function': 'silu'}),
    'bert': Case('BertModel', {}, ('token_type_ids', 'position_ids')),
    'bert_mlm': Case('BertForMaskedLM', {}, ('token_type_ids',)),
    'bert_mlm_untied': Case('BertForMaskedLM', {'tie_word_embeddings': False, 'hidden_act': 'gelu_new'}),
    'bert_pretraining': Case('BertForPreTraining', {}, ('token_type_ids',)),
    'bert_classes': Case('BertForSequenceClassification', {'hidden_act': 'relu', 'pad_token_id': None}),
    'roberta': Case('RobertaModel'),
    'roberta_mlm': Case('RobertaForMaskedLM', {'layer_norm_eps': 1e-5}, ('token_type_ids',)),
    'roberta_mlm_untied': Case('RobertaForMaskedLM', {'tie_word_embeddings': False}),
    'roberta_classes': Case('RobertaForSequenceClassification'),
}


class Widths(NamedTuple):
    """Widths of a model in μP, in the proportions of mutransformers' README, where all of them differ."""
    width: int
    heads: int
    ffn: int


BASE, DELTA, TARGET = Widths(8, 4, 8), Widths(6, 2, 10), Widths(16, 4, 32)     # heads of 2, 3 and 4
MUP = {
    'gpt2_lm': Case('GPT2LMHeadModel'),
    'gpt2_lm_untied': Case('GPT2LMHeadModel', {'tie_word_embeddings': False}),
    'bert_mlm': Case('BertForMaskedLM'),
    'bert_mlm_untied': Case('BertForMaskedLM', {'tie_word_embeddings': False}),
    'bert_pretraining': Case('BertForPreTraining'),
    'bert_classes': Case('BertForSequenceClassification'),
    'roberta_mlm': Case('RobertaForMaskedLM'),
    'roberta_classes': Case('RobertaForSequenceClassification'),
}
ATTN_MULT, OUTPUT_MULT = 1.5, 0.75
LR, DECAY, EPS = 0.02, 0.3, 1e-8


def config(case, widths=None):
    """Returns the arguments of the configuration, on both sides."""
    found = SIZES[case.kind] | case.config
    if widths is None:
        return found
    names = ('n_embd', 'n_head', 'n_inner') if case.kind == 'gpt2' else (
        'hidden_size', 'num_attention_heads', 'intermediate_size')
    return found | dict(zip(names, widths))


def weights(shapes):
    """Returns values for tensors of these shapes, under transformers' names."""
    return {name: _drawn(name, shape) for name, shape in shapes.items()}


def _drawn(name, shape):
    x = np.random.default_rng(zlib.crc32(name.encode())).normal(size=shape)
    norm = 'LayerNorm.weight' in name or 'layer_norm.weight' in name or '.ln_' in name or name[:3] == 'ln_'
    return 1 + 0.2 * x if norm and name.endswith('weight') else 0.4 * x


def data(case, masked):
    """Ids and what goes with them, and labels."""
    rng = np.random.default_rng(17)
    ids = rng.integers(2, VOCAB - 1, (SEQUENCES, LENGTH))
    found = {}
    if masked:
        real = np.ones_like(ids)
        real[0, 4:] = 0
        real[1, 0 if case.kind == 'gpt2' else 6] = 0    # the first in front, which sees nobody
        ids = np.where(real == 1, ids, PAD[case.kind])
        found['attention_mask'] = real
    else:
        ids[2, 3] = PAD[case.kind]                      # one that counts as any other
    if 'token_type_ids' in case.inputs:
        found['token_type_ids'] = rng.integers(0, 2, ids.shape)
    if 'position_ids' in case.inputs:
        found['position_ids'] = rng.permuted(np.tile(np.arange(POSITIONS), (SEQUENCES, 1)), axis=1)[:, :LENGTH]
    labels = rng.integers(0, VOCAB, ids.shape)
    labels[rng.random(ids.shape) < 0.4] = -100
    if 'Sequence' in case.model:
        labels = np.array([2, 0, 1])
    return {'input_ids': ids, **found}, {'labels': labels, 'next_sentence_label': np.array([1, 0, 1])}


def cotangent(shape):
    """Returns the weights of a bare model's outputs in the sum that is its loss."""
    return np.random.default_rng(len(shape)).normal(size=shape)
