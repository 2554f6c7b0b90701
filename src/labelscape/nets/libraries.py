"""timm and segmentation_models_pytorch, imported when they are needed, and so that it takes little time."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from importlib.util import find_spec
from types import ModuleType

import torch

from labelscape.imports import importing
from labelscape.nets.compiler import Later, compiler_later, forget

MISSING = ("nms", "qnms")
"""Operators that torchvision describes to torch at import without asking whether its compiled part is
there.
"""


@cache
def import_timm() -> ModuleType:
    """timm, which imports torchvision. Raises ImportError where it is not installed."""
    import_torchvision()
    with importing(), compiler_later(), _tracker_later():
        import timm
    return timm


@contextmanager
def _tracker_later() -> Iterator[None]:
    """While the block runs, wandb is not imported, which takes a quarter of a second where it is installed:
    timm has it at hand for its own training script. Whatever is asked of it imports it.
    """
    if "wandb" in sys.modules or find_spec("wandb") is None:
        yield
        return
    stand_in = Later("wandb")
    sys.modules["wandb"] = stand_in
    try:
        yield
    finally:
        forget({"wandb": stand_in})


@cache
def import_smp() -> ModuleType:
    """segmentation_models_pytorch, which imports timm. Raises ImportError where it is not installed."""
    import_timm()
    with importing(), compiler_later():
        import segmentation_models_pytorch
    return segmentation_models_pytorch


@cache
def import_torchvision() -> torch.library.Library | None:
    """Import torchvision also where its compiled part does not fit torch; before what imports it.

    A torchvision built for CUDA beside a CPU build of torch (or the other way round, a frequent result of
    pip) cannot load its compiled operators. It notes that and goes on, until it registers the shape rule of
    one of them: "operator torchvision::nms does not exist". timm and segmentation_models_pytorch use none of
    these operators, so it is enough to declare them: calling one still fails, and says so. Nothing is
    declared where torchvision imports as it should. Returns what holds the declarations, which end with it.
    Raises ImportError where torchvision is not installed.
    """
    with importing(), compiler_later():
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
