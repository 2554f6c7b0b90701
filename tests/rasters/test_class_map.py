"""Class maps of other software: any type, masks, ground control points, and the names stored beside them."""

import numpy as np
import pyogrio
import pytest
import rasterio
import world
from rasterio._err import CPLE_AppDefinedError
from rasterio.control import GroundControlPoint
from rasterio.enums import ColorInterp

from labelscape.areas.polygonize import polygonize
from labelscape.areas.sieve import sieve
from labelscape.assessment.census import content_hash
from labelscape.assessment.sample import sample
from labelscape.errors import BadFile, BadInput
from labelscape.labels.labels import found_in
from labelscape.labels.rules import LabelRules
from labelscape.rasters import class_map
from labelscape.rasters.class_names import legend_of

CLASSES = world.paint(40, 50) + np.uint8(1)
HOLE = np.zeros(CLASSES.shape, bool)
HOLE[:12, 20:] = True


def pixels_by_value(raster, out):
    polygonize(raster, out, overwrite=True)
    meta, _, _, columns = pyogrio.raw.read(out, read_geometry=False, layer="land_cover")
    fields, found = dict(zip(meta["fields"], columns)), {}
    for value, pixels in zip(fields["value"].tolist(), fields["pixels"].tolist()):
        found[value] = found.get(value, 0) + pixels
    return found


def counts(values):
    return {int(v): int(n) for v, n in zip(*np.unique(values, return_counts=True))}


@pytest.mark.parametrize(
    ("dtype", "nodata", "expected"),
    [
        ("uint16", 65535, 255),
        ("uint16", 300, 255),
        ("int16", -1, 255),
        ("int16", -9999, 255),
        ("int32", 0, 0),
        ("float32", float("nan"), 255),
        ("float32", -3.4028234663852886e38, 255),
        ("float64", 200.0, 200),
    ],
)
def test_whole_numbers_of_any_type_are_class_maps(tmp_path, dtype, nodata, expected):
    values = CLASSES.astype(dtype)
    values[HOLE] = nodata
    raster = world.write(tmp_path / "map.tif", values, nodata=nodata)
    assert pixels_by_value(raster, tmp_path / "p.gpkg") == counts(CLASSES[~HOLE])
    sieve(raster, tmp_path / "s.tif", min_area=1e-9)
    with rasterio.open(tmp_path / "s.tif") as file:
        assert (file.dtypes[0], file.nodata) == ("uint8", expected)
        np.testing.assert_array_equal(file.read(1), np.where(HOLE, expected, CLASSES))
    assert legend_of(raster)[0].names == ["class 1", "class 2", "class 3"]
    as_bytes = world.write(tmp_path / "b.tif", np.where(HOLE, expected, CLASSES).astype(np.uint8))
    assert content_hash(raster) == content_hash(as_bytes)


@pytest.mark.parametrize(
    ("value", "dtype", "said"),
    [
        (300, "uint16", "uint16.* holds 300; .* 0 to 254.*gdal_edit.py -a_nodata 300"),
        (255, "uint16", "holds 255"),
        (-1, "int8", "holds -1"),
        (1.5, "float32", "holds 1.5"),
        (1e30, "float32", "holds 1.00000002e[+]30"),
    ],
)
def test_values_that_no_class_can_have_are_refused_with_the_cure(tmp_path, value, dtype, said):
    values = CLASSES.astype(dtype)
    values[3, 4] = value
    raster = world.write(tmp_path / "map.tif", values)
    for make in (
        lambda: polygonize(raster, tmp_path / "p.gpkg", world.LEGEND),
        lambda: sieve(raster, tmp_path / "s.tif", world.LEGEND, min_area=1),
        lambda: legend_of(raster),
    ):
        with pytest.raises(BadInput, match=said):
            make()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["map.tif"]


@pytest.mark.parametrize("kind", ["internal", "beside", "alpha"])
def test_what_a_mask_leaves_out_is_no_class(tmp_path, kind):
    if kind == "alpha":
        raster = world.write(
            tmp_path / "map.tif", np.stack([CLASSES, np.where(HOLE, 0, 255)]).astype("uint8")
        )
        with rasterio.open(raster, "r+") as file:
            file.colorinterp = [ColorInterp.gray, ColorInterp.alpha]
    else:
        raster = world.write(tmp_path / "map.tif", CLASSES)
        with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=kind == "internal"), rasterio.open(raster, "r+") as file:
            file.write_mask(~HOLE)
    assert pixels_by_value(raster, tmp_path / "p.gpkg") == counts(CLASSES[~HOLE])
    sieve(raster, tmp_path / "s.tif", min_area=1e-9)
    with rasterio.open(tmp_path / "s.tif") as file:
        np.testing.assert_array_equal(file.read(1), np.where(HOLE, 255, CLASSES))


def test_ground_control_points_place_a_class_map(tmp_path):
    points = [
        GroundControlPoint(row, column, *(world.NORTH_UP @ (column, row)))
        for row, column in ((0, 0), (0, 50), (40, 0), (40, 50))
    ]
    path = tmp_path / "map.tif"
    profile = {"driver": "GTiff", "count": 1, "height": 40, "width": 50, "dtype": "uint8"}
    with rasterio.open(path, "w", gcps=points, crs=world.UTM, **profile) as file:
        file.write(CLASSES, 1)
    polygonize(path, tmp_path / "p.gpkg")
    about = pyogrio.read_info(tmp_path / "p.gpkg", layer="land_cover")
    assert about["crs"] == "EPSG:32633" and about["total_bounds"] == (400_000, 5_799_600, 400_500, 5_800_000)


def test_nodata_that_bytes_cannot_have_leaves_no_hole_in_a_sparse_map(tmp_path):
    """Blocks that are not stored then read as 0, a class like others."""
    (tmp_path / "map.vrt").write_text(
        '<VRTDataset rasterXSize="64" rasterYSize="64"><VRTRasterBand dataType="Byte" band="1">'
        '<NoDataValue>-9999</NoDataValue><SimpleSource><SourceFilename relativeToVRT="1">m.tif'
        "</SourceFilename><SourceBand>1</SourceBand></SimpleSource></VRTRasterBand></VRTDataset>"
    )
    world.write(tmp_path / "m.tif", np.zeros((64, 64), np.uint8), crs=None)
    assert pixels_by_value(tmp_path / "map.vrt", tmp_path / "p.gpkg") == {0: 64 * 64}


# ---------------------------------------------------------------------------------------------------- names

RAT = (
    "<PAMDataset><PAMRasterBand band='1'><GDALRasterAttributeTable>"
    "<FieldDefn index='0'><Name>Value</Name><Type>0</Type><Usage>{0}</Usage></FieldDefn>"
    "<FieldDefn index='1'><Name>Class_Name</Name><Type>2</Type><Usage>{1}</Usage></FieldDefn>{2}"
    "</GDALRasterAttributeTable></PAMRasterBand></PAMDataset>"
)
ROWS = "<Row><F>1</F><F>See</F></Row><Row><F>2.0</F><F>Äcker</F></Row><Row><F>3</F><F>Wald</F></Row>"


def named(path, kind):
    """Names of the values 1, 2 and 3 as different programs store them."""
    names = {1: "See", 2: "Äcker", 3: "Wald"}
    if kind == "table":
        side = RAT.format(5, 2, ROWS)
    elif kind == "table without usages":
        side = RAT.format(0, 0, ROWS)
    elif kind == "categories":
        items = "".join(f"<Category>{n}</Category>" for n in ("", *names.values()))
        side = (
            f"<PAMDataset><PAMRasterBand><CategoryNames>{items}</CategoryNames></PAMRasterBand></PAMDataset>"
        )
    elif kind == "ArcGIS":
        columns = [np.array(list(names), np.int32), np.array(list(names.values()), object)]
        pyogrio.raw.write(
            path.with_name("t.dbf"),
            None,
            columns,
            ["VALUE", "CLASS_NAME"],
            driver="ESRI Shapefile",
            geometry_type=None,
            encoding="UTF-8",
        )
        for ending in ("dbf", "cpg"):
            path.with_name(f"t.{ending}").rename(f"{path}.vat.{ending}")
        return
    else:
        entries = "".join(
            f'<paletteEntry value="{v}" label="{n}" color="#ff0000"/>' for v, n in names.items()
        )
        path.with_suffix(".qml").write_text(f"<qgis><colorPalette>{entries}</colorPalette></qgis>", "utf-8")
        return
    path.with_name(f"{path.name}.aux.xml").write_text(side, "utf-8")


KINDS = ["table", "table without usages", "categories", "ArcGIS", "QGIS"]


@pytest.mark.parametrize("kind", KINDS)
def test_names_that_other_programs_store_are_read(tmp_path, kind):
    path = world.write(tmp_path / "map.tif", CLASSES)
    named(path, kind)
    assert legend_of(path)[0].names == ["See", "Äcker", "Wald"]


@pytest.mark.parametrize(
    "rows",
    [
        "<Row><F></F><F>x</F></Row><Row><F>1</F></Row>",
        "<Row><F>1e400</F><F>x</F></Row><Row><F>nan</F><F>x</F></Row><Row><F>2.5</F><F>x</F></Row>",
    ],
)
def test_rows_of_a_table_that_name_nothing_are_passed_over(tmp_path, rows):
    path = world.write(tmp_path / "map.tif", CLASSES)
    side = RAT.format(5, 2, rows + ROWS)
    (tmp_path / "map.tif.aux.xml").write_text(side, "utf-8")
    assert legend_of(path)[0].names == ["See", "Äcker", "Wald"]
    (tmp_path / "map.tif.aux.xml").write_text(RAT.format("none", "", rows), "utf-8")
    assert legend_of(path)[0].names == ["class 1", "class 2", "class 3"]


@pytest.mark.parametrize(
    "read",
    [
        legend_of,
        content_hash,
        lambda path: polygonize(path, path.with_suffix(".gpkg"), world.LEGEND),
        lambda path: sieve(path, path.with_name("out.tif"), world.LEGEND, min_area=1),
        lambda path: sample(path, path.with_suffix(".gpkg")),
    ],
    ids=["legend", "hash", "polygonize", "sieve", "sample"],
)
def test_damage_that_gdal_notices_late_is_one_sentence(tmp_path, monkeypatch, read):
    """Some damaged TIFFs open, and the next question raises an error of GDAL's own, no RasterioError."""
    path = world.write(tmp_path / "map.tif", CLASSES)

    def ask(*_, **__):
        raise CPLE_AppDefinedError(2, 1, "TIFFFetchNormalTag: custom tag 48350 is undefined")

    monkeypatch.setattr(class_map, "bands_and_validity", ask)
    with pytest.raises(BadFile, match=r"map.tif cannot be read: .*damaged\. .*GDAL: TIFFFetch.*defined\)\.$"):
        read(path)
    assert [one.name for one in tmp_path.iterdir()] == ["map.tif"]


def test_damaged_label_rasters_are_one_sentence_too(tmp_path, monkeypatch):
    path = world.write(tmp_path / "labels.tif", CLASSES)

    def ask(*_):
        raise CPLE_AppDefinedError(2, 1, "custom tag 48350")

    monkeypatch.setattr("labelscape.labels.labels.check_bands", ask)
    with pytest.raises(BadFile, match="labels.tif cannot be read"):
        found_in(str(path), LabelRules())
