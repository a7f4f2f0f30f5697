"""Weights: read from what transformers writes and written as it reads them; nothing is guessed."""
import builtins
import dataclasses
import json
import os
import pathlib
import subprocess

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from small_models import KEY
from small_transformers import BERT, GPT2, IDS, ROBERTA, captured, drawn, made, shapes, split_in_two, wider
from trees import equal

import haiku_mup
from haiku_mup import models
from haiku_mup.models.huggingface.names import ARCHITECTURES

ALL = [(name, config) for config, architecture in zip((GPT2, BERT, ROBERTA), ARCHITECTURES.values())
       for name in architecture.model_classes]
HEADS = [(name, config) for name, config in ALL if not name.endswith("tModel") and name != "GPT2Model"
         and name != "RobertaModel"]


def saved(folder, name="GPT2LMHeadModel", config=GPT2):
    params = drawn(name, config)
    models.save_pretrained(folder, config, params)
    return params


def edit(folder, change):
    """Writes the directory's tensors anew, as `change` leaves them."""
    found = dict(load_file(folder / "model.safetensors"))
    save_file(change(found) or found, folder / "model.safetensors")


def configure(folder, **values):
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


# --- there and back ---

@pytest.mark.parametrize("stacked, tied", [
    (True, True), *(pytest.param(*row, marks=pytest.mark.slow)
                    for row in ((False, False), (False, True), (True, False)))])
@pytest.mark.parametrize("name, config", ALL)
def test_what_is_saved_comes_back(name, config, stacked, tied, tmp_path):
    config = dataclasses.replace(config, layer_stack=stacked, tie_word_embeddings=tied)
    params = saved(tmp_path, name, config)
    again, same = models.load_pretrained(tmp_path, layer_stack=stacked)
    assert again == config and equal(params, same)


def test_stacked_or_not_is_one_checkpoint(tmp_path):
    params = saved(tmp_path / "one")
    others = {"eos_token_id": 2, "id2label": {"0": "no", "1": "yes"}}
    configure(tmp_path / "one", **others)
    config, stacked = models.load_pretrained(tmp_path / "one", layer_stack=True)
    assert stacked["gpt2_lm_head_model/transformer/h/block/c_fc"]["w"].shape == (2, 8, 32)
    models.save_pretrained(tmp_path / "two", config, stacked)
    again, same = models.load_pretrained(tmp_path / "two")
    assert equal(params, same)
    assert others.items() <= again.other_fields.items()


def test_a_model_of_another_name(tmp_path):
    params = drawn("GPT2LMHeadModel", GPT2)
    renamed = {f"lm/{module.partition('/')[2]}": leaves for module, leaves in params.items()}
    models.save_pretrained(tmp_path, GPT2, renamed, model=models.GPT2LMHeadModel, name="lm")
    assert equal(models.load_pretrained(tmp_path, name="lm")[1], renamed)
    with pytest.raises(haiku_mup.MupError, match="of lm, where one of gpt2_model, gpt2_lm_head_model"):
        models.save_pretrained(tmp_path, GPT2, renamed)


def test_a_file_in_parts(tmp_path):
    params = saved(tmp_path)
    split_in_two(tmp_path, "a.safetensors", "b.safetensors")
    assert equal(models.load_pretrained(tmp_path)[1], params)
    (tmp_path / "b.safetensors").unlink()
    with pytest.raises(haiku_mup.MupError, match="no b.safetensors in it"):
        models.load_pretrained(tmp_path)


def test_half_precision_stays(tmp_path):
    params = jax.tree.map(lambda x: jnp.asarray(x, jnp.bfloat16), drawn("GPT2LMHeadModel", GPT2))
    models.save_pretrained(tmp_path, GPT2, params)
    assert equal(models.load_pretrained(tmp_path)[1], params)


# --- as they are published ---

def unprefixed(found):
    return {name.removeprefix("transformer.").removeprefix("bert."): x for name, x in found.items()}


def old_norms(found):
    return {name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"): x
            for name, x in found.items()}


def with_buffers(found):
    mask = np.tril(np.ones((1, 1, 6, 6), np.float32))
    return found | {"transformer.h.0.attn.bias": mask, "transformer.h.1.attn.masked_bias": mask[0, 0, 0, :1]}


def with_copies(found):
    return found | {"lm_head.weight": found["transformer.wte.weight"].copy()}


def with_berts_copies(found):
    return found | {"cls.predictions.decoder.weight": found["bert.embeddings.word_embeddings.weight"].copy(),
                    "cls.predictions.decoder.bias": found["cls.predictions.bias"].copy(),
                    "bert.embeddings.position_ids": np.arange(6)[None]}


def copy_alone(found):
    found["cls.predictions.decoder.bias"] = found.pop("cls.predictions.bias")


@pytest.mark.parametrize("name, config, change", [
    ("GPT2LMHeadModel", GPT2, unprefixed), ("GPT2LMHeadModel", GPT2, with_buffers),
    ("GPT2LMHeadModel", GPT2, with_copies), ("BertForPreTraining", BERT, old_norms),
    ("BertForPreTraining", BERT, with_berts_copies), ("BertForMaskedLM", BERT, copy_alone),
    ("BertForSequenceClassification", BERT, unprefixed)])
def test_other_names_of_the_same(name, config, change, tmp_path):
    params = saved(tmp_path, name, config)
    edit(tmp_path, change)
    assert equal(models.load_pretrained(tmp_path)[1], params)


@pytest.mark.parametrize("twin", ["only one", "another"])
def test_an_untied_readout_has_the_bias_that_transformers_reads(twin, tmp_path):
    config = dataclasses.replace(BERT, tie_word_embeddings=False)
    params = saved(tmp_path, "BertForMaskedLM", config)
    edit(tmp_path, drop("cls.predictions.decoder.bias") if twin == "only one" else
         lambda found: found | {"cls.predictions.bias": np.ones(11, np.float32)})
    assert equal(models.load_pretrained(tmp_path)[1], params)


def test_a_new_head(tmp_path):
    """Loads a classification from a pre-trained model: the head is from the init, all else from the file."""
    saved(tmp_path, "BertForPreTraining", BERT)
    with pytest.raises(haiku_mup.MupError, match="missing: classifier.bias, classifier.weight; left over: cls"):
        models.load_pretrained(tmp_path, models.BertForSequenceClassification)
    config, params = models.load_pretrained(
        tmp_path, models.BertForSequenceClassification, ignore=["cls.*"], new=["classifier.*"])
    wanted = shapes("BertForSequenceClassification", config)
    assert wanted.keys() - params.keys() == {"bert_for_sequence_classification/classifier"}


def test_what_is_new_of_a_stack_is_new_as_a_whole(tmp_path):
    saved(tmp_path)
    edit(tmp_path, drop("transformer.h.1.ln_1.bias"))
    _, params = models.load_pretrained(tmp_path, layer_stack=True, new=["h.1.ln_1.bias"])
    assert params["gpt2_lm_head_model/transformer/h/block/ln_1"].keys() == {"scale"}


# --- what can't be ---

def drop(name):
    return lambda found: {key: x for key, x in found.items() if key != name}


def add(name, shape=(2,)):
    return lambda found: found | {name: np.ones(shape, np.float32)}


@pytest.mark.parametrize("change, words", [
    (drop("transformer.h.1.ln_1.bias"), r"GPT2LMHeadModel does not.*missing: h.1.ln_1.bias; .*new=\[globs\]"),
    (add("extra"), "left over: extra;"),
    (add("transformer.wpe.weight", (7, 8)), r"of another shape: wpe.weight \(7, 8\), where \(6, 8\) is wanted"),
    (add("wpe.weight", (6, 8)), "two tensors are 'wpe.weight'"),
    (add("lm_head.weight", (11, 8)), "'lm_head.weight' and 'wte.weight' differ, and tie_word_embeddings is"),
    (lambda found: {f"x{i}": x for i, x in enumerate(found.values())},
     "missing: .* and [0-9]+ more; left over: .* and [0-9]+ more; load another")])
def test_tensors_that_do_not_fit(change, words, tmp_path):
    saved(tmp_path)
    edit(tmp_path, change)
    with pytest.raises(haiku_mup.MupError, match=words):
        models.load_pretrained(tmp_path)


def test_every_tensor_that_does_not_fit_is_named(tmp_path):
    saved(tmp_path)
    edit(tmp_path, lambda found: add("extra")(drop("transformer.ln_f.bias")(found)))
    with pytest.raises(haiku_mup.MupError, match="missing: ln_f.bias; left over: extra"):
        models.load_pretrained(tmp_path)


@pytest.mark.parametrize("values, model, words", [
    ({"model_type": "opt"}, None, "model_type is 'opt'; there are models here for gpt2, bert, roberta, llama"),
    ({"architectures": ["GPT2DoubleHeadsModel"]}, None, "'GPT2DoubleHeadsModel'; say which.* models.GPT2M"),
    ({"architectures": None}, None, "names the model None"),
    ({}, models.BertModel, "model_type is 'gpt2', and BertModel is none of its models: GPT2M"),
    ({"reorder_and_upcast_attn": True}, None, "config.json: reorder_and_upcast_attn=True")])
def test_another_architecture(values, model, words, tmp_path):
    saved(tmp_path)
    configure(tmp_path, **values)
    with pytest.raises(haiku_mup.MupError, match=words):
        models.load_pretrained(tmp_path, model)


def test_a_directory_without_weights(tmp_path):
    with pytest.raises(haiku_mup.MupError, match="no such directory; .*hf download"):
        models.load_pretrained(tmp_path / "gpt2")
    with pytest.raises(haiku_mup.MupError, match="no config.json in it"):
        models.load_pretrained(tmp_path)
    GPT2.to_json(tmp_path)
    configure(tmp_path, architectures=["GPT2LMHeadModel"])
    with pytest.raises(haiku_mup.MupError, match="no model.safetensors in it.*download it"):
        models.load_pretrained(tmp_path)
    (tmp_path / "pytorch_model.bin").write_bytes(b"a pickle")
    with pytest.raises(haiku_mup.MupError, match="of pytorch_model.bin make it with transformers: .*save"):
        models.load_pretrained(tmp_path)


@pytest.mark.parametrize("dtype", [None, "F8_E4M3", "F8_E8M0"])
def test_a_file_that_cannot_be_read_is_named(dtype, tmp_path):
    """Covers one that is cut off, and dtypes that NumPy lacks."""
    saved(tmp_path)
    file = tmp_path / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-9] if dtype is None else one_tensor(dtype))
    with pytest.raises(haiku_mup.MupError, match="model.safetensors: can't be read .*; download it again"):
        models.load_pretrained(tmp_path)


def one_tensor(dtype):
    """Returns a safetensors file of one byte, as the format says."""
    header = json.dumps({"x": {"dtype": dtype, "shape": [1], "data_offsets": [0, 1]}}).encode()
    return len(header).to_bytes(8, "little") + header + b"0"


def test_parameters_that_do_not_fit(tmp_path):
    params = drawn("GPT2LMHeadModel", GPT2)
    params["gpt2_lm_head_model/transformer/ln_f"]["more"] = params.pop("gpt2_lm_head_model/transformer/wpe")
    with pytest.raises(haiku_mup.MupError, match="missing: .*wpe/embeddings; left over: .*ln_f/more; give"):
        models.save_pretrained(tmp_path, GPT2, params)
    with pytest.raises(haiku_mup.MupError, match=r"of another shape: .* \(8,\), where \(32,\) is wanted"):
        models.save_pretrained(tmp_path, wider(GPT2, 4), drawn("GPT2LMHeadModel", GPT2))
    assert not os.listdir(tmp_path)


def test_without_safetensors(tmp_path, monkeypatch):
    saved(tmp_path)
    real = builtins.__import__

    def without(name, *args, **kwargs):
        if name.startswith("safetensors"):
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ImportError, match=r"pip install safetensors"):
        models.load_pretrained(tmp_path)


# --- multipliers, which other programs know nothing of ---

def in_mup(name, config):
    """Returns the configuration at the target, its Mup, and the wrapped model."""
    config = dataclasses.replace(config, attn_mult=1.5, output_mult=0.75)
    target = wider(config, 4)
    mup = captured(name, config, target)
    return target, mup, mup.wrap_model(made(name, target))


FOLDED = [(name, tied) for name, _ in HEADS for tied in (True, False)]


@pytest.mark.parametrize("name, tied", [
    pytest.param(*row, marks=() if row == ("BertForMaskedLM", True) else pytest.mark.slow) for row in FOLDED])
def test_a_model_in_mup_is_saved_as_one_that_computes_the_same(name, tied, tmp_path, x64):
    config = dataclasses.replace(dict(HEADS)[name], tie_word_embeddings=tied, layer_stack=True)
    target, mup, model = in_mup(name, config)
    params = jax.tree.map(lambda x: 0.3 * x.astype(np.float64), drawn(name, target))
    models.save_pretrained(tmp_path, target, params, mup=mup)
    plain, loaded = models.load_pretrained(tmp_path, layer_stack=True)
    assert (plain.attn_mult, plain.output_mult) == (1, 1)
    expected = jax.jit(model.apply)(params, None, IDS)
    found = jax.jit(made(name, plain).apply)(loaded, None, IDS)
    for x, y in zip(jax.tree.leaves(found), jax.tree.leaves(expected)):
        np.testing.assert_allclose(x, y, rtol=1e-12, atol=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize("name, tied", FOLDED)
def test_without_its_mup_it_computes_something_else(name, tied, tmp_path):
    config = dataclasses.replace(dict(HEADS)[name], tie_word_embeddings=tied, layer_stack=True)
    target, _, model = in_mup(name, config)
    params = drawn(name, target)
    with pytest.warns(haiku_mup.MupWarning, match="give its Mup"):
        models.save_pretrained(tmp_path, target, params)
    plain, loaded = models.load_pretrained(tmp_path, layer_stack=True)
    one, two = (jax.jit(m.apply)(p, None, IDS) for m, p in ((model, params), (made(name, plain), loaded)))
    assert not all(np.allclose(x, y, rtol=1e-2) for x, y in zip(jax.tree.leaves(one), jax.tree.leaves(two)))


@pytest.mark.parametrize("name, config, stacked", [
    ("GPT2LMHeadModel", GPT2, True), *(pytest.param(*row, marks=pytest.mark.slow) for row in (
        ("GPT2LMHeadModel", GPT2, False), ("BertModel", BERT, True), ("BertModel", BERT, False)))])
def test_multipliers_that_would_be_lost_are_told(name, config, stacked, tmp_path):
    """Covers BertModel, which has no readout: only its queries are multiplied."""
    config = dataclasses.replace(config, layer_stack=stacked)
    target, mup, _ = in_mup(name, config)
    base, params = drawn(name, config), drawn(name, target)
    with pytest.warns(haiku_mup.MupWarning, match=r"save_pretrained\(..., mup=mup\)") as said:
        models.save_pretrained(tmp_path / "lost", target, params)
    assert said[0].filename == __file__
    models.save_pretrained(tmp_path / "kept", target, params, mup=mup)      # a warning would be an error
    models.save_pretrained(tmp_path / "base", config, base)                 # of other shapes
    again = captured(name, target, target)                                  # now it is itself the base
    models.save_pretrained(tmp_path / "plain", target, params)
    assert {row.multiplier for row in again.table()} == {1.0}


def deeper(alpha, stacked, more=4):
    """Returns a GPT-2 that is deeper than its base and as wide: only its branches have multipliers."""
    base = dataclasses.replace(GPT2, layer_stack=stacked)
    target = dataclasses.replace(base, n_layer=more * base.n_layer)
    mup = haiku_mup.Mup(parametrization=haiku_mup.maximal_update(depth_alpha=alpha))
    for context, config in ((mup.init_base, base), (mup.init_target, target)):
        with context():
            shapes("GPT2LMHeadModel", config)
    return target, mup


@pytest.mark.parametrize("stacked, alpha", [
    (True, 1.0), *(pytest.param(*row, marks=pytest.mark.slow) for row in ((True, 0.5), (False, 1.0)))])
def test_a_deeper_model_is_saved_as_one_that_computes_the_same(stacked, alpha, tmp_path, x64):
    target, mup = deeper(alpha, stacked)
    params = jax.tree.map(lambda x: 0.3 * x.astype(np.float64), drawn("GPT2LMHeadModel", target))
    models.save_pretrained(tmp_path / "kept", target, params, mup=mup)
    with pytest.warns(haiku_mup.MupWarning, match="give its Mup"):
        models.save_pretrained(tmp_path / "lost", target, params)
    expected = jax.jit(mup.wrap_model(made("GPT2LMHeadModel", target)).apply)(params, None, IDS)
    plain = jax.jit(made("GPT2LMHeadModel", target).apply)
    kept, lost = (plain(models.load_pretrained(tmp_path / name, layer_stack=stacked)[1], None, IDS)
                  for name in ("kept", "lost"))
    np.testing.assert_allclose(kept, expected, rtol=1e-12, atol=1e-12)
    assert abs(lost - expected).max() > 0.01


def test_a_mup_that_weights_cannot_take(tmp_path):
    target, mup, _ = in_mup("GPT2LMHeadModel", GPT2)
    with pytest.raises(haiku_mup.MupError, match="of another model: it has not captured 'bert_for_masked_lm/"):
        models.save_pretrained(tmp_path, BERT, drawn("BertForMaskedLM", BERT), mup=mup)
    _, other, _ = in_mup("BertForMaskedLM", BERT)
    with pytest.raises(haiku_mup.MupError, match="these parameters lack 'bert_for_masked_lm/"):
        models.save_pretrained(tmp_path, target, drawn("GPT2LMHeadModel", target), mup=other)
    mup = haiku_mup.Mup(parametrization=haiku_mup.maximal_update("table9"))
    for context, config in ((mup.init_base, GPT2), (mup.init_target, target)):
        with context():
            shapes("GPT2LMHeadModel", config)
    with pytest.raises(haiku_mup.MupError, match="multiplied by .* where it is used.*maximal_update"):
        models.save_pretrained(tmp_path, target, drawn("GPT2LMHeadModel", target), mup=mup)


@pytest.mark.slow
@pytest.mark.skipif("TORCH_PYTHON" not in os.environ, reason="TORCH_PYTHON names no Python with transformers")
def test_transformers_loads_what_is_saved(tmp_path, x64):
    """Checks that it uses all tensors, misses none, and computes what the wrapped model does."""
    expected = {}
    for number, (name, tied) in enumerate(FOLDED):
        config = dataclasses.replace(dict(HEADS)[name], tie_word_embeddings=tied, layer_stack=bool(number % 2))
        target, mup, model = in_mup(name, config)
        params = jax.tree.map(lambda x: 0.3 * x.astype(np.float64), drawn(name, target))
        folder = tmp_path / f"{name} {tied}"
        models.save_pretrained(folder, target, params, mup=mup)
        np.savez(folder / "inputs.npz", input_ids=IDS)
        expected[folder] = jax.jit(model.apply)(params, KEY, IDS)
    script = pathlib.Path(__file__).parents[1] / "reference" / "golden" / "make_transformers.py"
    subprocess.run([os.environ["TORCH_PYTHON"], script, *map(str, expected)], check=True)
    for folder, out in expected.items():
        found = dict(np.load(folder / "outputs.npz"))
        assert json.loads(str(found["problems"])) == {}
        logits = out if hasattr(out, "shape") else out.prediction_logits
        key = "logits" if "logits" in found else "prediction_logits"
        np.testing.assert_allclose(found[key], logits, rtol=1e-9, atol=1e-9)
