"""The library's own error and warning, and the one sentence form that errors about a parameter have."""


class MupError(ValueError):
    """A parametrization that cannot be right: it names the parameter, the shapes and the remedy.

    >>> def fn(x, width):
    ...     with haiku_mup.apply_mup():
    ...         x = hk.Linear(width)(x)
    ...         return hk.Linear(10)(x)                         # should be haiku_mup.Readout(10)
    >>> base, target = (hk.transform(functools.partial(fn, width=w)) for w in (8, 16))
    >>> mup, key, x = haiku_mup.Mup(), jax.random.PRNGKey(0), jnp.ones(2)
    >>> with mup.init_base():
    ...     _ = jax.eval_shape(base.init, key, x)
    >>> with mup.init_target():                                 # doctest: +ELLIPSIS
    ...     _ = target.init(key, x)
    Traceback (most recent call last):
    haiku_mup.errors.MupError: 'linear_1/w': base (8, 10), target (16, 10): ... make it haiku_mup.Readout ...
    """

    @classmethod
    def about(cls, name: str, base: object, target: object, text: str) -> "MupError":
        """The error for parameter `name`; `base` and `target` are shapes, or None where there is none.

        >>> MupError.about("linear/w", (5, 8), (5, 9, 2), "rank differs; rebuild the base model")
        MupError("'linear/w': base (5, 8), target (5, 9, 2): rank differs; rebuild the base model")
        """
        sides = [f"{side} {shape}" for side, shape in (("base", base), ("target", target))
                 if shape is not None]
        return cls(f"{name!r}: {', '.join(sides)}: {text}")


class MupWarning(UserWarning):
    """Something that runs, and is probably not what was meant. Each kind is said once per `Mup`.

    To stop at every one of them:

    >>> import warnings
    >>> warnings.simplefilter("error", haiku_mup.MupWarning)
    """
