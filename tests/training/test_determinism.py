"""Deterministic algorithms: what torch refuses on a CUDA device is not used; what stands for it is exact."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from labelscape.errors import BadOption
from labelscape.nets import blocks, context
from labelscape.nets.catalog import create_model
from labelscape.nets.context import PartMeans, Pooled
from labelscape.training.losses import LOSSES
from labelscape.training.team import deterministic

DENSE = {"encoder": (1,) * 4, "decoder": (1,) * 4, "stem": 8, "growth": 4, "width": 8}
OF_RESNET = {"backbone": "resnet10t", "width": 4}
NETWORKS = [
    ("fcn", {"widths": (4,) * 4}),
    ("fcn", {"widths": (4,) * 4, "upsampling": "interpolate"}),
    ("unpooling", {"widths": (4,) * 4, "downsample": 2}),
    ("skip", {"widths": (4,) * 4}),
    ("mlp", {"widths": (4,) * 4, "hidden": 8}),
    ("dfcnet", DENSE),
    ("mswbn", {**OF_RESNET, "reduce": 8, "operations": 5}),
    *(("dgcwnet", {**OF_RESNET, "base": base, "base_width": 4}) for base in ("ppm", "aspp")),
    *(("dgcwnet", {**OF_RESNET, "context": context}) for context in ("gap", "se", "nl-d")),
    *(("dgcwnet", {**OF_RESNET, "weighting": weighting}) for weighting in ("softmax", "conv")),
    ("ifbfnet", {"backbone": "resnet10t", "spatial": 8}),
    ("deeplabv3plus", {**OF_RESNET, "low_width": 4}),
    ("pspnet", {**OF_RESNET, "aux_width": 4}),
    ("tiramisu", {"lengths": (1,) * 11, "growth": 4, "stem": 8}),
]
REFUSED = (
    "_adaptive_avg_pool2d_backward",
    "adaptive_max_pool2d_backward",
    "upsample_linear1d_backward",
    "upsample_bilinear2d_backward",
    "upsample_bicubic2d_backward",
    "max_unpool2d",
    "reflection_pad2d_backward",
    "grid_sampler_2d_backward",
    "histc",
    "put_",
)
"""For which `torch.use_deterministic_algorithms` has no algorithm on a CUDA device (its own list)."""


class Used(TorchDispatchMode):
    """Notes the operations that torch would refuse, of forward and backward passes."""

    def __init__(self) -> None:
        super().__init__()
        self.refused: list[str] = []

    def __torch_dispatch__(self, function, types, arguments=(), named=None):
        name = function._schema.name.removeprefix("aten::")
        summed = name == "cumsum" and (named or {}).get("dtype", arguments[0].dtype).is_floating_point
        # Of a loss map torch adds up mean (1) and sum (2) itself.
        reduced = name == "nll_loss2d_forward" and arguments[3] != 0
        if name in REFUSED or summed or reduced:
            self.refused.append(name)
        return function(*arguments, **(named or {}))


@pytest.fixture
def as_on_cuda(monkeypatch):
    """Networks take the ways that they take on a CUDA device."""
    for module in (blocks, context):
        monkeypatch.setattr(module, "needs_order", lambda level: torch.are_deterministic_algorithms_enabled())


@pytest.mark.parametrize(("name", "options"), NETWORKS)
def test_no_network_uses_what_torch_refuses(as_on_cuda, name, options):
    net = create_model(name, in_channels=3, classes=4, **options).train()
    image = torch.randn(2, 3, 65, 70)
    with deterministic(True), Used() as used:
        heads = net.heads(image, first=1) if name == "dfcnet" else net.heads(image)
        sum(logits.square().mean() for logits in heads.values()).backward()
    assert used.refused == []
    if name == "pspnet":  # and that the test can see it
        with Used() as used:
            sum(logits.square().mean() for logits in net.heads(image).values()).backward()
        assert {"_adaptive_avg_pool2d_backward", "upsample_bilinear2d_backward"} <= set(used.refused)


@pytest.mark.parametrize("name", LOSSES)
def test_no_loss_uses_what_torch_refuses(name):
    logits = torch.randn(2, 4, 9, 9, requires_grad=True)
    labels = torch.randint(0, 4, (2, 9, 9))
    labels[:, :2] = 255
    with deterministic(True), Used() as used:
        LOSSES[name](logits, labels, torch.rand(4)).backward()
    assert used.refused == [] and logits.grad.any()


@pytest.mark.parametrize(("height", "width", "cells"), [(5, 7, 2), (12, 9, 3), (13, 20, 6), (4, 5, 6)])
def test_the_gradient_of_pooling_is_autograds(as_on_cuda, height, width, cells):
    one, other = (torch.randn(2, 3, height, width, dtype=torch.float64, requires_grad=True) for _ in range(2))
    other.data.copy_(one.data)
    gradient = torch.randn(2, 3, cells, cells, dtype=torch.float64)
    wanted = F.adaptive_avg_pool2d(one, cells)
    wanted.backward(gradient)
    with deterministic(True):
        found = PartMeans(cells)(other)
        found.backward(gradient)
    assert torch.equal(found, wanted) and type(found.grad_fn).__name__ == "PooledBackward"
    torch.testing.assert_close(other.grad, one.grad, rtol=0, atol=1e-14)
    assert torch.autograd.gradgradcheck(lambda x: Pooled.apply(x, cells), other)


def test_an_operation_without_a_deterministic_algorithm_is_named():
    said = (
        "grid_sampler_2d_backward_cuda does not have a deterministic implementation, but you set "
        "'torch.use_deterministic_algorithms(True)'. You can turn off determinism just for this operation."
    )
    with (
        pytest.raises(BadOption, match="grid_sampler_2d_backward_cuda does not have") as told,
        deterministic(True),
    ):
        raise RuntimeError(said)
    assert "`deterministic`" in str(told.value) and "but you set" not in str(told.value)
    assert not torch.are_deterministic_algorithms_enabled()
    said = (
        "Deterministic behavior was enabled with `torch.use_deterministic_algorithms(True)`, but this "
        "operation uses CuBLAS. Set CUBLAS_WORKSPACE_CONFIG=:4096:8."
    )
    with pytest.raises(BadOption, match="before Python starts"), deterministic(True):
        raise RuntimeError(said)
    for wanted in (True, False):
        with pytest.raises(RuntimeError, match="out of memory"), deterministic(wanted):
            raise RuntimeError("CUDA out of memory")
