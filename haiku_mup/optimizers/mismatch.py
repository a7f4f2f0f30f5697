"""Warns about an optimizer rule that doesn't fit what an optimizer does, with the remedy."""
from collections.abc import Collection, Mapping
from typing import Any

from haiku_mup.optimizers.detect import SMALL_GRADIENT, Decay, Traits, find_traits
from haiku_mup.optimizers.factors import refusal
from haiku_mup.optimizers.states import class_names, find_states, representative_parameters
from haiku_mup.optimizers.trees import named_leaves, unmasked_shapes
from haiku_mup.parameters.scaling import ParameterScaling
from haiku_mup.rules import FIXED
from haiku_mup.rules.optimizers import RULES, Behaviour, Coupling, OptimizerRule, rule_of, rule_of_states
from haiku_mup.rules.parametrization import Parametrization
from haiku_mup.rules.tables import standard
from haiku_mup.tracing.warn import warn_once

OUTERMOST = {       # optimizers of optax that must be around the wrapped one, by the names of their states
    "MechanicState": "has optax.contrib.mechanize inside, which takes sums over all parameters; put it around: "
                     "optax.contrib.mechanize(mup.wrap_optimizer(…))",
    "ScheduleFreeState": "has optax.contrib.schedule_free inside, so that schedule_free_eval_params would mix "
                         "parameters with parameters that are divided by their factors; put it around: "
                         "optax.contrib.schedule_free(mup.wrap_optimizer(…), learning_rate)",
}


class MismatchCheck:
    """Checks a rule against what an optimizer does, and warns once of each kind of mismatch.

    Args:
      optimizer: the plain optimizer.
      optimizer_rule: the rule that its factors come from.
      scalings: the model's parameters, by name. Those that grow are judged; none in the standard
        parametrization.
      parametrization: the parametrization.
      adam, rule: the arguments of `wrap_optimizer` that mean this rule, for the messages.
      warned: the kinds of warnings that were given already.
    """

    def __init__(self, optimizer: Any, optimizer_rule: OptimizerRule, scalings: Mapping[str, ParameterScaling],
                 parametrization: Parametrization, *, adam: bool, rule: str | None, warned: set[str]):
        self._optimizer, self._rule, self._warned = optimizer, optimizer_rule, warned
        self._by_adam = rule is None
        self._call = f"wrap_optimizer({f'adam={adam}' if self._by_adam else f'rule={rule!r}'})"
        self._scalings, self._parametrization = scalings, parametrization
        self._judged: Collection[str] = () if parametrization == standard() else {
            name for name, scaling in scalings.items() if any(b.role != FIXED for b in scaling.row_blocks)}
        self._tried: set[tuple[str, int]] = set()      # names and ranks

    def __call__(self, tree: Any) -> None:
        """Tries the optimizer on one parameter of each group that it treats differently."""
        tree = unmasked_shapes(tree)
        some = representative_parameters(self._optimizer, tree, self._judged)
        names = {(name, len(x.shape)) for name, x in named_leaves(some)}
        if names <= self._tried:
            return
        states, found = find_states(self._optimizer, tree), find_traits(self._optimizer, (some, tree))
        if found:
            self._tried |= names
        self._judge(states, {name: traits for name, traits in found.items() if name in self._judged})

    def _judge(self, states: list[Any], found: Mapping[str, Traits]) -> None:
        """Warns about the worst mismatch of all parameters, and about their decay."""
        names = class_names(states)
        for name in sorted(names & set(OUTERMOST)):
            self._warn(name, None, OUTERMOST[name])
        meant = rule_of_states(names)
        if meant and meant.coupling is Coupling.MODEL and self._rule.coupling is not Coupling.MODEL:
            return self._warn(meant.name, None, self._remedy(meant))
        alike = len(set(found.values())) == 1           # no need, then, to say for which parameter
        misfits: dict[Behaviour | None, str] = {}
        for name, traits in found.items():
            behaviour = _refined(traits.behaviour, class_names(states, name))
            if not self._rule.fits(behaviour, class_names(states, name)):
                misfits[behaviour] = name
            self._judge_decay(None if alike else name, traits.decay)
        for behaviour in (None, *Behaviour):            # the worst first
            if behaviour in misfits:
                name = misfits[behaviour]
                text = self._misfit(behaviour, class_names(states, name))
                return self._warn(f"{self._call} {behaviour}", None if alike else name, text)

    def _judge_decay(self, name: str | None, decay: Decay | None) -> None:
        """Warns about a decay that depends on the width."""
        if decay and self._rule.coupling is Coupling.PARAMETER:
            self._warn("decay by norm", name, (
                "decays weights, by an amount that depends on the width, and no factor can correct that; "
                "take the decay out, and apply it behind the wrapped optimizer: optax.chain("
                "mup.wrap_optimizer(…), optax.add_decayed_weights(-lr * decay))"))
        elif decay is Decay.COUPLED:
            self._warn("coupled decay", name, (
                "has a decay in front of what normalises gradients (an L2 term), which can't be made "
                "independent of the width; apply the decay behind it, as optax.adamw does"))

    def _warn(self, kind: str, name: str | None, text: str) -> None:
        """Warns about the optimizer, or about what it does with one parameter; once of each kind."""
        who = f"this optimizer, for {name!r}," if name else "this optimizer"
        warn_once(self._warned, kind, f"{self._call}: {who} {text}")

    def _misfit(self, behaviour: Behaviour | None, states: Collection[str]) -> str:
        """Returns the warning about a behaviour that does not fit the rule, with the rule that does."""
        meant = rule_of(behaviour, states)
        if meant is None:
            return ("makes an entry's update from other entries, too, and there is no rule for how it does; "
                    "use one that works entry by entry, or put the part that doesn't outside of "
                    "wrap_optimizer")
        tried = behaviour in (Behaviour.ADAM_LIKE, Behaviour.SGD_LIKE)
        return self._remedy(meant, f" (tried with gradients of {SMALL_GRADIENT} and twice that)" * tried)

    def _remedy(self, meant: OptimizerRule, how: str = "") -> str:
        """Describes an optimizer by its rule, and says how to pass it, in the words of the call, or why not."""
        refused = refusal(self._scalings, self._parametrization, meant)
        if refused:
            return f"{meant.description}{how}; {refused}"
        by_adam = self._by_adam and meant.adam is not None
        option = f"adam={meant.adam}" if by_adam else f"rule={meant.name!r}"
        return f"{meant.description}{how}; pass {option}{meant.advice}"


def find_rule(optimizer: Any, tree: Any) -> OptimizerRule | None:
    """Finds the rule for what an optimizer does, as far as that shows; None if nothing shows.

    Args:
      optimizer: an optax optimizer.
      tree: of parameters' shapes.

    >>> import optax
    >>> shapes = {"linear": {"w": jax.ShapeDtypeStruct((8, 8), "float32")}}
    >>> optimizers = optax.adamw(1e-3), optax.sgd(0.1), optax.yogi(0.1), optax.lamb(0.1)
    >>> [find_rule(optimizer, shapes).name for optimizer in optimizers]
    ['adam', 'sgd', 'any', 'lamb']
    """
    some = representative_parameters(optimizer, tree, {name for name, _ in named_leaves(tree)})
    states, found = find_states(optimizer, tree), find_traits(optimizer, (some, tree))
    behaviours = {name: _refined(traits.behaviour, class_names(states, name)) for name, traits in found.items()}
    rules = {rule_of(behaviour, class_names(states, name)) for name, behaviour in behaviours.items()}
    rules = (rules | {rule_of_states(class_names(states))}) - {None}
    coupled = [rule for rule in reversed(RULES.values()) if rule in rules and not rule.entrywise]
    if coupled:
        return coupled[0]       # which has Adam's factors or SGD's for the others, where they differ
    if rules:
        return rules.pop() if len(rules) == 1 else RULES["any"]
    return RULES["adam"] if any(behaviours.values()) else None      # wrap_optimizer warns of what it does


def _refined(behaviour: Behaviour | None, states: Collection[str]) -> Behaviour | None:
    """Corrects what a trial shows by what states say: a few optimizers seem to be SGD with small gradients."""
    meant = rule_of_states(states, behaviour)
    return meant.default_for if meant and meant.default_for else behaviour
