"""Checks of networks' options, with one wording: the name, the value, and what is allowed."""

from __future__ import annotations

import functools
from collections.abc import Callable, Collection, Mapping
from typing import NamedTuple, get_type_hints

from pydantic import TypeAdapter, ValidationError

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
        # True and False are whole numbers to Python.
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise BadOption(f"{what}={value!r} must be a whole number of at least {least}.")


def is_of_type(value: object, build: Callable, option: str) -> bool:
    """Whether a value is of the type that an option has in the signature of `build`. A list will do for a
    tuple, as JSON has it; no text for a number.
    """
    try:
        return isinstance(value, str) <= isinstance(_type_of(build, option).validate_python(value), str)
    except ValidationError:
        return False


@functools.cache
def _type_of(build: Callable, option: str) -> TypeAdapter:
    return TypeAdapter(get_type_hints(build)[option])


class Effect(NamedTuple):
    """An option that matters under a condition only: `met(options)`, told as `needs`."""

    option: str
    needs: str
    met: Callable[[Mapping[str, object]], bool]


OF_WEIGHTS = Effect(
    "first_conv",
    "pretrained=True or weights=FILE",
    lambda options: bool(options["pretrained"]) or options["weights"] is not None,
)
"""For all networks on a trunk: random first weights are drawn for the bands as they are."""


def refuse_idle(
    given: Mapping[str, object], defaults: Mapping[str, object], effects: Collection[Effect]
) -> None:
    """Raises BadOption for an option that is given another value than its default and changes nothing."""
    options = {**defaults, **given}
    for option, needs, met in effects:
        # A list from JSON equals a tuple of the signature.
        value, usual = (list(v) if isinstance(v, tuple) else v for v in (options[option], defaults[option]))
        if value != usual and not met(options):
            raise BadOption(
                f"{option}={options[option]!r} has no effect: it needs {needs}. Leave {option} out, or pass "
                "that too."
            )
