"""A convolution of a doubled and joined map, without either, against the plain form and against loops."""

import copy
import pickle

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import labelscape as ls
from labelscape.nets import smp_blocks
from labelscape.nets.kernels import upsampled
from labelscape.nets.kernels.upsampled import saves, spread, upsampled_convolution

LAST = torch.channels_last


def drawn(seed, *shape, dtype=torch.float64):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def plain(low, other, weight, bias):
    doubled = F.interpolate(low, scale_factor=2, mode="nearest")
    joined = doubled if other is None else torch.cat([doubled, other], 1)
    return F.conv2d(joined, weight, bias, padding=1)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("has_bias", [True, False])
@pytest.mark.parametrize("joined", [0, 3])
@pytest.mark.parametrize("shape", [(1, 1, 1), (2, 1, 5), (1, 4, 3), (3, 7, 2)])
def test_values_and_gradients_are_those_of_the_plain_form(shape, joined, has_bias, dtype):
    images, height, width = shape
    low = drawn(0, images, 5, height, width, dtype=dtype).contiguous(memory_format=LAST)
    other = drawn(1, images, joined, 2 * height, 2 * width, dtype=dtype) if joined else None
    weight = drawn(2, 6, 5 + joined, 3, 3, dtype=dtype)
    bias = drawn(3, 6, dtype=dtype) if has_bias else None
    leaves = [t.requires_grad_() for t in (low, other, weight, bias) if t is not None]
    found, wanted = (f(low, other, weight, bias) for f in (upsampled_convolution, plain))
    close = {"rtol": 0, "atol": 1e-12 if dtype == torch.float64 else 2e-5}
    torch.testing.assert_close(found, wanted, **close)
    pull = drawn(4, *wanted.shape, dtype=dtype)
    for one, two in zip(*(torch.autograd.grad(f, leaves, pull) for f in (found, wanted)), strict=True):
        torch.testing.assert_close(one, two, **close)


def test_the_spread_kernel_is_that_of_the_loops():
    """Pixel by pixel, as the convolution of the doubled map is defined."""
    low, weight = drawn(0, 1, 2, 3, 4), drawn(1, 1, 2, 3, 3)
    found = upsampled_convolution(low.contiguous(memory_format=LAST), None, weight, None)
    for y in range(6):
        for x in range(8):
            total = 0.0
            for c in range(2):
                for i in range(3):
                    for j in range(3):
                        row, column = y + i - 1, x + j - 1
                        if 0 <= row < 6 and 0 <= column < 8:
                            total += float(weight[0, c, i, j] * low[0, c, row // 2, column // 2])
            assert float(found[0, 0, y, x]) == pytest.approx(total, abs=1e-12)
    assert spread(weight).shape == (2, 1, 4, 4)


NETWORKS = [
    ("smp/Unet", {}, 5),
    ("smp/Unet", {"decoder_attention_type": "scse"}, 1),  # the block that joins no other map
    ("smp/Unet", {"decoder_use_norm": False}, 5),
    ("smp/UnetPlusPlus", {}, 11),
    ("smp/MAnet", {}, 1),  # its other blocks weigh the doubled map
]


@pytest.fixture
def calls(monkeypatch):
    """The small maps that the faster form was taken for."""
    found = []

    def counted(low, *given):
        found.append(tuple(low.shape))
        return upsampled_convolution(low, *given)

    monkeypatch.setattr(smp_blocks, "upsampled_convolution", counted)
    monkeypatch.setattr(upsampled, "CELLS", 1)
    return found


def network(name, **options):
    torch.manual_seed(0)
    net = ls.create_model(name, in_channels=3, classes=4, encoder="resnet18", **options).eval()
    return net.to(memory_format=LAST)


@pytest.mark.parametrize(("name", "options", "blocks"), NETWORKS)
def test_networks_of_the_library_take_it_and_give_the_same(name, options, blocks, calls, monkeypatch):
    net = network(name, **options)
    image = drawn(0, 2, 3, 96, 64, dtype=torch.float32).contiguous(memory_format=LAST)
    with torch.inference_mode():
        found = net(image)
        assert len(calls) == blocks
        monkeypatch.setattr(smp_blocks, "saves", lambda *_: False)
        wanted = net(image)
    torch.testing.assert_close(found, wanted, rtol=0, atol=2e-5 * float(wanted.abs().max()))
    assert float(wanted.std()) > 0


def test_it_is_left_alone_where_it_is_not_measured_or_another_form_is_wanted(calls):
    net, image = network("smp/Unet"), drawn(0, 1, 3, 64, 64, dtype=torch.float32)
    last = image.contiguous(memory_format=LAST)
    net(last).sum().backward()  # gradients
    with torch.no_grad():
        with torch.autocast("cpu", torch.bfloat16):
            net(last)
        torch.export.export(net, (last,))
        network("smp/Unet", decoder_interpolation="bilinear")(last)
        copy.deepcopy(net).to("meta")(last.to("meta"))
        copy.deepcopy(net).double()(last.double())
    assert not calls
    with torch.inference_mode():
        net(last)
    assert len(calls) == 5


@pytest.mark.parametrize(("name", "options", "blocks"), NETWORKS)
def test_a_traced_network_has_it_and_takes_other_sizes(name, options, blocks, calls, monkeypatch):
    """For OpenVINO, in whose graph sizes may be left open."""
    net = network(name, **options)
    image, larger = (drawn(0, 2, 3, *sides, dtype=torch.float32) for sides in ((64, 96), (128, 64)))
    with torch.no_grad():
        made = torch.jit.trace(net, (image,), check_trace=False)
        assert len(calls) == blocks
        monkeypatch.setattr(smp_blocks, "saves", lambda *_: False)
        for one in (image, larger):
            wanted = net(one)
            atol = 2e-5 * float(wanted.abs().max())
            torch.testing.assert_close(made(one), wanted, rtol=0, atol=atol)


@pytest.mark.parametrize(
    "conv",
    [
        nn.Conv2d(8, 4, 3, padding=1, stride=2),
        nn.Conv2d(8, 4, 3, padding=1, dilation=2),
        nn.Conv2d(8, 4, 3, padding=1, groups=2),
        nn.Conv2d(8, 4, 3),
        nn.Conv2d(8, 4, 5, padding=2),
        nn.Conv2d(8, 4, 3, padding=1, padding_mode="reflect"),
        nn.Identity(),
    ],
)
def test_other_convolutions_are_not_replaced(conv):
    low = torch.zeros(1, 8, 32, 32).contiguous(memory_format=LAST)
    with torch.no_grad():
        assert saves(nn.Conv2d(8, 4, 3, padding=1), low)
        assert not saves(conv, low)
        assert not saves(nn.Conv2d(8, 4, 3, padding=1), low.contiguous())
        assert not saves(nn.Conv2d(8, 4, 3, padding=1), low[..., :2, :2])


def test_a_network_is_copied_and_pickled_with_the_library_s_names(calls):
    net = network("smp/Unet")
    image = drawn(0, 1, 3, 64, 64, dtype=torch.float32).contiguous(memory_format=LAST)
    import segmentation_models_pytorch as smp

    theirs = smp.Unet("resnet18", encoder_weights=None, classes=4).state_dict()
    assert [key.removeprefix("net.") for key in net.state_dict()] == list(theirs)
    with torch.inference_mode():
        wanted = net(image)
        for other in (copy.deepcopy(net), pickle.loads(pickle.dumps(net))):
            calls.clear()
            assert torch.equal(other(image), wanted)
            assert len(calls) == 5
