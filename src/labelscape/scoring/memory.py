"""How much memory a network takes for a tile, without computing it."""

from __future__ import annotations

import weakref

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from labelscape.scoring.scorer import Scorer


def network_bytes(scorer: Scorer, height: int, width: int) -> int:
    """Weights and the most that is alive at once while the network looks at height x width pixels, with a
    fifth for work space.

    Nothing is computed: shapes go through the network on torch's "meta" device.
    """
    net = scorer.net
    state = {name: value.to("meta") for name, value in [*net.named_parameters(), *net.named_buffers()]}
    weights = sum(v.nbytes for v in state.values())
    image = torch.zeros(1, len(scorer.checkpoint.bands), height, width, device="meta")
    with torch.no_grad(), _Alive() as alive:
        torch.func.functional_call(net, state, (image,))
    half = scorer.dtype is not None
    return int(weights + 1.2 * (alive.peak + image.nbytes) * (0.6 if half else 1))


class _Alive(TorchDispatchMode):
    """Counts the bytes of tensors that exist at once; views of others count nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        made = func(*args, **(kwargs or {}))
        results = made if isinstance(made, (tuple, list)) else (made,)
        for result, returned in zip(results, func._schema.returns):
            if isinstance(result, torch.Tensor) and returned.alias_info is None:
                self.now += result.nbytes
                weakref.finalize(result, self._gone, result.nbytes)
        self.peak = max(self.peak, self.now)
        return made

    def _gone(self, size: int) -> None:
        self.now -= size
