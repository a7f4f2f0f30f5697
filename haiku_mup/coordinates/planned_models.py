"""Models of any framework in checks and sweeps: a pair (init, apply), and the plan of its parameters.

Checks and sweeps train Haiku's models. So a pair becomes one: its parameters are Haiku's, at top level, by
their paths.
"""
import dataclasses
import inspect
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, TypeAlias

import haiku as hk
import jax
import jax.numpy as jnp
import optax

from haiku_mup.errors import MupError
from haiku_mup.frameworks.adapters import flax_nnx
from haiku_mup.optimizers.learning_rates import LearningRates
from haiku_mup.parameters.record import Record
from haiku_mup.parameters.scaling import ParameterScaling
from haiku_mup.parameters.tree_paths import named_paths
from haiku_mup.plans.from_trees import plan
from haiku_mup.plans.plan import Plan, is_nnx_module
from haiku_mup.tracing.target_capture import CapturedModel

TOP = "~"       # Haiku's name for the module of parameters at top level
# From a base's tree and a target's to their plan, as functools.partial(haiku_mup.plan, fans=...).
MakePlan: TypeAlias = Callable[..., Plan]


class Pair(NamedTuple):
    """A model of any framework.

    Attributes:
      init: from a random key to its parameters: a tree, or a module.
      apply: ``apply(params, rng, *inputs)``. If it has an argument ``plan``, it is given the plan, and
        multiplies by itself.
    """

    init: Callable[[Any], Any]
    apply: Callable[..., Any]

    @property
    def takes_plan(self) -> bool:
        """Returns whether `apply` has an argument ``plan``."""
        try:
            return "plan" in inspect.signature(self.apply).parameters
        except (TypeError, ValueError):         # a function without a signature
            return False


def as_pair(model: Any, what: str = "make_model") -> Pair:
    """Returns a model as a pair.

    Raises:
      MupError: it is none.
    """
    if not (isinstance(model, tuple) and len(model) == 2 and all(map(callable, model))):
        raise MupError(f"{what} returned {type(model).__name__}; with a plan it must return (init, apply): "
                       "init(key) returns the parameters, apply(params, rng, *inputs) the outputs")
    return Pair(*model)


def is_pair(model: Any) -> bool:
    """Returns whether a model is a pair of functions, and not one of Haiku's."""
    return isinstance(model, tuple) and not hasattr(model, "init") and len(model) == 2


@dataclasses.dataclass(frozen=True, kw_only=True)
class PlannedModel:
    """A pair and its plan, in place of a model of Haiku's and its `Mup`.

    Attributes:
      pair: the target's functions.
      tree: what the target's init returned.
      plan: the plan of base and target.
      plain: the plan of the target beside itself, all of whose factors are 1.
    """

    pair: Pair
    tree: Any
    plan: Plan
    plain: Plan

    @classmethod
    def of(cls, base: Any, target: Any, make_plan: MakePlan, *, delta: Any = None, **arguments: Any,
           ) -> "PlannedModel":
        """Returns the planned model of two pairs, each of which draws its parameters once.

        Args:
          base, target, delta: the pairs.
          make_plan: makes the plan of their trees.
          arguments: more arguments for it.
        """
        pairs = [as_pair(model) for model in (base, target)]
        trees = [pair.init(jax.random.key(0)) for pair in pairs]
        more = arguments if delta is None else arguments | {"delta": as_pair(delta).init(jax.random.key(0))}
        made = make_plan(*trees, **more)
        if not isinstance(made, Plan):
            raise MupError(f"plan returned {type(made).__name__}; give a function from base and target to a "
                           "haiku_mup.Plan, such as functools.partial(haiku_mup.plan, readouts=...)")
        return cls(pair=pairs[1], tree=trees[1], plan=made, plain=make_plan(trees[1], trees[1], **arguments))

    @classmethod
    def unplanned(cls, model: Any) -> "PlannedModel":
        """Returns a pair as it is, with a plan whose factors are all 1. Its init is only traced."""
        pair = as_pair(model)
        tree = _traced(pair.init)
        plain = plan(tree, tree, fans=flax_nnx if is_nnx_module(tree) else None)
        return cls(pair=pair, tree=tree, plan=plain, plain=plain)

    # --- what a Mup does ---

    def _captured_model(self, function: str) -> CapturedModel:
        """Returns the parameters by Haiku's names."""
        return CapturedModel(self._scalings, {}, self.plan.parametrization)

    @property
    def _scalings(self) -> dict[str, ParameterScaling]:
        found = {f"{TOP}/{name}": scaling.of(_at_top(scaling.base), _at_top(scaling.target))
                 for name, scaling in self.plan.rates.scalings.items()}
        return {name: scaling for name, scaling in found.items() if scaling.target.inexact}

    def wrap_model(self, model: Any = None) -> hk.TransformedWithState:
        """Returns a model of Haiku's in μP: of the pair, or of another one with the same parameters."""
        return self._as_haiku(as_pair(model) if is_pair(model) else self.pair, self.plan)

    def plain_model(self) -> hk.TransformedWithState:
        """Returns a model of Haiku's that draws and computes as the pair does."""
        return self._as_haiku(self.pair, self.plain)

    def wrap_optimizer(self, optimizer: Any, adam: bool = True, *,
                       rule: str | None = None) -> optax.GradientTransformationExtraArgs:
        """Returns an optimizer of Haiku's parameters in μP."""
        rates = self.plan.rates
        return LearningRates(scalings=self._scalings, parametrization=rates.parametrization,
                             lr_mults={f"{TOP}/{glob}": x for glob, x in rates.lr_mults.items()},
                             ).wrap(optimizer, adam=adam, rule=rule, scale_decay=False, scale_eps=False)

    # --- the model ---

    def _as_haiku(self, pair: Pair, used: Plan) -> hk.TransformedWithState:
        def function(*args: Any, **kwargs: Any) -> Any:
            params, rng = self._parameters(pair, used), hk.maybe_next_rng_key()
            if pair.takes_plan:
                out = pair.apply(params, rng, *args, plan=used, **kwargs)
            else:
                out = pair.apply(used.multiplied_tree(params), rng, *args, **kwargs)
            used.check_asked("the loss calls apply", of_equals=False)
            return out

        return hk.transform_with_state(function)

    def _parameters(self, pair: Pair, used: Plan) -> Any:
        """Returns the tree with Haiku's parameters in it; in an init, with drawn ones."""
        drawn: Mapping[str, Any] = {}
        if hk.running_init():
            drawn = dict(named_paths(used.rescaled_tree(pair.init(hk.next_rng_key()))))

        def leaf(name: str, x: Any) -> Any:
            if name not in used.rates.scalings or not jnp.issubdtype(x.dtype, jnp.inexact):
                return _constant(x)
            return hk.get_parameter(name, x.shape, x.dtype, init=lambda *_: drawn[name])

        return jax.tree.unflatten(jax.tree.structure(self.tree),
                                  [leaf(name, x) for name, x in named_paths(self.tree)])


def _traced(init: Callable[[Any], Any]) -> Any:
    """Returns what an init returns, with shapes in place of arrays."""
    kept: list[Any] = []

    def arrays(key: Any) -> list[Any]:
        leaves, structure = jax.tree.flatten(init(key))
        kept[:] = structure, [None if hasattr(x, "shape") else x for x in leaves]
        return [x for x in leaves if hasattr(x, "shape")]

    shapes = iter(jax.eval_shape(arrays, jax.random.key(0)))
    structure, rest = kept
    return jax.tree.unflatten(structure, [next(shapes) if x is None else x for x in rest])


def _constant(x: Any) -> Any:
    """Returns an array that is no parameter; of a shape, one without a meaning."""
    if not isinstance(x, jax.ShapeDtypeStruct):
        return x
    if jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
        return jax.random.split(jax.random.key(0), x.shape) if x.shape else jax.random.key(0)
    return jnp.zeros(x.shape, x.dtype)


def _at_top(record: Record) -> Record:
    """Returns a record by Haiku's name."""
    return dataclasses.replace(record, name=f"{TOP}/{record.name}", local=f"{TOP}/{record.name}",
                               leaf=record.name)
