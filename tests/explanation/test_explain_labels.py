"""`explain` with labels of the user, and for the second task of a model."""

import dataclasses
import json

import numpy as np
import pytest
import torch
import world
from inside import checkpoint_of, close, look_at

import labelscape as ls
from labelscape.checkpoint import SecondTask
from labelscape.errors import BadInput, BadOption, UnknownName
from labelscape.explanation import bands, dfcnet, dgcwnet, disagreement, mistakes
from labelscape.explanation.choosing import Wanted, choose
from labelscape.explanation.compared import near_border
from labelscape.explanation.reference import Reference
from labelscape.explanation.windows import network_of, predict
from labelscape.legend import IGNORE, Legend
from labelscape.maps.request import request_for


@pytest.fixture(scope="module")
def painted(tmp_path_factory):
    return world.make(tmp_path_factory.mktemp("labels"), nodata=0)


@pytest.fixture(scope="module")
def labels(painted):
    """Nothing is labelled in the left third."""
    unlabelled = np.zeros((96, 128), bool)
    unlabelled[:, :40] = True
    return world.label_raster(painted, painted.scene.parent / "labels.tif", unlabelled=unlabelled)


@pytest.fixture(scope="module")
def skip(painted):
    return checkpoint_of("skip", painted.scene)


def look_with(checkpoint, painted, labels, wanted, **more):
    look = look_at(checkpoint, painted.scene, wanted, **more)
    reference = Reference.of(checkpoint, [painted.scene], [labels], {})
    request = request_for(checkpoint, painted.scene, None, None, {})

    def ticks(*_, **__):
        return None

    windows, _ = choose(look.net, checkpoint, request, [painted.scene], wanted, ticks, reference)
    return dataclasses.replace(look, windows=windows)


def test_labels_are_those_of_the_window_and_nothing_where_there_is_no_data(painted, labels, skip):
    (seen,) = look_with(skip, painted, labels, Wanted(given=((24, 0, 64),))).windows
    expected = painted.classes[:64, 24:88].copy()
    expected[:, :16] = IGNORE
    expected[~seen.valid] = IGNORE
    assert (~seen.valid).any() and (seen.truth == expected).all()
    known = expected != IGNORE
    assert seen.dominant == np.bincount(expected[known]).argmax()
    named = seen.named(world.LEGEND.names)
    assert named["labelled_pixels"] == known.sum()
    assert named["right_pixels"] == (seen.classes == expected)[known].sum()


def test_random_windows_have_labels_and_most_of_the_class_that_is_wanted(painted, labels, skip):
    found = look_with(skip, painted, labels, Wanted(number=12, side=24)).windows
    assert all((seen.truth != IGNORE).sum() >= 0.05 * seen.valid.sum() for seen in found)
    # More places at random would lie in the left third alone: 16 of 105 columns and more.
    assert all(seen.window.right > 40 for seen in found)
    of_class = look_with(skip, painted, labels, Wanted(number=3, side=16, of_class="forest")).windows
    assert all((seen.truth == 2).any() for seen in of_class)


@pytest.mark.parametrize("of_class", ["forest", None])
def test_as_many_windows_are_announced_as_are_read(painted, skip, of_class):
    wanted, read = Wanted(number=3, side=16, of_class=of_class), []
    request = request_for(skip, painted.scene, None, None, {})
    choose(network_of(skip), skip, request, [painted.scene], wanted, lambda *a, **k: read.append(1))
    assert len(read) == wanted.candidates


def test_where_the_model_is_wrong_equals_a_loop(painted, labels, skip):
    look = look_with(skip, painted, labels, Wanted(number=3, side=40))
    found = mistakes.mistakes(look).numbers
    counts, border = np.zeros((3, 3), int), 0
    for seen in look.windows:
        near = near_border(seen.truth)
        for row, column in np.ndindex(40, 40):
            label = seen.truth[row, column]
            if label != IGNORE:
                counts[label, seen.classes[row, column]] += 1
                border += int(near[row, column] and label != seen.classes[row, column])
    assert found["counts"] == counts.tolist() and found["labelled_pixels"] == counts.sum()
    assert found["wrong_pixels"] == counts.sum() - np.trace(counts)
    assert found["overall_accuracy"] == pytest.approx(np.trace(counts) / counts.sum())
    assert found["wrong_near_borders"] == border
    for k, name in enumerate(world.LEGEND.names):
        assert found["recall"][name] == pytest.approx(counts[k, k] / counts[k].sum())


def test_borders_to_what_is_unlabelled_are_none():
    classes = world.paint(24, 30, patch=9, seed=3)
    classes[:, 20:] = IGNORE
    found = near_border(classes, 2)
    for row, column in np.ndindex(24, 30):
        around = classes[max(0, row - 2) : row + 3, max(0, column - 2) : column + 3]
        expected = classes[row, column] != IGNORE and len(set(around[around != IGNORE].tolist())) > 1
        assert found[row, column] == expected


def test_the_importance_of_bands_by_labels_equals_a_loop(painted, labels, skip):
    look = look_with(skip, painted, labels, Wanted(number=2, side=40))
    found = bands.band_importance(look)
    one, other = look.windows

    def accuracy(changed=None):
        right = labelled = 0
        for mine, partner in ((one, other), (other, one)):
            image = mine.image.clone()
            if changed is not None:
                image[:, changed] = partner.image[:, changed]
            predicted = predict(look.net, image)
            right += ((predicted == mine.truth) & (mine.truth != IGNORE)).sum()
            labelled += (mine.truth != IGNORE).sum()
        return right / labelled

    assert found.numbers["overall_accuracy"] == pytest.approx(accuracy())
    for b, name in enumerate(look.checkpoint.bands):
        assert found.numbers["bands"][name]["accuracy_lost"] == pytest.approx(accuracy() - accuracy(b))
    assert "Against the labels the overall accuracy falls" in found.lead


def test_of_two_models_the_right_one_is_counted(painted, labels, skip):
    other = checkpoint_of("mlp", painted.scene, hidden=16)
    look = look_with(skip, painted, labels, Wanted(number=2, side=48), other=other)
    found = disagreement.disagreement(look).numbers["where_they_differ"]
    counts, net = {"this_is_right": 0, "other_is_right": 0, "neither": 0}, network_of(other)
    for seen in look.windows:
        theirs = predict(net, seen.image)
        for mine, its, truth in zip(seen.classes.flat, theirs.flat, seen.truth.flat):
            if truth != IGNORE and mine != its:
                who = "this_is_right" if mine == truth else "other_is_right" if its == truth else "neither"
                counts[who] += 1
    assert found == counts and sum(counts.values()) > 0


def test_the_class_wise_variance_is_of_the_labelled_classes(painted, labels):
    model = checkpoint_of("dgcwnet", painted.scene)
    look = look_with(model, painted, labels, Wanted(number=2, side=64))
    moments = dgcwnet.Moments.none(3)
    for seen in look.windows:
        moments.add(dgcwnet.last_features(look.net, seen.image), seen.truth)
    found = dgcwnet.class_variance(look)
    assert close(found.arrays["variance_with_the_module"], moments.variance())
    assert "labelled classes (eq. 8)" in found.lead


def test_windows_without_labels_are_refused(painted, labels, skip, tmp_path):
    with pytest.raises(BadInput, match="0,32,32 has no labelled pixel"):
        ls.explain(skip, painted.scene, tmp_path / "o", window=[(0, 32, 32)], labels=labels)
    with pytest.raises(BadInput, match="1 scenes and 2 label files"):
        ls.explain(skip, painted.scene, tmp_path / "o", labels=[labels, labels])
    with pytest.raises(UnknownName, match="Did you mean 'classes'"):
        ls.explain(skip, painted.scene, tmp_path / "o", labels=labels, spec={"clases": {}})
    with pytest.raises(BadOption, match="background: these say how labels are read"):
        ls.explain(skip, painted.scene, tmp_path / "o", spec={"background": "water"})
    assert not (tmp_path / "o").exists()


# ------------------------------------------------------------------------------------------- second task


@pytest.fixture(scope="module")
def two(painted):
    model = checkpoint_of("dfcnet", painted.scene)
    contract = dataclasses.replace(
        model.contract,
        normalisation=tuple((mean + 100.0, std * 2) for mean, std in model.contract.normalisation),
    )
    return dataclasses.replace(
        model, mate=SecondTask("road", Legend.of_names(["other", "road"]), contract, temperature=2.0)
    )


def test_the_second_task_is_looked_at_with_its_own_head_and_scaling(painted, two):
    road = two.task("road")
    look = look_at(road, painted.scene, Wanted(number=1, side=48))
    (seen,) = look.windows
    first = look_at(two, painted.scene, Wanted(number=1, side=48))
    (same,) = first.windows
    assert same.window == seen.window and not close(same.image, seen.image)
    with torch.no_grad():
        expected = first.net.both(seen.image)["mate"][0].argmax(0)
        assert close(look.net(seen.image), first.net.both(seen.image)["mate"])
    assert (seen.classes[seen.valid] == expected.numpy()[seen.valid]).all()
    assert "the second task itself" in dfcnet.why_no_mate(look) and dfcnet.why_no_mate(first) == ""


def test_the_page_of_a_second_task_is_named_and_compared_with_that_of_another_model(painted, two, tmp_path):
    only = ["disagreement", "bands"]
    done = ls.explain(two, painted.scene, tmp_path, windows=2, size=32, task="road", other=two, only=only)
    assert done.paths["json"].name == "dfcnet_road_explained.json"
    numbers = json.loads(done.paths["json"].read_text())
    assert numbers["task"] == "road" and numbers["windows"][0]["dominant_class"] in ("other", "road")
    # The same task of the same model: it agrees with itself everywhere.
    assert numbers["analyses"]["disagreement"]["differing"] == 0
    assert len(numbers["analyses"]["disagreement"]["counts"]) == 2
    assert "Inside dfcnet, second task road" in done.paths["html"].read_text()
    with pytest.raises(UnknownName, match="road"):
        ls.explain(two, painted.scene, tmp_path / "o", task="rod")


def test_the_labels_of_a_second_task_are_read_as_its_own(painted, two, tmp_path, run_cli):
    mask = world.label_raster(painted, tmp_path / "mask.tif", values=(0, 255, 255))
    model = ls.save(
        dataclasses.replace(
            two, recipe={"mate": {"data": {"images": [], "classes": {"other": 0, "road": 255}}}}
        ),
        tmp_path / "two.safetensors",
    )
    command = ["explain", model, painted.scene, "--out", tmp_path / "o", "--task", "road", "--json"]
    window = ["--window", "64,32,48", "--only", "mistakes"]
    code, out, err = run_cli(*command, *window, "--labels", mask)
    assert code == 0, err
    found = json.loads(out)
    truth = painted.classes[32:80, 64:112] > 0
    assert found["analyses"]["mistakes"]["labelled_pixels"] == 48 * 48
    counts = np.array(found["analyses"]["mistakes"]["counts"])
    assert counts.sum(1).tolist() == [(~truth).sum(), truth.sum()]
    assert found["labels"] == [str(mask)]
