"""IFBFNet: the weights of its two halves, the panels of fig. 5 and the layers of fig. 4.

Paper     D. Li et al., Sensors 2021; `labelscape.nets.ifbfnet` names its equations and figures
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from labelscape.evaluation.sections import Figure, Picture
from labelscape.explanation.analysis import Found, Look, caption, hooked
from labelscape.explanation.drawing import COLOURS, blank, heat, tidy
from labelscape.explanation.general import outputs_of
from labelscape.nets.ifbfnet import BalancedFusion, IFBFNet

PANELS = {
    "low": "stage 1, after its 3 x 3",
    "aspp": "deep features, after ASPP",
    "joined": "plain join of both",
    "balance1": "after balanced fusion",
    "spatial": "spatial stream",
    "balance2": "after the second fusion",
}
LAYERS = {"spatial.0": "7 x 7, stride 2", "spatial.1": "3 x 3, stride 2", "spatial.2": "1 x 1"}
SHOWN = 2
"""Windows whose panels are on the page."""


def fusions(net: IFBFNet) -> dict[str, tuple[BalancedFusion, int]]:
    """Each balanced fusion by its name, and how many of its channels are the high (deep) half; all of them
    where it weighs channels that were convolved together (order="text").
    """
    found = {}
    for name in ("balance1", "balance2"):
        module = getattr(net, name, None)
        if isinstance(module, BalancedFusion):
            found[name] = module, 256
    return found


def why_not(look: Look) -> str:
    """ "" for an IFBFNet with balanced fusion."""
    if not isinstance(look.net, IFBFNet):
        return "only IFBFNet balances levels before it fuses them"
    return "" if fusions(look.net) else "this IFBFNet has no balanced fusion (skip)"


def halves(look: Look) -> Found:
    """Weights of the high and low halves of each fusion, window by window."""
    net = look.net
    found: dict[str, list[np.ndarray]] = {name: [] for name in fusions(net)}
    for seen in look.windows:
        for name, weights in weights_of(net, seen.image).items():
            found[name].append(weights)
    stacked = {name: np.stack(each) for name, each in found.items()}  # (W, C)
    numbers, said = {}, []
    for name, weights in stacked.items():
        high, low = weights[:, :256], weights[:, 256:]
        numbers[name] = {"high_mean": float(high.mean()), "high_std": float(high.std())}
        if low.size:
            numbers[name] |= {"low_mean": float(low.mean()), "low_std": float(low.std())}
            said.append(f"{name}: {high.mean():.3f} for the high, {low.mean():.3f} for the low half")
        else:
            said.append(f"{name}: {high.mean():.3f}, of channels that were convolved together (no halves)")
    lead = (
        f"Mean weights of {len(look.windows)} windows: {'; '.join(said)}. A channel is multiplied by 1 + w."
    )
    panels, maps = _panels(look)
    arrays = stacked | maps
    about = caption(
        "The pictures show the levels before and after they are fused, and the layers of the spatial stream.",
        "fig. 5 and fig. 4.",
        "mean over channels of one forward pass, each map between its own extremes.",
    )
    return Found(lead, numbers, arrays, (_figure(stacked),), panels, about=about)


def weights_of(net: IFBFNet, image: Tensor) -> dict[str, np.ndarray]:
    """W of eq. 2 of each fusion, (C,)."""
    found: dict[str, np.ndarray] = {}
    hooks = [
        module.register_forward_pre_hook(
            lambda fusion, given, name=name: found.update(
                {name: fusion.weights(given[0])[0, :, 0, 0].double().cpu().numpy()}
            )
        )
        for name, (module, _) in fusions(net).items()
    ]
    with hooked(*hooks), torch.no_grad():
        net(image)
    return found


def _figure(stacked: dict[str, np.ndarray]) -> Figure:
    drawing = blank(4.6 * len(stacked), 3.0)
    panels = np.atleast_1d(drawing.subplots(1, len(stacked), sharey=True))
    edges = np.linspace(0, 1, 41)
    for axes, (name, weights) in zip(panels, stacked.items()):
        for part, label, colour in (
            (weights[:, :256], "high (deep)", COLOURS[0]),
            (weights[:, 256:], "low (fine)", COLOURS[1]),
        ):
            if part.size:
                shares, _ = np.histogram(part, edges)
                axes.stairs(100 * shares / part.size, edges, color=colour, linewidth=1.6, label=label)
        axes.legend(fontsize=8, frameon=False)
        tidy(axes, "weight", "% of the channels", "first fusion" if name == "balance1" else "second fusion")
    text = caption(
        "Weights of the channels of the two halves, over all windows. A half further to the right is raised.",
        "no figure of the weights; sec. 3.2 balances the halves so that neither outweighs the other.",
        "sigmoid outputs of eq. 2. The low half of the first fusion is stage 1, that of the second the "
        "spatial stream.",
    )
    return Figure("Weights of the high and low halves", drawing, text)


def _panels(look: Look) -> tuple[tuple[Picture, ...], dict[str, np.ndarray]]:
    pictures, arrays = [], {}
    for number, seen in enumerate(look.windows, start=1):
        if number > SHOWN:
            break
        maps = panel_maps(look.net, seen.image)
        for name, values in maps.items():
            said = PANELS.get(name) or LAYERS[name]
            figure = "fig. 4" if name in LAYERS else "fig. 5"
            text = f"{said}; mean over channels, between its extremes (as {figure} of the paper shows it)"
            pictures.append(heat(values, f"Window {number}, {name}", text))
            arrays[f"window{number}_{name}"] = values.astype(np.float32)
    return tuple(pictures), arrays


def panel_maps(net: IFBFNet, image: Tensor) -> dict[str, np.ndarray]:
    """Channel means (h, w) of the panels of fig. 5 and the layers of fig. 4 that the network has."""
    deep = "aspp" if net.aspp is not None else "reduce"
    wanted = ("low", deep, "balance1", "spatial", "balance2", *LAYERS)
    known = dict(net.named_modules())
    joined: list[Tensor] = []
    first = known.get("balance1")
    hooks = (
        [first.register_forward_pre_hook(lambda _, given: joined.append(given[0].clone()))] if first else []
    )
    with hooked(*hooks):
        made = outputs_of(net, [name for name in wanted if name in known], image)
    if joined:
        made["joined"] = joined[0]
    order = [*PANELS, *LAYERS]
    if deep in made:
        made["aspp"] = made.pop(deep)
    return {name: made[name][0].mean(0).double().cpu().numpy() for name in order if name in made}
