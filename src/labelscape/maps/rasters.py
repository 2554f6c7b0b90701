"""The rasters of a map, tile by tile: what is written, counted and kept until the map is whole."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

from labelscape.errors import BadInput
from labelscape.grid import Grid, Window
from labelscape.legend import IGNORE, LandClass, Legend
from labelscape.maps.journal import Journal
from labelscape.maps.seams import Seams
from labelscape.progress import bar
from labelscape.rasters.overviews import count_values
from labelscape.rasters.write import MapWriter
from labelscape.scenes.raster import Scene
from labelscape.scoring.scored import SOFTENED_ROWS, ScoredTile
from labelscape.scoring.scorer import Scorer
from labelscape.scoring.stitch import score_tiles
from labelscape.scoring.tiles import TilePlan
from labelscape.version import __version__

AREA_ROWS, AREA_COLUMNS = 256, 512
"""Pixel areas are taken per block of so many rows and columns: they change slowly, on most grids faster
from row to row.
"""


UNKNOWN = "unknown"
"""Name of the class of pixels whose confidence is too low."""


@dataclass(frozen=True)
class ClassArea:
    """How much of a map a class covers; `hectares` on the WGS 84 ellipsoid, None without coordinates."""

    name: str
    pixels: int
    hectares: float | None


@dataclass
class Tally:
    """Pixels and hectares per class, summed while tiles are written."""

    grid: Grid
    legend: Legend
    pixels: np.ndarray
    square_metres: np.ndarray
    nodata: int = 0
    seams: Seams = field(default_factory=Seams)

    def add(self, core: Window, classes: np.ndarray) -> None:
        self.seams.add(core, classes)
        for block in _blocks(core):
            counts = count_values(classes[block.inset_of(core)])[: len(self.pixels)]
            self.pixels += counts
            self.square_metres += counts * self.grid.pixel_areas(
                block.top + (block.height - 1) / 2, block.left + (block.width - 1) / 2
            )

    def areas(self) -> tuple[ClassArea, ...]:
        known = self.grid.is_georeferenced
        return tuple(
            ClassArea(c.name, int(self.pixels[i]), float(self.square_metres[i]) / 10_000 if known else None)
            for i, c in enumerate(self.legend.classes)
        )


def _blocks(core: Window) -> Iterator[Window]:
    for top in range(core.top, core.bottom, AREA_ROWS):
        for left in range(core.left, core.right, AREA_COLUMNS):
            yield Window(top, left, AREA_ROWS, AREA_COLUMNS) & core


def with_unknown(legend: Legend) -> Legend:
    """The legend with one class more, last, for what is too uncertain to be named. Raises BadInput where
    254 classes leave no value.
    """
    free = next((value for value in range(254, -1, -1) if value not in legend.values), None)
    if free is None or UNKNOWN in legend.names:
        raise BadInput(
            f"The class {UNKNOWN!r} cannot be added to the legend: "
            f"{'it has one' if UNKNOWN in legend.names else 'no value is free'}."
        )
    return Legend((*legend.classes, LandClass(free, UNKNOWN, (120, 120, 120), "confidence below the limit")))


def write_rasters(
    scorer: Scorer,
    scene: Scene,
    plan: TilePlan,
    paths: dict[str, Path],
    legend: Legend,
    journal: Journal,
    *,
    reject: float | None,
    overwrite: bool,
) -> Tally:
    """Score the tiles that the journal lacks and write all of them, one tile behind the network.

    The journal is left as it is: polygons and report are still to be made, and may fail.
    """
    tally = Tally(scene.grid, legend, np.zeros(len(legend), np.int64), np.zeros(len(legend)))
    known = scorer.checkpoint.legend
    with journal, ExitStack() as files:
        common = {
            "tags": {"labelscape_version": __version__, "labelscape_network": scorer.checkpoint.network},
            "overwrite": overwrite,
        }
        writers = {"class": MapWriter(paths["class"], scene.grid, 1, IGNORE, legend=legend, **common)}
        for kind, count, names, tags in (
            ("confidence", 1, ["confidence (%)"], {}),
            ("entropy", 1, ["entropy (% of the largest)"], {}),
            ("proba", len(known), known.names, {"scale": "1/250"}),
        ):
            if kind in paths:
                described = {**common, "tags": common["tags"] | tags}
                writers[kind] = MapWriter(
                    paths[kind], scene.grid, count, IGNORE, descriptions=names, **described
                )
        for writer in writers.values():
            files.enter_context(writer)

        def write(core: Window, planes: np.ndarray) -> None:
            """Planes in the order of the writers: class indices, confidence, entropy, probabilities."""
            tally.add(core, planes[0])
            first = 0
            for kind, writer in writers.items():
                count = len(known) if kind == "proba" else 1
                writer.write(
                    core, legend.decode(planes[:1]) if kind == "class" else planes[first : first + count]
                )
                first += count

        def finish(tile: ScoredTile) -> None:
            planes = planes_of(tile, list(writers), reject, unknown=len(known))
            journal.save(tile.window, planes)
            write(tile.window, planes)

        with (
            bar(f"map {scene.name}", len(plan), "tiles") as tick,
            ThreadPoolExecutor(1, thread_name_prefix="write") as pool,
        ):
            behind: Future | None = None
            done = 0
            for item in _in_order(scorer, scene, plan, journal):
                if behind is not None:
                    # at most one tile waits: memory stays bounded, and an error stops the work at once
                    behind.result()
                behind = (
                    pool.submit(finish, item) if isinstance(item, ScoredTile) else pool.submit(write, *item)
                )
                done += 1
                tick()
            if behind is not None:
                behind.result()
            tick(len(plan) - done)
        if not tally.pixels.sum():  # inside the writers, so that no file is left
            journal.close()
            raise BadInput(
                f"{scene.name} has no valid pixel: the whole map is nodata. Check the scene's nodata value "
                "or name it with --nodata."
            )
        with ThreadPoolExecutor(len(writers), thread_name_prefix="finish") as pool:
            for future in [pool.submit(w.finish) for w in writers.values()]:
                future.result()
    tally.nodata = scene.grid.window.pixels - int(tally.pixels.sum())
    return tally


def _in_order(
    scorer: Scorer, scene: Scene, plan: TilePlan, journal: Journal
) -> Iterator[ScoredTile | tuple[Window, np.ndarray]]:
    """Every tile with a valid pixel in the plan's order: from the journal where it is there and whole,
    else scored. Holes are not looked at.
    """
    kept = {tile.answers for tile in plan if journal.has(tile.answers)} if journal.found else set()
    holds = scene.may_hold
    scored = score_tiles(scorer, scene, plan, wanted=lambda core: core not in kept and holds(core))
    ahead = next(scored, None)
    for tile in plan:
        if tile.answers in kept:
            planes = journal.load(tile.answers)
            if planes is not None:
                yield tile.answers, planes
                continue
            yield from score_tiles(
                scorer, scene, plan, wanted=lambda window, damaged=tile.answers: window == damaged
            )
        elif ahead is not None and ahead.window == tile.answers:
            yield ahead
            ahead = next(scored, None)


def planes_of(tile: ScoredTile, kinds: list[str], reject: float | None, *, unknown: int) -> np.ndarray:
    """(C, h, w) uint8: class indices, then confidence, entropy and probabilities as far as they are asked
    for; 255 on invalid pixels.
    """
    classes, percent = tile.classes(), tile.percent()
    if reject is not None:
        classes[(percent < 100 * reject) & tile.valid] = unknown
    planes = [classes[None]]
    if "confidence" in kinds:
        planes.append(percent[None])
    if "entropy" in kinds:
        planes.append(_rounded(_undecided, tile))
    if "proba" in kinds:
        planes.append(_rounded(lambda p: p * 250, tile))
    return np.concatenate(planes)


def _undecided(p: torch.Tensor) -> torch.Tensor:
    """Probabilities (K, h, w) -> (1, h, w) entropy in per cent of the largest there can be."""
    return -(p * p.clamp_min(1e-12).log()).sum(dim=0, keepdim=True) / math.log(max(2, len(p))) * 100


def _rounded(made_of: Callable[[torch.Tensor], torch.Tensor], tile: ScoredTile) -> np.ndarray:
    """(C, h, w) uint8 of what is made of probabilities, 255 on invalid pixels; some rows at a time: a tile
    of many classes is large.
    """
    strips = [made_of(p).round_().to(torch.uint8) for p in tile.probabilities.split(SOFTENED_ROWS, dim=1)]
    rounded = torch.cat(strips, dim=1).numpy()
    if not tile.valid.all():
        rounded[:, ~tile.valid] = IGNORE
    return rounded
