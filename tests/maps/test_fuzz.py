"""Scenes of every size, type and layout, whole and damaged: a map on the scene's own grid or one clear
sentence, never a crash, never a hang.
"""

import re
import signal
from contextlib import contextmanager

import numpy as np
import pytest
import rasterio
import torch
import world
from layouts import LAYOUTS, PLACES, virtual

from labelscape.checkpoint import Checkpoint
from labelscape.contract.contract import Contract
from labelscape.errors import LabelscapeError
from labelscape.grid import Grid
from labelscape.legend import IGNORE
from labelscape.maps.run import map_scene
from labelscape.nets.catalog import create_model
from labelscape.scenes.raster import Scene
from labelscape.scoring.engines import state_arrays
from labelscape.scoring.scorer import Scorer

LEVELS = {
    "uint8": (100.0, 50.0),
    "int16": (4500.0, 2000.0),
    "uint16": (4500.0, 2000.0),
    "float32": (0.5, 0.3),
}


def checkpoint_of(dtype, bands, names=None):
    """The smallest network there is, untrained, for a type of values."""
    torch.manual_seed(bands)
    options = {"widths": [2, 2, 4, 4]}
    net = create_model("fcn", in_channels=bands, classes=3, **options)
    with torch.no_grad():
        for _ in range(5):
            net(torch.randn(2, bands, 32, 32))
    return Checkpoint(
        network="fcn",
        options=options,
        weights=state_arrays(net),
        legend=world.LEGEND,
        contract=Contract(
            bands=names or tuple(str(i + 1) for i in range(bands)),
            dtype=dtype,
            normalisation=(LEVELS[dtype],) * bands,
        ),
    )


pytestmark = pytest.mark.filterwarnings(
    "ignore::pytest.PytestUnraisableExceptionWarning"
)  # rasterio's log cannot say names that are no UTF-8

# ----------------------------------------------------------------------------------------------- whole scenes


@contextmanager
def no_hang(seconds=600):
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
    return map_scene(
        checkpoint,
        path,
        out,
        device="cpu",
        report=bool(rng.random() < 0.2),
        proba=bool(rng.random() < 0.3),
        entropy=bool(rng.random() < 0.3),
        tile_size=side,
        overlap=overlap,
        blend=blend,
        force=True,
    ), blend


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
    result = map_scene(
        checkpoint_of("uint16", 3),
        path,
        tmp_path / "map",
        device="cpu",
        report=False,
        polygons=False,
        tile_size=256,
    )
    with Scene(path) as scene, rasterio.open(result.paths["class"]) as file:
        np.testing.assert_array_equal(file.read(1) == IGNORE, ~scene.read().valid)
    assert_on_grid(result, Scene(path).grid)


# ---------------------------------------------------------------------------------------------- damaged files


def cut(data, rng):
    return data[: int(rng.integers(0, len(data)))]


def flipped(data, rng):
    """Some bits of the file the other way round, half of them in its first kilobyte, where the structure
    is told.
    """
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
    if damage is cut:
        assert "mapped" not in said, "a file that ends early lacks pixels"
    else:
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
    path = virtual(
        tmp_path,
        world.spectra(world.paint(40, 40), 3, "uint16"),
        PLACES["north up"],
        np.random.default_rng(0),
    )
    path.write_bytes(path.read_bytes().replace(b"part_0_0.tif", b"p\xe4rt_0_0.tif"))
    with pytest.raises(LabelscapeError, match=r"scene.* cannot be (opened|read)|scene has no valid pixel"):
        map_scene(
            checkpoint_of("uint16", 3), path, tmp_path / "map", device="cpu", report=False, polygons=False
        )
