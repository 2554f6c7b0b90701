"""Text from other people's files: what of it may go into names, messages, XML and terminals; numbers."""

from __future__ import annotations

import math
import re
import shlex
from collections.abc import Iterable

INVISIBLE = (
    "\0-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f"  # control characters: terminals obey them, XML has no place for them
    "\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069"  # change the direction in which the rest is shown
    "\ud800-\udfff\ufffe\uffff"  # halves of characters and none at all, which UTF-8 and XML do not have
)
_BREAKS = "\t\n\r"
_IN_LINES = re.compile(f"[{INVISIBLE}]")
_IN_NAMES = re.compile(f"[{INVISIBLE}{_BREAKS}]")


def printable(text: str) -> str:
    """The text with U+FFFD in place of what is not meant to be seen; line breaks and tabs stay."""
    return _IN_LINES.sub("\ufffd", text)


def printable_name(text: str) -> str:
    """The same for a name on one line: line breaks and tabs are replaced too."""
    return _IN_NAMES.sub("\ufffd", text)


def is_printable_name(text: str) -> bool:
    return _IN_NAMES.search(text) is None


def digits(value: float) -> str:
    """Three digits that count, without an exponent: 0.00417, 0.0240, 1.23, 45.6, 789."""
    if not value:
        return "0"
    return f"{value:,.{max(0, 2 - math.floor(math.log10(abs(value))))}f}"


def some(items: Iterable[object], most: int = 8) -> str:
    """The first few of many, and how many more there are."""
    items = [str(item) for item in items]
    return ", ".join(items[:most]) + (f" and {len(items) - most} more" if len(items) > most else "")


def typed(path: object) -> str:
    """A path as a word of a command that a user copies: quoted where a shell would split or expand it."""
    return shlex.quote(str(path))
