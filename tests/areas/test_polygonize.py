import contextlib
import sqlite3
import time
import xml.etree.ElementTree as xml

import numpy as np
import pyogrio
import pytest
import rasterio
import rasterio.features
import shapely
import world
from affine import Affine
from hypothesis import given, settings
from hypothesis import strategies as st
from rasterio.crs import CRS

import labelscape.areas.trace
from labelscape.areas.polygonize import polygonize
from labelscape.areas.sieve import sieve
from labelscape.areas.trace import Areas, trace
from labelscape.errors import BadOption, WrongType
from labelscape.grid import Grid
from labelscape.rasters.class_map import ClassRaster
from labelscape.scenes.vectors import append_polygons, write_layer, writing


def areas_of(values, strip_rows, tolerance=0.0):
    height, width = values.shape
    with rasterio.MemoryFile() as memory:
        with memory.open(
            driver="GTiff", height=height, width=width, count=1, dtype="uint8", nodata=255
        ) as file:
            file.write(values, 1)
        with memory.open() as file:
            return Areas.together(
                list(trace(ClassRaster(file, "map.tif"), strip_rows=strip_rows, tolerance=tolerance))
            )


def traced(values, strip_rows):
    found = areas_of(values, strip_rows)
    return list(zip(found.values.tolist(), found.polygons.tolist()))


def whole(values):
    found = rasterio.features.shapes(values, mask=values != 255, connectivity=4)
    return [(int(v), shapely.Polygon(g["coordinates"][0], g["coordinates"][1:])) for g, v in found]


def canonical(polygons):
    """Sets of polygons compare by their sorted normal forms; rings that touch themselves are split alike
    by a union of one.
    """
    return sorted((v, shapely.normalize(shapely.union_all([p])).wkt) for v, p in polygons)


@settings(deadline=None, max_examples=150)
@given(
    seed=st.integers(0, 10**6),
    height=st.integers(1, 24),
    width=st.integers(1, 18),
    strip=st.integers(1, 9),
    classes=st.integers(1, 3),
)
def test_strips_leave_no_trace(seed, height, width, strip, classes):
    rng = np.random.default_rng(seed)
    values = rng.integers(0, classes, (height, width), np.uint8)
    values[rng.random(values.shape) < 0.15] = 255
    if seed % 3 == 0:  # rings around rings, closed only many strips further down
        rows, columns = np.indices(values.shape)
        values = (
            np.minimum(np.minimum(rows, height - 1 - rows), np.minimum(columns, width - 1 - columns)) % 2
        ).astype(np.uint8)
    found, expected = traced(values, strip), whole(values)
    assert canonical(found) == canonical(expected)
    for v in range(classes):
        assert sum(p.area for value, p in found if value == v) == (values == v).sum()
    for _, polygon in found:
        assert polygon.is_valid


def draw(seed, height, width, classes):
    """Speckle, patches or rings around rings, with holes of nodata."""
    rng = np.random.default_rng(seed)
    step = (1, 3, 5)[seed % 3]
    values = np.kron(
        rng.integers(0, classes, (-(-height // step), -(-width // step)), np.uint8),
        np.ones((step, step), np.uint8),
    )[:height, :width]
    values[rng.random(values.shape) < 0.05 * (seed % 4)] = 255
    return np.ascontiguousarray(values)


@settings(deadline=None, max_examples=150)
@given(
    seed=st.integers(0, 10**6),
    height=st.integers(1, 30),
    width=st.integers(1, 25),
    strip=st.integers(1, 30),
    classes=st.integers(1, 4),
    tolerance=st.sampled_from([0.6, 1.0, 2.0, 5.0, 30.0]),
)
def test_simplified_polygons_cover_the_map_once(seed, height, width, strip, classes, tolerance):
    values = draw(seed, height, width, classes)
    exact, found = areas_of(values, strip), areas_of(values, strip, tolerance)
    assert len(found) == len(exact)  # none vanishes
    assert found.pixels.tolist() == exact.pixels.tolist()
    for value in range(classes):
        assert found.pixels[found.values == value].sum() == (values == value).sum()
    if not len(found):
        return
    assert shapely.is_valid(found.polygons).all()
    assert (shapely.get_type_id(found.polygons) == shapely.GeometryType.POLYGON).all() and (
        shapely.area(found.polygons) > 0
    ).all()
    # Their union is what was mapped, and their areas add up to its area: no gap, and nothing twice.
    assert (
        shapely.area(
            shapely.symmetric_difference(shapely.union_all(found.polygons), shapely.union_all(exact.polygons))
        )
        < 1e-9
    )
    assert shapely.area(found.polygons).sum() == pytest.approx((values != 255).sum(), abs=1e-9)
    first, second = shapely.STRtree(found.polygons).query(found.polygons)
    meet = first < second
    assert (
        shapely.area(shapely.intersection(found.polygons[first[meet]], found.polygons[second[meet]])).max(
            initial=0
        )
        < 1e-9
    )


def test_simplification_takes_the_steps_out_of_a_slope():
    rows, columns = np.indices((60, 60))
    values = (columns > rows).astype(np.uint8)
    (below, _), (steps, _) = areas_of(values, 1000, 1.0).polygons, areas_of(values, 1000).polygons
    assert shapely.get_num_coordinates(below) < 8 < 100 < shapely.get_num_coordinates(steps)
    for strip in (7, 20):  # where strips were cut a corner stays, within a pixel of the border it belongs to
        cut = areas_of(values, strip, 1.0).polygons
        assert shapely.area(shapely.symmetric_difference(cut[0], below)) < 60
        assert shapely.get_num_coordinates(cut[0]) < 8 + 6 * (60 // strip)


def test_simplification_reads_metres(tmp_path):
    rows, columns = np.indices((60, 60))
    raster = world.write(tmp_path / "m.tif", (columns > rows).astype(np.uint8), nodata=255)  # 10 m pixels
    points = []
    for metres in (0, 4, 10):  # a step of 10 m cuts off 50 square metres: the root is 7.07 m
        polygonize(raster, tmp_path / "m.gpkg", world.LEGEND, simplify=metres, overwrite=True)
        points.append(
            shapely.get_num_coordinates(
                shapely.from_wkb(pyogrio.raw.read(tmp_path / "m.gpkg", layer="land_cover")[2])
            ).sum()
        )
    assert points[0] == points[1] > 10 * points[2]
    with pytest.raises(BadOption, match="`simplify=-1` must be"):
        polygonize(raster, tmp_path / "m.gpkg", world.LEGEND, simplify=-1, overwrite=True)


def test_hectares_are_those_of_the_pixels(tmp_path):
    classes = world.paint(70, 1100)  # wider than a run
    degrees = Affine(0.01, 0, 13, 0, -0.01, 60)
    raster = world.write(tmp_path / "m.tif", classes, transform=degrees, crs=CRS.from_epsg(4326), nodata=255)
    polygonize(raster, tmp_path / "m.gpkg", world.LEGEND, strip_rows=13, simplify=3000)
    _, _, _, (values, _, pixels, hectares) = pyogrio.raw.read(tmp_path / "m.gpkg", layer="land_cover")
    each = Grid(CRS.from_epsg(4326), degrees, 70, 1100).pixel_areas(*np.indices(classes.shape).astype(float))
    for value in range(3):
        assert pixels[values == value].sum() == (classes == value).sum()
        assert hectares[values == value].sum() == pytest.approx(each[classes == value].sum() / 1e4, rel=1e-9)


def test_no_corner_is_left_on_a_straight_line():
    values = np.zeros((40, 10), np.uint8)
    values[:, 5:] = 1
    for _, polygon in traced(values, 7):
        assert len(polygon.exterior.coords) == 5


@pytest.mark.parametrize("suffix", [".gpkg", ".geojson", ".fgb"])
@pytest.mark.parametrize("transform", [world.NORTH_UP, world.ROTATED])
def test_polygons_on_the_ground(tmp_path, suffix, transform):
    classes = world.paint(64, 80)
    classes[:16, :16] = 255
    raster = world.write(tmp_path / "m.tif", classes, transform=transform, nodata=255)
    out = tmp_path / f"m{suffix}"
    done = polygonize(raster, out, world.LEGEND, strip_rows=10)
    meta, _, geometry, columns = pyogrio.raw.read(out)
    fields = dict(zip(meta["fields"], columns))
    assert done.written == len(geometry)
    polygons = shapely.from_wkb(geometry)
    if suffix != ".geojson":  # that one is in degrees
        shapes = zip(polygons, fields["value"].tolist())
        np.testing.assert_array_equal(
            rasterio.features.rasterize(shapes, classes.shape, fill=255, transform=transform, dtype="uint8"),
            classes,
        )
    for value, name in enumerate(world.LEGEND.names):
        mine = fields["class"] == name
        assert fields["pixels"][mine].sum() == (classes == value).sum()
        assert fields["area_ha"][mine].sum() == pytest.approx(
            (classes == value).sum() * 0.01, rel=2e-3
        )  # 10 m pixels in UTM
    # The hectares are those of the ellipsoid: check one polygon with pyproj's own geodesics.
    from pyproj import Geod, Transformer

    if suffix == ".gpkg":
        to_lonlat = Transformer.from_crs("EPSG:32633", "OGC:CRS84", always_xy=True)
        lonlat = shapely.transform(
            shapely.segmentize(polygons[0], 10),
            lambda xy: np.column_stack(to_lonlat.transform(xy[:, 0], xy[:, 1])),
        )
        assert abs(Geod(ellps="WGS84").geometry_area_perimeter(lonlat)[0]) / 1e4 == pytest.approx(
            fields["area_ha"][0], rel=1e-5
        )


def test_small_polygons_are_left_out_and_counted(tmp_path):
    values = np.zeros((50, 50), np.uint8)
    values[10, 10], values[20:30, 20:30] = 1, 2
    raster = world.write(tmp_path / "m.tif", values, nodata=255)
    done = polygonize(raster, tmp_path / "m.gpkg", world.LEGEND, min_area=0.5)
    assert (done.written, done.left_out) == (2, 1)
    plain = world.write(tmp_path / "p.tif", values, crs=None)
    with pytest.raises(BadOption, match="areas in hectares are unknown"):
        polygonize(plain, tmp_path / "p.gpkg", world.LEGEND, min_area=0.5)
    assert polygonize(plain, tmp_path / "p.gpkg", world.LEGEND).written == 3
    with pytest.raises(BadOption, match="written as .gpkg"):
        polygonize(raster, tmp_path / "m.dxf", world.LEGEND)


def test_a_map_of_nothing_gives_an_empty_layer(tmp_path):
    raster = world.write(tmp_path / "m.tif", np.full((30, 30), 255, np.uint8), nodata=255)
    assert polygonize(raster, tmp_path / "m.gpkg", world.LEGEND).written == 0
    assert pyogrio.read_info(tmp_path / "m.gpkg")["features"] == 0


def test_qgis_finds_a_style_in_the_geopackage(tmp_path):
    raster = world.write(tmp_path / "m.tif", world.paint(20, 20), nodata=255)
    polygonize(raster, tmp_path / "m.gpkg", world.LEGEND)
    with sqlite3.connect(tmp_path / "m.gpkg") as base:
        ((table, column, qml, default),) = base.execute(
            "SELECT f_table_name, f_geometry_column, styleQML, useAsDefault FROM layer_styles"
        ).fetchall()
        assert (table, column, default) == ("land_cover", "geom", 1)
    categories = xml.fromstring(qml.split("\n", 1)[1]).findall(".//category")
    assert [(c.get("value"), c.get("label")) for c in categories] == [
        ("0", "water"),
        ("1", "field"),
        ("2", "forest"),
    ]


def test_what_is_no_path_gets_a_sentence(tmp_path):
    with pytest.raises(WrongType, match=r"The class map must be given as a path; found a numpy\.ndarray\."):
        polygonize(np.zeros((3, 3), np.uint8), tmp_path / "p.gpkg")
    with pytest.raises(
        WrongType, match=r"The polygon file must be given as a path; found nothing \(None\)\."
    ):
        polygonize(tmp_path / "m.tif", None)
    with pytest.raises(WrongType, match=r"The class map must be given as a path; found nothing"):
        sieve(None, tmp_path / "out.tif", min_area=1)


@pytest.mark.parametrize("tolerance", [0.0, 3.0])
def test_speckle_is_cut_by_its_areas_and_a_smooth_map_is_not(tmp_path, monkeypatch, tolerance):
    """The memory of a strip is that of its areas. Cutting changes no polygon, and only where it must be."""
    speckle = np.random.default_rng(0).integers(0, 4, (120, 100)).astype(np.uint8)
    speckle[30:60, 20:70] = 255
    held, real = [], labelscape.areas.trace.connected

    def counted(*given):
        found = real(*given)
        held.append(len(found[1]))
        return found

    monkeypatch.setattr(labelscape.areas.trace, "connected", counted)
    for name, values, cut in (("speckle", speckle, True), ("smooth", world.paint(120, 100), False)):
        raster = world.write(tmp_path / f"{name}.tif", values, nodata=255)
        whole = polygonize(raster, tmp_path / f"{name}.gpkg", world.LEGEND, simplify=tolerance)
        assert len(held) == 1
        held.clear()
        with monkeypatch.context() as patched:
            patched.setattr(labelscape.areas.trace, "MOST_AREAS", 500)
            parts = polygonize(raster, tmp_path / f"{name}2.gpkg", world.LEGEND, simplify=tolerance)
        assert (len(held) > 5) == cut and max(held) <= 500
        held.clear()
        assert parts == whole
        if not cut:
            one, other = ((tmp_path / f"{name}{n}.gpkg").read_bytes() for n in ("", "2"))
            assert one == other
        elif not tolerance:
            one, other = (
                pyogrio.raw.read(tmp_path / f"{name}{n}.gpkg", layer="land_cover")[2] for n in ("", "2")
            )
            one, other = (shapely.normalize(shapely.from_wkb(found)) for found in (one, other))
            assert sorted(map(str, one)) == sorted(map(str, other))


def test_the_same_map_has_the_same_bytes_at_any_time(tmp_path, monkeypatch):
    raster = world.write(tmp_path / "m.tif", world.paint(64, 80), nodata=255)
    for suffix in (".gpkg", ".fgb", ".geojson"):
        polygonize(raster, tmp_path / f"a{suffix}", world.LEGEND)
        time.sleep(0.01)
        polygonize(raster, tmp_path / f"b{suffix}", world.LEGEND)
        first, second = ((tmp_path / f"{n}{suffix}").read_bytes() for n in "ab")
        assert first.replace(b"a.", b"b.") == second.replace(b"a.", b"b.")
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1700000000")
    polygonize(raster, tmp_path / "c.gpkg", world.LEGEND)
    with contextlib.closing(sqlite3.connect(tmp_path / "c.gpkg")) as base:
        (times,) = {row[0] for row in base.execute("SELECT last_change FROM gpkg_contents")}
        assert base.execute("SELECT update_time FROM layer_styles").fetchone() == (times,)
    assert times == "2023-11-14T22:13:20.000Z"


def test_gdal_itself_notes_a_fixed_time(tmp_path, monkeypatch):
    # Set afterwards, the same map had other bytes now and then: SQLite counts changes in the file's head, and
    # a note of the millisecond of the one before changes nothing.
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1700000000")
    before = pyogrio.get_gdal_config_option("OGR_CURRENT_DATE")
    square = shapely.to_wkb(np.array([shapely.box(0, 0, 1, 1)]))
    columns = {"value": np.array([1])}
    with writing(tmp_path / "a.gpkg") as plain:
        for first in (True, False):
            append_polygons(plain, square, columns, layer="l", crs="EPSG:32633", first=first, options={})
    with writing(tmp_path / "b.gpkg") as plain:
        write_layer(plain, square, columns, layer="l", geometry="Polygon", crs="EPSG:32633")
    for name in "ab":
        with contextlib.closing(sqlite3.connect(tmp_path / f"{name}.gpkg")) as base:
            assert base.execute("SELECT last_change FROM gpkg_contents").fetchall() == [
                ("2023-11-14T22:13:20.000Z",)
            ]
    assert pyogrio.get_gdal_config_option("OGR_CURRENT_DATE") == before
