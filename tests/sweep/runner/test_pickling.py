"""Functions for workers are pickled by name, or by value if workers can't import their modules."""
import functools
import pickle
import subprocess
import sys
import threading
import types

import pytest
from sweep_program import make_trial

import haiku_mup
from haiku_mup.sweep.runner import pickling


def elsewhere(packed):
    """Returns what another process prints for the result of a pickled function."""
    code = f"import pickle; print(pickle.loads({packed!r})())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.fixture
def nowhere(monkeypatch):
    """Returns a module without a file."""
    module = types.ModuleType("nowhere")
    exec("def double(x):\n    return 2 * x\n\ndef four():\n    return double(2)\n", module.__dict__)
    monkeypatch.setitem(sys.modules, "nowhere", module)
    return module


@pytest.mark.parametrize("held", [
    lambda f: f, lambda f: functools.partial(f), lambda f: {"a": [f]}["a"][0], lambda f: lambda: f(),
    lambda f: lambda f=f: f()])
def test_functions_of_a_module_that_cannot_be_imported_go_by_value(nowhere, held):
    assert elsewhere(pickling.dumps(held(nowhere.four))) == "4"


def test_functions_of_other_modules_go_by_name():
    assert len(pickling.dumps(make_trial)) < 100 and pickle.loads(pickling.dumps(make_trial)) is make_trial


def test_classes_of_equinox_that_processes_cannot_import_are_told():
    cloudpickle, eqx = pytest.importorskip("cloudpickle"), pytest.importorskip("equinox")

    class Local(eqx.Module):
        x: int

    class Plain:
        pass

    assert "can't import the class Local, " in pickling.class_error({"make": lambda: Local(3)})
    assert pickling.class_error(lambda: (eqx.nn.Linear, Plain())) is None
    with pytest.raises(haiku_mup.MupError, match="class Local, .*; define it in a module that your program"):
        pickling.dumps(lambda: Local(3))                        # for the processes of a caller's executor
    assert pickle.loads(cloudpickle.dumps(Local))(3).x == 3     # within one process the class is the same
    with pytest.raises(AssertionError, match="FrozenInstanceError"):
        elsewhere(cloudpickle.dumps(lambda: Local(3)))          # where this passes, Equinox has mended it


def test_nothing_is_left_registered(nowhere):
    import cloudpickle

    pickling.dumps(nowhere.four)
    assert "nowhere" not in cloudpickle.list_registry_pickle_by_value()


def test_what_cannot_be_pickled_raises(monkeypatch):
    with pytest.raises(haiku_mup.MupError, match="cannot pickle '_thread.lock'"):
        pickling.dumps(threading.Lock())
    monkeypatch.setitem(sys.modules, "cloudpickle", None)
    with pytest.raises(haiku_mup.MupError, match="pip install cloudpickle, or make"):
        pickling.dumps(lambda: 1)
