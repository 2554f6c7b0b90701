"""Images under other names in two parts of a split: the score is then of what was learned."""

import shutil

import numpy as np
import pytest
import world
from PIL import Image

from labelscape.datasets.doctor.check import check_data
from labelscape.datasets.own import open_dataset

SHARES = {"train": 0.6, "val": 0.2, "test": 0.2}


@pytest.fixture
def folder(tmp_path):
    """Eight pairs, of which none is like another; uncompressed images of one size."""
    rng = np.random.default_rng(0)
    for kind in ("images", "labels"):
        (tmp_path / kind).mkdir()
    for number in range(8):
        world.write(
            tmp_path / "images" / f"t{number}.tif", rng.integers(0, 255, (3, 48, 48)).astype(np.uint8)
        )
        Image.fromarray(world.paint(48, 48, seed=number)).save(tmp_path / "labels" / f"t{number}.png")
    return tmp_path


def test_copies_in_two_parts_are_told(folder):
    with open_dataset(folder, shares=SHARES) as dataset:
        assert not any("copy" in line for line in dataset.report)
    for number in range(4):
        for kind, ending in (("images", "tif"), ("labels", "png")):
            shutil.copy(folder / kind / f"t{number}.{ending}", folder / kind / f"another{number}.{ending}")
    with open_dataset(folder, shares=SHARES) as dataset:
        part = dict(zip((scene.name for scene in dataset.scenes), dataset.part_of))
        (line,) = [line for line in dataset.report if "copy" in line]
    parted = [n for n in range(4) if part[f"t{n}"] != part[f"another{n}"]]
    assert parted
    first = parted[0]
    told = f"t{first} ({part[f't{first}']}) is a copy of another{first} ({part[f'another{first}']})"
    assert line.startswith(told) and "the score is optimistic" in line
    assert (f"{len(parted) - 1} more" in line) == (len(parted) > 1)


def test_the_doctor_takes_a_folder_as_training_does(folder):
    assert check_data(str(folder)) == check_data(folder) == check_data([folder])
