"""Schedules, clipping, the moving average, deterministic algorithms, and what a resumed run says."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import world

import labelscape.training.loop as loop
from labelscape.nets.blocks import Resized, unpool
from labelscape.training.crops import CropIndex, Drawing, _resized
from labelscape.training.losses import LOSSES, hardest_per_image
from labelscape.training.optimizers import averaged, rate_at
from labelscape.training.recipe import make_recipe
from labelscape.training.run import train
from labelscape.training.state import other_machine
from labelscape.training.team import deterministic

DATA = {"images": ["a"]}


@pytest.fixture
def fields(tmp_path):
    w = world.make(tmp_path, 64, 96, bands=3, nodata=0)
    labels = world.label_raster(w, tmp_path / "labels.tif")
    return {
        "data": {"images": [str(w.scene)], "labels": [str(labels)], "block": 32},
        "options": {"widths": [4, 4, 4, 4]},
        "network": "fcn",
        "batch": 4,
        "crop": 32,
        "steps": 4,
        "device": "cpu",
    }


def test_the_cosine_schedule_falls_from_the_end_of_the_warm_up_to_0():
    recipe = make_recipe(data=DATA, optimizer="sgd", schedule="cosine", rate=0.2, steps=110, warmup=10)
    rates = [rate_at(recipe, step) for step in range(110)]
    assert rates[:10] == pytest.approx([0.02 * n for n in range(1, 11)])
    assert rates[10] == 0.2
    assert rates[60] == pytest.approx(0.1)  # half way down
    assert rates[35] == pytest.approx(0.1 * (1 + math.sqrt(0.5)))
    assert 0 < rates[-1] < 1e-4
    assert rate_at(recipe.replace(warmup=110), 109) == pytest.approx(0.2)


def test_gradients_are_clipped_to_a_norm_over_all_parameters(fields, tmp_path, monkeypatch):
    seen = []
    real = torch.optim.SGD.step

    def step(self, *arguments):
        parameters = [p for group in self.param_groups for p in group["params"]]
        seen.append(math.sqrt(sum(float(p.grad.square().sum()) for p in parameters)))
        return real(self, *arguments)

    monkeypatch.setattr(torch.optim.SGD, "step", step)
    fields |= {"optimizer": "sgd"}
    train(make_recipe(**fields), tmp_path / "free", score=False)
    free, seen[:] = list(seen), []
    train(make_recipe(**fields, clip_norm=0.5), tmp_path / "clipped", score=False)
    assert min(free) > 0.5
    assert seen == pytest.approx([0.5] * 4, rel=1e-4)
    seen.clear()
    train(make_recipe(**fields, clip_norm=1e6), tmp_path / "high", score=False)
    assert seen[0] == free[0]  # a norm below the limit is left as it is


def test_the_moving_average_is_its_recurrence():
    net = torch.nn.Sequential(torch.nn.Conv2d(1, 2, 1), torch.nn.BatchNorm2d(2))
    values, average = [], {}
    for step in range(20):
        net(torch.randn(2, 1, 3, 3))
        with torch.no_grad():
            net[0].weight.fill_(float(step))
        values.append(float(step))
        average = averaged(average, net, 0.5, step)
        want = values[0]
        for n, value in enumerate(values[1:], start=1):
            decay = min(0.5, (1 + n) / (10 + n))
            want = decay * want + (1 - decay) * value
        assert float(average["0.weight"][0]) == pytest.approx(want, rel=1e-6)
        assert average["1.num_batches_tracked"] == step + 1
    assert average["0.weight"].data_ptr() != net[0].weight.data_ptr()


def test_the_average_is_what_is_scored_and_kept(fields, tmp_path, monkeypatch):
    kept = []
    real = loop.averaged

    def watched(*arguments):
        kept.append({key: value.clone() for key, value in real(*arguments).items()})
        return kept[-1]

    monkeypatch.setattr(loop, "averaged", watched)
    recipe = make_recipe(**fields, ema=0.99)
    average = train(recipe, tmp_path / "average")
    last = train(recipe.replace(ema=0.0), tmp_path / "last")
    assert len(kept) == 4
    for key, value in average.weights.items():
        np.testing.assert_array_equal(value, kept[-1][key].numpy())
    assert any(not np.array_equal(average.weights[key], value) for key, value in last.weights.items())
    assert [row["loss"] for row in average.history] == [row["loss"] for row in last.history]


@pytest.mark.parametrize("align_corners", [True, False])
@pytest.mark.parametrize(("small", "large"), [((5, 7), (20, 21)), ((1, 1), (4, 3)), ((12, 9), (5, 4))])
def test_the_deterministic_gradient_of_resizing_is_autograds(small, large, align_corners):
    torch.manual_seed(0)
    one, other = (torch.randn(2, 3, *small, dtype=torch.float64, requires_grad=True) for _ in range(2))
    other.data.copy_(one.data)
    gradient = torch.randn(2, 3, *large, dtype=torch.float64)
    wanted = F.interpolate(one, large, mode="bilinear", align_corners=align_corners)
    found = Resized.apply(other, large, align_corners)
    assert torch.equal(found, wanted)
    wanted.backward(gradient)
    found.backward(gradient)
    torch.testing.assert_close(other.grad, one.grad, rtol=0, atol=1e-13)
    assert torch.autograd.gradgradcheck(lambda x: Resized.apply(x, large, align_corners), other)


def test_unpooling_without_torchs_own_operation_is_the_same():
    level = torch.randn(2, 3, 8, 6, dtype=torch.float64)
    half, places = F.max_pool2d(level, 2, return_indices=True)
    one, other = half.clone().requires_grad_(), half.clone().requires_grad_()
    plain = unpool(one, places)
    with deterministic(True):
        assert torch.are_deterministic_algorithms_enabled()
        found = unpool(other, places)
    assert not torch.are_deterministic_algorithms_enabled()
    assert torch.equal(found, plain) and torch.equal(plain, F.max_unpool2d(half, places, 2))
    weights = torch.randn_like(plain)
    (plain * weights).sum().backward()
    (found * weights).sum().backward()
    assert torch.equal(one.grad, other.grad)


def test_training_is_under_deterministic_algorithms_where_asked(fields, tmp_path, monkeypatch):
    seen, real = [], loop.update

    def watched(*arguments):
        seen.append(torch.are_deterministic_algorithms_enabled())
        return real(*arguments)

    monkeypatch.setattr(loop, "update", watched)
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    fields |= {"network": "unpooling", "base_steps": 0, "steps": 1}
    train(make_recipe(**fields, deterministic=True), tmp_path / "a", score=False)
    train(make_recipe(**fields), tmp_path / "b", score=False)
    assert seen == [True, False]
    assert not torch.are_deterministic_algorithms_enabled()


def test_a_run_continued_under_other_conditions_says_so(fields, tmp_path, monkeypatch):
    recipe, said, real = make_recipe(**fields, save_every=1), [], loop.update

    def breaking(*arguments):
        if (count := len(said)) == 2:
            raise KeyboardInterrupt
        said.append(count)
        return real(*arguments)

    monkeypatch.setattr(loop, "update", breaking)
    with pytest.raises(KeyboardInterrupt):
        train(recipe, tmp_path / "out")
    monkeypatch.undo()
    threads, lines = torch.get_num_threads(), []
    try:
        torch.set_num_threads(threads + 1)
        train(recipe, tmp_path / "out", say=lines.append)
    finally:
        torch.set_num_threads(threads)
    [line] = [line for line in lines if "other conditions" in line]
    assert f"(threads {threads} -> {threads + 1}): the weights may differ" in line
    same = {"threads": 1, "device": "cpu", "processes": 1}
    assert other_machine(same, same) == other_machine({}, same) == []
    assert "more than that" in other_machine(same, {**same, "processes": 2})[0]


def test_a_reduced_crop_is_as_smooth_as_a_reduced_scene():
    noise = torch.randn(1, 512, 512, generator=torch.Generator().manual_seed(0))
    label = torch.zeros(512, 512, dtype=torch.uint8)
    for size, smooth, rough in ((384, 0.492, 0.649), (256, 0.313, 0.5)):
        for antialias, wanted in ((True, smooth), (False, rough)):
            assert float(_resized(noise, label, size, antialias)[0].std()) == pytest.approx(wanted, abs=0.02)
    large = [_resized(noise, label, 700, antialias)[0] for antialias in (True, False)]
    assert torch.equal(*large)


def test_the_crops_of_two_tasks_are_never_of_one_stream():
    index = CropIndex((), np.zeros((0, 3)), np.zeros((0, 2), np.int64))
    land, mate = (Drawing(index, (), seed, 4, 16, task=task) for seed, task in ((0, 0), (0, 1)))
    streams = [
        tuple(drawing.stream(step, number).generate_state(4))
        for drawing in (land, mate)
        for step in range(40)
        for number in range(40)
    ]
    assert len(set(streams)) == len(streams)
    for seed in (3, 2**32 + 3, 2**62):  # the crops of the first task are those of earlier versions
        drawing = Drawing(index, (), seed, 4, 16)
        old = np.random.default_rng((seed, 5, 6)).random(4)
        np.testing.assert_array_equal(np.random.default_rng(drawing.stream(5, 6)).random(4), old)


def test_the_hardest_of_each_image_are_those_of_equation_7():
    torch.manual_seed(1)
    logits = torch.randn(3, 4, 6, 6, dtype=torch.float64, requires_grad=True)
    with torch.no_grad():
        logits[0] *= 0.1
        logits[1] *= 5
    labels = torch.randint(0, 4, (3, 6, 6))
    each = -logits.log_softmax(1).gather(1, labels[:, None])[:, 0].flatten(1)
    wanted = sum(image.sort(descending=True).values[:27].mean() for image in each) / 3
    torch.testing.assert_close(hardest_per_image(logits, labels), wanted)
    assert LOSSES["hardest-per-image"](logits, labels, None) < LOSSES["hardest"](logits, labels, None)
    labels[:] = 255
    nothing = hardest_per_image(logits, labels)
    assert nothing == 0
    nothing.backward()
    assert not logits.grad.any()
