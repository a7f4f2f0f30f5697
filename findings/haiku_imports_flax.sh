#!/usr/bin/env bash
# What `import haiku` imports where Flax is installed.
#
# Expected: nothing of Flax, which no function of Haiku needs but those of haiku.experimental.flax.
# Seen with dm-haiku 0.0.17: all of Flax Linen, and with it orbax and tensorstore, since haiku.experimental is imported,
# which imports haiku.experimental.flax.
# For users: expect a slower start where both are installed; sys.modules doesn't tell who uses Flax.
#
# bash findings/haiku_imports_flax.sh
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder"
"$folder/bin/pip" install -q jax==0.10.2 jaxlib==0.10.2 dm-haiku==0.0.17 flax==0.12.8 \
    orbax-checkpoint==0.12.8 tensorstore==0.1.86
JAX_PLATFORMS=cpu "$folder/bin/python" - <<'PY' | tee "$folder/output"
import sys

import haiku

for name in ("flax", "flax.linen"):
    print(f"{name}: {'imported' if name in sys.modules else 'not imported'}")
PY
diff "$folder/output" - <<'EXPECTED' || { echo "not what was seen" >&2; exit 1; }
flax: imported
flax.linen: imported
EXPECTED
