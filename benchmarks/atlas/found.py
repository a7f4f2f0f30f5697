"""Results of the pieces in words: how good each expectation was, and what was found."""

FOUND: dict[str, tuple[str, str]] = {
    "optimizers_adam": (
        "mostly right",
        "Standard falls by 1.5 to 2.0 octaves on training loss, less than thought, and by 2.0 to 2.3 on "
        "validation. μP rises by 0.5 to 1.0 on training loss; on validation it stays within 0.5, but for "
        "AdaBelief at width 256. Lion transfers best. At width 512 the base's rate costs 0.03 to 0.13 nats of "
        "validation loss in standard, and 0.005 or less in μP."),
    "optimizers_norms": (
        "right for Adafactor, wrong for NovoGrad",
        "Adafactor falls in standard by half of Adam's exponent, and in μP stays within 0.25. NovoGrad stays in "
        "standard, too: it divides a layer's gradient by its norm, so that an entry of a hidden update shrinks "
        "like 1/m by itself, which is all that μP asks (μP's own factor for it is 1 there, and differs in "
        "biases and readouts alone)."),
}
