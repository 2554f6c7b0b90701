"""Other people's weights as a start: what fits is taken over to the bit, what does not is refused and named,
and a file that would run code is not read.
"""

import pickle
import re

import numpy as np
import pytest
import torch
import world
from small_networks import SMALL
from test_start import RGB, Data

from labelscape.checkpoint import load, save
from labelscape.errors import BadFile, BadInput
from labelscape.export.model import export_model
from labelscape.legend import Legend
from labelscape.nets.catalog import create_model
from labelscape.nets.depth import encoder_names
from labelscape.nets.libraries import import_torchvision
from labelscape.training.foreign import ForeignWeights, load_start
from labelscape.training.freeze import freeze_encoder
from labelscape.training.recipe import make_recipe
from labelscape.training.run import train
from labelscape.training.start import take_over, told_of_start

DATA = Data(RGB, Legend.of_names(["water", "field", "forest"]))


def network(name, bands=3, classes=3, **options):
    return create_model(name, in_channels=bands, classes=classes, **{**SMALL[name], **options})


def marked(net, prefix="", without=()):
    """A state of numbers that no fresh network has, under names as others write them."""
    draw = torch.Generator().manual_seed(4)
    return {
        prefix + key: torch.rand(value.shape, generator=draw).to(value.dtype) + 2
        for key, value in net.state_dict().items()
        if not key.startswith(tuple(without))
    }


def backbone():
    """timm's own network, with its classifier."""
    import_torchvision()
    import timm

    return timm.create_model("resnet10t")


@pytest.mark.parametrize(
    "prefix",
    ["", "model.encoder.", "backbone.", "encoder."],  # timm, torchgeo's task, others
)
def test_a_timm_encoder_is_taken_over_whatever_stands_before_its_names(prefix):
    state = marked(backbone(), prefix)
    net = network("deeplabv3plus")
    fresh = {key: value.clone() for key, value in net.state_dict().items()}
    taken = take_over(net, "deeplabv3plus", SMALL["deeplabv3plus"], DATA, ForeignWeights("w.pth", state))
    assert taken == encoder_names(net)
    for key, value in net.state_dict().items():
        wanted = state[prefix + key.removeprefix("trunk.body.")] if key in taken else fresh[key]
        assert torch.equal(value, wanted), key
    freeze_encoder(net, taken)
    (line,) = told_of_start(
        "deeplabv3plus", SMALL["deeplabv3plus"], DATA, ForeignWeights("w.pth", state), "w.pth"
    )
    assert f"not used: {prefix}fc.bias, {prefix}fc.weight" in line and "new: " in line


@pytest.mark.parametrize("name", ["convnext_atto", "mobilenetv3_small_050"])
def test_classifiers_of_timm_whose_names_are_joined_otherwise_fit_too(name):
    """Its feature extractors have "stages_0" where its classifiers have "stages.0"."""
    import_torchvision()
    import timm

    state = marked(timm.create_model(name), "backbone.")
    options = {**SMALL["deeplabv3plus"], "backbone": name}
    net = network("deeplabv3plus", backbone=name)
    taken = take_over(net, "deeplabv3plus", options, DATA, ForeignWeights("w.pth", state))
    assert taken == encoder_names(net)
    flat = {key.removeprefix("backbone.").replace(".", "_"): value for key, value in state.items()}
    for key in taken:
        theirs = flat[key.removeprefix("trunk.body.").replace(".", "_")]
        assert torch.equal(net.state_dict()[key], theirs), key


def test_a_whole_network_of_the_library_but_its_classes():
    theirs = network("smp/Unet").net
    state = marked(theirs, "model.")
    net = network("smp/Unet")
    fresh = {key: value.clone() for key, value in net.state_dict().items()}
    taken = take_over(net, "smp/Unet", SMALL["smp/Unet"], DATA, ForeignWeights("w.ckpt", state))
    # As many classes: the file does not say which.
    heads = {key for key in fresh if key.startswith("net.segmentation_head")}
    assert heads and taken == fresh.keys() - heads
    for key, value in net.state_dict().items():
        wanted = fresh[key] if key in heads else state["model." + key.removeprefix("net.")]
        assert torch.equal(value, wanted), key


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"bands": 4}, r"1 of \d+ weights of the encoder differ \(.*conv1.*is .* there, .* here.*data.bands"),
        ({"name": "fcn"}, r"holds no encoder of this network: of its \d+ weights"),
    ],
)
def test_an_encoder_that_does_not_fit_whole_is_refused(change, said):
    name, bands = change.get("name", "deeplabv3plus"), change.get("bands", 3)
    net = network(name, bands=bands)
    data = Data(("a", "b", "c", "d")[:bands], DATA.legend)
    before = {key: value.clone() for key, value in net.state_dict().items()}
    with pytest.raises(BadInput, match=said):
        take_over(net, name, SMALL[name], data, ForeignWeights("w.pth", marked(backbone())))
    assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items())


@pytest.mark.parametrize("prefix", ["", "model.encoder."])
@pytest.mark.parametrize("name", ["deeplabv3plus", "smp/Unet"])
def test_a_deeper_backbone_of_which_all_would_fit_but_its_further_blocks_is_refused(name, prefix):
    import_torchvision()
    import timm

    key = "encoder" if name.startswith("smp/") else "backbone"
    net = network(name, **{key: "resnet18"})
    deeper, same = (marked(timm.create_model(one), prefix) for one in ("resnet34", "resnet18"))
    options = {**SMALL[name], key: "resnet18"}
    with pytest.raises(
        BadInput, match=r"has 96 weights more .*layer1.2.bn1.bias. It is of a deeper backbone"
    ):
        take_over(net, name, options, DATA, ForeignWeights("w.pth", deeper))
    assert encoder_names(net) <= take_over(net, name, options, DATA, ForeignWeights("w.pth", same))


def test_a_part_that_is_missing_is_named():
    state = marked(backbone(), without=["layer4.0.conv2"])
    with pytest.raises(BadInput, match=r"layer4.0.conv2.weight is missing there"):
        take_over(network("pspnet"), "pspnet", SMALL["pspnet"], DATA, ForeignWeights("w.pth", state))


def test_values_that_are_no_numbers_are_refused():
    state = marked(backbone())
    state["layer1.0.conv1.weight"][0] = float("nan")
    with pytest.raises(BadFile, match="layer1.0.conv1.weight holds values that are no finite numbers"):
        take_over(network("pspnet"), "pspnet", SMALL["pspnet"], DATA, ForeignWeights("w.pth", state))


class Harmful:
    def __reduce__(self):
        return open, ("harm", "w")


def test_a_file_that_would_run_code_is_not_read(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"state_dict": {"a": torch.zeros(2)}, "more": Harmful()}, tmp_path / "w.ckpt")
    with pytest.raises(BadFile, match=r"it holds objects \(.*open\) .* runs code of whoever made it"):
        load_start(str(tmp_path / "w.ckpt"))
    assert not (tmp_path / "harm").exists()


@pytest.mark.parametrize(
    "content",
    [
        pickle.dumps(Harmful()),
        pickle.dumps({"a": Harmful()}, protocol=2),
        pickle.dumps({"a": 1}),
        b"hello",
        b"",
        b"PK\3\4",
        bytes(range(256)),
    ],
)
def test_what_is_no_file_of_tensors_is_refused_without_advice_to_run_it(
    content, tmp_path, monkeypatch, recwarn
):
    monkeypatch.chdir(tmp_path)
    for ending in (".pth", ".bin"):
        (tmp_path / f"w{ending}").write_bytes(content)
        with pytest.raises(
            (BadFile, BadInput), match=r"^\S+w\.\w+ (cannot be read as weights|holds no n)"
        ) as told:
            load_start(str(tmp_path / f"w{ending}"))
        assert "weights_only" not in str(told.value) and not re.search(r"\(\d+\)", str(told.value))
    assert not recwarn.list and not (tmp_path / "harm").exists()


def test_an_exported_model_is_no_start(tmp_path):
    save(world.ten_metre_fcn(), tmp_path / "m.safetensors")
    made = export_model(tmp_path / "m.safetensors", size=64)
    with pytest.raises(
        BadInput, match="is an ONNX model, whose weights .* the checkpoint that it was made of"
    ):
        load_start(str(made.path))


def test_a_checkpoint_of_lightning_as_torchgeo_writes_it_is_a_start(tmp_path):
    state = marked(network("smp/Unet").net, "model.")
    written = {
        "epoch": 3,
        "pytorch-lightning_version": "2.5.0",
        "state_dict": state,
        "optimizer_states": [{"state": {0: {"exp_avg": torch.zeros(3)}}, "param_groups": [{"lr": 1e-3}]}],
        "hyper_parameters": {
            "model": "unet",
            "backbone": "resnet18",
            "in_channels": 3,
            "class_weights": None,
        },
    }
    torch.save(written, tmp_path / "epoch=3.ckpt")
    net = network("smp/Unet")
    start = load_start(str(tmp_path / "epoch=3.ckpt"))
    taken = take_over(net, "smp/Unet", SMALL["smp/Unet"], DATA, start)
    assert encoder_names(net) < taken
    assert all(
        torch.equal(net.state_dict()[key], state["model." + key.removeprefix("net.")]) for key in taken
    )


def test_a_folder_of_the_library_itself_is_a_start(tmp_path):
    theirs = network("smp/Unet").net
    theirs.load_state_dict(marked(theirs))
    theirs.save_pretrained(tmp_path / "unet")
    net = network("smp/Unet", classes=5)
    data = Data(RGB, Legend.of_names(["a", "b", "c", "d", "e"]))
    taken = take_over(net, "smp/Unet", SMALL["smp/Unet"], data, load_start(str(tmp_path / "unet")))
    heads = {key for key in net.state_dict() if key.startswith("net.segmentation_head")}
    assert taken == net.state_dict().keys() - heads
    wanted = theirs.state_dict()
    assert all(torch.equal(net.state_dict()[key], wanted[key.removeprefix("net.")]) for key in taken)
    # It is no model to map with: it names neither classes nor bands.
    with pytest.raises(BadFile, match="is a folder"):
        load(tmp_path / "unet")


def test_training_starts_from_a_file_of_weights(tmp_path):
    from safetensors.torch import save_file

    state = marked(backbone())
    # Small values: statistics of 2 and more would leave nothing to learn from.
    state = {key: value / 50 if value.is_floating_point() else value for key, value in state.items()}
    save_file(state, tmp_path / "resnet10t.safetensors")
    w = world.make(tmp_path, 64, 64, bands=3)
    labels = world.label_raster(w, tmp_path / "labels.tif")
    lines = []
    recipe = make_recipe(
        data={"images": [str(w.scene)], "labels": [str(labels)], "holdout": 0},
        network="deeplabv3plus",
        options=SMALL["deeplabv3plus"],
        start=str(tmp_path / "resnet10t.safetensors"),
        freeze="encoder",
        steps=1,
        crop=64,
        batch=2,
        device="cpu",
        measure_unfamiliar=False,
    )
    train(recipe, tmp_path / "out", score=False, say=lines.append)
    weights = load(tmp_path / "out" / "deeplabv3plus.safetensors").weights
    np.testing.assert_array_equal(
        weights["trunk.body.layer1.0.conv1.weight"], state["layer1.0.conv1.weight"].numpy()
    )
    assert any("weights are those of resnet10t.safetensors" in line for line in lines)
