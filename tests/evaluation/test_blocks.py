import json
from types import SimpleNamespace

import numpy as np
import pytest
import world

import labelscape as ls
from labelscape.errors import BadInput
from labelscape.evaluation import blocks
from labelscape.evaluation.blocks import BlockCounts, BlockTally, block_side
from labelscape.evaluation.confusion import Confusion, count
from labelscape.grid import Window


def by_hand(truth, predicted, side, classes):
    """Block -> counts, from the whole arrays at once."""
    found = {}
    for window in Window(0, 0, *truth.shape).blocks(side):
        inside = window.inset_of(Window(0, 0, *truth.shape))
        counts = count(truth[inside], predicted[inside], classes)
        if counts.labelled:
            found[window] = counts
    return found


@pytest.mark.parametrize("tile", [5, 16, 23])
def test_blocks_hold_the_counts_of_their_own_pixels_however_tiles_lie(tile):
    rng = np.random.default_rng(0)
    truth, predicted = rng.choice([0, 1, 2, 255], (2, 40, 53)).astype(np.uint8)
    truth[:16, 16:32] = 255  # a block without a label
    whole = Window(0, 0, 40, 53)
    tally = BlockTally(16, whole, 3)
    for window in whole.blocks(tile):
        inside = window.inset_of(whole)
        tally.add(window, truth[inside], predicted[inside])
    found = tally.named("s")
    expected = by_hand(truth, predicted, 16, 3)
    assert {block.window: block.counts for block in found} == expected
    assert len(expected) == 11 and found[-1].window == Window(32, 48, 8, 5)
    assert [block.labelled for block in found] == [counts.labelled for counts in expected.values()]


def test_counts_of_a_block_survive_json():
    block = BlockCounts.of("a", Window(3, 4, 5, 6), Confusion(np.array([[1, 0], [2, 3]]), np.array([0, 4])))
    assert block.cells.tolist() == [0, 3, 4, 5] and block.pixels.tolist() == [1, 2, 3, 4]
    fields = json.loads(json.dumps(block.to_dict()))
    assert fields["window"] == [3, 4, 5, 6]
    again = BlockCounts.from_dict(fields)
    assert (again.scene, again.window, again.counts) == ("a", block.window, block.counts)
    with pytest.raises(BadInput, match="not counts of a block"):
        BlockCounts.from_dict({"scene": "a", "window": [1, 2]})


def test_blocks_grow_until_a_scene_has_few_enough(monkeypatch):
    monkeypatch.setattr(blocks, "MOST", 6)
    scene = SimpleNamespace(split=None, scene=SimpleNamespace(grid=SimpleNamespace(shape=(600, 600))))
    assert block_side(scene) == 512  # nine of 256 are too many
    scene.split = SimpleNamespace(block=300)
    assert block_side(scene) == 300


def test_an_evaluation_has_the_blocks_of_the_split_that_was_held_out(tmp_path, run_cli):
    w = world.make(tmp_path, 64, 96)
    labels = world.label_raster(w, tmp_path / "labels.tif")
    checkpoint = world.tiny_checkpoint(like=w.scene)
    rules = ls.LabelRules(legend=world.LEGEND)
    how = {"spec": rules, "block": 16, "shares": {"train": 0.5, "test": 0.5}}
    with ls.open_dataset([str(w.scene)], [str(labels)], **how) as dataset:
        found = ls.evaluate(checkpoint, dataset, part="test", device="cpu", show=False)
        held_out = dataset.scenes[0].split.blocks("test")
    assert [(b.window.top // 16, b.window.left // 16) for b in found.per_block] == held_out
    assert {b.labelled for b in found.per_block} == {256} and {b.scene for b in found.per_block} == {"scene"}
    assert sum((b.counts for b in found.per_block), Confusion.empty(3)) == found.confusion
    path = ls.save(checkpoint, tmp_path / "m.safetensors")
    code, out, _ = run_cli("evaluate", path, w.scene, "--labels", labels, "--device", "cpu", "--json")
    assert code == 0
    (block,) = json.loads(out)["per_block"]
    assert block["window"] == [0, 0, 64, 96] and np.sum(block["counts"]) == 64 * 96
