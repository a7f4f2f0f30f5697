"""`lr_sweep`: which trials run, with which losses, on any executor; what fails, and what the messages say."""
import concurrent.futures
import math
import os
import pathlib
import signal
import subprocess
import sys
import threading
import time
import warnings

import jax
import jax.numpy as jnp
import loky
import numpy as np
import pytest
from sweep_program import deadly, make_trial

import haiku_mup
from haiku_mup.coordinates import compilation
from haiku_mup.sweep import program, split
from haiku_mup.sweep.program import MAX_CHUNK_ON_CPU, Program
from haiku_mup.sweep.runner import executors, tasks
from haiku_mup.sweep.trial import Trial

ROOT = pathlib.Path(__file__).parents[2]
LRS = [0.125, 0.25, 0.5]


@pytest.fixture(scope="module")
def here():
    """Yields an executor that is a thread of this process."""
    with concurrent.futures.ThreadPoolExecutor(1) as executor:
        yield executor


def sweep(here, make=make_trial, widths=(2, 4), lrs=LRS, seeds=2, **options):
    return haiku_mup.lr_sweep(make, widths, lrs, seeds, executor=here, progress=False, **options)


# --- what runs ---

def test_losses_are_those_of_the_trials_one_by_one(here):
    found = sweep(here, {"sp": make_trial, "mup": make_trial})
    assert [tuple(t) for t in found.losses] == [
        (name, width, (("lr", lr),), seed) for name in ("sp", "mup") for width in (2, 4) for lr in LRS
        for seed in (0, 1)]
    for trial, losses in found.losses.items():
        alone = jax.jit(make_trial(trial.width))(dict(trial.point)["lr"], jax.random.key(trial.seed))
        np.testing.assert_allclose(losses["train_loss"], alone, rtol=1e-6)
    assert not found.missing


@pytest.mark.parametrize("chunk", [1, 4])
def test_a_chunk_that_is_not_full_changes_nothing(here, chunk):
    """Nor does the order: a trial's key comes from its seed, not from its place among the six of a width."""
    found, other = sweep(here, chunk=chunk), sweep(here, chunk=chunk, lrs=LRS[::-1], seeds=[1, 0])
    assert found.losses.keys() == other.losses.keys()
    for trial, losses in found.losses.items():
        np.testing.assert_array_equal(losses["train_loss"], other.losses[trial]["train_loss"])


@pytest.mark.skipif(jax.default_backend() != "cpu", reason="elsewhere memory alone counts")
def test_on_a_cpu_trials_that_convolve_run_one_by_one():
    def trial(convolve):
        def run(lr, key):
            def step(x, _):
                return lr * jnp.convolve(x, x, "same") if convolve else lr * x, None

            return jax.lax.scan(step, jax.random.normal(key, (8,)), None, 3)[0].mean()

        return Program(run, ["lr"])

    assert trial(True).auto_chunk() == 1 and trial(False).auto_chunk() == MAX_CHUNK_ON_CPU


def test_other_hyperparameters_come_by_name(here):
    def make(width):
        return lambda lr, key, momentum, scale: {"a": lr + momentum, "b": scale * jnp.ones(2)}

    found = sweep(here, make, [2], [0.5], 1, hyperparameters={"momentum": [0.0, 0.25], "scale": [1, 3]})
    assert [(row["momentum"], row["scale"], row["a"], row["b"]) for row in found.rows()] == [
        (0.0, 1.0, 0.5, 1.0), (0.0, 3.0, 0.5, 3.0), (0.25, 1.0, 0.75, 1.0), (0.25, 3.0, 0.75, 3.0)]
    points = haiku_mup.draws(3, seed=1, lr=(0.01, 1), momentum=(0.5, 0.9), scale=(1, 1))
    found = sweep(here, make, [2], None, 1, hyperparameters=points)
    assert [{k: row[k] for k in points[0]} for row in found.rows()] == points


def test_losses_keep_their_order(here):
    """The first loss is the default of `Sweep`."""
    def make(width):
        return lambda lr, key: {"b": lr, "a": 1 / lr}

    found = sweep(here, make, [2])
    assert [list(losses) for losses in found.losses.values()] == [["b", "a"]] * 6 and found.loss == "b"


def test_a_loss_that_is_not_finite_is_inf(here):
    def make(width):
        return lambda lr, key: jnp.array([1.0, jnp.where(lr > 0.2, jnp.nan, 2), -jnp.inf])

    assert [list(x["train_loss"]) for x in sweep(here, make, [2], LRS[:2], 1).losses.values()] == [
        [1, 2, math.inf], [1, math.inf, math.inf]]


def test_the_settings_of_jax_are_those_of_the_caller(here):
    def make(width):
        return lambda lr, key: lr + jnp.zeros(1)

    with jax.enable_x64(True):
        found, = sweep(here, make, [2], [0.1], 1).losses.values()
    assert found["train_loss"].dtype == np.float64 and found["train_loss"][0] == 0.1


def test_the_parametrization_has_the_name_of_the_function(here):
    def make(width):
        return make_trial(width)

    assert list(sweep(here, make, [2]).curves()) == ["trial"]
    make.name = "mup"
    assert list(sweep(here, make, [2]).curves()) == ["mup"]


@pytest.mark.parametrize("arguments, said", [
    (dict(widths=[]), "at least one"), (dict(widths=[0]), "at least one"), (dict(lrs=[]), "nothing to try"),
    (dict(lrs=[-0.1]), "above 0"), (dict(lrs=[math.nan]), "finite"), (dict(seeds=0), "give the number"),
    (dict(seeds=[-1]), "give the number"), (dict(lrs=None), "has no 'lr'"), (dict(chunk=0), "chunk=0"),
    (dict(search="random"), "search='random'"),
    (dict(hyperparameters={"seed": [1]}), "'seed' can't be the name"),
    (dict(hyperparameters=[{"lr": 1.0}]), "both lrs"),
    (dict(hyperparameters=[{"a": 1}, {"b": 1}]), "same names"), (dict(make=7), "a function from a width"),
])
def test_arguments_that_are_not_allowed(here, arguments, said):
    with pytest.raises(haiku_mup.MupError, match=said):
        sweep(here, **arguments)


@pytest.mark.parametrize("wrong", [jnp.ones((2, 2)), jnp.ones(0), jnp.array(1), {}])
def test_losses_that_are_not_allowed(here, wrong):
    with pytest.raises(haiku_mup.MupError, match="a trial returned losses"):
        sweep(here, lambda width: lambda lr, key: wrong)


def test_draws_are_within_their_ranges_on_a_logarithmic_scale():
    found = haiku_mup.draws(1000, lr=(2**-8, 1))
    logs = np.log2([point["lr"] for point in found])
    assert (-8 <= logs).all() and (logs <= 0).all() and abs(np.mean(logs) + 4) < 0.3
    assert found[:10] == haiku_mup.draws(10, lr=(2**-8, 1))
    with pytest.raises(haiku_mup.MupError, match="lr"):
        haiku_mup.draws(1, lr=(0, 1))


# --- what fails ---

def fails_at(width, error):
    def make(w):
        if w == width:
            raise error
        return make_trial(w)
    return make


def test_a_width_that_fails_is_missing_and_the_others_go_on(here):
    with pytest.warns(haiku_mup.MupWarning, match="6 of 12 trials are missing.*width 4: KeyError: 'here'"):
        found = sweep(here, fails_at(4, KeyError("here")))
    assert {trial.width for trial in found.losses} == {2}
    assert {(lost.trial.width, lost.reason.partition(":")[0]) for lost in found.missing} == {(4, "KeyError")}
    assert "6 trials are missing" in str(found)


def test_where_everything_fails_it_raises(here):
    with pytest.raises(haiku_mup.MupError, match="every trial failed.*width 2: ZeroDivisionError: all gone"):
        sweep(here, fails_at(2, ZeroDivisionError("all gone")), [2])


class Faulty(concurrent.futures.Executor):
    """Runs jobs in this thread, except those for which the plan has an error: {number of the job: error}."""

    def __init__(self, plan):
        self.plan, self.jobs = plan, []

    def submit(self, function, *args):
        future = concurrent.futures.Future()
        self.jobs.append(function)
        error = self.plan.get(len(self.jobs) - 1)
        if error is not None:
            future.set_exception(error)
        else:
            future.set_result(function(*args))
        return future


def test_a_job_that_fails_is_tried_three_times():
    lost = OSError("lost on the way")
    assert len(sweep(Faulty({1: lost, 2: lost}), widths=[2], chunk=6).losses) == 6
    with pytest.warns(haiku_mup.MupWarning, match="3 of 6 trials are missing.*lost on the way"):
        found = sweep(Faulty({i: lost for i in (1, 3, 4)}), widths=[2], chunk=3)
    assert len(found.losses) == 3


def test_an_executor_whose_workers_are_gone_ends_the_sweep():
    class Broken(Faulty):
        def submit(self, function, *args):
            if len(self.jobs) > 2:
                raise concurrent.futures.BrokenExecutor("all died")
            return super().submit(function, *args)

    with pytest.warns(haiku_mup.MupWarning, match="6 of 12 trials are missing.*all died"):
        assert len(sweep(Broken({}), chunk=6).losses) == 6


def test_an_executor_that_its_owner_shuts_down_ends_the_sweep():
    """Whether it cancels what is pending, which `concurrent.futures.wait` doesn't notice, or not."""
    def make(width):
        def trial(lr, key):
            jax.debug.callback(lambda: executor.shutdown(wait=False, cancel_futures=True))
            return lr
        return trial

    with concurrent.futures.ThreadPoolExecutor(1) as executor:
        with pytest.warns(haiku_mup.MupWarning, match="5 of 6 trials are missing.*cannot schedule new futures"):
            assert len(sweep(executor, make, widths=[2], chunk=1).losses) == 1


def test_attempts_at_a_task_are_different_calls():
    """distributed gives the result of the first one again where calls are equal."""
    class Recording(Faulty):
        def submit(self, *call):
            calls.append(call)
            return super().submit(*call)

    calls = []
    sweep(Recording({1: OSError("lost"), 2: OSError("lost")}), widths=[2], chunk=6)
    assert len(calls) == len({str(call) for call in calls}) == 4


class Fragile(concurrent.futures.Executor):
    """Runs jobs in batches; a job that is poison breaks its whole batch."""

    _max_workers = 4

    def __init__(self, poison):
        self.poison, self.jobs, self.batches = poison, [], []
        threading.Thread(target=self.work, daemon=True).start()

    def submit(self, function, *args):
        future = concurrent.futures.Future()
        self.jobs.append((future, function, args))
        return future

    def work(self):
        while True:
            time.sleep(0.05)
            batch, self.jobs = self.jobs, []
            dead = any(map(self.poison, batch))
            self.batches += [len(batch)] * bool(batch)
            for future, function, args in batch:
                if dead:
                    future.set_exception(concurrent.futures.BrokenExecutor("one of them"))
                else:
                    future.set_result(function(*args))


def test_a_cell_that_kills_its_worker_is_found_and_the_others_are_spared():
    def poison(job):
        _, _, (_, _, _, method, *args) = job
        return method == "run_cell" and any(trial.seed == 1 for trial in args[-1])

    executor = Fragile(poison)
    with pytest.warns(haiku_mup.MupWarning, match="1 of 6 trials are missing.*a worker died"):
        found = sweep(executor, widths=[2], lrs=[0.5], seeds=6, chunk=1)
    assert [trial.seed for trial in found.losses] == [0, 2, 3, 4, 5]
    assert executor.batches == [1, 6, 1, 1, 1, 1, 1, 1, 1]      # all; each of them; and again, twice, what died


def test_where_the_first_cell_fails_the_next_one_compiles_for_all(monkeypatch):
    """Other cells wait for a program's first one, but not for one that was given up."""
    monkeypatch.setattr(executors.SweepExecutor, "shares_compiled", True)
    executor, lost = Faulty({}), OSError("lost on the way")
    executor.plan = {number: lost for number in (1, 2, 3)}
    with pytest.warns(haiku_mup.MupWarning, match="1 of 6 trials are missing"):
        assert len(sweep(executor, widths=[2], chunk=1).losses) == 5


def test_a_worker_is_sent_the_functions_once(monkeypatch):
    """The executor runs jobs as another process does, without what this process knows."""
    class Elsewhere(Faulty):
        def submit(self, function, sweep_id, attempt, pickled, *args):
            self.sent = [*getattr(self, "sent", []), pickled is not None]
            mine, tasks._known = tasks._known, self.__dict__.setdefault("known", {})
            try:
                return super().submit(function, sweep_id, attempt, pickled, *args)
            finally:
                tasks._known = mine

    executor = Elsewhere({})
    assert len(sweep(executor, widths=[2], chunk=1).losses) == 6
    assert executor.sent == [False, True] + [False] * 6


def test_functions_that_cannot_be_pickled_are_an_error(here):
    """It is an error only for other processes."""
    lock = threading.Lock()

    def make(width):
        return lambda lr, key: lr if lock else lr

    assert len(sweep(here, make).losses) == 12

    class Elsewhere(Faulty):
        def submit(self, function, sweep_id, *args):
            tasks._known.pop(sweep_id, None)
            return super().submit(function, sweep_id, *args)

    with pytest.raises(haiku_mup.MupError, match="can't be sent to another process"):
        sweep(Elsewhere({}), make)


def test_warnings_of_workers_are_given_here(here):
    def make(width):
        warnings.warn("look here", haiku_mup.MupWarning, stacklevel=1)
        return make_trial(width)

    with pytest.warns(haiku_mup.MupWarning, match="look here"):
        sweep(here, make, [2])


# --- processes of this machine ---

@pytest.mark.slow
def test_workers_that_die_lose_no_other_trials(here, tmp_path):
    with pytest.warns(haiku_mup.MupWarning, match="4 of 8 trials are missing") as caught:
        found = haiku_mup.lr_sweep(deadly, [2, 3, 4, 5], LRS[:2], 1, out=tmp_path, progress=False)
    text = str(caught[0].message)
    assert "2 of trial at width 3: a worker died while it ran" in text and "width 5: RuntimeError: five" in text
    same = sweep(here, widths=[2, 4], lrs=LRS[:2], seeds=1)
    assert [(t.width, t.point, list(x["train_loss"])) for t, x in found.losses.items()] == [
        (t.width, t.point, list(x["train_loss"])) for t, x in same.losses.items()]


@pytest.mark.slow
def test_a_worker_that_dies_between_tasks_is_replaced():
    executor = executors.LokyExecutor()
    executor.set_threads(64)                # one worker
    pid = executor.submit(os.getpid).result()
    os.kill(pid, signal.SIGKILL)
    time.sleep(1)                           # loky notices
    assert executor.submit(os.getpid).result() != pid
    executor.close(at_once=True)


@pytest.mark.slow
def test_workers_that_are_killed_log_nothing(capfd, caplog):
    """loky logs an error if jobs are cancelled before it hands them to a worker."""
    executor = executors.LokyExecutor()
    executor.set_threads(64)                # one worker
    running = [executor.submit(time.sleep, 60) for _ in range(6)]
    executor.close(at_once=True)
    assert all(isinstance(future.exception(), RuntimeError) for future in running)
    assert (capfd.readouterr().err, caplog.text) == ("", "")


@pytest.mark.parametrize("carry, cores, threads", [
    (1, 2, 1), (executors.ONE_CORE_BYTES, 64, 1), (22 * 2**20, 2, 2), (22 * 2**20, 64, 3), (2**30, 64, 64)])
def test_large_trials_get_several_cores(monkeypatch, carry, cores, threads):
    monkeypatch.setattr(loky, "cpu_count", lambda only_physical_cores: cores)
    executor = executors.LokyExecutor()
    assert executor.threads_for(carry) == threads
    executor.set_threads(threads)
    assert executor.capacity == cores // threads


# --- parametrizations that compute the same ---

@pytest.fixture
def cells_run(monkeypatch):
    """Returns a list that is filled with the cells that run, in this process."""
    ran, run_cell = [], tasks.TrialRunner.run_cell

    def run(self, parametrization, width, fingerprint, chunk, cell):
        ran.append(cell)
        return run_cell(self, parametrization, width, fingerprint, chunk, cell)

    monkeypatch.setattr(tasks.TrialRunner, "run_cell", run)
    return ran


def _differs_above(base):
    """Returns make_trial of a parametrization that is `make_trial`'s at the base width."""
    def make(width):
        plain = make_trial(width)
        return plain if width == base else lambda lr, key: plain(lr * base / width, key)
    return make


def _numbers(found, name=None):
    """Returns the losses of all trials, or of those of one parametrization, as lists."""
    return {trial: {loss: x.tolist() for loss, x in losses.items()} for trial, losses in found.losses.items()
            if name in (None, trial.parametrization)}


@pytest.mark.parametrize("search", ["grid", "adaptive"])
@pytest.mark.parametrize("workers", [1, 3])
def test_trials_that_compute_the_same_run_once(tmp_path, cells_run, search, workers):
    """At width 2, the base, both parametrizations are one program; at width 4 each has its own."""
    makers, lrs = {"sp": make_trial, "mup": _differs_above(2)}, [2.0**k for k in range(-6, 0)]
    with concurrent.futures.ThreadPoolExecutor(workers) as executor:
        both = sweep(executor, makers, lrs=lrs, search=search, out=tmp_path, chunk=2)
        ran = [trial for cell in cells_run for trial in cell]
        for width, names in (2, 1), (4, 2):
            of_width = [trial for trial in ran if trial.width == width]
            assert len({trial.parametrization for trial in of_width}) == names
            assert len(of_width) * 2 == names * sum(trial.width == width for trial in both.losses)
        for name, make in makers.items():       # as if they had run alone
            alone = sweep(executor, {name: make}, lrs=lrs, search=search, chunk=2)
            assert _numbers(alone) == _numbers(both, name)
        cells_run.clear()                       # all of them are in the folder
        again = sweep(executor, makers, lrs=lrs, search=search, out=tmp_path, chunk=2)
        assert _numbers(again) == _numbers(both) and not cells_run


def test_trials_that_call_python_run_for_each_parametrization(here, tmp_path):
    """Their programs have one text, whatever Python computes."""
    def make(factor):
        def trial(lr, key):
            shape = jax.ShapeDtypeStruct((), jnp.float32)
            return jax.pure_callback(lambda x: np.float32(factor * x), shape, lr, vmap_method="sequential")
        return lambda width: trial

    for _ in range(2):          # and from the folder
        found = sweep(here, {"one": make(1), "two": make(2)}, [2], [0.5, 1.0], 1, out=tmp_path)
        assert [float(losses["train_loss"]) for losses in found.losses.values()] == [0.5, 1.0, 1.0, 2.0]


def test_trials_that_failed_are_not_taken_for_those_of_another_parametrization(cells_run, here, monkeypatch):
    count, run = [], Program.run

    def fails_at_first(self, trials, chunk):
        count.append(trials)
        if len(count) <= 3:
            raise RuntimeError("the device is busy")
        return run(self, trials, chunk)

    monkeypatch.setattr(Program, "run", fails_at_first)
    with pytest.warns(haiku_mup.MupWarning, match="1 of 2 trials are missing"):
        found = sweep(here, {"sp": make_trial, "mup": make_trial}, [2], [0.5], 1)
    assert [trial.parametrization for trial in found.losses] == ["mup"] and len(count) == 4


# --- how a trial is compiled ---

def _options_of(monkeypatch, trial):
    """Runs a trial at two seeds; returns the options its training was compiled with, and its losses."""
    given = []

    def compile_and_note(lowered, options):
        given.append(dict(options))
        return compilation.compile_fast(lowered, options)

    monkeypatch.setattr(split, "compile_fast", compile_and_note)
    runs = Program(trial, ["lr"]).run([Trial("mup", 8, (("lr", 0.5),), seed) for seed in (0, 1)], chunk=2)
    of_draws, options = given
    assert (of_draws == {}) == (program.LEVEL in os.environ.get("XLA_FLAGS", ""))
    return options, [losses["train_loss"] for losses in runs]


def _draw(lr, key):
    return lr * jax.random.normal(key, (3,))


def _convolve(lr, key):
    x = jax.random.normal(key, (1, 1, 3))
    return lr * jax.lax.conv(x, jnp.ones((1, 1, 1)), (1,), "SAME")[0, 0]


def test_trials_are_compiled_fast_but_convolutions_for_speed(monkeypatch):
    monkeypatch.delenv("XLA_FLAGS", raising=False)
    assert _options_of(monkeypatch, _draw)[0] == program.FAST_TO_COMPILE
    assert _options_of(monkeypatch, _convolve)[0] == {}


def test_a_flag_of_the_users_own_decides_how_a_trial_is_compiled(monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", "--xla_cpu_enable_fast_math=false")
    assert _options_of(monkeypatch, _draw)[0] == program.FAST_TO_COMPILE
    monkeypatch.setenv("XLA_FLAGS", f"--{program.LEVEL}=3")
    assert _options_of(monkeypatch, _draw)[0] == {}


def test_a_trial_runs_with_an_xla_that_does_not_know_the_option(monkeypatch):
    monkeypatch.delenv("XLA_FLAGS", raising=False)
    expected = _options_of(monkeypatch, _draw)[1]
    monkeypatch.setattr(program, "FAST_TO_COMPILE", {"xla_has_no_such_option": True})
    options, losses = _options_of(monkeypatch, _draw)
    assert options == {"xla_has_no_such_option": True}
    np.testing.assert_allclose(losses, expected, rtol=1e-6)     # other optimizations round differently


# --- several devices ---

@pytest.mark.slow
def test_devices_share_the_trials():
    """Four devices of a CPU give the numbers of one."""
    code = """
import haiku_mup, jax, numpy as np
from sweep_program import make_trial
assert jax.local_device_count() == 4
sweep = haiku_mup.lr_sweep(make_trial, [2, 4], [0.125, 0.25, 0.5], 3, chunk=2, progress=False)
for t, losses in sweep.losses.items():
    alone = jax.jit(make_trial(t.width))(dict(t.point)["lr"], jax.random.key(t.seed))
    np.testing.assert_allclose(losses["train_loss"], alone, rtol=1e-6)
print(len(sweep.losses))
"""
    env = os.environ | {"XLA_FLAGS": "--xla_force_host_platform_device_count=4",
                        "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests" / "support")])}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "18\n"), done.stderr
