"""`Initializer`, at the path that the documentation names: see haiku_mup.parameters.initializers."""
from haiku_mup.parameters.initializers import Initializer

__all__ = ["Initializer"]
