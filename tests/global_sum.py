"""A network of a few weights that sums over all pixels it sees, as a line of the catalogue."""

from __future__ import annotations

import pytest
import torch

from labelscape.nets import catalog
from labelscape.nets.blocks import Network

LEARNED = 64
"""The side at which the sum is as large as a mean."""


class GlobalSum(Network):
    """Classes by a 1 x 1 convolution, and a score for all pixels by a sum over the whole tile."""

    stride, reach = 16, None

    def __init__(self, in_channels: int, classes: int, context: float) -> None:
        super().__init__()
        self.in_channels, self.classes, self.context = in_channels, classes, context
        self.hidden = torch.nn.Conv2d(in_channels, 16, 1)
        self.pixel = torch.nn.Conv2d(16, classes, 1)

    def scores(self, image):
        total = image.square().sum(dim=(1, 2, 3)) / (self.in_channels * LEARNED**2)
        shift = self.context * total[:, None] * torch.linspace(1, -1, self.classes, device=image.device)
        # Bounded, so that no weight can outvote the sum in tiles larger than it was learned at.
        pixel = 4 * self.pixel(self.hidden(image).relu()).tanh()
        return {"logits": pixel + shift[:, :, None, None]}


def global_sum(*, in_channels: int, classes: int, context: float = 2.0) -> GlobalSum:
    return GlobalSum(in_channels, classes, context)


@pytest.fixture
def in_catalogue(monkeypatch):
    monkeypatch.setitem(catalog.NETWORKS, "global-sum", catalog.Entry(global_sum, "a toy"))
