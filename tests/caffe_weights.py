"""Weights as Caffe publishes them, of small networks with random numbers."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from labelscape.export.caffe_format import message_types

WIDTHS = (3, 4, 5, 6)


class Writer:
    """Writes a NetParameter layer by layer, as Caffe's snapshots hold it (Splits inserted, statistics as
    sums).
    """

    def __init__(self, seed: int = 0) -> None:
        self.net = message_types()["NetParameter"](name="fcn")
        self.random = np.random.default_rng(seed)

    def layer(
        self, kind: str, name: str, bottoms: list[str], top: str, blobs: list[np.ndarray] | None = None
    ):
        layer = self.net.layer.add(type=kind, name=name, bottom=bottoms, top=[top])
        for blob in blobs or []:
            layer.blobs.add(data=blob.astype(np.float32).ravel()).shape.dim.extend(blob.shape)
        return layer

    def conv(
        self, name: str, bottom: str, inputs: int, outputs: int, kernel: int = 3, stride: int = 1
    ) -> str:
        weight = self.random.normal(size=(outputs, inputs, kernel, kernel)) * (2 / inputs / kernel**2) ** 0.5
        layer = self.layer("Convolution", name, [bottom], name, [weight, self.random.normal(size=outputs)])
        layer.convolution_param.num_output = outputs
        layer.convolution_param.kernel_size.append(kernel)
        layer.convolution_param.pad.append(kernel // 2)
        if stride > 1:
            layer.convolution_param.stride.append(stride)
        return name

    def norm_relu(self, name: str, blob: str, width: int) -> None:
        weight_of_sums = 987.5
        mean, variance = self.random.normal(size=width), self.random.uniform(0.5, 2, size=width)
        self.layer(
            "BatchNorm",
            f"bn{name}",
            [blob],
            blob,
            [mean * weight_of_sums, variance * weight_of_sums, np.array([weight_of_sums])],
        )
        self.layer("ReLU", f"relu{name}", [blob], blob)

    def pool(self, name: str, bottom: str, kind: int) -> str:
        layer = self.layer("Pooling", name, [bottom], name)
        layer.pooling_param.pool, layer.pooling_param.kernel_size, layer.pooling_param.stride = kind, 2, 2
        return name

    def up(self, name: str, bottom: str, channels: int, factor: int, *, learned: bool = False) -> str:
        one = [
            1 - abs(i / factor - (2 * factor - 1) / (2 * factor)) for i in range(2 * factor)
        ]  # Caffe's BilinearFiller
        weight = np.broadcast_to(np.outer(one, one), (channels, 1, 2 * factor, 2 * factor))
        if learned:
            weight = weight + self.random.normal(size=weight.shape) * 0.1
        layer = self.layer("Deconvolution", name, [bottom], name, [weight])
        param = layer.convolution_param
        param.num_output = channels
        if channels > 1:
            param.group = channels
        param.kernel_size.append(2 * factor), param.stride.append(factor), param.pad.append(factor // 2)
        return name

    def encoder(self, bands: int, downsample: int) -> list[str]:
        """Table I; the names of the four taps."""
        self.net.layer.add(type="ImagePairData", name="pairdata", top=["data", "label"])
        blob, inputs, taps = "data", bands, []
        if downsample > 1:
            blob = self.pool("downsample", blob, 1)
        for level, width in enumerate(WIDTHS, start=1):
            for number in (1, 2):
                first = (level, number) == (1, 1)
                blob = self.conv(
                    f"conv{level}-{number}", blob, inputs, width, 5 if first else 3, 2 if first else 1
                )
                self.norm_relu(f"{level}-{number}", blob, width)
                inputs = width
            if level < 4:
                self.net.layer.add(
                    type="Split", name=f"split{level}", bottom=[blob], top=[f"{blob}_0", f"{blob}_1"]
                )
                taps.append(f"{blob}_1")
                blob = self.pool(f"pool{level}", f"{blob}_0", 0)
        return [*taps, blob]

    def add(self, name: str, first: str, second: str) -> str:
        self.layer("Eltwise", name, [first, second], name).eltwise_param.operation = 1
        return name


def caffe_network(head: str, *, bands: int, classes: int, downsample: int, relu: bool = False) -> Writer:
    w = Writer()
    taps = w.encoder(bands, downsample)
    if head == "fcn":
        blob = w.up("upsample_16", w.conv("score", taps[3], WIDTHS[3], classes, 1), classes, 16, learned=True)
    elif head == "skip":
        scores = {
            level: w.conv(f"score{level}", taps[level - 1], WIDTHS[level - 1], classes, 1)
            for level in (4, 3, 2, 1)
        }
        blob = scores[4]
        for level in (3, 2, 1):
            blob = w.add(f"combine{level}", scores[level], w.up(f"upsample_{level}", blob, classes, 2))
        blob = w.up("upsample_fcn", blob, classes, 2)
    else:
        raised = [
            w.up(f"upsample_{level}", taps[level - 1], WIDTHS[level - 1], 2 ** (level - 1))
            for level in (2, 3, 4)
        ]
        w.layer("Concat", "concat", [taps[0], *raised], "features")
        blob = w.conv("mlp1", "features", sum(WIDTHS), 7, 1)
        if relu:
            w.layer("ReLU", "relumlp", [blob], blob)
        blob = w.up("upsample_mlp", w.conv("mlp2", blob, 7, classes, 1), classes, 2)
    if downsample > 1:
        blob = w.up("upsample_output", blob, classes, 2)
    w.net.layer.add(
        type="SoftmaxWithLoss" if classes > 1 else "SigmoidCrossEntropyLoss",
        name="loss",
        bottom=[blob, "label"],
        top=["loss"],
    )
    return w


def written(writer: Writer, folder: Path) -> Path:
    path = folder / "net.caffemodel"
    path.write_bytes(writer.net.SerializeToString())
    return path
