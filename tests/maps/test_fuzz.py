"""Scenes of every size, type and layout, whole and damaged: a map on the scene's own grid or one clear sentence, never a crash, never a hang."""

import re
import signal
from contextlib import contextmanager

import numpy as np
import pytest
import rasterio
import rasterio.shutil
import torch
import world
from affine import Affine
from rasterio.crs import CRS
from rasterio.enums import ColorInterp

from labelscape.checkpoint import Checkpoint
from labelscape.errors import LabelscapeError
from labelscape.grid import Grid
from labelscape.imagery.raster import Scene
from labelscape.legend import IGNORE
from labelscape.maps.run import map_scene
from labelscape.nets.catalog import create_model
from labelscape.scores import Scorer, state_arrays

PLACES = {
    "north up": (world.UTM, world.NORTH_UP), "rotated": (world.UTM, world.ROTATED), "degrees": (CRS.from_epsg(4326), world.DEGREES),
    "south up": (world.UTM, Affine(10, 0, 400_000, 0, 10, 5_800_000)), "oblong": (world.UTM, Affine(3, 0, 400_000, 0, -7, 5_800_000)),
    "no crs": (None, None),
}  # fmt: skip
LEVELS = {"uint8": (100.0, 50.0), "int16": (4500.0, 2000.0), "uint16": (4500.0, 2000.0), "float32": (0.5, 0.3)}


def checkpoint_of(dtype, bands, names=None):
    """The smallest network there is, untrained, for a type of values."""
    torch.manual_seed(bands)
    options = {"widths": [2, 2, 4, 4]}
    net = create_model("fcn", in_channels=bands, classes=3, **options)
    with torch.no_grad():
        for _ in range(5):
            net(torch.randn(2, bands, 32, 32))
    return Checkpoint(
        network="fcn", options=options, weights=state_arrays(net), legend=world.LEGEND, bands=names or tuple(str(i + 1) for i in range(bands)),
        dtype=dtype, normalisation=(LEVELS[dtype],) * bands,
    )  # fmt: skip


# ------------------------------------------------------------------------------------------ layouts: each writes a scene and returns its path


def plain(folder, pixels, place, rng):
    return write(folder / "scene.tif", pixels, place, nodata=rng.choice([None, 0]))


def tiled(folder, pixels, place, rng):
    compress, interleave = str(rng.choice(["none", "deflate", "lzw", "zstd"])), str(rng.choice(["band", "pixel"]))
    return write(folder / "scene.tif", pixels, place, tiled=True, blockxsize=16, blockysize=16, compress=compress, interleave=interleave)


def with_nodata(folder, pixels, place, rng):
    value = float("nan") if pixels.dtype.kind == "f" else rng.choice([0, np.iinfo(pixels.dtype).max])
    height, width = pixels.shape[1:]
    pixels[:, : rng.integers(0, height + 1), : rng.integers(0, width)] = value
    return write(folder / "scene.tif", pixels, place, nodata=value)


def jpeg_with_mask(folder, pixels, place, rng):
    pixels = np.repeat(pixels[:1], 3, axis=0) if len(pixels) < 3 else pixels[:3]
    pixels = (pixels.astype(np.float64) / max(1e-9, pixels.max()) * 250).astype(np.uint8)
    path = write(folder / "scene.tif", pixels, place, compress="jpeg", photometric="ycbcr", tiled=True, blockxsize=64, blockysize=64)
    mask = np.ones(pixels.shape[1:], bool)
    mask[: rng.integers(0, mask.shape[0]), : rng.integers(0, mask.shape[1])] = False
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True), rasterio.open(path, "r+") as file:
        file.write_mask(mask)
    return path


def cog(folder, pixels, place, rng):
    rasterio.shutil.copy(tiled(folder, pixels, place, rng), folder / "cog.tif", driver="COG", BLOCKSIZE=128)
    return folder / "cog.tif"


def sparse(folder, pixels, place, rng):
    """Only some of its blocks exist."""
    path, (_, height, width) = folder / "scene.tif", pixels.shape
    profile = profile_of(pixels, place) | {"tiled": True, "blockxsize": 64, "blockysize": 64, "sparse_ok": True, "nodata": 0}
    with rasterio.open(path, "w", **profile) as file:
        for top in range(0, height, 64):
            for left in range(0, width, 64):
                if rng.random() < 0.5 or top == left == 0:
                    part = pixels[:, top : top + 64, left : left + 64]
                    file.write(part, window=((top, top + part.shape[1]), (left, left + part.shape[2])))
    return path


def alpha(folder, pixels, place, rng):
    seen = np.full(pixels.shape[1:], np.iinfo(pixels.dtype).max if pixels.dtype.kind in "iu" else 1, pixels.dtype)
    seen[:, : rng.integers(0, seen.shape[1])] = 0
    path = write(folder / "scene.tif", np.concatenate([pixels, seen[None]]), place)
    with rasterio.open(path, "r+") as file:
        file.colorinterp = [ColorInterp.gray] * len(pixels) + [ColorInterp.alpha]
    return path


def virtual(folder, pixels, place, rng, *, most=12):
    """A VRT of up to `most` files that meet, without some of them."""
    _, height, width = pixels.shape
    side = max(1, int(np.ceil(np.sqrt(height * width / most))))
    sources = {band: [] for band in range(1, len(pixels) + 1)}
    for top in range(0, height, side):
        for left in range(0, width, side):
            if rng.random() < 0.2 and (top or left):
                continue
            part = pixels[:, top : top + side, left : left + side]
            name = f"part_{top}_{left}.tif"
            world.write(folder / name, part, crs=None)
            h, w = part.shape[1:]
            for band in sources:
                sources[band].append(
                    f'<SimpleSource><SourceFilename relativeToVRT="1">{name}</SourceFilename><SourceBand>{band}</SourceBand>'
                    f'<SrcRect xOff="0" yOff="0" xSize="{w}" ySize="{h}"/><DstRect xOff="{left}" yOff="{top}" xSize="{w}" ySize="{h}"/></SimpleSource>'
                )
    kind = {"uint8": "Byte", "int16": "Int16", "uint16": "UInt16", "float32": "Float32"}[pixels.dtype.name]
    bands = "".join(
        f'<VRTRasterBand dataType="{kind}" band="{band}"><NoDataValue>0</NoDataValue>{"".join(parts)}</VRTRasterBand>' for band, parts in sources.items()
    )
    crs, transform = place
    where = f"<SRS>{crs.to_string()}</SRS><GeoTransform>{', '.join(str(v) for v in transform.to_gdal())}</GeoTransform>" if crs else ""
    (folder / "scene.vrt").write_text(f'<VRTDataset rasterXSize="{width}" rasterYSize="{height}">{where}{bands}</VRTDataset>')
    return folder / "scene.vrt"


def profile_of(pixels, place):
    crs, transform = place
    profile = {"driver": "GTiff", "count": len(pixels), "height": pixels.shape[1], "width": pixels.shape[2], "dtype": pixels.dtype.name}
    return profile if crs is None else profile | {"crs": crs, "transform": transform}


def write(path, pixels, place, **options):
    with rasterio.open(path, "w", **profile_of(pixels, place), **options) as file:
        file.write(pixels)
    return path


pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # rasterio's log cannot say names that are no UTF-8

LAYOUTS = (plain, tiled, with_nodata, jpeg_with_mask, cog, sparse, alpha, virtual)


# ------------------------------------------------------------------------------------------ whole scenes


@contextmanager
def no_hang(seconds=60):
    """A case that does not end is stopped."""

    def stop(*_):
        raise AssertionError("this scene hangs")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def drawn(folder, layout, seed, **options):
    """A random scene in a layout and a checkpoint that fits it."""
    rng = np.random.default_rng(seed)
    height, width = (int(n) for n in np.ceil(np.exp(rng.uniform(0, np.log(260), 2))))
    dtype, bands = str(rng.choice(list(LEVELS))), int(rng.choice([1, 3, 4]))
    pixels = world.spectra(world.paint(height, width, seed=seed), bands, dtype, seed=seed)
    place = PLACES[str(rng.choice(list(PLACES)))]
    path = layout(folder, pixels, place, rng, **options)
    with Scene(path) as scene:
        checkpoint = checkpoint_of(scene.dtype.name, len(scene.bands), scene.bands)
        return path, checkpoint, scene.grid, rng


def mapped(checkpoint, path, out, rng):
    """Map it with random tiles."""
    reach = Scorer.of(checkpoint, device="cpu").reach
    overlap = None if rng.random() < 0.5 else int(rng.integers(0, 40))
    side = 2 * (-(-(reach if overlap is None else overlap) // 16) * 16) + 16 * int(rng.integers(2, 10))
    blend = None if overlap is None else str(rng.choice(["crop", "hann", "none"]))
    return map_scene(checkpoint, path, out, device="cpu", report=bool(rng.random() < 0.2), proba=bool(rng.random() < 0.3),
                     entropy=bool(rng.random() < 0.3), tile_size=side, overlap=overlap, blend=blend, force=True), blend  # fmt: skip


def assert_on_grid(result, grid):
    for kind in {"class", "confidence", "proba", "entropy"} & set(result.paths):
        with rasterio.open(result.paths[kind]) as file:
            found = Grid(file.crs, file.transform, file.height, file.width)
            assert found.matches(grid), f"{kind}: {found} for {grid}"


def case_of_a_whole_scene(folder, layout, seed, **options):
    path, checkpoint, grid, rng = drawn(folder, layout, seed, **options)
    with Scene(path) as scene:
        patch = scene.read()
    with no_hang():
        if not patch.valid.any():
            with pytest.raises(LabelscapeError, match="no valid pixel"):
                mapped(checkpoint, path, folder / "map", rng)
            return
        result, blend = mapped(checkpoint, path, folder / "map", rng)
    assert_on_grid(result, grid)
    with rasterio.open(result.paths["class"]) as file:
        classes = file.read(1)
    np.testing.assert_array_equal(classes == IGNORE, ~patch.valid)
    assert set(np.unique(classes)) <= {0, 1, 2, IGNORE}
    assert sum(a.pixels for a in result.areas) == patch.valid.sum()
    if blend is None:  # halos as wide as the network sees: the map is the whole scene's
        whole = Scorer.of(checkpoint, device="cpu").score(patch.pixels, patch.valid).numpy()
        best = np.sort(whole, axis=0)
        sure = patch.valid & (best[-1] - best[-2] > 1e-4)
        np.testing.assert_array_equal(classes[sure], whole.argmax(axis=0)[sure])


@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda f: f.__name__)
def test_scenes_of_any_size_type_and_layout(tmp_path, layout):
    for seed in range(3):
        folder = tmp_path / str(seed)
        folder.mkdir()
        case_of_a_whole_scene(folder, layout, seed + 10 * LAYOUTS.index(layout))


@pytest.mark.long
@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda f: f.__name__)
def test_many_scenes_of_any_size_type_and_layout(tmp_path, layout):
    for seed in range(60):
        folder = tmp_path / str(seed)
        folder.mkdir()
        case_of_a_whole_scene(folder, layout, 1000 + seed + 100 * LAYOUTS.index(layout))


@pytest.mark.long
def test_a_virtual_scene_of_500_files(tmp_path):
    pixels = world.spectra(world.paint(400, 500), 3, "uint16")
    path = virtual(tmp_path, pixels, PLACES["north up"], np.random.default_rng(0), most=600)
    assert len(list(tmp_path.glob("part_*.tif"))) >= 450
    result = map_scene(checkpoint_of("uint16", 3), path, tmp_path / "map", device="cpu", report=False, polygons=False, tile_size=256)
    with Scene(path) as scene, rasterio.open(result.paths["class"]) as file:
        np.testing.assert_array_equal(file.read(1) == IGNORE, ~scene.read().valid)
    assert_on_grid(result, Scene(path).grid)


# ------------------------------------------------------------------------------------------ damaged files


def cut(data, rng):
    return data[: int(rng.integers(0, len(data)))]


def flipped(data, rng):
    """Some bits of the file the other way round, half of them in its first kilobyte, where the structure is told."""
    data = bytearray(data)
    for _ in range(int(rng.integers(1, 30))):
        place = int(rng.integers(0, min(len(data), 1024) if rng.random() < 0.5 else len(data)))
        data[place] ^= 1 << int(rng.integers(0, 8))
    return bytes(data)


def overwritten(data, rng):
    """A stretch of other bytes, as a failing disk leaves it."""
    start, length = int(rng.integers(0, len(data))), int(rng.integers(1, 5000))
    return (data[:start] + rng.bytes(length) + data[start + length :])[: len(data)]


def case_of_a_damaged_scene(folder, layout, damage, seed):
    path, checkpoint, grid, rng = drawn(folder, layout, seed)
    victim = sorted(folder.glob("part_*.tif"))[0] if path.suffix == ".vrt" and rng.random() < 0.7 else path
    victim.write_bytes(damage(victim.read_bytes(), rng))
    try:
        with Scene(path) as scene:
            grid = scene.grid  # flipped bits may move it: what the file says now counts
            huge = grid.window.pixels > 10**7
            said = "huge"
        if not huge:
            with no_hang():
                result, _ = mapped(checkpoint, path, folder / "map", rng)
            assert_on_grid(result, grid)
            said = "mapped"
    except LabelscapeError as error:
        said = str(error)
        assert len(said) > 20
        assert said.endswith((".", ")", "?")) or "\n" in said, said
        assert not re.search(r"Traceback|<class|object at 0x", said), said
        assert not [p for p in folder.glob("map/*") if not p.name.startswith(".")], "half a map was left"
    return said


@pytest.mark.parametrize("damage", [cut, flipped, overwritten], ids=lambda f: f.__name__)
def test_damaged_files_end_in_a_sentence_or_a_map(tmp_path, damage):
    said = []
    for number in range(16):
        folder = tmp_path / str(number)
        folder.mkdir()
        said.append(case_of_a_damaged_scene(folder, LAYOUTS[number % len(LAYOUTS)], damage, 500 + number))
    assert {"mapped"} < set(said), said  # both ends are met with


@pytest.mark.long
@pytest.mark.parametrize("damage", [cut, flipped, overwritten], ids=lambda f: f.__name__)
@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda f: f.__name__)
def test_many_damaged_files_end_in_a_sentence_or_a_map(tmp_path, layout, damage):
    for number in range(40):
        folder = tmp_path / str(number)
        folder.mkdir()
        case_of_a_damaged_scene(folder, layout, damage, 5000 + number)


def test_a_virtual_scene_that_names_no_utf8_is_said(tmp_path):
    path = virtual(tmp_path, world.spectra(world.paint(40, 40), 3, "uint16"), PLACES["north up"], np.random.default_rng(0))
    path.write_bytes(path.read_bytes().replace(b"part_0_0.tif", b"p\xe4rt_0_0.tif"))
    with pytest.raises(LabelscapeError, match=r"scene.* cannot be (opened|read)|scene has no valid pixel"):
        map_scene(checkpoint_of("uint16", 3), path, tmp_path / "map", device="cpu", report=False, polygons=False)
