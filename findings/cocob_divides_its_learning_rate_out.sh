#!/usr/bin/env bash
# The learning rate of optax.contrib.cocob, which its documentation offers for schedules.
#
# Expected: as in optax's other optimizers without a rate (prodigy, dadapt_adamw, dog), it multiplies the updates.
# Seen with optax 0.2.8: it does nothing. It multiplies the gradients, in front of updates that don't depend on their
# size, so that all rates of a sweep are one, but for rounding. Of a schedule only the shape acts.
# For users: sweep alpha, by which the first bets are divided.
#
# bash findings/cocob_divides_its_learning_rate_out.sh
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder"
"$folder/bin/pip" install -q jax==0.10.2 jaxlib==0.10.2 optax==0.2.8
JAX_PLATFORMS=cpu "$folder/bin/python" - <<'PY' | tee "$folder/output"
import jax
import jax.numpy as jnp
import optax

x = jax.random.normal(jax.random.key(0), (64, 4))
y = x @ jnp.array([1.0, -2.0, 0.5, 3.0])


def moved(optimizer, steps=5):
    """Returns how far the first weight has moved."""
    params = jnp.zeros(4)
    state = optimizer.init(params)
    for _ in range(steps):
        gradients = jax.grad(lambda w: jnp.mean((x @ w - y)**2))(params)
        updates, state = optimizer.update(gradients, state, params)
        params = optax.apply_updates(params, updates)
    return abs(float(params[0]))


for name in ("cocob", "prodigy", "dadapt_adamw", "dog"):
    small, large = (moved(getattr(optax.contrib, name)(rate)) for rate in (2.0**-6, 1.0))
    print(f"{name}: at 64 times the rate it moves {large / small:.2g} times as far")
small, large = (moved(optax.contrib.cocob(alpha=alpha)) for alpha in (6400, 100))
print(f"cocob: at alpha / 64 it moves {large / small:.2g} times as far")
PY
diff "$folder/output" - <<'EXPECTED' || { echo "not what was seen" >&2; exit 1; }
cocob: at 64 times the rate it moves 1 times as far
prodigy: at 64 times the rate it moves 68 times as far
dadapt_adamw: at 64 times the rate it moves 1.9e+02 times as far
dog: at 64 times the rate it moves 1.2e+02 times as far
cocob: at alpha / 64 it moves 69 times as far
EXPECTED
