import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import rasterio
import torch
import world
from affine import Affine
from rasterio.crs import CRS
from small_networks import SMALL

from labelscape.checkpoint import Checkpoint, save
from labelscape.contract.contract import Contract
from labelscape.datasets.own import open_dataset
from labelscape.errors import BadFile, BadInput
from labelscape.evaluation.confusion import count
from labelscape.evaluation.measure import evaluate
from labelscape.labels.rules import LabelRules
from labelscape.legend import IGNORE
from labelscape.maps.journal import tile_key
from labelscape.maps.plan import check
from labelscape.maps.request import MapRequest
from labelscape.maps.result import MapResult
from labelscape.maps.run import map_scene
from labelscape.nets.catalog import create_model
from labelscape.scenes.array import ArrayScene
from labelscape.scenes.mosaic import MosaicScene, open_scene, seen_as
from labelscape.scenes.raster import Scene
from labelscape.scoring.engines import state_arrays
from labelscape.scoring.scorer import Scorer, predict
from labelscape.scoring.stitch import plan_for, score_tiles

QUICK = {"report": False, "device": "cpu"}


def random_checkpoint(network="fcn", bands=3, *, scale=(4500.0, 2000.0), seed=0, names=None, **options):
    """An untrained network with batch statistics that are not trivial: good enough to tell right pixels
    from wrong ones.
    """
    torch.manual_seed(seed)
    net = create_model(network, in_channels=bands, classes=3, widths=(8, 8, 8, 8), **options)
    with torch.no_grad():
        net.train()
        for _ in range(20):
            net(torch.randn(2, bands, 64, 64))
    return Checkpoint(
        network=network,
        options={"widths": [8, 8, 8, 8], **options},
        weights=state_arrays(net),
        legend=world.LEGEND,
        contract=Contract(
            bands=names or tuple(str(i + 1) for i in range(bands)),
            dtype="uint16",
            normalisation=(scale,) * bands,
        ),
    )


@pytest.mark.parametrize("network", ["fcn", "unpooling", "skip", "mlp"])
@pytest.mark.parametrize("size", [(300, 410), (203, 517)])
def test_tiles_leave_no_trace(tmp_path, network, size):
    options = {"hidden": 16} if network == "mlp" else {}
    checkpoint = random_checkpoint(network, **options)
    w = world.make(tmp_path, *size)
    scorer = Scorer.of(checkpoint, device="cpu")
    with Scene(w.scene) as scene:
        whole = scorer.score(scene.read().pixels).numpy()
        plan = plan_for(scorer, scene, tile_size=2 * (scorer.reach + 16) + 96)
        assert len(plan) > 1
        for tile in score_tiles(scorer, scene, plan):
            expected = whole[(slice(None), *tile.window.inset_of(scene.grid.window))]
            np.testing.assert_allclose(tile.probabilities.numpy(), expected, atol=2e-5)


@pytest.mark.parametrize(
    ("dtype", "bands", "crs", "transform", "nodata"),
    [
        ("uint16", 9, world.UTM, world.NORTH_UP, 0),
        ("uint8", 3, world.UTM, world.ROTATED, None),
        ("float32", 1, CRS.from_epsg(4326), world.DEGREES, -9999),
        ("int16", 4, CRS.from_epsg(3857), Affine(0.5, 0, 9.5e6, 0, -0.5, 3.2e6), -1),
    ],
)
def test_mapping_a_scene_gives_the_counts_of_evaluate(tmp_path, dtype, bands, crs, transform, nodata):
    w = world.make(tmp_path, 219, 331, bands=bands, dtype=dtype, crs=crs, transform=transform, nodata=nodata)
    labels = world.label_raster(w, tmp_path / "labels.tif")
    checkpoint = random_checkpoint(
        "skip",
        bands,
        scale=(0.5, 0.3) if dtype == "float32" else (100.0, 50.0) if dtype == "uint8" else (4500.0, 2000.0),
    )
    result = map_scene(checkpoint, w.scene, tmp_path / "map", proba=True, tile_size=300, **QUICK)
    with rasterio.open(result.paths["class"]) as file:
        mapped = file.read(1)
        assert file.crs == crs
        assert file.transform.almost_equals(transform)
    with open_dataset([w.scene], [labels], spec=LabelRules(legend=checkpoint.legend)) as dataset:
        found = evaluate(checkpoint, dataset, tile_size=300, device="cpu").confusion
        truth = dataset.scenes[0].read(dataset.scenes[0].scene.grid.window)[1]
    np.testing.assert_array_equal(count(truth, mapped, 3).counts, found.counts)
    assert found.labelled == (truth != IGNORE).sum()
    void = np.zeros(w.classes.shape, bool)
    if nodata is not None:
        void[: 219 // 3, : 331 // 3] = True
    np.testing.assert_array_equal(mapped == IGNORE, void)
    for kind in ("confidence", "proba"):
        with rasterio.open(result.paths[kind]) as file:
            np.testing.assert_array_equal((file.read() == IGNORE).any(axis=0), void)
    with rasterio.open(result.paths["proba"]) as file:
        assert np.abs(file.read()[:, ~void].astype(int).sum(axis=0) - 250).max() <= 2
    assert [a.pixels for a in result.areas] == np.bincount(mapped[~void], minlength=3).tolist()
    assert result.nodata_pixels == void.sum()


def test_areas_are_hectares_on_the_ellipsoid(tmp_path):
    w = world.make(tmp_path, 200, 300, crs=CRS.from_epsg(3857), transform=Affine(10, 0, 1.5e6, 0, -10, 6.8e6))
    result = map_scene(random_checkpoint(), w.scene, tmp_path / "map", **QUICK)
    with Scene(w.scene) as scene:
        assert sum(a.hectares for a in result.areas) == pytest.approx(
            scene.grid.ground_area(scene.grid.window) / 1e4, rel=1e-4
        )
    assert sum(a.hectares for a in result.areas) < 0.5 * 200 * 300 * 0.01  # Web Mercator at 52 degrees north


def test_pictures_without_coordinates_and_tiny_scenes(tmp_path):
    for size in ((1, 1), (5, 40), (16, 16)):
        pixels = np.full((3, *size), 80, np.uint8)
        path = world.write(tmp_path / f"street{size[0]}.png", pixels, crs=None, driver="PNG")
        checkpoint = random_checkpoint(names=("red", "green", "blue"), scale=(100.0, 50.0))
        result = map_scene(checkpoint, path, tmp_path / "map", **QUICK)
        with rasterio.open(result.paths["class"]) as file:
            assert file.shape == size
            assert file.crs is None
            assert (file.read(1) != IGNORE).all()
        assert result.areas[0].hectares is None


def test_bands_are_found_by_name_whatever_their_order(tmp_path):
    w = world.make(tmp_path, 64, 64, bands=4)
    with rasterio.open(w.scene, "r+") as file:
        file.descriptions = ("red", "green", "blue", "nir")
    checkpoint = random_checkpoint(names=("nir", "red", "green"))
    expected = predict(checkpoint, w.pixels[[3, 0, 1]]).argmax(axis=0)
    result = map_scene(checkpoint, w.scene, tmp_path / "map", **QUICK)
    with rasterio.open(result.paths["class"]) as file:
        np.testing.assert_array_equal(file.read(1), expected)
    with pytest.raises(BadInput, match=r"has 4 bands \(red green blue nir\); this model reads 2 \(B8 B4\)"):
        map_scene(random_checkpoint(bands=2, names=("B8", "B4")), w.scene, tmp_path / "other", **QUICK)


def test_what_differs_from_training_is_said(tmp_path):
    w = world.make(tmp_path, 64, 64, dtype="float32")
    result = map_scene(random_checkpoint(), w.scene, tmp_path / "map", **QUICK)
    assert any("float32" in note and "uint16" in note for note in result.notes)


@pytest.mark.parametrize(("side", "told"), [(256, True), (512, False)])
def test_tiles_that_see_many_times_what_they_map_are_told(tmp_path, side, told):
    w = world.make(tmp_path, 500, 600)
    result = map_scene(random_checkpoint(), w.scene, tmp_path / "map", tile_size=side, **QUICK)
    notes = [note for note in result.notes if "for each one mapped" in note]
    assert len(notes) == told
    assert not told or f"{result.forward_share:.0f} pixels are predicted for each one mapped" in notes[0]
    assert (result.forward_share > 4) == told


def test_nothing_is_overwritten_or_half_written(tmp_path):
    w = world.make(tmp_path, 700, 900)
    checkpoint = random_checkpoint()
    result = map_scene(checkpoint, w.scene, tmp_path / "map", polygons=False, **QUICK)
    before = {p.name: p.read_bytes() for p in (tmp_path / "map").iterdir()}
    with pytest.raises(BadFile, match="overwrite=True"):
        map_scene(checkpoint, w.scene, tmp_path / "map", polygons=False, **QUICK)
    broken = tmp_path / "broken"
    broken.mkdir()
    cut = broken / "scene.tif"
    cut.write_bytes(w.scene.read_bytes()[: w.scene.stat().st_size * 3 // 4])
    with pytest.raises(BadFile, match="truncated or damaged"):
        map_scene(checkpoint, cut, tmp_path / "map", tile_size=256, polygons=False, overwrite=True, **QUICK)
    assert {p.name: p.read_bytes() for p in (tmp_path / "map").iterdir() if p.is_file()} == before
    again = map_scene(checkpoint, w.scene, tmp_path / "map", polygons=False, overwrite=True, **QUICK)
    assert again.paths["class"].read_bytes() == before[result.paths["class"].name]


def test_files_of_an_earlier_map_are_told_apart(tmp_path):
    w = world.make(tmp_path, 200, 150)
    first = map_scene(
        random_checkpoint(), w.scene, tmp_path / "map", proba=True, polygons_as="geojson", **QUICK
    )
    assert not any("earlier" in note for note in first.notes)
    second = map_scene(random_checkpoint(seed=1), w.scene, tmp_path / "map", overwrite=True, **QUICK)
    (note,) = [note for note in second.notes if "earlier" in note]
    assert "scene_proba.tif, scene_polygons.geojson" in note and "scene_class.tif" not in note


def test_a_scene_of_nothing_is_refused(tmp_path):
    path = world.write(tmp_path / "void.tif", np.zeros((3, 50, 50), np.uint16), nodata=0)
    with pytest.raises(BadInput, match="no valid pixel"):
        map_scene(random_checkpoint(), path, tmp_path / "map", **QUICK)
    assert not list(tmp_path.glob("map/*.tif"))


def test_the_run_file_says_how_the_map_was_made(tmp_path):
    w = world.make(tmp_path, 64, 64)
    path = save(random_checkpoint(), tmp_path / "model.safetensors")
    result = map_scene(path, w.scene, tmp_path / "map", **QUICK)
    run = json.loads(result.paths["run"].read_text())
    assert len(run["models"][0]["sha256"]) == 64
    assert run["scene"] == str(w.scene)
    assert run["network"] == "fcn"
    assert run["halo"] % 16 == 0
    assert sum(a["pixels"] for a in run["areas"]) == 64 * 64


AREAS = {
    "at its borders": [(0, 0, 90, 130), (120, 170, 80, 130)],
    "in the middle": [(83, 101, 41, 67)],
    "two apart": [(31, 17, 20, 30), (150, 220, 33, 45)],
    "one pixel": [(99, 150, 1, 1)],
    "its corner": [(198, 297, 2, 3)],
    "its last row": [(199, 40, 1, 200)],
}
SHARED = {"polygons": False, "report": False, "device": "cpu"}


def area_of(w: world.World, path: Path, rectangles: list[tuple[int, int, int, int]]) -> Path:
    each = [json.loads(world.rectangle(w, path, *one).read_text()) for one in rectangles]
    path.write_text(json.dumps({**each[0], "features": [f for one in each for f in one["features"]]}))
    return path


def same_inside(part: MapResult, whole: MapResult, rectangles: list[tuple[int, int, int, int]]) -> None:
    """The part's rasters are those of the whole inside of the rectangles, and nodata elsewhere."""
    top, left = (min(one[axis] for one in rectangles) for axis in (0, 1))
    for kind in ("class", "confidence"):
        with rasterio.open(part.paths[kind]) as file, rasterio.open(whole.paths[kind]) as full:
            found, nodata = file.read(1), file.nodata
            wanted = full.read(1)[top:, left:][: file.height, : file.width]
            assert file.transform @ (0, 0) == pytest.approx(full.transform @ (left, top))
        inside = np.zeros(found.shape, bool)
        for y, x, height, width in rectangles:
            inside[y - top : y - top + height, x - left : x - left + width] = True
        np.testing.assert_array_equal(found[inside], wanted[inside])
        assert (found[~inside] == nodata).all()


@pytest.mark.parametrize("area", AREAS)
@pytest.mark.parametrize(
    ("network", "how"),
    [
        ("skip", {"tile_size": 160, "overlap": 32, "blend": "hann"}),
        ("skip", {"tile_size": 160, "overlap": 32, "blend": "crop"}),
        ("skip", {"tile_size": 160, "overlap": 32, "blend": "none"}),
        ("fcn", {}),
        ("mlp", {"tile_size": 240}),
        ("unpooling", {"tta": "flips"}),
        ("pspnet", {}),
    ],
)
def test_the_map_of_an_area_is_that_piece_of_the_map_of_the_whole_scene(tmp_path, network, how, area):
    """Beyond its bounds the network sees the ground, in tiles that lie where those of the whole scene do."""
    w = world.make(tmp_path, 200, 300)
    model = world.tiny_checkpoint(
        "skip" if network == "pspnet" else network,
        like=w.scene,
        **({"hidden": 16} if network == "mlp" else {}),
    )
    if network == "pspnet":
        # A network of the whole tile, mapped in tiles of what it learned.
        net = create_model(network, in_channels=3, classes=3, **SMALL[network])
        options, weights = dict(SMALL[network]), state_arrays(net)
        model = replace(model, network=network, options=options, weights=weights, recipe={"crop": 96})
    rectangles = AREAS[area]
    path = area_of(w, tmp_path / "area.geojson", rectangles)
    part = map_scene(model, w.scene, tmp_path / "part", area=path, **SHARED, **how)
    whole = map_scene(model, w.scene, tmp_path / "whole", **SHARED, **how)
    same_inside(part, whole, rectangles)
    assert not [note for note in part.notes if "beyond" in note]


@pytest.mark.parametrize("blend", ["crop", "hann"])
def test_an_area_of_a_mosaic_in_other_units_is_that_piece_too(tmp_path, blend):
    """Two files beside each other that declare their units: values are converted, and the ground around the
    area lies in both of them.
    """
    w = world.make(tmp_path, 200, 300)
    files = []
    for number, columns in enumerate((slice(0, 140), slice(140, 300))):
        place = w.transform @ Affine.translation(columns.start, 0)
        path = world.write(tmp_path / f"part{number}.tif", w.pixels[..., columns], transform=place)
        with rasterio.open(path, "r+") as file:
            file.scales, file.offsets = (0.0002,) * 3, (-0.1,) * 3
        files.append(str(path))
    model = world.tiny_checkpoint(like=w.scene)
    rectangles = [(70, 110, 61, 60)]
    path = area_of(w, tmp_path / "area.geojson", rectangles)
    how = {"tile_size": 160, "overlap": 32, "blend": blend, "force": True, **SHARED}
    part = map_scene(model, files, tmp_path / "part", area=path, **how)
    whole = map_scene(model, files, tmp_path / "whole", **how)
    same_inside(part, whole, rectangles)


def test_an_area_far_north_in_web_mercator_has_the_models_pixels(tmp_path):
    """From the equator to 47 degrees: at its middle the scene's pixels are a third wider than in the area."""
    mercator, place = CRS.from_epsg(3857), Affine(20_000, 0, 0, 0, -20_000, 6_000_000)
    w = world.make(tmp_path, 300, 60, transform=place, crs=mercator)
    path = area_of(w, tmp_path / "area.geojson", [(4, 10, 20, 30)])
    with open_scene(w.scene, area=path) as scene, seen_as(scene, pixel_size=40_000) as coarse:
        assert scene.grid.ground_pixel_size < 14_500
        assert coarse.grid.ground_pixel_size == pytest.approx(40_000, rel=0.02)


def test_an_area_in_memory_is_that_piece_too(tmp_path):
    w = world.make(tmp_path, 200, 300)
    model = world.tiny_checkpoint(like=w.scene)
    rectangles = [(70, 110, 61, 60)]
    path = area_of(w, tmp_path / "area.geojson", rectangles)
    with open_scene(w.scene, area=path) as scene, scene.hold() as held:
        part = map_scene(model, held, tmp_path / "part", **SHARED)
    same_inside(part, map_scene(model, w.scene, tmp_path / "whole", **SHARED), rectangles)


def test_an_area_reads_no_more_of_a_large_scene_than_its_tiles(tmp_path, monkeypatch):
    w = world.make(tmp_path, 400, 1200)
    model = world.tiny_checkpoint(like=w.scene)
    path = area_of(w, tmp_path / "area.geojson", [(180, 600, 20, 20)])
    seen, real = [], MosaicScene.read
    monkeypatch.setattr(
        MosaicScene, "read", lambda self, window=None, *more: seen.append(window) or real(self, window, *more)
    )
    map_scene(model, w.scene, tmp_path / "out", area=path, **SHARED)
    reach = Scorer.of(model, device="cpu").reach
    assert max(max(window.shape) for window in seen) <= 20 + 2 * (reach + 16)
    seen.clear()
    map_scene(
        model, w.scene, tmp_path / "tiles", area=path, tile_size=160, overlap=32, blend="hann", **SHARED
    )
    # Of 5 x 13 tiles one answers, or it and its neighbours above and at the left.
    assert sum(window.shape == (160, 160) for window in set(seen)) <= 4


@pytest.mark.parametrize(
    ("network", "how"),
    [
        # Without overlap, or blended, tiles of a network of a small reach are not exact.
        ("fcn", {"tile_size": 160, "blend": "none"}),
        ("mlp", {"tile_size": 160, "blend": "none"}),
        ("fcn", {"tile_size": 400, "blend": "hann"}),
    ],
)
def test_the_map_of_an_area_is_that_piece_where_tiles_are_not_exact(tmp_path, network, how):
    w = world.make(tmp_path, 400, 500)
    model = world.tiny_checkpoint(network, like=w.scene, **({"hidden": 16} if network == "mlp" else {}))
    rectangles = [(131, 207, 41, 67)]
    path = area_of(w, tmp_path / "area.geojson", rectangles)
    part = map_scene(model, w.scene, tmp_path / "part", area=path, **SHARED, **how)
    whole = map_scene(model, w.scene, tmp_path / "whole", **SHARED, **how)
    same_inside(part, whole, rectangles)


@pytest.mark.parametrize("transform", [world.NORTH_UP, world.ROTATED])
@pytest.mark.parametrize("pixel_size", [20, 23, 30])
def test_an_area_of_a_finer_scene_is_that_piece_too(tmp_path, pixel_size, transform):
    """Resampled to the model's pixels, which begin where those of the whole scene do."""
    w = world.make(tmp_path, 301, 403, transform=transform)
    model = world.tiny_checkpoint(like=w.scene)
    model = replace(model, contract=replace(model.contract, pixel_size=pixel_size))
    path = area_of(w, tmp_path / "area.geojson", [(131, 207, 41, 67), (29, 300, 33, 103)])
    part = map_scene(model, w.scene, tmp_path / "part", area=path, **SHARED)
    whole = map_scene(model, w.scene, tmp_path / "whole", **SHARED)
    for kind in ("class", "confidence"):
        with rasterio.open(part.paths[kind]) as file, rasterio.open(whole.paths[kind]) as full:
            found, nodata = file.read(1), file.nodata
            left, top = ~full.transform @ (file.transform.c, file.transform.f)
            assert (left, top) == pytest.approx((round(left), round(top)), abs=1e-6)
            wanted = full.read(1)[round(top) :, round(left) :][: file.height, : file.width]
        mapped = found != nodata
        assert mapped.sum() > 0.9 * (41 * 67 + 33 * 103) * (10 / pixel_size) ** 2
        np.testing.assert_array_equal(found[mapped], wanted[mapped])


def test_what_is_told_of_an_areas_cost_counts_all_that_the_network_sees(tmp_path):
    """One tile of 160 pixels is as large for a small area, and those blended with it are predicted too."""
    w = world.make(tmp_path, 400, 1200)
    model = world.tiny_checkpoint(like=w.scene)
    how = {"tile_size": 160, "overlap": 32, "blend": "hann", "timing": False, "device": "cpu"}
    path = area_of(w, tmp_path / "area.geojson", [(180, 600, 20, 20)])
    part, whole = check(model, w.scene, area=path, **how).plan, check(model, w.scene, **how).plan
    assert part.tiles == 1
    one = area_of(w, tmp_path / "one.geojson", [(190, 610, 1, 1)])
    assert not [f for f in check(model, w.scene, area=one, **how).findings if f.kind == "small"]
    assert part.forward_share == pytest.approx(4 * 160**2 / 20**2)
    # The last tile leaves less in memory than many do.
    assert part.ram > 0.5 * whole.ram


def test_tiles_of_an_area_at_several_scales_are_those_that_it_is_made_of(tmp_path):
    w = world.make(tmp_path, 400, 1200)
    model = world.tiny_checkpoint(like=w.scene)
    how = {"tile_size": 160, "overlap": 32, "blend": "crop", "scales": (0.75, 1), "device": "cpu"}
    path = area_of(w, tmp_path / "area.geojson", [(200, 610, 20, 20)])
    told = check(model, w.scene, area=path, timing=False, **how).plan
    # One at each scale; all of the scene are 4 x 10 and 5 x 13.
    assert told.tiles == 2 and check(model, w.scene, timing=False, **how).plan.tiles == 4 * 10 + 5 * 13
    made = map_scene(model, w.scene, tmp_path / "part", area=path, **how)
    assert made.tiles == 2 and json.loads(made.paths["run"].read_text())["tiles"] == 2


def test_a_scene_in_memory_that_changed_beside_its_area_is_not_resumed(tmp_path):
    """The network sees what lies around the area: it is part of what a begun map is of."""
    w = world.make(tmp_path, 200, 300)
    model = world.tiny_checkpoint(like=w.scene)
    path = area_of(w, tmp_path / "area.geojson", [(83, 101, 41, 67)])
    request, scorer = MapRequest(area=path), Scorer.of(model, device="cpu")

    def key(pixels: np.ndarray) -> dict:
        with open_scene(ArrayScene(pixels, w.transform, w.crs), area=path) as scene:
            return tile_key(request, [model], scene, plan_for(scorer, scene), "cpu")

    changed = w.pixels.copy()
    changed[:, 70, 120] += 100
    assert key(w.pixels) == key(w.pixels.copy())
    assert key(w.pixels) != key(changed)
