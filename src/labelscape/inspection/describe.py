"""Describe a file or folder (`info`): which of all that Labelscape reads and writes it is."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from labelscape.checkpoint import description
from labelscape.contract.tile_sizes import TileSizes
from labelscape.errors import BadFile, LabelscapeError
from labelscape.evaluation.text import area_lines
from labelscape.exported import READS, Facts, check_lines
from labelscape.exported_formats import KINDS, TITLES, begins_as_exported
from labelscape.files import check_path
from labelscape.inspection.assessed import document as assessed_document
from labelscape.inspection.assessed import sample
from labelscape.inspection.beside import beside
from labelscape.inspection.bundles import bundle
from labelscape.inspection.card import Info, damaged, json_number, lines, size_text
from labelscape.inspection.folders import entries_of, file_lines, folder
from labelscape.inspection.polygons import polygons
from labelscape.inspection.rasters import RUN, described_raster, scene
from labelscape.legend import Legend
from labelscape.maps.settings import settings_in_words
from labelscape.maps.speed import in_words
from labelscape.model_card import model_card
from labelscape.model_places import as_given, is_address, is_place, local_model
from labelscape.raster_vision import is_bundle
from labelscape.scenes.files import Source, reading
from labelscape.scenes.vectors import VECTOR_SUFFIXES, is_vector
from labelscape.text import printable, printable_name, typed

LARGEST_JSON = 50_000_000
"""Bytes of a JSON file that is read as a whole to see what it is; larger ones are taken for polygons."""


def info(path: Source, *, statistics: bool = False) -> Info:
    """Describe a file or folder: what it is, its facts, and what to do with it.

    path        a checkpoint (.safetensors), or a model that `export` wrote; a map: its folder, its
                `_run.json`, its rasters, or any other file of it; a sample, an assessment, counts of an
                evaluation; polygons; label rasters; a data set's folder; anything that opens as a scene, also
                a list of files
    statistics  also read about 1 % of a scene's pixels for the range of each band, and all of a class raster
                for the areas of its classes

    Raises BadFile where it is none of these or damaged.
    """
    if isinstance(path, (list, tuple)):
        return scene(path, statistics)
    check_path(path, "A checkpoint, map or scene")
    place = local_model(path) if is_place(path) else Path(path)
    if place.is_dir() and place.suffix.lower() != ".gdb":
        # A folder with one run file is that map, whatever lies beside it.
        runs = sorted(place.glob(f"*{RUN}"))
        return _map(runs[0], _run_of(runs[0])) if len(runs) == 1 else folder(place, statistics)
    is_checkpoint = place.suffix == ".safetensors" and not place.name.endswith(".state.safetensors")
    if is_checkpoint or begins_as_exported(place):
        return _checkpoint(place, as_given(path) if is_address(path) else str(place))
    # Each of these has its own sentence for a damaged file.
    if place.exists() and (found := _known(place)) is not None:
        return found
    try:
        return described_raster(path, statistics)
    except LabelscapeError as error:
        # A container names what is in it: that is the answer.
        if not place.exists() or str(error).startswith(f"{path} is "):
            raise
        # The new sentence begins with the path already.
        why = str(error).removeprefix(f"{path} ").rstrip(".")
        raise BadFile(f"{path} is not a checkpoint, a map, a scene or polygons: {why}.") from error


def _known(path: Path) -> Info | None:
    """A file that is neither checkpoint nor raster; None for what may be a raster or a scene."""
    suffix = path.suffix.lower()
    if suffix == ".zip" and is_bundle(path):
        return bundle(path)
    if suffix in (".json", ".geojson") and path.stat().st_size <= LARGEST_JSON:
        return _json(path)
    if suffix not in VECTOR_SUFFIXES and not (suffix == ".zip" and is_vector(path)):
        return beside(path)
    try:
        # Before polygons: its points are layers too, and no labels for training.
        return sample(path) or polygons(path)
    except BadFile:
        # A GeoPackage may hold a raster and no layers: to pyogrio that is another format.
        if suffix == ".gpkg" and _opens(path):
            return None
        raise


def _opens(path: Path) -> bool:
    """Does GDAL open this as a raster?"""
    try:
        with reading(path):
            return True
    except LabelscapeError:
        return False


def _checkpoint(path: Path, shown: str) -> Info:
    """`shown`: the address that the file was brought from, or its path."""
    fields = description(path)
    exported = fields.get("exported")
    facts = {"bytes": path.stat().st_size, **fields, "nodata": json_number(fields.get("nodata"))}
    with damaged(f"{path} has a damaged description"):
        about = model_card(fields) | (_exported(path, exported) if exported else {})
    card = {"model" if exported else "checkpoint": shown, **about, "file size": size_text(_bytes(path))}
    card["use"] = f"labelscape map {typed(shown)} SCENE --out FOLDER"
    sizes = TileSizes.from_dict(fields["tile_sizes"]).lines() if fields.get("tile_sizes") else []
    table = ["scores by tile size, measured on held-out pixels after training:", *sizes] if sizes else []
    table += _for_others(exported["metadata"]) if exported else []
    return Info("checkpoint", shown, facts, lines(card, table))


def _exported(path: Path, about: dict[str, Any]) -> dict[str, str]:
    """What a model that `export` wrote says of itself."""
    facts = Facts.from_dict({key: value for key, value in about.items() if key not in ("file", "metadata")})
    reach = "the whole image" if facts.reach is None else f"{facts.reach} pixels around"
    head, *rest = check_lines(facts.check) if facts.check else [""]
    checked = " ".join(f"{head} {'; '.join(rest)}".split())
    return {
        "format": f"{TITLES[KINDS[path.suffix.lower()]]}, {facts.dtype}",
        "images": f"{facts.images}; a class depends on {reach}",
        "is given": READS[facts.normalise],
        "int8 check": checked,
        "made of": f"the checkpoint with the fingerprint {printable(facts.sha256[:12])}...",
    }


def _for_others(metadata: dict[str, str]) -> list[str]:
    """The metadata of an ONNX file that other programs read, as they stand there."""
    if not metadata:
        return []
    wide = max(map(len, metadata)) + 2
    # Of a file that anybody may have changed.
    rows = [f"  {printable_name(key):<{wide}}{printable_name(value)}" for key, value in metadata.items()]
    return ["metadata that other programs read (QGIS Deepness, GeoDeep):", *rows]


def _bytes(path: Path) -> int:
    """Of a model; of OpenVINO's with its weights, which lie beside it."""
    beside = path.with_suffix(".bin")
    return path.stat().st_size + (beside.stat().st_size if path.suffix.lower() == ".xml" else 0)


def _json(path: Path) -> Info | None:
    """What a JSON file is: settings of a map, a STAC item of a map, a STAC collection, a legend or polygons;
    None for what may be a scene.
    """
    if (run := _run_of(path)) is not None:
        return _map(path, run)
    document = json.loads(path.read_text("utf-8"))
    if isinstance(document, list):
        return _legend(path, document)
    if isinstance(document, dict) and (found := assessed_document(path, document)) is not None:
        return found
    if isinstance(document, dict) and "traceEvents" in document:
        return beside(path)
    kind = document.get("type") if isinstance(document, dict) else None
    if kind in ("Catalog", "Collection"):
        return _collection(path, document)
    if kind == "Feature" and _of_a_map(document):
        with damaged(f"{path} is not a STAC item, or is damaged"):
            return _item(path, document)
    features = document.get("features") if kind == "FeatureCollection" else None
    # Features with assets are STAC items: an ItemCollection is a scene.
    if isinstance(features, list) and not any("assets" in f for f in features if isinstance(f, dict)):
        return polygons(path)
    # STAC items are scenes.
    return None


def _of_a_map(item: dict[str, Any]) -> bool:
    """Does a STAC item describe a map of Labelscape?"""
    software = (item.get("properties") or {}).get("processing:software")
    return isinstance(software, dict) and "labelscape" in software


def _item(path: Path, item: dict[str, Any]) -> Info:
    facts = {"id": item["id"], "bbox": item.get("bbox"), "when": item["properties"].get("datetime")}
    facts |= {"software": item["properties"]["processing:software"]}
    facts["assets"] = {key: asset["href"] for key, asset in item["assets"].items()}
    # Relative to the item, as STAC defines it; servers are not asked.
    missing = [href for href in facts["assets"].values() if "://" not in href and not _there(path, href)]
    card = {"STAC item": str(path), "of the map": facts["id"], "Date": facts["when"]}
    card["bounds"] = ", ".join(f"{b:.7g}" for b in facts["bbox"] or ()) + " (west, south, east, north)"
    card["Files"] = ", ".join(facts["assets"].values())
    card["Missing files"] = ", ".join(missing)
    card["use"] = "add it to a STAC catalogue; it is a map, not a scene"
    return Info("STAC item", str(path), {**facts, "missing_files": missing}, lines(card))


def _there(item: Path, href: str) -> bool:
    return (item.parent / href).exists()


def _collection(path: Path, document: dict[str, Any]) -> Info:
    links = [one for one in document.get("links") or [] if isinstance(one, dict)]
    items = [str(one.get("href")) for one in links if one.get("rel") in ("item", "child")]
    kind = f"STAC {document['type'].lower()}"
    card = {kind: str(path), "id": document.get("id"), "title": document.get("title") or ""}
    card["links"] = f"{len(items):,} items or collections"
    card["use"] = "pass one of its items as a scene"
    return Info(kind, str(path), {"id": document.get("id"), "items": items}, lines(card))


def _legend(path: Path, document: list[Any]) -> Info | None:
    try:
        legend = Legend.from_json(json.dumps(document))
    # A list of something else.
    except (ValueError, KeyError, TypeError, LabelscapeError):
        return None
    classes = [{"value": c.value, "name": c.name, "color": list(c.color)} for c in legend.classes]
    card = {"legend": str(path), "classes": ", ".join(f"{c.value} {c.name}" for c in legend.classes)}
    card["use"] = f"the classes of a prepared data set: labelscape info {typed(path.parent)}"
    return Info("legend", str(path), {"classes": classes}, lines(card))


def _run_of(path: Path) -> dict[str, Any] | None:
    """The contents of a map's _run.json, None for other JSON. Raises BadFile where it cannot be read."""
    try:
        run = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise BadFile(f"{path} cannot be read as JSON ({error}).") from error
    # Known by what every version has written, whatever else the JSON holds.
    return run if isinstance(run, dict) and {"files", "areas", "software"} <= run.keys() else None


def _map(path: Path, run: dict[str, Any] | None) -> Info:
    """A map by the settings that were stored with it."""
    with damaged(f"{path} is not the _run.json of a map, or is damaged"):
        return _described(path, run or {})


def _described(path: Path, run: dict[str, Any]) -> Info:
    listed = {"files", "areas", "nodata_pixels", "sieved", "notes", "seconds", "seam_score", "forward_share"}
    listed |= {"speed"}
    # `options` repeats the request for scripts of older versions.
    listed |= {"options", "tasks"}
    card = {"map": str(run.get("name", path.stem))}
    card |= settings_in_words({key: value for key, value in run.items() if key not in listed})
    if run.get("seam_score") is not None:
        card["Seam score"] = f"{run['seam_score']:.2f} (1: no seams)"
    if run.get("speed"):
        card["Speed"] = in_words({**run["speed"], "seconds": run.get("seconds")})
    # Names are relative to the run file: a map that was moved is still whole.
    missing = [name for name in run["files"].values() if not (path.parent / name).exists()]
    card["Missing files"] = ", ".join(missing)
    card["Notes"] = " ".join(run.get("notes", ()))
    card["use"] = f"repeat it: labelscape map --rerun {typed(path)} --out FOLDER"
    # Also what other programs put there: it explains a folder that holds more than one map's files.
    entries = entries_of(path.parent, list(run["files"].values()))
    table = area_lines([(a["name"], a["pixels"], a["hectares"]) for a in run["areas"]])
    for name, one in run.get("tasks", {}).items():
        table += [
            "",
            f"{name}:",
            *area_lines([(a["name"], a["pixels"], a["hectares"]) for a in one["areas"]]),
        ]
    table += ["", *file_lines(entries)]
    facts = {**run, "missing_files": missing, "entries": entries}
    return Info("map", str(path), facts, lines(card, table))
