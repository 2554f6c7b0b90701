"""Checks of a recipe's settings that a type alone does not make: each returns one sentence per problem."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from labelscape.errors import UnknownName
from labelscape.nets.catalog import wrong_types


def wrong_factors(where: str, factors: Mapping[str, float], *, some: bool) -> list[str]:
    """Factors must not be below 0; with `some`, one of them at least is above it."""
    problems = [
        f"`{where}.{name}={factor}` must not be below 0." for name, factor in factors.items() if factor < 0
    ]
    if some and not problems and not any(factors.values()):
        problems.append(
            f"`{where}={dict(factors)}` leaves nothing to minimise; give a loss, such as `{where}.dice=1`."
        )
    return problems


def wrong_options(network: str, options: Mapping[str, Any]) -> list[str]:
    """Options whose values are not of the type that the network's signature has: a number for a list,
    nothing for a number. Values that the network itself refuses are found when it is built.
    """
    try:
        found = wrong_types(network, options)
    except UnknownName:  # reported elsewhere
        return []
    return [f"options.{line}" for line in found]


def wrong_freeze(trained: bool, options: Mapping[str, Any], idle: Mapping[str, float]) -> list[str]:
    """A frozen encoder without trained weights (`trained`: a start or a base network gives them), or with
    factors on a rate that it does not learn at (`idle`).
    """
    problems = []
    if not (trained or any(options.get(key) for key in ("pretrained", "weights"))):
        problems.append(
            "`freeze=encoder` would freeze random weights: give `start`, a trained checkpoint, or "
            "`options.pretrained=true` where the network has it."
        )
    problems += [
        f"`{name}={factor}` has no effect with `freeze=encoder`; leave one of them out."
        for name, factor in idle.items()
        if factor != 1
    ]
    return problems
