"""Networks of torch as models of OpenVINO."""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import Tensor

from labelscape.scoring.engines import TorchEngine, predicted


def traced(engine: TorchEngine, images: Tensor) -> tuple[Any, Tensor]:
    """The network as OpenVINO's model for images of this shape, and torch's answer for these: tracing runs
    the network once. Raises whatever torch and OpenVINO raise for what cannot be traced or converted.
    """
    import openvino

    recorder = _Recorder(engine)
    # Branches on sizes are meant to be fixed.
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        # Unchecked: the check would run the network three times more, and says less than our comparison.
        script = torch.jit.trace(recorder, images, check_trace=False, strict=False)
        model = openvino.convert_model(script, input=[tuple(images.shape)])
    return model, recorder.answer


class _Recorder(torch.nn.Module):
    """A network as `torch.jit.trace` takes it, which keeps its answer."""

    def __init__(self, engine: TorchEngine) -> None:
        super().__init__()
        self.net, self.head = engine.net, engine.head
        self.answer = torch.empty(0)

    def forward(self, images: Tensor) -> Tensor:
        logits = predicted(self.net, images, self.head)
        self.answer = logits.detach()
        return logits
