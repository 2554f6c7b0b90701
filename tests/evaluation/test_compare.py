"""Models compared on painted scenes, where every pixel's truth is known."""

import hashlib
import json
from dataclasses import replace

import numpy as np
import pytest
import rasterio
import world

import labelscape as ls
from labelscape.errors import BadFile, BadInput, BadOption
from labelscape.evaluation import compare
from labelscape.evaluation.confusion import count
from labelscape.evaluation.predicted import count_scene
from labelscape.legend import Legend
from labelscape.rasters.write import MapWriter
from labelscape.scenes.mosaic import open_scene
from labelscape.training.learned import overlap, trained_share
from labelscape.training.recipe import make_recipe

QUICK = {"device": "cpu", "show": False}


@pytest.fixture
def w(tmp_path):
    return world.make(tmp_path, 64, 96)


def a_map(w, path, *, wrong, legend=world.LEGEND, nodata=0.0, seed=0):
    """A finished map that gives another class to a share of the pixels, and none to others."""
    rng = np.random.default_rng(seed)
    indices = np.where(rng.random(w.classes.shape) < wrong, (w.classes + 1) % 3, w.classes).astype(np.uint8)
    indices = np.array([legend.names.index(name) for name in world.LEGEND.names], np.uint8)[indices]
    values = np.array(legend.values, np.uint8)[indices]
    values[rng.random(w.classes.shape) < nodata] = 255
    with open_scene(str(w.scene)) as scene, MapWriter(path, scene.grid, 1, 255, legend=legend) as out:
        out.write(scene.grid.window, values)
    return path, values


def recipe(w, labels, **data):
    given = {"images": [str(w.scene)], "labels": [str(labels)], "block": 16, "holdout": 0.4, **data}
    return make_recipe(network="skip", data=given).model_dump(mode="json")


def test_maps_are_compared_pixel_by_pixel(w, tmp_path):
    labels = world.label_raster(w, tmp_path / "labels.tif", unlabelled=w.pixels[0] % 5 == 0)
    truth = np.where(w.pixels[0] % 5 == 0, 255, w.classes).astype(np.uint8)
    # The other map numbers the classes in another order, with other values.
    turned = Legend.of_names(["forest", "water", "field"], values=[7, 3, 9])
    first, a = a_map(w, tmp_path / "first.tif", wrong=0.3)
    other, b = a_map(w, tmp_path / "other.tif", wrong=0.1, legend=turned, nodata=0.05, seed=1)
    b = np.select([b == 3, b == 9, b == 7], [0, 1, 2], 255).astype(np.uint8)
    labels_of = {"labels": str(labels), "spec": {"classes": {"water": 0, "field": 1, "forest": 2}}}
    how = {**labels_of, **QUICK}
    with pytest.raises(BadInput, match="1 labelled block in common"):
        ls.compare([first, other], str(w.scene), out=tmp_path / "refused", **how)
    assert not list((tmp_path / "refused").iterdir()), "difference maps of no comparison"
    with pytest.raises(BadOption, match="`seed=-1` must be a whole number of at least 0"):
        ls.compare([first, other], str(w.scene), seed=-1, **how)
    with ls.open_dataset(
        [str(w.scene)],
        [str(labels)],
        spec={"legend": world.LEGEND},
        block=16,
        shares={"train": 0.5, "test": 0.5},
    ) as dataset:
        found = ls.compare([first, other], dataset, out=tmp_path / "out", **QUICK)
    assert found.confusions("first") == [count(truth, a, 3)]
    assert found.confusions("other") == [count(truth, b, 3)]
    (pair,) = found.pairs
    right = [(one == truth)[truth != 255] for one in (a, b)]
    test = pair.mcnemar
    assert (test.both, test.only_first) == ((right[0] & right[1]).sum(), (right[0] & ~right[1]).sum())
    assert (test.only_other, test.neither) == ((~right[0] & right[1]).sum(), (~right[0] & ~right[1]).sum())
    assert pair.units == 24 and pair.sentence.startswith("other is better by ")
    page = found._repr_html_()
    low, high = (f"{100 * value:+.2f}" for value in (pair.lines[1].low, pair.lines[1].high))
    assert "<caption>%, 24 blocks</caption>" in page and pair.sentence in page and "Notes" not in page
    assert f"<td>mIoU</td><td>{100 * pair.lines[1].first:.2f}</td>" in page and f"{low} to {high}" in page
    (path,) = found.maps
    with rasterio.open(path) as file:
        drawn = file.read(1)
        assert file.nodata == 255 and file.colormap(1)[2] == (0, 119, 187, 255)
    assert (drawn == 255).tolist() == (truth == 255).tolist()
    assert (drawn == 2).sum() == test.only_other and ((drawn == 1) == ((a == truth) & (b != truth)))[
        truth != 255
    ].all()
    assert "only first right" in path.with_name(f"{path.name}.aux.xml").read_text()
    stored = json.loads((tmp_path / "out" / "comparison.json").read_text())
    assert stored["pairs"][0]["blocks"] == 24 and len(stored["models"]["other"]["per_block"][0]) == 24
    with pytest.raises(BadFile, match="exists"):
        ls.compare([first, other], str(w.scene), out=tmp_path / "out", **how)


def test_models_are_scored_as_evaluate_scores_them(w, tmp_path):
    labels = world.label_raster(w, tmp_path / "labels.tif")
    models = [world.tiny_checkpoint(like=w.scene, seed=s, recipe=recipe(w, labels)) for s in (0, 1)]
    found = ls.compare(models, **QUICK)
    alone = [ls.evaluate(model, **QUICK) for model in models]
    assert list(found.per_block) == ["skip (1)", "skip (2)"] and found.notes == ()
    for name, one in zip(found.per_block, alone):
        assert found.confusions(name) == [one.confusion]
    line = found.pairs[0].lines[1]
    assert line.difference == pytest.approx(alone[1].metrics["mean_iou"] - alone[0].metrics["mean_iou"])
    seeds = ls.compare([models, models[0]], **QUICK)
    assert seeds.confusions("skip (1)") == [one.confusion for one in alone]
    same = ls.compare([models[0], models[0]], **QUICK)
    assert same.pairs[0].lines[0].low == 0 == same.pairs[0].lines[0].high
    assert same.pairs[0].mcnemar.only_first == 0 == same.pairs[0].mcnemar.only_other


def test_nodata_of_the_scene_counts_for_no_model_and_against_no_map(tmp_path):
    w = world.make(tmp_path, 64, 96, nodata=0)
    labels = world.label_raster(w, tmp_path / "labels.tif")
    model = world.tiny_checkpoint(like=w.scene, recipe=recipe(w, labels))
    path, _ = a_map(w, tmp_path / "map.tif", wrong=0.2)
    found = ls.compare([model, path], part="all", **QUICK)
    valid = 64 * 96 - 21 * 32
    assert found.confusions("skip")[0].labelled == valid == found.confusions("map")[0].labelled
    assert not found.confusions("skip")[0].unpredicted.any()
    assert "skip was trained on" in found.notes[0]
    with ls.open_dataset(
        [str(w.scene)],
        [str(labels)],
        spec={"legend": world.LEGEND},
        block=16,
        shares={"train": 0.5, "test": 0.5},
    ) as dataset:
        maps = ls.compare([path, path], dataset, **QUICK)
    assert maps.confusions(maps.pairs[0].first)[0].labelled == valid


def test_other_classes_are_refused_before_anything_is_predicted(w, tmp_path):
    labels = world.label_raster(w, tmp_path / "labels.tif")
    other = Legend.of_names(["water", "field", "moor"])
    path, _ = a_map(w, tmp_path / "map.tif", wrong=0)
    (tmp_path / "map.tif.aux.xml").write_text(
        (tmp_path / "map.tif.aux.xml").read_text().replace("forest", other.names[2])
    )
    model = world.tiny_checkpoint(like=w.scene, recipe=recipe(w, labels))
    with pytest.raises(BadInput, match=r"map.tif has the classes .*moor.*Only models of the same classes"):
        ls.compare([model, path], **QUICK)
    with pytest.raises(BadOption, match="Two or more"):
        ls.compare([model], **QUICK)


def test_training_pixels_among_the_scored_ones_are_found(w, tmp_path, monkeypatch):
    labels = world.label_raster(w, tmp_path / "labels.tif")
    rules = {"legend": world.LEGEND}
    like = {"like": w.scene}
    own = world.tiny_checkpoint(**like, recipe=recipe(w, labels))
    all_of_it = world.tiny_checkpoint(**like, recipe=recipe(w, labels, holdout=0))
    with ls.open_dataset(
        [str(w.scene)], [str(labels)], spec=rules, block=16, shares={"train": 0.6, "test": 0.4}
    ) as d:
        assert trained_share(own, d, "test") == 0
        assert trained_share(all_of_it, d, "test") == 1
        trained = (w.classes >= 0) & d.scenes[0].split.mask(d.scenes[0].scene.grid.window, "train")
        assert trained_share(own, d, None) == pytest.approx(trained.mean())
    found = ls.compare([own, all_of_it], **QUICK)
    assert found.notes == (
        "skip (2) was trained on 100 % of the labelled pixels that it is scored on: its score is too good "
        "there. Use labels that no model has seen",
    )
    # A single model's score says the same, of its own scene given once more; not of its held-out blocks.
    (note,) = ls.evaluate(all_of_it, str(w.scene), str(labels), **QUICK).notes
    assert note.startswith("skip was trained on 100 % of the labelled pixels that it is scored on")
    with monkeypatch.context() as patch:
        # Nor are its data opened and its labels read once more to find that out.
        patch.setattr("labelscape.training.learned.open_recipe_data", None)
        assert ls.evaluate(own, **QUICK).notes == ()
    far = world.NORTH_UP @ world.Affine.translation(0, 500)
    elsewhere = world.make(tmp_path, 32, 32, name="elsewhere", transform=far)
    there = world.tiny_checkpoint(**like, recipe=recipe(elsewhere, labels))
    unknown = world.tiny_checkpoint(**like)
    notes = ls.compare([own, there, unknown], **QUICK).notes
    assert len(notes) == 2 and "skip (3) does not say what it was trained on" in notes[0]
    assert "2 models are compared with skip (1)" in notes[1]


def shares(w, labels, scene, **more):
    """The shares of notes on a model trained on `w`, by scoring it on another file of a scene."""
    own = world.tiny_checkpoint(like=w.scene, recipe=recipe(w, labels, **more))
    with ls.open_dataset([str(scene)], [str(labels)], spec={"legend": world.LEGEND}, block=16) as d:
        return own, overlap(own, d, None, {}), trained_share(own, d, None)


def test_training_scenes_under_other_names_are_found(w, tmp_path):
    labels = world.label_raster(w, tmp_path / "labels.tif")
    copied = tmp_path / "renamed.tif"
    copied.write_bytes(w.scene.read_bytes())
    _, found, share = shares(w, labels, copied)
    with ls.open_dataset([str(w.scene)], [str(labels)], block=16, shares={"train": 0.6, "test": 0.4}) as d:
        learned = d.scenes[0].split.mask(d.scenes[0].scene.grid.window, "train")
    assert found.share == share == pytest.approx(learned.mean())
    assert found.how == "renamed is a copy of its training scene scene"
    coarse = world.write(
        tmp_path / "coarse.tif", w.pixels[:, ::2, ::2], transform=w.transform @ world.Affine.scale(2)
    )
    _, found, _ = shares(w, labels, coarse)
    # 1,024 places of 1,536 pixels: every block of 16 is 8 x 8 of them.
    assert found.share == pytest.approx(learned.mean(), abs=0.02)
    assert found.how == "coarse shows the ground of its training scene scene"
    # A picture has no ground, but its bytes are known.
    (tmp_path / "plain").mkdir()
    plain = world.make(tmp_path / "plain", 64, 96, crs=None)
    there = world.label_raster(plain, tmp_path / "plain.tif")
    moved = tmp_path / "moved.tif"
    moved.write_bytes(plain.scene.read_bytes())
    assert shares(plain, there, moved)[1].share > 0.3
    other = world.make(tmp_path, 64, 96, crs=None, seed=4, name="other")
    assert shares(plain, there, other.scene)[1].share == 0


def test_a_finished_map_is_known_by_the_model_that_made_it(w, tmp_path):
    labels = world.label_raster(w, tmp_path / "labels.tif")
    own = world.tiny_checkpoint(like=w.scene, recipe=recipe(w, labels))
    model = ls.save(own, tmp_path / "net.safetensors")
    path, _ = a_map(w, tmp_path / "scene_class.tif", wrong=0.2)
    assert ls.evaluate(path, labels=labels, **QUICK).notes == ()
    digest = hashlib.sha256(model.read_bytes()).hexdigest()
    run = {"files": {"class": path.name}, "models": [{"path": str(model), "sha256": digest}]}
    record = tmp_path / "scene_run.json"
    record.write_text(json.dumps(run | {"scene": str(w.scene)}))
    (note,) = ls.evaluate(path, labels=labels, **QUICK).notes
    # Its training blocks: every pixel is labelled.
    how = {"spec": {"legend": world.LEGEND}, "block": 16, "shares": {"train": 0.6, "test": 0.4}}
    other, _ = a_map(w, tmp_path / "second.tif", wrong=0.1)
    with ls.open_dataset([str(w.scene)], [str(labels)], **how) as d:
        percent = f"{100 * d.scenes[0].split.mask(d.scenes[0].scene.grid.window, 'train').mean():.0f}"
        notes = ls.compare([path, other], d, **QUICK).notes
    assert note.startswith(f"net.safetensors, which made scene_class.tif, was trained on {percent} % of the")
    assert notes == (note,)
    # Trained anew since: nobody knows what that map's model had learned.
    ls.save(replace(own, temperature=1.0), model)
    assert ls.evaluate(path, labels=labels, **QUICK).notes == ()
    record.write_text("{")
    assert ls.evaluate(path, labels=labels, **QUICK).notes == ()


def test_the_verb_prints_the_sentence_and_writes_the_maps(w, tmp_path, run_cli):
    labels = world.label_raster(w, tmp_path / "labels.tif")
    paths = [
        ls.save(
            world.tiny_checkpoint(like=w.scene, seed=s, recipe=recipe(w, labels)),
            tmp_path / f"m{s}.safetensors",
        )
        for s in (0, 1, 2)
    ]
    code, out, err = run_cli(
        "compare", f"{paths[0]},{paths[1]}", paths[2], "--device", "cpu", "--out", tmp_path / "o"
    )
    assert code == 0, err
    assert "IoU forest" in out and "McNemar p =" in out and "interval" in out.splitlines()[-2]
    assert (tmp_path / "o" / "scene_difference.tif").exists()
    a, b = (a_map(w, tmp_path / f"{n}.tif", wrong=n / 10)[0] for n in (1, 2))
    with rasterio.open(a, "r+", IGNORE_COG_LAYOUT_BREAK="YES") as file:
        file.write_colormap(1, {0: (9, 9, 200, 255), 1: (200, 200, 9, 255), 2: (9, 90, 9, 255)})
    code, out, err = run_cli("compare", a, b, "--labels", labels, "--json")
    # Its values are read as classes: that pictures with a palette are read as colours would only confuse.
    assert code == 1 and "1 labelled block in common" in err and "palette" not in err
    code, out, err = run_cli("compare", a, b)
    assert code == 2 and "compared on --labels" in err
    code, out, err = run_cli("compare", paths[0], paths[1], "--device", "cpu", "--json")
    assert code == 0 and json.loads(out)["part"] == "test"


def full(*arguments, **options):
    raise BadFile("It cannot be written: No space left on device.")


@pytest.mark.parametrize("where", ["comparison.json", "the last map", "Ctrl-C"])
def test_what_was_compared_is_told_where_its_files_fail(tmp_path, monkeypatch, capsys, where):
    """A disk that is full after hours, or an end before all scenes."""
    scenes, labels, maps = [], [], [tmp_path / "a", tmp_path / "b"]
    for number in range(2):
        one = world.make(tmp_path, 64, 96, seed=number, name=f"scene{number}")
        scenes.append(str(one.scene))
        labels.append(str(world.label_raster(one, tmp_path / f"labels{number}.tif")))
        for k, into in enumerate(maps):
            into.mkdir(exist_ok=True)
            a_map(one, into / f"scene{number}_class.tif", wrong=0.3 - 0.2 * k, seed=k)
    how = {"block": 16, "shares": {"train": 0.5, "test": 0.5}}
    with ls.open_dataset(scenes, labels, spec={"legend": world.LEGEND}, **how) as dataset:
        whole = ls.compare(maps, dataset, **QUICK)
        capsys.readouterr()
        real, finished = MapWriter.finish, []

        def fails(self):
            finished.append(self)
            return real(self) if len(finished) < 2 else full()

        def stops(*arguments, **options):
            finished.append(arguments)
            if len(finished) == 2:
                raise KeyboardInterrupt
            return count_scene(*arguments, **options)

        if where == "comparison.json":
            monkeypatch.setattr(compare, "_write", full)
        elif where == "Ctrl-C":
            monkeypatch.setattr(compare, "count_scene", stops)
        else:
            monkeypatch.setattr(MapWriter, "finish", fails)
        with pytest.raises(KeyboardInterrupt if where == "Ctrl-C" else BadFile):
            ls.compare(maps, dataset, out=tmp_path / "out", **QUICK)
    said, *sentences, stored = capsys.readouterr().err.splitlines()
    pairs = json.loads(stored)["pairs"]
    if where == "Ctrl-C":
        assert "stopped, 1 of 2 scenes:" in said and pairs[0]["blocks"] < whole.pairs[0].units
        return
    assert said.endswith("stopped:") and sentences == [whole.pairs[0].sentence]
    assert pairs == json.loads(json.dumps(whole.to_dict()["pairs"]))
    assert not list((tmp_path / "out").iterdir()), "difference maps of no comparison"
