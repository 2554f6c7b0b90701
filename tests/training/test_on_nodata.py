"""Labels where the scene has no data are counted by the split, and that is said."""

import numpy as np
import pytest
import world

from labelscape.datasets.own import open_dataset
from labelscape.training.on_nodata import labels_on_nodata
from labelscape.training.recipe import make_recipe
from labelscape.training.run import train


@pytest.fixture
def half(tmp_path):
    """A scene whose left half has no data, and labels everywhere."""
    made = world.make(tmp_path, 96, 128, bands=3)
    pixels = made.pixels.copy()
    pixels[:, :, :64] = 0
    scene = world.write(tmp_path / "half.tif", pixels, nodata=0)
    return scene, made, world.label_raster(made, tmp_path / "labels.tif")


def test_the_parts_that_have_data_are_told(half):
    scene, _, labels = half
    with open_dataset([scene], [labels], shares={"train": 0.75, "test": 0.25}, block=32) as dataset:
        said = labels_on_nodata(dataset)
        known = {}
        for part in ("train", "test"):
            (one,) = dataset.part(part)
            known[part] = np.count_nonzero(one.read(one.scene.grid.window, part)[1] != 255)
    assert said.startswith("50 % of the labelled pixels")
    for part, pixels in known.items():
        assert f"{part} {100 * pixels / sum(known.values()):.0f} %" in said
    assert "val" not in said


def test_it_is_said_before_training_and_only_then(half, tmp_path):
    scene, made, labels = half
    fields = {"network": "fcn", "options": {"widths": [4, 4, 4, 4]}, "batch": 2, "crop": 16, "steps": 1}
    for image, expected in ((scene, 1), (made.scene, 0)):
        said, data = [], {"images": [str(image)], "labels": [str(labels)], "block": 32}
        train(make_recipe(**fields, data=data, device="cpu"), tmp_path / image.stem, say=said.append)
        assert sum("lie where the scenes have no data" in line for line in said) == expected
