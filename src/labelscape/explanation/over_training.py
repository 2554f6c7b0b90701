"""MSWBN: its weights over the training, from the states and checkpoints that a run saved."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch

from labelscape.errors import BadFile, BadInput
from labelscape.evaluation.sections import Figure
from labelscape.explanation.analysis import Found, Look, caption
from labelscape.explanation.drawing import COLOURS, FAINT, blank, tidy
from labelscape.explanation.mswbn import branch_names, weights_of
from labelscape.explanation.mswbn import why_not as why_no_branches
from labelscape.tensor_file import check_tensors


def why_not(look: Look) -> str:
    """ "" for an MSWBN and the folder of a run."""
    if reason := why_no_branches(look):
        return reason
    return "" if look.over is not None else "no run is given; name its folder with `over`"


def saved_weights(folder: Path, network: str) -> dict[int, dict[str, torch.Tensor]]:
    """The network's weights by training step, of every state (`*.state.safetensors`) and checkpoint in a
    folder and those below it. Raises BadFile where there is none, or one is damaged.
    """
    from safetensors import SafetensorError, safe_open

    found = {}
    for path in sorted(folder.rglob("*.safetensors")):
        try:
            with safe_open(path, framework="pt") as file:
                about = file.metadata() or {}
                step, prefix = _step_of(about, network)
                if step is None:
                    continue
                check_tensors(path)
                names = [name for name in file.keys() if name.startswith(prefix)]  # noqa: SIM118
                # Cloned: the file is mapped into memory, and may be replaced while its run goes on.
                found[step] = {name.removeprefix(prefix): file.get_tensor(name).clone() for name in names}
        except (SafetensorError, OSError, ValueError) as error:
            raise BadFile(f"{path} cannot be read ({str(error).splitlines()[0]}).") from error
    if not found:
        raise BadFile(f"{folder} has no saved state or checkpoint of {network} (*.safetensors).")
    return dict(sorted(found.items()))


def _step_of(about: dict[str, str], network: str) -> tuple[int | None, str]:
    """The step at which a file was written, and what its names of weights begin with; None for another
    network's file, or none of ours.
    """
    if "labelscape-state" in about:
        facts = json.loads(about["labelscape-state"])
        if facts["recipe"].get("network") == network:
            return int(facts["progress"]["step"]), "net."
    elif "labelscape" in about:
        facts = json.loads(about["labelscape"])
        if facts.get("network") == network and facts.get("history"):
            return int(facts["history"][-1]["step"]), ""
    return None, ""


def run(look: Look) -> Found:
    """Branch weights of the same windows with the weights of each saved step."""
    net = look.net
    own = {name: value.clone() for name, value in net.state_dict().items()}
    saved = saved_weights(look.over, look.checkpoint.network)
    weights, bins = [], []
    try:
        for step, state in saved.items():
            wanted = {name: value for name, value in state.items() if name in own}
            if wanted.keys() != own.keys() or any(own[n].shape != v.shape for n, v in wanted.items()):
                raise BadInput(f"The state of step {step} in {look.over} is of a network with other options.")
            net.load_state_dict(wanted)
            found, of_levels, _ = weights_of(look)
            weights.append(found.mean(0))
            if of_levels is not None:
                bins.append(of_levels.mean(0))
    finally:
        # The other analyses are of the model that was given.
        net.load_state_dict(own)
    steps, means = np.array(list(saved)), np.stack(weights)  # (S,), (S, 3, n)
    moved = np.abs(means[-1] - means[0]).max()
    lead = (
        f"From step {steps[0]} to step {steps[-1]} ({len(steps)} saved) the mean weight of a branch moved "
        f"by up to {moved:.3g}."
    )
    numbers = {"steps": steps.tolist(), "mean": means.tolist(), "largest_move": float(moved)}
    arrays = {"steps": steps, "weights": means}
    if bins:
        arrays["w_bin"] = np.stack(bins)
        numbers["lbm_mean"] = arrays["w_bin"].tolist()
    theta = net.hwm.theta
    figure = _figure(steps, means, branch_names(net), theta, arrays.get("w_bin"))
    return Found(lead, numbers, arrays, (figure,))


def _figure(
    steps: np.ndarray, means: np.ndarray, names: list[str], theta: float | None, bins: np.ndarray | None
) -> Figure:
    drawing = blank(9.6, 3.0)
    panels = drawing.subplots(1, 3 if bins is None else 4, sharey=True)
    for h in range(3):
        for b, name in enumerate(names):
            panels[h].plot(steps, means[:, h, b], marker="o", markersize=3, color=COLOURS[b], label=name)
        if theta is not None:
            panels[h].axhline(theta, color=FAINT, linestyle="--", linewidth=1)
        tidy(panels[h], "step", "mean weight" if h == 0 else "", f"W{h + 1}")
    if bins is not None:
        for level, name in enumerate(("hierarchies", "low level")):
            panels[3].plot(steps, bins[:, level], marker="o", markersize=3, color=COLOURS[level], label=name)
        tidy(panels[3], "step", "", "LBM")
        panels[3].legend(fontsize=7, frameon=False)
    panels[0].legend(fontsize=7, frameon=False)
    text = caption(
        "Mean weights over the windows, by training step; the dashed line is theta.",
        "no such figure.",
        "the windows are the same for every step; their branch weights are computed with the weights of each "
        "saved state or checkpoint of the run.",
    )
    return Figure("Branch weights over the training", drawing, text)
