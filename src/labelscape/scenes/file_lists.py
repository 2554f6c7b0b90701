"""Files that globs and lists name, in order (`listed_files`): label files, and the scenes they belong to.

Unlike in `find_scenes` nothing is left out: scenes and label files are pairs by their order, and one label
file may stand for several scenes.
"""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Iterable
from pathlib import Path

from labelscape.errors import BadFile, BadInput
from labelscape.scenes.files import is_local
from labelscape.scenes.scene_tables import TEXTS, Entry, entries_of
from labelscape.scenes.stac import allowed
from labelscape.text import printable

LISTS = {*TEXTS, ".csv", ".tsv"}
"""Of files: other tables may be the polygons themselves."""
SIDE_FILE = re.compile(r"\.(aux\.xml|ovr|msk|tfw|jgw|pgw|j2w|wld|prj|hdr|xml|md|shx|dbf|cpg)$", re.IGNORECASE)
"""Files beside rasters and polygons: a glob such as `tiles/*` finds them, and they are neither."""

Place = str | tuple[str, ...]
"""A path, an address, or the files of one scene."""


def listed_files(given: Iterable[str], *, allow_remote: bool = False) -> list[Place]:
    """What paths, globs (`labels/*.tif`, sorted) and lists (`labels.txt` with a path a line; `.csv` and
    `.tsv` with a column path) name, in order. Everything else stays as it is.

    Raises BadFile where a glob finds nothing, a list cannot be read or names an address without
    `allow_remote`; BadInput for a list of nothing.
    """
    found: list[Place] = []
    for text in given:
        if is_local(text) and glob.has_magic(text) and not os.path.exists(text):
            found += matches_of(text)
        elif is_local(text) and Path(text).suffix.lower() in LISTS and Path(text).is_file():
            places = [places_of(entry, text, allow_remote) for entry in entries_of(text)]
            if not places:
                raise BadInput(f"{text} lists no files.")
            found += [one if len(one) > 1 else one[0] for one in places]
        else:
            found.append(text)
    return found


def matches_of(pattern: str) -> list[str]:
    """The files that a glob finds, sorted, without those beside rasters. Raises BadFile where there are
    none.
    """
    kept = [one for one in sorted(glob.glob(pattern, recursive=True)) if not SIDE_FILE.search(one)]
    if not kept:
        raise BadFile(f"No file matches {pattern}.")
    return kept


def places_of(entry: Entry, file: str, allow_remote: bool) -> tuple[str, ...]:
    """The paths of an entry of a list, relative to the list; of a tile index, whose paths are those that
    gdaltindex was given, to the current folder where they lie there. Raises BadFile for an address that is
    not allowed.
    """
    for part in entry.paths:
        if not is_local(part) and not allowed(allow_remote):
            raise BadFile(
                f"{entry.where} names an address ({printable(part)}). Pass `allow_remote=True` if you "
                "trust who wrote the list."
            )
    return tuple(p if not is_local(p) else _beside(file, p, entry.anywhere) for p in entry.paths)


def _beside(file: str, path: str, anywhere: bool) -> str:
    own = os.path.normpath(Path(file).parent / Path(path).expanduser())
    return path if anywhere and not Path(own).exists() and Path(path).exists() else own
