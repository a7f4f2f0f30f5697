"""What capturing costs: it grows with the parameters' names, and not with their size."""
import cProfile
import gc
import math
import pathlib
import pstats

import haiku as hk
import jax
import jax.numpy as jnp
import pytest

import haiku_mup
from benchmarks import capture
from haiku_mup.tracing import haiku_internals, target_capture

BILLION, LIMIT = 10**9, 50 * 2**20
PEAK = pathlib.Path("/proc/self/clear_refs")        # writing 5 makes the process forget its peak


def grown(function):
    """Bytes by which the process grew, at the peak, while the function ran."""
    gc.collect()
    PEAK.write_text("5")
    before = capture.resident()
    function()
    return capture.resident("VmHWM") - before


def drawn():
    """Captures a weight of 2²⁴ entries, whose std is found by drawing it."""
    def init(shape, dtype):
        return jnp.full(shape, jax.random.normal(hk.next_rng_key()), dtype)

    def fn(x):
        with haiku_mup.apply_mup():
            return haiku_mup.Readout(4, w_init=init)(x)

    with haiku_mup.Mup().init_base():
        jax.eval_shape(hk.transform(fn).init, jax.random.key(0), jax.ShapeDtypeStruct((1, 2**22), jnp.float32))


@pytest.mark.slow
@pytest.mark.skipif(not PEAK.exists(), reason="this system doesn't tell a process's peak")
def test_ten_billion_parameters_allocate_nothing_of_their_size():
    mup, found, arrays = haiku_mup.Mup(), [], {id(x) for x in jax.live_arrays()}

    def captured():
        found.append(capture.trio(32, 5120, True, mup))
        mup.summary()

    assert grown(captured) < LIMIT
    assert sum(math.prod(x.shape) for x in jax.tree.leaves(found)) > 10 * BILLION
    assert sum(x.nbytes for x in jax.live_arrays() if id(x) not in arrays) < 2**20
    assert {row.adam_lr for row in mup.table()} == {1, capture.BASE / 5120}
    assert grown(drawn) > LIMIT             # the check is not blind


@pytest.mark.slow
def test_the_work_grows_with_the_names_and_not_with_their_size():
    def calls(blocks, width):
        profile = cProfile.Profile()
        profile.enable()
        mup = haiku_mup.Mup()
        capture.trio(blocks, width, False, mup)
        mup.summary()
        profile.disable()
        return pstats.Stats(profile).total_calls

    small, wide, deep = (min(calls(*size) for _ in range(2)) for size in ((1, 512), (1, 8192), (3, 512)))
    assert abs(wide / small - 1) < 0.02
    assert 1.3 < deep / small < 2.6         # 20 names, and 52


# --- one pass ---

def counted(monkeypatch, module, name):
    """Counts the calls of a module's function, or of a class of it."""
    calls, original = [], getattr(module, name)

    def counting(*args, **kwargs):
        calls.append(args)
        return original(*args, **kwargs)

    monkeypatch.setattr(module, name, counting)
    return calls


def test_each_kind_of_parameter_is_compared_once(monkeypatch):
    compared = counted(monkeypatch, target_capture, "scaling_of")
    mup = haiku_mup.Mup()
    names = len(capture.captured("GPT-2, 12 blocks", mup))
    kinds = {(base.content, target.content) for base, target, *_ in compared}
    assert len(kinds) == len(compared) < names / 10      # of 148


def test_frames_are_walked_once_for_each_parameter(monkeypatch):
    walks = []
    original = haiku_internals.Nesting.__init__

    def counting(self):
        walks.append(self)
        original(self)

    monkeypatch.setattr(haiku_internals.Nesting, "__init__", counting)
    names = len(capture.captured("200 hk.Linears", haiku_mup.Mup()))
    assert 2 * names <= len(walks) <= 2 * names + 12     # a few more for each context, none for each layer


@pytest.mark.parametrize("make_optimizer, most", [(None, 1.2), (capture.adam, 1.3)],
                         ids=["capture", "with_adam"])
def test_capturing_makes_few_calls_beside_haikus_own(make_optimizer, most):
    """Python's calls are what tracing costs, and don't depend on the machine's load."""
    def calls(function):
        jax.clear_caches()
        return capture.calls(function, "GPT-2, 12 blocks", make_optimizer=make_optimizer)

    capture.captured("GPT-2, 12 blocks", make_optimizer=make_optimizer)       # imports
    assert calls(capture.captured) / calls(capture.plain) < most
