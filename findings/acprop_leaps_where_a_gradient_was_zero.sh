#!/usr/bin/env bash
# optax.contrib.acprop where the gradient of an entry was zero before: pixels that were blank, units behind a ReLU.
#
# Expected: as in AdaBelief and Adam, such an entry moves by about the learning rate once it has a gradient.
# Seen with optax 0.2.8: it moves by 316 at a learning rate of 0.001 and a gradient of 0.1. ACProp divides by the
# second moment of the step before, and that is only eps_root, 1e-16, there. On MNIST digits, whose borders are blank
# in many batches, an MLP's training diverged at each rate from 2^-13 on.
# For users: raise eps_root, or take AdaBelief.
#
# bash findings/acprop_leaps_where_a_gradient_was_zero.sh
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder"
"$folder/bin/pip" install -q jax==0.10.2 jaxlib==0.10.2 optax==0.2.8
JAX_PLATFORMS=cpu "$folder/bin/python" - <<'PY' | tee "$folder/output"
import jax.numpy as jnp
import optax


def largest(optimizer, gradients):
    state, found = optimizer.init(jnp.zeros(1)), []
    for gradient in gradients:
        update, state = optimizer.update(jnp.full(1, gradient), state, jnp.zeros(1))
        found.append(abs(float(update[0])))
    return max(found)


for name, make in (("acprop", optax.contrib.acprop), ("adabelief", optax.adabelief), ("adam", optax.adam)):
    for when, gradients in (("from the start on", [0.1, 0.1, 0.1]), ("after one of zero", [0.0, 0.1, 0.1])):
        print(f"{name}, gradients {when}: the largest step is {largest(make(1e-3), gradients) / 1e-3:.3g} rates")
PY
diff "$folder/output" - <<'EXPECTED' || { echo "not what was seen" >&2; exit 1; }
acprop, gradients from the start on: the largest step is 1.05 rates
acprop, gradients after one of zero: the largest step is 3.16e+05 rates
adabelief, gradients from the start on: the largest step is 1.23 rates
adabelief, gradients after one of zero: the largest step is 1 rates
adam, gradients from the start on: the largest step is 1 rates
adam, gradients after one of zero: the largest step is 0.858 rates
EXPECTED
