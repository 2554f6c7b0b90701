"""Options that would change nothing are refused, and networks of checkpoints are built without other
weights.
"""

from __future__ import annotations

import socket

import pytest
import torch

from labelscape.errors import BadOption, UnknownName
from labelscape.nets import backbones
from labelscape.nets.catalog import (
    create_model,
    entry,
    list_models,
    options_of,
    stored_model,
    weights_scaling,
    with_tag,
)
from labelscape.nets.checks import is_of_type, refuse_idle
from labelscape.nets.libraries import import_smp
from labelscape.nets.tables import TABLES

IDLE = [
    ("dgcwnet", "agg", {"weighting": "conv", "agg": "mean"}),
    ("dgcwnet", "agg", {"context": "nl-d", "agg": "mean"}),
    ("dgcwnet", "weighting", {"context": "se", "weighting": "tanh"}),
    ("dgcwnet", "nl_scaled", {"nl_scaled": True}),
    ("dgcwnet", "downsample", {"context": "nl-h", "downsample": "max"}),
    ("dgcwnet", "downsample", {"context": "none", "downsample": "avg"}),
    ("dgcwnet", "reduce_kernel", {"context": "gap", "reduce_kernel": 1}),
    ("dgcwnet", "fuse", {"context": "gap", "fuse": "none"}),
    ("dgcwnet", "width", {"context": "none", "width": 64}),
    ("dgcwnet", "base_width", {"base_width": 64}),
    ("dgcwnet", "head_width", {"fuse": "none", "head_width": 64}),
    ("dgcwnet", "first_conv", {"first_conv": "mean"}),
    ("mswbn", "theta_hwm", {"gate_hwm": False, "theta_hwm": 0.3}),
    ("mswbn", "theta_lbm", {"gate_lbm": False, "theta_lbm": 0.3}),
    ("mswbn", "theta_lbm", {"lbm": False, "theta_lbm": 0.3}),
    ("mswbn", "gate_lbm", {"lbm": False, "gate_lbm": False}),
    ("mswbn", "mlp_input", {"gate_hwm": False, "mlp_input": "gated"}),
    ("mswbn", "mlp_input", {"lbm": False, "mlp_input": "gated"}),
    ("ifbfnet", "rates", {"aspp": "none", "rates": [3, 6]}),
    ("ifbfnet", "order", {"skip": "none", "spatial": 0, "order": "text"}),
    ("ifbfnet", "order", {"skip": "concat", "spatial": 0, "order": "text"}),
    ("unpooling", "upsampling", {"upsampling": "interpolate"}),
    ("mlp", "variant", {"variant": "released", "hidden": 8, "relu": True}),
    ("dfcnet", "slice_at", {"mate_classes": 0, "slice_at": "block5"}),
    ("fc-densenet", "backbone", {"backbone": "densenet121.ra_in1k"}),
    ("tiramisu", "layers", {"layers": "56", "growth": 4, "lengths": (1,) * 11}),
    ("pspnet", "first_conv", {"first_conv": "mean"}),
    ("deeplabv3plus", "first_conv", {"first_conv": "mean"}),
]


@pytest.mark.parametrize(("name", "option", "options"), IDLE)
def test_an_option_without_effect_is_refused(name: str, option: str, options: dict) -> None:
    with pytest.raises(BadOption, match=f"^{option}=.* has no effect: it needs ") as refused:
        create_model(name, classes=4, **options)
    assert "\n" not in str(refused.value)


DENSE = {"encoder": (1, 1, 1, 1), "decoder": (1, 1, 1, 1), "stem": 4, "growth": 2, "width": 4}
SMALL = {
    "unpooling": {"widths": (2, 3, 4, 5)},
    "mlp": {"widths": (2, 3, 4, 5)},
    "tiramisu": {"stem": 4},
    "fc-densenet": DENSE,
    "dfcnet": DENSE,
}


# Earlier versions refused the fuse of a context without a map, so no checkpoint has it.
@pytest.mark.parametrize(("name", "option", "options"), [case for case in IDLE if case[1] != "fuse"])
def test_it_had_none_and_a_checkpoint_that_has_it_is_still_built(
    name: str, option: str, options: dict
) -> None:
    """Left to its default, the network has the very same weights and output."""
    given = {**SMALL.get(name, {"backbone": "resnet10t"}), **options}
    nets = []
    for asked in (given, {key: value for key, value in given.items() if key != option}):
        torch.manual_seed(0)
        nets.append(stored_model(name, in_channels=3, classes=2, options=asked).eval())
    one, two = (net.state_dict() for net in nets)
    assert one.keys() == two.keys() and all(torch.equal(one[key], two[key]) for key in one)
    image = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(*(net(image) for net in nets))


def test_rows_of_the_tables_have_no_idle_options() -> None:
    for table in TABLES.values():
        for row in table.rows:
            if row.network is not None and not row.quoted:
                defaults = {key: option.default for key, option in options_of(row.network).items()}
                refuse_idle(row.options, defaults, entry(row.network).effects)


NAMES = [*list_models(), "smp/Unet"]


@pytest.mark.parametrize("name", NAMES)
def test_a_checkpoints_network_is_built_without_looking_for_weights(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*args: object, **options: object) -> None:
        raise AssertionError("weights were looked for")

    import_smp()  # or its import would keep what is patched below
    monkeypatch.setattr(socket, "socket", refused)
    monkeypatch.setattr(socket, "create_connection", refused)
    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", refused)
    monkeypatch.setattr(torch, "load", refused)
    monkeypatch.setattr(backbones, "read_weights", refused)
    monkeypatch.setattr("huggingface_hub.hf_hub_download", refused)
    known, options = options_of(name), {}
    if "pretrained" in known:
        options["pretrained"] = True
    if "weights" in known:
        options["weights"] = "/nowhere/weights.pth"
    with torch.device("meta"):
        stored_model(name, in_channels=5, classes=3, options=options)
        if "backbone" in known:  # the tag of another release of timm
            tagged = f"{known['backbone'].default}.of_tomorrow"
            stored_model(name, in_channels=5, classes=3, options={**options, "backbone": tagged})


def test_the_tag_of_pretrained_weights_is_recorded() -> None:
    import timm

    tag = timm.get_pretrained_cfg("resnet50").tag
    assert with_tag("mswbn", {"backbone": "resnet50", "pretrained": True, "width": 8}) == {
        "backbone": f"resnet50.{tag}",
        "pretrained": True,
        "width": 8,
    }
    recorded = with_tag("dgcwnet", {"pretrained": True, "stem": "deep", "backbone": "resnet50"})
    assert recorded["backbone"] == f"resnet50.{timm.get_pretrained_cfg('resnet50s').tag}"
    assert with_tag("dgcwnet", recorded) == recorded
    assert with_tag("dfcnet", {"pretrained": True})["backbone"].startswith("densenet121.")
    assert with_tag("smp/Unet", {"encoder": "tu-resnet18", "pretrained": True})["encoder"].startswith(
        "tu-resnet18."
    )
    for same in ({"backbone": "resnet50"}, {"backbone": "resnet50.a1_in1k", "pretrained": True}):
        assert with_tag("pspnet", same) == same
    assert with_tag("fcn", {"widths": (1, 2, 3, 4)}) == {"widths": (1, 2, 3, 4)}


def test_the_tag_says_which_weights_are_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    import timm

    asked = []
    create = timm.create_model

    def recorded(name: str, *, pretrained: bool = False, **options: object) -> torch.nn.Module:
        asked.append((name, pretrained))
        return create(name, **options)

    monkeypatch.setattr(timm, "create_model", recorded)
    with torch.device("meta"):
        backbones.trunk("resnet50.gluon_in1k", pretrained=True, output_stride=8)
        backbones.trunk("resnet50.gluon_in1k", pretrained=True, stem="deep")
    assert asked == [("resnet50.gluon_in1k", True), ("resnet50s.gluon_in1k", True)]
    with pytest.raises(UnknownName, match="a1_in1k"):
        backbones.trunk("resnet50.a1_in2k")


def test_statistics_are_those_of_the_tag() -> None:
    imagenet = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    assert weights_scaling("pspnet", {"pretrained": True}) == imagenet
    assert weights_scaling("pspnet", {}) is None
    assert weights_scaling("dfcnet", {"pretrained": True}) == imagenet
    assert weights_scaling("smp/Unet", {"encoder": "tu-resnet18", "pretrained": True}) == imagenet
    assert weights_scaling("smp/Unet", {}) is None and weights_scaling("mlp", {}) is None
    assert weights_scaling("pspnet", {"backbone": "resnet50", "weights": "x.pth"}) is None
    half = (0.5, 0.5, 0.5)
    file = {"backbone": "tf_efficientnet_lite0.in1k", "weights": "x.pth"}
    assert weights_scaling("deeplabv3plus", file) == (half, half)


@pytest.mark.parametrize("name", list_models())
def test_values_of_another_type_are_a_sentence(name: str) -> None:
    tried = 0
    for option in options_of(name):
        for value in (None, "x", 1.5, [], {}, object()):
            if is_of_type(value, entry(name).build, option):
                continue
            tried += 1
            with pytest.raises(
                BadOption, match=rf"{option}=.* is of the wrong type; {name} takes (a |text|True)"
            ):
                create_model(name, classes=3, **{option: value})
    assert tried > 20


def test_lists_for_tuples_are_of_the_type() -> None:
    assert create_model("fcn", classes=3, widths=[4, 4, 4, 4], bn_momentum=1).classes == 3
    with pytest.raises(BadOption, match=r"takes a list of whole numbers, such as \[32,64,96,128\]\.$"):
        create_model("fcn", classes=2, widths="8,8,8,8")
    with pytest.raises(BadOption, match="takes a whole number, or none"):
        create_model("mlp", classes=2, hidden="many")
    with pytest.raises(BadOption, match="theta_lbm=None is of the wrong type"):
        create_model("mswbn", classes=3, backbone="resnet10t", theta_lbm=None)
