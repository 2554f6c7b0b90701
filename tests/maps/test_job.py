"""Many scenes with one model: what became of each."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import rasterio
import world

from labelscape.checkpoint import save
from labelscape.errors import BadOption
from labelscape.maps.job import SceneRecord, names_for
from labelscape.maps.many import map_scenes
from labelscape.maps.run import map_scene
from labelscape.scenes.array import ArrayScene
from labelscape.workers.sent import for_workers

QUICK = {"device": "cpu", "report": False, "polygons": False, "tile_size": 96, "overlap": 16}


def test_a_record_without_a_seam_score_is_json():
    record = SceneRecord("a.tif", "failed", cause="a.tif does not exist.")
    assert json.loads(json.dumps(record.to_dict(), allow_nan=False)) == {
        "scene": "a.tif",
        "state": "failed",
        "seconds": 0.0,
        "pixels": 0,
        "seam": None,
        "cause": "a.tif does not exist.",
        "files": {},
    }
    assert not record.is_mapped and SceneRecord("a.tif", "skipped", seam=1.5).is_mapped


@pytest.fixture
def model(tmp_path):
    return save(world.ten_metre_fcn(), tmp_path / "model.safetensors")


def scenes_of(folder, count=3):
    folder.mkdir(parents=True, exist_ok=True)
    return [world.make(folder, 96, 128, seed=n, name=f"s{n}").scene for n in range(count)]


def rasters_in(folder):
    return {p.name: p.read_bytes() for p in sorted(folder.iterdir()) if p.suffix in (".tif", ".xml")}


def test_a_bad_scene_does_not_stop_the_others_and_a_second_start_maps_what_is_missing(tmp_path, model):
    good = scenes_of(tmp_path / "in")
    bad = tmp_path / "in" / "bad.tif"
    bad.write_bytes(good[0].read_bytes()[:2000])
    other = world.write(tmp_path / "in" / "other.tif", np.ones((2, 40, 40), np.uint16))
    scenes = [good[0], bad, good[1], other, good[2]]
    result = map_scenes(model, scenes, tmp_path / "maps", **QUICK)
    assert [r.state for r in result.records] == ["done", "failed", "done", "refused", "done"]
    assert [r.scene for r in result.records] == [str(s) for s in scenes]
    assert (
        "truncated or damaged" in result.records[1].cause
        and "does not fit this model" in result.records[3].cause
    )
    assert not result.is_whole and result.counts == {"done": 3, "refused": 1, "failed": 1}
    for scene in good:
        map_scene(model, scene, tmp_path / "alone", **QUICK)
    assert rasters_in(tmp_path / "maps") == rasters_in(tmp_path / "alone")

    before = {p: p.stat().st_mtime_ns for p in (tmp_path / "maps").iterdir() if "job." not in p.name}
    shutil.copy(good[0], bad)
    again = map_scenes(model, [*good, bad], tmp_path / "maps", **QUICK)
    assert [r.state for r in again.records] == ["skipped", "skipped", "skipped", "done"]
    assert again.is_whole
    for one, other in zip((result.records[n] for n in (0, 2, 4)), again.records):
        assert (one.pixels, one.files) == (other.pixels, other.files)
    assert all(p.stat().st_mtime_ns == time for p, time in before.items())


@pytest.mark.parametrize("change", ["settings", "model", "scene", "a file is gone", "unfinished", "code"])
def test_what_differs_from_a_finished_map_is_not_skipped(tmp_path, model, monkeypatch, change):
    (scene,) = scenes_of(tmp_path / "in", 1)
    out, settings = tmp_path / "maps", QUICK
    assert map_scenes(model, [scene], out, **settings).counts == {"done": 1}
    if change == "settings":
        settings = {**QUICK, "reject": 0.5}
    elif change == "model":
        model = save(replace(world.ten_metre_fcn(), temperature=2.0), model)
    elif change == "scene":
        world.make(tmp_path / "in", 96, 128, seed=9, name="s0")
    elif change == "a file is gone":
        (out / "s0_confidence.tif").unlink()
    elif change == "code":  # of the same version: a commit later, other values may come out
        for part in ("finished", "journal", "run", "work"):
            monkeypatch.setattr(f"labelscape.maps.{part}.build", lambda: "0.1.0 (code 0123456789)")
    else:
        (out / ".s0.unfinished").mkdir()
    (record,) = map_scenes(model, [scene], out, **settings).records
    assert record.state == "failed" and "; pass `overwrite=True`" in record.cause
    made = "exists, made by labelscape 0.1.0 (code " in record.cause
    assert made == (change == "code") and (made or "exists; pass" in record.cause)
    assert map_scenes(model, [scene], out, overwrite=True, **settings).counts == {"done": 1}
    # What a run killed in its last moment leaves: nobody holds this lock.
    (out / ".labelscape-0123456789abcdef.lock").touch()
    assert map_scenes(model, [scene], out, **settings).counts == {"skipped": 1}
    assert not list(out.glob(".*"))


def test_scenes_of_one_name_get_their_folders_before_it(tmp_path, model):
    scenes = [scenes_of(tmp_path / name, 1)[0] for name in ("north", "south")]
    result = map_scenes(model, [*scenes, *scenes], tmp_path / "maps", **QUICK)
    assert [Path(r.files["class"]).name for r in result.records] == [
        "north_s0_class.tif",
        "south_s0_class.tif",
    ]
    (tmp_path / "other").mkdir()
    shutil.copytree(tmp_path / "north", tmp_path / "other" / "north")
    # Of one folder name too: with as many folders as tell them apart.
    alike = [scenes[0], tmp_path / "other" / "north" / "s0.tif"]
    assert names_for(alike) == [f"{tmp_path.name}_north_s0", "other_north_s0"]
    assert names_for([scenes[0], tmp_path / "x" / "b.tif"]) == [None, None]
    arrays = [ArrayScene(np.ones((3, 8, 8), np.uint8)) for _ in range(2)]
    with pytest.raises(BadOption, match="two scenes in memory, .* would have the same file names"):
        names_for(arrays)


def test_a_list_without_scenes_and_names_for_several_are_refused(tmp_path, model):
    scenes = scenes_of(tmp_path, 2)
    for given, options, said in (
        ([], {}, "the list of scenes is empty"),
        (str(scenes[0]), {}, "must be a list"),
        (scenes, {"name": "a"}, "`name` is for one scene"),
    ):
        with pytest.raises(BadOption, match=said):
            map_scenes(model, given, tmp_path / "maps", **options)


def test_the_command_maps_several_scenes_and_ends_with_1_where_one_fails(tmp_path, model, run_cli):
    scenes = scenes_of(tmp_path / "in", 2)
    options = ("--out", tmp_path / "maps", "--no-report", "--no-polygons", "--device", "cpu")
    # A file that does not exist is most often a misspelt list: nothing is mapped.
    code, out, err = run_cli("map", model, *scenes, tmp_path / "none.tif", *options)
    assert code == 1 and "none.tif does not exist" in err and not (tmp_path / "maps").exists()
    (tmp_path / "empty.tif").touch()
    code, out, _ = run_cli("map", model, *scenes, tmp_path / "empty.tif", *options)
    assert code == 1 and "2 done, 1 failed" in out
    assert f"failed   {tmp_path / 'empty.tif'}: {tmp_path / 'empty.tif'} is empty (0 bytes)." in out
    code, out, _ = run_cli("map", model, *scenes, *options, "--json")
    assert code == 0 and [one["state"] for one in json.loads(out)["scenes"]] == ["skipped", "skipped"]


def test_scenes_of_a_list_are_mapped_under_their_own_names(tmp_path, model, run_cli):
    """Two scenes of one name, and the items of a search, of which one asset is chosen."""
    scenes = [
        world.make(tmp_path / place, name="scene", seed=n).scene
        for n, place in enumerate(("a", "b"))
        if (tmp_path / place).mkdir() is None
    ]
    (tmp_path / "list.txt").write_text("a/scene.tif\nb/scene.tif\na/scene.tif\n")
    options = ("--no-report", "--no-polygons", "--device", "cpu", "--out")
    code, _, err = run_cli("map", model, tmp_path / "list.txt", *options, tmp_path / "maps")
    assert code == 0 and "listed more than once" in err
    made = {path.name for path in (tmp_path / "maps").glob("*_class.tif")}
    assert made == {"a_scene_class.tif", "b_scene_class.tif"}
    items = [
        {
            "type": "Feature",
            "id": f"item{n}",
            "geometry": None,
            "properties": {},
            "links": [],
            "assets": {
                "good": {"href": f"{scene.parent.name}/scene.tif", "type": "image/tiff", "roles": ["visual"]},
                "bad": {"href": "gone.tif", "type": "image/tiff", "roles": ["data"]},
            },
        }
        for n, scene in enumerate(scenes)
    ]
    (tmp_path / "search.json").write_text(json.dumps({"type": "FeatureCollection", "features": items}))
    words = ("map", model, tmp_path / "search.json", "--each", *options, tmp_path / "items")
    code, _, err = run_cli(*words)
    assert code == 1 and "2 of 2 scenes are missing" in err and not (tmp_path / "items").exists()
    code, out, err = run_cli(*words, "--asset", "visual", "--json")
    assert code == 0, err
    assert [Path(one["files"]["class"]).name for one in json.loads(out)["scenes"]] == [
        "item0_class.tif",
        "item1_class.tif",
    ]
    for name, item in (("a_scene", "item0"), ("b_scene", "item1")):
        one, other = ((tmp_path / "maps" / f"{name}_class.tif"), (tmp_path / "items" / f"{item}_class.tif"))
        with rasterio.open(one) as mapped, rasterio.open(other) as of_item:
            assert (mapped.read() == of_item.read()).all()
    # Again by the run file, which names the item and the asset.
    again = tmp_path / "items" / "item1_run.json"
    code, _, err = run_cli("map", "--rerun", again, "--out", tmp_path / "again")
    assert code == 0, err
    same = "item1_class.tif"
    assert (tmp_path / "again" / same).read_bytes() == (tmp_path / "items" / same).read_bytes()
    # And all of it is skipped, whatever the list calls it.
    code, out, _ = run_cli(*words, "--asset", "visual", "--json")
    assert [one["state"] for one in json.loads(out)["scenes"]] == ["skipped", "skipped"]


def test_check_says_which_of_many_do_not_fit(tmp_path, model, run_cli):
    scenes_of(tmp_path, 2)
    world.write(tmp_path / "other.tif", np.ones((1, 64, 64), np.uint16))
    (tmp_path / "scenes.csv").write_text("path\n" + "\n".join(p.name for p in sorted(tmp_path.glob("*.tif"))))
    words = ("check", model, tmp_path / "scenes.csv", "--no-timing", "--device", "cpu")
    code, out, _ = run_cli(*words)
    assert code == 1 and "3 scenes: " in out and "1 REFUSED" in out
    refused = [line for line in out.splitlines() if line.startswith("REFUSED")]
    assert refused == ["REFUSED     other"]
    code, out, _ = run_cli(*words, "--json")
    assert code == 1 and [one["verdict"] for one in json.loads(out)].count("REFUSED") == 1


def test_paths_are_sent_to_workers_as_they_hold_in_any_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("a.tif", "items.json", "area.gpkg"):
        Path(name).write_text("")
    here = str(tmp_path)
    for given, sent in (
        ("a.tif", f"{here}/a.tif"),
        (("a.tif", Path("a.tif")), (f"{here}/a.tif",) * 2),
        ("items.json#S2A_1", f"{here}/items.json#S2A_1"),
        ("area.gpkg|layername=b", f"{here}/area.gpkg|layername=b"),
        ("s3://bucket/a.tif", "s3://bucket/a.tif"),
        ("/vsicurl/https://x/a.tif", "/vsicurl/https://x/a.tif"),
    ):
        assert for_workers(given) == sent
    with pytest.raises(BadOption, match="cannot be sent to workers; save it"):
        for_workers(ArrayScene(np.zeros((1, 2, 2))))
