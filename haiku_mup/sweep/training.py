"""`training`: turns a model, data, a loss and an optimizer into the trials of a sweep."""
import dataclasses
import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import haiku as hk
import jax
import optax

from haiku_mup.coordinates.batches import as_arrays
from haiku_mup.coordinates.model_inputs import (
    ModelInputs,
    check_make_model,
    check_model,
    check_plan,
    model_inputs,
)
from haiku_mup.coordinates.planned_models import MakePlan, PlannedModel
from haiku_mup.errors import MupError
from haiku_mup.mup import Mup, captured_model
from haiku_mup.optimizers.factors import OptimizerScaling
from haiku_mup.optimizers.mismatch import find_rule
from haiku_mup.optimizers.tree_names import HAIKU_NAMES
from haiku_mup.optimizers.trees import check_params
from haiku_mup.optimizers.wrapper import scale_optimizer
from haiku_mup.parameters.fans import Axes
from haiku_mup.rules.optimizers import ADAM, OptimizerRule, choose
from haiku_mup.rules.parametrization import Parametrization
from haiku_mup.rules.tables import maximal_update, standard
from haiku_mup.sweep.optimizer_argument import check_function_of_rate, check_made_optimizer, warn_of_unused_rate
from haiku_mup.sweep.training_loop import DrawnBatches, ShuffledBatches, scan_while_finite
from haiku_mup.sweep.training_step import TrainingStep
from haiku_mup.tracing.context import apply_mup
from haiku_mup.tracing.haiku_internals import original_function

PARAMETRIZATIONS: dict[str, Callable[[], Parametrization]] = {"sp": standard, "mup": maximal_update}


def training(make_model: Callable[..., Any], data: Any, loss_fn: Callable[..., jax.Array],
             optimizer: Callable[..., optax.GradientTransformation], *, steps: int, base_width: int,
             batch_size: int | None = None, parametrization: str | Parametrization = "mup",
             adam: bool | None = None, rule: str | None = None, evaluate: Mapping[str, Any] | None = None,
             fans: Mapping[str, Sequence[Axes]] | None = None, readouts: str | Sequence[str] = (),
             finite: Mapping[str, Axes | str] | None = None, tied: str | Sequence[str] = (),
             plan: MakePlan | None = None) -> "Training":
    """Makes the trials of a sweep: training runs, from a learning rate and a key.

    The key draws the parameters, the order of the data, and what the loss draws. A run ends soon after a loss
    that is not finite, and its further losses are inf.

    Args:
      make_model: a function from a width to a transformed model, not wrapped, whose layers are inside
        `apply_mup`; for "sp" they need not be.
      data: a tree of arrays with one row for each example, such as ``(x, y)``. Each epoch shuffles the rows,
        and leaves out those that fill no batch. Or a function ``data(key, step)`` that JAX can trace, which
        returns a batch. An iterator is an error, since a trial is one compiled program; so are draws with
        NumPy inside of the function, which would give every step the same batch.
      loss_fn: ``loss_fn(apply, params, rng, batch)`` returns a scalar, as in `coord_check`.
      optimizer: a function from a learning rate to a plain optax optimizer, not wrapped: optax.adam, or
        ``lambda lr: optax.adamw(optax.cosine_decay_schedule(lr, steps))``. The rate is a traced value.
      steps: the number of training steps.
      base_width: the width of the base; irrelevant in the standard parametrization.
      batch_size: the number of rows in a batch; by default all of them.
      parametrization: "mup", "sp", or a `Parametrization`.
      adam: whether the optimizer is like Adam, or like SGD: see `Mup.wrap_optimizer`. By default that is found
        out by trying it.
      rule: the optimizer's rule, if it is like neither: see there, too.
      evaluate: further losses of the trained model, by name: a batch, or a function ``(apply, params, rng)``
        that returns a scalar. A sweep is judged by the first of these, or else by the training loss. One of
        them may be None, for the loss of each batch: ``{"train_loss": None, "valid_loss": (x, y)}`` returns
        both, and a sweep is judged by the training loss.
      fans, readouts, finite, tied: see `Mup`.
      plan: for models of other frameworks, from the trees of base and target to their plan, as in
        `coord_check`; make_model then returns ``(init, apply)``. Their state is kept as there.

    Returns:
      A `Training`: a function from a width to ``trial(lr, key, **hyperparameters)``. A trial returns a dict of
      losses: "train_loss", [steps], the loss of each batch before its update, and those of `evaluate`. (If
      `evaluate` computes a "train_loss", that of the batches is called "batch_loss".) A hyperparameter goes to
      the optimizer's function if that takes it by name, else to make_model if that does. ``init_scale``, if
      neither takes it, multiplies every parameter that is drawn.

    Raises:
      MupError: an argument is not allowed; as `Mup` does, when the result is called. Then the model, the
        loss and data(key, step) are checked, too.

    Warns:
      MupWarning: when the result is called: the optimizer doesn't fit its rule, or doesn't depend on the rate.

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
    name = parametrization if isinstance(parametrization, str) else parametrization.name
    if isinstance(parametrization, str):
        if parametrization not in PARAMETRIZATIONS:
            raise MupError(f"training: parametrization={parametrization!r}: give 'mup', 'sp', or a "
                           "Parametrization")
        parametrization = PARAMETRIZATIONS[parametrization]()
    if not _is_count(steps):
        raise MupError(f"training: steps={steps!r}: give a whole number of at least 1")
    check_make_model(make_model)
    check_plan(plan, "training")
    check_function_of_rate(optimizer)
    return Training(
        name=name, parametrization=parametrization, make_model=make_model, loss_fn=loss_fn, optimizer=optimizer,
        batches=DrawnBatches(data) if callable(data) else ShuffledBatches(data, batch_size, int(steps)),
        steps=int(steps), base_width=base_width,
        optimizer_rule=None if adam is None and rule is None else choose(rule, adam is not False),
        evaluate={name: _evaluated(name, what) for name, what in (evaluate or {}).items()},
        fans=dict(fans) if fans else None, readouts=readouts, finite=dict(finite) if finite else None,
        tied=tied, plan=plan)


def _is_count(x: Any) -> bool:
    """Returns whether something is a whole number of at least 1."""
    try:
        return not isinstance(x, str) and bool(x == int(x) >= 1)
    except (TypeError, ValueError, OverflowError):
        return False


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class Training:
    """The result of `training`: a function from a width to a trial.

    Attributes:
      name: the name of the parametrization in the records of a sweep.

    >>> def loss_fn(apply, params, rng, batch):
    ...     return apply(params, rng, batch).mean()
    >>> make_trial = haiku_mup.training(lambda width: hk.transform(hk.Linear(width)), jnp.ones((8, 2)), loss_fn,
    ...                                 optax.sgd, steps=3, base_width=8, parametrization="sp")
    >>> make_trial.name
    'sp'
    """

    name: str
    parametrization: Parametrization
    make_model: Callable[..., Any]
    loss_fn: Callable[..., jax.Array]
    optimizer: Callable[..., optax.GradientTransformation]
    batches: ShuffledBatches | DrawnBatches
    steps: int
    base_width: int
    optimizer_rule: OptimizerRule | None
    evaluate: Mapping[str, Any]
    fans: Mapping[str, Sequence[Axes]] | None
    readouts: str | Sequence[str]
    finite: Mapping[str, Axes | str] | None
    tied: str | Sequence[str]
    plan: MakePlan | None = None
    _tried: list[bool] = dataclasses.field(default_factory=list)    # empty until the optimizer's rate is tried

    def __call__(self, width: int) -> Callable[..., dict[str, jax.Array]]:
        """Returns the trial of this width; captures the shapes of base and target."""
        key = jax.random.key(0)
        make_model = functools.partial(self.make_model, **_placeholders(self.make_model, 0.5))
        target_model = make_model(width)
        # A parametrization without factors has no base: the target serves as its own.
        base = target_model if self.parametrization.scales_nothing else make_model(self.base_width)
        if self.plan is None:
            check_model(base)
            check_model(target_model)
        inputs = model_inputs(self.loss_fn, key, self.batches.example())
        mup = self._captured(base, target_model, inputs, key)
        target = _Target(width=width, mup=mup, inputs=inputs, scaling=self._optimizer_scaling(mup))
        return functools.partial(self._train, target)

    def _captured(self, base: Any, target: Any, inputs: ModelInputs, key: Any) -> Any:
        """Returns the Mup that has captured both models, or what takes its place where models are pairs."""
        if self.plan is not None:
            return PlannedModel.of(base, target, self.plan, parametrization=self.parametrization)
        if self.parametrization.scales_nothing:
            base = target = _inside_apply_mup(target)
        mup = Mup(parametrization=self.parametrization, fans=self.fans, readouts=self.readouts,
                  finite=self.finite, tied=self.tied)
        with mup.init_base():
            inputs.shapes(base, key)
        with mup.init_target():
            inputs.shapes(target, key)
        return mup

    def _optimizer_scaling(self, mup: Mup) -> OptimizerScaling | None:
        """Returns the factors around the optimizer, or None if all of them are 1.

        Raises:
          MupError: the optimizer's function returns none; or its rule was not given, and does not show.
        """
        parametrization, rule = self.parametrization, self.optimizer_rule
        make_optimizer = functools.partial(self.optimizer, **_placeholders(self.optimizer, 0.5))
        optimizer = make_optimizer(1e-3)
        check_made_optimizer(optimizer)
        scalings = captured_model(mup, "training").scalings
        shapes = HAIKU_NAMES.tree(
            scalings, lambda scaling: jax.ShapeDtypeStruct(scaling.target.shape, "float32"))
        if not self._tried:
            self._tried.append(True)
            warn_of_unused_rate(make_optimizer, shapes)
        if rule is None:
            rule = find_rule(optimizer, shapes)
        if rule is None and not parametrization.scales_nothing and not parametrization.plain:
            raise MupError("training: a trial doesn't show what kind of optimizer this is; pass adam=True, "
                           "adam=False, or rule=...")
        rule = rule or ADAM
        if parametrization.plain and rule.entrywise:
            return None
        mup.wrap_optimizer(optimizer, rule=rule.name)        # warns of a rule that doesn't fit
        return OptimizerScaling(optimizer, scalings, parametrization, rule)

    def _train(self, target: "_Target", lr: Any, key: Any, **hyperparameters: Any) -> dict[str, jax.Array]:
        """Trains a model of one width; returns its losses."""
        for_optimizer, for_model, init_scale = self._route(hyperparameters)
        model = target.mup.wrap_model(self.make_model(target.width, **for_model))
        optimizer = target.scaled(self.optimizer(lr, **for_optimizer))
        training_step = TrainingStep(model, optimizer, self.loss_fn, is_traced=bool(for_model))
        init_key, data_key, rng = jax.random.split(key, 3)
        params, state = training_step.init(target.inputs, init_key)
        if init_scale is not None:
            params = _scale_drawn(params, target.mup, init_scale)
        batch = self.batches.by_step(data_key)

        def step(carry, number):
            return training_step.update(carry, jax.random.fold_in(rng, number), batch(number))

        (params, state, _), losses = scan_while_finite(
            step, (params, state, optimizer.init(params)), self.steps)
        rng = jax.random.fold_in(rng, self.steps)
        evaluated = {name: losses if what is None else training_step.loss(params, state, rng, what)[0]
                     for name, what in self.evaluate.items()}
        if any(what is None for what in self.evaluate.values()):
            return evaluated
        return evaluated | {"batch_loss" if "train_loss" in evaluated else "train_loss": losses}

    def _route(self, hyperparameters: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any], Any]:
        """Returns the hyperparameters of the optimizer, those of the model, and the init's scale or None.

        Raises:
          MupError: one that nothing takes.
        """
        optimizer, model = (list(inspect.signature(function).parameters)[1:]
                            for function in (self.optimizer, self.make_model))
        unknown = set(hyperparameters) - {*optimizer, *model, "init_scale"}
        if unknown:
            raise MupError(f"training: unknown hyperparameters {', '.join(map(repr, sorted(unknown)))}: the "
                           f"optimizer's function takes {optimizer}, make_model takes {model}, and "
                           "'init_scale' is always there")
        for_optimizer = {name: x for name, x in hyperparameters.items() if name in optimizer}
        for_model = {name: x for name, x in hyperparameters.items() if name in model and name not in optimizer}
        rest = {name: x for name, x in hyperparameters.items() if name not in (*optimizer, *model)}
        return for_optimizer, for_model, rest.get("init_scale")


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Target:
    """One width of a `Training`.

    Attributes:
      width: the width of the model.
      mup: has captured base and target.
      inputs: the inputs of the model.
      scaling: the factors around the optimizer; None if all of them are 1.
    """

    width: int
    mup: Mup
    inputs: ModelInputs
    scaling: OptimizerScaling | None

    def scaled(self, optimizer: optax.GradientTransformation) -> Any:
        """Returns the optimizer in the parametrization.

        `Mup.wrap_optimizer` would try the optimizer on numbers, which it can't if the learning rate is traced.
        """
        if self.scaling is None:
            return optimizer
        check = functools.partial(check_params, captured_model(self.mup, "training").scalings)
        return scale_optimizer(optimizer, self.scaling, check)


def _evaluated(name: str, what: Any) -> Any:
    """Returns an entry of `evaluate`: a function or None as it is, a batch as arrays."""
    if what is None or callable(what):
        return what
    return as_arrays(what, f"training: evaluate[{name!r}]",
                     "give one batch, or a function (apply, params, rng)")


def _inside_apply_mup(model: Any) -> Any:
    """Returns a model whose layers are all inside `apply_mup`, which plain ones in SP needn't be."""
    function = original_function(model.init)
    return model if function is None else hk.transform_with_state(apply_mup()(function))


def _scale_drawn(params: Any, mup: Mup, scale: Any) -> Any:
    """Multiplies the parameters that are drawn; leaves constants, such as biases of zero and gains of one."""
    scalings = captured_model(mup, "training").scalings
    drawn = HAIKU_NAMES.tree(scalings, lambda scaling: scaling.target.moments.drawn)
    return {module: {name: x * scale.astype(x.dtype) if drawn[module][name] else x
                     for name, x in leaves.items()} for module, leaves in params.items()}


def _placeholders(function: Callable[..., Any], value: float) -> dict[str, float]:
    """Returns a value for each parameter of a function after the first that has no default.

    The function can so be called before the hyperparameters of a trial are known.
    """
    parameters = list(inspect.signature(function).parameters.values())[1:]
    return {p.name: value for p in parameters if p.default is p.empty and p.kind in (
        p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)}
