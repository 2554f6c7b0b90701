"""From a checkpoint and a scene to a finished map: classes, confidence, polygons, areas, report."""

from __future__ import annotations

import datetime
import hashlib
import json
import math
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from labelscape.areas.polygon_files import SUFFIXES, check_target
from labelscape.areas.sieve import SieveSummary, check_minimum
from labelscape.areas.sieve import sieve as give_away_small_areas
from labelscape.checkpoint import Checkpoint, load_all
from labelscape.contract.adjust import fitted
from labelscape.contract.compare import compare
from labelscape.contract.matching import bands_to_read
from labelscape.errors import BadFile, BadOption
from labelscape.files import written_whole
from labelscape.maps.journal import Journal, goes_on
from labelscape.maps.plan import mark_forced, refuse_unless
from labelscape.maps.rasters import ClassArea, with_unknown, write_rasters
from labelscape.maps.stac import write_item
from labelscape.progress import bar
from labelscape.scenes.files import Source
from labelscape.scenes.mosaic import open_scene
from labelscape.scenes.raster import Scene
from labelscape.scoring.fade import HANN
from labelscape.scoring.protocol import Protocol
from labelscape.scoring.scorer import Scorer
from labelscape.scoring.stitch import plan_for
from labelscape.scoring.tiles import TilePlan
from labelscape.version import __version__

if TYPE_CHECKING:
    from labelscape.areas.polygonize import PolygonSummary

LONG = 10_000_000
"""Pixels of a map whose polygons, and the sieve before them, take long enough to show how far they are."""


@dataclass(frozen=True)
class MapResult:
    """What `map_scene` made: files by kind ("class", "confidence", "proba", "entropy", "sieved", "polygons",
    "report", "stac", "run"), areas, what to know.

    areas   of the map as the network made it, also where it was sieved
    seam    how much more often classes change where tiles meet than inside them: 1 is no trace; NaN for a
            single tile
    sieved  what became of the classes in the sieved map; None where there is none
    outlined  how many polygons were written; None where none were asked for
    """

    paths: dict[str, Path]
    areas: tuple[ClassArea, ...]
    nodata_pixels: int
    notes: tuple[str, ...]
    seconds: float
    tiles: int
    forward_share: float
    seam: float = math.nan
    facts: dict = field(default_factory=dict)
    sieved: SieveSummary | None = None
    outlined: PolygonSummary | None = None


def map_scene(
    checkpoint: Checkpoint | str | Path | Sequence[Checkpoint | str | Path],
    scene: Source,
    out: str | Path,
    *,
    name: str | None = None,
    tile_size: int | None = None,
    overlap: int | None = None,
    blend: str | None = None,
    protocol: Protocol | None = None,
    reject: float | None = None,
    entropy: bool = False,
    proba: bool = False,
    sieve: float = 0.0,
    polygons: bool = True,
    polygons_as: str = "gpkg",
    min_area: float = 0.0,
    simplify: float = 0.0,
    report: bool = True,
    nodata: float | None = None,
    area: str | Path | None = None,
    device: str = "auto",
    precision: str = "32",
    overwrite: bool = False,
    force: bool = False,
) -> MapResult:
    """Map a scene of any size into the folder `out`; memory does not grow with the scene.

    A map of the same scene, model and options that was interrupted in `out` goes on where it was. Several
    checkpoints are averaged.

    protocol  scales and turns that each tile is looked at with
    reject    confidence (0..1) below which a pixel becomes the class "unknown", which is added to the legend
    entropy   also write how undecided the network was: 0 (sure) to 100 (all classes alike), uint8
    proba     also write one uint8 band of probabilities per class (scale 1/250)
    area      polygons in any CRS: only what lies in them is mapped, on a grid cut to them
    sieve     hectares (pixels without coordinates): also write the map with all smaller areas given to a
              neighbour, see `maps.sieve`; polygons are then made of that one. The class raster, and the areas
              that are told, stay those of the network
    min_area  hectares below which a polygon is left out of the polygon file (the raster keeps it)
    polygons_as  gpkg, geojson, fgb or parquet
    simplify  metres (pixels without coordinates) by which polygon borders may be smoothed; see `polygonize`
    tile_size, overlap  pixels; by default what leaves no trace of tiles for the network
    blend     "hann" lets neighbouring tiles fade into each other (default where halos cannot be exact),
              "crop" cuts at their cores
    force     map a scene that the check refuses; what was found stands in the run's notes and in the class
              raster's tag `labelscape_forced`

    Raises BadInput where the scene does not fit the model (see `check`), BadFile where files cannot be read
    or written. A file takes its final name only when it is whole.
    """
    start = time.monotonic()
    checkpoints = [checkpoint] if isinstance(checkpoint, (Checkpoint, str, Path)) else list(checkpoint)
    models = load_all(checkpoints)
    checkpoint = models[0]
    if reject is not None and not 0 < reject < 1:
        raise BadOption(f"reject={reject} must lie between 0 and 1.")
    if sieve:
        check_minimum(sieve)
    if name is not None and Path(name).name != name:
        raise BadOption(
            f"The name {name!r} is no stem of files; it must be a name without folders, which --out says."
        )
    out = Path(out)
    asked = {
        "tile_size": tile_size,
        "overlap": overlap,
        "blend": blend,
        "protocol": asdict(protocol or Protocol()),
        "reject": reject,
        "entropy": entropy,
        "proba": proba,
        "sieve": sieve,
        "polygons": polygons,
        "polygons_as": polygons_as,
        "min_area": min_area,
        "simplify": simplify,
        "report": report,
        "nodata": nodata,
        "area": None if area is None else str(area),
        "device": device,
        "precision": precision,
        "force": force,
    }
    with (
        open_scene(scene, nodata=nodata, area=area, wanted=checkpoint.bands) as as_stored,
        ExitStack() as handles,
    ):
        opened, mended = fitted(checkpoint.contract, as_stored)
        handles.enter_context(opened)
        stem = name or opened.name
        findings = (*mended, *compare(checkpoint.contract, opened))
        if not force:
            refuse_unless(findings, opened.name)
        bands_to_read(checkpoint.bands, opened)  # no force makes up a band
        notes = [f.cause for f in findings]
        paths = _paths(
            out,
            stem,
            proba=proba,
            entropy=entropy,
            sieved=bool(sieve),
            polygons=polygons and polygons_as,
            report=report,
            stac=opened.grid.is_georeferenced,
        )
        if polygons:
            from labelscape.areas.polygonize import check_sizes

            check_target(paths["polygons"])
            check_sizes(min_area, simplify, opened.grid, opened.name)
        scorer = Scorer.of(models, device=device, precision=precision, protocol=protocol or Protocol())
        plan = plan_for(scorer, opened, tile_size=tile_size, overlap=overlap, blend=blend)
        settings = {**_settings(models, opened, area, plan, scorer, reject, paths), "nodata": nodata}
        unfinished = out / f".{stem}.unfinished"
        overwrite = overwrite or goes_on(
            unfinished, settings
        )  # files that this very map had finished when it was stopped
        _make_room(out, paths, overwrite)
        if left := _left_behind(out, stem, paths):
            notes.append(
                f"{', '.join(left)} in {out} {'are' if len(left) > 1 else 'is'} of an earlier map, not of "
                "this one"
            )
        journal = Journal(unfinished, settings)
        legend = with_unknown(checkpoint.legend) if reject else checkpoint.legend
        tally = write_rasters(
            scorer, opened, plan, paths, legend, journal, reject=reject, overwrite=overwrite
        )
        mark_forced(paths["class"], findings)
        shown, sieved, outlined = opened.grid.window.pixels > LONG, None, None
        if sieve:
            with bar(f"sieve {stem}", opened.grid.height, "rows", shown=shown) as tick:
                sieved = give_away_small_areas(
                    paths["class"], paths["sieved"], legend, min_area=sieve, overwrite=overwrite, tick=tick
                )
        if polygons:
            from labelscape.areas.polygonize import polygonize

            with bar(f"polygons of {stem}", opened.grid.height, "rows", shown=shown) as tick:
                source = paths["sieved" if sieve else "class"]
                outlined = polygonize(
                    source,
                    paths["polygons"],
                    legend,
                    min_area=min_area,
                    simplify=simplify,
                    overwrite=overwrite,
                    tick=tick,
                )
        facts = {
            "name": stem,
            **_provenance(checkpoint, scene, opened, plan, scorer),
            "models": _files_of(checkpoints),
            "options": asked,
        }
        result = MapResult(
            paths,
            tally.areas(),
            int(tally.nodata),
            tuple(notes),
            time.monotonic() - start,
            len(plan),
            plan.forward_share,
            tally.seams.score,
            facts,
            sieved,
            outlined,
        )
        if report:
            from labelscape.maps.page import write_map_report

            write_map_report(
                paths["report"], replace(checkpoint, legend=legend), opened, result, overwrite=overwrite
            )
        _write_run(paths["run"], result, overwrite)
        if "stac" in paths:
            write_item(
                paths["stac"],
                opened.grid,
                legend,
                paths,
                facts["when"],
                software=facts["software"],
                overwrite=overwrite,
            )
        journal.close()
    return result


def _settings(
    models: list[Checkpoint],
    scene: Scene,
    area: str | Path | None,
    plan: TilePlan,
    scorer: Scorer,
    reject: float | None,
    paths: dict[str, Path],
) -> dict:
    """All that decides a tile's values, and which rasters are written: what an interrupted map must share
    to be gone on with.
    """
    grid, files = scene.grid, [Path(f) for f in (*scene.files, *([] if area is None else [str(area)]))]
    return {
        "version": __version__,
        "models": [fingerprint(m) for m in models],
        "plan": [plan.core, plan.halo, plan.fade, HANN.name],
        "protocol": asdict(scorer.protocol),
        "scene": [[str(f), *([f.stat().st_size, f.stat().st_mtime_ns] if f.exists() else [])] for f in files],
        "grid": [str(grid.crs), *grid.transform, *grid.shape],
        "precision": str(scorer.dtype),
        "device": scorer.device.type,
        "reject": reject,
        "rasters": sorted(paths),
    }


def fingerprint(checkpoint: Checkpoint) -> str:
    """SHA-256 of a checkpoint's weights and of what it reads."""
    digest = hashlib.sha256(json.dumps(checkpoint.describe(), sort_keys=True, default=str).encode())
    for name in sorted(checkpoint.weights):
        digest.update(name.encode() + np.ascontiguousarray(checkpoint.weights[name]).tobytes())
    return digest.hexdigest()


ENDINGS = {
    "class": "_class.tif",
    "confidence": "_confidence.tif",
    "proba": "_proba.tif",
    "entropy": "_entropy.tif",
    "sieved": "_sieved.tif",
    "polygons": "_polygons{}",
    "report": "_report.html",
    "stac": "_stac.json",
    "run": "_run.json",
}


def _paths(
    out: Path,
    stem: str,
    *,
    proba: bool,
    entropy: bool,
    sieved: bool,
    polygons: str | bool,
    report: bool,
    stac: bool,
) -> dict[str, Path]:
    """Where the files go."""
    asked = {
        "proba": proba,
        "entropy": entropy,
        "sieved": sieved,
        "polygons": polygons,
        "report": report,
        "stac": stac,
    }
    return {
        kind: out / (stem + ending.format(f".{polygons}"))
        for kind, ending in ENDINGS.items()
        if asked.get(kind, True)
    }


def _make_room(out: Path, paths: dict[str, Path], overwrite: bool) -> None:
    """Make the folder. Raises BadFile before any work where it cannot be made, or holds one of the files
    and may not be overwritten.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BadFile(f"The folder {out} cannot be made: {error.strerror or error}.") from error
    taken = [path for path in paths.values() if path.exists()]
    if taken and not overwrite:
        raise BadFile(f"{taken[0]} exists; pass --overwrite to replace it, or another --out or --name.")


def _left_behind(out: Path, stem: str, paths: dict[str, Path]) -> list[str]:
    """Names of an earlier map's files that this one does not replace: beside it they would look like its
    own.
    """
    endings = [e.format(suffix) for e in ENDINGS.values() for suffix in (SUFFIXES if "{}" in e else ("",))]
    written = {path.name for path in paths.values()}
    return [
        name for ending in endings if (name := f"{stem}{ending}") not in written and (out / name).exists()
    ]


def _files_of(checkpoints: Sequence[Checkpoint | str | Path]) -> list[dict]:
    """Where the checkpoints lie and which they are; those handed over in memory lie nowhere."""
    return [
        {"path": None, "sha256": None}
        if isinstance(c, Checkpoint)
        else {"path": str(c), "sha256": hashlib.sha256(Path(c).read_bytes()).hexdigest()}
        for c in checkpoints
    ]


def _provenance(checkpoint: Checkpoint, source: Source, scene: Scene, plan: TilePlan, scorer: Scorer) -> dict:
    """What it takes to make the map again."""
    grid = scene.grid
    return {
        "software": f"labelscape {__version__}",
        "when": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "scene": [str(s) for s in source]
        if isinstance(source, Sequence) and not isinstance(source, str)
        else str(source),
        "size": [grid.width, grid.height],
        "crs": grid.crs.to_string() if grid.crs else None,
        "pixel_size_m": grid.ground_pixel_size,
        "network": checkpoint.network,
        "options": checkpoint.options,
        "bands": list(bands_to_read(checkpoint.bands, scene)),
        "core": plan.core,
        "halo": plan.halo,
        "blend": plan.fade,
        "tiles": len(plan),
        "scales": list(scorer.protocol.scales),
        "tta": scorer.protocol.tta,
        "models_averaged": len(scorer.members),
        "device": str(scorer.device),
        "precision": "32" if scorer.dtype is None else str(scorer.dtype).removeprefix("torch."),
    }


def _write_run(path: Path, result: MapResult, overwrite: bool) -> None:
    fields = {
        **result.facts,
        "files": {kind: p.name for kind, p in result.paths.items()},
        "areas": [asdict(a) for a in result.areas],
        "nodata_pixels": result.nodata_pixels,
        "sieved": None if result.sieved is None else asdict(result.sieved),
        "notes": list(result.notes),
        "seconds": round(result.seconds, 2),
        "seam_score": None if math.isnan(result.seam) else round(result.seam, 4),
        "forward_share": None if math.isnan(result.forward_share) else round(result.forward_share, 4),
    }
    with written_whole(path, overwrite=overwrite) as part:
        part.write_text(json.dumps(fields, indent=2) + "\n")
