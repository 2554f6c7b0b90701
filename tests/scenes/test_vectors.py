"""Vector files by any name, in any format, with anything in them: the right polygons, or a sentence."""

import datetime
import json
import os
import struct
import zipfile
from decimal import Decimal

import numpy as np
import pyogrio
import pytest
import shapely
from affine import Affine
from rasterio.crs import CRS

from labelscape.errors import BadFile, BadInput, UnknownName
from labelscape.grid import Grid
from labelscape.labels.labels import open_labels
from labelscape.labels.rules import LabelRules
from labelscape.legend import IGNORE
from labelscape.scenes.nested import MOST_LEVELS, is_too_deep
from labelscape.scenes.polygons import read_area, read_polygons
from labelscape.scenes.vectors import VectorSource, append_polygons, is_vector, layers_of, read_table, writing

UTM = Grid(CRS.from_epsg(32633), Affine(10, 0, 400_000, 0, -10, 5_800_000), 40, 60)
WEST, SOUTH, EAST, NORTH = UTM.bounds_of(UTM.window)
LEFT_HALF = np.where(np.arange(60) < 30, 0, IGNORE)[None].repeat(40, 0)


def write(path, shapes, *, crs="EPSG:32633", kind="Unknown", values=None, **options):
    """Geometries with a class each, by default their numbers as text."""
    values = np.array([f"c{i}" for i in range(len(shapes))], object) if values is None else values
    pyogrio.raw.write(
        str(path),
        shapely.to_wkb(np.array(shapes)),
        [values],
        ["class"],
        geometry_type=kind,
        crs=crs,
        **options,
    )
    return path


def box(left=0.0, right=0.5):
    """A part of the scene's width, over its whole height."""
    return shapely.box(WEST + left * (EAST - WEST), SOUTH, WEST + right * (EAST - WEST), NORTH)


NAMES = [
    "v1!fields",
    "!fields",
    "fields!",
    "a;fields",
    "a?fields",
    "line\nfields",
    "tab\tfields",
    " fields",
    "a#fields",
    "50%25",
    "a,b",
    "[x]",
    "x:fields",
    "s3:fields",
    "ü é",
    'it\'s "q"',
]


@pytest.mark.parametrize(
    ("name", "suffix"),
    [(name, ".geojson") for name in NAMES] + [(n, s) for n in NAMES[:5] for s in (".gpkg", ".shp")],
)
def test_the_named_file_is_read_and_no_other(tmp_path, monkeypatch, name, suffix):
    """Beside it lie the files that pyogrio would read for this name; also in a folder of such a name."""
    driver = {".geojson": "GeoJSON", ".gpkg": "GPKG", ".shp": "ESRI Shapefile"}[suffix]
    for place in (tmp_path, tmp_path / "Neu! ;2"):
        place.mkdir(exist_ok=True)
        for decoy in ("fields", "a", "b", "linefields", "tabfields"):
            if not (place / f"{decoy}{suffix}").exists():
                write(place / f"{decoy}{suffix}", [box(0, 1)], driver=driver) if place is tmp_path else None
        source = write(tmp_path / f"right{suffix}", [box(0, 0.5)], driver=driver)
        for part in tmp_path.glob("right.*"):
            os.replace(part, place / f"{name}{part.name.removeprefix('right')}")
        monkeypatch.chdir(place)
        for path in (place / f"{name}{suffix}", f"{name}{suffix}"):
            np.testing.assert_array_equal(open_labels(path, UTM).read(), LEFT_HALF)
            assert len(layers_of(path)) == 1 and is_vector(path)
        assert source.name not in os.listdir(place)


@pytest.mark.parametrize("folder", ["Neu!", "a;b", "plain"])
@pytest.mark.parametrize("name", ["x!y.gpkg", "x;y.gpkg", "xy.gpkg"])
def test_files_are_written_under_their_own_name(tmp_path, folder, name):
    (tmp_path / folder).mkdir()
    path = tmp_path / folder / name
    columns = {"value": np.array([7], np.int32)}
    with writing(path) as plain:
        wkb = shapely.to_wkb(np.array([box()]))
        for first in (True, False):
            append_polygons(plain, wkb, columns, layer="land", crs=None, first=first, options={})
    assert os.listdir(path.parent) == [name]
    assert len(read_polygons(path).geometries) == 2


def test_what_a_failed_writing_leaves_is_removed(tmp_path):
    with pytest.raises(OSError, match="^no$"), writing(tmp_path / "t!.gpkg"):
        raise pyogrio.errors.DataSourceError("no")
    assert os.listdir(tmp_path) == []


def test_formats_by_ending_and_by_content(tmp_path):
    for suffix, driver in (
        (".gdb", "OpenFileGDB"),
        (".sqlite", "SQLite"),
        (".geojsonl", "GeoJSONSeq"),
        (".fgb", "FlatGeobuf"),
        (".tab", "MapInfo File"),
        (".gml", "GML"),
        (".shp", "ESRI Shapefile"),
    ):
        kind = "MultiPolygon" if driver == "OpenFileGDB" else "Polygon"
        shape = shapely.MultiPolygon([box()]) if driver == "OpenFileGDB" else box()
        path = write(tmp_path / f"f{suffix}", [shape], driver=driver, kind=kind)
        assert is_vector(path)
        # A column named: some formats add others of text.
        labels = open_labels(path, UTM, LabelRules(class_column="class"))
        np.testing.assert_array_equal(labels.read()[:, :29], 0)
        assert (labels.read()[:, 31:] == IGNORE).all()
    with zipfile.ZipFile(tmp_path / "f.zip", "w") as archive:
        for part in tmp_path.glob("f.*"):
            if part.suffix in (".shp", ".shx", ".dbf", ".prj", ".cpg"):
                archive.write(part, part.name)
    np.testing.assert_array_equal(open_labels(tmp_path / "f.zip", UTM).read(), LEFT_HALF)
    write(tmp_path / "unknown.gpkg", [box()]).rename(tmp_path / "noending")
    np.testing.assert_array_equal(open_labels(tmp_path / "noending", UTM).read(), LEFT_HALF)
    assert not is_vector(tmp_path / "labels.tif") and not is_vector(tmp_path / "missing")
    assert is_vector("https://host/fields.geojson?token=a.b") and not is_vector("https://host/a.tif?x=.gpkg")


def test_geoparquet_is_read_with_pyarrow_and_named_without(tmp_path, monkeypatch):
    path = tmp_path / "f.parquet"
    if pytest.importorskip("pyarrow", reason="optional"):
        import pyarrow as pa
        import pyarrow.parquet as pq

        from labelscape.areas.polygon_files import geo_metadata

        table = pa.table(
            {"class": [1, None], "geometry": shapely.to_wkb(np.array([box(), box(0.5, 1)])).tolist()}
        )
        geo = json.dumps(geo_metadata(UTM.crs, np.full(4, np.inf)))
        pq.write_table(table.replace_schema_metadata({"geo": geo}), path)
        labels = open_labels(path, UTM, LabelRules(class_column="class"))
        assert labels.legend.names == ["1"]
        np.testing.assert_array_equal(labels.read(), LEFT_HALF)
    monkeypatch.setattr("labelscape.scenes.vectors.find_spec", lambda name: None)
    with pytest.raises(BadFile, match="needs pyarrow: pip install"):
        read_polygons(path)


def test_layers_tables_and_areas(tmp_path):
    path = tmp_path / "project.gpkg"
    pyogrio.raw.write(
        path, None, [np.array(["x"], object)], ["class"], layer="a_table", driver="GPKG", geometry_type=None
    )
    write(path, [shapely.Point(WEST, SOUTH)], kind="Point", layer="points", append=True)
    write(path, [box()], kind="Polygon", layer="crops", append=True)
    # Neither a table nor points can be meant.
    assert not [line for line in open_labels(path, UTM).report if "has the layers" in line]
    np.testing.assert_array_equal(open_labels(path, UTM).read(), LEFT_HALF)
    assert len(read_area(path, UTM).geometries) == 1
    write(path, [box(0, 1)], kind="Polygon", layer="district", append=True)
    assert (
        "has the layers crops, district: using crops (choose with `layer`)"
        in open_labels(path, UTM).report[0]
    )
    with pytest.raises(BadInput, match=r"has the layers crops, district; .*project.gpkg\|layername=crops"):
        read_area(path, UTM)
    chosen = read_area(f"{path}|layername=district", UTM).geometries
    assert chosen[0].equals(box(0, 1))
    assert open_labels(f"{path}|layername=district", UTM).read().max() == 0
    with pytest.raises(UnknownName, match="Did you mean 'district'"):
        read_polygons(VectorSource(path, "districts"))
    tables = tmp_path / "tables.gpkg"
    pyogrio.raw.write(
        tables, None, [np.array(["x"], object)], ["class"], layer="t", driver="GPKG", geometry_type=None
    )
    with pytest.raises(BadInput, match=r"no layer with geometry \(it holds t\)"):
        read_polygons(tables)


def test_collections_give_their_polygons_and_the_rest_is_counted(tmp_path):
    point = shapely.Point(WEST, SOUTH)
    inner = shapely.GeometryCollection([box(0.25, 0.5), point])
    shapes = [
        shapely.GeometryCollection([box(0, 0.25), point, inner]),
        None,
        point,
        shapely.LineString([(WEST, SOUTH), (EAST, NORTH)]),
        shapely.Polygon(),
        shapely.GeometryCollection([point]),
        shapely.Polygon([(*xy, 12.5) for xy in box(0.5, 1).exterior.coords]),
    ]
    path = write(tmp_path / "zoo.gpkg", shapes, values=np.array(list("abcdefg"), object))
    labels = open_labels(path, UTM)
    assert labels.legend.names == ["a", "g"]
    np.testing.assert_array_equal(labels.read(), np.where(LEFT_HALF == 0, 0, 1))
    assert labels.report[0].endswith(
        "2 of 7 features are used as polygons; left out: 2 without a geometry that can be read, 1 points, "
        "1 lines, 1 other geometry"
    )
    with pytest.raises(BadInput, match=r"but no polygon \(1 points\).*around each \(in QGIS"):
        read_polygons(write(tmp_path / "points.gpkg", [point]))


def test_rings_that_cross_or_stay_open(tmp_path):
    """A scribble of 300 corners is repaired by what it encloses, a bow tie keeps both wings."""
    scribble = shapely.Polygon(np.random.default_rng(0).uniform((WEST, SOUTH), (EAST, NORTH), (300, 2)))
    found = read_polygons(write(tmp_path / "scribble.gpkg", [scribble]), UTM).geometries
    # 5,862 corners. By all its lines it would have 25,561, and take a hundred times as long.
    assert shapely.get_num_coordinates(found).sum() < 10_000 and shapely.is_valid(found).all()
    west, middle, top = WEST, (WEST + EAST) / 2, NORTH
    bow = shapely.Polygon([(west, top), (EAST, SOUTH), (EAST, top), (west, SOUTH)])
    (tie,) = read_polygons(write(tmp_path / "bow.gpkg", [bow]), UTM).geometries
    height, width = top - SOUTH, EAST - west
    assert tie.area == pytest.approx(height * width / 2)
    assert tie.contains(shapely.Point(west + 1, SOUTH + height / 2)) and not tie.contains(
        shapely.Point(middle, top - 1)
    )
    ring = [[WEST, SOUTH], [middle, SOUTH], [middle, NORTH], [WEST, NORTH]]
    feature = {
        "type": "Feature",
        "properties": {"class": "a"},
        "geometry": {"type": "Polygon", "coordinates": [ring]},
    }
    crs = {"type": "name", "properties": {"name": "urn:ogc:def:crs:EPSG::32633"}}
    path = tmp_path / "open.geojson"
    path.write_text(json.dumps({"type": "FeatureCollection", "crs": crs, "features": [feature]}))
    np.testing.assert_array_equal(open_labels(path, UTM).read(), LEFT_HALF)


def test_gml_without_geometry_and_damaged_files_are_refused(tmp_path):
    gml = (
        '<?xml version="1.0"?><o:FeatureCollection xmlns:o="http://ogr.maptools.org/" '
        'xmlns:gml="http://www.opengis.net/gml"><gml:featureMember><o:a fid="1"><o:class>x</o:class></o:a>'
        "</gml:featureMember></o:FeatureCollection>"
    )
    (tmp_path / "no.gml").write_text(gml)
    for part in ("c.shx", "c.dbf"):
        (tmp_path / part).write_bytes(b"\0")
    with pytest.raises(BadInput, match="no layer with geometry"):
        read_polygons(tmp_path / "no.gml")
    for name, data in (("a.geojson", b'{"type": "Feat'), ("b.gpkg", b"SQLite format 3\0"), ("c.shp", b"\0")):
        (tmp_path / name).write_bytes(data)
        with pytest.raises(BadFile, match="cannot be read as a vector file"):
            read_polygons(tmp_path / name)


@pytest.mark.parametrize("world", [(-180, -90, 180, 90), (-170, -80, 170, 85), (-20, 20, 60, 75)])
def test_rectangles_far_larger_than_the_scene_cover_it(tmp_path, world):
    path = write(tmp_path / "world.gpkg", [shapely.box(*world)], crs="EPSG:4326", kind="Polygon")
    (area,) = read_area(path, UTM).geometries
    assert area.contains(shapely.box(WEST, SOUTH, EAST, NORTH))
    assert (open_labels(path, UTM, LabelRules(class_column="class")).read() == 0).all()


def test_a_far_border_is_a_straight_line_in_its_own_crs(tmp_path):
    """The parallel through the scene's middle, with two corners a continent apart, bends in the scene."""
    import pyproj

    back = pyproj.Transformer.from_crs("EPSG:32633", "EPSG:4326", always_xy=True)
    columns, rows = np.meshgrid(np.arange(60) + 0.5, np.arange(40) + 0.5)
    _, latitude = back.transform(*(UTM.transform @ (columns, rows)))
    parallel = float(latitude[20, 30])
    path = write(
        tmp_path / "south.gpkg", [shapely.box(-40, 0, 60, parallel)], crs="EPSG:4326", kind="Polygon"
    )
    found = open_labels(path, UTM, LabelRules(class_column="class")).read() == 0
    clear = abs(latitude - parallel) > 1e-6
    np.testing.assert_array_equal(found[clear], (latitude <= parallel)[clear])


def test_metres_that_are_called_degrees_are_refused_with_their_numbers(tmp_path):
    ring = [list(xy) for xy in box().exterior.coords]
    feature = {
        "type": "Feature",
        "properties": {"class": "a"},
        "geometry": {"type": "Polygon", "coordinates": [ring]},
    }
    path = tmp_path / "utm.geojson"
    path.write_text(json.dumps({"type": "FeatureCollection", "features": [feature]}))
    with pytest.raises(
        BadInput, match=r"None.*place in the scene's CRS \(EPSG:32633\).*x 400000 to 400300.*degrees"
    ) as error:
        open_labels(path, UTM)
    assert "inf" not in str(error.value)
    # One of several is left out and counted.
    mixed = write(
        tmp_path / "mixed.gpkg", [shapely.box(13, 52, 14, 53), box()], crs="EPSG:4326", kind="Polygon"
    )
    polygons = read_polygons(mixed, UTM)
    assert len(polygons.geometries) == 1 and "1 without a place in the scene's CRS" in polygons.notes[-1]


@pytest.mark.parametrize(
    ("stored", "declared"),
    [("UTF-8", None), ("UTF-8", "ISO-8859-1"), ("UTF-8", "1252"), ("UTF-8", "UTF-8"), ("ISO-8859-1", None)],
)
def test_text_in_another_encoding_than_a_shapefile_declares(tmp_path, stored, declared):
    """Without a .cpg Latin-1 is assumed; a copied .cpg may be that of another file."""
    names = np.array(["Äcker", "Gebäude „Süd“" if stored == "UTF-8" else "forêt"], object)
    path = write(tmp_path / "f.shp", [box(0, 0.5), box(0.5, 1)], values=names, encoding=stored)
    (tmp_path / "f.cpg").unlink(missing_ok=True)
    if declared:
        (tmp_path / "f.cpg").write_text(declared)
    found = read_polygons(path)
    assert found.attributes["class"].tolist() == names.tolist()
    # As of a .vat.dbf, which names the values of a raster.
    assert read_table(path.with_suffix(".dbf"))["class"].tolist() == names.tolist()
    wrong = stored == "UTF-8" and declared != "UTF-8"
    assert [("is UTF-8, though" in note) for note in found.notes if "no encoding" not in note] == [
        True
    ] * wrong
    # What is taken for Latin-1 may be so, or not: only the user knows the words.
    assert any("and class ('Äcker') is read as Latin-1" in note for note in found.notes) == (
        stored != "UTF-8"
    )
    if stored != "UTF-8":
        (tmp_path / "f.cpg").write_text("UTF-8")
        with pytest.raises(
            BadFile, match=r"another encoding than the file .*ISO-8859-1 or 1252, into the .cpg"
        ):
            read_polygons(path)


@pytest.mark.parametrize(
    ("stored", "names", "declared", "garbled"),
    [
        ("CP1251", ["Вода", "Лес"], "1251", False),
        ("CP1250", ["Łąka", "Świerk"], "CP1250", True),
        ("CP932", ["水域", "森林"], "SHIFT_JIS", True),
        ("GBK", ["水体", "土地"], "GBK", False),
    ],
)
def test_names_in_an_encoding_that_nothing_declares_are_no_classes_without_a_word(
    tmp_path, stored, names, declared, garbled
):
    """Latin-1 has a letter for nearly every byte."""
    path = write(
        tmp_path / "f.shp", [box(0, 0.5), box(0.5, 1)], values=np.array(names, object), encoding=stored
    )
    for wrong in (None, "Windows"):
        (tmp_path / "f.cpg").unlink(missing_ok=True)
        if wrong:
            (tmp_path / "f.cpg").write_text(wrong)
        said = read_polygons(path).notes
        assert len(said) == 1 and "no encoding is declared (a .cpg file) that is known" in said[0]
        if garbled:
            with pytest.raises(BadInput, match="in another encoding than the file .* with .cpg at its end"):
                open_labels(path, UTM)
        else:
            assert said[0] in open_labels(path, UTM).notes
    # As the message has it.
    (tmp_path / "f.cpg").write_text(declared)
    assert read_polygons(path).notes == ()
    assert open_labels(path, UTM).legend.names == sorted(names)


@pytest.mark.parametrize("suffix", [".gpkg", ".geojson", ".fgb"])
def test_text_of_formats_that_are_utf_8_stays_as_it_is(tmp_path, suffix):
    names = ["Â¡", "Ã©"]
    path = write(tmp_path / f"f{suffix}", [box(0, 0.5), box(0.5, 1)], values=np.array(names, object))
    found = read_polygons(path)
    assert sorted(found.attributes["class"].tolist()) == sorted(names) and not found.notes


def test_words_that_are_no_utf_8_stay_as_they_are(tmp_path):
    for names in (["Ã", "Ã©tude ñ"], ["é", "Ã©"], ["東京", "Ã©"]):
        (tmp_path / "f.cpg").unlink(missing_ok=True)
        path = write(tmp_path / "f.shp", [box(), box()], values=np.array(names, object))
        assert read_polygons(path).attributes["class"].tolist() == names
        path.unlink()


def test_an_empty_layer_beside_others_is_no_choice(tmp_path):
    path = tmp_path / "f.gpkg"
    nothing = np.array([], object)
    pyogrio.raw.write(
        str(path), nothing, [nothing], ["class"], geometry_type="Polygon", crs="EPSG:32633", layer="first"
    )
    with pytest.raises(BadInput, match="f.gpkg is empty: its layer has no features"):
        read_polygons(path)
    write(path, [box()], kind="Polygon", layer="second", append=True)
    assert read_polygons(path).geometries[0].equals(box())
    assert len(read_area(path, UTM).geometries) == 1
    write(path, [box(), box()], kind="Polygon", layer="third", append=True)
    with pytest.raises(BadInput, match="has the layers second, third"):
        read_area(path, UTM)


def test_coordinates_that_are_no_numbers_are_left_out_without_a_warning(tmp_path):
    holey = shapely.from_wkt("POLYGON ((0 0, 1 1, NaN 2, 0 0))")
    found = read_polygons(write(tmp_path / "f.gpkg", [holey, box()]), UTM)
    assert not [note for note in found.notes if "invalid value" in note]


LISTED = {"list": '["crop"]', "text": '"[crop]"', "object": '{"name": "crop"}', "two": '["crop", "wood"]'}


@pytest.mark.parametrize("kind", LISTED)
def test_a_class_in_a_list_is_its_name_and_objects_are_refused(tmp_path, kind):
    """Annotation programs store classes as lists or as objects with a name and a colour."""
    shape = json.loads(shapely.to_geojson(shapely.box(13.5, 52.3, 13.6, 52.4)))
    features = [
        f'{{"type": "Feature", "geometry": {json.dumps(shape)}, "properties": {{"class": {value}}}}}'
        for value in (LISTED[kind], LISTED[kind].replace("crop", "road"))
    ]
    path = tmp_path / "f.geojson"
    path.write_text(f'{{"type": "FeatureCollection", "features": [{", ".join(features)}]}}')
    grid = Grid(CRS.from_epsg(4326), Affine(0.01, 0, 13.45, 0, -0.01, 52.45), 20, 20)
    if kind in ("object", "two"):
        with pytest.raises(
            BadInput, match=r"'class' of .*f.geojson holds lists or JSON objects such as .*crop"
        ):
            open_labels(path, grid, LabelRules())
    else:
        names = ["crop", "road"] if kind == "list" else ["[crop]", "[road]"]
        assert open_labels(path, grid, LabelRules()).legend.names == names


def test_more_classes_than_a_map_holds_and_words_that_mean_none(tmp_path):
    shapes = [shapely.box(WEST + i, SOUTH, WEST + i + 1, NORTH) for i in range(256)]
    path = write(tmp_path / "many.gpkg", shapes)
    with pytest.raises(BadInput, match="256 classes .c0, c1, c10, .*up to 255, background included.*merge"):
        open_labels(path, UTM, LabelRules())
    path = write(tmp_path / "none.gpkg", [box(), box(0.5, 1)], values=np.array(["NULL", "wood"], object))
    report = open_labels(path, UTM, LabelRules()).report
    assert [line for line in report if "'NULL' is read as a class; if it means 'no class'" in line]


def test_layers_as_qgis_writes_them(tmp_path):
    path = write(tmp_path / "a.gpkg", [box()], layer="crops", driver="GPKG")
    assert VectorSource.of(f"{path}|layername=crops|geometrytype=Polygon").layer == "crops"
    with pytest.raises(BadInput, match=r"a.gpkg: the layer is filtered \(\"class\" = 'c0'\), and filters"):
        is_vector(f"{path}|layername=crops|subset=\"class\" = 'c0'")
    assert VectorSource.of(f"{path}|layerid=0").layer == "crops"
    with pytest.raises(BadInput, match=r"no layer of the number 1: .* crops, .*a.gpkg\|layername=NAME"):
        read_polygons(f"{path}|layerid=1")
    odd = write(tmp_path / "b|layername=x.gpkg", [box()])
    assert VectorSource.of(odd) == VectorSource(odd) and len(read_polygons(str(odd)).geometries) == 1


def nested(levels: int, within: bytes, kind: int = 7, order: str = "<") -> bytes:
    return struct.pack(f"{order}BII", order == "<", kind, 1) * levels + within


@pytest.mark.parametrize("kind", [4, 5, 6, 7, 11, 12])
@pytest.mark.parametrize("order", "<>")
def test_geometries_nested_without_end_are_found_anywhere(kind, order):
    # GEOS would call itself for each level: 100,000 end the process.
    point = shapely.to_wkb(shapely.Point(1, 2))
    assert is_too_deep(nested(100_000, point, kind, order))
    assert is_too_deep(nested(MOST_LEVELS, point, kind, order))
    assert not is_too_deep(nested(MOST_LEVELS - 1, point, kind, order))
    deep = nested(MOST_LEVELS, point, kind, order)
    for flags in (0, 1000, 2000, 3000, 1 << 31, 1 << 30, 3 << 30):
        before = shapely.to_wkb(shapely.GeometryCollection([box()]), flavor="iso")[9:]
        assert is_too_deep(struct.pack("<BII", 1, 7 + flags, 2) + before + deep)
    with_srid = struct.pack("<BIII", 1, 6 | 0x20000000, 32633, 1)
    assert is_too_deep(with_srid + deep)


def test_large_geometries_that_are_not_deep_are_left_alone():
    rings = shapely.MultiPolygon([box(n, n + 0.5) for n in range(300)])
    lines = shapely.MultiLineString([[(n, 0, 1), (n, 1, 2)] for n in range(300)])
    for geometry in (rings, lines, shapely.GeometryCollection([rings, lines, shapely.Point(1, 2, 3)])):
        for flavor in ("iso", "extended"):
            wkb = shapely.to_wkb(
                shapely.set_srid(geometry, 32633), flavor=flavor, include_srid=flavor != "iso"
            )
            assert not is_too_deep(wkb)
            assert not is_too_deep(wkb[:-50]), "cut off: GEOS says so"
    assert not is_too_deep(bytes(5000)) and not is_too_deep(b"\xff" * 5000)


def test_geoparquet_of_nested_geometries_keeps_its_other_polygons(tmp_path):
    pq, pa = pytest.importorskip("pyarrow.parquet"), pytest.importorskip("pyarrow")
    deep = nested(100_000, shapely.to_wkb(box()))
    geo = {"primary_column": "geometry", "columns": {"geometry": {"encoding": "WKB", "crs": "EPSG:32633"}}}
    table = pa.table({"class": [1, 2, 1], "geometry": [shapely.to_wkb(box()), deep, None]})
    pq.write_table(table.replace_schema_metadata({"geo": json.dumps(geo)}), tmp_path / "a.parquet")
    (kept,) = read_polygons(tmp_path / "a.parquet").geometries
    assert kept.equals(box())


def classes_in_parquet(path, **columns):
    """The classes of a GeoParquet file of the two halves of the grid, which are labels 0 and 1."""
    pq, pa = pytest.importorskip("pyarrow.parquet"), pytest.importorskip("pyarrow")
    geo = {"primary_column": "geometry", "columns": {"geometry": {"encoding": "WKB", "crs": "EPSG:32633"}}}
    halves = [shapely.to_wkb(box(0, 0.5)), shapely.to_wkb(box(0.5, 1))]
    table = pa.table({**columns, "geometry": halves})
    pq.write_table(table.replace_schema_metadata({"geo": json.dumps(geo)}), path)
    labels = open_labels(path, UTM)
    assert {*np.unique(labels.read()).tolist()} == {0, 1}
    return labels.legend.names


def test_columns_of_all_types_in_geoparquet(tmp_path):
    """A column that was left out for its type was missed quietly: all polygons were one class, or the names
    of owners were classes.
    """
    pa = pytest.importorskip("pyarrow")
    owner = pa.array(["Anna", "Otto"])
    words = pa.array(["wood", "lake"])
    days = pa.array([datetime.date(2020, 1, 1), datetime.date(2021, 1, 1)])
    for values, names in (
        (words.dictionary_encode(), ["lake", "wood"]),
        (pa.array([2, 1]).dictionary_encode(), ["1", "2"]),
        (pa.array([Decimal("2.0"), Decimal("1.0")]), ["1", "2"]),
        (days, ["2020-01-01", "2021-01-01"]),
        (pa.array([["wood"], ["lake"]]), ["lake", "wood"]),
        (pa.array([b"wood", b"lake"]), ["lake", "wood"]),
        (pa.array([True, False]), ["False", "True"]),
    ):
        assert classes_in_parquet(tmp_path / "a.parquet", owner=owner, **{"class": values}) == names
    # Parts of a record are columns, as GDAL makes them of other formats; lists of several are no text.
    record = pa.array([{"kind": "wood", "size": 1}, {"kind": "lake", "size": 2}])
    several = pa.array([["Anna", "Otto"], []])
    assert classes_in_parquet(tmp_path / "a.parquet", cover=record, owners=several) == ["lake", "wood"]
    with pytest.raises(BadInput, match="The column 'class' of .* is empty for all 2 polygons"):
        classes_in_parquet(tmp_path / "a.parquet", owner=owner, **{"class": pa.nulls(2)})
    with pytest.raises(BadInput, match=r"The column 'class' of .* holds bytes such as b'\\xff'"):
        classes_in_parquet(tmp_path / "a.parquet", **{"class": pa.array([b"\xff", b"\xfe"])})


@pytest.mark.parametrize("crs", ["EPSG:99999", {"type": "nonsense"}, 'PROJCS["'])
def test_geoparquet_with_a_crs_that_is_none(tmp_path, crs):
    pq, pa = pytest.importorskip("pyarrow.parquet"), pytest.importorskip("pyarrow")
    geo = {"primary_column": "geometry", "columns": {"geometry": {"encoding": "WKB", "crs": crs}}}
    table = pa.table({"geometry": [shapely.to_wkb(box())]})
    pq.write_table(table.replace_schema_metadata({"geo": json.dumps(geo)}), tmp_path / "a.parquet")
    with pytest.raises(BadFile, match=r"a.parquet cannot be read as GeoParquet: Invalid projection"):
        read_polygons(tmp_path / "a.parquet", UTM)


def test_polygons_whose_crs_nothing_relates_to_the_scene(tmp_path):
    moon = 'GEOGCS["Moon",DATUM["Moon",SPHEROID["Moon",1737400,0]],PRIMEM["0",0],UNIT["Degree",0.0174532925]]'
    path = write(tmp_path / "a.gpkg", [shapely.box(0, 0, 1, 1)], crs=moon)
    with pytest.raises(BadInput, match="a.gpkg cannot be put onto the scene. No transformation between"):
        read_polygons(path, UTM)


def test_a_zip_with_a_folder_in_it_is_read_and_one_with_several_files_is_refused(tmp_path):
    square = shapely.box(WEST, SOUTH, EAST, NORTH)
    write(tmp_path / "fields.shp", [square], kind="Polygon")
    parts = sorted(tmp_path.glob("fields.*"))
    for name, folders in (
        ("flat", [""]),
        ("inner", ["a/b/"]),
        ("mac", ["a/", "__MACOSX/a/"]),
        ("two", ["a/", "b/"]),
    ):
        with zipfile.ZipFile(tmp_path / f"{name}.zip", "w") as archive:
            for folder in folders:
                for part in parts:
                    archive.write(part, folder + part.name)
            archive.writestr("metadata.json", "{}")
    for name in ("flat", "inner", "mac"):
        assert is_vector(tmp_path / f"{name}.zip")
        assert read_polygons(tmp_path / f"{name}.zip").geometries[0].equals(square)
    assert is_vector(tmp_path / "two.zip")  # and not a raster that cannot be read
    with pytest.raises(BadFile, match=r"holds 2 vector files \(a/fields.shp, b/fields.shp\). Unpack it"):
        read_polygons(tmp_path / "two.zip")


@pytest.mark.parametrize("part", [".shx", ".dbf"])
def test_a_shapefile_without_one_of_its_files_is_told_so(tmp_path, part):
    path = write(tmp_path / "fields.shp", [shapely.box(WEST, SOUTH, EAST, NORTH)], kind="Polygon")
    path.with_suffix(part).unlink()
    with pytest.raises(BadFile, match=rf"fields\{part} not found beside it. Copy all of its files together"):
        read_polygons(path)
