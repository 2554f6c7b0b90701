"""Sieve a class map to a minimum mapping unit: every smaller area is merged into a neighbour, without gaps.

The smallest area comes first, each goes into the class with which it shares the longest border; `neighbours`
has the rule in full. GRASS (`v.clean tool=rmarea`), QGIS and ArcGIS ("Eliminate", by the longest common
border) choose alike, in polygons and in one pass, after which areas below the minimum may be left.
`gdal_sieve` merges an area into its largest neighbour, also where it touches that with a single pixel side,
and skips areas that have none but small neighbours; here those grow together until they are large enough. An
area that is still below the minimum afterwards is surrounded by nodata.

The map is read once, strip by strip. An area is merged as soon as everything around it is known, and a strip
is written when all its areas are decided; a graph is kept only of areas that are small so far, and of them
only of those that may still grow below.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from labelscape.areas.neighbours import LARGE, Borders, Nodes, fused, merged_away
from labelscape.areas.outlines import connected
from labelscape.areas.trace import runs_of, strip_height, without_nodata
from labelscape.errors import BadOption
from labelscape.files import check_not_read, check_path, check_written, locked
from labelscape.grid import Window
from labelscape.legend import Legend
from labelscape.rasters.class_map import ClassRaster, class_raster
from labelscape.rasters.class_names import legend_of
from labelscape.rasters.creation import CreationOptions, Given
from labelscape.rasters.write import MapWriter
from labelscape.scenes.files import reading
from labelscape.scenes.stamps import Watched

SLACK = 1e-9
"""Relative tolerance of the minimum: sizes are sums of rounded numbers, so one that should equal it may fall
just below.
"""


@dataclass(frozen=True)
class SievedClass:
    """Size of a class before and after, in pixels and hectares (WGS 84; None without coordinates)."""

    name: str
    pixels_before: int
    pixels: int
    hectares_before: float | None
    hectares: float | None


@dataclass(frozen=True)
class SieveSummary:
    """What the sieve did: areas merged into a neighbour (`given`), areas below the minimum that remain
    because they have no neighbour (`left`), pixels that changed class, and the size of each class.
    """

    given: int
    left: int
    changed_pixels: int
    classes: tuple[SievedClass, ...]

    def __repr__(self) -> str:
        return (
            f"<SieveSummary: {self.given:,} areas merged, {self.left:,} left, {self.changed_pixels:,} pixels "
            f"changed, {len(self.classes)} classes>"
        )


@dataclass
class _Part:
    """A part of a strip: its class values, and the pixels (N,) that change class or are undecided, with the
    node of each.
    """

    window: Window
    values: np.ndarray
    where: np.ndarray
    nodes: np.ndarray


def check_minimum(least: float) -> None:
    """Raises BadOption where a minimum mapping unit is not a number above 0."""
    if not 0 < least < math.inf:
        raise BadOption(
            f"The minimum mapping unit is {least:g}; a number above 0 was expected, in hectares (pixels "
            "without coordinates)."
        )


def _check_target(out: str | Path) -> None:
    """Raises BadFile where no file can have the name of a sieved map, BadOption for another suffix."""
    check_path(out, "The sieved map")
    check_written(out)
    if Path(out).suffix.lower() not in (".tif", ".tiff"):
        raise BadOption(
            f"{out}: a sieved map is a GeoTIFF (.tif, .tiff); for polygons use polygonize with `sieve`."
        )


def sieve(
    raster: str | Path,
    out: str | Path,
    legend: Legend | None = None,
    *,
    min_area: float,
    strip_rows: int | None = None,
    overwrite: bool = False,
    creation_options: Given = None,
    tick: Callable[[int], None] | None = None,
) -> SieveSummary:
    """Sieve the class map `raster`: write it to `out` with every area below `min_area` merged into a
    neighbour. `out` is a GeoTIFF of one band of bytes.

    min_area  minimum mapping unit: hectares on the WGS 84 ellipsoid, or pixels for a raster without
              coordinates; areas are 4-connected
    legend    by default the names and colours stored with the raster
    creation_options  GDAL's, such as {"COMPRESS": "LZW"}
    tick      called with the number of rows done

    Pixels of 255 and of the raster's own nodata value are never changed and never a neighbour. All classes
    are treated alike, also the class "unknown" of `map_scene(reject=...)`. The result does not depend on
    `strip_rows`. It is a COG with the colours, attribute table, overviews and nodata value of the raster.
    Raises BadOption for a minimum that is not above 0 and for creation options that cannot be honoured,
    BadInput for a raster that is not a class map, BadFile.
    """
    check_path(raster, "The class map")
    options = CreationOptions.of(creation_options)
    check_minimum(min_area)
    _check_target(out)
    watched = Watched.of([str(raster)])
    with reading(raster) as file:
        classes = class_raster(file, raster)
        grid = classes.grid
        check_not_read(out, [raster])
        # After the check of the raster: `legend_of` may read all of it.
        legend = legend or legend_of(raster)[0]
        tags = {k: v for k, v in file.tags().items() if k.startswith("labelscape_")}
        tags["labelscape_sieve"] = f"{min_area:g} {'ha' if grid.is_on_earth else 'pixels'}"
        how = {"legend": legend, "tags": tags, "overwrite": overwrite, "creation_options": options}
        with locked(out), MapWriter(out, grid, 1, classes.nodata, **how) as writer:
            work = _Sieve(classes, min_area * (1e4 if grid.is_on_earth else 1) * (1 - SLACK))
            rows = strip_rows or _rows(grid.width)
            for top in range(0, grid.height, rows):
                strip = Window(top, 0, min(rows, grid.height - top), grid.width)
                for part in work.decided(strip):
                    writer.write(part.window, part.values)
                if tick:
                    tick(strip.height)
            # Inside the writer, which then leaves no file.
            watched.check(f"{raster} was sieved")
    return work.summary(legend)


def _rows(width: int) -> int:
    """Rows of a strip: those of `trace` rounded down to a power of two, so that the ends of strips and
    blocks coincide.
    """
    return 2 ** int(math.log2(strip_height(width)))


class _Sieve:
    """The state of the sieve down to a row: the small areas, the node of each pixel of that row (-1: none),
    and the parts not written yet.
    """

    def __init__(self, raster: ClassRaster, least: float) -> None:
        self.raster, self.grid, self.least = raster, raster.grid, least
        self.stored = raster.stored()
        self.nodes, self.borders = Nodes.none(), Borders.none()
        # Int64 for one row: all that is remembered of the pixels of a finished strip.
        self.above = np.full(self.grid.width, -1)
        self.waiting: list[_Part] = []
        self.pieces, self.of = Nodes.none()[:0], np.zeros(0, np.int64)
        """Undecided pieces of areas, each within a strip, and the node of each; for the summary."""
        self.given = self.left = self.changed = 0
        self.before, self.after = np.zeros((2, 2, LARGE))
        """Pixels and sizes (2, 256) by class."""

    def decided(self, strip: Window) -> list[_Part]:
        """Read the next strip; returns the parts of the map that are ready to be written."""
        runs = [(run, self.raster.read(run)) for run in runs_of(self.raster, self.stored, strip)]
        # Nothing here and nothing undecided above: strips over sparse files cost nothing.
        if not runs and len(self.nodes) == LARGE:
            return []
        parts, old, below = [], len(self.nodes), np.full(self.grid.width, -1)
        # Numbers in this strip: the 256 LARGE nodes and what was carried over first, then each run's areas.
        found, pairs = [self.nodes.closed()], [np.zeros((2, 0), np.int64)]
        count = old
        for run, values in runs:
            classes = without_nodata(values, self.raster.nodata)
            labels, nodes = self._numbered(classes, run, ends=run.bottom == self.grid.height)
            # Pixels of two strips that touch; those of one class are one area, the others neighbours.
            meet = (self.above[run.left : run.right] >= 0) & (labels[0] >= 0)
            pairs.append(np.stack([self.above[run.left : run.right][meet], labels[0][meet] + count]))
            below[run.left : run.right] = np.where(labels[-1] >= 0, labels[-1] + count, -1)
            parts.append((run, values, classes, labels, count))
            found.append(nodes)
            count += len(nodes)
        nodes, pairs = Nodes.together(found), np.concatenate(pairs, axis=1)
        # Before anything is fused: the summary needs each piece's own class and size.
        pieces = nodes[np.arange(old, count)]
        # First areas across the strip's edge are made one: their size decides whether they are small at all.
        nodes, number = fused(nodes, pairs[:, nodes.kinds[pairs[0]] == nodes.kinds[pairs[1]]], self.least)
        borders = [self.borders.renamed(number)]
        borders += [
            self._borders(classes, labels, first, run, number) for run, _, classes, labels, first in parts
        ]
        nodes, borders, step, given = merged_away(nodes, Borders.together(borders), self.least)
        number = self._carry_on(nodes, borders, step[number])
        self.given += given
        self.above = np.where(below >= 0, number[below], -1)
        self._count(pieces, number[old:], number)
        for part in self.waiting:
            # Parts that wait refer to nodes by number, and numbers have just changed.
            part.nodes = number[part.nodes]
        for run, values, _, labels, first in parts:
            named = number[first:][: labels.max(initial=-1) + 1]
            # The False at the end is for label -1, pixels of no area.
            differs = np.append(named != pieces.kinds[first - old :][: len(named)], False)
            where = np.flatnonzero(differs[labels])
            self.waiting.append(_Part(run, values, where, named[labels.ravel()[where]]))
        # A part is written whole, once its last area is decided: a COG's blocks are written once.
        ready = [part for part in self.waiting if (part.nodes < LARGE).all()]
        self.waiting = [part for part in self.waiting if (part.nodes >= LARGE).any()]
        for part in ready:
            part.values.ravel()[part.where] = part.nodes
        return ready

    def _numbered(self, classes: np.ndarray, run: Window, *, ends: bool) -> tuple[np.ndarray, Nodes]:
        """The connected areas of a run of pixels, those of its last row open unless the map ends there."""
        labels, kinds, pixels, sizes = connected(classes, self.grid, run.top, run.left)
        # Only starts of runs of equal pixels can be an area's first pixel: many times fewer to sort through.
        starts = np.ones(classes.shape, bool)
        starts[:, 1:] = classes[:, 1:] != classes[:, :-1]
        starts = np.flatnonzero(starts & (labels >= 0))[::-1]
        first, goes_on = np.empty(len(kinds), np.int64), np.zeros(len(kinds), bool)
        # Starts are in reverse order: the last one written to an area is its first in reading order.
        first[labels.ravel()[starts]] = self._places(starts, run)
        if not ends:
            goes_on[labels[-1][labels[-1] >= 0]] = True
        return labels, Nodes(kinds.astype(np.int64), pixels.astype(np.int64), sizes, first, goes_on)

    def _places(self, pixels: np.ndarray, run: Window) -> np.ndarray:
        """Positions of a run's pixels in the whole map, counted row by row."""
        rows, columns = np.divmod(pixels, run.width)
        return (rows + run.top) * self.grid.width + columns + run.left

    def _borders(
        self, classes: np.ndarray, labels: np.ndarray, first: int, run: Window, number: np.ndarray
    ) -> Borders:
        """The borders of small areas within a run, and with the row above it."""
        flat, found = labels.ravel(), []
        for step, differ in (
            # Borders to the right, then below: each side of two pixels once.
            (1, classes[:, 1:] != classes[:, :-1]),
            (run.width, classes[1:] != classes[:-1]),
        ):
            one = np.flatnonzero(differ)
            # Pairs along a row are one fewer than pixels: positions among pairs -> positions among pixels.
            if step == 1 and run.width > 1:
                one += one // (run.width - 1)
            one = one[(flat[one] >= 0) & (flat[one + step] >= 0)]
            a, b = number[first + flat[one]], number[first + flat[one + step]]
            small = (a >= LARGE) | (b >= LARGE)
            one = one[small]
            found.append(
                Borders.between(a[small], b[small], self._places(one, run), self._places(one + step, run))
            )
        above = self.above[run.left : run.right]
        meet = np.flatnonzero((above >= 0) & (labels[0] >= 0))
        here = self._places(meet, run)
        found.append(
            Borders.between(
                number[above[meet]], number[first + labels[0][meet]], here - self.grid.width, here
            )
        )
        return Borders.together(found)

    def _carry_on(self, nodes: Nodes, borders: Borders, number: np.ndarray) -> np.ndarray:
        """Keep the undecided areas under new numbers. Returns (N,) for each node its new number, or its class
        where that is decided.
        """
        bordering = nodes.open.copy()
        bordering[borders.of] = True
        # Nodes that still stand for themselves: areas below the minimum that were merged into no other.
        own = np.flatnonzero(number == np.arange(len(nodes)))
        own = own[own >= LARGE]
        kept = own[bordering[own]]
        # Closed and without a border: surrounded by nodata, they stay as they are.
        self.left += len(own) - len(kept)
        final = nodes.kinds.copy()
        final[kept] = LARGE + np.arange(len(kept))
        self.nodes, self.borders = Nodes.together([Nodes.none(), nodes[kept]]), borders.renamed(final)
        return final[number]

    def _count(self, pieces: Nodes, of: np.ndarray, number: np.ndarray) -> None:
        """Add up the classes before the sieve, and after it for what is decided now."""
        self.before += _by_class(pieces, pieces.kinds)
        pieces, of = Nodes.together([self.pieces, pieces]), np.concatenate([number[self.of], of])
        done = of < LARGE
        self.after += _by_class(pieces[done], of[done])
        # By piece: an area made of several changes class only in those that had another.
        self.changed += int(pieces.pixels[done & (of != pieces.kinds)].sum())
        self.pieces, self.of = pieces[~done], of[~done]

    def summary(self, legend: Legend) -> SieveSummary:
        """The summary, once the whole map is decided."""
        assert not self.waiting and not len(self.of) and len(self.nodes) == LARGE
        known = self.grid.is_on_earth
        (old, old_sizes), (new, new_sizes) = self.before, self.after
        return SieveSummary(
            self.given,
            self.left,
            self.changed,
            tuple(
                SievedClass(
                    c.name,
                    int(old[c.value]),
                    int(new[c.value]),
                    *(float(s[c.value]) / 1e4 if known else None for s in (old_sizes, new_sizes)),
                )
                for c in legend.classes
            ),
        )


def _by_class(areas: Nodes, kinds: np.ndarray) -> np.ndarray:
    """Pixels and sizes (2, 256) of areas by these classes."""
    return np.stack([np.bincount(kinds, weights=w, minlength=LARGE) for w in (areas.pixels, areas.sizes)])
