"""Times that papers print are measured beside a rival, and compared as ratios."""

import json
from types import SimpleNamespace

import pytest

from labelscape.errors import BadOption
from labelscape.nets.catalog import create_model
from labelscape.nets.count import macs
from labelscape.training import timing


def test_two_take_turns_and_the_first_turn_is_not_counted():
    order, times = [], {"a": iter([0.1, 5.0, 3.0, 4.0]), "b": iter([0.2, 7.0, 9.0, 8.0])}

    def run(name):
        order.append(name)
        return next(times[name])

    assert timing.alternately(lambda: run("a"), lambda: run("b")) == (3.0, 7.0)
    assert order == ["a", "b"] * timing.ROUNDS


def test_a_step_is_compared_with_deeplabs_in_the_same_run(monkeypatch):
    monkeypatch.setattr(timing, "alternately", lambda one, other, what="": (one(), 4 * one()))
    monkeypatch.setattr(timing.Training, "step", lambda self: 2.0)
    small = {"changes": {"batch": 2, "crop": 64}, "options": {"backbone": "resnet18"}}
    first, rival = timing.measure_times("mswbn-1", rows=[3, 5], device="cpu", **small)
    assert (first.label, first.claimed, first.measured) == ("MSWBN, 128 channels", 0.8188, 2.0)
    assert first.claimed_ratio == pytest.approx(0.853, abs=5e-4)
    assert (first.rival, first.rival_measured, first.ratio) == ("DeepLabV3+", 8.0, 0.25)
    nets = (
        create_model(n, in_channels=3, classes=5, backbone="resnet18") for n in ("mswbn", "deeplabv3plus")
    )
    one, other = (macs(net, 64, 64) for net in nets)
    assert first.floor == one / other
    assert (rival.number, rival.ratio, rival.floor) == (5, 1.0, 1.0)


def test_hours_include_the_base_network_and_hectares_the_pixel_size(monkeypatch):
    steps = {"fcn": 0.1, "mlp": 0.3}
    monkeypatch.setattr(timing.Training, "step", lambda self: steps[self.recipe.network])
    monkeypatch.setattr(
        timing.Training, "hectare", lambda self, metres, tile: lambda: steps[self.recipe.network] / metres
    )
    monkeypatch.setattr(timing, "alternately", lambda one, other, what="": (one(), other()))
    small = {"changes": {"batch": 1, "crop": 32}, "options": {"widths": (4, 4, 4, 4)}}
    found = timing.measure_times("maggiori-6", rows=[4], device="cpu", **small)
    assert [t.what for t in found] == [
        "training hours, Vaihingen",
        "s per hectare, Vaihingen",
        "training hours, Potsdam",
        "s per hectare, Potsdam",
    ]
    assert [t.claimed for t in found] == [10.0, 1.70, 24.5, 2.0]
    assert found[0].measured == pytest.approx((45_000 * 0.1 + 30_000 * 0.3) / 3600)
    assert found[2].measured == pytest.approx((90_000 * 0.1 + 65_000 * 0.3) / 3600)
    assert found[0].rival_measured == pytest.approx(45_000 * 0.1 / 3600)
    assert [found[n].measured for n in (1, 3)] == pytest.approx([0.3 / 0.09, 0.3 / 0.05])
    assert found[0].floor is None and found[1].floor > 1


def test_a_hectare_is_the_ground_without_the_overlap(monkeypatch):
    """A clock that a step of the network moves on by a second."""
    from labelscape.training.papers import maggiori_vaihingen

    recipe = maggiori_vaihingen({"images": ["-"]}, "fcn", widths=(4, 4, 4, 4)).recipe
    recipe = recipe.replace(batch=1, crop=32, device="cpu")
    one = timing.Training(recipe, 4, 5, timing.gather("cpu", "32"))
    clock = iter([0.0, 1.0])
    monkeypatch.setattr(timing, "time", SimpleNamespace(monotonic=lambda: next(clock)))
    halo = -(-one.reach // 16) * 16
    assert one.hectare(0.09, 2 * halo + 64)() == pytest.approx(1e4 / (64 * 0.09) ** 2)


def test_times_are_printed_beside_the_claims(run_cli):
    small = ["--times", "--rows", "1", "--device", "cpu", "-o", "batch=2", "-o", "crop=32"]
    small += ["-o", "options.widths=[4,4,4,4]"]
    code, out, err = run_cli("table", "maggiori-6", *small)
    assert code == 0, err
    assert "s per hectare, Potsdam" in out and "measured ratio" in out and "1.44" in out
    code, out, _ = run_cli("table", "maggiori-6", *small, "--json")
    assert {t["number"] for t in json.loads(out)} == {1}
    with pytest.raises(BadOption, match="prints no times in it; mswbn-1, maggiori-6"):
        timing.measure_times("ifbfnet-3")


def test_a_table_of_times_alone_is_not_said_to_be_trained(run_cli):
    code, out, _ = run_cli("table", "maggiori-6")
    assert code == 0 and "labelscape table maggiori-6 --times" in out and "FOLDER" not in out
    code, out, _ = run_cli("table", "mswbn-1")
    assert "labelscape table mswbn-1 FOLDER" in out and "labelscape table mswbn-1 --times" in out
    _, out, _ = run_cli("table")
    assert (
        "maggiori-6     4 of  5 rows can be timed" in out
        and "maggiori-2     4 of  4 rows can be trained" in out
    )
