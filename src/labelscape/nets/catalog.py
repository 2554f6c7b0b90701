"""Every network by name. `create_model` is the one way to build one; a checkpoint stores the name and the options."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass

from labelscape.errors import BadOption, UnknownName
from labelscape.nets import maggiori
from labelscape.nets.blocks import Network


@dataclass(frozen=True, slots=True)
class Entry:
    """A line of the catalogue. `build(in_channels=..., classes=..., **options)` makes the network."""

    build: Callable[..., Network]
    paper: str
    start: str | None = None
    """The network whose trained weights this one starts from in its paper, if any."""


MAGGIORI = "Maggiori et al. 2017, High-Resolution Semantic Labeling with CNNs"

NETWORKS: dict[str, Entry] = {
    "fcn": Entry(maggiori.fcn, MAGGIORI),
    "unpooling": Entry(maggiori.unpooling, MAGGIORI, start="fcn"),
    "skip": Entry(maggiori.skip, MAGGIORI, start="fcn"),
    "mlp": Entry(maggiori.mlp, MAGGIORI, start="fcn"),
}


def list_models() -> list[str]:
    return list(NETWORKS)


def entry(name: str) -> Entry:
    if name not in NETWORKS:
        raise UnknownName("network", name, NETWORKS)
    return NETWORKS[name]


def options_of(name: str) -> dict[str, inspect.Parameter]:
    """The options of a network with their defaults, beyond `in_channels` and `classes`."""
    parameters = inspect.signature(entry(name).build).parameters
    return {key: p for key, p in parameters.items() if key not in ("in_channels", "classes")}


def create_model(name: str, *, in_channels: int = 3, classes: int, **options: object) -> Network:
    """Build a network of the catalogue with fresh weights.

    Raises UnknownName for an unknown network or option, BadOption for sizes below 1 or values the network refuses.
    """
    known = options_of(name)
    for option in options:
        if option not in known:
            raise UnknownName(f"option of {name}", option, known)
    for what, size in (("in_channels", in_channels), ("classes", classes)):
        if not isinstance(size, int) or size < 1:
            raise BadOption(f"{what}={size!r} must be a whole number of at least 1.")
    return entry(name).build(in_channels=in_channels, classes=classes, **options)
