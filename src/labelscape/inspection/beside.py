"""Files beside maps, scenes and checkpoints: what each is, and what to do with it."""

from __future__ import annotations

import csv
import re
import xml.etree.ElementTree as xml
from pathlib import Path
from typing import Any

from labelscape.errors import BadFile, LabelscapeError
from labelscape.files import name_fault
from labelscape.inspection.card import Info, lines, size_text
from labelscape.labels.class_names import named_values
from labelscape.text import some

HEAD = 1 << 16
"""Bytes of a page that are read for its title."""
MOST_SHOWN = 12

WORLD = "pixel size and position of an image (world file); keep it beside the image"
EXPORTED = ("exported model", "a network for other programs; labelscape map FILE SCENE --out FOLDER")
ENDINGS = {
    "_class.tif": ("class map", "class value per pixel; open it in QGIS"),
    "_confidence.tif": ("map raster", "probability of the class shown, in per cent"),
    "_proba.tif": ("map raster", "probability of every class, one band each, in 1/250"),
    "_entropy.tif": ("map raster", "entropy of the prediction, 0 (certain) to 100"),
    "_unfamiliar.tif": ("map raster", "distance from the training data, above 100 unfamiliar"),
    "_sieved.tif": ("class map", "class map without areas below the minimum mapping unit"),
    "_polygons.gpkg": ("polygons", "polygons with class, pixels and hectares; open it in QGIS"),
    "_polygons.geojson": ("polygons", "polygons with class, pixels and hectares, in WGS 84"),
    "_polygons.fgb": ("polygons", "polygons with class, pixels and hectares"),
    "_polygons.parquet": ("polygons", "polygons with class, pixels and hectares"),
    "_report.html": ("report", "report of a map: pictures, areas, settings; open it in a browser"),
    "_card.md": ("model card", "what a model was trained on, how it scores, what it is for"),
    "_stac.json": ("STAC item", "metadata of a map for catalogues; keep it beside the map's files"),
    "_run.json": ("run file", "settings of a map; repeat it: labelscape map --rerun FILE --out FOLDER"),
    "map_trace.json": ("profile", "what takes the time of a map; open it at https://ui.perfetto.dev"),
    "_times.json": ("times", "seconds of a training step, and what they hold"),
    "counts.json": ("counts", "counts of an evaluation; labelscape evaluate FILE prints their scores"),
    "_errors.tif": ("class map", "where an evaluation found errors: right, or the class that was missed"),
    ".unfinished": ("unfinished map", "finished tiles of a stopped map; the same command goes on from them"),
    ".state.safetensors": ("training state", "state of an unfinished training run; train again to resume it"),
    ".safetensors": ("checkpoint", "a trained network; labelscape map FILE SCENE --out FOLDER"),
    ".onnx": EXPORTED,
    ".pt2": EXPORTED,
    ".aux.xml": ("side file", "class names, colours or statistics of the raster; keep it beside the raster"),
    ".html": ("report", "a page; open it in a browser"),
    ".csv": ("table", "a table; of a training run: loss and learning rate by step"),
    ".qml": ("style", "QGIS style; QGIS applies it where it has the name of the layer's file"),
    ".sld": ("style", "style for GIS software (SLD); load it in the layer's properties"),
    ".ovr": ("side file", "overviews of the raster; keep it beside the raster"),
    ".msk": ("side file", "validity mask of the raster; keep it beside the raster"),
    ".shx": ("side file", "index of a Shapefile; keep it beside the .shp"),
    ".dbf": ("side file", "columns of a Shapefile; keep it beside the .shp"),
    ".prj": ("side file", "CRS of a Shapefile or image; keep it beside that file"),
    ".cpg": ("side file", "text encoding of a Shapefile; keep it beside the .shp"),
    **dict.fromkeys((".tfw", ".pgw", ".jgw", ".wld"), ("side file", WORLD)),
    "train.txt": ("list", "names of the training images of a data set"),
    "val.txt": ("list", "names of the validation images of a data set"),
    "test.txt": ("list", "names of the test images of a data set"),
    "classes.json": ("legend", "classes of a prepared data set"),
}
"""Ending of a name -> (kind, what it is and what to do with it); longer endings come first."""


def meaning(name: str) -> tuple[str, str] | None:
    """(kind, use) of a file by its name; None for one that is not known."""
    return next((said for ending, said in ENDINGS.items() if name.lower().endswith(ending)), None)


def beside(path: Path) -> Info | None:
    """A file that is neither checkpoint, raster, polygons nor JSON; None for one that is not known. Raises
    BadFile where it cannot be read or is not what its name says.
    """
    known = meaning(path.name)
    if known is None or known[0] in ("checkpoint", "class map", "map raster", "polygons", "legend"):
        return None
    kind, use = known
    size = path.stat().st_size
    try:
        facts, shown = _contents(path)
    except (OSError, UnicodeDecodeError, csv.Error, xml.ParseError) as error:
        # An OSError too, with its own sentence.
        if isinstance(error, LabelscapeError):
            raise
        raise BadFile(f"{path} is damaged, or not the {kind} that its name says ({error}).") from error
    card = {kind: str(path), **shown, "file size": size_text(size), "use": use}
    return Info(kind, str(path), {"bytes": size, "use": use, **facts}, lines(card))


def _contents(path: Path) -> tuple[dict[str, Any], dict[str, str]]:
    """What a small file says, as JSON values and as text."""
    name = path.name.lower()
    if name.endswith(".csv"):
        return _table(path)
    if name.endswith(".html"):
        with path.open("rb") as file:
            # Reports hold their pictures, and may have many megabytes.
            head = file.read(HEAD).decode("utf-8", "replace")
        found = re.search(r"<title>(.*?)</title>", head, re.DOTALL)
        # A title holds the name of a scene, which anybody may have chosen.
        title = _visible(found[1]) if found else ""
        return {"title": title}, {"title": title}
    if name.endswith(".aux.xml"):
        named = named_values(path)
        raster = path.with_name(path.name[: -len(".aux.xml")])
        facts = {"classes": [{"value": v, "name": n} for v, n in named.items()], "raster": str(raster)}
        shown = {"classes": ", ".join(f"{v} {_visible(n)}" for v, n in named.items())}
        return facts, shown | {"raster": str(raster) + ("" if raster.exists() else " (missing)")}
    if name.endswith((".qml", ".sld")):
        return _style(path)
    if name.endswith(".txt"):
        names = path.read_text("utf-8").split("\n")
        count = sum(bool(line.strip()) for line in names)
        return {"names": count}, {"names": f"{count:,}"}
    return {}, {}


def _table(path: Path) -> tuple[dict[str, Any], dict[str, str]]:
    """A CSV's columns, number of rows, and last row: of a training log, where it ended."""
    with path.open(encoding="utf-8", newline="") as file:
        rows = csv.DictReader(file)
        count, last = 0, None
        # Row by row: a log of a long training has millions of lines.
        for row in rows:
            count, last = count + 1, row
        columns = list(rows.fieldnames or ())
    # Cells beyond the header have the key None in Python's reader, and are not JSON.
    last = {key: value for key, value in (last or {}).items() if key is not None}
    shown = {"columns": ", ".join(map(_visible, columns)), "rows": f"{count:,}"}
    shown["last row"] = ", ".join(f"{_visible(k)} {_visible(str(v))}" for k, v in last.items())
    return {"columns": columns, "rows": count, "last": last}, shown


def _style(path: Path) -> tuple[dict[str, Any], dict[str, str]]:
    """The categories of a QGIS style, or the rules of an SLD."""
    root = xml.parse(path).getroot()
    labels = [e.get("label") or e.get("value") or "" for e in root.iter() if e.tag == "category"]
    labels += [e.get("label") or "" for e in root.iter() if e.tag == "paletteEntry"]
    # SLD's elements have a namespace, which differs between versions.
    labels += [
        t.text or "" for e in root.iter() if e.tag.endswith("}Rule") for t in e if t.tag.endswith("}Name")
    ]
    return {"categories": labels}, {"categories": some(map(_visible, labels), MOST_SHOWN)}


def _visible(text: str) -> str:
    """Text of a file, without characters that a terminal would take for commands."""
    return "".join(" " if name_fault(c) else c for c in text).strip()
