import json

import numpy as np
import pytest
import world

from labelscape.checkpoint import load
from labelscape.evaluation.calibrate import _cross_entropy, _minimum, expected_error
from labelscape.training.recipe import make_recipe
from labelscape.training.run import train


def test_the_temperature_that_was_put_in_is_found():
    """Labels drawn from softmax(logits) are perfectly calibrated; logits three times as large need a
    temperature of three.
    """
    rng = np.random.default_rng(0)
    logits = 2 * rng.normal(size=(40_000, 4))
    p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    truth = (p.cumsum(1) < rng.random((len(p), 1))).sum(1)
    assert _minimum(lambda t: _cross_entropy(3 * logits / t, truth)) == pytest.approx(3, rel=0.03)
    sharp = np.exp(3 * logits) / np.exp(3 * logits).sum(1, keepdims=True)
    assert expected_error(p, truth) < 0.01 < 0.1 < expected_error(sharp, truth)


def test_expected_error_is_its_definition():
    p = np.array([[0.95, 0.05], [0.97, 0.03], [0.6, 0.4]])
    truth = np.array([0, 1, 0])
    assert expected_error(p, truth) == pytest.approx((abs(0.96 - 0.5) * 2 + abs(0.6 - 1)) / 3)


def test_calibrate_rewrites_the_checkpoint_and_no_class(tmp_path, run_cli):
    w = world.make(tmp_path, 96, 128)
    data = {
        "images": [str(w.scene)],
        "labels": [str(world.label_raster(w, tmp_path / "l.tif"))],
        "block": 32,
        "val": 0.25,
    }
    recipe = make_recipe(
        data=data, network="fcn", options={"widths": [8, 8, 8, 8]}, steps=20, batch=4, crop=32, device="cpu"
    )
    train(recipe, tmp_path / "run")
    model = tmp_path / "run" / "fcn.safetensors"
    before = run_cli("evaluate", model, "--json", "--device", "cpu")[1]
    code, out, _ = run_cli("calibrate", model, "--json", "--device", "cpu")
    assert code == 0
    assert load(model).temperature == json.loads(out)["temperature"] != 1
    assert json.loads(run_cli("evaluate", model, "--json", "--device", "cpu")[1]) == json.loads(before)
    again = json.loads(run_cli("calibrate", model, "--json", "--device", "cpu")[1])
    assert again["temperature"] == pytest.approx(load(model).temperature)
    assert again["error_before"] == pytest.approx(again["error_after"])
    code, _, err = run_cli("calibrate", model, "--part", "train")
    assert code == 2
    assert "val or test" in err
