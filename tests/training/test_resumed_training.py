"""Interrupted, shared or split into parts: training comes to the same weights."""

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from typing import get_args

import numpy as np
import pytest
import torch
import world
from processes import PATIENCE, until
from safetensors import safe_open
from safetensors.torch import save_file

from labelscape.checkpoint import load
from labelscape.errors import BadFile
from labelscape.training.data import blank_checkpoint, open_recipe_data
from labelscape.training.optimizers import make_optimizer, pack, rate_at, unpack
from labelscape.training.outputs import state_path
from labelscape.training.recipe import Recipe, make_recipe
from labelscape.training.run import train
from labelscape.training.state import Progress, load_state, save_state

PROGRAM = """
import json, sys
from labelscape.training.data import blank_checkpoint, open_recipe_data
from labelscape.training.run import train
from labelscape.training.recipe import make_recipe
if __name__ == "__main__":
    train(make_recipe(**json.loads(sys.argv[1])), sys.argv[2])
"""
TINY = {
    "options": {"widths": [8, 8, 8, 8]},
    "batch": 4,
    "crop": 32,
    "device": "cpu",
    "save_every": 3,
    "network": "skip",
    "base_steps": 0,
}


@pytest.fixture
def fields(tmp_path):
    w = world.make(tmp_path, 96, 128, bands=3, nodata=0)
    return {
        "data": {
            "images": [str(w.scene)],
            "labels": [str(world.label_raster(w, tmp_path / "labels.tif"))],
            "block": 32,
        },
        **TINY,
    }


OPTIMIZERS = get_args(Recipe.model_fields["optimizer"].annotation)


def same_weights(one, other):
    assert one.weights.keys() == other.weights.keys()
    for key, value in one.weights.items():
        np.testing.assert_array_equal(value, other.weights[key], err_msg=key)


def launch(fields, out, processes=1):
    arguments = [json.dumps(fields), str(out)]
    head = [sys.executable] + [
        "-m",
        "torch.distributed.run",
        f"--nproc-per-node={processes}",
        "--standalone",
    ] * (processes > 1)
    program = out.parent / "program.py"
    program.write_text(PROGRAM)
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    return subprocess.Popen(
        [*head, str(program), *arguments], env=environment, stderr=subprocess.PIPE, start_new_session=True
    )


def children_of(pid):
    found = subprocess.run(
        ["ps", "--ppid", str(pid), "-o", "pid="], capture_output=True, text=True, check=False
    ).stdout.split()
    return [int(child) for child in found]


def kill_once_saved(process, state, extra):
    """SIGKILL to all of it, `extra` seconds after it first saved."""
    until(lambda: state.exists() or process.poll() is not None)
    time.sleep(extra)
    # torchrun's processes live in sessions of their own. Whatever ended by itself meanwhile is no failure.
    for pid in [*children_of(process.pid), process.pid]:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    process.wait()
    return process.stderr.read()


MORE = {
    "plain": {},
    "cosine": {"schedule": "cosine", "warmup": 3, "clip_norm": 0.5},
    "average": {"ema": 0.9, "val_every": 2, "precision": "bf16", "deterministic": True},
}


@pytest.mark.parametrize(
    ("base_steps", "optimizer", "more"),
    [*((steps, name, "plain") for steps in (0, 6) for name in OPTIMIZERS), (0, "sgd", "cosine")]
    + [(0, "adamw", "average"), (6, "sgd", "average")],
)
def test_a_run_paused_anywhere_comes_to_the_same_weights(
    fields, tmp_path, monkeypatch, base_steps, optimizer, more
):
    if more == "average":
        fields["data"] = {**fields["data"], "val": 0.25}
    recipe = make_recipe(
        **{**fields, "base_steps": base_steps, "optimizer": optimizer, **MORE[more]},
        steps=10,
        rate=0.01,
        base_rate=0.01,
        losses={"ohem": 1.0, "dice": 0.5},
        scale_range=(0.5, 2),
    )
    whole = train(recipe, tmp_path / "whole")
    import labelscape.training.loop as loop

    real, stops = loop.update, [4, 5, 2]
    count = 0

    def breaking(*arguments):
        nonlocal count
        count += 1
        if stops and count > stops[0]:
            stops.pop(0)
            count = 0
            raise KeyboardInterrupt
        return real(*arguments)

    monkeypatch.setattr(loop, "update", breaking)
    for _ in range(8):
        try:
            resumed = train(recipe, tmp_path / "broken")
            break
        except KeyboardInterrupt:
            continue
    assert not stops
    same_weights(whole, resumed)
    assert resumed.history == whole.history
    assert resumed.scores == whole.scores
    assert not state_path(tmp_path / "broken", "skip").exists()


def test_sigkill_at_a_random_moment_loses_nothing(fields, tmp_path):
    fields = {**fields, "steps": 400}
    whole = launch(fields, tmp_path / "whole")
    assert whole.wait() == 0, whole.stderr.read().decode()[-2000:]
    for attempt in range(2):
        process = launch(fields, tmp_path / "killed")
        kill_once_saved(
            process, state_path(tmp_path / "killed", "skip"), random.uniform(0, 1) if attempt else 0
        )
    last = launch(fields, tmp_path / "killed")
    assert last.wait() == 0, last.stderr.read().decode()[-2000:]
    same_weights(
        load(tmp_path / "whole" / "skip.safetensors"), load(tmp_path / "killed" / "skip.safetensors")
    )


@pytest.mark.long
def test_two_processes_killed_come_to_the_weights_of_two_left_alone(fields, tmp_path):
    fields = {**fields, "steps": 400}
    whole = launch(fields, tmp_path / "whole", 2)
    assert whole.wait() == 0, whole.stderr.read().decode()[-3000:]
    process = launch(fields, tmp_path / "killed", 2)
    kill_once_saved(process, state_path(tmp_path / "killed", "skip"), 0.3)
    last = launch(fields, tmp_path / "killed", 2)
    assert last.wait() == 0, last.stderr.read().decode()[-3000:]
    same_weights(
        load(tmp_path / "whole" / "skip.safetensors"), load(tmp_path / "killed" / "skip.safetensors")
    )


@pytest.mark.long
def test_a_dead_process_ends_the_job_and_is_named(fields, tmp_path):
    process = launch({**fields, "steps": 100_000}, tmp_path / "out", 2)
    state = state_path(tmp_path / "out", "skip")
    until(state.exists)
    os.kill(children_of(process.pid)[-1], signal.SIGKILL)
    assert process.wait(timeout=PATIENCE) != 0
    said = process.stderr.read().decode()
    assert "local_rank: 1" in said
    assert "SIGKILL" in said


def test_a_batch_in_parts_has_the_gradient_of_the_whole(fields, tmp_path, monkeypatch):
    """Networks without batch normalisation: equal up to the order of sums. Labels are unevenly spread over
    the parts.
    """
    import labelscape.training.loop as loop
    from labelscape.nets.blocks import Network

    class Plain(Network):
        stride, reach = 1, 2

        def __init__(self):
            super().__init__()
            self.first, self.last = torch.nn.Conv2d(3, 8, 3, padding=1), torch.nn.Conv2d(8, 5, 3, padding=1)

        def scores(self, image):
            hidden = self.first(image).relu()
            return {"logits": self.last(hidden), "aux": self.last(hidden * 0.5)}

    def plain(recipe, dataset, start, mate):
        torch.manual_seed(0)
        return Plain()

    monkeypatch.setattr(loop, "build_network", plain)
    recipe = make_recipe(
        **{
            **fields,
            "data": {**fields["data"], "holdout": 0},
            "steps": 3,
            "class_weights": "auto",
            "sampling": "uniform",
        }
    )
    weights = []
    for accumulate in (1, 2, 4):
        part = recipe.replace(accumulate=accumulate)
        with open_recipe_data(part.data, 0) as dataset:
            weights.append(
                loop.run_phase(
                    part, dataset, blank_checkpoint(part, dataset), tmp_path / str(accumulate)
                ).weights
            )
    for other in weights[1:]:
        for key, value in weights[0].items():
            np.testing.assert_allclose(
                value, other[key], rtol=2e-5, atol=1e-6
            )  # float32 sums in another order
    assert (
        np.abs(
            weights[0]["last.weight"]
            - loop.build_network(None, None, None, None).last.weight.detach().numpy()
        ).max()
        > 1e-3
    )


def test_an_unfinished_run_is_not_gone_on_from_with_other_settings(fields, tmp_path, monkeypatch):
    import labelscape.training.loop as loop

    monkeypatch.setattr(loop, "rate_at", lambda recipe, step: 1 / 0 if step == 4 else 0.01)
    recipe = make_recipe(**fields, steps=10)
    with pytest.raises(ZeroDivisionError):
        train(recipe, tmp_path)
    monkeypatch.undo()
    with pytest.raises(BadFile, match="other settings .momentum."):
        train(recipe.replace(momentum=0.5), tmp_path)
    state = state_path(tmp_path, "skip")
    state.write_bytes(state.read_bytes()[:-1000])
    with pytest.raises(BadFile, match="cannot be resumed from"):
        train(recipe, tmp_path)
    train(recipe, tmp_path, overwrite=True)
    assert not state.exists()


def test_the_best_weights_are_kept_and_training_ends_early(fields, tmp_path, monkeypatch):
    import labelscape.evaluation.measure as measure

    real, scores, seen = measure.evaluate, [0.2, 0.6, 0.5, 0.4, 0.9], []

    def scored(checkpoint, dataset, *, part=None, **options):
        if part != "val":
            return real(checkpoint, dataset, part=part, **options)
        seen.append(checkpoint)

        class Made:
            metrics = {"mean_iou": scores[len(seen) - 1]}

        return Made

    monkeypatch.setattr(measure, "evaluate", scored)
    data = {**fields["data"], "val": 0.25}
    recipe = make_recipe(**{**fields, "data": data, "steps": 50, "val_every": 5, "patience": 2})
    trained = train(recipe, tmp_path)
    assert len(seen) == 4
    same_weights(trained, seen[1])
    assert [row["val_miou"] for row in trained.history if "val_miou" in row] == scores[:4]
    assert (tmp_path / "skip.csv").read_text().splitlines()[0] == "step,loss,rate,val_miou"


def test_a_classmate_trains_in_the_same_batch(fields, tmp_path):
    """Another data set with other classes: its head learns it, and without its crops the head stays as it
    was.
    """
    (tmp_path / "mate").mkdir()
    w = world.make(tmp_path / "mate", 96, 96, bands=3, seed=5)
    labels = world.label_raster(w, tmp_path / "mate.tif", values=(0, 1, 1))
    mate = {
        "data": {"images": [str(w.scene)], "labels": [str(labels)], "block": 32},
        "batch": 2,
        "weight": 0.5,
    }
    options = {
        "encoder": [1, 1, 1, 1],
        "decoder": [1, 1, 1, 1],
        "stem": 8,
        "growth": 4,
        "width": 8,
        "head_width": 8,
    }
    recipe = make_recipe(
        **{**fields, "network": "classmate", "options": options, "mate": mate, "steps": 30, "rate": 0.02}
    )
    trained = train(recipe, tmp_path / "out")
    assert trained.options["mate_classes"] == 2
    assert trained.history[-1]["loss"] < 0.8 * trained.history[0]["loss"]
    idle = train(recipe.replace(mate={**mate, "weight": 0.0}, weight_decay=0), tmp_path / "idle")
    heads = [key for key in trained.weights if key.startswith("road_head") and key.endswith("weight")]
    assert heads
    moved = [np.abs(trained.weights[key] - idle.weights[key]).max() for key in heads]
    assert min(moved) > 1e-4
    with pytest.raises(Exception, match="no second head"):
        recipe.replace(network="fcn", options={})


def test_the_log_in_tensorboard_is_that_of_the_csv_and_goes_on(fields, tmp_path, monkeypatch):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    import labelscape.training.loop as loop

    recipe = make_recipe(
        **{**fields, "data": {**fields["data"], "val": 0.25}, "steps": 25, "val_every": 10, "save_every": 10}
    )
    real, count = loop.update, 0

    def breaking(*arguments):
        nonlocal count
        count += 1
        if count == 22:
            # ten lines were written, a state saved, ten more lines written that will be written again
            raise KeyboardInterrupt
        return real(*arguments)

    monkeypatch.setattr(loop, "update", breaking)
    with pytest.raises(KeyboardInterrupt):
        train(recipe, tmp_path, tensorboard=True)
    made = train(recipe, tmp_path, tensorboard=True)
    found = EventAccumulator(str(tmp_path / "skip.tensorboard"))
    found.Reload()
    for name in ("loss", "rate", "val_miou"):
        written = [(e.step, e.value) for e in found.Scalars(name)]
        assert written == [(h["step"], pytest.approx(h[name], rel=1e-6)) for h in made.history if name in h]


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_what_an_optimizer_remembers_survives_packing(optimizer, momentum):
    """The next step after packing is the very step without it; all of the state is in the pack."""
    recipe = make_recipe(
        data={"images": ["a"]}, optimizer=optimizer, rate=0.01, momentum=momentum, base_steps=0
    )

    def made():
        torch.manual_seed(0)
        net = torch.nn.Sequential(torch.nn.Conv2d(2, 3, 3), torch.nn.BatchNorm2d(3))
        return net, make_optimizer(net, recipe)

    def step(net, optimizer, image):
        optimizer.zero_grad()
        net(image).square().mean().backward()
        optimizer.step()

    (one, first), (other, second) = made(), made()
    for number in range(3):
        step(one, first, torch.full((1, 2, 5, 5), 1.0 + number))
    other.load_state_dict(one.state_dict())
    packed = {name: value.clone() for name, value in pack(first).items()}
    keys = {name.partition(".")[0] for name in packed}
    assert (
        keys
        == {"sgd": {"momentum_buffer"} if momentum else set(), "adamw": {"step", "exp_avg", "exp_avg_sq"}}[
            optimizer
        ]
    )
    assert len(packed) == 4 * len(keys)
    unpack(second, packed)
    for net, updating in ((one, first), (other, second)):
        step(net, updating, torch.full((1, 2, 5, 5), 0.5))
    for a, b in zip(one.parameters(), other.parameters()):
        assert torch.equal(a, b)


def test_states_of_before_there_were_other_optimizers_are_resumed(fields, tmp_path, monkeypatch):
    """Their momentum has a name of its own, their recipe another word for 32 bits."""
    import labelscape.training.loop as loop

    recipe = make_recipe(**fields, steps=9, optimizer="sgd")
    whole = train(recipe, tmp_path / "whole")
    monkeypatch.setattr(loop, "rate_at", lambda recipe, step: 1 / 0 if step == 7 else rate_at(recipe, step))
    with pytest.raises(ZeroDivisionError):
        train(recipe, tmp_path / "broken")
    monkeypatch.undo()
    path = state_path(tmp_path / "broken", "skip")
    with safe_open(path, framework="pt") as file:
        facts = json.loads(file.metadata()["labelscape-state"])
        tensors = {
            name.replace("optimizer.momentum_buffer.", "momentum."): file.get_tensor(name)
            for name in file.keys()  # noqa: SIM118 (no mapping)
        }
    assert any(name.startswith("momentum.") for name in tensors)
    assert "optimizer" not in facts["recipe"]
    assert facts["recipe"]["precision"] == "32"
    facts["recipe"]["precision"] = "32-true"
    save_file(tensors, path, metadata={"labelscape-state": json.dumps(facts)})
    same_weights(whole, train(recipe, tmp_path / "broken"))


def test_float16s_scale_of_losses_is_resumed(tmp_path):
    net = torch.nn.Linear(2, 1)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
    scaler = torch.amp.GradScaler("cpu", init_scale=4096.0, growth_interval=2)
    for step in range(4):
        optimizer.zero_grad()
        loss = net(
            torch.tensor([[1.0, 3e38 if step == 1 else 1.0]])
        ).sum()  # one overflow: the scale is halved
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
    save_state(tmp_path / "s.safetensors", {}, Progress(step=4), net, optimizer, scaler)
    other = torch.amp.GradScaler("cpu")
    load_state(tmp_path / "s.safetensors", {}, net, optimizer, other)
    assert other.state_dict() == scaler.state_dict() and other.get_scale() != 65536.0


def test_a_state_that_a_kill_left_beside_its_finished_network_is_removed(fields, tmp_path):
    out, recipe = tmp_path / "out", {**fields, "steps": 2, "base_steps": 2, "measure_tile_sizes": False}
    train(recipe, out, score=False)

    def left(network, age):
        state = state_path(out, network)
        state.write_bytes(b"left")
        at = (out / f"{network}.safetensors").stat().st_mtime_ns - age
        os.utime(state, ns=(at, at))
        return state

    base, of_other = left("fcn", 10**9), left("skip", -(10**9))
    with pytest.raises(BadFile, match="exists; pass `overwrite=True`"):
        train(recipe, out, score=False)
    assert of_other.exists()  # newer than the network: of a run that began to replace it
    own = left("skip", 10**9)
    with pytest.raises(BadFile, match="exists; pass `overwrite=True`"):
        train(recipe, out, score=False)
    assert not own.exists() and base.exists()
    (out / "skip.safetensors").unlink()
    train(recipe, out, score=False)
    assert not list(out.glob("*.state.safetensors"))
