"""The rules for optimizers, at the path that the documentation names: see haiku_mup.rules.optimizers."""
from haiku_mup.rules.optimizers import *  # noqa: F403
from haiku_mup.rules.optimizers import ENTRYWISE, LAWS, NORMED, RULES, SUMMED  # noqa: F401
