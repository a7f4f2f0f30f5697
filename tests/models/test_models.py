"""GPT-2, BERT and RoBERTa: what a configuration says is done, and what can't be is refused."""
import dataclasses
import doctest
import functools
import json
import math
import pathlib
import tempfile

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from small_models import KEY
from small_transformers import BERT, CONFIGS, GPT2, IDS, ROBERTA, captured, made, shapes, wider
from trees import equal

import haiku_mup
from haiku_mup import models

# --- what can't be ---

@pytest.mark.parametrize("make, words", [
    (lambda: models.GPT2Config(n_embd=10, n_head=4),
     "n_embd=10 is not divisible by n_head=4; .* n_head=5, or n_embd=8"),
    (lambda: models.BertConfig(hidden_size=100), "hidden_size=100 is not divisible by num_attention_heads=12"),
    (lambda: models.GPT2Config(n_layer=0), "n_layer=0: give a whole number from 1 on"),
    (lambda: models.GPT2Config(n_layer=True), "n_layer=True"),
    (lambda: models.GPT2Config(attn_pdrop=1.0), "attn_pdrop=1.0: give a rate from 0 to less than 1"),
    (lambda: models.BertConfig(classifier_dropout=-0.1), "classifier_dropout=-0.1"),
    (lambda: models.BertConfig(layer_norm_eps=0.0), "layer_norm_eps=0.0: give a number above 0"),
    (lambda: models.GPT2Config(attn_mult=math.nan), "attn_mult=nan"),
    (lambda: models.GPT2Config(remat=1), "remat=1: give True or False"),
    (lambda: models.BertConfig(hidden_act="gelo"), "hidden_act='gelo': give one of gelu, gelu_new"),
    (lambda: models.BertConfig(vocab_size=5, pad_token_id=5), "pad_token_id=5 is outside of the vocabulary"),
    (lambda: models.RobertaConfig(pad_token_id=None), "pad_token_id=None"),
])
def test_a_configuration_that_cannot_be(make, words):
    with pytest.raises(haiku_mup.MupError, match=words):
        make()


@pytest.mark.parametrize("values, words", [
    ({"model_type": "bert"}, "config.json: model_type is 'bert', and GPT2Config is for 'gpt2'"),
    ({}, "model_type is None"),
    ({"model_type": "gpt2", "add_cross_attention": True}, "add_cross_attention=True: these models have False"),
    ({"model_type": "gpt2", "scale_attn_weights": False}, "scale_attn_weights=False"),
    ({"model_type": "gpt2", "quantization_config": {"quant_method": "gptq", "bits": 4}}, "dequantize"),
    ({"model_type": "gpt2", "n_embd": 7}, "config.json: GPT2Config: n_embd=7 is not divisible"),
    ([], "a list, where"), (None, "no JSON")])
def test_a_config_json_that_cannot_be(values, words, tmp_path):
    (tmp_path / "config.json").write_text("{" if values is None else json.dumps(values))
    with pytest.raises(haiku_mup.MupError, match=words):
        models.GPT2Config.from_json(tmp_path)


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("ids, inputs, words", [
    (IDS + 2, {}, "input_ids: 11 is outside of 0 to 10; .*tokenizer.*config.vocab_size"),
    (IDS - 1, {}, "input_ids: -1 is outside"),
    (IDS * 1.0, {}, "input_ids: give an array of whole numbers"), ([[1, 2]], {}, "input_ids: give an array"),
    (IDS[0], {}, r"input_ids: shape \(5,\); give \[batch, tokens\]"),
    (np.zeros((2, 7), int), {}, "input_ids: 7 tokens, and there are positions for 6.*positions?"),
    (IDS, {"position_ids": IDS}, "position_ids: 9 is outside of 0 to [57]"),
    (IDS, {"token_type_ids": IDS + 2}, "token_type_ids: 11 is outside"),
    (IDS, {"attention_mask": np.ones(5)}, r"attention_mask: shape \(5,\), and input_ids have \(2, 5\)")])
def test_inputs_that_cannot_be(name, ids, inputs, words):
    with pytest.raises(haiku_mup.MupError, match=words):
        shapes(name, CONFIGS[name], ids, **inputs)


def test_ids_are_not_seen_under_jit():
    found = jax.eval_shape(made("GPT2LMHeadModel", GPT2).init, KEY, IDS + 2)
    assert jax.tree.structure(found) == jax.tree.structure(shapes("GPT2LMHeadModel", GPT2))


def test_a_tied_readout_that_is_to_be_zero():
    with pytest.raises(haiku_mup.MupError, match="readout_zero_init=True.*tie_word_embeddings=False"):
        shapes("GPT2LMHeadModel", dataclasses.replace(GPT2, readout_zero_init=True))


# --- what a configuration says ---

@pytest.mark.parametrize("config", [
    GPT2, BERT, ROBERTA, dataclasses.replace(BERT, num_labels=5, attn_mult=2.0, layer_stack=True)])
def test_a_configuration_comes_back_from_its_file(config, tmp_path):
    config.to_json(tmp_path / "some.json")
    assert type(config).from_json(tmp_path / "some.json") == config


def test_fields_for_other_programs_are_kept(tmp_path):
    """Names of labels, ids of special tokens: but not of which file they are, nor names of other numbers."""
    others = {"id2label": {"0": "no", "1": "maybe", "2": "yes"}, "label2id": {"no": 0, "maybe": 1, "yes": 2},
              "bos_token_id": 1, "eos_token_id": [2, 3], "problem_type": None, "task_specific_params": {"a": 1}}
    of_the_file = {"model_type": "gpt2", "torch_dtype": "float16", "transformers_version": "4"}
    (tmp_path / "config.json").write_text(json.dumps(others | of_the_file | {"n_embd": 24}))
    config = models.GPT2Config.from_json(tmp_path)
    assert config == models.GPT2Config(n_embd=24, num_labels=3) and hash(config)
    assert config.other_fields == others
    config.to_json(tmp_path)
    values = json.loads((tmp_path / "config.json").read_text())
    assert {name: values[name] for name in others} == others
    assert not {"torch_dtype", "transformers_version", "other_fields", "num_labels"} & set(values)
    dataclasses.replace(config, num_labels=4).to_json(tmp_path)
    values = json.loads((tmp_path / "config.json").read_text())
    assert values["id2label"]["3"] == "LABEL_3" and len(values["label2id"]) == 4 and values["bos_token_id"] == 1


def test_a_published_config_json_is_read(tmp_path):
    """Fields that change nothing in what is computed don't count as it is compared."""
    values = {"model_type": "bert", "architectures": ["BertForMaskedLM"], "hidden_size": 24, "use_cache": True,
              "torch_dtype": "float32", "position_embedding_type": "absolute",
              "id2label": {"0": "a", "1": "b", "2": "c"}}
    (tmp_path / "config.json").write_text(json.dumps(values))
    assert models.BertConfig.from_json(tmp_path) == models.BertConfig(hidden_size=24, num_labels=3)


@pytest.mark.parametrize("kind", [models.GPT2Config, models.BertConfig, models.RobertaConfig])
def test_only_known_fields(kind):
    with pytest.raises(TypeError, match="n_embed"):
        kind(n_embed=64)


@pytest.mark.parametrize("name", [
    pytest.param(name, marks=() if name[0] == "G" else pytest.mark.slow) for name in CONFIGS])
def test_at_the_base_nothing_changes(name):
    config = dataclasses.replace(CONFIGS[name], layer_stack=True)
    mup = captured(name, config, config)
    plain, wrapped = made(name, config), mup.wrap_model(made(name, config))
    params = jax.jit(plain.init)(KEY, IDS)
    assert equal(params, jax.jit(wrapped.init)(KEY, IDS))
    assert equal(jax.jit(plain.apply)(params, None, IDS), jax.jit(wrapped.apply)(params, None, IDS))


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("tied", [True, False])
def test_roles(name, tied):
    """Checks that embeddings and vectors are inputs, readouts outputs, and that queries scale the logits."""
    base = dataclasses.replace(CONFIGS[name], tie_word_embeddings=tied)
    for row in captured(name, base, wider(base, 4)).table():
        *_, last, leaf = row.name.split("/")
        readout = last in ("lm_head", "decoder", "seq_relationship")
        roles = {(True, "w"): "output", (True, "b"): "fixed", (False, "w"): "hidden"}
        shared = last in ("wte", "word_embeddings") and tied
        multiplier = {(True, "w"): 0.25}.get((readout, leaf), 0.5 if (last, leaf) == ("query", "w") else 1.0)
        assert row.role == roles.get((readout, leaf), "input"), row
        assert row.multiplier == (0.25 if shared else multiplier), row


# width, heads, width of the hidden layer: those that mutransformers' README takes (microsoft/mutransformers)
BASE, DELTA, TARGET = (256, 16, 256), (200, 5, 300), (1024, 32, 4096)


def sized(name, width, heads, hidden):
    if name == "GPT2LMHeadModel":
        return models.GPT2Config(n_embd=width, n_head=heads, n_inner=hidden, n_layer=2,
                                 tie_word_embeddings=False)
    return dataclasses.replace(CONFIGS[name], hidden_size=width, num_attention_heads=heads,
                               intermediate_size=hidden, tie_word_embeddings=False)


@pytest.mark.parametrize("name", CONFIGS)
def test_the_sizes_of_mutransformers(name, tmp_path):
    """Grows the width 4 times, the MLP 16 times, heads in size 2 times; base and delta are from a file."""
    mup = haiku_mup.Mup()
    with mup.init_base():
        shapes(name, sized(name, *BASE))
    with mup.init_delta():
        shapes(name, sized(name, *DELTA))
    mup.save(tmp_path / "base.json")
    loaded = haiku_mup.Mup.load(tmp_path / "base.json")
    for each in (mup, loaded):
        with each.init_target():
            shapes(name, sized(name, *TARGET))
    assert loaded.table() == mup.table() and loaded.lr_scales() == mup.lr_scales()
    (first, second), into = {"GPT2LMHeadModel": (("c_fc", "c_proj"), "attn")}.get(
        name, (("intermediate", "output"), "attention"))
    wanted = {"query": (0.25, 0.5**0.5), "key": (0.25, 1.0), "value": (0.25, 1.0), "linear": (0.25, 1.0),
              first: (0.25, 1.0), second: (1 / 16, 1.0)}
    seen = set()
    for row in mup.table():
        *modules, last, leaf = row.name.split("/")
        key = last if into in modules or last in (first, second) else ""
        if leaf == "w" and row.role == "hidden" and key in wanted:
            assert (row.adam_lr, row.multiplier) == pytest.approx(wanted[key]), row
            seen.add(key)
    assert seen == wanted.keys()


def test_what_is_added_to_the_residual_stream_is_drawn_smaller():
    stds = {row.name.removeprefix("gpt2_lm_head_model/transformer/h_1/"): row.base_std
            for row in captured("GPT2LMHeadModel", GPT2, GPT2).table()}
    assert (stds["attn/linear/w"], stds["c_proj/w"]) == (0.01, 0.01)
    assert (stds["attn/query/w"], stds["c_fc/w"]) == (0.02, 0.02)


@pytest.mark.slow
@pytest.mark.parametrize("name, field, model", [
    ("GPT2LMHeadModel", "resid_pdrop", GPT2), ("GPT2LMHeadModel", "embd_pdrop", GPT2),
    ("GPT2LMHeadModel", "attn_pdrop", GPT2), ("BertForSequenceClassification", "classifier_dropout", BERT),
    ("RobertaForSequenceClassification", "classifier_dropout", ROBERTA),
    ("BertForSequenceClassification", "attention_probs_dropout_prob", BERT),
    ("BertForSequenceClassification", "hidden_dropout_prob", BERT)])
def test_dropout(name, field, model):
    """Checks that each rate drops out in training alone; without training or rates, no key is needed."""
    rates = {f.name: 0.0 for f in dataclasses.fields(model) if f.name.endswith(("_pdrop", "_prob", "dropout"))}
    ids, none = IDS, dataclasses.replace(model, layer_stack=True, initializer_range=0.5, **rates)
    some = dataclasses.replace(none, **{field: 0.5})
    params = jax.jit(made(name, none).init)(KEY, ids)

    @functools.partial(jax.jit, static_argnums=(0, 1))
    def applied(config, is_training, key):
        return made(name, config, is_training=is_training).apply(params, key, ids)

    plain = applied(none, True, None)
    assert equal(plain, applied(some, False, None))
    one, two = (applied(some, True, jax.random.key(seed)) for seed in (0, 1))
    assert not equal(one, two) and not equal(one, plain)
    with pytest.raises(ValueError, match="PRNG|rng"):
        applied(some, True, None)


def test_zero_at_the_start():
    config = dataclasses.replace(GPT2, tie_word_embeddings=False, readout_zero_init=True, query_zero_init=True,
                                 layer_stack=True)
    params = jax.jit(made("GPT2LMHeadModel", config).init)(KEY, IDS)
    assert not params["gpt2_lm_head_model/lm_head"]["w"].any()
    assert not params["gpt2_lm_head_model/transformer/h/block/attn/query"]["w"].any()
    assert params["gpt2_lm_head_model/transformer/h/block/attn/key"]["w"].any()
    assert captured("GPT2LMHeadModel", config, dataclasses.replace(config, n_embd=32)).table()


def test_the_page_runs():
    """Runs the examples of docs/guides/models.rst, one after the other."""
    text = (pathlib.Path(__file__).parents[2] / "docs" / "guides" / "models.rst").read_text(encoding="utf-8")
    names = {"functools": functools, "haiku_mup": haiku_mup, "hk": hk, "jax": jax, "jnp": jnp, "optax": optax,
             "pathlib": pathlib, "tempfile": tempfile}
    test = doctest.DocTestParser().get_doctest(text, names, "models.rst", "models.rst", 0)
    assert len(test.examples) > 20 and doctest.DocTestRunner().run(test).failed == 0


def test_cross_entropy_leaves_out_labels():
    logits = jnp.arange(12.0).reshape(3, 4) % 5
    full = -jax.nn.log_softmax(logits)
    labels = jnp.array([3, -100, 0])
    assert models.cross_entropy(logits[None], models.next_tokens(jnp.array([[9, 3, 2]]))) == pytest.approx(
        float(models.cross_entropy(logits[None, :-1], jnp.array([[3, 2]]))))
    assert models.cross_entropy(logits, labels) == pytest.approx(float(full[0, 3] + full[2, 0]) / 2)
    value, grad = jax.value_and_grad(models.cross_entropy)(logits, jnp.full(3, -100))
    assert value == 0 and not grad.any()
