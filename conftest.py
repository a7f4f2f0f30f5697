"""Names that the examples in docstrings use, and settings of all tests."""
import copy
import dataclasses
import doctest
import functools
import gc
import importlib.util
import os
import pathlib
import threading

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax._src.interpreters import mlir

import haiku_mup
from haiku_mup import models

NAMES = {"functools": functools, "haiku_mup": haiku_mup, "hk": hk, "jax": jax, "jnp": jnp, "models": models,
         "np": np, "optax": optax, "Trial": haiku_mup.Trial}
SLOW_CASES = pathlib.Path(__file__).parent / "tests" / "slow_cases.txt"
AFTER_MUP = (       # examples that go on from Mup's own
    "haiku_mup.mup.Mup.", "haiku_mup.optimizers.adamw.adamw", "haiku_mup.parameters.summary_table.Row")
collect_ignore = [
    "tests/reference/golden/make_llama.py",             # they need PyTorch
    "tests/reference/golden/make_microsoft_mup.py",
    "tests/reference/golden/make_transformers.py",
    "tests/reference/golden/torch_nets.py",
    "demos/tutorial.py", "demos/notebook.py",   # a test of its own imports what they need
    "tests/package/typed",                              # programs for the type checker
    *(f"haiku_mup/frameworks/{module}.py" for module, framework in (
        ("adapters", "equinox"), ("adapters", "flax"), ("equinox_layers", "equinox"), ("nnx_layers", "flax"),
        ("linen_layers", "flax")) if importlib.util.find_spec(framework) is None),
]


def pytest_configure(config):
    """Keeps XLA from optimizing, for the suite's programs are small and run a few times; the slow are not."""
    if config.option.markexpr != "slow":
        flags = ["--xla_backend_optimization_level=0", "--xla_llvm_disable_expensive_passes=true",
                 "--xla_cpu_parallel_codegen_split_count=1"]
        if jax.__version_info__ < (0, 11):      # a flag that XLA doesn't know ends the process
            flags.append("--xla_cpu_use_fusion_emitters=false")
        os.environ.setdefault("XLA_FLAGS", " ".join(flags))


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config, items):
    """Marks the cases in tests/slow_cases.txt as slow; each of their tests has others that run every day."""
    names = {line for line in SLOW_CASES.read_text(encoding="utf-8").splitlines() if not line.startswith("#")}
    for item in items:
        if item.nodeid in names:
            item.add_marker(pytest.mark.slow)
    if config.args == config.getini("testpaths"):
        left = {item.nodeid.partition("[")[0] for item in items if not item.get_closest_marker("slow")}
        gone = sorted(names - {item.nodeid for item in items})
        alone = sorted(name for name in names if name.partition("[")[0] not in left)
        if gone or alone:
            raise pytest.UsageError(f"{SLOW_CASES}: no such cases: {gone}; no other case of these runs every "
                                    f"day: {alone}")


@pytest.fixture(autouse=True, scope="session")
def _rarely_collected():
    """Collects garbage less often: what JAX traces makes millions of objects that stay, and are searched."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 20)


@pytest.fixture(autouse=True, scope="session")
def _compiled_once(tmp_path_factory):
    """Keeps compiled programs on disk: each context of a Mup traces anew, and then compiles the same program.

    JAX_COMPILATION_CACHE_DIR=FOLDER keeps what is compiled from one run to the next.
    """
    root = tmp_path_factory.getbasetemp()
    root = root.parent if "PYTEST_XDIST_WORKER" in os.environ else root     # the workers share it
    jax.config.update("jax_compilation_cache_dir",
                      os.environ.get("JAX_COMPILATION_CACHE_DIR") or str(root / "xla"))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)


@pytest.fixture(autouse=True, scope="session")
def _lowered_in_one_context():
    """Lowers the programs of a thread in one MLIR context: to make one takes 3 ms, and most programs less.

    That is private to JAX (0.10 and 0.12 have it). Without it the suite is the same, and a quarter slower.
    """
    make, of_thread = getattr(mlir, "make_ir_context", None), threading.local()

    def make_ir_context():
        if mlir.ir.Context.current is not None:         # one program is lowered while another one is
            return make()
        if not hasattr(of_thread, "context"):
            of_thread.context = make()
        return of_thread.context

    with pytest.MonkeyPatch.context() as patch:
        if make is not None:
            patch.setattr(mlir, "make_ir_context", make_ir_context)
        yield


@pytest.fixture(autouse=True)
def _example_names(doctest_namespace, request):
    doctest_namespace.clear()
    doctest_namespace.update(NAMES)
    if request.node.name.startswith("haiku_mup.plans.plan.Plan."):
        names = _after(haiku_mup.Plan)
        names["plan"]._asked._traces.clear()        # of the docstrings before
        doctest_namespace.update(names, plan=dataclasses.replace(names["plan"], _warned=set()))
    if request.node.name.startswith(AFTER_MUP):
        names = _after(haiku_mup.Mup)
        doctest_namespace.update(names, mup=copy.copy(names["mup"]))        # an example may set its lr_mults


@functools.cache
def _after(cls):
    """Returns the names that the example of a class has made."""
    names = dict(NAMES)
    exec(doctest.script_from_examples(cls.__doc__), names)
    return names


@pytest.fixture(autouse=True)
def _no_rank_promotion():
    with jax.numpy_rank_promotion("raise"):
        yield


@pytest.fixture
def x64():
    with jax.enable_x64(True):
        yield
