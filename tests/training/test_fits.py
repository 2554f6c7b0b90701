"""A score of scenes that are not such as the model is for: converted as for a map, else said."""

import numpy as np
import pytest
import rasterio
import world

import labelscape as ls
from labelscape.datasets.own import open_dataset
from labelscape.errors import BadInput
from labelscape.evaluation.measure import evaluate as measured


def declared(path, pixels, offset, like, left=0):
    """A scene of reflectances that are stored times 10,000, with an offset."""
    with rasterio.open(like) as old:
        profile = {**old.profile, "transform": old.transform.translation(left, 0) @ old.transform}
    with rasterio.open(path, "w", **profile) as file:
        file.write((pixels.astype(int) - round(offset * 10_000)).astype(profile["dtype"]))
        file.scales, file.offsets = [1e-4] * file.count, [offset] * file.count
    return path


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("units")
    made = world.make(folder, 300, 800)
    labels = world.label_raster(made, folder / "labels.tif")
    scene = declared(folder / "old.tif", made.pixels, 0, made.scene)
    data = {"images": [str(scene)], "labels": [str(labels)], "block": 32}
    recipe = ls.make_recipe(
        data=data, network="fcn", options={"widths": [8, 8, 8, 8]}, steps=40, crop=32, batch=4, device="cpu"
    )
    ls.train(recipe, folder / "run")
    return folder / "run" / "fcn.safetensors", made, labels


@pytest.mark.parametrize("hold", [True, False])
def test_values_of_another_offset_are_scored_as_they_are_mapped(trained, tmp_path, hold):
    """Sentinel-2 since 2022: the same reflectance, 1000 higher."""
    model, made, labels = trained
    scene = declared(tmp_path / "new.tif", made.pixels, -0.1, made.scene)
    ls.map_scene(model, scene, tmp_path / "map", polygons=False, report=False, device="cpu")
    of_map = ls.evaluate(tmp_path / "map" / "new_class.tif", labels=labels)
    with open_dataset(
        [scene], [labels], spec=ls.LabelRules(legend=ls.load(model).legend), hold=hold
    ) as dataset:
        own = measured(model, dataset, device="cpu")
        fitted = ls.calibrate(model, dataset, part=None, device="cpu")
    np.testing.assert_array_equal(own.confusion.counts, of_map.confusion.counts)
    found = ls.evaluate(model, scene, labels, device="cpu")
    np.testing.assert_array_equal(found.confusion.counts, of_map.confusion.counts)
    assert any("values are converted, as for a map" in note for note in found.notes)
    # The reflectances are those of training.
    as_learned = ls.evaluate(model, model.parents[1] / "old.tif", labels, device="cpu").metrics
    assert found.metrics["overall_accuracy"] == pytest.approx(as_learned["overall_accuracy"], abs=0.002)
    assert fitted.ece_after < 0.1


def test_a_scene_that_a_map_refuses_is_scored_with_a_note(trained, tmp_path, run_cli):
    model, made, labels = trained
    other = world.write(tmp_path / "other.tif", (made.pixels // 40).astype(np.uint16))
    with pytest.raises(BadInput) as refused:
        ls.map_scene(model, other, tmp_path / "map", device="cpu")
    (cause,) = [line for line in str(refused.value).split("fit this model: ")[1:]]
    found = ls.evaluate(model, other, labels, device="cpu")
    said = [note for note in found.notes if "other does not fit fcn, and a map of it is refused" in note]
    assert said and cause.split(":")[0] in said[0]
    code, _, err = run_cli("evaluate", model, other, "--labels", labels, "--device", "cpu")
    assert code == 0 and "does not fit fcn" in err
    # Its own held-out blocks are what it is for.
    assert not any("fit" in note for note in ls.evaluate(model, device="cpu").notes)


def test_a_comparison_says_whom_a_scene_does_not_fit(trained, tmp_path):
    model, made, labels = trained
    other = world.write(tmp_path / "other.tif", (made.pixels // 40).astype(np.uint16))
    found = ls.compare([model, model], other, labels, device="cpu", replicates=200)
    assert any("other does not fit" in note for note in found.notes)
