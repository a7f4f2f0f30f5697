#!/usr/bin/env bash
# nnx.state of a module with a list of modules, inside of a function that nnx.capture wraps.
#
# Expected: the same state as outside, since capturing only records what modules return.
# Seen with flax 0.12.8: nnx.capture with method_outputs gives each module and each nnx.List an entry "__captures__"
# while the function runs. A list's other entries are numbered, and nnx.state sorts all of them: TypeError. A module
# without lists has no such trouble; after the capture the same call works.
# For users: inside of such a function, read parameters by nnx.iter_graph. `nnx_multiplied` of this library does so.
#
# bash findings/nnx_state_of_lists_in_a_capture.sh
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder"
"$folder/bin/pip" install -q jax==0.10.2 jaxlib==0.10.2 flax==0.12.8 \
    orbax-checkpoint==0.12.8 tensorstore==0.1.86
JAX_PLATFORMS=cpu "$folder/bin/python" - <<'PY' | tee "$folder/output"
import jax.numpy as jnp
from flax import nnx


class Plain(nnx.Module):
    def __init__(self, rngs):
        self.layer = nnx.Linear(3, 3, rngs=rngs)

    def __call__(self, x):
        return self.layer(x)


class Listed(nnx.Module):
    def __init__(self, rngs):
        self.layers = nnx.List([nnx.Linear(3, 3, rngs=rngs)])

    def __call__(self, x):
        return self.layers[0](x)


def run(model, x):
    try:
        nnx.state(model, nnx.Param)
        print(f"{type(model).__name__}: a state")
    except TypeError as error:
        print(f"{type(model).__name__}: {error}")
    return model(x)


for kind in (Plain, Listed):
    model, x = kind(nnx.Rngs(0)), jnp.ones((2, 3))
    run(model, x)
    nnx.capture(run, nnx.Intermediate, method_outputs=nnx.Intermediate)(model, x)
    run(model, x)
PY
diff "$folder/output" - <<'EXPECTED' || { echo "not what was seen" >&2; exit 1; }
Plain: a state
Plain: a state
Plain: a state
Listed: a state
Listed: '<' not supported between instances of 'str' and 'int'
Listed: a state
EXPECTED
