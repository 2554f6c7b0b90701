import json

import numpy as np
import pytest
import world

import labelscape as ls
import labelscape.evaluation.calibrate as verbs_calibrate
import labelscape.scoring.stitch as stitch
from labelscape.checkpoint import load
from labelscape.errors import BadFile, BadInput, BadOption, UnknownName, WrongType
from labelscape.evaluation.calibrate import _cross_entropy, _minimum, expected_error
from labelscape.evaluation.confusion import Confusion
from labelscape.training.recipe import make_recipe
from labelscape.training.run import train


def test_the_temperature_that_was_put_in_is_found():
    """Labels drawn from softmax(logits) are perfectly calibrated; logits three times as large need a
    temperature of three.
    """
    rng = np.random.default_rng(0)
    logits = 2 * rng.normal(size=(40_000, 4))
    p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    truth = (p.cumsum(1) < rng.random((len(p), 1))).sum(1)
    assert _minimum(lambda t: _cross_entropy(3 * logits / t, truth)) == pytest.approx(3, rel=0.03)
    sharp = np.exp(3 * logits) / np.exp(3 * logits).sum(1, keepdims=True)
    assert expected_error(p, truth) < 0.01 < 0.1 < expected_error(sharp, truth)


def test_expected_error_is_its_definition():
    p = np.array([[0.95, 0.05], [0.97, 0.03], [0.6, 0.4]])
    truth = np.array([0, 1, 0])
    assert expected_error(p, truth) == pytest.approx((abs(0.96 - 0.5) * 2 + abs(0.6 - 1)) / 3)


def test_calibrate_rewrites_the_checkpoint_and_no_class(tmp_path, run_cli):
    w = world.make(tmp_path, 96, 128)
    data = {
        "images": [str(w.scene)],
        "labels": [str(world.label_raster(w, tmp_path / "l.tif"))],
        "block": 32,
        "val": 0.25,
    }
    recipe = make_recipe(
        data=data, network="fcn", options={"widths": [8, 8, 8, 8]}, steps=20, batch=4, crop=32, device="cpu"
    )
    train(recipe, tmp_path / "run")
    model = tmp_path / "run" / "fcn.safetensors"
    before = run_cli("evaluate", model, "--json", "--device", "cpu")[1]
    code, out, _ = run_cli("calibrate", model, "--json", "--device", "cpu")
    assert code == 0
    assert load(model).temperature == json.loads(out)["temperature"] != 1
    assert json.loads(run_cli("evaluate", model, "--json", "--device", "cpu")[1]) == json.loads(before)
    again = json.loads(run_cli("calibrate", model, "--json", "--device", "cpu")[1])
    assert again["temperature"] == pytest.approx(load(model).temperature)
    assert again["ece_before"] == pytest.approx(again["ece_after"])
    assert again.keys() == {"temperature", "ece_before", "ece_after", "pixels", "before", "after", "notes"}
    code, _, err = run_cli("calibrate", model, "--part", "train")
    assert code == 2
    assert "val or test" in err


@pytest.mark.parametrize(
    ("temperature", "before", "after", "said"),
    [
        (1.4, 0.10, 0.02, []),
        (5.0, 0.10, 0.10, []),
        (0.2, 0.10, 0.02, []),
        (1.4, 0.02, 0.10, ["The expected calibration error rises"]),
        (5.1, 0.10, 0.02, ["A temperature of 5.1 is extreme"]),
        (0.19, 0.10, 0.11, ["The expected calibration error rises", "A temperature of 0.19 is extreme"]),
    ],
)
def test_a_doubtful_calibration_is_warned_of(temperature, before, after, said):
    found = ls.Calibration(world.tiny_checkpoint(), temperature, before, after, 100)
    assert len(found.notes) == len(said) and all(n.startswith(s) for n, s in zip(found.notes, said))
    assert found.to_dict()["notes"] == list(found.notes)
    assert repr(found) == (
        f"<Calibration: temperature {temperature:g}, calibration error {100 * before:.2f} % -> "
        f"{100 * after:.2f} %, 100 pixels>"
    )


def test_the_verb_prints_what_makes_a_calibration_doubtful(tmp_path, run_cli, monkeypatch):
    w = world.make(tmp_path, 96, 128)
    labels = world.label_raster(w, tmp_path / "l.tif")
    data = {"images": [str(w.scene)], "labels": [str(labels)], "block": 32, "val": 0.25}
    model = ls.save(world.tiny_checkpoint(recipe={"data": data, "seed": 0}), tmp_path / "m.safetensors")
    monkeypatch.setattr(verbs_calibrate, "_minimum", lambda loss: 9.0)
    code, out, err = run_cli("calibrate", model, "--device", "cpu")
    assert code == 0 and "temperature 9.000" in out
    assert "warning: A temperature of 9 is extreme" in err


def test_calibrate_in_python_leaves_the_file_alone_until_saved(tmp_path):
    """The temperature is the one of least cross-entropy, and ECE is that of `predict`'s probabilities."""
    w = world.make(tmp_path, 96, 128)
    path = ls.save(world.tiny_checkpoint(temperature=2.5), tmp_path / "m.safetensors")
    before = path.read_bytes()
    labels, rules = world.label_raster(w, tmp_path / "l.tif"), ls.LabelRules(legend=world.LEGEND)
    with ls.open_dataset([str(w.scene)], [str(labels)], spec=rules) as dataset:
        found = ls.calibrate(path, dataset, part=None, device="cpu")
        assert ls.calibrate(ls.load(path), dataset, part=None, device="cpu").to_dict() == found.to_dict()
    assert path.read_bytes() == before
    assert found.pixels == 96 * 128
    truth = w.classes.ravel()
    errors = {}
    for checkpoint in (ls.load(path), found.checkpoint):
        p = ls.predict(checkpoint, w.pixels).reshape(3, -1).T.astype(np.float64)
        errors[checkpoint.temperature] = expected_error(p, truth), -np.log(p[np.arange(len(p)), truth]).mean()
    assert found.ece_before == pytest.approx(errors[2.5][0], abs=1e-5)
    assert found.ece_after == pytest.approx(errors[found.temperature][0], abs=1e-5)
    assert errors[found.temperature][1] < errors[2.5][1]
    assert ls.load(found.save(tmp_path / "calibrated.safetensors")).temperature == found.temperature


@pytest.mark.parametrize("verb", [ls.evaluate, ls.calibrate])
def test_what_is_no_dataset_or_no_checkpoint_is_said_in_a_sentence(tmp_path, verb):
    made = world.tiny_checkpoint()
    w = world.make(tmp_path, 40, 50)
    for given, said in ((str(w.scene), repr(str(w.scene))), (w.scene, "scene.tif"), (w.pixels, "a ndarray")):
        with pytest.raises(WrongType, match=r"ls\.open_dataset") as caught:
            verb(made, given)
        assert said in str(caught.value) and "A dataset (scenes with labels)" in str(caught.value)
    with ls.open_dataset([str(w.scene)], [str(world.label_raster(w, tmp_path / "l.tif"))]) as dataset:
        with pytest.raises(WrongType, match="found a Checkpoint"):
            verb(dataset, made)
        with pytest.raises(WrongType, match="A checkpoint must be given as a path; found a int"):
            verb(7, dataset)
        with pytest.raises(BadFile, match="does not exist"):
            verb(tmp_path / "gone.safetensors", dataset)
        with pytest.raises(UnknownName, match="No part is called 'validation'. Did you mean 'val'"):
            verb(made, dataset, part="validation")
    with pytest.raises(BadOption, match="At least one checkpoint is needed"):
        ls.predict([], w.pixels)


def test_an_evaluation_shows_its_scores_and_equals_only_itself():
    legend = ("water", "<b>field</b>")
    counts = Confusion(np.array([[30, 10], [0, 60]]), np.zeros(2, np.int64))
    one, two = (ls.Evaluation({"a": counts}, legend) for _ in range(2))
    assert repr(one) == "<Evaluation: OA 90.00 %, mIoU 80.36 %, 100 labelled pixels of 1 scene>"
    assert one == one and one != two and len({one, two}) == 2
    shown = one._repr_html_()
    assert "<td>75.00</td><td>85.71</td>" in shown and "&lt;b&gt;field" in shown and "<b>" not in shown
    assert repr(ls.Evaluation({}, legend)) == "<Evaluation of no scene>"
    assert "no scene" in ls.Evaluation({}, legend)._repr_html_()


def test_each_labelled_pixel_is_equally_likely_however_few_lie_around_it(tmp_path, monkeypatch):
    """A tile with a corner of labels counts as that corner: else the error that is printed is not that of the
    part's pixels, which `evaluate` prints.
    """
    scenes, labels = [], []
    for name, height, width in (("whole", 96, 128), ("corner", 24, 24)):
        (folder := tmp_path / name).mkdir()
        w = world.make(folder, 96, 128, seed=len(scenes))
        # Wrong in the corner and right elsewhere, so that the share of each decides the error.
        values = (w.classes + (name == "corner")).astype(np.uint8) % 3
        values[height:], values[:, width:] = 255, 255
        scenes.append(str(w.scene))
        labels.append(str(world.write(folder / "l.tif", values, nodata=255)))
    checkpoint, rules = world.tiny_checkpoint(), ls.LabelRules(legend=world.LEGEND)
    with ls.open_dataset(scenes, labels, spec=rules) as dataset:
        everything = ls.calibrate(checkpoint, dataset, part=None, device="cpu")
        assert everything.pixels == 96 * 128 + 24 * 24
        monkeypatch.setattr(verbs_calibrate, "MAX_PIXELS", 2000)
        drawn = ls.calibrate(checkpoint, dataset, part=None, device="cpu")
    assert drawn.pixels == 2000
    # Four standard errors of a share of 2000 pixels.
    assert drawn.ece_before == pytest.approx(everything.ece_before, abs=4 * 0.5 / 2000**0.5)
    assert drawn.temperature == pytest.approx(everything.temperature, rel=0.2)


def test_a_part_without_labels_is_refused_before_a_tile_is_predicted(tmp_path, monkeypatch):
    monkeypatch.setattr(stitch, "score_tiles", lambda *a, **k: pytest.fail("a tile was predicted"))
    w = world.make(tmp_path, 96, 128)
    labels, rules = world.label_raster(w, tmp_path / "l.tif"), ls.LabelRules(legend=world.LEGEND)
    shares = {"train": 0.5, "test": 0.5}
    with (
        ls.open_dataset([str(w.scene)], [str(labels)], spec=rules, shares=shares, block=32) as dataset,
        pytest.raises(BadInput, match="in the part val. Pass `part='test'`"),
    ):
        ls.calibrate(world.tiny_checkpoint(), dataset, part="val", device="cpu")
