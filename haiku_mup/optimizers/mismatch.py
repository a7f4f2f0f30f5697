"""Whether a rule fits what an optimizer does: warnings, each with the remedy."""
from collections.abc import Callable, Collection, Mapping
from typing import Any

from haiku_mup.optimizers import detect as behaviour
from haiku_mup.optimizers import states as optimizer_states
from haiku_mup.optimizers.detect import (
    ADAM_LIKE,
    BETWEEN,
    BY_NORM,
    COUPLED,
    NO_DECAY,
    NOT_ENTRYWISE,
    SGD_LIKE,
    SMALL,
    UNKNOWN,
    Traits,
)
from haiku_mup.optimizers.trees import named_leaves
from haiku_mup.rules.optimizers import NORMED, SUMMED
from haiku_mup.tracing import context

FITS = {            # the kinds that a rule is right for
    "adam": {ADAM_LIKE}, "sgd": {SGD_LIKE}, "any": {ADAM_LIKE, SGD_LIKE, BETWEEN},
    "adafactor": {BY_NORM, ADAM_LIKE}, "lamb": {BY_NORM, ADAM_LIKE}, "lars": {BY_NORM, ADAM_LIKE, SGD_LIKE},
    "muon": {ADAM_LIKE, NOT_ENTRYWISE}, "novograd": {NOT_ENTRYWISE},
    "momo": {SGD_LIKE, NOT_ENTRYWISE}, "momo_adam": {ADAM_LIKE, NOT_ENTRYWISE},
}
# What the names of optax's states say. With small gradients some optimizers are like SGD that aren't with large
# ones, and some are like neither; some take sums over all parameters.
NORMALISING = {"ScaleByAdamState", "ScaleByRssState", "ScaleByBeliefState"}
NEITHER = {"ScaleByAdaDeltaState", "MadgradState"}
SUMMING = {"MomoState": "momo", "DoGState": "momo", "DoWGState": "momo", "MomoAdamState": "momo_adam"}
MIXING = {"MuonState": ("muon", "a whole matrix"), "ScaleByNovogradState": ("novograd", "the gradient's norm")}
AROUND = {
    "MechanicState": "has optax.contrib.mechanize inside, which takes sums over all parameters; put it around: "
                     "optax.contrib.mechanize(mup.wrap_optimizer(…))",
    "ScheduleFreeState": "has optax.contrib.schedule_free inside, so that schedule_free_eval_params would mix "
                         "parameters with such that are divided by their factors; put it around: "
                         "optax.contrib.schedule_free(mup.wrap_optimizer(…), learning_rate)",
}


class Check:
    """Warns of a rule that doesn't fit what an optimizer does, as soon as that shows.

    Args:
      warned: the kinds of warning that were given already.
      optimizer: the plain optimizer.
      rule: the rule that it is given.
      judged: the names of parameters whose factors may be other than 1.
      call: how the user asked for it.
      refused: from a rule to what the parametrization says instead of having it; "" where it has it.
    """

    def __init__(self, warned: set[str], optimizer: Any, rule: str, judged: Collection[str], call: str,
                 refused: Callable[[str], str] = lambda rule: ""):
        self.warned, self.optimizer, self.rule, self.call = warned, optimizer, rule, call
        self._refused = refused
        self._judged = judged
        self._tried: set[tuple[str, int]] = set()      # names and ranks

    def __call__(self, tree: Any) -> None:
        """Tries the optimizer on one parameter of each group that it treats apart."""
        tree = optimizer_states.shapes(tree)
        some = optimizer_states.samples(self.optimizer, tree, self._judged)
        names = {(f"{module}/{name}", len(x.shape)) for module, bundle in some.items()
                 for name, x in bundle.items()}
        if names <= self._tried:
            return
        states, found = optimizer_states.states(self.optimizer, tree), behaviour.traits(self.optimizer, (some, tree))
        if found:
            self._tried |= names
        self._judge(states, {name: traits for name, traits in found.items() if name in self._judged})

    def _judge(self, states: list[Any], found: Mapping[str, Traits]) -> None:
        one = len(set(found.values())) == 1             # no need, then, to say for which
        every = {type(state).__name__ for state in states}
        for state in sorted(every & set(AROUND)):
            self._warn(state, "", AROUND[state])
        for state in sorted(every & set(SUMMING)) if self.rule not in SUMMED else ():
            return self._warn(state, "", "has a step that depends on sums over all parameters; "
                                         + self._pass(SUMMING[state]))
        wrong = {}
        for name, traits in found.items():
            kind = _refined(traits.kind, optimizer_states.names(states, name))
            if kind not in (UNKNOWN, *FITS[self.rule]):
                wrong[kind] = name
            self._judge_decay("" if one else name, traits.decay)
        for kind in (NOT_ENTRYWISE, BY_NORM, BETWEEN, SGD_LIKE, ADAM_LIKE):
            if kind in wrong:                           # what is furthest from the rule
                text = self._misfit(kind, optimizer_states.names(states, wrong[kind]))
                return self._warn(f"{self.call} {kind}", "" if one else wrong[kind], text)

    def _judge_decay(self, name: str, decay: str) -> None:
        if self.rule in NORMED and decay != NO_DECAY:
            self._warn("decay by norm", name, (
                "decays weights, by an amount that depends on the width, and its rule can't mend that; "
                "take the decay out, and apply it behind: optax.chain(mup.wrap_optimizer(…), "
                "optax.add_decayed_weights(-lr * decay))"))
        elif decay == COUPLED:
            self._warn("coupled decay", name, (
                "has a decay in front of what normalises gradients (an L2 term), which can't be made "
                "independent of the width; decay behind it, as optax.adamw does"))

    def _warn(self, kind: str, name: str, what: str) -> None:
        who = f"this optimizer, for {name!r}," if name else "this optimizer"
        context.warn_once(self.warned, kind, f"{self.call}: {who} {what}")

    def _misfit(self, kind: str, states: set[str]) -> str:
        """What the optimizer does that the rule isn't for, and the rule that is."""
        if kind in (ADAM_LIKE, SGD_LIKE):
            tried = f"behaves like {kind} (tried with gradients of {SMALL} and twice that); "
            return tried + self._pass("adam" if kind == ADAM_LIKE else "sgd", ", or rule='any', which is right "
                                      "for both and for those between (adagrad, yogi, radam)")
        if kind == BETWEEN:
            return "is between SGD and Adam; " + self._pass("any", ", which is right for both and between")
        text = "makes an entry's update from other entries, too"
        if kind == BY_NORM:
            return f"{text} (the parameter's norm, as adafactor, lamb, lars do); {self._pass(_normed(states))}"
        for state, (rule, what) in MIXING.items():
            if state in states:
                return f"{text} ({what}, as {rule} does); {self._pass(rule)}"
        return (f"{text}, and there is no rule for how it does; use one that works entry by entry, or put the "
                "part that doesn't outside of wrap_optimizer")

    def _pass(self, rule: str, more: str = "") -> str:
        """The remedy of another rule, in the words of the call; or why there is none."""
        refused = self._refused(rule)
        if refused:
            return refused
        short = "adam=" in self.call and rule in ("adam", "sgd")
        return f"pass adam={rule == 'adam'}{more}" if short else f"pass rule={rule!r}{more}"


def rule_of(optimizer: Any, tree: Any) -> str:
    """The rule for what an optimizer does, as far as that shows; "" where it doesn't, at all.

    Args:
      optimizer: an optax optimizer.
      tree: of parameters' shapes.

    >>> import optax
    >>> shapes = {"linear": {"w": jax.ShapeDtypeStruct((8, 8), "float32")}}
    >>> [rule_of(opt, shapes) for opt in (optax.adamw(1e-3), optax.sgd(0.1), optax.yogi(0.1), optax.lamb(0.1))]
    ['adam', 'sgd', 'any', 'lamb']
    """
    some = optimizer_states.samples(optimizer, tree, {name for name, _ in named_leaves(tree)})
    states = optimizer_states.states(optimizer, tree)
    found = behaviour.traits(optimizer, (some, tree))
    every = {type(state).__name__ for state in states}
    kinds = {_refined(traits.kind, optimizer_states.names(states, name))
             for name, traits in found.items()} - {UNKNOWN}
    known = [SUMMING[state] for state in every & set(SUMMING)]
    known += [MIXING[state][0] for state in every & set(MIXING)]
    if known or not kinds:
        return known[0] if known else ""
    if BY_NORM in kinds:
        return _normed(every)
    return {SGD_LIKE: "sgd", BETWEEN: "any"}.get(min(kinds), "adam") if len(kinds) == 1 else "any"


def _refined(kind: str, states: set[str]) -> str:
    between = states & NORMALISING if kind == SGD_LIKE else states & NEITHER if kind == UNKNOWN else ()
    return BETWEEN if between else kind


def _normed(states: set[str]) -> str:
    return "adafactor" if "FactoredState" in states else "lamb" if "ScaleByAdamState" in states else "lars"
