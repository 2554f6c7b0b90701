"""What is said before a run is sent away, and when it is stopped."""

import json
import os
import shlex
import signal
import subprocess
import sys
import warnings
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyogrio
import pytest
import shapely
import shapely.affinity
import two_tasks
import world
from affine import Affine
from processes import PATIENCE, until
from typer.main import get_command

import labelscape.evaluation.measure as measure
from labelscape.cli import app
from labelscape.cli.options import Labels
from labelscape.cli.train import Holdout, Schedule, SecondTask, recipe_of
from labelscape.datasets.doctor.check import check_data
from labelscape.datasets.own import open_dataset
from labelscape.errors import BadInput, BadOption, LabelscapeError
from labelscape.legend import IGNORE
from labelscape.training.rate_search import find_rate
from labelscape.training.recipe import Recipe, make_recipe
from labelscape.training.recipe_data import Data
from labelscape.training.rehearse import rehearse
from labelscape.training.run import best_network, train
from labelscape.training.slurm import slurm_script
from labelscape.training.team import gather, telling_of_the_lost

DATA = ["scene tif", "--labels", "l.gpkg"]


def test_a_batch_script_is_whole(run_cli, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["labelscape", "train", *DATA, "--out", "runs/a b", "--slurm", "2x4"])
    code, out, _ = run_cli("train", *DATA, "--out", "runs/a b", "--slurm", "2x4")
    assert code == 0
    assert '#SBATCH --output="runs/a b/slurm-%j.log"' in out
    assert "mkdir -p 'runs/a b'" in out
    assert out.endswith(
        "srun --kill-on-bad-exit=1 labelscape train 'scene tif' --labels l.gpkg --out 'runs/a b'\n"
    )
    assert "#SBATCH --time=24:00:00" in out
    assert "#SBATCH --cpus-per-task=4" in out
    words = ["train", *DATA, "--out", "run", "--slurm=1x2", "--hours", "3"]
    monkeypatch.setattr(sys, "argv", ["labelscape", *words])
    code, out, _ = run_cli(*words)
    assert "#SBATCH --time=3:00:00" in out
    assert out.endswith("srun --kill-on-bad-exit=1 labelscape train 'scene tif' --labels l.gpkg --out run\n")
    code, _, err = run_cli("train", *DATA, "--out", "run", "--slurm", "2x3")
    assert code == 2
    assert "--batch 8 cannot be divided evenly over 2 x 3 = 6 GPUs: give a multiple of 6." in err


def test_a_batch_script_runs_and_activates_the_environment(tmp_path, monkeypatch):
    """The script is bash that ends in the command, with the environment's `activate` before `set -u`, which
    conda's scripts do not survive.
    """
    recipe = make_recipe(data={"images": ["a.tif"]}, network="fcn")
    for name, says in {"scontrol": "echo node1", "srun": 'shift; "$@"'}.items():
        (tmp_path / name).write_text(f"#!/bin/bash\n{says}\n")
        (tmp_path / name).chmod(0o755)
    slurm = {"SLURM_JOB_ID": "7", "SLURM_JOB_NODELIST": "n", "SLURM_CPUS_PER_TASK": "4"}
    for conda in (False, True):
        prefix = tmp_path / f"env {conda}"
        (prefix / "bin").mkdir(parents=True)
        (prefix / "bin" / "activate").write_text('ACTIVE="active $UNSET $1"\n')
        if conda:
            (prefix / "conda-meta").mkdir()
            monkeypatch.setenv("CONDA_EXE", str(prefix / "bin" / "conda"))
        monkeypatch.setattr(sys, "prefix", str(prefix))
        found = subprocess.run(
            ["bash", "-c", slurm_script(recipe, tmp_path / "out", command='echo "$ACTIVE" $MASTER_PORT')],
            env={"PATH": f"{tmp_path}:{os.environ['PATH']}", **slurm},
            capture_output=True,
            text=True,
            check=True,
        )
        assert found.stdout.startswith("active")
        assert found.stdout.rstrip().endswith("20007")
        assert (str(prefix) in found.stdout) == conda  # conda's script is told which environment
    with pytest.raises(BadOption, match="hours=0"):
        slurm_script(recipe, "out", hours=0)


def test_a_recipe_as_a_command_line_is_the_same_recipe(monkeypatch):
    from labelscape.cli import train_ahead
    from labelscape.training import slurm

    scenes = ["a b.tif", ("b.tif", "c.tif")]
    recipe = make_recipe(
        data={"images": scenes, "labels": ["x.gpkg"], "block": 32, "merge": {"a": ["b"]}},
        network="classmate",
        optimizer="adamw",
        rate=0.001,
        base_rate=0.001,
        losses={"dice": 1.0},
        scale_range=(0.5, 2),
        mate={"data": {"images": ["z"]}, "weight": 0.5},
    )
    seen = []
    monkeypatch.setattr(train_ahead, "print_slurm", lambda ahead, out, recipe: seen.append((out, recipe)))
    words = shlex.split(slurm.command_of(recipe, "runs/a b"))
    assert words[:2] == ["labelscape", "train"]
    app([*words[1:], "--slurm", "1x1"], standalone_mode=False)
    assert seen == [(Path("runs/a b"), recipe)]


def test_the_defaults_that_help_shows_are_the_recipes():
    shown = {p.name: p.show_default for p in get_command(app).commands["train"].params}
    for model, names in {
        Recipe: "network steps batch crop precision seed",
        Data: "block split buffer holdout val",
    }.items():
        for name in names.split():
            assert shown[name] == str(model.model_fields[name].default), name


def test_the_better_of_two_networks_is_recommended(tmp_path, run_cli, monkeypatch):
    recipe = make_recipe(data={"images": ["a"]}, network="mlp", steps=1)
    scores = {"fcn": {"mean_iou": 0.6898}, "mlp": {"mean_iou": 0.654}, "random forest": {"mean_iou": 0.9}}
    assert best_network(recipe, scores) == "fcn"
    assert best_network(recipe, {**scores, "mlp": {"mean_iou": 0.7}}) == "mlp"
    assert best_network(recipe, {}) == "mlp"
    assert best_network(recipe, {"mlp": {"mean_iou": None}}) == "mlp"
    assert best_network(recipe.replace(base_steps=0), scores) == "mlp"
    w = world.make(tmp_path, 96, 128)
    labels = world.label_raster(w, tmp_path / "l.tif")
    words = ["train", w.scene, "--labels", labels, "--block", 32, "--steps", 1, "--base-steps", 1]
    words += ["--network", "skip", "--batch", 2, "--crop", 16, "-o", "options.widths=[4,4,4,4]"]
    real = measure.evaluate

    def scored(checkpoint, *arguments, **options):
        found = real(checkpoint, *arguments, **options)
        miou = {"fcn": 0.6898, "skip": 0.654}[checkpoint.network]
        return SimpleNamespace(metrics={**found.metrics, "mean_iou": miou}, save=found.save)

    monkeypatch.setattr(measure, "evaluate", scored)
    code, out, _ = run_cli(*words, "--device", "cpu", "--out", tmp_path / "run")
    fcn = tmp_path / "run" / "fcn.safetensors"
    assert code == 0
    assert f"the base network scored better (mean IoU: fcn 68.98 %, skip 65.40 %): {fcn}" in out
    assert f"map a scene with: labelscape map {fcn} SCENE" in out
    code, out, _ = run_cli(*words, "--device", "cpu", "--out", tmp_path / "again", "--json")
    assert json.loads(out)["best"] == str(tmp_path / "again" / "fcn.safetensors")
    assert json.loads(out)["checkpoint"] == str(tmp_path / "again" / "skip.safetensors")


def test_a_dry_run_works_where_memory_cannot_be_measured(tmp_path, run_cli, monkeypatch):
    """Windows has no module `resource`."""
    monkeypatch.setitem(sys.modules, "resource", None)
    w = world.make(tmp_path, 64, 64)
    labels = world.label_raster(w, tmp_path / "l.tif")
    words = ["train", w.scene, "--labels", labels, "--block", 16, "--network", "fcn", "--batch", 2]
    words += ["--crop", 16, "--device", "cpu", "-o", "options.widths=[4,4,4,4]"]
    words += ["--dry-run", "--out", tmp_path / "run"]
    code, out, _ = run_cli(*words)
    assert code == 0
    assert "Memory cannot be measured" in out
    assert json.loads(run_cli(*words, "--json")[1])["peak_bytes"] is None
    assert not (tmp_path / "run").exists()


def test_one_class_alone_is_nothing_to_learn(tmp_path):
    w = world.make(tmp_path, 96, 128)
    polygons = world.label_polygons(w, tmp_path / "water.gpkg", only=(0,))
    data = {"images": [str(w.scene)], "labels": [str(polygons)], "class_column": "kind", "block": 32}
    recipe = make_recipe(
        data=data, network="fcn", steps=1, batch=2, crop=16, device="cpu", options={"widths": [4, 4, 4, 4]}
    )
    with pytest.raises(
        BadInput,
        match=(
            "one class only, water; a network needs at least two. Name what no polygon covers with "
            "`background='other'`"
        ),
    ):
        train(recipe, tmp_path / "out", score=False)
    train(recipe.replace(data={**data, "background": "land"}), tmp_path / "out")


@pytest.mark.parametrize("ahead", [rehearse, lambda recipe: find_rate(recipe, steps=10)])
def test_what_is_tried_before_a_run_refuses_what_the_run_would(tmp_path, ahead):
    """An estimate of minutes, or a rate, for labels that training then refuses would be wrong in silence."""
    w = world.make(tmp_path, 96, 128)
    polygons = world.label_polygons(w, tmp_path / "water.gpkg", only=(0,))
    labels = world.label_raster(w, tmp_path / "labels.tif")
    one = {"images": [str(w.scene)], "labels": [str(polygons)], "class_column": "kind", "block": 32}
    two = {"images": [str(w.scene)], "labels": [str(labels)], "block": 32}
    small = {"steps": 1, "batch": 2, "crop": 16, "device": "cpu"}
    with pytest.raises(BadInput, match="one class only, water"):
        ahead(make_recipe(data=one, network="fcn", options={"widths": [4, 4, 4, 4]}, **small))
    dfcnet = make_recipe(
        data=two, mate={"data": one}, network="dfcnet", options=two_tasks.SMALL, base_steps=0, **small
    )
    with pytest.raises(BadInput, match=r"Second task \(`mate`\).*one class only, water"):
        ahead(dfcnet)


def test_labels_on_nodata_alone_are_refused_before_training(tmp_path):
    """They would be found missing in the score, hours later; a single labelled pixel with data is enough."""
    w = world.make(tmp_path, 64, 64)
    pixels = np.where(np.arange(64) < 32, 0, w.pixels)
    scene = world.write(tmp_path / "half.tif", pixels, nodata=0)
    data = {"images": [str(scene)], "labels": [str(tmp_path / "l.tif")], "block": 8}
    recipe = make_recipe(
        data=data, network="fcn", steps=1, batch=2, crop=16, device="cpu", options={"widths": [4, 4, 4, 4]}
    )
    left = np.where(np.arange(64) < 32, w.classes, IGNORE).astype(np.uint8)
    world.write(tmp_path / "l.tif", left)
    with pytest.raises(BadInput, match="No label for training lies where its scene has data"):
        train(recipe, tmp_path / "out", score=False)
    found = {f.kind: f.severity for f in check_data([scene], [tmp_path / "l.tif"])}
    assert found["all-ignored"] == "error"
    world.write(tmp_path / "l.tif", w.classes)
    train(recipe, tmp_path / "out", score=False)
    assert "all-ignored" not in {f.kind for f in check_data([scene], [tmp_path / "l.tif"])}


def test_classes_that_all_lie_under_another_are_not_learned_around(tmp_path):
    """The rectangle around the fields, last in the file, covers them all: one class would be learned."""
    w = world.make(tmp_path, 64, 64)
    shapes = [shapely.box(0, 0, 1, 1), shapely.box(2, 2, 3, 3), shapely.box(0, 0, 1, 1).buffer(9)]
    shapes = [shapely.affinity.affine_transform(s, w.transform.to_shapely()) for s in shapes]
    names = np.array(["field", "water", "all"], object)
    path = tmp_path / "l.gpkg"
    pyogrio.raw.write(
        str(path), shapely.to_wkb(shapes), [names], ["class"], geometry_type="Polygon", crs=w.crs.to_wkt()
    )
    data = {"images": [str(w.scene)], "labels": [str(path)], "block": 4}
    recipe = make_recipe(
        data=data, network="fcn", steps=1, batch=2, crop=16, device="cpu", options={"widths": [4, 4, 4, 4]}
    )
    with pytest.raises(BadInput, match="All training pixels are all; none is field or water.*later one"):
        train(recipe, tmp_path / "out", score=False)
    found = [f.kind for f in check_data([w.scene], [path]) if f.severity == "error"]
    assert found == ["one-class"]


def test_overlapping_scenes_are_reported(tmp_path):
    a, b = (
        world.make(tmp_path, 64, 64, name="a"),
        world.make(tmp_path, 64, 64, name="b", transform=world.NORTH_UP @ Affine.translation(32, 0)),
    )
    beside = world.make(tmp_path, 64, 64, name="c", transform=world.NORTH_UP @ Affine.translation(64, 0))
    labels = [world.label_raster(w, tmp_path / f"l{i}.tif") for i, w in enumerate((a, b, beside))]
    halves = {"block": 16, "shares": {"train": 0.5, "test": 0.5}}
    with open_dataset([a.scene, b.scene], labels[:2], **halves) as dataset:
        assert any(line.startswith("a and b overlap") for line in dataset.report)
    with open_dataset([a.scene, beside.scene], [labels[0], labels[2]], **halves) as dataset:
        assert not any(" overlap" in line for line in dataset.report)


def test_the_loss_of_another_process_is_a_sentence():
    class Two:
        world_size, global_rank = 2, 1

    said = "Process 1 of 2 lost contact with another process .*Connection reset.*the last saved state"
    with pytest.raises(LabelscapeError, match=said), telling_of_the_lost(Two()):
        raise RuntimeError("[gloo/transport/tcp/pair.cc:537] Read error: Connection reset by peer")
    with pytest.raises(RuntimeError, match="shapes"), telling_of_the_lost(Two()):
        raise RuntimeError("shapes do not fit")
    with pytest.raises(RuntimeError, match="peer"), telling_of_the_lost(gather("cpu", "32")):
        raise RuntimeError("Connection reset by peer")


def test_control_c_stops_with_one_line_and_the_run_can_go_on(tmp_path):
    w = world.make(tmp_path, 64, 64)
    arguments = [
        "train",
        str(w.scene),
        "--labels",
        str(world.label_raster(w, tmp_path / "l.tif")),
        "--block",
        "32",
        "--network",
        "fcn",
        "--batch",
        "2",
        "--crop",
        "16",
        "--steps",
        "100000",
        "--out",
        str(tmp_path / "run"),
        "--device",
        "cpu",
        "-o",
        "options.widths=[4,4,4,4]",
        "-o",
        "save_every=5",
    ]
    process = subprocess.Popen(
        [sys.executable, "-m", "labelscape", *arguments],
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    until(lambda: list((tmp_path / "run").glob("*.state.safetensors")) or process.poll() is not None)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=PATIENCE)
    assert process.returncode == 130, said
    assert said.endswith("labelscape: stopped.\n")
    assert "Traceback" not in said
    assert list((tmp_path / "run").glob("*.state.safetensors"))


@pytest.mark.parametrize(
    ("steps", "batch", "crop", "every"),
    [
        (100, 8, 128, 10),  # ten scores a run
        (30, 1, 16, 11),  # 8,192 pixels to score, 768 forward passes of pixels a step
        (5, 1, 16, 5),  # once at least
    ],
)
def test_validation_takes_no_longer_than_the_training_between(tmp_path, steps, batch, crop, every):
    w = world.make(tmp_path, 64, 128)
    settings = {"steps": steps, "batch": batch, "crop": crop}
    recipe = recipe_of(
        [str(w.scene)], Labels(), Schedule(**settings), Holdout(val=0.2, holdout=0.2), SecondTask(), []
    )
    assert recipe.val_every == every
    stated = recipe_of(
        [str(w.scene)], Labels(), Schedule(**settings), Holdout(val=0.2), SecondTask(), ["val_every=2"]
    )
    assert stated.val_every == 2


def test_a_dry_run_prints_what_scores_and_the_forest_take(tmp_path, run_cli):
    w = world.make(tmp_path, 96, 128)
    labels = world.label_raster(w, tmp_path / "l.tif")
    words = [
        "train",
        w.scene,
        "--labels",
        labels,
        "--block",
        16,
        "--network",
        "fcn",
        "--batch",
        2,
        "--crop",
        16,
    ]
    words += ["--device", "cpu", "-o", "options.widths=[4,4,4,4]", "--out", tmp_path / "run", "--dry-run"]
    code, out, err = run_cli(*words, "--steps", 40, "--val", 0.2, "--forest")
    assert code == 0, err
    assert "to score the held-out part" in out and "for the random forest" in out
    assert "to score the part val 5 times" in out
    code, out, _ = run_cli(*words, "--holdout", 0)
    assert code == 0 and "to score" not in out and "forest" not in out
    # Whatever is trained, its data are looked at once more.
    assert "for features of the data" in out and "(estimated from one tile)" in out


def test_a_process_alone_is_not_told_to_be_started_by_srun(tmp_path, monkeypatch):
    """Wherever SLURM is installed, as on the nodes on which people log in."""
    (tmp_path / "srun").write_text("#!/bin/sh\n")
    (tmp_path / "srun").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert gather("cpu", "32").world_size == 1
