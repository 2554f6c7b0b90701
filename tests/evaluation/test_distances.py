"""The correlation length of errors against fields whose range is known, and the warning that follows."""

import math

import numpy as np
import pytest
import world

import labelscape as ls
from labelscape.evaluation.distances import DISTANCES, LAGS, DistanceCounts, correlation_length, pairs_of
from labelscape.evaluation.kept import KeptClasses
from labelscape.evaluation.places import Places
from labelscape.evaluation.text import percent


def field(side, reach, share=0.5, seed=0):
    """(side, side) bool: where a Gaussian field with the covariance exp(-3 h / reach) is among its lowest
    `share`. Made on a torus by its spectrum (circulant embedding), so that the covariance is exact.
    """
    across = np.minimum(np.arange(2 * side), 2 * side - np.arange(2 * side))
    covariance = np.exp(-3 * np.hypot(*np.meshgrid(across, across)) / reach)
    spectrum = np.maximum(np.fft.fft2(covariance).real, 0)
    noise = np.random.default_rng(seed).normal(size=(2, 2 * side, 2 * side))
    values = np.fft.fft2(np.sqrt(spectrum) * (noise[0] + 1j * noise[1])).real[:side, :side]
    return values < np.quantile(values, share)


def indicator_range(reach):
    """Where the variogram of the field cut at its median reaches 95 % of its sill: the indicator's
    correlation is 2 / pi arcsin(rho) (Matheron), so that rho = sin(0.05 pi / 2).
    """
    return -reach / 3 * math.log(math.sin(0.05 * math.pi / 2))


@pytest.mark.parametrize("reach", [6, 12, 25, 50, 100])
def test_the_correlation_length_is_the_range_of_the_field(reach):
    """To a lag, twice the one before: 95 % of the largest of noisy values may come a step late or early."""
    known = np.ones((1024, 1024), bool)
    first = next(k for k, lag in enumerate(LAGS) if lag >= indicator_range(reach))
    found = [LAGS.index(correlation_length(*pairs_of(known, field(1024, reach, seed=s)))) for s in range(4)]
    assert abs(np.median(found) - first) <= 0.5 and all(abs(k - first) <= 1 for k in found)


@pytest.mark.parametrize("share", [0.05, 0.2])
def test_rare_errors_have_the_range_of_frequent_ones(share):
    known = np.ones((1024, 1024), bool)
    lengths = [correlation_length(*pairs_of(known, field(1024, 25, share, seed=s))) for s in range(4)]
    # Extremes of a Gaussian field are alike over less than its median's halves are.
    assert all(8 <= length <= 32 for length in lengths), lengths


def test_errors_over_the_whole_scene_have_no_length():
    known = np.ones((300, 300), bool)
    assert correlation_length(*pairs_of(known, field(300, 4000))) is None


@pytest.fixture
def scene(tmp_path):
    """A function that opens a scene of 512 pixels with held-out blocks and a buffer around them."""
    w = world.make(tmp_path, 512, 512)
    labels = world.label_raster(w, tmp_path / "labels.tif")

    def opened(block, buffer=0):
        how = {"block": block, "buffer": buffer, "shares": {"train": 0.75, "test": 0.25}}
        return ls.open_dataset([str(w.scene)], [str(labels)], spec={"legend": world.LEGEND}, **how)

    return opened


def counted(dataset, wrong, out):
    """What an evaluation counts whose predictions are wrong there."""
    kept, (scene,) = KeptClasses(), dataset.scenes
    places = Places(out, dataset.scenes, dataset.legend, kept)
    with kept.watch("scene", scene) as keep, places.watch("scene", scene) as see:
        for window in scene.scene.grid.window.blocks(256):
            truth = scene.read_labels(window, "test")
            predicted = np.where(wrong[window.inset_of(scene.scene.grid.window)], (truth + 1) % 3, truth)
            for one in (keep, see):
                one(window, truth, predicted.astype(np.uint8))
    return places.distances


@pytest.mark.parametrize(
    ("reach", "block", "buffer", "warned"),
    [
        # Errors of 40 pixels: blocks of 64 lie within them, and a buffer as wide takes them out.
        (40, 64, 0, True),
        (40, 64, 64, False),
        (40, 32, 0, True),
        # Errors of a few pixels: most of a block of 128 is farther from training labels.
        (4, 128, 0, False),
        (4, 16, 0, True),
        # Larger than all blocks, buffers and lags.
        (3000, 128, 0, True),
    ],
)
def test_held_out_blocks_within_the_correlation_length_are_warned_of(
    scene, tmp_path, reach, block, buffer, warned
):
    with scene(block, buffer) as dataset:
        found = counted(dataset, field(512, reach, 0.3, seed=2), tmp_path / "out")
        (one,) = dataset.scenes
        test, train = (one.read_labels(one.scene.grid.window, part) != 255 for part in ("test", "train"))
    assert sum(group.labelled for group in found.per_distance) == test.sum() > 0
    # Against all distances at once, where the length is one of the groups' limits.
    from scipy.ndimage import distance_transform_edt

    far = distance_transform_edt(~train)[test]
    assert found.reach >= DISTANCES[0]
    if found.reach in DISTANCES:
        assert found.near == pytest.approx((far <= found.reach).mean())
    assert (found.warning is not None) == warned, (found.correlation_length, found.near)
    if warned:
        assert (
            f"{100 * found.near:.0f} % of the scored labels lie within {found.reach} pixels" in found.warning
        )


def test_counts_without_training_labels_warn_of_nothing():
    assert DistanceCounts.empty(3).warning is None and DistanceCounts.empty(3).by_distance() == []
    assert percent(None) == "-"
