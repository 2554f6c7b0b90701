"""Where a network computes, and in which precision: names, without torch unless there is a device to ask."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from labelscape.errors import BadOption, UnknownName
from labelscape.scoring.machine import import_torch

if TYPE_CHECKING:
    import torch

PRECISIONS = {"32": "", "bf16": "bfloat16", "16": "float16"}
"""As options say it -> torch's type of reduced precision; "" for float32."""
HALF_SHARE = 0.6
"""Of the memory of full precision: autocast keeps some layers in float32."""
DEVICES = ("auto", "cpu", "cuda", "cuda:1", "mps")
"""Such as may be asked for."""


@dataclass(frozen=True)
class Processor:
    """The CPU, as torch.device says it, where torch is not needed."""

    type: str = "cpu"

    def __str__(self) -> str:
        return self.type


def check_device(device: str) -> None:
    """Raises UnknownName for what is no device's name; whether this machine has it is not asked."""
    if device != "auto" and device.split(":")[0] not in ("cpu", "cuda", "mps"):
        raise UnknownName("device", device, DEVICES)  # torch itself would answer with twenty names


def pick_device(device: str = "auto") -> torch.device | Processor:
    """`auto` takes the first GPU if there is one; the CPU where torch is not installed. Raises BadOption for
    a device this machine lacks.
    """
    check_device(device)
    try:
        torch = import_torch()
    except ImportError as error:
        if device in ("auto", "cpu"):
            return Processor()
        raise BadOption(f"The device {device!r} needs PyTorch, which is not installed.") from error
    if device == "auto":
        return torch.device(
            "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
        )
    try:
        # torch.device() accepts cuda on any machine; only memory on it shows whether there is one.
        chosen = torch.device(device)
        torch.empty(0, device=chosen)
    except (RuntimeError, AssertionError) as error:
        raise BadOption(
            f"The device {device!r} cannot be used here ({str(error).splitlines()[0]}). Try `device='cpu'`."
        ) from error
    return chosen
