"""Label rasters of any type, nodata, mask and compression: the painted classes, or a sentence."""

import numpy as np
import pytest
import rasterio
import rasterio.shutil
import world
from affine import Affine
from PIL import Image
from rasterio.crs import CRS
from rasterio.enums import ColorInterp

from labelscape.datasets.doctor.check import check_data
from labelscape.datasets.own import open_dataset
from labelscape.errors import BadInput
from labelscape.labels.labels import classes_of, open_labels
from labelscape.labels.rules import LabelRules
from labelscape.legend import IGNORE, Legend
from labelscape.scenes.raster import Scene

TOP = np.arange(96) < 20
"""Rows that are unlabelled in these files."""


@pytest.fixture
def w(tmp_path):
    return world.make(tmp_path, 96, 128)


@pytest.fixture
def grid(w):
    with Scene(w.scene) as scene:
        return scene.grid


def read(path, grid, **rules):
    labels = open_labels(path, grid, LabelRules(**rules))
    with_labels = labels.read()
    labels.close()
    return with_labels


def errors(w, path, **rules):
    return [f for f in check_data([w.scene], [path], spec=LabelRules(**rules)) if f.severity == "error"]


@pytest.mark.parametrize(
    ("dtype", "nodata"),
    [
        ("float32", float(np.finfo(np.float32).min)),
        ("float32", float(np.finfo(np.float32).max)),
        ("float32", -9999.0),
        ("float32", -9999.5),
        ("float32", float("nan")),
        ("float64", -1.7976931348623157e308),
        ("float64", 1e20),
        ("uint32", 4294967295),
        ("int32", -2147483648),
        ("int16", -32768),
        ("uint16", 65535),
        ("int8", -128),
        ("uint8", 7),
    ],
)
@pytest.mark.parametrize("moved", [False, True])
def test_nodata_of_every_type_is_unlabelled(w, grid, tmp_path, dtype, nodata, moved):
    stored = w.classes.astype(dtype)
    stored[TOP] = nodata
    # Twice as fine: the file is warped to the scene's grid.
    step = 2 if moved else 1
    path = world.write(
        tmp_path / "l.tif",
        np.kron(stored, np.ones((step, step), dtype)).astype(dtype),
        transform=w.transform @ Affine.scale(1 / step),
        nodata=nodata,
    )
    expected = np.where(TOP[:, None], IGNORE, w.classes)
    np.testing.assert_array_equal(read(path, grid), expected)
    masked = np.where(TOP[:, None], IGNORE, w.classes >= 1)
    np.testing.assert_array_equal(read(path, grid, threshold=1), masked)
    merge = {"dry": ("class 1", "class 2"), "wet": ("class 0",)}
    np.testing.assert_array_equal(
        read(path, grid, merge=merge), np.where(TOP[:, None], IGNORE, w.classes == 0)
    )
    assert not errors(w, path) and not errors(w, path, threshold=1) and not errors(w, path, merge=merge)


@pytest.mark.parametrize("moved", [False, True])
@pytest.mark.parametrize("kind", ["internal mask", "msk", "vrt", "alpha"])
def test_masks_of_label_rasters_are_unlabelled(w, grid, tmp_path, kind, moved):
    """Also where the value beneath is a class, and where the nodata value has been given a class."""
    step = 2 if moved else 1
    place = {"transform": w.transform @ Affine.scale(1 / step)}
    stored = np.kron(np.where(TOP[:, None], 0, w.classes), np.ones((step, step))).astype(np.uint8)
    mask = np.kron(np.where(TOP[:, None], 0, 255) + 0 * w.classes, np.ones((step, step))).astype(np.uint8)
    path = tmp_path / "l.tif"
    if kind == "alpha":
        world.write(path, np.stack([stored, mask]), **place)
        with rasterio.open(path, "r+") as file:
            file.colorinterp = [ColorInterp.gray, ColorInterp.alpha]
    else:
        world.write(path, stored, **place)
        with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=kind == "internal mask"), rasterio.open(path, "r+") as file:
            file.write_mask(mask)
        assert (tmp_path / "l.tif.msk").exists() == (kind != "internal mask")
    if kind == "vrt":
        vrt = tmp_path / "l.vrt"
        text = rasterio.shutil.copy(path, vrt, driver="VRT") or vrt.read_text()
        path = vrt
        assert "MaskBand" in text
    expected = np.where(TOP[:, None], IGNORE, w.classes)
    for rules in ({}, {"classes": {"water": 0, "field": 1, "forest": 2}}):
        np.testing.assert_array_equal(read(path, grid, **rules), expected)
        assert not errors(w, path, **rules)
    np.testing.assert_array_equal(
        read(path, grid, threshold=1), np.where(TOP[:, None], IGNORE, w.classes >= 1)
    )
    # The counts of the check are those of training.
    (counted,) = [f for f in check_data([w.scene], [path]) if f.kind == "classes"]
    assert f"3 classes, {76 * 128:,} labelled pixels" in counted.text


def test_nodata_with_a_class_is_that_class_but_not_outside_the_file(w, grid, tmp_path):
    half = world.write(tmp_path / "half.tif", w.classes[:, :64], nodata=0)
    rules = {"classes": {"water": 0, "field": 1, "forest": 2}}
    expected = np.where(np.arange(128) < 64, w.classes, IGNORE)
    np.testing.assert_array_equal(read(half, grid, **rules), expected)
    np.testing.assert_array_equal(
        read(half, grid, threshold=1), np.where((expected == IGNORE) | (expected == 0), IGNORE, 1)
    )


def test_transparent_colours_of_a_colour_table_are_unlabelled(w, grid, tmp_path):
    image = Image.fromarray(np.where(TOP[:, None], 9, w.classes).astype(np.uint8))
    image = image.convert("P")
    image.putpalette([0, 0, 0, 200, 0, 0, 0, 200, 0] + [0] * 18 + [255, 255, 255])
    for transparency in (9, bytes([255] * 9 + [0]), bytes([255] * 8 + [0, 0])):
        image.save(tmp_path / "l.png", transparency=transparency)
        np.testing.assert_array_equal(
            read(tmp_path / "l.png", grid), np.where(TOP[:, None], IGNORE, w.classes)
        )
        assert not errors(w, tmp_path / "l.png")


def test_grey_and_alpha_masks(w, grid, tmp_path):
    alpha = Image.fromarray(np.where(TOP[:, None], 0, 255).repeat(128, 1).astype(np.uint8))
    Image.merge("LA", (Image.fromarray(w.classes), alpha)).save(tmp_path / "la.png")
    np.testing.assert_array_equal(read(tmp_path / "la.png", grid), np.where(TOP[:, None], IGNORE, w.classes))
    white = np.where(w.classes == 0, 0, 255).astype(np.uint8)
    Image.merge("LA", (Image.fromarray(white), alpha)).save(tmp_path / "la.png")
    found = read(tmp_path / "la.png", grid, classes={"a": 0, "b": 255})
    np.testing.assert_array_equal(found, np.where(TOP[:, None], IGNORE, w.classes > 0))


def test_nodata_of_64_bits_is_unlabelled_for_all(w, grid, tmp_path):
    stored = w.classes.astype(np.int64)
    stored[TOP] = np.iinfo(np.int64).min
    world.write(tmp_path / "a.tif", stored)
    # As GDAL writes it; rasterio cannot.
    path = tmp_path / "l.vrt"
    path.write_text(
        f"""<VRTDataset rasterXSize="{grid.width}" rasterYSize="{grid.height}"><SRS>EPSG:32633</SRS>
        <GeoTransform>{", ".join(map(str, grid.transform.to_gdal()))}</GeoTransform>
        <VRTRasterBand dataType="Int64" band="1"><NoDataValue>-9223372036854775808</NoDataValue><SimpleSource>
        <SourceFilename relativeToVRT="1">a.tif</SourceFilename></SimpleSource></VRTRasterBand>
        </VRTDataset>"""
    )
    np.testing.assert_array_equal(read(path, grid), np.where(TOP[:, None], IGNORE, w.classes))
    assert not errors(w, path)


def test_codes_beyond_a_byte(w, grid, tmp_path):
    path = world.write(tmp_path / "codes.tif", w.classes.astype(np.uint32) + 70_000)
    with pytest.raises(
        BadInput, match="3 values from 70000 to 70002; classes are at most 254 values from 0 to 254"
    ):
        read(path, grid)
    classes = {"void": -1, "a": 70_000, "b": 70_001, "c": 70_002}
    np.testing.assert_array_equal(read(path, grid, classes=classes), w.classes + 1)
    by_value = {"x": ("70000", "class 70002"), "y": ("70001",)}
    assert np.array_equal(read(path, grid, merge=by_value), np.where(w.classes == 1, 1, 0))
    merge = {"x": ("a", "c"), "y": ("b",)}
    np.testing.assert_array_equal(
        read(path, grid, classes=classes, merge=merge), np.where(w.classes == 1, 1, 0)
    )


@pytest.mark.parametrize("value", [-3.4028234663852886e38, 1e20, -1e300])
def test_huge_values_that_nothing_declares_are_named(w, grid, tmp_path, value):
    stored = w.classes.astype(np.float64)
    stored[TOP] = value
    path = world.write(tmp_path / "l.tif", stored)
    with pytest.raises(BadInput, match="which no class can have.*gdal_edit.py -a_nodata"):
        read(path, grid)
    assert [f for f in errors(w, path) if "which no class can have" in f.text]


def jpeg(path, values, **options):
    Image.fromarray(values).save(path, "JPEG", **options)
    return path


def test_labels_saved_as_jpeg_are_named_as_that(w, grid, tmp_path):
    rng = np.random.default_rng(0)
    classes = np.kron(rng.integers(0, 3, (24, 32)), np.ones((4, 4))).astype(np.uint8)
    path = jpeg(tmp_path / "l.jpg", classes, quality=75)
    for rules in ({}, {"classes": {"a": 0, "b": 1, "c": 2}}):
        with pytest.raises(BadInput, match="was saved as JPEG, which changes values"):
            open_labels(path, grid, LabelRules(**rules))
        assert any("saved as JPEG" in f.text for f in errors(w, path, **rules))
    tiff = world.write(tmp_path / "l.tif", classes, compress="jpeg")
    with pytest.raises(BadInput, match="was saved as JPEG"):
        open_labels(tiff, grid, LabelRules())
    # A mask is cut by a threshold; two values far apart are what was drawn.
    halves = np.where(np.arange(128) < 64, 0, 255)[None].repeat(96, 0).astype(np.uint8)
    mask = jpeg(tmp_path / "m.jpg", halves)
    for rules in ({"threshold": 128}, {"classes": {"a": 0, "b": 255}}):
        np.testing.assert_array_equal(read(mask, grid, **rules), halves // 255)


def test_pictures_with_a_colour_table_are_no_labels(w, grid, tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (96, 128, 3)).astype(np.uint8)
    Image.fromarray(noise).quantize(64).save(tmp_path / "picture.png")
    with pytest.raises(BadInput, match="seems to be a picture with a colour table"):
        read(tmp_path / "picture.png", grid)
    assert any("picture with a colour table" in f.text for f in errors(w, tmp_path / "picture.png"))
    # 60 classes in patches are labels.
    patches = np.kron(np.arange(48).reshape(6, 8), np.ones((16, 16))).astype(np.uint8)
    assert len(set(read(world.write(tmp_path / "many.tif", patches), grid).ravel().tolist())) == 48


def test_colour_tables_that_number_classes_differently_are_refused(w, tmp_path):
    files = []
    for n, order in enumerate(((0, 1, 2), (1, 0, 2))):
        path = tmp_path / f"l{n}.tif"
        world.write(path, np.array(order, np.uint8)[w.classes])
        with rasterio.open(path, "r+") as file:
            file.write_colormap(1, {order[k]: (80 * k, 10, 10) for k in range(3)})
        files.append(path)
    with pytest.raises(BadInput, match=r"value 0 is the colour \(0, 10, 10\) in .*l0.tif"):
        classes_of(files, LabelRules())
    found = [f.text for f in check_data([w.scene, w.scene], files) if f.severity == "error"]
    assert any("number the classes differently" in text for text in found)
    assert len(classes_of(files, LabelRules(classes={"a": 0, "b": 1, "c": 2})).legend) == 3


def test_what_training_refuses_the_check_names(w, tmp_path):
    """Labels that are good file by file and bad together, and scenes of different bands."""
    raster = world.label_raster(w, tmp_path / "l.tif")
    polygons = world.label_polygons(w, tmp_path / "p.gpkg")
    other = world.make(tmp_path, 96, 128, bands=2, name="two")
    for images, labels in (
        ([w.scene, w.scene], [raster, polygons]),
        ([w.scene, other.scene], [raster, raster]),
    ):
        with pytest.raises(BadInput) as refused:
            open_dataset(images, labels)
        found = [f.text for f in check_data(images, labels) if f.severity == "error"]
        assert any(text in str(refused.value) for text in found)


def test_nodata_of_one_file_is_unlabelled_though_another_has_it_as_a_class(w, grid, tmp_path):
    """Tiles saved by different programs: 0 is water in one, and nodata (or transparent) in the next."""
    plain = world.write(tmp_path / "plain.tif", w.classes)
    declared = world.write(tmp_path / "declared.tif", w.classes, nodata=0)
    image, clear = Image.fromarray(w.classes.astype(np.uint8)).convert("P"), tmp_path / "clear.png"
    image.putpalette([0, 0, 0, 200, 0, 0, 0, 200, 0])
    image.save(clear, transparency=0)
    expected = np.where(w.classes == 0, IGNORE, w.classes)
    # Beside a file with a class 0 each of them keeps its own nodata, and says so; alone there is no class 0.
    for second in (declared, clear):
        with open_dataset([w.scene, w.scene], [plain, second]) as data:
            assert list(data.legend.values) == [0, 1, 2]
            np.testing.assert_array_equal(data.scenes[0].labels.read(), w.classes)
            np.testing.assert_array_equal(data.scenes[1].labels.read(), expected)
            (line,) = [line for line in data.report if "the value 0 is unlabelled" in line]
            assert line.startswith(f"{second}: ") and "elsewhere it is 'class 0'" in line
        found = check_data([w.scene, w.scene], [plain, second])
        assert [f.where for f in found if "the value 0 is unlabelled" in f.text] == [str(second)]
        legend = LabelRules(legend=data.legend)
        np.testing.assert_array_equal(read(second, grid, legend=legend.legend), expected)
        # Only the user's own word makes it a class.
        named = {"water": 0, "field": 1, "forest": 2}
        np.testing.assert_array_equal(read(second, grid, classes=named), w.classes)


@pytest.mark.parametrize(
    "rules", [{"classes": {"water": 0, "field": 1, "forest": 2}}, {"legend": ("a", "b", "c")}]
)
def test_a_value_that_is_to_be_ignored_is_no_class(w, grid, tmp_path, rules):
    """As in an evaluation that leaves one class of the model out."""
    if "legend" in rules:
        rules = {"legend": Legend.of_names(rules["legend"])}
    raster = world.write(tmp_path / "labels.tif", w.classes)
    expected = np.where(w.classes == 1, IGNORE, w.classes)
    np.testing.assert_array_equal(read(raster, grid, **rules, ignore_values=(1,)), expected)
    shares = [f.text for f in check_data([w.scene], [raster], spec=LabelRules(**rules, ignore_values=(1,)))]
    pixels = f"{(w.classes != 1).sum():,} labelled pixels"
    assert any(pixels in text for text in shares), shares


@pytest.mark.parametrize("crs", ["of the scene", "of the labels", "neither"])
def test_a_world_file_without_a_crs_places_the_labels(w, tmp_path, crs):
    """Also where both have one size: labels of the square to the right are not those of this one."""
    right = w.transform @ Affine.translation(40, 8)
    image = Image.fromarray(w.classes.astype(np.uint8))
    image.save(tmp_path / "l.png")
    place = (right.a, right.d, right.b, right.e, right.c + right.a / 2, right.f + right.e / 2)
    (tmp_path / "l.pgw").write_text("\n".join(map(repr, place)))
    scene, labels = w.scene, tmp_path / "l.png"
    if crs != "of the scene":
        scene = world.write(tmp_path / "bare.tif", w.pixels, crs=None)
        with rasterio.open(scene, "r+") as file:
            file.transform = w.transform
    if crs == "of the labels":
        (tmp_path / "l.png.aux.xml").write_text("<PAMDataset><SRS>EPSG:32633</SRS></PAMDataset>")
    expected = np.full_like(w.classes, IGNORE)
    expected[8:, 40:] = w.classes[:-8, :-40]
    with open_dataset([scene], [labels]) as data:
        np.testing.assert_array_equal(data.scenes[0].labels.read(), expected)
        assert any("has no CRS: its coordinates are taken" in line for line in data.report)
    found = check_data([scene], [labels])
    assert not [f for f in found if f.severity == "error"]
    assert any("has no CRS: its coordinates are taken" in f.text for f in found)
    # Elsewhere altogether, or half a pixel off, equal sizes are pixel on pixel as before.
    for x in (place[4] + 1e6, w.transform.c):
        (tmp_path / "l.pgw").write_text("\n".join(map(repr, (*place[:4], x, w.transform.f))))
        with open_dataset([scene], [labels]) as data:
            np.testing.assert_array_equal(data.scenes[0].labels.read(), w.classes)


def test_a_prj_beside_labels_names_their_crs(w, tmp_path):
    """As agencies deliver pictures, with a world file: GDAL does not read it."""
    right = w.transform @ Affine.translation(40, 8)
    Image.fromarray(w.classes.astype(np.uint8)).save(tmp_path / "l.png")
    place = (right.a, right.d, right.b, right.e, right.c + right.a / 2, right.f + right.e / 2)
    (tmp_path / "l.pgw").write_text("\n".join(map(repr, place)))
    prj, labels = tmp_path / "l.prj", tmp_path / "l.png"
    prj.write_text(CRS.from_epsg(32633).to_wkt(version="WKT1_ESRI"))
    expected = np.full_like(w.classes, IGNORE)
    expected[8:, 40:] = w.classes[:-8, :-40]
    with open_dataset([w.scene], [labels]) as data:
        np.testing.assert_array_equal(data.scenes[0].labels.read(), expected)
        assert [line for line in data.report if "has the CRS of l.prj beside it, EPSG:32633" in line]
        assert not [line for line in data.report if "are taken to be in that of" in line]
    # Coordinates of the scene's numbers in the zone beside are another place.
    prj.write_text(CRS.from_epsg(32632).to_wkt(version="WKT1_ESRI"))
    with pytest.raises(BadInput, match="do not overlap"):
        open_dataset([w.scene], [labels])
    assert check_data([w.scene], [labels])[0].severity == "error"
    # What is no CRS, or a Shapefile's, says nothing.
    prj.write_text("nonsense")
    with open_dataset([w.scene], [labels]) as data:
        assert [line for line in data.report if "l.prj beside it cannot be read" in line]
    prj.write_text(CRS.from_epsg(32632).to_wkt(version="WKT1_ESRI"))
    (tmp_path / "l.shp").touch()
    with open_dataset([w.scene], [labels]) as data:
        np.testing.assert_array_equal(data.scenes[0].labels.read(), expected)
        assert any("are taken to be in that of" in line for line in data.report)


@pytest.mark.parametrize("alpha", [False, True])
def test_three_equal_bands_are_one(w, grid, tmp_path, alpha):
    bands = [w.classes] * 3 + [np.where(w.classes == 2, 0, 255).astype(np.uint8)] * alpha
    path = world.write(
        tmp_path / "grey.tif", np.stack(bands), photometric="RGB", alpha="YES" if alpha else "NO"
    )
    labels = open_labels(path, grid)
    expected = np.where((w.classes == 2) & alpha, IGNORE, w.classes)
    np.testing.assert_array_equal(labels.read(), expected)
    labels.close()
    assert not [f for f in check_data([w.scene], [path]) if f.severity == "error"]
    bands[1] = bands[1].copy()
    bands[1][0, 0] += 7
    path = world.write(
        tmp_path / "colours.tif", np.stack(bands), photometric="RGB", alpha="YES" if alpha else "NO"
    )
    with pytest.raises(BadInput, match="colours.tif has 3 bands of colours; a label raster has one band"):
        open_labels(path, grid)


def notes_of(path, grid):
    labels = open_labels(path, grid, LabelRules())
    labels.close()
    return labels.notes


@pytest.mark.parametrize(
    ("columns", "rows", "moved"),
    [(0.6, 0, "0.40"), (0, -0.3, "0.30"), (-0.5, 0.5, "0.50"), (12.3, 7, "0.30")],
)
def test_labels_between_the_pixels_of_the_scene_are_told(w, grid, tmp_path, columns, rows, moved):
    place = w.transform @ Affine.translation(columns, rows)
    path = world.write(tmp_path / "l.tif", w.classes, transform=place)
    (note,) = notes_of(path, grid)
    assert f"start at column {columns:.2f}, row {rows:.2f} of the scene" in note
    assert f"moves them by {moved} pixels ({float(moved) * 10:.0f} m)" in note and "gdal_edit.py" in note
    # Once in the check of data and in the report of training, with the file's name.
    (found,) = [f for f in check_data([w.scene], [path]) if "start at column" in f.text]
    assert found.kind == "sub-pixel" and str(path) in found.where
    with open_dataset([w.scene], [path]) as dataset:
        assert [line for line in dataset.report if "start at column" in line] == [note]


@pytest.mark.parametrize("columns", [0, 0.04, 5, -3])
def test_labels_on_the_pixels_of_the_scene_need_no_note(w, grid, tmp_path, columns):
    place = w.transform @ Affine.translation(columns, 0)
    assert notes_of(world.write(tmp_path / "l.tif", w.classes, transform=place), grid) == ()
    part = world.write(
        tmp_path / "part.tif", w.classes[8:, 16:], transform=w.transform @ Affine.translation(16, 8)
    )
    assert notes_of(part, grid) == ()


def test_labels_of_another_pixel_size_and_crs_are_told(w, grid, tmp_path):
    half = world.write(tmp_path / "half.tif", w.classes[::2, ::2], transform=w.transform @ Affine.scale(2))
    (note,) = notes_of(half, grid)
    assert "a label pixel is 2 times the size of a pixel of the scene (20 m and 10 m)" in note
    # A thousandth of a pixel adds up: the far corner is 0.128 pixels off.
    drifting = world.write(tmp_path / "d.tif", w.classes, transform=w.transform @ Affine.scale(1.001))
    (note,) = notes_of(drifting, grid)
    assert "a label pixel is 1.001 times the size" in note
    degrees = world.write(
        tmp_path / "degrees.tif",
        np.kron(w.classes, np.ones((2, 2), np.uint8)),
        crs="EPSG:4326",
        transform=Affine.translation(13.53, 52.345) @ Affine.scale(0.0001, -0.00006),
    )
    notes = notes_of(degrees, grid)
    assert "the labels are in EPSG:4326, the scene in EPSG:32633: reprojected" in notes[0]


def test_labels_without_a_crs_that_are_taken_pixel_on_pixel_are_told_to_lie_apart(w, grid, tmp_path):
    path = tmp_path / "l.tif"
    world.write(path, w.classes, crs=None)
    (tmp_path / "l.tfw").write_text("10\n0\n0\n-10\n400011\n5799995\n")  # centre of the first pixel
    (note,) = notes_of(path, grid)
    assert "start at column 0.60, row 0.00 of the scene" in note and "moves labels by 0.60 pixels" in note
    np.testing.assert_array_equal(read(path, grid), w.classes)


def test_heights_beside_a_crs_are_no_other_crs_on_the_map(w, grid, tmp_path):
    """What a compound CRS hid: labels between pixels, behind a line with all of its WKT."""
    high = CRS.from_user_input("EPSG:32633+5773")
    path = world.write(tmp_path / "l.tif", w.classes, transform=w.transform, crs=high)
    assert notes_of(path, grid) == ()
    between = world.write(
        tmp_path / "b.tif", w.classes, transform=w.transform @ Affine.translation(0.6, 0), crs=high
    )
    (note,) = notes_of(between, grid)
    assert "moves them by 0.40 pixels (4 m)" in note
    etrs = CRS.from_user_input("EPSG:25833+7837")
    (note,) = notes_of(world.write(tmp_path / "e.tif", w.classes, transform=w.transform, crs=etrs), grid)
    assert "the labels are in ETRS89 / UTM zone 33N + DHHN2016 height, the scene in EPSG:32633: repro" in note


def test_labels_that_count_longitudes_from_another_meridian(w, tmp_path):
    """From 0 to 360 where the scene counts from -180: labels elsewhere on the Earth, or half of them gone."""
    degrees = CRS.from_epsg(4326)
    fine = Affine(0.001, 0, -170, 0, -0.001, -16)
    east = Affine.translation(360, 0) @ fine
    scene = world.write(tmp_path / "s.tif", w.pixels, transform=fine, crs=degrees)
    labels = world.write(tmp_path / "l.tif", w.classes, transform=east, crs=degrees)
    with Scene(scene) as opened:
        np.testing.assert_array_equal(read(labels, opened.grid), w.classes)
        assert notes_of(labels, opened.grid) == ()
    utm = Affine(100, 0, 600_000, 0, -100, 8_230_000)
    with Scene(world.write(tmp_path / "u.tif", w.pixels, transform=utm, crs=CRS.from_epsg(32702))) as opened:
        straight = world.write(tmp_path / "m.tif", w.classes, transform=fine, crs=degrees)
        np.testing.assert_array_equal(read(labels, opened.grid), read(straight, opened.grid))
    # Whole Earths with other seams have two parts in common: one is read, and the other is told.
    half = Affine(2.8125, 0, -180, 0, -1.875, 90)
    whole = world.write(tmp_path / "w.tif", w.pixels, transform=half, crs=degrees)
    other = world.write(
        tmp_path / "o.tif", w.classes, transform=Affine.translation(180, 0) @ half, crs=degrees
    )
    with Scene(whole) as opened:
        (note,) = notes_of(other, opened.grid)
        assert "180 degrees of the scene stay unlabelled" in note
        assert (read(other, opened.grid)[:, 64:] == w.classes[:, :64]).all()
        same = world.write(tmp_path / "same.tif", w.classes, transform=half, crs=degrees)
        assert notes_of(same, opened.grid) == ()


@pytest.mark.parametrize("error", [0, 0.5, 1, 2])
def test_labels_that_lerc_has_changed_are_refused(w, grid, tmp_path, error):
    """With an error of 1 some 8 become 9: a class that nobody drew."""
    classes = (w.classes * 3 + 5).astype(np.uint8)
    path = world.write(tmp_path / "l.tif", classes, compress="LERC", max_z_error=error)
    if error < 1:
        np.testing.assert_array_equal(read(path, grid), w.classes)
    else:
        with pytest.raises(
            BadInput, match=f"was saved as LERC with an error of up to {error}, which changes"
        ):
            open_labels(path, grid)
        assert "error" in {f.severity for f in check_data([w.scene], [path])}


INTERPOLATED = """<VRTDataset rasterXSize="{0}" rasterYSize="48"><SRS>EPSG:32633</SRS>
<GeoTransform>{2}</GeoTransform><VRTRasterBand dataType="Byte" band="1"><SimpleSource resampling="{1}">
<SourceFilename relativeToVRT="1">whole.tif</SourceFilename><SourceBand>1</SourceBand>
<SrcRect xOff="0" yOff="0" xSize="{3}" ySize="{4}"/><DstRect xOff="0" yOff="0" xSize="{0}" ySize="48"/>
</SimpleSource></VRTRasterBand></VRTDataset>"""


@pytest.mark.parametrize("method", ["average", "bilinear", "nearest", "mode"])
@pytest.mark.parametrize("resized", [True, False])
def test_labels_that_a_virtual_raster_interpolates_are_refused(w, grid, tmp_path, method, resized):
    """gdalbuildvrt -r average makes class 1 between 0 and 2; where nothing is resized it makes nothing."""
    world.write(tmp_path / "whole.tif", np.roll(w.classes, 1, 0) * 3, transform=w.transform)
    scale = 2 if resized else 1
    t = w.transform @ Affine.scale(scale)
    place = ",".join(map(str, (t.c, t.a, t.b, t.f, t.d, t.e)))
    text = INTERPOLATED.format(64, method, place, 64 * scale, 48 * scale)
    (tmp_path / "l.vrt").write_text(text)
    if resized and method in ("average", "bilinear"):
        with pytest.raises(BadInput, match=f"a virtual raster that resamples by {method}, which changes"):
            open_labels(tmp_path / "l.vrt", grid)
    else:
        labels = open_labels(tmp_path / "l.vrt", grid)
        assert set(labels.legend.values) <= {0, 3, 6}
        labels.close()
