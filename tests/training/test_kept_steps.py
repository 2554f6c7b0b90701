"""Checkpoints that are kept while a network is trained."""

import numpy as np
import world

import labelscape as ls
from labelscape.explanation.over_training import saved_weights
from labelscape.training.recipe import make_recipe
from labelscape.training.run import train

TINY = {
    "options": {"widths": [8, 8, 8, 8]},
    "batch": 2,
    "crop": 32,
    "device": "cpu",
    "network": "skip",
    "base_steps": 0,
    "steps": 6,
}


def test_a_checkpoint_of_every_so_many_steps_stays_and_changes_nothing_else(tmp_path):
    w = world.make(tmp_path, 96, 128, bands=3)
    data = {"images": [str(w.scene)], "labels": [str(world.label_raster(w, tmp_path / "l.tif"))], "block": 32}
    plain = train(make_recipe(data=data, **TINY), tmp_path / "plain")
    kept = train(make_recipe(data=data, keep_every=2, **TINY), tmp_path / "kept")
    folder = tmp_path / "kept" / "skip_steps"
    assert [path.name for path in sorted(folder.iterdir())] == [f"{n:06d}.safetensors" for n in (2, 4, 6)]
    assert all((kept.weights[name] == plain.weights[name]).all() for name in plain.weights)
    early, last = (ls.load(folder / f"{n:06d}.safetensors") for n in (2, 6))
    assert early.history[-1]["step"] == 2 and early.legend == kept.legend
    assert all((last.weights[name] == kept.weights[name]).all() for name in kept.weights)
    assert any((early.weights[name] != kept.weights[name]).any() for name in kept.weights)
    # Each maps by itself, and all of them are what the course of a training is told from.
    assert ls.map_scene(early, w.scene, tmp_path / "map", device="cpu", report=False).paths["class"].exists()
    found = saved_weights(tmp_path / "kept", "skip")
    assert list(found) == [2, 4, 6]
    name = next(iter(early.weights))
    assert np.array_equal(found[2][name].numpy(), early.weights[name])
    # A run that begins anew keeps none of them.
    train(make_recipe(data=data, keep_every=5, **TINY), tmp_path / "kept", overwrite=True)
    assert [path.name for path in folder.iterdir()] == ["000005.safetensors"]
