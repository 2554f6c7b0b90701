"""Patches that `labelscape data prepare` wrote: images/, labels/, train.txt, val.txt, test.txt and
classes.json.
"""

from __future__ import annotations

import json
from pathlib import Path

from labelscape.datasets.published.layout import Home, Published, listed_pairs
from labelscape.errors import BadFile, LabelscapeError
from labelscape.labels.coded import Code
from labelscape.legend import IGNORE, Legend
from labelscape.scenes.raster import Scene

HOME = Home(
    "Prepared patches",
    "any published set",
    "nothing; run labelscape data prepare NAME PATH --out DIR",
    "\nimages/NAME.tif\nlabels/NAME.tif\ntrain.txt, val.txt, test.txt\nclasses.json",
)


def open_prepared(root: Path, *, lists: str = "auto") -> Published:
    """A folder written by `write_patches`, with its own lists or those in the folder `lists`. Raises BadFile
    where files are missing or classes.json is damaged.
    """
    pairs = listed_pairs(root, HOME, lists=lists)
    file = root / "classes.json"
    if not file.is_file():
        raise HOME.not_found(root, "classes.json")
    try:
        legend = Legend.from_json(file.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, KeyError, TypeError, LabelscapeError) as error:
        raise BadFile(f"{file} is not a valid list of classes: {error}.") from error
    # The first image's bands: all patches were written with the same ones.
    with Scene(pairs[0].image) as first:
        bands = first.bands
    code = Code({IGNORE: IGNORE, **{value: index for index, value in enumerate(legend.values)}})
    return Published("prepared", legend, code, bands, pairs, bands)
