"""Read polygons of a vector file into a grid's CRS, and rasterize those in a window."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import rasterio.features

from labelscape.crs import Unrelated, is_geographic, name_of, same, transformed
from labelscape.errors import BadInput
from labelscape.grid import Grid, Window
from labelscape.scenes.vectors import VectorSource, choices, read_features

REACH = 20
"""Polygons that reach farther than this many scene sizes beyond the scene are cut there before they are
projected: a projection has no place for the corners of a rectangle of the world.
"""
STRAIGHT = 0.1
"""Pixels by which a side of a projected polygon may lie beside the straight line in the file's CRS (ours)."""
SHORT = 4
"""Pixels up to which a side is projected by its ends alone (ours): 20 pixels from a pole it bends by 0.1."""
MOST_HALVINGS = 16
"""Times that a side is halved at most (ours); where a projection tears, it would never be straight."""


class Polygons(NamedTuple):
    """Polygons and multipolygons of a file with their attribute columns, and lines on what was left out."""

    geometries: np.ndarray
    attributes: dict[str, np.ndarray]
    notes: tuple[str, ...] = ()


class PolygonIndex:
    """Polygons in a grid's CRS with the value each burns, in a spatial index. `notes` are those of their
    file, such as on what was left out.
    """

    def __init__(
        self, geometries: np.ndarray, indices: np.ndarray, grid: Grid, notes: Sequence[str] = ()
    ) -> None:
        import shapely

        self.notes = tuple(notes)
        self._geometries, self._indices, self._grid = geometries, indices, grid
        self._tree = shapely.STRtree(geometries)

    def on(self, grid: Grid) -> PolygonIndex:
        """The same polygons for another grid of the same CRS."""
        return PolygonIndex(self._geometries, self._indices, grid, self.notes)

    @property
    def reversed(self) -> PolygonIndex:
        """The same polygons with the earlier ones of the file on top."""
        return PolygonIndex(self._geometries[::-1], self._indices[::-1], self._grid, self.notes)

    def touches(self, window: Window) -> bool:
        """Does any polygon lie in a window, at least in part?"""
        import shapely

        return bool(len(self._tree.query(shapely.box(*self._grid.bounds_of(window)), predicate="intersects")))

    def burn(self, window: Window, onto: np.ndarray) -> np.ndarray:
        """Rasterize the polygons in a window into `onto` (H, W) uint8, and return it: each writes its value
        where it covers a pixel's centre, later ones of the file over earlier ones.
        """
        import shapely

        # The tree returns no particular order; file order decides which polygon is on top.
        found = np.sort(self._tree.query(shapely.box(*self._grid.bounds_of(window))))
        if len(found):
            shapes = zip(self._geometries[found], self._indices[found].tolist())
            rasterio.features.rasterize(shapes, out=onto, transform=self._grid.transform_of(window))
        return onto


def read_polygons(
    source: str | Path | VectorSource,
    grid: Grid | None = None,
    columns: Sequence[str] | None = None,
    *,
    may_be_empty: bool = False,
) -> Polygons:
    """Read the polygons of a vector file, reprojected to the CRS of `grid` (without one, in their own).

    Invalid polygons are repaired, those inside geometry collections are taken out of them; everything else is
    left out and counted in the notes. `may_be_empty` allows a layer without features. Raises BadFile for a
    file that cannot be read, UnknownName for a layer it does not have, BadInput where it has no polygon, no
    CRS, or none that can be projected.
    """
    import shapely

    found = read_features(source, columns)
    geometries, left_out = _areas(found.geometries)
    kept = ~shapely.is_missing(geometries)
    if not len(kept) and may_be_empty:
        return Polygons(geometries, dict(found.columns), found.notes)
    if not len(kept):
        raise BadInput(f"{source} is empty: its layer has no features; polygons were expected.")
    if not kept.any():
        had = f" ({_counted(left_out)})" if left_out else ""
        around = " Draw an area of one class around each (in QGIS: Buffer)." * (set(left_out) == {"points"})
        raise BadInput(
            f"{source} holds {len(kept):,} features but no polygon{had}; polygons were expected.{around}"
        )
    geometries = geometries[kept]
    attributes = {name: values[kept] for name, values in found.columns.items()}
    broken = ~shapely.is_valid(geometries)
    # "structure" where "linework" would take minutes: a scribble of 300 corners has 20,000 crossings.
    geometries[broken] = shapely.make_valid(geometries[broken], method="structure", keep_collapsed=False)
    notes = list(found.notes)
    if grid is not None and grid.crs is not None:
        if found.crs is None:
            raise BadInput(
                f"{source} has no CRS, so its location is unknown. Assign the right one (in QGIS: Layer CRS) "
                "and save it again."
            )
        geometries = _projected(geometries, found.crs, grid, source)
    # Collapsed by the repair, or without a place in the grid's CRS.
    whole = ~(shapely.is_missing(geometries) | shapely.is_empty(geometries))
    if (lost := int((~whole).sum())) and grid is not None:
        left_out["without a place in the scene's CRS"] = lost
    if left_out:
        notes.append(
            f"{source}: {int(whole.sum()):,} of {len(kept):,} features are used as polygons; left out: "
            f"{_counted(left_out)}"
        )
    return Polygons(geometries[whole], {name: v[whole] for name, v in attributes.items()}, tuple(notes))


def read_area(source: str | Path | VectorSource, grid: Grid) -> Polygons:
    """The polygons of an area of interest. Raises as `read_polygons` does, and BadInput where several layers
    may be meant: nothing says later which one was taken.
    """
    area = VectorSource.of(source)
    usable = [] if area.layer is not None else choices(area)
    if len(usable) > 1:
        raise BadInput(
            f"{area} has the layers {', '.join(usable)}; an area is one of them. Name it as "
            f"{area}|layername={usable[0]}."
        )
    return read_polygons(area, grid)


def _areas(geometries: np.ndarray) -> tuple[np.ndarray, Counter[str]]:
    """The polygons in each geometry, None where it has none; how many have none, and what they are."""
    import shapely

    found, kinds = geometries.copy(), shapely.get_type_id(geometries)
    left_out: Counter[str] = Counter()
    # 3 and 6 are shapely's numbers of polygons and multipolygons.
    for i in np.nonzero(~np.isin(kinds, [3, 6]) | shapely.is_empty(geometries))[0]:
        parts = [p for p in _parts(geometries[i]) if p.geom_type == "Polygon" and not p.is_empty]
        found[i] = shapely.MultiPolygon(parts) if parts else None
        if not parts:
            left_out[_kind(geometries[i])] += 1
    return found, left_out


def _parts(geometry: object) -> list:
    """All single geometries in a geometry, also in collections within collections."""
    inner = getattr(geometry, "geoms", None)
    if inner is None:
        return [] if geometry is None else [geometry]
    return [part for one in inner for part in _parts(one)]


def _kind(geometry: object) -> str:
    """What a feature that is no polygon is called."""
    if geometry is None or geometry.is_empty:
        return "without a geometry that can be read"
    name = geometry.geom_type.removeprefix("Multi")
    return {"Point": "points", "LineString": "lines", "LinearRing": "lines"}.get(name, "other geometry")


def _counted(left_out: Counter[str]) -> str:
    return ", ".join(f"{n} {kind}" for kind, n in left_out.items())


def _projected(geometries: np.ndarray, crs: str, grid: Grid, source: str | Path | VectorSource) -> np.ndarray:
    """Geometries in the CRS of the grid; None for those that have no place in it. Raises BadInput where that
    holds for all, or where the two CRSs cannot be related.
    """
    import shapely

    try:
        if same(crs, grid.crs):
            return _at_all_longitudes(geometries, grid)
        near, elsewhere = _near(geometries, crs, grid)
    except Unrelated as error:
        raise Unrelated(f"{source} cannot be put onto the scene. {error}") from error
    found = _at_all_longitudes(_bent(near, crs, grid), grid)
    bounds = shapely.bounds(found)
    found[~np.isfinite(bounds).all(axis=1) & ~shapely.is_empty(found)] = None
    # A projection far from where it is used may fold: what lies on the other side of the Earth is not here.
    found[elsewhere & shapely.intersects(found, shapely.box(*grid.bounds_of(grid.window)))] = None
    # Straight lines between projected corners may cross each other where the corners' own lines do not.
    broken = ~shapely.is_valid(found)
    found[broken] = shapely.make_valid(found[broken], method="structure", keep_collapsed=False)
    if (shapely.is_missing(found) | shapely.is_empty(found)).all():
        left, bottom, right, top = shapely.total_bounds(geometries)
        raise BadInput(
            f"None of the {len(geometries):,} polygons of {source} has a place in the scene's CRS "
            f"({grid.crs.to_string()[:60]}): the file declares {name_of(crs)}, and its coordinates are x "
            f"{left:.9g} to {right:.9g}, y {bottom:.9g} to {top:.9g}. Check the file's CRS; GeoJSON "
            "that names none is in degrees (WGS 84)."
        )
    return found


def _bent(geometries: np.ndarray, crs: str, grid: Grid) -> np.ndarray:
    """Geometries in the CRS of the grid. Their sides are straight in their own CRS (as RFC 7946 has it for
    GeoJSON), and get corners between, where they bend by more than STRAIGHT pixels in the grid's: a side of
    100 km along a parallel, as of an area drawn in degrees, lies 200 m beside the line between its ends.
    """
    import shapely

    degrees, round_the_world = is_geographic(crs), is_geographic(grid.crs)
    middle = (grid.transform @ (grid.width / 2, grid.height / 2))[0]

    def moved(xy: np.ndarray) -> np.ndarray:
        x, y = transformed(xy[:, 0], xy[:, 1], crs, grid.crs)
        if round_the_world and not degrees:
            # From 179.9 to -179.9 degrees a polygon would span the world.
            x = middle + (x - middle + 180) % 360 - 180
        return np.column_stack([x, y])

    def in_pixels(xy: np.ndarray) -> np.ndarray:
        return np.column_stack(~grid.transform @ (xy[:, 0], xy[:, 1]))

    found = geometries.copy()
    rest = np.arange(len(found))
    longest = np.full(len(found), np.inf)
    size = np.array([grid.width, grid.height])
    # Infinite coordinates are no error before they are used.
    with np.errstate(invalid="ignore", over="ignore"):
        for _ in range(MOST_HALVINGS):
            xy, of = shapely.get_coordinates(found[rest], return_index=True)
            ends = in_pixels(moved(xy))
            sides = of[1:] == of[:-1]
            step, round_the_pole = xy[1:] - xy[:-1], False
            if degrees:
                # Sides that seem to run round the world cross the antimeridian: no corner lies between.
                wide = sides & (np.abs(step[:, 0]) > 180) & (np.abs(step[:, 0]) < 360 - 1e-6)
                sides &= ~np.isin(of[1:], of[1:][wide])
                # All round the world, as along the parallel of a pole's cap, a side ends where it began.
                round_the_pole = sides & (np.abs(step[:, 0]) >= 360 - 1e-6)
            reach = np.hypot(*(ends[1:] - ends[:-1]).T)[:, None]
            here = (np.minimum(ends[1:], ends[:-1]) < size + reach) & (
                np.maximum(ends[1:], ends[:-1]) > -reach
            )
            sides &= (here.all(axis=1) & (reach[:, 0] > SHORT)) | round_the_pole
            checked = np.flatnonzero(sides)
            between = in_pixels(moved((xy[checked] + xy[checked + 1]) / 2))
            off = np.hypot(*(between - (ends[checked] + ends[checked + 1]) / 2).T)
            bends = np.isfinite(off) & (off > STRAIGHT)
            if not bends.any():
                break
            length = np.zeros(len(rest))
            np.maximum.at(length, of[checked[bends]], np.hypot(*step[checked[bends]].T))
            again = length > 0
            rest = rest[again]
            longest[rest] = np.minimum(longest[rest], length[again]) / 2
            found[rest] = shapely.segmentize(found[rest], longest[rest])
        return shapely.transform(found, moved)


def _at_all_longitudes(geometries: np.ndarray, grid: Grid) -> np.ndarray:
    """Geometries in the grid's CRS; where that is degrees, also where they lie once more round the Earth:
    scenes count longitudes from 0 to 360, or on beyond 180, where polygons count from -180.
    """
    import shapely

    if not grid.is_georeferenced or not is_geographic(grid.crs):
        return geometries
    scene = shapely.box(*grid.bounds_of(grid.window))
    geometries = found = _across_the_antimeridian(geometries, scene)
    for turn in (-360, 360):
        there = shapely.transform(geometries, partial(np.add, (turn, 0)))
        here = shapely.intersects(there, scene)
        if here.any():
            found = found.copy() if found is geometries else found
            found[here] = shapely.union(found[here], there[here])
    return found


def _across_the_antimeridian(geometries: np.ndarray, scene: object) -> np.ndarray:
    """Geometries in degrees of which those with a side from 179.9 to -179.9 cross the antimeridian, where
    they lie in the scene then, as they do in scenes of other CRSs (`_bent`): the long way round, they would
    be all of the Earth but what was drawn.
    """
    import shapely

    west, _, east, _ = scene.bounds
    xy, of = shapely.get_coordinates(geometries, return_index=True)
    step = np.abs(np.diff(xy[:, 0]))
    wide = np.unique(of[1:][(of[1:] == of[:-1]) & (step > 180) & (step < 360 - 1e-6)])
    # In a scene as wide as the world both may be meant: there they are read as written.
    if not len(wide) or east - west > 180:
        return geometries
    short = shapely.transform(
        geometries[wide],
        lambda xy: np.column_stack([np.where(xy[:, 0] < 0, xy[:, 0] + 360, xy[:, 0]), xy[:, 1]]),
    )
    broken = ~shapely.is_valid(short)
    short[broken] = shapely.make_valid(short[broken], method="structure", keep_collapsed=False)
    back = shapely.transform(short, partial(np.add, (-360, 0)))
    here = shapely.intersects(short, scene) | shapely.intersects(back, scene)
    found = geometries.copy()
    found[wide[here]] = short[here]
    return found


def _near(geometries: np.ndarray, crs: str, grid: Grid) -> tuple[np.ndarray, np.ndarray]:
    """The geometries, cut to the scene's surroundings (REACH) where they go far beyond; which ones lie
    outside these altogether.
    """
    import shapely

    # Points along the border and inside it: the corners alone miss the bulge of a curved side.
    steps = np.linspace(0, 1, 21)
    columns, rows = np.meshgrid(steps * grid.width, steps * grid.height)
    x, y = grid.transform @ (columns.ravel(), rows.ravel())
    there = np.column_stack(transformed(x, y, grid.crs, crs))
    nowhere = np.zeros(len(geometries), bool)
    if not np.isfinite(there).all():
        return geometries, nowhere
    (left, bottom), (right, top) = there.min(axis=0), there.max(axis=0)
    side = max(right - left, top - bottom)
    # A scene across the antimeridian seems to be as wide as the world: cutting would lose its polygons.
    if is_geographic(crs) and right - left > 180:
        return geometries, nowhere
    reach = REACH * side
    box = shapely.box(left - reach, bottom - reach, right + reach, top + reach)
    elsewhere = ~shapely.intersects(geometries, box)
    far = ~shapely.within(geometries, box) & ~elsewhere
    if not far.any():
        return geometries, elsewhere
    found = geometries.copy()
    # With corners between, since a straight side of the cut is curved in the scene's CRS.
    found[far] = shapely.segmentize(shapely.intersection(geometries[far], box), side / 4)
    return found, elsewhere
