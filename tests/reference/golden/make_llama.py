"""Writes llama.npz and llama.json: llama_cases.py's models, by Hugging Face's transformers.

Run it in an environment of its own; the tests that read the files need neither torch nor transformers:

    python -m venv torch-env && . torch-env/bin/activate
    pip install torch==2.13.0 transformers==5.24.0      # a CPU build is enough; nothing is downloaded
    python tests/reference/golden/make_llama.py

With folders as arguments it writes nothing, and loads with transformers what `save_pretrained` put in each,
beside inputs.npz, for ../../models: it saves what they compute, and what transformers warns of, as outputs.npz.
"""
import importlib.metadata
import json
import logging
import os
import pathlib
import sys
import warnings

os.environ["HF_HUB_OFFLINE"] = "1"
import llama_cases as cases
import numpy as np
import torch
import transformers
from transformers import modeling_rope_utils
from transformers.models.llama import modeling_llama

HERE = pathlib.Path(__file__).parent


class InDouble:
    """The module torch, whose float32 is float64.

    Norms, angles and the softmax of transformers' Llama are computed in float32, whatever the model's dtype.
    """

    float = float32 = torch.float64

    def __getattr__(self, name):
        return getattr(torch, name)


def in_double():
    """Makes transformers compute all of Llama in double precision."""
    modeling_llama.torch = modeling_rope_utils.torch = InDouble()
    torch.Tensor.float = torch.Tensor.double


def build(case):
    config = transformers.LlamaConfig(**cases.config(case), attn_implementation="eager")
    return getattr(transformers, case.model)(config).to(torch.float64).eval()


def saved_shapes(net):
    """Returns {name: shape} of the tensors that transformers saves: one of those that are tied."""
    kept = {name: tuple(p.shape) for name, p in net.named_parameters()}
    return {name: shape for name, shape in kept.items() if name not in net.all_tied_weights_keys}


def copy_weights(net, values):
    """Overwrites every parameter."""
    params = dict(net.named_parameters())
    for name, value in values.items():
        params.pop(name).data.copy_(torch.from_numpy(value))
    assert not params.keys() - net.all_tied_weights_keys.keys(), params.keys()


def loss_of(case, net, inputs, labels):
    """Returns the loss, and what else is to be compared."""
    if case.model == "LlamaModel":
        out = net(**inputs, output_hidden_states=True)
        loss = (out.last_hidden_state * torch.from_numpy(cases.cotangent(out.last_hidden_state.shape))).sum()
        return loss, {f"hidden_{i}": x for i, x in enumerate(out.hidden_states)}
    out = net(**inputs, labels=labels)
    return out.loss, {"logits": out.logits}


def parity():
    """Returns {key: array} of all cases."""
    found = {}
    for name, case in cases.CASES.items():
        for padding in cases.PADDINGS:
            net = build(case)           # anew: dynamic angles depend on the inputs before
            copy_weights(net, cases.weights(saved_shapes(net)))
            inputs, labels = cases.data(case, padding)
            inputs = {what: torch.from_numpy(x) for what, x in inputs.items()}
            loss, outputs = loss_of(case, net, inputs, torch.from_numpy(labels))
            loss.backward()
            params, key = dict(net.named_parameters()), f"{name} {padding}"
            found[f"{key} loss"] = loss.detach().numpy()
            found |= {f"{key} {what}": x.detach().numpy() for what, x in outputs.items()}
            found[f"{key} gradient"] = cases.projections(
                {what: params[what].grad.numpy() for what in saved_shapes(net)})
            print(key, loss.item())
    return found


# --- what save_pretrained wrote ---

class Said(logging.Handler):
    """Keeps what is logged."""

    def __init__(self):
        super().__init__()
        self.lines = []

    def emit(self, record):
        self.lines.append(record.getMessage())


def outputs(folder):
    """Saves what transformers computes with the model in a folder, and what it says as it loads it."""
    inputs = {name: torch.from_numpy(x) for name, x in np.load(folder / "inputs.npz").items()}
    model, said = json.loads((folder / "config.json").read_text())["architectures"][0], Said()
    logger = logging.getLogger("transformers")
    logger.addHandler(said)
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        net, info = getattr(transformers, model).from_pretrained(
            folder, attn_implementation="eager", output_loading_info=True)
    logger.removeHandler(said)
    problems = {what: sorted(map(str, names)) for what, names in info.items() if names}
    problems |= {"warnings": found} if (found := said.lines + [str(each.message) for each in warned]) else {}
    with torch.no_grad():
        out = net.eval()(**inputs)
    arrays = {name: x.numpy() for name, x in out.items() if isinstance(x, torch.Tensor)}
    ids = {name: getattr(net.generation_config, name, None) if hasattr(net, "generation_config") else None
           for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    net.save_pretrained(folder / "again")
    np.savez(folder / "outputs.npz", problems=json.dumps(problems), dtype=str(net.dtype), ids=json.dumps(ids),
             **arrays)


def main():
    torch.set_num_threads(1)
    in_double()
    for folder in sys.argv[1:]:
        outputs(pathlib.Path(folder))
    if sys.argv[1:]:
        return
    np.savez_compressed(HERE / "llama.npz", **parity())
    shapes = {name: {key: list(shape) for key, shape in saved_shapes(build(case)).items()}
              for name, case in cases.CASES.items()}
    versions = {name: importlib.metadata.version(name) for name in ("torch", "transformers", "numpy")}
    text = json.dumps({"versions": versions, "shapes": shapes})
    (HERE / "llama.json").write_text(text.replace("}, ", "},\n") + "\n")


if __name__ == "__main__":
    main()
