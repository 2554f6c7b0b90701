"""The files that arguments name, looked for before anything heavy is imported: a misspelt path, or a scene in
the place of the model, is refused in a fraction of a second instead of after torch (2 to 3 s, more from a
slow disk).

Only refusals that are certain. What needs a library to know (is it a scene? does it fit?) is left to the code
that opens the file, and so is everything that is not a plain local path.
"""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Iterable
from pathlib import Path

from labelscape.errors import BadFile, BadOption
from labelscape.files import check_path
from labelscape.mistaken import no_such_file, what_it_is

SPECIAL = re.compile(r"://|^/vsi|^[A-Za-z]\w+:|[,#|]")
"""What no plain path has: addresses, GDAL's virtual paths and subdatasets, several files, an item of a saved
search, a layer.
"""
KINDS = {
    "a raster": (".tif", ".tiff", ".vrt", ".jp2", ".png", ".jpg", ".jpeg", ".img", ".nc"),
    "a vector file": (".gpkg", ".geojson", ".shp", ".fgb", ".parquet"),
}
EXPORTED = (".onnx", ".xml", ".pt2")
"""Endings of what `labelscape export` writes: the library of the format says what is wrong with them."""
HEADER = 8
"""Bytes at the start of a safetensors file: the length of the JSON that follows."""


def check_models(models: Iterable[str | Path | None], scenes: Iterable[str] = ()) -> None:
    """Raises BadFile where a model's file does not exist or cannot be a checkpoint, BadOption where one
    stands among the `scenes`.
    """
    # Before the models: of two arguments in the wrong order the order is the mistake.
    for scene in scenes:
        if scene.endswith(".safetensors"):
            raise BadOption(
                f"{scene} is a checkpoint; a scene was expected here. The checkpoint comes first, then the "
                "scene."
            )
    for model in models:
        if model is None:
            continue
        check_path(model, "A checkpoint")
        # Path makes one slash of two, hf://owner/name included.
        if re.match(r"\w+:/", str(model)):
            continue
        if not os.path.exists(model):
            raise BadFile(no_such_file(model))
        # Only plain files: reading a pipe would take from it what the loader needs.
        # An exported model is its library's to judge, unless there is nothing in it.
        exported = _is_exported(model) and os.path.getsize(model) > 0
        if os.path.isfile(model) and not exported and not _may_be_checkpoint(model):
            raise BadFile(f"{model} {what_it_is(model) or _expected(model)}.")


def check_files(places: Iterable[str | Path | None]) -> None:
    """Raises BadFile where local files (scenes, labels, maps) do not exist; globs may still find nothing."""
    texts = [str(place) for place in places if place is not None]
    missing = [
        text
        for text in texts
        if not os.path.exists(text) and not SPECIAL.search(text) and not glob.has_magic(text)
    ]
    if len(missing) == 1:
        raise BadFile(no_such_file(missing[0]))
    if missing:
        raise BadFile("These files do not exist:\n  - " + "\n  - ".join(missing))


def _is_exported(model: str | Path) -> bool:
    return str(model).lower().endswith(EXPORTED)


def _may_be_checkpoint(path: str | Path) -> bool:
    """Does it begin as safetensors files do? True where it cannot be read: the loader says why."""
    try:
        with open(path, "rb") as file:
            start = file.read(HEADER + 1)
    except OSError:
        return True
    length = int.from_bytes(start[:HEADER], "little")
    return start[HEADER:] == b"{" and length <= os.path.getsize(path) - HEADER


def _expected(path: str | Path) -> str:
    ending = Path(path).suffix.lower()
    found = next((f" but {kind}" for kind, endings in KINDS.items() if ending in endings), "")
    return (
        f"is not a Labelscape checkpoint{found}: a .safetensors file of labelscape train, or an .onnx, "
        ".xml or .pt2 file of labelscape export, was expected"
    )
