"""What can go wrong, said in one sentence: what was found, what was expected, what to do.

Every error a user can cause is a `LabelscapeError`; the command line prints its text and nothing else.
`assert` is for our own mistakes.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class LabelscapeError(Exception):
    """Something a user can fix. `exit_code` is what the command line ends with."""

    exit_code = 1


class BadFile(LabelscapeError, OSError):
    """A file that is missing, truncated, of another format, or cannot be written."""


class BadInput(LabelscapeError, ValueError):
    """Readable input that does not fit: wrong bands, no overlap, unknown class values, nothing labelled."""


class BadOption(LabelscapeError, ValueError):
    """An option or a recipe that cannot work, whatever the data."""

    exit_code = 2


class WrongType(BadOption, TypeError):
    """A value of a type that cannot work: an array where a path is expected."""


class UnknownName(BadOption, LookupError):
    """A name that is not known, answered with the nearest one that is."""

    def __init__(self, kind: str, name: str, known: Iterable[str]) -> None:
        known = [str(k) for k in known]
        close = difflib.get_close_matches(str(name), known, n=1, cutoff=0.5)
        hint = f" Did you mean {close[0]!r}?" if close else ""
        super().__init__(f"No {kind} is called {name!r}.{hint} Known: {', '.join(known) or 'none'}.")
        self.kind, self.name, self.nearest = kind, name, close[0] if close else None
