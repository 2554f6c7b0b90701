"""Borders and fill values that nobody declares: one look in training, in `data check` and in the check of a
map; and scores that are no numbers stop a map.
"""

from dataclasses import replace

import numpy as np
import pytest
import world

from labelscape.contract.values import undeclared_nodata
from labelscape.datasets.doctor.check import check_data
from labelscape.errors import BadInput
from labelscape.maps.run import map_scene
from labelscape.scenes.mosaic import open_scene
from labelscape.scoring.scorer import Scorer
from labelscape.training.data import open_both
from labelscape.training.recipe import make_recipe


def scene(folder, value, where, dtype="float32"):
    """A scene with `value` in the pixels of `where` (H, W), and its labels."""
    made = world.make(folder, 192, 192, dtype=dtype, name=f"s{value:g}")
    pixels = made.pixels.copy()
    pixels[:, where] = value
    world.write(made.scene, pixels)
    return made.scene, world.label_raster(made, folder / "labels.tif")


def corner(size=192):
    y, x = np.mgrid[:size, :size]
    return y + x < 120


def sprinkled(size=192):
    return np.random.default_rng(0).random((size, size)) < 0.01


@pytest.mark.parametrize("value", [-9999, 1e20, -32768])
@pytest.mark.parametrize("where", [corner, sprinkled])
def test_fill_values_are_refused_before_they_are_learned(tmp_path, value, where):
    path, labels = scene(tmp_path, value, where())
    recipe = make_recipe(network="fcn", data={"images": [str(path)], "labels": [str(labels)], "block": 48})
    with pytest.raises(BadInput, match=rf"`nodata={value:g}`".replace("+", r"\+")), open_both(recipe):
        pass
    findings = check_data([path], [labels])
    assert [f.severity for f in findings if f.kind == "nodata"] == ["error"]
    declared = recipe.replace(data={**recipe.data.model_dump(), "nodata": float(value)})
    with open_both(declared) as (dataset, _):
        assert dataset.scenes[0].scene.read().valid.sum() == (~where()).sum()
    as_measured = recipe.replace(data={**recipe.data.model_dump(), "nodata": float("nan")})
    with open_both(as_measured) as (dataset, _):
        assert dataset.scenes[0].scene.read().valid.all()


@pytest.mark.parametrize("value", [0, 255])
def test_collars_of_bytes_are_refused_too(tmp_path, value):
    path, labels = scene(tmp_path, value, corner(), "uint8")
    recipe = make_recipe(network="fcn", data={"images": [str(path)], "labels": [str(labels)], "block": 48})
    with pytest.raises(BadInput, match=f"`nodata={value}`"), open_both(recipe):
        pass


def test_real_values_are_no_fill_values(tmp_path):
    rng = np.random.default_rng(0)
    # Depths in decimetres, among them -9999 itself.
    depths = rng.integers(-11000, -2000, (1, 300, 300)).astype(np.int16)
    depths[0, 5, 5] = -9999
    with open_scene(world.write(tmp_path / "depths.tif", depths)) as opened:
        assert undeclared_nodata(opened) is None


def test_scores_that_are_no_numbers_stop_the_map(tmp_path):
    made = world.make(tmp_path, 64, 64)
    checkpoint = world.tiny_checkpoint(like=made.scene)
    bad = {name: values.copy() for name, values in checkpoint.weights.items()}
    bad[sorted(bad)[-1]].ravel()[0] = np.nan
    broken = replace(checkpoint, weights=bad)
    with pytest.raises(BadInput, match="no finite numbers.*damaged"):
        Scorer.of(broken).score(made.pixels[:, :32, :32])
    with pytest.raises(BadInput, match="no finite numbers"):
        map_scene(broken, made.scene, tmp_path / "map", report=False, polygons=False, force=True)
    assert not list((tmp_path / "map").glob("*_class.tif"))
