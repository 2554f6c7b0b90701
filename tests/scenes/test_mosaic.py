"""Mosaics, areas and resampling against the whole scene they were cut from, pixel for pixel."""

from __future__ import annotations

import numpy as np
import pyogrio
import pytest
import rasterio
import rasterio.shutil
import shapely
import world
from affine import Affine
from rasterio.crs import CRS
from rasterio.warp import Resampling, reproject

from labelscape.errors import BadFile, BadInput, BadOption
from labelscape.grid import Window
from labelscape.scenes import memory
from labelscape.scenes.mosaic import MosaicScene, open_scene
from labelscape.scenes.raster import Scene


def cut_up(made: world.World, folder, rows: list[int], columns: list[int], *, overlap: int = 0, **options):
    """Files of the made scene between these rows and columns, each larger by `overlap` to the right and
    below.
    """
    folder.mkdir(exist_ok=True)
    height, width = made.classes.shape
    for top, bottom in zip(rows[:-1], rows[1:]):
        for left, right in zip(columns[:-1], columns[1:]):
            bottom_, right_ = min(height, bottom + overlap), min(width, right + overlap)
            world.write(
                folder / f"tile_{top:04d}_{left:04d}.tif",
                made.pixels[:, top:bottom_, left:right_],
                crs=made.crs,
                transform=made.transform @ Affine.translation(left, top),
                **options,
            )
    return folder


@pytest.mark.parametrize("transform", [world.NORTH_UP, world.ROTATED])
@pytest.mark.parametrize("overlap", [0, 7])
def test_a_folder_of_tiles_is_the_scene_they_were_cut_from(tmp_path, transform, overlap, monkeypatch):
    made = world.make(tmp_path, 61, 83, transform=transform)
    folder = cut_up(made, tmp_path / "tiles", [0, 20, 45, 61], [0, 33, 83], overlap=overlap)
    with open_scene(folder) as mosaic, Scene(made.scene) as whole:
        assert isinstance(mosaic, MosaicScene) and mosaic.name == "tiles"
        assert mosaic.grid.matches(whole.grid) and mosaic.bands == whole.bands and mosaic.dtype == whole.dtype
        rng = np.random.default_rng(0)
        for _ in range(20):
            top, left = rng.integers(0, 60), rng.integers(0, 82)
            window = Window(
                int(top), int(left), int(rng.integers(1, 62 - top)), int(rng.integers(1, 84 - left))
            )
            patch = mosaic.read(window)
            assert patch.valid.all() and np.array_equal(patch.pixels, whole.read(window).pixels)
        assert np.array_equal(mosaic.read(None, ["3", "1"]).pixels, made.pixels[[2, 0]])
        with mosaic.for_thread() as other:
            assert other is not mosaic and np.array_equal(other.read().pixels, made.pixels)
        assert mosaic.thumbnail(40).shape == (29, 40, 3)
        monkeypatch.setattr(memory, "LONG", 1)  # strip by strip
        monkeypatch.setattr(memory, "STRIP", 16)
        assert np.array_equal(mosaic.hold().read(Window(10, 20, 30, 40)).pixels, made.pixels[:, 10:40, 20:60])


def test_what_no_tile_covers_is_invalid(tmp_path):
    made = world.make(tmp_path, 40, 60)
    folder = cut_up(made, tmp_path / "tiles", [0, 20, 40], [0, 30, 60])
    (folder / "tile_0000_0030.tif").unlink()
    with open_scene(folder) as mosaic:
        patch = mosaic.read()
    valid = np.ones((40, 60), bool)
    valid[:20, 30:] = False
    assert np.array_equal(patch.valid, valid) and np.array_equal(
        patch.pixels[:, valid], made.pixels[:, valid]
    )


def test_later_files_lie_on_top_and_their_nodata_lets_earlier_ones_through(tmp_path):
    low, high = np.full((1, 10, 10), 7, np.uint16), np.full((1, 10, 10), 9, np.uint16)
    high[0, :, :3] = 0
    world.write(tmp_path / "a.tif", low)
    world.write(tmp_path / "b.tif", high, transform=world.NORTH_UP @ Affine.translation(4, 0), nodata=0)
    with open_scene([tmp_path / "a.tif", tmp_path / "b.tif"]) as mosaic:
        assert mosaic.name == "a_mosaic"
        row = mosaic.read().pixels[0, 0]
    assert row.tolist() == [7] * 7 + [9] * 7  # b starts at column 4 with three columns of nothing


def test_more_files_than_may_be_open(tmp_path, monkeypatch):
    monkeypatch.setattr("labelscape.scenes.mosaic.MAX_OPEN", 3)
    made = world.make(tmp_path, 40, 40)
    folder = cut_up(made, tmp_path / "tiles", list(range(0, 41, 8)), list(range(0, 41, 8)))
    with open_scene(folder) as mosaic:
        assert np.array_equal(mosaic.read().pixels, made.pixels)
        assert len(mosaic._opened) == 3


def test_another_crs_is_taken_to_the_mosaics_grid(tmp_path):
    """Two tiles in UTM 33 and one in UTM 32 beside them, as neighbouring Sentinel-2 tiles are: against
    GDAL's own warp of the third.
    """
    ramp = np.add.outer(np.arange(50.0), np.arange(60.0)).astype(np.float32)[None]
    world.write(tmp_path / "a.tif", ramp)
    world.write(tmp_path / "b.tif", ramp, transform=world.NORTH_UP @ Affine.translation(60, 0))
    other = CRS.from_epsg(32632)
    from pyproj import Transformer

    x, y = Transformer.from_crs(32633, 32632, always_xy=True).transform(*(world.NORTH_UP @ (125, 5)))
    place = Affine(10, 0, x, 0, -10, y)
    world.write(tmp_path / "c.tif", ramp, crs=other, transform=place)
    with open_scene([tmp_path / f"{n}.tif" for n in "abc"]) as mosaic:
        assert mosaic.grid.crs == world.UTM and mosaic.grid.transform.a == 10
        patch = mosaic.read()
        expected, covered = (
            np.zeros((mosaic.grid.height, mosaic.grid.width), np.float32),
            np.zeros(mosaic.grid.shape, np.uint8),
        )
        common = {
            "src_crs": other,
            "src_transform": place,
            "dst_crs": world.UTM,
            "dst_transform": mosaic.grid.transform,
        }
        reproject(ramp[0], expected, resampling=Resampling.bilinear, tolerance=1e-6, **common)
        reproject(
            np.ones_like(ramp[0], np.uint8), covered, resampling=Resampling.nearest, tolerance=1e-6, **common
        )
    only_c = (covered > 0) & (np.arange(mosaic.grid.width) >= 121)
    assert only_c.sum() > 2000 and patch.valid[only_c].mean() > 0.97
    both = only_c & patch.valid
    assert np.abs(patch.pixels[0][both] - expected[both]).max() < 1e-3
    top = round((~mosaic.grid.transform @ (world.NORTH_UP @ (0, 0)))[1])
    assert np.array_equal(patch.pixels[0, top : top + 50, :60], ramp[0]) and not patch.valid[:top, :120].any()


def test_a_part_without_a_scale_is_no_hundredth_of_its_neighbour(tmp_path):
    """1 and 0 are what GDAL says of a file that declares nothing: the others would be divided."""
    pixels = np.full((2, 10, 12), 5000, np.uint16)
    beside = world.NORTH_UP @ Affine.translation(12, 0)
    parts = [world.write(tmp_path / "a.tif", pixels)]
    parts.append(world.write(tmp_path / "b.tif", pixels, transform=beside))
    for stated in (0, 1):
        with rasterio.open(parts[stated], "r+") as file:
            file.scales, file.offsets = (0.0001, 0.0001), (-0.1, -0.1)
        with open_scene(parts) as scene:
            assert scene.dtype == np.uint16 and (scene.read().pixels == 5000).all()
            assert scene.units == ((0.0001, -0.1),) * 2
            told = [note for note in scene.notes if "declare no scale and offset" in note]
            assert len(told) == (stated == 0)
    with rasterio.open(parts[0], "r+") as file:
        file.offsets = (0, 0)
    with open_scene(parts) as scene:  # both state theirs: 5000 less 0.1 is 4000
        assert {*np.unique(scene.read().pixels).tolist()} == {4000, 5000}


def test_what_of_an_area_is_left_out_is_told(tmp_path):
    """A map of the rest would be the map of another area."""
    made = world.make(tmp_path, 60, 80)
    x, y = world.NORTH_UP @ (10, 12)
    shapes = [shapely.box(x, y - 200, x + 300, y), shapely.LineString([(x, y), (x + 9, y)])]
    pyogrio.raw.write(
        tmp_path / "a.gpkg", shapely.to_wkb(shapes), [], [], geometry_type="Unknown", crs="EPSG:32633"
    )
    with open_scene(made.scene, area=tmp_path / "a.gpkg") as scene:
        (note,) = scene.notes
        assert note.endswith("a.gpkg: 1 of 2 features are used as polygons; left out: 1 lines")
        again = open_scene(scene, pixel_size=20)
    assert again.notes == (note,)


def test_an_area_cuts_and_masks(tmp_path):
    made = world.make(tmp_path, 60, 80)
    corners = [(10, 12), (50, 12), (50, 40), (30, 40), (30, 30), (10, 30)]  # an L, in pixels
    lonlat = _in_degrees([world.NORTH_UP @ c for c in corners])
    area = tmp_path / "area.geojson"
    area.write_text(
        '{"type": "FeatureCollection", "features": [{"type": "Feature", "properties": {}, "geometry": '
        + shapely.to_geojson(shapely.Polygon(lonlat))
        + "}]}"
    )
    with open_scene(made.scene, area=area) as scene:
        assert 40 <= scene.grid.width <= 42 and 28 <= scene.grid.height <= 30
        column, row = (round(v) for v in ~world.NORTH_UP @ (scene.grid.transform @ (0, 0)))
        patch = scene.read()
        inside = np.zeros((60, 80), bool)
        inside[12:30, 10:50] = inside[12:40, 30:50] = True
        mine = inside[row : row + scene.grid.height, column : column + scene.grid.width]
        assert (
            np.mean(patch.valid == mine) > 0.99
        )  # a millimetre of GeoJSON's seven decimals may decide a pixel's centre
        assert np.array_equal(
            patch.pixels, made.pixels[:, row : row + scene.grid.height, column : column + scene.grid.width]
        )
    far = tmp_path / "far.geojson"
    moved = shapely.to_geojson(shapely.transform(shapely.Polygon(lonlat), lambda xy: xy + 5))
    far.write_text(
        '{"type": "FeatureCollection", "features": [{"type": "Feature", "properties": {}, "geometry": '
        + moved
        + "}]}"
    )
    with pytest.raises(BadInput, match="far.geojson lies outside scene: in the scene's CRS it covers x"):
        open_scene(made.scene, area=far)


def _in_degrees(xy):
    from pyproj import Transformer

    change = Transformer.from_crs(world.UTM.to_wkt(), "EPSG:4326", always_xy=True)
    return [change.transform(*p) for p in xy]


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
def test_wider_pixels_are_means_of_those_below(tmp_path, dtype):
    made = world.make(tmp_path, 40, 60, dtype=dtype)
    with Scene(made.scene) as whole:
        size = whole.grid.ground_pixel_size
    with open_scene(made.scene, pixel_size=4 * size) as scene:
        assert scene.grid.shape == (10, 15) and scene.grid.ground_pixel_size == pytest.approx(
            4 * size, rel=1e-6
        )
        patch = scene.read()
    means = made.pixels.reshape(3, 10, 4, 15, 4).mean(axis=(2, 4))
    assert patch.valid.all() and np.abs(patch.pixels - means).max() <= (0.5 if dtype != "float32" else 1e-5)


def test_resampling_takes_no_value_from_nodata(tmp_path):
    made = world.make(tmp_path, 48, 48, nodata=0, dtype="uint16")
    with Scene(made.scene) as whole:
        size = whole.grid.ground_pixel_size
    with open_scene(made.scene, pixel_size=3 * size) as scene:
        patch = scene.read()
    assert not patch.valid[:5, :5].any() and patch.valid[6:].all()
    assert patch.pixels[:, patch.valid].min() >= made.pixels[made.pixels > 0].min()


@pytest.mark.parametrize(
    ("dtype", "nodata"),
    [("uint8", 255), ("uint16", 7), ("int16", -9999), ("float32", -9999), ("float32", np.nan)],
)
@pytest.mark.parametrize("times", [2, 0.5])
def test_what_is_nodata_stays_so_when_resampled(tmp_path, dtype, nodata, times):
    """GDAL masks by few alpha bands alone; behind others it calls holes valid, and they are 0."""
    pixels = np.full((2, 40, 40), 9, dtype)
    pixels[:, :20, :20] = nodata
    path = world.write(tmp_path / "scene.tif", pixels, nodata=nodata)
    with Scene(path) as whole:
        size = whole.grid.ground_pixel_size
    with open_scene(path, pixel_size=times * size) as scene:
        patch = scene.read()
    half = round(20 / times)
    assert not patch.valid[: half - 1, : half - 1].any()
    assert patch.valid[half + 1 :].all() and patch.valid[:, half + 1 :].all()
    assert (patch.pixels[:, patch.valid] == 9).all()


@pytest.mark.parametrize("times", [2, 0.5])
def test_resampling_keeps_internal_masks(tmp_path, times):
    path = world.write(tmp_path / "scene.tif", np.full((2, 40, 40), 9, np.uint8))
    mask = np.ones((40, 40), bool)
    mask[:20, :20] = False
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True), rasterio.open(path, "r+") as file:
        file.write_mask(mask)
    with Scene(path) as whole:
        size = whole.grid.ground_pixel_size
    with open_scene(path, pixel_size=times * size) as scene:
        patch = scene.read()
    half = round(20 / times)
    assert not patch.valid[: half - 1, : half - 1].any()
    assert patch.valid[half + 1 :].all() and patch.valid[:, half + 1 :].all()
    assert (patch.pixels[:, patch.valid] == 9).all()


def test_the_same_pixels_whatever_the_window(tmp_path):
    made = world.make(tmp_path, 50, 70)
    with open_scene(made.scene, pixel_size=17.3) as scene:
        whole = scene.read()
        for window in scene.grid.window.blocks(7):
            patch = scene.read(window)
            assert np.array_equal(
                patch.pixels, whole.pixels[(slice(None), *window.inset_of(scene.grid.window))]
            )


def test_mistakes(tmp_path):
    made = world.make(tmp_path, 20, 20)
    beside = world.NORTH_UP @ Affine.translation(20, 0)
    two_bands = world.write(tmp_path / "two.tif", made.pixels[:2], transform=beside)
    with pytest.raises(
        BadInput,
        match=(
            r"two.tif and .*scene.tif lie beside each other but do not make a mosaic: the bands are 1 2 and "
            r"1 2 3"
        ),
    ):
        open_scene([made.scene, two_bands])
    floats = world.write(tmp_path / "float.tif", made.pixels.astype(np.float32), transform=beside)
    with pytest.raises(BadInput, match="the types are float32 and uint16"):
        open_scene([made.scene, floats])
    with pytest.raises(BadOption, match="pixel size of -1 metres"):
        open_scene(made.scene, pixel_size=-1)
    bare = world.make(tmp_path, 20, 20, crs=None, name="bare")
    with pytest.raises(BadInput, match="bare has no coordinates, so it cannot be resampled"):
        open_scene(bare.scene, pixel_size=3)
    with pytest.raises(BadInput, match="no coordinates, so it cannot be cropped to the area"):
        open_scene(bare.scene, area="any.geojson")


def test_a_band_stack_stays_one_and_a_stray_band_is_named(tmp_path):
    made = world.make(tmp_path, 30, 30)
    folder = tmp_path / "stack"
    folder.mkdir()
    for name, band in zip(("B02", "B03", "B04"), made.pixels):
        world.write(folder / f"T33_{name}.tif", band)
    with open_scene(folder) as scene:
        assert scene.bands == ("B02", "B03", "B04") and np.array_equal(scene.read().pixels, made.pixels)
    world.write(folder / "T33_B08.tif", made.pixels[0], transform=world.NORTH_UP @ Affine.translation(30, 0))
    with pytest.raises(BadInput, match="do not cover the same ground"):
        open_scene(folder)


def test_a_vrt_is_a_file_like_any_other(tmp_path):
    made = world.make(tmp_path, 30, 40)
    vrt = tmp_path / "scene.vrt"
    with rasterio.open(made.scene) as file:
        rasterio.shutil.copy(file, vrt, driver="VRT")
    with open_scene(vrt) as scene:
        assert np.array_equal(scene.read().pixels, made.pixels)


def test_hidden_files_are_no_part_of_a_folder(tmp_path):
    made = world.make(tmp_path, 20, 20)
    (tmp_path / "._scene.tif").write_bytes(b"\0\5\x16\7 Mac OS X")
    (tmp_path / ".other.part.tif").touch()
    with open_scene(tmp_path) as scene:
        assert scene.files == (str(made.scene),) and np.array_equal(scene.read().pixels, made.pixels)


def test_a_folder_whose_files_lie_deeper_says_where(tmp_path):
    (tmp_path / "GRANULE" / "IMG").mkdir(parents=True)
    with pytest.raises(BadFile, match="holds no raster files[.]$"):
        open_scene(tmp_path / "GRANULE")
    world.make(tmp_path / "GRANULE" / "IMG", 20, 20)
    with pytest.raises(BadFile, match="holds no raster files; its subfolder IMG does: pass that one[.]$"):
        open_scene(tmp_path / "GRANULE")
