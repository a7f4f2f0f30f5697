"""A trial of one width, compiled once to run many at a time: on one device, or shared out over several."""
import hashlib
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import jaxlib.version
import numpy as np

from haiku_mup.errors import MupError
from haiku_mup.sweep.trial import Trial

LOSS = "train_loss"         # what a trial's losses are called that give no names
CACHE = 4 * 2**20           # bytes of a core's cache that the carries of the trials beside one another may take
MOST = 5                    # trials beside one another on a CPU, and
MOST_ELSEWHERE = 64         # on another device, of whose memory they may take
SHARE = 8                   # at most this part

Losses = dict[str, np.ndarray]


class Facts(NamedTuple):
    """What is known of a program before it runs.

    Attributes:
      fingerprint: of what it computes, of the data inside and of what compiles it: equal for programs that
        give equal losses.
      carry: bytes of its largest loop's state: parameters and the optimizer's state.
      device: what it runs on.
    """

    fingerprint: str
    carry: int
    device: str


class Program:
    """The trials of one parametrization at one width.

    The function is traced once. What it closes over, such as data, are arguments of what is compiled, and not
    constants in it. The learning rate and the others are arguments, too, so that one program serves them all.

    Args:
      trial: ``trial(lr, key, **hyperparameters)``, a pure function.
      names: of its hyperparameters, "lr" first.
      shelf: arrays that other programs have put on the devices already, and what is there now.

    >>> program = Program(lambda lr, key: lr * jax.random.normal(key, (3,)), ["lr"])
    >>> trials = [Trial("mup", 64, (("lr", lr),), 0) for lr in (1.0, 2.0)]
    >>> [losses["train_loss"].shape for losses in program.run(trials, chunk=2)]
    [(3,), (3,)]
    """

    def __init__(self, trial: Callable[..., Any], names: Sequence[str],
                 shelf: dict[int, tuple[Any, Any]] | None = None):
        self._names, self._losses = list(names), list[str]()
        scalars = [jax.ShapeDtypeStruct((), jnp.result_type(float))] * len(self._names)
        seed = jax.ShapeDtypeStruct((), jnp.uint32)

        def losses(seed, *values):
            lr, *rest = values
            found = _named(trial(lr, jax.random.key(seed), **dict(zip(self._names[1:], rest))))
            self._losses = list(found)              # JAX sorts them
            return found

        traced, self._shapes = jax.make_jaxpr(losses, return_shape=True)(seed, *scalars)
        self._jaxpr, self._consts = traced.jaxpr, traced.consts
        self._tree = jax.tree.structure(self._shapes)
        self._compiled: dict[int, Callable[..., Any]] = {}
        self._shelf = {} if shelf is None else shelf
        lowered = jax.jit(self._one).lower(self._consts, seed, *scalars)
        self.facts = Facts(_fingerprint(lowered.as_text(), self._consts), _carry(self._jaxpr),
                           jax.local_devices()[0].device_kind)

    def chunk(self) -> int:
        """How many trials to run beside one another on one device, so that it is as busy as can be.

        On a CPU as many as have a place in a core's cache, and a few at most: more are slower; and one, if it
        convolves: those of several trials are one convolution in groups, which takes 1.4 times as long, and
        twice to three times to compile. On others, as many as have a place in their memory.
        """
        device = jax.local_devices()[0]
        if device.platform == "cpu":
            most = 1 if _has(self._jaxpr, "conv_general_dilated") else MOST
            return max(1, min(most, round(CACHE / max(self.facts.carry, 1))))
        memory = (device.memory_stats() or {}).get("bytes_limit", 2**34)
        return max(1, min(MOST_ELSEWHERE, int(memory / SHARE / max(self.facts.carry, 1))))

    def run(self, trials: Sequence[Trial], chunk: int) -> list[Losses]:
        """The losses of each trial, from a program for exactly `chunk` trials a device: the last is repeated.

        A loss that is not finite is inf.
        """
        lanes = chunk * jax.local_device_count()
        if lanes not in self._compiled:
            self._compiled[lanes] = self._mapped(chunk)
        found: list[Losses] = []
        for start in range(0, len(trials), lanes):
            some = list(trials[start:start + lanes])
            full = some + some[-1:] * (lanes - len(some))
            seeds = np.array([trial.seed for trial in full], np.uint32)
            values = [np.array([dict(trial.point)[name] for trial in full], jnp.result_type(float))
                      for name in self._names]
            out = jax.device_get(self._compiled[lanes](self._placed(), seeds, *values))
            found += [{name: _finite(out[name][i]) for name in self._losses} for i in range(len(some))]
        return found

    def _placed(self) -> list[Any]:
        """What the function closes over, on the devices: each array once."""
        for x in self._consts:
            if id(x) not in self._shelf:
                everywhere = jax.sharding.NamedSharding(_mesh(), jax.sharding.PartitionSpec())
                self._shelf[id(x)] = x, jax.device_put(x, everywhere)       # with x: its id stays its own
        return [self._shelf[id(x)][1] for x in self._consts]

    def _one(self, consts, seed, *values):
        return jax.tree.unflatten(self._tree, jax.core.eval_jaxpr(self._jaxpr, consts, seed, *values))

    def _mapped(self, chunk: int) -> Callable[..., Any]:
        """[lanes] of seeds and of each hyperparameter -> losses [lanes, …]."""
        count, in_axes = jax.local_device_count(), (None, *[0] * (1 + len(self._names)))
        if chunk > 1:
            some = jax.vmap(self._one, in_axes)
        else:       # no vmap, whose control flow costs
            def some(consts, *args):
                return jax.tree.map(lambda x: x[None], self._one(consts, *(x[0] for x in args)))
        if count == 1:
            return jax.jit(some)
        P = jax.sharding.PartitionSpec
        in_specs = P(), *[P("trials")] * (1 + len(self._names))
        return jax.jit(jax.shard_map(some, mesh=_mesh(), in_specs=in_specs, out_specs=P("trials"),
                                     check_vma=False))


def _mesh() -> Any:
    return jax.sharding.Mesh(np.array(jax.local_devices()), ("trials",))


def _named(losses: Any) -> dict[str, jax.Array]:
    """The losses by name, as float arrays of at most one dimension."""
    named = losses if isinstance(losses, dict) else {LOSS: losses}
    found = {str(name): jnp.asarray(x) for name, x in named.items()}
    wrong = {name: x.shape for name, x in found.items()
             if x.ndim > 1 or not x.size or not jnp.issubdtype(x.dtype, jnp.floating)}
    if wrong or not found:
        raise MupError(f"a trial returned losses of shapes {wrong or found}; it must return a float scalar, an "
                       "array [steps], or a dict of such")
    return {name: x if x.dtype in (jnp.float32, jnp.float64) else x.astype(jnp.float32)
            for name, x in found.items()}


def _finite(x: np.ndarray) -> np.ndarray:
    return np.where(np.isfinite(x), x, np.inf).astype(x.dtype)


def _fingerprint(text: str, consts: Sequence[Any]) -> str:
    digest = hashlib.sha256(f"{jaxlib.version.__version__}\n{text}".encode())
    for x in consts:
        array = np.asarray(jax.random.key_data(x) if jnp.issubdtype(x.dtype, jax.dtypes.prng_key) else x)
        digest.update(f"{array.dtype} {array.shape}".encode() + np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()[:16]


def _carry(jaxpr: Any) -> int:
    """Bytes of the largest state of a loop."""
    return max((max(_loop(eqn), *map(_carry, _inner(eqn)), 0) for eqn in jaxpr.eqns), default=0)


def _has(jaxpr: Any, primitive: str) -> bool:
    """Whether a primitive is somewhere in a program."""
    return any(eqn.primitive.name == primitive or any(_has(part, primitive) for part in _inner(eqn))
               for eqn in jaxpr.eqns)


def _loop(eqn: Any) -> int:
    """Bytes of an equation's state, where it is a loop."""
    if eqn.primitive.name == "scan":        # what it stacks has one axis more than in its body
        state = [v for v, each in zip(eqn.outvars, next(_inner(eqn)).outvars) if v.aval.ndim == each.aval.ndim]
    else:
        state = eqn.outvars if eqn.primitive.name == "while" else []
    return sum(math.prod(v.aval.shape) * getattr(v.aval.dtype, "itemsize", 4) for v in state)


def _inner(eqn: Any) -> Iterator[Any]:
    for value in eqn.params.values():
        for part in value if isinstance(value, (tuple, list)) else [value]:
            if hasattr(part, "eqns"):
                yield part
            elif hasattr(getattr(part, "jaxpr", None), "eqns"):
                yield part.jaxpr
