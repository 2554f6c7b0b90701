"""Where is a model wrong? Error maps, blocks in order of their errors, and pictures of the worst places."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
import shapely
from rasterio.crs import CRS

from labelscape.crs import Unrelated, transformed
from labelscape.datasets.labelled import LabelledScene, scene_names
from labelscape.evaluation.blocks import BlockCounts, block_side, blocks_in
from labelscape.evaluation.counts import Evaluation
from labelscape.evaluation.distances import DistanceCounts, count_distances
from labelscape.evaluation.kept import KeptClasses
from labelscape.evaluation.metrics import iou, mean_iou, overall_accuracy, plain
from labelscape.files import check_new, stem_of, written_whole
from labelscape.grid import Grid, Window
from labelscape.legend import IGNORE, LandClass, Legend
from labelscape.rasters.creation import CreationOptions, Given
from labelscape.rasters.write import MapWriter
from labelscape.scenes.vectors import append_polygons, writing

WORST = 6
"""Places that are shown with pictures (ours)."""
SIDE = 400
"""Pixels a side of these pictures, at most."""
OVERVIEWS, OVERVIEW_SIDE = 4, 900
"""Scenes that are shown with the scores of their blocks, those with most errors; pixels a side, at most."""


def error_legend(legend: Legend) -> Legend:
    """Values of an error map: 0 right, k + 1 where a pixel of class k is called something else."""
    # Light or dark, whichever no class looks like: "other" is often light grey.
    colors = np.array([c.color for c in legend.classes], float)
    right = max(((245, 245, 245), (25, 25, 25)), key=lambda shade: np.abs(colors - shade).sum(axis=1).min())
    missed = (LandClass(k + 1, f"{c.name} missed", c.color) for k, c in enumerate(legend.classes))
    return Legend((LandClass(0, "right", right), *missed))


@dataclass(frozen=True, eq=False)
class Place:
    """A block with errors, and its pictures: uint8 (h, w, 3) of the scene; class indices (h, w) of truth and
    prediction, 255 where there is no label. Every n-th pixel of large blocks.
    """

    scene: str
    window: Window
    wrong: int
    picture: np.ndarray
    truth: np.ndarray
    predicted: np.ndarray

    @property
    def rank(self) -> tuple[int, str, int, int]:
        """Most errors first; then in the order of `ranked`."""
        return -self.wrong, self.scene, self.window.top, self.window.left


@dataclass(frozen=True, eq=False)
class Overview:
    """A scene with errors: its picture, uint8 (h, w, 3), and its height and width in pixels."""

    scene: str
    wrong: int
    picture: np.ndarray
    shape: tuple[int, int]

    @property
    def rank(self) -> tuple[int, str]:
        return -self.wrong, self.scene


Shown = TypeVar("Shown", Place, Overview)


class Places:
    """Follows an evaluation tile by tile (`watch`), writes error maps into `out`, keeps counts by distance
    (`distances`) and pictures of the worst places. Raises BadFile where a file exists and may not be
    replaced.
    """

    def __init__(
        self,
        out: str | Path,
        scenes: Sequence[LabelledScene],
        legend: Legend,
        kept: KeptClasses,
        *,
        overwrite: bool = False,
        creation_options: Given | CreationOptions = None,
    ) -> None:
        """`kept` holds the classes of the scene that is being scored; the options are those of error maps."""
        self.creation_options = CreationOptions.of(creation_options)
        self._kept = kept
        self.out, self.legend, self._overwrite = Path(out), legend, overwrite
        self.grids: dict[str, Grid] = {}
        self.distances = DistanceCounts.empty(len(legend))
        self.worst: list[Place] = []
        self.overviews: list[Overview] = []
        names = ["counts.json", "blocks.csv", "blocks.gpkg", "report.html"]
        self.files = [self.out / name for name in names] + [self.map_of(one) for one in scene_names(scenes)]
        for path in self.files:
            # Before hours of prediction.
            check_new(path, overwrite=overwrite)

    def map_of(self, scene: str) -> Path:
        return self.out / f"{stem_of(scene)}_errors.tif"

    @contextmanager
    def watch(
        self, name: str, scene: LabelledScene
    ) -> Iterator[Callable[[Window, np.ndarray, np.ndarray], None]]:
        """Yields what is given every tile's window, truth and prediction."""
        grid = self.grids[name] = scene.scene.grid
        wrong_in: Counter[tuple[int, int]] = Counter()
        with ExitStack() as held:
            legend = error_legend(self.legend)
            how = {"overwrite": self._overwrite, "creation_options": self.creation_options}
            writer = held.enter_context(MapWriter(self.map_of(name), grid, 1, IGNORE, legend=legend, **how))

            def see(window: Window, truth: np.ndarray, predicted: np.ndarray) -> None:
                known = truth != IGNORE
                if not known.any():
                    return
                wrong = known & (truth != predicted)
                # truth + 1: 0 is left for right pixels, and 255 for those without a label.
                writer.write(window, np.where(known, np.where(wrong, truth + 1, 0), IGNORE).astype(np.uint8))
                for place, part in blocks_in(window, block_side(scene)):
                    wrong_in[place] += int(wrong[part.inset_of(window)].sum())
                self.distances += count_distances(scene, window, truth, predicted, len(self.legend))

            yield see
            self._look(name, scene, wrong_in)

    def _look(self, name: str, scene: LabelledScene, wrong_in: Counter[tuple[int, int]]) -> None:
        """Keep pictures of a finished scene and its worst blocks, if they are among the worst so far."""
        whole, side = scene.scene.grid.window, block_side(scene)
        total = sum(wrong_in.values())
        # The scene of a single block has no map of blocks.
        if (
            total
            and len(wrong_in) > 1
            and (len(self.overviews) < OVERVIEWS or total >= self.overviews[-1].wrong)
        ):
            one = Overview(name, total, scene.scene.thumbnail(OVERVIEW_SIDE), whole.shape)
            self.overviews = _first([*self.overviews, one], OVERVIEWS)
        # By place where errors are as many: as `ranked` has them.
        for (row, column), wrong in sorted(wrong_in.items(), key=lambda pair: (-pair[1], pair[0]))[:WORST]:
            if not wrong or (len(self.worst) == WORST and wrong < self.worst[-1].wrong):
                break
            window = whole & Window(row * side, column * side, side, side)
            every = -(-max(window.shape) // SIDE)
            # 0 - 1 is 255 in bytes.
            kept = self._kept.array[(slice(None), *window.inset_of(whole))]
            classes = kept[:, ::every, ::every] - np.uint8(1)
            place = Place(name, window, wrong, scene.scene.picture(window, SIDE), *classes)
            self.worst = _first([*self.worst, place], WORST)

    def add(self, other: Places) -> None:
        """What another process saw of other scenes, in whatever order they come."""
        self.grids |= other.grids
        self.distances += other.distances
        self.overviews = _first([*self.overviews, *other.overviews], OVERVIEWS)
        self.worst = _first([*self.worst, *other.worst], WORST)


def _first(found: list[Shown], count: int) -> list[Shown]:
    """Those of the first ranks, of which no two are equal: the same in whatever order they were found."""
    return sorted(found, key=lambda one: one.rank)[:count]


def ranked(found: Evaluation) -> list[BlockCounts]:
    """Its blocks, the one with most errors first."""
    return sorted(found.per_block, key=lambda b: (-wrong_of(b), b.scene, b.window.top, b.window.left))


def write_places(found: Evaluation, places: Places, *, overwrite: bool = False) -> dict[Path, str]:
    """Write counts.json, blocks.csv and blocks.gpkg (where a scene has coordinates) beside the error maps;
    returns all paths with what they hold. Raises BadFile where they cannot be written.
    """
    out, blocks = places.out, ranked(found)
    files = {found.save(out / "counts.json", overwrite=overwrite): "all counts, which scores come from"}
    with written_whole(out / "blocks.csv", overwrite=overwrite) as path:
        _write_table(path, [_row(block, found.names) for block in blocks])
    files[out / "blocks.csv"] = "scores of every block, the one with most errors first"
    # Pictures without coordinates have no place in a layer: their blocks are in the CSV alone.
    if any(places.grids[b.scene].is_georeferenced for b in blocks):
        with written_whole(out / "blocks.gpkg", overwrite=overwrite) as path:
            _write_polygons(path, blocks, found.names, places.grids)
        files[out / "blocks.gpkg"] = "the same as polygons"
    maps = (places.map_of(name) for name in places.grids)
    return files | dict.fromkeys(maps, "error map: right, or the class that was missed")


def _write_table(path: Path, rows: Sequence[dict]) -> None:
    # newline="": csv ends its lines itself, and Windows would double the carriage return.
    with open(path, "w", newline="", encoding="utf-8") as file:
        table = csv.DictWriter(file, list(rows[0]) if rows else [])
        table.writeheader()
        table.writerows(rows)


def wrong_of(block: BlockCounts) -> int:
    """Its labelled pixels that are wrong."""
    counts = block.counts
    return counts.labelled - int(np.trace(counts.counts))


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
        "wrong": wrong_of(block),
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


def _outline(grid: Grid, w: Window, crs: CRS) -> shapely.Polygon | None:
    corners = [(w.left, w.top), (w.right, w.top), (w.right, w.bottom), (w.left, w.bottom)]
    places = np.array([grid.transform @ corner for corner in corners])
    # One layer has one CRS: blocks of scenes in other zones are transformed to the first one's.
    try:
        places = np.column_stack(transformed(*places.T, grid.crs, crs))
    except Unrelated:  # its counts are worth having without its place
        return None
    return shapely.Polygon(places)
