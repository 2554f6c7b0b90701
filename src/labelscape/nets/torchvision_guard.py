"""Let libraries that need torchvision's Python parts import it where its compiled part does not fit torch."""

from __future__ import annotations

import importlib
from functools import cache

import torch

MISSING = ("nms", "qnms")
"""Operators that torchvision describes to torch at import without asking whether its compiled part is
there.
"""


@cache
def import_torchvision() -> torch.library.Library | None:
    """Import torchvision; call this before timm or segmentation_models_pytorch.

    A torchvision built for CUDA beside a CPU build of torch (or the other way round, a frequent result of
    pip) cannot load its compiled operators. It notes that and goes on, until it registers the shape rule of
    one of them: "operator torchvision::nms does not exist". timm and segmentation_models_pytorch use none of
    these operators, so it is enough to declare them: calling one still fails, and says so. Nothing is
    declared where torchvision imports as it should. Returns what holds the declarations, which end with it.
    Raises ImportError where torchvision is not installed.
    """
    try:
        importlib.import_module("torchvision")
    except RuntimeError as failure:
        # Any other error is not about the missing compiled part.
        if "torchvision::" not in str(failure) or "does not exist" not in str(failure):
            raise
    else:
        return None
    # A fragment only adds: the operators of a library that loads in part stay.
    declared = torch.library.Library("torchvision", "FRAGMENT")
    for name in MISSING:
        if not hasattr(torch.ops.torchvision, name):
            declared.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    importlib.import_module("torchvision")
    return declared
