"""GPT-2, BERT and RoBERTa in μP pass a coordinate check, as heads grow in size and in number; others fail."""
import functools

import haiku as hk
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import haiku_mup
from haiku_mup import models

WIDTHS, BASE = [64, 128, 256], 64
VOCAB, LENGTH, BATCH = 64, 8, 32
OPTIMIZERS = {"adam": (optax.adam, 2.0**-8), "sgd": (optax.sgd, 0.5)}
MODELS = {"gpt2": models.GPT2LMHeadModel, "bert": models.BertForPreTraining,
          "roberta": models.RobertaForMaskedLM}


def config(name, width, scaling, layers=2, **ours):
    """Returns a configuration of a width: 4 heads that grow in size, or heads of 16 that grow in number."""
    heads = {"size": 4, "count": width // 16}[scaling]
    ours = {"initializer_range": 0.05, "layer_stack": True, "vocab_size": VOCAB} | ours
    if name == "gpt2":
        return models.GPT2Config(n_embd=width, n_head=heads, n_layer=layers, n_positions=LENGTH, **ours)
    kind = {"bert": models.BertConfig, "roberta": models.RobertaConfig}[name]
    return kind(hidden_size=width, num_attention_heads=heads, num_hidden_layers=layers,
                intermediate_size=4 * width, max_position_embeddings=LENGTH + 2, **ours)


def make_model(name, scaling, width, **ours):
    def fn(ids):
        with haiku_mup.apply_mup():
            return MODELS[name](config(name, width, scaling, **ours))(ids)

    return hk.transform(fn)


def loss_fn(apply, params, rng, batch):
    ids, labels, follows = batch
    out = apply(params, rng, ids)
    if isinstance(out, models.PreTrainingOutput):
        return models.cross_entropy(out.prediction_logits, labels) + models.cross_entropy(
            out.seq_relationship_logits, follows)
    return models.cross_entropy(out, labels)


def batch():
    rng = np.random.default_rng(3)
    ids = rng.integers(3, VOCAB, (BATCH, LENGTH))
    labels = np.where(rng.random(ids.shape) < 0.5, np.roll(ids, -1, 1), -100)
    return tuple(map(jnp.asarray, (ids, labels, ids[:, 0] % 2)))


@functools.cache
def checked(name, scaling, optimizer, parametrization, **ours):
    make, lr = OPTIMIZERS[optimizer]
    return haiku_mup.coord_check(
        functools.partial(make_model, name, scaling, **ours), WIDTHS, batch(), loss_fn, make(lr),
        base_width=BASE, parametrization=parametrization, adam=optimizer == "adam", seeds=5, progress=False)


GRID = [pytest.param(name, scaling, optimizer, marks=pytest.mark.slow)
        for name in MODELS for scaling in ("size", "count") for optimizer in OPTIMIZERS]


@pytest.mark.parametrize("name, scaling, optimizer", GRID)
def test_passes_in_mup(name, scaling, optimizer):
    checked(name, scaling, optimizer, "mup").assert_ok()


@pytest.mark.parametrize("name, scaling, optimizer", GRID)
def test_fails_in_the_standard_parametrization(name, scaling, optimizer):
    assert not checked(name, scaling, optimizer, "sp").ok


@pytest.mark.slow
def test_a_small_one_passes_in_mup():
    """Checks what the grid does, for one model of one block, two widths and two steps."""
    make = functools.partial(make_model, "gpt2", "size", layers=1, layer_stack=False)
    result = haiku_mup.coord_check(make, [32, 128], batch(), loss_fn, optax.adam(2.0**-8), base_width=32,
                                   steps=2, seeds=3, progress=False)
    result.assert_ok()
    assert {finding.quantity.split(" ")[0] for finding in result.findings} >= {"logits", "activation", "update"}
