"""A map of a network that learned two tasks: the files of the second beside those of the first, whatever
happens on the way.
"""

import json
from dataclasses import replace

import numpy as np
import pytest
import rasterio
import torch
import two_tasks
import world

import labelscape as ls
from labelscape.maps import rasters, work
from labelscape.maps.outputs import all_outputs
from labelscape.scoring.engines import build_network
from labelscape.scoring.scorer import normalise

TILED = {"tile_size": 128, "overlap": 32, "blend": "hann", "tta": "mirror", "device": "cpu"}
ALL = {**TILED, "proba": True, "entropy": True, "sieve": 0.05, "reject": 0.4}


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    """The trained checkpoint's file, and a scene that fits it, of several tiles."""
    folder = tmp_path_factory.mktemp("two")
    scenes, _, _ = two_tasks.trained(folder)
    scene = world.write(folder / "place.tif", np.tile(scenes.land.pixels, (1, 2, 2)), nodata=0)
    return folder / "run" / "dfcnet.safetensors", scene


@pytest.fixture(scope="module")
def mapped(both, tmp_path_factory):
    out = tmp_path_factory.mktemp("map")
    return out, ls.map_scene(*both, out, **ALL)


def read(path):
    with rasterio.open(path) as file:
        return file.read()


def test_the_second_task_has_all_the_files_of_the_first(both, mapped):
    out, result = mapped
    own = ["class", "confidence", "proba", "entropy", "sieved", "polygons"]
    assert list(result.paths) == [*own, *(f"road_{kind}" for kind in own), "report", "stac", "run"]
    assert {path.name for path in result.paths.values()} <= {path.name for path in out.iterdir()}
    assert result.paths["road_class"].name == "place_road_class.tif"
    road = result.tasks["road"]
    assert list(road.paths) == own and road.paths["class"] == result.paths["road_class"]
    assert "3 of road" in repr(result).replace("and ", "") and "<p>road</p>" in result._repr_html_()
    with rasterio.open(road.paths["class"]) as file:
        assert file.tags()["labelscape_task"] == "road"
        assert file.colormap(1)[1][:3] == (90, 90, 90)  # roads are dark grey
    with rasterio.open(road.paths["proba"]) as file:
        assert file.descriptions == ("other", "road")
    indices = read(road.paths["class"])[0]
    unknown = ls.load(both[0]).mate.legend.values
    counted = [np.count_nonzero(indices == value) for value in (*unknown, 254)]
    assert [area.pixels for area in road.areas] == counted
    assert [area.name for area in road.areas] == ["other", "road", "unknown"]
    assert road.areas[1].hectares == pytest.approx(road.areas[1].pixels * 0.01, rel=0.01)
    assert road.sieved is not None and road.outlined.written > 0


def test_the_classes_are_those_of_the_second_head_on_the_scene_as_the_first_reads_it(both, tmp_path):
    """In one tile, without augmentation; and the first task's map is the same with and without the second."""
    made = ls.load(both[0])
    whole = {"tile_size": 512, "device": "cpu", "polygons": False, "report": False}
    result = ls.map_scene(both[0], both[1], tmp_path / "both", **whole)
    pixels = read(both[1])
    valid = (pixels > 0).all(axis=0)
    image = normalise(pixels, valid, made.contract.normalisation)[None]
    net = build_network(made)
    with torch.inference_mode():
        heads = net.both(image.contiguous(memory_format=torch.channels_last))
    for name, legend, paths in (
        ("logits", made.legend, result.paths),
        ("mate", made.mate.legend, result.tasks["road"].paths),
    ):
        best = heads[name][0].softmax(0)
        expected = np.where(valid, legend.decode(best.argmax(0).numpy().astype(np.uint8)), 255)
        assert (read(paths["class"])[0] != expected).mean() < 1e-3  # ties of rounding
        percent = np.where(valid, (100 * best.amax(0)).round().numpy(), 255)
        assert np.abs(read(paths["confidence"])[0] - percent).max() <= 1
    alone = ls.map_scene(replace(made, mate=None), both[1], tmp_path / "alone", **whole)
    assert not alone.tasks and not list((tmp_path / "alone").glob("*road*"))
    for kind in ("class", "confidence"):
        np.testing.assert_array_equal(read(alone.paths[kind]), read(result.paths[kind]))


def test_run_file_item_report_and_info_name_both(mapped):
    out, result = mapped
    run = json.loads(result.paths["run"].read_text())
    assert run["files"]["road_class"] == "place_road_class.tif"
    assert run["tasks"]["road"]["files"]["class"] == "place_road_class.tif"
    assert [a["name"] for a in run["tasks"]["road"]["areas"]] == ["other", "road", "unknown"]
    item = json.loads(result.paths["stac"].read_text())
    asset = item["assets"]["road_class"]
    assert asset["href"] == "./place_road_class.tif" and asset["title"].startswith("road: ")
    assert [c["name"] for c in asset["classification:classes"]] == ["other", "road", "unknown", "nodata"]
    assert len(item["assets"]["class"]["classification:classes"]) == 5
    page = result.paths["report"].read_text()
    section = page[page.index("<h2>Second task: road</h2>") : page.index("<h2>Files</h2>")]
    assert "held-out blocks of scene.tif" in section and "Sieved map" in section
    for name in ("other", "road", "unknown"):
        assert f"<span>{name}</span>" in section
    assert page.count('id="picture-0"') == page.count('id="task-1-picture-0"') == 1
    assert "place_road_polygons.gpkg" in page and "loss of road" in page
    text = ls.info(out).text
    assert "road:\n" in text and "place_road_class.tif" in text
    assert ls.info(result.paths["road_class"]).facts["run"] == str(result.paths["run"])


def rasters_in(folder):
    return {path.name: path.read_bytes() for path in folder.glob("*.tif")}


@pytest.mark.parametrize("tiles", [1, 4])
def test_a_map_killed_after_some_tiles_goes_on_to_the_same_bytes(both, mapped, tmp_path, monkeypatch, tiles):
    real, left = rasters.planes_of, [tiles]

    def stopping(*arguments):
        if not left[0]:
            raise KeyboardInterrupt
        left[0] -= 1
        return real(*arguments)

    monkeypatch.setattr(rasters, "planes_of", stopping)
    with pytest.raises(KeyboardInterrupt):
        ls.map_scene(*both, tmp_path, **ALL)
    monkeypatch.setattr(rasters, "planes_of", real)
    assert len(list((tmp_path / ".place.unfinished").glob("*.tif"))) == tiles
    again = ls.map_scene(*both, tmp_path, **ALL)
    assert rasters_in(tmp_path) == rasters_in(mapped[0])
    assert again.areas == mapped[1].areas and again.tasks["road"].areas == mapped[1].tasks["road"].areas
    assert again.tasks["road"].seam == mapped[1].tasks["road"].seam


def test_a_map_of_both_is_repeated_from_its_run_file(mapped, tmp_path):
    again = ls.rerun(mapped[1].paths["run"], tmp_path)
    assert rasters_in(tmp_path) == rasters_in(mapped[0]) and list(again.tasks) == ["road"]


def test_several_models_map_the_second_task_if_all_of_them_learned_it(both, tmp_path, run_cli):
    made = ls.load(both[0])
    other = replace(
        made, weights={k: v * np.float32(1.1) if "road_head" in k else v for k, v in made.weights.items()}
    )
    other = ls.save(other, tmp_path / "other.safetensors")
    small = ["--no-polygons", "--no-report", "--proba", "--device", "cpu"]
    code, out, err = run_cli(
        "map", both[0], both[1], "--also", other, "--out", tmp_path / "a", *small, "--json"
    )
    assert code == 0, err
    found = json.loads(out)
    assert found["tasks"]["road"]["areas"][1]["name"] == "road"
    each = [
        ls.map_scene(one, both[1], tmp_path / str(n), proba=True, polygons=False, report=False, device="cpu")
        for n, one in enumerate((both[0], other))
    ]
    halves = [read(one.paths["road_proba"]).astype(int) for one in each]
    assert (halves[0] != halves[1]).any()
    merged = read(found["files"]["road_proba"]).astype(int)
    assert np.abs(merged - (halves[0] + halves[1]) / 2).max() <= 1.5
    alone = ls.save(replace(made, mate=None), tmp_path / "alone.safetensors")
    code, out, err = run_cli("map", both[0], both[1], "--also", alone, "--out", tmp_path / "b", *small)
    assert code == 0 and "second task is not mapped" in err
    assert not list((tmp_path / "b").glob("*road*"))
    code, out, err = run_cli("map", both[0], both[1], "--out", tmp_path / "c", *small)
    assert code == 0 and "\nroad:\n" in out and "road_class" in out


def test_one_task_can_be_mapped_alone_and_both_are_checked(both, tmp_path):
    made = ls.load(both[0])
    road = ls.map_scene(made.task("road"), both[1], tmp_path, force=True, device="cpu")
    assert [area.name for area in road.areas] == ["other", "road"] and not road.tasks
    whole, alone = (
        ls.check(one, both[1], proba=True, device="cpu") for one in (both[0], replace(made, mate=None))
    )
    # Four planes more, three bands of them for the second task's two classes, and a third for overviews.
    pixels = 192 * 256 * (1 + 4 / 3)
    assert whole.plan.disk - alone.plan.disk == pytest.approx(4 * pixels, abs=2)
    assert whole.plan.tiles == alone.plan.tiles


def test_the_second_task_is_mapped_alone_by_its_name(both, tmp_path, run_cli):
    """As `evaluate --task` scores it: a map of its own training scene has that very confusion matrix."""
    made, out = ls.load(both[0]), tmp_path / "map"
    (place,) = made.recipe["mate"]["data"]["images"]
    labels = made.recipe["mate"]["data"]["labels"][0]
    tiles = {"tile_size": 96, "overlap": 16, "blend": "hann"}
    words = ["map", both[0], place, "--out", out, "--device", "cpu", "--proba"]
    words += [word for key, value in tiles.items() for word in (f"--{key.replace('_', '-')}", value)]
    code, told, err = run_cli(*words, "--task", "road")
    assert code == 0, err
    kinds = ["class.tif", "class.tif.aux.xml", "confidence.tif", "proba.tif", "polygons.gpkg"]
    kinds += ["report.html", "stac.json", "run.json"]
    assert {f"scene_road_{kind}" for kind in kinds} >= {p.name for p in out.iterdir() if p.is_file()}
    assert "road" in told and "field" not in told
    assert "scaled as the training images of road, as `evaluate` scales them" in err
    values, truth = read(out / "scene_road_class.tif")[0], read(labels)[0]
    table = [[np.count_nonzero((truth == t) & (values == v)) for v in (0, 1)] for t in (0, 1)]
    found = ls.evaluate(both[0], place, labels, task="road", device="cpu", show=False, **tiles)
    assert found.confusion.counts.tolist() == table
    with rasterio.open(out / "scene_road_class.tif") as file:
        assert file.tags()["labelscape_task"] == "road"
    run = json.loads((out / "scene_road_run.json").read_text())
    assert run["task"] == run["request"]["task"] == "road" and run["models"][0]["sha256"]
    again = ls.rerun(out / "scene_road_run.json", tmp_path / "again")
    assert rasters_in(tmp_path / "again") == rasters_in(out) and not again.tasks
    page = (out / "scene_road_report.html").read_text()
    assert "loss of road" in page and "Second task" not in page
    assert ls.info(out / "scene_road_class.tif").facts["run"] == str(out / "scene_road_run.json")
    # A map of both in the same folder would replace the class raster, and is refused.
    code, _, err = run_cli("map", both[0], place, "--out", out, "--device", "cpu", "--force")
    assert code == 1 and "scene_road_class.tif exists" in err
    code, _, err = run_cli(*words, "--task", "raod", "--overwrite")
    assert code == 2 and "'raod'" in err and "Did you mean 'road'" in err


def test_one_task_is_checked_against_its_own_images(both, tmp_path, run_cli):
    made = ls.load(both[0])
    places = {"": made.recipe["data"]["images"][0], "road": made.recipe["mate"]["data"]["images"][0]}
    for task, place in places.items():
        words = ["check", both[0], place, "--no-timing", "--device", "cpu"]
        code, out, _ = run_cli(*words, *(["--task", task] if task else []))
        assert (code, out.splitlines()[0]) == (0, "FITS")
    seen, plans = [], []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(work, "compare", lambda contract, *a, **k: seen.append(contract.normalisation) or ())
        for task in ("road", None):
            plans.append(ls.check(both[0], places["road"], task=task, timing=False, device="cpu").plan)
    assert seen == [made.mate.contract.normalisation, made.contract.normalisation]
    assert plans[0].disk < plans[1].disk  # of one task
    fractions = (read(both[1]) / 65535).astype(np.float32)
    other = world.write(tmp_path / "fractions.tif", fractions, nodata=0)
    code, _, err = run_cli(
        "map", both[0], other, "--out", tmp_path / "map", "--task", "road", "--device", "cpu"
    )
    assert code == 1 and "does not fit the images that this model learned road from" in err
    assert "(Without --task both tasks are mapped" in err
    assert ls.MapRequest(task="road").model_dump()["task"] == "road"
    assert "task" not in ls.MapRequest().model_dump()  # as before there was one


def test_the_files_of_one_task_are_the_rows_of_the_table():
    assert [o.kind for o in all_outputs()] == [
        "class",
        "confidence",
        "proba",
        "entropy",
        "unfamiliar",
        "sieved",
        "polygons",
        "report",
        "stac",
        "run",
    ]
    road = [o for o in all_outputs("road") if o.task]
    assert all(o.kind.startswith("road_") and o.ending.startswith("_road_") for o in road)
    assert len({o.ending for o in all_outputs("road")}) == len(all_outputs("road")) == 16
