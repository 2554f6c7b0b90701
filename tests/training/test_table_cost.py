"""What a table costs is known before it is trained, and batches are made to fit the device."""

import json
from dataclasses import replace

import pytest
import torch

from labelscape.nets.catalog import create_model
from labelscape.training import reproduce, table_cost
from labelscape.training.table_rows import plan_rows

LAND = {"dataset": "deepglobe-land", "images": ["land"]}
ROADS = {"dataset": "deepglobe-road", "images": ["roads"]}
GIB = 2**30


def test_memory_is_what_a_real_forward_pass_keeps():
    """Read off shapes on the meta device, against the storages of a real pass over as many crops."""
    net = create_model("skip", in_channels=4, classes=5, widths=(8, 8, 8, 8)).train()
    kept = {}

    def pack(value):
        if not any(value is parameter for parameter in net.parameters()):
            kept[value.untyped_storage().data_ptr()] = value.untyped_storage()
        return value

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda value: value):
        logits = net.heads(torch.randn(2, 4, 64, 64))["logits"]
    real = sum(storage.nbytes() for storage in kept.values()) + 8 * logits.numel()
    with torch.device("meta"):
        blank = create_model("skip", in_channels=4, classes=5, widths=(8, 8, 8, 8))
    assert table_cost._kept_per_crop(blank, 64, 4) == pytest.approx(real / 2, rel=0.02)


def test_dfcnets_batches_fit_no_gpu_and_are_made_to_fit():
    plans = plan_rows("dfcnet-1", LAND, mate=ROADS)
    needed = {plan.number: table_cost.step_bytes(plan) / GIB for plan in plans}
    assert all(200 < gib < 320 for gib in needed.values())  # 13 GiB for one crop of 1025
    assert table_cost.fitted(plans, 400 * GIB) == (plans, [])
    chosen, told = table_cost.fitted(plans, 110 * GIB)
    assert all(plan.recipe.options["checkpointing"] and plan.recipe.accumulate == 1 for plan in chosen)
    assert all(table_cost.step_bytes(plan) <= 110 * GIB for plan in chosen)
    assert len(told) == 1 and "recomputation" in told[0] and "110.0 GiB" in told[0]
    chosen, told = table_cost.fitted(plans, 20 * GIB)
    parts = {plan.recipe.accumulate for plan in chosen}
    assert len(parts) == 1 and max(parts) > 1  # one for all rows, so that they share a start
    assert "batch normalisation sees one part" in told[1]


def test_settings_that_were_named_stay():
    changes = {"accumulate": 2, "batch": 8}
    plans = plan_rows("dfcnet-1", LAND, rows=[1], changes=changes, options={"checkpointing": False})
    chosen, told = table_cost.fitted(plans, 1 * GIB)
    assert (chosen, told) == (plans, [])


def test_a_start_that_an_earlier_row_trains_takes_no_time_again(monkeypatch):
    class Timed:
        multiplications = 1

        def __init__(self, recipe, *rest):
            pass

        def step(self):
            return 1.0

        def multiplications_at(self, batch, crop):
            return batch

    monkeypatch.setattr(table_cost, "Training", Timed)
    small = {"changes": {"crop": 64}, "budget": 0.001, "mate": ROADS, "device": "cpu"}
    costs, *_ = table_cost.table_costs("dfcnet-1", LAND, rows=[1, 3, 4], **small)
    assert [cost.seconds for cost in costs] == [80 * 32, 80 * 16, 0]
    (alone,), *_ = table_cost.table_costs("dfcnet-1", LAND, rows=[3], **small)
    assert alone.seconds == 80 * 32 + 80 * 16


def test_a_dry_run_trains_nothing(tmp_path, run_cli, monkeypatch):
    monkeypatch.setattr(reproduce, "train", lambda *a, **k: pytest.fail("trained"))
    arguments = ["table", "maggiori-2", tmp_path, "--dataset", "vaihingen", "--dry-run", "--device", "cpu"]
    arguments += ["--out", tmp_path / "out", "-o", "crop=32", "-o", "options.widths=[4,4,4,4]"]
    code, out, err = run_cli(*arguments)
    assert code == 0, err
    assert "45,000 + 30,000" in out and "5 x 32" in out and "GiB" in out
    code, out, _ = run_cli(*arguments, "--json", "--rows", "1")
    (row,) = json.loads(out)["rows"]
    assert (row["steps"], row["fits"]) == (45_000, True) and row["seconds"] > 0
    # Rows are called by what would run.
    arguments[1:5] = ["ifbfnet-2", tmp_path, "--dataset", "cityscapes"]
    arguments[arguments.index("options.widths=[4,4,4,4]")] = "options.backbone=resnet18"
    code, out, err = run_cli(*arguments, "--rows", "1,6")
    assert code == 0, err
    assert "ResNet50 [backbone=resnet18]" in out and "= row 1" in out
    assert not (tmp_path / "out").exists()


def test_rows_that_are_not_run_are_named_with_their_reason(tmp_path, run_cli):
    """Without a word they would be missed only when days of training have ended."""
    arguments = ["table", "dfcnet-1", tmp_path, "--dataset", "deepglobe-land", "--dry-run", "--device", "cpu"]
    code, out, err = run_cli(*arguments, "--rows", "2,3")
    assert code == 0, err
    assert "row 2, ClassmateNet, is not run: needs the data set of the second task: --mate" in out
    code, out, _ = run_cli(*arguments, "--rows", "3", "--json")
    found = json.loads(out)
    assert found["rows"] == [] and found["not_run"][0].startswith("row 3, DFCNet, is not run")
    code, out, _ = run_cli(
        "table", "mswbn-5", tmp_path, "--dataset", "gid-5", "--dry-run", "--rows", "3", "--device", "cpu"
    )
    assert code == 0 and "row 3, object-oriented method" in out and "quoted in the paper" in out


def test_what_does_not_fit_is_said(monkeypatch, run_cli, tmp_path):
    monkeypatch.setattr(table_cost, "room_on", lambda fabric: 1000)
    arguments = ["table", "maggiori-2", tmp_path, "--dataset", "vaihingen", "--dry-run", "--device", "cpu"]
    code, out, _ = run_cli(*arguments, "--rows", "1", "-o", "crop=32", "-o", "options.widths=[4,4,4,4]")
    assert code == 0 and "more than this device holds" in out
    (plan,) = plan_rows("maggiori-2", {"dataset": "vaihingen", "images": ["v"]}, rows=[1])
    assert replace(plan).recipe.accumulate == 1
