"""The learning-rate range test."""

import json

import pytest
import torch
import world

import labelscape as ls
import labelscape.training.rate_search as rate_search
from labelscape.errors import BadInput, BadOption
from labelscape.training.rate_search import running_mean, suggest


@pytest.fixture
def words(tmp_path):
    w = world.make(tmp_path, 64, 96, bands=3, nodata=0)
    labels = world.label_raster(w, tmp_path / "labels.tif")
    words = ["train", w.scene, "--labels", labels, "--block", 32, "--network", "fcn", "--device", "cpu"]
    return [*words, "--batch", 4, "--crop", 32, "-o", "options.widths=[8,8,8,8]", "--out", tmp_path / "out"]


def test_the_sweep_prints_a_rate_and_leaves_numbers_and_a_picture_only(words, tmp_path, run_cli):
    code, out, err = run_cli(*words, "--find-rate")
    assert code == 0, err
    found = json.loads((tmp_path / "out" / "fcn.rates.json").read_text())
    assert f"suggested: --rate {found['suggested']:g}" in out
    assert 1e-3 < found["suggested"] < 0.5  # the fcn's own default is 0.05
    assert found["rates"][0] == 1e-6 and len(found["rates"]) <= 100
    ratios = [b / a for a, b in zip(found["rates"], found["rates"][1:])]
    assert ratios == pytest.approx([10 ** (6 / 99)] * len(ratios))
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["fcn.rates.json", "fcn.rates.png"]
    assert (tmp_path / "out" / "fcn.rates.png").read_bytes().startswith(b"\x89PNG")


def test_a_sweep_ends_where_the_loss_diverges(tmp_path, monkeypatch):
    """Its crops are those of training, and the rate of each step is the one that is told."""
    w = world.make(tmp_path, 64, 96, bands=3, nodata=0)
    labels = world.label_raster(w, tmp_path / "labels.tif")
    recipe = ls.make_recipe(
        data={"images": [str(w.scene)], "labels": [str(labels)], "block": 32},
        network="fcn",
        options={"widths": [4, 4, 4, 4]},
        batch=4,
        crop=32,
        device="cpu",
        rate_factors={"encoder": 0.5},
    )
    seen = []

    def losing(net, optimizer, fabric, batch, recipe, tasks):
        seen.append(sorted(group["lr"] for group in optimizer.param_groups))
        return torch.tensor([2.0 - 0.05 * len(seen) if len(seen) < 20 else float("nan")])

    monkeypatch.setattr(rate_search, "update", losing)
    found = ls.find_rate(recipe, steps=50, lowest=1e-4, highest=1e-1)
    assert len(found.rates) == 20
    assert seen == [[pytest.approx(rate / 2), pytest.approx(rate)] for rate in found.rates]
    assert found.suggested == float(f"{found.rates[18] / 10:.2g}")
    monkeypatch.setattr(rate_search, "update", lambda *arguments: torch.tensor([len(arguments[3]) + 1.0]))
    with pytest.raises(BadInput, match="No rate from 0.0001"):
        ls.find_rate(recipe, steps=10, lowest=1e-4)
    with pytest.raises(BadOption, match="at least 10 steps"):
        ls.find_rate(recipe, steps=3)
    with pytest.raises(BadOption, match="from 1.0 to 0.1"):
        ls.find_rate(recipe, lowest=1.0, highest=0.1)


def test_the_suggestion_is_a_tenth_of_the_rate_of_the_lowest_running_mean():
    assert running_mean([3.0]) == 3.0
    assert running_mean([3.0, 1.0]) == pytest.approx((0.95 * 3 + 1) / 1.95)
    assert suggest([0.1, 0.2, 0.4, 0.8], [3.0, 2.0, 1.0, 9.0]) == 0.04
    assert suggest([0.1, 0.2, 0.4], [3.0, 2.0, float("nan")]) == 0.02
