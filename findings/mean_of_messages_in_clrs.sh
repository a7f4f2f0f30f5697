#!/usr/bin/env bash
# The mean of incoming messages in CLRS's graph processor, PGN(reduction=jnp.mean), on a directed graph.
#
# Expected: where all messages are equal, their mean is that message, however many edges come in.
# Seen with dm-clrs 2.0.3 (dm-haiku 0.0.17, JAX 0.10.2): messages that come in are summed over adj_mat's axis 1, and
# divided by the number of edges that go out (its sum over axis 2): the "mean" of messages of 1 is in-degree / out-degree.
# Right for graphs without directions alone.
# For users: give it a reduction of your own that divides by adj_mat's sum over axis 1, or keep the default, jnp.max.
#
# bash findings/mean_of_messages_in_clrs.sh
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder"
"$folder/bin/pip" install -q jax==0.10.2 jaxlib==0.10.2 dm-haiku==0.0.17 optax==0.2.8 chex==0.1.92 \
  absl-py==2.5.1 toolz==1.2.0 attrs==26.1.0 ml-collections==1.1.0 tqdm==4.70.1
"$folder/bin/pip" install -q --no-deps dm-clrs==2.0.3
JAX_PLATFORMS=cpu "$folder/bin/python" - <<'PY' | tee "$folder/output"
import dataclasses
import sys
from unittest import mock

tensorflow, datasets = mock.MagicMock(), mock.MagicMock()       # for the package's data sets, which nothing here reads
sys.modules.update(tensorflow=tensorflow, tensorflow_datasets=datasets)
datasets.core.BuilderConfig = dataclasses.make_dataclass("BuilderConfig", [("name", str, "")])
datasets.core.GeneratorBasedBuilder = tensorflow.Tensor = type("Stub", (), {})
import haiku as hk
import jax
import jax.numpy as jnp
from clrs._src import processors

# Edges i -> j are adj_mat[i, j]: 0 -> 2, 1 -> 2, 0 -> 3, and each node to itself, as the samplers make them.
adjacency = jnp.eye(4).at[jnp.array([0, 1, 0]), jnp.array([2, 2, 3])].set(1)[None]


def net(adjacency):
    nodes = jnp.zeros((1, 4, 1))
    messages = processors.PGN(1, mid_act=jnp.ones_like, activation=None, reduction=jnp.mean)
    return messages(nodes, jnp.zeros((1, 4, 4, 1)), jnp.zeros((1, 1)), adjacency, nodes)[0]


model = hk.without_apply_rng(hk.transform(net))
params = model.init(jax.random.key(0), adjacency)
params = {name: {key: jnp.ones_like(value) if key == "w" else value for key, value in layer.items()}
          for name, layer in params.items()}                # so that the processor returns the mean itself
print("edges in: ", adjacency[0].sum(0).astype(int).tolist())
print("edges out:", adjacency[0].sum(1).astype(int).tolist())
print("mean of messages of 1:", [f"{x:.2f}" for x in model.apply(params, adjacency)[0, :, 0]])
PY
diff "$folder/output" - <<'EXPECTED' || { echo "not what was seen" >&2; exit 1; }
edges in:  [1, 1, 3, 2]
edges out: [3, 2, 1, 1]
mean of messages of 1: ['0.33', '0.50', '3.00', '2.00']
EXPECTED
