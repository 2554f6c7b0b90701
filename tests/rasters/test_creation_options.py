"""GDAL's creation options: those that are honoured are found in the file, others are refused before it."""

import numpy as np
import pytest
import rasterio
import world
from rio_cogeo import cog_validate

from labelscape.errors import BadFile, BadOption, UnknownName, WrongType
from labelscape.grid import Grid, Window
from labelscape.legend import IGNORE
from labelscape.rasters import cog, compression, write
from labelscape.rasters.creation import CreationOptions, as_texts
from labelscape.rasters.write import MapWriter

GRID = Grid(world.UTM, world.NORTH_UP, 1300, 1100)
CLASSES = world.paint(*GRID.shape, patch=9)
CODECS = [codec for codec in compression.CODECS if compression.has(codec)]


def written(path, options, values=CLASSES):
    """A class map, or smooth values of several bands; some blocks are never written."""
    legend = world.LEGEND if values.ndim == 2 else None
    count = 1 if legend else len(values)
    with MapWriter(path, GRID, count, IGNORE, legend=legend, creation_options=options) as writer:
        for window in (Window(0, 0, 700, 1100), Window(700, 0, 300, 500)):
            writer.write(window, values[(..., *window.inset_of(GRID.window))])
    valid, errors, _ = cog_validate(path)
    assert valid, errors
    return path


def levels_of(path):
    """The raster and its overviews."""
    with rasterio.open(path) as file:
        count = len(file.overviews(1))
        found = [file.read()]
    for level in range(count):
        with rasterio.open(path, overview_level=level) as file:
            found.append(file.read())
    return found


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    return written(tmp_path_factory.mktemp("plain") / "plain.tif", None)


@pytest.mark.parametrize(
    ("codec", "bands"), [(c, n) for c in CODECS for n in (1, 3) if (c, n) != ("LZMA", 3)]
)
def test_every_codec_keeps_every_class(tmp_path, plain, codec, bands):
    smooth = np.stack([CLASSES * 40, CLASSES + 7, 200 - CLASSES]).astype(np.uint8)
    values = CLASSES if bands == 1 else smooth
    path = written(tmp_path / "m.tif", {"compress": codec.lower()}, values)
    with rasterio.open(path) as file:
        assert (file.compression.value if file.compression else "NONE") == codec
        structure = file.tags(ns="IMAGE_STRUCTURE")
        said = structure.get("PREDICTOR", "1")
        # Differences only where values are smooth, and the codec comes with a predictor.
        assert said == ("2" if bands == 3 and codec in compression.PREDICTED else "1")
        np.testing.assert_array_equal(file.read()[:, :700], values.reshape(bands, *GRID.shape)[:, :700])
        assert (file.read(1)[1000:] == IGNORE).all()
    if bands == 1:
        for one, other in zip(levels_of(path), levels_of(plain), strict=True):
            np.testing.assert_array_equal(one, other)


def test_files_without_options_are_those_with_the_defaults_said_aloud(tmp_path, plain):
    defaults = {"BLOCKSIZE": 512, "BIGTIFF": "IF_SAFER", "OVERVIEWS": "AUTO", "TILED": True, "LEVEL": 1}
    named = written(tmp_path / "m.tif", {**defaults, "COMPRESS": CODECS[0], "PREDICTOR": "NO"})
    assert named.read_bytes() == plain.read_bytes()


def test_the_level_decides_the_size(tmp_path):
    sizes = [
        written(tmp_path / f"{n}.tif", options).stat().st_size
        for n, options in enumerate(
            (["COMPRESS=DEFLATE", "LEVEL=1"], ["COMPRESS=DEFLATE", "ZLEVEL=9"], ["COMPRESS=NONE"])
        )
    ]
    assert sizes[1] < sizes[0] < sizes[2]


@pytest.mark.parametrize(("side", "overviews"), [(128, 4), (256, 3), (1024, 1)])
def test_blocks_have_the_size_that_is_asked_for(tmp_path, plain, side, overviews):
    path = written(tmp_path / "m.tif", {"BLOCKSIZE": side})
    with rasterio.open(path) as file:
        assert file.block_shapes == [(side, side)]
        assert file.overviews(1) == [2**n for n in range(1, overviews + 1)]
    # What a pixel of an overview shows does not depend on the blocks.
    for one, other in zip(levels_of(path), levels_of(plain)):
        np.testing.assert_array_equal(one, other)
    for level in range(overviews):
        with rasterio.open(path, overview_level=level) as file:
            assert file.block_shapes == [(side, side)]


def test_many_bands_in_blocks_of_another_size_are_what_was_written(tmp_path):
    values = np.random.default_rng(0).integers(0, 200, (5, *GRID.shape)).astype(np.uint8)
    path = tmp_path / "m.tif"
    with MapWriter(path, GRID, 5, IGNORE, creation_options={"BLOCKSIZE": 176}) as writer:
        for window in GRID.window.blocks(300):
            writer.write(window, values[(slice(None), *window.inset_of(GRID.window))])
    with rasterio.open(path) as file:
        np.testing.assert_array_equal(file.read(), values)
    assert cog_validate(path)[0]


@pytest.mark.parametrize(
    ("options", "factors"),
    [
        ({"OVERVIEWS": "NONE"}, []),
        ({"OVERVIEW_COUNT": 0}, []),
        ({"OVERVIEW_COUNT": 1}, [2]),
        # 1300 pixels are one after eleven halvings.
        ({"OVERVIEW_COUNT": 30}, [2**n for n in range(1, 12)]),
    ],
)
def test_as_many_overviews_as_are_asked_for(tmp_path, plain, options, factors):
    path = written(tmp_path / "m.tif", options)
    assert len(levels_of(path)) == 1 + len(factors)
    with rasterio.open(path) as file:
        # GDAL tells factors from rounded sides: those of small levels are off.
        assert file.overviews(1)[:4] == factors[:4]
    for one, other in zip(levels_of(path), levels_of(plain)):
        np.testing.assert_array_equal(one, other)


def test_bigtiff_is_a_choice(tmp_path, monkeypatch, plain):
    assert plain.read_bytes()[:4] == b"II*\0"
    assert written(tmp_path / "yes.tif", {"BIGTIFF": "YES"}).read_bytes()[:4] == b"II+\0"
    assert written(tmp_path / "no.tif", {"BIGTIFF": "NO"}).read_bytes() == plain.read_bytes()
    # As if the file had 4 GB.
    monkeypatch.setattr(cog, "CLASSIC_BYTES", 10_000)
    assert written(tmp_path / "needed.tif", {"BIGTIFF": "IF_NEEDED"}).read_bytes()[:4] == b"II+\0"
    with pytest.raises(BadFile, match=r"none\.tif takes 1 MiB, and the creation option BIGTIFF=NO"):
        written(tmp_path / "none.tif", {"BIGTIFF": "NO"})
    assert not list(tmp_path.glob("none*"))


def test_threads_compress_and_do_not_change_a_byte(tmp_path, monkeypatch, plain):
    monkeypatch.setenv("GDAL_NUM_THREADS", "3")
    asked, real = [], write.gdal
    monkeypatch.setattr(write, "gdal", lambda **how: asked.append(how.get("GDAL_NUM_THREADS")) or real(**how))
    for options in (None, {"NUM_THREADS": 2}, ["NUM_THREADS=all_cpus"]):
        path = written(tmp_path / "m.tif", options)
        assert path.read_bytes() == plain.read_bytes()
        path.unlink()
    assert [one for one in asked if one] == ["3", "2", "ALL_CPUS"]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["COMPRES=LZW"], ["No creation option is called 'COMPRES'", "Did you mean 'COMPRESS'?"]),
        (["COMPRESS"], ["'COMPRESS' must read KEY=VALUE"]),
        (["COMPRESS=BROTLI"], ["COMPRESS=BROTLI is not possible", "DEFLATE, LZW"]),
        (["COMPRESS=JPEG"], ["COMPRESS=JPEG", "changes values"]),
        (["COMPRESS=LERC_ZSTD"], ["COMPRESS=LERC_ZSTD", "floating-point"]),
        (["COMPRESS=LZW", "compress=NONE"], ["COMPRESS is given twice, as LZW and NONE"]),
        (["COMPRESS=LZW", "LEVEL=5"], ["LEVEL=5", "LZW has no levels"]),
        (["COMPRESS=DEFLATE", "LEVEL=22"], ["LEVEL=22", "from 1 to 9 for DEFLATE"]),
        (["COMPRESS=DEFLATE", "ZSTD_LEVEL=9"], ["is for COMPRESS=ZSTD, and DEFLATE is used"]),
        (["COMPRESS=DEFLATE", "LEVEL=5", "ZLEVEL=5"], ["LEVEL and ZLEVEL set the same thing"]),
        (["PREDICTOR=3"], ["floating-point"]),
        (["PREDICTOR=maybe"], ["PREDICTOR=MAYBE", "YES (2) or NO (1)"]),
        (["PREDICTOR=2", "COMPRESS=NONE"], ["NONE has no predictor"]),
        (["BLOCKSIZE=500"], ["BLOCKSIZE=500", "from 128 to 1024 that 16 divides"]),
        (["BLOCKSIZE=4096"], ["BLOCKSIZE=4096", "from 128 to 1024"]),
        (["BLOCKXSIZE=512"], ["BLOCKXSIZE=512", "use BLOCKSIZE"]),
        (["BIGTIFF=MAYBE"], ["YES, NO, IF_NEEDED, IF_SAFER"]),
        (["OVERVIEWS=FORCE_USE_EXISTING"], ["AUTO or NONE"]),
        (["OVERVIEWS=NONE", "OVERVIEW_COUNT=2"], ["contradict each other"]),
        (["OVERVIEW_COUNT=-1"], ["OVERVIEW_COUNT=-1", "from 0 to 30"]),
        (["OVERVIEW_RESAMPLING=BILINEAR"], ["by mode of classes", "Known: COMPRESS,"]),
        (["NUM_THREADS=many"], ["NUM_THREADS=MANY", "or ALL_CPUS"]),
        (["NUM_THREADS=0"], ["NUM_THREADS=0"]),
        (["TILED=NO"], ["TILED=NO", "as every raster is written here"]),
        (["TILING_SCHEME=GoogleMapsCompatible"], ["gdalwarp"]),
    ],
)
def test_what_cannot_be_honoured_is_refused_before_the_file(tmp_path, options, said):
    with pytest.raises(BadOption) as told:
        written(tmp_path / "m.tif", options)
    for part in said:
        assert part in str(told.value)
    assert not list(tmp_path.iterdir())


def test_every_option_of_gdals_own_drivers_is_answered():
    # Of the GTiff and COG drivers' pages; a few are worth a reason of their own.
    for name in ("JPEG_QUALITY", "PHOTOMETRIC", "ADD_ALPHA", "TFW", "ZOOM_LEVEL", "COPY_SRC_OVERVIEWS"):
        with pytest.raises(BadOption, match="cannot be honoured: ") as told:
            CreationOptions.of([f"{name}=YES"])
        assert not isinstance(told.value, UnknownName)


@pytest.mark.parametrize("given", ["COMPRESS=LZW", 3, [1, 2], {"COMPRESS": "LZW"}.items()])
def test_what_is_no_list_of_options_is_refused(given):
    with pytest.raises(WrongType, match="must be a mapping such as"):
        CreationOptions.of(given)


def test_a_codec_that_this_gdal_lacks_is_refused(monkeypatch):
    monkeypatch.setattr(compression, "has", lambda codec: codec != "ZSTD")
    with pytest.raises(BadOption, match="this GDAL was built without ZSTD"):
        CreationOptions.of(["COMPRESS=ZSTD"])
    assert CreationOptions.of(["ZLEVEL=7"]).compression(smooth=False).profile == {
        "compress": "DEFLATE",
        "zlevel": 7,
        "predictor": 1,
    }


def test_options_are_kept_in_one_spelling():
    wanted = ("BIGTIFF=YES", "BLOCKSIZE=256", "COMPRESS=LZW")
    assert as_texts({"compress": "lzw", "BigTIFF": True, "blocksize": 256}) == wanted
    assert as_texts(["COMPRESS=LZW", "BLOCKSIZE = 256", "bigtiff=yes"]) == as_texts(wanted) == wanted
    assert as_texts(None) == as_texts([]) == as_texts({}) == ()
