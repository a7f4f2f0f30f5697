#!/usr/bin/env bash
# A Llama's config.json that transformers 5 writes, read by transformers 4.
#
# Expected: the same rope_theta, or an error, or a warning.
# Seen with transformers 5.24.0 and 4.57.1: version 5 writes the settings of rotary embeddings as `rope_parameters` alone.
# Version 4 keeps that field, doesn't use it, and says nothing: its angles are those of rope_theta 10000, unscaled.
# For users: write both forms, rope_theta and rope_scaling beside rope_parameters; version 5 reads these, too.
#
# bash findings/rope_settings_of_transformers_5.sh
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
for version in 5.24.0 4.57.1; do
    python3 -m venv "$folder/$version"
    "$folder/$version/bin/pip" install -q "transformers==$version"
done
export HF_HUB_OFFLINE=1 FOLDER=$folder/model TRANSFORMERS_NO_ADVISORY_WARNINGS=1
{
"$folder/5.24.0/bin/python" - <<'PY'
import json
import os
import pathlib

import transformers

linear = {"rope_type": "linear", "rope_theta": 500000.0, "factor": 8.0}
transformers.LlamaConfig(rope_parameters=linear).save_pretrained(os.environ["FOLDER"])
values = json.loads(pathlib.Path(os.environ["FOLDER"], "config.json").read_text())
print("version 5 writes", {name: values[name] for name in sorted(values) if "rope" in name})
PY
"$folder/4.57.1/bin/python" -W error - <<'PY'
import json
import os
import pathlib

import transformers

config = transformers.LlamaConfig.from_pretrained(os.environ["FOLDER"])
print("version 4 reads rope_theta", config.rope_theta, "and rope_scaling", config.rope_scaling)
path = pathlib.Path(os.environ["FOLDER"], "config.json")
old = {"rope_theta": 500000.0, "rope_scaling": {"rope_type": "linear", "factor": 8.0}}
path.write_text(json.dumps({**json.loads(path.read_text()), **old}))
config = transformers.LlamaConfig.from_pretrained(os.environ["FOLDER"])
print("of both forms version 4 reads rope_theta", config.rope_theta, "and rope_scaling", config.rope_scaling)
PY
"$folder/5.24.0/bin/python" -W error - <<'PY'
import os

import transformers

config = transformers.LlamaConfig.from_pretrained(os.environ["FOLDER"])
print("of both forms version 5 reads", dict(sorted(config.rope_parameters.items())))
PY
} 2>"$folder/errors" | tee "$folder/output"
cat "$folder/errors" >&2
diff "$folder/output" - <<'EXPECTED' || { echo "not what was seen" >&2; exit 1; }
EXPECTED
