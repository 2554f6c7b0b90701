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
from labelscape.grid import Window
from labelscape.maps.plan import check
from labelscape.maps.run import map_scene
from labelscape.scenes.mosaic import open_scene
from labelscape.scenes.raster import FileScene
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


@pytest.mark.parametrize(
    ("value", "dtype", "typed"),
    [
        (-9999.123, "float32", "-9999.123"),
        (-9999.123456, "float64", "-9999.123456"),
        (-1234567.0, "float32", "-1234567"),
        (-2147483648, "int32", "-2147483648"),
        (-(2**63), "int64", "-9223372036854775808"),
        (-9999, "int16", "-9999"),
    ],
)
def test_the_value_that_is_suggested_is_that_of_the_pixels(tmp_path, value, dtype, typed):
    made = world.make(tmp_path, 192, 192, dtype="int16")
    pixels = made.pixels.astype(dtype)
    pixels[:, corner()] = value
    with FileScene(world.write(made.scene, pixels)) as opened:
        cause = undeclared_nodata(opened).cause
    suggested = cause.rpartition("`nodata=")[2].rstrip("`")
    assert suggested == typed
    with FileScene(made.scene, nodata=float(suggested)) as opened:
        np.testing.assert_array_equal(opened.read().valid, ~corner())


@pytest.mark.parametrize("value", [3e33, -3.4028234663852886e38, np.inf])
def test_values_beyond_all_measurements_are_left_out_and_named(tmp_path, value):
    path, labels = scene(tmp_path, value, sprinkled())
    share = f"{100 * sprinkled().mean():.2g} % of the sampled pixels of {path.stem} hold values beyond 1e+30"
    recipe = make_recipe(network="fcn", data={"images": [str(path)], "labels": [str(labels)], "block": 48})
    with open_both(recipe) as (dataset, _):
        assert len([line for line in dataset.report if line.startswith(share)]) == 1
        assert dataset.scenes[0].scene.read().valid.sum() == (~sprinkled()).sum()
    found = [f for f in check_data([path], [labels]) if f.kind == "nodata"]
    assert [f.severity for f in found] == ["info"] and found[0].text.startswith(share)
    checked = check(world.tiny_checkpoint(like=path), path, timing=False)
    assert [f.level for f in checked.findings if f.kind == "beyond"] == ["FITS"]


def test_what_is_declared_or_lies_outside_is_not_named(tmp_path):
    path, _ = scene(tmp_path, -3.4028234663852886e38, sprinkled())
    with open_scene(path) as opened:
        pixels = opened.read().pixels
    declared = world.write(tmp_path / "declared.tif", pixels, nodata=-3.4028234663852886e38)
    pixels[:, sprinkled()] = np.nan
    nan = world.write(tmp_path / "nan.tif", pixels, nodata=np.nan)
    with open_scene(declared) as one, open_scene(nan) as other:
        # Beside the file the resampled scene has pixels that no file covers.
        wider = other.grid.crop(Window(-64, -64, 320, 320))
        with FileScene(nan, onto=wider) as beside:
            assert [undeclared_nodata(s) for s in (one, other, beside)] == [None] * 3


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
