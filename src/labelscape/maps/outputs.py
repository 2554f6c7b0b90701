"""The output files of a map, one row each. Writers, the journal's tiles, disk estimates, paths and the STAC
item all go through these rows: a new raster is one more row of RASTERS.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Self

import numpy as np

from labelscape.areas.polygon_files import SUFFIXES
from labelscape.files import bytes_text, stem_of
from labelscape.legend import IGNORE, Legend
from labelscape.scoring.arrays import Array, as_numpy, library_of
from labelscape.scoring.scored import ScoredTile

if TYPE_CHECKING:
    from labelscape.maps.request import MapRequest

DATA = ("data",)
LIMIT, MOST_UNFAMILIAR = 100, 254
"""Of the raster of unfamiliar input: the value at the limit, and the largest."""


@dataclass(frozen=True, kw_only=True)
class FileOutput:
    """An output file of a map: its kind (key of `MapResult.paths` and of the STAC item's assets) and the
    ending of its name, with `{}` for the suffix of polygons.

    holds         its contents, for the report
    title, roles  of the STAC asset; an output without a title is not an asset
    asked         does a request ask for it?
    task          name of the second task whose classes it has; "" for the first
    """

    kind: str
    ending: str
    holds: str
    title: str = ""
    roles: tuple[str, ...] = DATA
    asked: Callable[[MapRequest], bool] = lambda request: True
    task: str = ""

    def of_task(self, task: str) -> Self:
        """The same file of a second task: `road` puts the word before its kind and its ending."""
        return replace(
            self,
            kind=f"{task}_{self.kind}",
            ending=f"_{task}{self.ending}",
            holds=f"{task}: {self.holds}",
            title=f"{task}: {self.title}",
            task=task,
        )


@dataclass(frozen=True, kw_only=True)
class RasterOutput(FileOutput):
    """A uint8 raster written tile by tile.

    band_names  the network's legend -> a description per band
    render      a scored tile and the rejection threshold -> (bands, h, w) uint8, 255 where invalid
    classes     class indices: written as class values with the legend's colours, overviews by mode; else
                smooth values, overviews by mean
    tags        of the file
    """

    band_names: Callable[[Legend], tuple[str, ...]]
    render: Callable[[ScoredTile, float | None], np.ndarray]
    classes: bool = False
    tags: Mapping[str, str] = field(default_factory=dict)


def _classes(tile: ScoredTile, reject: float | None) -> np.ndarray:
    """Indices of the most probable class; the class "unknown" has the index after the network's last."""
    classes = tile.classes()
    if reject is not None:
        # Compared with the rounded per cent that the confidence raster shows: a user can repeat the rejection
        # from the two files.
        classes[(tile.percent() < 100 * reject) & tile.valid] = len(tile.logits)
    # (h, w) -> (1, h, w): every raster has a band axis, so that planes of all can be joined.
    return classes[None]


def _confidence(tile: ScoredTile, reject: float | None) -> np.ndarray:
    return tile.percent()[None]


def _probabilities(tile: ScoredTile, reject: float | None) -> np.ndarray:
    # 250, not 255, which is nodata.
    return _rounded(lambda p: p * 250, tile)


def _entropy(tile: ScoredTile, reject: float | None) -> np.ndarray:
    """Entropy in per cent of its maximum, the logarithm of the number of classes."""

    def entropy(p: Array) -> Array:
        """Probabilities (K, h, w) -> (1, h, w)."""
        # p log p is 0 at p = 0, where the logarithm alone is infinite.
        library = library_of(p)
        known = -(p * library.log(library.clip(p, 1e-12, None))).sum(axis=0, keepdims=True)
        return known / math.log(max(2, len(p))) * 100

    return _rounded(entropy, tile)


def _unfamiliar(tile: ScoredTile, reject: float | None) -> np.ndarray:
    """Distance of the features over its limit, in per cent, 254 at most; of the two channels that
    `scoring.familiar` adds.
    """
    # p = d / (limit + d), so that d / limit = p / (1 - p).
    return _rounded(lambda p: (p[1:] / (1 - p[1:]).clip(1e-6, None) * 100).clip(None, MOST_UNFAMILIAR), tile)


def _rounded(made_of: Callable[[Array], Array], tile: ScoredTile) -> np.ndarray:
    """Round values made of probabilities to uint8 (C, h, w), 255 on invalid pixels; some rows at a time,
    which saves two copies of all classes (400 MB for 12 classes).
    """
    rounded, top = np.empty((0, *tile.valid.shape), np.uint8), 0
    for strip in tile.strips():
        made = np.rint(as_numpy(made_of(strip)))
        if not top:
            rounded = np.empty((len(made), *tile.valid.shape), np.uint8)
        rows = slice(top, top + made.shape[1])
        rounded[:, rows], top = made, rows.stop
        if not tile.valid[rows].all():
            rounded[:, rows][:, ~tile.valid[rows]] = IGNORE
    return rounded


RASTERS = (
    RasterOutput(
        kind="class",
        ending="_class.tif",
        holds="Class map: one class value per pixel, with colours and names (COG)",
        title="Land cover",
        band_names=lambda legend: ("class",),
        render=_classes,
        classes=True,
    ),
    RasterOutput(
        kind="confidence",
        ending="_confidence.tif",
        holds="Confidence: probability of the class shown, in per cent (COG)",
        title="Probability of the class shown, per cent",
        roles=("data", "confidence"),
        band_names=lambda legend: ("confidence (%)",),
        render=_confidence,
    ),
    RasterOutput(
        kind="proba",
        ending="_proba.tif",
        holds="Probability of every class, one band each, in 1/250 (COG)",
        title="Probability of each class",
        roles=("data", "probability"),
        asked=lambda request: request.proba,
        band_names=lambda legend: tuple(legend.names),
        render=_probabilities,
        tags={"scale": "1/250"},
    ),
    RasterOutput(
        kind="entropy",
        ending="_entropy.tif",
        holds="Entropy of the prediction, 0 (certain) to 100 (COG)",
        title="Entropy of the prediction, per cent",
        roles=("data", "uncertainty"),
        asked=lambda request: request.entropy,
        band_names=lambda legend: ("entropy (% of the largest)",),
        render=_entropy,
    ),
    RasterOutput(
        kind="unfamiliar",
        ending="_unfamiliar.tif",
        holds="Unfamiliar input: distance from the training data, above 100 farther than its limit (COG)",
        title="Distance of the network's features from the training data, 100 is the limit",
        roles=("data", "uncertainty"),
        asked=lambda request: request.unfamiliar,
        band_names=lambda legend: ("unfamiliar (100 = limit)",),
        render=_unfamiliar,
    ),
)

MADE_OF_THEM = (
    FileOutput(
        kind="sieved",
        ending="_sieved.tif",
        holds="Class map without areas below the minimum mapping unit (COG)",
        title="Land cover, small areas merged into neighbours",
        asked=lambda request: request.sieve > 0,
    ),
    FileOutput(
        kind="polygons",
        ending="_polygons{}",
        holds="Polygons with class, pixels and hectares",
        title="Land cover as polygons",
        asked=lambda request: request.polygons,
    ),
    FileOutput(
        kind="report",
        ending="_report.html",
        holds="This page",
        title="Report",
        roles=("overview",),
        asked=lambda request: request.report,
    ),
    FileOutput(kind="stac", ending="_stac.json", holds="STAC item: metadata for catalogues"),
    FileOutput(
        kind="run",
        ending="_run.json",
        holds="Settings of this run, for repeating it",
        title="How the map was made",
        roles=("metadata",),
    ),
)
"""Files made of the finished rasters, in the order in which they are listed."""


OF_BOTH = {"unfamiliar", "report", "stac", "run"}
"""Files that a map has once, whatever the number of its tasks."""


def all_outputs(task: str = "") -> tuple[FileOutput, ...]:
    """Every file that a map can have; with a second task also those of that task."""
    own = (*RASTERS, *(output for output in MADE_OF_THEM if output.kind not in OF_BOTH))
    its = tuple(output.of_task(task) for output in own if task and output.kind not in OF_BOTH)
    return (*own, *its, *(output for output in MADE_OF_THEM if output.kind in OF_BOTH))


def rasters_of(request: MapRequest, task: str = "") -> tuple[RasterOutput, ...]:
    """The rasters that a request asks for, in the order of a tile's planes in the journal."""
    own = tuple(output for output in RASTERS if output.asked(request))
    return (*own, *(output.of_task(task) for output in own if task and output.kind not in OF_BOTH))


def kind_of(kind: str, task: str) -> str:
    """The kind of a task's file: class, road_class."""
    return f"{task}_{kind}" if task else kind


def map_name(request: MapRequest, scene_name: str) -> str:
    """The name of a map: the one asked for, else the scene's."""
    return request.name or stem_of(scene_name)


def map_stem(request: MapRequest, scene_name: str) -> str:
    """What the map's file names begin with: of a second task alone as in a map of both, `place_road`."""
    name = map_name(request, scene_name)
    return f"{name}_{request.task}" if request.task else name


def paths_of(request: MapRequest, out: Path, stem: str, *, located: bool, task: str = "") -> dict[str, Path]:
    """Paths of a map's files by kind; a scene without coordinates (not `located`) gets no STAC item."""
    return {
        output.kind: out / (stem + output.ending.format(f".{request.polygons_as}"))
        for output in all_outputs(task)
        # A STAC item must have a footprint in degrees, which a scene without coordinates cannot give.
        if output.asked(request) and (located or output.kind != "stac")
    }


def leftover_files(out: Path, stem: str, paths: Mapping[str, Path], task: str = "") -> list[str]:
    """Names of an earlier map's files that this map does not replace: they could be taken for its own."""
    written = {path.name for path in paths.values()}
    names = [
        stem + output.ending.format(suffix)
        for output in all_outputs(task)
        # Of polygons all formats: a map repeated as .gpkg leaves the .fgb of the run before.
        for suffix in (SUFFIXES if "{}" in output.ending else ("",))
    ]
    return [name for name in names if name not in written and (out / name).exists()]


def assets(task: str = "") -> dict[str, tuple[str, list[str]]]:
    """Kinds that are assets of the STAC item: title and roles."""
    return {o.kind: (o.title, list(o.roles)) for o in all_outputs(task) if o.title}


def bytes_on_disk(pixels: int, layers: int, *, journal: bool = True) -> int:
    """Bytes that the rasters of a map take at most, while they are being finished, with or without a journal
    on the same disk.
    """
    # The tiles in the journal and the COG, whose overviews add a third (1/4 + 1/16 + ...).
    return int(pixels * layers * (journal + 4 / 3))


def room_note(most: int, free: int, out: str | Path) -> str:
    """What to know where a map of at most `most` bytes may not fit into `free` ones; else ""."""
    if free >= most:
        return ""
    return (
        f"the map may need up to {bytes_text(most)} before compression, and {bytes_text(free)} are free in "
        f"{out}"
    )
