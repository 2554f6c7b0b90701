"""The layers of the published networks in file order: what an imported file is compared with."""

from __future__ import annotations

from typing import NamedTuple

ASIDE = (
    "Data",
    "Input",
    "ImagePairData",
    "Split",
    "Softmax",
    "Sigmoid",
    "Silence",
    "SoftmaxWithLoss",
    "SigmoidCrossEntropyLoss",
    "Accuracy",
)
"""Types of layers that compute nothing of the logits (Split only copies)."""


class Row(NamedTuple):
    """A layer we expect: Caffe's type, our name for what it computes, the names it reads, and kernel,
    stride, pad.
    """

    type: str
    name: str
    reads: tuple[str, ...]
    shape: tuple[int, int, int] | None = None


def up(name: str, reads: str, factor: int) -> Row:
    """A bilinear deconvolution as is usual in Caffe: the kernel is twice as wide as the stride."""
    return Row("Deconvolution", name, (reads,), (2 * factor - factor % 2, factor, factor // 2))


HEADS = {
    "fcn": (Row("Convolution", "score", ("x16",), (1, 1, 0)), up("up16", "score", 16)),
    "skip": (
        *(Row("Convolution", f"score{level}", (f"x{2**level}",), (1, 1, 0)) for level in (4, 3, 2, 1)),
        up("up4", "score4", 2),
        Row("Eltwise", "sum3", ("score3", "up4")),
        up("up3", "sum3", 2),
        Row("Eltwise", "sum2", ("score2", "up3")),
        up("up2", "sum2", 2),
        Row("Eltwise", "sum1", ("score1", "up2")),
        up("up1", "sum1", 2),
    ),
    "mlp": (
        up("up_x4", "x4", 2),
        up("up_x8", "x8", 4),
        up("up_x16", "x16", 8),
        Row("Concat", "pool", ("x2", "up_x4", "up_x8", "up_x16")),
        Row("Convolution", "mlp1", ("pool",), (1, 1, 0)),
        Row("Convolution", "mlp2", ("mlp1",), (1, 1, 0)),
        up("up_mlp", "mlp2", 2),
    ),
}
"""The heads of nets/maggiori.py as the released prototxt files list them; x2 ... x16 are the encoder's
levels.
"""


def expected_rows(head: str, *, downsample: int, relu: bool) -> list[Row]:
    """The whole network in file order."""
    rows = [Row("Pooling", "small", ("image",), (downsample, downsample, 0))] if downsample > 1 else []
    reads = "small" if rows else "image"
    for level in (1, 2, 3, 4):
        for number in (1, 2):
            here = f"{level}_{number}"
            # Kernel, stride, pad: the first convolution halves the image.
            shape = (5, 2, 2) if here == "1_1" else (3, 1, 1)
            level_output = f"x{2**level}" if number == 2 else f"relu{here}"
            rows += [
                Row("Convolution", f"conv{here}", (reads,), shape),
                Row("BatchNorm", f"norm{here}", (f"conv{here}",)),
            ]
            rows += [Row("ReLU", level_output, (f"norm{here}",))]
            reads = level_output
        # The last level's output goes to the head as it is.
        if level < 4:
            rows += [Row("Pooling", f"pool{level}", (reads,), (2, 2, 0))]
            reads = f"pool{level}"
    for row in HEADS[head]:
        # With a ReLU between the perceptron's layers the second one reads that; both forms were published.
        rows += [row._replace(reads=("relu_mlp",)) if relu and row.name == "mlp2" else row]
        rows += [Row("ReLU", "relu_mlp", ("mlp1",))] if relu and row.name == "mlp1" else []
    return rows + ([up("output", rows[-1].name, downsample)] if downsample > 1 else [])
