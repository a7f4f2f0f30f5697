"""One width of a coordinate check: a model that trains, and tells what it computes at each step."""
import functools
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Executor
from typing import Any, NamedTuple, TypeVar

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import optax

from haiku_mup.coordinates.array_stats import Stat, by_layer, in_memory
from haiku_mup.coordinates.compilation import Compiled, quickly
from haiku_mup.coordinates.model_inputs import Inputs
from haiku_mup.coordinates.recorder import Recorder, merged, split, trace_state
from haiku_mup.errors import MupError
from haiku_mup.parameters.haiku_layers import NAMED, READOUT
from haiku_mup.parameters.scaling import ParameterScaling

T = TypeVar("T")
PARAM, UPDATE, CHANGE, DECAY, GRADIENT = PARTS = ("param", "update", "change", "decay", "gradient")


class Step(NamedTuple):
    """What one step computed.

    Attributes:
      loss: a number.
      records: module -> name -> [layers …, 1 + stats + SAMPLE], as `Recorder` keeps them.
      params: "module/name" -> a dict with some of `PARTS`, each [layers …, stats].
    """

    loss: Any
    records: Any
    params: dict[str, dict[str, Any]]


def decays(optimizer: Any) -> bool:
    """Whether it takes something from a parameter whose gradient is zero; yes, where that can't be tried."""
    params = {"linear": {"w": np.ones((2, 2), np.float32), "b": np.ones(2, np.float32)}}
    try:
        taken = quickly(jax.jit(lambda: _decay(optimizer, params)).lower())()
        return any(bool(np.any(x)) for x in jax.tree.leaves(taken))
    except Exception:       # an optimizer for parameters of certain names: anything may come out of it
        return True


def _decay(optimizer: Any, params: Any) -> Any:
    """What a first step without a gradient does because parameters are what they are.

    Yogi begins with a momentum that is not zero: what it so does to parameters that are zero, too, is no decay.
    """
    zeros = jax.tree.map(jnp.zeros_like, params)
    updates, at_zero = (optimizer.update(zeros, optimizer.init(at), at)[0] for at in (params, zeros))
    return jax.tree.map(jnp.subtract, updates, at_zero)


class Program:
    """A model and its optimizer, compiled to train step by step.

    Args:
      model: in any parametrization.
      optimizer: its optimizer.
      loss_fn: as `coord_check` takes it.
      mup: which has captured the model.
      inputs: what to initialise the model with.
      stats: what to take of every array.
      decaying: whether to record what the optimizer takes from parameters without a gradient.

    Attributes:
      entries: base beside target, by name.
      branches: the multipliers of haiku_mup.residual's branches.
      seen: what is recorded, by module and name in the state.
      shapes: of the parameters, by name, once it has run.
    """

    def __init__(self, model: Any, optimizer: Any, loss_fn: Any, mup: Any, inputs: Inputs,
                 stats: Sequence[Stat], decaying: bool):
        captured, branches = mup._whole("coord_check")
        self.entries: dict[str, ParameterScaling] = dict(captured)
        self.branches = list(branches.values())
        records = [entry.target for entry in self.entries.values()]
        self.recorder = Recorder(model, stats, [
            r.module for r in records if r.layer in (READOUT, NAMED) and r.fans.fan_in])
        self._model, self._optimizer, self._loss_fn, self._inputs = model, optimizer, loss_fn, inputs
        self._stats, self._decaying, self._stateful = tuple(stats), decaying, _stateful(model)
        args, kwargs = inputs.rebuild(inputs.arrays)
        self._empty = self.recorder.prepare(_key(0), *args, **kwargs)
        self.seen = self.recorder.seen
        self.shapes: dict[str, tuple[int, ...]] = {}
        self._init = Compiled(self._started)
        self._step = Compiled(self._stepped)
        here = jax.default_backend() == "cpu" and all(isinstance(stat, str) for stat in stats)
        self._sizes = functools.partial(self._sized, in_memory) if here else Compiled(
            functools.partial(self._sized, by_layer))

    def compile(self, pool: Executor, batch: Any) -> None:
        """Traces here, and has others compile, for batches like this one."""
        key = _key(0)
        with hk.config.context(rng_reserve_size=len(self.entries)):     # one split of the key, not one for each
            params, state, opt_state = self._init.start(pool, key, self._inputs.arrays)
        _, (_, _, *trees) = self._step.start(pool, params, state, opt_state, key, np.int32(0), batch)
        if isinstance(self._sizes, Compiled):
            self._sizes.start(pool, self._parts(params, params, params, *trees))

    def run(self, seed: int, batches: Sequence[Any]) -> list[Step]:
        """Trains from one seed on; what each step computed."""
        return [self._measured(*found) for found in _one_behind(self._trained(seed, batches))]

    def _trained(self, seed, batches):
        """(first parameters, those before the step, those after it, the rest of its results) of each step."""
        key = _key(seed)
        params, *states = self._init(key, self._inputs.arrays)
        self.shapes = {f"{module}/{name}": np.shape(x) for module, leaves in params.items()
                       for name, x in leaves.items()}
        first = params
        for number, batch in enumerate(batches):
            before = params
            (params, *states), rest = self._step(before, *states, key, np.int32(number), batch)
            yield first, before, params, *rest

    def _started(self, key, arrays):
        found = self._inputs.init(self._model, key, arrays)
        params, state = found if self._stateful else (found, {})
        return params, state, self._optimizer.init(params)

    def _stepped(self, params, state, opt_state, key, number, batch):
        rng = jax.random.fold_in(key, number)
        (loss, state), gradients = jax.value_and_grad(self._loss, has_aux=True)(params, state, rng, batch)
        state, records = split(state)
        updates, opt_state = self._optimizer.update(gradients, opt_state, params)
        decay = _decay(self._optimizer, params) if self._decaying else {}
        new = optax.apply_updates(params, updates)
        return (new, state, opt_state), (loss, records, gradients, decay)

    def _loss(self, params, state, rng, batch):
        kept, trace = [merged(state, self._empty)], trace_state()

        def apply(params, rng, *args, **kwargs):
            if trace_state() != trace:
                raise MupError("loss_fn: call apply outside of any jax.jit, vmap, grad or scan of your own, so "
                               "that the model's state can be kept")
            out, kept[0] = self.recorder.apply(params, kept[0], rng, *args, **kwargs)
            return out

        loss = self._loss_fn(apply, params, rng, batch)
        if not hasattr(loss, "shape") or loss.shape != () or not jnp.issubdtype(loss.dtype, jnp.floating):
            kind = f"an array {loss.shape}" if hasattr(loss, "shape") else f"a {type(loss).__name__}"
            raise MupError(f"loss_fn returned {kind}; a scalar is needed, such as the mean over the batch")
        return loss, kept[0]

    def _measured(self, first, before, after, loss, records, gradients, decay):
        return Step(loss, records, self._sizes(self._parts(first, before, after, gradients, decay)))

    def _parts(self, first, before, after, gradients, decay):
        """Name -> part -> arrays: one, or two whose difference it is."""
        trees = {PARAM: (before,), UPDATE: (after, before), CHANGE: (after, first), GRADIENT: (gradients,),
                 DECAY: (decay,)}
        found: dict[str, dict[str, tuple[Any, ...]]] = {}
        for part, (tree, *others) in trees.items():
            for module, leaves in tree.items():
                for leaf, x in leaves.items():
                    if hasattr(x, "dtype") and jnp.issubdtype(x.dtype, jnp.inexact) and x.size:
                        arrays = (x, *(other[module][leaf] for other in others))
                        found.setdefault(f"{module}/{leaf}", {})[part] = arrays
        return found

    def _sized(self, take, parts):
        """The statistics [layers …, stats] of every part."""
        return {name: {part: take(*arrays, stats=self._stats, axes=self._axes(name, arrays[0]))
                       for part, arrays in found.items()} for name, found in parts.items()}

    def _axes(self, name, x):
        """How many axes of a parameter are layers'."""
        return x.ndim - len(self.entries[name].target.shape) if name in self.entries else 0


def _one_behind(items: Iterable[T]) -> Iterator[T]:
    """The items, each when the next one is there: JAX computes that in threads while one looks at this."""
    waiting: list[T] = []
    for item in items:
        yield from waiting
        waiting = [item]
    yield from waiting


def _key(seed: int) -> Any:
    return jax.random.key(seed, impl="rbg")         # draws with it compile twice as fast as the default's


def _stateful(model: Any) -> bool:
    """Whether its init gives a state, too."""
    return type(model).__name__.endswith("WithState")
