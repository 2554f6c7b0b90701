"""`ls.evaluate` without a dataset, and with scenes whose labels are read as in training: the numbers of the
verb.
"""

import json
from dataclasses import replace

import pytest
import rasterio
import world

import labelscape as ls
from labelscape.errors import BadFile, BadInput, BadOption, UnknownName, WrongType
from labelscape.scenes.array import ArrayScene

CPU = {"device": "cpu", "show": False}


@pytest.fixture
def trained(tmp_path):
    """A checkpoint whose recipe names a scene with polygons, the class `other` between them."""
    w = world.make(tmp_path, 96, 128)
    labels = world.label_polygons(w, tmp_path / "fields.gpkg", only=(0, 1))
    data = {
        "images": [str(w.scene)],
        "labels": [str(labels)],
        "class_column": "kind",
        "background": "forest",
        "block": 32,
        "holdout": 0.3,
    }
    made = world.tiny_checkpoint(like=w.scene, recipe={"data": data, "seed": 3})
    return ls.save(made, tmp_path / "m.safetensors")


def by_the_verb(run_cli, *argv):
    code, out, _ = run_cli("evaluate", *argv, "--json", "--device", "cpu")
    assert code == 0
    found = json.loads(out)
    return found["part"], found["per_scene"]


def counts(found: ls.Evaluation) -> dict:
    return {name: one.to_dict() for name, one in found.per_scene.items()}


def test_a_checkpoint_alone_is_scored_on_its_held_out_blocks(trained, run_cli):
    for model in (trained, ls.load(trained)):
        found = ls.evaluate(model, **CPU)
        assert ("test", counts(found)) == by_the_verb(run_cli, trained)
    everywhere = ls.evaluate(trained, part="all", **CPU)
    assert ("all", counts(everywhere)) == by_the_verb(run_cli, trained, "--part", "all")
    assert everywhere.confusion.labelled == 96 * 128 > 2 * found.confusion.labelled > 0


def test_labels_of_other_scenes_are_read_as_in_training(trained, run_cli, tmp_path):
    other = world.make(tmp_path, 64, 96, seed=5, name="other")
    labels = world.label_polygons(other, tmp_path / "other.geojson", only=(0, 1))
    expected = by_the_verb(run_cli, trained, other.scene, "--labels", labels)
    for scene, given in ((other.scene, labels), (str(other.scene), [str(labels)]), ([other.scene], labels)):
        assert ("all", counts(ls.evaluate(trained, scene, labels=given, **CPU))) == expected
    with rasterio.open(other.scene) as dataset:
        assert counts(ls.evaluate(trained, dataset, labels, **CPU)) == expected[1]
    alone = ls.evaluate(trained, other.scene, labels, spec={"background": None}, **CPU)
    assert 0 < alone.confusion.labelled < 64 * 96


def test_an_area_that_holds_no_longer_is_warned_of(trained, tmp_path):
    made = ls.load(trained)
    made.recipe["data"]["area"] = "surveyed.gpkg"
    scene, labels = made.recipe["data"]["images"], made.recipe["data"]["labels"]
    with pytest.warns(UserWarning, match=r"only inside surveyed.gpkg .*`area`.*counts as 'forest'"):
        ls.evaluate(made, scene, labels, **CPU)


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ({"threshold": 0}, "`data.threshold=0` must be at least 1."),
        ({"nodata": "none"}, "`data.nodata='none'` must be a number."),
        ({"merge": "water"}, "`data.merge='water'` must be a mapping"),
        (
            {"class_column": 5, "bands": 3},
            "`data.class_column=5` must be text.\n  - `data.bands=3` must be a list.",
        ),
    ],
)
def test_rules_of_labels_of_a_wrong_type_are_refused_in_our_words(trained, spec, said):
    made = ls.load(trained)
    scene, labels = made.recipe["data"]["images"], made.recipe["data"]["labels"]
    with pytest.raises(BadOption) as told:
        ls.evaluate(made, scene, labels, spec=spec, **CPU)
    assert said in str(told.value)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"block": 0}, "data.block=0"),
        ({"tiles": 3}, "No setting of data is called 'tiles'."),
        ({"fold": "3"}, "must be K/N, fold K of N"),
    ],
)
def test_data_that_a_checkpoint_stores_and_nobody_can_read_are_refused(
    trained, wrong, said, run_cli, tmp_path
):
    made = ls.load(trained)
    odd = replace(made, recipe={**made.recipe, "data": {**made.recipe["data"], **wrong}})
    with pytest.raises(BadOption, match="that the checkpoint stores cannot be used") as told:
        ls.evaluate(odd, **CPU)
    assert said in str(told.value)
    path = ls.save(odd, tmp_path / "odd.safetensors")
    code, _, err = run_cli("calibrate", path, "--device", "cpu")
    assert code == 2 and said in err
    # It says nothing of other scenes, which are given with their labels.
    other = world.make(tmp_path, 64, 96, seed=5, name="other")
    labels = world.label_polygons(other, tmp_path / "other.geojson")
    found = ls.evaluate(odd, other.scene, labels, spec={"class_column": "kind"}, **CPU)
    assert found.confusion.labelled == 64 * 96


def test_what_cannot_be_scored_is_answered(trained):
    made = ls.load(trained)
    scene, labels = made.recipe["data"]["images"], made.recipe["data"]["labels"]
    with pytest.raises(BadOption, match="does not say what it was trained on: pass scenes and `labels`"):
        ls.evaluate(world.tiny_checkpoint(), **CPU)
    moved = replace(made, recipe={**made.recipe, "data": {**made.recipe["data"], "images": ["gone.tif"]}})
    with pytest.raises(BadFile, match=r"gone.tif, which the checkpoint was trained on .* Pass scenes and"):
        ls.evaluate(moved, **CPU)
    with pytest.raises(BadOption, match="no scene is given|but no scene"):
        ls.evaluate(made, labels=labels, **CPU)
    with pytest.raises(WrongType, match="by their paths; found a ArrayScene"):
        with ls.Scene(scene[0]) as opened:
            array = ArrayScene(opened.read().pixels)
        ls.evaluate(made, array, labels, **CPU)
    with pytest.raises(UnknownName, match="'class_colum'. Did you mean 'class_column'"):
        ls.evaluate(made, scene, labels, spec={"class_colum": "kind"}, **CPU)
    with pytest.raises(UnknownName, match="No part is called 'tset'. Did you mean 'test'"):
        ls.evaluate(made, part="tset", **CPU)
    with pytest.raises(BadInput, match="No labelled pixel|no labelled pixel"):
        ls.evaluate(made, part="val", **CPU)


def test_scores_are_not_lost_with_the_files_that_cannot_be_written(trained, run_cli, tmp_path, monkeypatch):
    """A disk that is full after hours."""
    wanted = ls.evaluate(trained, **CPU).metrics

    def full(*arguments, **options):
        raise BadFile("report.html cannot be written: No space left on device.")

    with monkeypatch.context() as patch:
        patch.setattr("labelscape.evaluation.page.write_page", full)
        code, _, err = run_cli("evaluate", trained, "--device", "cpu", "--out", tmp_path / "where")
    assert code == 1 and "No space left" in err
    said = f"mIoU {100 * wanted['mean_iou']:.2f} %, OA {100 * wanted['overall_accuracy']:.2f} %"
    assert f"scored before its files failed or it was stopped: {said} of {wanted['labelled_pixels']:,}" in err
    monkeypatch.setattr(ls.Evaluation, "save", full)
    code, out, err = run_cli(
        "evaluate", trained, "--device", "cpu", "--json", "--counts", tmp_path / "counts.json"
    )
    assert code == 1 and "No space left" in err and "counts:" not in err
    assert json.loads(out)["mean_iou"] == wanted["mean_iou"]
