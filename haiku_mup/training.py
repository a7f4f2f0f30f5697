"""From a model, data, a loss and an optimizer to trials: training runs that a sweep can make by the hundred."""
import functools
import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.custom_batching import sequential_vmap  # what runs once compiles faster without vmap

from haiku_mup import optim
from haiku_mup.axes import Axes
from haiku_mup.behaviour import ADAM_LIKE, SGD_LIKE, behaviour, one_matrix
from haiku_mup.errors import MupError
from haiku_mup.mup import Mup, _tree
from haiku_mup.parametrizations import maximal_update, standard
from haiku_mup.rules import Parametrization

SEGMENTS = 16           # times in a training at which it may end, because the loss is no longer finite
SHORT = {"sp": standard, "mup": maximal_update}


def training(make_model: Callable[..., Any], data: Any, loss_fn: Callable[..., jax.Array],
             optimizer: Callable[..., optax.GradientTransformation], *, steps: int, base_width: int,
             batch_size: int | None = None, parametrization: str | Parametrization = "mup",
             adam: bool | None = None, evaluate: Mapping[str, Any] | None = None,
             fans: Mapping[str, Sequence[Axes]] | None = None,
             readouts: str | Sequence[str] = ()) -> "Training":
    """What makes the trials of a sweep: training runs of a model in a parametrization, from a learning rate and a key.

    The key draws the parameters, the order of the data, and what the loss draws. A run whose loss is no longer
    finite ends soon after: its further losses are inf.

    Args:
      make_model: from a width to a transformed model, its layers inside `apply_mup`, not wrapped.
      data: arrays with one row an example, in any tree, as ``(x, y)``; each epoch shuffles them anew, and leaves
        out the rows that fill no batch. Or ``data(key, step)``, a function that JAX can trace, which gives a batch.
      loss_fn: ``loss_fn(apply, params, rng, batch)`` gives a scalar, as in `coord_check`.
      optimizer: from a learning rate to a plain optax optimizer, not wrapped: optax.adam, or
        ``lambda lr: optax.adamw(optax.cosine_decay_schedule(lr, steps))``. The rate is a traced value.
      steps: of training.
      base_width: the width of the base; in the standard parametrization it doesn't matter.
      batch_size: rows in a batch; all of them, by default.
      parametrization: "mup", "sp", or a `Parametrization`.
      adam: whether the optimizer is of Adam's kind, or SGD's: see `Mup.wrap_optimizer`. By default it is tried.
      evaluate: what else to record at the end: by name, a batch whose loss to take; or a function
        ``(apply, params, rng)`` that gives a scalar.
      fans: see `Mup`.
      readouts: see `Mup`.

    Returns:
      A `Training`: called with a width, it gives ``trial(lr, key, **hyperparameters)``, which gives a dict of losses:
      "train_loss", [steps], of each batch before its update, and those of `evaluate`. (Where `evaluate` has a
      "train_loss", that of batches is called "batch_loss".) A hyperparameter that the optimizer's function takes
      by name goes to it, one that make_model takes goes there, and ``init_scale`` multiplies every parameter that
      is drawn.

    Raises:
      MupError: an argument that can't be; later, what `Mup` raises.

    >>> def make_model(width):
    ...     def fn(x):
    ...         with haiku_mup.apply_mup():
    ...             return haiku_mup.Readout(1)(jax.nn.relu(hk.Linear(width)(x)))
    ...     return hk.transform(fn)
    >>> def loss_fn(apply, params, rng, batch):
    ...     x, y = batch
    ...     return jnp.mean((apply(params, rng, x) - y)**2)
    >>> data = jax.random.normal(jax.random.key(0), (64, 4)), jnp.ones((64, 1))
    >>> make_trial = haiku_mup.training(make_model, data, loss_fn, optax.adam, steps=20, batch_size=16, base_width=8)
    >>> losses = jax.jit(make_trial(32))(0.01, jax.random.key(1))["train_loss"]
    >>> losses.shape, bool(losses[-1] < losses[0])
    ((20,), True)
    """
    return Training(make_model, data, loss_fn, optimizer, steps, base_width, batch_size, parametrization, adam,
                    dict(evaluate or {}), dict(fans or {}), readouts)


class Training:
    """What `training` gives: from a width to a trial.

    Attributes:
      name: of the parametrization, in the records of a sweep.

    >>> def loss_fn(apply, params, rng, batch):
    ...     return apply(params, rng, batch).mean()
    >>> make_trial = haiku_mup.training(lambda width: hk.transform(hk.Linear(width)), jnp.ones((8, 2)), loss_fn,
    ...                                 optax.sgd, steps=3, base_width=8, parametrization="sp")
    >>> make_trial.name
    'sp'
    """

    def __init__(self, make_model, data, loss_fn, optimizer, steps, base_width, batch_size, parametrization, adam,
                 evaluate, fans, readouts):
        if isinstance(parametrization, str) and parametrization not in SHORT:
            raise MupError(f"training: parametrization={parametrization!r}: give 'mup', 'sp' or a Parametrization")
        named = isinstance(parametrization, str)
        self.name: str = parametrization if named else parametrization.name
        self._rule = SHORT[parametrization]() if named else parametrization
        self._make_model, self._loss_fn, self._optimizer = make_model, loss_fn, optimizer
        self._steps, self._base_width, self._adam, self._evaluate = int(steps), base_width, adam, evaluate
        self._options = {"fans": fans or None, "readouts": readouts}
        self._batches = data if callable(data) else _Rows(data, batch_size, self._steps)
        if self._steps < 1:
            raise MupError(f"training: steps={steps}: give at least 1")

    def __call__(self, width: int) -> Callable[..., dict[str, jax.Array]]:
        """The trial of this width: captures the base and it, by their shapes."""
        from haiku_mup.measured import Program

        key, make = jax.random.key(0), self._make_model
        if isinstance(self._batches, _Rows):
            first = self._batches.example()
        else:
            first = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), jax.eval_shape(self._batches, key, 0))
        inputs = Program.inputs(self._loss_fn, key, first)
        mup = Mup(parametrization=self._rule, **self._options)
        with mup.init_base():
            inputs.shapes(make(self._base_width if self._rule.draws else width), key)
        with mup.init_target():
            inputs.shapes(make(width), key)
        adam = self._kind(mup) if self._adam is None else self._adam
        if not self._rule.plain:                # warns of what doesn't fit, which a traced rate would hide
            mup.wrap_optimizer(self._optimizer(1e-3), adam=adam)
        return functools.partial(self._trial, width, mup, inputs, adam)

    def _kind(self, mup: Mup) -> bool:
        """Whether the optimizer is of Adam's kind."""
        shapes = _tree(mup._captured("training"), lambda e: jax.ShapeDtypeStruct(e.target.shape, "float32"))
        kind = behaviour(self._optimizer(1e-3), [one_matrix(shapes), shapes])
        if kind not in (ADAM_LIKE, SGD_LIKE) and self._rule.draws and not self._rule.plain:
            raise MupError("training: whether this optimizer is of Adam's kind or of SGD's doesn't show when it is "
                           "tried; say it: adam=True, or adam=False")
        return kind != SGD_LIKE

    def _trial(self, width, mup, inputs, adam, lr, key, **hyperparameters):
        to_optimizer, to_model, scale = self._sorted(hyperparameters)
        plain = self._make_model(width, **to_model)
        model, optimizer = mup.wrap_model(plain), self._optimizer(lr, **to_optimizer)
        if not self._rule.plain:
            optimizer = _scaled(mup, optimizer, adam)
        stateful = type(plain).__name__.endswith("WithState")
        init_key, data_key, loss_key = jax.random.split(key, 3)
        found = sequential_vmap(functools.partial(inputs.init, model))(init_key, inputs.arrays)
        params, state = found if stateful else (found, {})
        if scale is not None:
            params = _rescaled(params, mup, scale)

        def loss(params, state, rng, function):
            kept = [state]

            def apply(params, rng, *args, **kwargs):
                if not stateful:
                    return model.apply(params, rng, *args, **kwargs)
                out, kept[0] = model.apply(params, kept[0], rng, *args, **kwargs)
                return out

            return function(apply, params, rng), kept[0]

        def of(batch):
            return lambda apply, params, rng: self._loss_fn(apply, params, rng, batch)

        def step(carry, number):
            params, state, opt_state = carry
            batch = batches(number)
            (value, state), gradients = jax.value_and_grad(loss, has_aux=True)(
                params, state, jax.random.fold_in(loss_key, number), of(batch))
            updates, opt_state = optimizer.update(gradients, opt_state, params)
            return (optax.apply_updates(params, updates), state, opt_state), value

        batches = self._batches.order(data_key) if isinstance(self._batches, _Rows) else (
            lambda number: self._batches(jax.random.fold_in(data_key, number), number))
        (params, state, _), losses = _while_finite(step, (params, state, optimizer.init(params)), self._steps)
        rng = jax.random.fold_in(loss_key, self._steps)
        ends = {name: loss(params, state, rng, what if callable(what) else of(what))[0]
                for name, what in self._evaluate.items()}
        return ends | {"batch_loss" if "train_loss" in ends else "train_loss": losses}

    def _sorted(self, hyperparameters):
        """Those of the optimizer, those of the model, and the scale of the init."""
        optimizer, model = _names(self._optimizer)[1:], _names(self._make_model)[1:]
        unknown = set(hyperparameters) - {*optimizer, *model, "init_scale"}
        if unknown:
            raise MupError(f"training: nothing takes the hyperparameters {sorted(unknown)}: the optimizer's function "
                           f"takes {optimizer}, make_model takes {model}, and init_scale is there")
        taken = {name: x for name, x in hyperparameters.items() if name in optimizer}
        rest = {name: x for name, x in hyperparameters.items() if name in model and name not in taken}
        return taken, rest, None if {"init_scale"} & {*taken, *rest} else hyperparameters.get("init_scale")


class _Rows:
    """Batches of rows of arrays, shuffled anew in each epoch."""

    def __init__(self, data: Any, size: int | None, steps: int):
        lengths = {np.shape(x)[0] if np.ndim(x) else 0 for x in jax.tree.leaves(data)}
        rows = min(lengths, default=0)
        if len(lengths) != 1 or not rows or not 0 < (size or rows) <= rows:
            raise MupError(f"training: data of {sorted(lengths)} rows, and batch_size={size}: give arrays with as many "
                           "rows each, and at least as many as a batch")
        self._data, self._rows, self._size, self._steps = data, rows, size or rows, steps

    def example(self) -> Any:
        return jax.tree.map(lambda x: x[:self._size], self._data)

    def order(self, key: Any) -> Callable[[Any], Any]:
        """From the number of a step to its batch."""
        if self._size == self._rows:
            return lambda number: self._data
        in_epoch = self._rows // self._size

        def shuffled(key):
            keys = jax.random.split(key, -(-self._steps // in_epoch))
            return jax.vmap(lambda key: jax.random.permutation(key, self._rows)[:in_epoch * self._size])(keys)

        order = sequential_vmap(shuffled)(key).reshape(-1, self._size)
        return lambda number: jax.tree.map(lambda x: jnp.asarray(x)[order[number]], self._data)


def _while_finite(step, carry, steps):
    """The scan of `step` over step numbers; where the loss is no longer finite, it ends, and losses are inf.

    Whether it does is asked a few times only: where trials are mapped, each time costs a copy of the carry.
    """
    size = _segment(steps)
    first, count = steps % size, steps // size
    carry, losses = jax.lax.scan(step, carry, jnp.arange(first)) if first else (carry, None)
    kind = losses if first else jax.eval_shape(step, carry, 0)[1]
    rest = jnp.full((count, size), jnp.inf, kind.dtype)

    def goes_on(state):
        number, alive, _, _ = state
        return (number < count) & alive

    def segment(state):
        number, _, carry, rest = state
        carry, found = jax.lax.scan(step, carry, first + number * size + jnp.arange(size))
        return number + 1, jnp.isfinite(found[-1]), carry, rest.at[number].set(found)

    alive = jnp.isfinite(losses[-1]) if first else True
    _, alive, carry, rest = jax.lax.while_loop(goes_on, segment, (0, jnp.asarray(alive), carry, rest))
    rest = rest.reshape(-1)
    return carry, jnp.concatenate([losses, rest]) if first else rest


def _segment(steps: int) -> int:
    """A divisor of the number of steps near a SEGMENTS-th of it; else that itself, and a remainder."""
    wanted = max(1, steps // SEGMENTS)
    near = [size for size in range(max(1, wanted // 2), 2 * wanted + 1) if steps % size == 0]
    return min(near, key=lambda size: abs(math.log(size / wanted)), default=wanted)


def _scaled(mup, optimizer, adam):
    """What `Mup.wrap_optimizer` gives, without trying an optimizer whose rate is traced."""
    entries = mup._captured("training")
    lr, one = optim.by_name(entries, mup._lr(adam)), optim.by_name(entries, lambda part: 1.0)
    return optim.scale_optimizer(optimizer, lr, one, lr, functools.partial(optim.check_params, entries))


def _rescaled(params, mup, scale):
    """Every parameter that is drawn, times a scale."""
    drawn = _tree(mup._captured("training"), lambda e: e.target.moments.drawn)
    return {module: {name: x * scale.astype(x.dtype) if drawn[module][name] else x for name, x in leaves.items()}
            for module, leaves in params.items()}


def _names(function: Callable[..., Any]) -> list[str]:
    return list(inspect.signature(function).parameters)
