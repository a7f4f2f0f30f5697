"""Trains the model of one width for a few steps, and measures what each step computes."""
import functools
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Executor
from typing import Any, NamedTuple, TypeVar

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import optax

from haiku_mup.coordinates.array_stats import MOVED, Stat, numpy_statistics_by_layer, statistics_by_layer
from haiku_mup.coordinates.compilation import FASTEST_OPTIONS, BackgroundJit, compile_fast
from haiku_mup.coordinates.model_inputs import ModelInputs, check_loss, has_state
from haiku_mup.coordinates.nested_calls import records_as_gradient
from haiku_mup.coordinates.output_gradients import measuring_gradients
from haiku_mup.coordinates.quantities import ParameterKind, RecordKind
from haiku_mup.coordinates.recorder import Recorder
from haiku_mup.coordinates.state_records import merge_state, split_state
from haiku_mup.errors import MupError
from haiku_mup.mup import Mup, captured_model
from haiku_mup.optimizers.wrapper import passing_extra_args
from haiku_mup.parameters.haiku_layers import OUTPUTS, TIED
from haiku_mup.parameters.scaling import ParameterScaling
from haiku_mup.tracing.jax_internals import trace_state

T = TypeVar("T")


class TrainState(NamedTuple):
    """Parameters and states that a training step changes."""

    params: Any
    model_state: Any
    opt_state: Any


class StepResult(NamedTuple):
    """Results of one training step.

    Attributes:
      loss: a number.
      records: module -> name -> [layers …, 1 + stats + SAMPLE + NORMS], the sum over calls of what
        `array_stats.measure_function` returns; of multipliers [layers …, 3], that of `measured_sizes`.
      parameters: "module/name" -> kind -> the statistics [layers …, stats]; of gradients, the share of entries
        that are not zero is behind them.
      errors: [outputs], the size of the loss's gradient with respect to each array that the model returns.
    """

    loss: Any
    records: Mapping[str, Mapping[str, Any]]
    parameters: Mapping[str, Mapping[ParameterKind, Any]]
    errors: Any


def has_weight_decay(optimizer: Any) -> bool:
    """Returns whether an optimizer moves parameters whose gradient is zero; True where that can't be tried.

    >>> has_weight_decay(optax.adam(0.1)), has_weight_decay(optax.adamw(0.1))
    (False, True)
    """
    params = {"linear": {"w": np.ones((2, 2), np.float32), "b": np.ones(2, np.float32)}}
    try:
        decay = compile_fast(jax.jit(lambda: _weight_decay(optimizer, params)).lower(), FASTEST_OPTIONS)()
        return any(bool(np.any(x)) for x in jax.tree.leaves(decay))
    except Exception:       # an optimizer for parameters of certain names may raise anything
        return True


def _weight_decay(optimizer: Any, params: Any) -> Any:
    """Returns the weight decay: the first update at zero gradient, minus that at zero parameters.

    Yogi's momentum does not start at zero, and so moves even parameters that are zero: that is no decay.
    """
    zeros = jax.tree.map(jnp.zeros_like, params)
    update = passing_extra_args(optimizer).update
    updates, at_zero = (update(zeros, optimizer.init(at), at, value=1.0)[0] for at in (params, zeros))
    return jax.tree.map(jnp.subtract, updates, at_zero)


class Trainer:
    """Trains the model of one width from any seed, and measures each step.

    Args:
      model: the model, in any parametrization.
      optimizer: its optimizer.
      loss_fn: as `coord_check` takes it.
      mup: the `Mup` that has captured the model.
      inputs: what to initialize the model with.
      stats: the statistics to take of every array.
      weight_decay: whether to measure the optimizer's weight decay.

    Attributes:
      scalings: how each parameter is scaled, by its name.
      branches: the multipliers of the branches of `haiku_mup.residual`.
      records: what is known of each record of the forward pass, by module and name in the state.
      shapes: the shapes of the parameters by name, once the trainer has run.
    """

    def __init__(self, *, model: Any, optimizer: Any, loss_fn: Any, mup: Mup, inputs: ModelInputs,
                 stats: Sequence[Stat], weight_decay: bool):
        captured = captured_model(mup, "coord_check")
        self.scalings: dict[str, ParameterScaling] = dict(captured.scalings)
        self.branches: list[float] = list(captured.branches.values())
        self._model, self._loss_fn, self._inputs = model, loss_fn, inputs
        self._optimizer = passing_extra_args(optimizer)
        self._stats, self._weight_decay = tuple(stats), weight_decay
        readouts = [scaling.target.module for scaling in self.scalings.values()
                    if scaling.target.layer in OUTPUTS and scaling.target.fans.fan_in]
        # A tree's table makes logits where no layer of Haiku's is called.
        readouts += [TIED for s in self.scalings.values() if s.target.of_tree and s.target.layer == TIED]
        self._recorder = Recorder(model, stats, readouts)
        args, kwargs = inputs.rebuild(inputs.arrays)
        self._empty_records = self._recorder.prepare(_key(0), *args, **kwargs)
        self.records = self._recorder.records
        self._is_nested = False         # whether calls of apply inside transformations of the loss are recorded
        self._has_jvp = False           # whether the loss takes derivatives in forward mode
        self._outputs = max(1, sum(info.kind == RecordKind.OUTPUT for info in self.records.values()))
        self.shapes: dict[str, tuple[int, ...]] = {}
        self._init = BackgroundJit(self._initialize)
        self._step = BackgroundJit(self._train_step)
        # Parameters are measured outside the step's program. On a CPU, NumPy does it, and nothing is compiled.
        in_memory = jax.default_backend() == "cpu" and all(isinstance(stat, str) for stat in stats)
        self._measure = functools.partial(self._statistics, numpy_statistics_by_layer) if in_memory else \
            BackgroundJit(functools.partial(self._statistics, statistics_by_layer))

    @property
    def unkept(self) -> Collection[str]:
        """Returns the modules of another framework whose outputs could not be kept."""
        return self._recorder.unkept

    def start_compiling(self, pool: Executor, batch: Any, *, seeds: int, steps: int) -> None:
        """Traces init and a training step here, and has the pool compile them.

        Args:
          pool: threads that compile.
          batch: one like all batches.
          seeds: how many seeds the trainer will train from.
          steps: how many steps it will take from each.
        """
        key = _key(0)
        with hk.config.context(rng_reserve_size=len(self.scalings)):    # one split of the key for all
            train_state = self._init.start(pool, key, self._inputs.arrays, calls=seeds)
        _, (_, _, gradients, decay, _) = self._step.start(
            pool, train_state, key, np.int32(0), batch, calls=seeds * steps)
        params = train_state.params
        if isinstance(self._measure, BackgroundJit):
            self._measure.start(pool, self._parameter_arrays(
                initial=params, before=params, after=params, gradients=gradients, decay=decay),
                calls=seeds * steps)

    @property
    def is_compiled(self) -> bool:
        """Returns whether training can begin without waiting for the compiler."""
        return self._init.is_compiled and self._step.is_compiled

    def train(self, seed: int, batches: Sequence[Any]) -> list[StepResult]:
        """Trains from one seed, a step for each batch, and returns what each step computed."""
        return [measure() for measure in _one_behind(self._steps(seed, batches))]

    def _steps(self, seed: int, batches: Sequence[Any]) -> Iterator[Callable[[], StepResult]]:
        """Yields, for each step, a function that measures it."""
        key = _key(seed)
        train_state = self._init(key, self._inputs.arrays)
        initial = train_state.params
        self.shapes = {f"{module}/{name}": np.shape(x) for module, leaves in initial.items()
                       for name, x in leaves.items()}
        for number, batch in enumerate(batches):
            before = train_state.params
            train_state, (loss, records, gradients, decay, errors) = self._step(
                train_state, key, np.int32(number), batch)
            arrays = self._parameter_arrays(initial=initial, before=before, after=train_state.params,
                                            gradients=gradients, decay=decay)
            yield functools.partial(self._step_result, loss, records, errors, arrays)

    def _step_result(self, loss: Any, records: Any, errors: Any, arrays: Any) -> StepResult:
        """Measures the parameters, and returns them with what was measured in the step."""
        return StepResult(loss, records, self._measure(arrays), errors)

    # --- what is compiled ---

    def _initialize(self, key, arrays) -> TrainState:
        """Draws parameters, and makes the states of the model and the optimizer."""
        initial = self._inputs.init(self._model, key, arrays)
        params, state = initial if has_state(self._model) else (initial, {})
        return TrainState(params, state, self._optimizer.init(params))

    def _train_step(self, train_state: TrainState, key, number, batch):
        """Returns the state after a step, and (loss, records, gradients, decay, errors).

        Decay is a pair of trees: the decay itself, and the parameters after it alone.
        """
        rng = jax.random.fold_in(key, number)
        params, state, opt_state = train_state
        zeros = jnp.zeros(self._outputs), self._empty_records
        (loss, state), (gradients, (errors, nested)) = jax.value_and_grad(
            self._loss, argnums=(0, 1), has_aux=True)(params, zeros, state, rng, batch)
        state, records = split_state(state)
        if self._is_nested:
            records = jax.tree.map(jnp.add, records, nested)
        # Steps of Momo and Polyak depend on the loss; other optimizers leave `value` alone.
        updates, opt_state = self._optimizer.update(gradients, opt_state, params, value=loss)
        decay: tuple[Any, Any] = {}, {}
        if self._weight_decay:
            alone = _weight_decay(self._optimizer, params)
            decay = alone, optax.apply_updates(params, alone)
        after = TrainState(optax.apply_updates(params, updates), state, opt_state)
        return after, (loss, records, gradients, decay, errors)

    def _loss(self, params, zeros, state, rng, batch):
        """Returns the loss, and the model's state with the records after all calls of `apply`.

        Args:
          params: the parameters.
          zeros: (errors, nested). The gradient with respect to `errors` is the size of that with respect to
            each of the model's outputs; the one with respect to `nested` is what was recorded in calls of
            `apply` inside transformations of the loss.
          state: the model's state.
          rng, batch: as the loss takes them.
        """
        errors, nested = zeros
        kept_state, trace = [merge_state(state, self._empty_records)], trace_state()
        self._is_nested = False

        def apply(params, rng, *args, **kwargs):
            if trace_state() != trace:
                return apply_nested(params, rng, *args, **kwargs)
            out, kept_state[0] = self._recorder.apply(params, kept_state[0], rng, *args, **kwargs)
            return measuring_gradients(out, errors)

        def apply_nested(params, rng, *args, **kwargs):
            if state:           # that from within another trace would be a leaked tracer here
                raise MupError("loss_fn: call apply outside of any jax.jit, vmap, grad or scan of your own, so "
                               "that the model's state can be kept")
            out, records = self._recorder.apply(params, self._empty_records, rng, *args, **kwargs)
            if self._has_jvp:
                return out
            self._is_nested = True
            return measuring_gradients(records_as_gradient(out, records, nested), errors)

        try:
            loss = self._loss_fn(apply, params, rng, batch)
        except (TypeError, NotImplementedError) as error:
            # What is measured as a gradient has no derivative in forward mode.
            if self._has_jvp or not any(name in str(error) for name in ("custom_vjp", "custom_lin")):
                raise
            self._has_jvp = True
            return self._loss(params, zeros, state, rng, batch)
        check_loss(loss)
        return loss, kept_state[0]

    # --- parameters ---

    def _parameter_arrays(self, *, initial, before, after, gradients, decay):
        """Returns name -> kind -> one array, or two whose difference is meant."""
        trees = {ParameterKind.VALUE: (before,), ParameterKind.UPDATE: (after, before),
                 ParameterKind.CHANGE: (after, initial), ParameterKind.GRADIENT: (gradients,),
                 ParameterKind.DECAY: (decay[0],)}
        if decay[1]:
            trees[ParameterKind.RATE] = after, decay[1]
        arrays: dict[str, dict[ParameterKind, tuple[Any, ...]]] = {}
        for kind, (tree, *others) in trees.items():
            for module, leaves in tree.items():
                for leaf, x in leaves.items():
                    if hasattr(x, "dtype") and jnp.issubdtype(x.dtype, jnp.inexact) and x.size:
                        kinds = arrays.setdefault(f"{module}/{leaf}", {})
                        kinds[kind] = x, *(other[module][leaf] for other in others)
                        if kind == ParameterKind.UPDATE and jnp.finfo(x.dtype).bits < 32:
                            kinds[ParameterKind.MOVED] = kinds[kind]
        return arrays

    def _statistics(self, by_layer, arrays):
        """Returns name -> kind -> statistics [layers …, stats], as a function measures one or two arrays."""
        return {name: self._statistics_of_parameter(by_layer, name, kinds) for name, kinds in arrays.items()}

    def _statistics_of_parameter(self, by_layer, name, kinds):
        """Returns kind -> statistics; in the first step the change is the update, and is not measured again."""
        found, known = {}, {}
        for kind, some in kinds.items():
            stats = self._stats + (MOVED,) * (kind == ParameterKind.GRADIENT)
            if kind == ParameterKind.MOVED:
                stats = (MOVED,) * len(self._stats)         # the same for every statistic
            key = stats, *map(id, some)
            if key not in known:
                known[key] = by_layer(*some, stats=stats, axes=self._layer_axes(name, some[0]))
            found[kind] = known[key]
        return found

    def _layer_axes(self, name, x):
        """Returns how many axes of a parameter are those of layer_stacks, which a layer does not see."""
        return x.ndim - len(self.scalings[name].target.shape) if name in self.scalings else 0


def _one_behind(items: Iterable[T]) -> Iterator[T]:
    """Yields each item once the next one exists: JAX computes that in threads while this one is measured."""
    waiting: list[T] = []
    for item in items:
        yield from waiting
        waiting = [item]
    yield from waiting


def _key(seed: int) -> Any:
    return jax.random.key(seed, impl="rbg")         # draws with it compile twice as fast as with the default

