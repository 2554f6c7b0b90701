"""The report of a finished map: what was mapped, how it looks, how much there is of each class, how far to
trust it.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import rasterio

from labelscape.checkpoint import Checkpoint
from labelscape.evaluation.metrics import DEFINITIONS
from labelscape.evaluation.report import (
    AreaRow,
    ConfusionFigure,
    Curve,
    ModelScores,
    Picture,
    Report,
    write_report,
)
from labelscape.legend import IGNORE, Legend
from labelscape.scenes.files import gdal
from labelscape.scenes.raster import Scene

SIDE = 1000
"""Pixels a side of the report's pictures, at most."""


def write_map_report(
    path: Path, checkpoint: Checkpoint, scene: Scene, result: object, *, overwrite: bool = False
) -> None:
    """Write the HTML report of a `MapResult`."""
    legend = checkpoint.legend
    classes, confidence = (_small(result.paths[kind]) for kind in ("class", "confidence"))
    trusted = confidence[confidence != IGNORE]
    lead = None
    if trusted.size:
        lead = (
            f"Mean confidence {trusted.mean():.0f} %; {100 * (trusted < 50).mean():.1f} % of the map lies "
            "below 50 %."
        )
    pictures = (
        Picture(
            "Scene",
            scene.thumbnail(SIDE),
            f"{scene.grid.width} x {scene.grid.height} pixels" + _metres(scene),
        ),
        Picture("Map", legend.paint(_indices(classes, legend)), "one colour per class; white is no data"),
        Picture(
            "Confidence",
            _shades(confidence),
            "probability of the class shown, dark is unsure; white is no data",
        ),
    )
    if result.sieved is not None:
        pictures = (*pictures[:2], _sieved(result, legend), *pictures[2:])
    areas = tuple(
        AreaRow(a.name, c.color, a.pixels, a.hectares) for a, c in zip(result.areas, legend.classes)
    )
    scores = tuple(ModelScores(name, metrics) for name, metrics in checkpoint.scores.items())
    own = checkpoint.scores.get(checkpoint.network)
    confusion = None
    if own:
        counts, unpredicted = (np.array(own["confusion"][key]) for key in ("counts", "unpredicted"))
        confusion = ConfusionFigure(
            tuple(c["name"] for c in own["classes"]),
            counts,
            f"{checkpoint.network}, held-out blocks",
            unpredicted,
        )
    curves = ()
    if checkpoint.history:
        steps = tuple(h["step"] for h in checkpoint.history)
        curves = (
            Curve(
                "loss", steps, tuple(h["loss"] for h in checkpoint.history), f"loss of {checkpoint.network}"
            ),
        )
        watched = [h for h in checkpoint.history if "val_miou" in h]
        if watched:
            miou = tuple(h["val_miou"] for h in watched)
            curves += (
                Curve(
                    "mIoU on the part val",
                    tuple(h["step"] for h in watched),
                    miou,
                    f"mIoU of {checkpoint.network}",
                ),
            )
    report = Report(
        title=f"Map of {result.facts['name']}",
        subtitle=f"{checkpoint.network}, {result.facts['when'][:10]}, {result.facts['software']}",
        lead=lead,
        pictures=pictures,
        legend=tuple((c.name, c.color) for c in legend.classes),
        areas=areas,
        nodata_pixels=result.nodata_pixels,
        scores=scores,
        confusion=confusion,
        curves=curves,
        notes=tuple(result.notes),
        definitions=tuple(DEFINITIONS.values()) if scores else (),
        provenance=result.facts,
    )
    write_report(path, report, overwrite=overwrite)


def _sieved(result: object, legend: Legend) -> Picture:
    """The sieved map, and what it is good for."""
    done, unit = result.sieved, "ha" if result.areas[0].hectares is not None else "pixels"
    share = 100 * done.changed_pixels / max(1, sum(a.pixels for a in result.areas))
    caption = (
        f"areas below {result.facts['options']['sieve']:g} {unit} given to a neighbour: {done.given:,} "
        f"areas, {share:.2f} % of the pixels. "
    )
    if done.left:
        caption += f"{done.left:,} smaller ones have no neighbour and stay. "
    caption += (
        "The polygons are of this map; classes, confidences, areas and scores on this page are of the map "
        "before."
    )
    return Picture(
        "Map without small areas", legend.paint(_indices(_small(result.paths["sieved"]), legend)), caption
    )


def _metres(scene: Scene) -> str:
    size = scene.grid.ground_pixel_size
    return f" of {size:.3g} m" if size else ", no coordinates"


def _small(path: Path) -> np.ndarray:
    """The first band at a size for a page; from the overviews where there are any."""
    with gdal(), rasterio.open(path) as file:
        shrink = max(1.0, max(file.shape) / SIDE)
        return file.read(1, out_shape=tuple(max(1, round(n / shrink)) for n in file.shape))


def _indices(values: np.ndarray, legend: Legend) -> np.ndarray:
    table = np.full(256, IGNORE, np.uint8)
    table[legend.values] = np.arange(len(legend))
    return table[values]


def _shades(confidence: np.ndarray) -> np.ndarray:
    """Per cent -> dark blue (0) over green to pale yellow (100), white where there is no data."""
    stops = np.array([[68, 1, 84], [59, 82, 139], [33, 145, 140], [94, 201, 98], [253, 231, 37]], float)
    level = np.minimum(confidence, 100) / 25
    picture = np.stack([np.interp(level, range(5), stops[:, c]) for c in range(3)], axis=-1).astype(np.uint8)
    picture[confidence == IGNORE] = 255
    return picture
