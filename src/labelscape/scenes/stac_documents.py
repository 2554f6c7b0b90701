"""Read STAC documents, from files and servers: at most so many bytes, in at most so much time."""

from __future__ import annotations

import json
import os

from labelscape.errors import BadFile, BadInput
from labelscape.scenes.remote import Elsewhere, document, limited

ALLOWED = "LABELSCAPE_ALLOW_REMOTE"
"""Environment variable that allows items to name files anywhere when it is 1, also where no option does."""


def allowed(allow_remote: bool) -> bool:
    """May documents name files anywhere, by the option or by the environment?"""
    return allow_remote or os.environ.get(ALLOWED) == "1"


def on_the_web(place: object) -> bool:
    return str(place).startswith(("http://", "https://"))


def read_document(place: str, *, allow_remote: bool = False) -> object:
    """A JSON document from a local file or a server. Raises BadFile, also where the server leads into a
    private network, unless `allow_remote`.
    """
    try:
        if on_the_web(place):
            return json.loads(document(place, allow_remote=allowed(allow_remote)))
        if "://" in place:
            raise BadFile(
                f"{place} cannot be read: a STAC item must be a local file or an https:// URL. Download "
                "the item; its files may stay where they are."
            )
        with open(place, "rb") as file:
            return json.loads(limited(file, place))
    except FileNotFoundError as error:
        raise BadFile(f"{place} does not exist.") from error
    except (ValueError, RecursionError) as error:
        raise no_json(place, error) from error
    except Elsewhere as error:
        raise BadFile(
            f"{str(error).rstrip('.')}, into a private network. Pass `allow_remote=True` if you trust the "
            f"server (or set {ALLOWED}=1)."
        ) from error
    except OSError as error:
        if isinstance(error, BadFile):  # raised above: BadFile is an OSError too
            raise
        raise BadFile(
            f"{place} cannot be read: {getattr(error, 'reason', None) or error.strerror or error}."
        ) from error


def no_json(place: str, error: BaseException) -> BadFile:
    return BadFile(f"{place} is not JSON, so it is not a STAC item ({error}).")


def items_of(document: object, place: str) -> list[dict]:
    """The items of a document, in its order."""
    kind = document.get("type") if isinstance(document, dict) else None
    if kind in ("Catalog", "Collection"):
        raise BadInput(
            f"{place} is a STAC {kind}, not an item: pass one of its items, or save several as one "
            "ItemCollection."
        )
    if kind == "FeatureCollection":
        check_complete(document, place)
        features = [f for f in document.get("features") or [] if isinstance(f, dict)]
        items = [f for f in features if isinstance(f.get("assets"), dict)]
        # The others would be left out of the mosaic without a message.
        if len(items) < len(features):
            raise _no_items(place, len(features), len(items))
        return items
    if kind != "Feature" or not isinstance(document.get("assets"), dict):
        raise BadInput(f"{place} is not a STAC item: a GeoJSON feature with assets was expected.")
    return [document]


def check_complete(document: dict, place: str) -> None:
    """Raises BadInput where an ItemCollection is one page of an API's answer: a mosaic of the first page
    would have holes, and a list would end early, without a message.
    """
    if any(isinstance(link, dict) and link.get("rel") == "next" for link in document.get("links") or []):
        raise BadInput(
            f"{place} is one page of several: there are more items than it lists. Narrow the search, or "
            "save all items in one file."
        )


def _no_items(place: str, features: int, items: int) -> BadInput:
    return BadInput(
        f"{place} holds {features} features, {items} of them STAC items: a scene is a "
        "raster, a folder or STAC items. Pass polygons with `labels` or `area`."
    )
