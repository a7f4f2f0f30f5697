#!/usr/bin/env bash
# A Llama of transformers with rope_type "dynamic", which is given the same input before and after a longer one.
#
# Expected: the same output, for nothing is cached and no weight has changed.
# Seen with transformers 5.24.0 and torch 2.13.0: an input that is as long as max_position_embeddings, or longer, is
# computed with the frequencies of the longest input so far. They are reset only by an input that is shorter.
# For users: compare such models only on inputs in one order, or give them a short input in between.
#
# bash findings/dynamic_rope_depends_on_earlier_inputs.sh
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder"
"$folder/bin/pip" install -q torch==2.13.0 transformers==5.24.0 numpy
HF_HUB_OFFLINE=1 "$folder/bin/python" - <<'PY' | tee "$folder/output"
import torch
import transformers

torch.manual_seed(0)
config = transformers.LlamaConfig(
    vocab_size=16, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2,
    max_position_embeddings=8, bos_token_id=None, eos_token_id=None,
    rope_parameters={"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 2.0})
config.initializer_range = 0.5
model = transformers.LlamaForCausalLM(config).eval()
inputs = {length: torch.arange(length)[None] % 16 for length in (7, 8, 32)}


def logits(length):
    with torch.no_grad():
        return model(inputs[length], use_cache=False).logits


before = {length: logits(length) for length in (7, 8)}
logits(32)
for length in (8, 7, 8):
    same = torch.equal(before[length], logits(length))
    print(f"an input of {length}, after longer ones: {'the same' if same else 'other'} logits")
PY
diff "$folder/output" - <<'EXPECTED' || { echo "not what was seen" >&2; exit 1; }
an input of 8, after longer ones: other logits
an input of 7, after longer ones: the same logits
an input of 8, after longer ones: the same logits
EXPECTED
