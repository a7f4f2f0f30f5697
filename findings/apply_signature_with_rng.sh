#!/usr/bin/env bash
# The signature that hk.transform gives to `apply`, for a function that has an argument of its own named `rng`.
#
# Expected: the arguments of `apply`: params, rng, and those of the function, under names that don't clash.
# Seen with dm-haiku 0.0.17: an argument named `rng` is not in the signature at all, so that inspect.Signature.bind
# refuses the call that `apply` takes. hk.without_apply_rng hides it, too.
# For users: give such an argument another name, or don't rely on the signature.
#
# bash findings/apply_signature_with_rng.sh
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder"
"$folder/bin/pip" install -q jax==0.10.2 jaxlib==0.10.2 dm-haiku==0.0.17
JAX_PLATFORMS=cpu "$folder/bin/python" - <<'PY' | tee "$folder/output"
import inspect

import haiku as hk

for name, function in (("x", lambda x: x + 1), ("rng", lambda rng: rng + 1)):
    model = hk.transform(function)
    params = model.init(None, 1)
    for what, apply, args in (("transform", model.apply, (params, None, 1)),
                              ("without_apply_rng", hk.without_apply_rng(model).apply, (params, 1))):
        signature = inspect.signature(apply)
        try:
            signature.bind(*args)
            bound = "takes"
        except TypeError:
            bound = "refuses"
        print(f"{name}, {what}: ({', '.join(signature.parameters)}) {bound} a call that returns {apply(*args)}")
PY
diff "$folder/output" - <<'EXPECTED' || { echo "not what was seen" >&2; exit 1; }
x, transform: (params, rng, x) takes a call that returns 2
x, without_apply_rng: (params, x) takes a call that returns 2
rng, transform: (params, rng) refuses a call that returns 2
rng, without_apply_rng: (params) refuses a call that returns 2
EXPECTED
