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
        shift = self.context * total[:, None] * torch.linspace(1, -1, self.classes)
        return {"logits": self.pixel(self.hidden(image).relu()) + shift[:, :, None, None]}


def global_sum(*, in_channels: int, classes: int, context: float = 8.0) -> GlobalSum:
    return GlobalSum(in_channels, classes, context)


@pytest.fixture
def in_catalogue(monkeypatch):
    monkeypatch.setitem(catalog.NETWORKS, "global-sum", catalog.Entry(global_sum, "a toy"))
