"""Warns about an optimizer rule that doesn't fit what an optimizer does, with the remedy."""
from collections.abc import Collection, Mapping, Set
from typing import Any

from haiku_mup.optimizers.detect import (
    ENTRYWISE,
    SMALL_GRADIENT,
    CannotTry,
    Clip,
    Decay,
    Drift,
    Traits,
    find_traits,
)
from haiku_mup.optimizers.factors import OptimizerScaling, refusal
from haiku_mup.optimizers.states import States, states_and_parameters
from haiku_mup.optimizers.trees import named_leaves, unmasked_shapes
from haiku_mup.parameters.scaling import ParameterScaling
from haiku_mup.rules import FIXED
from haiku_mup.rules.optimizers import RULES, Behaviour, Coupling, OptimizerRule, rule_of, rule_of_states
from haiku_mup.rules.parametrization import Parametrization
from haiku_mup.tracing.warn_once import warn_once

OUTERMOST = {       # optimizers of optax that must be around the wrapped one, by the names of their states
    "SAMState": "has optax.contrib.sam inside, whose steps to where the loss is higher would be multiplied by "
                "the factors of updates; put it around: optax.contrib.sam(mup.wrap_optimizer(…), …)",
    "MechanicState": "has optax.contrib.mechanize inside, which takes sums over all parameters; put it around: "
                     "optax.contrib.mechanize(mup.wrap_optimizer(…))",
    "ScheduleFreeState": "has optax.contrib.schedule_free inside, so that schedule_free_eval_params would mix "
                         "parameters with parameters that are divided by their factors; put it around: "
                         "optax.contrib.schedule_free(mup.wrap_optimizer(…), learning_rate)",
}
QUASI_NEWTON = ("has L-BFGS inside, which multiplies gradients by steps, and sees parameters that are divided "
                "by their factors; train the form maximal_update('abcd', optimizer='sgd') with the plain "
                "optimizer")
# States of optimizers that divide gradients by their size, and by an ε.
NORMALISING = {"ScaleByAdamState", "ScaleByAmsgradState", "ScaleByBeliefState", "ScaleByRmsState",
               "ScaleByRStdDevState", "ScaleByRssState"}

UNTRIED = ("can't be tried on small arrays: it works only on the model's own shapes, for instance because it "
           "keeps a value for each entry, and the model is too large to try; so nothing checks that this rule "
           "fits it. Inside the wrapper it sees each parameter divided by its factor: put what depends on "
           "values of parameters behind the wrapped optimizer")
UNTRIED_AS_TRACED = (
    "can't be tried, since its hyperparameters are traced values; so nothing checks that this rule fits it. "
    "Make it outside of jit, with numbers, and keep what changes in its state: "
    "mup.wrap_optimizer(optax.inject_hyperparams(…)(…))")


class MismatchCheck:
    """Checks a rule against what one optimizer does, and warns once of each kind of mismatch.

    Args:
      optimizer: the plain optimizer.
      factors: its factors, which come from the rule.
      scalings: the model's parameters, by name. Those that grow are judged; none in the standard
        parametrization.
      parametrization: the parametrization.
      adam, rule: the arguments of `wrap_optimizer` that mean this rule, for the messages.
    """

    def __init__(self, optimizer: Any, factors: OptimizerScaling, scalings: Mapping[str, ParameterScaling],
                 parametrization: Parametrization, *, adam: bool, rule: str | None):
        self._optimizer, self._factors, self._rule = optimizer, factors, factors.optimizer_rule
        self._by_adam = rule is None
        self._call = f"wrap_optimizer({f'adam={adam}' if self._by_adam else f'rule={rule!r}'})"
        self._scalings, self._parametrization = scalings, parametrization
        growing = {} if parametrization.scales_nothing else {
            name: factors.of_name(name)[1] != 1 for name, scaling in scalings.items()
            if any(block.role != FIXED for block in scaling.row_blocks)}
        # Of those that an optimizer treats alike it gets the last: one that it sees divided, if there is one.
        self._judged = sorted(growing, key=lambda name: (growing[name], name))
        self._tried: set[tuple[str, tuple[int, ...]]] = set()       # names and shapes
        self._warned: set[str] = set()

    def __call__(self, tree: Any) -> None:
        """Tries the optimizer on one parameter of each group that it treats differently."""
        tree = unmasked_shapes(tree)
        shapes = {(name, x.shape) for name, x in named_leaves(tree)}
        if not self._judged or shapes <= self._tried:
            return
        states, some = states_and_parameters(self._optimizer, tree, self._judged)
        if "ScaleByLBFGSState" in states.class_names():     # which a trial takes for SGD
            return self._warn("L-BFGS", None, QUASI_NEWTON)
        try:
            found = find_traits(self._optimizer, (some, tree))
        except CannotTry as error:
            return self._warn("untried", None, UNTRIED_AS_TRACED if error.is_traced else UNTRIED)
        if found:
            self._tried |= shapes
        self._judge(states, {name: traits for name, traits in found.items() if name in self._judged})

    def _judge(self, states: States, found: Mapping[str, Traits]) -> None:
        """Warns about the worst mismatch of all parameters, and about what they do without a gradient."""
        names = states.class_names()
        if outermost := sorted(names & set(OUTERMOST)):
            return self._warn(outermost[0], None, OUTERMOST[outermost[0]])
        meant = rule_of_states(names)
        if meant and meant.coupling is Coupling.MODEL and self._rule.coupling is not Coupling.MODEL:
            return self._warn(meant.name, None, self._remedy(meant))
        alike = len(set(found.values())) == 1           # no need, then, to say for which parameter
        misfits: dict[Behaviour | None, str] = {}
        for name, traits in found.items():
            of_name, who = states.class_names(name), None if alike else name
            behaviour = _refined(traits.behaviour, of_name)
            if self._judge_drift(name, who, traits) and behaviour in ENTRYWISE:
                continue                                # the remedy for noise is one for these, too
            if traits.by_value:
                self._judge_value(name, who, behaviour, of_name)
            elif not self._rule.fits(behaviour, of_name):
                misfits[behaviour] = name
            self._judge_clip(name, who, traits, behaviour)
            self._judge_decay(name, who, traits.decay)
            self._judge_shape_factor(who, traits, of_name)
        for behaviour in (None, *Behaviour):            # the worst first
            if behaviour in misfits:
                name = misfits[behaviour]
                text = self._misfit(behaviour, states.class_names(name), found[name].keeps_norm)
                return self._warn(f"misfit {behaviour}", None if alike else name, text)

    def _judge_drift(self, name: str, who: str | None, traits: Traits) -> bool:
        """Warns about noise, and about a pull towards values other than zero; returns whether it was noise.

        Noise keeps its size while gradients shrink with the width. A pull has the wrong aim where the optimizer
        sees the parameter divided by its factor.
        """
        gradient, parameter = self._factors.of_name(name)
        eps = self._scalings[name].factor(lambda block: 1 / block.factors.eps)
        if traits.drift is Drift.PULL and parameter != 1:
            self._warn("pull", who, (
                "pulls parameters towards values of its own, but sees each parameter divided by its factor, "
                "so it pulls to the wrong place; put the pull behind the wrapped optimizer, with minus its "
                "rate: "
                "optax.chain(mup.wrap_optimizer(…), pull)"))
        if traits.drift is not Drift.NOISE or gradient == eps:
            return False
        self._warn("noise", who, (
            "moves parameters without a gradient, as noise does, or an accumulator that doesn't start at "
            f"zero. That move has one size at every width, but gradients don't; {self._remedy_for_noise()}"))
        return True

    def _remedy_for_noise(self) -> str:
        """Says how to make gradients as large as at the base, where noise is added to them."""
        if self._rule.entrywise:
            return self._option(RULES["any"]) + ", which makes gradients as large as at the base"
        if self._rule.coupling is Coupling.PARAMETER:
            return "pass scale_eps=True, which makes gradients as large as at the base"
        return f"there is no factor for that with rule={self._rule.name!r}: leave the noise out"

    def _judge_value(self, name: str, who: str | None, behaviour: Behaviour | None, states: Set[str]) -> None:
        """Warns about updates whose size depends on entries' own values, unless these are as at the base.

        A rule by the parameter's norm divides parameters by their sizes; "lars" makes gradients as large, too.
        """
        gradient, _ = self._factors.of_name(name)
        eps = self._scalings[name].factor(lambda block: 1 / block.factors.eps)
        fits = gradient == eps or self._rule.fits(behaviour, states)
        if not (fits and self._factors.sees_base_sizes(name)):
            self._warn("value", who, (
                "makes updates whose size depends on the parameter's value, and doesn't see values as large as "
                "at the base, so that this size changes with the width; take out what depends on the value, or "
                f"let it see values as at the base: {self._option(_rule_by_value(behaviour))}"))

    def _judge_clip(self, name: str, who: str | None, traits: Traits, behaviour: Behaviour | None) -> None:
        """Warns about a clip that sees gradients which are scaled, and so acts ever harder as the width grows.

        Where Adam is behind the clip, that hardly matters: it divides by the gradients' size. With SGD the best
        rate rose by 0.9 octaves for each octave of the width (docs/evidence/atlas.rst).
        """
        gradient, _ = self._factors.of_name(name)
        # What lies between SGD and Adam may itself keep updates from growing with large gradients.
        clips = traits.clip is Clip.BY_NORM or traits.clip is Clip.BY_ENTRY and behaviour is Behaviour.SGD_LIKE
        if self._rule.entrywise and clips and gradient != 1 and behaviour is not Behaviour.ADAM_LIKE:
            self._warn("clip", who, (
                "clips gradients, but sees them multiplied to be as large as at the base, so that the clip "
                "acts harder in wider models; put the clip in front: "
                "optax.chain(optax.clip_by_global_norm(…), mup.wrap_optimizer(…))"))

    def _judge_decay(self, name: str, who: str | None, decay: Decay | None) -> None:
        """Warns about a decay that depends on the width, or that acts on divided parameters as it shouldn't."""
        _, parameter = self._factors.of_name(name)
        if decay and self._rule.coupling is Coupling.PARAMETER:
            self._warn("decay by norm", who, (
                "decays weights, by an amount that depends on the width, which no factor can correct; take "
                "the decay out, and apply it behind the wrapped optimizer: optax.chain("
                "mup.wrap_optimizer(…), optax.add_decayed_weights(-lr * decay))"))
        elif decay is Decay.NONLINEAR and parameter != 1:
            self._warn("nonlinear decay", who, (
                "changes parameters without a gradient, and not in proportion to them, as an L1 term, a box or "
                "a projection does; but it sees each parameter divided by its factor, so put that part behind "
                "the wrapped optimizer, with minus its rate: optax.chain(mup.wrap_optimizer(…), part)"))
        elif decay is Decay.COUPLED:
            self._warn("coupled decay", who, (
                "has a decay in front of what normalises gradients (an L2 term), which can't be made "
                "independent of the width; apply the decay behind it, as optax.adamw does"))

    def _judge_shape_factor(self, name: str | None, traits: Traits, states: Collection[str]) -> None:
        """Warns about updates that are scaled by the parameter's shape, which the rule's factors don't know."""
        meant = rule_of_states(states)
        of_norm = traits.behaviour is Behaviour.NOT_ENTRYWISE       # which grows with the shape, and has a rule
        if traits.shape_factor is None or traits.drift or of_norm or meant and not meant.serves_entrywise:
            return
        self._warn("shape", name, (
            "scales its updates by the parameter's shape (in an array of 3 × 5 × … they are "
            f"{traits.shape_factor:.3g} times those in one of 2 × 2 × …), in addition to the rule's factors, "
            "which count the width already; take the scaling by shape out"))

    def _warn(self, kind: str, name: str | None, text: str) -> None:
        """Warns about the optimizer, or about what it does with one parameter; once of each kind."""
        who = f"this optimizer, for {name!r}," if name else "this optimizer"
        warn_once(self._warned, kind, f"{self._call}: {who} {text}")

    def _misfit(self, behaviour: Behaviour | None, states: Set[str], keeps_norm: bool) -> str:
        """Returns the warning about a behaviour that does not fit the rule, with the rule that does."""
        meant = rule_of(behaviour, states)
        if meant is None:
            option = self._option(RULES["novograd"])
            novograd = f"if it divides each parameter's gradient by its norm, {option}; else " * keeps_norm
            return ("makes an entry's update from other entries, too, and no rule describes how; "
                    f"{novograd}use an optimizer that works entry by entry, or put the part that mixes entries "
                    "outside of wrap_optimizer")
        how = f" (tried with gradients of {SMALL_GRADIENT} and twice that)" * (behaviour in ENTRYWISE[1:])
        if meant is RULES["any"] and states & NORMALISING:
            how = (f" at gradients of {SMALL_GRADIENT}, beside which its ε, or what its accumulators start "
                   "with, isn't small, and gradients shrink as the width grows")
        return self._remedy(meant, how)

    def _remedy(self, meant: OptimizerRule, how: str = "") -> str:
        """Describes an optimizer by its rule, and says how to pass it."""
        return f"{meant.description}{how}; {self._option(meant)}{meant.advice}"

    def _option(self, meant: OptimizerRule) -> str:
        """Says how to pass a rule, in the words of the call, or why not."""
        refused = refusal(self._scalings, self._parametrization, meant)
        if refused:
            return refused
        by_adam = self._by_adam and meant.adam is not None
        return f"pass adam={meant.adam}" if by_adam else f"pass rule={meant.name!r}"


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
    states, some = states_and_parameters(optimizer, tree, sorted(name for name, _ in named_leaves(tree)))
    try:
        found = find_traits(optimizer, (some, tree))
    except CannotTry:
        found = {}
    behaviours = {name: _refined(traits.behaviour, states.class_names(name)) for name, traits in found.items()}
    rules = {_rule_of(behaviour, found[name], states.class_names(name))
             for name, behaviour in behaviours.items()}
    rules = (rules | {rule_of_states(states.class_names())}) - {None}
    coupled = [rule for rule in reversed(RULES.values()) if rule in rules and not rule.entrywise]
    if coupled:
        return coupled[0]       # which has Adam's factors or SGD's for the others, where they differ
    if rules:
        return rules.pop() if len(rules) == 1 else RULES["any"]
    return RULES["adam"] if any(behaviours.values()) else None      # wrap_optimizer warns of what it does


def _rule_of(behaviour: Behaviour | None, traits: Traits, states: Collection[str]) -> OptimizerRule | None:
    """Returns the rule for how an optimizer treats one parameter, if there is one."""
    if traits.drift is Drift.NOISE and behaviour in ENTRYWISE:
        return RULES["any"]
    return _rule_by_value(behaviour) if traits.by_value else rule_of(behaviour, states)


def _rule_by_value(behaviour: Behaviour | None) -> OptimizerRule:
    """Returns the rule by which optimizers see parameters as at the base, and gradients, too, if need be."""
    return RULES["lamb" if behaviour is Behaviour.ADAM_LIKE else "lars"]


def _refined(behaviour: Behaviour | None, states: Collection[str]) -> Behaviour | None:
    """Corrects what synthetic runs show by the state: some optimizers act like SGD on small gradients."""
    meant = rule_of_states(states, behaviour) if behaviour in ENTRYWISE else None
    return meant.default_for if meant and isinstance(meant.default_for, Behaviour) else behaviour
