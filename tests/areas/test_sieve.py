import json
import xml.etree.ElementTree as xml

import numpy as np
import pyogrio
import pytest
import rasterio
import rasterio.features
import world
from affine import Affine
from hypothesis import given, settings
from hypothesis import strategies as st
from rasterio.crs import CRS
from rio_cogeo import cog_validate
from scipy import ndimage

from labelscape.areas.neighbours import _shuffled
from labelscape.areas.polygonize import polygonize
from labelscape.areas.sieve import sieve
from labelscape.errors import BadFile, BadInput, BadOption
from labelscape.grid import Grid, Window
from labelscape.legend import Legend
from labelscape.rasters.class_map import ClassRaster
from labelscape.rasters.write import MapWriter

pytestmark = pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")


def areas(values):
    """Each connected area as a mask."""
    for kind in set(np.unique(values).tolist()) - {255}:
        labels, count = ndimage.label(values == kind)
        yield from (labels == n for n in range(1, count + 1))


def by_hand(values, least):
    """The rule as it is said, one area after the other, everything looked at anew each time."""
    values = values.copy()
    height, width = values.shape
    while True:
        small = []
        for area in areas(values):
            if area.sum() < least:
                borders = {}
                for y, x in np.argwhere(area):
                    for v, u in ((y - 1, x), (y, x - 1), (y, x + 1), (y + 1, x)):
                        if 0 <= v < height and 0 <= u < width and not area[v, u] and values[v, u] != 255:
                            sides, place = borders.get(int(values[v, u]), (0, height * width))
                            borders[int(values[v, u])] = sides + 1, min(place, v * width + u)
                if borders:
                    small.append((area.sum(), _shuffled(np.flatnonzero(area)[:1])[0], area, borders))
        if not small:
            return values
        _, _, area, borders = min(small, key=lambda s: s[:2])
        values[area] = min(borders, key=lambda kind: (-borders[kind][0], borders[kind][1]))


def sieved(folder, values, least, strip_rows=None, nodata=255, crs=None, **place):
    raster = world.write(folder / "m.tif", values, nodata=nodata, crs=crs, **place)
    summary = sieve(raster, folder / "s.tif", min_area=least, strip_rows=strip_rows, overwrite=True)
    with rasterio.open(folder / "s.tif") as file:
        return file.read(1), summary


def draw(seed, height, width, classes):
    """Speckle or patches, with holes of nodata."""
    rng = np.random.default_rng(seed)
    step = (1, 2, 4)[seed % 3]
    values = np.kron(
        rng.integers(0, classes, (-(-height // step), -(-width // step)), np.uint8),
        np.ones((step, step), np.uint8),
    )[:height, :width]
    noise = rng.random(values.shape) < 0.1
    values[noise] = rng.integers(0, classes, noise.sum())
    values[rng.random(values.shape) < 0.06 * (seed % 4)] = 255
    values[0, 0] = 0  # or there may be no class at all
    return np.ascontiguousarray(values)


@settings(deadline=None, max_examples=60)
@given(
    seed=st.integers(0, 10**6),
    height=st.integers(1, 19),
    width=st.integers(1, 17),
    strip=st.integers(1, 20),
    classes=st.integers(1, 5),
    least=st.integers(1, 30),
)
def test_it_is_the_rule_whatever_the_strips(tmp_path_factory, seed, height, width, strip, classes, least):
    values = draw(seed, height, width, classes)
    found, summary = sieved(tmp_path_factory.mktemp("s"), values, least, strip)
    expected = by_hand(values, least)
    np.testing.assert_array_equal(found, expected)
    assert summary.changed_pixels == (values != expected).sum()
    assert summary.left == sum(area.sum() < least for area in areas(expected))
    assert [c.pixels for c in summary.classes] == [
        (expected == int(c.name[6:])).sum() for c in summary.classes
    ]
    assert [c.pixels_before for c in summary.classes] == [
        (values == int(c.name[6:])).sum() for c in summary.classes
    ]


def test_the_longest_border_takes_it_not_the_largest_neighbour(tmp_path):
    values = np.zeros((12, 20), np.uint8)
    values[4:8, 0:3] = 1  # 12 pixels at the edge
    values[5:7, 3] = 2  # 2 pixels: 2 sides with class 1, 4 with class 0
    values[4, 3:5], values[7, 3:5], values[5:7, 4] = 1, 1, 1  # now nearly all of it with class 1
    found, summary = sieved(tmp_path, values, 5)
    assert (found[5:7, 3] == 1).all() and summary.given == 1
    # Two of one class on both sides of it become one with it.
    bridge = np.zeros((5, 9), np.uint8)
    bridge[1:4, 1:8], bridge[1:4, 4] = 1, 2
    found, _ = sieved(tmp_path, bridge, 10)
    assert (found[1:4, 1:8] == 1).all()


def test_nodata_keeps_its_place_and_takes_nothing(tmp_path):
    values = np.full((9, 9), 255, np.uint8)
    values[1, 1], values[4:8, 4:8], values[5, 5] = 3, 1, 2
    found, summary = sieved(tmp_path, values, 10)
    assert (found[1, 1], found[5, 5], summary.left, summary.given) == (3, 1, 1, 1)
    np.testing.assert_array_equal(found == 255, values == 255)
    other = np.where(values == 255, np.uint8(0), values)
    other[0, 8] = 255  # both are nothing, each stays what it is
    found, _ = sieved(tmp_path, other, 10, nodata=0)
    assert found[0, 8] == 255 and found[1, 1] == 3 and found[5, 5] == 1 and found[0, 0] == 0
    with rasterio.open(tmp_path / "s.tif") as file:
        assert file.nodata == 0


def test_hectares_are_those_of_the_ellipsoid(tmp_path):
    values = np.zeros((60, 60), np.uint8)
    values[2:7, 2:12], values[50:55, 2:12] = 1, 1  # 50 pixels each, at 80 and at 20 degrees north
    place = {"crs": CRS.from_epsg(4326), "transform": Affine(0.001, 0, 13, 0, -1, 80)}
    raster = world.write(tmp_path / "d.tif", values, nodata=255, **place)
    each = (
        Grid(place["crs"], place["transform"], 60, 60).pixel_areas(*np.indices(values.shape).astype(float))
        / 1e4
    )
    north, south = each[2:7, 2:12].sum(), each[50:55, 2:12].sum()
    summary = sieve(raster, tmp_path / "s.tif", min_area=(north + south) / 2)
    with rasterio.open(tmp_path / "s.tif") as file:
        found = file.read(1)
    assert not found[2:7, 2:12].any() and found[50:55, 2:12].all()
    assert [c.hectares for c in summary.classes] == pytest.approx(
        [each[found == 0].sum(), each[found == 1].sum()]
    )
    assert [c.hectares_before for c in summary.classes] == pytest.approx(
        [each[values == 0].sum(), each[values == 1].sum()]
    )
    # As large as the minimum is large enough, however the sum was rounded.
    assert sieve(raster, tmp_path / "s.tif", min_area=north * (1 + 1e-12), overwrite=True).given == 0


@pytest.mark.parametrize("rows", [None, 100])
def test_it_stays_a_coloured_cog_and_holes_are_not_read(tmp_path, rows, monkeypatch):
    legend = Legend.of_names(["water", "field & <meadow>", "forest"], values=[3, 0, 7])
    grid, place = Grid(world.UTM, world.ROTATED, 2800, 3000), Window(2048, 1024, 700, 600)
    values = np.array([0, 3, 7], np.uint8)[world.paint(700, 600, patch=40)]
    values[5, 5], values[698, 3] = 7 - values[5, 5], 3
    with MapWriter(
        tmp_path / "m.tif", grid, 1, 255, legend=legend, tags={"labelscape_network": "fcn"}
    ) as writer:
        writer.write(place, values)
    read, as_it_is = [], ClassRaster.read
    monkeypatch.setattr(ClassRaster, "read", lambda self, run: read.append(run) or as_it_is(self, run))
    summary = sieve(tmp_path / "m.tif", tmp_path / "out" / "s.tif", min_area=0.5, strip_rows=rows)
    assert (
        summary.given == 2
        and {(run.left, run.width) for run in read} == {(1024, 1024)}
        and sum(run.height for run in read) < 1000
    )
    assert cog_validate(tmp_path / "out" / "s.tif")[0]
    with rasterio.open(tmp_path / "out" / "s.tif") as file, rasterio.open(tmp_path / "m.tif") as before:
        found = file.read(1, window=place.rio)
        assert (file.profile, file.colormap(1), file.overviews(1)) == (
            before.profile,
            before.colormap(1),
            before.overviews(1),
        )
        assert file.tags()["labelscape_network"] == "fcn" and file.tags()["labelscape_sieve"] == "0.5 ha"
        assert (file.read(1) != 255).sum() == 700 * 600
    assert min(area.sum() for area in areas(found)) >= 50
    table = xml.parse(tmp_path / "out" / "s.tif.aux.xml").getroot().find(".//GDALRasterAttributeTable")
    rows = [[f.text for f in row.findall("F")] for row in table.findall("Row")]
    assert [(r[2], int(r[1])) for r in rows] == [
        (legend.names[legend.values.index(v)], (found == v).sum()) for v in (0, 3, 7)
    ]


def test_polygons_of_a_sieved_map_leave_no_holes(tmp_path):
    values = world.paint(120, 90)
    values[::7, ::9] = 2 - values[::7, ::9]
    raster = world.write(tmp_path / "m.tif", values, nodata=255)
    done = polygonize(raster, tmp_path / "m.gpkg", world.LEGEND, sieve=0.3, simplify=15)
    _, _, _, (_, _, pixels, hectares) = pyogrio.raw.read(tmp_path / "m.gpkg", layer="land_cover")
    assert done.left_out == 0 and pixels.sum() == 120 * 90 and hectares.min() >= 0.3 * (1 - 1e-9)
    assert sorted(f.name for f in tmp_path.iterdir()) == ["m.gpkg", "m.tif"]
    with pytest.raises(BadFile, match="exists; pass `overwrite=True`"):
        polygonize(raster, tmp_path / "m.gpkg", world.LEGEND, sieve=0.3)


def test_what_cannot_be_sieved_is_said(tmp_path, run_cli):
    raster = world.write(tmp_path / "m.tif", world.paint(30, 30), nodata=255)
    for least in (0, -1, float("nan")):
        with pytest.raises(BadOption, match="a number above 0 was expected"):
            sieve(raster, tmp_path / "s.tif", min_area=least)
    with pytest.raises(BadOption, match="is an input itself"):
        sieve(raster, raster, min_area=1, overwrite=True)
    with pytest.raises(BadInput, match="every pixel is nodata"):
        sieve(
            world.write(tmp_path / "n.tif", np.full((9, 9), 255, np.uint8), nodata=255),
            tmp_path / "s.tif",
            min_area=1,
        )
    with pytest.raises(BadInput, match="2 band.*a class map has one band"):
        sieve(
            world.write(tmp_path / "w.tif", np.stack([world.paint(9, 9)] * 2)),
            tmp_path / "s.tif",
            world.LEGEND,
            min_area=1,
        )
    assert not (tmp_path / "s.tif").exists()
    code, out, _ = run_cli("sieve", raster, tmp_path / "s.tif", "--min-area", 0.05, "--json")
    assert code == 0 and json.loads(out)["given"] >= 0
    code, _, err = run_cli("sieve", raster, tmp_path / "s.tif", "--min-area", 0.05)
    assert code == 1 and "exists; pass --overwrite" in err
