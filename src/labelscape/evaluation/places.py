"""Where is a model wrong? Error maps, blocks in order of their errors, and errors by distance to the training
labels.

Held-out labels next to training labels are easier than those of a new place. How far "next to" reaches is
read from the errors themselves: the distance at which two pixels are no more often wrong together than any
two (the range of their indicator variogram).
"""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import numpy as np
import shapely
from rasterio.crs import CRS
from scipy.ndimage import distance_transform_edt

from labelscape.datasets.labelled import LabelledScene
from labelscape.errors import BadFile
from labelscape.evaluation.blocks import BlockCounts
from labelscape.evaluation.confusion import Confusion, count
from labelscape.evaluation.measure import Evaluation
from labelscape.evaluation.metrics import DEFINITIONS, iou, mean_iou, overall_accuracy, plain
from labelscape.evaluation.report import ConfusionFigure, FileRow, Report, write_report
from labelscape.evaluation.score_tables import ModelScores
from labelscape.files import stem_of, written_whole
from labelscape.grid import Grid, Window
from labelscape.legend import IGNORE, LandClass, Legend
from labelscape.rasters.write import MapWriter
from labelscape.scenes.vectors import append_polygons, writing

DISTANCES = (8, 16, 32, 64, 128, 256)
"""Outer distances in pixels to the nearest training label by which errors are counted; the last group lies
farther.
"""
LAGS = (1, 2, 4, *DISTANCES)
"""Distances in pixels, along rows and columns, at which errors are compared."""
SILL = 0.95
"""Share of the variance of errors at which they count as unrelated (usual for ranges of variograms)."""
NEAR = 0.5
"""Share of the scored labels near training labels from which there is a warning (ours)."""


def error_legend(legend: Legend) -> Legend:
    """Values of an error map: 0 right, k + 1 where a pixel of class k is called something else."""
    # Light or dark, whichever no class looks like: "other" is often light grey.
    colors = np.array([c.color for c in legend.classes], float)
    right = max(((245, 245, 245), (25, 25, 25)), key=lambda shade: np.abs(colors - shade).sum(axis=1).min())
    missed = (LandClass(k + 1, f"{c.name} missed", c.color) for k, c in enumerate(legend.classes))
    return Legend((LandClass(0, "right", right), *missed))


class Places:
    """Follows an evaluation tile by tile (`watch`), writes error maps into `out`, and keeps counts by
    distance. Raises BadFile where a file exists and may not be replaced.
    """

    def __init__(
        self, out: str | Path, scenes: Sequence[LabelledScene], legend: Legend, *, overwrite: bool = False
    ) -> None:
        self.out, self.legend, self._overwrite = Path(out), legend, overwrite
        self.grids: dict[str, Grid] = {}
        empty = Confusion.empty(len(legend))
        self.per_distance = [empty] * (len(DISTANCES) + 1)
        """Counts by distance to the nearest training label of the same scene; scenes without any do not
        count.
        """
        self.pairs, self.differing = np.zeros(len(LAGS), np.int64), np.zeros(len(LAGS), np.int64)
        """Pairs of labelled pixels at each lag, and those of which one is right and one wrong."""
        names = ["counts.json", "blocks.csv", "blocks.gpkg", "report.html"]
        for name in (*names, *(self.map_of(scene.name).name for scene in scenes)):
            # Before hours of prediction.
            if (self.out / name).exists() and not overwrite:
                raise BadFile(f"{self.out / name} exists; pass `overwrite=True` to replace it.")

    def map_of(self, scene: str) -> Path:
        return self.out / f"{stem_of(scene)}_errors.tif"

    @contextmanager
    def watch(
        self, name: str, scene: LabelledScene
    ) -> Iterator[Callable[[Window, np.ndarray, np.ndarray], None]]:
        """Yields what is given every tile's window, truth and prediction."""
        grid = self.grids[name] = scene.scene.grid
        with ExitStack() as held:
            legend = error_legend(self.legend)
            writer = held.enter_context(
                MapWriter(self.map_of(name), grid, 1, IGNORE, legend=legend, overwrite=self._overwrite)
            )

            def see(window: Window, truth: np.ndarray, predicted: np.ndarray) -> None:
                known = truth != IGNORE
                if not known.any():
                    return
                wrong = known & (truth != predicted)
                # truth + 1: 0 is left for right pixels, and 255 for those without a label.
                writer.write(window, np.where(known, np.where(wrong, truth + 1, 0), IGNORE).astype(np.uint8))
                pairs, differing = pairs_of(known, wrong)
                self.pairs += pairs
                self.differing += differing
                if scene.split is None:
                    return
                groups = distance_groups(scene, window)
                for k, so_far in enumerate(self.per_distance):
                    here = np.where(groups == k, truth, IGNORE)
                    self.per_distance[k] = so_far + count(here, predicted, len(so_far))

            yield see

    @property
    def correlation_length(self) -> int | None:
        """Pixels beyond which errors are unrelated; None where they are related up to the longest lag."""
        return correlation_length(self.pairs, self.differing)

    @property
    def warning(self) -> str | None:
        """What a score means whose labels lie next to training labels."""
        counts = [group.labelled for group in self.per_distance]
        if not sum(counts):
            return None
        length = self.correlation_length or LAGS[-1]
        near = sum(n for n, far in zip(counts, DISTANCES) if far <= max(length, DISTANCES[0])) / sum(counts)
        if near < NEAR:
            return None
        reach = f"{length}" if self.correlation_length else f"more than {length}"
        return (
            f"{100 * near:.0f} % of the scored labels lie within {max(length, DISTANCES[0])} pixels of a "
            f"training label, and errors are alike over {reach} pixels: the score is that of places next to "
            "training labels, and may be lower elsewhere. Hold out larger blocks (`block`), or leave out "
            "training labels around them (`buffer`)."
        )

    def by_distance(self) -> list[dict]:
        """Scores by distance to the nearest training label, JSON values: "within" is None for what lies
        farther than the last distance. Empty where no scene was split into blocks.
        """
        if not any(group.labelled for group in self.per_distance):
            return []
        return [
            {
                "within": within,
                "overall_accuracy": plain(overall_accuracy(group)),
                "mean_iou": plain(mean_iou(group)),
                "labelled_pixels": group.labelled,
                **group.to_dict(),
            }
            for within, group in zip((*DISTANCES, None), self.per_distance)
        ]


def pairs_of(known: np.ndarray, wrong: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Pairs of known pixels (H, W) at each of LAGS along rows and columns, and those of which exactly one is
    wrong. Pairs across two tiles are left out.
    """
    pairs, differing = np.zeros(len(LAGS), np.int64), np.zeros(len(LAGS), np.int64)
    for k, lag in enumerate(LAGS):
        for one, other in ((np.s_[lag:], np.s_[:-lag]), (np.s_[:, lag:], np.s_[:, :-lag])):
            both = known[one] & known[other]
            pairs[k] += both.sum()
            differing[k] += (both & (wrong[one] != wrong[other])).sum()
    return pairs, differing


def correlation_length(pairs: np.ndarray, differing: np.ndarray) -> int | None:
    """The first lag at which half the share of differing pairs reaches SILL of its largest value, the plateau
    of the indicator variogram; 0 without an error, None where it still rises at the longest lag with a pair.
    """
    known = pairs > 0
    if not known.any() or not differing.any():
        return 0
    values = differing[known] / pairs[known]
    lags = np.array(LAGS)[known]
    reached = int(np.flatnonzero(values >= SILL * values.max())[0])
    # The longest lag may still lie on the slope: that it is the largest value says nothing.
    return None if reached == len(lags) - 1 else int(lags[reached])


def distance_groups(scene: LabelledScene, window: Window) -> np.ndarray:
    """(H, W) number of the group of DISTANCES of each pixel, by its distance to the scene's training
    labels.
    """
    # With a halo as wide as the largest distance: the nearest label may lie outside of the tile.
    around = window.grown(DISTANCES[-1], scene.scene.grid.window)
    trained = scene.read_labels(around, "train") != IGNORE
    if not trained.any():
        return np.full(window.shape, len(DISTANCES))
    far = distance_transform_edt(~trained)[window.inset_of(around)]
    return np.searchsorted(DISTANCES, far, side="left")


def write_places(
    found: Evaluation, places: Places, *, title: str, measured_on: str, overwrite: bool = False
) -> list[Path]:
    """Write counts.json, blocks.csv, blocks.gpkg (where a scene has coordinates) and report.html beside the
    error maps; returns all paths. Raises BadFile where they cannot be written.
    """
    out, ranked = places.out, sorted(found.per_block, key=lambda b: (-_wrong(b), b.scene))
    files = {"counts.json": "confusion counts by scene, block and distance to training labels"}
    with written_whole(out / "counts.json", overwrite=overwrite) as path:
        path.write_text(json.dumps(_counts(found, places)))
    files["blocks.csv"] = "scores of every block, the one with most errors first"
    # newline="": csv ends its lines itself, and Windows would double the carriage return.
    with written_whole(out / "blocks.csv", overwrite=overwrite) as path, open(path, "w", newline="") as file:
        rows = [_row(block, found.names) for block in ranked]
        table = csv.DictWriter(file, list(rows[0]) if rows else [])
        table.writeheader()
        table.writerows(rows)
    # Pictures without coordinates have no place in a layer: their blocks are in the CSV alone.
    if any(places.grids[b.scene].is_georeferenced for b in ranked):
        files["blocks.gpkg"] = "the same as polygons"
        with written_whole(out / "blocks.gpkg", overwrite=overwrite) as path:
            _write_polygons(path, ranked, found.names, places.grids)
    maps = [places.map_of(name) for name in places.grids]
    shown = [FileRow(name, holds, (out / name).stat().st_size) for name, holds in files.items()]
    shown += [
        FileRow(m.name, "error map: right, or the class that was missed", m.stat().st_size) for m in maps
    ]
    pooled = found.confusion
    report = Report(
        title=title,
        lead=_worst(ranked, pooled),
        notes=found.notes,
        measured_on=measured_on,
        scores=(ModelScores(title, found.metrics),),
        definitions=tuple(DEFINITIONS.values()),
        confusion=ConfusionFigure(found.names, pooled.counts, unpredicted=pooled.unpredicted),
        files=tuple(shown),
    )
    return [
        *(out / name for name in files),
        *maps,
        write_report(out / "report.html", report, overwrite=overwrite),
    ]


def _wrong(block: BlockCounts) -> int:
    counts = block.counts
    return counts.labelled - int(np.trace(counts.counts))


def _worst(ranked: Sequence[BlockCounts], pooled: Confusion) -> str | None:
    """A sentence on the blocks that hold half of all errors."""
    errors = pooled.labelled - int(np.trace(pooled.counts))
    if not errors or not ranked:
        return None
    summed = np.cumsum([_wrong(block) for block in ranked])
    number = int(np.searchsorted(summed, errors / 2)) + 1
    first, w = ranked[0].scene, ranked[0].window
    return (
        f"Half of the {errors:,} errors lie in {number} of {len(ranked)} blocks; most in that of {first} "
        f"from row {w.top}, column {w.left}."
    )


def _counts(found: Evaluation, places: Places) -> dict:
    variogram = {
        "lags": list(LAGS),
        "pairs": places.pairs.tolist(),
        "differing": places.differing.tolist(),
        "correlation_length": places.correlation_length,
    }
    return {
        "names": list(found.names),
        "per_scene": {name: counts.to_dict() for name, counts in found.per_scene.items()},
        "per_block": [block.to_dict() for block in found.per_block],
        "per_distance": places.by_distance(),
        "errors": variogram,
        "objects": [counts.to_dict() for counts in found.objects],
        "topology": [counts.to_dict() for counts in found.topology],
    }


def _row(block: BlockCounts, names: Sequence[str]) -> dict:
    """One block as columns of a table."""
    counts, w = block.counts, block.window
    row = {
        "scene": block.scene,
        "top": w.top,
        "left": w.left,
        "height": w.height,
        "width": w.width,
        "labelled": counts.labelled,
        "wrong": _wrong(block),
        "oa": plain(overall_accuracy(counts)),
        "miou": plain(mean_iou(counts)),
    }
    return {**row, **{f"iou {name}": plain(v) for name, v in zip(names, iou(counts).tolist())}}


def _write_polygons(
    path: Path, ranked: Sequence[BlockCounts], names: Sequence[str], grids: dict[str, Grid]
) -> None:
    """Blocks of all scenes with coordinates in one layer, in the CRS of the first."""
    placed = [block for block in ranked if grids[block.scene].is_georeferenced]
    crs = grids[placed[0].scene].crs
    shapes = np.array([_outline(grids[block.scene], block.window, crs) for block in placed])
    rows = [_row(block, names) for block in placed]
    columns = {}
    for name in rows[0]:
        values = [row[name] for row in rows]
        columns[name] = (
            np.array(values, object)
            if name == "scene"
            # NaN is no number for SQLite, which stores NULL: an undefined score stays empty.
            else np.array([np.nan if v is None else v for v in values])
        )
    with writing(path) as plain_path:
        wkb = shapely.to_wkb(shapes)
        append_polygons(plain_path, wkb, columns, layer="blocks", crs=crs.to_wkt(), first=True, options={})


def _outline(grid: Grid, w: Window, crs: CRS) -> shapely.Polygon:
    corners = [(w.left, w.top), (w.right, w.top), (w.right, w.bottom), (w.left, w.bottom)]
    places = np.array([grid.transform @ corner for corner in corners])
    # One layer has one CRS: blocks of scenes in other zones are transformed to the first one's.
    if grid.crs != crs:
        from pyproj import Transformer

        change = Transformer.from_crs(grid.crs.to_wkt(), crs.to_wkt(), always_xy=True)
        places = np.column_stack(change.transform(*places.T))
    return shapely.Polygon(places)
