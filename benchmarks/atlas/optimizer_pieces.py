"""Pieces over the width, on digits: one for each kind of optimizer."""
import functools

import optax

from benchmarks.atlas.digits_trial import LOSSES, PARAMETRIZATIONS, WIDTHS, around, decaying, in_both
from benchmarks.atlas.piece import Piece

# --- optimizers ---

def hidden_matrices(params):
    """Returns what Muon takes: the two hidden weights. The rest is for its Adam."""
    axes = optax.contrib.MuonDimensionNumbers()
    hidden = {("linear_1", "w"), ("linear_2", "w")}
    return {layer: {name: axes if (layer, name) in hidden else None for name in arrays}
            for layer, arrays in params.items()}


def noisy_sgd(schedule):
    """Returns SGD with gradient noise."""
    return optax.noisy_sgd(schedule, eta=0.01, key=0)


def polyak_sgd(schedule):
    """Returns SGD with Polyak's step, times what decays."""
    return optax.polyak_sgd(max_learning_rate=1.0, scaling=schedule)


def schedule_free(schedule):
    """Returns schedule-free Adam, at the rate with which the schedule begins."""
    return optax.contrib.schedule_free(optax.adam(schedule(0), b1=0.0), schedule(0))


# Each optimizer, and log2 of a rate near its best at the base: a coarse grid at width 64 found it.
OPTIMIZERS = {
    "sgd": (optax.sgd, -2), "lars": (optax.lars, 2), "lamb": (optax.lamb, -6),
    "adam": (optax.adam, -8), "rmsprop": (optax.rmsprop, -8), "lion": (optax.lion, -10),
    "adabelief": (optax.adabelief, -8),
    "adagrad": (optax.adagrad, -4),
    "adafactor": (optax.adafactor, -4), "novograd": (optax.novograd, -5),
    "muon": (functools.partial(optax.contrib.muon, muon_weight_dimension_numbers=hidden_matrices), -7),
    "nadam": (optax.nadam, -7), "amsgrad": (optax.amsgrad, -7), "adamax": (optax.adamax, -7),
    "adan": (optax.adan, -7), "ademamix": (optax.contrib.ademamix, -7), "adopt": (optax.contrib.adopt, -7),
    "signum": (optax.signum, -9),
    "radam": (optax.radam, -5), "yogi": (optax.yogi, -7), "madgrad": (optax.contrib.madgrad, -7),
    "adadelta": (optax.adadelta, 1), "noisy_sgd": (noisy_sgd, -2), "fromage": (optax.fromage, -4),
    "momo": (optax.contrib.momo, 0), "polyak_sgd": (polyak_sgd, -1), "momo_adam": (optax.contrib.momo_adam, -6),
    "prodigy": (optax.contrib.prodigy, 1), "dadapt_adamw": (optax.contrib.dadapt_adamw, 1),
    "dog": (optax.contrib.dog, 1), "schedule_free": (schedule_free, -7)}


# --- pieces ---

def optimizers(*names, expected, below=4, above=4, widths=WIDTHS, seeds=2):
    """Returns the piece of some optimizers, each in both parametrizations."""
    rates = {f"{name}, {each}": around(OPTIMIZERS[name][1], below, above)
             for name in names for each in PARAMETRIZATIONS}
    return Piece(title="Optimizers: " + ", ".join(names), varies="width", sizes=widths, log2_lrs=rates,
                 makers=lambda: {label: maker for name in names
                                 for label, maker in in_both(name, decaying(OPTIMIZERS[name][0])).items()},
                 losses=LOSSES, expected=expected, seeds=seeds)


PIECES = {
    "optimizers_sgd": optimizers(
        "sgd", "lars", "lamb", above=3,
        expected="SGD drifts by less than half an octave in both: at these widths "
                 "the readout's rate alone grows. LARS and LAMB measure by norms, so standard drifts by half "
                 "of what Adam's does, 1 to 2 octaves down, and μP by less than 0.5."),
    "optimizers_adam": optimizers(
        "adam", "rmsprop", "lion", "adabelief",
        expected="Standard falls by 2 to 3 octaves on training loss in all four. μP rises by up to an octave, "
                 "as was seen with Adam on these digits, and by less than 0.5 on validation. Lion, whose "
                 "updates are largest, behaves like Adam. AdaBelief has a small ε under the root, acts like "
                 "Adam at every width, and follows it."),
    "optimizers_any": optimizers(
        "adagrad", above=3,
        expected="Adagrad's accumulator starts at a constant, which puts it between SGD and Adam. So standard "
                 "falls by 1 to 2 octaves, and μP, whose rule is exact for both, stays within 0.5."),
    "optimizers_norms": optimizers(
        "adafactor", "novograd",
        expected="Adafactor scales by the parameter's RMS, which gives half of μP's factor, so standard falls "
                 "by 1 to 1.5 octaves; NovoGrad has one scale for a layer, standard falls by 1 to 2. In μP "
                 "both stay within 0.5."),
    "optimizers_muon": optimizers(
        "muon", widths=WIDTHS[:3],
        expected="Muon drifts by less than 0.3 octaves in both, as was seen from 64 to 256."),
    "optimizers_adam_like": optimizers(
        "nadam", "amsgrad", "adamax", "adan", "ademamix", "adopt", "signum", below=3, above=3,
        widths=WIDTHS[:3],
        expected="Written after the piece on Adam. All normalize each entry, so all are like Adam up to width "
                 "256: standard falls by 1 to 1.5 octaves on both losses, μP rises by 0.5 on training loss "
                 "and stays within 0.4 on validation. Signum's noise is largest: it falls most in "
                 "standard."),
    "optimizers_between": optimizers(
        "radam", "yogi", "madgrad", "adadelta", "noisy_sgd", "fromage", below=3, above=3, widths=WIDTHS[:3],
        expected="Written after the pieces on Adagrad, Adam and LARS. RAdam and Yogi are like Adam: standard "
                 "falls by 1. MADGRAD takes a cube root, and falls by a third of Adam's exponent less. "
                 "Adadelta's updates have the size of its earlier ones, so that it falls by 0.5. Noisy SGD "
                 "stays where SGD does, within 0.3 in both. Fromage falls by 0.5 to 1, like LARS. μP stays "
                 "within 0.5 in all."),
    "optimizers_sums": optimizers(
        "momo", "polyak_sgd", "momo_adam", below=3, above=3, widths=WIDTHS[:3],
        expected="Momo and Polyak's step divide the loss by the gradient's squared norm over all parameters, "
                 "which hardly depends on the width: both stay within 0.4 in both, as SGD does. Momo-Adam's "
                 "cap acts beyond the best rate, where the curve is flat: it falls by 0.5 to 1 in standard, "
                 "with less to lose than Adam, and μP stays within 0.5."),
    "optimizers_rate_free": optimizers(
        "prodigy", "dadapt_adamw", "dog", "schedule_free", below=3, above=3, widths=WIDTHS[:3],
        expected="The rate multiplies a distance that Prodigy and D-Adaptation estimate. Entries have less "
                 "far to go in wider models, and the estimate follows: standard falls by 0.5, half of what "
                 "Adam does. DoG measures by norms over all parameters, and stays within 0.3, as SGD does. "
                 "Schedule-free Adam falls like Adam with a constant rate, by 1.5. μP stays within 0.5 in "
                 "all."),
}
