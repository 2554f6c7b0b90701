import numpy as np
import pytest
import torch
import world
from hypothesis import given, settings
from hypothesis import strategies as st

import labelscape.scoring.heap as heap
import labelscape.training.loop as loop
from labelscape.checkpoint import load
from labelscape.datasets.own import open_dataset
from labelscape.errors import BadFile, BadInput, BadOption, UnknownName
from labelscape.labels.rules import LabelRules
from labelscape.legend import IGNORE
from labelscape.training.crops import Drawing, _turned, index_crops
from labelscape.training.losses import auto_weights, cross_entropy
from labelscape.training.optimizers import rate_at
from labelscape.training.recipe import make_recipe
from labelscape.training.run import train

TINY = {"options": {"widths": [8, 8, 8, 8]}, "steps": 12, "batch": 4, "crop": 32, "device": "cpu"}


@pytest.fixture
def data(tmp_path):
    w = world.make(tmp_path, 96, 128, bands=4, nodata=0)
    return {
        "images": [str(w.scene)],
        "labels": [str(world.label_raster(w, tmp_path / "labels.tif"))],
        "block": 32,
    }


def test_cross_entropy_is_equation_2():
    torch.manual_seed(0)
    logits = torch.randn(2, 3, 4, 5, dtype=torch.float64, requires_grad=True)
    labels = torch.randint(0, 3, (2, 4, 5))
    labels[0, 0], labels[1, 2, 3] = IGNORE, IGNORE
    total, pixels = 0.0, 0
    for n in range(2):
        for r in range(4):
            for c in range(5):
                if labels[n, r, c] != IGNORE:
                    exponents = logits[n, :, r, c].exp()
                    total = total - (exponents[labels[n, r, c]] / exponents.sum()).log()
                    pixels += 1
    expected = total / pixels
    found = cross_entropy(logits, labels)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(
        *(torch.autograd.grad(x, logits, retain_graph=True)[0] for x in (found, expected))
    )


def test_ignored_pixels_change_no_loss_and_no_gradient():
    torch.manual_seed(0)
    logits = torch.randn(1, 3, 6, 6)
    labels = torch.randint(0, 3, (1, 6, 6))
    labels[0, :3] = IGNORE
    other = logits.clone()
    other[..., :3, :] = 100 * torch.randn(1, 3, 3, 6)
    weights = torch.tensor([1.0, 2.0, 0.5])
    for weight in (None, weights):
        results = []
        for value in (logits, other):
            leaf = value.clone().requires_grad_()
            loss = cross_entropy(leaf, labels, weight)
            results.append((loss, torch.autograd.grad(loss, leaf)[0]))
        torch.testing.assert_close(results[0][0], results[1][0])
        torch.testing.assert_close(results[0][1][..., 3:, :], results[1][1][..., 3:, :])
        assert (results[1][1][..., :3, :] == 0).all()
        empty = torch.full_like(labels, IGNORE)
        leaf = logits.clone().requires_grad_()
        loss = cross_entropy(leaf, empty, weight)
        assert loss == 0
        assert (torch.autograd.grad(loss, leaf)[0] == 0).all()


def test_auto_weights_leave_the_mean_pixel_at_one():
    counts = torch.tensor([900, 90, 10, 0])
    weights = auto_weights(counts)
    assert float((weights * counts).sum() / counts.sum()) == pytest.approx(1)
    assert weights[2] > weights[1] > weights[0] > weights[3] == 0
    assert float(weights[1] / weights[0]) == pytest.approx(10**0.5)


def test_schedules_are_the_formulas():
    sgd = {"data": {"images": ["a.tif"]}, "optimizer": "sgd"}
    poly = make_recipe(**sgd, steps=100, rate=0.1, warmup=10)
    assert rate_at(poly, 0) == pytest.approx(0.01)
    assert rate_at(poly, 50) == pytest.approx(0.1 * 0.5**0.9)
    exponential = make_recipe(**sgd, steps=100, rate=0.1, schedule="exponential", tenth_every=10)
    assert rate_at(exponential, 10) == pytest.approx(0.01)
    assert rate_at(exponential, 25) == pytest.approx(0.1 * 10**-2.5)
    assert rate_at(make_recipe(**sgd, schedule="constant", rate=0.3), 77) == 0.3


def test_everything_wrong_with_a_recipe_is_said_at_once():
    with pytest.raises(BadOption) as caught:
        make_recipe(data={"images": ["a.tif"], "blok": 3}, netwrk="mlp", steps=0, momentum=1.5)
    text = str(caught.value)
    for part in ("Did you mean 'block'", "Did you mean 'network'", "steps=0", "momentum=1.5"):
        assert part in text
    with pytest.raises(BadOption, match="Did you mean 'unpooling'"):
        make_recipe(data={"images": ["a.tif"]}, network="unpoling")
    with pytest.raises(BadOption, match="Did you mean 'hidden'"):
        make_recipe(data={"images": ["a.tif"]}, network="mlp", options={"hiden": 3})
    recipe = make_recipe(data={"images": ["a.tif"]})
    with pytest.raises(BadOption, match="leave nothing to train on"):
        recipe.replace(data={"images": ["a.tif"], "holdout": 0.6, "val": 0.5})
    assert recipe.replace(steps=5).steps == 5


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 7))
def test_the_eight_turns_are_the_symmetries_of_the_square(which):
    image = torch.arange(2 * 5 * 5).reshape(2, 5, 5).float()
    label = image[0].to(torch.uint8)
    turned, turned_label = _turned(image, label, which)
    torch.testing.assert_close(turned[0].to(torch.uint8), turned_label)
    all_turns = {tuple(_turned(image, label, k)[1].flatten().tolist()) for k in range(8)}
    assert len(all_turns) == 8
    rotated = torch.rot90(label)
    assert tuple(rotated.flatten().tolist()) in all_turns


@pytest.mark.parametrize("sampling", ["uniform", "labelled", "balanced"])
def test_crops_come_from_training_blocks_and_repeat_exactly(data, sampling):
    recipe = make_recipe(data=data, sampling=sampling, **TINY)
    with open_dataset(
        data["images"], data["labels"], block=32, shares={"train": 0.7, "test": 0.3}
    ) as dataset:
        drawing = Drawing.of(recipe, index_crops(dataset), ((0.0, 1.0),) * 4)
        first = [drawing.part(step, 0, 1) for step in range(12)]
        for step in (
            7,
            3,
        ):  # a step's crops do not depend on the steps before, nor on the parts they are drawn in
            halves = [drawing.part(step, part, 2) for part in (0, 1)]
            for whole, *parts in zip(first[step], *halves):
                torch.testing.assert_close(whole, torch.cat(parts), atol=0, rtol=0)
        split, scene = dataset.scenes[0].split, dataset.scenes[0]
        allowed = scene.read(scene.scene.grid.window, "train")
        seen = {tuple(v) for v in allowed[0].pixels[:, allowed[1] != IGNORE].T.tolist()}
        for image, label in first:
            for pixel in image.movedim(1, -1)[label != IGNORE].tolist()[:200]:
                assert tuple(pixel) in seen  # every labelled pixel of a crop is a training pixel
        assert split.block == 32


def test_training_learns_writes_and_repeats_bit_for_bit(data, tmp_path):
    recipe = make_recipe(data=data, network="skip", base_steps=0, rate=0.005, **{**TINY, "steps": 60})
    first = train(recipe, tmp_path / "a")
    assert first.stored == load(tmp_path / "a" / f"{recipe.network}.safetensors").stored
    again = train(recipe, tmp_path / "b")
    for key, value in first.weights.items():
        np.testing.assert_array_equal(value, again.weights[key])
    assert first.history[-1]["loss"] < 0.7 * first.history[0]["loss"]
    assert first.scores["skip"]["overall_accuracy"] > 0.7
    back = load(tmp_path / "a" / "skip.safetensors")
    assert back.describe() == first.describe()
    assert back.contract.nodata == 0
    assert back.pixel_size == pytest.approx(10, rel=1e-3)
    assert (tmp_path / "a" / "skip.csv").read_text().startswith("step,loss,rate\n10,")
    with pytest.raises(BadFile, match="overwrite=True"):
        train(recipe, tmp_path / "a")


def test_two_phases_start_the_derived_network_from_the_base(data, tmp_path):
    recipe = make_recipe(
        data=data, network="skip", base_steps=5, rate=1e-9, weight_decay=0, momentum=0, **{**TINY, "steps": 1}
    )
    skip = train(recipe, tmp_path)
    base = load(tmp_path / "fcn.safetensors")
    assert base.network == "fcn"
    convs = [key for key in base.weights if key.startswith("encoder") and key.endswith("weight")]
    assert convs
    for key in convs:
        np.testing.assert_allclose(skip.weights[key], base.weights[key], atol=1e-6)
    assert set(skip.scores) == {"fcn", "skip"}
    started = train(recipe.replace(base_steps=0, start=str(tmp_path / "fcn.safetensors")), tmp_path / "again")
    for key in convs:
        np.testing.assert_allclose(started.weights[key], base.weights[key], atol=1e-6)


def test_what_cannot_be_trained_is_refused_before_the_first_step(data, tmp_path):
    with pytest.raises(BadInput, match="too high"):
        train(make_recipe(data=data, network="fcn", optimizer="sgd", rate=1e9, **TINY), tmp_path / "high")
    with pytest.raises(BadFile, match="cannot be created"):
        (tmp_path / "file").write_text("")
        train(make_recipe(data=data, network="fcn", **TINY), tmp_path / "file" / "out")
    with pytest.raises(BadOption, match="cannot be used here"):
        train(make_recipe(data=data, network="fcn", **{**TINY, "device": "cuda:77"}), tmp_path / "gpu")
    with pytest.raises(UnknownName, match="cpu, cuda"):
        train(make_recipe(data=data, network="fcn", **{**TINY, "device": "gpu"}), tmp_path / "gpu")


def test_steps_find_the_memory_of_those_before(data, tmp_path, monkeypatch):
    """glibc gives large tensors back, and the system clears each page of the next ones: a fifth of a small
    network's time. (tests/scoring/test_heap.py counts the pages.)
    """
    users, real = [], loop.update
    monkeypatch.setattr(loop, "update", lambda *given: (users.append(heap._users), real(*given))[1])
    train(make_recipe(data=data, network="fcn", **{**TINY, "steps": 2}), tmp_path / "a", score=False)
    assert users == [1, 1] and heap._users == 0


@pytest.mark.parametrize("sampling", ["labelled", "balanced"])
@pytest.mark.parametrize("crop", [16, 31, 64])
def test_no_crop_misses_the_points_that_it_is_laid_around(tmp_path, sampling, crop):
    """Single labelled pixels, up to the border of the scene; and a field, around which crops lie as ever."""
    w = world.make(tmp_path, 300, 400, bands=3)
    points = {(0, 0): 0, (299, 399): 1, (150, 70): 2, (151, 110): 0, (200, 333): 1, (64, 128): 1}
    labels = np.full((300, 400), IGNORE, np.uint8)
    for place, kind in points.items():
        labels[place] = kind
    path = world.write(tmp_path / "points.tif", labels, crs=w.crs, transform=w.transform)
    recipe = make_recipe(
        data={"images": [str(w.scene)], "labels": [str(path)], "holdout": 0.0},
        network="fcn", batch=600, crop=crop, sampling=sampling,
    )  # fmt: skip
    rules = LabelRules(legend=world.LEGEND)
    with open_dataset(w.scene, path, spec=rules, shares={"train": 1.0}) as dataset:
        _, label = Drawing.of(recipe, index_crops(dataset), ((0.0, 1.0),) * 3).part(0, 0, 1)
    held = (label != IGNORE).flatten(1)
    assert held.any(1).all()
    found = torch.bincount(label[label != IGNORE].long(), minlength=3).double()
    if crop == 16:  # one point each: of the points alike, or of the classes
        wanted = {"labelled": [2, 3, 1], "balanced": [2, 2, 2]}[sampling]
        assert (found / 100 - torch.tensor(wanted)).abs().max() < 0.5
