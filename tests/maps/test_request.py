"""A map as one value: what is wrong with it, what its settings decide, and that it makes the map again."""

import base64
import hashlib
import inspect
import io
import json
import os
import re
import shutil
from dataclasses import replace
from typing import get_type_hints

import numpy as np
import pytest
import rasterio
import torch
import world
from PIL import Image

import labelscape as ls
from labelscape.checkpoint import Checkpoint, load, save
from labelscape.contract.contract import Contract
from labelscape.errors import BadInput, BadOption, UnknownName, WrongType
from labelscape.files import stem_of
from labelscape.maps.journal import tile_key
from labelscape.maps.request import Affects, MapRequest, MapSettings
from labelscape.maps.work import fitting
from labelscape.nets.catalog import create_model
from labelscape.scoring.engines import state_arrays
from labelscape.scoring.scorer import Scorer
from labelscape.scoring.stitch import plan_for

SMALL = {"tile_size": 128, "overlap": 16, "blend": "hann", "device": "cpu"}


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    """Two checkpoints, two scenes and an area of the first scene."""
    folder = tmp_path_factory.mktemp("stored")
    for name, seed in (("a", 0), ("b", 1)):
        torch.manual_seed(seed)
        net = create_model("fcn", in_channels=3, classes=3, widths=(4, 4, 4, 4))
        checkpoint = Checkpoint(
            network="fcn",
            options={"widths": [4, 4, 4, 4]},
            weights=state_arrays(net),
            legend=world.LEGEND,
            contract=Contract(bands=("1", "2", "3"), dtype="uint16", normalisation=((4500.0, 2000.0),) * 3),
        )
        save(checkpoint, folder / f"{name}.safetensors")
    one = world.make(folder, 200, 260, name="one")
    world.make(folder, 200, 260, seed=1, name="two")
    world.rectangle(one, folder / "area.geojson", 20, 30, 150, 200)
    return folder


def key_of(request: MapRequest, device: str = "cpu") -> dict:
    """The tile key of a request, by way of everything that goes into one."""
    models = [load(path) for path in request.checkpoint]
    with fitting(models[0], request.scene, request) as (scene, _, _):
        scorer = Scorer.of(models, device="cpu", precision=request.precision, protocol=request.protocol)
        sizes = {"tile_size": request.tile_size, "overlap": request.overlap, "blend": request.blend}
        # Where it is chosen: one that is named, torch for a scene as small as this.
        engine = "torch" if request.engine == "auto" else request.engine
        return tile_key(request, models, scene, plan_for(scorer, scene, **sizes), device, engine=engine)


def test_tiles_are_kept_exactly_where_no_setting_changes_their_values(stored):
    base = MapRequest(checkpoint=stored / "a.safetensors", scene=stored / "one.tif", **SMALL)
    others = {
        "checkpoint": stored / "b.safetensors",
        "scene": stored / "two.tif",
        "name": "mine",
        "task": "road",
        "tile_size": 160,
        "overlap": 32,
        "blend": "crop",
        "tta": "mirror",
        "scales": (1.0, 1.5),
        "average": "logits",
        "reject": 0.5,
        "entropy": True,
        "unfamiliar": True,
        "proba": True,
        "sieve": 1.0,
        "polygons": False,
        "polygons_as": "fgb",
        "min_area": 0.5,
        "simplify": 3.0,
        "report": False,
        "nodata": 7.0,
        "band_names": ("a", "b", "c"),
        "asset": "visual",
        "area": stored / "area.geojson",
        "allow_remote": True,
        "device": "auto",
        "precision": "bf16",
        "engine": "openvino",
        "force": True,
        "creation_options": ("COMPRESS=LZW",),
    }
    assert set(others) == set(MapRequest.model_fields)
    key = key_of(base)
    assert key == key_of(base.replace())
    for name, other in others.items():
        changed = base.replace(**{name: other})
        assert getattr(changed, name) != getattr(base, name)
        (kind,) = [about for about in MapRequest.model_fields[name].metadata if isinstance(about, Affects)]
        assert (key_of(changed) != key) == (kind is Affects.TILES), name
    assert key_of(base, device="cuda") != key  # its sums differ in the last digit, wherever it was asked for


def test_the_same_model_elsewhere_and_the_default_size_said_aloud_keep_tiles(stored, tmp_path):
    base = MapRequest(checkpoint=stored / "a.safetensors", scene=stored / "one.tif")
    copy = save(load(stored / "a.safetensors"), tmp_path / "copy.safetensors")
    assert key_of(base.replace(checkpoint=copy)) == key_of(base)
    assert key_of(base.replace(blend="crop")) == key_of(base)  # what this network gets anyway
    again = save(replace(load(copy), temperature=2.0), copy)
    assert key_of(base.replace(checkpoint=again)) != key_of(base)


def test_everything_wrong_is_said_at_once():
    with pytest.raises(BadOption) as told:
        MapRequest(
            tile_size=0,
            blend="han",
            tta="flip",
            scales=(1, 99),
            reject=70,
            sieve=-1,
            min_area=float("inf"),
            polygons_as="gpk",
            precision="64",
            device="cuba",
            name="a/b",
            polygon=True,
        )
    heading, *problems = str(told.value).splitlines()
    assert heading == "These settings are invalid:" and len(problems) == 12
    for said in (
        "tile_size=0",
        "Did you mean 'hann'?",
        "Did you mean 'flips'?",
        "scales=(1.0, 99.0)",
        "`reject=70.0` must be between 0 and 1",
        "-1; a number above 0",
        "min_area=inf",
        "Did you mean 'gpkg'?",
        "'64'",
        "Did you mean 'cuda'?",
        "without folders",
        "Did you mean 'polygons'?",
    ):
        assert sum(said in problem for problem in problems) == 1, said
    with pytest.raises(UnknownName, match="No setting of a map is called 'tile'"):
        ls.map_scene("m.safetensors", "s.tif", "map", tile=3)
    with pytest.raises(BadOption, match="needs a checkpoint and a scene"):
        ls.map_scene(out="map")
    with pytest.raises(BadOption, match="protocol and tta set the same thing"):
        ls.map_scene("m.safetensors", "s.tif", "map", protocol=ls.Protocol(), tta="mirror")
    for checkpoint, out, said in (
        (3, "map", "found a int"),
        ("m.safetensors", None, r"\(out\) must be given"),
    ):
        with pytest.raises(WrongType, match=said):
            ls.map_scene(checkpoint, "s.tif", out)


def test_names_that_windows_forbids_do_not_start_file_names_there():
    assert stem_of('urn:item/a?"b', "win32") == "urn_item_a__b"
    assert stem_of("urn:item", "linux") == "urn:item"


def test_a_device_that_only_this_machine_lacks_is_no_mistake():
    assert MapRequest(device="cuda:7").device == "cuda:7"


def test_map_and_check_take_every_setting_and_say_so():
    settings = get_type_hints(MapSettings)
    assert set(settings) == set(MapRequest.model_fields) - {"checkpoint", "scene"}
    for name, kind in settings.items():
        if name != "area":  # paths become text
            assert MapRequest.model_fields[name].annotation == kind, name
    for function in (ls.map_scene, ls.check):
        shown = inspect.signature(function).parameters
        assert {n: shown[n].default for n in settings} == {
            n: MapRequest.model_fields[n].default for n in settings
        }


def test_help_explains_every_setting():
    for function in (ls.map_scene, ls.check):
        text = " ".join(inspect.getdoc(function).split())
        for name in get_type_hints(MapSettings):
            default = MapRequest.model_fields[name].default
            assert re.search(rf" {name} [A-Za-z0-9(].{{10,}}? \[{re.escape(repr(default))}\] ", text), name
    assert "tta Test-time augmentation: none, mirror (left-right), flips (4 images) or dihedral (8)." in text
    shown = inspect.getdoc(ls.map_scene)
    assert "rasterio dataset" in shown and "ArrayScene" in shown and "DataArray" in shown
    assert all(len(line) <= 110 for line in shown.splitlines()) and "{settings}" not in shown + text


def test_requests_are_values_of_plain_types(tmp_path):
    request = MapRequest(
        checkpoint=[tmp_path / "a", "b"],
        scene=tmp_path,
        tile_size=np.int64(5),
        scales=2,
        nodata=np.float32(1),
    )
    assert request.checkpoint == (str(tmp_path / "a"), "b") and request.scene == str(tmp_path)
    assert json.loads(json.dumps(request.model_dump(mode="json"))) == {
        **MapRequest().model_dump(mode="json"),
        "checkpoint": [str(tmp_path / "a"), "b"],
        "scene": str(tmp_path),
        "tile_size": 5,
        "scales": [2.0],
        "nodata": 1.0,
    }
    assert request == MapRequest(**request.model_dump(mode="json")) != request.replace(tta="mirror")
    assert request.replace(tta="mirror").protocol == ls.Protocol((2.0,), "mirror")


def test_a_request_makes_the_map_that_its_settings_make(stored, tmp_path):
    files = stored / "a.safetensors", stored / "one.tif"
    said = {"tta": "mirror", "scales": (1.0, 1.25), "average": "logits", **SMALL, "report": False}
    one = ls.map_scene(*files, tmp_path / "one", **said)
    asked = MapRequest(checkpoint=files[0], scene=files[1], **said)
    two = ls.map_scene(out=tmp_path / "two", request=asked)
    rest = {name: value for name, value in said.items() if name not in ("tta", "scales", "average")}
    protocol = ls.Protocol((1.0, 1.25), "mirror", "logits")
    three = ls.map_scene(*files, tmp_path / "three", protocol=protocol, **rest)
    four = ls.map_scene(*files, tmp_path / "four", request=asked, tta="none")
    for kind in ("class", "confidence"):
        first, second, third, other = (r.paths[kind].read_bytes() for r in (one, two, three, four))
        assert first == second == third != other
    run = json.loads(two.paths["run"].read_text())
    assert MapRequest(**run["request"]) == asked
    plans = [
        ls.check(*files, timing=False, **said).plan,
        ls.check(request=asked, timing=False).plan,
        ls.check(*files, timing=False, protocol=protocol, **rest).plan,
    ]
    assert plans[0] == plans[1] == plans[2] != ls.check(*files, timing=False, **rest).plan


def test_run_files_of_older_versions_make_the_map_again(stored, tmp_path):
    files = stored / "a.safetensors", stored / "one.tif"
    made = ls.map_scene(*files, tmp_path / "new", tta="flips", reject=0.4, name="mine", report=False, **SMALL)
    run = json.loads(made.paths["run"].read_text())
    old = {key: run[key] for key in ("models", "scene", "name")}
    old["options"] = {
        "tile_size": 128,
        "overlap": 16,
        "blend": "hann",
        "protocol": {"scales": [1.0], "flips": "flips", "merge": "probabilities"},
        "reject": 0.4,
        "entropy": False,
        "proba": False,
        "sieve": 0.0,
        "polygons": True,
        "polygons_as": "gpkg",
        "min_area": 0.0,
        "simplify": 0.0,
        "report": False,
        "nodata": None,
        "area": None,
        "device": "cpu",
        "precision": "32",
        "force": False,
    }
    (tmp_path / "old_run.json").write_text(json.dumps(old))
    again = ls.rerun(tmp_path / "old_run.json", tmp_path / "again")
    for kind in ("class", "confidence"):
        assert again.paths[kind].name == f"mine_{kind}.tif"
        assert again.paths[kind].read_bytes() == made.paths[kind].read_bytes()


def test_a_checkpoint_changed_in_memory_is_not_stored(stored, tmp_path):
    checkpoint = replace(load(stored / "a.safetensors"), temperature=2.0)
    assert checkpoint.stored is None
    made = ls.map_scene(checkpoint, stored / "one.tif", tmp_path, report=False, polygons=False, **SMALL)
    assert json.loads(made.paths["run"].read_text())["request"]["checkpoint"] == []
    with pytest.raises(BadInput, match="checkpoint in memory"):
        ls.rerun(made.paths["run"], tmp_path / "again")


def test_objects_opened_from_files_make_the_map_again(stored, tmp_path):
    path = shutil.copy(stored / "b.safetensors", tmp_path / "b.safetensors")
    models = [load(stored / "a.safetensors"), path]
    with rasterio.open(stored / "one.tif") as scene:
        made = ls.map_scene(models, scene, tmp_path / "map", report=False, polygons=False, **SMALL)
    run = json.loads(made.paths["run"].read_text())
    assert run["request"]["checkpoint"] == [str(stored / "a.safetensors"), str(path)]
    assert [m["sha256"] for m in run["models"]] == [
        hashlib.sha256((stored / f"{n}.safetensors").read_bytes()).hexdigest() for n in "ab"
    ]
    assert run["scene"] == run["request"]["scene"] == str(stored / "one.tif")
    again = ls.rerun(made.paths["run"], tmp_path / "again")
    assert again.paths["class"].read_bytes() == made.paths["class"].read_bytes()
    save(replace(load(path), temperature=3.0), path)
    with pytest.raises(BadInput, match="SHA-256 differs"):
        ls.rerun(made.paths["run"], tmp_path / "third")


def test_the_file_of_a_checkpoint_is_recorded_as_it_was_loaded(stored, tmp_path):
    path = shutil.copy(stored / "a.safetensors", tmp_path / "a.safetensors")
    loaded = load(path)
    shutil.copy(stored / "b.safetensors", path)
    made = ls.map_scene(loaded, stored / "one.tif", tmp_path / "map", report=False, polygons=False, **SMALL)
    with pytest.raises(BadInput, match="SHA-256 differs"):
        ls.rerun(made.paths["run"], tmp_path / "again")


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ({"reject": "0.5"}, "`reject='0.5'` must be a number."),
        ({"sieve": "0.5"}, "`sieve='0.5'` must be a number."),
        ({"simplify": True}, "`simplify=True` must be a number."),
        ({"tile_size": 64.5}, "`tile_size=64.5` must be a whole number."),
        ({"overlap": "8"}, "`overlap='8'` must be a whole number."),
        ({"nodata": "0"}, "`nodata='0'` must be a number."),
        ({"min_area": -1}, "`min_area=-1` must be at least 0."),
        ({"min_area": float("nan")}, "`min_area=nan` must be a finite number."),
        ({"report": "yes"}, "`report='yes'` must be True or False."),
        ({"scales": "0.75,1"}, "`scales='0.75,1'` must be a number or a list of them, such as (0.75, 1.0)."),
        ({"scales": [1, "2"]}, "`scales.1='2'` must be a number."),
        ({"scales": {}}, "`scales={}` must be a list."),
        ({"precision": 32}, "`precision=32` must be text."),
    ],
)
def test_values_of_other_types_are_refused_in_our_words(setting, said):
    with pytest.raises(BadOption) as told:
        MapRequest(**setting)
    assert str(told.value) == said


def test_whole_numbers_are_numbers():
    made = MapRequest(
        reject=np.float32(0.5), sieve=2, nodata=0, scales=[np.int64(1), 2], tile_size=np.int8(9)
    )
    assert (made.reject, made.sieve, made.nodata, made.scales, made.tile_size) == (
        0.5,
        2.0,
        0.0,
        (1.0, 2.0),
        9,
    )


def test_a_result_is_short_to_read(stored, tmp_path):
    out = tmp_path / "a<b"
    files = stored / "a.safetensors", stored / "one.tif"
    made = ls.map_scene(*files, out, report=False, **SMALL)
    assert len(repr(made)) < 200 + len(str(out)) and "one_class.tif" in repr(made)
    page = made._repr_html_()
    assert "a&lt;b" in page and "a<b" not in page
    # The map itself, in its colours.
    picture = base64.b64decode(page.partition("data:image/png;base64,")[2].partition("'")[0])
    colours = {color for _, color in Image.open(io.BytesIO(picture)).convert("RGB").getcolors()}
    legend = load(files[0]).legend
    assert colours <= {one.color for one in legend.classes} | {(255, 255, 255)} and len(colours) > 1
    for area in made.areas:
        assert f"<td>{area.name}</td><td>{area.pixels:,}</td>" in page
    assert f"Seam score {made.seam:.2f}" in page
    assert made == made != replace(made) and hash(
        made
    )  # by identity: arrays and floats make no good equality


def test_what_is_no_request_is_answered(stored):
    a, one = stored / "a.safetensors", stored / "one.tif"
    with pytest.raises(WrongType, match=r"request must be a labelscape\.MapRequest; found a dict"):
        ls.check(a, one, request={"tile_size": 64})
    with pytest.raises(WrongType, match=r"protocol must be a labelscape\.Protocol; found a str"):
        ls.check(a, one, protocol="flips")
    with pytest.raises(BadOption, match="the list is empty"):
        ls.check([], one)
    with pytest.raises(BadOption) as said:
        MapRequest(scene=np.zeros((3, 100, 100)))
    assert len(str(said.value)) < 3000


def test_one_number_of_numpy_is_one_scale():
    assert MapRequest(scales=np.float32(1.5)).scales == (1.5,)
    assert MapRequest(scales=[np.float32(1.5), 1]).scales == (1.5, 1.0)


def test_no_name_leads_to_another_folder():
    assert stem_of("../a/b") == ".._a_b" and stem_of("a\0b\nc") == "a_b_c"
    for name in ("../a", "a/b", "a\0b", "a\nb"):
        with pytest.raises(BadOption, match="cannot start file names"):
            MapRequest(name=name)


def test_tiles_belong_to_a_file_however_its_path_is_written(stored, tmp_path, monkeypatch):
    here, there = tmp_path / "here", tmp_path / "there"
    for folder, name in ((here, "one"), (there, "two")):
        folder.mkdir()
        shutil.copy(stored / f"{name}.tif", folder / "scene.tif")
        os.utime(folder / "scene.tif", ns=(1, 1))
    (tmp_path / "link.tif").symlink_to(here / "scene.tif")
    for folder in (here, there):  # the same size, so that only the place tells them apart
        with open(folder / "scene.tif", "ab") as file:
            file.write(bytes(10**6 - file.tell()))
        os.utime(folder / "scene.tif", ns=(1, 1))

    def key(scene):
        return key_of(MapRequest(checkpoint=stored / "a.safetensors", scene=scene, **SMALL))

    absolute = key(here / "scene.tif")
    monkeypatch.chdir(here)
    assert key("scene.tif") == key("../here/scene.tif") == key("../link.tif") == absolute
    monkeypatch.chdir(there)
    assert key("scene.tif") != absolute
