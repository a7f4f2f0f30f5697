"""Llama computes what Hugging Face's does, in every form of rotary embeddings and of grouped queries.

golden/make_llama.py wrote the numbers; golden/llama_cases.py holds what both sides share.
"""
import dataclasses
import functools
import importlib.util
import json
import pathlib

import haiku as hk
import jax
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import haiku_mup
from haiku_mup import models

HERE = pathlib.Path(__file__).parent / "golden"


def load(path):
    """Loads the module in a file, whatever pytest's import mode."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


cases = load(HERE / "llama_cases.py")
ARRAYS = dict(np.load(HERE / "llama.npz"))
SHAPES = json.loads((HERE / "llama.json").read_text())["shapes"]
FAST = {"xla_backend_optimization_level": 0}
RTOL, SINGLE = 1e-9, 2e-5       # of the largest entry, in double and in single precision


def checkpoint(folder, name, dtype):
    """Writes a directory as transformers would have written it."""
    case = cases.CASES[name]
    tensors = {key: x.astype(dtype) for key, x in cases.weights(SHAPES[name]).items()}
    save_file(tensors, folder / "model.safetensors")
    values = {**cases.config(case), "model_type": "llama", "architectures": [case.model]}
    (folder / "config.json").write_text(json.dumps(values))


def computed(folder, name, padding, dtype, **ours):
    """Computes {what: array} of one case: loss, outputs, and projections of the gradient of each tensor."""
    case = cases.CASES[name]
    checkpoint(folder, name, dtype)
    config, params = models.load_pretrained(folder, layer_stack=ours.get("layer_stack", False))
    inputs, labels = cases.data(case, padding)

    def fn(**inputs):
        with haiku_mup.apply_mup():
            return getattr(models, case.model)(dataclasses.replace(config, **ours))(**inputs)

    apply = hk.without_apply_rng(hk.transform(fn)).apply

    @functools.partial(jax.jit, compiler_options=FAST)
    @functools.partial(jax.value_and_grad, has_aux=True)
    def step(params):
        if case.model == "LlamaModel":
            out = apply(params, **inputs, output_hidden_states=True)
            loss = (out.last_hidden_state * cases.cotangent(out.last_hidden_state.shape)).sum()
            return loss, {f"hidden_{i}": x for i, x in enumerate(out.hidden_states)}
        out = apply(params, **inputs)
        shifted = labels if out.ndim == 2 else models.next_tokens(labels)
        return models.cross_entropy(out, shifted), {"logits": out}

    (loss, outputs), grads = step(params)
    models.save_pretrained(folder / "gradient", config, grads)
    found = load_file(folder / "gradient" / "model.safetensors")
    assert {key: list(x.shape) for key, x in found.items()} == SHAPES[name]
    return {"loss": loss, **outputs, "gradient": cases.projections(found)}


def errors(found, name, padding):
    """Returns {what: the largest difference, relative to the largest entry}."""
    key = f"{name} {padding} "
    golden = {what.removeprefix(key): x for what, x in ARRAYS.items() if what.startswith(key)}
    assert found.keys() == golden.keys() and {"loss", "gradient"} < golden.keys()
    assert all(np.shape(found[what]) == x.shape for what, x in golden.items())
    return {what: float(np.abs(found[what] - x).max() / np.abs(x).max()) for what, x in golden.items()}


def rows(*default):
    """Returns every case, with each padding; those that are not named are slow."""
    return [pytest.param(name, padding, marks=() if (name, padding) in default else pytest.mark.slow)
            for name in cases.CASES for padding in cases.PADDINGS]


@pytest.mark.parametrize("name, padding", rows(("grouped", "left"), ("llama3", "right"), ("tied", "none")))
def test_equals_transformers(name, padding, x64, tmp_path):
    found = errors(computed(tmp_path, name, padding, np.float64), name, padding)
    assert max(found.values()) < RTOL, found


@pytest.mark.parametrize("name, padding", rows(("yarn", "left")))
def test_equals_transformers_in_single_precision_stacked_and_computed_anew(name, padding, tmp_path):
    found = errors(computed(tmp_path, name, padding, np.float32, layer_stack=True, remat=True), name, padding)
    assert max(found.values()) < SINGLE, found


@pytest.mark.slow
@pytest.mark.parametrize("name, ours", [
    ("grouped", {"attn_mult": 1.01}), ("grouped", {"rms_norm_eps": 1e-5}), ("grouped", {"pad_token_id": None}),
    ("grouped", {"hidden_act": "gelu"}), ("grouped", {"rope_theta": 9000.0}), ("classes", {"pad_token_id": 3}),
    ("llama3", {"rope_scaling": {**cases.LLAMA3, "high_freq_factor": 4.1}}), ("dynamic", {
        "rope_parameters": {"rope_theta": 50.0}}), ("dynamic", {"max_position_embeddings": 9}),
    ("yarn", {"rope_scaling": {**cases.YARN, "beta_fast": 31.0, "truncate": False}}),
    ("yarn", {"rope_scaling": {**cases.YARN, "attention_factor": 1.1}})])
def test_differs_when_wrong(name, ours, x64, tmp_path):
    """A setting that is left out or changed: such differences are seen."""
    found = errors(computed(tmp_path, name, "none", np.float64, **ours), name, "none")
    assert found["gradient"] > 1e3 * RTOL, found
