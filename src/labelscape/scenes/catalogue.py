"""Walk a static STAC catalogue: the items of a catalogue or collection and of all that it links to."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urljoin, urlsplit

from labelscape.errors import BadFile, BadInput
from labelscape.scenes.files import is_local
from labelscape.scenes.stac_documents import on_the_web, read_document
from labelscape.text import printable


def item_documents(
    place: str, root: dict, allow_remote: bool, missing: list[str]
) -> Iterator[tuple[str, dict]]:
    """(path or URL, item) of every item: of each document its own items first, then those of its children,
    in the order of the links. Names of documents that are not there are added to `missing`.

    Documents must lie in the folder, or on the host, of the first one, unless `allow_remote`. Raises BadFile
    where one lies elsewhere or cannot be read, BadInput for an API, whose items are answers.
    """
    seen, waiting = {_true(place)}, [(place, root)]
    while waiting:
        here, document = waiting.pop()
        links = [link for link in document.get("links") or [] if isinstance(link, dict)]
        children = []
        own = [link for link in links if link.get("rel") in ("item", "child")]
        # An API lists none of its items as links, and would look like an empty catalogue.
        if not own and any(link.get("rel") in ("items", "search") for link in links):
            raise BadInput(
                f"{here} belongs to a STAC API, whose items are found by a search. Save a search as one "
                "ItemCollection (pystac-client: search.item_collection().save_object('items.json')), and "
                "pass that file."
            )
        for link in own:
            there = _resolved(str(link.get("href")), here)
            if _true(there) in seen:  # catalogues may link in circles
                continue
            seen.add(_true(there))
            _check_near(there, place, allow_remote)
            if is_local(there) and not Path(there).exists():
                missing.append(f"{there} (linked in {here})")
                continue
            found = read_document(there)
            if not isinstance(found, dict):
                raise BadFile(f"{there} is not a STAC document: a JSON object was expected.")
            if found.get("type") == "Feature" and isinstance(found.get("assets"), dict):
                yield there, found
            else:
                children.append((there, found))
        waiting += children[::-1]


def _resolved(href: str, here: str) -> str:
    if "://" in href or not is_local(href):
        return href
    return urljoin(here, href) if on_the_web(here) else os.path.normpath(Path(here).parent / href)


def _true(place: str) -> str:
    return os.path.realpath(place) if is_local(place) else place


def _check_near(there: str, root: str, allow_remote: bool) -> None:
    """Raises BadFile where a document lies elsewhere than the catalogue: whoever wrote it could make this
    machine ask any server and read any file.
    """
    if allow_remote:
        return
    if on_the_web(root):
        near = urlsplit(there)[:2] == urlsplit(root)[:2]
    else:
        near = is_local(there) and Path(there).resolve().is_relative_to(Path(root).resolve().parent)
    if not near:
        raise BadFile(
            f"{root} links to a document elsewhere ({printable(there)}). Pass `allow_remote=True` if you "
            "trust who wrote the catalogue."
        )
