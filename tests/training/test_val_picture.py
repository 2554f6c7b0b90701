"""The picture of the validation blocks: labels and map, decimated, in the legend's colours."""

from types import SimpleNamespace

import numpy as np
import pytest
import world
from PIL import Image

from labelscape.grid import Grid, Window
from labelscape.legend import IGNORE, Legend
from labelscape.training.val_picture import GAP, ValPicture

LEGEND = Legend.of_names(("water", "field", "forest"))


def scene(height: int, width: int) -> SimpleNamespace:
    return SimpleNamespace(scene=SimpleNamespace(grid=Grid(world.UTM, world.NORTH_UP, height, width)))


def scored(picture: ValPicture, truth: np.ndarray, made: np.ndarray, side: int) -> None:
    """Tile by tile, as an evaluation does."""
    with picture.watch("one", scene(*truth.shape)) as see:
        for window in Window(0, 0, *truth.shape).blocks(side):
            inside = window.inset_of(Window(0, 0, *truth.shape))
            see(window, truth[inside], made[inside])


@pytest.mark.parametrize(("shape", "side"), [((70, 90), 32), ((1000, 700), 128), ((963, 1441), 100)])
def test_every_nth_pixel_of_labels_and_map(tmp_path, shape, side):
    truth, made = world.paint(*shape), world.paint(*shape, seed=4)
    picture = ValPicture()
    scored(picture, truth, made, side)
    picture.save(tmp_path / "a.png", LEGEND)
    colors = np.array(Image.open(tmp_path / "a.png"))
    every = -(-max(shape) // 480)
    left, right = truth[::every, ::every], made[::every, ::every]
    table = np.array([one.color for one in LEGEND.classes])
    assert colors.shape == (left.shape[0], 2 * left.shape[1] + GAP, 4)
    assert (colors[:, : left.shape[1], :3] == table[left]).all()
    assert (colors[:, left.shape[1] + GAP :, :3] == table[right]).all()
    assert not colors[:, left.shape[1] : left.shape[1] + GAP, 3].any()


def test_tiles_of_other_parts_are_left_out(tmp_path):
    truth, made = world.paint(96, 96), world.paint(96, 96, seed=4)
    truth[:32], truth[:, 64:] = IGNORE, IGNORE
    picture = ValPicture()
    scored(picture, truth, made, 32)
    # Cut to the tiles with labels.
    assert (picture.scenes[0][1] == made[32:, :64]).all()
    scored(picture, np.full((9, 9), IGNORE, np.uint8), made[:9, :9], 32)
    assert len(picture.scenes) == 1
    ValPicture().save(tmp_path / "none.png", LEGEND)
    assert not (tmp_path / "none.png").exists()
