"""Training for tiles larger than the crops: the last steps, and batch normalisation's statistics."""

import shlex
from dataclasses import replace
from itertools import chain
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import world
from global_sum import in_catalogue  # noqa: F401 (a fixture)
from test_resumed_training import kill_once_saved, launch
from torch import nn

import labelscape.training.batchnorm as batchnorm
import labelscape.training.loop as loop
from labelscape.checkpoint import load
from labelscape.cli import app, train_ahead
from labelscape.errors import BadInput, BadOption
from labelscape.evaluation.tile_sizes import measured_sides
from labelscape.nets.blocks import Network
from labelscape.scoring.memory import learned_side
from labelscape.scoring.scorer import Scorer
from labelscape.training.batchnorm import TileBatches, estimate
from labelscape.training.crops import Drawing, index_crops
from labelscape.training.data import blank_checkpoint, open_recipe_data
from labelscape.training.map_size import larger, told, without_map_size
from labelscape.training.optimizers import rate_at
from labelscape.training.outputs import state_path
from labelscape.training.recipe import as_recipe, make_recipe
from labelscape.training.rehearse import rehearse
from labelscape.training.run import base_recipe, train
from labelscape.training.slurm import command_of
from labelscape.training.team import gather

ANY = {"data": {"images": ["a"]}, "network": "deeplabv3plus"}


class Two(Network):
    """Two normalised convolutions of which the second sees a mean over the tile, dropout between them, and an
    auxiliary head that only training uses.
    """

    stride, reach = 1, None

    def __init__(self):
        super().__init__()
        self.first, self.norm1 = nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4)
        self.drop = nn.Dropout2d(0.5)
        self.second, self.norm2 = nn.Conv2d(4, 5, 1), nn.BatchNorm2d(5, eps=1e-3)
        self.aux = nn.BatchNorm2d(4)

    def scores(self, image):
        hidden = self.drop(self.norm1(self.first(image)).relu())
        found = {"logits": self.norm2(self.second(hidden + hidden.mean(dim=(2, 3), keepdim=True)))}
        return {**found, "aux": self.aux(hidden)} if self.training else found


@pytest.fixture
def two():
    torch.manual_seed(0)
    net = Two()
    net.train()
    for _ in range(3):
        net.heads(torch.randn(2, 3, 8, 8))
    return net


BATCHES = [(3, 8, 8), (2, 20, 12), (5, 9, 31)]


def pictures():
    rng = torch.Generator().manual_seed(1)
    return [torch.randn(n, 3, h, w, generator=rng) * n + h / 10 for n, h, w in BATCHES]


def averages(net, batches):
    """The statistics in float64, written out: of each batch, weighted by its images."""
    weights = {name: value.double() for name, value in net.state_dict().items()}
    sums, images = {name: [0.0, 0.0] for name in ("norm1", "norm2")}, 0

    def normed(name, level, eps):
        count = level.shape[0] * level.shape[2] * level.shape[3]
        mean = level.sum(dim=(0, 2, 3)) / count
        off = level - mean.view(1, -1, 1, 1)
        square = (off**2).sum(dim=(0, 2, 3))
        sums[name][0] += len(level) * mean
        sums[name][1] += len(level) * square / (count - 1)
        scale = weights[f"{name}.weight"] / (square / count + eps).sqrt()
        return off * scale.view(1, -1, 1, 1) + weights[f"{name}.bias"].view(1, -1, 1, 1)

    for batch in batches:
        level = F.conv2d(batch.double(), weights["first.weight"], weights["first.bias"], padding=1)
        level = normed("norm1", level, 1e-5).clamp(min=0)
        level = level + level.mean(dim=(2, 3), keepdim=True)
        normed("norm2", F.conv2d(level, weights["second.weight"], weights["second.bias"]), 1e-3)
        images += len(batch)
    return {name: [(s / images).numpy() for s in pair] for name, pair in sums.items()}


def test_statistics_are_the_averages_over_batches_of_any_size(two):
    before = {name: value.clone() for name, value in two.state_dict().items()}
    expected = averages(two, pictures())
    found = estimate(two, pictures())
    assert (found.layers, found.tiles) == (2, 10)
    assert set(found.statistics) == {f"norm{n}.running_{what}" for n in (1, 2) for what in ("mean", "var")}
    for name, (mean, var) in expected.items():
        np.testing.assert_allclose(found.statistics[f"{name}.running_mean"], mean, rtol=2e-5, atol=1e-6)
        np.testing.assert_allclose(found.statistics[f"{name}.running_var"], var, rtol=2e-5)
    # A moving average, or one that forgets how many images a batch has, is another.
    equal = [averages(two, [batch])["norm1"][0] for batch in pictures()]
    assert np.abs(np.mean(equal, axis=0) - expected["norm1"][0]).max() > 1e-2
    # The network is as it was: weights, statistics, counts, modes, momenta.
    for name, value in two.state_dict().items():
        assert torch.equal(value, before[name]), name
    assert all(module.training for module in two.modules())
    assert {two.norm1.momentum, two.norm2.momentum, two.aux.momentum} == {0.1}


def test_statistics_of_several_processes_are_those_of_one(two):
    class Team:
        """One of two processes; what the other one adds comes from `others`."""

        world_size, device = 2, torch.device("cpu")

        def __init__(self, others=None):
            self.others = others

        def all_reduce(self, flat, reduce_op):
            self.flat = flat.clone()
            return flat if self.others is None else flat + self.others

    alone = estimate(two, pictures())
    second = Team()
    estimate(two, pictures()[1::2], second)
    both = estimate(two, pictures()[::2], Team(second.flat))
    assert both.tiles == alone.tiles == 10
    for name, value in alone.statistics.items():
        np.testing.assert_allclose(both.statistics[name], value, rtol=1e-6)


@pytest.fixture
def fields(tmp_path):
    w = world.make(tmp_path, 160, 192, bands=3, nodata=0)
    labels = world.label_raster(w, tmp_path / "labels.tif")
    return {
        "data": {"images": [str(w.scene)], "labels": [str(labels)], "block": 32},
        "network": "skip",
        "options": {"widths": [8, 8, 8, 8]},
        "base_steps": 0,
        "batch": 8,
        "crop": 32,
        "device": "cpu",
        "save_every": 3,
        "steps": 10,
        "rate": 0.01,
    }


def statistics_of(made):
    return {name for name in made.weights if "running_" in name}


def test_without_larger_crops_only_statistics_differ(fields, tmp_path):
    said = []
    plain = train(make_recipe(**fields), tmp_path / "plain")
    recipe = make_recipe(**fields, map_size=96, map_steps=0, map_tiles=9)
    made = train(recipe, tmp_path / "bn", say=said.append)
    differing = {n for n, value in plain.weights.items() if not np.array_equal(value, made.weights[n])}
    assert differing == statistics_of(made) != set()
    # They are those of the recipe's own tiles, of which whole batches are read.
    with open_recipe_data(recipe.data, recipe.seed) as dataset:
        net = loop.build_network(recipe, dataset, None, None)
        net.load_state_dict({name: torch.from_numpy(value) for name, value in plain.weights.items()})
        drawing = Drawing.of(recipe, index_crops(dataset), made.contract.normalisation)
        batches = list(TileBatches(recipe, drawing, gather("cpu", "32")))
    assert [tuple(batch.shape) for batch in batches] == [(8, 3, 96, 96)] * 2
    for name, value in estimate(net, batches).statistics.items():
        np.testing.assert_array_equal(value, made.weights[name])
    (line,) = [line for line in said if line.startswith("batch normalisation at 96 pixels")]
    assert f"{len(statistics_of(made)) // 2} layers over 16 training tiles" in line
    assert made.history[-1]["bn_tiles"] == 16 and "bn_tiles" not in made.history[0]
    assert load(tmp_path / "bn" / "skip.safetensors").recipe["map_size"] == 96
    head, *_, last = (tmp_path / "bn" / "skip.csv").read_text().splitlines()
    assert head == "step,loss,rate,crop,bn_tiles" and last.endswith(",32,16")


def test_the_average_of_the_weights_gets_statistics_of_its_own(fields, tmp_path):
    averaged = {**fields, "ema": 0.9}
    plain = train(make_recipe(**averaged), tmp_path / "plain")
    last = train(make_recipe(**fields, map_size=96, map_steps=0, map_tiles=8), tmp_path / "last")
    made = train(make_recipe(**averaged, map_size=96, map_steps=0, map_tiles=8), tmp_path / "average")
    for name, value in plain.weights.items():
        if name not in statistics_of(made):
            np.testing.assert_array_equal(value, made.weights[name])
    deeper = [n for n in statistics_of(made) if n.endswith("var")]
    assert any(not np.array_equal(made.weights[n], last.weights[n]) for n in deeper)
    assert any(not np.array_equal(made.weights[n], plain.weights[n]) for n in deeper)


def test_the_last_steps_are_of_larger_crops(fields, tmp_path, monkeypatch):
    seen, rates, real, set_rate = [], [], loop.update, loop.set_rate
    monkeypatch.setattr(
        loop, "update", lambda *a: seen.append([tuple(i.shape) for i, _ in a[3][0]]) or real(*a)
    )
    monkeypatch.setattr(loop, "set_rate", lambda *a: rates.append(set_rate(*a)) or rates[-1])
    recipe, said = make_recipe(**fields, map_size=96, map_steps=5, map_tiles=0), []
    made = train(recipe, tmp_path, say=said.append)
    assert seen == [[(8, 3, 32, 32)]] * 5 + [[(2, 3, 64, 64)]] * 5
    assert rates == [rate_at(recipe, step) * (1 if step < 5 else 2 / 8) for step in range(10)]
    assert [(row["step"], row["crop"]) for row in made.history] == [
        (3, 32),
        (5, 32),
        (6, 64),
        (9, 64),
        (10, 64),
    ]
    assert "bn_tiles" not in made.history[-1]
    (line,) = [line for line in said if "the last 5 of 10 steps" in line]
    assert "2 crops of 64 pixels, instead of 8 of 32" in line and line.endswith("follows, times 0.25")


def test_the_rate_follows_the_batch_and_is_not_raised():
    recipe = make_recipe(**ANY, map_size=512, map_batch=2)
    assert [larger(recipe.replace(map_batch=n)).rate_factor for n in (2, 6, 8, 16)] == [0.25, 0.75, 1, 1]
    assert told(recipe.replace(map_batch=8))[0].endswith("the learning rate goes on by its schedule")


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"map_size": 1024, "map_steps": 50}, (50, 256, 2, 32)),
        ({"map_size": 160, "map_steps": 100}, (100, 160, 5, 32)),
        ({"map_size": 1024, "map_steps": 100, "batch": 32, "accumulate": 4}, (100, 256, 8, 32)),
        ({"map_size": 1024, "steps": 400}, (0, None, None, 32)),
        ({"map_size": 1024, "map_batch": 2}, (100, 256, 2, 32)),
        ({"map_size": 1024, "map_crop": 512}, (100, 512, 2, 32)),
        ({"map_size": 1024, "map_steps": 0, "map_tiles": 5}, (0, None, None, 5)),
        ({"map_size": 128}, (0, None, None, 32)),
    ],
)
def test_what_is_left_out_follows_from_the_memory_of_a_step(given, expected):
    recipe = make_recipe(**ANY, **given)
    assert (recipe.map_steps, recipe.map_crop, recipe.map_batch, recipe.map_tiles) == expected
    assert as_recipe(recipe.model_dump(mode="json")) == recipe
    assert without_map_size(recipe) == make_recipe(
        **ANY, **{k: v for k, v in given.items() if k[:3] != "map"}
    )


def test_recipes_without_a_map_size_are_stored_as_before():
    assert not [name for name in make_recipe(**ANY).model_dump(mode="json") if name.startswith("map_")]
    recipe = make_recipe(data={"images": ["a"]}, network="mlp", map_size=512)
    assert base_recipe(recipe).map_size is None  # only the network itself makes maps


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"map_size": 64}, "`map_size=64` is smaller than `crop=128`"),
        (
            {"map_steps": 10, "map_tiles": 3},
            "`map_steps`, `map_tiles` belong to `map_size`, which is missing",
        ),
        ({"map_size": 256, "map_steps": 500}, "`map_steps=500` are more than `steps=400`"),
        ({"map_size": 256, "map_crop": 300}, "`map_crop=300` is larger than `map_size=256`"),
        ({"map_size": 256, "map_crop": 100}, "`map_crop=100` is not larger than `crop=128`"),
        (
            {"map_size": 256, "map_steps": 9, "batch": 2},
            "`map_crop=128` is not larger than `crop=128` .*memory of `batch=2`",
        ),
        ({"map_size": 256, "map_batch": 3, "accumulate": 2}, "`map_batch=3` cannot be divided"),
        ({"map_size": "big"}, "map_size"),
        (
            {
                "map_size": 256,
                "map_steps": 100,
                "patience": 2,
                "val_every": 5,
                "data": {"images": ["a"], "val": 0.2},
            },
            "`patience=2` may end training before the last `map_steps=100`",
        ),
    ],
)
def test_what_cannot_be_is_refused_before_data_is_read(given, said):
    with pytest.raises(BadOption, match=said):
        make_recipe(**{**ANY, **given})


def test_a_map_size_beyond_every_scene_is_refused_before_the_first_step(fields, tmp_path, monkeypatch):
    monkeypatch.setattr(loop, "update", lambda *a: 1 / 0)
    recipe = make_recipe(**fields, map_size=200)
    for start in (lambda: train(recipe, tmp_path / "out"), lambda: rehearse(recipe)):
        with pytest.raises(BadInput, match=r"larger than any training scene .*192 x 160 .* at most 192"):
            start()
    with pytest.raises(ZeroDivisionError):
        train(recipe.replace(map_size=192), tmp_path / "out")


@pytest.mark.parametrize("more", [{}, {"ema": 0.9, "val_every": 4}, {"precision": "bf16"}])
def test_a_run_stopped_in_each_part_comes_to_the_same_bytes(fields, tmp_path, monkeypatch, more):
    data = {**fields["data"], "val": 0.25 if more.get("val_every") else 0.0}
    recipe = make_recipe(
        **{**fields, "data": data, "optimizer": "adamw", "rate": 0.001, **more}, map_size=96, map_steps=4
    )
    train(recipe, tmp_path / "whole")
    real, net_of, counts = loop.update, batchnorm.estimate, []
    stops = [4, 4, 3]  # in the crops' own steps, in the larger ones, and again there

    def breaking(*arguments):
        counts.append(1)
        if stops and len(counts) > stops[0]:
            stops.pop(0)
            counts.clear()
            raise KeyboardInterrupt
        return real(*arguments)

    def broken_estimate(net, batches, fabric, still):
        monkeypatch.setattr(batchnorm, "estimate", net_of)
        next(iter(batches))
        net.load_state_dict({name: value * 0 for name, value in net.state_dict().items()})
        raise KeyboardInterrupt

    monkeypatch.setattr(loop, "update", breaking)
    monkeypatch.setattr(batchnorm, "estimate", broken_estimate)
    killed = 0
    while killed < 9:
        try:
            train(recipe, tmp_path / "broken")
            break
        except KeyboardInterrupt:
            assert state_path(tmp_path / "broken", "skip").exists()
            killed += 1
    assert killed == 4 and not stops
    for name in ("skip.safetensors", "skip.csv"):
        assert (tmp_path / "broken" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    assert not state_path(tmp_path / "broken", "skip").exists()


@pytest.mark.usefixtures("in_catalogue")
def test_scores_are_measured_up_to_the_map_size(fields, tmp_path):
    said = []
    recipe = make_recipe(
        **{**fields, "network": "global-sum", "options": {"context": 0.0}}, map_size=160, map_tiles=4
    )
    made = train(recipe, tmp_path / "a", say=said.append)
    assert made.tile_sizes.sides == (32, 48, 64, 96, 160)
    assert any("global-sum has no batch normalisation" in line for line in said)
    assert made.history[-1]["bn_tiles"] == 0
    unmeasured = train(recipe.replace(measure_tile_sizes=False), tmp_path / "b")
    assert learned_side(Scorer.of(unmeasured, device="cpu")) == 160


def test_measured_sides_reach_the_map_size_whatever_memory_allows():
    assert measured_sides(128, 32, 5000, 640) == (128, 192, 256, 384)
    assert measured_sides(128, 32, 5000, 640, 1024) == (128, 192, 256, 384, 768, 1024)
    assert measured_sides(128, 32, 5000, 640, 160) == (128, 160)
    assert measured_sides(128, 32, 300, 640, 1024) == (128, 192, 256, 320)


def test_tiles_are_no_larger_than_their_scene_and_lie_where_the_seed_says(fields):
    recipe = make_recipe(**fields, map_size=176, map_tiles=3, sampling="balanced")
    with open_recipe_data(recipe.data, recipe.seed) as dataset:
        blank = blank_checkpoint(recipe, dataset)
        drawing = Drawing.of(recipe, index_crops(dataset), blank.contract.normalisation)
        fabric = gather("cpu", "32")
        tiles = TileBatches(recipe, drawing, fabric)
        one, again = tiles.tile(0), tiles.tile(0)
        assert one.shape == (3, 160, 176) and torch.equal(one, again)  # the scene is 160 rows high
        other = TileBatches(recipe.replace(seed=1), drawing, fabric)
        assert any(not torch.equal(other.tile(n), tiles.tile(n)) for n in range(6))
        # Statistics are those of the ground: classes are not balanced.
        labelled = TileBatches(recipe, replace(drawing, sampling="labelled"), fabric)
        assert all(torch.equal(labelled.tile(n), tiles.tile(n)) for n in range(6))
        # Processes share the batches of one.
        assert len(tiles) == 1
        alone = TileBatches(recipe.replace(map_tiles=32), drawing, fabric)
        team = [SimpleNamespace(world_size=2, global_rank=rank, device=fabric.device) for rank in (0, 1)]
        shared = zip(*(TileBatches(alone.recipe, drawing, one) for one in team), strict=True)
        assert all(torch.equal(a, b) for a, b in zip(alone, chain(*shared), strict=True))
        # Of tiles of two sizes the smaller ones are filled up with 0, the mean.
        monkeyed = TileBatches(recipe, drawing, fabric)
        object.__setattr__(monkeyed, "tile", lambda n: torch.ones(3, 32 if n else 48, 64))
        (batch,) = monkeyed
        assert batch.shape == (8, 3, 48, 64) and batch[0].all()
        assert batch[1:, :, :32].all() and not batch[1:, :, 32:].any()


def test_a_rehearsal_counts_larger_crops_and_tiles(fields, run_cli):
    recipe = make_recipe(**fields, map_size=96, map_steps=4)
    found = rehearse(recipe)
    assert found.crops == 6 * 8 + 4 * 2
    # 32 tiles of 96, forward alone, against steps of 8 crops of 32
    assert found.statistics_seconds == pytest.approx(found.seconds_per_step / 3 * 32 * 96**2 / (8 * 32**2))
    assert found.seconds > found.statistics_seconds + 10 * found.seconds_per_step
    assert rehearse(without_map_size(recipe)).statistics_seconds == 0
    data = recipe.data
    words = ["train", *data.images, "--labels", *data.labels, "--block", 32, "--dry-run", "--out", "o"]
    more = (
        "network=skip options.widths=[8,8,8,8] base_steps=0 batch=8 crop=32 steps=10 map_steps=4 map_size=96"
    )
    code, out, _ = run_cli(*words, *(word for setting in more.split() for word in ("-o", setting)))
    assert code == 0 and "56 crops" in out
    assert "the last 4 of 10 steps: 2 crops of 64 pixels" in out
    assert "for batch normalisation over 32 tiles of 96" in out


def test_the_command_line_has_both_parts(run_cli, monkeypatch):
    seen = []
    monkeypatch.setattr(train_ahead, "print_slurm", lambda ahead, out, recipe: seen.append(recipe))
    words = ["train", "a.tif", "--labels", "b.tif", "--out", "r", "--slurm", "1x1", "--crop", "64"]
    code, _, err = run_cli(*words, "--map-size", "32")
    assert code == 2 and "--map-size 32 is smaller than --crop 64" in err
    assert run_cli(*words, "--map-size", "512", "--map-steps", "0", "-o", "map_tiles=5")[0] == 0
    assert (seen[0].map_size, seen[0].map_steps, seen[0].map_tiles) == (512, 0, 5)
    app([*shlex.split(command_of(seen[0], "r"))[1:], "--slurm", "1x1"], standalone_mode=False)
    assert seen[1] == seen[0]


@pytest.mark.long
def test_two_processes_killed_come_to_the_bytes_of_two_left_alone(fields, tmp_path):
    fields = {**fields, "steps": 200, "map_size": 96, "map_tiles": 32, "ema": 0.9}
    whole = launch(fields, tmp_path / "whole", 2)
    assert whole.wait() == 0, whole.stderr.read().decode()[-3000:]
    for extra in (0.3, 3.0):
        process = launch(fields, tmp_path / "killed", 2)
        kill_once_saved(process, state_path(tmp_path / "killed", "skip"), extra)
    last = launch(fields, tmp_path / "killed", 2)
    assert last.wait() == 0, last.stderr.read().decode()[-3000:]
    one, other = (tmp_path / name / "skip.safetensors" for name in ("whole", "killed"))
    assert one.read_bytes() == other.read_bytes()
    assert load(one).history[-1]["bn_tiles"] == 32
