"""Statistics of bands whose values are large beside their differences: times, coordinates, kelvin."""

import numpy as np
import pytest
import rasterio
import world

from labelscape.contract.bands import band_statistics
from labelscape.datasets.doctor.check import check_data
from labelscape.errors import BadInput
from labelscape.scenes.raster import Scene
from labelscape.training.data import contract_of, open_recipe_data
from labelscape.training.recipe import make_recipe

SIZE = 96, 700
"""Two blocks of 512 pixels: sums are of several blocks."""


def written(path, values, like):
    with rasterio.open(like) as old:
        profile = {**old.profile, "dtype": values.dtype, "count": 1, "nodata": None}
    with rasterio.open(path, "w", **profile) as file:
        file.write(values, 1)
    return path


@pytest.fixture
def made(tmp_path):
    place = world.make(tmp_path, *SIZE, bands=1)
    labels = world.label_raster(place, tmp_path / "labels.tif")
    values = np.random.default_rng(0).normal(100, 50, SIZE)

    def make(offset, factor, dtype):
        return written(tmp_path / "s.tif", (offset + factor * values).astype(dtype), place.scene), labels

    return make


@pytest.mark.parametrize(
    ("offset", "factor", "dtype"),
    [
        (0, 1, "float64"),
        (1e9, 1, "float64"),
        (-1e12, 1, "float64"),
        (1.7e9, 1, "int32"),
        (1e15, 1000, "int64"),
        (1e6, 0.01, "float32"),
        (5.8e6, 10, "float64"),
    ],
)
def test_the_deviation_of_large_values_is_that_of_numpy(made, offset, factor, dtype):
    path, _ = made(offset, factor, dtype)
    with rasterio.open(path) as file:
        values = file.read(1).astype(np.longdouble)
    with Scene(path) as scene:
        (found,) = band_statistics([scene])
    assert found.std == pytest.approx(float(values.std()), rel=1e-4)
    assert found.mean == pytest.approx(float(values.mean()), rel=1e-12)


@pytest.mark.parametrize(
    ("offset", "factor", "dtype", "said"),
    [
        (1e9, 1, "float64", "mean is 1e[+]09 and its deviation 50.* 64 apart. Subtract 1e[+]09"),
        (1.7e9, 1, "int32", "128 apart"),
        (0, 1e-300, "float64", "1e-37 apart. Multiply it"),
        (1e6, 1, "float64", None),
        (1e6, 0.01, "float32", None),
        (0, 1e-30, "float32", None),
        (20_000, 1, "uint16", None),
    ],
)
def test_values_that_32_bits_cannot_tell_apart_are_refused(made, offset, factor, dtype, said):
    """Networks would see steps of 64 in a band that varies by 50."""
    scene, labels = map(str, made(offset, factor, dtype))
    recipe = make_recipe(data={"images": [scene], "labels": [labels], "block": 32}, network="fcn")
    findings = [one for one in check_data([scene], [labels]) if one.kind == "precision"]
    with open_recipe_data(recipe.data, 0) as dataset:
        if said is None:
            assert contract_of(recipe, dataset).normalisation[0][1] > 0
            assert not findings
            return
        with pytest.raises(BadInput, match=said):
            contract_of(recipe, dataset)
    assert [one.severity for one in findings] == ["error"]


def test_a_constant_band_is_no_reason_to_refuse(made):
    scene, labels = map(str, made(1e9, 0, "float64"))
    recipe = make_recipe(data={"images": [scene], "labels": [labels], "block": 32}, network="fcn")
    with open_recipe_data(recipe.data, 0) as dataset:
        assert contract_of(recipe, dataset).normalisation == ((1e9, 0.0),)
