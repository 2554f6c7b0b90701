"""How long a map takes, measured on a part of the scene: a batch of tiles is read and predicted by the engine
that the map will take, and a block of its classes is written as rasters and polygons to a temporary folder.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from labelscape.areas.polygonize import polygonize
from labelscape.areas.sieve import sieve
from labelscape.contract.matching import bands_to_read
from labelscape.contract.sample import sampled_windows
from labelscape.files import temporary_folder
from labelscape.grid import Window
from labelscape.legend import IGNORE
from labelscape.maps.outputs import RasterOutput, kind_of
from labelscape.maps.rasters import planes_of
from labelscape.maps.request import MapRequest
from labelscape.maps.work import share_stored, with_unknown
from labelscape.rasters.write import MapWriter
from labelscape.scenes.scene import Scene
from labelscape.scoring.arrays import Array
from labelscape.scoring.engine_choice import with_engine
from labelscape.scoring.scored import ScoredTile
from labelscape.scoring.scorer import Scorer
from labelscape.scoring.stitch import forward_share, stacked
from labelscape.scoring.tiles import TilePlan

BLOCK = 512
QUICK = 128
"""Sides in pixels of the block that is written, and of the small one before it (ours)."""
MOST_WINDOWS = 24
LONGEST = 20.0
"""Seconds that predicting one batch of tiles may take; where it would be more a block is predicted (ours)."""
LOOKING = 3.0
"""Seconds after which no further window is read to see where the scene has data (ours)."""


class _Looked(NamedTuple):
    """What a few windows of a scene show: the one with most valid pixels, the share of the scene that tiles
    with data cover, and seconds to read a pixel.
    """

    best: Window
    share: float
    reading: float


def seconds_of_map(
    scorer: Scorer, scene: Scene, tiles: TilePlan, outputs: Sequence[RasterOutput], request: MapRequest
) -> float:
    """Estimated seconds to read, predict and write the tiles and to polygonize them, without report. Steps
    that a map runs at the same time on several cores are added up.
    """
    looked = _looked_at(scene, bands_to_read(scorer.checkpoint.bands, scene))
    # Where most tiles are empty the map has less to predict, and its engine may be another one.
    scorer = with_engine(scorer, [tiles], request.engine).scorer
    predicted = forward_share(tiles) * scene.grid.window.pixels
    # Of the tiles that are read some hold no valid pixel; they are read and passed over.
    stored = share_stored(scene, tiles)
    full = min(stored, looked.share)
    read = predicted
    if tiles.scaled:
        # Tiles of a small scale are made of many pixels of the scene; each network reads them for itself.
        shares = sum(forward_share(one) for one in tiles.scaled)
        read = len(scorer.members) * shares * scene.grid.window.pixels
        # A pixel takes about as long at every scale.
        shown, scorer = tiles.shown, scorer.at_one_scale
        tiles = replace(tiles, core=shown.core, halo=shown.halo, batch=shown.batch, scaled=())
    reading, network, block = _timed_tile(scorer, scene, tiles, looked)
    first, each = _timed_writing(scorer, scene, block, outputs, request)
    # An empty map is written too.
    made = read * stored * reading + predicted * full * network
    return made + first + full * each * scene.grid.window.pixels


def _looked_at(scene: Scene, bands: tuple[str, ...]) -> _Looked:
    edge, inner = sampled_windows(scene.grid.window, MOST_WINDOWS, block=BLOCK)
    start, best, most, pixels = time.monotonic(), None, -1, 0
    held: dict[bool, list[bool]] = {True: [], False: []}
    # The interior and the edge in turn, so that little time shows a bit of both.
    for number in range(max(len(edge), len(inner))):
        for at_edge, windows in ((False, inner), (True, edge)):
            if number >= len(windows) or (best is not None and time.monotonic() - start > LOOKING):
                continue
            valid = int(np.count_nonzero(scene.read(windows[number], bands).valid))
            held[at_edge].append(valid > 0)
            pixels += windows[number].pixels
            if valid > most:
                best, most = windows[number], valid
    reading = (time.monotonic() - start) / pixels
    rows, columns = (math.ceil(length / BLOCK) for length in scene.grid.shape)
    inside = max(0, rows - 2) * max(0, columns - 2)
    # Corners and edges are looked at more often than their share of the scene, and are empty more often.
    weights = {True: rows * columns - inside, False: inside}
    known = {at_edge: weights[at_edge] for at_edge, found in held.items() if found}
    share = sum(w * np.mean(held[at_edge]) for at_edge, w in known.items()) / max(1, sum(known.values()))
    return _Looked(best, float(share), reading)


def _timed_tile(
    scorer: Scorer, scene: Scene, tiles: TilePlan, looked: _Looked
) -> tuple[float, float, ScoredTile]:
    """Seconds to read and normalise a pixel, and to predict it, in a batch of the map's own tiles: the
    engine may be for their shape alone, and attention costs more in larger tiles. Also the prediction of the
    block with most data.
    """
    bands = bands_to_read(scorer.checkpoint.bands, scene)
    block = scene.read(looked.best, bands)

    def timed(pixels: np.ndarray, valid: np.ndarray, batch: int) -> tuple[float, float, Array]:
        start = time.monotonic()
        images = scorer.prepare(pixels, valid)
        normalised = time.monotonic()
        many = [stacked([images] * batch, member) for member in range(len(images))]
        logits = scorer.batch_logits(many)[0]
        if scorer.device.type == "cuda":  # kernels run asynchronously
            from torch.cuda import synchronize

            synchronize(scorer.device)
        size = valid.size
        return (normalised - start) / size, (time.monotonic() - normalised) / size / batch, logits

    quick = block.pixels[:, :QUICK, :QUICK], block.valid[:QUICK, :QUICK]
    timed(*quick, 1)  # the first call also allocates and compiles
    preparing, network, logits = timed(*quick, 1)
    tile, reading = _around(looked.best, tiles), looked.reading
    if network * tile.pixels * tiles.batch < LONGEST:
        start = time.monotonic()
        whole = scene.read(tile, bands)
        reading = (time.monotonic() - start) / tile.pixels
        preparing, network, logits = timed(whole.pixels, whole.valid, tiles.batch)
        inside = (looked.best & tile).inset_of(tile)
        logits, valid = logits[(slice(None), *inside)], whole.valid[inside]
    elif network * looked.best.pixels < LONGEST:
        preparing, network, logits = timed(block.pixels, block.valid, 1)
        valid = block.valid
    else:
        valid = quick[1]
    return reading + preparing, network, ScoredTile(Window(0, 0, *valid.shape), logits, valid)


def _around(block: Window, tiles: TilePlan) -> Window:
    """A window as large as what a tile sees, within what can be seen where it fits, around a block."""
    ground = tiles.ground
    sides = tiles.seen_shape
    top, left = (
        min(max(least, first + size // 2 - side // 2), most - side)
        for first, size, side, least, most in zip(
            (block.top, block.left),
            block.shape,
            sides,
            (ground.top, ground.left),
            (ground.bottom, ground.right),
        )
    )
    return Window(top, left, *sides)


def _timed_writing(
    scorer: Scorer, scene: Scene, block: ScoredTile, outputs: Sequence[RasterOutput], request: MapRequest
) -> tuple[float, float]:
    """Seconds that the rasters and polygons of a map take anyway, and for each pixel; of a scored block."""

    def timed(side: int) -> float:
        rows, columns = (min(side, length) for length in block.valid.shape)
        part = ScoredTile(
            Window(0, 0, rows, columns), block.logits[:, :rows, :columns], block.valid[:rows, :columns]
        )
        with temporary_folder() as folder:
            start = time.monotonic()
            _write(part, scorer, scene, folder, outputs, request)
            return time.monotonic() - start

    timed(QUICK)  # the first call also loads libraries
    small, large = timed(QUICK), timed(BLOCK)
    pixels = min(QUICK, block.valid.shape[0]) * min(QUICK, block.valid.shape[1])
    more = block.valid.size - pixels
    if not more:
        return large, 0.0
    each = max(0.0, large - small) / more
    return max(0.0, small - each * pixels), each


def _write(
    tile: ScoredTile,
    scorer: Scorer,
    scene: Scene,
    folder: Path,
    outputs: Sequence[RasterOutput],
    request: MapRequest,
) -> None:
    """Make what a map makes of a tile, as a map of its own."""
    planes, first = planes_of(tile, outputs, request.reject, scorer.groups), 0
    how = {"creation_options": request.creation_options}
    grid = scene.grid.crop(tile.window)
    for output in outputs:
        legend = scorer.checkpoint.task(output.task or None).legend
        names, path = output.band_names(legend), folder / f"{output.kind}.tif"
        mine = planes[first : first + len(names)]
        first += len(names)
        if not output.classes:
            with MapWriter(path, grid, len(names), IGNORE, descriptions=names, **how) as file:
                file.write(tile.window, mine)
            continue
        legend = legend if request.reject is None else with_unknown(legend)
        with MapWriter(path, grid, 1, IGNORE, legend=legend, **how) as file:
            file.write(tile.window, legend.decode(mine))
        if request.sieve:
            sieved = folder / f"{kind_of('sieved', output.task)}.tif"
            sieve(path, sieved, legend, min_area=request.sieve, **how)
            path = sieved
        if request.polygons:
            polygonize(
                path,
                folder / f"{kind_of('polygons', output.task)}.{request.polygons_as}",
                legend,
                min_area=request.min_area,
                simplify=request.simplify,
            )
