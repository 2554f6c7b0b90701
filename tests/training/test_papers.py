"""The published settings say what the papers say, and every row of every table can be asked for."""

import json

import pytest
import world

from labelscape.errors import UnknownName
from labelscape.nets.tables import TABLES
from labelscape.training import papers, reproduce
from labelscape.training.losses import LOSSES
from labelscape.training.phase import rate_at

DATA = {"dataset": "camvid", "images": ["folder"]}
MATE = {"dataset": "deepglobe-road", "images": ["roads"]}
ROWS = [(name, number) for name, table in TABLES.items() for number in range(len(table.rows))]


@pytest.mark.parametrize(("table", "number"), ROWS)
def test_every_row_is_a_recipe_or_says_why_not(table, number):
    row = TABLES[table].rows[number]
    setting = papers.setting_of(row, DATA, MATE)
    if row.quoted:
        assert setting.recipe is None
        assert "quotes" in setting.why_not
    else:
        assert setting.recipe.network == row.network
        assert row.options.items() <= {**setting.recipe.options}.items()


def test_the_numbers_are_the_papers():
    mswbn = papers.mswbn_gid(DATA).recipe
    assert (mswbn.rate, mswbn.batch, mswbn.crop, mswbn.weight_decay, mswbn.steps) == (0.007, 10, 512, 1e-4, 22_560 // 10 * 20)
    assert mswbn.scale_range == (0.5, 2.0)
    dgcwnet = papers.dgcwnet_cityscapes(DATA).recipe
    assert (dgcwnet.rate, dgcwnet.batch, dgcwnet.crop, dgcwnet.weight_decay, dgcwnet.aux_weight, dgcwnet.sync_bn) == (0.01, 8, 769, 5e-4, 0.4, True)
    assert papers.dgcwnet_pascal_context(DATA).recipe.rate == 0.005
    assert papers.dgcwnet_ade20k(DATA).recipe.rate == 0.02
    ifbfnet = papers.ifbfnet_cityscapes(DATA)
    assert (ifbfnet.recipe.steps, ifbfnet.recipe.warmup, ifbfnet.recipe.crop, ifbfnet.recipe.rate) == (81_000, 1_000, 876, 0.01)
    assert ifbfnet.recipe.rate_factors == {"aux": 10.0, "balance": 10.0}
    assert ifbfnet.scales == (0.5, 0.75, 1.0, 1.25, 1.5, 1.75)
    dfcnet = papers.dfcnet_deepglobe(DATA, mate=MATE).recipe
    assert (dfcnet.steps, dfcnet.rate, dfcnet.crop, dfcnet.batch + dfcnet.mate.batch) == (80_000, 0.001, 1025, 16)
    assert (dfcnet.scale_range, dfcnet.mate.scale_range) == ((0.8, 1.25), (0.5, 1.5))
    assert papers.dfcnet_deepglobe(DATA, "fc-densenet").recipe.batch == 32
    mlp = papers.maggiori_vaihingen(DATA).recipe
    assert (mlp.base_rate, mlp.rate, mlp.batch, mlp.crop, mlp.base_steps, mlp.steps) == (0.1, 0.01, 5, 256, 45_000, 30_000)
    assert rate_at(mlp, 10_000) == pytest.approx(0.001)  # a tenth every 10,000
    fcn = papers.maggiori_potsdam(DATA, "fcn").recipe
    assert (fcn.rate, fcn.steps, fcn.crop, fcn.options["downsample"]) == (0.1, 90_000, 512, 2)


def test_ablations_of_training_and_testing_change_what_the_row_says():
    def settings(table):
        return [papers.setting_of(row, DATA) for row in TABLES[table].rows]

    plain, ohem, scales, flips = settings("dgcwnet-3")
    assert [next(iter(s.recipe.losses)) for s in (plain, ohem, scales, flips)] == ["cross-entropy", "ohem", "ohem", "ohem"]
    assert [len(s.scales) for s in (plain, ohem, scales, flips)] == [1, 1, 4, 4]
    assert [s.flips for s in (plain, ohem, scales, flips)] == ["none", "none", "none", "mirror"]
    assert all(s.average == "logits" and s.recipe.aux_losses == {"cross-entropy": 1.0} for s in (plain, ohem, scales, flips))
    none, ohem, scaling, all_of_it = settings("ifbfnet-4")
    assert [next(iter(s.recipe.losses)) for s in (none, ohem, scaling, all_of_it)] == ["cross-entropy", "hardest", "hardest", "hardest"]
    assert [bool(s.recipe.scale_set) for s in (none, ohem, scaling, all_of_it)] == [False, False, True, True]
    assert [len(s.scales) for s in (none, ohem, scaling, all_of_it)] == [1, 1, 1, 6]
    assert [s.recipe.aux_weight for s in settings("ifbfnet-5")] == [t / 10 for t in range(1, 11)]
    no_balance = papers.setting_of(TABLES["ifbfnet-2"].rows[0], DATA).recipe
    assert no_balance.rate_factors == {"aux": 10.0}
    alone = papers.setting_of(TABLES["dfcnet-1"].rows[1], DATA)
    assert "--mate" in alone.why_not


def test_a_smaller_budget_shortens_every_schedule_alike():
    short = reproduce.scaled(papers.ifbfnet_cityscapes(DATA).recipe, 0.01, {"batch": 2}, {"backbone": "resnet18", "hidden": 3})
    assert (short.steps, short.warmup, short.batch) == (810, 10, 2)
    assert short.options["backbone"] == "resnet18"
    assert "hidden" not in short.options
    maggiori = reproduce.scaled(papers.maggiori_vaihingen(DATA).recipe, 0.1, {}, {})
    assert (maggiori.base_steps, maggiori.steps, maggiori.tenth_every) == (4_500, 3_000, 1_000)


@pytest.fixture
def camvid(tmp_path):
    sides = {part: (part, f"{part}annot") for part in ("train", "val", "test")}
    world.pairs(tmp_path / "camvid", sides, {"train": ["a", "b", "c"], "val": ["d"], "test": ["e", "f"]}, 11)
    return tmp_path / "camvid"


def test_a_table_is_trained_scored_and_not_done_twice(camvid, tmp_path, run_cli, monkeypatch):
    arguments = ["table", "maggiori-2", str(camvid), "--dataset", "camvid", "--out", str(tmp_path / "out"), "--budget", "0.0003", "--rows", "1,3",
                 "--seeds", "0,1", "--device", "cpu", "-o", "crop=32", "-o", "batch=2", "-o", "options.widths=[4,4,4,4]"]  # fmt: skip
    code, out, _ = run_cli(*arguments, "--json")
    assert code == 0
    rows = json.loads(out)
    assert [row["row"] for row in rows] == ["Base FCN", "Skip"]
    assert rows[0]["claimed"]["mean_f1"] == 85.14
    assert all(len(row["measured"]) == 2 and 0 <= m["mean_iou"] <= 100 for row in rows for m in row["measured"])
    monkeypatch.setattr(reproduce, "train", lambda *a, **k: pytest.fail("trained again"))
    code, out, _ = run_cli(*arguments)
    assert code == 0
    assert "+-" in out
    assert "85.14" in out
    code, _, err = run_cli("table", "magiori-2", str(camvid))
    assert code == 2
    assert "maggiori-2" in err


def test_the_interval_is_students(monkeypatch):
    row = TABLES["mswbn-1"].rows[0]
    result = reproduce.RowResult(row, ({"mean_iou": 50.0}, {"mean_iou": 54.0}, {"mean_iou": 52.0}), (0, 1, 2))
    mean, half = result.summary("mean_iou")
    assert mean == 52
    assert half == pytest.approx(4.303 * 2 / 3**0.5, rel=1e-3)  # t of two degrees of freedom
    assert LOSSES  # every loss a setting names exists
    with pytest.raises(UnknownName, match="mswbn-1"):
        reproduce.run_table("mswbn1", DATA, "nowhere")
