"""One more raster is one more row: written, kept while the map is unfinished, counted, listed, described."""

import json
import subprocess
import sys

import numpy as np
import pytest
import rasterio
import torch
import world

import labelscape.maps.outputs as outputs
import labelscape.maps.rasters as rasters
from labelscape.checkpoint import Checkpoint
from labelscape.contract.contract import Contract
from labelscape.errors import BadFile
from labelscape.maps.plan import check
from labelscape.maps.run import map_scene
from labelscape.nets.catalog import create_model
from labelscape.scoring.engines import state_arrays

QUICK = {"report": False, "polygons": False, "device": "cpu", "tile_size": 128, "overlap": 16}


def margin(tile, reject):
    """How far the likeliest class is ahead of the next, per cent; and 7 everywhere, a band more."""
    best, second = tile.probabilities.topk(2, dim=0).values
    ahead = ((best - second) * 100).round().to(torch.uint8).numpy()
    ahead[~tile.valid] = 255
    return np.stack([ahead, np.where(tile.valid, 7, 255).astype(np.uint8)])


MARGIN = outputs.RasterOutput(
    kind="margin",
    ending="_margin.tif",
    holds="Lead of the class shown over the next",
    title="Lead of the class shown",
    roles=("data", "lead"),
    band_names=lambda legend: ("lead (%)", f"seven of {len(legend)}"),
    render=margin,
    tags={"scale": "1/100"},
)


@pytest.fixture
def checkpoint():
    torch.manual_seed(0)
    net = create_model("fcn", in_channels=3, classes=3, widths=(4, 4, 4, 4))
    return Checkpoint(
        network="fcn",
        options={"widths": [4, 4, 4, 4]},
        weights=state_arrays(net),
        legend=world.LEGEND,
        contract=Contract(bands=("1", "2", "3"), dtype="uint16", normalisation=((4500.0, 2000.0),) * 3),
    )


def test_a_row_more_is_found_everywhere(tmp_path, checkpoint, monkeypatch):
    scene = world.make(tmp_path, 600, 700, nodata=0).scene
    before = check(checkpoint, scene, timing=False, device="cpu").plan
    plain = map_scene(checkpoint, scene, tmp_path / "plain", proba=True, **QUICK)
    monkeypatch.setattr(outputs, "RASTERS", (outputs.RASTERS[0], MARGIN, *outputs.RASTERS[1:]))
    after = check(checkpoint, scene, timing=False, device="cpu").plan
    assert after.disk == pytest.approx(2 * before.disk, abs=3)  # two planes were two, and are four

    real, scored = rasters.planes_of, []

    def stopped(tile, *arguments):
        scored.append(tile.window)
        if len(scored) == 4:
            raise KeyboardInterrupt
        return real(tile, *arguments)

    monkeypatch.setattr(rasters, "planes_of", stopped)
    with pytest.raises(KeyboardInterrupt):
        map_scene(checkpoint, scene, tmp_path / "map", proba=True, **QUICK)
    kept = next((tmp_path / "map" / ".scene.unfinished").glob("*.tif"))
    with rasterio.open(kept) as file:
        assert file.count == 1 + 2 + 1 + 3
    made = map_scene(checkpoint, scene, tmp_path / "map", proba=True, **QUICK)

    assert made.paths["margin"].name == "scene_margin.tif"
    with rasterio.open(made.paths["margin"]) as file, rasterio.open(made.paths["proba"]) as proba:
        assert file.descriptions == ("lead (%)", "seven of 3") and file.tags()["scale"] == "1/100"
        ahead, seven = file.read()
        ranked = np.sort(proba.read() / 2.5, axis=0)
    assert np.abs(ahead - (ranked[-1] - ranked[-2]))[seven == 7].max() <= 1
    assert (ahead == 255).sum() == (seven == 255).sum() == made.nodata_pixels > 0
    for kind in ("class", "confidence", "proba"):
        assert made.paths[kind].read_bytes() == plain.paths[kind].read_bytes()
    assert json.loads(made.paths["run"].read_text())["files"]["margin"] == "scene_margin.tif"
    asset = json.loads(made.paths["stac"].read_text())["assets"]["margin"]
    assert (asset["title"], asset["roles"]) == ("Lead of the class shown", ["data", "lead"])

    with pytest.raises(BadFile, match="overwrite=True"):  # its file is in the way like any other
        made.paths["class"].unlink()
        made.paths["confidence"].unlink()
        made.paths["proba"].unlink()
        map_scene(checkpoint, scene, tmp_path / "map", **QUICK)
    monkeypatch.undo()
    later = map_scene(checkpoint, scene, tmp_path / "map", overwrite=True, **QUICK)
    assert "margin" not in later.paths
    row = outputs.RASTERS + (MARGIN,)
    monkeypatch.setattr(outputs, "RASTERS", row)
    assert outputs.leftover_files(tmp_path / "map", "scene", later.paths) == ["scene_margin.tif"]


def test_kinds_and_endings_are_unique():
    rows = (*outputs.RASTERS, *outputs.MADE_OF_THEM)
    assert len({row.kind for row in rows}) == len({row.ending for row in rows}) == len(rows)
    assert outputs.RASTERS[0].classes, "areas and seams are counted on the first plane"


def test_half_written_files_of_a_killed_map_go_whatever_is_written_next(tmp_path, checkpoint):
    scene = world.make(tmp_path, 96, 128).scene
    out = tmp_path / "map"
    out.mkdir()
    program = (
        "import os, sys\nfrom labelscape.files import locked, private_folder, written_whole\n"
        "with locked(sys.argv[1] + '/old'), private_folder(sys.argv[1]) as folder:\n"
        "    (folder / 'tiles.tif').touch()\n"
        "    with written_whole(sys.argv[1] + '/a.gpkg') as part:\n"
        "        part.touch()\n        os.kill(os.getpid(), 9)\n"
    )
    subprocess.run([sys.executable, "-c", program, str(out)])
    assert len(list(out.glob(".*"))) == 3
    others = {".scene2_proba.tiles.tif", ".scene_notes.txt", ".hidden"}
    for name in others:
        (out / name).touch()
    map_scene(checkpoint, scene, out, **QUICK)
    assert {path.name for path in out.glob(".*")} == others
