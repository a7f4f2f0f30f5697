#!/usr/bin/env bash
# optax.MultiSteps(…).gradient_transformation() around an optimizer whose step depends on the loss.
#
# Expected: extra arguments of update, such as value, reach the inner optimizer, as those of MultiSteps.update do.
# Seen with optax 0.2.8: it is a GradientTransformation without extra arguments, so that optax.chain and
# with_extra_args_support drop value, and Momo-Adam raises a TypeError that value is missing.
# For users: in a chain write optax.GradientTransformationExtraArgs(multi_steps.init, multi_steps.update).
#
# bash findings/multi_steps_drop_the_loss.sh
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder"
"$folder/bin/pip" install -q jax==0.10.2 jaxlib==0.10.2 optax==0.2.8
JAX_PLATFORMS=cpu "$folder/bin/python" - <<'PY' | tee "$folder/output"
import jax.numpy as jnp
import optax

params = {"w": jnp.ones(3)}
multi_steps = optax.MultiSteps(optax.contrib.momo_adam(0.1), 1)
for name, optimizer in (
        ("MultiSteps", multi_steps), ("its gradient_transformation()", multi_steps.gradient_transformation()),
        ("that in a chain", optax.chain(multi_steps.gradient_transformation())),
        ("init and update with extra arguments, in a chain", optax.chain(
            optax.GradientTransformationExtraArgs(multi_steps.init, multi_steps.update)))):
    try:
        updates, _ = optimizer.update(params, optimizer.init(params), params, value=5.0)
        print(f"{name}: an update of {float(updates['w'][0]):.2f}")
    except TypeError as error:
        print(f"{name}: TypeError, {str(error).split(': ')[-1].split('() ')[-1]}")
PY
diff "$folder/output" - <<'EXPECTED' || { echo "not what was seen" >&2; exit 1; }
MultiSteps: an update of -0.10
its gradient_transformation(): an update of -0.10
that in a chain: TypeError, 'value'
init and update with extra arguments, in a chain: an update of -0.10
EXPECTED
