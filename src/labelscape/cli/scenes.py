"""The scenes that a verb's arguments name, one by one or by lists."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from labelscape.cli.options import talk

if TYPE_CHECKING:
    from labelscape.scenes.scene_list import SceneList


def scenes_of(
    texts: Iterable[str],
    *,
    each: bool = False,
    settings: Mapping[str, Any] | None = None,
    asset: str | None = None,
) -> SceneList:
    """The scenes that arguments name, one by one or by lists (`find_scenes`); notes are printed. `settings`
    are those of a map, which are checked first: scenes may be thousands of files on a slow disk. Without them
    `asset` chooses among the assets of items.
    """
    from labelscape.scenes.scene_list import find_scenes

    of_items: dict[str, Any] = {"asset": asset}
    if settings is not None:
        from labelscape.maps.request import MapRequest

        request = MapRequest(**settings)
        of_items = {"asset": request.asset, "allow_remote": request.allow_remote}
    found = find_scenes(list(texts), each=each, **of_items)
    for note in found.notes:
        talk(f"note: {note}")
    return found
