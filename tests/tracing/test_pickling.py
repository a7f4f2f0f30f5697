"""Wrapped models that are sent to other processes, and what they are there in the keys of JAX's caches."""
import os
import pathlib
import pickle
import subprocess
import sys

import cloudpickle
import haiku as hk
import jax
import numpy as np
import optax
import pytest
from small_models import KEY, MODELS, captured

import haiku_mup
from haiku_mup.tracing.scope import active_context
from haiku_mup.tracing.wrapped_model import WrappedModel

ROOT = pathlib.Path(__file__).parents[2]
THERE = """
import pickle, sys
import numpy as np
copies, others, params, x, expected = pickle.loads(sys.stdin.buffer.read())
first, second, other = (model.apply for model in map(pickle.loads, (*copies, others)))
np.testing.assert_allclose(first(params, x), expected, rtol=1e-6)
contexts = [apply.__closure__[apply.__code__.co_freevars.index("context")].cell_contents
            for apply in (first, second, other)]
print(contexts[0] == contexts[1], hash(contexts[0]) == hash(contexts[1]), contexts[0] == contexts[2])
"""


@pytest.mark.parametrize("name", ["mlp", "tied", "stack"])
def test_a_copy_computes_and_draws_the_same(name):
    make, x = MODELS[name]
    model = captured(make, x).wrap_model(make(32))
    copy = cloudpickle.loads(cloudpickle.dumps(model))
    params = model.init(KEY, x)
    jax.tree.map(np.testing.assert_array_equal, copy.init(KEY, x), params)
    np.testing.assert_array_equal(copy.apply(params, x), model.apply(params, x))
    with pytest.warns(haiku_mup.MupWarning, match="without its multipliers"):
        assert not np.allclose(make(32).apply(params, x), model.apply(params, x))


def test_copies_share_what_jax_has_traced():
    traces = []

    @jax.jit
    def counted(x):
        traces.append(active_context())
        return 2 * x

    def make(width):
        def net(x):
            with haiku_mup.apply_mup():
                return haiku_mup.Readout(3)(counted(hk.Linear(width)(x)))
        return hk.without_apply_rng(hk.transform(net))

    x = MODELS["mlp"][1]
    mup, target = captured(make, x), make(32)
    model, copy = mup.wrap_model(target), pickle.loads(pickle.dumps(mup)).wrap_model(target)
    params = model.init(KEY, x)
    model.apply(params, x), copy.apply(params, x), copy.init(KEY, x)
    assert sum(isinstance(context, WrappedModel) for context in traces) == 1


def test_copies_are_equal_in_another_process_with_hashes_of_its_own():
    make, x = MODELS["mlp"]
    model, other = (captured(make, x, base).wrap_model(make(32)) for base in (8, 16))
    params = model.init(KEY, x)
    sent = pickle.dumps(([cloudpickle.dumps(model), cloudpickle.dumps(model)], cloudpickle.dumps(other),
                         params, x, np.asarray(model.apply(params, x))))
    paths = os.pathsep.join(map(str, (ROOT, ROOT / "tests/support")))
    found = subprocess.run([sys.executable, "-c", THERE], input=sent, capture_output=True, timeout=120,
                           env={**os.environ, "PYTHONHASHSEED": "1", "PYTHONPATH": paths})
    assert found.stdout.split() == [b"True", b"True", b"False"], found.stderr.decode()


def test_a_wrapped_optimizer_is_sent():
    make, x = MODELS["mlp"]
    mup = captured(make, x)
    params = make(32).init(KEY, x)
    optimizer = mup.wrap_optimizer(optax.adam(1e-2))
    copy = cloudpickle.loads(cloudpickle.dumps(optimizer))
    found = [each.update(params, each.init(params), params)[0] for each in (optimizer, copy)]
    jax.tree.map(np.testing.assert_array_equal, *found)
