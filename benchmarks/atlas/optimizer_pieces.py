"""Pieces over the width, on digits: one for each kind of optimizer.

Each optimizer of the table in docs/guides/optimizers.rst is in one of them.
"""
import functools

import optax

from benchmarks.atlas.digits_trial import PARAMETRIZATIONS, decaying, in_both, log2_lrs, over_widths

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


def acprop(schedule):
    """Returns ACProp, with an ε under the root that keeps its first steps small."""
    return optax.contrib.acprop(schedule, eps_root=1e-6)


def cocob(schedule):
    """Returns COCOB at the α of one over the rate: optax's own rate multiplies gradients, and does nothing."""
    return optax.contrib.cocob(alpha=1 / schedule(0))


def optimistic_adam(schedule):
    """Returns the older optimistic Adam, which takes no schedule itself."""
    return optax.chain(optax.optimistic_adam(1.0), optax.scale_by_learning_rate(schedule, flip_sign=False))


def rprop(schedule):
    """Returns Rprop, whose first step is the rate with which the schedule begins."""
    return optax.rprop(schedule(0))


def sm3(schedule):
    """Returns SM3, which takes no schedule itself."""
    return optax.chain(optax.sm3(1.0), optax.scale_by_learning_rate(schedule, flip_sign=False))


MUON = functools.partial(optax.contrib.muon, muon_weight_dimension_numbers=hidden_matrices)

# Each optimizer, and log2 of the lowest and the highest rate: a coarse grid at width 64 found where they are. A
# third number is their spacing, where the best rates lie close to those that diverge.
OPTIMIZERS = {
    "sgd": (optax.sgd, -6, 1), "lars": (optax.lars, -2, 5), "lamb": (optax.lamb, -10, -3),
    "adam": (optax.adam, -12, -4), "rmsprop": (optax.rmsprop, -12, -4), "lion": (optax.lion, -14, -6),
    "adabelief": (optax.adabelief, -12, -4), "adagrad": (optax.adagrad, -8, -1),
    "adafactor": (optax.adafactor, -8, 0), "novograd": (optax.novograd, -9, -1), "muon": (MUON, -10, -4),
    "nadam": (optax.nadam, -12, -4), "amsgrad": (optax.amsgrad, -12, -4), "adamax": (optax.adamax, -11, -2),
    "adan": (optax.adan, -11, -4), "ademamix": (optax.contrib.ademamix, -12, -4),
    "adopt": (optax.contrib.adopt, -12, -4), "signum": (optax.signum, -14, -6),
    "radam": (optax.radam, -9, -2), "yogi": (optax.yogi, -12, -4), "madgrad": (optax.contrib.madgrad, -13, -4),
    "adadelta": (optax.adadelta, -3, 4), "noisy_sgd": (noisy_sgd, -6, 1), "fromage": (optax.fromage, -8, -1),
    "momo": (optax.contrib.momo, -3, 3), "polyak_sgd": (polyak_sgd, -4, 2),
    "momo_adam": (optax.contrib.momo_adam, -11, -3), "prodigy": (optax.contrib.prodigy, -2, 6),
    "dadapt_adamw": (optax.contrib.dadapt_adamw, -2, 4), "dog": (optax.contrib.dog, -0.5, 2, 0.25),
    "schedule_free": (schedule_free, -12, -4),
    "adamaxw": (optax.adamaxw, -11, -2), "nadamw": (optax.nadamw, -12, -4),
    "sign_sgd": (optax.sign_sgd, -14, -6),
    "optimistic_adam": (optimistic_adam, -12, -5), "optimistic_adam_v2": (optax.optimistic_adam_v2, -12, -5),
    "optimistic_gradient_descent": (optax.optimistic_gradient_descent, -7, 0),
    "sm3": (sm3, -8, -1), "simplified_ademamix": (optax.contrib.simplified_ademamix, -18, -10),
    "acprop": (acprop, -11, -4), "cocob": (cocob, -12, -4), "dowg": (optax.contrib.dowg, -1.5, 1, 0.25)}


# --- pieces ---

def optimizers(*names, expected):
    """Returns the piece of some optimizers, each in both parametrizations."""
    return piece("Optimizers: " + ", ".join(names), {name: OPTIMIZERS[name] for name in names}, expected)


def piece(title, settings, expected, **options):
    """Returns the piece of {name: (maker, lowest and highest log2 rate, …)}, with options of the trials."""
    rates = {f"{name}, {each}": log2_lrs(*ends) for name, (_, *ends) in settings.items()
             for each in PARAMETRIZATIONS}

    def makers():
        return {label: maker for name, (make, *_) in settings.items()
                for label, maker in in_both(name, decaying(make), **options).items()}

    return over_widths(title, makers, rates, expected)


ADAM_LIKE = (
    "Written after the piece on Adam. All normalize each entry, so all are like Adam up to width 256: standard "
    "falls by 1 to 1.5 octaves on both losses, μP rises by 0.5 on training loss and stays within 0.4 on "
    "validation. Signum's noise is largest: it falls most in standard.")
BETWEEN = (
    "Written after the pieces on Adagrad, Adam and LARS. RAdam and Yogi are like Adam: standard falls by 1. "
    "MADGRAD takes a cube root, and falls by a third of Adam's exponent less. Adadelta's updates have the size "
    "of its earlier ones, so that it falls by 0.5. Noisy SGD stays where SGD does, within 0.3 in both. Fromage "
    "falls by 0.5 to 1, like LARS. μP stays within 0.5 in all.")


PIECES = {
    "optimizers_sgd": optimizers(
        "sgd", "lars", "lamb",
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
        "adagrad",
        expected="Adagrad's accumulator starts at a constant, which puts it between SGD and Adam. So standard "
                 "falls by 1 to 2 octaves, and μP, whose rule is exact for both, stays within 0.5."),
    "optimizers_norms": optimizers(
        "adafactor", "novograd",
        expected="Adafactor scales by the parameter's RMS, which gives half of μP's factor, so standard falls "
                 "by 1 to 1.5 octaves; NovoGrad has one scale for a layer, standard falls by 1 to 2. In μP "
                 "both stay within 0.5."),
    "optimizers_muon": optimizers(
        "muon",
        expected="Muon drifts by less than 0.3 octaves in both, as was seen from 64 to 256."),
    "optimizers_nadam": optimizers("nadam", "amsgrad", "adamax", expected=ADAM_LIKE),
    "optimizers_adan": optimizers("adan", "ademamix", expected=ADAM_LIKE),
    "optimizers_signum": optimizers("adopt", "signum", expected=ADAM_LIKE),
    "optimizers_radam": optimizers("radam", "yogi", "madgrad", expected=BETWEEN),
    "optimizers_adadelta": optimizers("adadelta", "noisy_sgd", "fromage", expected=BETWEEN),
    "optimizers_sums": optimizers(
        "momo", "polyak_sgd", "momo_adam",
        expected="Momo and Polyak's step divide the loss by the gradient's squared norm over all parameters, "
                 "which hardly depends on the width: both stay within 0.4 in both, as SGD does. Momo-Adam's "
                 "cap acts beyond the best rate, where the curve is flat: it falls by 0.5 to 1 in standard, "
                 "with less to lose than Adam, and μP stays within 0.5."),
    "optimizers_rate_free": optimizers(
        "prodigy", "dadapt_adamw", "dog", "schedule_free",
        expected="The rate multiplies a distance that Prodigy and D-Adaptation estimate. Entries have less "
                 "far to go in wider models, and the estimate follows: standard falls by 0.5, half of what "
                 "Adam does. DoG measures by norms over all parameters, and stays within 0.3, as SGD does. "
                 "Schedule-free Adam falls like Adam with a constant rate, by 1.5. μP stays within 0.5 in "
                 "all."),
    "optimizers_decayed": optimizers(
        "adamaxw", "nadamw", "sign_sgd",
        expected="A decay of 1e-4 is too weak to act in 310 steps: AdaMaxW and NAdamW do what AdaMax and NAdam "
                 "do, within a tenth of an octave. Sign-SGD has no momentum, and most noise. In standard it "
                 "falls like Signum, by 1.5 to 2.5 from width 64 to 512, and in μP it stays within 0.4."),
    "optimizers_optimistic": optimizers(
        "optimistic_adam", "optimistic_adam_v2", "optimistic_gradient_descent",
        expected="Both Adams are one: their numbers agree to all digits. What they add, the last change of the "
                 "update, acts like noise: standard falls by 1.5 to 2, and μP rises by less than 0.5 on "
                 "training loss, less than Adam. The optimistic gradient descent is SGD at a third of its "
                 "rate, and stays within 0.5 in both."),
    "optimizers_sm3": optimizers(
        "sm3", "simplified_ademamix", "acprop",
        expected="SM3 divides by a root of the sum of squares that rows and columns share. From width to width "
                 "that is Adagrad with an accumulator that starts at zero: standard falls by 1 to 1.5. "
                 "Simplified AdEMAMix is an Adam whose rate is 20 times as large as it looks, and falls by 1.5 "
                 "to 2. ACProp, with an ε of 1e-6 under the root, is between SGD and Adam, and falls by 1. μP "
                 "stays within 0.5 in all."),
    "optimizers_bets": optimizers(
        "cocob", "dowg",
        expected="COCOB's first bets are 1/α for each entry, as Adam's first steps are its rate. Rewards raise "
                 "them where that was too little, and do nothing where it was too much: standard falls by 1 to "
                 "1.5 in 1/α, and μP stays within 0.5. DoWG measures by norms over all parameters, and stays "
                 "within 0.3 in both, as DoG does."),
    "optimizers_rprop": piece(
        "Optimizers: rprop, in 60 steps with all digits", {"rprop": (rprop, -18, -6)},
        batch_size=4000, steps=60,
        expected="Each entry's step adapts itself, by 1.2 or ½ in each step, so that the first step is "
                 "forgotten. On training loss curves are flat over ten octaves: the best first step jumps "
                 "from width to width in both, and the base's costs less than a tenth of the loss. On "
                 "validation the smallest first step is best in both."),
}
