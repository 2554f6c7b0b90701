"""Checks of a recipe's settings that a type alone does not make: each returns one sentence per problem."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any, get_type_hints

import torch
from pydantic import TypeAdapter, ValidationError

from labelscape.errors import LabelscapeError, UnknownName
from labelscape.nets.catalog import SMP, create_model, entry, options_of


def wrong_factors(where: str, factors: Mapping[str, float], *, some: bool) -> list[str]:
    """Factors must not be below 0; with `some`, one of them at least is above it."""
    problems = [
        f"{where}.{name}={factor} must not be below 0." for name, factor in factors.items() if factor < 0
    ]
    if some and not problems and not any(factors.values()):
        problems.append(f"{where}={dict(factors)} leaves nothing to minimise; give a loss, such as dice=1.")
    return problems


def fitting(factors: Mapping[str, float], network: str, options: Mapping[str, Any]) -> dict[str, float]:
    """Those of a network's default factors whose parameters it still has with these options; all of them
    where the options are refused, which is reported elsewhere.
    """
    built = {key: value for key, value in options.items() if key not in ("pretrained", "weights")}
    try:
        with torch.device("meta"):  # names alone, no memory
            names = [name for name, _ in create_model(network, classes=2, **built).named_parameters()]
    except (LabelscapeError, TypeError, ValueError):
        return dict(factors)
    return {key: factor for key, factor in factors.items() if any(name.startswith(key) for name in names)}


def wrong_options(network: str, options: Mapping[str, Any]) -> list[str]:
    """Options whose values are not of the type that the network's signature has: a number for a list,
    nothing for a number. Values that the network itself refuses are found when it is built.
    """
    if network.startswith(SMP):  # few of the library's signatures have types
        return []
    try:
        known = options_of(network)
    except UnknownName:  # reported elsewhere
        return []
    problems = []
    for name, value in options.items():
        if name in known and not fits(type_of(network, name), value):
            problems.append(
                f"options.{name}={value!r} is of the wrong type; {network} takes {known[name].annotation}."
            )
    return problems


def fits(kind: TypeAdapter, value: object) -> bool:
    """Whether a value is of a type. A list will do for a tuple, as JSON has it; no text for a number."""
    try:
        return isinstance(value, str) <= isinstance(kind.validate_python(value), str)
    except ValidationError:
        return False


@functools.cache
def type_of(network: str, option: str) -> TypeAdapter:
    return TypeAdapter(get_type_hints(entry(network).build)[option])
