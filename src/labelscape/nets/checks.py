"""Checks of networks' options, with one wording: the name, the value, and what is allowed."""

from __future__ import annotations

from collections.abc import Collection

from labelscape.errors import BadOption, UnknownName


def one_of(what: str, value: object, known: Collection) -> None:
    """Raises UnknownName for a value that is not among the known ones."""
    if value not in known:
        raise UnknownName(what, value, known)


def switches(**given: object) -> None:
    """Raises BadOption for what is neither True nor False."""
    for what, value in given.items():
        if not isinstance(value, bool):
            raise BadOption(f"{what}={value!r} must be True or False.")


def sizes(least: int = 1, **given: object) -> None:
    """Raises BadOption for what is no whole number of at least `least`."""
    for what, value in given.items():
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise BadOption(f"{what}={value!r} must be a whole number of at least {least}.")
