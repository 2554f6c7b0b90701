"""What in the scene speaks for the class at a pixel: integrated gradients and occlusion, by Captum."""

from __future__ import annotations

import importlib.util
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor, nn

from labelscape.evaluation.sections import Figure, Picture
from labelscape.explanation.analysis import Found, Look, caption
from labelscape.explanation.drawing import COLOURS, blank, heat, marked, tidy

STEPS = 32, 128
"""Of the integral (ours): the second number where the error of the first is above GOOD."""
GOOD, USELESS = 0.05, 0.2
"""Errors of the integral's sum, as shares of the logit's gain (ours)."""
SHOWN = 0.99
"""Share of the pixels whose values the colours tell apart (ours)."""
PATCH_SHARE = 16
"""An occluded square is a sixteenth of the window's side (ours), at least 4 pixels."""


def why_not(look: Look) -> str:
    """ "" where a pixel is named and Captum is installed."""
    if not look.pixels:
        return "no pixel is named; name one with `pixel`"
    if importlib.util.find_spec("captum") is None:
        return 'it needs Captum, which is not installed: pip install "labelscape[explain]"'
    return ""


class AtPixel(nn.Module):
    """The logits (N, K) of one pixel, as Captum takes a classifier."""

    def __init__(self, net: nn.Module, row: int, column: int) -> None:
        super().__init__()
        self.net, self.row, self.column = net, row, column

    def forward(self, image: Tensor) -> Tensor:
        return self.net(image)[:, :, self.row, self.column]


def attributions(at_pixel: AtPixel, image: Tensor, target: int) -> tuple[Tensor, Tensor, int]:
    """Integrated gradients and occlusion (B, H, W) for a class, and the side of the occluded squares."""
    from captum.attr import IntegratedGradients, Occlusion

    # Both start from zero, the mean of the training images: a scene without any contrast.
    with torch.no_grad():
        gain = float((at_pixel(image) - at_pixel(torch.zeros_like(image)))[0, target])
    for steps in STEPS:
        # One image at a time: batches of steps would take that many times the memory.
        integrated = IntegratedGradients(at_pixel).attribute(
            image, target=target, n_steps=steps, internal_batch_size=1
        )[0]
        if abs(float(integrated.double().sum()) - gain) <= GOOD * abs(gain):
            break
    side = max(4, min(image.shape[-2:]) // PATCH_SHARE)
    square = (image.shape[1], side, side)
    with torch.no_grad():
        occluded = Occlusion(at_pixel).attribute(
            image, sliding_window_shapes=square, strides=square, target=target
        )[0]
    return integrated, occluded, side


def speaks_for(look: Look) -> Found:
    """Attributions (H, W) for the class that is predicted at the first pixel named."""
    seen = next(iter(look.windows))
    x, y = look.pixels[0]
    row, column = y - seen.window.top, x - seen.window.left
    at_pixel = AtPixel(look.net, row, column)
    with torch.no_grad():
        logits = at_pixel(seen.image)[0]
        blank_logits = at_pixel(torch.zeros_like(seen.image))[0]
    target = int(logits.argmax())
    integrated, occluded, side = attributions(at_pixel, seen.image, target)
    gain = float(logits[target] - blank_logits[target])
    total = float(integrated.double().sum())
    # What is not finite is not JSON; a gain of 0 leaves nothing to compare with.
    error = abs(total - gain) / (abs(gain) or 1.0)
    by_band = integrated.double().sum((1, 2)).cpu().numpy()
    ig, occ = integrated.double().sum(0).cpu().numpy(), occluded.double().mean(0).cpu().numpy()
    name = look.names[target]
    bands = look.checkpoint.bands
    lead = (
        f"At pixel {x},{y} the model predicts {name}. Its logit is {gain:+.3g} above that of an image "
        f"without contrast; integrated gradients add up to {total:+.3g} (error {100 * error:.1f} %). "
    )
    # A network that is steep near an image without contrast, as one that divides by distances, has no
    # integral that a few hundred steps could find.
    if error > USELESS:
        lead += "That is too far off to be read; look at the occlusion instead."
    else:
        lead += f"{bands[int(by_band.argmax())]} speaks for it most."
    numbers = {
        "pixel": [x, y],
        "class": name,
        "logit_gain": gain,
        "sum_of_integrated_gradients": total,
        "relative_error": error,
        "by_band": dict(zip(bands, by_band.tolist())),
        "patch_pixels": side,
    }
    where = f"for {name} at column {column}, row {row} of the window; 0 is in the middle of the colours"
    pictures = tuple(
        _marked(around_zero(values, title, f"{text} {where}"), row, column)
        for values, title, text in (
            (ig, "Integrated gradients", "bright speaks for, dark against,"),
            (occ, "Occlusion", f"how much the logit falls where a square of {side} pixels is covered,"),
        )
    )
    figure = _bands_figure(bands, by_band, name)
    arrays = {"integrated_gradients": integrated.cpu().numpy(), "occlusion": occ}
    about = caption(
        "The pictures show where in the window something speaks for the class of the pixel, or against it.",
        "",
        "by Captum, as below; bands are added up (integrated gradients) or covered together (occlusion).",
    )
    return Found(lead, numbers, arrays, (figure,), pictures, about=about)


def around_zero(values: np.ndarray, title: str, text: str) -> Picture:
    """A map (H, W) whose colours have 0 in the middle and end where 1 % of the pixels lie beyond: a few
    large values would leave the rest one colour.
    """
    most = float(np.abs(values).max()) or 1.0
    # Of a map that is 0 nearly everywhere, the few values are all there is to see.
    limit = float(np.quantile(np.abs(values), SHOWN)) or most
    if limit < most:
        text += f". The colours end where 1 % of the pixels lie beyond; the largest is {most:.3g}"
    return heat(np.clip(values, -limit, limit), title, text, low=-limit, high=limit)


def _marked(picture: Picture, row: int, column: int) -> Picture:
    return replace(picture, pixels=marked(picture.pixels, row, column))


def _bands_figure(bands: tuple[str, ...], by_band: np.ndarray, name: str) -> Figure:
    drawing = blank(5.6, 1.1 + 0.3 * len(bands))
    axes = drawing.add_subplot()
    axes.barh(range(len(bands)), by_band, color=COLOURS[0], alpha=0.6)
    axes.axvline(0, color="#1f2933", linewidth=0.8)
    axes.set_yticks(range(len(bands)), bands, parse_math=False)
    axes.invert_yaxis()
    tidy(axes, "sum over the window", "", f"what speaks for {name}")
    text = caption(
        f"What each band adds to the logit of {name} at the pixel; bars to the left speak against it. The "
        "two pictures show where.",
        "",
        f"Captum: integrated gradients (Sundararajan et al. 2017), up to {STEPS[-1]} steps from an image "
        "of the training's mean; their sum is the logit's gain, up to the error printed. Occlusion "
        "(Zeiler and Fergus 2014) covers squares with that mean.",
    )
    return Figure("Bands that speak for the class", drawing, text)
