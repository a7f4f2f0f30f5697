"""Warnings that are given once, at the line of the user's model that they are about."""
import warnings

from haiku_mup.errors import MupWarning, SourceLine
from haiku_mup.tracing.haiku_internals import users_line


def warn_once(warned: set[str], kind: str, text: str, line: SourceLine | None = None) -> None:
    """Warns, the first time that a Mup meets a kind of warning.

    Args:
      warned: the kinds that it has given; this one is added.
      kind: what the warning is about.
      text: what to say.
      line: the line that made the parameter in question; by default the user's line that runs.

    Warns:
      MupWarning: as if that line gave it. Where a filter makes it an error, a note on it has the line.
    """
    if kind in warned:
        return
    file, number, _ = line = line or users_line() or SourceLine("<unknown>", 1, "<unknown>")
    warning = MupWarning(text)
    warning.add_note(str(line))
    # Not warnings.warn, since the layer's own frames may be gone as the whole model is judged.
    warnings.warn_explicit(warning, None, file, number)
    warned.add(kind)
