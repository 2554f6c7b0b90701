"""An option that several verbs have is declared once: one name, one meaning, one sentence of help."""

import ast
import inspect
import itertools
import re
from dataclasses import fields
from pathlib import Path
from typing import get_args

import pytest
import typer
from typer.models import OptionInfo

import labelscape
from labelscape.cli import app, check, evaluate, map, polygonize
from labelscape.cli.options import OF_MATE, OF_RECIPE, SETTINGS, Labels, as_options
from labelscape.cli.parsing import settings_of
from labelscape.cli.second_task import SecondTask
from labelscape.cli.train import Holdout
from labelscape.errors import BadOption
from labelscape.maps.request import MapRequest
from labelscape.training.recipe import Recipe, make_recipe

OF_EVALUATE = {"area", "out", "task"}
"""Of `evaluate` these say where labels are complete, not what is mapped, where details of a score go, if
anywhere, and which task is scored: one, while a map is of both.
"""
OF_CHECK = {"workers"}
"""Of `check` a question, of `map` an order."""


def options_of(verb) -> dict[str, tuple[object, OptionInfo]]:
    """Parameter -> its default and the declaration of its option."""
    return {
        name: (parameter.default, about)
        for name, parameter in inspect.signature(verb.run).parameters.items()
        for about in get_args(parameter.annotation)[1:]
        if isinstance(about, OptionInfo)
    }


@pytest.mark.parametrize("one", [map, check])
@pytest.mark.parametrize("other", [check, evaluate, polygonize])
def test_verbs_share_options_and_defaults(one, other):
    mine, others = options_of(one), options_of(other)
    for name in (mine.keys() & others.keys()) - OF_EVALUATE - OF_CHECK:
        assert mine[name] == others[name], name


def test_a_map_is_checked_and_evaluated_under_the_options_that_decide_its_values():
    shared = set(options_of(map)) & set(options_of(check)) & set(options_of(evaluate))
    tiles, machine = {"tile_size", "overlap", "blend"}, {"device", "precision"}
    assert tiles | machine | {"tta", "scales", "average", "also"} <= shared


@pytest.mark.parametrize(
    ("said", "typed"),
    [
        (
            "a.tif exists; pass `overwrite=True` to replace it.",
            "a.tif exists; pass --overwrite to replace it.",
        ),
        ("`reject=60.0` must be", "--reject 60.0 must be"),
        ("`min_area=inf` must be", "--min-area inf must be"),
        ("test-time augmentation (`tta`)", "test-time augmentation (--tta)"),
        ("`classes={'other': 0, 'road': 1}`", "--classes other=0,road=1"),
        ("`merge={'NEW': ['OLD', 'OLD']}`", "--merge NEW=OLD,OLD"),
        ("`ignore_values=[255]`", "--ignore-value 255"),
        ("`polygons=False`", "--no-polygons"),
        ("`start=a b/c.safetensors`", "--start a b/c.safetensors"),
        ("`data={'block': 64}`", "-o data.block=64"),
        ("`data.block=64`", "-o data.block=64"),
        ("`map_size=512`, `map_crop=300`", "--map-size 512, -o map_crop=300"),
        ("`scale_range=(0.5, 2.0)`", "-o scale_range=[0.5,2.0]"),
        ("`losses={'dice': 0, 'cross-entropy': 0}`", "-o losses.dice=0 -o losses.cross-entropy=0"),
        ("`losses={}`", "-o losses={}"),
        ("`losses.cross-entropy=-1.0`", "-o losses.cross-entropy=-1.0"),
        ("`mate.batch=3`, `mate.data.fold=1/5`", "--mate-batch 3, --mate-fold 1/5"),
        ("`mate.data.classes={'other': 0, 'road': 1}`", "--mate-classes other=0,road=1"),
        ("`mate.data.ignore_values`", "--mate-ignore-value"),
        ("`mate.data.pixel_size=2`", "-o mate.data.pixel_size=2"),
        ("refused by `check` in `scene.tif`", "refused by `check` in `scene.tif`"),
        ("runs/tta=none/tile_size=64.tif exists", "runs/tta=none/tile_size=64.tif exists"),
    ],
)
def test_messages_of_the_library_name_options_on_the_command_line(said, typed):
    assert as_options(said) == typed


def options_of_verbs():
    options = set()

    def collect(command):
        for one in getattr(command, "commands", {}).values():
            collect(one)
        options.update(opt for p in command.params for opt in (*p.opts, *p.secondary_opts))

    collect(typer.main.get_command(app))
    return options


def names_in_messages():
    """What texts of the library that are given to a call have in backquotes, with or without a value."""
    package = Path(labelscape.__file__).parent
    for file in package.rglob("*.py"):
        if "cli" in file.relative_to(package).parts:
            continue
        calls = [node for node in ast.walk(ast.parse(file.read_text("utf-8"))) if isinstance(node, ast.Call)]
        for node in itertools.chain.from_iterable(ast.walk(call) for call in calls):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                yield from re.findall(r"`(\w+)[=`]", node.value)


def test_every_option_that_a_message_names_is_translated():
    options = options_of_verbs()
    named = {name for name in names_in_messages() if f"--{name.replace('_', '-')}" in options}
    assert {"overwrite", "dtype", "freeze"} <= named
    assert named - set(SETTINGS.split()) == set()


def test_the_settings_of_a_recipe_without_an_option_are_set_by_name():
    options = {name[2:].replace("-", "_") for name in options_of_verbs()}
    assert set(OF_RECIPE.split()) == Recipe.model_fields.keys() - options - {"data", "options"}


def test_no_message_names_a_setting_without_backquotes():
    """As `f"crop={crop}"`: on the command line it is --crop."""
    known, found = {*SETTINGS.split(), *OF_RECIPE.split()}, []
    package = Path(labelscape.__file__).parent
    for file in package.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text("utf-8"))):
            if not (isinstance(node, ast.Call) and called(node) in ("BadOption", "BadInput", "problems")):
                continue
            for text in (one for one in ast.walk(node) if isinstance(one, ast.JoinedStr)):
                for part in text.values[:-1]:
                    end = re.search(r"(^|[^`\w.])(\w+)=$", str(getattr(part, "value", "")))
                    if end and end[2] in known:
                        found.append(f"{file.name}:{text.lineno} {end[2]}")
    assert not found, "\n".join(found)


WRONG = [
    {"losses": {"dice": 0}},
    {"losses": {"cross-entropy": -1}},
    {"aux_losses": {}},
    {"rate_factors": {"aux": -1}},
    {"freeze": "encoder", "layer_decay": 0.5, "base_steps": 0},
    {"map_steps": 3, "map_tiles": 3},
    {"scale_range": (2, 1)},
    {"scale_range": (1, 2), "scale_set": (1, 2)},
    {"scale_set": (-1,)},
    {"val_every": 5},
    {"patience": 5},
    {"accumulate": 3, "base_batch": 4},
    {"mate": {"data": {"images": ["m"]}}},
    {
        "network": "dfcnet",
        "mate": {"data": {"images": ["m"]}, "batch": 3, "scale_range": (0, 1)},
        "accumulate": 2,
    },
    {"network": "dfcnet", "mate": {"data": {"images": ["m"]}}, "options": {"mate_classes": 0}},
    {"network": "dfcnet", "options": {"mate_classes": 2}},
    {"network": "fcn", "base_steps": 5},
    {"start": "a", "base_steps": 5},
    {"warmup": 500},
    {"optimizer": "adamw", "rate": 1},
    {"data": {"images": ["a"], "holdout": 0.6, "val": 0.5}},
    {"options": {"classes": 3}},
]


@pytest.mark.parametrize("wrong", WRONG, ids=str)
def test_problems_of_a_recipe_name_settings_in_backquotes(wrong):
    with pytest.raises(BadOption) as refused:
        make_recipe(**{"data": {"images": ["a"]}, **wrong})
    said = str(refused.value)
    bare = re.sub("`[^`]*`", "", said)
    known = {*SETTINGS.split(), *OF_RECIPE.split()}
    assert not [name for name in known if "_" in name and re.search(rf"\b{name}\b", bare)], said
    assert not re.search(r"[\w.]=", bare), said


def test_what_a_message_says_can_be_typed():
    """A list and a mapping are read from -o as they are printed."""
    given = {"scale_range": [0.5, 2.0], "losses": {"dice": 0, "cross-entropy": 1.5}, "scale_set": [1]}
    said = as_options(" ".join(f"`{name}={value}`" for name, value in given.items()))
    assert settings_of(said.removeprefix("-o ").split(" -o ")) == given


def called(node):
    """The class that is raised; of `problems.append` the list of what is wrong with a recipe."""
    name = node.func.value if getattr(node.func, "attr", "") == "append" else node.func
    return getattr(name, "id", "")


def test_every_setting_that_is_translated_is_an_option():
    options = options_of_verbs()
    named = [*SETTINGS.split(), *(f"mate.data.{name}" for name in OF_MATE.split())]
    assert {name for name in named if as_options(f"`{name}`") not in options} == set()


def test_the_options_of_a_second_task_mirror_those_of_the_first():
    first = {p.name for p in (*fields(Labels), *fields(Holdout))}
    second = {p.name.removeprefix("mate_") for p in fields(SecondTask)}
    # What items may name holds for the whole process.
    assert first - {"allow_remote"} == second - {"mate", "name", "weight", "batch"}


def test_a_mistake_is_told_in_the_words_of_whoever_makes_it(run_cli, tmp_path):
    settings = {"tile_size": 0, "reject": 60, "polygons_as": "gpk", "tta": "flip"}
    with pytest.raises(BadOption) as python:
        MapRequest(**settings)
    typed = [part for name, v in settings.items() for part in (f"--{name.replace('_', '-')}", str(v))]
    # Files that are missing are told before any option is looked at.
    model, scene = tmp_path / "m.onnx", tmp_path / "s.tif"
    model.write_bytes(b"opened later")
    scene.touch()
    code, _, shell = run_cli("map", model, scene, "--out", tmp_path / "map", *typed)
    assert code == 2
    for name, start in (("tile_size", "=0"), ("reject", "=60"), ("polygons_as", ""), ("tta", "")):
        assert f"`{name}{start}" in str(python.value)
        assert f"--{name.replace('_', '-')}" in shell and f"`{name}" not in shell
