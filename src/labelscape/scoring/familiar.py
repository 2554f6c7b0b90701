"""The features of a network while it runs, and their distance from those of training, beside its classes.

The distance d joins the logits as two more channels, 0 and log(d / limit), whose softmax is
limit / (limit + d) and d / (limit + d): a group of its own (`Scorer.groups`), which tiles, blending,
augmentation and ensembles average as they average the probabilities of a second task.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from labelscape.contract.familiarity import Familiarity
from labelscape.errors import BadFile
from labelscape.nets.blocks import Network, without_autocast
from labelscape.nets.catalog import shapes_of
from labelscape.scoring.devices import float32_in

CHUNK_VALUES = 2**22
"""Feature values whose distances are computed at once (ours): 32 MB in float64."""
FARTHEST = 1000.0
"""Largest ratio of a distance to its limit; beyond it nothing is told apart."""


@contextmanager
def watched(net: Network, layer: str, see: Callable[[Tensor], None]) -> Iterator[list[tuple[int, int]]]:
    """Inside, `see` is given the input (N, C, h, w) of a layer whenever the network runs; yields a list to
    which the height and width of every padded image are added. Raises BadFile for a layer that the network
    does not have.
    """
    padded: list[tuple[int, int]] = []
    try:
        module = net.get_submodule(layer)
    except AttributeError as error:
        raise BadFile(f"The network has no layer {layer!r} whose input could be compared.") from error
    scores = net.scores

    def seen(image: Tensor, *rest: object, **named: object) -> dict[str, Tensor]:
        padded.append((image.shape[-2], image.shape[-1]))
        return scores(image, *rest, **named)

    with ExitStack() as undo:
        undo.callback(module.register_forward_pre_hook(lambda _, inputs: see(inputs[0])).remove)
        net.scores = seen  # shadows the method for the time of the block
        undo.callback(net.__dict__.pop, "scores", None)
        yield padded


def feature_layer(net: Network, network: str, options: dict) -> str:
    """Name of the layer that tells classes apart, whose input are the features: of several (a score for each
    level) the one that runs first, which sees the deepest. Where none is a module that runs, the network's
    last convolution.
    """
    ran: list[tuple[str, nn.Module]] = []
    kinds = (nn.Conv2d, nn.ConvTranspose2d)
    with ExitStack() as undo:
        for name, module in net.named_modules():
            if isinstance(module, kinds):
                hook = module.register_forward_hook(lambda m, *_, name=name: ran.append((name, m)))
                undo.callback(hook.remove)
        device = next(net.parameters()).device
        with torch.inference_mode():
            net(torch.zeros(1, net.in_channels, 2 * net.stride, 2 * net.stride, device=device))
    # Upsampling by a deconvolution of each class reads classes, not features.
    telling = [n for n, m in ran if m.out_channels == net.classes and m.groups == 1]
    names = list(dict.fromkeys(telling))
    if len(names) > 1:
        # As wide by chance: layers whose shape does not depend on the number of classes.
        own, more = (
            shapes_of(network, net.in_channels, net.classes + extra, options) or {} for extra in (0, 1)
        )
        changed = [n for n in names if own.get(f"{n}.weight") != more.get(f"{n}.weight")]
        names = changed or names[-1:]
    return names[0] if names else ran[-1][0]


def features_of(net: Network, layer: str, image: Tensor) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Features of one image (1, B, H, W): (C, h, w) float32, and the row (h,) and column (w,) of the image
    that each cell's centre lies in.
    """
    seen: list[Tensor] = []
    keep = watched(net, layer, lambda x: seen.append(x.float().cpu()))
    with torch.inference_mode(), float32_in("32", image.device), keep as padded:
        net(image)
    features = _one_map(seen, 1)[0].numpy()
    places = [
        np.minimum(((np.arange(cells) + 0.5) * whole / cells).astype(int), side - 1)
        for cells, whole, side in zip(features.shape[1:], padded[-1], image.shape[-2:])
    ]
    return features, places[0], places[1]


def _one_map(seen: Sequence[Tensor], images: int) -> Tensor:
    """(N, C, h, w) of what a layer was given: at once, or in strips of rows of one image after the other."""
    if not seen:
        raise BadFile("The layer whose input is compared did not run.")
    if len(seen) == 1:
        return seen[0]
    each = len(seen) // images
    return torch.cat([torch.cat(list(seen[n * each : (n + 1) * each]), dim=2) for n in range(images)])


class Distance:
    """Distances from the features of training (`Familiarity`), computed where the features are."""

    def __init__(self, familiarity: Familiarity) -> None:
        self.familiarity = familiarity
        f = familiarity
        along = f.means @ f.directions.T
        self._arrays = {
            "centre": f.centre,
            "directions": f.directions,
            "inverse": 1 / f.variances,
            "along": along,  # (K, R)
            "beside": f.means - along @ f.directions,  # (K, C)
        }
        self._tensors: dict[str, Tensor] = {}

    @contextmanager
    def beside(self, net: Network, images: Tensor) -> Iterator[list[Tensor]]:
        """Inside, the network runs on images (N, B, H, W); afterwards the list holds one tensor (N, 2, H, W),
        to be joined to its logits.
        """
        seen: list[Tensor] = []
        found: list[Tensor] = []
        # At once for each strip: the features of a whole tile may be hundreds of times its logits.
        with watched(net, self.familiarity.layer, lambda x: seen.append(self.of(x)[:, None])) as padded:
            yield found
        far = _one_map(seen, len(images)) / self.familiarity.limit
        far = F.interpolate(far, padded[-1], mode="bilinear", align_corners=False)
        height, width = images.shape[-2:]
        ratio = far[..., :height, :width].clamp(1 / FARTHEST, FARTHEST).log()
        found.append(torch.cat([torch.zeros_like(ratio), ratio], dim=1))

    @torch.inference_mode()
    def of(self, features: Tensor) -> Tensor:
        """(N, C, h, w) features -> (N, h, w) distances, float32."""
        # Metal has no float64.
        dtype = torch.float32 if features.device.type == "mps" else torch.float64
        if not self._tensors or self._tensors["centre"].device != features.device:
            self._tensors = {
                name: torch.from_numpy(np.array(array)).to(features.device, dtype)
                for name, array in self._arrays.items()
            }
        rows = features.movedim(1, -1)
        cells = rows.reshape(-1, rows.shape[-1])
        size = max(1, CHUNK_VALUES // cells.shape[-1])
        with without_autocast(features):
            squared = torch.cat([self._squared(chunk.to(dtype)) for chunk in cells.split(size)])
        return squared.clamp_min(0).sqrt().float().reshape(rows.shape[:-1])

    def _squared(self, cells: Tensor) -> Tensor:
        """(P, C) -> (P,)"""
        t, rest = self._tensors, self.familiarity.rest
        x = cells - t["centre"]
        along = x @ t["directions"].T  # (P, R)
        left = (x.square().sum(1) - along.square().sum(1)).clamp_min(0)  # beside all directions
        # |a - m|^2 = |a|^2 - 2 a.m + |m|^2, for all classes in one product.
        scaled = t["along"] * t["inverse"]  # (K, R)
        near = (along.square() @ t["inverse"])[:, None] - 2 * along @ scaled.T
        near = near + (scaled * t["along"]).sum(1)
        far = left[:, None] - 2 * x @ t["beside"].T + t["beside"].square().sum(1)
        return (near + far / rest).amin(1)
