"""Results of the pieces in words: how good each expectation was, and what was found."""

FOUND: dict[str, tuple[str, str]] = {}
