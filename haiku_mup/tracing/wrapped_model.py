"""Wrapped models: their init rescales draws, their apply multiplies by forward factors."""
import contextlib
import functools
import types
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

import haiku as hk
import jax

from haiku_mup.errors import MupError
from haiku_mup.parameters.haiku_layers import TIED, layer_type
from haiku_mup.parameters.initializers import known_moments
from haiku_mup.parameters.place import Branch, Site
from haiku_mup.parameters.record import Record
from haiku_mup.parameters.scaling import ParameterScaling, RuntimeFactors
from haiku_mup.tracing import getters
from haiku_mup.tracing.creation import CreatedParameter, Creation
from haiku_mup.tracing.factor_lookup import FactorLookup, one_tied_multiplier
from haiku_mup.tracing.haiku_internals import ORIGINAL, Nesting, check_home, users_line
from haiku_mup.tracing.scope import (
    ActiveContext,
    RunningModel,
    activated,
    active_context,
    applied_context,
    during,
    running_model,
)

Model = TypeVar("Model", hk.Transformed, hk.TransformedWithState, hk.MultiTransformed,
                hk.MultiTransformedWithState)
_MARK = "_haiku_mup"        # attribute of the functions that `bind` makes


class WrappedModel:
    """A captured model in μP, as its init and its apply see it. Equal content is one key in JAX's caches.

    Args:
      scalings: base beside target, by name.
      branches: the multiplier of each branch of haiku_mup.residual, relative to those that it is not in.
      plain: whether plain optimizers train it, which check no names.
      states: the factor of each state's draw that has one, by name.

    Raises:
      MupError: two layers that look alike from inside and have different multipliers.
    """

    transform_depth = 0     # each of its functions knows where it runs
    is_in_mup = True

    def __init__(self, scalings: Mapping[str, ParameterScaling], branches: Mapping[Site, float],
                 plain: bool = False, states: Mapping[str, float] = types.MappingProxyType({})):
        self.warned: set[str] = set()
        self._plain, self._branches, self._states = plain, dict(branches), dict(states)
        self._captured = {name: (s.target.shape, s.draw, s.target.moments, s.target.stacks)
                          for name, s in scalings.items()}
        targets = [(s, s.target) for s in scalings.values()]
        self._lifted = {(target.local, target.shape) for _, target in targets if target.lifted_by_user}
        self._tied = {s.multiplier for s, target in targets if target.layer == TIED}
        self._factors = FactorLookup()
        for scaling, target in targets:
            if self._factors.add(target, scaling.runtime_factors) != scaling.runtime_factors:
                raise MupError.about(
                    target.name, scaling.base.shape, target.shape, "another layer has this name and shape "
                    "within its lift, and another multiplier; rename one", target.line)
        self._key: Hashable = self._factors.key(), *map(frozenset, (
            self._captured.items(), self._tied, self._branches.items(), self._states.items(),
            self._lifted, {plain}))
        self._hash = hash(self._key)

    def __eq__(self, other):
        """Returns whether another wrapped model computes the same."""
        return isinstance(other, WrappedModel) and self._key == other._key

    def __hash__(self):
        """Returns the hash of its contents."""
        return self._hash

    def __getstate__(self) -> dict[str, Any]:
        """Returns the attributes to pickle: all but the hash, since each process has hashes of its own."""
        return {name: value for name, value in vars(self).items() if name != "_hash"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Restores what was pickled."""
        vars(self).update(state)
        self._hash = hash(self._key)

    def create(self, creation: Creation) -> tuple[Any, CreatedParameter]:
        """Makes a parameter as it was captured."""
        _, factor, *_ = self._captured.get(creation.names[0], (None, 1.0))
        error = self._difference(creation)
        return creation.make(error, 1.0 if error else factor)

    def adopt(self, record: Record, names: tuple[str, ...], array: Any) -> CreatedParameter:
        """Returns what is known of a parameter that was not made by Haiku."""
        captured, *_ = self._captured.get(names[0], (None,))
        error = None
        if captured != record.shape:
            error = MupError.about(names[0], captured, record.shape, "not captured in init_target with this "
                                   "shape; capture the model that is wrapped", record.line)
        return CreatedParameter(names, record.leaf, array, error)

    def create_state(self, creation: Creation) -> Any:
        """Makes state as it was captured."""
        return creation.make(None, self._states.get(creation.names[0], 1.0))[0]

    def _difference(self, creation: Creation) -> MupError | None:
        """Returns the error for a parameter that isn't what was captured."""
        name, shape, nesting = creation.names[0], creation.layer_shape, creation.nesting
        captured, _, moments, layers = self._captured.get(name, (None, 1.0, None, None))
        now = None if creation.has_creators else known_moments(creation.init, shape)
        if captured != shape:
            saw = "" if captured is None else f", which saw {captured}"
            text = f"not captured in init_target{saw}; capture the model that is wrapped"
        elif now and moments and abs(now.std - moments.std) > 1e-6 * now.std:
            text = (f"the initializer's std is {now.std:.3g}, and init_target saw {moments.std:.3g}; capture "
                    "the model that is wrapped")
        elif layers != nesting.stacked_layers:
            text = (f"it is in stacks of {nesting.stacked_layers} layers, and init_target saw {layers}; "
                    "capture the model that is wrapped")
        else:
            return _second_home(creation)
        return MupError.about(name, None, shape, text, nesting.line)

    def keep(self, created: Sequence[CreatedParameter]) -> None:
        """Raises for parameters that are not what was captured; all else is known already."""
        errors = [parameter.value for parameter in created if isinstance(parameter.value, MupError)]
        if errors:
            raise MupError.of_all(errors)

    def branch_multiplier(self, branch: Branch, nesting: Nesting) -> float:
        """Returns the multiplier of a branch, relative to that of the branch around it."""
        if branch.site not in self._branches:
            if set(self._branches.values()) <= {1.0}:
                return 1.0
            raise MupError(f"{branch.path!r}: this haiku_mup.residual was not captured in init_target, or with "
                           "other numbers of layers; capture the model that is wrapped")
        outer = self._branches.get(branch.outer.site, 1.0) if branch.outer else 1.0
        return self._branches[branch.site] / outer

    def runtime_factors(self, name: str, shape: tuple[int, ...]) -> RuntimeFactors:
        """Returns the factors of a parameter; factors of 1 if it was not captured."""
        return self._factors.get(name, shape) or getters.PLAIN

    @property
    def has_lifted(self) -> bool:
        """Returns whether a user's function lifts some parameter."""
        return bool(self._lifted)

    def is_lifted(self, name: str, shape: tuple[int, ...]) -> bool:
        """Returns whether a user's function may lift this parameter."""
        return (name, shape) in self._lifted

    def uncaptured(self, name: str, shape: tuple[int, ...]) -> str | None:
        """Returns a warning about a parameter that was not captured, and that a plain optimizer trains."""
        if not self._plain or (name, shape) in self._factors:
            return None
        return str(MupError.about(name, None, shape, "not captured in init_target, and so not in μP, where no "
                                  "wrapped optimizer would say so; make it inside apply_mup()"))

    def table_read(self, context: hk.GetterContext) -> None:
        """Does nothing: the capture has warned."""

    def multiplier(self, name: str, shape: tuple[int, ...]) -> float:
        """Returns the multiplier that a layer applies to its product.

        Raises:
          MupError: it was not captured with this shape.
        """
        factors = self._factors.get(name, shape)
        if factors is None:
            saw = self._factors.shapes(name)
            remedy = ("put it inside apply_mup(), and capture base and target again" if not saw else
                      f"init_target saw {saw[0]}; capture the model that is wrapped, by a Mup of its own")
            raise MupError.about(name, None, shape, f"this layer was not captured with this shape; {remedy}",
                                 users_line())
        return factors.multiplier

    def tied_multiplier(self) -> float:
        """Returns the multiplier of a readout that was given an embedding's matrix."""
        return one_tied_multiplier(self._tied)

    def note_wrapped_model(self) -> None:
        """Does nothing: a wrapped model may call others."""


def _second_home(creation: Creation) -> MupError | None:
    """Returns the error for the matrix of a SharedEmbed that is made a second time, elsewhere."""
    try:
        if layer_type(creation.context.module).kinds.get(creation.leaf) == TIED:
            check_home(creation.names[0], creation.context.module)
    except MupError as error:
        return error.with_traceback(None).made_at(creation.names[0], creation.nesting.line)
    return None


# --- functions of a wrapped model ---

def wrap(model: Model, context: WrappedModel) -> Model:
    """Returns a transformed model whose init and apply run in a context.

    Args:
      model: what hk.transform, or a function like it, returned.
      context: the model as it was captured.

    Raises:
      MupError: a model that is wrapped already, or that is none.
    """
    if not (hasattr(model, "_replace") and hasattr(model, "init") and hasattr(model, "apply")):
        raise MupError(f"wrap_model: a {type(model).__name__} is not a transformed model; give it "
                       "what hk.transform returns")
    if any(map(_is_bound, jax.tree.leaves((model.init, model.apply)))):
        raise MupError("wrap_model: this model is wrapped already; wrap the plain one, once")
    bind_to = functools.partial(bind, context)
    return model._replace(init=bind_to(model.init), apply=jax.tree.map(bind_to, model.apply))


def bind(context: ActiveContext, function: Callable[..., Any], inside: bool = False) -> Callable[..., Any]:
    """Returns a function that runs in a context, and so does what Haiku transforms anew from it.

    Args:
      context: the context.
      function: an init, an apply, or a function that Haiku transforms.
      inside: whether it is the last, and so runs inside of a transform already.
    """
    @functools.wraps(function)
    def wrapped(*args, **kwargs):
        """Calls the function in the context."""
        def hooked():
            """Calls the function with its parameters' factors."""
            with _hooks(context, running):
                return function(*args, **kwargs)

        # Outside of a transform there are two more: the one below, which getters need, and the function's own.
        running = RunningModel(len(Nesting().transforms) + (0 if inside else 2))
        with _running(context, running):
            return hooked() if inside else hk.transform(hooked).apply({}, None)

    original = getattr(function, ORIGINAL, None)
    if original is not None:
        setattr(wrapped, ORIGINAL, bind(context, original, inside=True))
    setattr(wrapped, _MARK, True)
    return wrapped


@contextlib.contextmanager
def _running(context: ActiveContext, running: RunningModel) -> Iterator[None]:
    """Returns a context manager in which a wrapped model runs.

    cloudpickle takes the function of `bind` by its value, with all that it names, and takes no ContextVar; this
    one it takes by its name.
    """
    if (outer := active_context()) is not None:
        outer.note_wrapped_model()
    with activated(context), during(applied_context, None), during(running_model, running):
        yield


def _is_bound(function: Any) -> bool:
    """Returns whether `bind` made a function, or what Haiku made it from."""
    return hasattr(function, _MARK) or hasattr(getattr(function, ORIGINAL, None), _MARK)


@contextlib.contextmanager
def _hooks(context: ActiveContext, running: RunningModel) -> Iterator[None]:
    """Returns a context manager in which parameters have their factors, before getters of the model's own."""
    def foreign():
        """Returns the running function of another model, if any."""
        return Nesting().foreign_transform(running.transform_depth)

    def getter(next_getter, value, getter_context):
        """Reads a parameter, unless another wrapped model, inside this one, does."""
        if running_model.get() is not running:
            return next_getter(value)
        return getters.read(context, next_getter, value, getter_context, foreign)

    def interceptor(next_method, args, kwargs, method_context):
        """Calls a method; within apply_mup(), that one's interceptor does."""
        if (running_model.get() is not running or applied_context.get() is not None
                or getters.is_plain_call(context, method_context)):
            return next_method(*args, **kwargs)
        return getters.call(context, next_method, args, kwargs, method_context)

    with hk.custom_getter(getter), hk.intercept_methods(interceptor):
        yield
