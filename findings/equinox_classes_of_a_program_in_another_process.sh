#!/usr/bin/env bash
# A class of Equinox that a program's main file defines, sent to another process by cloudpickle, as dask and loky do.
#
# Expected: it can be called there, as a plain class can.
# Seen with equinox 0.13.8 and cloudpickle 3.1.3: the class arrives, and calling it raises FrozenInstanceError. The
# metaclass notes the fields while a class is made; cloudpickle makes an empty class, and sets its attributes later.
# For users: put such classes into a module that workers can import. This library warns, and runs the sweep in
# its own process.
#
# bash findings/equinox_classes_of_a_program_in_another_process.sh
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder"
"$folder/bin/pip" install -q jax==0.10.2 jaxlib==0.10.2 equinox==0.13.8 jaxtyping==0.3.11 cloudpickle==3.1.3
JAX_PLATFORMS=cpu "$folder/bin/python" - "$folder" <<'PY' | tee "$folder/output"
import subprocess
import sys

import cloudpickle
import equinox as eqx
import jax

LOAD = """
import pickle, sys, jax
kind = pickle.load(open(sys.argv[1], "rb"))
try:
    print(kind.__name__, type(kind(jax.numpy.ones(2))).__name__)
except Exception as error:
    print(kind.__name__, type(error).__name__, error)
"""


class Plain:
    def __init__(self, w):
        self.w = w


class Declared(eqx.Module):
    w: jax.Array


class Written(eqx.Module):
    w: jax.Array

    def __init__(self, w):
        self.w = w


for kind in (Plain, Declared, Written):
    path = f"{sys.argv[1]}/{kind.__name__}"
    with open(path, "wb") as file:
        cloudpickle.dump(kind, file)
    sys.stdout.flush()
    subprocess.run([sys.executable, "-c", LOAD, path], check=True)
PY
diff "$folder/output" - <<'EXPECTED' || { echo "not what was seen" >&2; exit 1; }
Plain Plain
Declared FrozenInstanceError cannot assign to field 'w'
Written FrozenInstanceError cannot assign to field 'w'
EXPECTED
