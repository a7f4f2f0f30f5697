"""Finds the entry of the help page that is about a message, by words that the message has."""

PAGE = "docs/help/errors.rst"
OTHER_ERROR, OTHER_WARNING = "error-other", "warning-other"

# Anchors stay the same for good. The page quotes these words, each entry its own.
PHRASES = {
    "error-plain-readout": "from a growing to a fixed width is an output",
    "error-hidden-readout": "from a growing to a growing width is a hidden layer",
    "error-own-output": "no layer of Haiku's owns it, and if its axes are (in, out), it is an output",
    "error-hidden-mean": "which would grow with the width; use an initializer of mean zero",
    "error-integer": "an integer parameter can't grow with the width",
    "warning-fixed-draw": "initializer gives one array whatever the key",
    "warning-key-size": "an attention whose key size grows",
    "warning-mixed-fan-out": "of its outputs stay as the others grow",
    "warning-odd-fan-in": "and no layer's output does",
    "error-order": "init_target before init_base",
    "error-before-target": "before init_target: initialise the base inside",
    "error-nothing-captured": "captured no parameter",
    "error-outside": "apply_mup() is outside of a transformed function",
    "error-one-side": "the base has no such parameter",
    "error-rank": "rank differs; rebuild the base model",
    "error-zero-width": "a width of 0 has no ratio",
    "error-not-a-fan": "is neither fan-in nor fan-out of this layer",
    "error-three-widths": "nothing says which are fan-in and which fan-out",
    "error-plan-axes": "nothing says which axes are fan-in and fan-out",
    "error-delta": "says that it never does",
    "error-two-initializers": "use one initializer for both",
    "error-traced-std": "the initializer's std is a traced value",
    "error-two-shapes": "one name with two shapes in one context",
    "error-other-target": "an earlier init_target saw",
    "error-creator": "a custom creator inside apply_mup() changes its draw",
    "warning-guess": "its axes are a guess",
    "error-glob": "matches the name of no",
    "error-two-globs": "several globs match it",
    "warning-fans-around-layers": "haiku_mup.fans(...) is around layers",
    "error-init-mults": "init_mults would multiply its mean of",
    "warning-state-draw": "it is state that is drawn",
    "warning-embed-read": "an hk.Embed's matrix is read",
    "warning-tied-weight": "another product reads this layer's weight",
    "warning-own-table": "tied=",
    "warning-unused-tie": "no SharedReadout reads this SharedEmbed",
    "error-no-shared-embed": "a SharedReadout has no SharedEmbed",
    "error-untied-copy": "would make an untied copy here",
    "warning-unwrapped": "and is applied without its multipliers",
    "error-wrapped-twice": "is wrapped already; wrap the plain one, once",
    "error-not-captured": "this layer was not captured with this shape",
    "error-inner-model": "a model that was transformed apart is called inside this one",
    "error-other-params": "give the optimizer the parameters of the model that init_target captured",
    "error-other-widths": "give it the target's parameters, or",
    "warning-adam": "pass adam=",
    "warning-rule": "pass rule=",
    "warning-l2": "has a decay in front of what normalises gradients (an L2 term)",
    "warning-decay-by-norm": "decays weights, by an amount that depends on the width",
    "warning-value": "makes updates whose size depends on the parameter's value",
    "warning-nonlinear": "and not in proportion to them",
    "warning-lbfgs": "has L-BFGS inside",
    "error-muon": "and Muon takes it",
    "error-line-search": "the wrapped optimizer was given a function",
    "warning-untried": "so nothing checks that this rule fits it",
    "warning-noise": "moves parameters without a gradient",
    "warning-pull": "pulls parameters towards values of its own",
    "warning-other-entries": "and no rule describes how",
    "warning-scaled-clip": "clips gradients, but sees them multiplied",
    "warning-shape": "scales its updates by the parameter's shape",
    "warning-outermost": "put it around: optax.contrib.",
    "warning-plan-multiplier": "and nothing has asked for its forward multiplier",
    "error-depth": "build both from one function",
    "error-numbering": "blocks that repeat must be numbered one after the other",
    "warning-old-stacks": "the base is from a file of a version that didn't keep how many it has",
    "error-no-rates": "no learning rates for",
    "error-no-ties": "has no tied embeddings, since its readouts have no multiplier",
    "warning-abcd-uncaptured": "not captured in init_target, and so not in μP",
    "error-base-file": "save the base again: mup.save(path)",
    "error-other-checkpoint": "the checkpoint's Mup is not this one",
    "warning-save-without-mup": "a target with just these parameters has multipliers",
    "warning-critical-batch": "beyond the critical one of",
    "error-diverged": "lower the learning rate; a check needs a finite loss at the smallest width",
    "error-nothing-moves": "no parameter moved in any step",
    "error-same-shapes": "make_model gives the same shapes at widths",
    "error-several-functions": "a model of several functions",
    "error-iterator": "an iterator",
    "error-made-optimizer": "optimizer has its learning rate already",
    "error-equinox-class": "and can't get a class of Equinox's in another way",
    "warning-normalized-rate": "since it normalizes what the rate has multiplied",
    "warning-unused-rate": "the optimizer doesn't depend on the learning rate that its function is given",
    "error-other-folder": "is the folder of another sweep",
    "warning-missing-trials": "trials are missing",
    "warning-rounded": "a step moves ever fewer entries of parameters",
    "warning-no-transfer": "the rate may not transfer, for",
    "warning-damaged-trials": "damaged, or not of this sweep",
}


def help_note(message: str, otherwise: str) -> str:
    """Returns where the help page has the message, by the longest of the entries' words in it.

    Args:
      message: of an error or a warning.
      otherwise: the anchor for a message that has no entry of its own.

    >>> help_note("'a/w': base (8,), target (16, 2): rank differs; rebuild the base model", OTHER_ERROR)
    'help: docs/help/errors.rst#error-rank'
    >>> help_note("training: steps=0: give a whole number of at least 1", OTHER_ERROR)
    'help: docs/help/errors.rst#error-other'
    """
    anchors = [anchor for anchor, phrase in PHRASES.items() if phrase in message]
    return f"help: {PAGE}#{max(anchors, key=lambda anchor: len(PHRASES[anchor]), default=otherwise)}"
