"""The curve of scores over tile sizes: which size is the default, and what another one costs."""

from dataclasses import replace

import pytest

from labelscape.contract.tile_sizes import TileSizes

FALLING = TileSizes(
    crop=224,
    sides=(224, 336, 448, 672),
    mean_iou=(0.70, 0.698, 0.66, 0.669),
    overall_accuracy=(0.9, 0.9, 0.88, 0.89),
    loss=(0.0, 0.002, 0.04, 0.031),
    error=(0.0, 0.003, 0.01, 0.01),
)


@pytest.mark.parametrize(
    ("loss", "error", "default"),
    [
        ((0, 0.002, 0.04, 0.031), (0, 0.003, 0.01, 0.01), 336),
        ((0, 0.002, 0.04, 0.031), (0, 0.001, 0.01, 0.01), 224),  # small, but beyond chance
        ((0, 0.02, 0.04, 0.03), (0, 0.05, 0.05, 0.05), 224),  # within chance, but not small
        ((0, -0.01, -0.02, -0.03), (0, 0.001, 0.001, 0.001), 672),  # larger tiles score better
        ((0, 0.0, 0.0, 0.0), (0, 0.0, 0.0, 0.0), 672),
        ((0, 0.02, 0.001, 0.02), (0, 0.01, 0.01, 0.01), 448),
        ((0, 0.005, 0.0049, 0.02), (0, 0.01, 0.01, 0.01), 448),  # half a point is too much
    ],
)
def test_the_default_is_the_largest_side_that_costs_nothing(loss, error, default):
    assert replace(FALLING, loss=loss, error=error).default == default


def test_losses_are_interpolated_and_the_last_one_holds_beyond():
    losses = [FALLING.loss_at(side) for side in (100, 224, 280, 392, 672, 1152)]
    assert losses == pytest.approx([0, 0, 0.001, 0.021, 0.031, 0.031])


def test_values_come_back_and_wrong_ones_are_refused():
    fields = FALLING.to_dict()
    assert TileSizes.from_dict(fields) == FALLING and fields["sides"] == [224, 336, 448, 672]
    for wrong in (
        {"sides": [224, 224, 448, 672]},
        {"sides": [224]},
        {"sides": []},
        {"loss": [0, 1, 2, float("nan")]},
        {"crop": 0},
    ):
        with pytest.raises(ValueError, match="tile sizes"):
            TileSizes.from_dict({**fields, **wrong})
    with pytest.raises(KeyError):
        TileSizes.from_dict({k: v for k, v in fields.items() if k != "error"})
    with pytest.raises(TypeError):
        TileSizes.from_dict({**fields, "loss": 3})
