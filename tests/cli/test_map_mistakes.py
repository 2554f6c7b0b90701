"""Commands that users get wrong: refused before any work, with what to do."""

import json

import pytest
import world

from labelscape.checkpoint import save
from labelscape.maps.plan import check
from labelscape.scoring.engines import TorchEngine
from labelscape.scoring.protocol import Protocol


@pytest.fixture
def stored(tmp_path):
    recipe = {"data": {"images": ["gone.tif"], "labels": ["gone.gpkg"]}}
    path = save(world.tiny_checkpoint("fcn", recipe=recipe, warmed=False), tmp_path / "m.safetensors")
    return path, world.make(tmp_path, 96, 128).scene


def test_a_map_is_asked_for_in_the_wrong_way(stored, tmp_path, run_cli):
    model, scene = stored
    out = tmp_path / "map"
    for words, said in (
        ((scene, model, "--out", out), "The checkpoint comes first, then the scene"),
        ((model, scene, "--out", out, "--name", "a/b"), "a name without folders"),
        ((model, scene, "--out", out, "--tta", "flip"), "Did you mean 'flips'?"),
        (
            ("--rerun", out / "scene_run.json", model, "--out", out, "--tta", "flips", "--no-polygons"),
            "found a checkpoint, --polygons, --tta",
        ),
    ):
        code, _, err = run_cli("map", *words)
        assert code == 2 and said in err and not out.exists()
    code, _, err = run_cli("calibrate", model)
    assert code == 1 and "gone" in err and "start from" in err


def test_another_raster_of_the_map_is_no_class_map(stored, tmp_path, run_cli):
    model, scene = stored
    assert (
        run_cli("map", model, scene, "--out", tmp_path, "--entropy", "--no-report", "--device", "cpu")[0] == 0
    )
    for kind in ("confidence", "entropy"):
        for words in (
            ("polygonize", f"scene_{kind}.tif", "x.gpkg"),
            ("sieve", f"scene_{kind}.tif", "x.tif", "--min-area", 1),
        ):
            code, _, err = run_cli(words[0], tmp_path / words[1], tmp_path / words[2], *words[3:])
            assert code == 1 and f"holds the {kind} of a map" in err
    code, _, err = run_cli("sieve", tmp_path / "scene_class.tif", tmp_path / "x.gpkg", "--min-area", 1)
    assert code == 2 and "a GeoTIFF (.tif, .tiff)" in err
    code, _, err = run_cli("polygonize", tmp_path / "scene_class.tif", "/proc/x.gpkg")
    assert code == 1 and "/proc/x.gpkg cannot be written: " in err


def test_the_plan_knows_what_the_map_will_be_asked_for(stored, run_cli, monkeypatch):
    model, scene = stored
    once = check(model, scene, device="cpu", timing=False).plan
    twice = check(
        [model, model],
        scene,
        device="cpu",
        timing=False,
        protocol=Protocol((1.0, 1.5), "flips"),
        entropy=True,
        proba=True,
    ).plan
    assert twice.ram > once.ram and twice.disk == pytest.approx(
        3 * once.disk, abs=3
    )  # classes, confidence; entropy, three probabilities
    seen = []
    real = TorchEngine.forward
    monkeypatch.setattr(
        "labelscape.scoring.engines.TorchEngine.forward",
        lambda self, image: seen.append(image.shape) or real(self, image),
    )
    code, out, _ = run_cli(
        "check",
        model,
        scene,
        "--tta",
        "flips",
        "--scales",
        "1,1.5",
        "--also",
        model,
        "--device",
        "cpu",
        "--json",
    )
    assert code == 0 and json.loads(out)["plan"]["minutes"] > 0
    # Three timings, all looks of both; what scales add is counted in pixels.
    assert len(seen) == 3 * 4 * 2
