#!/usr/bin/env bash
# A Llama's config with original_max_position_embeddings both among the rope settings and beside them.
#
# Expected: the one among the settings of "llama3" counts, or an error where they differ.
# Seen with transformers 5.24.0: the one at the top counts, silently, and overwrites the other in the config.
# For users: this library refuses a folder whose two lengths differ, and reads a single one where it stands.
#
# bash findings/llama3_rope_has_two_original_lengths.sh
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder"
"$folder/bin/pip" install -q torch==2.13.0 transformers==5.24.0
"$folder/bin/python" - <<'PY' | tee "$folder/output"
from transformers import LlamaConfig
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

for among, top in (16, None), (8, None), (16, 8):
    at_top = {} if top is None else {"original_max_position_embeddings": top}
    config = LlamaConfig(
        hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2, vocab_size=8,
        max_position_embeddings=64, **at_top,
        rope_parameters={"rope_type": "llama3", "rope_theta": 100.0, "factor": 4.0, "low_freq_factor": 1.0,
                         "high_freq_factor": 4.0, "original_max_position_embeddings": among})
    frequencies, _ = ROPE_INIT_FUNCTIONS["llama3"](config, "cpu")
    written = config.to_dict()
    print(f"{among} among the settings, {top} at the top: first frequency {frequencies[0]:.4f}; written",
          written["rope_parameters"]["original_max_position_embeddings"],
          written.get("original_max_position_embeddings"))
PY
diff "$folder/output" - <<'EXPECTED' || { echo "not what was seen" >&2; exit 1; }
16 among the settings, None at the top: first frequency 0.6366; written 16 None
8 among the settings, None at the top: first frequency 0.3183; written 8 None
16 among the settings, 8 at the top: first frequency 0.3183; written 8 8
EXPECTED
