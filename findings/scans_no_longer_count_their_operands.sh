#!/usr/bin/env bash
# The parameters of scan's equations, by which programs that walk over jaxprs tell a loop's carry from its rows.
#
# Expected: num_consts and num_carry, as for years; the first guess was that 0.12.0.1 had dropped them.
# Seen with JAX 0.11.0 (and 0.11.2, 0.12.0, 0.12.0.1): neither is there. In their place are trees, ft_in and ft_out,
# whose parts are private. The body is a Jaxpr, no ClosedJaxpr. JAX 0.11 needs Python 3.12, so that a suite that runs on
# Python 3.11 with the newest versions doesn't see it.
# For authors of tools that read jaxprs: ask for the parameter, and count the parts of ft_in where it is missing.
#
# bash findings/scans_no_longer_count_their_operands.sh          needs a Python of 3.12 or newer: PYTHON=python3.13
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
for version in 0.10.2 0.11.0; do
    "${PYTHON:-python3.12}" -m venv "$folder/$version"
    "$folder/$version/bin/pip" install -q "jax==$version" "jaxlib==$version"
    JAX_PLATFORMS=cpu "$folder/$version/bin/python" - <<'PY' | tee -a "$folder/output"
import jax
import jax.numpy as jnp


def run(weights, start, rows):
    """Carries a vector over rows; the weights are a constant of the body."""
    return jax.lax.scan(lambda carry, row: (weights @ carry + row, carry.sum()), start, rows)


*_, equation = jax.make_jaxpr(run)(jnp.ones((2, 2)), jnp.ones(2), jnp.ones((3, 2))).eqns
parameters = equation.params
counts = [parameters.get(name) for name in ("num_consts", "num_carry")]
print(f"{jax.__version__}: {counts}, {type(parameters['jaxpr']).__name__}, ft_in {'ft_in' in parameters}")
PY
done
diff - "$folder/output" <<'EXPECTED' || { echo "not what was seen" >&2; exit 1; }
0.10.2: [1, 1], ClosedJaxpr, ft_in False
0.11.0: [None, None], Jaxpr, ft_in True
EXPECTED
