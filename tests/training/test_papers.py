"""The published settings say what the papers say, and every row of every table can be asked for."""

import json

import numpy as np
import pytest
import world

from labelscape.errors import BadFile, BadOption, NoWeights, UnknownName
from labelscape.nets import backbones
from labelscape.nets.tables import TABLES
from labelscape.training import papers, reproduce, table_rows
from labelscape.training.data import open_recipe_data
from labelscape.training.losses import LOSSES
from labelscape.training.optimizers import rate_at
from labelscape.training.table_rows import plan_rows

DATA = {"dataset": "camvid", "images": ["folder"]}
MATE = {"dataset": "deepglobe-road", "images": ["roads"]}
ROWS = [(name, number) for name, table in TABLES.items() for number in range(len(table.rows))]


@pytest.mark.parametrize(("table", "number"), ROWS)
def test_every_row_is_a_recipe_or_says_why_not(table, number):
    row = TABLES[table].rows[number]
    setting = papers.setting_of(row, DATA, MATE)
    if row.quoted:
        assert setting.recipe is None
        assert "quoted" in setting.why_not
    elif table == "maggiori-6":
        assert setting.recipe is None
        assert "--times" in setting.why_not
    else:
        assert setting.recipe.network == row.network
        assert row.options.items() <= {**setting.recipe.options}.items()


def test_the_numbers_are_the_papers():
    mswbn = papers.mswbn_gid(DATA).recipe
    assert (mswbn.rate, mswbn.batch, mswbn.crop, mswbn.weight_decay, mswbn.steps) == (
        0.007,
        10,
        512,
        1e-4,
        22_560 // 10 * 20,
    )
    assert mswbn.scale_range == (0.5, 2.0)
    dgcwnet = papers.dgcwnet_cityscapes(DATA).recipe
    assert (
        dgcwnet.rate,
        dgcwnet.batch,
        dgcwnet.crop,
        dgcwnet.weight_decay,
        dgcwnet.aux_weight,
        dgcwnet.sync_bn,
    ) == (0.01, 8, 769, 5e-4, 0.4, True)
    assert papers.dgcwnet_pascal_context(DATA).recipe.rate == 0.005
    assert papers.dgcwnet_ade20k(DATA).recipe.rate == 0.02
    ifbfnet = papers.ifbfnet_cityscapes(DATA)
    assert (ifbfnet.recipe.steps, ifbfnet.recipe.warmup, ifbfnet.recipe.crop, ifbfnet.recipe.rate) == (
        81_000,
        1_000,
        876,
        0.01,
    )
    assert ifbfnet.recipe.rate_factors == {"aux": 10.0, "balance": 10.0}
    assert ifbfnet.scales == (0.5, 0.75, 1.0, 1.25, 1.5, 1.75)
    dfcnet = papers.dfcnet_deepglobe(DATA, mate=MATE).recipe
    assert (dfcnet.steps, dfcnet.rate, dfcnet.crop, dfcnet.batch + dfcnet.mate.batch) == (
        80_000,
        0.001,
        1025,
        16,
    )
    assert (dfcnet.scale_range, dfcnet.mate.scale_range) == ((0.8, 1.25), (0.5, 1.5))
    assert papers.dfcnet_deepglobe(DATA, "fc-densenet").recipe.batch == 32
    mlp = papers.maggiori_vaihingen(DATA).recipe
    assert (mlp.base_rate, mlp.rate, mlp.batch, mlp.crop, mlp.base_steps, mlp.steps) == (
        0.1,
        0.01,
        5,
        256,
        45_000,
        30_000,
    )
    assert rate_at(mlp, 10_000) == pytest.approx(0.001)  # a tenth every 10,000
    fcn = papers.maggiori_potsdam(DATA, "fcn").recipe
    assert (fcn.rate, fcn.steps, fcn.crop, fcn.options["downsample"]) == (0.1, 90_000, 512, 2)


def test_ablations_of_training_and_testing_change_what_the_row_says():
    def settings(table):
        return [papers.setting_of(row, DATA) for row in TABLES[table].rows]

    plain, ohem, scales, flips = settings("dgcwnet-3")
    assert [next(iter(s.recipe.losses)) for s in (plain, ohem, scales, flips)] == [
        "cross-entropy",
        "ohem",
        "ohem",
        "ohem",
    ]
    assert [len(s.scales) for s in (plain, ohem, scales, flips)] == [1, 1, 4, 4]
    assert [s.tta for s in (plain, ohem, scales, flips)] == ["none", "none", "none", "mirror"]
    assert all(
        s.average == "logits" and s.recipe.aux_losses == {"cross-entropy": 1.0}
        for s in (plain, ohem, scales, flips)
    )
    none, ohem, scaling, all_of_it = settings("ifbfnet-4")
    assert [next(iter(s.recipe.losses)) for s in (none, ohem, scaling, all_of_it)] == [
        "cross-entropy",
        "hardest",
        "hardest",
        "hardest",
    ]
    assert [bool(s.recipe.scale_set) for s in (none, ohem, scaling, all_of_it)] == [False, False, True, True]
    assert [len(s.scales) for s in (none, ohem, scaling, all_of_it)] == [1, 1, 1, 6]
    assert [s.recipe.aux_weight for s in settings("ifbfnet-5")] == [t / 10 for t in range(1, 11)]
    no_balance = papers.setting_of(TABLES["ifbfnet-2"].rows[0], DATA).recipe
    assert no_balance.rate_factors == {"aux": 10.0}
    alone = papers.setting_of(TABLES["dfcnet-1"].rows[1], DATA)
    assert "`mate`" in alone.why_not


def test_a_smaller_budget_shortens_every_schedule_alike():
    short = table_rows.scaled(papers.ifbfnet_cityscapes(DATA).recipe, 0.01, {"batch": 2})
    assert (short.steps, short.warmup, short.batch) == (810, 10, 2)
    row = TABLES["ifbfnet-3"].rows[0]
    small = papers.setting_of(row, DATA, options={"backbone": "resnet18", "hidden": 3}).recipe
    assert small.options["backbone"] == "resnet18"
    assert "hidden" not in small.options
    maggiori = table_rows.scaled(papers.maggiori_vaihingen(DATA).recipe, 0.1, {})
    assert (maggiori.base_steps, maggiori.steps, maggiori.tenth_every) == (4_500, 3_000, 1_000)


def test_fewer_steps_shorten_a_schedule_as_a_budget_does():
    """Else the rate would not fall at all, and the base network be trained for the paper's 45,000 steps."""
    whole = papers.maggiori_vaihingen(DATA).recipe
    asked = table_rows.scaled(whole, 1.0, {"steps": 3_000})
    assert asked == table_rows.scaled(whole, 0.1, {}) == table_rows.scaled(whole, 0.01, {"steps": 3_000})
    own = table_rows.scaled(whole, 1.0, {"steps": 3_000, "base_steps": 7, "tenth_every": 50})
    assert (own.base_steps, own.tenth_every) == (7, 50)
    with pytest.raises(BadOption, match="`steps=abc` must be a whole number|`steps='abc'` must be a whole"):
        table_rows.scaled(whole, 1.0, {"steps": "abc"})


@pytest.fixture
def camvid(tmp_path):
    sides = {part: (part, f"{part}annot") for part in ("train", "val", "test")}
    world.pairs(tmp_path / "camvid", sides, {"train": ["a", "b", "c"], "val": ["d"], "test": ["e", "f"]}, 11)
    return tmp_path / "camvid"


def test_a_table_is_trained_scored_and_not_done_twice(camvid, tmp_path, run_cli, monkeypatch):
    arguments = [
        "table",
        "maggiori-2",
        str(camvid),
        "--dataset",
        "camvid",
        "--other-data",
        "--out",
        str(tmp_path / "out"),
        "--budget",
        "0.0003",
        "--rows",
        "1,3",
        "--seeds",
        "0,1",
        "--device",
        "cpu",
        "-o",
        "crop=32",
        "-o",
        "batch=2",
        "-o",
        "options.widths=[4,4,4,4]",
    ]
    code, out, _ = run_cli(*arguments, "--json")
    assert code == 0
    rows = json.loads(out)
    assert [row["row"] for row in rows] == ["Base FCN", "Skip"]
    assert rows[0]["claimed"]["mean_f1"] == 85.14
    assert all(
        len(row["measured"]) == 2 and 0 <= m["mean_iou"] <= 100 for row in rows for m in row["measured"]
    )
    monkeypatch.setattr(reproduce, "train", lambda *a, **k: pytest.fail("trained again"))
    code, out, _ = run_cli(*arguments)
    assert code == 0
    assert "+-" in out
    assert "85.14" in out
    assert "camvid, part test: 2 images, " in out
    assert (
        "0.0003 of the paper's steps, seeds 0, 1; the mean and its 95 % interval; other than the paper: "
        "crop=32, batch=2"
    ) in out
    code, _, err = run_cli(*arguments, "--budget", "0.0004")
    assert code == 1
    assert "holds this row with other settings (steps" in err
    code, _, err = run_cli("table", "magiori-2", str(camvid))
    assert code == 2
    assert "maggiori-2" in err


@pytest.mark.parametrize(
    ("asked", "option"),
    [
        (["mswbn-1", "--dry-run"], "--dry-run"),
        (["mswbn-1", "--budget", "0.01", "--rows", "9"], "--budget, --rows"),
        (["--json"], "--json"),
    ],
)
def test_options_of_a_run_are_not_passed_over_where_rows_are_only_listed(run_cli, asked, option):
    code, out, err = run_cli("table", *asked)
    assert (code, out) == (2, "")
    assert f"{option} cannot be followed" in err and "FOLDER --dataset NAME" in err


@pytest.mark.parametrize(
    ("changed", "code", "said"),
    [
        (["--rows", "9"], 2, "maggiori-2 has the rows 1 to 4; there is no row 9"),
        (["-o", "options.widhts=[4,4,4,4]"], 2, "Did you mean 'widths'?"),
        (["--seeds", "0,1,0"], 2, "name one twice"),
        (["-o", "data.holdout=2"], 2, "data.holdout=2"),
        (["--dataset", "vaihingen"], 1, "ISPRS Vaihingen not found"),
    ],
)
def test_mistakes_are_found_before_a_row_is_trained(
    camvid, tmp_path, run_cli, monkeypatch, changed, code, said
):
    monkeypatch.setattr(reproduce, "train", lambda *a, **k: pytest.fail("trained"))
    ended, _, err = run_cli(
        "table",
        "maggiori-2",
        camvid,
        "--dataset",
        "camvid",
        "--out",
        tmp_path / "out",
        "--device",
        "cpu",
        *([] if "--dataset" in changed else ["--other-data"]),
        *changed,
    )
    assert ended == code, err
    assert said in err


def test_weights_of_all_rows_are_looked_for_before_one_is_trained(camvid, tmp_path, monkeypatch):
    """Rows of one table have several backbones: those of the last may be missing alone."""
    asked, trained = [], []

    def reachable(name, stem="standard"):
        asked.append(name)
        if name == "resnet101":
            raise NoWeights(name, "no network")

    monkeypatch.setattr(backbones, "check_published", reachable)
    monkeypatch.setattr(reproduce, "train", lambda *a, **k: trained.append(a))

    def run(rows):
        data = {"images": [str(camvid)], "dataset": "camvid"}
        return reproduce.run_table(
            "ifbfnet-2", data, tmp_path / "out", rows=rows, device="cpu", other_data=True
        )

    with pytest.raises(NoWeights, match="resnet101"):
        run([1, 6])
    assert asked == ["resnet50", "resnet101"] and not trained
    # A row that is finished needs none.
    (done,) = plan_rows("ifbfnet-2", {"images": [str(camvid)], "dataset": "camvid"}, rows=[6], device="cpu")
    place = tmp_path / "out" / "ifbfnet-2" / f"06-{reproduce.slug(done.row.label)}" / "seed0"
    place.mkdir(parents=True)
    settings = {**done.recipe.model_dump(mode="json"), "test": table_rows.test_settings(done)}
    (place / "scores.json").write_text(
        json.dumps({"settings": settings, "metrics": {"mean_iou": 50.0}, "scored_on": "there"})
    )
    (found,) = run([6])
    assert found.measured == ({"mean_iou": 50.0},) and not trained


def test_scores_of_tiles_that_were_cut_before_they_were_scaled_are_taken_again(camvid, tmp_path, monkeypatch):
    """As earlier versions tested several scales; what is trained stays."""
    data = {"images": [str(camvid)], "dataset": "camvid"}
    (plan,) = plan_rows("ifbfnet-2", data, rows=[6], device="cpu")
    place = tmp_path / "out" / "ifbfnet-2" / f"06-{reproduce.slug(plan.row.label)}" / "seed0"
    place.mkdir(parents=True)
    monkeypatch.setattr(backbones, "check_published", lambda *a, **k: None)
    monkeypatch.setattr(reproduce, "_train_once", lambda *a: None)
    monkeypatch.setattr(reproduce, "score", lambda *a: {"metrics": {"mean_iou": 60.0}, "scored_on": "there"})

    def stored(**changed):
        test = {key: value for key, value in table_rows.test_settings(plan).items() if key != "scaled"}
        settings = {**plan.recipe.model_dump(mode="json"), **changed, "test": test}
        old = {"settings": settings, "metrics": {"mean_iou": 50.0}, "scored_on": "there"}
        (place / "scores.json").write_text(json.dumps(old))

    def run():
        how = {"rows": [6], "device": "cpu", "other_data": True}
        (found,) = reproduce.run_table("ifbfnet-2", data, tmp_path / "out", **how)
        return found.measured[0]["mean_iou"]

    stored()
    assert run() == 60
    monkeypatch.setattr(reproduce, "score", lambda *a: pytest.fail("scored again"))
    assert run() == 60
    stored(rate=0.5)
    with pytest.raises(BadFile, match="rate"):
        run()


def test_a_checkpoint_of_other_settings_is_not_scored_as_the_rows(camvid, tmp_path, run_cli, monkeypatch):
    """As it lies there when the process dies between training and score."""
    arguments = [
        "table",
        "maggiori-2",
        camvid,
        "--dataset",
        "camvid",
        "--other-data",
        "--out",
        tmp_path / "out",
        "--rows",
        "1",
        "--device",
        "cpu",
        "-o",
        "crop=32",
        "-o",
        "batch=2",
        "-o",
        "options.widths=[4,4,4,4]",
    ]
    assert run_cli(*arguments, "--budget", "0.0003")[0] == 0
    next(tmp_path.rglob("scores.json")).unlink()
    code, _, err = run_cli(*arguments, "--budget", "0.0004")
    assert code == 1
    assert "with other settings (steps" in err
    code, out, _ = run_cli(*arguments, "--budget", "0.0004", "--overwrite", "--json")
    assert code == 0
    assert json.loads(out)[0]["steps"] == 18


def test_rows_that_differ_in_their_test_or_share_a_base_are_trained_once(camvid, tmp_path, monkeypatch):
    trained = []
    real = reproduce.train
    monkeypatch.setattr(
        reproduce, "train", lambda recipe, *a, **k: trained.append(recipe.network) or real(recipe, *a, **k)
    )
    options, changes = {"widths": (4, 4, 4, 4)}, {"crop": 32, "batch": 2}
    data = {"images": [str(camvid)], "dataset": "camvid"}

    def run(table, rows):
        return reproduce.run_table(
            table,
            data,
            tmp_path / "out",
            budget=1e-5,
            rows=rows,
            changes=changes,
            options=options,
            device="cpu",
            other_data=True,
            say=said.append,
        )

    said = []
    run("maggiori-2", [1, 3])
    assert (
        sum("the same network is trained already" in line for line in said) == 1
    )  # the base of row 3 is row 1
    assert trained == ["fcn", "skip"]
    one, again = run("maggiori-2", [4]), run("maggiori-4", [6])
    assert one[0].measured == again[0].measured
    assert trained == ["fcn", "skip", "mlp"]


def test_vaihingen_is_trained_and_scored_as_the_paper_did(tmp_path, monkeypatch):
    """Five classes, full labels to learn from, eroded ones of the validation tiles to score, also where
    other tiles lie there with labels.
    """
    drawn = world.vaihingen(tmp_path / "v", (1, 2, 3, 11))
    setting = papers.setting_of(
        TABLES["maggiori-2"].rows[0], {"images": [str(tmp_path / "v")], "dataset": "vaihingen"}
    )
    options, changes = {"widths": (4, 4, 4, 4)}, {"crop": 16, "batch": 2}
    data = {"images": [str(tmp_path / "v")], "dataset": "vaihingen"}
    with open_recipe_data(setting.recipe.data, 0) as dataset:
        assert dataset.legend.names[-1] == "car" and len(dataset.legend) == 5
        assert (
            dataset.class_counts("train").tolist()
            == np.bincount(np.stack([drawn[1], drawn[3]]).ravel(), minlength=6)[:5].tolist()
        )
        assert [s.name for s in dataset.part("test")] == ["vaihingen_2"]
    (result,) = reproduce.run_table(
        "maggiori-2",
        data,
        tmp_path / "out",
        budget=1e-5,
        rows=[1],
        changes=changes,
        options=options,
        device="cpu",
    )
    scored = int((drawn[11][2:] < 5).sum())
    assert result.scored_on == f"vaihingen-eroded, part val: 1 image, {scored} labelled pixels"
    assert "iou/clutter" not in result.measured[0]


def test_data_without_the_part_that_is_scored_is_refused_before_training(tmp_path, run_cli, monkeypatch):
    monkeypatch.setattr(reproduce, "train", lambda *a, **k: pytest.fail("trained"))
    world.vaihingen(tmp_path / "v", (1, 3))
    code, _, err = run_cli(
        "table",
        "maggiori-2",
        tmp_path / "v",
        "--dataset",
        "vaihingen",
        "--out",
        tmp_path / "out",
        "--device",
        "cpu",
    )
    assert code == 1
    assert "no labels to score on in the part val (labelled parts here: train)" in err
    code, out, _ = run_cli(
        "table",
        "maggiori-6",
        tmp_path / "v",
        "--dataset",
        "vaihingen",
        "--out",
        tmp_path / "out",
        "--device",
        "cpu",
    )
    assert code == 0
    assert "maggiori-6 --times measures them" in out
    assert "mean_iou" not in out


def test_the_interval_is_students(monkeypatch):
    row = TABLES["mswbn-1"].rows[0]
    result = reproduce.RowResult(row, ({"mean_iou": 50.0}, {"mean_iou": 54.0}, {"mean_iou": 52.0}), (0, 1, 2))
    mean, half = result.summary("mean_iou")
    assert mean == 52
    assert half == pytest.approx(4.303 * 2 / 3**0.5, rel=1e-3)  # t of two degrees of freedom
    assert LOSSES  # every loss a setting names exists
    with pytest.raises(UnknownName, match="mswbn-1"):
        reproduce.run_table("mswbn1", DATA, "nowhere")
