"""A network in 8-bit integers: its ranges calibrated on images.

Static quantisation of onnxruntime: weights by channel and the layers' inputs in 8 bits, as pairs of
QuantizeLinear and DequantizeLinear (QDQ). The scaling of the image, the layers that give the scores of the
classes, and all that follows these stay in float32.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from labelscape.errors import BadInput, LabelscapeError, first_line
from labelscape.files import temporary_folder
from labelscape.scoring.onnx_graph import quiet

WITH_WEIGHTS = ("Conv", "ConvTranspose", "Gemm", "MatMul")
QUANTISED = (*WITH_WEIGHTS, "Relu", "Clip", "MaxPool", "AveragePool", "Resize", "Transpose", "Reshape")
"""Operators in 8 bits, and those between them that need not go back to float32."""


def quantised(model: bytes, images: Iterable[np.ndarray], name: str) -> bytes:
    """An ONNX file (float32) with 8-bit weights and layers, their ranges from `images`, as the graph reads
    them. Its metadata are lost. Raises BadInput where onnxruntime cannot quantise the network.
    """
    from onnxruntime.quantization import QuantFormat, QuantType, quantize_static

    with temporary_folder() as folder:
        out = folder / "int8.onnx"
        try:
            with quiet():
                prepared = _prepared(model, folder)
                quantize_static(
                    prepared,
                    out,
                    _Reader(name, images),
                    quant_format=QuantFormat.QDQ,
                    per_channel=True,
                    # 7 bits of weights: processors without VNNI add products in 16 bits, which 8 overflow,
                    # and the map would depend on the machine.
                    reduce_range=True,
                    activation_type=QuantType.QUInt8,
                    weight_type=QuantType.QInt8,
                    op_types_to_quantize=list(QUANTISED),
                    nodes_to_exclude=scoring_nodes(prepared.graph),
                )
        # Of the training scenes that the images are read from, LabelscapeError says what is wrong with them.
        except (MemoryError, LabelscapeError, OSError):
            raise
        # onnxruntime fails in its own way for every operator that it cannot quantise.
        except Exception as error:
            raise BadInput(
                f"onnxruntime cannot quantise the network: {first_line(error).rstrip('.')}. Use "
                "`dtype='float16'` or another `opset`."
            ) from error
        return out.read_bytes()


def _prepared(model: bytes, folder: Path) -> Any:
    """The graph with BatchNorm folded into convolutions and shapes known, where onnxruntime can do that."""
    import onnx
    from onnxruntime.quantization.shape_inference import quant_pre_process

    (given := folder / "float32.onnx").write_bytes(model)
    with suppress(Exception):
        quant_pre_process(given, folder / "prepared.onnx", skip_symbolic_shape=True)
        given = folder / "prepared.onnx"
    loaded = onnx.load(given)
    # Quantised nodes are excluded by name, and an unnamed one would be excluded with all others.
    for number, node in enumerate(loaded.graph.node):
        node.name = node.name or f"node_{number}"
    return loaded


def scoring_nodes(graph: Any) -> list[str]:
    """Names of the nodes that stay in float32: going back from the output, up to and with the first layers
    with weights. In steps of 8 bits two classes would tie.
    """
    makers = {name: node for node in graph.node for name in node.output}
    stack, found = [output.name for output in graph.output], {}
    while stack:
        node = makers.get(stack.pop())
        if node is None or node.name in found:
            continue
        found[node.name] = None
        # A transposed convolution at the end enlarges scores: what gives them lies before it.
        if node.op_type not in WITH_WEIGHTS or node.op_type == "ConvTranspose":
            stack += node.input
    return list(found)


class _Reader:
    """Images one by one, as onnxruntime asks for them."""

    def __init__(self, name: str, images: Iterable[np.ndarray]) -> None:
        self.name, self._images = name, iter(images)

    def get_next(self) -> dict[str, np.ndarray] | None:
        image = next(self._images, None)
        return None if image is None else {self.name: np.ascontiguousarray(image)}
