"""What the figures of coordinate checks and of sweeps share."""

TITLES = {"sp": "standard", "mup": "μP"}
GREY = "0.35"
