"""IFBFNet's weighed levels without a weighed map: against loops and the plain form, and where it is not
used.
"""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from labelscape.nets import ifbfnet as module
from labelscape.nets.blocks import as_recorded
from labelscape.nets.count import on_meta
from labelscape.nets.ifbfnet import IFBFNet, ifbfnet
from labelscape.nets.kernels.folding import fold_normalisations
from labelscape.nets.kernels.fusion import PIXELS, saves, weighed_pointwise

PRECISIONS = [(torch.float64, 1e-13), (torch.float32, 2e-6)]
LAYOUTS = [torch.contiguous_format, torch.channels_last]
VARIANTS = {
    "eq": ({}, 1),
    "text": ({"order": "text"}, 2),
    "text without spatial stream": ({"order": "text", "spatial": 0}, 1),
    "eq without spatial stream": ({"spatial": 0}, 0),
    "plain joining": ({"skip": "concat"}, 0),
}
"""Options, and how many convolutions of 1 x 1 follow a weighed map."""


def close(found: Tensor, wanted: Tensor, within: float) -> None:
    assert found.dtype == wanted.dtype and found.shape == wanted.shape
    assert (found - wanted).abs().max() <= within * wanted.abs().max()


@pytest.mark.parametrize(("dtype", "within"), PRECISIONS)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("biased", [False, True])
@pytest.mark.parametrize("widths", [(5,), (3, 2), (1, 3, 2)])
def test_it_is_what_loops_add_up_in_value_and_gradient(
    widths: tuple[int, ...], biased: bool, layout: torch.memory_format, dtype: torch.dtype, within: float
) -> None:
    torch.manual_seed(0)
    channels = sum(widths)
    parts = [torch.randn(2, c, 3, 5, dtype=dtype).to(memory_format=layout).requires_grad_() for c in widths]
    factors = (1 + torch.rand(2, channels, dtype=dtype)).requires_grad_()
    weight = torch.randn(4, channels, dtype=dtype, requires_grad=True)
    bias = torch.randn(4, dtype=dtype, requires_grad=True) if biased else None
    found = weighed_pointwise(parts, factors, weight, bias)
    if widths[0] > 1:  # one channel has both layouts at once
        assert found.is_contiguous(memory_format=layout)
    joined = torch.cat(parts, dim=1)
    wanted = torch.zeros(2, 4, 3, 5, dtype=dtype)
    for n in range(2):
        for o in range(4):
            for c in range(channels):
                wanted[n, o] += weight[o, c] * (factors[n, c] * joined[n, c])
            if bias is not None:
                wanted[n, o] += bias[o]
    close(found, wanted, within)
    inputs = [*parts, factors, weight, *([] if bias is None else [bias])]
    pull = torch.randn_like(wanted)
    for one, other in zip(
        torch.autograd.grad(found, inputs, pull), torch.autograd.grad(wanted, inputs, pull), strict=True
    ):
        close(one, other, 2 * within)


def made(dtype: torch.dtype = torch.float32, **options: object) -> IFBFNet:
    torch.manual_seed(0)
    net = ifbfnet(**({"in_channels": 3, "classes": 4, "backbone": "resnet10t", "spatial": 5} | options))
    for part in net.modules():
        if isinstance(part, nn.BatchNorm2d):
            nn.init.uniform_(part.weight, 0.5, 1.5)
            nn.init.normal_(part.running_mean, std=0.3)
    # Else all weights are about a half.
    for part in (getattr(net, name, None) for name in ("balance1", "balance2")):
        if isinstance(part, module.BalancedFusion):
            nn.init.normal_(part.relate.bias, std=2)
    return net.to(dtype).eval()


IMAGE = (2, 3, 128, 140)  # 32 x 35 cells


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Grows by one whenever the kernel is used."""
    called: list[int] = []
    monkeypatch.setattr(
        module, "weighed_pointwise", lambda *given: called.append(1) or weighed_pointwise(*given)
    )
    return called


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("folded", [False, True])
def test_in_inference_the_network_is_the_same(variant: str, folded: bool, calls: list[int]) -> None:
    options, used = VARIANTS[variant]
    net, image = made(torch.float64, **options), torch.randn(*IMAGE, dtype=torch.float64)
    wanted = net(image).detach()  # with gradients on: the plain form
    assert not calls
    if folded:
        norms = sum(isinstance(part, nn.BatchNorm2d) for part in net.modules())
        with torch.inference_mode():
            # An image that the kernel would be used for: it must not hide a convolution from the folding. The
            # auxiliary branch does not run.
            assert fold_normalisations(net, lambda net: net(image)) == norms - 1
        calls.clear()
    for layout in LAYOUTS:
        with torch.inference_mode():
            close(net.to(memory_format=layout)(image.to(memory_format=layout)), wanted, 1e-11)
    assert len(calls) == 2 * used


def test_single_precision_loses_no_more_than_the_plain_form(calls: list[int]) -> None:
    net, image = made(order="text"), torch.randn(*IMAGE)
    exact = copy.deepcopy(net).double()(image.double()).detach()
    plain = net(image).detach()
    with torch.inference_mode():
        found = net(image)
    assert len(calls) == 2
    assert (found - exact).abs().max() <= 2 * (plain - exact).abs().max()


def test_each_image_of_a_batch_has_weights_of_its_own(calls: list[int]) -> None:
    net, images = made(order="text"), torch.randn(*IMAGE)
    images[1] *= 3
    with torch.inference_mode():
        together = net(images)
        apart = torch.cat([net(image[None]) for image in images])
    assert len(calls) == 6
    close(together, apart, 1e-5)


def hooked(net: IFBFNet, image: Tensor, name: str) -> None:
    seen: list[Tensor] = []
    hook = net.get_submodule(name).register_forward_pre_hook(lambda part, given: seen.append(given[0]))
    net(image)
    hook.remove()
    assert len(seen) == 1


PLAIN: dict[str, Callable[[IFBFNet, Tensor], object]] = {
    "what a fusion makes is looked at": lambda net, image: hooked(net, image, "balance2"),
    "what the convolution is given is looked at": lambda net, image: hooked(net, image, "predict.0.0"),
    "what its block is given is looked at": lambda net, image: hooked(net, image, "predict.0"),
    "what the last two are given is looked at": lambda net, image: hooked(net, image, "predict"),
    "few pixels": lambda net, image: net(image[..., :124, :124]),
    "shapes alone": lambda net, image: on_meta(net, image.to("meta")),
}


@pytest.mark.parametrize("case", PLAIN)
def test_the_plain_form_is_kept_where(case: str, calls: list[int]) -> None:
    net, image = made(), torch.randn(*IMAGE)
    with torch.no_grad():
        PLAIN[case](net, image)
        assert not calls
        net(image)
    assert len(calls) == 1


def test_a_recorded_network_has_the_plain_form(calls: list[int]) -> None:
    net, image = made(), torch.randn(*IMAGE)
    with torch.no_grad(), as_recorded():
        net(image)
    with torch.no_grad():
        graph = torch.export.export(net, (image,)).graph
        traced = torch.jit.trace(net, (image,), check_trace=False).inlined_graph
    assert not calls
    names = {str(node.target) for node in graph.nodes} | {node.kind() for node in traced.nodes()}
    assert not [name for name in names if "bmm" in name or "mul_" in name]
    with torch.no_grad():
        net(image)
    assert len(calls) == 1


def test_mixed_precision_has_the_values_of_the_plain_form(calls: list[int]) -> None:
    net, image = made(order="text"), torch.randn(*IMAGE)
    with torch.autocast("cpu", torch.bfloat16):
        wanted = net(image).detach()
        with torch.no_grad():
            assert torch.equal(net(image), wanted)
    assert not calls


def test_only_a_convolution_of_single_pixels_is_replaced() -> None:
    level = torch.zeros(1, 4, 1, PIXELS)
    with torch.no_grad():
        assert saves(nn.Conv2d(4, 2, 1), level) and not saves(nn.Conv2d(4, 2, 1), level[..., 1:])
        for other in (nn.Conv2d(4, 2, 3), nn.Conv2d(4, 2, 1, stride=2), nn.Conv2d(4, 2, 1, groups=2)):
            assert not saves(other, level)
    assert not saves(nn.Conv2d(4, 2, 1), level)  # a gradient may be wanted


def test_weighing_in_place_changes_no_bit() -> None:
    """Before a 3 x 3."""
    net = made(spatial=0)
    high, low = torch.randn(2, 256, 9, 8), torch.randn(2, 64, 9, 8)
    given = high.clone(), low.clone()
    wanted = net.fuse1(net.balance1(torch.cat([high, low], dim=1)))
    with torch.inference_mode():
        assert torch.equal(module.fused(net.balance1, [high, low], net.fuse1), wanted)
    assert torch.equal(high, given[0]) and torch.equal(low, given[1])
