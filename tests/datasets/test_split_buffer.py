"""Splits with a buffer around what is held out, and random splits that say what they are."""

import re

import numpy as np
import pytest
import world
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import maximum_filter

from labelscape.datasets.nearby import near_counts
from labelscape.datasets.own import open_dataset
from labelscape.datasets.split import PARTS, BlockSplit, block_split, fold_of, fold_split, random_split
from labelscape.errors import BadInput, BadOption
from labelscape.grid import Window
from labelscape.legend import IGNORE

SHARES = {"train": 0.6, "val": 0.15, "test": 0.25}


@settings(max_examples=150, deadline=None)
@given(
    data=st.data(),
    block=st.integers(1, 9),
    buffer=st.integers(0, 25),
    height=st.integers(1, 40),
    width=st.integers(1, 40),
)
def test_no_training_pixel_lies_within_the_buffer_and_none_is_lost_needlessly(
    data, block, buffer, height, width
):
    rng = np.random.default_rng(data.draw(st.integers(0, 10**6)))
    shape = -(-height // block), -(-width // block)
    parts = rng.choice(3, shape, p=[0.85, 0.05, 0.1]).astype(np.uint8)
    whole = Window(0, 0, height, width)
    plain, split = BlockSplit(block, parts), BlockSplit(block, parts, buffer)
    held = plain.mask(whole, "val") | plain.mask(whole, "test")
    near = maximum_filter(held, 2 * buffer + 1, mode="constant")  # Chebyshev distance up to `buffer`
    np.testing.assert_array_equal(split.mask(whole, "train"), plain.mask(whole, "train") & ~near)
    for part in ("val", "test"):  # only training gives way
        np.testing.assert_array_equal(split.mask(whole, part), plain.mask(whole, part))
    if not buffer:
        np.testing.assert_array_equal(np.sum([split.mask(whole, p) for p in PARTS], axis=0), 1)
    top, left = data.draw(st.integers(0, height - 1)), data.draw(st.integers(0, width - 1))
    window = Window(top, left, height - top, width - left)
    np.testing.assert_array_equal(split.mask(window, "train"), split.mask(whole, "train")[top:, left:])


@settings(max_examples=60, deadline=None)
@given(rows=st.integers(1, 9), columns=st.integers(3, 9), seed=st.integers(0, 99))
def test_random_splits_keep_their_shares_and_every_part(rows, columns, seed):
    rng = np.random.default_rng(seed)
    counts = rng.integers(0, 9, (rows, columns, 2))
    counts[0, :3] = 1
    split = random_split(counts, 32, SHARES, seed=seed)
    labelled = counts.sum(axis=2) > 0
    taken = np.array([(split.parts[labelled] == i).sum() for i in range(3)])
    assert (taken >= 1).all()
    assert np.abs(taken - labelled.sum() * np.array(list(SHARES.values()))).max() <= 2
    assert not split.parts[~labelled].any()  # nothing to score there
    np.testing.assert_array_equal(split.parts, random_split(counts, 32, SHARES, seed=seed).parts)


def test_blocks_are_balanced_over_classes_and_chance_is_not():
    rng = np.random.default_rng(3)
    counts = rng.integers(0, 400, (10, 10, 4))
    counts[..., 3] = 0
    counts[*np.divmod(rng.choice(100, 12, replace=False), 10), 3] = 300  # a rare class in few blocks

    def off(split):
        held = counts[split.parts == 2].sum(axis=0) / counts.sum(axis=(0, 1))
        return np.abs(held - 0.25).max()

    shares = {"train": 0.75, "test": 0.25}
    assert off(block_split(counts, 32, shares, seed=0)) < 0.03
    assert np.mean([off(random_split(counts, 32, shares, seed=s)) for s in range(20)]) > 0.06


@settings(max_examples=60, deadline=None)
@given(
    rows=st.integers(2, 9),
    columns=st.integers(3, 9),
    folds=st.integers(2, 6),
    val=st.sampled_from([0.0, 0.2]),
    seed=st.integers(0, 99),
)
def test_folds_test_every_labelled_block_once(rows, columns, folds, val, seed):
    rng = np.random.default_rng(seed)
    counts = rng.integers(0, 400, (rows, columns, 3)) * (rng.random((rows, columns, 1)) < 0.8)
    counts[:2, :3] = 1 + rng.integers(0, 400, (2, 3, 3))  # at least as many labelled blocks as folds
    labelled = counts.sum(axis=2) > 0
    splits = [fold_split(counts, 32, (k, folds), val=val, seed=seed) for k in range(1, folds + 1)]
    tested = np.sum([split.parts == PARTS.index("test") for split in splits], axis=0)
    np.testing.assert_array_equal(tested, labelled)
    for split in splits:
        present = set(split.parts[labelled].tolist())
        assert present == ({0, 1, 2} if val else {0, 2})


def test_folds_are_balanced_over_classes_and_val_keeps_its_share():
    counts = np.random.default_rng(3).integers(0, 400, (10, 10, 4))
    for k in range(1, 6):
        split = fold_split(counts, 32, (k, 5), val=0.2, seed=0)
        for part, share in (("train", 0.6), ("val", 0.2), ("test", 0.2)):
            found = counts[split.parts == PARTS.index(part)].sum(axis=0) / counts.sum(axis=(0, 1))
            assert np.abs(found - share).max() < 0.03


def test_too_many_folds_are_refused():
    with pytest.raises(BadInput, match=r"only 2 blocks of 32 pixels, too few for 3 folds"):
        fold_split(np.ones((1, 2, 1), int), 32, (1, 3), seed=0)


@pytest.mark.parametrize("text", ["0/5", "6/5", "1/1", "2", "a/b", "-1/5", "1/5/2"])
def test_what_is_no_fold_is_refused(text):
    with pytest.raises(BadOption, match="must be K/N"):
        fold_of(text)


@pytest.fixture
def scene(tmp_path):
    w = world.make(tmp_path, 320, 352)
    return w, world.label_raster(w, tmp_path / "labels.tif")


def test_a_dataset_with_a_buffer(scene):
    w, labels = scene
    with (
        open_dataset([w.scene], [labels], block=64, shares=SHARES) as plain,
        open_dataset([w.scene], [labels], block=64, shares=SHARES, buffer=10) as buffered,
    ):
        whole = Window(0, 0, *w.classes.shape)
        held = (plain.scenes[0].read_labels(whole, "val") != IGNORE) | (
            plain.scenes[0].read_labels(whole, "test") != IGNORE
        )
        train = buffered.scenes[0].read_labels(whole, "train") != IGNORE
        assert train.any() and not (train & maximum_filter(held, 21)).any()
        for part in ("val", "test"):
            np.testing.assert_array_equal(plain.class_counts(part), buffered.class_counts(part))
        share = 100 - 100 * buffered.class_counts("train").sum() / plain.class_counts("train").sum()
        assert f"the buffer of 10 pixels removes {share:.0f} % of the training labels" in buffered.report
        assert sum(plain.class_counts(p).sum() for p in PARTS) == w.classes.size and not plain.report
    with pytest.raises(BadInput, match="leaves no training label of class 0, class 1, class 2"):
        open_dataset([w.scene], [labels], block=64, shares=SHARES, buffer=400)
    with pytest.raises(BadOption, match="must be 0 or more"):
        open_dataset([w.scene], [labels], shares=SHARES, buffer=-1)
    with pytest.raises(BadOption, match="'blocks' or 'random'"):
        open_dataset([w.scene], [labels], shares=SHARES, split="rows")


def test_folds_of_blocks_and_of_files(scene, tmp_path):
    w, labels = scene
    whole, tested = Window(0, 0, *w.classes.shape), 0
    for k in (1, 2, 3):
        with open_dataset([w.scene], [labels], block=64, shares=SHARES, fold=f"{k}/3") as dataset:
            assert dataset.report == (f"fold {k} of 3 over blocks of 64 pixels is held out",)
            tested = tested + (dataset.scenes[0].read_labels(whole, "test") != IGNORE)
    np.testing.assert_array_equal(tested, 1)
    for i in range(4):
        for side, pixels in (("images", w.pixels), ("labels", w.classes)):
            (tmp_path / side).mkdir(exist_ok=True)
            world.write(tmp_path / side / f"{i}.tif", pixels, crs=None)
    held = []
    for k in (1, 2):
        with open_dataset([tmp_path], shares={"train": 0.5, "test": 0.5}, fold=f"{k}/2") as dataset:
            assert "fold" in dataset.report[0] and "images" in dataset.report[0]
            held += [s.name for s in dataset.part("test")]
    assert len(held) == len(set(held)) == 4
    with pytest.raises(BadOption, match="not a random split"):
        open_dataset([w.scene], [labels], shares=SHARES, split="random", fold="1/3")


def test_a_random_split_says_how_close_it_is(scene, tmp_path):
    w, labels = scene
    with open_dataset([w.scene], [labels], shares=SHARES, split="random") as dataset:
        (line,) = dataset.report
        share = int(
            re.fullmatch(
                (
                    r"a random split: (\d+) % of held-out pixels lie within 64 pixels of a training pixel; "
                    r"the "
                    r"score is optimistic"
                ),
                line,
            )[1]
        )
        whole, scene = Window(0, 0, *w.classes.shape), dataset.scenes[0]
        assert scene.split.block == 32
        held = (scene.read_labels(whole, "val") != IGNORE) | (scene.read_labels(whole, "test") != IGNORE)
        near = maximum_filter(scene.read_labels(whole, "train") != IGNORE, 129, mode="constant")
        assert share == round(100 * (held & near).sum() / held.sum()) >= 95
    with open_dataset(
        [w.scene], [labels], shares={"train": 0.99, "test": 0.01}, split="random", buffer=64
    ) as dataset:
        assert "0 % of held-out pixels" in dataset.report[-1]
    for i in range(4):
        for side, pixels in (("images", w.pixels), ("labels", w.classes)):
            (tmp_path / side).mkdir(exist_ok=True)
            world.write(tmp_path / side / f"{i}.tif", pixels, crs=None)
    with open_dataset([tmp_path], shares={"train": 0.5, "test": 0.5}, split="random", buffer=8) as dataset:
        assert (
            "the buffer is not used" in dataset.report[0] and "a random split of files" in dataset.report[1]
        )
        assert sorted(dataset.part_of) == ["test", "test", "train", "train"]


def test_nearness_is_the_same_over_windows(monkeypatch):
    rng = np.random.default_rng(0)
    labels = np.where(rng.random((90, 110)) < 0.9, 0, IGNORE).astype(np.uint8)
    part = (rng.random((90, 110)) > 0.002).astype(int)  # few training pixels: the rim of what is near shows

    def read(window, name):
        code = {"train": 0, "test": 1}.get(name, 9)
        rows, columns = window.inset_of(Window(0, 0, 0, 0))
        return np.where(part[rows, columns] == code, labels[rows, columns], IGNORE)

    whole = Window(0, 0, 90, 110)
    held, train = (labels == 0) & (part == 1), (labels == 0) & (part == 0)
    expected = int((held & maximum_filter(train, 15, mode="constant")).sum()), int(held.sum())
    assert 0 < expected[0] < expected[1] and near_counts(whole, read, reach=7) == expected
    blocks = Window.blocks
    monkeypatch.setattr(Window, "blocks", lambda self, size: blocks(self, 32))
    assert near_counts(whole, read, reach=7) == expected


def test_a_recipe_passes_them_on(scene):
    from labelscape.training.data import open_recipe_data
    from labelscape.training.recipe import make_recipe

    w, labels = scene
    recipe = make_recipe(
        data={"images": [str(w.scene)], "labels": [str(labels)], "split": "random", "buffer": 4}
    )
    with open_recipe_data(recipe.data, 0) as dataset:
        assert "buffer of 4" in dataset.report[0] and "a random split" in dataset.report[1]
    with pytest.raises(BadOption, match="data.split"):
        make_recipe(data={"images": ["a"], "split": "rows"})
