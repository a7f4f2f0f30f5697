"""Pieces over the width, on digits: ε, dropout, data types, clips, decay and schedules."""
import functools

import optax

import haiku_mup
from benchmarks.atlas.digits_trial import STEPS, decaying, in_both, log2_lrs, over_widths, trial


def in_epsilon():
    """Returns makers for values of Adam's ε: in both, and in μP with ε scaled."""
    found = {}
    for eps in (1e-5, 1e-3):
        adam = decaying(optax.adam, eps=eps)
        found |= in_both(f"ε {eps:g}", adam)
    return found | {"ε 0.001, μP, ε scaled": functools.partial(trial, optimizer=adam, rule="any")}


def in_unscaled_epsilon():
    """Returns the maker for an ε that is not scaled: Adam's rule is named, which `training` wouldn't choose."""
    return {"ε 0.001, μP, ε not scaled": functools.partial(trial, optimizer=decaying(optax.adam, eps=1e-3),
                                                           rule="adam")}


def in_dropout():
    """Returns makers for shares of dropout."""
    adam = decaying(optax.adam)
    return {name: maker for share in (0.1, 0.5)
            for name, maker in in_both(f"dropout {share:g}", adam, dropout=share).items()}


def in_dropout_unaligned():
    """Returns makers for Everett's exponents without alignment, with dropout and without."""
    adam = decaying(optax.adam)
    return {f"{form}, no alignment, dropout {share:g}": functools.partial(
        trial, optimizer=adam, parametrization=haiku_mup.per_layer(name, "none"), dropout=share)
        for form, name, share in (("rates by layer", "standard", 0.5), ("rates by layer", "standard", 0.0),
                                  ("μP", "maximal_update", 0.5))}


def in_precision():
    """Returns makers for parameters of bfloat16."""
    return in_both("bfloat16", decaying(optax.adam), dtype="bfloat16")


def clipped(make, norm=0.25):
    """Returns an optimizer behind a clip by the gradients' global norm."""
    return lambda lr: optax.chain(optax.clip_by_global_norm(norm), decaying(make)(lr))


def in_clips():
    """Returns makers for a clip in front of the wrapped optimizer, and inside where gradients are scaled."""
    found = {}
    for name, make in (("adam", optax.adam), ("sgd", optax.sgd)):
        found |= {f"{name}, clip outside, μP": functools.partial(trial, optimizer=clipped(make), rule=name),
                  f"{name}, clip inside, ε scaled, μP": functools.partial(trial, optimizer=clipped(make),
                                                                          rule="any")}
    return found


DECAY = 0.3                     # AdamW's λ
STEP_DECAY = DECAY * 2.0**-8    # a decay that follows no rate: AdamW's at a rate near the best


def with_l2(lr):
    """Returns Adam behind an L2 term, which it normalizes along with the gradient."""
    return optax.chain(optax.add_decayed_weights(1e-3), decaying(optax.adam)(lr))


def with_free_decay(lr):
    """Returns Adam with a decay that doesn't follow the learning rate."""
    return optax.chain(decaying(optax.adam)(lr), optax.add_decayed_weights(-STEP_DECAY))


def in_decay():
    """Returns makers for kinds of decay, and for exponents of the width in AdamW's λ."""
    adamw = decaying(optax.adamw, weight_decay=DECAY)
    shares = {"λ × m": 1.0, "λ × √m": 0.5, "λ as it is": 0.0}
    return ({"AdamW, standard": functools.partial(trial, optimizer=adamw, parametrization="standard")}
            | {f"AdamW, μP, {name}": functools.partial(
                trial, optimizer=adamw, parametrization=haiku_mup.maximal_update(decay=exponent))
               for name, exponent in shares.items()}
            | in_both("decay that follows no rate", with_free_decay)
            | {"L2 before Adam, μP": functools.partial(trial, optimizer=with_l2)})


def in_schedules():
    """Returns makers for rates that stay, and that decay like a cosine."""
    def cosine(lr):
        return optax.adam(optax.cosine_decay_schedule(lr, STEPS))
    return in_both("constant", optax.adam) | in_both("cosine", cosine)


PIECES = {
    "epsilon": over_widths(
        "Adam's ε: 1e-5 and 1e-3", in_epsilon, log2_lrs(-12, -4),
        "At 1e-5 nothing changes, as gradients are near 1e-3 per entry. At 1e-3 ε rules at large widths, "
        "whose gradients per entry are smaller: in μP without scaled ε the best rate rises by 1.5 octaves "
        "(1.6 was seen), with scaled ε by less than 0.7, and standard falls by less than it does with a small "
        "ε, about 1."),
    "epsilon_unscaled": over_widths(
        "Adam's ε of 1e-3, not scaled", in_unscaled_epsilon, log2_lrs(-10, -4),
        "Written after the piece on ε, where `training` found by itself that ε acts, and scaled it. Not "
        "scaled, the best rate rises by 1.5 octaves, as was seen with ten epochs (1.6)."),
    "dropout": over_widths(
        "Dropout: 0.1 and 0.5", in_dropout, log2_lrs(-11, -5),
        "At 0.1 as without. At 0.5 μP rises by up to 2 octaves on validation, as was seen with ten epochs, "
        "and standard stays within 1."),
    "dropout_unaligned": over_widths(
        "Dropout, with rates for updates without alignment", in_dropout_unaligned, log2_lrs(-11, -5),
        "Written after the piece on dropout, where μP's best rate rose like the width's root. That is what "
        "Everett's exponents without alignment give hidden weights, -1/2 in place of -1: with dropout 0.5 "
        "they keep the best rate within half an octave, and without dropout it falls by 1 to 1.5."),
    "precision": over_widths(
        "bfloat16 parameters", in_precision, log2_lrs(-12, -4),
        "Updates below 1/256 of a weight are rounded away. At 512 hidden updates are the smallest beside "
        "their weights, in both parametrizations, so best rates rise: μP by 1 to 2 octaves on training loss, "
        "while standard, whose rate must fall with the width, loses most: its lowest loss at 512 is worse "
        "than at 64."),
    "clip": over_widths(
        "A clip by the global norm of 0.25", in_clips,
        {name: log2_lrs(-5, 6) if name.startswith("sgd") else log2_lrs(-11, -5) for name in in_clips()},
        "Outside, a clip changes nothing for Adam, and for SGD it raises the best rate at all widths alike, "
        "so the drift stays below 0.5. Inside, where gradients are scaled, SGD's clip acts harder in wider "
        "models: its best rate rises, by half an octave per octave of the width. Adam hardly sees it."),
    "decay": over_widths(
        "Weight decay: AdamW's λ = 0.3, a decay that follows no rate, and L2", in_decay, log2_lrs(-11, -5),
        "In 310 steps a decay of 0.3 · lr is too weak to matter for the best rate: all of AdamW's drift like "
        "Adam's, within 0.3 of it, and the exponents of λ differ by less than the seeds. A decay that follows "
        "no rate takes a third of each weight in the run, and pulls best rates at all widths up by half an "
        "octave. L2 before Adam in μP drifts by half an octave more than no decay."),
    "schedules": over_widths(
        "Rates that stay, and that decay like a cosine", in_schedules, log2_lrs(-14, -5),
        "A cosine is as linear. With a constant rate noise decides: best rates are an octave lower, standard "
        "falls by 3 octaves, and μP stays within 0.5 on training loss, closer than with a decaying rate."),
}
