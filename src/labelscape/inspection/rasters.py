"""Rasters: scenes, class maps, the other rasters of a map, and label rasters."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from rasterio.enums import ColorInterp

from labelscape.evaluation.text import area_lines
from labelscape.grid import Grid, Window
from labelscape.inspection.card import Info, json_number, lines, size_text
from labelscape.rasters.class_map import measure_in
from labelscape.rasters.class_names import legend_of
from labelscape.rasters.overviews import count_areas
from labelscape.scenes.files import READ_FAILURES, Source, is_local, reading
from labelscape.scenes.mosaic import open_scene
from labelscape.scenes.scene import Scene
from labelscape.text import typed

RUN = "_run.json"
MOST_LABELS = 32
"""A raster of whole numbers with more values than this is an image, not labels (ours)."""
SAMPLED = 16
"""Blocks that are read to tell labels from an image (ours)."""

MEASURES = {
    "confidence": "confidence: probability of the class shown, in per cent",
    "entropy": "entropy of the prediction, 0 (certain) to 100",
    "unfamiliar": "distance from the training data, above 100 unfamiliar",
    "probability": "probability of every class, one band each, in 1/250",
}
"""What a raster of a map holds in place of classes (`measure_in`), in words."""


def described_raster(path: Source, statistics: bool) -> Info:
    """A file that GDAL opens. Raises as `open_scene` does."""
    if isinstance(path, (str, Path)) and is_local(path) and Path(path).is_file():
        with reading(path) as file:
            # A grey picture has one band of bytes too; only classes have a palette.
            classes = (
                file.count == 1 and file.dtypes[0] == "uint8" and file.colorinterp[0] == ColorInterp.palette
            )
            measure = measure_in(file)
        if measure is not None:
            return _measure(Path(path), MEASURES[measure], statistics)
        if classes:
            return _class_map(Path(path), statistics)
        if (values := _label_values(path)) is not None:
            return _labels(Path(path), values)
    return scene(path, statistics)


def _measure(path: Path, measure: str, statistics: bool) -> Info:
    """A raster of a map that holds no classes."""
    with open_scene(path) as opened:
        facts, card = place(opened)
        facts |= {"holds": measure, "bands": list(opened.bands)}
        card = {"raster of a map": str(path), "holds": measure, **card}
        card["bands"] = ", ".join(opened.bands)
        card["use"] = "open it beside the class map; 255 is nodata"
        facts["statistics"], table = _statistics(opened) if statistics else ([], [])
    return Info("map raster", str(path), facts, lines(card, table))


def _label_values(path: str | Path) -> dict[int, int] | None:
    """Value -> pixels in a sample of blocks of a raster of one band, None where it cannot be labels: other
    than whole numbers, or too many values.
    """
    with reading(path) as file:
        if file.count != 1 or file.dtypes[0] not in ("uint8", "int8", "uint16", "int16", "uint32", "int32"):
            return None
        counts: dict[int, int] = {}
        for window in _spread(file):
            try:
                pixels = file.read(1, window=window.rio)
            except READ_FAILURES:  # whoever reads it next says what is wrong
                return None
            for value, count in zip(*np.unique(pixels, return_counts=True)):
                counts[int(value)] = counts.get(int(value), 0) + int(count)
            if len(counts) > MOST_LABELS:
                return None
    return dict(sorted(counts.items()))


def _spread(file: rasterio.DatasetReader) -> Iterator[Window]:
    """Some blocks spread over a file: its first ones are often all nodata."""
    high, wide = file.block_shapes[0]
    across = -(-file.width // wide)
    blocks = across * -(-file.height // high)
    whole = Window(0, 0, file.height, file.width)
    # By their numbers: files of 2^31 pixels a side have more blocks than a list can hold.
    for number in range(0, blocks, max(1, blocks // SAMPLED)):
        row, column = divmod(number, across)
        yield Window(row * high, column * wide, high, wide) & whole


def _labels(path: Path, values: Mapping[int, int]) -> Info:
    """A raster that looks like labels: few whole numbers."""
    with open_scene(path) as opened:
        facts, card = place(opened)
        nodata = opened.nodata
        facts |= {"dtype": opened.dtype.name, "nodata": json_number(nodata)}
    total = sum(values.values())
    facts |= {"values": [{"value": v, "share": n / total} for v, n in values.items()]}
    listed = ", ".join(f"{v} ({n / total:.1%})" for v, n in values.items())
    card = {"label raster": str(path), **card, "data type": facts["dtype"]}
    card["nodata"] = "none declared" if nodata is None else f"{nodata:g}"
    card["values"] = f"{listed} of the pixels sampled"
    card["use"] = (
        "labels for training: labelscape train SCENE --labels FILE --classes NAME=VALUE; or a scene of one "
        "band"
    )
    return Info("label raster", str(path), facts, lines(card))


def _class_map(path: Path, statistics: bool) -> Info:
    """A class raster: its georeference, its classes, and the software that made it."""
    with open_scene(path) as opened, reading(path) as file:
        tags = {
            k.removeprefix("labelscape_"): v for k, v in file.tags().items() if k.startswith("labelscape_")
        }
        facts, card = place(opened)
    # Without an attribute table, finding the class values means reading every pixel.
    named = bool(tags) or statistics or Path(f"{path}.aux.xml").exists()
    legend = legend_of(path)[0].classes if named else ()
    # Lists: what --json prints is read back as equal.
    classes = [{"value": c.value, "name": c.name, "color": list(c.color)} for c in legend]
    table: list[str] = []
    facts |= {"classes": classes, "made_by": tags}
    card = {"class map": str(path), **card}
    card["classes"] = ", ".join(f"{c['value']} {c['name']}" for c in classes)
    if tags:
        sieved = f", sieved to {tags['sieve']}" if "sieve" in tags else ""
        card["made by"] = (
            f"labelscape {tags.get('version', '')}, {tags.get('network', 'unknown network')}{sieved}"
        )
    if tags.get("forced"):
        card["forced"] = f"mapped although the check refused the scene: {tags['forced']}"
    # Under other names, such as the sieved map's, the run file's stem cannot be told.
    # The map of a second task alone has a run file of its own, else that of the map of both is meant.
    endings = ["_class.tif", *([f"_{tags['task']}_class.tif"] if "task" in tags else [])]
    stems = [path.name.removesuffix(ending) for ending in endings if path.name.endswith(ending)]
    beside = next((run for stem in stems if (run := path.with_name(stem + RUN)).is_file()), None)
    if beside is not None:
        # The class raster holds what a viewer needs; how it was made is in the run file.
        facts["run"], card["settings"] = str(beside), f"labelscape info {typed(beside)}"
    card["use"] = "open it in QGIS; labelscape sieve, labelscape polygonize; or labels for training"
    if statistics:
        areas = _counted(path, {c["value"]: c["name"] for c in classes})
        facts["areas"] = [{"name": n, "pixels": p, "hectares": h} for n, p, h in areas]
        table = area_lines(areas)
    return Info("class map", str(path), facts, lines(card, table))


def _counted(path: Path, names: Mapping[int, str]) -> list[tuple[str, int, float | None]]:
    """(name, pixels, hectares) of each class, from all pixels of a class raster."""
    pixels, metres = np.zeros(256, np.int64), np.zeros(256)
    with reading(path) as file:
        grid = Grid(file.crs, file.transform, file.height, file.width)
        # The blocks of our own COGs: each is decoded once.
        for block in grid.window.blocks(512):
            # As the map's own areas are counted: the two agree.
            counts, areas = count_areas(file.read(1, window=block.rio), grid, block)
            pixels += counts
            metres += areas
    known = grid.is_on_earth
    return [(n, int(pixels[v]), float(metres[v]) / 10_000 if known else None) for v, n in names.items()]


def scene(path: Source, statistics: bool) -> Info:
    """Anything that opens as a scene."""
    said = str(path) if isinstance(path, (str, Path)) else ",".join(map(str, path))
    with open_scene(path) as opened:
        facts, card = place(opened)
        names = ", ".join(opened.bands)
        facts |= {"bands": list(opened.bands), "dtype": opened.dtype.name}
        facts |= {"nodata": json_number(opened.nodata)}
        facts |= {"units": [list(pair) for pair in opened.units], "files": list(opened.files)}
        masks = f", and {opened.alphas} marked as alpha, read as a mask" if opened.alphas else ""
        card = {"scene": said, **card, "bands": f"{len(opened.bands)}: {names}{masks}"}
        card["data type"] = opened.dtype.name
        card["nodata"] = "none declared" if opened.nodata is None else f"{opened.nodata:g}"
        card["units"] = _units(opened)
        card["files"] = f"{len(opened.files):,}" if len(opened.files) > 1 else ""
        card["in memory"] = size_text(opened.nbytes)
        facts["notes"], card["notes"] = list(opened.notes), "; ".join(opened.notes)
        card["use"] = "labelscape train SCENE --labels FILE; labelscape map MODEL SCENE --out FOLDER"
        table: list[str] = []
        if statistics:
            facts["statistics"], table = _statistics(opened)
    return Info("scene", said, facts, lines(card, table))


def _statistics(opened: Scene) -> tuple[list[dict[str, Any]], list[str]]:
    """The range of each band from a sample of its pixels, as JSON values and as a table."""
    from labelscape.contract.bands import band_statistics

    found = band_statistics([opened])
    table = [f"{'band (sampled)':<20}{'min':>12}{'mean':>12}{'max':>12}{'std':>12}"]
    table += [f"{s.name:<20}{s.min:>12.6g}{s.mean:>12.6g}{s.max:>12.6g}{s.std:>12.6g}" for s in found]
    return [s.to_dict() for s in found], table


def place(scene: Scene) -> tuple[dict[str, Any], dict[str, str]]:
    """Size, CRS, pixel size and bounds of a scene, as JSON values and as text."""
    grid, ground = scene.grid, scene.grid.ground_pixel_size
    facts = {"width": grid.width, "height": grid.height, "pixel_size_m": ground, "crs": None, "bounds": None}
    card = {"size": f"{grid.width:,} x {grid.height:,} pixels", "CRS": "none: an image without coordinates"}
    if grid.crs is None and not grid.transform.is_identity:
        card["CRS"] = "none, though it has coordinates: say which, gdal_edit.py -a_srs EPSG:CODE FILE"
    if grid.is_georeferenced:
        bounds = grid.bounds_of(grid.window)
        facts |= {"crs": grid.crs.to_string(), "bounds": list(bounds)}
        across, down = grid.pixel_size
        # CRSs in feet exist: the unit is the CRS's own.
        unit = "degrees" if grid.crs.is_geographic else grid.crs.linear_units.replace("metre", "m")
        pixel = (
            f"{across:.6g} {unit}" if abs(across / down - 1) < 1e-6 else f"{across:.6g} x {down:.6g} {unit}"
        )
        # A CRS without an EPSG code is named by the first words of its WKT; all of it would fill the screen.
        known = grid.crs.to_epsg()
        card["CRS"] = f"EPSG:{known}" if known else grid.crs.to_wkt().partition(",")[0] + ", ...]"
        # Local CRSs, those of other celestial bodies, and grids larger than the Earth have no ground.
        on_ground = "" if ground is None else f" ({ground:.4g} m on the ground)"
        card["pixel size"] = f"{pixel}{on_ground}"
        card["bounds"] = ", ".join(f"{b:.10g}" for b in bounds) + " (left, bottom, right, top)"
    return facts, card


def _units(scene: Scene) -> str:
    """The scales and offsets that the files declare, as text; "" where there are none."""
    pairs = list(dict.fromkeys(scene.units))
    if not pairs or pairs == [(1.0, 0.0)]:
        return ""
    said = ", ".join(
        f"value x {scale:g} {'+' if offset >= 0 else '-'} {abs(offset):g}" for scale, offset in pairs
    )
    return f"declared: {said}"
