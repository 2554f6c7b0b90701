"""Defaults of networks, and settings that are refused before any work."""

import json
import os
import re
import subprocess
import sys
from types import SimpleNamespace

import pytest
import world
from processes import PATIENCE

import labelscape.training.data as opening
from labelscape.errors import BadFile, BadInput, BadOption
from labelscape.nets.catalog import NETWORKS, create_model, entry
from labelscape.nets.tables import TABLES
from labelscape.training.beforehand import check_beforehand
from labelscape.training.papers import setting_of
from labelscape.training.recipe import Recipe, as_recipe, in_todays_words, make_recipe
from labelscape.training.rehearse import rehearse
from labelscape.training.run import base_recipe, train
from labelscape.training.table_rows import scaled

DATA = {"images": ["a"]}


@pytest.mark.parametrize("name", [*NETWORKS, "smp/Unet", "smp/Segformer"])
def test_the_defaults_of_a_network_are_settings_of_a_recipe_that_fit_it(name):
    about = entry(name)
    assert about.defaults.keys() <= Recipe.model_fields.keys()
    assert "rate" in about.defaults
    with pytest.raises(TypeError):
        about.defaults["rate"] = 1  # frozen: one recipe must not change the next
    recipe = make_recipe(data=DATA, network=name)
    assert all(getattr(recipe, field) == value for field, value in about.defaults.items())
    assert recipe.model_dump()["rate"] == about.defaults["rate"]  # a stored recipe spells it out


def test_what_a_user_sets_comes_before_the_defaults():
    assert make_recipe(data=DATA, network="mswbn", rate=0.01).rate == 0.01
    unet = make_recipe(data=DATA, network="smp/Unet")
    assert (unet.optimizer, unet.rate) == ("adamw", 0.001)
    sgd = make_recipe(data=DATA, network="smp/Unet", optimizer="sgd")
    assert (sgd.optimizer, sgd.rate) == ("sgd", 0.02)
    assert sgd.replace(steps=7).optimizer == "sgd"  # and is not an unset setting there
    assert as_recipe(sgd.model_dump(mode="json")) == sgd  # a stored recipe is not filled in
    assert as_recipe({"data": DATA, "network": "smp/Unet"}) == unet
    assert in_todays_words(sgd.model_dump(mode="json")) == sgd.model_dump(mode="json")


def test_the_rate_reaches_the_base_network():
    for network in ("mlp", "dfcnet"):
        assert make_recipe(data=DATA, network=network).base_rate == 0.001
        recipe = make_recipe(data=DATA, network=network, rate=0.003)
        assert base_recipe(recipe).rate == 0.003
        assert base_recipe(recipe).optimizer == "adamw"
        assert make_recipe(data=DATA, network=network, rate=0.003, base_rate=0.01).base_rate == 0.01
        sgd = make_recipe(data=DATA, network=network, optimizer="sgd")
        assert (sgd.rate, base_recipe(sgd).rate, base_recipe(sgd).optimizer) == (0.02, 0.02, "sgd")


def test_papers_recipes_have_no_defaults_of_ours():
    for table in TABLES.values():
        for row in table.rows:
            recipe = setting_of(row, DATA, DATA).recipe
            if recipe is None:
                continue
            assert recipe.optimizer == "sgd" and not recipe.ema
            # As the test reduces pictures, wherever crops are drawn at a scale.
            scaled_crops = not row.table.startswith("maggiori")
            assert recipe.resampling == ("antialiased" if scaled_crops else "bilinear")
            if recipe.network == "mswbn":
                assert (recipe.rate, recipe.rate_factors) == (0.007, {})


def test_the_warm_up_is_a_share_of_the_run():
    row = TABLES["ifbfnet-1"].rows[-1]
    recipe = setting_of(row, DATA).recipe
    assert (recipe.steps, recipe.warmup) == (81_000, 1_000)
    assert scaled(recipe, 1.0, {"steps": 500}).warmup == 6
    assert scaled(recipe, 0.01, {}).warmup == 10
    assert scaled(recipe, 1.0, {"steps": 500, "warmup": 50}).warmup == 50
    assert base_recipe(make_recipe(data=DATA, steps=100, base_steps=50, warmup=20)).warmup == 10
    with pytest.raises(BadOption, match="`warmup=1000` is longer than the run of `steps=4`"):
        make_recipe(data=DATA, steps=4, warmup=1000)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"network": "ifbfnet", "rate_factors": {"aux": -5}}, "`rate_factors.aux=-5.0` must not be below 0"),
        ({"losses": {"dice": -1}}, "`losses.dice=-1.0` must not be below 0"),
        ({"losses": {}}, "leaves nothing to minimise"),
        ({"losses": {"dice": 0}}, "leaves nothing to minimise"),
        ({"aux_losses": {}}, "`aux_losses={}` leaves nothing"),
        ({"seed": -3}, "seed=-3"),
        ({"scale_range": (1, 2, 3)}, "must be a list of no more than 2 values"),
        ({"rate": float("inf")}, "rate=inf"),
        ({"network": "deeplabv3plus", "options": {"rates": 6}}, "options.rates=6 is of the wrong type"),
        ({"network": "mswbn", "options": {"theta_lbm": None}}, "options.theta_lbm=None is of the wrong type"),
        ({"network": "mswbn", "options": {"width": "96"}}, "options.width='96' is of the wrong type"),
        ({"resampling": "cubic"}, "resampling='cubic'"),
    ],
)
def test_nonsense_is_refused_with_a_sentence(settings, said):
    with pytest.raises(BadOption) as refused:
        make_recipe(data=DATA, **settings)
    assert said in str(refused.value)


def test_options_of_the_right_type_are_not_refused():
    """Every network's own defaults, and lists for tuples as JSON has them."""
    from labelscape.nets.catalog import options_of

    for name in NETWORKS:
        defaults = {key: option.default for key, option in options_of(name).items()}
        # A second head is refused where there is no second task to train it.
        second = {"mate": {"data": DATA}} if "mate_classes" in defaults else {}
        options = json.loads(json.dumps(defaults, default=list))
        make_recipe(data=DATA, network=name, options=options, **second)


@pytest.mark.parametrize(
    ("settings", "error", "said"),
    [
        ({"start": "none.safetensors"}, BadFile, "none.safetensors"),
        ({"network": "pspnet", "options": {"weights": "none.pth"}}, BadFile, "no weights file none.pth"),
        ({"network": "pspnet", "options": {"backbone": "resnet17"}}, BadOption, "resnet17"),
        ({"network": "fcn", "crop": 16, "batch": 1}, BadInput, "1 image of 16 x 16 pixels"),
        ({"network": "skip", "crop": 16, "batch": 2, "accumulate": 2}, BadInput, "one value per channel"),
        ({"network": "fcn", "rate_factors": {"trunk": 0.1}}, BadOption, "part of fcn is called 'trunk'"),
    ],
)
@pytest.mark.parametrize(
    "work", [lambda recipe, out: train(recipe, out), lambda recipe, out: rehearse(recipe)]
)
def test_what_cannot_work_is_found_before_data_is_opened(tmp_path, monkeypatch, work, settings, error, said):
    def never(*arguments):
        pytest.fail("data was opened")

    monkeypatch.setattr(opening, "open_recipe_data", never)
    with pytest.raises(error) as refused:
        work(make_recipe(data=DATA, device="cpu", **settings), tmp_path / "out")
    assert said in str(refused.value)
    assert not (tmp_path / "out").exists()


def test_a_network_in_training_says_what_one_value_per_channel_needs():
    import torch

    net = create_model("dgcwnet", classes=4, backbone="resnet10t").train()
    with pytest.raises(BadInput, match="1 image of 8 x 8 pixels leave.* Give a larger crop"):
        net(torch.randn(1, 3, 8, 8))
    net(torch.randn(2, 3, 8, 8))


def in_two_processes(folder, program, *arguments):
    """What a program that torchrun starts twice ends with."""
    (folder / "program.py").write_text(program)
    torchrun = ["-m", "torch.distributed.run", "--nproc-per-node=2", "--standalone"]
    return subprocess.run(
        [sys.executable, *torchrun, str(folder / "program.py"), *arguments],
        env={**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )


def test_a_rehearsal_of_two_processes_has_their_shares_of_a_batch_and_is_printed_once(tmp_path):
    w = world.make(tmp_path, 96, 128, bands=3, nodata=0)
    labels = world.label_raster(w, tmp_path / "labels.tif")
    program = (
        "import labelscape.training.rehearse as rehearsal\n"
        "from labelscape.cli import main\n"
        "real = rehearsal.update\n"
        "def watched(net, optimizer, fabric, batch, *rest):\n"
        "    print(f'crops {[len(part[0][0]) for part in batch]}\\n', end='', flush=True)\n"  # one write
        "    return real(net, optimizer, fabric, batch, *rest)\n"
        "rehearsal.update = watched\n"
        "main()\n"
    )
    given = ["train", str(w.scene), "--labels", str(labels), "--network", "fcn", "--steps", "2"]
    given += ["-o", "options.widths=[4,4,4,4]", "--crop", "16", "--block", "32", "--device", "cpu"]
    given += ["--out", str(tmp_path / "out"), "--dry-run", "--batch", "8", "-o", "accumulate=2"]
    found = in_two_processes(tmp_path, program, *given)
    assert found.returncode == 0, found.stderr[-3000:]
    assert found.stdout.count("crops [2, 2]") == 2 * 3
    assert found.stdout.count("2 steps of 8 crops") == 1


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"batch": 3}, "`batch=3` cannot be divided evenly over 2 processes: give a multiple of 2."),
        ({"network": "skip", "base_batch": 5}, "`base_batch=5` cannot be divided evenly over 2 processes"),
    ],
)
def test_a_batch_that_processes_cannot_share_evenly_is_refused_beforehand(settings, said):
    two = SimpleNamespace(world_size=2, device=SimpleNamespace(type="cpu"))
    with pytest.raises(BadOption, match=re.escape(said)):
        check_beforehand(make_recipe(**{"data": DATA, "network": "fcn", **settings}), None, two)


def test_synchronised_batch_normalisation_on_cpus_is_refused(tmp_path):
    program = (
        "from labelscape.errors import BadOption\n"
        "from labelscape.training.recipe import make_recipe\n"
        "from labelscape.training.run import train\n"
        "try:\n"
        "    train(make_recipe(data={'images': ['a']}, network='fcn', sync_bn=True, device='cpu'), 'out')\n"
        "except BadOption as error:\n"
        "    print(error)\n"
    )
    found = in_two_processes(tmp_path, program)
    assert found.stdout.count("sync_bn works on CUDA devices only, and these 2 processes train on cpu") == 2
