"""What runs a network: torch (`engines`), libraries that it is converted for (`runtimes`), or a file that
`export` wrote (`exported_engine`). An engine knows nothing of tiles, augmentation, temperatures or classes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import torch

    from labelscape.scoring.arrays import Array
    from labelscape.scoring.devices import Processor


class Engine(Protocol):
    """A network that is ready for inference.

    name    as a map records it
    stride  tiles start at multiples of this many pixels
    reach   how far, in pixels, a logit depends on the image; None where it depends on all of it
    device  where `forward` leaves its logits
    dtype   of reduced precision; None for float32
    """

    @property
    def name(self) -> str: ...
    @property
    def stride(self) -> int: ...
    @property
    def reach(self) -> int | None: ...
    @property
    def device(self) -> torch.device | Processor: ...
    @property
    def dtype(self) -> torch.dtype | None: ...

    def forward(self, images: Array) -> Array:
        """(N, B, H, W) float32 on `device`, any H and W -> logits (N, K, H, W), of the same library."""

    def peak_bytes(self, height: int, width: int, images: int = 1) -> int:
        """Memory for images of this size at once, weights included: an estimate, the same on every
        machine.
        """
