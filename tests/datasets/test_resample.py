"""Resampled test sets against every subset there is, and the paper's shares on real patches."""

from itertools import product
from pathlib import Path

import numpy as np
import pytest
import world
from hypothesis import given, settings
from hypothesis import strategies as st

from labelscape.datasets import resample as module
from labelscape.datasets.own import Dataset, open_dataset
from labelscape.datasets.resample import TABLE_6, resample, resampled, table_6
from labelscape.errors import BadInput, BadOption, UnknownName
from labelscape.legend import Legend

DATA = Path(__file__).resolve().parents[3] / "shared" / "data"


def by_trying(counts, target):
    """For every set of patches that leaves some of every class: (patches kept, differences of the shares)."""
    for chosen in product([False, True], repeat=len(counts)):
        total = counts[list(chosen)].sum(axis=0)
        if total.sum() and (total > 0)[counts.any(axis=0)].all():
            yield sum(chosen), np.abs(total / total.sum() - target)


@settings(max_examples=50, deadline=None)
@given(
    patches=st.integers(1, 9),
    classes=st.integers(2, 4),
    seed=st.integers(0, 10**6),
    tolerance=st.sampled_from([0.002, 0.03, 0.2]),
)
def test_no_larger_set_and_no_nearer_one(patches, classes, seed, tolerance):
    rng = np.random.default_rng(seed)
    counts = rng.integers(0, 60, (patches, classes)) * (rng.random((patches, classes)) < 0.7)
    counts[0, 0] += 1
    target = rng.dirichlet(np.ones(classes))
    found = resample(counts, 1000 * target, tolerance=tolerance, seed=seed)
    total = counts[found.kept].sum(axis=0)
    np.testing.assert_allclose(found.reached, total / total.sum())
    tried = list(by_trying(counts, target))
    least = min(off.max() for _, off in tried)
    # Rare classes must come within half of their share: only then is the target reached.
    reaching = [n for n, off in tried if (off <= np.minimum(tolerance, target / 2)).all()]
    assert found.within == (bool(reaching) and counts.any(axis=0).all())
    if reaching or least <= tolerance:
        largest = max(reaching or [n for n, off in tried if off.max() <= tolerance])
        assert found.kept.sum() == largest and found.most
    else:
        assert found.off <= 1.002 * least


def test_the_seed_decides_between_equals():
    counts = np.tile(np.array([[10, 0], [0, 10]]), (20, 1))
    a, b, c = (resample(counts, [0.8, 0.2], seed=s).kept for s in (0, 0, 1))
    np.testing.assert_array_equal(a, b)
    assert a.sum() == c.sum() == 25 and (a != c).any()  # all twenty of the one, five of the other


def test_a_class_that_is_wanted_does_not_vanish():
    counts = np.array([[100, 0, 0]] * 5 + [[0, 100, 0]] * 5 + [[200, 0, 1]])
    found = resample(
        counts, [499.5, 499.5, 1]
    )  # ten patches without the third class would do, and are one more than nine with it
    assert found.within and found.kept.sum() == 9 and found.kept[-1] and found.most
    gone = resample(counts[:10], [499.5, 499.5, 1])
    assert not gone.within and "no patch has c" in gone.report(["a", "b", "c"])[0]


def test_what_cannot_be_reached_is_said():
    found = resample(np.array([[90, 10], [80, 20]]), [1, 1])
    assert not found.within and found.off == pytest.approx(0.3) and found.kept.tolist() == [False, True]
    assert "NOT reached: in the closest set found, a has 800.0 for 500.0" in found.report(["a", "b"])[0]
    with pytest.raises(BadInput, match="None of the 2 patches"):
        resample(np.zeros((2, 2)), [1, 1])
    for target in ([1, 1, 1], [0, 0], [-1, 2]):
        with pytest.raises(BadOption, match="a share of at least 0"):
            resample(np.ones((2, 2)), target)


def test_patches_move_to_another_part(tmp_path):
    for i in range(12):
        for side in ("images", "labels"):
            (tmp_path / side).mkdir(exist_ok=True)
        classes = np.full((20, 30), i % 3, np.uint8)
        world.write(tmp_path / "images" / f"{i}.tif", world.spectra(classes, 3, "uint8"), crs=None)
        world.write(tmp_path / "labels" / f"{i}.tif", classes, crs=None)
    with open_dataset([tmp_path], shares={"train": 0.5, "test": 0.5}) as dataset:
        before = dataset.class_counts("test")
        assert before.tolist() == [1200, 1200, 1200]
        moved = resampled(dataset, {"class 0": 1, "class 1": 0.5})
        assert moved.class_counts("test").tolist() == [1200, 600, 0]
        np.testing.assert_array_equal(
            moved.class_counts("train"), dataset.class_counts("train") + [0, 600, 1200]
        )
        assert any("keeps 3 of 6 patches" in line for line in moved.report)
        left = resampled(dataset, {"class 0": 1, "class 1": 0.5}, to=None)
        np.testing.assert_array_equal(left.class_counts("train"), dataset.class_counts("train"))
        with pytest.raises(UnknownName):
            resampled(dataset, {"water": 1})
    with (
        open_dataset([tmp_path]) as dataset,
        pytest.raises(BadInput, match="No image belongs to the test split"),
    ):
        resampled(dataset, {"class 0": 1})


def test_table_6_on_real_patches(capsys):
    folder = DATA / "gid-mtl5"
    if not folder.exists():
        pytest.skip(f"{folder} is not here")
    from PIL import Image

    order = ["built-up", "farmland", "forest", "meadow", "water"]
    stems = (folder / "test.txt").read_text().split()
    counts = np.stack(
        [
            np.bincount(np.asarray(Image.open(folder / "labels" / f"{s}.png")).ravel(), minlength=256)[:5]
            for s in stems
        ]
    )
    found = resample(counts, [TABLE_6["resampled test"][name] for name in order])
    with capsys.disabled():
        print("", *found.report(order), sep="\n")
    # Patches with meadow hold 36 pixels of it, or 25,000 and more: no set has 0.7 per mille of it, and 36
    # pixels are not "reached" although they lie within 2 per mille of it.
    assert found.off <= 0.002 and not found.within
    assert found.missed.tolist() == [name == "meadow" for name in order]
    assert "NOT reached: in the closest set found, meadow has 0.005 for 0.7" in found.report(order)[0]
    assert found.kept.sum() > 0.4 * len(stems)
    again = resample(counts, [TABLE_6["resampled test"][name] for name in order])
    np.testing.assert_array_equal(found.kept, again.kept)


def test_a_rare_class_is_reached_within_half_its_share():
    patches = [[9_990, 10, 0]] * 40 + [[0, 10_000, 0]] * 40 + [[5_000, 4_999, 1]]
    target = [499.65, 499.65, 0.7]
    few = resample(np.array(patches), target)
    assert not few.within and few.missed.tolist() == [False, False, True]  # at most 0.1 per mille
    enough = resample(np.array([*patches, [5_000, 4_500, 500]]), target)
    assert enough.within and 0.35e-3 <= enough.reached[2] <= 1.05e-3


def test_table_6_chooses_the_training_patches_too(tmp_path):
    names = ["built-up", "farmland", "forest", "meadow", "water"]
    rng = np.random.default_rng(0)
    # Patches of mostly one class each, as those of GID are.
    counts = {part: (1000 * rng.dirichlet([0.3] * 5, 120)).astype(int) for part in ("train", "test")}
    scenes = tuple(counts["train"]) + tuple(counts["test"])
    dataset = Dataset(scenes, Legend.of_names(names), ("train",) * 120 + ("test",) * 120)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "scene_counts", lambda dataset, index: np.asarray(dataset.scenes[index]))
        found = table_6(dataset)
    train = sum(c for c, own in zip(scenes, found.part_of) if own == "train")
    wanted = np.array([TABLE_6["resampled train"][name] for name in names])
    assert np.abs(1000 * train / train.sum() - 1000 * wanted / wanted.sum()).max() <= 2
    assert "left out" in found.part_of and len(found.report) == 4
    assert "of test;" in found.report[0] and "of train;" in found.report[2]


def test_the_printed_rows_are_shares():
    for row in TABLE_6.values():
        assert (
            list(row) == ["built-up", "farmland", "water", "forest", "meadow"]
            and abs(sum(row.values()) - 1000) < 2
        )
