"""Classes and per cent of a tile, made strip by strip, against the probabilities of the whole tile."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from labelscape.errors import BadInput
from labelscape.grid import Window
from labelscape.scoring.protocol import Protocol
from labelscape.scoring.scored import ScoredTile
from labelscape.scoring.scorer import Scorer


@pytest.mark.parametrize(("classes", "size"), [(1, (3, 5)), (2, (64, 1)), (6, (130, 67)), (250, (65, 9))])
@pytest.mark.parametrize("kept", [False, True])
def test_classes_and_confidence_are_those_of_the_probabilities(classes, size, kept):
    generator = torch.Generator().manual_seed(0)
    # Whole numbers, so that many classes are equally probable: the first of them is taken. Channels last, as
    # networks leave them.
    whole = torch.randint(-2, 3, (1, classes, *size), generator=generator).float()
    logits = whole.contiguous(memory_format=torch.channels_last)[0]
    valid = np.ones(size, bool)
    valid[:2] = False
    tile = ScoredTile(Window(0, 0, *size), logits, valid)
    probabilities = logits.contiguous().softmax(0)
    if kept:
        assert torch.equal(tile.probabilities, probabilities)
    wanted = probabilities.numpy().argmax(0).astype(np.uint8)
    percent = (probabilities.amax(0) * 100).round().to(torch.uint8).numpy()
    np.testing.assert_array_equal(tile.classes(), np.where(valid, wanted, 255))
    np.testing.assert_array_equal(tile.percent(), np.where(valid, percent, 255))
    # What is given out may be changed: the rejected get another class.
    tile.classes()[:] = 7
    np.testing.assert_array_equal(tile.classes(), np.where(valid, wanted, 255))


def test_large_scores_are_finite_though_their_sum_is_not():
    assert not torch.isfinite(torch.full((1, 2, 4, 4), 3e38).sum())
    for value, refused in ((3e38, False), (float("inf"), True), (float("nan"), True)):
        found = torch.full((1, 2, 4, 4), 1.0)
        found[..., 0] = value
        engine = SimpleNamespace(device=torch.device("cpu"), dtype=None, forward=lambda _, f=found: f)
        checkpoint = SimpleNamespace(temperature=1, network="fcn")
        member = SimpleNamespace(checkpoint=checkpoint, engine=engine)
        scorer = Scorer((member,), Protocol())
        if refused:
            with pytest.raises(BadInput, match="no finite numbers"):
                scorer.batch_logits([torch.zeros(1, 3, 4, 4)])
        else:
            assert torch.equal(scorer.batch_logits([torch.zeros(1, 3, 4, 4)]), found)
