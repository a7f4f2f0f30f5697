"""Compiles the trial of one width, and runs many of it side by side on one or several devices."""
import hashlib
import os
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import jaxlib.version
import numpy as np

from haiku_mup.coordinates.compilation import LEVEL, compile_fast, user_sets_level
from haiku_mup.errors import MupError
from haiku_mup.sweep.loop_state import carry_bytes, contains
from haiku_mup.sweep.split import SplitTrial, side_by_side
from haiku_mup.sweep.trial import Trial, split_into_cells

DEFAULT_LOSS = "train_loss"     # the name of losses that a trial returns without one
CACHE_BYTES = 4 * 2**20         # of one core, which the states of the trials on it should fit into
MAX_CHUNK_ON_CPU = 5
MAX_CHUNK = 64                  # on any other device
MEMORY_SHARE = 8                # trials fill at most one part in so many of such a device's memory

# On a CPU, LLVM's first level of optimizations takes a sixth to a half off the time to compile. Trials of an
# MLP and of a transformer then run as fast as with all levels; convolutions take 5% to 27% longer.
FAST_TO_COMPILE = {LEVEL: 1}

CALLS_OF_PYTHON = "pure_callback", "io_callback", "debug_callback"

TrialLosses = dict[str, np.ndarray]     # by name, arrays [steps] or []


class ProgramInfo(NamedTuple):
    """The properties of a program that are known before it runs.

    Attributes:
      fingerprint: a digest of the computation, of its constants and of the compiler's version.
      carry: the bytes of the largest loop state: parameters and the optimizer's state.
      device: the kind of device that the program runs on.
      token: "", or, if it calls Python while it runs, one of its own: no digest tells what Python computes.
        Programs with equal information compute equal losses.
    """

    fingerprint: str
    carry: int
    device: str
    token: str = ""


class Program:
    """The compiled trial of one parametrization at one width.

    The trial is traced once. The learning rate and the other hyperparameters are arguments of the compiled
    function, so one program serves them all. The arrays that the trial closes over, such as the data, are
    arguments, too: as constants they would be copied into every program.

    Args:
      trial: ``trial(lr, key, **hyperparameters)``, a pure function.
      names: the names of the hyperparameters, "lr" first.
      placed: arrays that other programs have put on the devices, by the id of the host's array: pairs of the
        host's and the devices' array. This program adds its own.

    Attributes:
      info: its `ProgramInfo`.

    >>> program = Program(lambda lr, key: lr * jax.random.normal(key, (3,)), ["lr"])
    >>> trials = [Trial("mup", 64, (("lr", lr),), 0) for lr in (1.0, 2.0)]
    >>> [losses["train_loss"].shape for losses in program.run(trials, chunk=2)]
    [(3,), (3,)]
    """

    def __init__(self, trial: Callable[..., Any], names: Sequence[str],
                 placed: dict[int, tuple[Any, Any]] | None = None):
        if not callable(trial):
            raise MupError(f"lr_sweep: make_trial returned {type(trial).__name__}; it must return a function "
                           "trial(lr, key, **hyperparameters) that trains: give haiku_mup.training(make_model, "
                           "data, loss_fn, optimizer, …)")
        self._names = list(names)
        self._loss_names: list[str] = []
        scalars = [jax.ShapeDtypeStruct((), jnp.result_type(float))] * len(self._names)
        seed = jax.ShapeDtypeStruct((), jnp.uint32)

        def losses(seed, *values):
            lr, *others = values
            by_name = _losses_by_name(trial(lr, jax.random.key(seed), **dict(zip(self._names[1:], others))))
            self._loss_names = list(by_name)        # in the trial's order, which a pytree's keys don't keep
            return by_name

        closed, shapes = jax.make_jaxpr(losses, return_shape=True)(seed, *scalars)
        self._jaxpr, self._consts = closed.jaxpr, closed.consts
        self._one_by_one = not str(jax.random.key_impl(jax.random.key(0))).startswith("threefry")
        self._convolves = contains(self._jaxpr, "conv_general_dilated")
        self._out_tree = jax.tree.structure(shapes)
        self._compiled: dict[int, Callable[..., Any]] = {}          # by the number of lanes
        self._placed = {} if placed is None else placed
        lowered = jax.jit(self._one).lower(self._consts, seed, *scalars)
        calls_python = any(contains(self._jaxpr, primitive) for primitive in CALLS_OF_PYTHON)
        self.info = ProgramInfo(_fingerprint(lowered.as_text(), self._consts), carry_bytes(self._jaxpr),
                                jax.local_devices()[0].device_kind, os.urandom(8).hex() if calls_python else "")

    def auto_chunk(self) -> int:
        """Returns the number of trials that keeps one device busy when they run side by side.

        On a CPU it is the number of states that fit into a core's cache, and small: more trials were slower. It
        is one if `run` takes one at a time, or if the trial convolves. There vmap makes a grouped convolution,
        which takes 1.4 times as long as separate ones, and two to three times as long to compile. Any other
        device gets as many as fit into a share of its memory.
        """
        device = jax.local_devices()[0]
        if self._one_by_one:
            return 1
        if device.platform == "cpu":
            most = 1 if self._convolves else MAX_CHUNK_ON_CPU
            return max(1, min(most, round(CACHE_BYTES / max(self.info.carry, 1))))
        memory = (device.memory_stats() or {}).get("bytes_limit", 2**34)
        return max(1, min(MAX_CHUNK, int(memory / MEMORY_SHARE / max(self.info.carry, 1))))

    def run(self, trials: Sequence[Trial], chunk: int) -> list[TrialLosses]:
        """Returns the losses of each trial, with inf for every loss that is not finite.

        Args:
          trials: any number of trials.
          chunk: how many run side by side on each device. The last batch is filled up with copies of its last
            trial: results are reproducible bit for bit only if the same program computes them all. Where random
            numbers aren't Threefry's, it is one: under vmap, those of JAX's rbg depend on the place.
        """
        chunk = 1 if self._one_by_one else chunk
        lanes = chunk * jax.local_device_count()
        batches = split_into_cells(trials, lanes)
        return [losses for batch in batches for losses in self._run_batch(batch, chunk, lanes)]

    def _run_batch(self, batch: Sequence[Trial], chunk: int, lanes: int) -> list[TrialLosses]:
        """Runs at most as many trials as there are lanes."""
        padded = [*batch, *[batch[-1]] * (lanes - len(batch))]
        seeds = np.array([trial.seed for trial in padded], np.uint32)
        values = [np.array([dict(trial.point)[name] for trial in padded], jnp.result_type(float))
                  for name in self._names]
        args = self._placed_consts(), seeds, *values
        if lanes not in self._compiled:
            self._compiled[lanes] = self._compile(chunk, args)
        out = jax.device_get(self._compiled[lanes](*args))
        return [{name: _not_finite_to_inf(out[name][i]) for name in self._loss_names}
                for i in range(len(batch))]

    def _placed_consts(self) -> list[Any]:
        """Returns the arrays that the trial closes over, copied to all devices once for all programs."""
        for x in self._consts:
            if id(x) not in self._placed:
                everywhere = jax.sharding.NamedSharding(_mesh(), jax.sharding.PartitionSpec())
                # The pair holds x, too: while x is alive, no other object gets its id.
                self._placed[id(x)] = x, jax.device_put(x, everywhere)
        return [self._placed[id(x)][1] for x in self._consts]

    # The fingerprint covers the lowered text, and that has the name of this method: another name would disown
    # every folder that a sweep has filled.
    def _one(self, consts, seed, *values):
        """Returns the losses of one trial."""
        return jax.tree.unflatten(self._out_tree, jax.core.eval_jaxpr(self._jaxpr, consts, seed, *values))

    def _compile(self, chunk: int, args: Sequence[Any]) -> Callable[..., Any]:
        """Compiles, for such arguments, a function from seeds and each hyperparameter to losses.

        Args:
          chunk: how many trials run side by side on each device.
          args: the constants, the seeds [lanes], and each hyperparameter's values [lanes].

        Returns:
          A function from such arguments to the losses by name, [lanes, …].
        """
        devices = jax.local_device_count()
        if devices == 1 and jax.default_backend() == "cpu" and not self._jaxpr.effects:
            split = SplitTrial(self._jaxpr, chunk, args, self._options())
            return lambda *args: jax.tree.unflatten(self._out_tree, split(*args))
        on_device = side_by_side(self._one, chunk)
        if devices > 1:
            P = jax.sharding.PartitionSpec
            in_specs = P(), *[P("trials")] * (1 + len(self._names))
            on_device = jax.shard_map(on_device, mesh=_mesh(), in_specs=in_specs, out_specs=P("trials"),
                                      check_vma=False)
        compiled: Callable[..., Any] = compile_fast(jax.jit(on_device).lower(*args), self._options())
        return compiled

    def _options(self) -> dict[str, Any]:
        """Returns the options to compile with: none where XLA's own serve, which the user's flags may set."""
        return {} if user_sets_level() or self._convolves else FAST_TO_COMPILE


def _mesh() -> Any:
    """Returns a mesh of all local devices, with one axis, "trials"."""
    return jax.sharding.Mesh(np.array(jax.local_devices()), ("trials",))


def _losses_by_name(losses: Any) -> dict[str, jax.Array]:
    """Returns the losses by name, as float arrays of at most one dimension, in 32 bits or 64.

    Raises:
      MupError: a trial returned something else.
    """
    by_name = losses if isinstance(losses, dict) else {DEFAULT_LOSS: losses}
    arrays = {str(name): jnp.asarray(x) for name, x in by_name.items()}
    wrong = {name: x.shape for name, x in arrays.items()
             if x.ndim > 1 or not x.size or not jnp.issubdtype(x.dtype, jnp.floating)}
    if wrong or not arrays:
        raise MupError(f"a trial returned losses of shapes {wrong or arrays}; it must return a float scalar, "
                       "an array [steps], or a dict of such")
    return {name: x if x.dtype in (jnp.float32, jnp.float64) else x.astype(jnp.float32)
            for name, x in arrays.items()}


def _not_finite_to_inf(x: np.ndarray) -> np.ndarray:
    """Returns the array with inf for -inf and nan."""
    return np.where(np.isfinite(x), x, np.inf).astype(x.dtype)


def _fingerprint(text: str, consts: Sequence[Any]) -> str:
    """Returns a digest of a lowered program, of its constants, and of the version of the compiler."""
    digest = hashlib.sha256(f"{jaxlib.version.__version__}\n{text}".encode())
    for x in consts:
        array = np.asarray(jax.random.key_data(x) if jnp.issubdtype(x.dtype, jax.dtypes.prng_key) else x)
        digest.update(f"{array.dtype} {array.shape}".encode() + np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()[:16]
