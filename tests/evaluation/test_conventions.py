"""The metric card agrees with the libraries whose conventions it names."""

import numpy as np
import pytest
import torch
import world
from sklearn import metrics as sk

import labelscape as ls
from labelscape.errors import BadOption
from labelscape.evaluation.boundaries import ring_of
from labelscape.evaluation.confusion import Confusion, count
from labelscape.evaluation.conventions import metric_card
from labelscape.nets.libraries import import_torchvision

NAMES = ("water", "forest", "clutter", "road")


@pytest.fixture(scope="module")
def images():
    """Five images; "road" occurs in none of them, neither as truth nor as prediction."""
    draw = np.random.default_rng(3)
    truth = draw.integers(0, 3, (5, 16, 16)).astype(np.uint8)
    truth[0] = np.where(truth[0] == 1, 0, truth[0])  # an image without forest
    predicted = np.where(draw.random(truth.shape) < 0.6, truth, draw.integers(0, 3, truth.shape))
    return truth, predicted.astype(np.uint8)


@pytest.fixture(scope="module")
def card(images):
    per_scene = {str(i): count(t, p, len(NAMES)) for i, (t, p) in enumerate(zip(*images, strict=True))}
    return {line.name: line.value for line in metric_card(per_scene, NAMES)}


def test_the_card_agrees_with_scikit_learn(images, card):
    truth, predicted = (values.ravel() for values in images)
    every = {"labels": range(4), "average": "macro", "zero_division": 0}
    assert card["OA"] == pytest.approx(sk.accuracy_score(truth, predicted), abs=1e-12)
    assert card["mIoU, absent class = 0"] == pytest.approx(sk.jaccard_score(truth, predicted, **every))
    assert card["mIoU, present classes"] == pytest.approx(
        sk.jaccard_score(truth, predicted, average="macro"), abs=1e-12
    )
    assert card["IoU, micro"] == pytest.approx(sk.jaccard_score(truth, predicted, average="micro"))
    assert card["mean accuracy"] == pytest.approx(sk.balanced_accuracy_score(truth, predicted))
    assert card["mean F1, present classes"] == pytest.approx(sk.f1_score(truth, predicted, average="macro"))
    p = sk.precision_score(truth, predicted, average="macro")
    r = sk.recall_score(truth, predicted, average="macro")
    assert card["F1 of mean precision and recall"] == pytest.approx(2 * p * r / (p + r))


def test_the_card_agrees_with_segmentation_models_pytorch(images, card):
    import_torchvision()
    import segmentation_models_pytorch as smp

    truth, predicted = (torch.from_numpy(values.astype(np.int64)) for values in images)
    stats = smp.metrics.get_stats(predicted, truth, mode="multiclass", num_classes=4)
    for name, reduction in (
        ("IoU, micro", "micro"),
        ("mIoU, absent class = 1", "macro"),
        ("IoU, micro, mean over images", "micro-imagewise"),
        ("mIoU, images and classes, absent class = 1", "macro-imagewise"),
    ):
        theirs = float(smp.metrics.iou_score(*stats, reduction=reduction))
        assert card[name] == pytest.approx(theirs, abs=1e-6), name  # theirs is float32


def test_the_card_agrees_with_torchmetrics_and_cityscapes_scripts(card):
    """What torchmetrics 1.9.0 (float32) and cityscapesScripts 2.3.0 gave for these very images, once."""
    torchmetrics = {
        "mIoU, present classes": 0.5554940104,  # MulticlassJaccardIndex(4, average="macro")
        "IoU, micro": 0.5590742826,  # MulticlassJaccardIndex(4, average="micro")
        "mIoU, clutter masked": 0.6283855438,  # MulticlassJaccardIndex(4, average="macro", ignore_index=2)
        "mean F1, present classes": 0.7136740088,  # MulticlassF1Score(4, average="macro")
        "mean accuracy": 0.7162137032,  # MulticlassAccuracy(4, average="macro")
        "OA": 0.7171875238,  # MulticlassAccuracy(4, average="micro")
        "mIoU, mean over images": 0.5253912210,  # segmentation.MeanIoU(4, input_format="index")
    }
    for name, theirs in torchmetrics.items():
        assert card[name] == pytest.approx(theirs, abs=1e-6), name
    # getIouScoreForLabel of road and sidewalk, with "clutter" as the label unlabeled (ignoreInEval).
    void = (0.6637478108581436, 0.5930232558139535)
    assert card["mIoU, clutter masked"] == pytest.approx(sum(void) / 2, abs=1e-12)
    evaluated = (0.6015873015873016, 0.529045643153527, 0.5358490566037736)
    assert card["mIoU, present classes"] == pytest.approx(sum(evaluated) / 3, abs=1e-12)


def test_the_card_agrees_with_the_cityscapes_rules(images, card):
    """FN is the whole row, FP the column over the rows of evaluated classes; here void is "clutter"."""
    matrix = np.zeros((4, 4), int)
    for t, p in zip(*(values.ravel() for values in images), strict=True):
        matrix[t, p] += 1
    scores = []
    for k in (0, 1, 3):
        fp = sum(matrix[row, k] for row in (0, 1, 3) if row != k)
        below = matrix[k].sum() + fp
        scores.append(matrix[k, k] / below if below else np.nan)
    assert card["mIoU, clutter masked"] == pytest.approx(np.nanmean(scores), abs=1e-12)


def test_the_card_agrees_with_the_script_of_the_mlp_paper():
    """The authors' script (RemoteSensingVaihingen/acc.py) in its own steps: reference 5 is clutter, which
    stays in OA and among the false positives, and 6 is eroded away. Its mean IoU alone is another: it also
    counts as false positives what is predicted on pixels that were eroded, which no counts of labelled
    pixels hold.
    """
    draw = np.random.default_rng(7)
    ref = draw.integers(0, 7, (60, 60)).astype(np.uint8)
    prediction = np.where(draw.random(ref.shape) < 0.7, np.minimum(ref, 5), draw.integers(0, 6, ref.shape))
    names = ("surfaces", "building", "low vegetation", "tree", "car", "clutter")
    truth = np.where(ref == 6, 255, ref).astype(np.uint8)
    counts = count(truth, prediction.astype(np.uint8), 6)
    card = {line.name: line.value for line in metric_card({"tile": counts}, names)}
    valid = ref != 6
    assert card["OA"] == pytest.approx(
        np.count_nonzero(valid & (prediction == ref)) / np.count_nonzero(valid)
    )
    f1 = sk.f1_score(ref[valid], prediction[valid], labels=range(6), average=None)
    assert card["mean F1 without clutter"] == pytest.approx(sum(f1[:5]) / (len(f1) - 1))
    ious = [
        [
            np.count_nonzero((ref == k) & (prediction == k) & where)
            / np.count_nonzero(((ref == k) | (prediction == k)) & where)
            for k in range(5)
        ]
        for where in (valid, valid | True)
    ]
    assert card["mIoU without clutter"] == pytest.approx(np.mean(ious[0]))
    assert np.mean(ious[1]) < card["mIoU without clutter"]


def test_clutter_by_hand():
    """Truth water, water, forest, clutter; prediction water, clutter, forest, water."""
    counts = Confusion([[1, 0, 1, 0], [0, 1, 0, 0], [1, 0, 0, 0], [0, 0, 0, 0]], [0, 0, 0, 0])
    card = {line.name: line.value for line in metric_card({"a": counts}, NAMES)}
    # Water: TP 1, FN 1, FP 1 (the clutter pixel), or no FP where that pixel is masked.
    assert card["mean F1 without clutter"] == pytest.approx((2 / 4 + 1) / 2)
    assert card["mean F1, clutter masked"] == pytest.approx((2 / 3 + 1) / 2)
    assert card["mIoU without clutter"] == pytest.approx((1 / 3 + 1) / 2)
    assert card["mIoU, clutter masked"] == pytest.approx((1 / 2 + 1) / 2)
    assert card["OA, clutter masked"] == pytest.approx(2 / 3)
    assert "mIoU, mean over images" not in card, "one image has no mean over images"


def test_a_pixel_without_prediction_is_wrong_under_every_convention():
    whole = Confusion([[4, 0], [0, 4]], [0, 0])
    holes = Confusion([[4, 0], [0, 4]], [2, 0])
    better, worse = (metric_card({"a": c}, ("a", "b")) for c in (whole, holes))
    for one, other in zip(better, worse, strict=True):
        assert other.value < one.value == 1.0, one.name


def test_counts_of_other_classes_are_refused():
    with pytest.raises(BadOption, match="2 classes a, b"):
        metric_card({"a": Confusion.empty(3)}, ("a", "b"))
    with pytest.raises(BadOption, match="one or more scenes"):
        metric_card({}, ("a", "b"))


def brute_ring(labels, radii):
    rings = np.full(labels.shape, len(radii), np.uint8)
    rows, columns = np.indices(labels.shape)
    for i, j in np.ndindex(labels.shape):
        if labels[i, j] == 255:
            continue
        others = (labels != labels[i, j]) & (labels != 255)
        if others.any():
            nearest = np.sqrt(((rows - i) ** 2 + (columns - j) ** 2)[others].min())
            rings[i, j] = next((n for n, r in enumerate(radii) if nearest <= r), len(radii))
    return rings


@pytest.mark.parametrize("seed", range(6))
def test_rings_are_distances_to_the_nearest_pixel_of_another_class(seed):
    draw = np.random.default_rng(seed)
    coarse = draw.choice([0, 1, 2, 255], (4, 5), p=[0.4, 0.3, 0.1, 0.2]).astype(np.uint8)
    labels = np.kron(coarse, np.ones((6, 5), np.uint8))
    found, wanted = ring_of(labels, radii=(1, 2, 3, 5)), brute_ring(labels, (1, 2, 3, 5))
    labelled = labels != 255
    np.testing.assert_array_equal(found[labelled], wanted[labelled])


def test_an_eroded_reference_ignores_a_disc_of_three_pixels():
    """ISPRS: what a disc of radius 3 around another class covers is not scored."""
    labels = np.zeros((11, 11), np.uint8)
    labels[5, 5] = 1
    rows, columns = np.indices(labels.shape)
    inside = (rows - 5) ** 2 + (columns - 5) ** 2 <= 9
    np.testing.assert_array_equal(ring_of(labels) <= 2, inside)


def test_rings_of_tiles_add_up_to_those_of_the_scene(tmp_path):
    """Counted tile by tile, with labels from beyond the tile, as on the whole picture at once."""
    w = world.make(tmp_path, 70, 90)
    labels = world.label_raster(w, tmp_path / "labels.tif")
    checkpoint = world.tiny_checkpoint(like=w.scene)
    rules = ls.LabelRules(legend=world.LEGEND)
    with ls.open_dataset([str(w.scene)], [str(labels)], spec=rules, block=32) as dataset:
        found = ls.evaluate(checkpoint, dataset, tile_size=32, blend="none", boundaries=True, show=False)
        kept = {}
        ls.evaluate(
            checkpoint, dataset, tile_size=32, blend="none", keep=lambda _, classes: kept.update(a=classes)
        )
        truth = dataset.scenes[0].read_labels(dataset.scenes[0].scene.grid.window)
    truth[kept["a"] == 255] = 255
    assert sum(ring.labelled for ring in found.per_ring) == found.confusion.labelled > 1000
    rings = ring_of(truth)
    assert len({ring.labelled for ring in found.per_ring}) > 2, "the scene has pixels near and far"
    for k, ring in enumerate(found.per_ring):
        there = np.where(rings == k, truth, 255).astype(np.uint8)
        assert ring == count(there, kept["a"], len(world.LEGEND)), k
    eroded = next(line.value for line in found.card if line.name == "OA, reference eroded by 3 px")
    far = (rings > 2) & (truth != 255)
    assert eroded == pytest.approx((kept["a"] == truth)[far].mean())
    assert found.trimap[-1]["overall_accuracy"] == pytest.approx(found.metrics["overall_accuracy"])


def test_names_of_arguments_are_whole_in_a_narrow_terminal(images, capsys):
    """They are what a reader searches the libraries for."""
    from rich.console import Console

    from labelscape.evaluation.text import print_card

    per_scene = {str(i): count(t, p, len(NAMES)) for i, (t, p) in enumerate(zip(*images, strict=True))}
    print_card(metric_card(per_scene, NAMES), (), console=Console(width=80))
    shown = capsys.readouterr().out
    users = "".join(row.split("│")[4].strip() for row in shown.splitlines() if row.count("│") == 5)
    assert "…" not in shown
    assert "reduction='macro-imagewise'" in users and "balanced_accuracy_score" in users
