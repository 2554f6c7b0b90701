"""The benchmark: turns, medians, the papers' ratios, memory, and what the command prints."""

import json
import sys

import numpy as np
import pytest
import torch

import labelscape as ls
from labelscape.benchmark.figure import drawn
from labelscape.benchmark.machine import Clock, Machine, MatrixProduct, Memory, Spread, machine_of, take_turns
from labelscape.benchmark.result import BenchResult, Measured
from labelscape.benchmark.run import PAIRS, _Bench
from labelscape.benchmark.subjects import forward, multiplications, training_step
from labelscape.errors import BadOption, UnknownName
from labelscape.nets.count import macs
from labelscape.scoring.openvino_engine import installed_version
from labelscape.text import digits
from labelscape.version import build

CPU = torch.device("cpu")


def test_median_and_quartiles_stay_within_what_was_measured():
    assert Spread.of([3.0, 1.0, 2.0, 5.0, 4.0]) == Spread(3.0, 1.5, 4.5)
    assert Spread.of([2.0, 1.0]) == Spread(1.5, 1.0, 2.0)
    assert Spread.of([7.0]) == Spread(7.0, 7.0, 7.0)


def test_runs_take_turns_and_the_first_turn_does_not_count():
    seen, now, ticks = [], [0.0], []

    def run(name, seconds):
        def once():
            seen.append(name)
            # As a first call that allocates: ten times as long.
            now[0] += seconds * (10 if seen.count(name) == 1 else 1)

        return once

    found = take_turns({"a": run("a", 1.0), "b": run("b", 2.0)}, 3, lambda: now[0], lambda: ticks.append(1))
    assert seen == ["a", "b"] * 4 and len(ticks) == 4
    assert found == {"a": [1.0] * 3, "b": [2.0] * 3}


def test_the_papers_ratios_are_those_that_they_print():
    claimed = {pair.label: pair.claimed for pair in PAIRS}
    assert claimed["mswbn / deeplabv3plus"] == pytest.approx(0.853, abs=5e-4)
    assert claimed["mlp / fcn"] == pytest.approx(2.10, abs=5e-3)
    assert claimed["dgcwnet / with NL-D"] is None


def test_operations_are_counted_from_the_multiplications_of_one_image():
    net = ls.create_model("fcn", in_channels=4, classes=6)
    once = macs(net, 64, 64, 4)
    assert multiplications("fcn", {}, 64) == once
    # Forward, gradients of inputs, gradients of weights; two crops.
    step = training_step("fcn", {}, 64, "cpu", "32")
    assert (step.operations, step.pixels) == (2 * 3 * 2 * once, 2 * 64 * 64)


def machine_with(busy, turns):
    product = MatrixProduct(CPU, "32")
    product.busy[:] = busy
    return machine_of(CPU, "32", product, turns)


def test_a_machine_that_does_something_else_is_warned_of():
    assert machine_with([0.99, 0.98], [1.0, 1.01, 1.02]).warnings == ()
    (busy,) = machine_with([0.5, 0.6, 0.55], [1.0, 1.0]).warnings
    assert "not quiet" in busy and "45 %" in busy
    (unsteady,) = machine_with([1.0], [1.0, 1.5, 1.0, 1.5]).warnings
    assert "not steady" in unsteady


def test_the_warning_names_the_clock_that_was_read():
    """Processor time is not too long because other programs run."""
    before = torch.get_num_threads()
    try:
        for threads, said in ((1, "the processor's own"), (2, "the wall clock's and too long")):
            torch.set_num_threads(threads)
            machine = machine_with([0.5], [1.0, 1.0])
            assert said in machine.warnings[0]
            assert machine.clock == Clock(CPU).name and machine.clock.split()[0] in machine.warnings[0]
    finally:
        torch.set_num_threads(before)


def test_the_product_counts_what_it_multiplies():
    product = MatrixProduct(CPU, "32")
    assert product.operations == product.times * 2 * 1024**3
    assert product.busy == []
    product()
    assert len(product.busy) == 1 and product.busy[0] > 0


@pytest.mark.skipif(sys.platform != "linux", reason="memory is read from /proc")
def test_memory_that_was_given_back_counts_at_the_peak():
    memory = Memory(CPU)
    np.ones(64 * 2**20, np.uint8).sum()
    # The kernel counts pages in batches for each processor: its numbers are off by some.
    assert 60 * 2**20 <= memory.peak() < 80 * 2**20
    assert Memory(CPU).peak() < 16 * 2**20


@pytest.fixture(scope="module")
def result():
    return ls.bench(["fcn", "mlp"], side=64, rounds=3, engines=["torch"], device="cpu")


def test_each_network_predicts_and_trains(result):
    assert [(one.network, one.what) for one in result.measured] == [
        (name, what) for name in ("fcn", "mlp") for what in ("forward", "training step")
    ]
    for one in result.measured:
        assert one.failure == "" and one.seconds.low <= one.seconds.median <= one.seconds.high
        assert one.megapixels_per_second == pytest.approx(one.pixels / one.seconds.median / 1e6)
    assert {one.pixels for one in result.measured} == {64 * 64, 2 * 32 * 32}
    # The mean product's rate is another average than the median of neighbours, but of the same numbers.
    one = result.measured[0]
    assert one.share.median == pytest.approx(one.gflops / result.machine.gflops.median, rel=1)
    assert result.stopped == ""
    (pair,) = result.compared
    assert pair.label == "mlp / fcn" and 1 < pair.ratio.median < 30
    counts = [multiplications(name, {}, 64) for name in ("mlp", "fcn")]
    assert pair.floor == pytest.approx(counts[0] / counts[1])


def test_what_was_measured_is_printed_stored_and_drawn(result):
    lines = result.text.splitlines()
    (row,) = [line for line in lines if line.startswith("fcn") and " forward " in line]
    assert digits(result.measured[0].seconds.median) in row and "torch" in row
    assert any(line.startswith("mlp / fcn, forward") and "2.099" in line for line in lines)
    stored = json.loads(json.dumps(result.as_json()))
    assert stored["measured"][1]["seconds"]["median"] == result.measured[1].seconds.median
    assert drawn(result, "png")[:4] == b"\x89PNG"
    svg = drawn(result, "svg")
    assert b"<svg" in svg and svg == drawn(result, "svg")


def test_an_engine_that_is_not_used_leaves_its_reason():
    rate = Spread(100.0, 90.0, 110.0)
    machine = Machine("cpu", "a processor", 1, "2", "32", "wall clock", rate, ("the machine is not quiet",))
    failed = Measured("unpooling", "forward", "openvino", failure="it cannot be converted")
    result = BenchResult(machine, 64, 3, (failed,), ())
    # Times of an engine are worth little without its version.
    assert result.as_json()["versions"] == {"labelscape": build(), "openvino": installed_version()}
    text = result.text
    assert "it cannot be converted" in text and "WARNING: the machine is not quiet" in text


def test_an_engine_that_is_not_used_stands_in_its_place_and_tells_nobody_what_to_pass(monkeypatch):
    from labelscape.scoring import openvino_engine

    monkeypatch.setattr(openvino_engine, "installed_version", lambda: None)
    how = {"side": 64, "rounds": 1, "engines": ["openvino", "torch"], "device": "cpu"}
    unused, torchs, _ = ls.bench(["fcn"], **how).measured
    assert (unused.engine, torchs.engine, torchs.failure) == ("openvino", "torch", "")
    assert unused.failure.startswith("not measured: it is not installed") and "Pass" not in unused.failure
    torchs, unused, _ = ls.bench(["fcn"], **{**how, "engines": ["torch", "openvino"]}).measured
    assert torchs.failure == "" and torchs.engine == "torch" and unused.failure


def test_three_digits_count():
    values = (0.0, 0.0041749, 0.02404, 1.2345, 45.67, 789.1, 12345.6)
    assert [digits(v) for v in values] == ["0", "0.00417", "0.0240", "1.23", "45.7", "789", "12,346"]


def test_ticks_of_the_figure_are_plain_numbers_that_leave_each_other_room(result):
    from labelscape.benchmark.figure import bench_figure

    figure = bench_figure(result)
    figure.canvas.draw()
    axes = figure.axes[0]
    (low, high), labels = axes.get_xlim(), axes.xaxis.get_ticklabels(which="both")
    shown = [one for one in labels if one.get_text() and low <= one.get_position()[0] <= high]
    boxes = sorted((one.get_window_extent() for one in shown), key=lambda box: box.x0)
    assert len(boxes) > 1 and all(a.x1 < b.x0 for a, b in zip(boxes, boxes[1:]))
    assert [float(one.get_text()) for one in shown] == pytest.approx([one.get_position()[0] for one in shown])


def test_a_forward_pass_is_that_of_a_map():
    from labelscape.benchmark.subjects import blank_checkpoint
    from labelscape.scoring.scorer import Scorer

    checkpoint = blank_checkpoint("fcn", {})
    work = forward(checkpoint, 64, "torch", "cpu", "32")
    images = torch.zeros(1, 4, 64, 64)
    assert work.run().shape == Scorer.of(checkpoint, device="cpu").batch_logits([images]).shape


@pytest.mark.parametrize(
    ("how", "error", "said"),
    [
        ({"networks": []}, BadOption, "No network is named"),
        ({"networks": ["fnc"]}, UnknownName, "fcn"),
        ({"networks": ["fcn"], "engines": ["auto"]}, UnknownName, "torch"),
        ({"networks": ["fcn"], "side": 65}, BadOption, "even number"),
        ({"networks": ["fcn"], "rounds": 0}, BadOption, "rounds"),
        ({"networks": ["fcn"], "precision": "8"}, BadOption, "bf16"),
        ({"networks": ["fcn"], "precision": "16", "device": "cpu"}, BadOption, "trains on GPUs only"),
        ({"networks": ["fcn"], "precision": "tf32", "device": "cpu"}, BadOption, "CUDA"),
    ],
)
def test_mistakes_are_refused_before_anything_is_measured(how, error, said):
    with pytest.raises(error, match=said):
        ls.bench(**how)


def test_the_command_prints_json_and_writes_a_figure(run_cli, tmp_path):
    how = ("--networks", "fcn", "--side", 64, "--rounds", 1, "--engines", "torch")
    code, out, _ = run_cli("bench", *how, "--json", "--plot", tmp_path / "bench.svg")
    assert code == 0 and [one["what"] for one in json.loads(out)["measured"]] == ["forward", "training step"]
    assert (tmp_path / "bench.svg").read_bytes().startswith(b"<?xml")
    code, _, said = run_cli("bench", *how, "--plot", tmp_path / "bench.pdf")
    assert code == 2 and ".png or .svg" in said
    code, _, said = run_cli("bench", "--networks", "fcn", "--side", 7)
    assert code == 2 and "--side 7" in said


@pytest.mark.parametrize(
    ("ended", "code"), [(KeyboardInterrupt(), 130), (SystemExit(143), 143), (MemoryError(), 1)]
)
@pytest.mark.parametrize("where", ["network", "pair"])
def test_a_run_that_is_ended_shows_what_it_has_measured(run_cli, tmp_path, monkeypatch, ended, code, where):
    real, calls = getattr(_Bench, where), []

    def ends(self, *arguments):
        calls.append(arguments)
        if where == "pair" or len(calls) > 1:
            raise ended
        return real(self, *arguments)

    monkeypatch.setattr(_Bench, where, ends)
    how = ("--networks", "fcn,mlp", "--side", 64, "--rounds", 1, "--engines", "torch")
    found, out, _ = run_cli("bench", *how, "--plot", tmp_path / "bench.png")
    done = 1 if where == "network" else 2
    assert found == code and f"STOPPED: ended with {done} of 2 networks and 0 of 1 ratios finished" in out
    rows = [line.split()[0] for line in out.splitlines() if " training step " in line]
    assert rows == ["fcn", "mlp"][:done]
    assert (tmp_path / "bench.png").read_bytes().startswith(b"\x89PNG")
    calls.clear()
    found, out, _ = run_cli("bench", *how, "--json")
    stored = json.loads(out)
    assert found == code and len(stored["measured"]) == 2 * done and "ended with" in stored["stopped"]


def test_a_run_that_is_ended_before_anything_is_measured_shows_nothing(run_cli, monkeypatch):
    def ends(self, *arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(_Bench, "network", ends)
    assert run_cli("bench", "--networks", "fcn", "--side", 64)[:2] == (130, "")


def test_a_figure_that_cannot_be_written_loses_no_measurement(run_cli, tmp_path, monkeypatch):
    how = ("--networks", "fcn", "--side", 64, "--rounds", 1, "--engines", "torch", "--json")
    (tmp_path / "bench.svg").mkdir()
    assert run_cli("bench", *how, "--plot", tmp_path / "new" / "bench.png")[0] == 0
    assert (tmp_path / "new" / "bench.png").exists()
    code, out, err = run_cli("bench", *how, "--plot", tmp_path / "bench.svg")
    assert code == 1 and "there is a folder of this name" in err
    assert [one["what"] for one in json.loads(out)["measured"]] == ["forward", "training step"]
