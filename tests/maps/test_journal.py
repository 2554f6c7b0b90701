"""A map that was stopped goes on: the same bytes, nothing scored twice; and seams are counted as they are
defined.
"""

import os
import subprocess
import sys
import time
from dataclasses import replace

import numpy as np
import pytest
import rasterio
import torch
import world
from interrupted import stopped_after_a_tile

import labelscape.maps.rasters as rasters
from labelscape.checkpoint import Checkpoint, save
from labelscape.contract.contract import Contract
from labelscape.errors import BadFile, BadOption
from labelscape.grid import Window
from labelscape.legend import IGNORE
from labelscape.maps.journal import Journal, is_begun, tile_key
from labelscape.maps.request import MapRequest
from labelscape.maps.run import map_scene
from labelscape.maps.seams import Seams
from labelscape.nets.catalog import create_model
from labelscape.scenes.raster import Scene
from labelscape.scoring.engines import state_arrays
from labelscape.scoring.scorer import Scorer
from labelscape.scoring.tiles import TilePlan
from labelscape.workers.store import Folder

QUICK = {"report": False, "device": "cpu", "tile_size": 128, "overlap": 16, "proba": True, "entropy": True}


@pytest.fixture
def checkpoint():
    torch.manual_seed(0)
    net = create_model("skip", in_channels=3, classes=3, widths=(8, 8, 8, 8))
    for _ in range(10):
        net(torch.randn(2, 3, 64, 64))
    return Checkpoint(
        network="skip",
        options={"widths": [8, 8, 8, 8]},
        weights=state_arrays(net),
        legend=world.LEGEND,
        contract=Contract(bands=("1", "2", "3"), dtype="uint16", normalisation=((4500.0, 2000.0),) * 3),
    )


def bytes_of(folder):
    return {
        path.name: path.read_bytes() for path in sorted(folder.iterdir()) if path.suffix in (".tif", ".xml")
    }


@pytest.mark.parametrize("stops", [[0], [3], [2, 1, 4]])
def test_a_map_stopped_anywhere_has_the_same_bytes_in_the_end(tmp_path, checkpoint, monkeypatch, stops):
    w = world.make(tmp_path, 300, 410, nodata=0)
    whole = map_scene(checkpoint, w.scene, tmp_path / "whole", **QUICK)
    real, scored = rasters.planes_of, []

    def counted(tile, *arguments, **options):
        if stops and len(scored) == sum(stopped) + stops[0]:
            stopped.append(stops.pop(0))
            raise KeyboardInterrupt
        scored.append(tile.window)
        return real(tile, *arguments, **options)

    stopped: list[int] = []
    monkeypatch.setattr(rasters, "planes_of", counted)
    for _ in range(len(stops)):
        with pytest.raises(KeyboardInterrupt):
            map_scene(checkpoint, w.scene, tmp_path / "broken", **QUICK)
        assert not list((tmp_path / "broken").glob("[!.]*.tif"))
    result = map_scene(checkpoint, w.scene, tmp_path / "broken", **QUICK)
    assert bytes_of(tmp_path / "broken") == bytes_of(tmp_path / "whole")
    assert len(scored) == len(set(scored))  # no tile was scored twice
    assert result.areas == whole.areas
    assert (result.seam, result.nodata_pixels) == (whole.seam, whole.nodata_pixels)
    assert not list((tmp_path / "broken").glob(".*"))


def test_sigkill_in_the_middle_loses_only_the_tile_at_work(tmp_path, checkpoint):
    w = world.make(tmp_path, 1100, 1300)
    save(checkpoint, tmp_path / "m.safetensors")
    program = (
        "import sys, time, labelscape.maps.rasters as r\nfrom labelscape.maps.run import map_scene\nreal = "
        "r.planes_of\n"
        "def slow(*a, **k):\n    time.sleep(0.02)\n    return real(*a, **k)\nr.planes_of = slow\n"
        f"map_scene(sys.argv[1], sys.argv[2], sys.argv[3], **{QUICK!r})\n"
    )
    arguments = [sys.executable, "-c", program, str(tmp_path / "m.safetensors"), str(w.scene)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    subprocess.run([*arguments, str(tmp_path / "whole")], env=environment, check=True, capture_output=True)
    folder = tmp_path / "killed" / ".scene.unfinished"

    def kept():
        return len(list(folder.glob("[!.]*.tif")))

    for more in (3, 20):
        command = [*arguments, str(tmp_path / "killed")]
        with subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL) as process:
            while kept() < more and process.poll() is None:
                time.sleep(0.002)
            process.kill()
        assert kept() >= more
    subprocess.run([*arguments, str(tmp_path / "killed")], env=environment, check=True, capture_output=True)
    assert bytes_of(tmp_path / "killed") == bytes_of(tmp_path / "whole")


def test_a_tile_is_kept_for_its_own_key_and_as_long_as_it_is_whole(tmp_path, checkpoint):
    w = world.make(tmp_path, 300, 410)
    core, planes = Window(0, 0, 4, 6), np.arange(48, dtype=np.uint8).reshape(2, 4, 6)
    plan = TilePlan(Window(0, 0, 300, 410), 96, 16)
    with Scene(w.scene) as scene:
        keys = [
            tile_key(MapRequest(**changes), [model], scene, plan, "cpu")
            for changes, model in (
                ({}, checkpoint),
                ({"report": False, "sieve": 2}, checkpoint),
                ({"nodata": 3}, checkpoint),
                ({}, replace(checkpoint, temperature=2.0)),
            )
        ]
    Journal(Folder(tmp_path / "j"), keys[0], ("class", "confidence")).save(core, planes)
    again = Journal(Folder(tmp_path / "j"), keys[1], ("class", "confidence"))
    assert again.found == 1 and is_begun(Folder(tmp_path / "j"), keys[0])
    np.testing.assert_array_equal(again.load(core), planes)
    for other in keys[2:]:
        assert not is_begun(Folder(tmp_path / "j"), other)
    file = next((tmp_path / "j").glob("*.tif"))
    file.write_bytes(file.read_bytes()[:-40])
    assert again.load(core) is None
    for other, said in zip(keys[2:], ("nodata None, now 3.0", "another checkpoint")):
        Journal(Folder(tmp_path / "j"), keys[0], overwrite=True).save(core, planes)
        with pytest.raises(BadFile, match=f"1 finished tile of an interrupted map .*{said}.*overwrite=True"):
            Journal(Folder(tmp_path / "j"), other)
        assert is_begun(Folder(tmp_path / "j"), keys[0])
        new = Journal(Folder(tmp_path / "j"), other, overwrite=True)
        assert not new.had(core) and said in new.deleted


def test_a_tile_serves_maps_that_ask_for_fewer_of_its_planes(tmp_path):
    core, planes = Window(0, 0, 2, 3), np.arange(24, dtype=np.uint8).reshape(4, 2, 3)
    kinds = ("class", "proba", "proba", "entropy")
    Journal(Folder(tmp_path / "j"), {}, kinds).save(core, planes)
    for wanted, bands in ((kinds, [0, 1, 2, 3]), (("class", "entropy"), [0, 3]), (("class",), [0])):
        np.testing.assert_array_equal(Journal(Folder(tmp_path / "j"), {}, wanted).load(core), planes[bands])
    for lacking in (("class", "confidence"), (*kinds, "entropy"), ("class", "proba")):
        assert Journal(Folder(tmp_path / "j"), {}, lacking).load(core) is None


def test_damaged_tiles_are_scored_again(tmp_path, checkpoint, monkeypatch):
    w = world.make(tmp_path, 300, 410)
    whole = map_scene(checkpoint, w.scene, tmp_path / "whole", **QUICK)
    monkeypatch.setattr(Journal, "close", lambda self: None)
    map_scene(checkpoint, w.scene, tmp_path / "kept", **QUICK)
    for number, kept in enumerate(sorted((tmp_path / "kept" / ".scene.unfinished").glob("*.tif"))):
        if number % 2:
            kept.write_bytes(kept.read_bytes()[: 100 if number % 4 == 1 else -20])
    monkeypatch.undo()
    result = map_scene(checkpoint, w.scene, tmp_path / "kept", overwrite=True, **QUICK)
    assert bytes_of(tmp_path / "kept") == bytes_of(tmp_path / "whole")
    assert result.areas == whole.areas


def test_a_folder_that_cannot_be_written_is_said(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(BadFile, match="cannot be written"):
        Journal(Folder(tmp_path / "file" / "j"), {})


def test_doubtful_pixels_become_unknown(tmp_path, checkpoint):
    w = world.make(tmp_path, 150, 170, nodata=0)
    plain = map_scene(checkpoint, w.scene, tmp_path / "a", **QUICK)
    strict = map_scene(checkpoint, w.scene, tmp_path / "b", reject=0.6, **QUICK)
    files = plain.paths["class"], strict.paths["class"], plain.paths["confidence"], plain.paths["entropy"]
    before, after, sure, entropy = (rasterio.open(file).read(1) for file in files)
    unknown = 254
    np.testing.assert_array_equal(after, np.where((sure < 60) & (before != IGNORE), unknown, before))
    assert [a.name for a in strict.areas][-1] == "unknown"
    assert strict.areas[-1].pixels == (after == unknown).sum() > 0
    with rasterio.open(plain.paths["proba"]) as file:
        p = file.read() / 250
    valid = before != IGNORE
    expected = -(np.where(p > 0, p * np.log(np.maximum(p, 1e-12)), 0)).sum(0) / np.log(3) * 100
    assert np.abs(entropy[valid] - expected[valid]).max() < 2.5  # probabilities are stored in steps of 1/250
    assert (entropy[~valid] == IGNORE).all()
    with pytest.raises(BadOption, match="between 0 and 1"):
        map_scene(checkpoint, w.scene, tmp_path / "c", reject=70, **QUICK)


@pytest.mark.parametrize("core", [7, 16, 100])
def test_seams_are_counted_as_defined(core):
    classes = np.random.default_rng(0).integers(0, 3, (37, 53)).astype(np.uint8)
    classes[5:9, 20:40] = IGNORE
    seams = Seams()
    for tile in Window(0, 0, 37, 53).blocks(core):
        seams.add(tile, classes[tile.inset_of(Window(0, 0, 37, 53))])
    border, inside = [], []
    for r in range(37):
        for c in range(53):
            for r2, c2 in ((r + 1, c), (r, c + 1)):
                if r2 < 37 and c2 < 53 and IGNORE not in (classes[r, c], classes[r2, c2]):
                    crosses = r // core != r2 // core or c // core != c2 // core
                    (border if crosses else inside).append(classes[r, c] != classes[r2, c2])
    assert (seams.border_pairs, seams.inside_pairs) == (len(border), len(inside))
    if border:
        assert seams.score == pytest.approx(np.mean(border) / np.mean(inside))
    else:
        assert np.isnan(seams.score)


def test_lines_between_cells_of_the_network_are_no_seams():
    """Classes change between cells of 16 pixels everywhere, as those of networks of that stride do. Borders
    of tiles lie between cells, and classes change there no more often than on other such lines.
    """
    cells = np.random.default_rng(0).integers(0, 3, (16, 20)).astype(np.uint8)
    classes = cells.repeat(16, axis=0).repeat(16, axis=1)[:250, :310]
    whole = Window(0, 0, 250, 310)
    naive, seams = Seams(), Seams(16)
    for tile in whole.blocks(64):
        naive.add(tile, classes[tile.inset_of(whole)])
        seams.add(tile, classes[tile.inset_of(whole)])
    assert naive.score > 15
    # 67 % of the cells differ from the next: four of 250 lines are few, and chance is a tenth.
    assert seams.score == pytest.approx(1, abs=0.15)
    assert (seams.border_pairs, seams.border_changes) == (naive.border_pairs, naive.border_changes)
    # Of every line between cells inside the tiles: 15 - 3 of the rows, 19 - 4 of the columns.
    assert seams.inside_pairs == 12 * 310 + 15 * 250


def test_lines_inside_an_area_are_those_of_the_whole_scene(checkpoint, tmp_path):
    """An area begins within a cell of the network: lines a stride apart from its own corner lie within cells
    too, where classes change less often, and tiles seemed to leave seams.
    """
    w = world.make(tmp_path, 300, 300)
    how = {"polygons": False, "tile_size": 128, "overlap": 16, "blend": "crop", **QUICK}
    area = world.rectangle(w, tmp_path / "area.geojson", 33, 22, 231, 243)
    made = map_scene(checkpoint, w.scene, tmp_path / "part", area=area, **how)
    with rasterio.open(made.paths["class"]) as file:
        classes = file.read(1)
    stride, core = Scorer.of([checkpoint], device="cpu").stride, made.facts["core"]
    assert 1 < stride < core and 33 % stride and 22 % stride
    border, inside = [], []
    for pixels, start in ((classes, 33), (classes.T, 22)):
        for line in range(1, len(pixels)):
            if not (start + line) % stride:
                kind = inside if (start + line) % core else border
                kind.extend(pixels[line] != pixels[line - 1])
    assert made.seam == pytest.approx(np.mean(border) / np.mean(inside))


def test_a_map_begun_without_an_area_says_once_that_the_place_differs(checkpoint, tmp_path, monkeypatch):
    w = world.make(tmp_path, 300, 300)
    how = {"polygons": False, "tile_size": 128, "overlap": 16, "blend": "crop", **QUICK}
    stopped_after_a_tile(monkeypatch, checkpoint, w.scene, tmp_path / "map", **how)
    area = world.rectangle(w, tmp_path / "area.geojson", 33, 22, 231, 243)
    with pytest.raises(BadFile) as caught:
        map_scene(checkpoint, w.scene, tmp_path / "map", area=area, **how)
    assert str(caught.value).count("place or size of the scene") == 1


def test_the_stride_of_a_maps_network_counts(checkpoint, tmp_path):
    w = world.make(tmp_path, 300, 300)
    made = map_scene(checkpoint, w.scene, tmp_path / "map", polygons=False, **QUICK)
    with rasterio.open(made.paths["class"]) as file:
        classes = file.read(1)
    stride, core = Scorer.of([checkpoint], device="cpu").stride, made.facts["core"]
    assert 1 < stride < core
    seams = Seams(stride)
    for tile in Window(0, 0, 300, 300).blocks(core):
        seams.add(tile, classes[tile.inset_of(Window(0, 0, 300, 300))])
    assert made.seam == pytest.approx(seams.score)


def test_a_network_that_leaves_traces_is_found_out():
    """A tile's classes shifted by one beside its neighbours' is what a seam looks like."""
    smooth = np.zeros((64, 64), np.uint8)
    smooth[:, 20:] = 1
    clean, stepped = Seams(), Seams()
    for number, tile in enumerate(Window(0, 0, 64, 64).blocks(16)):
        part = smooth[tile.inset_of(Window(0, 0, 64, 64))]
        clean.add(tile, part)
        stepped.add(tile, (part + number % 2) % 2)
    assert stepped.score > 10 > clean.score
