"""Pieces over the width, on digits: optimizers, ε, dropout, data types, clips, decay and schedules.

An MLP with three hidden layers is trained for five epochs of 4,000 MNIST digits, in batches of 64, with a rate
that decays linearly to zero, unless a piece says otherwise. The base has width 64.
"""
import functools

import haiku as hk
import jax
import jax.numpy as jnp
import optax

import haiku_mup
from benchmarks.atlas.piece import Piece
from demos.common import digits, losses, networks

BASE, WIDTHS = 64, (64, 128, 256, 512)
BATCH, STEPS = 64, 310
LOSSES = ("train_loss", "valid_loss")
PARAMETRIZATIONS = {"standard": haiku_mup.standard(), "μP": haiku_mup.maximal_update()}


# --- the trial ---

def mlp(width, dropout=0.0):
    """Returns an MLP with three hidden layers, and dropout behind each while it is trained."""
    def fn(x, is_training=True):
        with haiku_mup.apply_mup():
            for _ in range(3):
                x = jax.nn.relu(hk.Linear(width)(x))
                if dropout and is_training:
                    x = hk.dropout(hk.next_rng_key(), dropout, x)
            return haiku_mup.Readout(networks.CLASSES)(x).astype(jnp.float32)
    return hk.transform(fn)


def judge(apply, params, rng, *, data):
    """Computes the loss of a trained model, without dropout."""
    x, y = data
    logits = apply(params, rng, x, is_training=False)
    return optax.softmax_cross_entropy_with_integer_labels(logits, y).mean()


def trial(width, *, optimizer, parametrization="μP", rule=None, dropout=0.0, dtype="float32"):
    """Returns the trial of a width.

    Args:
      width: of the three hidden layers.
      optimizer: from a learning rate to an optax optimizer.
      parametrization: one of PARAMETRIZATIONS, or a haiku_mup.Parametrization.
      rule: of the optimizer, see `haiku_mup.Mup.wrap_optimizer`; None to have it found.
      dropout: the share of activations that is dropped in training.
      dtype: of parameters and images.
    """
    found = digits.load_digits()
    train = found.train_x.astype(dtype), found.train_y
    valid = found.valid_x.astype(dtype), found.valid_y
    return haiku_mup.training(
        functools.partial(mlp, dropout=dropout), train, losses.cross_entropy, optimizer, steps=STEPS,
        batch_size=BATCH, base_width=BASE, rule=rule,
        parametrization=PARAMETRIZATIONS.get(parametrization, parametrization),
        evaluate={"train_loss": functools.partial(judge, data=train),
                  "valid_loss": functools.partial(judge, data=valid)})(width)


def decaying(make, **constants):
    """Returns an optimizer whose rate decays linearly to zero, from the rate that it is given."""
    return lambda lr: make(optax.linear_schedule(lr, 0.0, STEPS), **constants)


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


# --- pieces ---

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


def in_both(name, make, **options):
    """Returns the makers of one setting in the standard parametrization and in μP."""
    return {f"{name}, {each}": functools.partial(trial, optimizer=make, parametrization=each, **options)
            for each in PARAMETRIZATIONS}


def around(log2_lr, below=4, above=4):
    """Returns log2 rates, an octave apart."""
    return range(log2_lr - below, log2_lr + above + 1)


def optimizers(*names, expected, below=4, above=4, widths=WIDTHS, seeds=2):
    """Returns the piece of some optimizers, each in both parametrizations."""
    rates = {f"{name}, {each}": around(OPTIMIZERS[name][1], below, above)
             for name in names for each in PARAMETRIZATIONS}
    return Piece(title="Optimizers: " + ", ".join(names), varies="width", sizes=widths, log2_lrs=rates,
                 makers=lambda: {label: maker for name in names
                                 for label, maker in in_both(name, decaying(OPTIMIZERS[name][0])).items()},
                 losses=LOSSES, expected=expected, seeds=seeds)


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


def settings(title, makers, log2_lrs, expected, seeds=2):
    """Returns the piece of some settings of Adam."""
    return Piece(title=title, varies="width", sizes=WIDTHS, makers=makers, log2_lrs=log2_lrs, losses=LOSSES,
                 expected=expected, seeds=seeds)


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
    "epsilon": settings(
        "Adam's ε: 1e-5 and 1e-3", in_epsilon, around(-7, 3, 3),
        "At 1e-5 nothing changes, as gradients are near 1e-3 per entry. At 1e-3 ε rules at large widths, "
        "whose gradients per entry are smaller: in μP without scaled ε the best rate rises by 1.5 octaves "
        "(1.6 was seen), with scaled ε by less than 0.7, and standard falls by less than it does with a small "
        "ε, about 1."),
    "epsilon_unscaled": settings(
        "Adam's ε of 1e-3, not scaled", in_unscaled_epsilon, around(-7, 3, 3),
        "Written after the piece on ε, where `training` found by itself that ε acts, and scaled it. Not "
        "scaled, the best rate rises by 1.5 octaves, as was seen with ten epochs (1.6)."),
    "dropout": settings(
        "Dropout: 0.1 and 0.5", in_dropout, around(-8, 3, 3),
        "At 0.1 as without. At 0.5 μP rises by up to 2 octaves on validation, as was seen with ten epochs, "
        "and standard stays within 1.", seeds=3),
    "dropout_unaligned": settings(
        "Dropout, with rates for updates without alignment", in_dropout_unaligned, around(-8, 3, 3),
        "Written after the piece on dropout, where μP's best rate rose like the width's root. That is what "
        "Everett's exponents without alignment give hidden weights, -1/2 in place of -1: with dropout 0.5 "
        "they keep the best rate within half an octave, and without dropout it falls by 1 to 1.5.", seeds=3),
    "precision": settings(
        "bfloat16 parameters", in_precision, around(-7, 3, 3),
        "Updates below 1/256 of a weight are rounded away. At 512 hidden updates are the smallest beside "
        "their weights, in both parametrizations, so best rates rise: μP by 1 to 2 octaves on training loss, "
        "while standard, whose rate must fall with the width, loses most: its lowest loss at 512 is worse "
        "than at 64."),
    "clip": settings(
        "A clip by the global norm of 0.25", in_clips,
        {name: around(-2, 3, 4) if name.startswith("sgd") else around(-8, 3, 3) for name in in_clips()},
        "Outside, a clip changes nothing for Adam, and for SGD it raises the best rate at all widths alike, "
        "so the drift stays below 0.5. Inside, where gradients are scaled, SGD's clip acts harder in wider "
        "models: its best rate rises, by half an octave per octave of the width. Adam hardly sees it."),
    "decay": settings(
        "Weight decay: AdamW's λ = 0.3, a decay that follows no rate, and L2", in_decay, around(-8, 3, 3),
        "In 310 steps a decay of 0.3 · lr is too weak to matter for the best rate: all of AdamW's drift like "
        "Adam's, within 0.3 of it, and the exponents of λ differ by less than the seeds. A decay that follows "
        "no rate takes a third of each weight in the run, and pulls best rates at all widths up by half an "
        "octave. L2 before Adam in μP drifts by half an octave more than no decay.", seeds=3),
    "schedules": settings(
        "Rates that stay, and that decay like a cosine", in_schedules, around(-8, 4, 3),
        "A cosine is as linear. With a constant rate noise decides: best rates are an octave lower, standard "
        "falls by 3 octaves, and μP stays within 0.5 on training loss, closer than with a decaying rate."),
}
