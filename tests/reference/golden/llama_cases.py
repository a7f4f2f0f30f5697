"""Configurations, weights and data that both sides of Llama's golden tests share, in numpy.

make_llama.py computes these cases with Hugging Face's transformers, ../test_llama_golden.py with
haiku_mup.models. Weights are drawn here on both sides, so that none need to be stored.
"""
import zlib
from typing import Any, NamedTuple

import numpy as np

VOCAB, LENGTH, SEQUENCES, POSITIONS, LABELS, PAD = 13, 9, 3, 8, 3, 12


class Case(NamedTuple):
    """A model: its class, what differs from SIZES in its configuration, and whether positions are given."""

    model: str = "LlamaForCausalLM"
    config: dict[str, Any] = {}
    positions: bool = False


SIZES = {"vocab_size": VOCAB, "hidden_size": 8, "intermediate_size": 10, "num_hidden_layers": 2,
         "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 4, "num_labels": LABELS,
         "max_position_embeddings": POSITIONS, "pad_token_id": PAD, "bos_token_id": 1, "eos_token_id": 2}
LLAMA3 = {"rope_type": "llama3", "factor": 4.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
          "original_max_position_embeddings": 16}
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64}
CASES = {
    "grouped": Case(),
    "bare": Case("LlamaModel", {}, True),
    "multi_query": Case(config={"num_key_value_heads": 1, "rms_norm_eps": 1e-3}),
    "full": Case(config={"num_key_value_heads": 4, "hidden_act": "gelu", "pad_token_id": None}),
    "tied": Case(config={"tie_word_embeddings": True, "head_dim": 6}),
    "biases": Case(config={"attention_bias": True, "mlp_bias": True}),
    "classes": Case("LlamaForSequenceClassification"),
    "theta": Case(config={"rope_theta": 100.0}),
    "linear": Case(config={"rope_theta": 100.0, "rope_scaling": {"type": "linear", "factor": 2.0}}),
    "dynamic": Case(config={"rope_parameters": {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 50.0}}),
    "llama3": Case(config={"rope_theta": 100.0, "rope_scaling": LLAMA3, "max_position_embeddings": 64},
                   positions=True),
    "yarn": Case(config={"head_dim": 16, "rope_parameters": YARN | {"rope_theta": 100.0},
                         "max_position_embeddings": 256}, positions=True),
    "yarn_settings": Case(config={
        "head_dim": 16, "rope_theta": 100.0, "max_position_embeddings": 256, "rope_scaling": YARN | {
            "beta_fast": 8.0, "beta_slow": 2.0, "mscale": 0.7, "mscale_all_dim": 0.4, "truncate": False}}),
    "yarn_factor": Case(config={"head_dim": 16, "max_position_embeddings": 256, "rope_parameters": YARN | {
        "rope_theta": 100.0, "attention_factor": 1.3}}),
}
PADDINGS = ("none", "left", "right")


def config(case):
    """Returns the arguments of the configuration, on both sides."""
    return SIZES | case.config


def weights(shapes):
    """Returns values for tensors of these shapes, under transformers' names."""
    return {name: _drawn(name, shape) for name, shape in shapes.items()}


def _drawn(name, shape):
    x = np.random.default_rng(zlib.crc32(name.encode())).normal(size=shape)
    return 1 + 0.2 * x if "norm" in name else 0.4 * x


def data(case, padding):
    """Returns ids and what goes with them, and labels; padding in front or behind, of two of the sequences."""
    rng = np.random.default_rng(17)
    ids = rng.integers(0, VOCAB - 1, (SEQUENCES, LENGTH))
    found = {}
    if padding != "none":
        real = np.ones_like(ids)
        for row, count in ((0, 3), (1, 1)):
            real[row, slice(0, count) if padding == "left" else slice(LENGTH - count, None)] = 0
        ids = np.where(real == 1, ids, PAD)
        found["attention_mask"] = real
    else:
        ids[2, 3] = PAD                     # one that counts as any other
    if case.positions:
        found["position_ids"] = rng.permuted(np.tile(np.arange(60), (SEQUENCES, 1)), axis=1)[:, :LENGTH]
    labels = rng.integers(0, VOCAB, ids.shape)
    labels[rng.random(ids.shape) < 0.4] = -100
    if "Sequence" in case.model:
        labels = np.array([2, 0, 1])
    return {"input_ids": ids, **found}, labels


def cotangent(shape):
    """Returns the weights of a bare model's outputs in the sum that is its loss."""
    return np.random.default_rng(len(shape)).normal(size=shape)


def projections(tensors):
    """Returns two random projections of each tensor, by name: a gradient in few numbers."""
    found = []
    for name, x in sorted(tensors.items()):
        rng = np.random.default_rng(zlib.crc32(name[::-1].encode()))
        found += [float((rng.normal(size=x.shape) * x).sum()) for _ in range(2)]
    return np.array(found)
