"""Are training scenes of one kind? Other units, offsets and exchanged bands are told; other ground is not."""

import re

import numpy as np
import pytest
import rasterio
import world
from affine import Affine

from labelscape.contract.alike import seen, unlike
from labelscape.datasets.doctor.check import check_data
from labelscape.scenes.raster import Scene
from labelscape.training.data import open_both
from labelscape.training.recipe import make_recipe


def written(folder, name, change=lambda pixels: pixels, *, seed=0, units=None):
    """A scene of three bands with about as much of each class for any seed, and its labels."""
    rng = np.random.default_rng(seed)
    place = world.NORTH_UP @ Affine.translation(1000 * seed, 0)
    classes = (np.indices((96, 96)).sum(axis=0) // (20 + seed) % 3 == 0).astype(np.uint8)
    mean = np.array([[900, 700, 600], [400, 1500, 3200]])[classes].transpose(2, 0, 1)
    pixels = change(np.clip(mean + rng.normal(0, 60, mean.shape), 1, None))
    scene = world.write(folder / f"{name}.tif", pixels, transform=place)
    if units:
        with rasterio.open(scene, "r+") as file:
            file.scales, file.offsets = [units[0]] * 3, [units[1]] * 3
    return scene, world.write(folder / f"{name}_labels.tif", classes, transform=place)


def whole(pixels):
    return pixels.astype(np.uint16)


def told(*scenes):
    found = []
    for path in scenes:
        with Scene(path) as scene:
            found.append(seen(scene, scene.name))
    return unlike(found)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda p: (p + 1000).astype(np.uint16), r"of b look shifted by \+1000 in all bands \(as S"),
        (lambda p: (p / 10_000).astype(np.float32), "of b look divided by about 10000 beside those of a"),
        (lambda p: p[::-1].astype(np.uint16), "of b look exchanged in the bands 1, 3 beside those of a"),
    ],
)
def test_scenes_of_another_kind_are_told_before_training(tmp_path, change, said):
    first, labels = written(tmp_path, "a", whole)
    other, other_labels = written(tmp_path, "b", change, seed=1)
    (line,) = told(first, other)
    assert re.search(said, line)
    found = [f for f in check_data([first, other], [labels, other_labels]) if f.kind == "units"]
    assert [f.severity for f in found] == ["warning"] and re.search(said[5:30], found[0].text)
    data = {"images": [str(first), str(other)], "labels": [str(labels), str(other_labels)], "block": 48}
    with open_both(make_recipe(network="mlp", data=data)) as (dataset, _):
        assert line in dataset.report


def test_scenes_of_one_kind_are_not(tmp_path):
    one_kind = [written(tmp_path, f"s{n}", whole, seed=n)[0] for n in range(5)]
    assert told(*one_kind) == [] and told(one_kind[0]) == [] and unlike([]) == []
    # Of many the most usual is compared with, wherever it stands.
    odd = written(tmp_path, "odd", lambda p: whole(p + 1000), seed=7)[0]
    (line,) = told(odd, *one_kind)
    assert "of odd look shifted by +1000" in line
    # Files that declare their units are converted, and are of one kind by them.
    old = written(tmp_path, "old", whole, units=(0.0001, 0.0))[0]
    new = written(tmp_path, "new", lambda p: whole(p + 1000), seed=1, units=(0.0001, -0.1))[0]
    assert told(old, new) == []
