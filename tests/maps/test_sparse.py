"""Scenes of which little holds anything: right where it does, and cheap elsewhere."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyogrio
import pytest
import rasterio
import torch
import world
from rasterio.windows import Window as RasterioWindow
from rio_cogeo import cog_validate

from labelscape.areas.trace import trace
from labelscape.checkpoint import Checkpoint, save
from labelscape.contract.contract import Contract
from labelscape.grid import Window
from labelscape.legend import IGNORE, Legend
from labelscape.nets.catalog import create_model
from labelscape.rasters.class_map import ClassRaster
from labelscape.scenes.raster import Scene
from labelscape.scoring.engines import state_arrays
from labelscape.scoring.scorer import predict

BANDS, CLASSES, GIGABYTE = 4, 12, 10**9
SPARSE = {
    "tiled": True,
    "blockxsize": 512,
    "blockysize": 512,
    "compress": "deflate",
    "zlevel": 1,
    "sparse_ok": True,
    "bigtiff": "IF_SAFER",
}


def sparse_scene(path, side, places, *, seed=0, **options):
    """A uint16 scene of nothing but a patch of coloured squares at each of the places, windows."""
    profile = {
        "driver": "GTiff",
        "dtype": "uint16",
        "count": BANDS,
        "height": side,
        "width": side,
        "nodata": 0,
        "crs": world.UTM,
        "transform": world.NORTH_UP,
    }
    with rasterio.open(path, "w", **{**profile, **SPARSE, **options}) as file:
        for number, place in enumerate(places):
            coarse = (
                np.random.default_rng(seed + number)
                .integers(1, 9000, (BANDS, place.height // 32 + 1, place.width // 32 + 1))
                .astype(np.uint16)
            )
            file.write(
                coarse.repeat(32, axis=1).repeat(32, axis=2)[:, : place.height, : place.width],
                window=place.rio,
            )
    return path


def patches(side, count, size, *, seed=0):
    """Windows spread over a square, in different rows and columns."""
    rng = np.random.default_rng(seed)
    step = (side - size) / max(1, count - 1)
    return [
        Window(int(step * row), int(step * column), size - 10 * row, size - 7 * row)
        for row, column in enumerate(rng.permutation(count))
    ]


def model(folder):
    torch.manual_seed(0)
    options = {"widths": [4, 4, 8, 8]}
    net = create_model("fcn", in_channels=BANDS, classes=CLASSES, **options)
    for _ in range(5):
        net(torch.randn(2, BANDS, 32, 32))
    names = tuple(str(n + 1) for n in range(BANDS))
    checkpoint = Checkpoint(
        network="fcn",
        options=options,
        weights=state_arrays(net),
        legend=Legend.of_names([f"class {n}" for n in range(CLASSES)]),
        contract=Contract(bands=names, dtype="uint16", normalisation=((4500.0, 2000.0),) * BANDS),
    )
    return checkpoint, save(checkpoint, folder / "model.safetensors")


def mapped_apart(scene, checkpoint, out, **options):
    """Map in a process of its own: what its run file says, and the most memory that it held at a time, and
    that one of its workers did, in bytes.
    """
    script = (
        "import json, resource, sys; from labelscape.maps.many import map_scenes\n"
        "o = json.loads(sys.argv[4])\n"
        "made = map_scenes(sys.argv[1], [sys.argv[2]], sys.argv[3], proba=True, device='cpu', **o)\n"
        "assert made.is_whole, made.records\n"
        "for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN):\n"
        "    print(resource.getrusage(who).ru_maxrss * (1 if sys.platform == 'darwin' else 1024))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, checkpoint, scene, out, json.dumps(options)],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    own, workers = map(int, done.stdout.split()[-2:])
    return json.loads(next(Path(out).glob("*_run.json")).read_text()), own, workers


def assert_right(checkpoint, scene, out, places, side):
    """The pixels of the patches are the network's, well inside them; all others are nodata."""
    stem = Path(scene).stem
    total = sum(p.pixels for p in places)
    run = json.loads((out / f"{stem}_run.json").read_text())
    assert sum(a["pixels"] for a in run["areas"]) == total
    assert run["nodata_pixels"] == side**2 - total
    with (
        rasterio.open(scene) as source,
        rasterio.open(out / f"{stem}_class.tif") as classes,
        rasterio.open(out / f"{stem}_proba.tif") as proba,
    ):
        for place in (places[0], places[-1]):
            around = place.grown(100, bounds=Window(0, 0, side, side))
            found, shares = classes.read(1, window=around.rio), proba.read(window=around.rio)
            inside = np.zeros(around.shape, bool)
            inside[place.inset_of(around)] = True
            np.testing.assert_array_equal(found != IGNORE, inside)
            np.testing.assert_array_equal(shares != IGNORE, np.broadcast_to(inside, shares.shape))
            part = Window(
                place.top // 16 * 16 + 64, place.left // 16 * 16 + 64, 448, 448
            )  # on the network's stride
            expected = predict(checkpoint, source.read(window=part.rio))
            inner = (slice(None), slice(160, 288), slice(160, 288))
            here = RasterioWindow(part.left + 160, part.top + 160, 128, 128)
            assert np.abs(proba.read(window=here).astype(float) / 250 - expected[inner]).max() < 0.01
        level = len(classes.overviews(1)) - 1
    with rasterio.open(out / f"{stem}_class.tif", overview_level=level) as smallest:
        assert max(smallest.shape) <= 512
        shown = smallest.read(1) != IGNORE
        step = side / max(smallest.shape)
        for place in places:
            assert shown[
                int((place.top + place.height / 2) / step), int((place.left + place.width / 2) / step)
            ]
    for kind in ("class", "proba", "confidence"):
        valid, errors, _ = cog_validate(out / f"{stem}_{kind}.tif")
        assert valid, errors
    polygons = pyogrio.raw.read(
        out / f"{stem}_polygons.gpkg", layer="land_cover", read_geometry=False, columns=["pixels"]
    )[3][0]
    assert polygons.sum() == total


@pytest.mark.parametrize(
    ("side", "count", "size"), [(20_000, 2, 700), pytest.param(200_000, 4, 1800, marks=pytest.mark.long)]
)
def test_a_sparse_scene_is_mapped_right_where_it_holds_something_in_bounded_memory(
    tmp_path, side, count, size
):
    places = patches(side, count, size)
    scene = sparse_scene(tmp_path / "scene.tif", side, places)
    checkpoint, path = model(tmp_path)
    _, memory, _ = mapped_apart(scene, path, tmp_path / "map")
    # Logits of 12 classes are 200 MB a tile, of the whole scene 19 GB; 1.7 GB if nothing were kept for the
    # next tile (`scoring.heap`). How much that is depends on where it lies: up to 2.53 measured.
    assert memory < 3 * GIGABYTE
    assert_right(checkpoint, scene, tmp_path / "map", places, side)


@pytest.mark.long
def test_workers_that_share_a_sparse_scene_pass_over_its_holes(tmp_path):
    places = patches(200_000, 4, 1800)
    scene = sparse_scene(tmp_path / "scene.tif", 200_000, places)
    checkpoint, path = model(tmp_path)
    _, memory, of_a_worker = mapped_apart(scene, path, tmp_path / "map", workers=2, grain="block")
    # The command writes the map, with scheduler and client in it.
    assert memory < 2 * GIGABYTE
    assert of_a_worker < 2.5 * GIGABYTE
    assert_right(checkpoint, scene, tmp_path / "map", places, 200_000)


# ------------------------------------------------------------------------------------------------------ holes


def test_only_what_certainly_holds_nothing_is_a_hole(tmp_path):
    places = [Window(600, 1100, 300, 200)]
    inside, outside, beside = Window(700, 1200, 5, 5), Window(1600, 0, 448, 512), Window(0, 512, 601, 600)
    for options, known in (
        ({}, True),
        ({"nodata": None}, False),
        ({"interleave": "band"}, True),
        ({"nodata": 7}, True),
        ({"tiled": False, "blockxsize": None, "blockysize": 1}, True),
    ):
        path = sparse_scene(tmp_path / "scene.tif", 2048, places, **options)
        with Scene(path) as scene:
            holds = scene.may_hold
            assert holds(inside)
            assert holds(beside)  # the blocks it touches are there
            assert holds(outside) == (not known)
            for row in range(0, 2048, 256):
                for column in range(0, 2048, 256):
                    window = Window(row, column, 256, 256)
                    assert holds(window) or not scene.read(window).valid.any()
    with Scene(sparse_scene(tmp_path / "scene.tif", 2048, places, nodata=None), nodata=0) as scene:
        assert not scene.may_hold(outside)
    with Scene(
        sparse_scene(tmp_path / "scene.tif", 2048, places, nodata=0), nodata=9
    ) as scene:  # its holes are measurements of 0
        assert scene.may_hold(outside)


@pytest.mark.parametrize("options", [{}, {"blockysize": 1, "blockxsize": None, "tiled": False}])
def test_a_picture_of_a_sparse_scene_is_that_of_the_same_scene_in_full(tmp_path, options):
    places = patches(2500, 3, 600)
    path = sparse_scene(tmp_path / "scene.tif", 2500, places, **options)
    with rasterio.open(path) as file:
        full = world.write(tmp_path / "full.tif", file.read(), nodata=0)
    with Scene(path) as sparse, Scene(full) as whole:
        picture = sparse.thumbnail(90)
        np.testing.assert_array_equal(picture, whole.thumbnail(90))
        rows = np.linspace(0, 2499, 90).round().astype(int)
        np.testing.assert_array_equal((picture == 255).all(axis=2), ~whole.read().valid[rows[:, None], rows])


@pytest.mark.parametrize("tolerance", [0.0, 2.0])
def test_polygons_of_a_sparse_map_are_those_of_the_same_map_in_full(tmp_path, tolerance):
    values = np.full((1700, 2300), IGNORE, np.uint8)
    coarse = np.random.default_rng(0).integers(0, 3, (60, 60)).astype(np.uint8)
    for top, left in ((0, 0), (300, 1400), (700, 100), (1200, 1800), (1220, 600)):
        values[top : top + 480, left : left + 480] = coarse.repeat(8, axis=0).repeat(8, axis=1)
    found = {}
    for name, options in (("full", {}), ("sparse", SPARSE | {"blockxsize": 64, "blockysize": 64})):
        path = world.write(tmp_path / f"{name}.tif", values, nodata=IGNORE, **options)
        with rasterio.open(path) as file:
            areas = [
                a
                for part in trace(ClassRaster(file, path), tolerance=tolerance, strip_rows=128)
                for a in zip(part.values, part.pixels, part.metres, part.polygons)
            ]
        found[name] = sorted(
            ((int(v), p, m, g.normalize().wkb) for v, p, m, g in areas), key=lambda a: (a[0], a[1], a[3])
        )
    assert [(v, p, g) for v, p, _, g in found["sparse"]] == [(v, p, g) for v, p, _, g in found["full"]]
    assert sum(p for _, p, _, _ in found["full"]) == (values != IGNORE).sum()
    np.testing.assert_allclose(
        [m for _, _, m, _ in found["sparse"]], [m for _, _, m, _ in found["full"]], rtol=1e-8
    )  # runs of a row are cut elsewhere
