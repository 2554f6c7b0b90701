"""One map out of many: every pixel as a loop over all maps decides it, and no ground counted twice."""

import json
import tracemalloc
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import pyproj
import pytest
import rasterio
import world
from affine import Affine
from rasterio.crs import CRS

from labelscape.areas.mosaic import METHODS, mosaic
from labelscape.areas.mosaic_blocks import MosaicBlocks
from labelscape.areas.mosaic_grids import read_sources, shift_between, zone_grids
from labelscape.areas.polygonize import polygonize
from labelscape.areas.sieve import sieve
from labelscape.errors import BadFile, BadInput, BadOption, UnknownName
from labelscape.grid import Grid
from labelscape.legend import Legend
from labelscape.rasters.class_names import legend_of
from labelscape.rasters.write import MapWriter

LEGEND = Legend.of_names(["water", "field", "forest"], values=[3, 1, 7])
WITH_UNKNOWN = Legend.of_names(["water", "field", "forest", "unknown"], values=[3, 1, 7, 254])
WEST, EAST = CRS.from_epsg(32632), CRS.from_epsg(32633)


@dataclass
class Made:
    """A map in memory, as the loop below reads it."""

    path: Path
    crs: CRS
    transform: Affine
    classes: np.ndarray
    confidence: np.ndarray
    proba: np.ndarray


def make(
    folder, name, shape=(40, 50), *, at=(400_000, 5_800_000), size=10, crs=EAST, seed=0, **options
) -> Made:
    """A map of random probabilities with holes; in a tenth of the pixels it is unsure between two classes."""
    legend, reject = options.get("legend", LEGEND), options.get("reject", 0)
    rng = np.random.default_rng(seed)
    names = [n for n in legend.names if n != "unknown"]
    raw = rng.dirichlet([0.7] * len(names), shape).transpose(2, 0, 1)
    proba = np.rint(raw * 250).astype(np.uint8)
    order = [legend.values[legend.names.index(n)] for n in names]
    classes = np.array(order, np.uint8)[raw.argmax(axis=0)]
    confidence = np.rint(raw.max(axis=0) * 100).astype(np.uint8)
    if reject:
        classes[confidence < reject] = 254
    holes = rng.random(shape) < options.get("holes", 0.15)
    classes[holes], confidence[holes], proba[:, holes] = 255, 255, 255
    transform = Affine(size, 0, at[0], 0, -size, at[1])
    grid = Grid(crs, transform, *shape)
    for kind, values, given in (
        ("class", classes, legend),
        ("confidence", confidence, None),
        ("proba", proba, None),
    ):
        bands = len(values) if values.ndim == 3 else 1
        said = names if kind == "proba" else [kind]
        with MapWriter(
            folder / f"{name}_{kind}.tif", grid, bands, 255, legend=given, descriptions=said
        ) as file:
            file.write(grid.window, values)
    return Made(folder / f"{name}_class.tif", crs, transform, classes, confidence, proba)


@lru_cache
def change(source, target):
    return pyproj.Transformer.from_crs(source, target, always_xy=True)


def answers(maps, crs, x, y):
    """(map, row, column) of every map that has a class at a place, in the order given."""
    for one in maps:
        if one.crs != crs:
            place = change(crs.to_string(), one.crs.to_string()).transform(x, y)
        else:
            place = x, y
        column, row = ~one.transform @ place
        row, column = int(np.floor(row + 1e-6)), int(np.floor(column + 1e-6))
        inside = 0 <= row < one.classes.shape[0] and 0 <= column < one.classes.shape[1]
        if inside and one.classes[row, column] != 255:
            yield one, row, column


def decided(found, method, values=(3, 1, 7)):
    """The class of a pixel, in words of the documentation."""
    if method in ("first", "last") or len(found) == 1:
        one, row, column = found[0 if method == "first" or len(found) == 1 else -1]
        return one.classes[row, column]
    if method == "confidence":
        best = max(found, key=lambda f: int(f[0].confidence[f[1], f[2]]))  # the first of equals
        return best[0].classes[best[1], best[2]]
    if all(one.classes[row, column] == 254 for one, row, column in found):
        return 254
    means = [sum(int(one.proba[k, r, c]) for one, r, c in found) / len(found) for k in range(len(values))]
    # Of equal means the class that comes first in the legend of the mosaic: by value, as files are read.
    order = np.argsort(values)
    return values[max(order, key=lambda k: (means[k], -list(order).index(k)))]


def by_hand(maps, grid, method, owns=None):
    made = np.full(grid.shape, 255, np.uint8)
    for row in range(grid.height):
        for column in range(grid.width):
            x, y = grid.transform @ (column + 0.5, row + 0.5)
            found = list(answers(maps, grid.crs, x, y))
            if found and (owns is None or owns(x, y, [one for one, _, _ in found])):
                made[row, column] = decided(found, method)
    return made


def read(path):
    with rasterio.open(path) as file:
        return file.read(1), Grid(file.crs, file.transform, file.height, file.width)


@pytest.fixture(scope="module")
def neighbours(tmp_path_factory):
    """Four maps of one zone that overlap, shifted by whole pixels."""
    folder = tmp_path_factory.mktemp("neighbours")
    places = ((0, 0), (230, -110), (-170, 70), (40, -180))
    return [
        make(folder, f"m{n}", (24, 30), at=(400_000 + x, 5_800_000 + y), seed=n)
        for n, (x, y) in enumerate(places)
    ]


@pytest.fixture(scope="module")
def zones(tmp_path_factory):
    """Maps of two UTM zones on both sides of 12 degrees east, where both zones have maps; one lies in a part
    of its zone that belongs to the other.
    """
    folder = tmp_path_factory.mktemp("zones")
    x, y = {}, {}
    for crs in (WEST, EAST):
        x[crs], y[crs] = pyproj.Transformer.from_crs("OGC:CRS84", crs.to_wkt()).transform(12.0, 51.0)
        x[crs], y[crs] = round(x[crs], -2), round(y[crs], -2)
    return [
        make(folder, "west", at=(x[WEST] - 350, y[WEST] + 200), crs=WEST, seed=1),
        make(folder, "east", at=(x[EAST] - 150, y[EAST] + 250), crs=EAST, seed=2),
        make(folder, "far", at=(x[WEST] + 120, y[WEST] + 20), crs=WEST, seed=3),
    ]


@pytest.mark.parametrize("method", METHODS)
def test_neighbours_are_decided_as_by_hand(neighbours, tmp_path, method):
    paths = [one.path for one in neighbours]
    done = mosaic(paths, tmp_path / "m.tif", method=method)
    values, grid = read(tmp_path / "m.tif")
    assert grid == Grid(EAST, Affine(10, 0, 399_830, 0, -10, 5_800_070), 49, 70)
    expected = by_hand(neighbours, grid, method)
    assert np.array_equal(values, expected) and len(np.unique(expected)) == 4
    (file,) = done.files
    assert {a.name: a.pixels for a in file.areas} == {
        name: int((expected == value).sum()) for name, value in (("water", 3), ("field", 1), ("forest", 7))
    }
    assert file.nodata_pixels == (expected == 255).sum() and done.maps == file.maps == 4
    with rasterio.open(file.path) as opened:
        assert METHODS[method] in opened.tags()["labelscape_mosaic"]
    # Several answers, and those of different classes, counted as a loop counts them.
    several = disputed = 0
    for row, column in np.ndindex(grid.shape):
        found = list(answers(neighbours, EAST, *(grid.transform @ (column + 0.5, row + 0.5))))
        several += len(found) > 1
        disputed += len({one.classes[r, c] for one, r, c in found}) > 1
    assert (file.overlapped, file.disputed) == (several, disputed) and disputed > 100


def test_means_do_not_depend_on_the_order(neighbours, tmp_path):
    paths = [one.path for one in neighbours]
    mosaic(paths, tmp_path / "a.tif")
    mosaic(paths[::-1], tmp_path / "b.tif", method="proba")
    assert np.array_equal(read(tmp_path / "a.tif")[0], read(tmp_path / "b.tif")[0])


def test_what_all_maps_reject_stays_unknown(tmp_path):
    maps = [make(tmp_path, f"r{n}", (30, 30), seed=n, legend=WITH_UNKNOWN, reject=70) for n in range(3)]
    mosaic([one.path for one in maps], tmp_path / "m.tif", method="proba")
    values, grid = read(tmp_path / "m.tif")
    assert np.array_equal(values, by_hand(maps, grid, "proba")) and (values == 254).any()


def owner(grid):
    """Of the zones with a map at a place: the one whose central meridian is nearest, 9 or 15 degrees."""

    def owns(x, y, maps):
        lon, _ = change(grid.crs.to_string(), "OGC:CRS84").transform(x, y)
        return grid.crs == min(
            {id(m.crs): m.crs for m in maps}.values(), key=lambda c: abs(lon - (9 if c == WEST else 15))
        )

    return owns


@pytest.mark.parametrize("method", ["proba", "first"])
def test_zones_are_a_file_each_and_count_no_ground_twice(zones, tmp_path, method):
    done = mosaic([one.path for one in zones], tmp_path / "m.tif", method=method)
    assert [f.path.name for f in done.files] == ["m_32632.tif", "m_32633.tif"]
    read_back = [read(file.path) for file in done.files]
    for values, grid in read_back:
        assert np.array_equal(values, by_hand(zones, grid, method, owner(grid)))
    # Places on a fine grid over both: nowhere do both files have a class, but for the width of a pixel along
    # their border; and where a map has one, one of the files has it.
    lon, lat = np.meshgrid(np.linspace(11.995, 12.006, 120), np.linspace(50.996, 51.003, 110))
    has = np.zeros((2, *lon.shape), bool)
    for number, (values, grid) in enumerate(read_back):
        to = change("OGC:CRS84", grid.crs.to_string())
        column, row = (np.floor(v).astype(int) for v in ~grid.transform @ to.transform(lon, lat))
        inside = (row >= 0) & (row < grid.height) & (column >= 0) & (column < grid.width)
        has[number][inside] = values[row[inside], column[inside]] != 255
    assert has.any(axis=(1, 2)).all()
    assert has.all(axis=0).sum() < 0.06 * has.any(axis=0).sum()
    # On the ellipsoid: all files together are as large as what the maps cover, each place counted once.
    total = sum(area.hectares for area in done.areas)
    fine = Grid(
        EAST,
        Affine(2, 0, read_back[1][1].transform.c - 600, 0, -2, read_back[1][1].transform.f + 400),
        700,
        800,
    )
    covered = 0
    for block in fine.window.blocks(400):
        rows, columns = np.mgrid[block.top : block.bottom, block.left : block.right] + 0.5
        x, y = fine.transform @ (columns, rows)
        any_of = np.zeros(block.shape, bool)
        for one in zones:
            to = change(fine.crs.to_string(), one.crs.to_string())
            c, r = (np.floor(v).astype(int) for v in ~one.transform @ to.transform(x, y))
            ok = (r >= 0) & (r < one.classes.shape[0]) & (c >= 0) & (c < one.classes.shape[1])
            any_of[ok] |= one.classes[r[ok], c[ok]] != 255
        covered += any_of.sum() * 4 / 1e4
    assert total == pytest.approx(covered, rel=0.02)
    naive = sum((one.classes != 255).sum() * 100 / 1e4 for one in zones)
    assert naive > 1.2 * covered  # what adding up the maps would say


@pytest.mark.parametrize("method", ["proba", "confidence"])
def test_a_grid_that_the_user_names(zones, tmp_path, method):
    paths = [one.path for one in zones]
    done = mosaic(paths, tmp_path / "m.tif", method=method, crs="EPSG:3035", pixel_size=25)
    values, grid = read(tmp_path / "m.tif")
    assert (grid.transform.c % 25, grid.transform.f % 25) == (0, 0) and len(done.files) == 1
    assert np.array_equal(values, by_hand(zones, grid, method))
    # Nothing of a map lies outside.
    for one in zones:
        x, y = change(one.crs.to_string(), "EPSG:3035").transform(
            *(one.transform @ np.array([[0, 0, 50, 50], [0, 40, 0, 40]]))
        )
        column, row = ~grid.transform @ (np.array(x), np.array(y))
        assert (row >= -0.01).all() and (row <= grid.height + 0.01).all() and (column >= -0.01).all()
    mosaic(paths, tmp_path / "like.tif", method=method, like=tmp_path / "m.tif")
    assert read(tmp_path / "like.tif")[1] == grid and np.array_equal(read(tmp_path / "like.tif")[0], values)


def test_parts_of_blocks_are_as_the_whole(zones, tmp_path, monkeypatch):
    """However a block is cut for memory, and however many files may be open."""
    import labelscape.areas.mosaic_blocks as blocks

    paths = [one.path for one in zones]
    mosaic(paths, tmp_path / "a.tif", crs="EPSG:3035", pixel_size=30)
    monkeypatch.setattr(blocks, "MOST_VALUES", 4000)
    monkeypatch.setattr(blocks, "MAX_OPEN", 1)
    mosaic(paths, tmp_path / "b.tif", crs="EPSG:3035", pixel_size=30)
    assert np.array_equal(read(tmp_path / "a.tif")[0], read(tmp_path / "b.tif")[0])


def test_legends(tmp_path):
    one = make(tmp_path, "a", (20, 20), seed=1)
    other = Legend.of_names(["forest", "water", "road"], values=[1, 2, 3])
    two = make(tmp_path, "b", (20, 20), seed=2, at=(400_100, 5_800_000), legend=other)
    with pytest.raises(
        BadInput, match=r"different classes \(field=1, water=3, forest=7; forest=1, .*`by_name=True`"
    ):
        mosaic([one.path, two.path], tmp_path / "m.tif")
    assert not (tmp_path / "m.tif").exists()
    done = mosaic([one.path, two.path], tmp_path / "m.tif", by_name=True, method="last")
    # Values of the first map stay; a new class gets its own value where it is free, else the next one.
    legend = legend_of(tmp_path / "m.tif")[0]
    assert dict(zip(legend.names, legend.values)) == {"water": 3, "field": 1, "forest": 7, "road": 0}
    table = np.full(256, 255, np.uint8)
    table[[1, 2, 3]] = 7, 3, 0
    values, _ = read(tmp_path / "m.tif")
    right = table[two.classes]
    assert np.array_equal(values[:, 10:][right != 255], right[right != 255])
    assert [a.name for a in done.areas] == ["field", "water", "forest", "road"]
    mosaic([one.path, two.path], tmp_path / "p.tif", by_name=True, method="proba")
    both = (one.classes[:, 10:] != 255) & (two.classes[:, :10] != 255)
    # field, water, forest, road: a class that a map does not know has no probability there.
    none = np.zeros((20, 10), int)
    first = np.stack([one.proba[1, :, 10:], one.proba[0, :, 10:], one.proba[2, :, 10:], none]).astype(int)
    second = np.stack([none, two.proba[1, :, :10], two.proba[0, :, :10], two.proba[2, :, :10]]).astype(int)
    expected = np.array([1, 3, 7, 0])[(first + second).argmax(axis=0)]
    assert np.array_equal(read(tmp_path / "p.tif")[0][:, 10:20][both], expected[both])


def test_what_does_not_fit_is_refused_with_the_cure(tmp_path):
    one = make(tmp_path, "a", (20, 20))
    out = tmp_path / "m.tif"
    for maps, said in (
        (make(tmp_path, "b", (20, 20), size=20), r"different size \(10 x 10 and 20 x 20\): name the grid"),
        (
            make(tmp_path, "c", (20, 20), at=(400_003, 5_800_000)),
            r"part of a pixel \(0.30, 0.00\).*`like=RASTER`",
        ),
    ):
        with pytest.raises(BadInput, match=said):
            mosaic([one.path, maps.path], out)
        mosaic([one.path, maps.path], out, like=one.path, overwrite=True)
    plain = world.write(tmp_path / "plain_class.tif", np.ones((5, 5), np.uint8), crs=None)
    with pytest.raises(BadInput, match="has no coordinates"):
        mosaic([plain], out, overwrite=True)
    with pytest.raises(BadInput, match="a class map has one"):
        mosaic([tmp_path / "a_proba.tif"], out, overwrite=True)
    with pytest.raises(BadInput, match="holds no class maps"):
        (tmp_path / "empty").mkdir()
        mosaic(tmp_path / "empty", out, overwrite=True)
    with pytest.raises(UnknownName, match="confidence"):
        mosaic([one.path], out, method="confident", overwrite=True)
    for grid, said in (
        ({"crs": "EPSG:3035"}, "`pixel_size`"),
        ({"pixel_size": 0}, "above 0"),
        ({"pixel_size": 1e-320}, "makes a mosaic of inf x inf pixels"),
        ({"pixel_size": 1e-8}, r"2e\+10 x 2e\+10 pixels; a raster has up to 2,147,483,647 a side"),
        ({"pixel_size": 1e-5}, "may cover up to 10,000,000,000,000 pixels"),
        ({"crs": "EPSG:nowhere", "pixel_size": 1}, "is not known"),
        ({"like": one.path, "pixel_size": 1}, "names the whole grid"),
    ):
        with pytest.raises(BadOption, match=said):
            mosaic([one.path], out, overwrite=True, **grid)
    with pytest.raises(BadFile, match="exists; pass `overwrite=True`"):
        mosaic([one.path], out)
    with pytest.raises(BadOption, match="is an input itself"):
        mosaic([one.path], one.path, overwrite=True)
    (tmp_path / "a_proba.tif").unlink()
    with pytest.raises(BadInput, match=r"no a_proba.tif beside it.*`proba=True`"):
        mosaic([one.path], out, method="proba", overwrite=True)
    assert mosaic([one.path], out, overwrite=True).method == "confidence"
    (tmp_path / "a_confidence.tif").unlink()
    with pytest.raises(BadInput, match="method=first"):
        mosaic([one.path], out, overwrite=True)


def test_other_nodata_values_and_rotated_grids(tmp_path):
    turned = Affine.translation(400_000, 5_800_000) @ Affine.rotation(30) @ Affine.scale(10, -10)
    pixels = np.random.default_rng(0).integers(0, 3, (2, 20, 25)).astype(np.uint8)
    maps = []
    for n, (values, shift) in enumerate(zip(pixels, ((0, 0), (7, -4)))):
        place = turned @ Affine.translation(*shift)
        path = world.write(tmp_path / f"{n}_class.tif", values, transform=place, nodata=0)
        shown = np.where(values == 0, 255, values).astype(np.uint8)
        maps.append(Made(path, EAST, place, shown, shown, shown))
    mosaic([one.path for one in maps], tmp_path / "m.tif", method="first")
    values, grid = read(tmp_path / "m.tif")
    assert grid.shape == (24, 32) and np.array_equal(values, by_hand(maps, grid, "first"))


def test_class_maps_of_other_software(tmp_path):
    """Whole numbers of any type, with a nodata value that no byte has, or a mask."""
    values = np.random.default_rng(0).integers(0, 3, (2, 12, 15))
    one = np.where(values[0] == 0, -9999, values[0]).astype(np.int16)
    world.write(tmp_path / "a.tif", one, nodata=-9999)
    two = world.write(tmp_path / "b.tif", values[1].astype(np.uint8))
    with rasterio.open(two, "r+") as file:
        file.write_mask(values[1] > 0)
    mosaic([tmp_path / "a.tif", tmp_path / "b.tif"], tmp_path / "m.tif", method="first")
    expected = np.where(values[0] > 0, values[0], np.where(values[1] > 0, values[1], 255))
    assert np.array_equal(read(tmp_path / "m.tif")[0], expected)


def test_a_file_without_a_place_of_its_own_is_not_written(zones, tmp_path):
    """The only map of zone 32 lies east of 12 degrees, where one of zone 33 covers all of it."""
    x, y = change("OGC:CRS84", WEST.to_string()).transform(12.004, 51.001)
    inner = make(tmp_path, "inner", (8, 8), at=(round(x, -1), round(y, -1)), crs=WEST)
    x, y = change("OGC:CRS84", EAST.to_string()).transform(12.002, 51.0025)
    outer = make(tmp_path, "outer", (60, 60), at=(round(x, -1), round(y, -1)), holes=0)
    (tmp_path / "m_32632.tif").write_bytes(inner.path.read_bytes())  # of an earlier mosaic
    done = mosaic([inner.path, outer.path], tmp_path / "m.tif", method="first", overwrite=True)
    assert [file.path.name for file in done.files] == ["m_32633.tif"]
    assert done.notes == ("m_32632.tif is not written: other maps have all its places",)
    assert {p.name for p in tmp_path.glob("m*")} == {"m_32633.tif", "m_32633.tif.aux.xml"}
    with pytest.raises(BadInput, match="No map has a class on the grid"):
        mosaic([inner.path], tmp_path / "n.tif", like=zones[0].path)


def test_a_mosaic_is_whole_or_not_there(neighbours, tmp_path, monkeypatch):
    paths = [one.path for one in neighbours]
    out = tmp_path / "m.tif"
    mosaic(paths[:2], out)
    before = out.read_bytes()
    plain = MosaicBlocks.classes

    def changing(self, block):
        made = plain(self, block)
        paths[0].touch()
        return made

    monkeypatch.setattr(MosaicBlocks, "classes", changing)
    with pytest.raises(BadFile, match="m0_class.tif was changed while the mosaic was made"):
        mosaic(paths, out, overwrite=True)
    assert out.read_bytes() == before
    assert {p.name for p in tmp_path.iterdir()} == {"m.tif", "m.tif.aux.xml"}


def test_memory_is_that_of_blocks(tmp_path):
    """Two maps 190 km apart: 19,000 x 19,000 pixels, nearly all of them nodata."""
    near, far = make(tmp_path, "near"), make(tmp_path, "far", at=(590_000, 5_610_000))
    mosaic([near.path], tmp_path / "warm.tif")
    tracemalloc.start()
    done = mosaic([near.path, far.path], tmp_path / "m.tif")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert done.files[0].size == (19_050, 19_040) and peak < 60e6
    assert sum(a.pixels for a in done.areas) == sum((one.classes != 255).sum() for one in (near, far))


def test_sieve_and_polygons_take_it(neighbours, tmp_path):
    done = mosaic([one.path for one in neighbours], tmp_path / "m.tif")
    sieve(tmp_path / "m.tif", tmp_path / "s.tif", min_area=0.1)
    assert sieve(tmp_path / "m.tif", tmp_path / "t.tif", min_area=0.1).classes[
        0
    ].hectares_before == pytest.approx(done.areas[0].hectares)
    assert polygonize(tmp_path / "m.tif", tmp_path / "p.gpkg").written > 100
    import pyogrio

    _, _, _, fields = pyogrio.raw.read(
        tmp_path / "p.gpkg", layer="land_cover", columns=["area_ha"], read_geometry=False
    )
    assert fields[0].sum() == pytest.approx(sum(area.hectares for area in done.areas), rel=1e-6)


def test_shifts_are_whole_pixels_over_the_whole_grid():
    base = Grid(EAST, Affine(10, 0, 0, 0, -10, 0), 100, 100)
    for transform, shift in (
        (Affine(10, 0, 70, 0, -10, 30), (-3, 7)),
        (Affine(10, 0, 70.05, 0, -10, 30), (-3, 7)),
        (Affine(10, 0, 73, 0, -10, 30), None),
        # A thousandth more a pixel is a tenth of a pixel at the far side.
        (Affine(10.01, 0, 70, 0, -10, 30), None),
        (Affine(10, 0.01, 70, 0, -10, 30), None),
    ):
        assert shift_between(Grid(EAST, transform, 100, 100), base) == shift
    assert shift_between(Grid(WEST, base.transform, 9, 9), base) is None


def test_ten_thousand_maps_are_small(neighbours):
    paths = [str(one.path) for one in neighbours]
    sources, _ = read_sources(paths * 5, by_name=False)
    # One table of classes and one CRS for all of them.
    assert len({id(s.classes) for s in sources}) == 1 and len({id(s.grid.crs) for s in sources}) == 1
    assert zone_grids(sources)[0].shape == (49, 70)


def test_the_command(zones, tmp_path, run_cli):
    """A folder of maps; the report; what was made as text and as JSON."""
    folder = zones[0].path.parent
    code, out, err = run_cli("mosaic", folder, "--out", tmp_path / "m.tif")
    assert code == 0, err
    assert "3 maps; where several answer, the class of the highest mean probability" in out
    assert "m_32632.tif" in out and "m_32633.tif" in out and "whose classes differ in" in out
    page = (tmp_path / "m_report.html").read_text()
    assert "every place counted once" in page and "the class of the highest mean probability" in page
    code, out, err = run_cli("mosaic", folder, "--out", tmp_path / "m.tif")
    assert code == 1 and "pass --overwrite" in err
    words = ("--crs", "EPSG:3035", "--pixel-size", 20, "--method", "last", "--no-report", "--json")
    code, out, err = run_cli("mosaic", f"{folder}/*_class.tif", "--out", tmp_path / "one.tif", *words)
    found = json.loads(out)
    assert code == 0 and found["method"] == "last" and found["report"] is None and found["maps"] == 3
    (file,) = found["files"]
    assert Path(file["path"]).name == "one.tif" and file["crs"] == "EPSG:3035"
    assert not (tmp_path / "one_report.html").exists()
    for wrong, said in (
        (("--method", "most"), "No way to decide a pixel"),
        (("--crs", "EPSG:3035"), "Beside --crs name the --pixel-size"),
    ):
        code, _, err = run_cli("mosaic", folder, "--out", tmp_path / "x.tif", *wrong)
        assert code == 2 and said in err


def test_a_list_of_maps_may_be_their_tile_index(zones, tmp_path):
    import pyogrio

    import labelscape as ls

    paths = np.array([*(str(one.path) for one in zones), None], object)
    none = np.array([None] * 4)
    about = {"geometry_type": "Polygon", "crs": "EPSG:4326"}
    pyogrio.raw.write(tmp_path / "job.gpkg", none, [paths], ["location"], **about)
    done = ls.mosaic(tmp_path / "job.gpkg", tmp_path / "m.tif", method="first", report=False)
    assert done.maps == 3
    assert repr(done) == "<MosaicSummary: 3 maps in 2 files, the class of the map given first>"
