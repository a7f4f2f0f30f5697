"""One step of training, for models with and without state, and with and without random keys."""
import functools
import inspect
from collections.abc import Callable
from typing import Any

import jax
import optax
from jax.custom_batching import sequential_vmap

from haiku_mup.coordinates.model_inputs import check_loss, has_state
from haiku_mup.optimizers.wrapper import passing_extra_args
from haiku_mup.tracing.haiku_internals import original_function


class TrainingStep:
    """A model with its optimizer and loss.

    A model without state has the state {}.

    Args:
      model: a transformed model.
      optimizer: an optax optimizer.
      loss_fn: ``loss_fn(apply, params, rng, batch)`` returns a scalar.
      is_traced: whether the model was made with traced hyperparameters.

    >>> def loss_fn(apply, params, rng, batch):
    ...     return (apply(params, rng, batch)**2).mean()
    >>> model = hk.transform(lambda x: hk.Linear(1)(x))
    >>> optimizer = optax.sgd(0.1)
    >>> step = TrainingStep(model, optimizer, loss_fn)
    >>> params = {"linear": {"w": jnp.ones((2, 1)), "b": jnp.zeros(1)}}
    >>> (params, _, _), loss = step.update((params, {}, optimizer.init(params)), None, jnp.ones((4, 2)))
    >>> f"{loss:.2f}", f"{step.loss(params, {}, None, jnp.ones((4, 2)))[0]:.2f}"
    ('4.00', '0.64')
    """

    def __init__(self, model: Any, optimizer: optax.GradientTransformationExtraArgs,
                 loss_fn: Callable[..., jax.Array], is_traced: bool = False):
        self._model, self._loss_fn, self._is_traced = model, loss_fn, is_traced
        self._optimizer = passing_extra_args(optimizer)
        self._stateful = has_state(model)
        self._takes_key = takes_key(model.apply, self._stateful)

    def init(self, inputs: Any, key: Any) -> tuple[Any, Any]:
        """Draws parameters and state.

        Under vmap each trial draws its own in turn. That compiles twice as fast, and happens once in a run.
        """
        in_turn = _with_traced_constants if self._is_traced else sequential_vmap
        drawn = in_turn(functools.partial(inputs.init, self._model))(key, inputs.arrays)
        return drawn if self._stateful else (drawn, {})

    def update(self, carry: Any, rng: Any, batch: Any) -> tuple[Any, jax.Array]:
        """Returns (params, state, optimizer's state) after one update, and the loss before it."""
        params, state, opt_state = carry
        (value, state), gradients = jax.value_and_grad(self.loss, has_aux=True)(params, state, rng, batch)
        # Steps of Momo and Polyak depend on the loss; other optimizers leave `value` alone.
        updates, opt_state = self._optimizer.update(gradients, opt_state, params, value=value)
        return (optax.apply_updates(params, updates), state, opt_state), value

    def loss(self, params: Any, state: Any, rng: Any, what: Any) -> tuple[jax.Array, Any]:
        """Returns a loss and the state after it.

        Args:
          params: the parameters.
          state: the state.
          rng: a key.
          what: a batch, or a function ``(apply, params, rng)`` that returns a scalar.

        Raises:
          MupError: the loss of a batch is not a scalar.
        """
        new_state = state

        def apply(params, rng, *args, **kwargs):
            nonlocal new_state      # loss functions know no state: it passes by them
            if self._takes_key:
                args = rng, *args
            if not self._stateful:
                return self._model.apply(params, *args, **kwargs)
            out, new_state = self._model.apply(params, new_state, *args, **kwargs)
            return out

        if callable(what):
            return what(apply, params, rng), new_state
        value = self._loss_fn(apply, params, rng, what)
        check_loss(value)
        return value, new_state


def takes_key(apply: Callable[..., Any], stateful: bool) -> bool:
    """Returns whether a model's apply takes a random key, as it does unless hk.without_apply_rng made it.

    >>> model = hk.transform(lambda x: hk.Linear(3)(x))
    >>> takes_key(model.apply, False), takes_key(hk.without_apply_rng(model).apply, False)
    (True, False)
    """
    if original_function(apply) is None:        # not Haiku's
        return True
    try:
        names = list(inspect.signature(apply).parameters)
    except (TypeError, ValueError):             # a function without a signature
        return True
    return names[1 + stateful:2 + stateful] == ["rng"]


def _with_traced_constants(function: Callable[..., Any]) -> Callable[..., Any]:
    """Does what sequential_vmap does, for functions that close over traced values: it makes them arguments."""
    def run(*args):
        program, shapes = jax.make_jaxpr(function, return_shape=True)(*args)

        def with_consts(consts, *leaves):
            return jax.core.eval_jaxpr(program.jaxpr, consts, *leaves)

        out = sequential_vmap(with_consts)(program.consts, *jax.tree.leaves(args))
        return jax.tree.unflatten(jax.tree.structure(shapes), out)
    return run
