"""What is said before a run is sent away, and when it is stopped."""

import os
import signal
import subprocess
import sys
import time

import pytest
import world
from affine import Affine

from labelscape.datasets.own import open_dataset
from labelscape.errors import BadInput, LabelscapeError
from labelscape.training.recipe import make_recipe
from labelscape.training.run import train
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
    code, _, err = run_cli("train", *DATA, "--out", "run", "--slurm", "2x3")
    assert code == 2
    assert "A batch of 8 cannot be shared by 2 x 3 processes" in err


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
            "one class only, water: there is nothing to tell it from. Name what no polygon covers with "
            "--background other"
        ),
    ):
        train(recipe, tmp_path / "out", score=False)
    train(recipe.replace(data={**data, "background": "land"}), tmp_path / "out")


def test_scenes_of_one_ground_are_told(tmp_path):
    a, b = (
        world.make(tmp_path, 64, 64, name="a"),
        world.make(tmp_path, 64, 64, name="b", transform=world.NORTH_UP @ Affine.translation(32, 0)),
    )
    beside = world.make(tmp_path, 64, 64, name="c", transform=world.NORTH_UP @ Affine.translation(64, 0))
    labels = [world.label_raster(w, tmp_path / f"l{i}.tif") for i, w in enumerate((a, b, beside))]
    halves = {"block": 16, "shares": {"train": 0.5, "test": 0.5}}
    with open_dataset([a.scene, b.scene], labels[:2], **halves) as dataset:
        assert any(line.startswith("a and b show the same ground") for line in dataset.report)
    with open_dataset([a.scene, beside.scene], [labels[0], labels[2]], **halves) as dataset:
        assert not any("same ground" in line for line in dataset.report)


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
    deadline = time.monotonic() + 120
    while (
        not list((tmp_path / "run").glob("*.state.safetensors"))
        and process.poll() is None
        and time.monotonic() < deadline
    ):
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130, said
    assert said.endswith("labelscape: stopped.\n")
    assert "Traceback" not in said
    assert list((tmp_path / "run").glob("*.state.safetensors"))
