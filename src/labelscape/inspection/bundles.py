"""A bundle of Raster Vision: its classes, its statistics, and how to start from its weights."""

from __future__ import annotations

from pathlib import Path

from labelscape.inspection.card import Info, lines, size_text
from labelscape.raster_vision import Bundle, read_bundle


def bundle(path: Path) -> Info:
    """Raises BadFile where it is damaged."""
    found = read_bundle(path)
    facts = {
        "bytes": path.stat().st_size,
        "task": found.task,
        "backbone": found.backbone,
        "classes": [
            {"value": value, "name": name, "color": None if color is None else list(color)}
            for value, (name, color) in enumerate(found.classes)
        ],
        "null_class": found.null or None,
        "channels": found.channels,
        "channel_order": list(found.order),
        "means": list(found.means),
        "stds": list(found.stds),
        "weights": found.has_weights,
    }
    card = {
        "Raster Vision": str(path),
        "task": found.task.replace("_", " ") or "not stated",
        "network": found.backbone or "defined by code in the bundle, which is not run",
        "classes": ", ".join(_named(value, *one) for value, one in enumerate(found.classes)),
        "no label": found.null or "no class",
        "bands": _bands(found),
        "scaling": found.scaling,
        "file size": size_text(path.stat().st_size),
        "use": _use(found),
    }
    return Info("raster-vision bundle", str(path), facts, lines(card))


def _named(value: int, name: str, color: tuple[int, int, int] | None) -> str:
    return f"{value} {name}" + (" #{:02X}{:02X}{:02X}".format(*color) if color else "")


def _bands(found: Bundle) -> str:
    count = "an unknown number" if found.channels is None else str(found.channels)
    # Scenes count their bands from 1, Raster Vision from 0.
    places = ", ".join(str(place + 1) for place in found.order)
    return count + (f": the bands {places} of a scene, in this order" if places else "")


def _use(found: Bundle) -> str:
    if not (found.has_weights and found.backbone):
        return "its weights cannot be used; its classes and statistics are above"
    return (
        "labelscape train SCENE --labels LABELS --network deeplabv3plus -o "
        f"options.backbone={found.backbone} --start {found.path}"
    )
