#!/usr/bin/env bash
# A Haiku layer on a batch that is sharded along an explicit axis of a mesh: its forward pass takes parameters that
# were made outside of the mesh, its gradient doesn't, even where the mesh is one device.
#
# Expected: what the forward pass takes, the gradient takes.
# Seen with JAX 0.10.2 and dm-haiku 0.0.17: the gradient raises ShardingTypeError, until the parameters, too, are placed
# in the mesh, whole on each device.
# For users: place the parameters in the mesh, jax.device_put(params, NamedSharding(mesh, PartitionSpec())).
#
# bash findings/explicit_mesh_gradient.sh
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder"
"$folder/bin/pip" install -q jax==0.10.2 jaxlib==0.10.2 dm-haiku==0.0.17
JAX_PLATFORMS=cpu "$folder/bin/python" - <<'PY' | tee "$folder/output"
import haiku as hk
import jax
import jax.numpy as jnp

mesh = jax.make_mesh((1,), ("data",), axis_types=(jax.sharding.AxisType.Explicit,))
batch = jax.device_put(jnp.ones((8, 4)), jax.NamedSharding(mesh, jax.P("data")))
net = hk.without_apply_rng(hk.transform(lambda x: hk.Linear(3)(x)))
params = net.init(jax.random.key(0), jnp.ones((8, 4)))
placed = jax.device_put(params, jax.NamedSharding(mesh, jax.P()))


def loss(params):
    return net.apply(params, batch).mean()


for where, tree in (("outside of the mesh", params), ("in the mesh", placed)):
    for what, function in (("forward", loss), ("gradient", jax.grad(loss))):
        try:
            function(tree)
            print(f"parameters {where}: {what} runs")
        except Exception as error:
            print(f"parameters {where}: {what} raises {type(error).__name__}")
PY
diff "$folder/output" - <<'EXPECTED' || { echo "not what was seen" >&2; exit 1; }
parameters outside of the mesh: forward runs
parameters outside of the mesh: gradient raises ShardingTypeError
parameters in the mesh: forward runs
parameters in the mesh: gradient runs
EXPECTED
