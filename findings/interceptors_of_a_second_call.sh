#!/usr/bin/env bash
# What an interceptor of Haiku's gets if it calls the next method twice.
#
# Expected: the same result twice, each through the interceptors inside it.
# Seen with dm-haiku 0.0.17: the second call skips them and reaches the method itself, without an error:
# `run_interceptors` takes each off a stack that all calls share.
# For users: in an interceptor, call the next method once; to call a layer again, call the module.
#
# bash findings/interceptors_of_a_second_call.sh
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder"
"$folder/bin/pip" install -q jax==0.10.2 jaxlib==0.10.2 dm-haiku==0.0.17
JAX_PLATFORMS=cpu "$folder/bin/python" - <<'PY' | tee "$folder/output"
import haiku as hk
import jax
import jax.numpy as jnp


def twice(next_method, args, kwargs, context):
    results = [next_method(*args, **kwargs) for _ in range(2)]
    print("next_method returns", [float(x[0]) for x in results])
    return results[0]


def tenfold(next_method, args, kwargs, context):
    return 10 * next_method(*args, **kwargs)


def fn(x):
    layer = hk.Linear(1, w_init=jnp.ones)
    with hk.intercept_methods(twice), hk.intercept_methods(tenfold):
        return layer(x)


hk.transform(fn).init(jax.random.PRNGKey(0), jnp.ones(1))
PY
diff "$folder/output" - <<'EXPECTED' || { echo "not what was seen" >&2; exit 1; }
next_method returns [10.0, 1.0]
EXPECTED
