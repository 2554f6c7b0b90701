"""Smaller levels against a slow loop, and the file they are put together in against GDAL's own reading of
it.
"""

import itertools
import math
from collections import Counter

import numpy as np
import pytest
import rasterio
import world
from affine import Affine
from rio_cogeo import cog_validate

from labelscape.grid import Grid, Window
from labelscape.legend import IGNORE, Legend
from labelscape.rasters import overviews
from labelscape.rasters.cog import GHOST, assemble, read_level
from labelscape.rasters.overviews import halved
from labelscape.rasters.write import MapWriter

LEGEND = Legend.of_names(["a", "b", "c", "d"])


def slowly(values, nodata, mode):
    """The module's words, pixel by pixel."""
    bands, height, width = values.shape
    made = np.full((bands, math.ceil(height / 2), math.ceil(width / 2)), nodata, np.uint8)
    for band, row, column in np.ndindex(made.shape):
        four = [
            int(v)
            for v in values[band, 2 * row : 2 * row + 2, 2 * column : 2 * column + 2].ravel()
            if v != nodata
        ]
        if four and mode:
            made[band, row, column] = Counter(four).most_common(1)[0][0]  # of equals the one met first
        elif four:
            made[band, row, column] = math.floor(sum(four) / len(four) + 0.5)
    return made


@pytest.mark.parametrize("piece", [2, 10, 2**22])
@pytest.mark.parametrize("shape", [(1, 1, 1), (3, 5, 7), (2, 6, 5)])
def test_values_are_counted_whatever_the_size_of_a_piece(piece, shape, monkeypatch):
    monkeypatch.setattr(overviews, "COUNTED", piece)
    values = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    wanted = np.bincount(values.ravel(), minlength=256)
    np.testing.assert_array_equal(overviews.count_values(values), wanted)


@pytest.mark.parametrize("crs", [world.UTM, "EPSG:4326", None])
def test_areas_of_classes_are_the_sums_of_their_pixels(crs):
    """Of classes that lie at one side of a block, where the pixels of a row are not its middle's."""
    step = 1e-4 if crs == "EPSG:4326" else 10
    grid = Grid(
        crs, Affine(step, 0, 13 if step < 1 else 300_000, 0, -step, 52 if step < 1 else 5e6), 700, 600
    )
    window = Window(40, 100, 256, 512)
    values = np.zeros((256, 512), np.uint8)
    values[:, 300:] = 1
    values[200:, 7:11] = 2
    pixels, metres = overviews.count_areas(values, grid, window)
    rows, columns = np.indices(values.shape)
    each = grid.pixel_areas(rows.ravel() + 40, columns.ravel() + 100)
    wanted = np.bincount(values.ravel(), weights=each, minlength=256)
    np.testing.assert_array_equal(pixels, np.bincount(values.ravel(), minlength=256))
    # Far below the hundredth of a hectare that is printed.
    np.testing.assert_allclose(metres, wanted, rtol=1e-7, atol=0.1)


@pytest.mark.parametrize("mode", [True, False])
def test_levels_are_what_a_slow_loop_makes(mode):
    rng = np.random.default_rng(0)
    for case in range(60):
        shape = (int(rng.integers(1, 4)), *rng.integers(1, 24, 2))
        values = rng.integers(0, 4 if mode else 255, shape).astype(np.uint8)
        values[rng.random(shape) < (0, 0.3, 0.9, 1)[case % 4]] = IGNORE
        np.testing.assert_array_equal(halved(values, IGNORE, mode=mode), slowly(values, IGNORE, mode))
        np.testing.assert_array_equal(halved(values, 0, mode=mode), slowly(values, 0, mode))


@pytest.mark.parametrize("mode", [True, False])
@pytest.mark.parametrize("size", [(1030, 530), (513, 1), (512, 512)])
def test_the_levels_of_a_file_are_those_of_its_pixels(tmp_path, size, mode):
    grid = Grid(world.UTM, world.NORTH_UP, *size)
    rng = np.random.default_rng(1)
    values = np.full((1 if mode else 2, *size), IGNORE, np.uint8)
    with MapWriter(tmp_path / "m.tif", grid, len(values), IGNORE, legend=LEGEND if mode else None) as writer:
        for window in (
            Window(0, 0, 301, 1),
            Window(333, 0, 180, 530) & grid.window,
            Window(900, 20, 130, 100) & grid.window,
        ):
            here = (slice(None), *window.inset_of(grid.window))
            values[here] = rng.integers(0, 4, values[here].shape)
            writer.write(window, values[here])
    expected = math.ceil(math.log2(max(1, max(size) / 512)))
    with rasterio.open(tmp_path / "m.tif") as file:
        assert len(file.overviews(1)) == expected
        assert file.tags(ns="IMAGE_STRUCTURE")["LAYOUT"] == "COG"
        np.testing.assert_array_equal(file.read(), values)
    for number in range(expected):
        values = halved(values, IGNORE, mode=mode)
        with rasterio.open(tmp_path / "m.tif", overview_level=number) as file:
            np.testing.assert_array_equal(file.read(), values)
            assert file.nodata == IGNORE
            if mode:
                assert file.colormap(1)[1][:3] == tuple(LEGEND.colors[1])


@pytest.mark.parametrize("seed", range(6))
def test_levels_do_not_depend_on_the_order_of_the_windows(tmp_path, seed):
    """A raster cut at any rows and columns, written in any order; of some seeds a part is never written."""
    rng = np.random.default_rng(seed)
    size, bands = (int(rng.integers(1, 1700)), int(rng.integers(500, 1700))), 1 + seed % 2
    rows, columns = (
        [0, *sorted(rng.choice(np.arange(1, n), min(n - 1, 4), replace=False).tolist()), n] for n in size
    )
    windows = [
        Window(top, left, bottom - top, right - left)
        for top, bottom in itertools.pairwise(rows)
        for left, right in itertools.pairwise(columns)
    ]
    rng.shuffle(windows)
    values = np.full((bands, *size), IGNORE, np.uint8)
    grid, legend = Grid(world.UTM, world.NORTH_UP, *size), LEGEND if bands == 1 else None
    with MapWriter(tmp_path / "m.tif", grid, bands, IGNORE, legend=legend) as writer:
        for window in windows if seed % 3 else windows[:-4]:
            here = (slice(None), *window.inset_of(grid.window))
            values[here] = rng.integers(0, 4, values[here].shape)
            writer.write(window, values[here])
    with rasterio.open(tmp_path / "m.tif") as file:
        np.testing.assert_array_equal(file.read(), values)
        levels = len(file.overviews(1))
    assert levels == math.ceil(math.log2(max(size) / 512))
    for number in range(levels):
        values = halved(values, IGNORE, mode=bands == 1)
        with rasterio.open(tmp_path / "m.tif", overview_level=number) as file:
            np.testing.assert_array_equal(file.read(), values)


@pytest.mark.parametrize("big", [False, True])
def test_both_kinds_of_tiff_are_valid_and_keep_every_word(tmp_path, big):
    rng = np.random.default_rng(2)
    values = rng.integers(0, 9, (3, 1100, 700)).astype(np.uint8)
    profile = {
        "tiled": True,
        "blockxsize": 512,
        "blockysize": 512,
        "interleave": "pixel",
        "compress": "deflate",
        "sparse_ok": True,
        "nodata": 8,
    }
    values[:, 512:1024, :512] = 8
    full = world.write(tmp_path / "full.tif", values, **profile)
    halves = [halved(values, 8, mode=False)]
    halves.append(halved(halves[0], 8, mode=False))
    with rasterio.open(full, "r+") as file:
        file.update_tags(about="ä" * 100)
        file.descriptions = ("x", "yy", "zzz")
    levels = [
        full,
        *(
            world.write(tmp_path / f"{n}.tif", h, bigtiff="YES" if n else "NO", **profile)
            for n, h in enumerate(halves)
        ),
    ]
    assemble(levels, tmp_path / "out.tif", big=big)
    content = (tmp_path / "out.tif").read_bytes()
    assert content[:4] == (b"II+\0" if big else b"II*\0")
    assert content[16 if big else 8 :].startswith(GHOST)
    assert GHOST.startswith(b"GDAL_STRUCTURAL_METADATA_SIZE=000140 bytes\n")
    valid, errors, warnings = cog_validate(tmp_path / "out.tif", strict=True)
    assert valid, (errors, warnings)
    with rasterio.open(tmp_path / "out.tif") as file:
        np.testing.assert_array_equal(file.read(), values)
        assert file.tags()["about"] == "ä" * 100
        assert file.descriptions == ("x", "yy", "zzz")
        assert file.crs == world.UTM
        assert file.get_tag_item("BLOCK_OFFSET_0_1", "TIFF", bidx=1) is None  # a block of nodata is not there
    level = read_level(tmp_path / "out.tif")
    offset, size = int(level.offsets[0]), int(level.sizes[0])
    assert int.from_bytes(content[offset - 4 : offset], "little") == size
    assert content[offset + size : offset + size + 4] == content[offset + size - 4 : offset + size]


def test_levels_that_are_no_tiff_or_end_early_are_said(tmp_path):
    noise = np.random.default_rng(3).integers(0, 255, (1, 600, 600)).astype(np.uint8)
    full = world.write(
        tmp_path / "full.tif", noise, tiled=True, blockxsize=512, blockysize=512, compress="deflate"
    )
    assemble([full], tmp_path / "out.tif")
    with rasterio.open(tmp_path / "out.tif") as file:
        np.testing.assert_array_equal(file.read(), noise)
    content = (tmp_path / "out.tif").read_bytes()  # its directory comes first: a cut leaves that readable
    (tmp_path / "cut.tif").write_bytes(content[:-1000])
    with pytest.raises(OSError, match="in the middle of a block"):
        assemble([tmp_path / "cut.tif"], tmp_path / "again.tif")
    (tmp_path / "cut.tif").write_bytes(b"MM\0*" + content[4:])
    with pytest.raises(OSError, match="not a little-endian TIFF"):
        assemble([tmp_path / "cut.tif"], tmp_path / "again.tif")


def test_a_directory_that_is_incomplete_is_said_wherever_it_ends(tmp_path):
    """On a full disk libtiff leaves one without entries, and nothing is said."""
    values = np.random.default_rng(3).integers(0, 255, (3, 600, 600)).astype(np.uint8)
    full = world.write(tmp_path / "full.tif", values, tiled=True, blockxsize=128, blockysize=128)
    assemble([full], tmp_path / "out.tif")
    content = (tmp_path / "out.tif").read_bytes()
    start = int.from_bytes(content[4:8], "little")
    count = int.from_bytes(content[start : start + 2], "little")
    behind = read_level(tmp_path / "out.tif").offsets.min()
    cut = tmp_path / "cut.tif"
    wrong = [content[:start], content[:start] + b"\0\0" + content[start + 2 :]]
    wrong += [content[:end] for end in range(start + 2, start + 2 + 12 * count, 5)]
    # An entry of an unknown type, and arrays behind the directory that are cut.
    wrong += [content[: start + 4] + b"\xff\xff" + content[start + 6 :]]
    wrong += [content[:end] for end in range(start + 2 + 12 * count + 4, int(behind) - 8, 50)]
    for data in wrong:
        cut.write_bytes(data)
        with pytest.raises(OSError, match="cut.tif is incomplete"):
            assemble([cut], tmp_path / "again.tif")
