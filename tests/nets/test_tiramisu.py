"""FC-DenseNet: its layers as loops say them, its published sizes, and what is upsampled."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from labelscape.errors import BadOption, UnknownName
from labelscape.nets.count import parameters
from labelscape.nets.tiramisu import Tiramisu, TiramisuLayer, Up, fc_densenet_jegou

TINY = {"growth": 2, "lengths": (1, 2, 1, 1, 2, 2, 1, 2, 1, 1, 2), "stem": 3}


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


def made(**options: object) -> Tiramisu:
    net = fc_densenet_jegou(**({"in_channels": 3, "classes": 4} | TINY | options))
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.running_mean, std=0.3)
    return net


@pytest.mark.parametrize(("layers", "released"), [("56", 1_397_963), ("67", 3_502_923), ("103", 9_425_163)])
def test_sizes_as_the_release_counts_them(layers: str, released: int) -> None:
    with torch.device("meta"):
        net = fc_densenet_jegou(in_channels=3, classes=11, layers=layers)
    running = sum(2 * module.num_features for module in net.modules() if isinstance(module, nn.BatchNorm2d))
    assert parameters(net) + running == released
    convolutions = [module for module in net.modules() if isinstance(module, nn.Conv2d | nn.ConvTranspose2d)]
    assert len(convolutions) == int(layers)  # what the number in the name counts


def test_widths_of_the_103_are_those_of_table_2() -> None:
    with torch.device("meta"):
        net = fc_densenet_jegou(in_channels=3, classes=11)
    assert [block.outputs for block in net.blocks] == [112, 192, 304, 464, 656, 896, 1088, 816, 576, 384, 256]
    assert [up.conv.in_channels for up in net.ups] == [240, 192, 160, 112, 80]


def test_a_layer_is_normalisation_relu_convolution_dropout() -> None:
    layer = TiramisuLayer(2, 3, dropout=0.5).double()
    inputs = torch.randn(2, 2, 3, 3, dtype=torch.float64)
    layer.dropout.eval()
    wanted = torch.zeros(2, 3, 3, 3, dtype=torch.float64)
    scaled = (inputs - inputs.mean((0, 2, 3), keepdim=True)) / (
        inputs.var((0, 2, 3), unbiased=False, keepdim=True) + 1e-5
    ).sqrt()
    for y in range(3):
        for x in range(3):
            wanted[:, :, y, x] = layer.conv.bias
            for u in range(max(0, 1 - y), min(3, 4 - y)):
                for v in range(max(0, 1 - x), min(3, 4 - x)):
                    wanted[:, :, y, x] += (
                        scaled[:, :, y + u - 1, x + v - 1].clamp(min=0) @ layer.conv.weight[:, :, u, v].T
                    )
    torch.testing.assert_close(layer(inputs), wanted)
    layer.dropout.train()
    assert 0.2 < (layer(torch.randn(8, 2, 9, 9, dtype=torch.float64)) == 0).double().mean() < 0.8


@pytest.mark.parametrize("size", [(4, 6), (5, 7), (4, 7)])
def test_transition_up_keeps_the_first_rows_of_the_transposed_convolution(size: tuple[int, int]) -> None:
    up = Up(2).double()
    new = torch.randn(1, 2, 2, 3, dtype=torch.float64)
    skip = torch.randn(1, 3, *size, dtype=torch.float64)
    wanted = up.conv.bias.reshape(1, 2, 1, 1).expand(1, 2, 5, 7).clone()
    for y in range(2):
        for x in range(3):
            wanted[:, :, 2 * y : 2 * y + 3, 2 * x : 2 * x + 3] += torch.einsum(
                "ni,iouv->nouv", new[:, :, y, x], up.conv.weight
            )
    torch.testing.assert_close(up(new, skip), torch.cat([wanted[..., : size[0], : size[1]], skip], dim=1))


def test_only_what_a_block_added_goes_up() -> None:
    net = made().eval()
    seen: list[Tensor] = []
    for block in net.blocks:
        block.register_forward_hook(lambda module, inputs, output: seen.append(output))
    for up in net.ups:
        up.register_forward_hook(lambda module, inputs, output: seen.append(inputs))
    net(torch.randn(1, 3, 32, 32))
    downwards, (bottleneck, *upwards) = seen[:5], seen[5:]
    assert len(upwards) == 10
    for skip, below, (new, joined) in zip(downwards[::-1], [bottleneck, *upwards[1::2]], upwards[::2]):
        assert torch.equal(new, below.new) and torch.equal(joined, skip.stack)
        assert torch.equal(torch.cat([below.stack[:, : -new.shape[1]], new], dim=1), below.stack)


def test_any_size_and_mode_gives_logits_of_the_images_size() -> None:
    net = made(in_channels=2)
    for size in [(32, 64), (33, 47), (3, 50)]:
        image = torch.randn(2, 2, *size)
        assert net.train()(image).shape == net.eval()(image).shape == (2, 4, *size)
    assert net(torch.randn(1, 2, 32, 32)).shape == (1, 4, 32, 32)


@pytest.mark.parametrize("checkpointing", [False, True])
def test_every_parameter_learns(checkpointing: bool) -> None:
    net = made(checkpointing=checkpointing).train()
    net(torch.randn(2, 3, 64, 64)).square().mean().backward()
    for name, parameter in net.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all() and parameter.grad.any(), name


def test_checkpointing_draws_the_same_dropout_and_counts_statistics_once() -> None:
    plain, lean = made().double().train(), made(checkpointing=True).double().train()
    lean.load_state_dict(plain.state_dict())
    image = torch.randn(2, 3, 64, 64, dtype=torch.float64)
    for net in (plain, lean):
        torch.manual_seed(1)
        net(image).square().mean().backward()
    for (name, one), other in zip(plain.named_parameters(), lean.parameters(), strict=True):
        torch.testing.assert_close(other.grad, one.grad, msg=name)
    for (name, one), other in zip(plain.named_buffers(), lean.buffers(), strict=True):
        torch.testing.assert_close(other, one, msg=name)


def test_reach_is_how_far_the_farthest_input_lies() -> None:
    net = made(in_channels=1, classes=1).double().eval()
    for name, parameter in net.named_parameters():
        nn.init.constant_(parameter, 0.0 if name.endswith("bias") else 1.0 if parameter.ndim == 1 else 0.1)
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.reset_running_stats()
    side, farthest = 32 * 19, 0
    for ramp in (
        torch.linspace(1, 2, side),
        torch.linspace(2, 1, side),
    ):  # every maximum the rightmost, then the leftmost
        image = ramp.double().expand(1, 1, 32, side).clone().requires_grad_()
        logits = net(image)
        for column in range(288, 320):
            (gradient,) = torch.autograd.grad(logits[0, 0, 16, column], image, retain_graph=True)
            seen = gradient.sum((0, 1, 2)).nonzero().flatten()
            assert seen.min() > 0 and seen.max() < side - 1
            farthest = max(farthest, column - seen.min().item(), seen.max().item() - column)
    assert farthest == net.reach


def test_saved_and_loaded_it_answers_the_same(tmp_path) -> None:
    net, other = made().eval(), made().eval()
    image = torch.randn(1, 3, 40, 33)
    save_file(net.state_dict(), tmp_path / "net.safetensors")
    assert (other(image) != net(image)).any()
    other.load_state_dict(load_file(tmp_path / "net.safetensors"))
    assert (other(image) == net(image)).all()


BAD = [
    ({"layers": "105"}, UnknownName, "Did you mean '103'"),
    ({"lengths": (4,) * 10}, BadOption, "eleven whole numbers"),
    ({"lengths": (4,) * 10 + (0,)}, BadOption, "at least 1"),
    ({"growth": 0}, BadOption, "growth=0"),
    ({"stem": 1.5}, BadOption, "stem=1.5"),
    ({"dropout": 1}, BadOption, "dropout=1"),
]


@pytest.mark.parametrize(("options", "error", "text"), BAD)
def test_options_that_cannot_work_are_answered(options: dict, error: type, text: str) -> None:
    with pytest.raises(error, match=text):
        fc_densenet_jegou(in_channels=3, classes=4, **options)
