"""Fine-tuning: what fits is taken over to the last bit, what does not is new, and both are told."""

from typing import NamedTuple

import numpy as np
import pytest
import torch
import world

from labelscape.checkpoint import Checkpoint, load
from labelscape.contract.contract import Contract
from labelscape.errors import BadOption
from labelscape.legend import Legend
from labelscape.nets.catalog import create_model
from labelscape.training.recipe import make_recipe
from labelscape.training.run import train
from labelscape.training.start import fit_of, take_over

STILL = {"rate": 1e-12, "weight_decay": 0, "momentum": 0, "steps": 1, "crop": 32, "batch": 2, "device": "cpu"}


def run(tmp_path, out, network, say, *, names=("water", "field", "forest"), bands=3, **more):
    """A network whose weights one step leaves where they started."""
    w = world.make(tmp_path, 64, 64, bands=bands, name=f"scene{out}")
    labels = world.label_raster(w, tmp_path / f"labels{out}.tif")
    classes = {name: min(value, 2) for value, name in enumerate(names)}
    ignore = [] if len(names) == 3 else [2]
    data = {
        "images": [str(w.scene)],
        "labels": [str(labels)],
        "classes": classes,
        "ignore_values": ignore,
        "holdout": 0,
    }
    train(make_recipe(data=data, network=network, **{**STILL, **more}), tmp_path / out, score=False, say=say)
    return load(tmp_path / out / f"{network}.safetensors").weights


def same(before, after):
    """Names of the weights that are equal to the last bits of a step of 1e-12."""
    return {
        key
        for key in after
        if key in before
        and before[key].shape == after[key].shape
        and np.allclose(before[key], after[key], atol=1e-9)
    }


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({}, "weights are those of fcn in"),
        ({"names": ("water", "land")}, "other classes: water, field, forest"),
        ({"names": ("a", "b", "c")}, "other classes: water, field, forest"),
        ({"bands": 2}, "other bands: "),
    ],
)
def test_a_network_goes_on_from_one_of_its_kind(tmp_path, change, said):
    before = run(tmp_path, "a", "fcn", print)
    lines = []
    start = str(tmp_path / "a" / "fcn.safetensors")
    after = run(tmp_path, "b", "fcn", lines.append, start=start, **{"seed": 7, **change})
    (told,) = [line for line in lines if "weights are those of" in line]
    assert said in told
    kept = same(before, after)
    trainable = {key for key in after if key.endswith(("weight", "bias")) and after[key].ndim > 1}
    fresh = trainable - kept
    if not change:
        assert not fresh
    elif "names" in change:
        # The layers that tell classes apart, and no other.
        assert fresh and all(len(change["names"]) in after[key].shape for key in fresh)
        assert all(key.startswith("encoder") for key in trainable if key in kept and "encoder" in key)
        assert f"{next(iter(fresh)).rpartition('.')[0]}" in told
    else:
        assert fresh and all(after[key].shape[1] == 2 for key in fresh)


class Data(NamedTuple):
    """What a start looks at of a data set."""

    bands: tuple[str, ...]
    legend: Legend


def started(network, options, before, now, seed=5):
    """(the start's weights, fresh weights, weights after `take_over`) for (bands, classes) before and now."""
    (bands, classes), (own_bands, own_classes) = before, now
    torch.manual_seed(seed)
    old = create_model(network, in_channels=len(bands), classes=len(classes), **options)
    contract = Contract(bands=tuple(bands), dtype="uint16", normalisation=((0.0, 1.0),) * len(bands))
    weights = {
        k: np.random.default_rng(1).random(v.shape).astype(np.float32) for k, v in old.state_dict().items()
    }
    start = Checkpoint(network, options, weights, Legend.of_names(list(classes)), contract)
    net = create_model(network, in_channels=len(own_bands), classes=len(own_classes), **options)
    fresh = {key: value.clone().numpy() for key, value in net.state_dict().items()}
    data = Data(tuple(own_bands), Legend.of_names(list(own_classes)))
    take_over(net, network, options, data, start)
    return (
        weights,
        fresh,
        {k: v.numpy() for k, v in net.state_dict().items()},
        fit_of(network, options, data, start),
    )


FCN = ("fcn", {"widths": (4, 6, 8, 10)})
HEAD, STEM = "head.score", "encoder.level1.conv1_1.weight"
RGB = ("red", "green", "blue")


@pytest.mark.parametrize(
    "now",
    [
        ("forest", "water", "town"),  # permuted
        ("water", "town", "wetland", "forest"),  # one more, in the middle
        ("water", "conifers", "broadleaf", "town"),  # split: forest is neither
        ("water", "built", "forest"),  # merged or renamed: another name is another class
    ],
)
def test_rows_are_matched_by_the_name_of_the_class(now):
    old = ("water", "forest", "town")
    before, fresh, after, fit = started(*FCN, (RGB, old), (RGB, now))
    for part in (f"{HEAD}.weight", f"{HEAD}.bias"):
        for row, name in enumerate(now):
            wanted = before[part][old.index(name)] if name in old else fresh[part][row]
            np.testing.assert_array_equal(after[part][row], wanted, err_msg=name)
    np.testing.assert_array_equal(after[STEM], before[STEM])
    kept = [name for name in now if name in old]
    assert f"of the same name: {', '.join(kept)}" in fit.why[0]
    assert set(fit.partly) == {f"{HEAD}.weight", f"{HEAD}.bias", "head.up16.weight"} and not fit.new


def test_columns_are_matched_by_the_name_of_the_band():
    now = ("nir", "blue", "red", "swir")
    before, fresh, after, fit = started(*FCN, (RGB, ("a", "b")), (now, ("a", "b")))
    for column, name in enumerate(now):
        wanted = before[STEM][:, RGB.index(name)] if name in RGB else fresh[STEM][:, column]
        np.testing.assert_array_equal(after[STEM][:, column], wanted, err_msg=name)
    np.testing.assert_array_equal(after[f"{HEAD}.weight"], before[f"{HEAD}.weight"])
    assert fit.why == ("other bands: red green blue; of the same name: blue red",)


def test_a_band_whose_name_stands_twice_is_no_bands_part():
    old, now = ("red", "nir", "nir"), ("nir", "nir", "red")
    before, fresh, after, fit = started(*FCN, (old, ("a", "b")), (now, ("a", "b")))
    for column, (name, wanted) in enumerate(zip(now, (fresh[STEM], fresh[STEM], before[STEM]))):
        source = 0 if name == "red" else column
        np.testing.assert_array_equal(after[STEM][:, column], wanted[:, source], err_msg=f"{column} {name}")
    assert fit.why == ("other bands: red nir nir; of the same name: red",)
    # In the same order each is itself.
    before, _, after, _ = started(*FCN, (old, ("a", "b")), (old, ("a", "b")))
    np.testing.assert_array_equal(after[STEM], before[STEM])


def test_names_that_differ_in_case_or_blanks_are_other_classes_and_told():
    old, now = ("water", "broad leaf", "town"), ("Water", "broad  leaf", "town")
    before, fresh, after, fit = started(*FCN, (RGB, old), (RGB, now))
    for row, source in enumerate((fresh, fresh, before)):
        np.testing.assert_array_equal(after[f"{HEAD}.weight"][row], source[f"{HEAD}.weight"][row])
    assert fit.why == (
        "other classes: water, broad leaf, town; of the same name: town; new, since written otherwise there: "
        "Water, broad  leaf",
    )


def test_as_many_classes_and_none_of_the_same_name_is_a_new_head():
    _, fresh, after, fit = started(*FCN, (RGB, ("a", "b")), (RGB, ("c", "d")))
    np.testing.assert_array_equal(after[f"{HEAD}.weight"], fresh[f"{HEAD}.weight"])
    assert set(fit.new) == {f"{HEAD}.weight", f"{HEAD}.bias", "head.up16.weight"} and not fit.partly


def test_classes_are_matched_along_the_axis_that_has_them():
    old, now = ("water", "forest", "town"), ("town", "wetland", "water", "forest")
    # A transposed convolution has its classes second.
    before, fresh, after, _ = started("unpooling", FCN[1], (RGB, old), (RGB, now))
    for place, name in enumerate(now):
        source, where = (before, old.index(name)) if name in old else (fresh, place)
        found, wanted = after[f"{HEAD}.weight"][:, place], source[f"{HEAD}.weight"][:, where]
        np.testing.assert_array_equal(found, wanted, err_msg=name)


def test_a_network_of_which_nothing_fits_is_refused(tmp_path):
    run(tmp_path, "a", "fcn", print)
    with pytest.raises(BadOption, match="No weight of fcn fits pspnet.*checkpoint of pspnet"):
        run(
            tmp_path,
            "b",
            "pspnet",
            print,
            start=str(tmp_path / "a" / "fcn.safetensors"),
            options={"backbone": "resnet18"},
        )
