#!/usr/bin/env bash
# The std of Glorot's initializer for an attention weight of three axes, [features, heads, size], as AlphaFold keeps them.
#
# Expected: that of the matrix [features, heads · size] which multiplies, √(2 / (features + heads · size)).
# Seen with dm-haiku 0.0.17 (alphafold-colabfold 2.3.13): hk.initializers.VarianceScaling takes the first axis for that of a
# kernel, and counts features · heads inputs and features · size outputs. At AlphaFold's sizes, 256 features and 8 heads of
# 32, queries and keys start 4.5 times as small, their logits 20 times.
# For users: reshape a matrix that is drawn as [features, heads · size], or give hk.initializers.VarianceScaling(...,
# fan_in_axes=...).
#
# bash findings/glorot_of_attention_weights.sh
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder"
"$folder/bin/pip" install -q jax==0.10.2 jaxlib==0.10.2 dm-haiku==0.0.17 ml-collections==1.1.0 dm-tree==0.1.10
"$folder/bin/pip" install -q --no-deps alphafold-colabfold==2.3.13
JAX_PLATFORMS=cpu "$folder/bin/python" - <<'PY' | tee "$folder/output"
import haiku as hk
import jax
import jax.numpy as jnp
from alphafold.model import config, modules

model = config.model_config("model_1").model
part = model.embeddings_and_evoformer.evoformer.msa_row_attention_with_pair_bias


def net(x):
    return modules.Attention(part, model.global_config, output_dim=256)(x, x, jnp.ones((1, 1, 1, 4), bool))


params = hk.transform(net).init(jax.random.key(0), jnp.ones((1, 4, 256)))["attention"]
for name in ("query_w", "key_w"):
    weight = params[name]
    features, size = weight.shape[0], weight[0].size
    glorot = (2 / (features + size))**0.5
    print(f"{name} {weight.shape}: std {weight.std():.3f}; of a matrix ({features}, {size}) {glorot:.3f}")
PY
diff "$folder/output" - <<'EXPECTED' || { echo "not what was seen" >&2; exit 1; }
query_w (256, 8, 32): std 0.014; of a matrix (256, 256) 0.062
key_w (256, 8, 32): std 0.014; of a matrix (256, 256) 0.062
EXPECTED
