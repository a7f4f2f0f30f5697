"""Results of the pieces in words: how good each expectation was, and what was found."""

FOUND: dict[str, tuple[str, str]] = {
    "optimizers_adam": (
        "mostly right",
        "Standard falls by 1.5 to 2.0 octaves on training loss, less than thought, and by 2.0 to 2.3 on "
        "validation. μP rises by 0.5 to 1.0 on training loss; on validation by 0.15 to 0.55, but for "
        "AdaBelief at width 256. Lion transfers best. At width 512 the base's rate costs 0.03 to 0.13 nats of "
        "validation loss in standard, and 0.005 or less in μP."),
    "optimizers_norms": (
        "right for Adafactor, wrong for NovoGrad",
        "Adafactor falls in standard by half of Adam's exponent, and in μP stays within 0.25. NovoGrad stays "
        "in standard, too: it divides a layer's gradient by its norm, so that an entry of a hidden update "
        "shrinks like 1/m by itself, which is all that μP asks (μP's own factor for it is 1 there, and "
        "differs in biases and readouts alone)."),
    "dropout": (
        "right for 0.5, wrong for 0.1",
        "At 0.5 μP rises by 1.5 octaves on validation and 1.7 on training loss, with exponents near ½, and "
        "standard falls by 0.9 and 0.6 only: noise makes updates half aligned. At 0.1 training loss is as "
        "without, but on validation μP rises by 1.1 octaves already. Its loss suffers little: the base's rate "
        "costs 0.02 nats or less at width 512."),
    "decay": (
        "right for training loss, wrong for validation",
        "On training loss no kind of decay changes the drift, 0.7 in μP and 1.7 in standard. On validation it "
        "does: with λ × m, where a step takes the same share of a weight at every width, μP's best rate rises "
        "by 1.8 octaves, with λ × √m by 1.1, with λ as it is by 0.5. Yet λ × m ends lowest at width 512, at "
        "0.195 beside 0.203, 0.205, and 0.221 of no decay: wide models want more of it. A decay that follows "
        "no rate has the best of both, 0.194 with a drift of 0.6. L2 before Adam drifts by 1.1 on "
        "validation and no more than the others on training loss, where it is wrong all the same: the loss at "
        "512 is twice that at 128."),
    "batch_text": (
        "right",
        "Scaled constants drift by 0.26 octaves, plain ones by 1.14, with an exponent of 0.28. More than the "
        "rate is at stake: with plain constants a batch × 4 loses 0.17 nats at its own best rate beside the "
        "scaled ones, as averages with the base's β are too slow for a quarter of the steps. A batch × ¼ with "
        "plain constants ends lower than scaled, by 0.06."),
    "length_text": (
        "wrong for plain constants, right for scaled ones",
        "Plain, the best rate hardly moves over 8 times the words, by 0.12 octaves, with an exponent of "
        "-0.04. Scaled with -½ it drifts by 0.57 octaves, and the loss is worse: by 0.16 nats after 400 steps "
        "and by 0.23 after 800, at its own best rate. Runs of some hundred steps are far from the limit that "
        "the rule is for: their rate needs no change, and averages whose memory grows with the run come too "
        "late."),
    "epsilon": (
        "half right",
        "1e-5 changes nothing. At 1e-3 both settings of μP are one, to the last bit: `training` tries the "
        "optimizer, finds that ε acts, and scales it without being asked. So scaled, μP drifts as with a "
        "small ε, by 1.0 on training loss and 0.5 on validation, and standard falls by 1.3 on training loss."),
    "precision": (
        "half right",
        "μP rises by 1.2 octaves on training loss, where it rises by 0.9 in float32, and by 0.5 on "
        "validation, as there. Standard is not hurt more: it falls by 1.7, and wider is better. What bfloat16 "
        "costs is training loss, 1.4 times that of float32 in μP at width 512 and twice in standard; "
        "validation loss is the same."),
    "epsilon_unscaled": (
        "right",
        "It rises by 1.6 octaves on training loss, with an exponent of ½, and by 1.1 on validation, where it "
        "rises by 1.0 and 0.5 with ε scaled. The warning of `Mup.wrap_optimizer` is right."),
    "dropout_unaligned": (
        "right",
        "With dropout 0.5 the best rate drifts by 0.15 octaves on validation in the paper's μP and by 0.3 in "
        "its standard form, where μP with full alignment drifts by 1.5; on training loss by 0.5 beside 1.7. "
        "The loss at width 512 is lower, too: 0.248 and 0.254 beside 0.270. Without dropout the best rate "
        "falls by 1.2 on validation, and by 0.5 on training loss. So dropout is a case for the exponents "
        "without alignment."),
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
        "left. So the rate that goes with averages scaled by the rule follows the length to the power of "
        "-0.28, which is what was fitted to large runs; on text it is -0.31. Plain, the exponent is -0.17, "
        "less than thought."),
    "clip": (
        "right, if for SGD only at the end of the rates",
        "Adam hardly sees where the clip is. SGD's best rates on training loss are at the end of those tried. "
        "With the clip inside they stay there as the width grows, and training loss at 512 is 0.125 beside "
        "0.013 with the clip outside: it acts ever harder. Outside, the rate stays within 0.5 on validation."),
    "schedules": (
        "mostly right",
        "A cosine is as linear. With a constant rate best rates are 1.4 octaves lower at width 64, and "
        "standard falls by 2.0 on training loss and by 2.6 or more on validation. μP falls by 0.5 on training "
        "loss, where it rises with a rate that decays, and stays within 0.35 on validation. All losses are "
        "higher."),
    "optimizers_sgd": (
        "mostly right",
        "SGD's best rate stays within 0.35 on validation in both; on training loss it rises by 0.7, to the "
        "last rate before training diverges. LARS and LAMB fall in standard by 0.8 to 1.3, half of what Adam "
        "does, and stay within 0.35 in μP."),
    "optimizers_any": (
        "right for μP, wrong for standard",
        "Standard stays within 0.2 octaves, like SGD's. Adagrad's accumulator starts at 0.1, far above the "
        "squares of these gradients in 310 steps, so that it divides all of them by one number: it is SGD. "
        "The rule that is exact for both keeps μP within 0.35."),
}
