"""Corrections of a map are learned, recorded, and safe to resume; scores stay on labels nobody corrected."""

import numpy as np
import pytest
import world

from labelscape.checkpoint import load, save
from labelscape.errors import BadFile, BadOption
from labelscape.scoring.scorer import predict
from labelscape.training.outputs import state_path
from labelscape.training.recipe import make_recipe
from labelscape.training.run import train

TINY = {
    "network": "mlp",
    "base_steps": 0,
    "optimizer": "adamw",
    "options": {"widths": [8, 8, 8, 8], "hidden": 16},
    "crop": 32,
    "batch": 8,
    "device": "cpu",
    "rate": 0.005,
    "augment": "none",
}


@pytest.fixture
def wrong(tmp_path):
    """A scene of stripes whose labels call forest in the upper half a field; every class looks different."""
    classes = np.repeat(np.arange(8) % 3, 16)[None].repeat(96, 0).astype(np.uint8)
    scene = world.write(tmp_path / "scene.tif", world.spectra(classes, 3, "uint16"))
    labels = np.where(classes == 2, 1, classes).astype(np.uint8)
    world.write(tmp_path / "labels.tif", labels)
    data = {
        "images": [str(scene)],
        "labels": [str(tmp_path / "labels.tif")],
        "classes": {"water": 0, "field": 1, "forest": 2},
        "block": 16,
    }
    return {"data": data, **TINY}, classes, world.World(scene, classes, None, world.UTM, world.NORTH_UP)


def answered(path, one, classes, wanted=2):
    """A corrections file that names the true class of all pixels of one class, as polygons."""
    import pyogrio
    import shapely
    from rasterio.features import shapes

    found = [shapely.geometry.shape(g) for g, v in shapes(classes, transform=one.transform) if v == wanted]
    names = np.array([world.LEGEND.names[wanted]] * len(found), object)
    pyogrio.raw.write(
        path, shapely.to_wkb(found), [names], ["class_right"], geometry_type="Polygon", crs="EPSG:32633",
        driver="GPKG",
    )  # fmt: skip
    return path


def test_a_corrected_area_is_learned_from_the_model_that_was_wrong(tmp_path, wrong):
    fields, classes, one = wrong
    train(make_recipe(**fields, steps=60), tmp_path / "old")
    start = tmp_path / "old" / "mlp.safetensors"
    pixels = world.spectra(classes, 3, "uint16")
    before = predict(load(start), pixels).argmax(0)
    assert (before == 2).mean() < 0.01, "it never saw a forest"

    file = answered(tmp_path / "review.gpkg", one, classes)
    data, said = {**fields["data"], "corrections": [str(file)]}, []
    recipe = make_recipe(**{**fields, "data": data}, steps=60, start=str(start))
    done = train(recipe, tmp_path / "new", say=said.append)
    after = predict(done, pixels).argmax(0)
    assert (after == classes)[classes == 2].mean() > 0.7
    assert (after == classes)[classes != 2].mean() > 0.8
    (what,) = done.corrections
    assert what["changed"] == what["pixels"] > 1000 and what["held_out"] > 0
    assert any("corrections of review.gpkg" in line for line in said)
    # Held-out labels still call forest a field: the two scores are of the same labels.
    old, new = (load(p).scores["mlp"] for p in (start, tmp_path / "new" / "mlp.safetensors"))
    assert old["labelled_pixels"] == new["labelled_pixels"]
    supports = [[c["support"] for c in one["classes"]] for one in (old, new)]
    assert supports[0] == supports[1] and supports[1][2] == 0

    read = load(tmp_path / "new" / "mlp.safetensors")
    assert read.corrections == done.corrections
    assert read.recipe["data"]["corrections"] == [str(file)]
    path = save(read, tmp_path / "again.safetensors")
    assert path.read_bytes() == (tmp_path / "new" / "mlp.safetensors").read_bytes()


def test_a_run_without_corrections_stores_nothing_of_them(tmp_path, wrong):
    fields, *_ = wrong
    done = train(make_recipe(**fields, steps=1), tmp_path, score=False)
    assert "corrections" not in done.describe() and "corrections" not in done.recipe["data"]


def test_a_start_that_has_seen_what_is_held_out_is_named(tmp_path, wrong):
    fields, classes, one = wrong
    first = {**fields, "data": {**fields["data"], "fold": "1/3"}}
    train(make_recipe(**first, steps=1), tmp_path / "old", score=False)
    file = answered(tmp_path / "c.gpkg", one, classes)
    start = {"start": str(tmp_path / "old" / "mlp.safetensors"), "steps": 1}
    for fold, seen in (("1/3", False), ("2/3", True)):
        said, data = [], {**fields["data"], "fold": fold, "corrections": [str(file)]}
        train(make_recipe(**{**fields, "data": data}, **start), tmp_path / fold[0], say=said.append)
        assert any("trained on 100 % of the labels that are held out now" in line for line in said) == seen


def test_a_run_on_corrections_resumes_on_the_same_file_alone(tmp_path, wrong, monkeypatch):
    import labelscape.training.loop as loop

    fields, classes, one = wrong
    file = answered(tmp_path / "c.gpkg", one, classes)
    recipe = make_recipe(**{**fields, "data": {**fields["data"], "corrections": [str(file)]}}, steps=6,
                         save_every=2)  # fmt: skip
    whole = train(recipe, tmp_path / "whole", score=False)
    rate = loop.rate_at
    monkeypatch.setattr(loop, "rate_at", lambda r, step: 1 / 0 if step == 4 else rate(r, step))
    with pytest.raises(ZeroDivisionError):
        train(recipe, tmp_path / "broken", score=False)
    monkeypatch.undo()
    kept = file.read_bytes()
    file.unlink()
    # The same pixels and classes: only the file's own bytes tell that it is another.
    answered(file, one, classes)
    with file.open("ab") as end:
        end.write(b"\0")
    assert state_path(tmp_path / "broken", "mlp").exists()
    with pytest.raises(BadFile, match="other data.*data: corrections"):
        train(recipe, tmp_path / "broken", score=False)
    file.write_bytes(kept)
    resumed = train(recipe, tmp_path / "broken", score=False)
    for name, value in whole.weights.items():
        np.testing.assert_array_equal(value, resumed.weights[name])


def test_published_sets_take_no_corrections():
    with pytest.raises(BadOption, match="not of a published data set"):
        make_recipe(data={"images": ["x"], "dataset": "camvid", "corrections": ["c.gpkg"]})


def test_the_command_line_takes_corrections(tmp_path, wrong, run_cli):
    _, classes, one = wrong
    file = answered(tmp_path / "c.gpkg", one, classes)
    command = [
        "train", one.scene, "--labels", tmp_path / "labels.tif", "--classes", "water=0,field=1,forest=2",
        "--block", 16, "--network", "fcn", "--steps", 2, "--batch", 2, "--crop", 32, "--device", "cpu",
        "-o", "options.widths=[4,4,4,4]", "--out", tmp_path / "out",
    ]  # fmt: skip
    code, _, err = run_cli(*command, "--corrections", file)
    assert code == 0 and "corrections of c.gpkg" in err, err
    assert load(tmp_path / "out" / "fcn.safetensors").corrections[0]["file"] == "c.gpkg"
    code, _, err = run_cli(*command, "--overwrite", "--corrections", tmp_path / "labels.tif")
    assert code == 1 and "cannot be read as a vector file" in err
