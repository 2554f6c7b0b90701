"""Two tasks from one pass: each task's probabilities are those it has alone, whatever is averaged or blended;
each is scored, calibrated and described by its own name.
"""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
import two_tasks
import world

import labelscape as ls
from labelscape.errors import UnknownName
from labelscape.legend import Legend
from labelscape.nets.catalog import create_model
from labelscape.scenes.array import ArrayScene
from labelscape.scoring.arrays import softmax
from labelscape.scoring.engines import TorchEngine
from labelscape.scoring.protocol import Protocol
from labelscape.scoring.scorer import Scorer, second_task
from labelscape.scoring.stitch import plan_for, score_tiles
from labelscape.training.data import open_recipe_data
from labelscape.training.recipe_data import Data


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    folder = tmp_path_factory.mktemp("two")
    scenes, made, _ = two_tasks.trained(folder)
    return folder, scenes, made


def warmer(made, own, its):
    """The checkpoint with other temperatures."""
    return replace(made, temperature=own, mate=replace(made.mate, temperature=its))


def test_groups_of_classes_are_probabilities_of_their_own():
    logits = torch.randn(5, 3, 4)
    found = softmax(logits, 0, (3, 2))
    torch.testing.assert_close(found[:3], logits[:3].softmax(0))
    torch.testing.assert_close(found[3:], logits[3:].softmax(0))
    assert torch.equal(softmax(logits, 0), logits.softmax(0))


def road_alone(made):
    """The second head as a checkpoint of the map: its temperature, and the first task's scaling."""
    return replace(made.task("road"), contract=made.contract)


@pytest.mark.parametrize(
    "protocol",
    [
        Protocol(),
        Protocol(tta="flips"),
        Protocol((0.75, 1.0), "mirror"),
        Protocol(tta="mirror", average="logits"),
    ],
    ids=str,
)
@pytest.mark.parametrize("models", [1, 2])
def test_both_at_once_are_the_two_alone(both, protocol, models):
    _, scenes, made = both
    made = [warmer(made, 1.5, 0.7), warmer(made, 0.6, 2.0)][:models]
    pixels = scenes.land.pixels[:, 33:97, :65]
    together = Scorer.of(made, protocol=protocol, both=True, device="cpu")
    assert together.groups == (3, 2) and together.classes == 5
    found = together.score(pixels)
    own = Scorer.of(made, protocol=protocol, device="cpu").score(pixels)
    its = Scorer.of([road_alone(one) for one in made], protocol=protocol, device="cpu").score(pixels)
    torch.testing.assert_close(found[:3], own)
    torch.testing.assert_close(found[3:], its)
    # And the temperatures are the tasks' own.
    cold = Scorer.of([warmer(one, 1, 1) for one in made], protocol=protocol, both=True, device="cpu")
    moved = (cold.score(pixels) - found).abs().amax(dim=(1, 2))
    assert (moved > 1e-3).all()


def test_blended_tiles_of_both_are_the_tiles_of_each(both):
    _, scenes, made = both
    scene = ArrayScene(np.tile(scenes.land.pixels, (1, 2, 2)))
    how = {"tile_size": 128, "overlap": 32, "blend": "hann"}
    together = Scorer.of(made, both=True, device="cpu")
    plan = plan_for(together, scene, **how)
    assert len(plan) > 2
    alone = [Scorer.of(one, device="cpu") for one in (made, road_alone(made))]
    each = [list(score_tiles(one, scene, plan_for(one, scene, **how))) for one in alone]
    for tile, *ones in zip(score_tiles(together, scene, plan), *each):
        parts = tile.tasks(together.groups)
        assert [len(part.probabilities) for part in parts] == [3, 2]
        for part, one in zip(parts, ones):
            assert part.window == one.window
            torch.testing.assert_close(part.probabilities, one.probabilities)


def test_the_tiles_of_a_score_are_those_of_the_map_of_both(both):
    """Memory decides their size, and must not differ between one task and two."""
    made = both[2]
    engines = [
        TorchEngine.of(made, device="cpu"),
        TorchEngine.of(made.task("road"), device="cpu"),
        TorchEngine.of(made, device="cpu", both=True),
    ]
    assert len({engine.peak_bytes(96, 128) for engine in engines}) == 1
    alone = create_model("dfcnet", in_channels=3, classes=3, mate_classes=0, **two_tasks.SMALL)
    assert TorchEngine(alone).peak_bytes(96, 128) < engines[0].peak_bytes(96, 128)


def test_models_share_a_second_task_of_one_name_and_one_list_of_classes(both):
    made = both[2]
    other = replace(made, mate=replace(made.mate, name="way"))
    alone = replace(made, mate=None)
    assert second_task([made, made]) is made.mate
    assert second_task([made, other]) is second_task([made, alone]) is second_task([alone]) is None


def test_python_predicts_and_scores_the_second_task_by_its_name(both):
    _, scenes, made = both
    pixels = scenes.roads.pixels
    found = ls.predict(made, pixels, task="road")
    assert found.shape == (2, 96, 96)
    np.testing.assert_allclose(found, ls.predict(made.task("road"), pixels))
    own = made.mate.scores["dfcnet"]
    assert ls.evaluate(made, task="road", show=False).metrics == own
    with open_recipe_data(Data(**made.recipe["mate"]["data"]), 0, made.mate.legend) as dataset:
        # By its classes, too: no dataset of roads is one of land.
        assert ls.evaluate(made, dataset, part="test", show=False).metrics == own
        assert ls.evaluate([made, made], dataset, part="test", task="road", show=False).metrics == own
    again = ls.evaluate(made, scenes.roads.scene, scenes.road_labels, task="road", show=False)
    assert again.names == ("other", "road")
    with pytest.raises(UnknownName, match="second task"):
        ls.evaluate(made, task="river", show=False)


def test_both_tasks_are_calibrated_each_on_its_own_labels(both, tmp_path, run_cli):
    folder, _, made = both
    path = tmp_path / "dfcnet.safetensors"
    shutil.copy(folder / "run" / "dfcnet.safetensors", path)
    code, out, err = run_cli("calibrate", path, "--json")
    assert code == 0, err
    found, warm = json.loads(out), ls.load(path)
    assert warm.temperature == found["temperature"] != 1
    assert warm.mate.temperature == found["tasks"]["road"]["temperature"] not in (1, warm.temperature)
    assert found["tasks"]["road"]["ece_after"] < found["tasks"]["road"]["ece_before"]
    # Calibrating changes no class, and a second time nothing at all.
    once = path.read_bytes()
    code, out, _ = run_cli("calibrate", path)
    assert code == 0 and path.read_bytes() == once
    assert "road: temperature" in out
    with open_recipe_data(Data(**made.recipe["mate"]["data"]), 0, made.mate.legend) as dataset:
        of_road = ls.calibrate(made, dataset, task="road", device="cpu")
    assert of_road.checkpoint.mate.temperature == warm.mate.temperature
    assert of_road.checkpoint.temperature == 1 and of_road.checkpoint.whole is None


def test_a_second_task_without_held_out_labels_leaves_the_first_calibrated(both, tmp_path, run_cli):
    made = both[2]
    mate = made.recipe["mate"]
    none = {**made.recipe, "mate": {**mate, "data": {**mate["data"], "val": 0.0, "holdout": 0.0}}}
    path = ls.save(replace(made, recipe=none), tmp_path / "m.safetensors")
    code, _, err = run_cli("calibrate", path)
    assert code == 0 and "road is not calibrated" in err
    assert ls.load(path).temperature != 1 and ls.load(path).mate.temperature == 1


def test_the_command_line_scores_and_shows_the_second_task(both, run_cli):
    folder, scenes, made = both
    path = folder / "run" / "dfcnet.safetensors"
    code, out, err = run_cli("evaluate", path, "--task", "road", "--json")
    assert code == 0, err
    found = json.loads(out)
    own = made.mate.scores["dfcnet"]["mean_iou"]
    assert (found["task"], found["part"], found["mean_iou"]) == ("road", "test", own)
    code, out, _ = run_cli(
        "evaluate", path, scenes.roads.scene, "--labels", scenes.road_labels, "--task", "road"
    )
    assert code == 0 and "dfcnet: road" in out
    code, _, err = run_cli("evaluate", path, "--task", "roads")
    assert code == 2 and "'road'" in err
    code, out, _ = run_cli("info", path)
    assert code == 0
    assert "second task" in out and "0 other, 1 road" in out and "road scores" in out


def test_a_published_set_with_the_second_tasks_classes_is_scored_by_it(both, tmp_path, run_cli):
    """The roads of DeepGlobe, without a word about the task; its own head on its own scaling."""
    made = both[2]
    made = replace(made, mate=replace(made.mate, legend=Legend.of_names(["background", "road"])))
    path = ls.save(made, tmp_path / "m.safetensors")
    counts = np.zeros((2, 2), int)
    for number in range(3):
        pixels = world.picture(tmp_path / "road" / f"{number}_sat.png", 64, 64, seed=number)
        truth = world.draw(2, 64, 64, seed=number)
        world.codes(tmp_path / "road" / f"{number}_mask.png", truth * np.uint8(255))
        predicted = ls.predict(made, pixels, task="road").argmax(axis=0)
        np.add.at(counts, (truth, predicted), 1)
    asked = ["evaluate", path, tmp_path / "road", "--dataset", "deepglobe-road", "--part", "all", "--json"]
    code, out, err = run_cli(*asked)
    assert code == 0, err
    assert json.loads(out)["confusion"]["counts"] == counts.tolist()
    assert "scoring the second task road" in err and json.loads(out)["task"] == "road"
