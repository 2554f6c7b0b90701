"""Several looks at a pixel: scales, turns, checkpoints, temperature. Each against the sum written out."""

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import world

from labelscape.errors import BadInput, BadOption, UnknownName
from labelscape.scoring.engines import build_network
from labelscape.scoring.protocol import Protocol
from labelscape.scoring.scorer import Member, Scorer, normalise
from labelscape.scoring.symmetry import SYMMETRIES, turned, turned_back

PIXELS = np.random.default_rng(0).integers(0, 9000, (3, 48, 80)).astype(np.uint16)


def logits_of(made, image):
    with torch.inference_mode():
        return build_network(made)(image)


@pytest.mark.parametrize("which", range(8))
def test_turns_are_undone(which):
    image = torch.arange(2 * 3 * 5.0).reshape(1, 2, 3, 5)
    assert torch.equal(turned_back(turned(image, which), which), image)


def test_the_turns_are_the_eight_symmetries():
    image = torch.arange(9.0).reshape(3, 3)
    assert len({tuple(turned(image, which).flatten().tolist()) for which in SYMMETRIES["dihedral"]}) == 8
    assert torch.equal(turned(image, 1), image.flip(1))
    assert torch.equal(turned(image, 2), image.flip(0))
    assert turned(image, 5).tolist() == [[6, 3, 0], [7, 4, 1], [8, 5, 2]]  # a quarter turn, clockwise
    assert turned_back(image, 5).tolist() == [[2, 5, 8], [1, 4, 7], [0, 3, 6]]  # and back


@pytest.mark.parametrize("dtype", ["uint8", "int32", "float32"])
@pytest.mark.parametrize("bands", [1, 2, 3, 10])
def test_images_are_scaled_as_in_training_with_their_bands_side_by_side(bands, dtype):
    """In the very strides that torch gives them: networks are faster in that order, and round in it."""
    rng = np.random.default_rng(bands)
    pixels, valid = rng.uniform(0, 200, (bands, 37, 21)).astype(dtype), rng.random((37, 21)) > 0.2
    scaling = tuple((100.0 + b, 0.0 if b == 1 else 7.0 + b) for b in range(bands))
    checkpoint = world.tiny_checkpoint()
    contract = replace(checkpoint.contract, bands=tuple(map(str, range(bands))), normalisation=scaling)
    scorer = Scorer.of(checkpoint, device="cpu")
    changed = Member(replace(checkpoint, contract=contract), scorer.members[0].engine)
    (image,) = replace(scorer, members=(changed,)).prepare(pixels, valid)
    expected = normalise(pixels, valid, scaling)[None].contiguous(memory_format=torch.channels_last)
    assert torch.equal(image, expected)
    assert image.stride()[1:] == expected.stride()[1:]


@pytest.mark.parametrize("average", ["probabilities", "logits"])
@pytest.mark.parametrize("tta", ["mirror", "dihedral"])
@pytest.mark.parametrize("scales", [(1.0,), (0.5, 1.0, 1.25)])
def test_looks_are_averaged_as_told(average, tta, scales):
    made = world.tiny_checkpoint(temperature=1.7)
    scorer = Scorer.of(made, device="cpu", protocol=Protocol(scales, tta, average))
    image = scorer.prepare(PIXELS)[0]
    total, looks = torch.zeros(3, 48, 80), 0
    for scale in scales:
        size = (round(48 * scale), round(80 * scale))
        resized = F.interpolate(image, size, mode="bilinear", antialias=scale < 1) if scale != 1 else image
        for which in SYMMETRIES[tta]:
            back = turned_back(logits_of(made, turned(resized, which)), which) / 1.7
            back = F.interpolate(back, (48, 80), mode="bilinear") if scale != 1 else back
            total += (back if average == "logits" else back.softmax(dim=1))[0]
            looks += 1
    expected = (total / looks).softmax(dim=0) if average == "logits" else total / looks
    torch.testing.assert_close(scorer.score(PIXELS), expected, atol=2e-6, rtol=1e-5)
    assert scorer.protocol.passes == looks


def test_checkpoints_are_averaged_each_on_its_own_scaling():
    one = world.tiny_checkpoint()
    two = world.tiny_checkpoint(seed=1, scaling=(3000.0, 1000.0), temperature=0.8)
    each = [Scorer.of(c, device="cpu").score(PIXELS) for c in (one, two)]
    torch.testing.assert_close(
        Scorer.of([one, two], device="cpu").score(PIXELS), sum(each) / 2, atol=1e-6, rtol=1e-5
    )
    with pytest.raises(BadInput, match="same bands"):
        Scorer.of([one, replace(two, contract=replace(two.contract, bands=("1", "3", "2")))], device="cpu")


def test_temperature_softens_and_changes_no_class():
    sharp, soft = (
        Scorer.of(world.tiny_checkpoint(temperature=t), device="cpu").score(PIXELS) for t in (1.0, 3.0)
    )
    assert torch.equal(sharp.argmax(0), soft.argmax(0))
    assert soft.amax(0).mean() < sharp.amax(0).mean()


def test_a_scorer_prints_on_one_line():
    one = world.tiny_checkpoint()
    shown = repr(Scorer.of([one, one], device="cpu", protocol=Protocol(tta="flips")))
    assert shown.startswith("<Scorer of skip, skip on cpu: Protocol(scales=(1.0,), tta='flips'")
    assert len(shown) < 110


def test_what_cannot_be_averaged_is_refused():
    with pytest.raises(UnknownName, match="dihedral"):
        Protocol(tta="dihedrall")
    with pytest.raises(UnknownName, match="No average is called 'mean'"):
        Protocol(average="mean")
    with pytest.raises(BadOption, match="between 0.1 and 10"):
        Protocol(scales=(0.0,))
