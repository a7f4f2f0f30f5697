#!/usr/bin/env bash
# Dropout inside the graph layers of haiku-geometric: GATConv(dropout_nodes=...) in training.
#
# Expected: other features are dropped with another random key, and at another step, as with hk.dropout.
# Seen with haiku-geometric 0.0.5 (dm-haiku 0.0.17, JAX 0.10.2): the same features are dropped for every key. The key of
# the model isn't asked for; the layers have a constant one, which all layers of one shape share.
# For users: leave the layers' dropout at 0, and apply hk.dropout(hk.next_rng_key(), ...) to what goes in.
#
# bash findings/dropout_of_haiku_geometric.sh
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder"
"$folder/bin/pip" install -q jax==0.10.2 jaxlib==0.10.2 dm-haiku==0.0.17 jraph==0.0.6.dev0 \
  numba==0.68.1 pandas==3.1.1 requests==2.34.2 tqdm==4.70.1
"$folder/bin/pip" install -q --no-deps haiku-geometric==0.0.5
JAX_PLATFORMS=cpu "$folder/bin/python" - <<'PY' | tee "$folder/output"
import haiku as hk
import jax
import jax.numpy as jnp
from haiku_geometric.nn import GATConv

nodes, line = jnp.ones((4, 64)), jnp.arange(4)


def layer(x):
    return GATConv(16, dropout_nodes=0.5)(x, line, line, training=True)


def plain(x):
    return hk.dropout(hk.next_rng_key(), 0.5, x)


for name, net in (("hk.dropout", hk.transform(plain)), ("GATConv", hk.transform(layer))):
    params = net.init(jax.random.key(0), nodes)
    found = [net.apply(params, jax.random.key(seed), nodes) for seed in range(10)]
    print(f"{name}: {len({x.tobytes() for x in found})} different outputs for 10 keys")
PY
diff "$folder/output" - <<'EXPECTED' || { echo "not what was seen" >&2; exit 1; }
hk.dropout: 10 different outputs for 10 keys
GATConv: 1 different outputs for 10 keys
EXPECTED
