"""Training on a GPU: two runs of one recipe, resumed ones, half precision, checkpoints for processors."""

from __future__ import annotations

import gc
from pathlib import Path

import numpy as np
import pytest
import torch
import two_tasks
import world
from small_networks import SMALL

import labelscape.training.loop as loop
from labelscape.checkpoint import Checkpoint, load
from labelscape.scoring.scorer import predict
from labelscape.training.recipe import make_recipe
from labelscape.training.run import train

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")

ALONE = [name for name in SMALL if name not in ("classmate", "smp/Unet")]
"""Networks of one task whose operations all have deterministic algorithms."""


def fields(folder: Path, name: str = "skip", **changes: object) -> dict:
    w = world.make(folder, 128, 160, bands=3, nodata=0)
    data = {
        "images": [str(w.scene)],
        "labels": [str(world.label_raster(w, folder / "labels.tif"))],
        "block": 32,
    }
    options = {**SMALL[name], **({"mate_classes": 0} if name == "dfcnet" else {})}
    settings = {"batch": 4, "crop": 64, "steps": 6, "base_steps": 0, "save_every": 2, "device": "cuda"}
    return {"data": data, "network": name, "options": options, **settings, **changes}


def same_weights(one: Checkpoint, other: Checkpoint) -> None:
    assert one.weights.keys() == other.weights.keys()
    for key, value in one.weights.items():
        np.testing.assert_array_equal(value, other.weights[key], err_msg=key)


@pytest.mark.parametrize("name", ALONE)
@pytest.mark.parametrize("precision", ["32", "bf16"])
def test_two_deterministic_runs_end_with_the_same_weights(tmp_path: Path, name: str, precision: str) -> None:
    recipe = make_recipe(**fields(tmp_path, name, deterministic=True, precision=precision))
    one, other = (train(recipe, tmp_path / out, score=False) for out in ("one", "other"))
    same_weights(one, other)
    start = train(
        make_recipe(**fields(tmp_path, name, precision=precision, steps=1, rate=1e-12)), tmp_path / "start",
        score=False,
    )  # fmt: skip
    # It learned at all: other weights than at the start.
    assert any((one.weights[key] != start.weights[key]).any() for key in one.weights if "weight" in key)


def test_two_tasks_end_with_the_same_weights(tmp_path: Path) -> None:
    given = two_tasks.make(tmp_path).fields(device="cuda", steps=6, deterministic=True)
    one, other = (train(make_recipe(**given), tmp_path / out, score=False) for out in ("one", "other"))
    same_weights(one, other)


@pytest.mark.parametrize("name", ["skip", "dgcwnet"])
def test_a_stopped_run_comes_to_the_same_weights(tmp_path: Path, monkeypatch, name: str) -> None:
    recipe = make_recipe(
        **fields(tmp_path, name, deterministic=True, precision="bf16", ema=0.9, optimizer="adamw", steps=9)
    )
    whole = train(recipe, tmp_path / "whole", score=False)
    real, count = loop.update, 0

    def breaking(*arguments: object) -> object:
        nonlocal count
        count += 1
        if count == 6:
            raise KeyboardInterrupt
        return real(*arguments)

    monkeypatch.setattr(loop, "update", breaking)
    with pytest.raises(KeyboardInterrupt):
        train(recipe, tmp_path / "broken", score=False)
    same_weights(whole, train(recipe, tmp_path / "broken", score=False))


@pytest.mark.parametrize("precision", ["32", "bf16", "16"])
def test_layers_work_in_the_recipes_precision_and_it_learns(
    tmp_path: Path, monkeypatch, precision: str
) -> None:
    real, seen = loop.build_network, set()

    def watched(*arguments: object) -> torch.nn.Module:
        net = real(*arguments)
        first = next(module for module in net.modules() if isinstance(module, torch.nn.Conv2d))
        first.register_forward_hook(lambda module, given, out: seen.add((out.dtype, out.device.type)))
        return net

    monkeypatch.setattr(loop, "build_network", watched)
    made = train(
        make_recipe(
            **fields(tmp_path, "skip", precision=precision, steps=200, crop=32, options={"widths": (16,) * 4})
        ),
        tmp_path / "out",
    )
    dtype = {"32": torch.float32, "bf16": torch.bfloat16, "16": torch.float16}[precision]
    assert (dtype, "cuda") in seen
    assert {str(value.dtype) for value in made.weights.values()} <= {"float32", "int64"}
    assert made.scores["skip"]["overall_accuracy"] > 0.9
    # The same file on a machine without a GPU.
    stored = load(tmp_path / "out" / "skip.safetensors")
    assert np.isfinite(predict(stored, np.full((3, 40, 50), 4000, np.uint16))).all()


def test_after_training_a_gpu_holds_nothing(tmp_path: Path) -> None:
    gc.collect()
    before = torch.cuda.memory_allocated()
    train(make_recipe(**fields(tmp_path, "mswbn")), tmp_path / "out", score=False)
    gc.collect()
    assert torch.cuda.memory_allocated() <= before + 2**20


def test_too_large_a_batch_is_said_in_words(tmp_path: Path, run_cli) -> None:
    w = world.make(tmp_path, 4096, 4096, bands=3)
    labels = world.label_raster(w, tmp_path / "labels.tif")
    code, _, err = run_cli(
        "train", w.scene, "--labels", labels, "--network", "dfcnet", "--crop", 2049, "--batch", 64,
        "--steps", 1, "--device", "cuda", "--out", tmp_path / "out",
    )  # fmt: skip
    assert code == 1 and "Traceback" not in err
    assert "memory" in err and ("--batch" in err or "--crop" in err)
