"""The package's error and warning, and the line of a model that they carry.

- help_anchors: finds the entry of the help page that is about a message.
"""
import linecache
from collections.abc import Sequence
from typing import NamedTuple, Self

from haiku_mup.errors.help_anchors import OTHER_ERROR, OTHER_WARNING, help_note

SHOWN = 32      # parameters in one error


class SourceLine(NamedTuple):
    """A line of a user's model.

    Attributes:
      file: its file, as Python's frames have it.
      number: its number, from 1 on.
      function: the qualified name of the function that it is in.
    """

    file: str
    number: int
    function: str

    def __str__(self) -> str:
        """Returns the line as a traceback shows it.

        >>> print(SourceLine("model.py", 12, "net"))
          File "model.py", line 12, in net
        """
        source = linecache.getline(self.file, self.number).strip()
        place = f'  File "{self.file}", line {self.number}, in {self.function}'
        return f"{place}\n    {source}" if source else place


class MupError(ValueError):
    """A parametrization that cannot be right: it names the parameter, the shapes and the remedy.

    Notes on it, which tracebacks show, have the line of the model that made the parameter, and the entry of the
    help page that is about the error.

    >>> def fn(x, width):
    ...     with haiku_mup.apply_mup():
    ...         x = hk.Linear(width)(x)
    ...         return hk.Linear(10)(x)                         # should be haiku_mup.Readout(10)
    >>> base, target = (hk.transform(functools.partial(fn, width=w)) for w in (8, 16))
    >>> mup, key, x = haiku_mup.Mup(), jax.random.PRNGKey(0), jnp.ones(2)
    >>> with mup.init_base():
    ...     _ = jax.eval_shape(base.init, key, x)
    >>> try:
    ...     with mup.init_target():
    ...         _ = target.init(key, x)
    ... except haiku_mup.MupError as error:
    ...     print(error)                                        # doctest: +ELLIPSIS
    ...     print(error.__notes__[0].splitlines()[-1].strip())
    'linear_1/w': base (8, 10), target (16, 10): ... make it haiku_mup.Readout ...
    return hk.Linear(10)(x)                         # should be haiku_mup.Readout(10)
    """

    name: str | None = None             # of the parameter; None for an error about no single parameter
    shapes: str | None = None           # both shapes, and what is wrong with the remedy, where `about` made it
    remedy: str | None = None
    line: SourceLine | None = None

    def __init__(self, *args: object):
        super().__init__(*args)
        super().add_note(help_note(str(self), OTHER_ERROR))

    def add_note(self, note: str) -> None:
        """Adds a note before the last one, which names the help page.

        >>> error = MupError("'a/w': base (8,), target (16, 2): rank differs; rebuild the base model")
        >>> error.add_note("in model.py")
        >>> error.__notes__
        ['in model.py', 'help: docs/help/errors.rst#error-rank']
        """
        self.__notes__.insert(-1, note)

    @classmethod
    def about(cls, name: str, base: object, target: object, text: str, line: SourceLine | None = None, *,
              model: str = "target") -> Self:
        """Returns the error for parameter `name`.

        Args:
          name: the parameter's name.
          base, target: its shapes, or None where there is none.
          text: what is wrong, and the remedy.
          line: the line of the model that made it.
          model: the model that is beside the base: "target" or "delta".

        >>> MupError.about("linear/w", (5, 8), (5, 9, 2), "rank differs; rebuild the base model")
        MupError("'linear/w': base (5, 8), target (5, 9, 2): rank differs; rebuild the base model")
        """
        shapes = ", ".join(f"{side} {shape}" for side, shape in (("base", base), (model, target))
                           if shape is not None)
        error = cls(f"{name!r}: {shapes}: {text}")
        error.shapes, error.remedy = shapes, text
        return error.made_at(name, line)

    def made_at(self, name: str, line: SourceLine | None) -> Self:
        """Adds a note with the line that makes parameter `name`, unless there is one; returns the error."""
        if self.line is None:
            self.name, self.line = name, line
            if line is not None:
                self.add_note(_note([name], line))
        return self

    def with_source(self, source: str) -> "MupError":
        """Returns the error of a base that was loaded, with the file's name in the message."""
        error = MupError(f"{self} (the base is from {source!r})")
        for note in self.__notes__[:-1]:
            error.add_note(note)
        return error

    @classmethod
    def of_all(cls, errors: Sequence["MupError"]) -> "MupError":
        """Returns one error in place of several; a remedy that they share is said once.

        >>> errors = [MupError.about(name, (8, 1), (16, 1), "make it a Readout") for name in "ab"]
        >>> print(MupError.of_all(errors))
        'a': base (8, 1), target (16, 1); 'b': base (8, 1), target (16, 1): make it a Readout
        """
        if len(errors) == 1:
            return errors[0]
        by_remedy: dict[str, list[str]] = {}            # the parameters of each remedy, with their shapes
        by_line: dict[SourceLine, list[str]] = {}       # the parameters that each line makes
        for error in errors[:SHOWN]:
            if error.remedy is None:
                by_remedy.setdefault(str(error), [])
            else:
                by_remedy.setdefault(error.remedy, []).append(f"{error.name!r}: {error.shapes}")
            if error.line is not None:
                by_line.setdefault(error.line, []).append(error.name or "")
        text = [f"{'; '.join(subjects)}: {remedy}" if subjects else remedy
                for remedy, subjects in by_remedy.items()]
        if len(errors) > SHOWN:
            text.append(f"and {len(errors) - SHOWN} more")
        found = cls("\n".join(text))
        for line, names in by_line.items():
            found.add_note(_note(names, line))
        return found


def _note(names: Sequence[str], line: SourceLine) -> str:
    return f"{', '.join(map(repr, names))}: made by this line of the model:\n{line}"


class MupWarning(UserWarning):
    """A model or an optimizer that runs, and is probably not what was meant.

    A `Mup`, or a wrapped optimizer, gives each kind of warning once. The text ends with the entry of the help
    page that is about it.

    To stop at every one of them:

    >>> import warnings
    >>> warnings.simplefilter("error", haiku_mup.MupWarning)
    """

    def __str__(self) -> str:
        """Returns the message, and where the help page has it.

        >>> print(haiku_mup.MupWarning("lr_sweep: 2 of 80 trials are missing"))
        lr_sweep: 2 of 80 trials are missing (help: docs/help/errors.rst#warning-missing-trials)
        """
        message = super().__str__()
        return f"{message} ({help_note(message, OTHER_WARNING)})"
