"""Checks of a recipe's settings that a type alone does not make: each returns one sentence per problem."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from labelscape.errors import LabelscapeError, UnknownName
from labelscape.nets.catalog import create_model, wrong_types


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
    try:
        found = wrong_types(network, options)
    except UnknownName:  # reported elsewhere
        return []
    return [f"options.{line}" for line in found]
