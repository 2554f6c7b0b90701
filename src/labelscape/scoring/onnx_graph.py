"""Networks as ONNX files, written by torch: for `labelscape export`, and for onnxruntime as an engine."""

from __future__ import annotations

import copy
import io
import logging
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from labelscape.scoring.engines import TorchEngine, predicted

IMAGES, LOGITS = "images", "logits"
OPSET = 17


def recorded(
    graph: nn.Module, image: Tensor, opset: int, names: tuple[str, str], free: Mapping[int, str] | None = None
) -> bytes:
    """A network in eval mode as an ONNX file with an input and an output of these names, recorded with an
    `image` (N, B, H, W); axes that are `free`, number -> name, may have another size. Raises whatever torch
    raises for what has no form in ONNX.
    """
    made, axes = io.BytesIO(), dict(free or {})
    with quiet(), torch.inference_mode(False), torch.no_grad(), _transposes(opset):
        torch.onnx.export(
            graph,
            (image,),
            made,
            dynamo=False,  # torch.export fixes sizes of some of our networks, and takes ten times as long
            opset_version=opset,
            input_names=[names[0]],
            output_names=[names[1]],
            dynamic_axes={name: axes for name in names} if axes else None,
        )
    return made.getvalue()


@contextmanager
def quiet() -> Iterator[None]:
    """torch prints its whole graph where an operator fails, and warns of every size that is fixed."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


@contextmanager
def _transposes(opset: int) -> Iterator[None]:
    """`tensor.mT`, which torch's exporter does not know, is a transposition."""

    def transposed(g: Any, value: Any) -> Any:
        axes = list(range(value.type().dim()))
        return g.op("Transpose", value, perm_i=[*axes[:-2], axes[-1], axes[-2]])

    torch.onnx.register_custom_op_symbolic("aten::mT", transposed, opset)
    try:
        yield
    finally:
        torch.onnx.unregister_custom_op_symbolic("aten::mT", opset)


class MatrixPool(nn.Module):
    """Adaptive average pooling to `cells` x `cells` as two matrix products: formats that know pooling by
    equal windows only have no other form of it. The image's size is fixed while it is recorded.
    """

    def __init__(self, rows: int, columns: int) -> None:
        super().__init__()
        self.rows, self.columns = rows, columns

    def forward(self, level: Tensor) -> Tensor:
        height, width = (int(side) for side in level.shape[-2:])
        rows, columns = (shares(n, c).to(level) for n, c in ((height, self.rows), (width, self.columns)))
        return rows @ level @ columns.T


def shares(pixels: int, cells: int) -> Tensor:
    """(cells, pixels): the share of each pixel in the mean of each part, whose borders are torch's."""
    made = np.zeros((cells, pixels), np.float32)
    for cell in range(cells):
        first, last = cell * pixels // cells, -(-(cell + 1) * pixels // cells)
        made[cell, first:last] = 1 / (last - first)
    return torch.from_numpy(made)


def with_plain_pools(net: nn.Module) -> nn.Module:
    """The network itself, its adaptive poolings to more than one cell replaced."""
    for module in [*net.modules()]:
        for name, child in [*module.named_children()]:
            if isinstance(child, nn.AdaptiveAvgPool2d):
                size = child.output_size
                rows, columns = size if isinstance(size, (tuple, list)) else (size, size)
                if {rows, columns} != {1} and None not in (rows, columns):
                    setattr(module, name, MatrixPool(rows, columns))
    return net


def traced(engine: TorchEngine, images: Tensor) -> tuple[bytes, Tensor]:
    """The network as an ONNX file for images of this shape, and torch's answer for these. Raises whatever
    torch raises for what has no form in ONNX.
    """
    # Contiguous: torch's exporter records how memory lies as operations of the network.
    model = recorded(_Recorder(engine), images.contiguous(), OPSET, (IMAGES, LOGITS))
    with torch.inference_mode():
        return model, engine.forward(images)


class _Recorder(nn.Module):
    """The network as it is recorded: a copy, since some layers get another form."""

    def __init__(self, engine: TorchEngine) -> None:
        super().__init__()
        self.net, self.head = with_plain_pools(copy.deepcopy(engine.net)), engine.head
        # torch's exporter gives all parts the mode of the whole when it is done.
        self.eval()

    def forward(self, images: Tensor) -> Tensor:
        return predicted(self.net, images, self.head)
