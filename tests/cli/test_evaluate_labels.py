"""`evaluate` reads labels as training did, but for what is named on its command line."""

import json

import numpy as np
import pytest
import world

from labelscape.checkpoint import Checkpoint, save
from labelscape.contract.contract import Contract
from labelscape.datasets.doctor.check import check_data
from labelscape.datasets.own import open_dataset
from labelscape.errors import BadOption
from labelscape.labels.rules import SETTINGS
from labelscape.legend import Legend
from labelscape.nets.catalog import create_model
from labelscape.scoring.engines import state_arrays
from labelscape.training.recipe import make_recipe


@pytest.fixture
def w(tmp_path):
    return world.make(tmp_path, 64, 80)


def model(tmp_path, names, **data):
    """An untrained network whose recipe says how its labels were read."""
    options = {"widths": [4, 4, 4, 4]}
    net = create_model("fcn", in_channels=3, classes=len(names), **options)
    checkpoint = Checkpoint(
        network="fcn",
        options=options,
        weights=state_arrays(net),
        legend=Legend.of_names(names),
        recipe=make_recipe(network="fcn", data={"images": ["trained.tif"], **data}).model_dump(mode="json"),
        contract=Contract(
            bands=("band 1", "band 2", "band 3"), dtype="uint16", normalisation=((1000.0, 500.0),) * 3
        ),
    )
    return save(checkpoint, tmp_path / "m.safetensors")


def labelled(run_cli, *command):
    """Labelled pixels per class of a score, and what was said."""
    code, out, err = run_cli("evaluate", *command, "--device", "cpu", "--json")
    assert code == 0, err
    counts = json.loads(out)["confusion"]
    return (np.sum(counts["counts"], axis=1) + counts["unpredicted"]).tolist(), err


def test_an_area_of_training_is_missed_and_can_be_named(w, tmp_path, run_cli):
    water = world.label_polygons(w, tmp_path / "water.gpkg", only=(0,))
    area = world.rectangle(w, tmp_path / "area.geojson", 0, 0, 64, 40)
    path = model(tmp_path, ["other", "water"], background="other", area="town.geojson", class_column="kind")
    wet = w.classes == 0
    counts, said = labelled(run_cli, path, w.scene, "--labels", water)
    assert counts == [int((~wet).sum()), int(wet.sum())]
    assert "warning: training used labels only inside town.geojson" in said
    assert "every pixel without a label counts as 'other'" in said
    counts, said = labelled(run_cli, path, w.scene, "--labels", water, "--area", area)
    assert counts == [int((~wet[:, :40]).sum()), int(wet[:, :40].sum())]
    assert "warning" not in said
    # A raster says itself what is unlabelled: there the background stands for nothing.
    raster = world.label_raster(w, tmp_path / "l.tif", values=(1, 0, 255))
    counts, said = labelled(run_cli, path, w.scene, "--labels", raster, "--classes", "other=0,water=1")
    assert counts == [int((w.classes == 1).sum()), int(wet.sum())]
    assert "only inside town.geojson" in said and "counts as 'other'" not in said


def test_what_is_named_replaces_what_training_said(w, tmp_path, run_cli):
    polygons = world.label_polygons(w, tmp_path / "fields.gpkg", column="crop")
    path = model(
        tmp_path, ["land", "wet"], class_column="kind", merge={"land": ["field", "wood"], "wet": ["water"]}
    )
    code, _, err = run_cli("evaluate", path, w.scene, "--labels", polygons)
    assert code == 2 and "No column of" in err and "'kind'" in err
    water, field, forest = np.bincount(w.classes.ravel(), minlength=3).tolist()
    counts, _ = labelled(run_cli, path, w.scene, "--labels", polygons, "--class-column", "crop")
    assert counts == [field, water]  # no polygon is called wood, and forest is not used
    merge = ("--merge", "land=field,forest", "--merge", "wet=water")
    counts, _ = labelled(run_cli, path, w.scene, "--labels", polygons, "--class-column", "crop", *merge)
    assert counts == [field + forest, water]


def test_a_raster_that_lacks_a_merged_class_is_scored(w, tmp_path, run_cli):
    path = model(tmp_path, ["wood", "water"], merge={"wood": ["class 5", "class 9"], "water": ["class 2"]})
    labels = world.label_raster(w, tmp_path / "labels.tif", values=(2, 5, 5))
    water = int((w.classes == 0).sum())
    counts, _ = labelled(run_cli, path, w.scene, "--labels", labels)
    assert counts == [w.classes.size - water, water]
    counts, _ = labelled(run_cli, path, w.scene, "--labels", labels, "--ignore-value", 5)
    assert counts == [0, water]


def test_options_that_would_not_be_read_are_refused(w, tmp_path, run_cli):
    path = model(tmp_path, ["a", "b"])
    code, _, err = run_cli("evaluate", path, "--class-column", "kind", "--area", "a.gpkg")
    assert code == 2 and "--class-column, --area describe the labels of other scenes" in err
    code, _, err = run_cli("evaluate", path, tmp_path, "--dataset", "camvid", "--nodata", 0)
    assert code == 2 and "leave --nodata out" in err
    code, _, err = run_cli("evaluate", path, w.scene, "--labels", w.scene, "--part", "val")
    assert code == 2 and "leave the scenes out" in err


@pytest.mark.parametrize("name", sorted(set(SETTINGS) - {"area"}))
def test_every_rule_of_training_is_kept(name, w, tmp_path, monkeypatch, run_cli):
    """A rule that is not handed on would be read as its default."""
    value = {"classes": {"a": 3, "b": 7}, "merge": {"a": ["c"]}, "ignore_values": [9], "threshold": 4}
    value = value.get(name, "there")
    path = model(tmp_path, ["a", "b"], **{name: value})
    seen = []

    def keep(data, *_, **__):
        seen.append(data.model_dump(mode="json")[name])
        raise SystemExit(0)

    monkeypatch.setattr("labelscape.training.data.open_recipe_data", keep)
    run_cli("evaluate", path, w.scene, "--labels", w.scene)
    assert seen == [value]


def test_scenes_may_be_a_list(w, tmp_path, run_cli):
    """A text list and a glob score the pixels of both scenes, with one file of labels for all."""
    folder = tmp_path / "scenes"
    folder.mkdir()
    two = world.make(folder, 64, 80, name="two")
    w.scene.rename(folder / "one.tif")
    (folder / "list.txt").write_text("one.tif\ntwo.tif\none.tif\n")
    labels = world.label_polygons(two, tmp_path / "labels.gpkg")
    path = model(tmp_path, list(world.LEGEND.names), class_column="kind")
    expected = (2 * np.bincount(two.classes.ravel(), minlength=3)).tolist()
    counts, said = labelled(run_cli, path, folder / "list.txt", "--labels", labels)
    assert counts == expected and "listed more than once" in said
    assert labelled(run_cli, path, f"{folder}/*.tif", "--labels", labels)[0] == expected


@pytest.fixture
def two(tmp_path):
    """Two scenes, each with a list: of the scenes, and of their label rasters in the same order."""
    made = [world.make(tmp_path, 64, 80, seed=seed, name=name) for seed, name in ((1, "west"), (2, "east"))]
    for one in made:
        world.label_raster(one, tmp_path / f"{one.scene.stem}_labels.tif")
    (tmp_path / "scenes.txt").write_text("west.tif\neast.tif\n")
    (tmp_path / "labels.txt").write_text("west_labels.tif\neast_labels.tif\n")
    return made


def test_labels_are_listed_as_scenes_are(two, tmp_path, run_cli):
    path = model(tmp_path, ["class 0", "class 1", "class 2"])
    lists = tmp_path / "scenes.txt", "--labels", tmp_path / "labels.txt"
    pixels = np.sum([np.bincount(one.classes.ravel(), minlength=3) for one in two], axis=0).tolist()
    assert labelled(run_cli, path, *lists)[0] == pixels
    # Sorted, east is first: for each scene the other one's labels, which are as many.
    one_by_one = [one.scene for one in two[::-1]]
    assert labelled(run_cli, path, *one_by_one, "--labels", f"{tmp_path}/*_labels.tif")[0] == pixels
    code, out, err = run_cli("data", "check", *lists)
    assert code == 0 and "2 scenes: 0 errors" in out, err
    code, _, err = run_cli(
        "train", *lists, "--network", "fcn", "--block", 16, "--out", tmp_path / "t", "--dry-run"
    )
    assert code == 0, err


def test_an_asset_of_an_item_is_scored_as_it_is_mapped(two, tmp_path, run_cli):
    west, east = two
    files = {"data": west.scene.name, "visual": east.scene.name}
    assets = {key: {"href": name, "type": "image/tiff", "roles": [key]} for key, name in files.items()}
    fields = {"type": "Feature", "stac_version": "1.0.0", "id": "x", "geometry": None, "properties": {}}
    item = tmp_path / "item.json"
    item.write_text(json.dumps({**fields, "links": [], "assets": assets}))
    path = model(tmp_path, ["class 0", "class 1", "class 2"])

    def scored(*scene):
        out = run_cli("evaluate", path, *scene, "--labels", labels, "--device", "cpu", "--json")[1]
        return json.loads(out)["confusion"]

    labels = tmp_path / "east_labels.tif"
    assert scored(item, "--asset", "visual") == scored(east.scene) != scored(item)
    said = run_cli("evaluate", path, east.scene, "--asset", "visual", "--labels", labels)[2]
    assert "chooses among the assets of STAC items, and there is no item" in said
    found = check_data([item], [labels], asset="visual")
    assert [one for one in found if one.severity == "error"] == []
    with pytest.raises(BadOption, match="there is no item"):
        open_dataset(east.scene, labels, asset="visual")
    # Recipes of earlier versions stay the same, to the byte.
    assert (
        "asset" not in make_recipe(network="fcn", data={"images": ["a.tif"]}).model_dump(mode="json")["data"]
    )
