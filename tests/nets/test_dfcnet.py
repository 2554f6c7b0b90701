"""DFCNet against its equations written as loops (float64, value and gradient), its published sizes, and
its joint batches.
"""

from __future__ import annotations

import importlib
import math
import re
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from labelscape.errors import BadFile, BadInput, BadOption, UnknownName
from labelscape.nets.count import macs, parameters
from labelscape.nets.dense import DenseBlock, DenseLayer
from labelscape.nets.dfcnet import (
    DenseNetwork,
    TransitionDown,
    TransitionUp,
    classmate,
    dense_fusion,
    dfcnet,
    fc_densenet,
    pad_to_corners,
)
from labelscape.nets.dfcnet_start import named_as_ours, start_from
from labelscape.nets.libraries import import_torchvision

SMALL = {"encoder": (2, 1, 2, 1), "decoder": (1, 2, 1, 2), "stem": 6, "growth": 3, "width": 5}
SMALL_TASKS = SMALL | {"head_width": 4}


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


def convolved(maps: Tensor, kernel: Tensor) -> Tensor:
    """A "same" convolution of (N, C, h, w), zeros outside, pixel by pixel and tap by tap."""
    side, (height, width) = kernel.shape[-1], maps.shape[-2:]
    out = []
    for y in range(height):
        for x in range(width):
            value = torch.zeros(len(maps), len(kernel), dtype=maps.dtype)
            for u in range(side):
                for v in range(side):
                    yy, xx = y + u - side // 2, x + v - side // 2
                    if 0 <= yy < height and 0 <= xx < width:
                        value = value + maps[:, :, yy, xx] @ kernel[:, :, u, v].T
            out.append(value)
    return torch.stack(out, dim=-1).reshape(len(maps), len(kernel), height, width)


def normalised(maps: Tensor, norm: nn.BatchNorm2d) -> Tensor:
    """Batch statistics, channel by channel, then ReLU."""
    out = []
    for c in range(maps.shape[1]):
        mean = maps[:, c].mean()
        spread = ((maps[:, c] - mean) ** 2).mean()
        one = (maps[:, c] - mean) / (spread + norm.eps).sqrt() * norm.weight[c] + norm.bias[c]
        out.append(torch.where(one > 0, one, torch.zeros_like(one)))
    return torch.stack(out, dim=1)


def at_corners(level: Tensor, height: int, width: int) -> Tensor:
    """Bilinear with corners on corners: row y of `height` stands at y (h - 1) / (height - 1) of h rows."""
    rows, columns = level.shape[-2:]
    out = []
    for y in range(height):
        for x in range(width):
            at_y = y * (rows - 1) / max(height - 1, 1)
            at_x = x * (columns - 1) / max(width - 1, 1)
            top, left = min(math.floor(at_y), rows - 1), min(math.floor(at_x), columns - 1)
            low, right = min(top + 1, rows - 1), min(left + 1, columns - 1)
            down, over = at_y - top, at_x - left
            upper = (1 - over) * level[..., top, left] + over * level[..., top, right]
            lower = (1 - over) * level[..., low, left] + over * level[..., low, right]
            out.append((1 - down) * upper + down * lower)
    return torch.stack(out, dim=-1).reshape(*level.shape[:2], height, width)


def assert_same_with_gradients(mine: Tensor, loops: Tensor, leaves: list[Tensor]) -> None:
    torch.testing.assert_close(mine, loops)
    pull = torch.randn_like(mine)
    for got, wanted in zip(
        torch.autograd.grad(mine, leaves, pull), torch.autograd.grad(loops, leaves, pull), strict=True
    ):
        torch.testing.assert_close(got, wanted)


def unlike_defaults(net: nn.Module) -> None:
    """Normalisations that do something: other scales, shifts and running statistics than those they are
    born with.
    """
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.3)
            nn.init.normal_(module.running_mean, std=0.3)
            nn.init.uniform_(module.running_var, 0.5, 1.5)


def layer_in_loops(layer: DenseLayer, inputs: Tensor) -> Tensor:
    narrow = convolved(normalised(inputs, layer.norm1), layer.conv1.weight)
    return convolved(normalised(narrow, layer.norm2), layer.conv2.weight)


@pytest.mark.parametrize("checkpointing", [False, True])
def test_a_dense_block_joins_and_sums_its_layers(checkpointing: bool) -> None:
    block = DenseBlock(3, 3, 2, checkpointing=checkpointing).double()
    unlike_defaults(block)
    inputs = torch.randn(2, 3, 3, 4, dtype=torch.float64, requires_grad=True)
    stack, outputs = inputs, []
    for layer in block.layers:
        outputs.append(layer_in_loops(layer, stack))
        stack = torch.cat([stack, outputs[-1]], dim=1)
    grown = block(inputs)
    assert block.outputs == 3 + 3 * 2 and block.new == 3 * 2
    leaves = [inputs, *block.parameters()]
    mine = torch.cat([grown.stack, grown.new, grown.total], dim=1)
    assert_same_with_gradients(
        mine, torch.cat([stack, *outputs, outputs[0] + outputs[1] + outputs[2]], dim=1), leaves
    )


@pytest.mark.parametrize("channels_last", [False, True])
def test_a_dense_block_gives_the_same_without_gradients(channels_last: bool) -> None:
    block = DenseBlock(3, 4, 2).double().eval()
    unlike_defaults(block)
    inputs = torch.randn(3, 3, 5, 4, dtype=torch.float64)
    inputs = inputs.contiguous(memory_format=torch.channels_last) if channels_last else inputs
    wanted = block(inputs)
    with torch.no_grad():
        got = block(inputs)
    for one, other in zip(got, wanted, strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("size", [(4, 6), (5, 4), (3, 7), (1, 5)])
def test_transition_down_averages_in_twos_and_rounds_up(size: tuple[int, int]) -> None:
    down = TransitionDown(4).double()
    unlike_defaults(down)
    stack = torch.randn(2, 4, *size, dtype=torch.float64, requires_grad=True)
    narrow = convolved(normalised(stack, down.norm), down.conv.weight)
    height, width = -(-size[0] // 2), -(-size[1] // 2)
    rows = [
        [narrow[:, :, 2 * y : 2 * y + 2, 2 * x : 2 * x + 2].mean((2, 3)) for x in range(width)]
        for y in range(height)
    ]
    loops = torch.stack([torch.stack(row, dim=-1) for row in rows], dim=-2)
    assert loops.shape == (2, 2, height, width)
    assert_same_with_gradients(down(stack), loops, [stack, *down.parameters()])


@pytest.mark.parametrize("size", [(5, 7), (4, 6), (5, 1)])
def test_transition_up_projects_then_interpolates_corner_on_corner(size: tuple[int, int]) -> None:
    up = TransitionUp(4, 3).double()
    unlike_defaults(up)
    stack = torch.randn(2, 4, 3, size[1] // 2 + 1, dtype=torch.float64, requires_grad=True)
    skip = torch.randn(2, 2, *size, dtype=torch.float64, requires_grad=True)
    after = at_corners(convolved(normalised(stack, up.norm), up.conv.weight), *size)
    assert_same_with_gradients(
        up(stack, skip), torch.cat([after, skip], dim=1), [stack, skip, *up.parameters()]
    )


def levels_of(sides: list[int]) -> list[Tensor]:
    return [torch.randn(1, 2, side, side, dtype=torch.float64, requires_grad=True) for side in sides]


def test_dense_fusion_is_the_tree_of_figure_1() -> None:
    sides = [9, 5, 3, 2, 3, 5, 9, 17]
    f2, f3, f4, f5, f6, f7, f8, f9 = levels = levels_of(sides)
    f23 = f2 + at_corners(f3, sides[0], sides[0])
    f45 = f4 + at_corners(f5, sides[2], sides[2])
    f67 = at_corners(f6, sides[5], sides[5]) + f7
    f89 = at_corners(f8, sides[7], sides[7]) + f9
    f2345 = f23 + at_corners(f45, sides[0], sides[0])
    f6789 = at_corners(f67, sides[7], sides[7]) + f89
    tree = at_corners(f2345, sides[7], sides[7]) + f6789
    assert_same_with_gradients(dense_fusion(levels), tree, levels)
    # With sides of 2 n + 1 for n + 1 the tree is exactly the plain sum: no level is smoothed twice.
    assert_same_with_gradients(
        dense_fusion(levels), sum(at_corners(level, sides[7], sides[7]) for level in levels), levels
    )


def test_dense_fusion_of_even_sides_is_the_tree_and_not_the_plain_sum() -> None:
    levels = levels_of([8, 4, 2, 1, 2, 4, 8, 16])
    plain = sum(at_corners(level, 16, 16) for level in levels)
    assert (dense_fusion(levels) - plain).abs().max() > 0.1


def test_an_odd_block_out_waits_for_the_next_round() -> None:
    f2, f3, f4, f5, f6, f7, f8 = levels = levels_of([8, 4, 2, 1, 2, 4, 8])
    f23, f45, f67 = f2 + at_corners(f3, 8, 8), f4 + at_corners(f5, 2, 2), at_corners(f6, 4, 4) + f7
    assert_same_with_gradients(
        dense_fusion(levels), f23 + at_corners(f45, 8, 8) + (at_corners(f67, 8, 8) + f8), levels
    )


SIZES = {
    "baseline": (fc_densenet, {}, 16_860_231, 180.9),
    "classmate": (classmate, {}, 17_805_897, 429.0),
    "fusion on land alone": (dfcnet, {"mate_classes": 0}, 17_547_335, 361.1),
    "dfcnet": (dfcnet, {}, 17_879_625, 448.4),
}


@pytest.mark.parametrize("row", SIZES)
def test_sizes(row: str) -> None:
    build, options, wanted, at_1025 = SIZES[row]
    with torch.device("meta"):
        net = build(in_channels=3, classes=7, **options).eval()
    assert parameters(net) == wanted
    cost = macs(net, 1025, 1025, 3) + (
        0 if net.road_head is None else macs(net.road_head, 513, 513, net.decoder.outputs)
    )
    assert cost / 1e9 == pytest.approx(at_1025, abs=0.05)


def test_the_encoder_is_densenet_121() -> None:
    with torch.device("meta"):
        net = fc_densenet(in_channels=3, classes=7)
        assert parameters(net.encoder) + parameters(net.decoder.up6.norm) == 6_953_856
        x2, blocks = net.encoder(torch.empty(1, 3, 1025, 1025))
    assert x2.shape[1:] == (64, 513, 513)
    assert [block.stack.shape[1:] for block in blocks] == [
        (256, 257, 257),
        (512, 129, 129),
        (1024, 65, 65),
        (1024, 33, 33),
    ]
    assert {block.total.shape[1] for block in blocks} == {32}


@pytest.mark.parametrize(
    ("decoder", "wanted"), [((12, 6, 3, 3), 13.0e6), ((6, 6, 6, 6), 12.2e6), ((4, 4, 4, 4), 10.9e6)]
)
def test_other_decoders(decoder: tuple[int, ...], wanted: float) -> None:
    with torch.device("meta"):
        assert parameters(dfcnet(in_channels=3, classes=7, decoder=decoder)) == pytest.approx(
            wanted, abs=0.05e6
        )


def test_macs_of_an_image_are_those_of_its_padded_self() -> None:
    net = fc_densenet(in_channels=3, classes=4, **SMALL)
    assert macs(net, 33, 65, 3) == macs(net, 30, 34, 3) > macs(net, 32, 32, 3)


VARIANTS = {
    "baseline": (fc_densenet, SMALL),
    "baseline at 1/2": (fc_densenet, SMALL | {"predict_at": 2}),
    "classmate": (classmate, SMALL_TASKS),
    "land alone at 1/2": (classmate, SMALL_TASKS | {"mate_classes": 0}),
    "dfcnet": (dfcnet, SMALL_TASKS),
    "fusion on land alone": (dfcnet, SMALL_TASKS | {"mate_classes": 0}),
    "fusion at 1/4": (dfcnet, SMALL_TASKS | {"predict_at": 4}),
    "proj256": (dfcnet, SMALL_TASKS | {"fusion": "proj256"}),
    "replace": (dfcnet, SMALL_TASKS | {"fused": "replace"}),
    "proj256, replace": (dfcnet, SMALL_TASKS | {"fusion": "proj256", "fused": "replace"}),
    "only new features go up": (dfcnet, SMALL_TASKS | {"upsampled": "new"}),
    "a decoder for each task": (dfcnet, SMALL_TASKS | {"slice_at": "block5"}),
    "one class of roads": (dfcnet, SMALL_TASKS | {"mate_classes": 1, "head_width": 0}),
}


def made(variant: str, **options: object) -> DenseNetwork:
    build, usual = VARIANTS[variant]
    net = build(**({"in_channels": 3, "classes": 4} | usual | options))
    unlike_defaults(net)
    return net


@pytest.mark.parametrize("variant", VARIANTS)
def test_any_size_and_mode_gives_logits_of_the_images_size(variant: str) -> None:
    net = made(variant, in_channels=2)
    for size in [(32, 32), (33, 65), (37, 50)]:
        image = torch.randn(2, 2, *size)
        assert net.train()(image).shape == net.eval()(image).shape == (2, 4, *size)
    assert net.eval()(torch.randn(1, 2, 1, 3)).shape == (1, 4, 1, 3)


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_parameter_learns(variant: str) -> None:
    net = made(variant).train()
    scores = net.heads(torch.randn(4, 3, 65, 65), first=2 if net.road_head is not None else 4)
    sum(logits.square().mean() for logits in scores.values()).backward()
    for name, parameter in net.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all() and parameter.grad.any(), name


@pytest.mark.parametrize("variant", ["classmate", "dfcnet", "a decoder for each task", "one class of roads"])
@pytest.mark.parametrize("land", [0, 1, 3])
def test_a_joint_batch_is_its_parts(variant: str, land: int) -> None:
    net = made(variant).double().eval()
    image = torch.randn(3, 3, 40, 33, dtype=torch.float64)
    joint, both = net.heads(image, first=land), net.both(image)
    assert set(joint) == {name for name, images in (("logits", land), ("mate", 3 - land)) if images}
    assert both["logits"].shape == (3, 4, 40, 33) and both["mate"].shape == (
        3,
        net.both(image)["mate"].shape[1],
        40,
        33,
    )
    torch.testing.assert_close(both["logits"], net(image))
    if land:
        torch.testing.assert_close(joint["logits"], net(image[:land]))
    if land < 3:
        torch.testing.assert_close(joint["mate"], net.heads(image[land:], first=0)["mate"])
        torch.testing.assert_close(joint["mate"], both["mate"][land:])


def test_the_trunk_normalises_both_tasks_together_and_each_head_its_own() -> None:
    net = made("dfcnet").train()
    image = torch.cat([torch.randn(2, 3, 33, 33), 3 + 2 * torch.randn(2, 3, 33, 33)])
    trunk_norm, land_norm = net.encoder.norm1, net.land_head[0][1]
    for norm in (trunk_norm, land_norm):
        norm.reset_running_stats()
        norm.momentum = 1.0
    seen: list[Tensor] = []
    net.land_head[0][0].register_forward_hook(lambda module, inputs, output: seen.append(output.detach()))
    net.heads(image, first=2)
    torch.testing.assert_close(trunk_norm.running_mean, net.encoder.conv1(image).mean((0, 2, 3)))
    assert len(seen[0]) == 2
    torch.testing.assert_close(land_norm.running_mean, seen[0].mean((0, 2, 3)))


def test_the_baseline_has_no_second_output() -> None:
    net = made("baseline").train()
    assert set(net.heads(torch.randn(2, 3, 33, 33))) == {"logits"}
    for ask in (net.both, lambda image: net.heads(image, first=1)):
        with pytest.raises(BadInput, match="no classmate head.*mate_classes=2"):
            ask(torch.randn(2, 3, 33, 33))
    for land in (-1, 3):
        with pytest.raises(BadInput, match="2 images"):
            made("dfcnet").heads(torch.randn(2, 3, 33, 33), first=land)


@pytest.mark.parametrize("variant", ["dfcnet", "a decoder for each task"])
def test_checkpointing_changes_nothing_but_memory(variant: str) -> None:
    plain = made(variant).double().train()
    lean = made(variant, checkpointing=True).double().train()
    lean.load_state_dict(plain.state_dict())
    image = torch.randn(4, 3, 33, 40, dtype=torch.float64)
    for net in (plain, lean):
        loss = sum(logits.square().mean() for logits in net.heads(image, first=2).values())
        loss.backward(retain_graph=True)
        loss.backward()  # recomputed twice, counted once
    for (name, one), other in zip(plain.named_parameters(), lean.parameters(), strict=True):
        torch.testing.assert_close(other.grad, one.grad, msg=name)
    for (name, one), other in zip(plain.named_buffers(), lean.buffers(), strict=True):
        torch.testing.assert_close(other, one, msg=name)
    before = {name: value.clone() for name, value in lean.named_buffers()}
    lean(image)
    assert all(
        (value != before[name]).any()
        for name, value in lean.named_buffers()
        if "running_mean" in name and "road" not in name
    )


def test_checkpointing_keeps_less() -> None:
    kept = {}
    for checkpointing in (False, True):
        block, total = DenseBlock(8, 6, 4, checkpointing=checkpointing), 0

        def count(tensor: Tensor) -> Tensor:
            nonlocal total
            total += tensor.numel()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
            block(torch.randn(1, 8, 9, 9, requires_grad=True))
        kept[checkpointing] = total
    assert kept[True] == (8 + 6 * 4) * 9 * 9  # the stack
    assert kept[True] < kept[False] / 5


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("length", [1, 2, 4])
def test_a_stack_alone_gives_the_gradients_of_the_plain_form_to_the_bit(
    length: int, layout: torch.memory_format
) -> None:
    plain, lean = (DenseBlock(5, length, 3, checkpointing=c).train() for c in (False, True))
    unlike_defaults(plain)
    lean.load_state_dict(plain.state_dict())
    image, found = torch.randn(2, 5, 9, 11).contiguous(memory_format=layout), []
    for block in (plain, lean):
        inputs = image.clone(memory_format=torch.preserve_format).requires_grad_()
        grown = block(inputs * 1)
        assert grown.stack.is_contiguous(memory_format=layout)
        # All three are used, as by the next block, the skip and the fusion.
        loss = grown.stack.sin().sum() + grown.new.cos().sum() + grown.total.square().sum()
        gradients = torch.autograd.grad(loss, [inputs, *block.parameters()])
        found.append([*grown, *gradients, *(b.clone() for b in block.buffers())])
    for one, other in zip(*found, strict=True):
        assert torch.equal(one, other)


def test_frozen_layers_of_a_stack_have_no_gradient_and_pass_it_on() -> None:
    plain, lean = (DenseBlock(4, 3, 2, checkpointing=c) for c in (False, True))
    lean.load_state_dict(plain.state_dict())
    found = []
    for block in (plain, lean):
        block.layers[1].requires_grad_(False)
        torch.manual_seed(1)
        inputs = torch.randn(2, 4, 6, 6, requires_grad=True)
        block(inputs).stack.square().mean().backward()
        assert all(p.grad is None for p in block.layers[1].parameters())
        found.append([inputs.grad, *(p.grad for p in block.parameters() if p.requires_grad)])
    for one, other in zip(*found, strict=True):
        assert torch.equal(one, other)


def test_checkpointing_in_mixed_precision_gives_what_the_plain_form_gives() -> None:
    plain, lean = (DenseBlock(4, 3, 2, checkpointing=c) for c in (False, True))
    lean.load_state_dict(plain.state_dict())
    found = []
    for block in (plain, lean):
        torch.manual_seed(1)
        with torch.autocast("cpu", torch.bfloat16):
            block(torch.randn(2, 4, 6, 6)).total.float().square().mean().backward()
        found.append([p.grad for p in block.parameters()])
    assert all(gradient.any() for gradient in found[1])
    for one, other in zip(*found, strict=True):
        # The plain form rounds every sum of gradients to bfloat16.
        torch.testing.assert_close(other, one, rtol=0.05, atol=0.02 * float(one.abs().max()))


@pytest.mark.parametrize(
    ("size", "wanted"), [((1, 32), (1, 33)), ((512, 1024), (513, 1025)), ((9, 2448), (33, 2465))]
)
def test_sides_are_padded_to_one_more_than_whole_strides(
    size: tuple[int, int], wanted: tuple[int, int]
) -> None:
    image = torch.randn(1, 1, *size)
    padded = pad_to_corners(image)
    assert padded.shape[-2:] == wanted
    assert (padded[..., : size[0], : size[1]] == image).all()
    assert (padded[..., size[0] :, : size[1]] == image[..., -1:, :]).all()


def thin(variant: str) -> DenseNetwork:
    """One layer in each block and nothing that can hide an influence: all weights positive, normalisations
    the identity.
    """
    options = {"encoder": (1, 1, 1, 1), "decoder": (1, 1, 1, 1), "stem": 2, "growth": 2, "width": 2}
    net = made(variant, in_channels=1, classes=1, **options).double().eval()
    for name, parameter in net.named_parameters():
        nn.init.constant_(parameter, 0.0 if name.endswith("bias") else 1.0 if parameter.ndim == 1 else 0.1)
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.reset_running_stats()
    return net


@pytest.mark.parametrize(
    "variant", ["baseline", "dfcnet", "only new features go up", "a decoder for each task"]
)
def test_reach_is_how_far_the_farthest_input_lies(variant: str) -> None:
    net = thin(variant)
    side = 32 * 13 + 1
    # Brighter to the right: then every maximum of pool1 is the rightmost of its three, and the farthest input
    # lies on the right.
    image = torch.linspace(1, 2, side, dtype=torch.float64).reshape(1, 1, 1, side).requires_grad_()
    logits, farthest = net(image), 0
    for column in range(192, 224):
        (gradient,) = torch.autograd.grad(logits[0, 0, 0, column], image, retain_graph=True)
        seen = gradient.flatten().nonzero().flatten()
        assert seen.min() > 0 and seen.max() < side - 1
        farthest = max(farthest, column - seen.min().item(), seen.max().item() - column)
    assert farthest == net.reach


@pytest.mark.parametrize("variant", ["baseline", "dfcnet"])
def test_a_tile_gives_what_the_whole_scene_gives(variant: str) -> None:
    net = thin(variant)
    halo = math.ceil(net.reach / 32) * 32
    scene = torch.randn(1, 1, 3, 2 * halo + 200, dtype=torch.float64)
    with torch.no_grad():
        whole = net(scene)
        for left in (32, 64):
            tile = net(scene[..., left : left + 2 * halo + 64])
            torch.testing.assert_close(
                tile[..., halo : halo + 64], whole[..., left + halo : left + halo + 64]
            )


@pytest.mark.parametrize("variant", ["dfcnet", "a decoder for each task"])
def test_saved_and_loaded_it_answers_the_same(variant: str, tmp_path) -> None:
    net, other = made(variant).eval(), made(variant).eval()
    image = torch.randn(2, 3, 40, 40)
    save_file(net.state_dict(), tmp_path / "net.safetensors")
    assert (other(image) != net(image)).any()
    other.load_state_dict(load_file(tmp_path / "net.safetensors"))
    for name, logits in net.both(image).items():
        assert (other.both(image)[name] == logits).all()


@pytest.mark.parametrize("variant", ["classmate", "dfcnet", "a decoder for each task", "replace"])
def test_dfcnet_starts_from_the_trained_baseline(variant: str) -> None:
    base, net = made("baseline"), made(variant)
    before = {name: value.clone() for name, value in net.state_dict().items()}
    copied = start_from(net, base.state_dict())
    assert {
        "encoder.conv1.weight",
        "encoder.block5.layers.0.conv2.weight",
        "decoder.block8.layers.0.norm1.running_var",
    } <= set(copied)
    assert ("road_decoder.block8.layers.0.conv1.weight" in copied) == (variant == "a decoder for each task")
    for name, value in net.state_dict().items():
        wanted = base.state_dict()[name.removeprefix("road_")] if name in copied else before[name]
        assert (value == wanted).all()
        assert (name in copied) == (
            name.startswith(("encoder", "decoder", "road_decoder"))
            and not any(new in name for new in ("up9", "block9", "out9", "project"))
        ), name
    levels = base.encoder.eval()(torch.ones(1, 3, 33, 33))[1][-1].stack
    assert (net.encoder.eval()(torch.ones(1, 3, 33, 33))[1][-1].stack == levels).all()


def test_a_start_that_does_not_fit_is_refused() -> None:
    with pytest.raises(BadInput, match="no encoder"):
        start_from(made("dfcnet"), {"weight": torch.zeros(1)})
    with pytest.raises(BadInput, match="same bands"):
        start_from(made("dfcnet"), made("baseline", in_channels=4).state_dict())


def test_imagenet_weights_give_imagenet_features() -> None:
    """Against DenseNet-121 as timm has it: at sides of 32 m its pooling, which rounds down, is ours, which
    rounds up.
    """
    import_torchvision()
    import timm

    theirs = timm.create_model("densenet121", pretrained=False).eval()
    unlike_defaults(theirs)
    net = fc_densenet(in_channels=3, classes=2, predict_at=2).eval()
    copied = start_from(net, named_as_ours(theirs.state_dict()))
    assert set(copied) == {
        name for name in net.state_dict() if name.startswith(("encoder.", "decoder.up6.norm."))
    }
    image = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        stack = net.encoder(image)[1][-1].stack
        torch.testing.assert_close(
            F.relu(net.decoder.up6.norm(stack)), theirs.forward_features(image), rtol=1e-4, atol=1e-4
        )


@pytest.mark.parametrize("old_names", [False, True])
def test_imagenet_weights_fill_the_encoder_whole(tmp_path: Path, old_names: bool) -> None:
    """From a file as torchvision wrote it in 2017 ("norm.1") and today."""
    import_torchvision()
    timm = importlib.import_module("timm")
    theirs = timm.create_model("densenet121", pretrained=False)
    unlike_defaults(theirs)
    state = theirs.state_dict()
    if old_names:
        pattern = re.compile(r"(denselayer\d+\.(?:norm|conv))([12])\.")
        state = {pattern.sub(r"\1.\2.", key): v for key, v in state.items() if "num_batches" not in key}
    torch.save(state, tmp_path / "densenet.pth")
    net = fc_densenet(in_channels=4, classes=2, weights=tmp_path / "densenet.pth", first_conv="zero-new")
    mine = net.state_dict()
    for name, value in named_as_ours(theirs.state_dict()).items():
        if name == "encoder.conv1.weight":
            assert torch.equal(mine[name][:, :3], value) and not mine[name][:, 3].any()
        elif "num_batches" not in name:
            assert torch.equal(mine[name], value), name
    with pytest.raises(BadInput, match="encoder=\\(6, 12, 24, 16\\), stem=64 and growth=32"):
        fc_densenet(in_channels=3, classes=2, weights=tmp_path / "densenet.pth", encoder=(6, 12, 24, 15))
    del state["features.norm0.bias"]
    torch.save(state, tmp_path / "lacking.pth")
    with pytest.raises(BadInput, match=r"1 differ, such as encoder.norm1.bias"):
        fc_densenet(in_channels=3, classes=2, weights=tmp_path / "lacking.pth")


def test_pretrained_is_timms_densenet(monkeypatch: pytest.MonkeyPatch) -> None:
    import_torchvision()
    timm = importlib.import_module("timm")
    create, made = timm.create_model, []

    def published(name: str, *, pretrained: bool) -> torch.nn.Module:
        made.append((name, pretrained, create(name)))
        return made[-1][2]

    monkeypatch.setattr(timm, "create_model", published)
    net = classmate(in_channels=3, classes=2, backbone="densenet121.ra_in1k", pretrained=True)
    (name, pretrained, theirs), *_ = made
    assert (name, pretrained) == ("densenet121.ra_in1k", True)
    assert torch.equal(net.encoder.conv1.weight, theirs.features.conv0.weight)


BAD = [
    ({"backbone": "resnet50"}, BadOption, "must be densenet121"),
    ({"pretrained": True, "weights": "x.pth"}, BadOption, "pass one of them"),
    ({"weights": "nowhere.pth"}, BadFile, "no weights file"),
    ({"first_conv": "repet"}, UnknownName, "repeat"),
    ({"fusion": "grwth"}, UnknownName, "Did you mean 'growth'"),
    ({"fusion": None}, UnknownName, "fusion"),
    ({"fused": "sum"}, UnknownName, "fused"),
    ({"slice_at": "block4"}, UnknownName, "Did you mean 'block"),
    ({"upsampled": "old"}, UnknownName, "upsampled"),
    ({"predict_at": 8}, BadOption, "predict_at=8"),
    ({"encoder": (6, 12, 24)}, BadOption, "4 whole numbers"),
    ({"decoder": (24, 12, 0, 3)}, BadOption, "at least 1"),
    ({"encoder": 6}, BadOption, "encoder=6"),
    ({"decoder": (24, 12, 6)}, BadOption, "4 whole numbers"),
    ({"mate_classes": -1}, BadOption, "mate_classes=-1"),
    ({"growth": 32.0}, BadOption, "growth=32.0"),
    ({"width": True}, BadOption, "width=True"),
    ({"stem": 1}, BadOption, "stem=1"),
]


@pytest.mark.parametrize(("options", "error", "text"), BAD)
def test_options_that_cannot_work_are_answered(options: dict, error: type, text: str) -> None:
    with pytest.raises(error, match=text):
        dfcnet(in_channels=3, classes=7, **options)
