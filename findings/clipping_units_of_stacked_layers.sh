#!/usr/bin/env bash
# optax.adaptive_grad_clip on the parameters of hk.experimental.layer_stack, whose weights are [layers, in, out].
#
# Expected: each layer is clipped as it is where layers are separate modules. Or, by the docstring of optax's
# `unitwise_norm` (rank 3: axes 0, 1 and 2), all layers of a stack by one norm.
# Seen with optax 0.2.8: norms of rank 3 are taken over the first axis alone, which is that of the layers. So a layer
# of small weights is clipped by the weights of a layer of large ones: here its gradient keeps 71 times as much.
# For users: give it `axis=`, and the stacked weights a clip of their own (optax.partition), or clip by the global norm.
#
# bash findings/clipping_units_of_stacked_layers.sh
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder"
"$folder/bin/pip" install -q jax==0.10.2 jaxlib==0.10.2 dm-haiku==0.0.17 optax==0.2.8
JAX_PLATFORMS=cpu "$folder/bin/python" - <<'PY' | tee "$folder/output"
import haiku as hk
import jax
import jax.numpy as jnp
import optax


def net(x):
    return hk.experimental.layer_stack(2)(hk.Linear(4, with_bias=False))(x)


shape = jax.eval_shape(hk.transform(net).init, jax.random.key(0), jnp.ones(4))
name, = shape
print("weights of two layers:", shape[name]["w"].shape)
weights = jnp.stack([jnp.ones((4, 4)), 100 * jnp.ones((4, 4))])
gradients = jnp.ones((2, 4, 4))
clip = optax.adaptive_grad_clip(0.01)


def clipped(gradients, weights):
    return clip.update(gradients, clip.init(weights), weights)[0]


together = clipped(gradients, weights)
alone = [clipped(gradients[i], weights[i]) for i in range(2)]
for i in range(2):
    print(f"layer {i}: {together[i, 0, 0]:.3f} in the stack, {alone[i][0, 0]:.3f} alone")
PY
diff "$folder/output" - <<'EXPECTED' || { echo "not what was seen" >&2; exit 1; }
weights of two layers: (2, 4, 4)
layer 0: 0.707 in the stack, 0.010 alone
layer 1: 0.707 in the stack, 1.000 alone
EXPECTED
