"""Points of a sample on labels that the map's model was trained with, and on labels that it held out."""

import json
from dataclasses import replace

import numpy as np
import pytest
import samples
import world

from labelscape.assessment.assess import assess
from labelscape.assessment.points import read_design
from labelscape.assessment.sample import sample
from labelscape.checkpoint import save
from labelscape.datasets.own import open_dataset
from labelscape.errors import BadInput
from labelscape.labels.rules import LabelRules

SHAPE = 120, 150


@pytest.fixture
def made(tmp_path):
    """A painted scene with label polygons, the map of its classes, and a sample of that without answers."""
    painted = world.make(tmp_path, *SHAPE)
    labels = world.label_polygons(painted, tmp_path / "fields.gpkg")
    raster = samples.class_map(tmp_path / "m_class.tif", painted.classes)
    sample(raster, tmp_path / "s.gpkg", size=300, floor=20)
    return painted, labels, raster, tmp_path / "s.gpkg"


def trained_with(raster, data, painted):
    """Write the checkpoint that made the map, and the run that says so."""
    model = replace(world.ten_metre_fcn(), recipe={"data": data})
    save(model, raster.parent / "net.safetensors")
    models = [{"path": str(raster.parent / "net.safetensors"), "sha256": ""}]
    run = {"files": {"class": raster.name}, "models": models, "scene": str(painted.scene)}
    (raster.parent / "m_run.json").write_text(json.dumps(run))


def parts_of(painted, labels, design, **split):
    """The part of the split in which each point lies, from the blocks themselves; "" in none."""
    rules = LabelRules(class_column="kind", legend=world.LEGEND)
    with open_dataset([str(painted.scene)], [str(labels)], spec=rules, seed=0, **split) as opened:
        (scene,) = opened.scenes
        whole = scene.scene.grid.window
        found = np.full(whole.shape, "", object)
        for part in ("train", "val", "test"):
            found[scene.split.mask(whole, part)] = part
    return found[design.rows, design.columns]


def test_points_in_held_out_blocks_are_told_from_those_on_training_labels(made):
    painted, labels, raster, points = made
    data = {"images": [str(painted.scene)], "labels": [str(labels)], "class_column": "kind", "block": 30}
    data |= {"holdout": 0.25, "val": 0.25, "buffer": 4}
    trained_with(raster, data, painted)
    shares = {"train": 0.5, "val": 0.25, "test": 0.25}
    parts = parts_of(painted, labels, read_design(points), block=30, shares=shares, buffer=4)
    number = {part: int((parts == part).sum()) for part in ("train", "val", "test", "")}
    assert all(number.values())
    # The map is what the labels say, and so are the answers: nobody interpreted them.
    samples.answer(points, painted.classes)
    said = f"{number['train']} of 300 points lie on labels that the model was trained with, and all their"
    with pytest.raises(BadInput, match=said):
        assess(raster, points)
    trained, held, between = assess(raster, points, independent=True).notes
    assert trained.startswith(
        f"{number['train']} of 300 points lie on labels that the model was trained with."
    )
    assert f"{number['test'] + number['val']} of 300 points lie on labels that were held out" in held
    assert f"({number['test']} in test, {number['val']} in val)" in held
    assert between.startswith(f"{number['']} of 300 points lie on labels that belong to no part")
    # One answer of somebody's own on a training label is enough.
    ground = painted.classes.copy()
    design, own = read_design(points), np.flatnonzero(parts == "train")[0]
    ground[design.rows[own], design.columns[own]] = (ground[design.rows[own], design.columns[own]] + 1) % 3
    samples.answer(points, ground)
    assert len(assess(raster, points).notes) == 3


def test_a_map_of_held_out_ground_may_be_assessed_with_its_labels(made):
    """As `map --area` makes it from blocks that were held out: nothing there was learned."""
    painted, labels, raster, points = made
    data = {"images": [str(painted.scene)], "labels": [str(labels)], "class_column": "kind", "block": 30}
    trained_with(raster, data, painted)
    design = read_design(points)
    rules = {"block": 30, "shares": {"train": 0.75, "test": 0.25}}
    everywhere = replace(
        design,
        rows=np.arange(SHAPE[0] * SHAPE[1]) // SHAPE[1],
        columns=np.arange(SHAPE[0] * SHAPE[1]) % SHAPE[1],
    )
    held = (parts_of(painted, labels, everywhere, **rules) == "test").reshape(SHAPE)
    held_map = samples.class_map(raster, np.where(held, painted.classes, 255))
    sample(held_map, points, size=100, floor=20, overwrite=True)
    (note,) = assess(held_map, samples.answer(points, painted.classes)).notes
    assert note.startswith("100 of 100 points lie on labels that were held out from training (100 in test)")


def test_without_coordinates_the_scene_itself_is_known(tmp_path):
    painted = world.make(tmp_path, *SHAPE, crs=None)
    labels = world.label_raster(painted, tmp_path / "classes.tif")
    raster = samples.class_map(tmp_path / "m_class.tif", painted.classes, crs=None)
    points = tmp_path / "s.gpkg"
    sample(raster, points, size=200, floor=20)
    samples.answer(points, painted.classes)
    values = {"water": 0, "field": 1, "forest": 2}
    data = {"images": [str(painted.scene)], "labels": [str(labels)], "classes": values, "holdout": 0}
    trained_with(raster, data, painted)
    with pytest.raises(BadInput, match="200 of 200 points lie on labels that the model was trained with"):
        assess(raster, points)
    # A map of another scene of that size shows other ground.
    other = world.make(tmp_path, *SHAPE, crs=None, seed=1, name="other")
    trained_with(raster, data, other)
    assert assess(raster, points).notes == ()


def test_training_labels_are_no_reference(made, tmp_path):
    """As far as `_run.json` and the checkpoint know them; of scenes that are gone by the files of labels."""
    painted, labels, raster, points = made
    samples.answer(points, painted.classes)
    trained_with(raster, {"images": ["a.tif"], "labels": [str(labels)]}, painted)
    with pytest.raises(BadInput, match="labels that this map's model was trained with"):
        assess(raster, labels)
    (note,) = assess(raster, points).notes
    assert note.startswith(
        "300 of 300 points lie on labels of the files that the model was trained with; which"
    )
    assert "a.tif does not exist" in note
    # Only what lies in the area of training was learned, with a background all of it.
    area = world.rectangle(painted, tmp_path / "west.geojson", 0, 0, 120, 60)
    design = read_design(points)
    for background in (None, "other"):
        data = {"images": ["a.tif"], "labels": [str(labels)], "area": str(area), "background": background}
        trained_with(raster, data, painted)
        (note,) = assess(raster, points).notes
        assert note.startswith(f"{(design.columns < 60).sum()} of 300 points lie on labels")
    wet = world.label_polygons(painted, tmp_path / "wet.gpkg", only=(0,))
    trained_with(raster, data | {"labels": [str(wet)], "background": None}, painted)
    learned = (design.columns < 60) & (painted.classes[design.rows, design.columns] == 0)
    assert assess(raster, points).notes[0].startswith(f"{learned.sum()} of 300 points lie on labels")
    # Without the checkpoint nothing is known of labels.
    (tmp_path / "net.safetensors").unlink()
    assert assess(raster, points).notes == ()


def test_an_area_with_a_background_is_trained_on_where_no_polygon_lies(made, tmp_path):
    painted, _, raster, points = made
    wet = world.label_polygons(painted, tmp_path / "wet.gpkg", only=(0,))
    area = world.rectangle(painted, tmp_path / "west.geojson", 0, 0, 120, 60)
    data = {"images": [str(painted.scene)], "labels": [str(wet)], "class_column": "kind", "holdout": 0}
    trained_with(raster, data | {"area": str(area), "background": "field"}, painted)
    (note,) = assess(raster, samples.answer(points, painted.classes)).notes
    assert note.startswith(f"{(read_design(points).columns < 60).sum()} of 300 points lie on labels that the")
