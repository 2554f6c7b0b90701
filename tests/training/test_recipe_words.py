"""Names and defaults of a recipe: those of other libraries, what was probably meant, what is shown."""

import inspect

import pytest
import world

import labelscape as ls
from labelscape.errors import BadOption, UnknownName, WrongType, nearest_name
from labelscape.nets.catalog import NETWORKS, create_model
from labelscape.training.recipe import Recipe, in_todays_words, make_recipe
from labelscape.training.recipe_data import Data
from labelscape.training.run import train

DATA = {"images": ["/far/away/scene.tif"], "labels": ["fields.gpkg"]}
SMALL = {"operations": 5, "width": 8, "reduce": 8}


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("lerning_rate", "rate"),
        ("learning_rate", "rate"),
        ("lr", "rate"),
        ("epochs", "steps"),
        ("batch_size", "batch"),
        ("crop_size", "crop"),
        ("loss", "losses"),
        ("weight_dcay", "weight_decay"),
    ],
)
def test_a_misspelt_setting_is_answered_with_the_one_that_was_meant(typed, meant):
    with pytest.raises(BadOption, match=f"No recipe setting is called '{typed}'. Did you mean '{meant}'?"):
        make_recipe(data=DATA, **{typed: 1})


@pytest.mark.parametrize("name", [n for n in Data.model_fields if n != "images"])
def test_a_setting_of_the_data_given_at_the_top_is_sent_there(name):
    with pytest.raises(BadOption) as said:
        make_recipe(data=DATA, **{name: 64})
    assert f"{name} is a setting of data: give `data={{'{name}': 64}}`." in str(said.value)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"data": "b.tif"}, "data is the path 'b.tif'; a mapping was expected: data={'images': "),
        ({"data": 3}, "`data=3` must be a mapping"),
        ({"data": DATA, "batch": "many"}, "`batch='many'` must be a whole number."),
        ({"data": DATA, "batch": 0}, "`batch=0` must be at least 1."),
        ({"data": DATA, "rate": None}, "`rate=None` must be a number."),
        ({"data": DATA, "optimizer": "adam"}, "`optimizer='adam'` must be one of 'sgd' or 'adamw'."),
        ({"data": {**DATA, "val": 1}}, "`data.val=1` must be below 1."),
        ({"data": DATA, "sync_bn": "perhaps"}, "`sync_bn='perhaps'` must be True or False."),
        ({"data": {"labels": []}}, "`data.images` is missing."),
        ({"data": {**DATA, "buffer": 10**20}}, "`data.buffer=100000000000000000000` must be at most 1e+06."),
    ],
)
def test_values_of_a_recipe_are_refused_in_our_words(settings, said):
    with pytest.raises(BadOption) as told:
        make_recipe(**settings)
    assert said in str(told.value)


def test_a_misspelt_network_is_answered_with_the_one_that_was_meant():
    known = [*NETWORKS, "smp/Unet"]
    for typed, meant in {
        "unet": "smp/Unet",
        "UNet": "smp/Unet",
        "DeepLabV3Plus": "deeplabv3plus",
        "psp_net": "pspnet",
        "fcdensenet": "fc-densenet",
        "unpoling": "unpooling",
        "fcm": "fcn",
    }.items():
        assert nearest_name(typed, known) == meant
    assert nearest_name("xyzzy", known) is None
    settings = list(Recipe.model_fields)
    for typed, meant in {
        "lr": "rate",
        "lerning": "rate",
        "lerning_rate": "rate",
        "batchsize": "batch",
        "epoch": "steps",
        "weightdecay": "weight_decay",
    }.items():
        assert nearest_name(typed, settings) == meant
    # By letters alone fp16 would be bf16, which is another number format.
    for typed, meant in {"fp16": "16", "float16": "16", "bfloat16": "bf16", "float32": "32"}.items():
        assert nearest_name(typed, ["32", "bf16", "16"]) == meant
    with pytest.raises(UnknownName, match="Did you mean 'smp/Unet'") as caught:
        create_model("unet", classes=2)
    assert caught.value.nearest == "smp/Unet"


def test_options_may_have_the_names_of_other_libraries():
    mine = make_recipe(data=DATA, network="mswbn", options={"backbone": "resnet18", "pretrained": True})
    theirs = {"encoder_name": "resnet18", "encoder_weights": "imagenet"}
    assert make_recipe(data=DATA, network="mswbn", options=theirs) == mine
    smp = make_recipe(data=DATA, network="smp/Unet", options={**theirs, "encoder_weights": None})
    assert smp.options == {"encoder": "resnet18", "pretrained": False}
    net = create_model(
        "mswbn", in_chans=5, num_classes=3, encoder_name="resnet10t", encoder_weights=None, **SMALL
    )
    same = create_model("mswbn", in_channels=5, classes=3, backbone="resnet10t", pretrained=False, **SMALL)
    assert (net.in_channels, net.classes) == (5, 3)
    assert {k: v.shape for k, v in net.state_dict().items()} == {
        k: v.shape for k, v in same.state_dict().items()
    }


def test_options_under_two_names_or_without_a_place_are_refused():
    with pytest.raises(BadOption, match="encoder_name and backbone are two names of one option"):
        make_recipe(data=DATA, network="mswbn", options={"encoder_name": "a", "backbone": "b"})
    with pytest.raises(BadOption, match="num_classes and classes are two names"):
        create_model("fcn", classes=2, num_classes=2)
    with pytest.raises(BadOption, match="encoder_weights='ssl' must be 'imagenet' or None"):
        create_model("mswbn", classes=2, encoder_weights="ssl")
    with pytest.raises(BadOption, match="No option of mlp is called 'encoder_name'"):
        make_recipe(data=DATA, options={"encoder_name": "resnet18"})
    with pytest.raises(BadOption, match="classes follows from the labels or the bands") as caught:
        make_recipe(data=DATA, options={"num_classes": 3})
    assert "num_classes" not in str(caught.value)
    with pytest.raises(BadOption, match="classes=None must be a whole number"):
        create_model("fcn")


def test_the_base_network_is_trained_twice_as_long_unless_something_else_is_said():
    assert make_recipe(data=DATA, network="mlp", steps=50).base_steps == 100
    assert make_recipe(data=DATA, network="mlp").base_steps == 800
    assert make_recipe(data=DATA, network="mlp", base_steps=None, steps=3).base_steps == 6
    assert make_recipe(data=DATA, network="mlp", base_steps=0).base_steps == 0
    assert make_recipe(data=DATA, network="mlp", start="fcn.safetensors").base_steps == 0
    assert make_recipe(data=DATA, network="fcn").base_steps == 0
    assert make_recipe(data=DATA, network="smp/Unet").base_steps == 0


def test_precision_has_one_word_and_that_of_before_is_understood():
    for word, before in {"32": "32-true", "bf16": "bf16-mixed", "16": "16-mixed"}.items():
        assert make_recipe(data=DATA, precision=before).precision == word
        assert make_recipe(data=DATA, precision=word).precision == word
    assert make_recipe(data=DATA, precision=16).precision == "16"  # as `-o precision=16` reads it
    with pytest.raises(BadOption, match="precision='64'"):
        make_recipe(data=DATA, precision="64")


def test_a_rate_that_adamw_cannot_use_is_refused():
    with pytest.raises(BadOption, match="`base_rate=0.1` is too high for adamw") as caught:
        make_recipe(data=DATA, optimizer="adamw", rate=0.05, base_rate=0.1)
    assert "- `rate=0.05` is too high for adamw" in str(caught.value)
    assert make_recipe(data=DATA, network="fcn", optimizer="adamw", rate=0.001).optimizer == "adamw"


def test_a_recipe_stored_before_a_setting_was_known_is_that_of_its_default():
    now = make_recipe(data=DATA, network="fcn").model_dump(mode="json")
    before = {key: value for key, value in now.items() if key != "aux_weight"} | {"precision": "32-true"}
    assert in_todays_words(before) == now
    assert in_todays_words({"nothing": 1}) == {"nothing": 1}


def test_a_recipe_prints_on_one_line_and_shows_what_is_not_default():
    recipe = make_recipe(data={**DATA, "labels": ["a<b.gpkg"]}, rate=0.01, start="fcn.safetensors")
    assert repr(recipe) == "<Recipe mlp, 400 steps, 8 x 128 x 128 pixels, scene.tif a<b.gpkg>"
    shown = recipe._repr_html_()
    assert "<tr><th>rate</th><td>0.01</td></tr>" in shown
    assert "a&lt;b.gpkg" in shown
    assert "momentum" not in shown
    many = Recipe(data={"images": [f"{i}.tif" for i in range(100)]}, network="fcn")
    assert len(repr(many)) < 120


def test_random_first_weights_are_said(tmp_path):
    w = world.make(tmp_path, 64, 64, bands=3)
    labels = str(world.label_raster(w, tmp_path / "l.tif"))
    data = {"images": [str(w.scene)], "labels": [labels], "block": 16, "holdout": 0}
    tiny = {"data": data, "steps": 1, "batch": 2, "crop": 32, "device": "cpu"}
    said = []
    options = {"backbone": "resnet10t", **SMALL}
    train(make_recipe(network="mswbn", options=options, **tiny), tmp_path / "a", say=said.append)
    line = "mswbn starts from random weights; options.pretrained=true starts from ImageNet weights"
    assert said.count(line) == 1
    said.clear()
    widths = {"widths": [4, 4, 4, 4]}
    skip = make_recipe(network="skip", options=widths, **tiny)
    train(skip, tmp_path / "b", say=said.append)
    assert [line for line in said if "random weights" in line] == ["fcn starts from random weights"]
    said.clear()
    start = {"start": str(tmp_path / "b" / "fcn.safetensors"), "base_steps": 0}
    train(skip.replace(**start), tmp_path / "c", say=said.append)
    assert not any("random" in line for line in said)


@pytest.mark.parametrize("function", [ls.train, ls.slurm_script])
def test_a_mapping_is_made_a_recipe(function, tmp_path):
    with pytest.raises(BadOption, match="No recipe setting is called 'lr'. Did you mean 'rate'"):
        function({"data": DATA, "lr": 1}, tmp_path)
    with pytest.raises(WrongType, match=r"ls\.make_recipe\(data=\.\.\.\); found a str"):
        function("recipe.json", tmp_path)


def test_a_script_of_a_mapping_is_that_of_its_recipe(tmp_path):
    given = {"data": DATA, "steps": 7}
    assert ls.slurm_script(given, tmp_path) == ls.slurm_script(make_recipe(**given), tmp_path)


def test_training_without_talk_has_no_function_as_its_default():
    assert inspect.signature(ls.train).parameters["say"].default is None


def test_a_fold_sets_the_holdout_and_is_stored_only_where_given():
    recipe = make_recipe(data={**DATA, "fold": "2/5"})
    assert recipe.data.holdout == 0.2 and recipe.data.shares == {"train": 0.8, "val": 0.0, "test": 0.2}
    assert make_recipe(data=recipe.data.model_dump()).data == recipe.data  # a stored recipe has both
    assert "fold" not in make_recipe(data=DATA).data.model_dump()
    for wrong, said in (
        ({"holdout": 0.3}, "`fold=2/5` cannot be given with `holdout=0.3`"),
        ({"split": "random"}, "`fold=2/5` cannot be given with `split=random`"),
        ({"fold": "6/5"}, "`fold=6/5` must be K/N"),
    ):
        with pytest.raises(BadOption, match=said):
            make_recipe(data={**DATA, "fold": "2/5", **wrong})
