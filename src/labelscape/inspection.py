"""Describe a file (`info`): a checkpoint, a map and its settings, or a scene, without loading weights or
pixels.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rasterio.enums import ColorInterp

from labelscape.checkpoint import description
from labelscape.contract.tile_sizes import TileSizes
from labelscape.errors import BadFile, BadInput, LabelscapeError
from labelscape.evaluation.text import area_lines
from labelscape.files import check_path
from labelscape.grid import Grid
from labelscape.maps.settings import settings_in_words
from labelscape.model_card import model_card
from labelscape.rasters.class_names import legend_of
from labelscape.rasters.overviews import count_values
from labelscape.scenes.files import Source, gdal, open_raster
from labelscape.scenes.mosaic import open_scene
from labelscape.scenes.scene import Scene

RUN = "_run.json"


@dataclass(frozen=True, repr=False)
class Info:
    """The result of `info`. `kind` is "checkpoint", "map", "class map" or "scene"; `facts` are JSON values,
    `text` is the same for people.
    """

    kind: str
    path: str
    facts: Mapping[str, Any]
    text: str

    def __repr__(self) -> str:
        return self.text

    def to_dict(self) -> dict[str, Any]:
        return {"kind": self.kind, "path": self.path, **self.facts}


def info(path: Source, *, statistics: bool = False) -> Info:
    """Describe a file or folder: what it is, and its facts.

    path        a checkpoint (.safetensors); a map: its folder, its `_run.json` or a class raster; anything
                that opens as a scene, also a list of files
    statistics  also read about 1 % of a scene's pixels for the range of each band, and all of a class raster
                for the areas of its classes

    Raises BadFile where it is none of these or damaged, BadInput for a folder of several maps or checkpoints.
    """
    if isinstance(path, (list, tuple)):
        return _scene(path, statistics)
    check_path(path, "A checkpoint, map or scene")
    place = Path(path)
    if place.suffix == ".safetensors":
        return _checkpoint(place)
    if place.is_dir():
        # A folder of maps and one of checkpoints are told apart here; any other folder may be a scene of
        # several files.
        runs, models = sorted(place.glob(f"*{RUN}")), sorted(place.glob("*.safetensors"))
        if len(runs) == 1:
            return _map(runs[0], _run_of(runs[0]))
        for kind, found in (("maps", runs), ("checkpoints", models)):
            if found:
                names = ", ".join(str(f) for f in found[:5])
                raise BadInput(f"{path} holds {kind}; pass one of them: {names}.")
    # STAC items are JSON too, and are scenes.
    run = _run_of(place) if place.suffix == ".json" and place.is_file() else None
    if run is not None:
        return _map(place, run)
    try:
        return _class_map(place, statistics) if _is_class_map(place) else _scene(path, statistics)
    except LabelscapeError as error:
        if not place.exists():
            raise
        # The new sentence begins with the path already.
        why = str(error).removeprefix(f"{path} ").rstrip(".")
        raise BadFile(f"{path} is not a checkpoint, a map or a scene: {why}.") from error


@contextmanager
def _damaged(what: str) -> Iterator[None]:
    """Values of another type than the program writes, in a file that anybody may have changed, as BadFile."""
    try:
        yield
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise BadFile(f"{what} ({type(error).__name__}: {error}).") from error


def _checkpoint(path: Path) -> Info:
    fields = description(path)
    facts = {"bytes": path.stat().st_size, **fields, "nodata": _json_number(fields.get("nodata"))}
    with _damaged(f"{path} has a damaged description"):
        about = model_card(fields)
    card = {"checkpoint": str(path), **about, "file size": _megabytes(path.stat().st_size)}
    sizes = TileSizes.from_dict(fields["tile_sizes"]).lines() if fields.get("tile_sizes") else []
    table = ["scores by tile size, measured on held-out pixels after training:", *sizes] if sizes else []
    return Info("checkpoint", str(path), facts, _lines(card, table))


def _run_of(path: Path) -> dict[str, Any] | None:
    """The contents of a map's _run.json, None for other JSON. Raises BadFile where it cannot be read."""
    try:
        run = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise BadFile(f"{path} cannot be read as JSON ({error}).") from error
    return run if isinstance(run, dict) and {"files", "areas", "software"} <= run.keys() else None


def _map(path: Path, run: dict[str, Any] | None) -> Info:
    """A map by the settings that were stored with it."""
    with _damaged(f"{path} is not the _run.json of a map, or is damaged"):
        return _described(path, run or {})


def _described(path: Path, run: dict[str, Any]) -> Info:
    listed = {"files", "areas", "nodata_pixels", "sieved", "notes", "seconds", "seam_score", "forward_share"}
    card = {"map": str(run.get("name", path.stem))}
    card |= settings_in_words({key: value for key, value in run.items() if key not in listed})
    if run.get("seam_score") is not None:
        card["Seam score"] = f"{run['seam_score']:.2f} (1: no seams)"
    # Names are relative to the run file: a map that was moved is still whole.
    missing = [name for name in run["files"].values() if not (path.parent / name).exists()]
    card["Files"] = ", ".join(run["files"].values())
    card["Missing files"] = ", ".join(missing)
    card["Notes"] = " ".join(run.get("notes", ()))
    table = area_lines([(a["name"], a["pixels"], a["hectares"]) for a in run["areas"]])
    return Info("map", str(path), {**run, "missing_files": missing}, _lines(card, table))


def _is_class_map(path: Path) -> bool:
    """Is this one band of uint8 with a colour table: a class map of Labelscape or of other software?"""
    if not path.is_file() or path.suffix == ".json":
        return False
    with gdal(), open_raster(path) as file:
        # A grey picture has one band of bytes too; only classes have a palette.
        return file.count == 1 and file.dtypes[0] == "uint8" and file.colorinterp[0] == ColorInterp.palette


def _class_map(path: Path, statistics: bool) -> Info:
    """A class raster: its georeference, its classes, and the software that made it."""
    with open_scene(path) as scene, gdal(), open_raster(path) as file:
        tags = {
            k.removeprefix("labelscape_"): v for k, v in file.tags().items() if k.startswith("labelscape_")
        }
        facts, card = _place(scene)
    # Without an attribute table, finding the class values means reading every pixel.
    named = bool(tags) or statistics or Path(f"{path}.aux.xml").exists()
    legend = legend_of(path)[0].classes if named else ()
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
    beside = path.with_name(path.name.removesuffix("_class.tif") + RUN)
    if path.name.endswith("_class.tif") and beside.is_file():
        facts["run"], card["settings"] = str(beside), f"labelscape info {beside}"
    if statistics:
        areas = _counted(path, {c["value"]: c["name"] for c in classes})
        facts["areas"] = [{"name": n, "pixels": p, "hectares": h} for n, p, h in areas]
        table = area_lines(areas)
    return Info("class map", str(path), facts, _lines(card, table))


def _counted(path: Path, names: Mapping[int, str]) -> list[tuple[str, int, float | None]]:
    """(name, pixels, hectares) of each class, from all pixels of a class raster."""
    pixels, metres = np.zeros(256, np.int64), np.zeros(256)
    with gdal(), open_raster(path) as file:
        grid = Grid(file.crs, file.transform, file.height, file.width)
        # The blocks of our own COGs: each is decoded once.
        for block in grid.window.blocks(512):
            counts = count_values(file.read(1, window=block.rio))
            # One pixel area per block, as the map's own areas are counted: the two agree.
            middle = block.top + (block.height - 1) / 2, block.left + (block.width - 1) / 2
            pixels += counts
            metres += counts * grid.pixel_areas(*middle)
    known = grid.is_georeferenced
    return [(n, int(pixels[v]), float(metres[v]) / 10_000 if known else None) for v, n in names.items()]


def _scene(path: Source, statistics: bool) -> Info:
    said = str(path) if isinstance(path, (str, Path)) else ",".join(map(str, path))
    with open_scene(path) as scene:
        facts, card = _place(scene)
        names = ", ".join(scene.bands)
        facts |= {"bands": list(scene.bands), "dtype": scene.dtype.name, "nodata": _json_number(scene.nodata)}
        facts |= {"units": [list(pair) for pair in scene.units], "files": list(scene.files)}
        card = {"scene": said, **card, "bands": f"{len(scene.bands)}: {names}", "data type": scene.dtype.name}
        card["nodata"] = "none declared" if scene.nodata is None else f"{scene.nodata:g}"
        card["units"] = _units(scene)
        card["files"] = f"{len(scene.files):,}" if len(scene.files) > 1 else ""
        card["in memory"] = _megabytes(scene.nbytes)
        facts["notes"], card["notes"] = list(scene.notes), "; ".join(scene.notes)
        table: list[str] = []
        if statistics:
            from labelscape.contract.bands import band_statistics

            found = band_statistics([scene])
            facts["statistics"] = [s.to_dict() for s in found]
            table = [f"{'band (sampled)':<20}{'min':>12}{'mean':>12}{'max':>12}{'std':>12}"]
            table += [f"{s.name:<20}{s.min:>12.6g}{s.mean:>12.6g}{s.max:>12.6g}{s.std:>12.6g}" for s in found]
    return Info("scene", said, facts, _lines(card, table))


def _json_number(value: float | None) -> float | str | None:
    """NaN is a frequent nodata value, and not valid JSON."""
    return value if value is None or value == value else "nan"


def _place(scene: Scene) -> tuple[dict[str, Any], dict[str, str]]:
    """Size, CRS, pixel size and bounds of a scene, as JSON values and as text."""
    grid, ground = scene.grid, scene.grid.ground_pixel_size
    facts = {"width": grid.width, "height": grid.height, "pixel_size_m": ground, "crs": None, "bounds": None}
    card = {"size": f"{grid.width:,} x {grid.height:,} pixels", "CRS": "none: an image without coordinates"}
    if grid.is_georeferenced:
        bounds = grid.bounds_of(grid.window)
        facts |= {"crs": grid.crs.to_string(), "bounds": list(bounds)}
        across, down = grid.pixel_size
        unit = "degrees" if grid.crs.is_geographic else grid.crs.linear_units.replace("metre", "m")
        pixel = (
            f"{across:.6g} {unit}" if abs(across / down - 1) < 1e-6 else f"{across:.6g} x {down:.6g} {unit}"
        )
        # A CRS without an EPSG code is named by the first words of its WKT; all of it would fill the screen.
        known = grid.crs.to_epsg()
        card["CRS"] = f"EPSG:{known}" if known else grid.crs.to_wkt().partition(",")[0] + ", ...]"
        card["pixel size"] = f"{pixel} ({ground:.4g} m on the ground)"
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


def _megabytes(size: int) -> str:
    return f"{size / 1e9:.2f} GB" if size >= 1e9 else f"{size / 1e6:.2f} MB"


def _lines(card: Mapping[str, Any], table: Sequence[str] = ()) -> str:
    rows = {label: _plain(value) for label, value in card.items()}
    wide = max(len(label) for label in rows) + 2
    lines = [f"{label:<{wide}}{value}" for label, value in rows.items() if value]
    return "\n".join([*lines, *(["", *table] if table else [])])


def _plain(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)
