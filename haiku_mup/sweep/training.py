"""From a model, data, a loss and an optimizer to trials: training runs that a sweep makes by the hundred."""
import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.custom_batching import sequential_vmap

from haiku_mup.errors import MupError
from haiku_mup.mup import Mup, _tree
from haiku_mup.optimizers import wrapper as optim
from haiku_mup.parameters.fans import Axes
from haiku_mup.rules import optimizers as optimizer_rules
from haiku_mup.rules.parametrization import Parametrization
from haiku_mup.rules.tables import maximal_update, standard
from haiku_mup.sweep.training_loop import Rows, scan_while_finite

SHORT: dict[str, Callable[[], Parametrization]] = {"sp": standard, "mup": maximal_update}


def training(make_model: Callable[..., Any], data: Any, loss_fn: Callable[..., jax.Array],
             optimizer: Callable[..., optax.GradientTransformation], *, steps: int, base_width: int,
             batch_size: int | None = None, parametrization: str | Parametrization = "mup",
             adam: bool | None = None, rule: str | None = None, evaluate: Mapping[str, Any] | None = None,
             fans: Mapping[str, Sequence[Axes]] | None = None,
             readouts: str | Sequence[str] = ()) -> "Training":
    """What makes the trials of a sweep: training runs, from a learning rate and a key.

    The key draws the parameters, the order of the data, and what the loss draws. A run whose loss is no longer
    finite ends soon after; its further losses are inf.

    Args:
      make_model: from a width to a transformed model, its layers inside `apply_mup`, not wrapped.
      data: arrays with one row an example, in any tree, as ``(x, y)``; each epoch shuffles them anew, and
        leaves out the rows that fill no batch. Or ``data(key, step)``, a function that JAX can trace, which
        gives a batch.
      loss_fn: ``loss_fn(apply, params, rng, batch)`` gives a scalar, as in `coord_check`.
      optimizer: from a learning rate to a plain optax optimizer, not wrapped: optax.adam, or
        ``lambda lr: optax.adamw(optax.cosine_decay_schedule(lr, steps))``. The rate is a traced value.
      steps: of training.
      base_width: the width of the base; in the standard parametrization it doesn't matter.
      batch_size: rows in a batch; all of them, by default.
      parametrization: "mup", "sp", or a `Parametrization`.
      adam: whether the optimizer is of Adam's kind, or SGD's: see `Mup.wrap_optimizer`. By default it is tried.
      rule: what other kind it is of: see there, too.
      evaluate: what else to record at the end: by name, a batch whose loss to take; or a function
        ``(apply, params, rng)`` that gives a scalar.
      fans: see `Mup`.
      readouts: see `Mup`.

    Returns:
      A `Training`: called with a width, it gives ``trial(lr, key, **hyperparameters)``, which gives a dict of
      losses: "train_loss", [steps], of each batch before its update, and those of `evaluate`. (Where
      `evaluate` has a "train_loss", that of batches is called "batch_loss".) A hyperparameter that the
      optimizer's function takes by name goes to it, one that make_model takes goes there, and ``init_scale``
      multiplies every parameter that is drawn.

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
    >>> make_trial = haiku_mup.training(make_model, data, loss_fn, optax.adam, steps=20, batch_size=16,
    ...                                 base_width=8)
    >>> losses = jax.jit(make_trial(32))(0.01, jax.random.key(1))["train_loss"]
    >>> losses.shape, bool(losses[-1] < losses[0])
    ((20,), True)
    """
    return Training(make_model, data, loss_fn, optimizer, steps, base_width, batch_size, parametrization,
                    adam, rule, dict(evaluate or {}), dict(fans or {}), readouts)


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

    def __init__(self, make_model, data, loss_fn, optimizer, steps, base_width, batch_size, parametrization,
                 adam, rule, evaluate, fans, readouts):
        named = isinstance(parametrization, str)
        if named and parametrization not in SHORT:
            raise MupError(f"training: parametrization={parametrization!r}: give 'mup', 'sp', or a "
                           "Parametrization")
        if steps < 1:
            raise MupError(f"training: steps={steps}: give at least 1")
        self.name: str = parametrization if named else parametrization.name
        self._rule = SHORT[parametrization]() if named else parametrization
        self._make_model, self._loss_fn, self._optimizer = make_model, loss_fn, optimizer
        self._steps, self._base_width, self._evaluate = int(steps), base_width, evaluate
        self._kind = None if adam is None and rule is None else optimizer_rules.checked(rule, adam is not False)
        self._options = {"fans": fans or None, "readouts": readouts}
        self._rows = None if callable(data) else Rows(data, batch_size, self._steps)
        self._drawn: Any = data if callable(data) else None

    def __call__(self, width: int) -> Callable[..., dict[str, jax.Array]]:
        """The trial of this width: captures the base and it, by their shapes."""
        from haiku_mup.coordinates.model_inputs import inputs as model_inputs

        key, inputs = jax.random.key(0), model_inputs(self._loss_fn, jax.random.key(0), self._example())
        make = functools.partial(self._make_model, **_required(self._make_model, 1.0))
        mup = Mup(parametrization=self._rule, **self._options)
        with mup.init_base():
            inputs.shapes(make(self._base_width if self._rule.draws else width), key)
        with mup.init_target():
            inputs.shapes(make(width), key)
        return functools.partial(self._trial, width, mup, inputs, self._around(mup))

    def _example(self) -> Any:
        if self._rows is not None:
            return self._rows.example()
        shapes = jax.eval_shape(self._drawn, jax.random.key(0), 0)
        return jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)

    def _around(self, mup: Mup) -> Any:
        """The factors around the optimizer, which is tried at a rate that isn't traced; None for none."""
        from haiku_mup.optimizers.factors import OptimizerScaling
        from haiku_mup.optimizers.mismatch import rule_of

        tried = self._optimizer(1e-3, **_required(self._optimizer, 0.5))
        entries, kind = mup._captured("training"), self._kind
        if kind is None:
            kind = rule_of(tried, _tree(entries, lambda e: jax.ShapeDtypeStruct(e.target.shape, "float32")))
        if not kind and self._rule.draws and not self._rule.plain:
            raise MupError("training: what kind this optimizer is of doesn't show when it is tried; say it: "
                           "adam=True, adam=False, or rule=...")
        kind = kind or "adam"
        if self._rule.plain and kind in optimizer_rules.ENTRYWISE:
            return None
        mup.wrap_optimizer(tried, rule=kind)            # warns of what doesn't fit
        return OptimizerScaling(tried, entries, self._rule, kind)

    def _trial(self, width, mup, inputs, around, lr, key, **hyperparameters):
        to_optimizer, to_model, init_scale = self._sorted(hyperparameters)
        plain = self._make_model(width, **to_model)
        optimizer = self._optimizer(lr, **to_optimizer)
        if around is not None:          # wrapped, without trying an optimizer whose rate is traced
            check = functools.partial(optim.check_params, mup._captured("training"))
            optimizer = optim.scale_optimizer(optimizer, around, check)
        run = _Run(mup.wrap_model(plain), optimizer, self._loss_fn)
        init_key, data_key, rng = jax.random.split(key, 3)
        params, state = run.init(inputs, init_key)
        params = params if init_scale is None else _rescaled(params, mup, init_scale)
        batch = self._rows.order(data_key) if self._rows is not None else (
            lambda number: self._drawn(jax.random.fold_in(data_key, number), number))

        def step(carry, number):
            return run.step(carry, jax.random.fold_in(rng, number), batch(number))

        (params, state, _), losses = scan_while_finite(
            step, (params, state, optimizer.init(params)), self._steps)
        rng = jax.random.fold_in(rng, self._steps)
        ends = {name: run.loss(params, state, rng, what)[0] for name, what in self._evaluate.items()}
        return ends | {"batch_loss" if "train_loss" in ends else "train_loss": losses}

    def _sorted(self, hyperparameters):
        """Those of the optimizer, those of the model, and the scale of the init, if it is nobody's."""
        optimizer, model = (list(inspect.signature(function).parameters)[1:]
                            for function in (self._optimizer, self._make_model))
        unknown = set(hyperparameters) - {*optimizer, *model, "init_scale"}
        if unknown:
            raise MupError(f"training: nothing takes {', '.join(map(repr, sorted(unknown)))}: the optimizer's "
                           f"function takes {optimizer}, make_model takes {model}, and there is 'init_scale'")
        taken = {name: x for name, x in hyperparameters.items() if name in optimizer}
        given = {name: x for name, x in hyperparameters.items() if name in model and name not in taken}
        rest = {name: x for name, x in hyperparameters.items() if name not in taken and name not in given}
        return taken, given, rest.get("init_scale")


class _Run:
    """A model, with state or without, and its optimizer."""

    def __init__(self, model, optimizer, loss_fn):
        self._model, self._optimizer, self._loss_fn = model, optimizer, loss_fn
        self._stateful = type(model).__name__.endswith("WithState")

    def init(self, inputs, key):
        """Parameters and state. Each trial's by itself: that compiles twice as fast as under vmap."""
        found = sequential_vmap(functools.partial(inputs.init, self._model))(key, inputs.arrays)
        return found if self._stateful else (found, {})

    def step(self, carry, rng, batch):
        """(params, state, optimizer's state) after an update, and the loss before it."""
        params, state, opt_state = carry
        (value, state), gradients = jax.value_and_grad(self.loss, has_aux=True)(params, state, rng, batch)
        updates, opt_state = self._optimizer.update(gradients, opt_state, params)
        return (optax.apply_updates(params, updates), state, opt_state), value

    def loss(self, params, state, rng, what):
        """The loss of a batch, or what a function says that stands in its place; and the state behind it."""
        kept = [state]

        def apply(params, rng, *args, **kwargs):
            if not self._stateful:
                return self._model.apply(params, rng, *args, **kwargs)
            out, kept[0] = self._model.apply(params, kept[0], rng, *args, **kwargs)
            return out

        found = what(apply, params, rng) if callable(what) else self._loss_fn(apply, params, rng, what)
        return found, kept[0]


def _rescaled(params, mup, scale):
    """Every parameter that is drawn, times a scale."""
    drawn = _tree(mup._captured("training"), lambda e: e.target.moments.drawn)
    return {module: {name: x * scale.astype(x.dtype) if drawn[module][name] else x
                     for name, x in leaves.items()} for module, leaves in params.items()}


def _required(function: Callable[..., Any], value: float) -> dict[str, float]:
    """A value for each argument behind the first that has no default."""
    found = list(inspect.signature(function).parameters.values())[1:]
    return {p.name: value for p in found if p.default is p.empty and p.kind in (
        p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)}
