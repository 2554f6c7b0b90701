"""DGCWNet, IFBFNet and DFCNet explained, two models compared, and attributions: loops and known answers."""

import copy
import dataclasses

import numpy as np
import pytest
import torch
import world
from inside import checkpoint_of, close, look_at
from torch import nn

from labelscape.checkpoint import SecondTask
from labelscape.errors import BadInput, BadOption
from labelscape.explanation import dfcnet, dgcwnet, disagreement, ifbfnet, speaks_for
from labelscape.explanation.analysis import Look
from labelscape.explanation.choosing import Wanted, around
from labelscape.explanation.drawing import marked
from labelscape.explanation.windows import scaled_for
from labelscape.legend import Legend
from labelscape.nets.catalog import create_model
from labelscape.nets.dfcnet import pad_to_corners
from labelscape.scoring.engines import build_network


@pytest.fixture(scope="module")
def scene(tmp_path_factory):
    return world.make(tmp_path_factory.mktemp("families")).scene


@pytest.fixture(scope="module")
def dgcw(scene):
    wanted = Wanted(pixels=((70, 40), (50, 60)), side=64)
    return look_at(checkpoint_of("dgcwnet", scene), scene, wanted, pixels=wanted.pixels)


# ------------------------------------------------------------------------------------------- DGCWNet


def test_class_wise_variance_equals_loops():
    chances = np.random.default_rng(0)
    moments = dgcwnet.Moments.none(4)
    everything = []
    for _ in range(2):
        features, classes = torch.from_numpy(chances.random((5, 6, 8))), chances.integers(3, size=(6, 8))
        classes[0, 0] = 255
        moments.add(features, classes.astype(np.uint8))
        everything += [
            (features[:, r, c].numpy(), classes[r, c])
            for r in range(6)
            for c in range(8)
            if classes[r, c] < 255
        ]
    # Class 3 has no pixel, and is in no variance.
    means = [np.mean([f for f, k in everything if k == wanted], axis=0) for wanted in range(3)]
    mean = sum(means) / 3
    assert close(moments.variance(), sum((m - mean) ** 2 for m in means) / 3, 1e-12)
    every = np.mean([f for f, _ in everything], axis=0)
    whole = np.mean([(f - every) ** 2 for f, _ in everything], axis=0)
    between = np.mean([(means[k] - every) ** 2 for _, k in everything], axis=0)
    assert close(moments.share(), between / whole, 1e-9)


def test_channels_that_are_the_class_have_all_their_variance_between_classes():
    moments, classes = dgcwnet.Moments.none(3), world.paint(32, 32, patch=8)
    noise = np.random.default_rng(1).random((32, 32))
    moments.add(torch.from_numpy(np.stack([classes.astype(float), noise, np.full((32, 32), 2.0)])), classes)
    share = moments.share()
    assert share[0] == pytest.approx(1) and share[1] < 0.05 and share[2] == 0


def test_the_features_are_what_the_classifier_reads_and_past_the_module_is_without_it(dgcw):
    net, seen = dgcw.net, next(iter(dgcw.windows))
    with_ = dgcwnet.last_features(net, seen.image)
    with dgcwnet.bypassed(net.context):
        without = dgcwnet.last_features(net, seen.image)
    assert close(dgcwnet.last_features(net, seen.image), with_)  # put back
    plain = copy.deepcopy(net)
    plain.context.update = nn.Identity()
    assert close(without, dgcwnet.last_features(plain, seen.image)) and not close(with_, without)
    with torch.no_grad():
        logits = net.head[-1](with_[None])
        assert close(logits, net.headed(net.context(net.base(net.trunk(seen.image)[-1]))))
    found = dgcwnet.class_variance(dgcw)
    assert set(found.numbers["median"]) == {"with the module", "past it"}


def test_a_pair_of_pixels_is_weighed_as_the_equations_say(dgcw):
    found = dgcwnet.channels_of_a_pair(dgcw)
    net, seen = dgcw.net, next(iter(dgcw.windows))
    query, key, (height, width) = dgcwnet.queries_and_keys(net, seen.image)
    cells = []
    for x, y in dgcw.pixels:
        row, column = y - seen.window.top, x - seen.window.left
        cells.append((row * height // 64, column * width // 64))
    assert found.numbers["cells"] == cells
    (r, c), (s, d) = cells
    distances = [float(query[n, r, c] - key[n, s, d]) ** 2 for n in range(len(query))]
    assert close(found.arrays["weights"], [one / sum(distances) for one in distances], 1e-4)


def test_what_does_not_suit_a_dgcwnet_is_said(dgcw, scene):
    assert dgcwnet.why_not(dgcw) == dgcwnet.why_no_pair(dgcw) == ""
    one = Look(dgcw.net, dgcw.checkpoint, dgcw.windows, pixels=dgcw.pixels[:1])
    assert "pair of pixels" in dgcwnet.why_no_pair(one)
    sizes = {"in_channels": 3, "classes": 3, "backbone": "resnet10t"}
    for net, why in (
        (create_model("dgcwnet", **sizes, context="gap"), "no module"),
        (create_model("dgcwnet", **sizes, fuse="none"), "fuse=none"),
        (nn.Conv2d(3, 3, 1), "only DGCWNet"),
    ):
        assert why in dgcwnet.why_not(Look(net, dgcw.checkpoint, dgcw.windows))


# ------------------------------------------------------------------------------------------- IFBFNet


def test_halves_are_the_sigmoid_of_the_mean(scene):
    look = look_at(checkpoint_of("ifbfnet", scene), scene, Wanted(number=2, side=64))
    found, net = ifbfnet.halves(look), look.net
    for number, seen in enumerate(look.windows):
        with torch.no_grad():
            levels = net.trunk(seen.image)
            deep = net.aspp(net.reduce(levels[-1]))
            joined = torch.cat([net.enlarge(deep, levels[0]), net.low(levels[0])], 1)[0]
            expected = torch.sigmoid(
                net.balance1.relate.weight[:, :, 0, 0] @ joined.mean((1, 2)) + net.balance1.relate.bias
            )
        assert close(found.arrays["balance1"][number], expected)
        assert close(found.arrays[f"window{number + 1}_joined"], joined.mean(0), 1e-4)
        assert close(
            found.arrays[f"window{number + 1}_balance1"],
            ((1 + expected[:, None, None]) * joined).mean(0),
            1e-4,
        )
    assert found.numbers["balance1"]["low_mean"] == pytest.approx(found.arrays["balance1"][:, 256:].mean())
    assert {"window1_spatial.0", "window1_spatial.2", "window1_low"} <= found.arrays.keys()


def test_a_fusion_of_known_weights(scene):
    def set_weights(net):
        net.balance1.relate.weight.zero_()
        net.balance1.relate.bias.zero_()
        net.balance1.relate.bias[256:] = float(np.log(3))

    look = look_at(
        checkpoint_of("ifbfnet", scene, change=set_weights, spatial=0), scene, Wanted(number=1, side=64)
    )
    found = ifbfnet.halves(look).numbers
    assert found["balance1"]["high_mean"] == pytest.approx(0.5) and found["balance1"][
        "low_mean"
    ] == pytest.approx(0.75)
    assert "balance2" not in found
    assert "only IFBFNet" in ifbfnet.why_not(Look(nn.Conv2d(3, 3, 1), look.checkpoint, look.windows))


# -------------------------------------------------------------------------------------------- DFCNet


def test_roads_by_land_class_equal_a_loop(scene):
    look = look_at(checkpoint_of("dfcnet", scene), scene, Wanted(number=2, side=64))
    assert "no second task" in dfcnet.why_no_mate(look)
    mate = SecondTask("road", Legend.of_names(["other", "road"]), look.checkpoint.contract)
    look = Look(look.net, dataclasses.replace(look.checkpoint, mate=mate), look.windows)
    assert dfcnet.why_no_mate(look) == ""
    counts = np.zeros((3, 2), int)
    for seen in look.windows:
        with torch.no_grad():
            second = look.net.both(seen.image)["mate"][0].argmax(0).numpy()
        for row in range(64):
            for column in range(64):
                counts[seen.classes[row, column], second[row, column]] += 1
    found = dfcnet.co_occurrence(look)
    assert (found.arrays["pixels"] == counts).all()
    assert found.numbers["overall"][1] == pytest.approx(counts[:, 1].sum() / counts.sum())


def test_deepest_features_of_two_networks(scene):
    one, other = checkpoint_of("dfcnet", scene), checkpoint_of("dfcnet", scene, mate_classes=0)
    look = look_at(one, scene, Wanted(number=1, side=64), other=other)
    found = dfcnet.deepest_features(look)
    with torch.no_grad():
        image = pad_to_corners(next(iter(look.windows)).image)
        expected = look.net.encoder(image)[1][-1].stack[0].mean(0)
    assert close(found.arrays["window1_this"], expected) and "window1_other" in found.arrays
    assert "without classmate" in found.lead


# ---------------------------------------------------------------------------------- two models, attributions


def test_a_model_agrees_with_itself_and_differs_from_another_as_a_loop_says(scene):
    mine, other = checkpoint_of("skip", scene), checkpoint_of("mlp", scene, hidden=16)
    look = look_at(mine, scene, Wanted(number=2, side=48), other=mine)
    assert disagreement.disagreement(look).numbers["differing"] == 0
    look = Look(look.net, mine, look.windows, other=other)
    found = disagreement.disagreement(look)
    counts, net = np.zeros((3, 3), int), build_network(other)
    for seen in look.windows:
        with torch.no_grad():
            theirs = net(seen.image)[0].argmax(0).numpy()
        np.add.at(counts, (seen.classes, theirs), 1)
    assert found.numbers["counts"] == counts.tolist()
    assert found.numbers["differing"] == counts.sum() - np.trace(counts)
    assert "no other model" in disagreement.why_not(Look(look.net, mine, look.windows))
    bands = checkpoint_of("skip", scene)
    object.__setattr__(bands.contract, "bands", ("a", "b", "c"))
    assert "other bands (a, b, c)" in disagreement.why_not(Look(look.net, mine, look.windows, other=bands))


def test_near_borders_equals_a_loop():
    classes = world.paint(24, 30, patch=9, seed=3)
    found = disagreement.near_border(classes, 2)
    for r in range(24):
        for c in range(30):
            around_it = classes[max(0, r - 2) : r + 3, max(0, c - 2) : c + 3]
            assert found[r, c] == (len(np.unique(around_it)) > 1)


def test_another_model_reads_the_window_in_its_own_scaling(scene):
    mine, other = checkpoint_of("skip", scene), checkpoint_of("skip", scene)
    object.__setattr__(other.contract, "normalisation", ((10.0, 2.0), (5.0, 0.0), (1.0, 3.0)))
    seen = next(iter(look_at(mine, scene, Wanted(number=1, side=32)).windows))
    with_scene = seen.image[0].numpy() * np.array(mine.contract.normalisation)[:, 1, None, None]
    pixels = with_scene + np.array(mine.contract.normalisation)[:, 0, None, None]
    expected = [(pixels[0] - 10) / 2, pixels[1] - 5, (pixels[2] - 1) / 3]
    assert close(scaled_for(seen, mine, other)[0], expected, 1e-3)


def test_attributions_of_a_linear_model_are_its_weights_times_the_input(scene):
    pytest.importorskip("captum")
    mine = checkpoint_of("skip", scene)
    wanted = Wanted(pixels=((70, 40),), side=32)
    look = look_at(mine, scene, wanted, pixels=wanted.pixels)
    linear = nn.Conv2d(3, 3, 3, padding=1)
    seen = next(iter(look.windows))
    found = speaks_for.speaks_for(Look(linear, mine, look.windows, pixels=look.pixels))
    row, column = 40 - seen.window.top, 70 - seen.window.left
    with torch.no_grad():
        target = int(linear(seen.image)[0, :, row, column].argmax())
    expected = np.zeros((3, 32, 32))
    for band in range(3):
        for dy in (-1, 0, 1):
            for dx in (-1, 0, 1):
                weight = float(linear.weight.detach()[target, band, dy + 1, dx + 1])
                expected[band, row + dy, column + dx] = weight * float(
                    seen.image[0, band, row + dy, column + dx]
                )
    assert close(found.arrays["integrated_gradients"], expected, 1e-4)
    assert found.numbers["relative_error"] < 1e-4
    assert found.numbers["by_band"]["2"] == pytest.approx(expected[1].sum(), rel=1e-3, abs=1e-5)


def test_a_few_large_values_do_not_hide_the_others():
    values = np.linspace(-1, 1, 400).reshape(20, 20)
    values[3, 4], values[5, 6] = 50, -70
    shown = speaks_for.around_zero(values, "map", "for water")
    assert "the largest is 70" in shown.caption
    low, _, high = shown.bar.labels
    assert low == f"-{high}" and 0.98 < float(high) < 1.001
    # Halves of the range are told apart: 0 and 0.5 were one colour between -70 and 70.
    assert abs(shown.pixels[10, 0].astype(int) - shown.pixels[15, 0]).sum() > 60
    few = np.zeros((20, 20))
    few[0, 0] = 2
    assert speaks_for.around_zero(few, "map", "for water").bar.labels == ("-2", "0", "2")


def test_a_missing_captum_is_one_sentence(scene, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    look = Look(nn.Conv2d(3, 3, 1), None, None, pixels=((1, 1),))
    assert speaks_for.why_not(look).endswith('pip install "labelscape[explain]"')


def test_windows_around_pixels():
    assert around([(50, 40)], 20, (96, 128)) == (40, 30, 20)
    assert around([(0, 95)], 20, (96, 128)) == (0, 76, 20)
    assert around([(10, 10), (28, 12)], 20, (96, 128)) == (9, 1, 20)
    for pixels, said in (([(128, 0)], "not inside the scene"), ([(0, 0), (20, 0)], "too small")):
        with pytest.raises(BadOption, match=said):
            around(pixels, 20, (96, 128))


def test_a_pixel_without_data_is_refused(tmp_path):
    nodata = world.make(tmp_path, nodata=0).scene
    with pytest.raises(BadInput, match="5,5 has no data"):
        look_at(checkpoint_of("skip", nodata), nodata, Wanted(pixels=((5, 5),), side=96))


def test_a_mark_is_around_its_pixel_and_hides_none_within():
    picture = np.random.default_rng(0).integers(1, 250, (20, 30, 3)).astype(np.uint8)
    framed = marked(picture, 10, 1)  # at the border: cut, not moved
    changed = (framed != picture).any(2)
    rows, columns = np.nonzero(changed)
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (6, 14, 0, 5)
    assert not changed[8:13, 0:4].any() and (framed[7, 0:4] == 255).all() and (framed[6, 0:5] == 0).all()
