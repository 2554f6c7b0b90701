"""The picture of the validation blocks: labels and map of each, decimated, in the legend's colours."""

from types import SimpleNamespace

import numpy as np
import pytest
import world
from PIL import Image

from labelscape.grid import Grid
from labelscape.legend import IGNORE, Legend
from labelscape.training import val_picture
from labelscape.training.val_picture import GAP, MOST, SEAM, ValPicture

LEGEND = Legend.of_names(("water", "field", "forest"))


def scored(picture: ValPicture, truth: np.ndarray, made: np.ndarray, tile: int, block: int) -> None:
    """Tile by tile, as an evaluation does."""
    grid = Grid(world.UTM, world.NORTH_UP, *truth.shape)
    with picture.watch("one", SimpleNamespace(scene=SimpleNamespace(grid=grid), block=block)) as see:
        for window in grid.window.blocks(tile):
            inside = window.inset_of(grid.window)
            see(window, truth[inside], made[inside])


@pytest.fixture(autouse=True)
def blocks_of_the_stand_in(monkeypatch):
    monkeypatch.setattr(val_picture, "block_side", lambda scene: scene.block)


@pytest.mark.parametrize(("tile", "block"), [(32, 64), (100, 64), (50, 300), (37, 400)])
def test_every_nth_pixel_of_labels_and_map(tile, block):
    truth, made = world.paint(300, 500), world.paint(300, 500, seed=4)
    # Two blocks have labels in this part.
    keep = np.zeros(truth.shape, bool)
    keep[:block, :block] = keep[:block, block : 2 * block] = True
    truth[~keep] = IGNORE
    picture = ValPicture()
    scored(picture, truth, made, tile, block)
    every = -(-block // val_picture.SIDE)
    assert len(picture.blocks) == 2
    for number, planes in enumerate(picture.blocks):
        inside = slice(0, block), slice(number * block, (number + 1) * block)
        assert (planes[0] == truth[inside][::every, ::every]).all()
        assert (planes[1] == made[inside][::every, ::every]).all()


def test_the_sheet_has_the_legends_colours(tmp_path):
    picture = ValPicture()
    truth, made = world.paint(64, 96), world.paint(64, 96, seed=4)
    truth[5:9] = IGNORE
    scored(picture, truth, made, 32, 48)
    assert len(picture.blocks) == 4
    picture.save(tmp_path / "a.png", LEGEND)
    colors = np.array(Image.open(tmp_path / "a.png"))
    # Three across, two down: blocks of 48 pixels, the lower ones have 16 rows.
    assert colors.shape == (2 * 48 + GAP, 3 * (2 * 48 + SEAM) + 2 * GAP, 4)
    table = np.array([(*one.color, 255) for one in LEGEND.classes] + [(0, 0, 0, 0)])
    labels, map_ = colors[:48, :48], colors[:48, 48 + SEAM : 96 + SEAM]
    assert (labels == table[np.where(truth[:48, :48] == IGNORE, 3, truth[:48, :48])]).all()
    assert (map_ == table[made[:48, :48]]).all()
    assert not colors[:, 48 : 48 + SEAM, 3].any() and not colors[48 : 48 + GAP, :, 3].any()


def test_few_blocks_are_kept_and_none_is_no_picture(tmp_path):
    picture, plane = ValPicture(), world.paint(64, 64)
    for _ in range(3):
        scored(picture, plane, plane, 16, 8)
    assert len(picture.blocks) == MOST
    nothing = ValPicture()
    scored(nothing, np.full((64, 64), IGNORE, np.uint8), plane, 16, 8)
    nothing.save(tmp_path / "none.png", LEGEND)
    assert nothing.blocks == [] and not (tmp_path / "none.png").exists()
