"""Where a network computes, and in which precision: names, without torch unless there is a device to ask."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from labelscape.errors import BadOption, UnknownName
from labelscape.scoring.machine import import_torch

if TYPE_CHECKING:
    import torch

PRECISIONS = {"32": "", "tf32": "", "bf16": "bfloat16", "16": "float16"}
"""As options say it -> torch's type of reduced precision; "" for float32, also where convolutions round it
(`float32_in`).
"""
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


@contextmanager
def float32_in(precision: str, device: torch.device | Processor) -> Iterator[None]:
    """Inside, convolutions of float32 on a CUDA device compute with all of its digits; with "tf32" they round
    what they multiply to 10 binary digits of 23, which newer cards do much faster. Products of matrices are
    never rounded. Other devices know no such mode.

    torch itself rounds unless it is told not to. Measured on an H100, networks with random weights, beside
    the same ones on a CPU: up to 2 % of the classes change (unpooling, whose places of maxima flip), and
    probabilities by up to 0.3; with all digits by less than 1e-3, and at most 0.001 % of the classes.
    """
    if device.type != "cuda":
        yield
        return
    import torch

    cudnn, matmul = torch.backends.cudnn, torch.backends.cuda.matmul
    # Since torch 2.9 there is a word for each operation beside the two flags, which contradict each other
    # where only one of them is set.
    places = (cudnn.conv, cudnn.rnn, matmul) if hasattr(cudnn, "conv") else ()
    words = {place: place.fp32_precision for place in places}
    try:
        flags = cudnn.allow_tf32, matmul.allow_tf32
    except RuntimeError:  # the user has set words
        flags = None
    rounds = precision == "tf32"
    try:
        if flags is None:
            for place in words:
                place.fp32_precision = "tf32" if rounds and place is not matmul else "ieee"
        else:
            cudnn.allow_tf32, matmul.allow_tf32 = rounds, False
        yield
    finally:
        if flags is not None:
            cudnn.allow_tf32, matmul.allow_tf32 = flags
        for place, word in words.items():
            place.fp32_precision = word


def refuse_tf32(precision: str, device: torch.device | Processor) -> None:
    """Raises BadOption for "tf32" on a device without it."""
    if precision == "tf32" and device.type != "cuda":
        raise BadOption(
            f"`precision='tf32'` is a mode of CUDA devices, and this is {device}: leave it out for 32 bits."
        )


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
