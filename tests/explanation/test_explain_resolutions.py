"""Contributions of resolutions add up to the logit, and are those of networks known by construction."""

import numpy as np
import pytest
import torch
import world
from inside import checkpoint_of, close, look_at

from labelscape.explanation import maggiori
from labelscape.explanation.choosing import Wanted

KINDS = [
    ("skip", {}),
    ("skip", {"upsampling": "interpolate"}),
    ("skip", {"downsample": 2}),
    ("mlp", {"hidden": 20}),
    ("mlp", {"variant": "released", "hidden": 12}),
    ("mlp", {"hidden": 20, "downsample": 2}),
]


@pytest.fixture(scope="module")
def scene(tmp_path_factory):
    return world.make(tmp_path_factory.mktemp("resolutions")).scene


def looking(name, scene, side=48, **options):
    return look_at(checkpoint_of(name, scene, **options), scene, Wanted(number=2, side=side))


@pytest.mark.parametrize(("name", "options"), KINDS)
def test_contributions_add_up_to_the_logit(scene, name, options, monkeypatch):
    monkeypatch.setattr(maggiori, "CHUNK", 100)
    # 47 is no multiple of the stride: the image is padded, and the logits cropped.
    look = looking(name, scene, side=47, **options)
    found = maggiori.by_resolution(look)
    assert found.numbers["largest_error"] < 1e-5
    for seen in look.windows:
        with torch.no_grad():
            logits = look.net(seen.image)[0]
        parts = maggiori.contributions(look.net, seen.image)
        assert parts.shape == (5, 3, 47, 47) and close(parts.sum(0), logits, 1e-4)
    # The margin of the winner over the second best is positive, and the sum of its parts.
    for k, about in found.numbers["by_class"].items():
        assert sum(about["margin"]) > 0, k
        assert sum(about["share_of_pixels_led"]) == pytest.approx(1)


@pytest.mark.parametrize("tap", range(4))
def test_a_network_that_reads_one_level_gets_all_from_it(scene, tap):
    def deaf(net):
        for number in {0, 1, 2, 3} - {tap}:
            getattr(net.head, f"score{number + 1}").weight.zero_()

    parts = maggiori.contributions(
        (look := looking("skip", scene, change=deaf)).net, next(iter(look.windows)).image
    )
    others = [parts[number] for number in range(4) if number != tap]
    assert parts[tap].abs().max() > 0 and all((part == 0).all() for part in others)
    found = maggiori.by_resolution(look)
    assert np.argmax(np.abs(found.numbers["margin"][:4])) == tap


def test_one_level_equals_its_own_score_upsampled_by_a_loop(scene):
    look = looking("skip", scene, upsampling="interpolate")
    image = next(iter(look.windows)).image
    parts = maggiori.contributions(look.net, image)
    with torch.no_grad():
        score = torch.nn.functional.conv2d(look.net.encoder(image).x2, look.net.head.score1.weight)
        up = torch.nn.functional.interpolate(score, scale_factor=2, mode="bilinear", align_corners=False)
    assert close(parts[0], up[0])


def test_means_by_class_equal_a_loop(scene):
    look = looking("mlp", scene, hidden=20)
    found = maggiori.by_resolution(look)
    sums, counts = np.zeros((3, 5)), np.zeros(3)
    for seen in look.windows:
        parts = maggiori.contributions(look.net, seen.image).numpy()
        for row in range(48):
            for column in range(48):
                k = seen.classes[row, column]
                sums[k] += parts[:, k, row, column]
                counts[k] += 1
    for k, name in enumerate(world.LEGEND.names):
        if counts[k]:
            assert close(found.numbers["by_class"][name]["logit"], sums[k] / counts[k], 1e-4)
            assert found.numbers["by_class"][name]["pixels"] == counts[k]


@pytest.mark.parametrize(
    ("name", "why"),
    [("fcn", "one resolution alone"), ("unpooling", "one resolution alone"), ("mswbn", "Maggiori")],
)
def test_networks_that_are_no_sum_are_named(scene, name, why):
    look = look_at(checkpoint_of(name, scene), scene, Wanted(number=1, side=48))
    assert why in maggiori.why_not(look)
