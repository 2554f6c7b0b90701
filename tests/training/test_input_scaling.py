"""What the network sees of each band: the data's own scaling, or that of its pretrained weights."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from labelscape.contract.bands import BandStatistics
from labelscape.errors import BadOption
from labelscape.raster_vision import Bundle
from labelscape.training.data import InputScaling, input_scaling
from labelscape.training.recipe import make_recipe

DATA = {"images": ["a.tif"], "labels": ["b.tif"]}
PRETRAINED = {"pretrained": True, "backbone": "resnet50"}
RED, GREEN, BLUE = (255 * 0.485, 255 * 0.229), (255 * 0.456, 255 * 0.224), (255 * 0.406, 255 * 0.225)


def dataset(*bands: str, dtype: str = "uint8"):
    scene = SimpleNamespace(scene=SimpleNamespace(dtype=np.dtype(dtype)))
    return SimpleNamespace(bands=bands, scenes=[scene])


def scaled(
    bands: str, options: dict, how: str = "auto", dtype: str = "uint8", bundle: Bundle | None = None
) -> InputScaling:
    recipe = make_recipe(data=DATA, network="pspnet", options=options, normalisation=how)
    names = bands.split()
    own = [BandStatistics(name, 10.0 + i, 2.0, 0.0, 255.0, (0.0,) * 9) for i, name in enumerate(names)]
    return input_scaling(recipe, dataset(*names, dtype=dtype), own, bundle)


def test_pretrained_weights_read_their_own_mean_and_deviation_of_8_bit_colours() -> None:
    found = scaled("red green blue", PRETRAINED)
    assert found.pairs == (RED, GREEN, BLUE)
    assert "weights' own training" in found.source
    # By the bands' names, not their place; others by the data's own.
    found = scaled("nir blue red green", PRETRAINED)
    assert found.pairs == ((10.0, 2.0), BLUE, RED, GREEN)
    assert "nir by the data's own" in found.source


def test_all_else_is_scaled_by_the_data_and_that_is_told() -> None:
    own = ((10.0, 2.0), (11.0, 2.0), (12.0, 2.0))
    assert scaled("red green blue", {}) == InputScaling(own, "")
    assert scaled("red green blue", PRETRAINED, "data") == InputScaling(own, "")
    for bands, options, dtype, said in (
        ("red green blue", PRETRAINED, "uint16", "uint16"),
        ("nir red green", PRETRAINED, "uint8", "nir red green"),
        ("red green blue", {"backbone": "resnet50", "weights": "x.pth"}, "uint8", "tag"),
    ):
        found = scaled(bands, options, dtype=dtype)
        assert found.pairs == own and said in found.source and "data's own" in found.source
        with pytest.raises(BadOption, match=said):
            scaled(bands, options, "weights", dtype)
    with pytest.raises(BadOption, match="random weights"):
        scaled("red green blue", {}, "weights")


def test_a_file_of_a_named_tag_is_read_as_that_tag() -> None:
    found = scaled("red green blue", {"backbone": "resnet50.a1_in1k", "weights": "x.pth"})
    assert found.pairs == (RED, GREEN, BLUE)


def bundle(means: tuple[float, ...], stds: tuple[float, ...]) -> Bundle:
    return Bundle("a/b.zip", (("a", None),), "", "", "resnet50", means, stds, len(means) or None, (), True)


def test_weights_of_a_bundle_read_what_they_learned_from() -> None:
    """(value - mean) / (6 x deviation) + 0.5, which Raster Vision computes, and 8 bits over 255."""
    given = bundle((12.0, 9.0), (2.0, 3.0))
    found = scaled("red nir", {}, dtype="uint16", bundle=given)
    values = np.array([[7.0, 12.0, 17.0], [1.0, 9.0, 17.0]])
    for row, (mean, std), (low, width) in zip(values, ((12, 2), (9, 3)), found.pairs):
        np.testing.assert_allclose((row - low) / width, (row - mean) / (6 * std) + 0.5)
    assert found.source == (
        "input is scaled as in the training of b.zip: by its statistics of the bands, in their order"
    )
    assert scaled("red nir", {}, "weights", "uint16", given) == found
    eight = scaled("red nir", {}, bundle=bundle((), ()))
    assert eight.pairs == ((0.0, 255.0),) * 2 and "8-bit values over 255" in eight.source
    assert scaled("red nir", {}, "data", bundle=given) == InputScaling(((10.0, 2.0), (11.0, 2.0)), "")


@pytest.mark.parametrize(
    ("means", "stds", "said"),
    [
        ((), (), "b.zip has no statistics of bands, and values are uint16"),
        ((10.0,), (2.0,), "b.zip has statistics of 1 bands, and 2 are read"),
        # The means of the data are 10 and 11.
        ((1000.0, 12.0), (9.0, 2.0), "band red has a mean of 10, and in b.zip one of 1000 (deviation 9)"),
        ((10.0, 5.0), (2.0, 2.0), "band nir has a mean of 11, and in b.zip one of 5 (deviation 2)"),
        ((10.0, 11.0), (2.0, 0.0), "band nir has a mean of 11, and in b.zip one of 11 (deviation 0)"),
    ],
)
def test_statistics_of_a_bundle_that_cannot_be_of_these_bands_are_left_out(means, stds, said) -> None:
    found = scaled("red nir", {}, dtype="uint16", bundle=bundle(means, stds))
    assert found.pairs == ((10.0, 2.0), (11.0, 2.0))
    assert found.source.startswith(f"input is scaled by the data's own statistics: {said}")
    with pytest.raises(BadOption, match="`normalisation='weights'` cannot be followed"):
        scaled("red nir", {}, "weights", "uint16", bundle(means, stds))


def test_the_usual_choice_is_not_stored() -> None:
    assert "normalisation" not in make_recipe(data=DATA).model_dump()
    assert make_recipe(data=DATA, normalisation="data").model_dump()["normalisation"] == "data"
