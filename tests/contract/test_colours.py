"""Exchanged bands whose own values tell nothing are told by which values go together, and other places are
not blamed.
"""

from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest
import rasterio
import world
from scipy import ndimage
from scipy.stats import multivariate_normal

from labelscape.checkpoint import Checkpoint, load, save
from labelscape.contract.bands import QUANTILES, survey
from labelscape.contract.colours import LEAST_LIKELY, LIGHTS, Colours, colours_of, logarithms
from labelscape.contract.compare import compare
from labelscape.contract.contract import Contract
from labelscape.contract.likeness import Likeness, explain
from labelscape.scenes.raster import Scene

KINDS = np.array(
    [[150, 110, 80], [60, 95, 62], [70, 75, 90], [120, 160, 130], [190, 180, 200], [90, 120, 160]]
)
"""Red, green and blue of roofs, woods, asphalt, grass, concrete and pools: each band runs over much the
same values.
"""


def photograph(seed, *, side=300, kinds=KINDS, light=1.0):
    """(3, side, side) uint8 of patches of such ground, each brighter or darker than its kind."""
    rng = np.random.default_rng(seed)
    fields = ndimage.gaussian_filter(rng.normal(size=(len(kinds), side, side)), (0, 8, 8)).argmax(axis=0)
    shade = np.exp(0.25 * ndimage.gaussian_filter(rng.normal(size=(side, side)), 3) * 10)
    pixels = np.moveaxis(kinds[fields], -1, 0) * shade * light + rng.normal(0, 4, (3, side, side))
    return np.clip(pixels, 1, 255).astype(np.uint8)


def blocks(*pictures):
    return [
        p[:, r : r + 100, c : c + 100].reshape(len(p), -1).astype(np.float32)
        for p in pictures
        for r in (0, 100, 200)
        for c in (0, 100, 200)
    ]


def swapped(pixels, one, two):
    order = list(range(len(pixels)))
    order[one], order[two] = two, one
    return pixels[order]


@pytest.fixture(scope="module")
def known():
    return colours_of(blocks(photograph(0), photograph(1)))


def test_likelihood_is_that_of_the_mixture_in_its_best_light(known):
    logs = logarithms(photograph(5, light=0.8).reshape(3, -1)[:, ::2999].astype(float), known.floor)
    parts = [(w, multivariate_normal(m, c)) for w, m, c in zip(known.weights, known.means, known.covariances)]
    expected = max(
        np.mean(
            [
                max(np.log(sum(w * part.pdf(pixel + light) for w, part in parts) + 1e-300), LEAST_LIKELY)
                for pixel in logs
            ]
        )
        for light in LIGHTS
    )
    assert known.likelihood(logs) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("pair", list(combinations(range(3), 2)))
@pytest.mark.parametrize("light", [0.8, 1.0, 1.25])
def test_any_two_bands_exchanged_are_found_in_any_light(known, pair, light):
    pixels = photograph(7, light=light).reshape(3, -1)
    found, gain = known.exchanged(swapped(pixels, *pair))
    assert found == pair and gain > 1.0
    assert known.exchanged(pixels)[1] <= 0.5


def test_quantiles_alone_do_not_tell():
    trained, seen = (np.quantile(photograph(s).reshape(3, -1), QUANTILES, axis=1).T for s in (0, 7))
    assert explain(seen[[2, 1, 0]], trained) == Likeness()


def test_what_training_saw_of_other_places_is_no_exchange():
    """Half of the training scenes lie where everything that was red is blue: a third place of either kind
    is believed.
    """
    other = KINDS[:, ::-1]
    several = [photograph(s, kinds=k) for s, k in ((0, KINDS), (1, KINDS), (2, other), (3, other))]
    known = colours_of(blocks(*several))
    for kinds in (KINDS, other):
        assert known.exchanged(photograph(9, kinds=kinds).reshape(3, -1))[1] <= 0.5
    assert known.limits[1] > 1 > colours_of(blocks(*several[:2])).limits[1]


def test_nothing_is_learned_where_logarithms_or_bands_say_nothing():
    values = photograph(0).reshape(3, -1).astype(np.float32)
    assert colours_of([values[:1]]) is None
    assert colours_of([values - 100]) is None  # decibels, temperatures
    assert colours_of([np.repeat(values, 6, axis=0)]) is None
    assert colours_of([values[:, :100]]) is None
    assert colours_of([np.full_like(values, 7)]).exchanged(values)[1] <= 0.5
    assert colours_of([values]).limits == (0.0, 0.0, 0.0)  # one block has no other half to be judged by


@pytest.fixture(scope="module")
def model(tmp_path_factory, known):
    path = world.write(tmp_path_factory.mktemp("trained") / "a.tif", photograph(0))
    with Scene(path) as scene:
        statistics, _ = survey([scene])
    return Checkpoint(
        network="fcn",
        options={},
        weights={"w": np.zeros(1, np.float32)},
        legend=world.LEGEND,
        contract=Contract(
            bands=("red", "green", "blue"),
            dtype="uint8",
            normalisation=tuple((s.mean, s.std) for s in statistics),
            statistics=statistics,
            colours=known,
            crs_kind="projected",
        ),
    )


def test_a_checkpoint_carries_them(model, tmp_path):
    again = load(save(model, tmp_path / "m.safetensors"))
    assert again.contract.colours == model.contract.colours
    assert isinstance(again.contract.colours, Colours)
    assert (
        load(
            save(replace(model, contract=replace(model.contract, colours=None)), tmp_path / "n.safetensors")
        ).contract.colours
        is None
    )


def test_a_large_scene_is_refused_and_a_small_one_noted(model, tmp_path):
    large = np.concatenate(
        [np.concatenate([photograph(10 * r + c) for c in range(3)], axis=2) for r in range(3)], axis=1
    )
    for pixels, level in ((large, "REFUSED"), (photograph(20), "FITS")):
        path = world.write(tmp_path / "b.tif", pixels[::-1])
        with rasterio.open(path, "r+") as file:
            file.descriptions = model.bands
        with Scene(path) as scene:
            (finding,) = compare(model.contract, scene)
        assert (finding.kind, finding.level) == ("swapped bands", level)
        assert "bands red and blue look swapped" in finding.cause
        assert "gdal_translate -b 3 -b 2 -b 1" in finding.cause
        with Scene(world.write(tmp_path / "c.tif", pixels)) as scene:
            assert compare(model.contract, scene) == ()
