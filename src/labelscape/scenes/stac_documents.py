"""Read STAC documents, from files and servers: at most so many bytes, in at most so much time."""

from __future__ import annotations

import json
import time
from typing import BinaryIO

from labelscape.errors import BadFile, BadInput

SECONDS = 60
"""For all of a request (ours)."""
MOST_BYTES = 64 * 2**20
"""Of a document that is read as a whole (ours)."""


def on_the_web(place: object) -> bool:
    return str(place).startswith(("http://", "https://"))


def read_document(place: str) -> object:
    """A JSON document from a local file or a server. Raises BadFile."""
    try:
        if on_the_web(place):
            from urllib.request import Request, urlopen

            asked = Request(
                place,
                # Some servers answer with a page for browsers where JSON is not asked for.
                headers={"Accept": "application/geo+json, application/json", "User-Agent": "labelscape"},
            )
            with urlopen(asked, timeout=SECONDS) as answer:
                return json.loads(_limited(answer, place))
        if "://" in place:
            raise BadFile(
                f"{place} cannot be read: a STAC item must be a local file or an https:// URL. Download "
                "the item; its files may stay where they are."
            )
        with open(place, "rb") as file:
            return json.loads(_limited(file, place))
    except FileNotFoundError as error:
        raise BadFile(f"{place} does not exist.") from error
    except (ValueError, RecursionError) as error:
        raise no_json(place, error) from error
    except OSError as error:
        if isinstance(error, BadFile):  # raised above: BadFile is an OSError too
            raise
        raise BadFile(
            f"{place} cannot be read: {getattr(error, 'reason', None) or error.strerror or error}."
        ) from error


def no_json(place: str, error: BaseException) -> BadFile:
    return BadFile(f"{place} is not JSON, so it is not a STAC item ({error}).")


def _limited(file: BinaryIO, place: str) -> bytes:
    """All bytes of a document. Raises BadFile where they are too many, or come too slowly: the timeout of a
    request is that of each piece.
    """
    end, pieces, size = time.monotonic() + SECONDS, [], 0
    # read1: what is there; `read` would wait for all of it.
    while piece := (file.read1(2**16) if hasattr(file, "read1") else file.read(2**16)):
        pieces.append(piece)
        size += len(piece)
        if size > MOST_BYTES:
            raise BadFile(f"{place} has more than {MOST_BYTES // 2**20} MiB, so it is no STAC item.")
        if time.monotonic() > end:
            raise BadFile(f"{place} was not read within {SECONDS} seconds; try again, or download it.")
    return b"".join(pieces)


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
