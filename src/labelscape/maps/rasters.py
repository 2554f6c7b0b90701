"""Write the rasters of a map tile by tile, count areas and seams, and keep finished tiles in the journal."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np

from labelscape.errors import BadFile, BadInput
from labelscape.grid import Grid, Window
from labelscape.legend import IGNORE, Legend
from labelscape.maps.outputs import LIMIT, RasterOutput
from labelscape.maps.seams import Seams
from labelscape.maps.work import MapWork
from labelscape.progress import Tick, bar
from labelscape.rasters.overviews import count_areas
from labelscape.rasters.write import MapWriter
from labelscape.scoring.scored import ScoredTile
from labelscape.scoring.tiles import TilePlan
from labelscape.stages import stage
from labelscape.version import __version__

AREA_ROWS, AREA_COLUMNS = 256, 512
"""Blocks within which the ground area of a pixel is the sum of one of its row and one of its column."""


@dataclass(frozen=True)
class ClassArea:
    """Area of a class in a map; `hectares` on the WGS 84 ellipsoid, None without coordinates."""

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
    unfamiliar: int | None = None
    """Pixels farther from the training data than the limit; None where that is not mapped."""
    seams: Seams | None = field(default_factory=Seams)
    """None where there are none to look at: at several scales tiles meet in other places at each of them."""

    @classmethod
    def of(cls, grid: Grid, legend: Legend, plan: TilePlan) -> Tally:
        """Nothing counted yet, of these tiles."""
        count, ground = len(legend), plan.ground
        # Windows of blended tiles end where their fade begins.
        first = ground.top - plan.fade, ground.left - plan.fade
        seams = None if plan.scaled else Seams(plan.stride, first)
        return cls(grid, legend, np.zeros(count, np.int64), np.zeros(count), seams=seams)

    @stage("count areas and seams")
    def add(self, core: Window, classes: np.ndarray) -> None:
        if self.seams is not None:
            self.seams.add(core, classes)
        for block in _blocks(core):
            # Cut to the classes of the map: nodata is counted too, as 255.
            counts, metres = count_areas(classes[block.inset_of(core)], self.grid, block)
            self.pixels += counts[: len(self.pixels)]
            self.square_metres += metres[: len(self.pixels)]

    def add_unfamiliar(self, far: np.ndarray) -> None:
        """Count what is beyond the limit; 255 is nodata."""
        self.unfamiliar = (self.unfamiliar or 0) + int(np.count_nonzero((far > LIMIT) & (far != IGNORE)))

    def areas(self) -> tuple[ClassArea, ...]:
        known = self.grid.is_on_earth
        return tuple(
            ClassArea(c.name, int(self.pixels[i]), float(self.square_metres[i]) / 10_000 if known else None)
            for i, c in enumerate(self.legend.classes)
        )


def _blocks(core: Window) -> Iterator[Window]:
    for top in range(core.top, core.bottom, AREA_ROWS):
        for left in range(core.left, core.right, AREA_COLUMNS):
            yield Window(top, left, AREA_ROWS, AREA_COLUMNS) & core


Made = TypeVar("Made")
Item = ScoredTile | tuple[Window, np.ndarray]
"""A tile of a map: scored just now, or the window and planes (C, h, w) of one that is kept in the journal."""
Tiles = Callable[[MapWork, Tick], Iterator[Item]]
"""Where the tiles of a map come from: every tile with valid pixels, in the plan's order. The progress bar's
tick is for facts beside the number of tiles, which `write_rasters` counts.
"""


def write_rasters(work: MapWork, tiles: Tiles) -> dict[str, Tally]:
    """Write all tiles, and keep in the journal those that are scored just now, while the network is at the
    next one. Returns the counts of each task by its name, "" the first.

    The journal is kept, since polygons and report may still fail. Raises BadInput where no pixel is valid,
    BadFile where the scene was changed meanwhile.
    """
    scene = work.scene
    tallies = {task: Tally.of(scene.grid, legend, work.plan) for task, legend in work.legends.items()}
    # Where a writer fails its half-written file goes; the journal keeps the finished tiles.
    with work.journal, ExitStack() as files:
        writers = [(o, files.enter_context(_writer(work, o))) for o in work.outputs]

        def write(window: Window, planes: np.ndarray) -> None:
            first = 0
            for output, writer in writers:
                mine = planes[first : first + writer.count]
                first += writer.count
                if output.kind == "unfamiliar":
                    tallies[""].add_unfamiliar(mine)
                if output.classes:  # indices, not yet decoded to class values
                    tallies[output.task].add(window, mine[0])
                    mine = work.legends[output.task].decode(mine)
                writer.write(window, mine)

        def take(item: Item) -> None:
            if not isinstance(item, ScoredTile):
                write(*item)
                return
            planes = planes_of(item, work.outputs, work.request.reject, work.scorer.groups)
            # Journal first: a tile that was written to the rasters only would be lost with their half-written
            # files.
            work.journal.save(item.window, planes)
            write(item.window, planes)

        with bar(f"map {work.stem}", len(work.plan), "tiles") as tick:
            done = one_behind(tiles(work, tick), take, tick)
            # Tiles without data were passed over: the bar must still end at its total.
            tick(len(work.plan) - done)
        if not tallies[""].pixels.sum():  # inside the writers, so that no file is left
            # Its tiles hold nothing: there is nothing to resume.
            work.journal.close()
            raise _empty(work)
        try:
            work.watched.check(f"{scene.name} was mapped")
        except BadFile:
            # Nobody knows which tiles are of which version.
            work.journal.close()
            raise
        # In threads: rasterio releases Python's lock while GDAL reads, compresses and writes.
        with stage("wait for rasters"), ThreadPoolExecutor(len(writers), thread_name_prefix="finish") as pool:
            for future in [pool.submit(writer.finish) for _, writer in writers]:
                # Raises what failed in the thread; without it a full disk would pass unnoticed.
                future.result()
    for tally in tallies.values():
        tally.nodata = scene.grid.window.pixels - int(tally.pixels.sum())
    return tallies


def _empty(work: MapWork) -> BadInput:
    area = work.request.area
    return BadInput(
        f"{work.scene.name} has no valid pixel{f' in the area {area}' if area else ''}: the whole map is "
        f"nodata. Check the scene's nodata value or set it with `nodata`"
        f"{', and that the area contains the centre of a pixel' if area else ''}."
    )


@stage("softmax, classes, confidence")
def planes_of(
    tile: ScoredTile, outputs: Sequence[RasterOutput], reject: float | None, groups: tuple[int, ...] = ()
) -> np.ndarray:
    """(C, h, w) uint8: the bands of all rasters one after another, class indices first; 255 on invalid
    pixels. `groups` are the numbers of classes of two tasks, and the channels of the distance from training
    (`Scorer.groups`).
    """
    parts = tile.tasks(groups)
    tasks = dict(zip(dict.fromkeys(output.task for output in outputs), parts))
    return np.concatenate(
        [o.render(parts[-1] if o.kind == "unfamiliar" else tasks[o.task], reject) for o in outputs]
    )


def _writer(work: MapWork, output: RasterOutput) -> MapWriter:
    network = work.scorer.checkpoint
    names = output.band_names(network.task(output.task or None).legend)
    tags = {"labelscape_version": __version__, "labelscape_network": network.network, **output.tags}
    if task := output.task or (network.whole and network.whole.mate.name):
        tags["labelscape_task"] = task
    return MapWriter(
        work.paths[output.kind],
        work.scene.grid,
        len(names),
        IGNORE,
        legend=work.legends[output.task] if output.classes else None,
        descriptions=names,
        tags=tags,
        overwrite=work.overwrite,
        creation_options=work.request.creation_options,
    )


def one_behind(items: Iterable[Made], act: Callable[[Made], None], tick: Tick) -> int:
    """Act on each item in a second thread, in their order, while the next one is made. Returns their
    number.
    """
    done = 0
    # One thread, so that tiles are written in the plan's order: the same bytes whether they were scored or
    # kept.
    with ThreadPoolExecutor(1, thread_name_prefix="write") as pool:
        behind: Future | None = None
        for item in items:
            if behind is not None:
                # At most one item waits: memory stays bounded, and an error stops the work at once.
                with stage("wait for writing"):
                    behind.result()
            behind = pool.submit(act, item)
            done += 1
            tick()
        if behind is not None:
            # The last item's error too, before the work is called finished.
            with stage("wait for writing"):
                behind.result()
    return done
