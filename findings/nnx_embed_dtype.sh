#!/usr/bin/env bash
# The dtype in which Flax NNX's layers compute, after their parameters were given another one.
#
# Expected: with no dtype given, that of inputs and parameters, as the documentation of both layers says.
# Seen with flax 0.12.8: nnx.Linear does so. nnx.Embed keeps the dtype that its table had as it was made, and casts to
# it: a table of float64 gives embeddings of float32, with errors of 1e-7, and one of bfloat16 gives float32.
# For users: make nnx.Embed with param_dtype=..., or set dtype, where parameters are cast later on.
#
# bash findings/nnx_embed_dtype.sh
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder"
"$folder/bin/pip" install -q jax==0.10.2 jaxlib==0.10.2 flax==0.12.8 \
    orbax-checkpoint==0.12.8 tensorstore==0.1.86
JAX_PLATFORMS=cpu JAX_ENABLE_X64=1 "$folder/bin/python" - <<'PY' | tee "$folder/output"
import jax.numpy as jnp
from flax import nnx

for dtype in ("float64", "bfloat16"):
    for layer, attribute, x in ((nnx.Linear(3, 2, param_dtype=jnp.float32, rngs=nnx.Rngs(0)), "kernel",
                                 jnp.ones((1, 3), dtype)),
                                (nnx.Embed(3, 2, param_dtype=jnp.float32, rngs=nnx.Rngs(0)), "embedding",
                                 jnp.zeros(1, int))):
        for name in (attribute, "bias"):
            if getattr(layer, name, None) is not None:
                setattr(layer, name, nnx.Param(getattr(layer, name)[...].astype(dtype)))
        print(f"{type(layer).__name__}: {getattr(layer, attribute)[...].dtype} parameters, {layer(x).dtype} outputs")
PY
diff "$folder/output" - <<'EXPECTED' || { echo "not what was seen" >&2; exit 1; }
Linear: float64 parameters, float64 outputs
Embed: float64 parameters, float32 outputs
Linear: bfloat16 parameters, bfloat16 outputs
Embed: bfloat16 parameters, float32 outputs
EXPECTED
