"""Polygons of another CRS, or of other longitudes, lie where their file says, between their corners too."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyproj
import pytest
import shapely
import world
from affine import Affine
from rasterio.crs import CRS
from rasterio.features import rasterize
from scipy import ndimage

from labelscape.grid import Grid
from labelscape.scenes.polygons import PolygonIndex, read_polygons


def write(path: Path, geometries: list, crs: str) -> Path:
    import pyogrio

    pyogrio.raw.write(
        path,
        shapely.to_wkb(np.array(geometries, object)),
        [np.arange(len(geometries))],
        ["id"],
        geometry_type="Unknown",
        crs=crs,
        driver="GPKG",
    )
    return path


def burned(path: Path, grid: Grid) -> np.ndarray:
    polygons = read_polygons(path, grid).geometries
    index = PolygonIndex(polygons, np.ones(len(polygons), np.uint8), grid)
    return index.burn(grid.window, np.zeros(grid.shape, np.uint8)) == 1


def inside(grid: Grid, crs: str, holds) -> np.ndarray:
    """(H, W) bool: whose centres' places in another CRS `holds(x, y)` is true of."""
    rows, columns = np.indices(grid.shape)
    x, y = grid.transform @ (columns.ravel() + 0.5, rows.ravel() + 0.5)
    change = pyproj.Transformer.from_crs(grid.crs.to_wkt(), crs, always_xy=True)
    return holds(*change.transform(x, y)).reshape(grid.shape)


WIDE = Grid(CRS.from_epsg(32633), Affine(100, 0, 399_960, 0, -100, 5_800_020), 1100, 1100)
POLE = Grid(CRS.from_epsg(3413), Affine(1000, 0, -150_000, 0, -1000, 100_000), 200, 300)


@pytest.mark.parametrize(
    ("grid", "box"),
    [
        (WIDE, (13.7, 51.6, 15.0, 52.2)),
        # Far beyond the scene: what is cut there has straight sides in degrees too.
        (WIDE, (-100, 51.9, 100, 52.1)),
        (POLE, (3, 89.3, 91, 89.8)),
        (POLE, (-180, 89.5, 180, 90)),
    ],
)
def test_sides_are_straight_in_the_polygons_own_crs(tmp_path, grid, box):
    """A box of degrees with four corners: between them its sides follow parallels."""
    west, south, east, north = box
    path = write(tmp_path / "box.gpkg", [shapely.box(*box)], "EPSG:4326")
    wanted = inside(grid, "OGC:CRS84", lambda x, y: (x > west) & (x < east) & (y > south) & (y < north))
    assert wanted.sum() > 3000
    # Sides may lie a tenth of a pixel beside their place.
    along = (wanted & ~ndimage.binary_erosion(wanted)).sum()
    assert (burned(path, grid) != wanted).sum() < 0.15 * along


def test_what_crosses_the_antimeridian_keeps_its_sides(tmp_path):
    """A side from 179.95 to -179.95 degrees is the short one, as footprints have it that nobody split."""
    x, y = pyproj.Transformer.from_crs(4326, 32660, always_xy=True).transform(180, 65)
    grid = Grid(CRS.from_epsg(32660), Affine(100, 0, x - 15_000, 0, -100, y + 10_000), 200, 300)
    corners = [grid.transform @ place for place in ((60, 60), (240, 60), (240, 140), (60, 140))]
    back = pyproj.Transformer.from_crs(32660, 4326, always_xy=True)
    path = write(tmp_path / "a.gpkg", [shapely.Polygon([back.transform(*c) for c in corners])], "EPSG:4326")
    wanted = rasterize([shapely.Polygon(corners)], grid.shape, transform=grid.transform) == 1
    assert (burned(path, grid) != wanted).sum() <= 100


BEYOND = Grid(CRS.from_epsg(4326), Affine(0.001, 0, 179.9, 0, -0.001, 10), 200, 300)
PACIFIC = Grid(CRS.from_epsg(4326), Affine(0.001, 0, 200, 0, -0.001, 10), 200, 300)


@pytest.mark.parametrize("grid", [BEYOND, PACIFIC])
@pytest.mark.parametrize("how", ["split", "not split", "as the scene", "from -180", "utm"])
def test_longitudes_of_scene_and_polygons_may_differ_by_a_turn(tmp_path, grid, how):
    """A scene that counts on beyond 180, or from 0 to 360, and polygons that count from -180 on."""
    left, bottom, right, top = shapely.bounds(shapely.box(*grid.bounds_of(grid.window)).buffer(-0.06))
    whole = shapely.box(left, bottom, right, top)
    east = shapely.transform(
        shapely.intersection(whole, shapely.box(180, -90, 360, 90)), lambda xy: xy - [360, 0]
    )
    geometries, crs, wanted = [whole], "EPSG:4326", whole
    if how == "split":
        parts = [shapely.intersection(whole, shapely.box(0, -90, 180, 90)), east]
        geometries = [shapely.MultiPolygon([part for part in parts if not part.is_empty])]
    elif how == "not split":  # from 179.96 to -179.86: not the long way round, all but what was drawn
        geometries = [shapely.transform(whole, lambda xy: np.where(xy > 180, xy - 360, xy))]
    elif how == "from -180":
        geometries, wanted = [east], shapely.intersection(whole, shapely.box(180, -90, 360, 90))
    elif how == "utm":
        zone = 32601 if grid is BEYOND else 32604
        change, crs = pyproj.Transformer.from_crs(4326, zone, always_xy=True), f"EPSG:{zone}"
        geometries = [
            shapely.transform(whole.segmentize(0.01), lambda xy: np.column_stack(change.transform(*xy.T)))
        ]
    found = burned(write(tmp_path / "a.gpkg", geometries, crs), grid)
    expected = rasterize([wanted], grid.shape, transform=grid.transform) == 1
    assert expected.sum() > 3000
    assert (found != expected).sum() <= 0.01 * expected.sum()


def test_a_side_round_the_world_is_no_crossing_elsewhere(tmp_path):
    """An area of nearly all the Earth, as a rectangle, in a scene of Europe and in one of the Earth."""
    path = write(tmp_path / "a.gpkg", [shapely.box(-170, -60, 170, 70)], "EPSG:4326")
    europe = Grid(CRS.from_epsg(4326), Affine(0.01, 0, 10, 0, -0.01, 50), 200, 300)
    assert burned(path, europe).all()
    earth = Grid(CRS.from_epsg(4326), Affine(1, 0, -180, 0, -1, 90), 180, 360)
    assert burned(path, earth).sum() == 340 * 130


def test_labels_from_minus_180_train_a_scene_from_0_to_360(tmp_path):
    from labelscape.labels.labels import open_labels
    from labelscape.scenes.raster import Scene

    w = world.make(tmp_path, 96, 128, crs=CRS.from_epsg(4326), transform=Affine(0.001, 0, 200, 0, -0.001, 10))
    west = Affine.translation(-360, 0) @ w.transform
    path = world.label_polygons(world.World(w.scene, w.classes, w.pixels, w.crs, west), tmp_path / "l.gpkg")
    with Scene(w.scene) as scene:
        labels = open_labels(path, scene.grid)
        found = labels.read(scene.grid.window)
    names = [world.LEGEND.names[i] for i in np.unique(w.classes)]
    assert sorted(labels.legend.names) == sorted(names)
    # A legend from polygons is in the order of the alphabet.
    order = np.array([labels.legend.index(name) for name in world.LEGEND.names])
    np.testing.assert_array_equal(found, order[w.classes])
