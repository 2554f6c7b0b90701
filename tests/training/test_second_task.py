"""A second task trained in the same batches: logged, scored, described in the checkpoint, refused where it
contradicts itself.
"""

import csv
import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import two_tasks
import world
from processes import PATIENCE
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from labelscape.checkpoint import SecondTask, load, save
from labelscape.errors import BadFile, BadOption, UnknownName
from labelscape.evaluation.confusion import count
from labelscape.scoring.engines import build_network
from labelscape.training.data import open_recipe_data, task_name
from labelscape.training.loop import run_phase
from labelscape.training.recipe import make_recipe
from labelscape.training.recipe_data import Data
from labelscape.training.rehearse import rehearse
from labelscape.training.run import train

SRC = Path(__file__).parents[2] / "src"


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    folder = tmp_path_factory.mktemp("two")
    return folder, *two_tasks.trained(folder)


def test_the_log_has_the_loss_and_the_score_of_each_task(both):
    folder, _, made, _ = both
    rows = list(csv.DictReader((folder / "run" / "dfcnet.csv").open()))
    assert list(rows[0]) == ["step", "loss", "rate", "loss_first", "loss_mate", "val_miou", "val_miou_mate"]
    assert len(rows) == len(made.history) == 4
    for row in rows:  # mate.weight is 0.5
        parts = float(row["loss_first"]) + 0.5 * float(row["loss_mate"])
        assert float(row["loss"]) == pytest.approx(parts, rel=1e-6)
    assert all(float(rows[-1][key]) < float(rows[0][key]) for key in ("loss_first", "loss_mate"))
    scored = [row for row in rows if row["val_miou"]]
    assert [int(row["step"]) for row in scored] == [20, 40]
    assert all(0 < float(row["val_miou_mate"]) <= 1 for row in scored)


def test_the_losses_of_one_batch_are_those_of_the_heads(both):
    """At a learning rate of nothing, over crops drawn by hand."""
    _, scenes, _, _ = both
    recipe = make_recipe(**scenes.fields(steps=1, mate={"batch": 3}))
    seen = {}

    import labelscape.training.loop as loop

    real = loop.update

    def watched(net, optimizer, fabric, batch, *rest):
        (land, mate), heads = batch[0], None
        net.train()
        state = {key: value.clone() for key, value in net.state_dict().items()}
        with torch.no_grad():
            heads = net.heads(torch.cat([land[0], mate[0]]), first=4)
        net.module.load_state_dict(state)
        for name, logits, labels in (("logits", heads["logits"], land[1]), ("mate", heads["mate"], mate[1])):
            seen[name] = torch.nn.functional.cross_entropy(logits, labels.long(), ignore_index=255)
        assert (len(land[1]), len(mate[1])) == (4, 3)
        seen["losses"] = real(net, optimizer, fabric, batch, *rest)
        return seen["losses"]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "update", watched)
        train(recipe, both[0] / "one", score=False)
    torch.testing.assert_close(seen["losses"][1:], torch.stack([seen["logits"], seen["mate"]]))
    assert float(seen["losses"][0]) == pytest.approx(
        float(seen["logits"] + 1.0 * seen["mate"] * 0.5), rel=1e-6
    )


def test_the_checkpoint_describes_both_tasks_and_comes_back_as_it_was(both, tmp_path):
    folder, scenes, made, said = both
    assert made.tasks == ("road",) and made.mate.legend.names == ["other", "road"]
    assert made.options["mate_classes"] == 2
    for contract, pixels in ((made.contract, scenes.land.pixels), (made.mate.contract, scenes.roads.pixels)):
        valid = pixels[:, (pixels > 0).all(axis=0)]
        assert contract.normalisation[0][0] == pytest.approx(valid[0].mean(), rel=0.05)
    assert 0 < made.mate.scores["dfcnet"]["mean_iou"] <= 1
    assert [c["name"] for c in made.mate.scores["dfcnet"]["classes"]] == ["other", "road"]
    assert "second task road (other, road) will be scored on its part test" in said
    loaded = load(folder / "run" / "dfcnet.safetensors")
    assert loaded.mate.legend == made.mate.legend and loaded.mate.scores == made.mate.scores
    assert loaded.mate.contract.normalisation == made.mate.contract.normalisation
    assert (
        save(loaded, tmp_path / "again.safetensors").read_bytes()
        == (folder / "run" / "dfcnet.safetensors").read_bytes()
    )
    assert "3 classes and 2 of road" in repr(loaded)


def test_one_task_of_two_is_a_checkpoint_of_its_own_that_cannot_be_saved(both, tmp_path):
    made = both[2]
    road = made.task("road")
    assert road.legend is made.mate.legend and road.contract is made.mate.contract
    assert road.recipe["data"] == made.recipe["mate"]["data"] and road.tasks == ()
    assert made.task(None) is made and road.task("road") is road
    with pytest.raises(UnknownName, match="'raod'.*Did you mean 'road'"):
        made.task("raod")
    with pytest.raises(BadOption, match="one task"):
        save(road, tmp_path / "road.safetensors")


def test_the_score_of_the_second_task_is_that_of_its_head_on_its_own_scaling(both):
    _, _, made, _ = both
    data = Data(**made.recipe["mate"]["data"])
    net, expected = build_network(made), 0
    with open_recipe_data(data, made.recipe["seed"], made.mate.legend) as dataset:
        (scene,) = dataset.scenes
        window = scene.scene.grid.window
        patch = scene.scene.read(window)
        mean, std = (
            np.array(column, np.float32).reshape(-1, 1, 1)
            for column in zip(*made.mate.contract.normalisation)
        )
        image = torch.from_numpy((patch.pixels.astype(np.float32) - mean) / std)[None]
        with torch.inference_mode():
            predicted = net.both(image)["mate"][0].argmax(dim=0).numpy().astype(np.uint8)
        expected = count(scene.read_labels(window, "test"), predicted, 2)
    own = made.mate.scores["dfcnet"]["confusion"]
    assert own["counts"] == expected.counts.tolist()


def test_a_network_that_could_have_a_second_task_and_has_none_gets_no_head_for_it(both, tmp_path):
    _, scenes, _, _ = both
    fields = scenes.fields(steps=2)
    del fields["mate"]
    said = []
    alone = train(make_recipe(**fields), tmp_path / "alone", score=False, say=said.append)
    assert alone.options["mate_classes"] == 0 and alone.mate is None
    assert not [name for name in alone.weights if name.startswith("road")]
    assert not {"second_task", "task"} & alone.describe().keys()
    assert any("trained without a second task (`mate`)" in line for line in said)
    assert (tmp_path / "alone" / "dfcnet.csv").read_text().splitlines()[0] == "step,loss,rate"


@pytest.mark.parametrize(
    ("options", "mate", "said"),
    [
        ({"mate_classes": 2}, False, "without a second task"),
        ({"mate_classes": 0}, True, "builds no head for the second task"),
        ({"mate_classes": 3}, True, "have 2 classes.*other, road"),
    ],
)
def test_a_number_of_classes_that_contradicts_the_second_tasks_labels_is_refused(
    both, tmp_path, options, mate, said
):
    fields = both[1].fields(steps=1)
    fields["options"] = {**fields["options"], **options}
    if not mate:
        del fields["mate"]
    with pytest.raises(BadOption, match=said):
        train(make_recipe(**fields), tmp_path)


def test_a_second_task_of_weight_0_is_said_and_not_described(both, tmp_path):
    said = []
    recipe = make_recipe(**both[1].fields(steps=2, mate={"weight": 0.0}))
    idle = train(recipe, tmp_path, score=False, say=said.append)
    assert idle.mate is None
    assert any("mate.weight=0" in line and "not be mapped" in line for line in said)


def test_a_run_of_two_tasks_stopped_between_log_lines_goes_on_to_the_same_weights_and_log(both, tmp_path):
    _, scenes, made, _ = both
    recipe = make_recipe(**scenes.fields(val_every=20))
    from labelscape.training.data import blank_checkpoint, open_both

    with open_both(recipe) as (dataset, mate):
        run_phase(
            recipe, dataset, blank_checkpoint(recipe, dataset, mate=mate), tmp_path, mate=mate, until=13
        )
    again = train(recipe, tmp_path)
    assert again.history == made.history
    for name, value in made.weights.items():
        np.testing.assert_array_equal(value, again.weights[name])


PROGRAM = """
import hashlib, json, sys
from pathlib import Path
from labelscape.training.recipe import make_recipe
from labelscape.training.run import train
if __name__ == "__main__":
    made = train(make_recipe(**json.loads(sys.argv[1])), sys.argv[2])
    digest = hashlib.sha256(b"".join(made.weights[key].tobytes() for key in sorted(made.weights)))
    import os
    Path(sys.argv[2], os.environ["RANK"] + ".json").write_text(json.dumps(
        [made.describe(), digest.hexdigest(), made.stored.path, made.stored.sha256]
    ))
"""


def test_every_process_returns_the_whole_checkpoint(both, tmp_path):
    """The scores of both tasks, and of the weights the best by validation, which only the first one keeps."""
    fields = both[1].fields(steps=4, val_every=2, optimizer="sgd", rate=0.5, batch=2)
    (tmp_path / "program.py").write_text(PROGRAM)
    words = [
        "-m",
        "torch.distributed.run",
        "--nproc-per-node=2",
        "--standalone",
        str(tmp_path / "program.py"),
    ]
    subprocess.run(
        [sys.executable, *words, json.dumps(fields), str(tmp_path / "run")],
        env={**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": str(SRC)},
        check=True,
        capture_output=True,
        timeout=PATIENCE,
    )
    one, other = (json.loads((tmp_path / "run" / f"{rank}.json").read_text()) for rank in (0, 1))
    assert one == other
    stored = load(tmp_path / "run" / "dfcnet.safetensors")
    assert other[0] == json.loads(json.dumps(stored.describe())) and other[3] == stored.stored.sha256
    assert other[0]["second_task"]["scores"]["dfcnet"]["confusion"]
    weights = b"".join(stored.weights[key].tobytes() for key in sorted(stored.weights))
    assert other[1] == hashlib.sha256(weights).hexdigest()
    assert not list((tmp_path / "run").glob(".team-*"))


def test_a_dry_run_counts_the_crops_of_both(both):
    found = rehearse(make_recipe(**both[1].fields(steps=40)))
    assert (found.crops, found.mate_crops) == (40 * 4, 40 * 2)


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (("other", "road"), "road"),
        (("background", "Main road"), "main-road"),
        (("wood", "field"), "second"),
        (("other", "a", "b"), "second"),
    ],
)
def test_a_second_task_is_named_after_its_class(names, said):
    from types import SimpleNamespace

    from labelscape.legend import Legend

    mate = SimpleNamespace(legend=Legend.of_names(names))
    assert task_name(SimpleNamespace(mate=SimpleNamespace(name=None)), mate) == said
    assert task_name(SimpleNamespace(mate=SimpleNamespace(name="mine")), mate) == "mine"


def test_a_name_that_would_leave_the_folder_is_refused(both, tmp_path):
    made = both[2]
    with pytest.raises(BadOption, match="one word"):
        SecondTask("../road", made.mate.legend, made.mate.contract)
    path = save(made, tmp_path / "m.safetensors")
    with safe_open(path, framework="numpy") as file:
        about = file.metadata()["labelscape"]
    assert about.count('"name": "road", "legend"') == 1
    about = about.replace('"name": "road", "legend"', '"name": "ro/d", "legend"')
    save_file(load_file(path), path, metadata={"labelscape": about})
    with pytest.raises(BadFile, match="one word"):
        load(path)


def test_mistakes_in_the_second_tasks_data_are_told_by_its_own_options(both, tmp_path, run_cli):
    scenes = both[1]
    # Black and white, with the greys that JPEG leaves.
    grey = (np.random.default_rng(0).integers(0, 6, (96, 96)) + 250 * (scenes.roads.classes == 1)).astype(
        np.uint8
    )
    mask = world.write(tmp_path / "mask.tif", grey)
    land = ["train", scenes.land.scene, "--labels", scenes.land_labels, "--out", tmp_path / "out"]
    land += ["--classes", "water=0,field=1,forest=2", "--block", 32, "--network", "dfcnet"]
    code, _, err = run_cli(*land, "--mate", scenes.roads.scene, "--mate-labels", mask)
    assert code == 1
    assert "--mate-threshold 128" in err and "--mate-classes other=0,road=1" in err
    assert " --threshold" not in err and " --classes" not in err
    code, _, err = run_cli(*land, "--mate-threshold", 128)
    assert code == 2 and "--mate-threshold" in err and "--mate." in err
    code, _, err = run_cli(*land, "--mate", scenes.roads.scene, "--mate-name", "main road")
    assert code == 2 and "--mate-name main road must be one word of letters, digits and hyphens" in err


def test_the_command_line_trains_both_and_prints_both(both, tmp_path, run_cli):
    scenes = both[1]
    small = [f"options.{key}={value}" for key, value in two_tasks.SMALL.items()]
    sets = [word for text in (*small, "base_steps=0") for word in ("-o", text)]
    code, out, err = run_cli(
        "train",
        scenes.land.scene,
        "--labels",
        scenes.land_labels,
        "--out",
        tmp_path / "out",
        "--classes",
        "water=0,field=1,forest=2",
        "--block",
        32,
        "--mate-block",
        32,
        "--network",
        "dfcnet",
        "--steps",
        4,
        "--mate",
        scenes.roads.scene,
        "--mate-labels",
        scenes.road_labels,
        "--mate-holdout",
        0.5,
        "--mate-classes",
        "other=0,ways=1",
        "--mate-name",
        "streets",
        "--mate-weight",
        0.3,
        "--mate-batch",
        3,
        "--crop",
        33,
        "--batch",
        4,
        *sets,
    )
    assert code == 0, err
    made = load(tmp_path / "out" / "dfcnet.safetensors")
    assert made.tasks == ("streets",) and made.mate.legend.names == ["other", "ways"]
    mate = made.recipe["mate"]
    assert (mate["weight"], mate["batch"], mate["data"]["holdout"]) == (0.3, 3, 0.5)
    assert "streets: on " in out and "ways" in out
