"""Which pixels of a scene are valid, and where they lie: any layout, type, nodata, mask and orientation
against plain loops.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
import rasterio
import world
from affine import Affine
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from rasterio.enums import ColorInterp

from labelscape.errors import BadFile, BadInput, BadOption
from labelscape.grid import Grid, Window
from labelscape.labels.labels import open_labels
from labelscape.scenes.files import stem_of_place
from labelscape.scenes.raster import FileScene, Scene
from labelscape.scenes.validity import LARGEST

TYPES = ("uint8", "uint16", "int16", "int32", "float32", "float64")
NODATA = (None, 0, 1, 255, 65535, -9999, 3.7, -3.4028234663852886e38, 1e20, math.nan)
PLACES = {
    "north up": world.NORTH_UP,
    "south up": world.NORTH_UP @ Affine.translation(0, 7) @ Affine.scale(1, -1),
    "east west": world.NORTH_UP @ Affine.translation(9, 0) @ Affine.scale(-1, 1),
    "rotated": world.ROTATED,
}
HIGH, WIDE = 7, 9


@dataclass(frozen=True)
class Made:
    """A scene as it was written: values (B, H, W) of each band's own type, its nodata, and what masks say."""

    source: Path | list[Path]
    bands: list[np.ndarray]
    nodata: list[float | None]
    unmasked: np.ndarray
    transform: Affine


def fits(value: float | None, dtype: str) -> bool:
    if value is None or value != value:
        return False
    kind = np.dtype(dtype)
    if kind.kind == "f":
        return True
    return float(value).is_integer() and np.iinfo(kind).min <= value <= np.iinfo(kind).max


def expected(bands: list[np.ndarray], nodata: list[float | None], unmasked: np.ndarray) -> np.ndarray:
    """Pixel by pixel, band by band: the rules as they are told to users."""
    valid = np.zeros(unmasked.shape, bool)
    for row, column in np.ndindex(*unmasked.shape):
        together, ok = [], bool(unmasked[row, column])
        for band, value in zip(bands, nodata):
            pixel, dtype = band[row, column], band.dtype
            ok &= math.isfinite(pixel) and abs(float(pixel)) <= LARGEST
            if not fits(value, dtype.name):
                continue
            hit = pixel == np.asarray(value).astype(dtype)
            if dtype.kind != "f" and value in (0, np.iinfo(dtype).max):
                together.append(bool(hit))
            elif hit:
                ok = False
        valid[row, column] = ok and not (together and all(together))
    return valid


def values(draw, dtype: str, nodata: float | None) -> np.ndarray:
    """(H, W) with nodata, zeros and the type's ends among them."""
    rng = np.random.default_rng(draw(st.integers(0, 2**31)))
    kind = np.dtype(dtype)
    odd = [0, 255] + ([nodata] if fits(nodata, dtype) else [])
    odd += [math.nan, math.inf, -3.4e38, 1e20] if kind.kind == "f" else [np.iinfo(kind).max]
    found = rng.integers(1, 200, (HIGH, WIDE)).astype(kind)
    where = rng.random((HIGH, WIDE)) < 0.4
    found[where] = np.array(odd, np.float64).astype(kind)[rng.integers(0, len(odd), int(where.sum()))]
    return found


def write_one(path, bands, nodata, transform, mask=None, alpha=None):
    pixels = np.stack(bands if alpha is None else [*bands, alpha])
    world.write(path, pixels, nodata=nodata, transform=transform, photometric="MINISBLACK", alpha="NO")
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK="msk" not in str(path)), rasterio.open(path, "r+") as file:
        if alpha is not None:
            file.colorinterp = [*[ColorInterp.undefined] * len(bands), ColorInterp.alpha]
        if mask is not None:
            file.write_mask(mask)
    return path


def virtual(path, files, bands, nodata, transform, mask):
    """A VRT of single files with a nodata value of each band, and a mask for all of them."""
    gdal_type = {"uint8": "Byte", "uint16": "UInt16", "int16": "Int16", "int32": "Int32"}
    text = "".join(
        f'<VRTRasterBand dataType="{gdal_type.get(b.dtype.name, b.dtype.name.title())}" band="{i}">'
        + (f"<NoDataValue>{value!r}</NoDataValue>" if value is not None else "")
        + f'<SimpleSource><SourceFilename relativeToVRT="1">{file.name}</SourceFilename>'
        "<SourceBand>1</SourceBand></SimpleSource></VRTRasterBand>"
        for i, (file, b, value) in enumerate(zip(files, bands, nodata), 1)
    )
    if mask is not None:
        world.write(path.with_name("m.tif"), (mask * 255).astype(np.uint8), transform=transform)
        text += (
            '<MaskBand><VRTRasterBand dataType="Byte"><SimpleSource><SourceFilename relativeToVRT="1">m.tif'
            "</SourceFilename><SourceBand>1</SourceBand></SimpleSource></VRTRasterBand></MaskBand>"
        )
    place = ",".join(map(repr, transform.to_gdal()))
    path.write_text(
        f'<VRTDataset rasterXSize="{WIDE}" rasterYSize="{HIGH}"><SRS>EPSG:32633</SRS><GeoTransform>{place}'
        f"</GeoTransform>{text}</VRTDataset>"
    )
    return path


@st.composite
def made(draw, folder: Path) -> Made:
    layout = draw(st.sampled_from(("tif", "msk", "alpha", "stack", "vrt")))
    count = draw(st.integers(1, 4))
    transform = PLACES[draw(st.sampled_from(sorted(PLACES)))]
    dtypes = [draw(st.sampled_from(TYPES)) for _ in range(count)]
    nodata = [draw(st.sampled_from(NODATA)) for _ in range(count)]
    if layout in ("tif", "msk", "alpha"):
        dtypes, nodata = dtypes[:1] * count, nodata[:1] * count
    if layout != "vrt":  # GDAL writes no nodata value that the type cannot hold
        nodata = [v if fits(v, d) or (v is not None and v != v and "f" in d) else None
                  for v, d in zip(nodata, dtypes)]  # fmt: skip
    bands = [values(draw, d, v) for d, v in zip(dtypes, nodata)]
    masked = draw(st.booleans()) and layout in ("tif", "msk", "vrt")
    rng = np.random.default_rng(count)
    unmasked = rng.random((HIGH, WIDE)) < 0.7 if masked or layout == "alpha" else np.ones((HIGH, WIDE), bool)
    mask = unmasked if masked else None
    if layout in ("tif", "msk"):
        source = write_one(folder / f"{layout}.tif", bands, nodata[0], transform, mask)
    elif layout == "alpha":
        alpha = (unmasked * 255).astype(dtypes[0])
        nodata = [None] * count if nodata[0] == 255 else nodata  # GDAL compares the alpha band with it too
        source = write_one(folder / "alpha.tif", bands, nodata[0], transform, alpha=alpha)
    else:
        own = nodata if layout == "stack" else [None] * count
        files = [
            world.write(folder / f"b{i}.tif", b, nodata=v, transform=transform)
            for i, (b, v) in enumerate(zip(bands, own))
        ]
        source = files
        if layout == "vrt":
            source = virtual(folder / "scene.vrt", files, bands, nodata, transform, mask)
    return Made(source, bands, nodata, unmasked, transform)


def check(one: Made, chosen: list[int], window: Window) -> None:
    with FileScene(one.source) as scene:
        assert scene.grid.shape == (HIGH, WIDE)
        assert scene.grid.transform.almost_equals(one.transform)
        assert scene.grid.ground_pixel_size == pytest.approx(10, rel=1e-3)
        right = expected(one.bands, one.nodata, one.unmasked)
        whole = scene.read()
        np.testing.assert_array_equal(whole.valid, right)
        for band, own in zip(whole.pixels, one.bands):
            np.testing.assert_array_equal(band, own.astype(scene.dtype))
        few = expected([one.bands[k] for k in chosen], [one.nodata[k] for k in chosen], one.unmasked)
        inside = window.inset_of(scene.grid.window)
        part = scene.read(window, [scene.bands[k] for k in chosen])
        np.testing.assert_array_equal(part.valid, few[inside])
        upside = scene.grid.transform @ Affine.translation(0, HIGH) @ Affine.scale(1, -1)
        with FileScene(one.source, onto=Grid(scene.grid.crs, upside, HIGH, WIDE)) as turned:
            # Pixel on pixel, with the rows in the other order: nothing is interpolated.
            found = turned.read()
            np.testing.assert_array_equal(found.valid, right[::-1])
            np.testing.assert_allclose(
                found.pixels[:, found.valid].astype(float),
                whole.pixels[:, ::-1][:, found.valid].astype(float), rtol=1e-6, atol=1e-4,
            )  # fmt: skip
        held = scene.hold()
        np.testing.assert_array_equal(held.read().valid, right)
        np.testing.assert_array_equal(held.read(window, [held.bands[k] for k in chosen]).valid, few[inside])


def run(data) -> None:
    with TemporaryDirectory() as folder:
        one = data.draw(made(Path(folder)))
        chosen = data.draw(st.lists(st.integers(0, len(one.bands) - 1), min_size=1, unique=True))
        top, left = data.draw(st.integers(0, HIGH - 1)), data.draw(st.integers(0, WIDE - 1))
        check(one, chosen, Window(top, left, HIGH - top, WIDE - left))


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.data())
def test_validity_is_that_of_plain_loops(data):
    run(data)


@pytest.mark.long
@settings(max_examples=3000, deadline=None)
@given(st.data())
def test_validity_is_that_of_plain_loops_in_thousands_of_scenes(data):
    run(data)


# ------------------------------------------------------------------------------------ one kind at a time


def nir(path, top, **options):
    """Four bands as rasterio writes them: the fourth, 0 to `top`, is marked as alpha where type and
    photometric allow.
    """
    rng = np.random.default_rng(0)
    pixels = rng.integers(1, 250, (4, 30, 40)).astype(options.pop("dtype", np.uint8))
    pixels[3, :, :20] = 0
    pixels[3, :, 20:] = rng.integers(1, top, (30, 20)) if top > 1 else 255
    world.write(path, pixels, **options)
    with rasterio.open(path, "r+") as file:
        file.colorinterp = [ColorInterp.red, ColorInterp.green, ColorInterp.blue, ColorInterp.alpha]
    return pixels


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int16, np.float32])
def test_near_infrared_marked_as_alpha_is_imagery(tmp_path, dtype):
    pixels = nir(tmp_path / "a.tif", 200, dtype=dtype)
    with Scene(tmp_path / "a.tif") as scene:
        assert scene.bands == ("red", "green", "blue", "4")
        assert scene.read().valid.all()
        assert "band 4" in scene.notes[0]
        assert "read as imagery" in scene.notes[0]
        # Resampled, too: as an alpha band it would weigh the others.
        half = Grid(scene.grid.crs, scene.grid.transform @ Affine.scale(2), 15, 20)
    with FileScene(tmp_path / "a.tif", onto=half) as scene:
        means = pixels.reshape(4, 15, 2, 20, 2).astype(float).mean(axis=(2, 4))
        assert np.abs(scene.read().pixels - means).max() <= 0.51
        assert scene.read().valid.all()
    with Scene(tmp_path / "a.tif", band_names=("red", "green", "blue", "nir")) as scene:
        np.testing.assert_array_equal(scene.read(bands=["nir"]).pixels[0], pixels[3])
        assert not scene.notes
    with Scene(tmp_path / "a.tif", band_names=("r", "g", "b")) as scene:
        np.testing.assert_array_equal(scene.read().valid, pixels[3] > 0)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int16, np.float32])
def test_an_alpha_band_masks_in_every_type_beside_nodata(tmp_path, dtype):
    pixels = nir(tmp_path / "a.tif", 1, dtype=dtype, nodata=7)
    with Scene(tmp_path / "a.tif") as scene:
        assert scene.bands == ("red", "green", "blue")
        assert not scene.notes
        np.testing.assert_array_equal(scene.read().valid, (pixels[3] > 0) & (pixels[:3] != 7).all(axis=0))


def test_rows_that_a_file_of_a_stack_lacks_are_invalid(tmp_path):
    world.write(tmp_path / "B02.tif", np.full((200, 50), 9, np.uint16))
    world.write(tmp_path / "B08.tif", np.full((197, 50), 5, np.uint16))
    with Scene(tmp_path) as scene:
        found = scene.read()
        np.testing.assert_array_equal(found.valid[:, 0], np.arange(200) < 197)
        assert (found.pixels[1][found.valid] == 5).all()
        whole = Grid(scene.grid.crs, scene.grid.transform @ Affine.scale(2), 100, 25)
    with FileScene(tmp_path, onto=whole) as scene:
        assert scene.read().valid[:98].all()
        assert not scene.read().valid[99:].any()


def test_a_palette_picture_is_read_as_its_colours(tmp_path):
    rng = np.random.default_rng(0)
    palette = {i: (*rng.integers(0, 256, 3).tolist(), 255) for i in range(16)}
    numbers = rng.integers(0, 16, (20, 30)).astype(np.uint8)
    world.write(tmp_path / "p.tif", numbers, photometric="PALETTE", nodata=3)
    with rasterio.open(tmp_path / "p.tif", "r+") as file:
        file.write_colormap(1, palette)
    with Scene(tmp_path / "p.tif") as scene:
        assert scene.bands == ("red", "green", "blue")
        found = scene.read()
        np.testing.assert_array_equal(found.valid, numbers != 3)
        right = np.array([palette[i][:3] for i in range(16)])[numbers].transpose(2, 0, 1)
        np.testing.assert_array_equal(found.pixels[:, found.valid], right[:, found.valid])
        assert "palette" in scene.notes[0]
    world.write(tmp_path / "stack.tif", np.stack([numbers, numbers]))
    with rasterio.open(tmp_path / "stack.tif", "r+") as file:
        file.colorinterp = [ColorInterp.palette, ColorInterp.undefined]
        file.write_colormap(1, palette)
    with pytest.raises(BadInput, match="colour table.*gdal_translate -expand"):
        Scene(tmp_path / "stack.tif")
    # A grey picture of 8 bits as BMP stores it: its numbers are its greys.
    world.write(tmp_path / "g.bmp", numbers, crs=None, driver="BMP")
    with Scene(tmp_path / "g.bmp") as scene:
        assert len(scene.bands) == 1


def test_bytes_and_floats_make_one_stack(tmp_path):
    world.write(tmp_path / "red.tif", np.full((5, 6), 200, np.uint8))
    height = np.full((5, 6), 281.5, np.float32)
    height[0] = -9999
    world.write(tmp_path / "dsm.tif", height)
    with FileScene([tmp_path / "red.tif", tmp_path / "dsm.tif"], nodata=-9999) as scene:
        assert scene.dtype == np.float32
        np.testing.assert_array_equal(scene.read().pixels[:, 1, 0], [200, 281.5])
        np.testing.assert_array_equal(scene.read().valid, height > 0)
    with pytest.raises(BadOption, match="`nodata=-9999` cannot be a pixel"):
        FileScene([tmp_path / "red.tif"], nodata=-9999)


def test_ground_control_points_place_a_scene_where_they_are_affine(tmp_path):
    from rasterio.control import GroundControlPoint as Point

    pixels = np.arange(30 * 40, dtype=np.uint16).reshape(30, 40)
    right = world.ROTATED

    def placed(name, bend=0.0):
        path = world.write(tmp_path / name, pixels, crs=None)
        with rasterio.open(path, "r+") as file:
            corners = [(r, c) for r in (0, 15, 30) for c in (0, 40)]
            points = [Point(r, c, *(right @ (c + bend * (r == 15), r))) for r, c in corners]
            file.gcps = points, world.UTM
        return path

    with Scene(placed("a.tif")) as scene:
        assert scene.grid.transform.almost_equals(right, 1e-6)
        assert scene.grid.crs == world.UTM
        assert "6 ground control points" in scene.notes[0]
        half = Grid(world.UTM, right @ Affine.scale(2), 15, 20)
    with FileScene(tmp_path / "a.tif", onto=half) as scene:
        means = pixels.reshape(15, 2, 20, 2).mean(axis=(1, 3))
        assert np.abs(scene.read().pixels[0] - means).max() <= 0.51
        assert scene.read().valid.all()
    with Scene(placed("b.tif", bend=1.0)) as scene:
        assert not scene.grid.is_georeferenced
        assert "gdalwarp -tps" in scene.notes[0]


def test_a_photo_that_is_to_be_shown_turned_is_told(tmp_path):
    """Annotation programs turn it, GDAL does not: of a square one the labels would be of other pixels."""
    picture = Image.fromarray(np.arange(3 * 64, dtype=np.uint8).reshape(8, 8, 3))
    for orientation, said in ((1, ()), (6, "is to be shown turned by 90 degrees (EXIF orientation)")):
        exif = picture.getexif()
        exif[0x0112] = orientation
        picture.save(tmp_path / "photo.jpg", "JPEG", exif=exif)
        with Scene(tmp_path / "photo.jpg") as scene:
            assert scene.notes == () if not said else said in scene.notes[0]


def test_what_a_type_cannot_hold_is_told(tmp_path):
    pixels = np.full((2, 4, 4), 241, np.uint8)
    world.write(tmp_path / "a.tif", pixels)
    text = (
        '<VRTDataset rasterXSize="4" rasterYSize="4"><VRTRasterBand dataType="Byte" band="1"><NoDataValue>3.7'
        f"</NoDataValue><SimpleSource><SourceFilename>{tmp_path / 'a.tif'}</SourceFilename></SimpleSource>"
        "</VRTRasterBand></VRTDataset>"
    )
    (tmp_path / "a.vrt").write_text(text)
    with Scene(tmp_path / "a.vrt") as scene:
        assert scene.nodata is None
        assert scene.read().valid.all()
        assert "nodata 3.7, which no pixel of type uint8 can have" in scene.notes[0]
    declared = {"1": -9999.0, "2": 241.0}
    with FileScene(tmp_path / "a.tif", declared_nodata=declared) as scene:
        assert "no pixel of type uint8" in scene.notes[0]
        assert not scene.read().valid.any()
        assert scene.read(bands=["1"]).valid.all()


def test_values_that_float32_cannot_hold_are_no_measurements(tmp_path):
    pixels = np.full((2, 4, 5), 0.5, np.float64)
    pixels[0, 0, 0], pixels[1, 1, 1], pixels[0, 2, 2], pixels[1, 3, 3] = 1e300, -3.4e38, 1e23, np.inf
    with Scene(world.write(tmp_path / "a.tif", pixels)) as scene:
        assert np.argwhere(~scene.read().valid).tolist() == [[0, 0], [1, 1], [3, 3]]


def test_pages_and_rasters_of_containers_are_named(tmp_path):
    from PIL import Image

    pages = [Image.fromarray(np.full((8, 9), v, np.uint8)) for v in (10, 20, 30)]
    pages[0].save(tmp_path / "pages.tif", save_all=True, append_images=pages[1:])
    with pytest.raises(BadFile, match="TIFF of 3 pages; name one of them: GTIFF_DIR:1:.*pages.tif"):
        Scene(tmp_path / "pages.tif")
    places = [f"GTIFF_DIR:{n}:{tmp_path / 'pages.tif'}" for n in (3, 1)]
    with Scene(places[0]) as scene:
        assert scene.name == "pages_3"
        assert (scene.read().pixels == 30).all()
    with Scene(places) as scene:  # a stack of pages
        assert scene.bands == ("3", "1")
        assert scene.read().pixels[:, 0, 0].tolist() == [30, 10]


@pytest.mark.parametrize(
    ("place", "name"),
    [
        ("netcdf:data/scene.nc:red", "scene_red"),
        ('NETCDF:"/data/scene.nc":red', "scene_red"),
        ('HDF5:"/data/a.h5"://group/red', "a_group-red"),
        ("GTIFF_DIR:2:x.tif", "x_2"),
        ("/vsizip/a.zip/b.tif", "b"),
        ("https://example.com/a/b.tif", "b"),
        ("C.tif", "C"),
    ],
)
def test_scenes_in_containers_are_called_by_what_they_are(place, name):
    assert stem_of_place(place) == name


@pytest.mark.parametrize("dtype", ["int8", "int64", "uint64", "uint32"])
def test_the_largest_value_of_every_type_is_opaque(tmp_path, dtype):
    opaque = np.full((20, 20), np.iinfo(dtype).max, dtype)
    opaque[:, :5] = 0
    place = {"driver": "GTiff", "count": 2, "height": 20, "width": 20, "dtype": dtype}
    with rasterio.open(tmp_path / "a.tif", "w", crs=world.UTM, transform=world.NORTH_UP, **place) as file:
        file.colorinterp = [ColorInterp.gray, ColorInterp.alpha]
        file.write(np.stack([np.ones((20, 20), dtype), opaque]))
    with Scene(tmp_path / "a.tif") as scene:
        assert len(scene.bands) == 1
        np.testing.assert_array_equal(scene.read().valid, opaque > 0)


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int16", "float32"])
def test_an_alpha_band_of_0_and_1_masks_as_much_between_pixels(tmp_path, dtype):
    """GDAL's warper takes the type's largest value for opaque: 1 of 65535 left no pixel of a scene, and no
    label, that is resampled.
    """
    opaque = np.ones((20, 20), dtype)
    opaque[:, :5] = 0
    place = {"driver": "GTiff", "count": 2, "height": 20, "width": 20, "dtype": dtype}
    with rasterio.open(tmp_path / "a.tif", "w", crs=world.UTM, transform=world.NORTH_UP, **place) as file:
        file.colorinterp = [ColorInterp.gray, ColorInterp.alpha]
        file.write(np.stack([np.full((20, 20), 7, dtype), opaque]))
    between = Grid(world.UTM, world.NORTH_UP @ Affine.translation(0.3, 0.4), 19, 19)
    with FileScene(tmp_path / "a.tif", onto=between) as scene:
        patch = scene.read()
    assert patch.valid[:, 5:].all() and not patch.valid[:, :4].any()
    assert (patch.pixels[0, patch.valid] == 7).all()
    labels = open_labels(tmp_path / "a.tif", between)
    np.testing.assert_array_equal(labels.read() == 0, opaque[:19, :19] > 0)
    labels.close()
