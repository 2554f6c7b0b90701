"""What every network is asked: numbers against plain loops, and networks whose answers are known."""

import copy

import numpy as np
import pytest
import torch
import world
from inside import checkpoint_of, close, look_at

from labelscape.errors import BadInput, UnknownName
from labelscape.explanation import bands, general
from labelscape.explanation.choosing import Wanted


@pytest.fixture(scope="module")
def scene(tmp_path_factory):
    return world.make(tmp_path_factory.mktemp("general"), 192, 192).scene


@pytest.fixture(scope="module")
def skip(scene):
    return look_at(checkpoint_of("skip", scene), scene, Wanted(number=3, side=160))


def test_shares_within_a_distance_equal_a_loop():
    gradient = np.random.default_rng(0).random((7, 9))
    for distance, share in enumerate(general.shares_within(gradient, 3, 2)):
        inside = sum(
            gradient[r, c]
            for r in range(7)
            for c in range(9)
            if abs(r - 3) <= distance and abs(c - 2) <= distance
        )
        assert share == pytest.approx(inside / gradient.sum())


def test_the_gradient_equals_finite_differences(skip):
    image = next(iter(skip.windows)).image.double()[..., :32, :32]
    net = copy.deepcopy(skip.net).double()
    gradient = general.gradient_of(net, image, 10, 12)
    best = int(net(image)[0, :, 10, 12].argmax())
    for row, column in ((10, 12), (3, 20), (31, 0)):
        expected = 0.0
        for band in range(3):
            moved = [image.clone(), image.clone()]
            moved[0][0, band, row, column] += 1e-6
            moved[1][0, band, row, column] -= 1e-6
            one, other = (float(net(m)[0, best, 10, 12].detach()) for m in moved)
            expected += abs(one - other) / 2e-6
        assert gradient[row, column] == pytest.approx(expected, rel=1e-4, abs=1e-9)


def test_nothing_beyond_the_theoretical_reach_matters(scene):
    look = look_at(checkpoint_of("fcn", scene), scene, Wanted(number=2, side=192))
    found = general.receptive_field(look)
    assert found.numbers["theoretical_reach_pixels"] == 83
    assert found.numbers["share_beyond_reach"] == pytest.approx(0, abs=1e-12)
    assert 0 < found.numbers["half_within_pixels"] <= found.numbers["95_percent_within_pixels"] <= 83
    field = found.arrays["field"]
    rows, columns = np.nonzero(field)
    assert max(abs(rows - 96).max(), abs(columns - 96).max()) <= 83


def test_a_network_of_one_pixel_depends_on_one_pixel(skip):
    single = torch.nn.Conv2d(3, 3, 1)
    look = general.Look(single, skip.checkpoint, skip.windows)
    single.reach = 0
    found = general.receptive_field(look)
    assert found.numbers["half_within_pixels"] == found.numbers["95_percent_within_pixels"] == 0
    assert found.numbers["share_beyond_reach"] == 0


def test_a_band_that_is_not_read_has_no_importance(scene):
    def blind(net):
        net.encoder.level1.conv1_1.weight[:, [0, 2]] = 0

    look = look_at(checkpoint_of("skip", scene, change=blind), scene, Wanted(number=4, side=48))
    by_band = bands.band_importance(look).numbers["bands"]
    assert [by_band[name]["changed"] for name in ("1", "3")] == [0, 0]
    assert by_band["1"]["confidence_lost"] == 0 < by_band["2"]["changed"]


def test_band_importance_equals_a_loop(scene):
    look = look_at(checkpoint_of("skip", scene), scene, Wanted(number=2, side=48))
    found = bands.band_importance(look).arrays["changed"]
    one, other = look.windows
    for b in range(3):
        count = 0
        for mine, partner in ((one, other), (other, one)):
            image = mine.image.clone()
            image[:, b] = partner.image[:, b]
            with torch.no_grad():
                count += int((look.net(image)[0].argmax(0).numpy() != mine.classes).sum())
        assert found[0, b] == pytest.approx(count / (2 * 48 * 48))


def test_one_window_has_no_other_to_swap_bands_with(scene):
    look = look_at(checkpoint_of("skip", scene), scene, Wanted(number=1, side=48))
    assert "two or more" in bands.why_no_bands(look)


def test_feature_maps_are_those_of_the_layer(skip, scene):
    look = general.Look(skip.net, skip.checkpoint, skip.windows, layer="encoder.level3")
    assert general.why_no_layer(look) == ""
    found = general.feature_maps(look)
    with torch.no_grad():
        expected = look.net.encoder(next(iter(look.windows)).image).x8[0]
    assert close(found.arrays["maps"], expected)
    spread = expected.numpy().std((1, 2))
    assert found.numbers["shown"] == np.argsort(-spread).tolist()[: len(found.numbers["shown"])]
    assert "encoder, head" in general.why_no_layer(skip)
    with pytest.raises(UnknownName, match=r"Did you mean 'encoder\.level3'"):
        general.why_no_layer(general.Look(skip.net, skip.checkpoint, skip.windows, layer="encoder.levl3"))


def test_a_layer_without_maps_is_refused(skip):
    net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Unflatten(1, (3, 160, 160)))
    with pytest.raises(BadInput, match="gives no maps"):
        general.feature_maps(general.Look(net, skip.checkpoint, skip.windows, layer="0"))
