"""Models of any framework in checks and sweeps: a pair (init, apply), and the plan of its parameters.

Checks and sweeps train Haiku's models. So a pair becomes one: its parameters, and the state that it keeps
beside them, are Haiku's, at top level, by their paths.
"""
import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, TypeAlias

import haiku as hk
import jax
import jax.numpy as jnp
import optax

from haiku_mup.coordinates.pairs import Pair, as_pair, is_pair, traced
from haiku_mup.coordinates.recorder import recording_pair
from haiku_mup.errors import MupError
from haiku_mup.frameworks.adapters import flax_nnx
from haiku_mup.optimizers.learning_rates import LearningRates
from haiku_mup.parameters.haiku_layers import NAMED, TIED
from haiku_mup.parameters.record import Record
from haiku_mup.parameters.scaling import ParameterScaling
from haiku_mup.parameters.tree_paths import is_nnx_module, named_paths
from haiku_mup.plans.asked import forgotten
from haiku_mup.plans.forward_pass import multiply
from haiku_mup.plans.from_trees import plan
from haiku_mup.plans.initial_values import rescale
from haiku_mup.plans.plan import Plan
from haiku_mup.tracing.target_capture import CapturedModel

TOP = "~"       # Haiku's name for the module of parameters at top level
# From a base's tree and a target's to their plan, as functools.partial(haiku_mup.plan, fans=...).
MakePlan: TypeAlias = Callable[..., Plan]


@dataclasses.dataclass(frozen=True, kw_only=True)
class PlannedModel:
    """A pair and its plan, in place of a model of Haiku's and its `Mup`.

    Attributes:
      pair: the target's functions.
      tree: the parameters that the target's init returned.
      state: the state that it returned, or None.
      plan: the plan of base and target.
      plain: the plan of the target beside itself, all of whose factors are 1.
    """

    pair: Pair
    tree: Any
    state: Any
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
        pair = as_pair(target)
        base_tree, _ = as_pair(base).draw(jax.random.key(0))
        tree, state = pair.draw(jax.random.key(0))
        more = arguments if delta is None else arguments | {"delta": as_pair(delta).draw(jax.random.key(0))[0]}
        made = make_plan(base_tree, tree, **more)
        if not isinstance(made, Plan):
            raise MupError(f"plan returned {type(made).__name__}; give a function from base and target to a "
                           "haiku_mup.Plan, such as functools.partial(haiku_mup.plan, readouts=...)")
        return cls(pair=pair, tree=tree, state=state, plan=made, plain=make_plan(tree, tree, **arguments))

    @classmethod
    def unplanned(cls, model: Any) -> "PlannedModel":
        """Returns a pair as it is, with a plan whose factors are all 1. Its init is only traced."""
        pair = as_pair(model)
        tree, state = traced(pair.draw)
        plain = plan(tree, tree, fans=flax_nnx if is_nnx_module(tree) else None)
        return cls(pair=pair, tree=tree, state=state, plan=plain, plain=plain)

    # --- what a Mup does ---

    def _captured_model(self, function: str) -> CapturedModel:
        """Returns the parameters by Haiku's names."""
        return CapturedModel(self._scalings, {}, self.plan.parametrization)

    @property
    def _scalings(self) -> dict[str, ParameterScaling]:
        found = {f"{TOP}/{name}": scaling.of(_at_top(scaling.base), _at_top(scaling.target))
                 for name, scaling in self.plan.rates.scalings.items()}
        return {name: scaling for name, scaling in found.items() if scaling.target.inexact}

    @property
    def attention_multipliers(self) -> dict[str, float]:
        """Returns the multipliers of what makes queries, which belong to the attention's own 1/√d."""
        return {name: scaling.multiplier for name, scaling in self._scalings.items()
                if scaling.target.scaled_attention}

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
            rng = hk.maybe_next_rng_key()
            drawn = self._drawn(pair, used) if hk.running_init() else _Drawn({}, {}, {})
            params, state = self._params(used, drawn), self._state(drawn)
            more = {"plan": used} if pair.takes_plan else {}
            more |= {"state": state} if pair.takes_state else {}
            with used._asked.during() as asked:
                if not pair.takes_plan:
                    params = multiply(used.rates.scalings, params, functools.partial(
                        used._asked.note, method="multiplied"))
                returned = recording_pair(pair.apply, params, self._queries, self._readouts(params))(
                    rng, *args, **more, **kwargs)
            if text := forgotten(used.rates.scalings, asked, "the loss calls apply"):
                raise MupError(text)
            out, state = pair.output(returned)
            self._keep(used, params, state)
            return out

        return hk.transform_with_state(function)

    def _drawn(self, pair: Pair, used: Plan) -> "_Drawn":
        """Returns, in an init, what the pair draws."""
        params, state = pair.draw(hk.next_rng_key())
        scaled = rescale(used.rates.scalings, params, used.initializers)
        return _Drawn(dict(named_paths(scaled)), dict(named_paths(params)), dict(named_paths(state)))

    def _params(self, used: Plan, drawn: "_Drawn") -> Any:
        """Returns the tree with Haiku's parameters in it, and with Haiku's state of a module of Flax NNX."""
        def leaf(name: str, x: Any) -> Any:
            if self._is_parameter(used, name, x):
                return hk.get_parameter(name, x.shape, x.dtype, init=lambda *_: drawn.params[name])
            return _kept(name, x, drawn.rest) if is_nnx_module(self.tree) else _constant(x)

        return _with_leaves(self.tree, leaf)

    def _state(self, drawn: "_Drawn") -> Any:
        """Returns the state of an apply that takes one."""
        return _with_leaves(self.state, lambda name, x: _kept(f"state.{name}", x, {
            f"state.{name}": value for name, value in drawn.state.items()}))

    def _keep(self, used: Plan, params: Any, state: Any) -> None:
        """Keeps the state after a call: what apply returned, and what it changed in a module of Flax NNX."""
        after = {f"state.{name}": x for name, x in named_paths(state)}
        if is_nnx_module(self.tree):
            after |= {name: x for name, x in named_paths(params) if not self._is_parameter(used, name, x)}
        before = {f"state.{name}": x for name, x in named_paths(self.state)} | (
            dict(named_paths(self.tree)) if is_nnx_module(self.tree) else {})
        for name, x in before.items():
            if name.startswith("state.") and name not in after:
                raise MupError(f"apply returned a state without {name.removeprefix('state.')!r}; return all "
                               "of the state that it was given")
            if name in after and hasattr(x, "shape") and not self._is_parameter(used, name, x):
                hk.set_state(name, after[name])

    @staticmethod
    def _is_parameter(used: Plan, name: str, x: Any) -> bool:
        return name in used.rates.scalings and jnp.issubdtype(x.dtype, jnp.inexact)

    def _readouts(self, params: Any) -> dict[str, list[Any]]:
        """Returns the weights of readouts among parameters, and tables that make logits, as a recorder asks."""
        layers = {name: scaling.target.layer for name, scaling in self.plan.rates.scalings.items()}
        return {key: [x for name, x in named_paths(params) if layers.get(name) == layer]
                for key, layer in ((TOP, NAMED), (TIED, TIED))}

    @functools.cached_property
    def _queries(self) -> dict[str, str]:
        """Returns, by the path of a module that makes queries last, Haiku's name of its weight or gain."""
        found: dict[str, str] = {}
        for name, scaling in self.plan.rates.scalings.items():
            if scaling.target.key_size is not None:
                module = name.rpartition(".")[0]
                if module not in found or scaling.target.fans.fan_in:
                    found[module] = f"{TOP}/{name}"
        return found


class _Drawn(NamedTuple):
    """The arrays that an init draws, by name.

    Attributes:
      params: parameters in μP.
      rest: the same tree as it was drawn, whose arrays beside parameters are a module's state.
      state: the state of an apply that takes one.
    """

    params: Mapping[str, Any]
    rest: Mapping[str, Any]
    state: Mapping[str, Any]


def _with_leaves(tree: Any, leaf: Callable[[str, Any], Any]) -> Any:
    return jax.tree.unflatten(jax.tree.structure(tree), [leaf(name, x) for name, x in named_paths(tree)])


def _kept(name: str, x: Any, drawn: Mapping[str, Any]) -> Any:
    """Returns an entry of Haiku's state, which starts as it is drawn; what is no array stays what it is."""
    if not hasattr(x, "shape"):
        return x
    return hk.get_state(name, x.shape, x.dtype, init=lambda *_: drawn[name])


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
