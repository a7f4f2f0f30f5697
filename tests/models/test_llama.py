"""Llama: what a configuration says is done, what can't be is refused, and factors are those found by hand."""
import dataclasses
import functools
import itertools
import json
import math
import os
import pathlib
import subprocess

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from safetensors.numpy import load_file, save_file
from small_models import KEY
from small_transformers import IDS, drawn, made, shapes
from trees import equal

import haiku_mup
from haiku_mup import models

LLAMA = models.LlamaConfig(vocab_size=11, hidden_size=8, intermediate_size=12, num_hidden_layers=2,
                           num_attention_heads=4, num_key_value_heads=2, pad_token_id=0)
NAMES = ("LlamaModel", "LlamaForCausalLM", "LlamaForSequenceClassification")
LM = "llama_for_causal_lm"


# --- what can't be ---

@pytest.mark.parametrize("fields, words", [
    ({"num_key_value_heads": 3}, "num_attention_heads=4 is not divisible by num_key_value_heads=3"),
    ({"num_attention_heads": 3}, "hidden_size=8 is not divisible by num_attention_heads=3"),
    ({"head_dim": 3}, "heads of size 3: rotary embeddings need an even size of at least 2; give another"),
    ({"rope_scaling": {"type": "dynamic", "factor": 2.0}}, "even size of at least 4"),
    ({"rms_norm_eps": 0}, "rms_norm_eps=0: give a number above 0"), ({"attention_bias": 1}, "True or False"),
    ({"pad_token_id": 11}, "pad_token_id=11 is outside of the vocabulary"),
    ({"pad_token_id": -1}, "pad_token_id=-1: give the id of a token, a whole number from 0 on, or None"),
    ({"attention_dropout": 1.0}, "attention_dropout=1.0: give a rate"),
    ({"rope_scaling": {"type": "longrope", "factor": 2.0}}, "rope_type='longrope': these models have default"),
    ({"rope_scaling": {"factor": 2.0}}, "rope_type='default' has no factor; leave it out, or"),
    ({"rope_scaling": {"type": "linear"}}, "rope_type='linear' needs factor"),
    ({"rope_scaling": {"type": "linear", "factor": "2"}}, "factor='2': give a number above 0"),
    ({"rope_scaling": {"type": "linear", "factor": -2}}, "factor=-2: give a number above 0"),
    ({"rope_scaling": "linear"}, "rope_scaling='linear': give a mapping"), ({"rope_theta": 0}, "rope_theta=0"),
    ({"rope_scaling": {"type": "linear", "factor": 2.0}, "rope_parameters": {"rope_type": "default"}},
     "contradict each other; give one"),
    ({"rope_parameters": {"full_attention": {"rope_type": "default"}}}, "has settings for 'full_attention'"),
    ({"rope_parameters": {"partial_rotary_factor": 0.5}}, "partial_rotary_factor=0.5"),
    ({"rope_scaling": {"type": "llama3", "factor": 8.0, "low_freq_factor": 4.0, "high_freq_factor": 1.0}},
     "high_freq_factor is at most low_freq_factor")])
def test_a_configuration_that_cannot_be(fields, words):
    with pytest.raises(haiku_mup.MupError, match=f"LlamaConfig: .*{words}"):
        dataclasses.replace(LLAMA, **fields)


@pytest.mark.parametrize("model_type", ["mistral", "qwen2", "qwen3", "gemma"])
def test_its_relatives_are_refused_by_name(model_type, tmp_path):
    models.save_pretrained(tmp_path, LLAMA, drawn("LlamaForCausalLM", LLAMA))
    values = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**values, "model_type": model_type}))
    with pytest.raises(haiku_mup.MupError, match=f"model_type is '{model_type}'; .*gpt2, bert, roberta, llama"):
        models.load_pretrained(tmp_path)


@pytest.mark.parametrize("place", ["partial_rotary_factor", "rope_parameters"])
def test_heads_that_are_rotated_in_part_are_refused(place, tmp_path):
    """Covers both places of the field: of earlier versions of transformers, and today's."""
    LLAMA.to_json(tmp_path)
    values = json.loads((tmp_path / "config.json").read_text())
    half = {"partial_rotary_factor": 0.5}
    values[place] = values[place] | half if place in values else half[place]
    (tmp_path / "config.json").write_text(json.dumps(values))
    with pytest.raises(haiku_mup.MupError, match=r"partial_rotary_factor=0\.5: these models .*transformers"):
        models.LlamaConfig.from_json(tmp_path)


def test_an_original_length_beside_the_settings_counts(tmp_path):
    """As in transformers; two that contradict each other are refused, and types without one don't read it."""
    def read(scaling):
        LLAMA.to_json(tmp_path)
        values = json.loads((tmp_path / "config.json").read_text()) | {
            "rope_scaling": scaling, "original_max_position_embeddings": 64}
        del values["rope_parameters"]
        (tmp_path / "config.json").write_text(json.dumps(values))
        return models.LlamaConfig.from_json(tmp_path)

    name, yarn = "original_max_position_embeddings", {"type": "yarn", "factor": 2.0}
    found = read(yarn)
    assert found.rope_parameters[name] == 64 and found == read(yarn | {name: 64}) != read(None)
    found.to_json(tmp_path)
    assert models.LlamaConfig.from_json(tmp_path) == found
    assert json.loads((tmp_path / "config.json").read_text())[name] == 64
    with pytest.raises(haiku_mup.MupError, match="is 32 in the settings of rope, and 64 beside them; give one"):
        read(yarn | {name: 32})
    assert name not in read({"type": "linear", "factor": 2.0}).rope_parameters


@pytest.mark.parametrize("ids, inputs, words", [
    (IDS + 2, {}, "input_ids: 11 is outside of 0 to 10"), (IDS, {"position_ids": -IDS}, "position_ids: -9 is"),
    (IDS, {"position_ids": IDS[:, :3]}, r"position_ids: shape \(2, 3\), and input_ids have \(2, 5\)"),
    (IDS, {"token_type_ids": IDS}, "token_type_ids: Llama has no token types"),
    (IDS, {"attention_mask": np.ones(5)}, r"attention_mask: shape \(5,\)")])
def test_inputs_that_cannot_be(ids, inputs, words):
    with pytest.raises(haiku_mup.MupError, match=words):
        shapes("LlamaForCausalLM", LLAMA, ids, **inputs)


def test_several_sequences_without_padding_have_no_last_token():
    config = dataclasses.replace(LLAMA, pad_token_id=None)
    with pytest.raises(haiku_mup.MupError, match="several sequences, and pad_token_id=None.* pad_token_id"):
        shapes("LlamaForSequenceClassification", config)
    shapes("LlamaForSequenceClassification", config, IDS[:1])
    shapes("LlamaForSequenceClassification", dataclasses.replace(config, pad_token_id=0))   # the remedy


# --- settings of rotary embeddings ---

OLD = {"rope_theta": 5e5, "rope_scaling": {"type": "linear", "factor": 2.0}}
NEW = {"rope_parameters": {"rope_type": "linear", "rope_theta": 5e5, "factor": 2.0}}


def test_both_forms_of_rope_settings_are_one(tmp_path):
    one, two, both = (dataclasses.replace(LLAMA, **form) for form in (OLD, NEW, OLD | NEW))
    assert one == two == both != LLAMA and hash(one) == hash(two)
    assert one.rope_parameters == NEW["rope_parameters"]
    lower = dataclasses.replace(one, rope_theta=1e4)
    assert lower.rope_parameters == NEW["rope_parameters"] | {"rope_theta": 1e4}
    assert dataclasses.replace(one, rope_parameters={"rope_type": "default"}) == LLAMA
    other = dataclasses.replace(one, rope_scaling={"rope_type": "dynamic", "factor": 3.0}, hidden_size=32)
    assert other.rope_parameters == {"rope_type": "dynamic", "rope_theta": 5e5, "factor": 3.0}
    assert models.LlamaConfig(**dataclasses.asdict(one)) == one
    one.to_json(tmp_path)
    values = json.loads((tmp_path / "config.json").read_text())
    assert values["rope_parameters"] == NEW["rope_parameters"]      # for transformers 5, and those before
    assert values["rope_theta"] == 5e5 and values["rope_scaling"] == {"rope_type": "linear", "factor": 2.0}
    assert models.LlamaConfig.from_json(tmp_path).rope_parameters == one.rope_parameters
    LLAMA.to_json(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["rope_scaling"] is None


def test_settings_that_other_programs_need_are_kept():
    scaling = {"type": "yarn", "factor": 2.0, "finetuned": True, "sections": [1, 2]}
    config = dataclasses.replace(LLAMA, rope_scaling=scaling)
    assert hash(config) and config.rope_parameters == {
        "rope_type": "yarn", "factor": 2.0, "finetuned": True, "sections": [1, 2],
        "rope_theta": 1e4, "original_max_position_embeddings": 2048}


# --- what a configuration says ---

@pytest.mark.parametrize("fields", [
    {}, {"num_key_value_heads": None}, {"head_dim": 6, "attention_bias": True, "mlp_bias": True}])
def test_sizes_of_parameters(fields):
    config = dataclasses.replace(LLAMA, layer_stack=True, **fields)
    found, block = shapes("LlamaForCausalLM", config), f"{LM}/model/layers/block"
    keys = 4 if "num_key_value_heads" in fields else 2
    heads, groups = 4 * config.key_size, keys * config.key_size
    assert found[f"{block}/self_attn/query"]["w"].shape == (2, 8, heads)
    assert found[f"{block}/self_attn/key"]["w"].shape == found[f"{block}/self_attn/value"]["w"].shape == (
        2, 8, groups)
    assert found[f"{block}/self_attn/linear"]["w"].shape == (2, heads, 8)
    assert found[f"{block}/gate_proj"]["w"].shape == found[f"{block}/up_proj"]["w"].shape == (2, 8, 12)
    biases = {name.rpartition("/")[2] for name, leaves in found.items() if "b" in leaves}
    assert biases == ({"query", "key", "value", "linear", "gate_proj", "up_proj", "down_proj"}
                      if "attention_bias" in fields else set())


def test_dropout_needs_a_key_and_training():
    config = dataclasses.replace(LLAMA, layer_stack=True, initializer_range=0.5, attention_dropout=0.5)
    params = drawn("LlamaForCausalLM", config)

    @functools.partial(jax.jit, static_argnums=0)
    def applied(is_training, key):
        return made("LlamaForCausalLM", config, is_training=is_training).apply(params, key, IDS)

    plain, one, two = applied(False, None), applied(True, jax.random.key(0)), applied(True, jax.random.key(1))
    assert not equal(one, two) and not equal(one, plain)
    with pytest.raises(ValueError, match="PRNG|rng"):
        applied(True, None)


def test_nobody_sees_what_comes_later_or_padding():
    params = drawn("LlamaForCausalLM", LLAMA)
    mask = np.array([[1, 1, 1, 1, 1], [0, 1, 1, 1, 1]])

    @jax.jit
    def logits(ids):
        return made("LlamaForCausalLM", LLAMA, attention_mask=mask).apply(params, None, ids)

    out = logits(IDS)
    assert (logits(with_entry(IDS, (0, 3), 1))[0, :3] == out[0, :3]).all()
    assert (logits(with_entry(IDS, (1, 0), 1))[1, 1:] == out[1, 1:]).all()
    assert not (logits(with_entry(IDS, (0, 1), 5))[0, 2:] == out[0, 2:]).all()


def with_entry(ids, place, value):
    ids = np.array(ids)
    ids[place] = value
    return ids


def test_a_long_sequence_is_no_error():
    config = dataclasses.replace(LLAMA, max_position_embeddings=3)
    assert shapes("LlamaForCausalLM", config)


def test_half_precision_norms_and_softmax_are_computed_in_single():
    params = jax.tree.map(lambda x: jnp.asarray(x, jnp.bfloat16), drawn("LlamaForCausalLM", LLAMA))
    apply = functools.partial(made("LlamaForCausalLM", LLAMA).apply, params, None)
    assert jax.eval_shape(apply, IDS).dtype == jnp.bfloat16
    text = str(jax.make_jaxpr(apply)(IDS))
    for primitive in ("rsqrt", "exp ", "cos", "sin"):
        lines = [line for line in text.splitlines() if f" = {primitive}" in line]
        assert lines and all("f32" in line for line in lines), primitive


# --- factors, by hand ---

# width, feed-forward width (8/3 of it, rounded up to a multiple of 64), heads, groups, size of a head
BASE, TARGET = (64, 192, 4, 2, 16), (256, 704, 8, 4, 32)
STAYS = (256, 704, 16, 2, 16)


def sized(width, inner, heads, groups, size, **fields):
    return dataclasses.replace(LLAMA, hidden_size=width, intermediate_size=inner, num_attention_heads=heads,
                               num_key_value_heads=groups, head_dim=size, **fields)


def table(target, name="LlamaForCausalLM", base=BASE, parametrization=None, **fields):
    """Returns {parameter of a block, or of the model: (role, std, multiplier, Adam's lr, SGD's lr)}."""
    mup = haiku_mup.Mup(parametrization=parametrization or haiku_mup.maximal_update())
    with mup.init_base():
        shapes(name, sized(*base, **fields))
    with mup.init_target():
        shapes(name, sized(*target, **fields))
    found = {}
    for row in mup.table():
        assert not row.inferred
        short = row.name.partition("/")[2].removeprefix("model/").removeprefix("layers_0/")
        if not short.startswith("layers_1/"):
            std = row.target_std / row.base_std if row.base_std else None
            found[short] = row.role, std, row.multiplier, row.adam_lr, row.sgd_lr
    return found


def close(found, wanted):
    assert found.keys() == wanted.keys()
    for name, (role, *numbers) in wanted.items():
        assert found[name][0] == role, name
        assert found[name][1:] == pytest.approx(numbers, nan_ok=True), name


INPUT, GAIN = ("input", 1.0, 1.0, 1.0, 4.0), ("input", None, 1.0, 1.0, 4.0)
HIDDEN = ("hidden", 0.5, 1.0, 0.25, 1.0)
INTO, OUT_OF = ("hidden", 0.5, 1.0, 1 / 4, 11 / 12), ("hidden", (3 / 11)**0.5, 1.0, 3 / 11, 12 / 11)
OUTPUT = ("output", 1.0, 0.25, 1.0, 4.0)
GROWS = {
    "embed_tokens/embeddings": INPUT, "norm/scale": GAIN, "input_layernorm/scale": GAIN,
    "post_attention_layernorm/scale": GAIN, "self_attn/query/w": ("hidden", 0.5, 0.5**0.5, 0.25, 1.0),
    "self_attn/key/w": HIDDEN, "self_attn/value/w": HIDDEN, "self_attn/linear/w": HIDDEN,
    "gate_proj/w": INTO, "up_proj/w": INTO, "down_proj/w": OUT_OF, "lm_head/w": OUTPUT}


def test_factors_of_every_parameter():
    """Heads grow in size and in number, groups in number; the feed-forward layer grows 11/3 times."""
    close(table(TARGET), GROWS)


def test_factors_where_groups_stay():
    """Keys and values are outputs then; heads keep their size, and so logits their multiplier."""
    close(table(STAYS), GROWS | {"self_attn/query/w": HIDDEN, "self_attn/key/w": OUTPUT,
                                 "self_attn/value/w": OUTPUT})


def test_factors_of_tied_embeddings():
    tied = {name: row for name, row in GROWS.items() if name != "lm_head/w"}
    close(table(TARGET, tie_word_embeddings=True), tied | {"embed_tokens/embeddings": (
        "input", 1.0, 0.25, 1.0, 4.0)})


def test_factors_of_biases():
    """A bias of keys that stay is fixed; those of growing sizes are inputs."""
    found = table(STAYS, attention_bias=True, mlp_bias=True)
    fixed = ("fixed", None, 1.0, 1.0, 1.0)
    biases = {name: row for name, row in found.items() if name.endswith("/b")}
    close(biases, {
        "self_attn/query/b": GAIN, "self_attn/key/b": fixed, "self_attn/value/b": fixed,
        "self_attn/linear/b": GAIN, "down_proj/b": GAIN,
        **{f"{name}/b": ("input", None, 1.0, 1.0, 11 / 3) for name in ("gate_proj", "up_proj")}})


def test_factors_of_classes_and_of_the_bare_model():
    bare = {name: row for name, row in GROWS.items() if name != "lm_head/w"}
    close(table(TARGET, "LlamaModel"), {name: row for name, row in bare.items()})
    close(table(TARGET, "LlamaForSequenceClassification"), bare | {"score/w": OUTPUT})


def test_one_key_for_all_heads_that_grows_in_size_is_hidden():
    base, target = (64, 192, 4, 1, 16), (256, 704, 4, 1, 64)
    close(table(target, base=base), GROWS | {"self_attn/query/w": ("hidden", 0.5, 0.5, 0.25, 1.0)})


def test_queries_of_heads_that_stay_are_refused_with_a_remedy_that_helps():
    with pytest.raises(haiku_mup.MupError, match=r"self_attn/query/w.*Mup\(readouts=") as refused:
        table((256, 704, 4, 2, 16))
    assert "from a growing to a fixed width" in str(refused.value)
    mup = haiku_mup.Mup(readouts="*/self_attn/query")
    for context, sizes in ((mup.init_base, BASE), (mup.init_target, (256, 704, 4, 2, 16))):
        with context():
            shapes("LlamaForCausalLM", sized(*sizes))
    rows = {row.name.partition("layers_0/")[2]: row for row in mup.table()}
    assert rows["self_attn/query/w"].role == "output" and rows["self_attn/query/w"].multiplier == 0.25
    assert rows["self_attn/linear/w"].role == "input"


def test_depth():
    """α = 1: Adam's rates in blocks stay, and each branch is multiplied by 1/r."""
    parametrization = haiku_mup.maximal_update(depth_alpha=1.0)
    mup = haiku_mup.Mup(parametrization=parametrization)
    for context, layers in ((mup.init_base, 2), (mup.init_target, 8)):
        with context():
            shapes("LlamaForCausalLM", dataclasses.replace(LLAMA, num_hidden_layers=layers, layer_stack=True))
    depths = {row.name.partition("/model/")[2]: row.depth for row in mup.table()}
    assert {depth for name, depth in depths.items() if "layers/block" in name} == {4.0}
    assert {depth for name, depth in depths.items() if "layers/block" not in name} == {1.0}


def test_at_the_base_nothing_changes():
    config = dataclasses.replace(LLAMA, layer_stack=True)
    mup = haiku_mup.Mup()
    for context in (mup.init_base, mup.init_target):
        with context():
            shapes("LlamaForCausalLM", config)
    plain, wrapped = made("LlamaForCausalLM", config), mup.wrap_model(made("LlamaForCausalLM", config))
    params = jax.jit(plain.init)(KEY, IDS)
    assert equal(params, jax.jit(wrapped.init)(KEY, IDS))
    assert equal(jax.jit(plain.apply)(params, None, IDS), jax.jit(wrapped.apply)(params, None, IDS))


@pytest.mark.parametrize("form", [
    "table9", *(pytest.param(form, marks=pytest.mark.slow) for form in ("table3", "mean_field"))])
def test_forms_of_keys_that_stay_train_alike(form, x64):
    """Two forms, one trajectory: of three steps of AdamW, with keys and values as outputs."""
    losses = {}
    for name in ("table8", form):
        losses[name] = trained(haiku_mup.maximal_update(name))
    np.testing.assert_allclose(losses[form], losses["table8"], rtol=1e-6)       # of draws in single precision
    assert losses[form][-1] < losses[form][0] - 0.01


def trained(parametrization):
    """Returns the losses of four steps of a model whose groups stay, from one draw of Table 8's parameters."""
    base, target = ((8, 12, 2, 1, 4), (16, 24, 4, 1, 4))
    mup, reference = (haiku_mup.Mup(parametrization=form)
                      for form in (parametrization, haiku_mup.maximal_update()))
    for each in (mup, reference):
        for context, sizes in ((each.init_base, base), (each.init_target, target)):
            with context():
                shapes("LlamaForCausalLM", sized(*sizes, layer_stack=True))
    make = made("LlamaForCausalLM", sized(*target, layer_stack=True))
    model, optimizer = mup.wrap_model(make), mup.wrap_optimizer(optax.adamw(0.01, weight_decay=0.1))

    @functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
    def losses():
        params = jax.tree.map(lambda x: x.astype("float64"), model.init(KEY, IDS))

        def step(carry, _):
            params, state = carry
            loss, grads = jax.value_and_grad(lambda params: models.cross_entropy(
                model.apply(params, None, IDS), models.next_tokens(IDS)))(params)
            updates, state = optimizer.update(grads, state, params)
            return (optax.apply_updates(params, updates), state), loss

        return jax.lax.scan(step, (params, optimizer.init(params)), length=4)[1]

    return losses()


# --- weights ---

def old_buffers(found):
    return found | {f"model.layers.{i}.self_attn.rotary_emb.inv_freq": np.ones(1, np.float32) for i in range(2)}


def with_copy(found):
    return found | {"lm_head.weight": found["model.embed_tokens.weight"].copy()}


def copy_alone(found):
    found["lm_head.weight"] = found.pop("model.embed_tokens.weight")
    return found


def unprefixed(found):
    return {name.removeprefix("model."): x for name, x in found.items()}


@pytest.mark.parametrize("tied, change", [
    (False, dict), (False, old_buffers), (False, unprefixed), (True, dict), (True, with_copy),
    (True, copy_alone)])
def test_weights_as_they_are_published(tied, change, tmp_path):
    config = dataclasses.replace(LLAMA, tie_word_embeddings=tied)
    params = drawn("LlamaForCausalLM", config)
    models.save_pretrained(tmp_path, config, params)
    found = dict(load_file(tmp_path / "model.safetensors"))
    assert "model.layers.1.self_attn.k_proj.weight" in found and ("lm_head.weight" in found) == (not tied)
    save_file(change(found), tmp_path / "model.safetensors")
    again, same = models.load_pretrained(tmp_path)
    assert equal(params, same)
    assert again == dataclasses.replace(config, head_dim=2)


def test_a_readout_that_is_missing_is_named(tmp_path):
    models.save_pretrained(tmp_path, LLAMA, drawn("LlamaForCausalLM", LLAMA))
    found = dict(load_file(tmp_path / "model.safetensors"))
    del found["lm_head.weight"]
    save_file(found, tmp_path / "model.safetensors")
    with pytest.raises(haiku_mup.MupError, match="missing: lm_head.weight"):
        models.load_pretrained(tmp_path)
    _, params = models.load_pretrained(tmp_path, new=["lm_head.*"])
    assert f"{LM}/lm_head" not in params
    models.load_pretrained(tmp_path, models.LlamaForSequenceClassification, new=["score.*"])


@pytest.mark.parametrize("name", NAMES)
def test_half_precision_stacked_or_not_is_one_checkpoint(name, tmp_path):
    stacked = dataclasses.replace(LLAMA, layer_stack=True)
    params = jax.tree.map(lambda x: jnp.asarray(x, jnp.bfloat16), drawn(name, stacked))
    models.save_pretrained(tmp_path / "one", stacked, params)
    config, separate = models.load_pretrained(tmp_path / "one")
    models.save_pretrained(tmp_path / "two", config, separate)
    assert equal(models.load_pretrained(tmp_path / "two", layer_stack=True)[1], params)


@pytest.mark.parametrize("tied, target, alpha", [
    (False, STAYS, None), *(pytest.param(*row, marks=pytest.mark.slow) for row in (
        (True, STAYS, None), (True, TARGET, 1.0), (False, TARGET, 0.5)))])
def test_a_model_in_mup_is_saved_as_one_that_computes_the_same(tied, target, alpha, tmp_path, x64):
    fields = {"tie_word_embeddings": tied, "attention_bias": True, "layer_stack": True, "attn_mult": 1.5,
              "output_mult": 0.75}
    mup = haiku_mup.Mup(parametrization=haiku_mup.maximal_update(depth_alpha=alpha))
    config = sized(*target, num_hidden_layers=4 if alpha else 2, **fields)
    for context, each in ((mup.init_base, sized(*BASE, **fields)), (mup.init_target, config)):
        with context():
            shapes("LlamaForCausalLM", each)
    params = jax.tree.map(lambda x: 0.3 * x.astype(np.float64), drawn("LlamaForCausalLM", config))
    models.save_pretrained(tmp_path, config, params, mup=mup)
    plain, loaded = models.load_pretrained(tmp_path, layer_stack=True)
    assert (plain.attn_mult, plain.output_mult) == (1, 1)
    ids = jnp.asarray(IDS)
    expected = jax.jit(mup.wrap_model(made("LlamaForCausalLM", config)).apply)(params, None, ids)
    found = jax.jit(made("LlamaForCausalLM", plain).apply)(loaded, None, ids)
    np.testing.assert_allclose(found, expected, rtol=1e-11, atol=1e-11)
    lost = jax.jit(made("LlamaForCausalLM", dataclasses.replace(config, attn_mult=1.0)).apply)
    assert not np.allclose(lost(params, None, ids), expected, rtol=1e-2)


def test_zero_at_the_start():
    config = dataclasses.replace(LLAMA, readout_zero_init=True, query_zero_init=True)
    params = hk.data_structures.to_mutable_dict(made("LlamaForCausalLM", config).init(KEY, IDS))
    assert not params[f"{LM}/lm_head"]["w"].any()
    assert not params[f"{LM}/model/layers_0/self_attn/query"]["w"].any()
    assert params[f"{LM}/model/layers_0/self_attn/key"]["w"].any()
    assert math.isclose(float(params[f"{LM}/model/norm"]["scale"].mean()), 1)


@pytest.mark.slow
@pytest.mark.skipif("TORCH_PYTHON" not in os.environ, reason="TORCH_PYTHON names no Python with transformers")
def test_transformers_loads_what_is_saved_and_back(tmp_path):
    """Checks that it misses nothing, warns of nothing, computes the same, and writes what is read here."""
    expected = {}
    for number, (name, fields) in enumerate(itertools.product(NAMES, (
            {"tie_word_embeddings": True, "attention_bias": True, "eos_token_id": [2, 3], "bos_token_id": 1},
            {"rope_theta": 5e5, "rope_scaling": {"rope_type": "linear", "factor": 2.0}, "head_dim": 6},
            {"rope_scaling": {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0,
                              "high_freq_factor": 4.0, "original_max_position_embeddings": 64}}))):
        config = dataclasses.replace(LLAMA, layer_stack=bool(number % 2), num_labels=3, **fields)
        params = jax.tree.map(lambda x: jnp.asarray(0.3 * x, jnp.float32), drawn(name, config))
        folder = tmp_path / str(number)
        models.save_pretrained(folder, config, params)
        np.savez(folder / "inputs.npz", input_ids=IDS)
        expected[folder] = config, params, jax.jit(made(name, config).apply)(params, None, IDS)
    script = pathlib.Path(__file__).parents[1] / "reference" / "golden" / "make_llama.py"
    subprocess.run([os.environ["TORCH_PYTHON"], script, *map(str, expected)], check=True)
    for folder, (config, params, out) in expected.items():
        found = dict(np.load(folder / "outputs.npz"))
        assert json.loads(str(found["problems"])) == {} and str(found["dtype"]) == "torch.float32"
        ids = json.loads(str(found["ids"]))
        if "CausalLM" in json.loads((folder / "config.json").read_text())["architectures"][0]:
            assert ids == {"bos_token_id": config.bos_token_id, "eos_token_id": config.eos_token_id,
                           "pad_token_id": config.pad_token_id}
        key = "logits" if hasattr(out, "shape") else "last_hidden_state"
        np.testing.assert_allclose(found[key], getattr(out, key, out), rtol=1e-5, atol=1e-5)
        again, same = models.load_pretrained(folder / "again", layer_stack=config.layer_stack)
        assert equal(same, params)
        assert again == dataclasses.replace(config, head_dim=config.key_size)
        assert (again.bos_token_id, again.eos_token_id) == (config.bos_token_id, config.eos_token_id)
