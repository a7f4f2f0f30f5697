#!/usr/bin/env bash
# optax.inject_hyperparams around Muon whose dimension numbers are a function of the parameters.
#
# Expected: as without inject_hyperparams, the function is called with the parameters, and Muon takes the matrices
# that it names; here none.
# Seen with optax 0.2.8: the function is taken for a schedule and called with the number of the step. One that names
# leaves by their rank returns None for a number, so Muon takes every matrix, without an error. With
# static_args=("muon_weight_dimension_numbers",) it is as expected.
# For users: say static_args, and look at the state for what Muon takes.
#
# bash findings/inject_hyperparams_calls_muons_dimensions.sh
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder"
"$folder/bin/pip" install -q jax==0.10.2 jaxlib==0.10.2 optax==0.2.8
JAX_PLATFORMS=cpu "$folder/bin/python" - <<'PY' | tee "$folder/output"
import jax
import jax.numpy as jnp
import optax


def none_of_them(params):
    seen.add("parameters" if isinstance(params, dict) else "a number")
    return jax.tree.map(lambda x: None, params)


params = {"w": jnp.array([[1.0, 2.0], [3.0, 5.0]])}
for name, wrap in (("muon", lambda make: make), ("injected", optax.inject_hyperparams),
                   ("injected, static_args", lambda make: optax.inject_hyperparams(
                       make, static_args=("muon_weight_dimension_numbers",)))):
    seen = set()
    optimizer = wrap(optax.contrib.muon)(0.1, muon_weight_dimension_numbers=none_of_them)
    update, _ = optimizer.update(params, optimizer.init(params), params)
    # Adam's first step has entries of one size.
    by = "Adam" if jnp.ptp(jnp.abs(update["w"])) < 1e-4 else "Muon"
    print(f"{name}: called with {' and '.join(sorted(seen))}; the matrix is moved by {by}")
PY
diff "$folder/output" - <<'EXPECTED' || { echo "not what was seen" >&2; exit 1; }
muon: called with parameters; the matrix is moved by Adam
injected: called with a number; the matrix is moved by Muon
injected, static_args: called with parameters; the matrix is moved by Adam
EXPECTED
