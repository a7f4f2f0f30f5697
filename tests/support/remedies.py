"""The code that messages of the library propose, and what follows from it."""
import re
import warnings

import haiku_mup

# Mup(...), with parentheses inside
_CODE = re.compile(r"Mup\((?:[^()]|\((?:[^()]|\((?:[^()]|\([^()]*\))*\))*\))*\)")


def codes(text):
    """Returns the calls of Mup in a message, in its order; without those that leave something open.

    >>> codes("a bias, Mup(fans={'~/b': ((), (0, 1))}), or Mup(readouts='~/b'); see Mup(fans=...)")
    ["Mup(fans={'~/b': ((), (0, 1))})", "Mup(readouts='~/b')"]
    """
    return [code for code in _CODE.findall(text) if "..." not in code and "_axes" not in code]


def told(capture, mup=None):
    """Returns the messages of an error, or of warnings, of capture(mup)."""
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        try:
            capture(mup or haiku_mup.Mup())
        except haiku_mup.MupError as error:
            return [str(error)]
    return [str(w.message) for w in found if issubclass(w.category, haiku_mup.MupWarning)]


def declared(code):
    """Returns the Mup that a message proposes."""
    return eval(code, {"Mup": haiku_mup.Mup})


def followed(capture, code):
    """Returns the rows {name: row} of capture(mup) with the Mup that a message proposes; nothing may warn."""
    mup = declared(code)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        capture(mup)
    return {row.name: row for row in mup.table()}
