#!/usr/bin/env bash
# hk.initializers.VarianceScaling(fan_in_axes=(1,)) for a matrix [outputs, inputs], as of a layer that multiplies by its
# transpose.
#
# Expected, by its docstring ("which axes of the shape are part of the fan-in"): std 1 / √inputs.
# Seen with dm-haiku 0.0.17: for shapes of two axes the argument is silently ignored: the fan-in is axis 0, and the std
# 1 / √outputs. With an axis of size 1 in front, the same argument counts.
# For users: draw the transpose, or give the std itself, hk.initializers.TruncatedNormal(...).
#
# bash findings/fan_in_axes_of_matrices.sh
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder"
"$folder/bin/pip" install -q jax==0.10.2 jaxlib==0.10.2 dm-haiku==0.0.17
JAX_PLATFORMS=cpu "$folder/bin/python" - <<'PY' | tee "$folder/output"
import haiku as hk
import jax
import jax.numpy as jnp

outputs, inputs = 1024, 64
for shape, axes in (((outputs, inputs), (1,)), ((outputs, inputs), None), ((1, outputs, inputs), (2,))):
    init = hk.initializers.VarianceScaling(fan_in_axes=axes)
    draw = hk.transform(lambda: hk.get_parameter("w", shape, init=init)).init(jax.random.key(0))["~"]["w"]
    print(f"shape {shape}, fan_in_axes={axes}: std² is 1 / {round(float(1 / jnp.var(draw)) / 64) * 64}")
PY
diff "$folder/output" - <<'EXPECTED' || { echo "not what was seen" >&2; exit 1; }
shape (1024, 64), fan_in_axes=(1,): std² is 1 / 1024
shape (1024, 64), fan_in_axes=None: std² is 1 / 1024
shape (1, 1024, 64), fan_in_axes=(2,): std² is 1 / 64
EXPECTED
