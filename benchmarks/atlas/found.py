"""Results of the pieces in words: how good each expectation was, and what was found."""

FOUND: dict[str, tuple[str, str]] = {
    "optimizers_adam": (
        "mostly right",
        "Standard falls by 1.6 to 2.2 octaves on training loss, less than thought, and by 1.95 to 2.4 on "
        "validation. μP rises by 0.45 to 0.9 on training loss, with exponents of 0.14 to 0.28, and by 0.15 to "
        "0.4 on validation. Lion transfers best. At width 512 the base's rate costs 0.03 to 0.16 nats of "
        "validation loss in standard, and 0.009 or less in μP."),
    "optimizers_norms": (
        "right for Adafactor, wrong for NovoGrad",
        "Adafactor falls in standard by a little more than half of Adam's exponent, and in μP stays within "
        "0.3. NovoGrad stays within 0.3 in standard, too: it divides a layer's gradient by its norm, so that "
        "an entry of a hidden update shrinks like 1/m by itself, which is all that μP asks (μP's own factor "
        "for it is 1 there, and differs in biases and readouts alone)."),
    "dropout": (
        "right for 0.5, and open for 0.1",
        "At 0.5 μP rises by 1.4 octaves on validation and 1.8 on training loss, with exponents of 0.46 ±0.27 "
        "and 0.62 ±0.21, and standard falls by 0.7 and 0.4 only: noise makes updates half aligned. At width "
        "512 standard ends 0.03 nats below μP on validation. At 0.1 training loss is as without; on "
        "validation μP rises by 1.0 octaves, with an exponent of 0.34 ±0.16 beside 0.13 ±0.27 without "
        "dropout. The base's rate costs 0.02 nats of validation loss at width 512 with 0.5, and 0.01 with "
        "0.1."),
    "decay": (
        "right for AdamW on training loss, wrong for L2 there",
        "On training loss all kinds of λ drift alike, by 0.65 octaves in μP and 1.7 in standard. On "
        "validation three seeds leave the exponents open in μP (0.2 ±0.8): at width 64 the curve is flat, and "
        "each seed has another minimum. What differs is the loss at width 512. The lowest is that of the "
        "standard parametrization with a decay that follows no rate, at a rate that falls by 1.9 octaves, and "
        "μP with such a decay is 0.001 behind. AdamW's decay shrinks along with the standard rate, and ends "
        "0.029 ±0.010 nats behind. In μP λ × m is 0.005 behind, λ × √m 0.011 and λ as it is 0.012, all "
        "±0.010. L2 before Adam drifts by 1.0 on validation, with an exponent of 0.40 ±0.16, and no more than "
        "the others on training loss. Yet it is no decay that is independent of the width: the training loss "
        "at 512 is 1.8 times that at 64."),
    "batch_text": (
        "right",
        "Scaled constants drift by 0.32 octaves with no trend, an exponent of 0.01 ±0.30; plain ones by 1.13, "
        "with an exponent of 0.28 ±0.12. More than the rate is at stake: with plain constants a batch × 4 "
        "loses 0.17 nats at its own best rate beside the scaled ones, as averages with the base's β are too "
        "slow for a quarter of the steps. A batch × ¼ with plain constants ends lower than scaled, by 0.06."),
    "length_text": (
        "wrong for plain constants, right for scaled ones",
        "Plain, the best rate hardly moves over 8 times the words, by 0.11 octaves, with an exponent of "
        "-0.04. Scaled with -½ it drifts by 0.58 octaves, and the loss is worse: by 0.16 nats after 400 steps "
        "and by 0.23 after 800, at its own best rate. Runs of some hundred steps are far from the limit that "
        "the rule is for: their rate needs no change, and averages whose memory grows with the run come too "
        "late."),
    "epsilon": (
        "half right",
        "1e-5 changes nothing. At 1e-3 both settings of μP are one, to the last bit: `training` tries the "
        "optimizer, finds that ε acts, and scales it without being asked. So scaled, μP drifts as with a "
        "small ε, by 1.0 on training loss and 0.5 on validation, and standard falls by 1.3 and 1.5."),
    "precision": (
        "half right",
        "μP rises by 1.1 octaves on training loss, where it rises by 0.9 in float32, and by 0.7 on "
        "validation, beside 0.3. Standard is not hurt more: it falls by 1.7, and wider is better. What "
        "bfloat16 costs is training loss, 1.5 times that of float32 in μP at width 512 and 1.9 times in "
        "standard; validation loss is the same."),
    "epsilon_unscaled": (
        "right",
        "It rises by 1.5 octaves on training loss, with an exponent of 0.52 ±0.22, and by 1.1 on validation, "
        "where it rises by 1.0 and 0.5 with ε scaled. The warning of `Mup.wrap_optimizer` is right."),
    "dropout_unaligned": (
        "right on validation, less so on training loss",
        "With dropout 0.5 the best rate drifts by 0.2 octaves on validation, in the paper's μP and in its "
        "standard form, where μP with full alignment drifts by 1.4; on training loss by 0.7 and 0.6 beside "
        "1.8. The loss at width 512 is lower, too: 0.251 and 0.259 beside 0.271. Without dropout the best "
        "rate falls by 1.2 on validation, and by 0.55 on training loss. So dropout is a case for the "
        "exponents without alignment."),
    "attention_text": (
        "right",
        "All three drift by less than 0.1 octaves over two octaves of the width, in 100 steps. 1/√d costs "
        "loss, 0.02 nats at width 128. Norms without gains end lower by 0.01 to 0.03."),
    "batch_fresh": (
        "right",
        "Plain, the best rate moves by 1.9 octaves over batches × ¼ to 4, with an exponent of 0.48, which is "
        "the theory's ½. Scaled, it stays within 0.24, and all batches end at one loss, within 0.003."),
    "length_fresh": (
        "half right",
        "Scaled with -½ the best rate drifts by 0.61 octaves over lengths × 1 to 8, with an exponent of 0.22 "
        "±0.15 left. So the rate that goes with averages scaled by the rule follows the length to the power "
        "of -0.28, which is what was fitted to large runs; on text it is -0.31. Plain, the exponent is -0.16, "
        "less than thought."),
    "clip": (
        "right for Adam, half right for SGD",
        "Adam hardly sees where the clip is. Outside, SGD's best rate moves by 0.3 octaves on training loss "
        "and 0.5 on validation. With the clip inside, where gradients grow with the width, it rises by 2.7 "
        "and 2.2: by 0.92 ±0.04 octaves on training loss for each octave of the width, twice what was "
        "thought, as the clip acts at every step. The base's rate costs 0.1 nats of validation loss at width "
        "512."),
    "schedules": (
        "mostly right",
        "A cosine is as linear. With a constant rate best rates are 1.5 octaves lower at width 64, and "
        "standard falls by 2.4 on training loss and by 2.2 on validation. μP stays within 0.4 on both, where "
        "it rises with a rate that decays. All losses are higher."),
    "optimizers_sgd": (
        "mostly right",
        "On validation SGD's best rate stays within 0.35 in both. On training loss it rises in standard by "
        "0.75, to the last rate before training diverges, and in μP it stays within 0.5. LARS and LAMB fall "
        "in standard by 0.9 on training loss and by 1.2 to 1.3 on validation, half of what Adam does, and in "
        "μP stay within 0.35."),
    "optimizers_any": (
        "right for μP, wrong for standard",
        "Standard stays within 0.25 octaves, like SGD's. Adagrad's accumulator starts at 0.1, far above the "
        "squares of these gradients in 310 steps, so that it divides all of them by one number: it is SGD. "
        "The rule that is exact for both keeps μP within 0.4."),
    "optimizers_muon": (
        "right for μP, wrong for standard",
        "In μP the best rate moves by 0.3 on training loss and by 0.2 on validation. In standard it falls by "
        "0.5 and 0.7. The base's rate costs 0.011 nats of validation loss at width 512 in standard, and "
        "nothing in μP."),
    "optimizers_sums": (
        "right for Momo-Adam in sign, and for Polyak's step in standard",
        "Polyak's step stays within 0.15 octaves on training loss in standard, and rises by 0.75 in μP; its "
        "valleys on validation are so flat that minima jump by 1.9 octaves at a cost of 0.01 nats. Momo "
        "drifts by 0.6 and 0.8 on training loss, and by 1.3 and 1.0 on validation, at a cost of 0.005 nats at "
        "most. Momo-Adam falls in standard like Adam, by 1.8 and 1.9: its cap is no remedy, though the base's "
        "rate costs 0.016 nats only. In μP it stays within 0.7."),
    "optimizers_rate_free": (
        "right for DoG and schedule-free, wrong for the two others",
        "On training loss Prodigy's best multiplier rises in standard by 0.3 octaves, and D-Adaptation's "
        "falls by 0.2: their estimates follow the width, and nothing is left of Adam's fall. In μP they rise "
        "by 1.6 and 0.9, at a cost of 0.001 nats, and the lowest losses at width 512 are no better than in "
        "standard. On validation both stay within 0.55 in both. DoG stays within 0.25 in both; all its good "
        "rates are within an octave, and at width 512 its lowest training loss in μP is twice that in "
        "standard. Schedule-free Adam falls by 2.5 and 2.3 in standard, and stays within 0.3 in μP."),
    "optimizers_adan": (
        "right in sign",
        "Standard falls by 1.6 and 1.7 on training loss, and by 2.1 on validation. μP rises by 1.1 and 0.8 on "
        "training loss, Adan with an exponent of 0.37 ±0.05, and stays within 0.5 on validation. The base's "
        "rate costs 0.06 and 0.02 nats of validation loss in standard, and 0.001 in μP."),
    "optimizers_signum": (
        "right for Signum, less so for ADOPT",
        "Signum falls in standard by 2.1 and 2.3, most of these, and in μP transfers best: it rises by 0.45 "
        "on training loss and by 0.15 on validation. ADOPT falls by 1.8 and 1.3, and in μP rises by 0.7 and "
        "0.8."),
    "optimizers_radam": (
        "right in sign, wrong in size",
        "To width 512 RAdam falls in standard by 2.1 octaves on training loss, Yogi by 1.1, and MADGRAD most, "
        "by 2.2. In μP they rise by 0.5 to 0.6 on training loss. On validation MADGRAD stays within 0.15, "
        "Yogi rises by 0.75, and RAdam by 1.5, with an exponent of 0.45 ±0.23, at a cost of 0.009 nats."),
    "optimizers_adadelta": (
        "right for Fromage, less so for the others",
        "Adadelta falls in standard by 1.0 on training loss and 0.85 on validation; in μP it rises by as much "
        "on training loss, with an exponent of 0.32 ±0.17, and by 0.6 on validation. Noisy SGD's best rate on "
        "training loss is the last one before training diverges. On validation it falls by 0.6 in standard "
        "and rises by 0.8 in μP, where the loss is lower by 0.035 nats. Fromage falls by 0.9 and 1.6 in "
        "standard, and stays within 0.2 in μP."),
    "optimizers_decayed": (
        "right, but for a tenth",
        "A decay of 1e-4 doesn't act: AdaMaxW and NAdamW move like AdaMax and NAdam, within 0.2 octaves on "
        "training loss. Sign-SGD falls by 2.2 in standard, on both losses, where the base's rate costs 0.7 "
        "nats of validation loss at width 512. In μP it stays within 0.1, the best transfer of all."),
    "optimizers_optimistic": (
        "right for the gradient descent, half right for Adam",
        "Both Adams have the same numbers to all digits. In standard they fall by 1.5 and 1.8. In μP they "
        "rise by 1.2 on training loss, more than Adam's 0.9, and by 0.5 on validation. The gradient descent "
        "stays within 0.5, at the last rate before training diverges."),
    "optimizers_sm3": (
        "right in standard, wrong in μP",
        "In standard SM3 falls by 0.9 octaves and simplified AdEMAMix by 1.4, on training loss; on validation "
        "by 0.8 and 2.1. In μP they rise by as much on training loss, 1.3 and 1.5, with exponents of 0.44 "
        "±0.22 and 0.52 ±0.11: as if they were half way between SGD and Adam. On validation simplified "
        "AdEMAMix stays within 0.15 in μP, at a loss 0.03 nats above the standard one, and SM3 rises by 1.2. "
        "ACProp moves by 0.6 in both on training loss, to the last rate before training diverges, and within "
        "0.15 in standard on validation."),
    "optimizers_rprop": (
        "right on validation, half right on training loss",
        "The first step is not forgotten in 60 steps: training loss falls by orders of magnitude from 2^-18 "
        "to 2^-9. Beyond that it is nearly zero, and the best first step jumps by 1.6 octaves in standard and "
        "by 1.1 in μP, at a cost below 0.001 nats. On validation the smallest one is best in both, since all "
        "larger ones overfit; there μP ends 0.024 nats lower at width 512."),
    "optimizers_nadam": (
        "right in standard, wrong in μP but for NAdam",
        "Standard falls by 1.4 to 1.6 octaves on training loss, and by 1.6 to 2.2 on validation. In μP NAdam "
        "rises by 0.8 on training loss and stays within 0.25 on validation; AMSGrad rises by 1.1 and 1.0; "
        "AdaMax by 1.9, with an exponent of 0.59 ±0.25, and 0.8. The base's rate costs 0.027 nats of "
        "validation loss at width 512 in standard, and 0.007 in μP, at most."),
    "optimizers_bets": (
        "right, but for COCOB in μP on training loss",
        "COCOB's best 1/α falls in standard by 1.4 on training loss and by 1.8 on validation. In μP it rises "
        "by 1.0 on training loss, and stays within 0.5 on validation. DoWG stays within 0.3 in both."),
}
