"""DFCNet: its deepest features beside those of a network without classmate, and where it finds roads.

Paper     C. Tian et al., CVPR workshops 2018; `labelscape.nets.dfcnet` names its figures
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from labelscape.checkpoint import Checkpoint
from labelscape.evaluation.sections import Figure, Picture
from labelscape.explanation.analysis import Found, Look, caption, hooked
from labelscape.explanation.drawing import COLOURS, FAINT, blank, heat, tidy
from labelscape.explanation.windows import network_of, scaled_for
from labelscape.legend import IGNORE
from labelscape.nets.dfcnet import DenseNetwork

SHOWN = 3
"""Windows whose maps are on the page, as in fig. 3."""
DEEPEST = "encoder.block5"


def why_not(look: Look) -> str:
    """ "" for DFCNet, ClassmateNet and their baseline."""
    if isinstance(look.net, DenseNetwork):
        return ""
    return "only DFCNet and its baselines (fc-densenet, classmate) have a block 5 and a classmate"


def deepest_features(look: Look) -> Found:
    """Channel means of block 5, and those of the other model where one is given and has a block 5."""
    other = None if look.other is None else network_of(look.other).to(look.device)
    if not isinstance(other, DenseNetwork):
        other = None
    pictures: list[Picture] = []
    arrays: dict[str, np.ndarray] = {}
    spread: dict[str, list[float]] = {"this": [], "other": []}
    for number, seen in enumerate(look.windows, start=1):
        found = {"this": deepest(look.net, seen.image)}
        if other is not None:
            found["other"] = deepest(other, scaled_for(seen, look.checkpoint, look.other))
        for name, values in found.items():
            mean = values.mean(0)
            spread[name].append(float(mean.std() / (abs(mean).mean() or 1.0)))
            if number <= SHOWN:
                arrays[f"window{number}_{name}"] = mean.astype(np.float32)
                which = _title(look.checkpoint if name == "this" else look.other)
                pictures.append(heat(mean, f"Window {number}, {which}", "mean over channels, own extremes"))
    contrast = {name: float(np.mean(each)) for name, each in spread.items() if each}
    lead = f"The map of block 5 varies by {100 * contrast['this']:.0f} % of its mean over a window"
    if "other" in contrast:
        lead += f", that of the other model ({_title(look.other)}) by {100 * contrast['other']:.0f} %"
    about = caption(
        "Bright is large; each map has its own scale.",
        "fig. 3 shows such maps of the baseline and of DFCNet side by side.",
        "outputs of the deepest dense block at 1/32, mean over channels."
        + ("" if other else " Give a baseline as the other model to see both."),
    )
    return Found(f"{lead}.", {"contrast": contrast}, arrays, pictures=tuple(pictures), about=about)


def _title(checkpoint: Checkpoint) -> str:
    mate = checkpoint.options.get("mate_classes", 2)
    with_mate = checkpoint.network in ("classmate", "dfcnet") and mate
    return f"{checkpoint.network} {'with' if with_mate else 'without'} classmate"


def deepest(net: DenseNetwork, image: Tensor) -> np.ndarray:
    """(C, h, w), the stack of block 5."""
    kept: list[Tensor] = []
    block = dict(net.named_modules())[DEEPEST]
    hook = block.register_forward_hook(lambda _, given, made: kept.append(made.stack))
    with hooked(hook), torch.no_grad():
        net(image)
    return kept[0][0].double().cpu().numpy()


def why_no_mate(look: Look) -> str:
    """ "" for a network that learned a second task."""
    if reason := why_not(look):
        return reason
    if look.checkpoint.whole is not None:
        return "the second task itself is looked at; leave `task` out to see where it is found"
    known = look.net.road_head is not None and look.checkpoint.mate is not None
    return "" if known else "this model learned no second task (roads)"


def co_occurrence(look: Look) -> Found:
    """On each land class, labelled or else predicted, the share of pixels that the second head predicts as
    each of its classes.
    """
    mate, count = look.checkpoint.mate, len(look.names)
    pixels = np.zeros((count, len(mate.legend)), np.int64)
    for seen in look.windows:
        with torch.no_grad():
            both = look.net.both(seen.image)
        second = both["mate"][0].argmax(0).cpu().numpy()
        here = seen.known != IGNORE
        index = seen.known[here].astype(np.int64) * pixels.shape[1] + second[here]
        pixels += np.bincount(index, minlength=pixels.size).reshape(pixels.shape)
    shares = pixels / np.maximum(1, pixels.sum(1, keepdims=True))
    overall = pixels.sum(0) / max(1, pixels.sum())
    asked = 1  # the first class of a second task is its background: roads against the rest
    name = mate.legend.names[asked]
    present = [k for k in range(count) if pixels[k].sum()]
    most = max(present, key=lambda k: shares[k, asked])
    every = "all pixels" if look.reference is None else "all labelled pixels"
    lead = (
        f"{100 * overall[asked]:.2f} % of {every} are predicted as {name}, most on {look.names[most]} "
        f"({100 * shares[most, asked]:.2f} %)."
    )
    numbers = {
        "second_task": mate.name,
        "classes": mate.legend.names,
        "overall": overall.tolist(),
        "by_class": {look.names[k]: shares[k].tolist() for k in present},
    }
    names = [look.names[k] for k in present]
    figure = _co_figure(names, shares[present, asked], overall[asked], name, look.known_as)
    return Found(lead, numbers, {"pixels": pixels}, (figure,))


def _co_figure(names: list[str], shares: np.ndarray, overall: float, what: str, known_as: str) -> Figure:
    drawing = blank(5.6, 1.1 + 0.34 * len(names))
    axes = drawing.add_subplot()
    axes.barh(range(len(names)), 100 * shares, color=COLOURS[0], alpha=0.5)
    axes.axvline(100 * overall, color=FAINT, linestyle="--", linewidth=1)
    axes.set_yticks(range(len(names)), names, parse_math=False)
    axes.invert_yaxis()
    tidy(axes, f"% of the pixels that are predicted as {what}")
    text = caption(
        f"On which {known_as} land classes the second head finds {what}; the dashed line is the share over "
        "all.",
        "no such figure; roads are learned beside land cover because the one tells of the other.",
        "both heads on the same windows, scaled as images of the first task.",
    )
    return Figure(f"Where {what} is predicted", drawing, text)
