"""Fine-tuning: what fits is taken over to the last bit, what does not is new, and both are told."""

import numpy as np
import pytest
import world

from labelscape.checkpoint import load
from labelscape.errors import BadOption
from labelscape.training.recipe import make_recipe
from labelscape.training.run import train

STILL = {"rate": 1e-12, "weight_decay": 0, "momentum": 0, "steps": 1, "crop": 32, "batch": 2, "device": "cpu"}


def run(tmp_path, out, network, say, *, names=("water", "field", "forest"), bands=3, **more):
    """A network whose weights one step leaves where they started."""
    w = world.make(tmp_path, 64, 64, bands=bands, name=f"scene{out}")
    labels = world.label_raster(w, tmp_path / f"labels{out}.tif")
    classes = {name: min(value, 2) for value, name in enumerate(names)}
    ignore = [] if len(names) == 3 else [2]
    data = {
        "images": [str(w.scene)],
        "labels": [str(labels)],
        "classes": classes,
        "ignore_values": ignore,
        "holdout": 0,
    }
    train(make_recipe(data=data, network=network, **{**STILL, **more}), tmp_path / out, score=False, say=say)
    return load(tmp_path / out / f"{network}.safetensors").weights


def same(before, after):
    """Names of the weights that are equal to the last bits of a step of 1e-12."""
    return {
        key
        for key in after
        if key in before
        and before[key].shape == after[key].shape
        and np.allclose(before[key], after[key], atol=1e-9)
    }


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({}, "weights are those of fcn in"),
        ({"names": ("water", "land")}, "other classes: water, field, forest"),
        ({"names": ("a", "b", "c")}, "other classes: water, field, forest"),
        ({"bands": 2}, "other bands: "),
    ],
)
def test_a_network_goes_on_from_one_of_its_kind(tmp_path, change, said):
    before = run(tmp_path, "a", "fcn", print)
    lines = []
    start = str(tmp_path / "a" / "fcn.safetensors")
    after = run(tmp_path, "b", "fcn", lines.append, start=start, **{"seed": 7, **change})
    (told,) = [line for line in lines if "weights are those of" in line]
    assert said in told
    kept = same(before, after)
    trainable = {key for key in after if key.endswith(("weight", "bias")) and after[key].ndim > 1}
    fresh = trainable - kept
    if not change:
        assert not fresh
    elif "names" in change:
        # The layers that tell classes apart, and no other.
        assert fresh and all(len(change["names"]) in after[key].shape for key in fresh)
        assert all(key.startswith("encoder") for key in trainable if key in kept and "encoder" in key)
        assert f"{next(iter(fresh)).rpartition('.')[0]}" in told
    else:
        assert fresh and all(after[key].shape[1] == 2 for key in fresh)


def test_a_network_of_which_nothing_fits_is_refused(tmp_path):
    run(tmp_path, "a", "fcn", print)
    with pytest.raises(BadOption, match="No weight of fcn fits pspnet.*checkpoint of pspnet"):
        run(
            tmp_path,
            "b",
            "pspnet",
            print,
            start=str(tmp_path / "a" / "fcn.safetensors"),
            options={"backbone": "resnet18"},
        )
