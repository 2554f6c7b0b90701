"""labelscape train --config: what a file says is what the command line says, and mistakes in it are told at
once.
"""

import json
import os
import re
import shutil
import tomllib
from pathlib import Path

import jsonschema
import pytest
import world
import yaml

from labelscape.checkpoint import load
from labelscape.cli.config import options, read_config
from labelscape.cli.config_file import Loader, read_mapping
from labelscape.cli.config_print import _scalar, config_schema, config_text
from labelscape.errors import BadFile, BadOption
from labelscape.training.recipe import Recipe, make_recipe

TINY = (
    "--network",
    "fcn",
    "-o",
    "options.widths=[4,4,4,4]",
    "--batch",
    "2",
    "--crop",
    "32",
    "--device",
    "cpu",
    "-o",
    "measure_tile_sizes=false",
    "-o",
    "measure_unfamiliar=false",
)


@pytest.fixture(scope="module")
def land(tmp_path_factory):
    folder = tmp_path_factory.mktemp("land")
    w = world.make(folder, 96, 128, bands=3, nodata=0)
    world.label_raster(w, folder / "labels.tif")
    return folder


@pytest.fixture
def here(land, tmp_path, monkeypatch):
    """The current folder, with scene.tif and labels.tif in it."""
    for name in ("scene.tif", "labels.tif"):
        shutil.copy(land / name, tmp_path / name)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def recipe_of(path):
    return read_config(path)["recipe"]


# ------------------------------------------------------------------------------------------- print, and read


def test_a_printed_configuration_trains_the_very_recipe(here, run_cli):
    words = ("train", "scene.tif", "--labels", "labels.tif", "--block", "32", *TINY, "--steps", "2")
    more = (
        "--val",
        "0.25",
        "-o",
        "losses.dice=1",
        "-o",
        "rate_factors.head=2",
        "--merge",
        "a=0,2",
        "--merge",
        "b=1",
    )
    code, printed, told = run_cli(*words, *more, "--out", "one", "--print-config")
    assert code == 0 and not Path("one").exists(), told
    Path("train.yaml").write_text(printed)
    code, again, _ = run_cli("train", "--config", "train.yaml", "--print-config")
    assert code == 0 and again == printed
    for command in ((*words, *more, "--out", "one"), ("train", "--config", "train.yaml", "--out", "other")):
        code, _, told = run_cli(*command)
        assert code == 0, told
    one, other = (Path(out, "fcn.safetensors").read_bytes() for out in ("one", "other"))
    assert one == other
    assert load("one/fcn.safetensors").recipe["val_every"] == 2
    assert "train.yaml: the command line overrules out one -> other" in told


RECIPES = [
    {},
    {"network": "dfcnet", "mate": {"data": {"images": ["b.tif"], "classes": {"no": 0, "road, paved": 1}}}},
    {
        "network": "mswbn",
        "options": {"backbone": "resnet18"},
        "start": "runs/a b/x.safetensors",
        "optimizer": "sgd",
    },
    {
        "map_size": 512,
        "map_steps": 100,
        "rate": 1e-5,
        "losses": {"focal": 0.5, "dice": 1e-3},
        "weight_decay": 0,
    },
    {
        "scale_range": (0.5, 2),
        "ema": 0.999,
        "precision": "bf16",
        "sync_bn": True,
        "seed": 7,
        "save_every": 13,
    },
]
DATA = [
    {
        "images": ["a.tif", ("B02.jp2", "B03.jp2")],
        "nodata": float("nan"),
        "merge": {"off": ("1", "2"), "ä": ("yes",)},
    },
    {
        "images": ["land"],
        "dataset": "gid-5",
        "train_on": ("train", "val"),
        "dataset_options": {"side": 512, "x": None},
    },
    {
        "images": ["a.tif"],
        "fold": "1/4",
        "labels": [f"labels/{n:03}.tif" for n in range(30)],
        "background": "null",
    },
    {
        "images": ["a #1.tif", "b: c.tif", "'d'.tif", '"e"\\.tif', "\t.tif", "1.tif", "- x", "😀.tif"],
        "val": 0.1,
    },
]


@pytest.mark.parametrize("settings", RECIPES)
@pytest.mark.parametrize("data", DATA)
def test_every_recipe_is_read_as_it_was_printed(settings, data, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    recipe = make_recipe(data=data, **settings)
    values = {
        "out": "o",
        "forest": False,
        "log": ["wandb"],
        "tensorboard": False,
        "overwrite": False,
        "as_json": True,
    }
    Path("train.yaml").write_text(config_text(recipe, values))
    found = read_config("train.yaml")
    assert found["recipe"].model_dump_json() == recipe.model_dump_json()
    assert found["out"] == "o" and found["log"] == ["wandb"]
    jsonschema.Draft202012Validator(config_schema()).validate(read_mapping(Path("train.yaml")))


def test_every_setting_is_printed_with_its_help(here, run_cli):
    _, printed, _ = run_cli("train", "scene.tif", "--out", "o", "--print-config")
    found = yaml.safe_load(printed)
    assert found.keys() == {"out", "forest", "log", "tensorboard", "overwrite", "json", *Recipe.model_fields}
    lines = printed.splitlines()
    for name in Recipe.model_fields:
        at = next(n for n, line in enumerate(lines) if line.startswith(f"{name}:"))
        assert lines[at - 1].startswith("# "), name
    assert "# Updates of the weights.\nsteps: 400\n" in printed
    assert "  # Side, in pixels, of the blocks that are held out whole.\n  block: 256\n" in printed


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (1e-5, "1.0e-05"),
        (0.1, "0.1"),
        (1e22, "1.0e+22"),
        ("no", '"no"'),
        ("1e3", '"1e3"'),
        ("", '""'),
        (None, "null"),
    ]
    + [("a b", "a b"), ("a: b", '"a: b"'), ("x #y", '"x #y"'), (".5", '".5"'), ("~", '"~"'), (True, "true")],
)
def test_values_are_written_so_that_all_readers_agree(value, text):
    assert _scalar(value) == text
    assert yaml.load(text, Loader) == value
    assert yaml.safe_load(text) == value


# ------------------------------------------------------------------------------------------------ three forms

FORMS = {
    "train.yaml": """
images: scene.tif
labels: [labels.tif]
class-column: crop      # as on the command line
merge: {woodland: [1, 2]}
steps: 3
options: {widths: [4, 4, 4, 4]}
network: fcn
rate: 1e-3
out: run
log: wandb
""".replace("[1, 2]", "['1', '2']"),
    "train.toml": """
images = ["scene.tif"]
labels = "labels.tif"
class_column = "crop"
merge = "woodland=1,2"
steps = 3
network = "fcn"
rate = 1e-3
out = "run"
log = ["wandb"]
[options]
widths = [4, 4, 4, 4]
""",
    "train.json": json.dumps(
        {
            "$schema": "train.schema.json",
            "data": {"images": ["scene.tif"], "labels": ["labels.tif"], "merge": {"woodland": ["1", "2"]}},
            "class_column": "crop",
            "steps": 3,
            "network": "fcn",
            "rate": 0.001,
            "options": {"widths": [4, 4, 4, 4]},
            "out": "run",
            "log": ["wandb"],
        }
    ),
}


@pytest.mark.parametrize("name", FORMS)
def test_yaml_toml_and_json_say_the_same(here, name):
    Path(name).write_text(FORMS[name])
    found = read_config(name)
    expected = make_recipe(
        data={
            "images": ["scene.tif"],
            "labels": ["labels.tif"],
            "class_column": "crop",
            "merge": {"woodland": ["1", "2"]},
        },
        **{"steps": 3, "network": "fcn", "rate": 1e-3, "options": {"widths": [4, 4, 4, 4]}},
    )
    assert found == {"recipe": expected, "out": "run", "log": ["wandb"]}


def test_options_mean_in_a_file_what_they_mean_on_the_command_line(here, run_cli):
    """Each as it is typed, printed as a whole configuration."""
    given = {
        "labels": "labels.tif",
        "merge": "x=1,2",
        "classes": ["water=5,land=6"],
        "ignore_value": 0,
        "bands": "red,nir",
        "band_names": '"a,b",nir,red',
        "nodata": 7,
        "area": "labels.tif",
        "block": 64,
        "split": "random",
        "buffer": 3,
        "holdout": 0.3,
        "background": "other",
        "threshold": 2,
        "layer": "l",
        "asset": "visual",
        "class_column": "c",
        "network": "classmate",
        "steps": 5,
        "rate": 0.01,
        "seed": 3,
        "mate": ["scene.tif"],
        "mate_labels": "labels.tif",
        "mate_classes": "road=1,other=0",
        "mate_block": 32,
        "mate_weight": 0.5,
        "mate_bands": "red",
    }
    words = [
        f"--{key.replace('_', '-')}={''.join(v) if isinstance(v, list) else v}" for key, v in given.items()
    ]
    code, typed, told = run_cli("train", "scene.tif", "--out", "o", *words, "--print-config")
    assert code == 0, told
    Path("train.yaml").write_text(yaml.safe_dump({"images": "scene.tif", "out": "o", **given}))
    code, read, told = run_cli("train", "--config", "train.yaml", "--print-config")
    assert code == 0, told
    assert read == typed


def test_settings_below_data_are_read_as_the_options_beside_it(here):
    for name in ("a1.tif", "a2.tif"):
        shutil.copy("scene.tif", name)
    given = {
        "images": "a*.tif",
        "labels": ["labels.tif"],
        "merge": "x=1,2",
        "classes": "water=5",
        "bands": "b1,b2",
    }
    Path("flat.yaml").write_text(yaml.safe_dump(given))
    Path("below.yaml").write_text(yaml.safe_dump({"data": given}))
    assert recipe_of("flat.yaml") == recipe_of("below.yaml")
    data = recipe_of("below.yaml").data
    assert (
        data.images == ("a1.tif", "a2.tif") and data.merge == {"x": ("1", "2")} and data.bands == ("b1", "b2")
    )
    Path("flat.yaml").write_text("images: none*.tif\ndata: {classes: water}\n")
    with pytest.raises(BadOption) as problem:
        recipe_of("flat.yaml")
    assert "images: No file matches none*.tif." in str(problem.value)
    assert "data.classes: --classes 'water' must read NAME=VALUE" in str(problem.value)


def test_paths_are_relative_to_the_file(here):
    folder = here / "configs"
    (folder / "bands").mkdir(parents=True)
    for name in ("B02.tif", "B03.tif"):
        shutil.copy("scene.tif", folder / "bands" / name)
    given = {
        "images": [
            "../scene.tif",
            "bands/B02.tif,bands/B03.tif",
            "https://host/x.tif",
            "/vsizip/a.zip/b.tif",
            "bands/*.tif",
        ],
        "data": {"labels": ["l.tif"], "area": "/abs/a.gpkg", "corrections": "r.gpkg"},
        "start": "base.safetensors",
        "network": "mswbn",
        "options": {"weights": "w.pth"},
        "out": "../run",
    }
    (folder / "train.yaml").write_text(yaml.safe_dump(given))
    found = read_config("configs/train.yaml")
    recipe, data = found["recipe"], found["recipe"].data
    assert found["out"] == "configs/../run"
    bands = ("configs/bands/B02.tif", "configs/bands/B03.tif")
    assert data.images == ("configs/../scene.tif", bands, "https://host/x.tif", "/vsizip/a.zip/b.tif", *bands)
    assert (
        data.labels == ("configs/l.tif",)
        and data.area == "/abs/a.gpkg"
        and data.corrections == ("configs/r.gpkg",)
    )
    assert recipe.start == "configs/base.safetensors" and recipe.options["weights"] == "configs/w.pth"
    # From its own folder, named from elsewhere: as on the command line there.
    os.chdir(folder)
    assert read_config(folder / "train.yaml")["recipe"].data.labels == ("l.tif",)


# -------------------------------------------------------------------------------------- the command line wins


def test_the_command_line_overrules_the_file_and_says_so_in_one_line(here, run_cli):
    Path("train.yaml").write_text(
        "images: scene.tif\nlabels: labels.tif\nout: run\nsteps: 30\nblock: 64\nlog: [wandb]\ndevice: cpu\n"
        "losses: {cross-entropy: 1.0}\nnetwork: fcn\nseed: 1\n"
        "options: {widths: [4, 4, 4, 4], bn_momentum: 0.1}\n"
    )
    words = (
        "--steps",
        "10",
        "-o",
        "data.block=32",
        "-o",
        "losses.dice=1",
        "-o",
        "options.bn_momentum=0.2",
        "--seed",
        "1",
    )
    code, printed, told = run_cli(
        "train", "--config", "train.yaml", *words, "--log", "mlflow", "--print-config"
    )
    assert code == 0, told
    assert told == (
        "train.yaml: the command line overrules log [wandb] -> [mlflow], steps 30 -> 10, "
        "data.block 64 -> 32, losses {cross-entropy: 1.0} -> {dice: 1}, options.bn_momentum 0.1 -> 0.2\n"
    )
    found = yaml.safe_load(printed)
    assert found["steps"] == 10 and found["data"]["block"] == 32 and found["losses"] == {"dice": 1.0}
    assert found["options"] == {"widths": [4, 4, 4, 4], "bn_momentum": 0.2}
    assert found["device"] == "cpu" and found["log"] == ["mlflow"]
    code, printed, _ = run_cli("train", "--config", "train.yaml", "--device", "auto", "--print-config")
    assert yaml.safe_load(printed)["device"] == "auto"


def test_val_in_a_file_chooses_when_to_score_as_the_option_does(here, run_cli):
    base = "images: scene.tif\nlabels: labels.tif\nout: run\nsteps: 50\nnetwork: fcn\nblock: 32\n"
    Path("a.yaml").write_text(base + "val: 0.25\n")
    _, printed, _ = run_cli(
        "train",
        "scene.tif",
        "--labels",
        "labels.tif",
        "--out",
        "run",
        "--steps",
        "50",
        "--network",
        "fcn",
        "--block",
        "32",
        "--val",
        "0.25",
        "--print-config",
    )
    assert recipe_of("a.yaml").val_every == yaml.safe_load(printed)["val_every"] > 0
    Path("b.yaml").write_text(base + "val: 0.25\nval_every: 7\n")
    assert recipe_of("b.yaml").val_every == 7


def test_without_scenes_it_is_said_what_is_missing(here, run_cli):
    code, _, told = run_cli("train", "--out", "run")
    assert code == 2 and told.startswith("labelscape: labelscape train needs scenes: name them, or a conf")


# ------------------------------------------------------------------------------------------------ mistakes


def test_all_mistakes_are_told_at_once(here, run_cli):
    Path("train.yaml").write_text("""
images: scene.tif
out: [run]
epochs: 5
learning_rate: 0.1
class_colum: crop
pixel_size: 2
dry_run: true
steps: many
block: [1]
data: {blok: 5, holdout: 2, buffer: 1}
buffer: 2
network: fcn
options: {widht: 3}
losses: {dise: 1}
precision: 8
forest: perhaps
mate_block: 32
""")
    code, _, told = run_cli("train", "--config", "train.yaml")
    assert code == 2
    first, *lines = told.splitlines()
    assert first == "labelscape: train.yaml cannot be used:"
    said = [
        "buffer: is data.buffer, which is given too; leave one of them out",
        r"--mate-block: a second task needs its scenes too; name them with --mate.",
        r"out: found \['run'\], expected text",
        "forest: found 'perhaps', expected .*boolean.*|forest: found 'perhaps', expected True or False",
        "epochs: there is no such key; did you mean steps?",
        r"learning_rate: there is no such key; did you mean rate\?",
        "class_colum: there is no such key; did you mean class_column?",
        "pixel_size: is a setting of the data; write it below data",
        "dry_run: is given on the command line alone; not in a file",
        "steps: found 'many', expected a whole number",
        r"block: found \[1\], expected a whole number",
        "data.holdout: found 2, expected below 1",
        "No setting of data is called 'blok'. Did you mean 'block'?.*",
        "precision: found 8, expected one of '32', 'bf16' or '16'|precision: found '8', expected .*",
        "No option of fcn is called 'widht'. Did you mean 'widths'?.*",
        "No loss is called 'dise'. Did you mean 'dice'?.*",
    ]
    found = [line.removeprefix("  - ") for line in lines]
    missing = [one for one in said if not any(one == line or re.fullmatch(one, line) for line in found)]
    assert missing == [] and len(found) == len(said), found
    assert not Path("run").exists()


def test_what_does_not_fit_together_is_left_to_the_whole_recipe(here):
    Path("train.yaml").write_text("images: scene.tif\nwarmup: 900\nsteps: 100\n")
    with pytest.raises(BadOption, match=r"`warmup=900` is longer than the run of `steps=100`"):
        read_config("train.yaml")


BOMB = "a: &a [x, x]\n" + "".join(
    f"{chr(98 + n)}: &{chr(98 + n)} [*{chr(97 + n)}, *{chr(97 + n)}]\n" for n in range(24)
)
HOSTILE = [
    ("a.yaml", BOMB, r"has an anchor or alias \(&name, \*name; line 1\)"),
    ("a.yaml", "steps: !!python/object/apply:os.system [touch hacked]", r"has a tag \(.*os.system; line 1\)"),
    ("a.yaml", "steps: !!int 5", "has a tag"),
    ("a.yaml", "steps: 1\nrate: 1\nsteps: 2", r"has the key 'steps' twice \(line 3\)"),
    ("a.yaml", "? [a]\n: 1", "has a key that is no text"),
    ("a.yaml", "a: " + "[" * 100_000, "is nested more than 40 deep"),
    ("a.yaml", "a: " + "{a: " * 100_000, "is nested more than 40 deep"),
    ("a.yaml", "a: 1\n" + "#" * (1 << 20), "is larger than 1 MiB"),
    ("a.yaml", "a: " + "9" * 10_000, "is not valid YAML"),
    ("a.yaml", "a: [1, 2", r"is not valid YAML \(line \d+: "),
    ("a.yaml", "a: 1\n---\nb: 2\n", "is not valid YAML"),
    ("a.yaml", "- steps", "holds a list; keys with values were expected"),
    ("a.yaml", "", "holds nothing; keys"),
    ("a.yaml", "a: \x00", "is not valid YAML"),
    ("a.yaml", b"a: \xff\xfe", "is not text in UTF-8"),
    ("a.json", '{"a": ' * 100_000, "is nested too deep"),
    ("a.json", '{"a": 1, "a": 2}', "has the key 'a' twice"),
    ("a.json", '{"a": 1,}', "is not valid JSON"),
    ("a.toml", "a = " + "[" * 100_000, "is (nested too deep|not valid TOML)"),
    ("a.toml", "a = 1\na = 2", "is not valid TOML"),
    ("a.ini", "a = 1", r"a configuration file ends in \.yaml, \.yml, \.toml, \.json"),
]


@pytest.mark.parametrize(("name", "content", "told"), HOSTILE)
def test_a_hostile_or_broken_file_is_one_sentence(tmp_path, monkeypatch, name, content, told):
    monkeypatch.chdir(tmp_path)
    Path(name).write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises((BadFile, BadOption), match=told) as problem:
        read_mapping(Path(name))
    assert len(str(problem.value)) < 400
    assert [one.name for one in tmp_path.iterdir()] == [name]


def test_files_that_are_none_are_one_sentence(tmp_path):
    with pytest.raises(BadFile, match="does not exist"):
        read_mapping(tmp_path / "none.yaml")
    (tmp_path / "folder.yaml").mkdir()
    os.mkfifo(tmp_path / "pipe.yaml")
    (tmp_path / "link.yaml").symlink_to("/dev/zero")
    for name in ("folder", "pipe", "link"):
        with pytest.raises(BadFile, match="is no plain file"):
            read_mapping(tmp_path / f"{name}.yaml")


def test_words_that_yaml_1_1_takes_for_something_else_are_text(tmp_path):
    path = tmp_path / "a.yaml"
    path.write_text("classes: {no: 1, on: 2, 7: 3}\nrate: 1e-3\nfold: 1/4\nd: 2020-01-01\nt: 12:30\n")
    assert read_mapping(path) == {
        "classes": {"no": 1, "on": 2, "7": 3},
        "rate": 1e-3,
        "fold": "1/4",
        "d": "2020-01-01",
        "t": "12:30",
    }


# -------------------------------------------------------------------------------------------------- schema


def test_the_schema_has_every_key_and_refuses_others(run_cli):
    code, printed, _ = run_cli("train", "--config-schema")
    schema = json.loads(printed)
    assert code == 0 and schema["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    jsonschema.Draft202012Validator.check_schema(schema)
    assert schema["properties"].keys() == {*options(), *Recipe.model_fields, "$schema"}
    assert all(one.get("description") or "$ref" in json.dumps(one) for one in schema["properties"].values())
    valid = jsonschema.Draft202012Validator(schema).is_valid
    for text in FORMS["train.yaml"], FORMS["train.json"]:
        assert valid(yaml.load(text.replace("class-column", "class_column"), Loader))
    assert valid(tomllib.loads(FORMS["train.toml"]))
    assert valid(
        {"images": "a.tif", "precision": "bf16", "mate": {"data": {"images": ["b.tif"]}}, "mate_block": 3}
    )
    assert valid({"data": {"images": "a.tif", "labels": "b.gpkg", "corrections": ["c.gpkg"]}})
    for wrong in ({"epochs": 3}, {"steps": "many"}, {"steps": 0}, {"precision": "8"}, {"data": {"blok": 3}}):
        assert not valid(wrong), wrong
