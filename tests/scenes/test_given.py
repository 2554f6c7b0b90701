"""Objects that stand for a scene: they read as the file they were made from, and map to the same bytes."""

from __future__ import annotations

import gc
import tempfile
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import rasterio
import world
from affine import Affine
from rasterio.io import MemoryFile
from rasterio.vrt import WarpedVRT

from labelscape.errors import BadInput, BadOption, UnknownName
from labelscape.grid import Window
from labelscape.scenes.array import ArrayScene
from labelscape.scenes.files import is_local, source_paths, source_text
from labelscape.scenes.mosaic import MosaicScene, open_scene, seen_as
from labelscape.scenes.raster import FileScene
from labelscape.scenes.scene import Scene
from labelscape.scenes.validity import nodata_rule

WINDOW = Window(5, 9, 30, 41)


def made_file(folder, **options):
    """Four bands, two of them dark in a corner that is nodata in the middle of it."""
    classes = world.paint(60, 80)
    pixels = world.spectra(classes, 4, options.pop("dtype", "uint16"))
    pixels[:2, :12, :14] = 0
    pixels[:, :6, :7] = 0
    path = world.write(
        folder / "scene.tif", pixels, nodata=0, photometric="MINISBLACK", alpha="NO", **options
    )
    return path, pixels


def assert_same(scene, file, *, name):
    """All that is read of two scenes is the same; their names and files are their own."""
    assert isinstance(scene, Scene) and scene.name == name
    assert scene.grid.matches(file.grid) and scene.bands == file.bands and scene.dtype == file.dtype
    assert scene.units == file.units
    for window in (None, WINDOW & scene.grid.window):
        for bands in (None, ["3", "1"]):
            mine, theirs = scene.read(window, bands), file.read(window, bands)
            assert mine.window == theirs.window and mine.pixels.dtype == theirs.pixels.dtype
            np.testing.assert_array_equal(mine.pixels, theirs.pixels)
            np.testing.assert_array_equal(mine.valid, theirs.valid)
    np.testing.assert_array_equal(scene.thumbnail(31), file.thumbnail(31))
    assert scene.nbytes == file.nbytes and scene.digest() == file.digest()


# -------------------------------------------------------------------------------------------------- rasterio


def test_an_open_dataset_is_read_and_left_open(tmp_path):
    path, _ = made_file(tmp_path)
    with rasterio.open(path) as dataset, FileScene(path) as file:
        with open_scene(dataset) as scene:
            assert_same(scene, file, name="scene")
            assert scene.files == (str(path),) and not scene.in_memory
            assert source_paths(dataset) == source_paths(scene) == source_text(dataset) == str(path)
        assert not dataset.closed
        with open_scene(dataset, nodata=7, bands=["2"]) as scene:
            assert scene.bands == ("2",) and scene.read().valid.all()


def test_a_dataset_in_memory_is_a_scene_called_scene(tmp_path):
    path, _ = made_file(tmp_path)
    with MemoryFile(path.read_bytes()) as memory, memory.open() as dataset, FileScene(path) as file:
        with open_scene(dataset) as scene:
            assert_same(scene, file, name="scene")
            assert scene.in_memory and source_paths(dataset) is source_paths(scene) is None
            with scene.for_thread() as other:
                assert other.name == "scene"
        assert dataset.read(1).any()


def test_a_dataset_that_cannot_be_opened_again_is_read_by_one_thread_at_a_time(tmp_path):
    """A warped dataset, whose name opens nothing: eight threads read what one reads."""
    path, _ = made_file(tmp_path)
    with rasterio.open(path) as source, WarpedVRT(source, crs="EPSG:4326", src_nodata=0, nodata=0) as warped:
        expected = warped.read()
        with open_scene(warped) as scene:
            assert scene.grid.shape == warped.shape and scene.grid.crs == warped.crs and scene.in_memory
            windows = list(scene.grid.window.blocks(9)) * 3

            def read(window):
                with scene.for_thread() as own:
                    return own.read(window)

            with ThreadPoolExecutor(8) as pool:
                for window, patch in zip(windows, pool.map(read, windows)):
                    inside = (slice(None), *window.inset_of(scene.grid.window))
                    np.testing.assert_array_equal(patch.pixels, expected[inside])
            half = 2 * scene.grid.ground_pixel_size
            with open_scene(warped, pixel_size=half) as resampled:
                assert resampled.read().valid.mean() > 0.5
        assert not warped.closed


def test_another_overview_level_is_not_mistaken_for_the_file(tmp_path):
    path, _ = made_file(tmp_path)
    with rasterio.open(path, "r+") as file:
        file.build_overviews([2])
    with rasterio.open(path, overview_level=0) as small, open_scene(small) as scene:
        assert scene.grid.shape == (30, 40)
        np.testing.assert_array_equal(scene.read().pixels, small.read())


def test_an_overview_level_is_not_written_down_as_its_file(tmp_path):
    path, _ = made_file(tmp_path)
    with rasterio.open(path, "r+") as file:
        file.build_overviews([2])
    with rasterio.open(path) as whole, rasterio.open(path, overview_level=0) as half:
        assert source_paths(whole) == str(path)
        assert source_paths(half) is None


def test_datasets_that_cannot_be_read(tmp_path):
    path, _ = made_file(tmp_path)
    with rasterio.open(path, "r+") as writable, pytest.raises(BadInput, match="open for writing.*close it"):
        open_scene(writable)
    with MemoryFile(path.read_bytes()) as memory, memory.open() as dataset:
        pass
    with pytest.raises(BadInput, match="is closed and cannot be opened again"):
        open_scene(dataset)


# ---------------------------------------------------------------------------------------------------- arrays


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int16", "float32"])
def test_an_array_with_its_place_is_a_scene(tmp_path, dtype):
    path, pixels = made_file(tmp_path, dtype=dtype)
    array = ArrayScene(pixels, world.NORTH_UP, "EPSG:32633", nodata=0)
    with FileScene(path) as file, open_scene(array) as scene:
        assert_same(scene, file, name="scene")
        assert scene.files == () and scene.in_memory
        made = world.World(path, pixels[0], pixels, world.UTM, world.NORTH_UP)
        area = world.rectangle(made, tmp_path / "area.geojson", 4, 6, 40, 50)
        for options in ({"pixel_size": 23.0}, {"area": area}, {"area": area, "pixel_size": 23.0}):
            with open_scene(array, **options) as mine, open_scene(path, **options) as theirs:
                assert_same(mine, theirs, name="scene")
        units = ((2.0, 1.0),) * 4
        with seen_as(array, units=units) as mine, seen_as(file, units=units) as theirs:
            assert_same(mine, theirs, name="scene")
    assert_same(array, FileScene(path), name="scene")  # still open: the array is the caller's


def test_a_read_is_a_copy(tmp_path):
    pixels = np.ones((2, 5, 6), np.uint16)
    scene = ArrayScene(pixels)
    for bands in (None, ["2"]):
        scene.read(None, bands).pixels[:] = 9
    assert (pixels == 1).all() and scene.hold() is scene


def test_a_plane_and_a_masked_array(tmp_path):
    plane = np.arange(12, dtype=np.float32).reshape(3, 4)
    scene = ArrayScene(plane, bands=["height"], name="dsm")
    assert scene.bands == ("height",) and scene.name == "dsm" and scene.grid.crs is None
    np.testing.assert_array_equal(scene.read().pixels, plane[None])
    masked = np.ma.masked_array(np.ones((2, 40, 40), np.uint8), mask=np.zeros((2, 40, 40), bool))
    masked.mask[1, :20, :20] = True
    scene = ArrayScene(masked, world.NORTH_UP, 32633)
    expected = np.ones((40, 40), bool)
    expected[:20, :20] = False
    np.testing.assert_array_equal(scene.read().valid, expected)
    with open_scene(scene, pixel_size=2 * scene.grid.ground_pixel_size) as wider:
        np.testing.assert_array_equal(wider.read().valid, expected[::2, ::2])


@pytest.mark.parametrize(
    ("pixels", "options", "message"),
    [
        (np.zeros((100, 120, 3), np.uint8), {}, r"shape 100 x 120 x 3 seems to have its bands last"),
        (np.zeros(7), {}, r"shape 7 is not an image: \(bands, H, W\)"),
        (np.zeros((2, 3, 4, 5)), {}, "2 x 3 x 4 x 5 is not an image"),
        (np.zeros((1, 0, 5)), {}, "1 x 0 x 5 is not an image"),
        (np.zeros((2, 5, 5), bool), {}, "Pixels of type bool are not supported.*astype"),
        (np.zeros((2, 5, 5), complex), {}, "type complex128 are not"),
        (np.zeros((2, 5, 5), np.float16), {}, "type float16 are not"),
        (np.zeros((2, 5, 5)), {"bands": ["a"]}, "2 bands, so 2 different names.*found a"),
        (np.zeros((2, 5, 5)), {"bands": ["a", "a"]}, "2 different names"),
        (np.zeros((2, 5, 5)), {"crs": 32633}, "32633 needs a transform"),
        (np.zeros((2, 5, 5)), {"transform": (1, 0, 0, 0, 1, 0)}, "a tuple; an affine.Affine was expected"),
        (np.zeros((2, 5, 5)), {"transform": Affine.scale(2), "crs": "moon"}, "'moon' is not a CRS"),
        (np.zeros((2, 5, 5)), {"transform": Affine(1, 0, 0, 0, 0, 0)}, "gives pixels no area"),
        (np.zeros((2, 5, 5)), {"transform": Affine(1, 0, np.nan, 0, 1, 0)}, "gives pixels no area"),
        (np.zeros((2, 5, 5)), {"units": ((1.0, 0.0),)}, r"2 bands, so 2 pairs \(scale, offset\)"),
        (np.zeros((2, 5, 5)), {"units": (1.0, 2.0)}, r"2 pairs \(scale, offset\)"),
        (np.zeros((2, 5, 5), "u2"), {"nodata": -9999}, "uint16: a whole number from 0 to 65535"),
        (np.zeros((2, 5, 5), "u2"), {"nodata": 0.5}, "`nodata=0.5` cannot be a pixel"),
    ],
)
def test_arrays_that_are_no_scene(pixels, options, message):
    with pytest.raises((BadInput, BadOption), match=message):
        ArrayScene(pixels, **options)


def test_a_nodata_value_that_no_pixel_can_have_makes_none_invalid(tmp_path):
    # In uint16, -9999 wraps to 55537, a measurement.
    pixels = np.full((2, 5, 5), 55537, np.uint16)
    path = world.write(tmp_path / "scene.tif", pixels)
    for wrong in (-9999, 70000, 0.5, float("inf")):
        with pytest.raises(BadOption, match=f"`nodata={wrong:g}` cannot be a pixel of scene.*uint16"):
            open_scene(path, nodata=wrong)
        assert nodata_rule(wrong, pixels.dtype) is None
    with open_scene(path, nodata=float("nan")) as scene:
        assert scene.read().valid.all()
    assert type(ArrayScene(pixels, nodata=np.uint16(55537)).nodata) is int  # goes into JSON
    assert not ArrayScene(pixels, nodata=55537).read().valid.any()
    # Rounded to the pixels' own precision, the usual nodata of float32 is one of its values.
    lowest = np.full((1, 2, 2), -3.4028234663852886e38, np.float32)
    rule = nodata_rule(-3.4028234663852886e38, lowest.dtype)
    assert lowest[0, 0, 0] == rule.value
    assert rule.alone


# ---------------------------------------------------------------------------------------------------- xarray


def test_a_data_array_is_a_scene(tmp_path):
    rioxarray = pytest.importorskip("rioxarray")
    path, _ = made_file(tmp_path)
    array = rioxarray.open_rasterio(path)
    with FileScene(path) as file, open_scene(array) as scene:
        assert_same(scene, file, name="scene")
        assert_same(scene.hold(), file, name="scene")
        with open_scene(array, pixel_size=23.0) as mine, open_scene(path, pixel_size=23.0) as theirs:
            assert_same(mine, theirs, name="scene")
        with open_scene(array, bands=["4", "2"]) as mine:
            np.testing.assert_array_equal(mine.read().pixels, file.read(None, ["4", "2"]).pixels)
        with open_scene(array.transpose("y", "x", "band").rename("S2A")) as mine:
            assert_same(mine, file, name="S2A")
        part = array.isel(y=slice(20, 50), x=slice(10, 70))
        with open_scene(part) as mine:
            assert mine.grid.matches(file.grid.crop(Window(20, 10, 30, 60)))
            np.testing.assert_array_equal(mine.read().pixels, file.read(Window(20, 10, 30, 60)).pixels)
        with open_scene(array.sel(band=3)) as mine:
            assert mine.bands == ("3",) and mine.grid.matches(file.grid)
    with pytest.raises(UnknownName, match="No band of scene is called 'nir'"):
        open_scene(array, bands=["nir"])


def test_a_data_array_keeps_names_nodata_and_units(tmp_path):
    rioxarray = pytest.importorskip("rioxarray")
    path, _ = made_file(tmp_path)
    with rasterio.open(path, "r+") as file:
        file.descriptions, file.scales, file.offsets = ("B02", "B03", "B04", "B08"), (0.1,) * 4, (-1.0,) * 4
    with FileScene(path) as file:
        plain = open_scene(rioxarray.open_rasterio(path))
        assert plain.bands == file.bands == ("B02", "B03", "B04", "B08")
        assert plain.units == file.units == ((0.1, -1.0),) * 4 and plain.nodata == 0
        np.testing.assert_array_equal(plain.read().valid, file.read().valid)
        masked = open_scene(rioxarray.open_rasterio(path, masked=True))
        assert masked.units == file.units and masked.dtype == np.float32
        np.testing.assert_array_equal(masked.read().valid, (file.read().pixels != 0).all(axis=0))
        scaled = open_scene(rioxarray.open_rasterio(path, mask_and_scale=True))
        assert scaled.units == ((1.0, 0.0),) * 4
        named = rioxarray.open_rasterio(path).assign_coords(band=["b", "g", "r", "n"])
        del named.attrs["long_name"]
        assert open_scene(named).bands == ("b", "g", "r", "n")
    with rasterio.open(path, "r+") as file:
        file.scales, file.offsets = (0.1, 0.2, 0.3, 0.4), (1, 2, 3, 4)
    with FileScene(path) as file, pytest.warns(Warning, match="(?i)offsets|scales"):
        assert open_scene(rioxarray.open_rasterio(path)).units == file.units


def test_a_data_array_is_read_piece_by_piece(tmp_path):
    """Only the windows asked for are computed: a scene larger than the memory stays on disk."""
    xarray = pytest.importorskip("xarray")
    pytest.importorskip("rioxarray")
    path, _ = made_file(tmp_path)
    with FileScene(path) as file:
        pixels = file.read().pixels
    seen = []

    class Counted(xarray.backends.BackendArray):
        shape, dtype = pixels.shape, pixels.dtype

        def __getitem__(self, key):
            return xarray.core.indexing.explicit_indexing_adapter(
                key, self.shape, xarray.core.indexing.IndexingSupport.BASIC, self.raw
            )

        def raw(self, key):
            seen.append(pixels[key].size)
            return pixels[key]

    lazy = xarray.Variable(("band", "y", "x"), xarray.core.indexing.LazilyIndexedArray(Counted()))
    scene = open_scene(xarray.DataArray(lazy))
    assert seen == []
    np.testing.assert_array_equal(scene.read(Window(3, 4, 5, 6)).pixels, pixels[:, 3:8, 4:10])
    assert sum(seen) == 4 * 5 * 6


def test_data_arrays_that_are_no_scene():
    xarray = pytest.importorskip("xarray")
    pytest.importorskip("rioxarray")
    four = xarray.DataArray(np.zeros((2, 3, 5, 6)), dims=("time", "band", "y", "x"))
    with pytest.raises(BadInput, match=r"dimensions time, band, y, x.*\.isel\(time=0\)"):
        open_scene(four)
    assert open_scene(four.isel(time=0)).grid.shape == (5, 6)
    with pytest.raises(BadInput, match=r"time, y, x.*\.isel\(time=0\)"):
        open_scene(four.isel(band=0))
    with pytest.raises(BadInput, match="dimensions row, column.*dimension not found"):
        open_scene(xarray.DataArray(np.zeros((5, 6)), dims=("row", "column")))
    with pytest.raises(BadInput, match=r"time, band, y, x.*\.isel\(time=0\)"):
        open_scene(four.to_dataset(name="red"))


# --------------------------------------------------------------------------------------------------- whatever


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (
            np.zeros((3, 5, 6)),
            r"An array of shape \(3, 5, 6\) without coordinates cannot.*ArrayScene\(pixels",
        ),
        (7, r"An int \(7\) cannot be opened as a scene\. A scene is a file"),
        (None, r"A NoneType \(None\) cannot"),
        ({"path": "a.tif"}, "A dict"),
        ([np.zeros((2, 2))], "list of files was expected, but it holds an array of shape"),
        (["a.tif", ArrayScene(np.zeros((2, 5, 5)))], "but it holds an ArrayScene"),
    ],
)
def test_what_cannot_be_a_scene_is_answered(source, message):
    with pytest.raises(BadInput, match=message):
        open_scene(source)


def test_scenes_stand_for_themselves(tmp_path):
    path, pixels = made_file(tmp_path)
    with FileScene(path, bands=["3", "1"]) as file:
        with open_scene(file) as scene:
            assert scene is not file and scene.bands == ("3", "1")
        file.read()  # still open
        with pytest.raises(BadOption, match="is a scene already"):
            open_scene(file, nodata=3)
        with open_scene(file, pixel_size=23.0) as scene:
            assert isinstance(scene, MosaicScene) and scene.bands == ("3", "1")
        held = file.hold()
    with open_scene(held) as scene:
        assert np.shares_memory(scene.pixels, held.pixels)
    np.testing.assert_array_equal(held.read().pixels, pixels[[2, 0]])


def test_copies_for_resampling_are_made_once_and_go_with_the_scene(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    _, pixels = made_file(tmp_path)
    scene = ArrayScene(pixels, world.NORTH_UP, world.UTM)
    with open_scene(scene, pixel_size=23.0) as wider:
        start = threading.Barrier(4)

        def read(opened):
            start.wait()
            with opened.for_thread() as own:
                return own.read().pixels.tobytes()

        with ThreadPoolExecutor(4) as pool:
            assert len(set(pool.map(read, [wider] * 4))) == 1
        assert len(list(tmp_path.glob("labelscape-*"))) == 1
    del scene, wider
    gc.collect()
    assert list(tmp_path.glob("labelscape-*")) == []


def test_parts_of_files_and_drives_are_told_apart(tmp_path, monkeypatch):
    assert is_local("C:\\data\\scene.tif") and is_local("/data/scene.tif") and is_local("scene.tif")
    for place in ("/vsicurl/http://a/b.tif", "s3://a/b.tif", 'NETCDF:"a.nc":red', "GTIFF_DIR:1:a.tif"):
        assert not is_local(place)
    monkeypatch.chdir(tmp_path)
    world.write(tmp_path / "left:right.tif", np.ones((1, 4, 4), np.uint8))
    assert is_local("left:right.tif")
    path = world.write(tmp_path / "a.tif", np.ones((1, 4, 4), np.uint8))
    with FileScene(f"GTIFF_DIR:1:{path}") as scene:
        assert scene.read().pixels.all()
