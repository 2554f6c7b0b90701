"""Bands and pixel sizes are matched by one rule, in training as in mapping."""

import pytest
import world
from affine import Affine

from labelscape.contract.adjust import fitted
from labelscape.contract.contract import Contract
from labelscape.contract.matching import bands_to_read, match_bands, match_pixels
from labelscape.datasets.own import open_dataset
from labelscape.errors import BadInput
from labelscape.grid import Grid
from labelscape.scenes.raster import Scene


@pytest.mark.parametrize(
    ("wanted", "has", "order", "by", "missing"),
    [
        ("rg", "rgb", "rg", "name", ""),
        ("bgr", "rgb", "bgr", "name", ""),
        ("rgn", "rgb", "rgb", "position", "n"),
        ("123", "rgb", "rgb", "position", "123"),
        ("rgbn", "rgb", None, "none", "n"),
        ("n", "rgb", None, "none", "n"),
    ],
)
def test_bands_are_matched_by_name_else_by_position(wanted, has, order, by, missing):
    match = match_bands(tuple(wanted), tuple(has))
    assert (match.order, match.by, match.missing) == (order and tuple(order), by, tuple(missing))


def test_bands_that_cannot_be_matched_are_refused(tmp_path):
    with Scene(world.make(tmp_path, 20, 30).scene) as scene:
        assert bands_to_read(("a", "b", "c"), scene) == scene.bands
        with pytest.raises(BadInput, match=r"scene has 3 bands \(1 2 3\); this model reads 2 \(a b\)"):
            bands_to_read(("a", "b"), scene)


@pytest.mark.parametrize(
    ("found", "finer", "coarser"),
    [
        (8.0, True, False),
        (8.01, False, False),
        (10.0, False, False),
        (12.49, False, False),
        (12.5, False, True),
    ],
)
def test_pixels_are_alike_between_four_fifths_and_five_fourths(found, finer, coarser):
    match = match_pixels(10.0, found)
    assert (match.is_finer, match.is_coarser, match.is_alike) == (finer, coarser, not (finer or coarser))


def test_pixels_without_a_size_are_not_known_to_differ():
    assert match_pixels(None, 10.0).is_alike and match_pixels(10.0, None).is_alike


@pytest.mark.parametrize(("side", "resampled"), [(8, True), (8.1, False)])
def test_training_resamples_the_scenes_that_mapping_resamples(tmp_path, monkeypatch, side, resampled):
    """At a ratio of exactly 0.8 as well: what is trained is what is mapped."""
    # On the ellipsoid no ratio is exact; here pixels are as wide as the grid says.
    monkeypatch.setattr(Grid, "ground_pixel_size", property(lambda grid: abs(grid.transform.a)))
    wide = world.make(tmp_path, 64, 64, name="wide")
    fine = world.make(tmp_path, 80, 80, name="fine", transform=Affine(side, 0, 4e5, 0, -side, 5.8e6))
    labels = [str(world.label_raster(w, tmp_path / f"{w.scene.stem}_labels.tif")) for w in (wide, fine)]
    with open_dataset([str(wide.scene), str(fine.scene)], labels) as dataset:
        trained = [line for line in dataset.report if "is resampled" in line]
    contract = Contract(("1", "2", "3"), "uint16", ((0.0, 1.0),) * 3, pixel_size=10.0)
    with Scene(fine.scene) as scene:
        mapped, found = fitted(contract, scene)
        mapped.close()
    assert len(trained) == len(found) == resampled
