"""Normalisations folded into convolutions: the same probabilities, and only where nothing else changes."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from labelscape.nets.catalog import create_model
from labelscape.nets.kernels.folding import fold_normalisations
from labelscape.nets.libraries import import_torchvision

import_torchvision()
from timm.layers import BatchNormAct2d  # noqa: E402


def with_statistics(net: nn.Module) -> nn.Module:
    torch.manual_seed(0)
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.3)
            module.running_var.uniform_(0.5, 2)
            if module.affine:
                module.weight.data.uniform_(-1.5, 1.5)
                module.bias.data.normal_(0, 0.3)
    return net.eval()


def folded(net: nn.Module, image: Tensor) -> int:
    with torch.inference_mode():
        return fold_normalisations(net, lambda net: net(image))


@pytest.mark.parametrize(
    "conv",
    [
        nn.Conv2d(4, 6, 3, bias=False),
        nn.Conv2d(4, 6, 3, 2, 1, groups=2),
        nn.ConvTranspose2d(4, 6, 3, 2, 1, 1),
    ],
)
@pytest.mark.parametrize("norm", [nn.BatchNorm2d(6), nn.BatchNorm2d(6, affine=False), BatchNormAct2d(6)])
@pytest.mark.parametrize(("dtype", "within"), [(torch.float64, 1e-13), (torch.float32, 1e-6)])
def test_the_value_is_that_of_the_equation(
    conv: nn.Module, norm: nn.BatchNorm2d, dtype: torch.dtype, within: float
) -> None:
    net = with_statistics(nn.Sequential(conv, norm)).to(dtype)
    image = torch.randn(2, 4, 7, 6, dtype=dtype)
    with torch.no_grad():
        x = conv(image)
        wanted = torch.empty_like(x)
        for c in range(6):
            factor = (norm.running_var[c] + norm.eps) ** -0.5
            wanted[:, c] = (x[:, c] - norm.running_mean[c]) * factor
            if norm.affine:
                wanted[:, c] = norm.weight[c] * wanted[:, c] + norm.bias[c]
        if isinstance(norm, BatchNormAct2d):
            wanted.clamp_(min=0)
    again = copy.deepcopy(net)  # the parameters of a test are shared with the next
    assert folded(again, image) == 1 and not isinstance(again[1], nn.BatchNorm2d)
    with torch.inference_mode():
        assert (again(image) - wanted).abs().max() <= within * wanted.abs().max()


class Traps(nn.Module):
    """Normalisations that must stay, named after why; `right` alone may go."""

    def __init__(self) -> None:
        super().__init__()
        for name in ("right", "twice", "both", "after_sum", "shared", "in_training"):
            self.add_module(f"norm_{name}", nn.BatchNorm2d(3))
            self.add_module(name, nn.Conv2d(3, 3, 3, padding=1))

    def forward(self, image: Tensor) -> Tensor:
        x = self.norm_right(self.right(image))
        x = self.norm_twice(self.twice(self.norm_twice(self.twice(x))))
        raw = self.both(x)
        x = self.norm_both(raw) + raw
        x = self.norm_after_sum(self.after_sum(x) + 1)
        y = self.shared(x)
        x = F.relu(self.norm_shared(y)).add(y.mean())
        return self.norm_in_training(self.in_training(x))


def test_a_normalisation_that_something_else_depends_on_stays() -> None:
    net = with_statistics(Traps())
    net.norm_in_training.train()
    image = torch.randn(2, 3, 8, 8)
    with torch.no_grad():
        net.norm_in_training.momentum = 0.0
        wanted = net(image)
    assert folded(net, image) == 1 and isinstance(net.norm_right, nn.Identity)
    with torch.inference_mode():
        torch.testing.assert_close(net(image), wanted, rtol=1e-5, atol=1e-5)


NETWORKS = {
    "unpooling": {},
    "mswbn": {"backbone": "resnet18", "width": 8, "reduce": 8, "pretrained": False},
    "smp/Unet": {"encoder": "resnet18", "pretrained": False},
}


@pytest.mark.parametrize("name", NETWORKS)
def test_probabilities_of_networks_are_the_same(name: str) -> None:
    torch.manual_seed(0)
    net = with_statistics(create_model(name, in_channels=3, classes=4, **NETWORKS[name]))
    image = torch.randn(1, 3, 64, 96)
    with torch.inference_mode():
        wanted = net(image).softmax(1)
    norms = sum(isinstance(m, nn.BatchNorm2d) for m in net.modules())
    assert folded(net, image[..., :32, :32]) == norms > 0
    with torch.inference_mode():
        found = net(image).softmax(1)
    assert (found - wanted).abs().max() < 1e-5
    assert torch.equal(found.argmax(1), wanted.argmax(1))
