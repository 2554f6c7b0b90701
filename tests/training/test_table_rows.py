"""Rows of tables are planned before any is trained: what may be replaced, which rows are one run, and how
each is tested.
"""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import world
from processes import PATIENCE

from labelscape.checkpoint import load, save
from labelscape.cli.table_print import print_results
from labelscape.datasets.published.catalog import open_published
from labelscape.datasets.published.isprs import BANDS as FOUR
from labelscape.datasets.published.layout import Pair
from labelscape.errors import BadFile, BadInput, BadOption, UnknownName
from labelscape.evaluation import measure
from labelscape.evaluation.confusion import count
from labelscape.grid import Window
from labelscape.nets.catalog import create_model
from labelscape.nets.tables import CLUTTER_WRONG, TABLES
from labelscape.scenes.array import ArrayScene
from labelscape.scoring.protocol import Protocol
from labelscape.scoring.scorer import Scorer
from labelscape.scoring.stitch import plan_for
from labelscape.scoring.tiles import plan_tiles
from labelscape.training import papers, reproduce, table_resampled, table_rows, table_scores
from labelscape.training.run import base_recipe
from labelscape.training.state import differing
from labelscape.training.table_rows import check_data, check_parts, plan_rows, settled

DATA = {"dataset": "cityscapes", "images": ["folder"]}
MATE = {"dataset": "deepglobe-road", "images": ["roads"]}


def numbered(name, **how):
    return {plan.number: plan for plan in plan_rows(name, DATA, **how)}


@pytest.mark.parametrize(
    ("name", "how", "said"),
    [
        ("ifbfnet-5", {"changes": {"aux_weight": 0.2}}, "aux_weight would replace what the rows"),
        ("ifbfnet-2", {"options": {"skip": "concat"}}, "options.skip would replace what the rows"),
        ("ifbfnet-4", {"changes": {"losses": {"dice": 1.0}}}, "losses would replace"),
        ("mswbn-1", {"options": {"width": 32}}, "options.width would replace what the rows .*64, 96, 128"),
        ("ifbfnet-5", {"changes": {"seed": 5}}, "seed=5 has no effect on a table: use `seeds`"),
        ("ifbfnet-5", {"changes": {"device": "cpu"}}, "use `device`"),
        ("dfcnet-1", {"options": {"mate_classes": 0}, "mate": MATE}, "mate_classes follows from"),
        ("ifbfnet-3", {"options": {"output_stride": 7}}, "Row 1, 16 channels, cannot be built"),
    ],
)
def test_changes_that_erase_what_rows_study_are_refused(name, how, said):
    with pytest.raises(BadOption, match=said):
        plan_rows(name, DATA, **how)


def test_options_of_the_whole_table_are_known_whatever_rows_are_chosen():
    (quoted,) = plan_rows("mswbn-5", DATA, rows=[3], options={"backbone": "resnet18"})
    assert quoted.recipe is None
    with pytest.raises(UnknownName, match="'bakbone'.*backbone"):
        plan_rows("mswbn-5", DATA, rows=[3], options={"bakbone": "resnet18"})


def test_rows_made_equal_are_one_run_and_say_what_ran():
    rows = numbered("ifbfnet-2", options={"backbone": "resnet18"})
    assert {number: plan.same_as for number, plan in rows.items()} == {
        **dict.fromkeys(range(1, 6)),
        **{number: number - 5 for number in range(6, 11)},
    }
    assert all(plan.other == ("backbone=resnet18",) for plan in rows.values())
    assert not any(plan.same_as or plan.other for plan in numbered("ifbfnet-2").values())


def test_the_default_of_an_option_is_that_option():
    (named,), (default,) = plan_rows("mswbn-1", DATA, rows=[3]), plan_rows("mswbn-5", DATA, rows=[1])
    assert (named.recipe.options.get("width"), default.recipe.options.get("width")) == (128, None)
    one, other = (settled(plan.recipe.model_dump(mode="json")) for plan in (named, default))
    assert differing(one, other) == []


def test_rate_factors_follow_from_the_options_that_run():
    """With the options changed after the factors were chosen, the factor of a missing part would stop the run
    in the middle of the table.
    """
    for plan in plan_rows("ifbfnet-3", DATA, options={"skip": "concat"}):
        assert plan.recipe.rate_factors == {"aux": 10.0}


def test_tables_are_tested_as_their_papers_say():
    def tiles(name, row, **how):
        (plan,) = plan_rows(name, DATA, rows=[row], mate=MATE, **how)
        return plan.setting.tiles, plan.setting.blend, table_rows.test_settings(plan)["tiles"]

    assert tiles("mswbn-1", 1) == (512, "none", 512)
    assert tiles("mswbn-1", 5) == (512, "none", 512)
    assert tiles("dgcwnet-3", 1) == ("crop", None, 776)
    assert tiles("dgcwnet-5", 14) == ("crop", None, 520)
    assert tiles("dgcwnet-3", 1, tiles="whole") == ("whole", None, "whole")
    assert tiles("ifbfnet-4", 1) == ("whole", None, "whole")
    assert tiles("ifbfnet-4", 1, tiles=876) == (876, None, 876)
    assert tiles("dfcnet-1", 3) == ("crop", None, 1025)
    assert tiles("maggiori-3", 2)[1] == "exact"


def test_another_data_set_is_refused_or_named():
    potsdam = {"dataset": "potsdam", "images": ["P"]}
    with pytest.raises(BadOption, match=r"maggiori-2 is measured on ISPRS Vaihingen.*`other_data=True`"):
        check_data("maggiori-2", potsdam, other_data=False)
    with pytest.raises(BadOption, match="data without `dataset`"):
        check_data("maggiori-2", {"dataset": None, "images": ["P"]}, other_data=False)
    assert "potsdam is not the paper's" in check_data("maggiori-2", potsdam, other_data=True)
    assert check_data("maggiori-3", potsdam, other_data=False) == ""
    assert check_data("maggiori-2", {"dataset": "vaihingen", "images": ["V"]}, other_data=False) == ""


# ------------------------------------------------------------------------------------------------- DFCNet


def test_dfcnet_starts_from_the_baseline_of_row_1():
    rows = numbered("dfcnet-1", mate=MATE)
    own = {number: settled(plan.recipe.model_dump(mode="json")) for number, plan in rows.items()}
    assert own[1]["batch"] == 32 and own[2]["batch"] == 8
    for number in (2, 3, 4, 5, 7, 8):
        assert differing(own[1], settled(base_recipe(rows[number].recipe).model_dump(mode="json"))) == []
    assert all("160,000 steps" in TABLES["dfcnet-1"].rows[n].note for n in (1, 2, 5))


def test_dfcnets_controls_are_land_alone():
    rows = numbered("dfcnet-1")
    assert rows[2].recipe is None and "second task" in rows[2].setting.why_not
    assert (rows[6].recipe.network, rows[6].recipe.steps, rows[6].recipe.batch) == (
        "fc-densenet",
        160_000,
        32,
    )
    for number, network in ((7, "classmate"), (8, "dfcnet")):
        recipe = rows[number].recipe
        assert (recipe.network, recipe.mate, recipe.options["mate_classes"]) == (network, None, 0)
        assert (recipe.batch, recipe.steps, recipe.base_steps) == (16, 80_000, 80_000)


SMALL = {"encoder": (1, 1, 1, 1), "decoder": (1, 1, 1, 1), "growth": 4, "width": 8, "stem": 4}


def deepglobe(root):
    world.deepglobe_land(root / "land")
    for i in range(4):
        world.picture(root / "road" / f"{i}_sat.jpg", 16, 16, seed=i)
        world.codes(root / "road" / f"{i}_mask.png", world.draw(2, 16, 16, seed=i) * np.uint8(255))
    return {"dataset": "deepglobe-land", "images": [str(root / "land")]}, {
        "dataset": "deepglobe-road",
        "images": [str(root / "road")],
    }


def test_the_merged_row_merges_models_and_shares_the_baseline(tmp_path, monkeypatch, capsys):
    data, mate = deepglobe(tmp_path)
    merged, trained = [], []
    evaluate, train = measure.evaluate, reproduce.train
    monkeypatch.setattr(
        measure, "evaluate", lambda given, *a, **k: merged.append(len(given)) or evaluate(given, *a, **k)
    )
    monkeypatch.setattr(
        reproduce,
        "train",
        lambda recipe, *a, **k: trained.append((recipe.network, recipe.seed)) or train(recipe, *a, **k),
    )
    said: list[str] = []

    def table():
        return reproduce.run_table(
            "dfcnet-1",
            data,
            tmp_path / "out",
            budget=1e-5,
            rows=[1, 4, 5],
            mate=mate,
            changes={"crop": 33, "batch": 2, "mate": {"batch": 2}},
            options=SMALL,
            device="cpu",
            say=said.append,
        )

    found = table()
    assert merged == [1, 1, 1, 3, 3]  # rows 4 and 5 are scored on roads too
    # Row 1 is the start of row 4; row 4 is the first of the three models of row 5.
    assert trained == [("fc-densenet", 0), ("dfcnet", 0), ("dfcnet", 1000), ("dfcnet", 2000)]
    assert sum("the same network is trained already" in line for line in said) == 3
    assert "3 models merged" in found[2].tested
    assert (found[1].base_steps, found[1].steps) == (10, 10)
    # Roads are scored by the same test as land, on the images of roads set apart.
    assert not found[0].second and not any(key.startswith("road: ") for key in found[0].measured[0])
    checkpoint = tmp_path / "out" / "dfcnet-1" / "04-dfcnet-test-server" / "seed0" / "dfcnet.safetensors"
    for row in found[1:]:
        assert row.second["name"] == "road"
        assert row.second["scored_on"].startswith("deepglobe-road, part test: 1 image, 256 labelled")
    with open_published("deepglobe-road", tmp_path / "road") as roads:
        expected = evaluate(load(checkpoint), roads, part="test", device="cpu", task="road", tile_size=33)
    measured = found[1].measured[0]
    for one in expected.metrics["classes"]:
        assert measured[f"road: iou/{one['name']}"] == pytest.approx(100 * one["iou"], nan_ok=True)
    assert measured["road: mean_iou"] == pytest.approx(100 * expected.metrics["mean_iou"])
    assert found[1].as_json()["second_task"] == found[1].second
    # Finished rows are read back with both tasks, and printed: the paper claims nothing for roads.
    again = table()
    assert [row.as_json() for row in again] == [row.as_json() for row in found]
    print_results("dfcnet-1", found, 1e-5, [])
    lines = capsys.readouterr().out.splitlines()
    start = next(
        n for n, line in enumerate(lines) if line.startswith("second task road, measured here: deep")
    )
    assert lines[start + 2].split() == ["mean_iou", "iou/background", "iou/road"]
    rows = lines[start + 4 : start + 6]
    assert rows[0].startswith("DFCNet, test server ") and rows[1].startswith("DFCNet, test server, scales")
    assert rows[0].split()[-2:] == ["-", f"{measured['road: iou/road']:.2f}"]
    print_results("dfcnet-1", found, 1e-5, [], short=True)
    short = capsys.readouterr().out
    assert "second task road" in short and "iou/road" not in short
    # A merged model of an earlier run, whose first model is gone, is not taken for one of this row's.
    (place,) = (tmp_path / "out" / "dfcnet-1").glob("05-*/seed0")
    (place / "scores.json").unlink(), (place / "dfcnet.safetensors").unlink()
    older = load(place / "model2" / "dfcnet.safetensors")
    save(replace(older, recipe={**older.recipe, "rate": 0.5}), place / "model2" / "dfcnet.safetensors")
    with pytest.raises(BadFile, match=r"model2 holds this row with other settings \(rate\)"):
        table()


@pytest.mark.long
def test_two_processes_run_a_table_together_and_one_prints_it(tmp_path, run_cli):
    deepglobe(tmp_path)
    words = ["table", "dfcnet-1", tmp_path / "land", "--dataset", "deepglobe-land", "--rows", "1,3"]
    words += ["--mate", tmp_path / "road", "--mate-dataset", "deepglobe-road", "--budget", "1e-5"]
    words += ["-o", "crop=33", "-o", "batch=2", "-o", "mate.batch=2", "--device", "cpu", "--json"]
    words += [
        word
        for key, value in SMALL.items()
        for word in ("-o", f"options.{key}={value}".replace("(", "[").replace(")", "]"))
    ]
    words += ["--out", tmp_path / "out"]
    ran = subprocess.run(
        [
            sys.executable,
            "-m",
            "torch.distributed.run",
            "--nproc-per-node=2",
            "--standalone",
            "-m",
            "labelscape",
        ]
        + [str(word) for word in words],
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(table_rows.__file__).parents[2])},
        capture_output=True,
        text=True,
        check=True,
        timeout=PATIENCE,
    )
    together = json.loads(ran.stdout)
    assert [row["second_task"]["name"] for row in together[1:]] == ["road"]
    code, out, err = run_cli(*words)  # finished: read back by one process
    assert code == 0, err
    assert json.loads(out) == together
    assert not list((tmp_path / "out").rglob(".team-*"))


def test_what_the_second_task_needs_is_checked_before_the_first_row_is_trained(tmp_path, monkeypatch):
    data, mate = deepglobe(tmp_path)
    monkeypatch.setattr(reproduce, "train", lambda *a, **k: pytest.fail("trained"))
    how = {"budget": 1e-5, "rows": [1, 3], "changes": {"crop": 33, "batch": 2}, "device": "cpu"}
    how["options"] = SMALL
    missing = {**mate, "images": [str(tmp_path / "nowhere")]}
    with pytest.raises(BadFile, match=r"Second task.*DeepGlobe roads not found"):
        reproduce.run_table("dfcnet-1", data, tmp_path / "out", mate=missing, **how)
    with pytest.raises(BadInput, match=r"Second task.*no labels to train on in the part val"):
        reproduce.run_table("dfcnet-1", data, tmp_path / "out", mate={**mate, "train_on": ("val",)}, **how)
    four = tmp_path / "four"
    world.vaihingen(four, (1, 3, 11))
    with pytest.raises(BadInput, match=r"vaihingen has the bands .*one trunk reads both"):
        other = {"dataset": "vaihingen", "images": [str(four)], "dataset_options": {"bands": FOUR}}
        reproduce.run_table("dfcnet-1", data, tmp_path / "out", mate=other, **how)
    own = {"images": [str(tmp_path / "none.tif")]}
    with pytest.raises(BadInput, match=r"Second task.*Labels are missing: pass `mate\.data\.labels`"):
        reproduce.run_table("dfcnet-1", data, tmp_path / "out", mate=own, **how)


def test_models_of_several_seeds_are_not_merged_over_scenes_that_each_seed_divides_otherwise():
    own = {"images": ["folder"]}
    (plan,) = plan_rows("dfcnet-1", own, rows=[5], mate=MATE)
    with pytest.raises(BadInput, match=r"Row 5.*merges 3 models.*`rows`.*published"):
        check_parts(plan)


# ----------------------------------------------------------------------------------------- parts and clutter


def published(monkeypatch, labelled):
    pairs = tuple(
        Pair(part, f"{part}.png", f"{part}_label.png" if part in labelled else None, part)
        for part in ("train", "val", "test")
    )
    found = replace(table_rows_published(), pairs=pairs)
    monkeypatch.setattr(table_rows, "find_published", lambda *a, **k: found)


def table_rows_published():
    from labelscape.datasets.published.cityscapes import LEGEND
    from labelscape.datasets.published.layout import Published
    from labelscape.labels.coded import Code

    return Published("cityscapes", LEGEND, Code({0: 0}), ("red",), (), ("red",))


def test_training_on_the_validation_images_too(monkeypatch):
    published(monkeypatch, {"train", "val"})
    (alone,), (both,) = (plan_rows("dgcwnet-4", DATA, rows=[row]) for row in (3, 14))
    assert both.recipe.data.train_on == ("train", "val")
    assert check_parts(alone) is True
    assert check_parts(both) is False  # nothing public is left to score
    published(monkeypatch, {"train", "val", "test"})
    assert check_parts(both) is True
    published(monkeypatch, {"train"})
    with pytest.raises(BadInput, match="no labels to score on in the part test or val"):
        check_parts(alone)


def test_parts_named_are_trained_on(tmp_path, run_cli):
    sides = {part: (part, f"{part}annot") for part in ("train", "val", "test")}
    world.pairs(tmp_path / "c", sides, {"train": ["a", "b"], "val": ["d", "g"], "test": ["e"]}, 11)
    arguments = ["table", "maggiori-2", tmp_path / "c", "--dataset", "camvid", "--other-data", "--rows", "1"]
    small = ["--device", "cpu", "--budget", "1e-5", "-o", "crop=16", "-o", "batch=2"]
    small += ["-o", "options.widths=[4,4,4,4]"]
    code, out, err = run_cli(*arguments, *small, "--parts", "train,val", "--out", tmp_path / "o", "--json")
    assert code == 0, err
    assert "trained on the parts train and val" in err
    assert json.loads(out)[0]["scored_on"].startswith("camvid, part test: 1 image")
    code, _, err = run_cli(*arguments, *small, "--parts", "train,dev", "--out", tmp_path / "p")
    assert code == 2 and "train_on" in err
    # ISPRS data are read before a recipe is made of them.
    world.vaihingen(tmp_path / "v", (1, 3, 11))
    arguments[2:] = [tmp_path / "v", "--dataset", "vaihingen", "--rows", "4"]
    code, _, err = run_cli(*arguments, *small, "--parts", "train,dev", "--dry-run")
    assert code == 2 and "data.train_on.1=dev must be one of 'train', 'val' or 'test'." in err


def test_counting_clutter_as_wrong():
    rng = np.random.default_rng(0)
    truth, predicted = rng.integers(0, 6, 5000).astype(np.uint8), rng.integers(0, 5, 5000).astype(np.uint8)
    kept = np.where(truth == 5, 255, truth).astype(np.uint8)
    added = np.bincount(predicted[truth == 5], minlength=5)
    found = table_scores.counting_clutter(count(kept, predicted, 5), added, list("abcde"))
    assert found["overall_accuracy"] == pytest.approx((truth == predicted).mean())
    f1 = [
        2 * ((truth == k) & (predicted == k)).sum() / ((truth == k).sum() + (predicted == k).sum())
        for k in range(5)
    ]
    assert found["mean_f1"] == pytest.approx(np.mean(f1))
    assert [one["name"] for one in found["classes"]] == list("abcde")


def test_vaihingen_is_printed_class_by_class_and_with_both_countings(tmp_path, run_cli):
    drawn = world.vaihingen(tmp_path / "v", (1, 3, 11))
    arguments = ["table", "maggiori-2", tmp_path / "v", "--dataset", "vaihingen", "--rows", "1,2"]
    arguments += ["--out", tmp_path / "out", "--device", "cpu", "--budget", "1e-5", "-o", "crop=16"]
    arguments += ["-o", "batch=2", "-o", "options.widths=[4,4,4,4]"]
    code, out, err = run_cli(*arguments, "--json")
    assert code == 0, err
    row = json.loads(out)[0]
    assert set(row["claimed"]) <= set(row["measured"][0])
    masked, wrong = (
        row["measured"][0][key] for key in ("overall_accuracy", CLUTTER_WRONG + "overall_accuracy")
    )
    scored = drawn[11][2:]
    assert wrong == pytest.approx(masked * (scored < 5).sum() / scored.size)
    code, out, _ = run_cli(*arguments)
    assert code == 0
    assert "f1/low vegetation" in out and "79.19" in out
    assert "Counted as wrong, as the authors' published script does" in out
    assert "tested    tiles of 1152, overlaps cropped (sec. V-F" in out
    code, out, _ = run_cli(*arguments, "--short")
    assert "f1/low vegetation" not in out
    code, _, err = run_cli(*arguments, "--dataset", "potsdam")
    assert code == 2 and "--other-data" in err


# ----------------------------------------------------------------------------------------------- resampling


def test_mswbn_7_is_measured_on_resampled_patches(tmp_path, monkeypatch):
    names = ("train", "test")
    monkeypatch.setattr(
        table_resampled,
        "table_6",
        lambda dataset: replace(
            dataset, part_of=("train", "train", "test"), report=(*dataset.report, "reached")
        ),
    )
    for n in range(3):
        world.picture(tmp_path / "images" / f"p{n}.png", 9, 9, seed=n)
        (tmp_path / "labels").mkdir(exist_ok=True)
        world.codes(tmp_path / "labels" / f"p{n}.png", world.draw(5, 9, 9, seed=n))
    (tmp_path / "train.txt").write_text("p0\n")
    (tmp_path / "test.txt").write_text("p1\np2\n")
    data = {"dataset": "gid-mtl5", "images": [str(tmp_path)]}
    found, told = table_resampled.resampled_lists(data, tmp_path / "lists")
    assert told == ("reached",)
    assert {part: (tmp_path / "lists" / f"{part}.txt").read_text().split() for part in names} == {
        "train": ["p0", "p1"],
        "test": ["p2"],
    }
    assert found["dataset_options"] == {"lists": str(tmp_path / "lists")}
    assert table_resampled.resampled_lists(found, tmp_path / "other")[0] == found
    with pytest.raises(BadOption, match="labelscape data prepare gid-5"):
        table_resampled.resampled_lists({"dataset": "gid-5", "images": ["G"]}, tmp_path)


def test_mswbn_is_scored_on_single_patches(tmp_path, monkeypatch):
    """A scene larger than a patch is cut into patches of 512 that neither overlap nor blend."""
    seen = {}
    (plan,) = plan_rows("mswbn-1", {"dataset": "gid-5", "images": ["G"]}, rows=[1])
    tiles = table_scores.tiling(plan, None, None, "test")
    seen |= tiles
    assert seen == {"tile_size": 512, "overlap": None, "blend": "none"}
    assert "tiles of 512, no overlap (single patches, MSWBN sec. 4.1)" in table_scores.tested(plan, tiles)
    assert papers.mswbn_gid({"dataset": "gid-5", "images": ["G"]}).tiles == 512


def test_at_several_scales_pictures_are_cut_after_they_are_scaled():
    """Else DGCW would sum over more pixels than in training, or fewer."""
    (plan,) = plan_rows("dgcwnet-3", DATA, rows=[4])
    tiles = table_scores.tiling(plan, None, None, "test")
    said = table_scores.tested(plan, tiles)
    assert "tiles of 776, blended" in said
    assert "scales 0.75, 1, 1.25, 1.5, the picture scaled before it is cut" in said
    (single,) = plan_rows("dgcwnet-3", DATA, rows=[1])
    assert "scale" not in table_scores.tested(single, tiles)
    assert table_rows.test_settings(plan)["scaled"] == "pictures"  # earlier versions tested otherwise
    assert "scaled" not in table_rows.test_settings(single)


def test_whole_pictures_are_whole_at_the_largest_scale():
    (plan,) = plan_rows("ifbfnet-4", DATA, rows=[4])
    assert plan.setting.tiles == "whole" and max(plan.setting.scales) == 1.75
    scene = ArrayScene(np.ones((3, 31, 45), np.uint8))
    dataset = SimpleNamespace(part=lambda part: [SimpleNamespace(scene=scene)])
    tiles = table_scores.tiling(plan, None, dataset, "test")
    assert tiles == {"tile_size": 79, "overlap": 0, "blend": "none"}
    scorer = Scorer.of(world.tiny_checkpoint(), device="cpu", protocol=Protocol(plan.setting.scales))
    assert [len(one) for one in plan_for(scorer, scene, **tiles).scaled] == [1] * 6


@pytest.mark.parametrize(("crop", "cells"), [(769, 25), (513, 17), (72, 3), (64, 2)])
def test_the_tiles_of_a_test_have_the_cells_of_a_training_crop(crop, cells):
    """DGCW sums over all cells: 768 pixels instead of 769 would have 576 of them, and not 625."""
    sizes = {"width": 4, "head_width": 4, "aux_width": 4}
    net = create_model("dgcwnet", classes=2, backbone="resnet10t", **sizes).eval()
    seen = []
    net.context.update.register_forward_hook(lambda module, given, out: seen.append(out.shape[-2:]))
    grid = Window(0, 0, 2000, 2000)
    side = table_rows.tile_like(crop, net)
    plan = plan_tiles(grid, tile_size=side, overlap=side // 8, stride=net.stride, blend="hann")
    with torch.inference_mode():
        net(torch.zeros(1, 3, crop, crop))
        net(torch.zeros(1, 3, *[plan.core + 2 * plan.halo] * 2))
    assert seen == [(cells, cells)] * 2
