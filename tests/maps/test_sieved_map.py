import json
import os
import subprocess
import sys

import numpy as np
import pyogrio
import pytest
import rasterio
import world

from labelscape.checkpoint import Checkpoint, save
from labelscape.contract.contract import Contract
from labelscape.errors import BadOption
from labelscape.maps.rerun import rerun
from labelscape.maps.run import map_scene
from labelscape.nets.catalog import create_model
from labelscape.scoring.engines import state_arrays


@pytest.fixture
def stored(tmp_path):
    """An untrained checkpoint, which maps nothing but specks, and a scene."""
    options = {"widths": [4, 4, 4, 4]}
    net = create_model("fcn", in_channels=3, classes=3, **options)
    save(
        Checkpoint(
            network="fcn",
            options=options,
            weights=state_arrays(net),
            legend=world.LEGEND,
            contract=Contract(bands=("1", "2", "3"), dtype="uint16", normalisation=((4500.0, 2000.0),) * 3),
        ),
        tmp_path / "m.safetensors",
    )
    return tmp_path / "m.safetensors", world.make(tmp_path, 200, 260).scene


def read(path):
    with rasterio.open(path) as file:
        return file.read(1)


def test_a_sieved_map_lies_beside_the_map(stored, tmp_path, run_cli):
    model, scene = stored
    plain = map_scene(model, scene, tmp_path / "plain", device="cpu", reject=0.45)
    code, out, err = run_cli(
        "map", model, scene, "--out", tmp_path / "map", "--device", "cpu", "--reject", 0.45, "--sieve", 1
    )
    assert code == 0, err
    assert "merged into a neighbour" in out and "scene_sieved.tif" in out
    folder = tmp_path / "map"
    assert (folder / "scene_class.tif").read_bytes() == plain.paths["class"].read_bytes()
    before, after = read(folder / "scene_class.tif"), read(folder / "scene_sieved.tif")
    assert (before != after).any()
    np.testing.assert_array_equal(before == 255, after == 255)
    _, _, _, (values, _, pixels, hectares) = pyogrio.raw.read(
        folder / "scene_polygons.gpkg", layer="land_cover"
    )
    assert {v: pixels[values == v].sum() for v in set(values)} == {
        v: (after == v).sum() for v in set(after.ravel()) - {255}
    }
    assert hectares.min() >= 1 - 1e-6 and len(values) < len(
        pyogrio.raw.read(plain.paths["polygons"], layer="land_cover")[2]
    )
    run = json.loads((folder / "scene_run.json").read_text())
    assert (
        run["options"]["sieve"] == 1
        and run["sieved"]["given"] > 0
        and run["sieved"]["changed_pixels"] == (before != after).sum()
    )
    assert (
        run["areas"] == json.loads(plain.paths["run"].read_text())["areas"]
        and run["files"]["sieved"] == "scene_sieved.tif"
    )
    item = json.loads((folder / "scene_stac.json").read_text())
    assert (
        len(item["assets"]["sieved"]["classification:classes"]) == 5 and item["assets"]["sieved"]["file:size"]
    )
    page = (folder / "scene_report.html").read_text()
    assert "areas below 1 ha merged into a neighbour" in page and "The polygons are of this map" in page
    again = rerun(folder / "scene_run.json", tmp_path / "again")
    assert again.paths["sieved"].read_bytes() == (folder / "scene_sieved.tif").read_bytes()


def test_a_map_killed_while_it_is_sieved_goes_on(stored, tmp_path):
    model, scene = stored
    whole = map_scene(model, scene, tmp_path / "whole", device="cpu", report=False, sieve=1)
    script = f"""
import os, signal
import labelscape.areas.sieve as s
s._Sieve.decided = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
from labelscape.maps.run import map_scene
map_scene({str(model)!r}, {str(scene)!r}, {str(tmp_path / "map")!r}, device="cpu", report=False, sieve=1)
"""
    assert subprocess.run([sys.executable, "-c", script], env={**os.environ}).returncode == -9
    assert (tmp_path / "map" / "scene_class.tif").exists() and not (
        tmp_path / "map" / "scene_sieved.tif"
    ).exists()
    done = map_scene(model, scene, tmp_path / "map", device="cpu", report=False, sieve=1)
    assert done.paths["sieved"].read_bytes() == whole.paths["sieved"].read_bytes()
    assert {f.name for f in (tmp_path / "map").iterdir()} == {f.name for f in (tmp_path / "whole").iterdir()}


def test_what_polygons_and_sieve_ask_for_is_refused_before_the_work(stored, tmp_path):
    model, scene = stored
    flat = world.make(tmp_path, 60, 80, crs=None, name="flat").scene
    for source, options in (
        (scene, {"sieve": -1}),
        (scene, {"simplify": -1}),
        (scene, {"min_area": float("inf")}),
        (flat, {"min_area": 0.1}),
    ):
        with pytest.raises(BadOption):
            map_scene(model, source, tmp_path / "map", device="cpu", **options)
        assert not (tmp_path / "map").exists()
    assert (
        map_scene(model, flat, tmp_path / "map", device="cpu", report=True, sieve=20)
        .sieved.classes[0]
        .hectares
        is None
    )  # in pixels
