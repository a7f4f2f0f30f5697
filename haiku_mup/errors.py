"""The library's own error and warning, and the one sentence form that errors about a parameter have."""


class MupError(ValueError):
    """A parametrization that cannot be right: it names the parameter, the shapes and the remedy.

    >>> raise MupError.about("mlp/linear/w", (5, 8), (5, 9, 2), "rank differs; rebuild the base model")
    Traceback (most recent call last):
    haiku_mup.errors.MupError: 'mlp/linear/w': base (5, 8), target (5, 9, 2): rank differs; rebuild \
the base model
    """

    @classmethod
    def about(cls, name: str, base: object, target: object, text: str) -> "MupError":
        """The error for parameter `name`; `base` and `target` are shapes, or None where there is none."""
        sides = [f"{side} {shape}" for side, shape in (("base", base), ("target", target))
                 if shape is not None]
        return cls(f"{name!r}: {', '.join(sides)}: {text}")


class MupWarning(UserWarning):
    """Something that runs, and is probably not what was meant.

    >>> import warnings
    >>> warnings.simplefilter("error", MupWarning)      # to stop at every one of them
    """
