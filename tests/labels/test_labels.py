import numpy as np
import pyogrio
import pytest
import rasterio
import shapely
import world
from affine import Affine
from rasterio.crs import CRS

from labelscape.errors import BadFile, BadInput, UnknownName
from labelscape.grid import Grid, Window
from labelscape.labels.labels import open_labels
from labelscape.labels.rules import LabelRules
from labelscape.legend import IGNORE, Legend
from labelscape.scenes.raster import Scene


@pytest.fixture
def w(tmp_path):
    return world.make(tmp_path, 96, 128)


@pytest.fixture
def grid(w):
    with Scene(w.scene) as scene:
        return scene.grid


@pytest.mark.parametrize("suffix", [".gpkg", ".geojson", ".shp"])
def test_polygons_in_another_crs_burn_to_the_painted_classes(w, grid, tmp_path, suffix):
    labels = open_labels(
        world.label_polygons(w, tmp_path / f"fields{suffix}"), grid, LabelRules(class_column="kind")
    )
    assert labels.legend.names == ["field", "forest", "water"]
    painted = np.array([2, 0, 1], np.uint8)[w.classes]
    np.testing.assert_array_equal(labels.read(), painted)
    window = Window(13, 29, 40, 51)
    np.testing.assert_array_equal(labels.read(window), painted[13:53, 29:80])


def test_rotated_grids_burn_right(tmp_path):
    w = world.make(tmp_path, 60, 60, transform=world.ROTATED)
    with Scene(w.scene) as scene:
        labels = open_labels(
            world.label_polygons(w, tmp_path / "fields.gpkg"),
            scene.grid,
            LabelRules(legend=world.LEGEND, class_column="kind"),
        )
    np.testing.assert_array_equal(labels.read(Window(10, 5, 30, 40)), w.classes[10:40, 5:45])


def test_merge_background_and_area(w, grid, tmp_path):
    path = world.label_polygons(w, tmp_path / "fields.gpkg")
    merged = open_labels(path, grid, LabelRules(class_column="kind", merge={"land": ("field", "forest")}))
    assert merged.legend.names == ["land"]
    np.testing.assert_array_equal(merged.read(), np.where(w.classes == 0, IGNORE, 0))
    only_water = world.label_polygons(w, tmp_path / "water.gpkg", only=(0,))
    area = world.rectangle(w, tmp_path / "area.geojson", 10, 20, 50, 60)
    with_background = open_labels(only_water, grid, LabelRules(background="other", area=str(area)))
    assert with_background.legend.names == ["other", "water"]
    expected = np.full(w.classes.shape, IGNORE, np.uint8)
    expected[10:60, 20:80] = (w.classes == 0)[10:60, 20:80]
    np.testing.assert_array_equal(with_background.read(), expected)


def test_polygons_of_no_wanted_class_are_named(w, grid, tmp_path):
    """As where a model of other classes is scored: what was found is said beside what was expected."""
    path = world.label_polygons(w, tmp_path / "fields.gpkg")
    rules = LabelRules(
        class_column="kind", legend=Legend.of_names(["roof", "road"]), merge={"roof": ("house",)}
    )
    with pytest.raises(
        BadInput, match="are field, forest, water; none belongs to one of the classes roof, road"
    ):
        open_labels(path, grid, rules)


@pytest.mark.parametrize(("count", "refused"), [(10, False), (11, True)])
def test_a_column_of_identifiers_is_not_taken_for_the_class(w, grid, tmp_path, count, refused):
    left, bottom, right, top = rasterio.transform.array_bounds(grid.height, grid.width, grid.transform)
    edges = np.linspace(left, right, count + 1)
    shapes = shapely.to_wkb(shapely.box(edges[:-1], bottom, edges[1:], top))
    path, crs = tmp_path / "parcels.gpkg", grid.crs.to_wkt()

    def written(names, column):
        path.unlink(missing_ok=True)
        values = [np.array(names, object)]
        pyogrio.raw.write(path, shapes, values, [column], geometry_type="Polygon", crs=crs, driver="GPKG")
        return path

    numbers = [f"DE-{n:04}" for n in range(count)]
    if refused:
        with pytest.raises(BadInput, match="'parcel', has another value for each of the 11 polygons"):
            open_labels(written(numbers, "parcel"), grid, LabelRules())
    else:
        assert len(open_labels(written(numbers, "parcel"), grid, LabelRules()).legend) == count
    # Named by the user, named `class`, or with one value twice, it is the class.
    for names, column, rules in (
        (numbers, "parcel", LabelRules(class_column="parcel")),
        (numbers, "class", LabelRules()),
        ([*numbers[:-1], numbers[0]], "parcel", LabelRules()),
    ):
        found = open_labels(written(names, column), grid, rules).legend.names
        assert found == sorted(set(names))


def test_rasters_values_nodata_and_other_grids(w, grid, tmp_path):
    path = world.label_raster(w, tmp_path / "labels.tif", values=(3, 7, 9), unlabelled=w.classes == 2)
    labels = open_labels(path, grid)
    assert labels.legend.values == [3, 7]
    np.testing.assert_array_equal(labels.read(), np.where(w.classes == 2, IGNORE, w.classes))
    # The same labels at a fifth of the pixel size, and half as wide: what is outside is unlabelled.
    fine = np.kron(w.classes[:, :64], np.ones((5, 5), np.uint8))
    other = world.write(
        tmp_path / "fine.tif", fine, transform=world.NORTH_UP @ Affine.scale(0.2), nodata=None
    )
    half = open_labels(other, grid, LabelRules(legend=world.LEGEND))
    np.testing.assert_array_equal(half.read()[:, :64], w.classes[:, :64])
    assert (half.read()[:, 64:] == IGNORE).all()
    # A plain PNG of the same shape beside a GeoTIFF.
    png = world.write(tmp_path / "labels.png", w.classes, crs=None, driver="PNG")
    np.testing.assert_array_equal(open_labels(png, grid).read(), w.classes)


def test_raster_merge(w, grid, tmp_path):
    path = world.label_raster(w, tmp_path / "labels.tif", values=(3, 7, 9))
    spec = LabelRules(
        classes={"water": 3, "field": 7, "forest": 9},
        merge={"green": ("field", "forest"), "blue": ("water",)},
    )
    labels = open_labels(path, grid, spec)
    assert labels.legend.names == ["green", "blue"]
    np.testing.assert_array_equal(labels.read(), (w.classes == 0).astype(np.uint8))


def test_what_cannot_be_right_is_refused(w, grid, tmp_path):
    far = world.write(tmp_path / "far.tif", w.classes, transform=world.NORTH_UP @ Affine.translation(5000, 0))
    with pytest.raises(BadInput, match="do not overlap"):
        open_labels(far, grid)
    with pytest.raises(BadInput, match="value 2, which no class has"):
        open_labels(
            world.label_raster(w, tmp_path / "l.tif"), grid, LabelRules(legend=Legend.of_names(["a", "b"]))
        ).read()
    polygons = world.label_polygons(w, tmp_path / "fields.gpkg")
    with pytest.raises(UnknownName, match="Did you mean 'kind'"):
        open_labels(polygons, grid, LabelRules(class_column="kinds"))
    with pytest.raises(UnknownName, match="Did you mean 'forest'"):
        open_labels(polygons, grid, LabelRules(class_column="kind", merge={"trees": ("forrest",)}))
    moved = world.World(w.scene, w.classes, w.pixels, CRS.from_epsg(32650), w.transform)
    with pytest.raises(BadInput, match="None of the .* polygons"):
        open_labels(
            world.label_polygons(moved, tmp_path / "china.gpkg"), grid, LabelRules(class_column="kind")
        )
    with pytest.raises(BadInput, match="3 bands"):
        open_labels(w.scene, grid)
    with pytest.raises(BadFile, match="does not exist"):
        open_labels(tmp_path / "no.gpkg", grid)
    (tmp_path / "broken.gpkg").write_bytes(b"SQLite format 3\0 and then nothing")
    with pytest.raises(BadFile, match="cannot be read as a vector file"):
        open_labels(tmp_path / "broken.gpkg", grid)
    small = world.write(tmp_path / "small.png", w.classes[:50], crs=None, driver="PNG")
    with pytest.raises(BadInput, match="same size"):
        open_labels(small, grid)


def test_grey_masks_are_cut_at_the_threshold(tmp_path):
    grey = np.random.default_rng(0).integers(0, 256, (20, 30)).astype(np.uint8)
    file = world.write(tmp_path / "mask.tif", grey)
    with rasterio.open(file) as dataset:
        grid = Grid(dataset.crs, dataset.transform, 20, 30)
    labels = open_labels(file, grid, LabelRules(threshold=128))
    np.testing.assert_array_equal(labels.read(), (grey >= 128).astype(np.uint8))
    assert labels.legend.names == ["other", "object"]
    named = open_labels(
        file, grid, LabelRules(legend=Legend.of_names(["field", "road"]), threshold=200, ignore_values=(7,))
    )
    expected = np.where(grey == 7, 255, grey >= 200)
    np.testing.assert_array_equal(named.read(), expected)
    with pytest.raises(BadInput, match="makes two classes, but 3"):
        open_labels(file, grid, LabelRules(legend=Legend.of_names(["a", "b", "c"]), threshold=128))


def test_masks_with_nodata_below_zero_or_nan(tmp_path):
    """Neither -9999 nor NaN is a dark or a bright pixel; 255 is bright."""
    grey = np.array([[0, 127, 128, 255], [-9999, 200, 1, -9999]])
    expected = np.array([[0, 0, 1, 1], [IGNORE, 1, 0, IGNORE]])
    grid = Grid(CRS.from_epsg(32633), world.NORTH_UP, 2, 4)
    for name, values, nodata in (
        ("int", grey.astype(np.int16), -9999),
        ("nan", np.where(grey < 0, np.nan, grey).astype(np.float32), np.nan),
        ("wide", np.where(grey == 255, 70_000, grey).astype(np.int32), -9999),
    ):
        file = world.write(tmp_path / f"{name}.tif", values, nodata=nodata)
        np.testing.assert_array_equal(open_labels(file, grid, LabelRules(threshold=128)).read(), expected)


@pytest.mark.parametrize(
    ("rules", "black", "white"),
    [
        (LabelRules(threshold=128), 0, 1),
        (LabelRules(classes={"ground": 0, "building": 255}), 0, 1),
        (LabelRules(classes={"building": 255}, ignore_values=(0,)), IGNORE, 0),
    ],
)
@pytest.mark.parametrize(
    ("finer", "dtype"),
    [(1, "uint8"), (5, "uint8"), (1, "uint16"), (5, "int16"), (1, "int32"), (1, "float32")],
)
def test_nothing_is_labelled_outside_a_label_raster_without_nodata(
    w, grid, tmp_path, rules, black, white, finer, dtype
):
    """0 and 255 are classes here: whatever GDAL fills the rest of the scene with must be neither."""
    mask = np.where(w.classes == 0, 0, 255).astype(np.uint8)[8:88, 16:80]
    place = w.transform @ Affine.translation(16, 8) @ Affine.scale(1 / finer)
    file = world.write(
        tmp_path / "mask.tif", np.kron(mask, np.ones((finer, finer), np.uint8)), transform=place
    )
    expected = np.full(w.classes.shape, IGNORE)
    expected[8:88, 16:80] = np.where(mask == 0, black, white)
    labels = open_labels(file, grid, rules)
    np.testing.assert_array_equal(labels.read(), expected)
    np.testing.assert_array_equal(labels.read(Window(0, 0, 20, 30)), expected[:20, :30])
