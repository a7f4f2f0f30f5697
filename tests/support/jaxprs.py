"""Traced programs as plain values: equal values compute equal bits."""
import re

import jax
import numpy as np
from small_models import KEY


def program(function, *args):
    """Returns the operations and the constants that function(*args) runs."""
    return operations(jax.make_jaxpr(function)(*args))


def operations(x):
    """Returns a jaxpr as plain values, whatever parts of it JAX shares."""
    if isinstance(x, (tuple, list)):
        return [operations(y) for y in x]
    if hasattr(x, "jaxpr") and x.jaxpr is not x:        # one class from JAX 0.12 on
        return operations(x.jaxpr), [np.asarray(c).tolist() for c in x.consts]
    if not hasattr(x, "eqns"):
        return re.sub(r"0x[0-9a-f]+", "", str(x))
    numbers = {}

    def number(v):
        return str(v.val) if hasattr(v, "val") else numbers.setdefault(v, len(numbers))

    return [(e.primitive.name, [number(v) for v in e.invars], [(number(v), str(v.aval)) for v in e.outvars],
             sorted((k, operations(v)) for k, v in e.params.items())) for e in x.eqns]


def gradient(model, x):
    """Returns the program of a model's init and of the gradient of its squared outputs."""
    def run(key, x):
        params, state = model.init(key, x)
        return params, state, jax.value_and_grad(lambda p: (model.apply(p, state, key, x)[0]**2).sum())(params)
    return program(run, KEY, x)
