import threading
import warnings

import numpy as np
import pytest
import world
from affine import Affine
from rasterio.crs import CRS
from rasterio.enums import ColorInterp
from rasterio.errors import NotGeoreferencedWarning
from rasterio.shutil import copy

from labelscape.contract.bands import band_statistics
from labelscape.errors import BadFile, BadInput, UnknownName
from labelscape.grid import Window
from labelscape.scenes import memory
from labelscape.scenes.files import damaged
from labelscape.scenes.mosaic import open_scene
from labelscape.scenes.raster import Scene
from labelscape.scenes.scene_list import find_scenes


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int16", "float32"])
@pytest.mark.parametrize("transform", [world.NORTH_UP, world.ROTATED])
def test_a_scene_is_read_as_it_was_written(tmp_path, dtype, transform):
    w = world.make(tmp_path, 37, 101, bands=5, dtype=dtype, transform=transform)
    with Scene(w.scene) as scene:
        assert scene.grid.shape == (37, 101)
        assert scene.grid.transform.almost_equals(transform)
        assert scene.grid.crs == world.UTM
        assert scene.dtype == dtype
        window = Window(5, 7, 20, 90)
        patch = scene.read(window)
        np.testing.assert_array_equal(patch.pixels, w.pixels[:, 5:25, 7:97])
        assert patch.valid.all()
        np.testing.assert_array_equal(scene.read(window, ["4", "2"]).pixels, w.pixels[[3, 1], 5:25, 7:97])


def test_a_picture_without_coordinates_stays_without(tmp_path):
    pixels = world.spectra(world.paint(20, 30), 3, "uint8")
    world.write(tmp_path / "street.png", pixels, crs=None, driver="PNG")
    with Scene(tmp_path / "street.png") as scene:
        assert scene.grid.crs is None
        assert not scene.grid.is_georeferenced
        assert scene.grid.ground_pixel_size is None
        assert scene.bands == ("red", "green", "blue")


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_a_picture_with_a_world_file_has_the_crs_of_a_prj_beside_it(tmp_path, suffix):
    """Also where it is resampled, or a tile of a mosaic: as the same pixels with a CRS of their own."""
    folder, pixels = tmp_path / "tiles", world.spectra(world.paint(40, 60), 3, "uint8")
    folder.mkdir()
    for name, left in (("a", 0), ("b", 60)):
        place = world.NORTH_UP @ Affine.translation(left, 0)
        world.write(tmp_path / f"{name}.tif", pixels, transform=place)
        driver = {"png": "PNG", "tif": "GTiff"}[suffix]
        world.write(folder / f"{name}.{suffix}", pixels, crs=None, transform=Affine.identity(), driver=driver)
        (folder / f"{name}.{suffix}.aux.xml").unlink(missing_ok=True)
        numbers = (place.a, place.d, place.b, place.e, place.c + place.a / 2, place.f + place.e / 2)
        (folder / f"{name}.{'pgw' if suffix == 'png' else 'tfw'}").write_text("\n".join(map(repr, numbers)))
        (folder / f"{name}.prj").write_text(CRS.from_user_input(world.UTM).to_wkt(version="WKT1_ESRI"))
    plain, own = tmp_path / "a.tif", folder / f"a.{suffix}"
    both = [str(tmp_path / "a.tif"), str(tmp_path / "b.tif")]
    for one, other, options in ((own, plain, {}), (own, plain, {"pixel_size": 25.0}), (folder, both, {})):
        with open_scene(one, **options) as scene, open_scene(other, **options) as expected:
            assert scene.grid == expected.grid
            np.testing.assert_array_equal(scene.read().pixels, expected.read().pixels)
            assert any(".prj beside it, EPSG:" in note for note in scene.notes)


def test_nodata_rules(tmp_path):
    pixels = np.full((2, 4, 4), 7, np.uint8)
    pixels[:, 0, 0] = 0  # nothing there
    pixels[0, 1, 1] = 0  # dark in one band: a measurement
    with Scene(world.write(tmp_path / "a.tif", pixels, nodata=0)) as scene:
        valid = scene.read().valid
        assert not valid[0, 0]
        assert valid[1, 1]
    floats = pixels.astype(np.float32)
    floats[1, 2, 2], floats[0, 3, 3], floats[1, 3, 0] = np.nan, -9999, np.inf
    roof = np.full((3, 2, 2), 100, np.uint8)
    roof[:2, 0, 0], roof[:, 1, 1] = 255, 255
    with Scene(
        world.write(tmp_path / "roof.tif", roof), nodata=255
    ) as scene:  # two bands overexposed: a roof; all three: the border
        assert scene.read().valid.tolist() == [[True, True], [True, False]]
    with Scene(world.write(tmp_path / "b.tif", floats, nodata=-9999)) as scene:
        assert sorted(zip(*(i.tolist() for i in np.nonzero(~scene.read().valid)))) == [(2, 2), (3, 0), (3, 3)]
    with Scene(world.write(tmp_path / "c.tif", floats), nodata=7) as scene:
        assert scene.read().valid.sum() == 1  # only the pixel that is 0 in both bands


def test_alpha_and_internal_masks_are_validity_not_bands(tmp_path):
    import rasterio

    pixels = np.full((4, 6, 6), 9, np.uint8)
    pixels[3] = 255
    pixels[3, :2] = 0
    path = world.write(tmp_path / "alpha.tif", pixels)
    with rasterio.open(path, "r+") as file:
        file.colorinterp = [ColorInterp.red, ColorInterp.green, ColorInterp.blue, ColorInterp.alpha]
    with Scene(path) as scene:
        assert scene.bands == ("red", "green", "blue")
        np.testing.assert_array_equal(scene.read().valid, pixels[3] > 0)
    path = world.write(tmp_path / "mask.tif", pixels[:3])
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True), rasterio.open(path, "r+") as file:
        file.write_mask(pixels[3] > 0)
    with Scene(path) as scene:
        np.testing.assert_array_equal(scene.read().valid, pixels[3] > 0)


def test_a_folder_of_single_bands_is_one_scene_on_the_finest_grid(tmp_path):
    fine = np.arange(16 * 24, dtype=np.uint16).reshape(16, 24)
    coarse = np.arange(8 * 12, dtype=np.uint16).reshape(8, 12) * 10
    folder = tmp_path / "IMG_DATA"
    folder.mkdir()
    world.write(folder / "T33_20170216_B05.tif", coarse, transform=world.NORTH_UP @ Affine.scale(2))
    world.write(folder / "T33_20170216_B02.tif", fine)
    with Scene(folder) as scene:
        assert scene.bands == ("B02", "B05")
        assert scene.grid.shape == (16, 24)
        whole = scene.read()
        np.testing.assert_array_equal(whole.pixels[0], fine)
        # A plane stays a plane: pixel (7, 9) lies at (3.25, 4.25) of the coarse grid, whose values are 120
        # row + 10 column.
        assert abs(float(whole.pixels[1, 7, 9]) - (120 * 3.25 + 10 * 4.25)) <= 0.5
        # What is read does not depend on the window it is read in.
        for window in (Window(3, 5, 9, 11), Window(0, 0, 1, 1), Window(15, 23, 1, 1), Window(7, 0, 2, 24)):
            np.testing.assert_array_equal(
                scene.read(window).pixels, whole.pixels[(slice(None), *window.inset_of(scene.grid.window))]
            )
    with Scene(folder, bands=["B05"]) as scene:
        np.testing.assert_array_equal(scene.read().pixels[0], whole.pixels[1])


@pytest.mark.parametrize("strip", [None, 16])
def test_holding_a_scene_changes_nothing(tmp_path, strip, monkeypatch, capsys):
    """Neither at once nor strip by strip, as large scenes are read."""
    if strip:
        monkeypatch.setattr(memory, "LONG", 1)
        monkeypatch.setattr(memory, "STRIP", strip)
    w = world.make(tmp_path, 40, 50, nodata=0)
    with Scene(w.scene) as scene:
        whole, held = scene.read(), scene.hold()
        np.testing.assert_array_equal(held.pixels, whole.pixels)
        np.testing.assert_array_equal(held.read().valid, whole.valid)
        assert ("into memory: 40 rows" in capsys.readouterr().err) == bool(strip)
    with Scene(w.scene) as scene:
        window = Window(10, 12, 25, 30)
        before = scene.read(window, ["2", "1"])
        held = scene.hold()
        after = held.read(window, ["2", "1"])
        np.testing.assert_array_equal(before.pixels, after.pixels)
        np.testing.assert_array_equal(before.valid, after.valid)
        with held.for_thread() as other:
            assert np.shares_memory(other.pixels, held.pixels)
        np.testing.assert_array_equal(held.read(window, ["2", "1"]).pixels, before.pixels)
        with pytest.raises(BadFile):
            scene.read(window)  # its files are closed


def test_bad_files_are_named(tmp_path):
    with pytest.raises(BadFile, match="does not exist"):
        Scene(tmp_path / "nowhere.tif")
    (tmp_path / "empty.tif").touch()
    with pytest.raises(BadFile, match="is empty"):
        Scene(tmp_path / "empty.tif")
    (tmp_path / "text.tif").write_text("these are not pixels")
    with pytest.raises(BadFile, match="cannot be opened as a raster"):
        Scene(tmp_path / "text.tif")
    (tmp_path / "none").mkdir()
    with pytest.raises(BadFile, match="no raster files"):
        Scene(tmp_path / "none")
    w = world.make(tmp_path, 300, 300, name="whole")
    cut = tmp_path / "cut.tif"
    cut.write_bytes(w.scene.read_bytes()[: w.scene.stat().st_size // 2])
    with Scene(cut) as scene, pytest.raises(BadFile, match="truncated or damaged"):
        scene.read()
    with Scene(w.scene) as scene, pytest.raises(UnknownName, match="Known: 1, 2, 3"):
        scene.read(bands=["nir"])
    with pytest.raises(BadInput, match="single-band files"):
        Scene([w.scene, w.scene])


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("strips.tif", {}),
        ("tiles.tif", {"tiled": True, "blockxsize": 128, "blockysize": 128, "compress": "deflate"}),
        ("cog.tif", {"driver": "COG"}),
        ("image.jp2", {"driver": "JP2OpenJPEG"}),
        ("image.png", {"driver": "PNG"}),
        ("image.jpg", {"driver": "JPEG"}),
    ],
)
def test_of_a_file_that_was_cut_short_it_is_said_which_what_and_what_to_do(tmp_path, name, options):
    pixels = np.random.default_rng(0).integers(1, 255, (3, 300, 400)).astype(np.uint8)
    whole, cut = world.write(tmp_path / "whole.tif", pixels), tmp_path / name
    if "driver" in options:
        copy(whole, cut, **options)
    else:
        world.write(cut, pixels, **options)
    content = cut.read_bytes()
    for share in (0.0001, 0.02, 0.6, 0.99):
        cut.write_bytes(content[: int(share * len(content)) or 9])
        with pytest.raises(BadFile) as told, Scene(cut) as scene:
            scene.read()
        said = str(told.value)
        assert said.startswith(f"{cut} cannot be ")
        assert "truncated or damaged. Copy or download it again (GDAL: " in said, said
        assert "turned as a warning" not in said


def test_of_a_virtual_raster_the_missing_file_is_named(tmp_path):
    world.write(tmp_path / "a.tif", np.ones((8, 8), np.uint8))
    copy(tmp_path / "a.tif", tmp_path / "a.vrt", driver="VRT")
    (tmp_path / "a.tif").unlink()
    with Scene(tmp_path / "a.vrt") as scene, pytest.raises(BadFile) as caught:
        scene.read()
    assert "a.vrt cannot be read at rows 0-8, columns 0-8: a file that it is made of is missing" in str(
        caught.value
    )
    assert "a.tif" in str(caught.value) and "damaged" not in str(caught.value)


def test_of_a_stack_the_damaged_file_is_named(tmp_path):
    w = world.make(tmp_path, 200, 300, name="whole")
    files = [world.write(tmp_path / f"B{n}.tif", band[None]) for n, band in enumerate(w.pixels)]
    files[1].write_bytes(files[1].read_bytes()[:60_000])
    with Scene(files) as scene, pytest.raises(BadFile, match=r"B1\.tif cannot be read at rows 0-200, col"):
        scene.read()


def test_statistics_ignore_nodata_and_equal_numpy(tmp_path):
    w = world.make(tmp_path, 90, 120, bands=4, dtype="float32", nodata=-5)
    with Scene(w.scene) as scene:
        found = band_statistics([scene])
    kept = w.pixels[:, ~(w.pixels == -5).any(axis=0)].astype(np.float64)
    for band, s in enumerate(found):
        assert s.mean == pytest.approx(kept[band].mean())
        assert s.std == pytest.approx(kept[band].std(), rel=1e-6)
        assert (s.min, s.max) == (kept[band].min(), kept[band].max())
        assert s.quantiles[4] == pytest.approx(np.median(kept[band]), abs=0.02)
    with (
        Scene(world.write(tmp_path / "void.tif", np.zeros((1, 5, 5), np.uint8), nodata=0)) as scene,
        pytest.raises(BadInput, match="No valid pixel"),
    ):
        band_statistics([scene])


def test_no_thread_brings_the_warning_of_another_back(recwarn):
    """Scenes are opened in several threads; the first to leave must not restore the warning for the rest."""
    from labelscape.scenes.files import gdal

    inside, left = threading.Event(), threading.Event()
    before = list(warnings.filters)

    def first():
        with gdal():
            inside.set()
            second_is_in.wait(10)
        left.set()

    second_is_in = threading.Event()
    thread = threading.Thread(target=first)
    thread.start()
    inside.wait(10)
    with gdal():
        second_is_in.set()
        left.wait(10)
        warnings.warn("no CRS", NotGeoreferencedWarning, stacklevel=1)
    thread.join()
    assert not [w for w in recwarn if w.category is NotGeoreferencedWarning]
    assert warnings.filters == before


@pytest.mark.parametrize(
    ("folder", "name"),
    [
        ("2021.06", "2021.06"),
        ("IMG_DATA", "IMG_DATA"),
        ("S2A_MSIL1C_20170216.SAFE/GRANULE/L1C_T33UUU_A008642/IMG_DATA", "L1C_T33UUU_A008642"),
        ("X.SAFE/GRANULE/L2A_T32TQM_A024697/IMG_DATA/R10m", "L2A_T32TQM_A024697_R10m"),
        ("S1A_IW_GRDH_1SDV_20200101.SAFE/measurement", "S1A_IW_GRDH_1SDV_20200101"),
        ("LC08_L2SP_193023_20210601_02_T1", "LC08_L2SP_193023_20210601_02_T1"),
    ],
)
def test_a_folder_of_bands_is_called_by_what_tells_it_apart(tmp_path, folder, name):
    """Every product of Sentinel-2 has a folder IMG_DATA: maps of two would have one name."""
    place = tmp_path / folder
    place.mkdir(parents=True)
    for band in ("B02", "B03"):
        world.write(place / f"T33_{band}.tif", np.ones((8, 8), np.uint16))
    with Scene(place) as one, open_scene(place) as other:
        assert one.name == other.name == name
    (listed,) = find_scenes(place)
    assert listed.name == name


def test_flags_and_classes_beside_bands_are_told(tmp_path):
    """Landsat's and Sentinel-2's products have them in the same folder, and they are no measurements."""
    for name in ("LC08_SR_B2", "LC08_SR_B3", "LC08_QA_PIXEL", "LC08_SR_QA_AEROSOL"):
        world.write(tmp_path / f"{name}.TIF", np.ones((8, 8), np.uint16))
    with Scene(tmp_path) as scene:
        (note,) = scene.notes
        assert "the bands PIXEL, AEROSOL (LC08_QA_PIXEL.TIF, LC08_SR_QA_AEROSOL.TIF) are flags" in note
        assert note.endswith("`bands=B2,B3`")
    with Scene(tmp_path, bands=["B3", "AEROSOL"]) as scene:
        assert scene.notes == ()  # chosen by name
    with Scene([tmp_path / "LC08_SR_B2.TIF", tmp_path / "LC08_SR_B3.TIF"]) as scene:
        assert scene.notes == ()


def test_an_empty_path_is_not_the_current_folder(tmp_path, monkeypatch):
    world.write(tmp_path / "a.tif", np.ones((8, 8), np.uint8))
    monkeypatch.chdir(tmp_path)
    for opened in (open_scene, Scene):
        with pytest.raises(BadFile, match="found an empty text"):
            opened("")


def test_a_link_to_nothing_is_called_so(tmp_path):
    (tmp_path / "a.tif").symlink_to(tmp_path / "gone.tif")
    with pytest.raises(BadFile, match=r"a.tif is a link to .*gone.tif, which does not exist"):
        Scene(tmp_path / "a.tif")


def test_a_height_model_whose_crs_has_heights_is_a_band(tmp_path):
    world.write(tmp_path / "red.tif", np.full((8, 8), 3, np.float32))
    high = CRS.from_user_input("EPSG:32633+5773")
    half = world.NORTH_UP @ Affine.scale(2)
    world.write(tmp_path / "dsm.tif", np.full((8, 8), 7, np.float32), crs=high)
    world.write(tmp_path / "slope.tif", np.full((4, 4), 9, np.float32), crs=high, transform=half)
    with Scene(tmp_path) as scene:
        patch = scene.read()
    assert scene.bands == ("dsm", "red", "slope") and patch.valid.all()
    assert [float(band.mean()) for band in patch.pixels] == [7, 3, 9]


def test_a_local_file_by_a_name_of_gdal_is_on_no_server():
    error = RuntimeError("chunk fetch failed")
    for name in ("netcdf:scene.nc:red", 'HDF5:"a.h5"://x/red', "/vsizip/a.zip/b.tif", "scene.tif"):
        assert "the file is truncated or damaged" in str(damaged(name, error))
    for name in (
        'HDF5:"/vsicurl/https://host/a.h5"://x',
        "/vsicurl/https://host/a.tif",
        "s3://bucket/a.tif",
        "/vsizip//vsis3/bucket/a.zip/b.tif",
    ):
        assert "the server did not answer" in str(damaged(name, error))
