"""What every network can be asked: how far it looks, what a layer holds."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from labelscape.errors import BadInput, UnknownName
from labelscape.evaluation.sections import Figure, Picture
from labelscape.explanation.analysis import Found, Look, caption, hooked
from labelscape.explanation.drawing import COLOURS, FAINT, blank, heat, tidy

MOST_ASKED = 8
"""Windows whose gradients are computed (ours): the mean over them changes little beyond."""
CHANNELS = 12
"""Channels of a layer that are shown: those that vary most over the window."""


def always(look: Look) -> str:
    """Suits every network."""
    return ""


# ------------------------------------------------------------------------------ effective receptive field


def gradient_of(net: torch.nn.Module, image: Tensor, row: int, column: int) -> np.ndarray:
    """(H, W): by how much the logit of the class predicted at a pixel changes with each pixel of the image,
    absolute values summed over bands.
    """
    asked = image.detach().clone().requires_grad_()
    logits = net(asked)[0, :, row, column]
    (gradient,) = torch.autograd.grad(logits.max(), asked)
    return gradient[0].abs().sum(0).double().cpu().numpy()


def shares_within(gradient: np.ndarray, row: int, column: int) -> np.ndarray:
    """(R,) the share of a gradient (H, W) within 0, 1, 2, ... pixels of a place, in the larger of the two
    distances along the axes: squares, as theoretical fields are.
    """
    rows, columns = np.ogrid[: gradient.shape[0], : gradient.shape[1]]
    distance = np.maximum(abs(rows - row), abs(columns - column))
    sums = np.bincount(distance.ravel(), gradient.ravel())
    return np.cumsum(sums) / (sums.sum() or 1.0)


def receptive_field(look: Look) -> Found:
    """The effective receptive field at the middle of windows, against the theoretical one."""
    net, curves, maps = look.net, [], []
    for number, seen in enumerate(look.windows):
        if number == MOST_ASKED:
            break
        row, column = (side // 2 for side in seen.valid.shape)
        gradient = gradient_of(net, seen.image, row, column)
        curves.append(shares_within(gradient, row, column))
        maps.append(gradient / (gradient.max() or 1.0))
    longest = max(map(len, curves))
    shares = np.mean([np.pad(curve, (0, longest - len(curve)), mode="edge") for curve in curves], axis=0)
    half, most = (int(np.searchsorted(shares, limit)) for limit in (0.5, 0.95))
    reach = net.reach
    beyond = 0.0 if reach is None or reach >= longest else float(1 - shares[reach])
    theory = (
        "in theory it depends on the whole window (it averages over it)"
        if reach is None
        else f"in theory on a square of {2 * reach + 1} pixels"
    )
    lead = (
        f"Half of what a prediction depends on lies within {half} pixels of it, 95 % within {most}: a "
        f"square of {2 * most + 1} pixels a side; {theory}."
    )
    if reach is not None and reach >= longest:
        lead += (
            f" The windows reach only {longest - 1} pixels from their middle: larger ones would show more."
        )
    numbers = {
        "windows": len(curves),
        "half_within_pixels": half,
        "95_percent_within_pixels": most,
        "theoretical_reach_pixels": reach,
        "share_beyond_reach": beyond,
    }
    same = [one for one in maps if one.shape == maps[0].shape]
    field = np.mean(same, axis=0)
    arrays = {"share_within": shares, "field": field}
    about = caption(
        "The picture shows which pixels of a window decide the class of its middle, the figure how far away "
        "they are.",
        "",
        "gradient of the predicted class's logit by the input, absolute values summed over bands, each "
        "window's largest value 1, mean over windows.",
    )
    pictures = (_field_picture(field),)
    return Found(lead, numbers, arrays, (_share_figure(shares, reach),), pictures, about=about)


def _share_figure(shares: np.ndarray, reach: int | None) -> Figure:
    drawing = blank(5.6, 3.1)
    axes = drawing.add_subplot()
    axes.plot(100 * shares, color=COLOURS[0], linewidth=1.6)
    if reach is not None and reach < 1.5 * len(shares):
        axes.axvline(reach, color=COLOURS[1], linestyle="--", linewidth=1.2)
    axes.axhline(95, color=FAINT, linestyle=":", linewidth=1)
    tidy(axes, "pixels from the prediction", "% of the gradient within")
    text = caption(
        "How much of what decides a pixel's class lies within a distance of it. "
        + ("The dashed line is the farthest pixel that can matter." if reach is not None else ""),
        "",
        "gradient of the predicted class's logit at the middle of a window by the input, absolute values "
        "summed over bands, mean over windows (Luo et al. 2016, effective receptive field).",
    )
    return Figure("Effective receptive field", drawing, text)


def _field_picture(field: np.ndarray) -> Picture:
    shown = np.log10(np.maximum(field / (field.max() or 1.0), 1e-4))
    said = (
        "mean over windows; brightness is the logarithm (base 10) of the gradient over its largest value, "
        "cut at -4. The prediction is that of the middle."
    )
    return heat(shown, "What a prediction depends on", said, low=-4, high=0)


# ------------------------------------------------------------------------------------- maps of a layer


def why_no_layer(look: Look) -> str:
    """ "" where a layer is named. Raises UnknownName for one that the network does not have."""
    names = [name for name, _ in look.net.named_modules() if name]
    if look.layer is None:
        few = ", ".join([name for name in names if name.count(".") == 0][:8])
        return f"no layer is named; name one with `layer`, such as {few}"
    if look.layer not in names:
        raise UnknownName("layer of this network", look.layer, names)
    return ""


def outputs_of(net: torch.nn.Module, names: list[str], image: Tensor) -> dict[str, Tensor]:
    """What modules gave in one pass, by their names; the first output of each that is a tensor or holds
    tensors. Modules that did not run are left out.
    """
    found: dict[str, Tensor] = {}

    def keep(name: str, made: object) -> None:
        if isinstance(made, tuple | list):
            made = made[-1] if isinstance(made[-1], Tensor) else made[0]
        if isinstance(made, Tensor):
            # Copied: a ReLU in place would change it afterwards.
            found.setdefault(name, made.detach().clone())

    modules = dict(net.named_modules())
    hooks = [
        modules[name].register_forward_hook(lambda _, given, made, name=name: keep(name, made))
        for name in names
    ]
    with hooked(*hooks), torch.no_grad():
        net(image)
    return found


def feature_maps(look: Look) -> Found:
    """The channels of a layer that vary most over the first window, and the mean of all."""
    seen = next(iter(look.windows))
    made = outputs_of(look.net, [look.layer], seen.image).get(look.layer)
    if made is None or made.ndim != 4:
        raise BadInput(
            f"The layer {look.layer} gives no maps (N, C, h, w); choose a layer above or below it."
        )
    maps = made[0].double().cpu().numpy()
    spread = maps.std((1, 2))
    shown = np.argsort(-spread)[:CHANNELS]
    said = "of its own extremes"
    pictures = [heat(maps.mean(0), "mean of all channels", said)]
    pictures += [heat(maps[c], f"channel {c}", said) for c in shown]
    dead = int((spread == 0).sum())
    lead = (
        f"{look.layer} gives {len(maps)} channels of {maps.shape[1]} x {maps.shape[2]} cells for the first "
        f"window; {dead} of them are the same everywhere. The {len(shown)} that vary most are shown."
    )
    about = caption(
        "Bright is large; each map has its own scale.",
        "fig. 5 of IFBFNet and fig. 3 of DFCNet show means over channels like the first map.",
        "one forward pass of the first window.",
    )
    numbers = {"layer": look.layer, "channels": len(maps), "constant_channels": dead, "shown": shown.tolist()}
    arrays = {"maps": maps.astype(np.float32), "std": spread}
    return Found(lead, numbers, arrays, pictures=tuple(pictures), about=about)
