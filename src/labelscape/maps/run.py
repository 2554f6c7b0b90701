"""From a checkpoint and a scene to a finished map: classes, confidence, polygons, areas, report."""

from __future__ import annotations

import datetime
import hashlib
import json
import math
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np

from labelscape.checkpoint import Checkpoint
from labelscape.errors import BadFile, BadInput
from labelscape.files import written_whole
from labelscape.grid import Grid, Window
from labelscape.imagery.contract import differences
from labelscape.imagery.raster import Scene, Source
from labelscape.legend import IGNORE
from labelscape.maps.stitch import ScoredTile, match_bands, plan_for, score_tiles
from labelscape.maps.write import MapWriter, count_values
from labelscape.progress import bar
from labelscape.scores import Scorer
from labelscape.tiles import TilePlan
from labelscape.version import __version__

AREA_ROWS = 256
"""Pixel areas are taken per strip of this many rows: on most grids they change from row to row."""


@dataclass(frozen=True)
class ClassArea:
    """How much of a map a class covers; `hectares` on the WGS 84 ellipsoid, None without coordinates."""

    name: str
    pixels: int
    hectares: float | None


@dataclass(frozen=True)
class MapResult:
    """What `map_scene` made: files by kind ("class", "confidence", "proba", "polygons", "report", "run"), areas, and what to know."""

    paths: dict[str, Path]
    areas: tuple[ClassArea, ...]
    nodata_pixels: int
    notes: tuple[str, ...]
    seconds: float
    tiles: int
    forward_share: float
    facts: dict = field(default_factory=dict)


def map_scene(
    checkpoint: Checkpoint | str | Path, scene: Source, out: str | Path, *, name: str | None = None, tile_size: int | None = None,
    overlap: int | None = None, proba: bool = False, polygons: bool = True, min_area: float = 0.0, report: bool = True,
    nodata: float | None = None, device: str = "auto", precision: str = "32", overwrite: bool = False,
) -> MapResult:  # fmt: skip
    """Map a scene of any size into the folder `out`; memory does not grow with the scene.

    proba     also write one uint8 band of probabilities per class (scale 1/250)
    min_area  hectares below which a polygon is left out of the polygon file (the raster keeps it)
    tile_size, overlap  pixels; by default what leaves no trace of tiles for the network

    Raises BadInput where the bands do not fit, BadFile where files cannot be read or written. A file takes its final name only when it is whole.
    """
    start = time.monotonic()
    source = Path(checkpoint) if isinstance(checkpoint, (str, Path)) else None
    if source is not None:
        from labelscape.checkpoint import load

        checkpoint = load(source)
    out = Path(out)
    with Scene(scene, nodata=nodata) as opened:
        stem = name or opened.name
        bands = match_bands(checkpoint.bands, opened)
        notes = differences(checkpoint, opened, bands)
        paths = _free_paths(out, stem, proba=proba, polygons=polygons, report=report, overwrite=overwrite)
        scorer = Scorer.of(checkpoint, device=device, precision=precision)
        plan = plan_for(scorer, opened, tile_size=tile_size, overlap=overlap)
        tally = _write_rasters(scorer, opened, plan, paths, overwrite)
        if polygons:
            from labelscape.maps.vectors import polygonize

            polygonize(paths["class"], paths["polygons"], checkpoint.legend, min_area_ha=min_area, overwrite=overwrite)
        facts = {"name": stem, **_provenance(checkpoint, source, scene, opened, plan, scorer)}
        result = MapResult(
            paths, tally.areas(checkpoint), int(tally.nodata), tuple(notes), time.monotonic() - start, len(plan), plan.forward_share, facts
        )
        if report:
            from labelscape.maps.page import write_map_report

            write_map_report(paths["report"], checkpoint, opened, result, overwrite=overwrite)
        _write_run(paths["run"], result, overwrite)
    return result


@dataclass
class _Tally:
    """Pixels and hectares per class, summed while tiles are written."""

    grid: Grid
    pixels: np.ndarray
    square_metres: np.ndarray
    nodata: int = 0

    def add(self, core: Window, classes: np.ndarray) -> None:
        for strip in _strips(core):
            counts = count_values(classes[strip.inset_of(core)])
            self.nodata += int(counts[IGNORE])
            counts = counts[: len(self.pixels)]
            self.pixels += counts
            self.square_metres += counts * self.grid.pixel_areas(strip.top + strip.height / 2, strip.left + strip.width / 2)

    def areas(self, checkpoint: Checkpoint) -> tuple[ClassArea, ...]:
        known = self.grid.is_georeferenced
        return tuple(
            ClassArea(c.name, int(self.pixels[i]), float(self.square_metres[i]) / 10_000 if known else None)
            for i, c in enumerate(checkpoint.legend.classes)
        )


def _strips(core: Window) -> Iterator[Window]:
    for top in range(core.top, core.bottom, AREA_ROWS):
        yield Window(top, core.left, min(AREA_ROWS, core.bottom - top), core.width)


def _write_rasters(scorer: Scorer, scene: Scene, plan: TilePlan, paths: dict[str, Path], overwrite: bool) -> _Tally:
    """Score the tiles and write them, one tile behind the network."""
    legend = scorer.checkpoint.legend
    tally = _Tally(scene.grid, np.zeros(len(legend), np.int64), np.zeros(len(legend)))
    with ExitStack() as files:
        common = {"tags": {"labelscape_version": __version__, "labelscape_network": scorer.checkpoint.network}, "overwrite": overwrite}
        classes = files.enter_context(MapWriter(paths["class"], scene.grid, "uint8", 1, IGNORE, legend=legend, **common))
        confidence = files.enter_context(MapWriter(paths["confidence"], scene.grid, "uint8", 1, IGNORE, descriptions=["confidence (%)"], **common))
        proba = None
        if "proba" in paths:
            common["tags"] |= {"scale": "1/250"}
            proba = files.enter_context(MapWriter(paths["proba"], scene.grid, "uint8", len(legend), IGNORE, descriptions=legend.names, **common))

        def write(tile: ScoredTile) -> None:
            found = tile.classes()
            tally.add(tile.core, found)
            classes.write(tile.core, legend.decode(found))
            confidence.write(tile.core, tile.percent())
            if proba is not None:
                scaled = tile.probabilities.mul(250).round_().numpy().astype(np.uint8)
                scaled[:, ~tile.valid] = IGNORE
                proba.write(tile.core, scaled)

        done = 0
        with bar(f"map {scene.name}", len(plan), "tiles") as tick, ThreadPoolExecutor(1, thread_name_prefix="write") as writer:
            behind: Future | None = None
            for tile in score_tiles(scorer, scene, plan):
                if behind is not None:
                    behind.result()  # at most one tile waits: memory stays bounded, and an error stops the work at once
                behind = writer.submit(write, tile)
                done += 1
                tick()
            if behind is not None:
                behind.result()
            tick(len(plan) - done)
        if not tally.pixels.sum():  # inside the writers, so that no file is left
            raise BadInput(f"{scene.name} has no valid pixel: the whole map is nodata. Check the scene's nodata value or name it with --nodata.")
        writers = [w for w in (classes, confidence, proba) if w is not None]
        with ThreadPoolExecutor(len(writers), thread_name_prefix="finish") as pool:
            for done in [pool.submit(w.finish) for w in writers]:
                done.result()
    tally.nodata = scene.grid.window.pixels - int(tally.pixels.sum())
    return tally


def _free_paths(out: Path, stem: str, *, proba: bool, polygons: bool, report: bool, overwrite: bool) -> dict[str, Path]:
    """Where the files go. Raises BadFile before any work where one exists or the folder cannot be made."""
    kinds = {
        "class": "_class.tif", "confidence": "_confidence.tif", "proba": "_proba.tif", "polygons": "_polygons.gpkg", "report": "_report.html",
        "run": "_run.json",
    }  # fmt: skip
    unwanted = {k for k, wanted in (("proba", proba), ("polygons", polygons), ("report", report)) if not wanted}
    paths = {kind: out / f"{stem}{ending}" for kind, ending in kinds.items() if kind not in unwanted}
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BadFile(f"The folder {out} cannot be made: {error.strerror or error}.") from error
    taken = [path for path in paths.values() if path.exists()]
    if taken and not overwrite:
        raise BadFile(f"{taken[0]} exists; pass --overwrite to replace it, or another --out or --name.")
    return paths


def _provenance(checkpoint: Checkpoint, path: Path | None, source: Source, scene: Scene, plan: TilePlan, scorer: Scorer) -> dict:
    """What it takes to make the map again."""
    grid = scene.grid
    return {
        "software": f"labelscape {__version__}",
        "when": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "scene": [str(s) for s in source] if isinstance(source, Sequence) and not isinstance(source, str) else str(source),
        "size": [grid.width, grid.height],
        "crs": grid.crs.to_string() if grid.crs else None,
        "pixel_size_m": grid.ground_pixel_size,
        "checkpoint": str(path) if path else None,
        "checkpoint_sha256": hashlib.sha256(path.read_bytes()).hexdigest() if path else None,
        "network": checkpoint.network,
        "options": checkpoint.options,
        "bands": list(match_bands(checkpoint.bands, scene)),
        "core": plan.core,
        "halo": plan.halo,
        "tiles": len(plan),
        "device": str(scorer.device),
        "precision": "32" if scorer.dtype is None else str(scorer.dtype).removeprefix("torch."),
    }


def _write_run(path: Path, result: MapResult, overwrite: bool) -> None:
    fields = {
        **result.facts,
        "files": {kind: p.name for kind, p in result.paths.items()},
        "areas": [asdict(a) for a in result.areas],
        "nodata_pixels": result.nodata_pixels,
        "notes": list(result.notes),
        "seconds": round(result.seconds, 2),
        "forward_share": None if math.isnan(result.forward_share) else round(result.forward_share, 4),
    }
    with written_whole(path, overwrite=overwrite) as part:
        part.write_text(json.dumps(fields, indent=2) + "\n")
