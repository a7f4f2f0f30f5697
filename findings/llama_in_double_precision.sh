#!/usr/bin/env bash
# A layer norm and an RMS norm of transformers' models in float64, beside the same arithmetic in NumPy.
#
# Expected: a model that was cast to float64 computes in float64.
# Seen with transformers 5.24.0 and torch 2.13.0: LlamaRMSNorm casts its input to float32 and back, so that a Llama in
# float64 is right to 7 digits, and its dtype says float64. So do its angles and its softmax. GPT-2's norm keeps 16.
# For users: don't compare a Llama to more than 7 digits, or patch these casts.
#
# bash findings/llama_in_double_precision.sh
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder"
"$folder/bin/pip" install -q torch==2.13.0 transformers==5.24.0 numpy
HF_HUB_OFFLINE=1 "$folder/bin/python" - <<'PY' | tee "$folder/output"
import numpy as np
import torch
import transformers

sizes = {"vocab_size": 16, "bos_token_id": None, "eos_token_id": None}
llama = transformers.LlamaModel(transformers.LlamaConfig(
    hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2, **sizes)).to(torch.float64)
gpt2 = transformers.GPT2Model(transformers.GPT2Config(n_embd=16, n_layer=1, n_head=2, **sizes)).to(torch.float64)
x = np.random.default_rng(0).normal(size=(100, 16))
centred = x - x.mean(-1, keepdims=True)
wanted = {"LayerNorm of GPT-2": centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-5),
          "RMS norm of Llama": x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-6)}
for (name, exact), norm in zip(wanted.items(), (gpt2.ln_f, llama.norm)):
    with torch.no_grad():
        found = norm(torch.from_numpy(x))
    error = np.abs(found.numpy() - exact).max()
    print(f"{name}: {found.dtype}, right to {'at least 14' if error < 1e-14 else 'less than 9'} digits")
    assert error < 1e-14 or 1e-9 < error < 1e-6, error
PY
diff "$folder/output" - <<'EXPECTED' || { echo "not what was seen" >&2; exit 1; }
LayerNorm of GPT-2: torch.float64, right to at least 14 digits
RMS norm of Llama: torch.float64, right to less than 9 digits
EXPECTED
