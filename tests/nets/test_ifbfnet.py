"""IFBFNet against its equations written as loops (float64, value and gradient), the rows of its tables,
and its promises.
"""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from labelscape.errors import BadOption, UnknownName
from labelscape.nets.count import macs, parameters
from labelscape.nets.ifbfnet import BalancedFusion, IFBFNet, SpatialStream, ifbfnet

TINY = {"backbone": "resnet18", "spatial": 5}


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


def assert_same_with_gradients(mine: Tensor, loops: Tensor, leaves: list[Tensor]) -> None:
    torch.testing.assert_close(mine, loops)
    pull = torch.randn_like(mine)
    for got, wanted in zip(
        torch.autograd.grad(mine, leaves, pull), torch.autograd.grad(loops, leaves, pull), strict=True
    ):
        torch.testing.assert_close(got, wanted)


def weights_in_loops(fusion: BalancedFusion, levels: Tensor) -> Tensor:
    """Eq. 2 with the 1 x 1 convolution of the text, for one image (C, h, w)."""
    channels, height, width = levels.shape
    pooled = [
        sum(levels[c, y, x] for y in range(height) for x in range(width)) / (height * width)
        for c in range(channels)
    ]
    matrix, bias = fusion.relate.weight[:, :, 0, 0], fusion.relate.bias
    related = [sum(matrix[c, d] * pooled[d] for d in range(channels)) + bias[c] for c in range(channels)]
    return torch.stack([1 / (1 + (-value).exp()) for value in related])


def test_balanced_fusion_is_equations_2_and_3_and_a_residual() -> None:
    fusion = BalancedFusion(5).double()
    high, low = (
        torch.randn(2, channels, 3, 4, dtype=torch.float64, requires_grad=True) for channels in (3, 2)
    )
    levels = torch.cat([high, low], dim=1)
    loops = []
    for image in levels:
        w = weights_in_loops(fusion, image)
        loops.append(torch.stack([w[c] * image[c] + image[c] for c in range(5)]))
    leaves = [high, low, fusion.relate.weight, fusion.relate.bias]
    assert_same_with_gradients(fusion(levels), torch.stack(loops), leaves)
    torch.testing.assert_close(
        fusion.weights(levels)[:, :, 0, 0], torch.stack([weights_in_loops(fusion, image) for image in levels])
    )


def test_the_convolution_after_it_is_equation_4() -> None:
    """F_balanced = sum W_hi Feat_hi * K_i + sum W_li Feat_li * K_(c_h+i); the residual adds eq. 1, the
    plain joining.
    """
    fusion, kernel = (
        BalancedFusion(5).double(),
        torch.randn(4, 5, 3, 3, dtype=torch.float64, requires_grad=True),
    )
    high, low = torch.randn(1, 3, 4, 5, dtype=torch.float64), torch.randn(1, 2, 4, 5, dtype=torch.float64)
    levels = torch.cat([high, low], dim=1)
    w_high, w_low = weights_in_loops(fusion, levels[0]).split([3, 2])
    balanced = sum(
        F.conv2d(w_high[i] * high[:, i : i + 1], kernel[:, i : i + 1], padding=1) for i in range(3)
    )
    balanced = balanced + sum(
        F.conv2d(w_low[i] * low[:, i : i + 1], kernel[:, 3 + i : 4 + i], padding=1) for i in range(2)
    )
    plain = F.conv2d(levels, kernel, padding=1)
    assert_same_with_gradients(
        F.conv2d(fusion(levels), kernel, padding=1), balanced + plain, [kernel, fusion.relate.weight]
    )


def test_published_sizes_of_balanced_fusion() -> None:
    assert parameters(BalancedFusion(320)) == 102_720
    assert parameters(BalancedFusion(384)) == 147_840


def test_the_spatial_stream_has_three_layers_and_quarters_the_image() -> None:
    with torch.device("meta"):
        stream = SpatialStream(3, 128)
        first = stream[0](torch.empty(1, 3, 876, 876))
        second = stream[1](first)
        assert [tuple(level.shape[1:]) for level in (first, second, stream[2](second))] == [
            (64, 438, 438),
            (64, 219, 219),
            (128, 219, 219),
        ]
    assert [layer[0].kernel_size[0] for layer in stream] == [7, 3, 1]


ROWS = {
    "base": ({"aspp": "none", "skip": "none", "spatial": 0}, 24.22, 43.21, 35.4, 54.8),
    "ASPP": ({"skip": "none", "spatial": 0}, 26.32, 45.31, 37.5, 56.9),
    "skip": ({"skip": "concat", "spatial": 0}, 27.79, 46.78, 62.2, 81.6),
    "BF": ({"spatial": 0}, 27.90, 46.89, 62.2, 81.6),
    "spatial": ({}, 28.11, 47.11, 63.8, 83.2),
    "text": ({"order": "text"}, 28.08, 47.07, 65.2, 84.6),
    "ASPP on stage 4": ({"aspp": "stage4"}, 40.43, 59.43, 76.0, 95.4),
}


@pytest.mark.parametrize(
    ("row", "backbone"),
    [(row, "resnet50") for row in ROWS] + [("base", "resnet101"), ("spatial", "resnet101")],
)
def test_every_row_of_table_2_is_one_call(row: str, backbone: str) -> None:
    options, *sizes = ROWS[row]
    with torch.device("meta"):
        net = ifbfnet(in_channels=3, classes=19, backbone=backbone, **options)
        counted = macs(net, 512, 512, 3) / 1e9
    auxiliary = (
        (256 * 64 * 9 + 64 * 19) * 128 * 128 / 1e9
    )  # the published targets count it, an image in eval mode does not
    wanted, at_512 = (sizes[0], sizes[2]) if backbone == "resnet50" else (sizes[1], sizes[3])
    assert parameters(net) / 1e6 == pytest.approx(wanted, abs=0.01)
    assert counted + auxiliary == pytest.approx(at_512, abs=0.05)


@pytest.mark.parametrize(("spatial", "wanted"), [(16, 47.01), (48, 47.04), (256, 47.25)])
def test_a_column_of_table_3_is_one_call(spatial: int, wanted: float) -> None:
    with torch.device("meta"):
        net = ifbfnet(in_channels=3, classes=19, spatial=spatial)
    assert net.spatial[2][0].out_channels == spatial
    assert parameters(net) / 1e6 == pytest.approx(wanted, abs=0.01)


def seen_by(net: IFBFNet, image: Tensor) -> dict[str, tuple[Tensor, Tensor]]:
    """Every direct part's input and output."""
    seen = {}
    for name, part in net.named_children():
        part.register_forward_hook(
            lambda module, inputs, output, name=name: seen.update({name: (inputs[0], output)})
        )
    net(image)
    return seen


@pytest.mark.parametrize(("order", "align_corners"), [("eq", False), ("text", True)])
def test_the_decoder_fuses_in_the_order_asked_for(order: str, align_corners: bool) -> None:
    net = ifbfnet(in_channels=3, classes=4, order=order, align_corners=align_corners, **TINY).eval()
    image = torch.randn(1, 3, 76, 100)  # as 876: no multiple of 16
    seen = seen_by(net, image)
    s1, s4 = seen["trunk"][1][0], seen["trunk"][1][-1]
    assert s1.shape[-2:] == (19, 25) and s4.shape[-2:] == (5, 7)
    assert (
        torch.equal(seen["reduce"][0], s4)
        and torch.equal(seen["aspp"][0], seen["reduce"][1])
        and torch.equal(seen["low"][0], s1)
    )
    high = F.interpolate(seen["aspp"][1], (19, 25), mode="bilinear", align_corners=align_corners)
    first = torch.cat([high, seen["low"][1]], dim=1)
    assert first.shape[1] == 256 + 64
    second = [seen["balance1" if order == "text" else "fuse1"][1], seen["spatial"][1]]
    chain = ["balance1", "fuse1"] if order == "eq" else ["fuse1", "balance1"]
    torch.testing.assert_close(seen[chain[0]][0], first)
    assert torch.equal(seen[chain[1]][0], seen[chain[0]][1])
    chain = ["balance2", "predict"] if order == "eq" else ["fuse2", "balance2", "predict"]
    torch.testing.assert_close(seen[chain[0]][0], torch.cat(second, dim=1))
    for before, after in zip(chain, chain[1:]):
        assert torch.equal(seen[after][0], seen[before][1])
    assert [seen[name][0].shape[1] for name in ("balance1", "balance2", "predict")] == (
        [320, 261, 261] if order == "eq" else [256] * 3
    )
    logits = F.interpolate(seen["predict"][1], (76, 100), mode="bilinear", align_corners=align_corners)
    torch.testing.assert_close(net(image), logits)


def test_the_papers_crop_gives_the_papers_sizes() -> None:
    with torch.device("meta"):
        net = ifbfnet(in_channels=3, classes=19).eval()
        seen = seen_by(net, torch.empty(1, 3, 876, 876))
    assert [tuple(level.shape[1:]) for level in (seen["trunk"][1][0], seen["trunk"][1][-1])] == [
        (256, 219, 219),
        (2048, 55, 55),
    ]
    assert tuple(seen["balance1"][1].shape[1:]) == (320, 219, 219)
    assert tuple(seen["balance2"][1].shape[1:]) == (384, 219, 219)


VARIANTS = {
    "full": {},
    "text": {"order": "text"},
    "no spatial stream": {"spatial": 0},
    "text without spatial stream": {"order": "text", "spatial": 0},
    "plain joining": {"skip": "concat"},
    "no skip": {"skip": "none", "spatial": 0},
    "base": {"aspp": "none", "skip": "none", "spatial": 0},
    "ASPP on stage 4": {"aspp": "stage4", "abn_act": "relu"},
    "no auxiliary branch": {"aux": False},
    "another trunk": {"backbone": "tf_efficientnet_lite0", "output_stride": 32},
}


def made(variant: str, **options: object) -> IFBFNet:
    net = ifbfnet(**({"in_channels": 3, "classes": 4} | TINY | VARIANTS[variant] | options))
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):  # born with scale 0, a residual block would hide its gradients
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.running_mean, std=0.3)
    return net


@pytest.mark.parametrize("variant", ["full", "base", "no auxiliary branch", "another trunk"])
def test_any_size_and_mode_gives_logits_of_the_images_size(variant: str) -> None:
    net = made(variant, in_channels=5)
    for size in [(32, 48), (33, 50), (61, 17)]:
        image = torch.randn(2, 5, *size)
        scores = net.train().heads(image)
        assert set(scores) == ({"logits"} if variant == "no auxiliary branch" else {"logits", "aux"})
        assert {logits.shape for logits in scores.values()} == {(2, 4, *size)}
        assert set(net.eval().heads(image)) == {"logits"} and net(image).shape == (2, 4, *size)
    assert net(torch.randn(1, 5, 16, 19)).shape == (1, 4, 16, 19)


@pytest.mark.parametrize(
    "variant", ["full", "text", "text without spatial stream", "no skip", "ASPP on stage 4", "another trunk"]
)
def test_every_parameter_learns(variant: str) -> None:
    net = made(variant).train()
    sum(logits.square().mean() for logits in net.heads(torch.randn(3, 3, 64, 48)).values()).backward()
    for name, parameter in net.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all() and parameter.grad.any(), name


def test_the_auxiliary_branch_sees_stage_1_only() -> None:
    net = made("full").train()
    net.heads(torch.randn(2, 3, 33, 48))["aux"].sum().backward()
    reached = {name for name, parameter in net.named_parameters() if parameter.grad is not None}
    assert {name.split(".")[0] for name in reached} == {"trunk", "aux"}
    assert not any("layer2" in name for name in reached)


@pytest.mark.parametrize("abn_act", ["leaky", "relu"])
def test_the_activation_is_leaky_in_all_but_the_trunk(abn_act: str) -> None:
    net = made("text", abn_act=abn_act)
    wanted, other = (nn.LeakyReLU, nn.ReLU) if abn_act == "leaky" else (nn.ReLU, nn.LeakyReLU)
    added = [module for name, part in net.named_children() if name != "trunk" for module in part.modules()]
    assert (
        sum(isinstance(module, wanted) for module in added)
        == sum(isinstance(module, nn.BatchNorm2d) for module in added)
        > 10
    )
    assert not any(isinstance(module, other) for module in added)
    assert all(module.negative_slope == 0.01 for module in added if isinstance(module, nn.LeakyReLU))
    assert not any(isinstance(module, nn.LeakyReLU) for module in net.trunk.modules())


def test_saved_and_loaded_it_answers_the_same(tmp_path) -> None:
    net, other = made("full").eval(), made("full").eval()
    image = torch.randn(2, 3, 40, 33)
    save_file(net.state_dict(), tmp_path / "net.safetensors")
    assert (other(image) != net(image)).any()
    other.load_state_dict(load_file(tmp_path / "net.safetensors"))
    assert (other(image) == net(image)).all()


BAD = [
    ({"aspp": "stage3"}, UnknownName, "Did you mean 'stage4'"),
    ({"skip": "sum"}, UnknownName, "balanced, concat, none"),
    ({"order": "txt"}, UnknownName, "Did you mean 'text'"),
    ({"abn_act": "leaky_relu"}, UnknownName, "leaky"),
    ({"backbone": "resnet100"}, UnknownName, "resnet101"),
    ({"spatial": -1}, BadOption, "spatial=-1"),
    ({"spatial": True}, BadOption, "spatial=True"),
    ({"skip": "none"}, BadOption, "pass spatial=0"),
    ({"rates": ()}, BadOption, "rates"),
    ({"rates": (6, 0)}, BadOption, "rates"),
    ({"rates": 6}, BadOption, "rates=6"),
    ({"output_stride": 4}, BadOption, "output_stride=4"),
]


@pytest.mark.parametrize(("options", "error", "text"), BAD)
def test_options_that_cannot_work_are_answered(options: dict, error: type, text: str) -> None:
    with pytest.raises(error, match=text):
        ifbfnet(in_channels=3, classes=4, **(TINY | options))
