import json
import os

import numpy as np
import pyogrio
import pytest
import shapely
import world
from affine import Affine
from rasterio.crs import CRS

import labelscape.areas.polygonize
from labelscape.areas import polygon_files
from labelscape.areas.polygon_files import Batch, check_target, database_of, geo_metadata, rows_of, srid_of
from labelscape.areas.polygonize import polygonize
from labelscape.errors import BadFile, BadOption
from labelscape.grid import Grid
from labelscape.rasters.write import MapWriter

SERVER = os.environ.get("LABELSCAPE_TEST_POSTGIS")  # such as postgresql://postgres@localhost/maps


@pytest.fixture
def raster(tmp_path):
    classes = world.paint(64, 80)
    classes[:16, :16] = 255
    return world.write(tmp_path / "m.tif", classes, nodata=255)


def expected(raster, folder):
    polygonize(raster, folder / "expected.gpkg", world.LEGEND)
    _, _, geometry, columns = pyogrio.raw.read(folder / "expected.gpkg", layer="land_cover")
    return shapely.from_wkb(geometry), columns


@pytest.mark.parametrize("suffix", [".gpkg", ".geojson", ".fgb"])
def test_many_batches_are_one_layer(raster, tmp_path, monkeypatch, suffix):
    polygons, columns = expected(raster, tmp_path)
    monkeypatch.setattr(labelscape.areas.polygonize, "BATCH", 3)
    assert (
        polygonize(raster, tmp_path / f"m{suffix}", world.LEGEND, strip_rows=16).written == len(polygons) > 6
    )
    layer = {"layer": "land_cover"} if suffix == ".gpkg" else {}
    meta, _, geometry, found = pyogrio.raw.read(tmp_path / f"m{suffix}", **layer)
    assert list(meta["fields"]) == ["value", "class", "pixels", "area_ha"]
    assert sorted(found[2].tolist()) == sorted(columns[2].tolist())
    assert [p.name for p in tmp_path.iterdir() if p.name.startswith(".")] == []
    ground = shapely.from_wkb(geometry)
    if suffix == ".geojson":
        assert CRS.from_user_input(meta["crs"]).to_epsg() == 4326 and shapely.total_bounds(ground)[
            0
        ] == pytest.approx(13.5, abs=0.1)
        assert shapely.is_ccw(shapely.get_exterior_ring(ground)).all()  # RFC 7946
    else:
        assert CRS.from_user_input(meta["crs"]) == world.UTM
        assert (
            shapely.area(shapely.symmetric_difference(shapely.union_all(ground), shapely.union_all(polygons)))
            == 0
        )


def test_geoparquet(raster, tmp_path, monkeypatch):
    parquet = pytest.importorskip("pyarrow.parquet")
    polygons, columns = expected(raster, tmp_path)
    monkeypatch.setattr(labelscape.areas.polygonize, "BATCH", 3)
    polygonize(raster, tmp_path / "m.parquet", world.LEGEND)
    table = parquet.read_table(tmp_path / "m.parquet")
    assert table.column_names == ["value", "class", "pixels", "area_ha", "geometry", "bbox"]
    assert (
        table["pixels"].to_pylist() == columns[2].tolist()
        and table["class"].to_pylist() == columns[1].tolist()
    )
    ground = shapely.from_wkb(table["geometry"].to_pylist())
    assert shapely.equals_exact(ground, polygons).all()
    np.testing.assert_array_equal(
        [list(b.values()) for b in table["bbox"].to_pylist()], shapely.bounds(polygons)
    )
    geo = json.loads(table.schema.metadata[b"geo"])
    column = geo["columns"]["geometry"]
    assert (geo["version"], geo["primary_column"], column["encoding"], column["geometry_types"]) == (
        "1.1.0",
        "geometry",
        "WKB",
        ["Polygon"],
    )
    assert (
        column["crs"]["id"] == {"authority": "EPSG", "code": 32633}
        and column["crs"]["type"] == "ProjectedCRS"
    )
    assert column["bbox"] == shapely.total_bounds(polygons).tolist()


def test_geoparquet_without_coordinates_or_polygons(tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet")
    plain = world.write(tmp_path / "p.tif", np.full((9, 9), 255, np.uint8), crs=None)
    polygonize(plain, tmp_path / "p.parquet", world.LEGEND)
    table = parquet.read_table(tmp_path / "p.parquet")
    assert len(table) == 0
    assert json.loads(table.schema.metadata[b"geo"]) == geo_metadata(None, np.full(4, np.inf))
    assert geo_metadata(None, np.full(4, np.inf))["columns"]["geometry"]["crs"] is None


def test_what_is_missing_is_said_before_any_work(tmp_path, monkeypatch):
    monkeypatch.setattr(polygon_files, "find_spec", lambda name: None)
    with pytest.raises(BadOption, match=r"needs pyarrow: pip install 'labelscape\[parquet\]'"):
        check_target(tmp_path / "m.parquet")
    with pytest.raises(BadOption, match=r"needs psycopg: pip install 'labelscape\[postgis\]'"):
        check_target("postgresql://localhost/maps")
    check_target(tmp_path / "m.gpkg")


def test_names_of_databases():
    assert database_of("postgresql://me@host:5433/db?table=gis.cover&sslmode=require") == (
        "postgresql://me@host:5433/db?sslmode=require",
        "gis",
        "cover",
    )
    assert database_of("postgresql://me@host/db") == ("postgresql://me@host/db", "", "land_cover")
    with pytest.raises(BadOption, match="table=SCHEMA.NAME"):
        database_of("postgresql://host/db?table=a.b.c")


def test_names_of_databases_as_gdal_writes_them():
    pytest.importorskip("psycopg")
    assert database_of("PG:dbname=db host=h table=gis.cover") == ("dbname=db host=h", "gis", "cover")
    with pytest.raises(BadOption, match="cannot be parsed"):
        database_of("PG:nonsense")


def test_rows_for_a_database():
    batch = Batch(
        np.array([shapely.box(0, 0, 1, 2)]),
        np.array([3], np.int32),
        np.array(["water"], object),
        np.array([7]),
        np.array([np.nan]),
    )
    ((value, name, pixels, hectares, geometry),) = rows_of(batch, 32633)
    assert (value, name, pixels, hectares) == (3, "water", 7, None)
    polygon = shapely.from_wkb(geometry)
    assert shapely.get_srid(polygon) == 32633 and polygon.equals(shapely.box(0, 0, 1, 2))
    assert (srid_of(world.UTM), srid_of(None)) == (32633, 0)
    with pytest.raises(BadOption, match="needs an EPSG code"):
        srid_of(CRS.from_string("+proj=laea +lat_0=12 +lon_0=3 +datum=WGS84"))


@pytest.mark.skipif(SERVER is None, reason="LABELSCAPE_TEST_POSTGIS names no database")
def test_postgis(raster, tmp_path):
    import psycopg

    polygons, columns = expected(raster, tmp_path)
    target = f"{SERVER}?table=labelscape_test"
    polygonize(raster, target, world.LEGEND, overwrite=True)
    with psycopg.connect(SERVER) as base:
        found = base.execute(
            "SELECT pixels, area_ha, ST_AsEWKB(geom), ST_IsValid(geom) FROM labelscape_test ORDER BY id"
        ).fetchall()
    assert [f[0] for f in found] == columns[2].tolist() and all(f[3] for f in found)
    assert shapely.equals_exact(shapely.from_wkb([bytes(f[2]) for f in found]), polygons).all()
    with pytest.raises(BadFile, match="exists; pass `overwrite=True`"):
        polygonize(raster, target, world.LEGEND)


@pytest.mark.parametrize("code", [3031, 3995])  # south and north, with the antimeridian along x = 0
@pytest.mark.parametrize("simplify", [0, 6000])
def test_geojson_at_the_antimeridian_has_the_areas_of_the_map(tmp_path, code, simplify):
    """Pixels that end at -180 are no band round the world."""
    from pyproj import Geod

    sign = 1 if code == 3031 else -1
    at = Affine(4000, 0, -120_000, 0, -4000, -sign * 200_000 + (0 if sign > 0 else 160_000))
    values = world.paint(40, 60, patch=10)[::-sign].copy()
    values[5:8, 25:35] = 255  # a hole across it
    values[20, 30] = 1 - values[20, 30] % 2
    raster = world.write(tmp_path / "m.tif", values, crs=CRS.from_epsg(code), transform=at, nodata=255)
    polygonize(raster, tmp_path / "m.geojson", world.LEGEND, simplify=simplify)
    _, _, geometry, columns = pyogrio.raw.read(tmp_path / "m.geojson")
    ground = shapely.from_wkb(geometry)
    assert shapely.is_valid(ground).all()
    parts, of = shapely.get_parts(ground, return_index=True)
    # Sides that are straight in the map are so in degrees here, and bend by kilometres.
    measured = [abs(Geod(ellps="WGS84").geometry_area_perimeter(p)[0]) / 1e4 for p in parts]
    found = np.bincount(of, measured)
    if not simplify:
        np.testing.assert_allclose(found, columns[3], rtol=0.3)
    assert found.sum() == pytest.approx(columns[3].sum(), rel=0.05)
    west, _, east, _ = shapely.bounds(parts).T
    assert (east - west < 60).all() and west.min() < -179.99 and east.max() > 179.99


@pytest.mark.parametrize("suffix", [".gpkg", ".geojson", ".fgb", ".parquet"])
def test_a_map_of_nodata_alone_has_no_polygons(tmp_path, suffix):
    raster, grid = tmp_path / "m.tif", Grid(world.UTM, world.NORTH_UP, 40, 50)
    with MapWriter(raster, grid, 1, 255, legend=world.LEGEND):  # no block of it is written
        pass
    assert polygonize(raster, tmp_path / f"m{suffix}", world.LEGEND).written == 0
    if suffix != ".parquet":
        meta, _, geometry, _ = pyogrio.raw.read(tmp_path / f"m{suffix}", layer=0)
        assert len(geometry) == 0
        # A GeoJSON without features has no columns.
        assert suffix == ".geojson" or list(meta["fields"]) == ["value", "class", "pixels", "area_ha"]
